// What both UI tests need: programs that end with the test, a server, two profiles.
import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

export const PASSWORD = 'a long enough password';
export const PASSPHRASE = 'correct horse';
export const shots = join(import.meta.dirname, '..', 'test-results');
mkdirSync(shots, { recursive: true });

const children = [];
export const dir = mkdtempSync(join(tmpdir(), 'secureconnect-ui-'));
process.on('exit', () => {
  for (const c of children) {
    try {
      process.kill(-c.pid, 'SIGKILL');
    } catch {
      // It has ended already.
    }
  }
  // A program that was just killed may still be writing.
  rmSync(dir, { recursive: true, force: true, maxRetries: 5, retryDelay: 100 });
});
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1));

/** Starts a program in a group of its own; resolves with the first line it prints that `match` accepts. */
export function start(program, args, { env = {}, match = /./ } = {}) {
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'inherit'], detached: true });
  children.push(child);
  return new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('exit', (code) => reject(new Error(`${program} ended with ${code}`)));
    createInterface({ input: child.stdout }).on('line', (line) => match.test(line) && resolve({ child, line }));
  });
}

/** Asks a program to end; resolves when it has. */
export function stop(child) {
  return new Promise((ended) => {
    child.removeAllListeners('exit');
    child.on('exit', ended);
    process.kill(-child.pid, 'SIGTERM');
  });
}

export async function server(bin, { data = join(dir, 'server'), listen = '127.0.0.1:0', env = {} } = {}) {
  const { child, line } = await start(join(bin, 'secureconnect-server'), ['serve', '--data', data, '--listen', listen], {
    env: { RUST_LOG: 'error', SECURECONNECT_SERVER_TURN_PORT: '0', SECURECONNECT_SERVER_ROOMS_PORT: '0', ...env },
    match: /listening on/,
  });
  return { child, url: line.replace('listening on ', '').trim() };
}

/** Runs the command line as somebody; their profile is in the test's folder. */
export function cli(bin, who, url, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', url, '--profile', join(dir, who), ...args], {
      env: { ...process.env, ...env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let out = '';
    let err = '';
    child.stdout.on('data', (d) => (out += d));
    child.stderr.on('data', (d) => (err += d));
    child.on('exit', (code) =>
      code === 0 ? resolve(out.trim().split('\n').filter(Boolean).map((l) => JSON.parse(l))) : reject(new Error(`${who} ${args.join(' ')}: ${err || out}`)),
    );
  });
}

/** The lines of JSON that a program prints, as they come. */
export function jsonLines(child) {
  const lines = [];
  createInterface({ input: child.stdout }).on('line', (line) => lines.push(JSON.parse(line)));
  return lines;
}

export function assert(fine, what) {
  if (!fine) throw new Error(`not as it should be: ${what}`);
}

/** Waits until `f` gives something that counts as true, and gives that back. */
export async function until(what, f, ms = 20_000) {
  const end = Date.now() + ms;
  for (;;) {
    const v = await f();
    if (v) return v;
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`);
    await new Promise((wait) => setTimeout(wait, 100));
  }
}

/** A sound server with a speaker (`spk`) and a microphone that hears what is played into `micsink`. The environment of whoever uses it. */
export async function sound(name = 'pulse') {
  const home = join(dir, name);
  mkdirSync(home);
  const socket = join(home, 'sock');
  writeFileSync(
    join(home, 'pulse.pa'),
    [
      `load-module module-native-protocol-unix socket=${socket} auth-anonymous=1`,
      'load-module module-null-sink sink_name=spk rate=48000 channels=1 sink_properties=device.description=Loa',
      'load-module module-null-sink sink_name=micsink rate=48000 channels=1',
      'load-module module-remap-source source_name=mic master=micsink.monitor source_properties=device.description=Micro',
      'set-default-sink spk',
      'set-default-source mic',
      '',
    ].join('\n'),
  );
  const env = { PULSE_SERVER: `unix:${socket}`, HOME: home };
  const child = spawn('pulseaudio', ['-n', '-F', join(home, 'pulse.pa'), '--exit-idle-time=-1', '--daemonize=no', '--use-pid-file=no'], {
    env: { ...process.env, ...env },
    stdio: 'ignore',
    detached: true,
  });
  children.push(child);
  const pactl = (...args) => spawnSync('pactl', args, { env: { ...process.env, ...env }, encoding: 'utf8' });
  for (let tries = 0; pactl('info').status !== 0; tries += 1) {
    assert(tries < 100, 'the sound server starts');
    await new Promise((wait) => setTimeout(wait, 100));
  }
  return {
    env,
    pactl,
    /** Plays a file into the microphone. */
    speak: (file) => spawn('paplay', ['--device=micsink', file], { env: { ...process.env, ...env }, stdio: 'ignore' }),
    /** Listens to a source for some seconds; resolves with the samples, -1 to 1. */
    listen: (source, seconds) =>
      new Promise((resolve) => {
        const rec = spawn('parec', [`--device=${source}`, '--raw', '--rate=48000', '--channels=1', '--format=s16le'], {
          env: { ...process.env, ...env },
          stdio: ['ignore', 'pipe', 'ignore'],
        });
        const parts = [];
        rec.stdout.on('data', (d) => parts.push(d));
        setTimeout(() => rec.kill(), seconds * 1000);
        rec.on('exit', () => {
          const all = Buffer.concat(parts);
          resolve(Float32Array.from({ length: Math.floor(all.length / 2) }, (_, i) => all.readInt16LE(2 * i) / 32768));
        });
      }),
  };
}

/** Writes a WAV file: a tone of that many Hz, 48 kHz, mono. */
export function tone(file, hz, seconds) {
  const n = 48_000 * seconds;
  const wav = Buffer.alloc(44 + 2 * n);
  wav.write('RIFF', 0);
  wav.writeUInt32LE(36 + 2 * n, 4);
  wav.write('WAVEfmt ', 8);
  wav.writeUInt32LE(16, 16);
  wav.writeUInt16LE(1, 20);
  wav.writeUInt16LE(1, 22);
  wav.writeUInt32LE(48_000, 24);
  wav.writeUInt32LE(96_000, 28);
  wav.writeUInt16LE(2, 32);
  wav.writeUInt16LE(16, 34);
  wav.write('data', 36);
  wav.writeUInt32LE(2 * n, 40);
  // Swells and fades like a voice: a steady tone is taken for noise.
  for (let i = 0; i < n; i += 1) wav.writeInt16LE(Math.round(12_000 * Math.sin((2 * Math.PI * hz * i) / 48_000) * Math.abs(Math.sin((Math.PI * i) / 24_000))), 44 + 2 * i);
  writeFileSync(file, wav);
}

/** What was recorded into a folder so far. */
export function recording(folder) {
  const file = join(folder, 'received.wav');
  if (!existsSync(file)) return new Float32Array();
  const all = readFileSync(file).subarray(44);
  return Float32Array.from({ length: Math.floor(all.length / 2) }, (_, i) => all.readInt16LE(2 * i) / 32768);
}

/** How much of a tone is in samples: 0 to 1. By windows of 50 ms, so that a sound that was stretched or patched somewhere is the same
 *  tone before and after it: only what is in a window has to keep its phase. */
export function strength(samples, hz) {
  const WINDOW = 2_400;
  let [tone, all] = [0, 1e-9];
  for (let from = 0; from + WINDOW <= samples.length; from += WINDOW) {
    let [re, im] = [0, 0];
    samples.subarray(from, from + WINDOW).forEach((s, i) => {
      re += s * Math.cos((2 * Math.PI * hz * i) / 48_000);
      im += s * Math.sin((2 * Math.PI * hz * i) / 48_000);
      all += s * s;
    });
    tone += ((re * re + im * im) * 2) / WINDOW;
  }
  return Math.sqrt(tone / all);
}

/** Tests that go on when one fails; `onFailure` takes pictures. */
export function suite(onFailure) {
  let passed = 0;
  const problems = [];
  async function test(name, f) {
    try {
      await f();
      passed += 1;
      console.log(`ok  ${name}`);
    } catch (e) {
      problems.push(`${name}: ${e.stack ?? e}`);
      await onFailure();
    }
  }
  function finish() {
    for (const p of problems) console.error(p);
    console.log(`${passed} passed, ${problems.length} failed`);
    process.exit(problems.length === 0 ? 0 : 1);
  }
  return { test, problems, finish };
}
