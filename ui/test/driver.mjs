// The built app under Xvfb, driven by WebDriver through WebKitWebDriver.
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { assert, dir, shots, start } from './kit.mjs';

const axe = readFileSync(join(import.meta.dirname, '../node_modules/axe-core/axe.min.js'), 'utf8');
const ELEMENT = 'element-6066-11e4-a52e-4f735466cecf';
/** Runs in the page: a corner of one point, which nobody sees, changes all the time. */
const STIR = `const dot = document.createElement('i');
  dot.setAttribute('aria-hidden', 'true');
  Object.assign(dot.style, { position: 'fixed', width: '1px', height: '1px', bottom: '0', right: '0', pointerEvents: 'none' });
  document.body.append(dot);
  let n = 0;
  const timer = setInterval(() => (dot.style.background = n++ % 2 ? 'transparent' : 'currentColor'), 30);
  window.settle = () => (clearInterval(timer), dot.remove());`;
const own = [];
process.on('exit', () => own.forEach(kill));
export const pause = (ms) => new Promise((r) => setTimeout(r, ms));
const runtime = join(dir, 'runtime');
mkdirSync(runtime, { mode: 0o700 });
const display = process.env.DISPLAY || (await ownDisplay());

/** A display of a number that nobody has: one of a run before may be ending still. */
async function ownDisplay() {
  const { line } = await start('Xvfb', ['-displayfd', '1', '-screen', '0', '1280x860x24', '-nolisten', 'tcp', '-noreset']);
  return `:${line.trim()}`;
}

/** Starts a program that ends with the test; `input` is given to it and closed. */
export function launch(program, args, { env = {}, input } = {}) {
  const stdio = [input === undefined ? 'ignore' : 'pipe', 'ignore', process.env.VERBOSE ? 'inherit' : 'ignore'];
  const child = spawn(program, args, { env: { ...process.env, HOME: dir, XDG_RUNTIME_DIR: runtime, ...env }, stdio, detached: true });
  if (input !== undefined) child.stdin.end(input);
  own.push(child);
  return child;
}

export function kill(child) {
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // It has ended already.
  }
}

export async function until(what, f, patience = 30_000) {
  const end = Date.now() + patience;
  for (;;) {
    let cause;
    const v = await f().catch((e) => void (cause = e));
    if (v) return v;
    if (Date.now() > end) throw new Error(`waited in vain for: ${what}`, { cause });
    await pause(60);
  }
}

/** A port that is free now. The system's own are none of those that `fetch` refuses to speak to (5060, 6000, 6666 ...). */
function freePort() {
  return new Promise((resolve, reject) => {
    const socket = createServer().on('error', reject);
    socket.listen(0, '127.0.0.1', () => {
      const { port } = socket.address();
      socket.close(() => resolve(port));
    });
  });
}

let buses = 0;

/** Opens the window on a profile. `bus` is the address of a session bus; without one no keyring answers. */
export async function openWindow(bin, profile, { bus = 'unix:path=/nonexistent' } = {}) {
  const port = await freePort();
  const driver = launch('WebKitWebDriver', [`--port=${port}`], {
    env: {
      DISPLAY: display,
      TAURI_AUTOMATION: 'true',
      TAURI_WEBVIEW_AUTOMATION: 'true',
      SECURECONNECT_PROFILE: profile,
      DBUS_SESSION_BUS_ADDRESS: bus,
      LANG: 'en_US.UTF-8',
    },
  });
  const wd = async (method, path, body) => {
    const r = await fetch(`http://127.0.0.1:${port}${path}`, { method, body: body && JSON.stringify(body), signal: AbortSignal.timeout(60_000) });
    const { value } = await r.json();
    if (value?.error) throw new Error(`${path}: ${value.error}: ${value.message}`);
    return value;
  };
  await until('the driver', () => wd('GET', '/status'));
  const started = Date.now();
  const session = await wd('POST', '/session', { capabilities: { alwaysMatch: { 'webkitgtk:browserOptions': { binary: join(bin, 'secureconnect'), args: [] } } } });
  assert(session.capabilities.browserName === 'wry', 'it is our window that is driven');
  const s = `/session/${session.sessionId}`;
  const find = async (selector) => (await wd('POST', `${s}/element`, { using: 'css selector', value: selector }))[ELEMENT];
  const id = (name) => until(name, () => find(`[data-testid=${name}]`));
  const script = (code, ...args) => wd('POST', `${s}/execute/sync`, { script: code, args });
  return {
    /** When the driver was asked, in milliseconds of the epoch. */
    started,
    find,
    id,
    script,
    wait: (code, ...args) => wd('POST', `${s}/execute/async`, { script: code, args }),
    click: async (name) => wd('POST', `${s}/element/${await id(name)}/click`, {}),
    type: async (name, text) => wd('POST', `${s}/element/${await id(name)}/value`, { text }),
    fill: (name, text) =>
      script(`const i = document.querySelector('[data-testid=${name}]'); i.value = arguments[0]; i.dispatchEvent(new Event('input', { bubbles: true }))`, text),
    text: () => script('return document.body.innerText'),
    /** A picture. Without a graphics card WebKit takes it with the next change of the page, so there is one. */
    async shot(name) {
      await script(STIR);
      writeFileSync(join(shots, `window-${name}.png`), Buffer.from(await wd('GET', `${s}/screenshot`), 'base64'));
      await script('window.settle()');
    },
    /** Takes a picture and runs axe: nothing serious may be wrong. */
    async check(name) {
      await pause(200);
      await this.shot(name);
      const found = await wd('POST', `${s}/execute/async`, {
        script: `const done = arguments[0]; ${axe}; axe.run(document, { resultTypes: ['violations'] }).then((r) => done(r.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => v.id + ': ' + v.nodes.map((n) => n.html.slice(0, 120)).join(' | '))), (e) => done([String(e)]));`,
        args: [],
      });
      assert(found.length === 0, `axe on ${name}: ${found.join('; ')}`);
    },
    /** Closes the window and waits until its process has ended. */
    async close() {
      await wd('DELETE', s).catch(() => undefined);
      kill(driver);
    },
  };
}

/** A session bus with a keyring that is unlocked; its secrets are in the test's folder. */
export async function keyring() {
  const name = join(runtime, `bus-${buses++}`);
  const address = `unix:path=${name}`;
  // No services start by themselves: the bus has what the test gives it.
  const policy = '<policy context="default"><allow send_destination="*" eavesdrop="true"/><allow receive_sender="*"/><allow own="*"/></policy>';
  writeFileSync(`${name}.conf`, `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd"><busconfig><type>session</type><listen>${address}</listen>${policy}</busconfig>`);
  launch('dbus-daemon', ['--nofork', '--nopidfile', `--config-file=${name}.conf`]);
  const env = { DBUS_SESSION_BUS_ADDRESS: address, XDG_DATA_HOME: join(dir, 'secrets') };
  await until('the bus', () => tool('dbus-send', ['--session', '--print-reply', '--dest=org.freedesktop.DBus', '/', 'org.freedesktop.DBus.ListNames'], env));
  const daemon = launch('gnome-keyring-daemon', ['--unlock', '--components=secrets', '--foreground'], { env, input: 'the login password' });
  await until('the keyring', async () => /gnome.keyring|secrets/.test(await tool('dbus-send', ['--session', '--print-reply', '--dest=org.freedesktop.DBus', '/', 'org.freedesktop.DBus.ListNames'], env)));
  return { address, env, daemon };
}

/** Runs a program to its end; resolves with what it printed. */
export function tool(program, args, env = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { env: { ...process.env, HOME: dir, XDG_RUNTIME_DIR: runtime, ...env }, stdio: ['ignore', 'pipe', 'ignore'] });
    let out = '';
    child.stdout.on('data', (d) => (out += d));
    child.on('error', reject);
    child.on('exit', (code) => (code === 0 ? resolve(out) : reject(new Error(`${program} ended with ${code}`))));
  });
}
