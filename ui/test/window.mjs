// The story in the real window: the built app under Xvfb, driven by WebDriver through WebKitWebDriver.
import { spawn } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { PASSPHRASE, PASSWORD, assert, cli, dir, server, shots } from './kit.mjs';

const bin = resolve(process.argv[2]);
const display = process.env.DISPLAY || ':97';
const own = [];
const launch = (program, args, env = {}) => {
  const child = spawn(program, args, { env: { ...process.env, DISPLAY: display, ...env }, stdio: ['ignore', 'ignore', process.env.VERBOSE ? 'inherit' : 'ignore'], detached: true });
  own.push(child);
  return child;
};
process.on('exit', () => {
  for (const c of own) {
    try {
      process.kill(-c.pid, 'SIGKILL');
    } catch {
      // It has ended already.
    }
  }
});
const pause = (ms) => new Promise((r) => setTimeout(r, ms));

if (!process.env.DISPLAY) launch('Xvfb', [display, '-screen', '0', '1280x860x24', '-nolisten', 'tcp']);
const runtime = join(dir, 'runtime');
mkdirSync(runtime, { mode: 0o700 });
const srv = await server(bin);
await cli(bin, 'lan', srv.url, ['register', 'lan']);
const port = 4700 + (process.pid % 200);
launch('WebKitWebDriver', [`--port=${port}`], {
  TAURI_AUTOMATION: 'true',
  TAURI_WEBVIEW_AUTOMATION: 'true',
  SECURECONNECT_PROFILE: join(dir, 'minh'),
  HOME: dir,
  XDG_RUNTIME_DIR: runtime,
  // No keyring is asked here: the passphrase screen is part of the story.
  DBUS_SESSION_BUS_ADDRESS: 'unix:path=/nonexistent',
  LANG: 'en_US.UTF-8',
});

async function wd(method, path, body) {
  const r = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body), signal: AbortSignal.timeout(60_000) });
  const { value } = await r.json();
  if (value?.error) throw new Error(`${path}: ${value.error}: ${value.message}`);
  return value;
}

async function until(what, f, patience = 30_000) {
  const end = Date.now() + patience;
  for (;;) {
    const v = await f().catch(() => undefined);
    if (v) return v;
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`);
    await pause(60);
  }
}

await until('the driver', () => wd('GET', '/status'));
const started = Date.now();
const session = await wd('POST', '/session', { capabilities: { alwaysMatch: { 'webkitgtk:browserOptions': { binary: join(bin, 'secureconnect'), args: [] } } } });
assert(session.capabilities.browserName === 'wry', 'it is our window that is driven');
const s = `/session/${session.sessionId}`;
const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';
const find = async (selector) => (await wd('POST', `${s}/element`, { using: 'css selector', value: selector }))[ELEMENT];
const id = (name) => until(name, () => find(`[data-testid=${name}]`));
const click = async (name) => wd('POST', `${s}/element/${await id(name)}/click`, {});
const type = async (name, text) => wd('POST', `${s}/element/${await id(name)}/value`, { text });
const script = (code, ...args) => wd('POST', `${s}/execute/sync`, { script: code, args });
const text = () => script('return document.body.innerText');
const shot = async (name) => writeFileSync(join(shots, `window-${name}.png`), Buffer.from(await wd('GET', `${s}/screenshot`), 'base64'));
let passed = 0;
const step = async (name, f) => {
  await f();
  passed += 1;
  console.log(`ok  ${name}`);
};

try {
  await step('the window opens and asks for a passphrase, as no keyring answers', async () => {
    await id('passphrase');
    console.log(`    first screen after ${Date.now() - started} ms (driver included)`);
    await shot('passphrase');
    await type('passphrase', PASSPHRASE);
    await click('unlock');
  });
  await step('an account is made', async () => {
    await type('username', 'minh');
    await type('password', PASSWORD);
    await script("const i = document.querySelector('[data-testid=server]'); i.value = arguments[0]; i.dispatchEvent(new Event('input', { bubbles: true }))", srv.url);
    await shot('welcome');
    await click('submit');
    await id('list-empty');
    await shot('empty');
  });
  await step('messages go both ways', async () => {
    await click('open-new');
    await type('new-name', 'lan');
    await click('new-direct');
    await until('the sheet is closed', async () => !(await script("return Boolean(document.querySelector('[data-testid=new-sheet]'))")));
    await type('composer', 'Chao Lan');
    await click('send');
    await until('the message is sent', () => find('[data-testid=message][data-status=sent]'));
    const [heard] = await cli(bin, 'lan', srv.url, ['listen', '--count', '1', '--timeout', '20']);
    assert(heard.text === 'Chao Lan', 'Lan hears it');
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'Chào Minh, gặp nhau ở Hồ Gươm nhé!', '--wait']);
    await until('the answer is drawn', async () => (await text()).includes('Hồ Gươm'));
    await until('the bar knows that it is online', () => find('[data-testid=connection][data-state=online]'), 5_000);
    await shot('conversation');
  });
  await step('the safety number is the one Lan sees', async () => {
    await click('open-card');
    const digits = (await script("return document.querySelector('[data-testid=digits]')?.innerText ?? ''")).replace(/\s/g, '') || (await until('digits', async () => (await script("return document.querySelector('[data-testid=digits]')?.innerText ?? ''")).replace(/\s/g, '')));
    const [lan] = await cli(bin, 'lan', srv.url, ['safety-number', 'minh']);
    assert(digits === lan.number, 'both see the same digits');
    await click('verify');
    await id('unverify');
    await shot('card');
  });
  await step('the session is reset from the card', async () => {
    await click('card-reset');
    await click('reset-next');
    await click('reset-confirm');
    await id('reset-done');
    await shot('reset');
    await click('reset-done');
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'khóa mới chạy tốt', '--wait']);
    await until('a message under the new keys', async () => (await text()).includes('khóa mới chạy tốt'));
  });
  await step('nothing but our two commands can be called', async () => {
    const refused = await wd('POST', `${s}/execute/async`, {
      script: "const done = arguments[0]; window.__TAURI_INTERNALS__.invoke('plugin:app|version').then(() => done('allowed'), (e) => done(String(e)))",
      args: [],
    });
    assert(/not allowed|not found/i.test(refused), `a plugin command answers: ${refused}`);
  });
} catch (e) {
  await shot('failure').catch(() => undefined);
  console.error(e);
  console.log(`${passed} passed, 1 failed`);
  process.exit(1);
}
await wd('DELETE', s).catch(() => undefined);
console.log(`${passed} passed, 0 failed`);
process.exit(0);
