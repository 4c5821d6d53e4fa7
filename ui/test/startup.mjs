// How long the app takes to its list and to the first rows of a conversation, with a million messages stored: the release
// build under Xvfb, its key in a keyring, its server running. Run by `cargo xtask bench window`.
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { keyring, openWindow, pause, tool, until } from './driver.mjs';
import { dir, start } from './kit.mjs';

const bin = resolve(process.argv[2]);
const rounds = Number(process.env.ROUNDS ?? 7);
const bench = join(bin, 'sc-bench');
const ring = await keyring();
const profile = join(dir, 'minh');
const { line } = await start(bench, ['--serve', join(dir, 'server'), '127.0.0.1:0'], { match: /^127/ });
process.stdout.write(await tool(bench, ['--prepare', profile, `http://${line.trim()}`], ring.env));

// The driver starts this in place of the app: the moment before the program is loaded.
const stamp = join(dir, 'started');
const wrapper = join(dir, 'secureconnect');
writeFileSync(wrapper, `#!/bin/sh\ndate +%s%3N > ${stamp}\nexec ${join(bin, 'secureconnect')} "$@"\n`);
chmodSync(wrapper, 0o755);

const middle = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];
const said = (name, values) => console.log(`${name}: median ${middle(values).toFixed(0)} ms (${values.map((v) => v.toFixed(0)).join(', ')})`);

async function coldStart(forget) {
  if (forget) {
    await tool('sync', []);
    try {
      writeFileSync('/proc/sys/vm/drop_caches', '3');
    } catch {
      return undefined;
    }
  }
  const w = await openWindow(dir, profile, { bus: ring.address });
  const mark = "return performance.timeOrigin + (performance.getEntriesByName('list-painted')[0]?.startTime ?? NaN)";
  const at = await until('the list is painted', () => w.script(mark));
  await w.close();
  return at - Number(readFileSync(stamp, 'utf8'));
}

async function measure(name, forget) {
  const values = [];
  for (let i = 0; i < rounds; i += 1) {
    const v = await coldStart(forget);
    if (v === undefined) return console.log(`${name}: the page cache cannot be emptied here`);
    values.push(v);
    await pause(300);
  }
  said(name, values);
}

await measure('process start to list painted', false);
await measure('the same with an empty page cache', true);

const w = await openWindow(dir, profile, { bus: ring.address });
await until('the list', () => w.find('[data-testid=conversation]'));
const rows = [];
for (let i = 0; i < 40; i += 1) {
  // At a person's pace: what the click before set in motion has come to rest.
  await pause(200);
  rows.push(
    await w.wait(
      `const done = arguments[1];
       const list = document.querySelectorAll('[data-testid=conversation]');
       const row = list[arguments[0] % list.length];
       const there = () => {
         if (document.querySelector('[data-testid=open-conversation]')?.getAttribute('aria-label') !== row.dataset.title) return false;
         const log = document.querySelector('[role=log]')?.getBoundingClientRect();
         const seen = [...document.querySelectorAll('[data-testid=message]')].filter((e) => {
           const { top, bottom } = e.getBoundingClientRect();
           return top >= log.top && bottom <= log.bottom && getComputedStyle(e).visibility === 'visible';
         });
         return seen.length > 10;
       };
       const before = performance.now();
       // In the task after a frame it is asked whether that frame had the window full of rows.
       const frame = () => requestAnimationFrame(() => {
         const after = new MessageChannel();
         after.port1.onmessage = () => {
           const now = performance.now();
           if (there()) done(now - before);
           else frame();
         };
         after.port2.postMessage(0);
       });
       frame();
       row.click();`,
      i + 1,
    ),
  );
}
said('click to first rows painted', rows);
await w.shot('million');
await w.close();
process.exit(0);
