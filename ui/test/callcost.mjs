// What a call of two costs the machine: the real window under Xvfb with a real sound server, a film of 640 × 360 at 25 frames a second
// for a camera, both ways; the other side is the command line. Of the app all processes are counted, the web view's too.
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { film } from './film.mjs';
import { openWindow, pause, until } from './driver.mjs';
import { PASSPHRASE, PASSWORD, cli, dir, server, sound, tone } from './kit.mjs';

const bin = resolve(process.argv[2]);
const SECONDS = 30;
const srv = await server(bin);
const ears = await sound();
Object.assign(process.env, ears.env);
tone(join(dir, 'lan.wav'), 440, 200);
tone(join(dir, 'minh.wav'), 1000, 200);
await cli(bin, 'lan', srv.url, ['register', 'lan']);
process.env.SECURECONNECT_VIDEO_FILE = film;
const w = await openWindow(bin, join(dir, 'minh'));

/** Clock ticks of the window's process and all below it, by the name of the program. */
function ticks() {
  const all = new Map();
  for (const pid of readdirSync('/proc').filter((p) => /^\d+$/.test(p))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
      const name = stat.slice(stat.indexOf('(') + 1, stat.lastIndexOf(')'));
      const rest = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
      all.set(Number(pid), { name, parent: Number(rest[1]), used: Number(rest[11]) + Number(rest[12]) });
    } catch {
      // It has ended meanwhile.
    }
  }
  const root = [...all].find(([, p]) => p.name === 'secureconnect')?.[0];
  const below = (pid) => pid === root || (all.has(pid) && pid > 1 && below(all.get(pid).parent));
  const found = {};
  for (const [pid, p] of all) if (below(pid)) found[p.name] = (found[p.name] ?? 0) + p.used;
  return found;
}

/** The share of one core that each program takes, in percent. */
async function share(what) {
  await pause(5_000);
  const before = ticks();
  await pause(SECONDS * 1_000);
  const after = ticks();
  const parts = Object.entries(after).map(([name, used]) => [name, (used - (before[name] ?? 0)) / SECONDS]);
  const sum = parts.reduce((all, [, part]) => all + part, 0);
  console.log(`${what}: ${sum.toFixed(1)} % of a core (${parts.map(([name, part]) => `${name} ${part.toFixed(1)}`).join(', ')})`);
}

await w.type('passphrase', PASSPHRASE);
await w.click('unlock');
await w.type('username', 'minh');
await w.type('password', PASSWORD);
await w.fill('server', srv.url);
await w.click('submit');
await w.id('list-empty');
await w.click('open-new');
await w.type('new-name', 'lan');
await w.click('new-direct');
await w.type('composer', 'Alo?');
await w.click('send');
await until('the message is sent', () => w.find('[data-testid=message][data-status=sent]'));
await share('the window, idle');
for (const [what, video] of [['sound alone', false], ['sound and pictures', true]]) {
  const lan = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', srv.url, '--profile', join(dir, 'lan'), 'answer', '--audio-file', join(dir, 'lan.wav'), '--record', 'none', ...(video ? ['--video-file', film] : [])], {
    env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const ended = new Promise((done) => lan.on('close', done));
  const minh = ears.speak(join(dir, 'minh.wav'));
  await w.click(video ? 'call-start-video' : 'call-start');
  await until('they talk', () => w.find('[data-testid=call][data-phase=active]'));
  if (video) await until('both are seen', async () => (await w.script("return document.querySelectorAll('[data-testid=call-stage] canvas[data-drawn=true]').length")) === 2);
  await share(`a call of two, ${what}`);
  await w.shot(`callcost-${video ? 'video' : 'sound'}`);
  await w.click('call-hang-up');
  await ended;
  minh.kill();
  await until('it is put away', async () => !(await w.script("return Boolean(document.querySelector('[data-testid=call]'))")), 20_000);
}
await w.close();
process.exit(0);
