// What both UI tests need: programs that end with the test, a server, two profiles.
import { spawn } from 'node:child_process';
import { mkdtempSync, mkdirSync, rmSync } from 'node:fs';
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
  rmSync(dir, { recursive: true, force: true });
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

export async function server(bin, data = join(dir, 'server'), listen = '127.0.0.1:0') {
  const { child, line } = await start(join(bin, 'secureconnect-server'), ['serve', '--data', data, '--listen', listen], {
    env: { RUST_LOG: 'error' },
    match: /listening on/,
  });
  return { child, url: line.replace('listening on ', '').trim() };
}

/** Runs the command line as somebody; their profile is in the test's folder. */
export function cli(bin, who, url, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', url, '--profile', join(dir, who), ...args], {
      env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
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

export function assert(fine, what) {
  if (!fine) throw new Error(`not as it should be: ${what}`);
}
