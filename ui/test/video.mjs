// Calls of two with pictures, in the app's own interface: numbered films for cameras, real encryption, a real browser that decodes; the
// numbers are read back from what is drawn. Oneself in rooms, and in the settings.
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { film, follows as moves, guests, numberOn, numberOnVideo } from './film.mjs';
import { PASSPHRASE, PASSWORD, assert, cli, dir, jsonLines, server, sound, start, stop, until } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];
const srv = await server(bin);
const ears = await sound();
for (const who of ['minh', 'lan']) await cli(bin, who, srv.url, ['register', who]);
await cli(bin, 'minh', srv.url, ['send', 'lan', 'Cho mình xem nhé?', '--wait']);
const bridge = (...args) => start(join(bin, 'sc-ui-bridge'), ['--profile', join(dir, 'minh'), '--ui', 'dist', ...args], { match: /^http/, env: { ...ears.env, SECURECONNECT_PASSPHRASE: PASSPHRASE } });
let host = await bridge('--video-file', film);
const { page, id, check, lookable, matrix, test, failed, finish } = await openBrowser();
const phase = (name) => page.locator(`[data-testid=call][data-phase=${name}]`).waitFor({ timeout: 20_000 });
const gone = (what) => what.waitFor({ state: 'detached', timeout: 15_000 });
const drawn = (where) => id(where).locator('canvas[data-drawn=true]').waitFor({ timeout: 20_000 });
const follows = (name, where) => moves(name, () => id(where).locator('canvas').evaluate(numberOn));

/** Cameras that the app has open: each has a thread of that name. */
const cameras = () => readdirSync(`/proc/${host.child.pid}/task`).filter((t) => readFileSync(`/proc/${host.child.pid}/task/${t}/comm`, 'utf8').trim() === 'camera').length;
/** For a second none is open: not one that opens late either. */
function closed(when) {
  let calm = 0;
  return until(`the camera is closed ${when}`, () => (calm = cameras() === 0 ? calm + 1 : 0) > 10);
}

function lan(args, record = 'none') {
  const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', srv.url, '--profile', join(dir, 'lan'), ...args, '--audio-file', 'none', '--record', record], {
    env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = jsonLines(child);
  const ended = new Promise((resolve) => child.on('close', resolve));
  return { lines, ended, child };
}

async function open() {
  await page.goto(host.line);
  await page.locator('[data-testid=conversation][data-title=lan]').click();
  await id('composer').waitFor();
  await lookable();
}

/** Puts the notice of an ended call away, or sees it go. */
async function over() {
  await phase('ended');
  await page.locator('[data-testid=call]').getByRole('button', { name: 'Close' }).click();
  await gone(id('call'));
}

try {
  await test('a video call: each sees the other and oneself', async () => {
    await open();
    const seen = join(dir, 'seen-by-lan');
    mkdirSync(seen);
    const other = lan(['answer', '--video-file', film], seen);
    await id('call-start-video').click();
    await drawn('call-own');
    await phase('active');
    await drawn('call-theirs');
    await follows('Lan', 'call-theirs');
    await follows('oneself', 'call-own');
    await matrix('call-video');
    await id('call-size').click();
    await follows('Lan, small,', 'call-theirs');
    await matrix('call-video-small');
    await id('call-size').click();
    await id('call-details').click();
    await id('call-quality').getByText('Room for your picture').waitFor();
    await matrix('call-video-sheet');
    await page.keyboard.press('Escape');
    await until('Lan is told of the picture', () => other.lines.some((l) => l.picture));
    await id('call-camera').click();
    await gone(id('call-own'));
    await closed('when one is not seen any more');
    await until('and that it is over', () => other.lines.findLast((l) => l.phase === 'active')?.picture === false);
    await follows('Lan, still,', 'call-theirs');
    await id('call-camera').click();
    await drawn('call-own');
    await until('and that it is back', () => other.lines.findLast((l) => l.phase === 'active')?.picture === true);
    await id('call-hang-up').click();
    assert((await other.ended) === 0, 'Lan hears that it is over');
    await page.getByText(/Video call, \d+:\d\d/).first().waitFor();
    await over();
    assert((await id('call-stage').count()) === 0, 'the pictures go with the call');
    await closed('with the call');
    const ivf = readFileSync(join(seen, 'received.ivf'));
    assert(ivf.subarray(0, 4).toString() === 'DKIF' && ivf.readUInt32LE(24) > 100, `Lan has seen ${ivf.readUInt32LE(24)} frames`);
  });

  await test('one rings as a video call, and is answered without being seen, or with', async () => {
    const first = lan(['call', 'minh', '--video-file', film]);
    await phase('incoming');
    await page.getByText('Incoming video call').waitFor();
    assert((await id('call-stage').count()) === 0, 'nobody is seen before the call is taken');
    await matrix('call-video-incoming');
    await id('call-accept').click();
    await phase('active');
    await drawn('call-theirs');
    await follows('Lan', 'call-theirs');
    assert((await id('call-own').count()) === 0 && (await id('call-camera').getAttribute('aria-pressed')) === 'false', 'oneself is not');
    await check('call-video-theirs');
    await id('call-hang-up').click();
    await first.ended;
    await over();
    const second = lan(['call', 'minh', '--video-file', film]);
    await phase('incoming');
    await id('call-accept-video').click();
    await drawn('call-own');
    await drawn('call-theirs');
    second.child.kill('SIGKILL');
    await phase('reconnecting');
    await matrix('call-video-reconnecting');
    await id('call-hang-up').click();
    await over();
  });

  await test('one sees oneself in the settings, and the camera is closed behind them', async () => {
    await id('open-settings').click();
    await id('test-camera').scrollIntoViewIfNeeded();
    await id('test-camera').click();
    await drawn('camera-test');
    await follows('oneself', 'camera-test');
    assert(cameras() === 1, 'there is one camera');
    await check('call-video-settings');
    await page.keyboard.press('Escape');
    await closed('with the settings');
    await id('open-settings').click();
    await id('test-camera').click();
    await page.keyboard.press('Escape');
    await closed('however early they are left');
  });

  await test('in a room one is seen by a guest, and sees oneself', async () => {
    const browser = await guests();
    await id('open-meetings').click();
    await id('meeting-create').click();
    const link = await page.locator('[data-testid=meeting] .line').innerText();
    await page.locator('[data-testid=meeting] .btn.primary').click();
    await page.locator('[data-testid=room-bar][data-phase=inside]').waitFor({ timeout: 20_000 });
    const an = await browser.enter(link, 'An');
    await id('room-camera').click();
    const own = page.locator('[data-testid=room-stage] [data-testid=tile][data-own=true] canvas[data-drawn=true]');
    await own.waitFor({ timeout: 20_000 });
    await moves('oneself', () => own.evaluate(numberOn));
    const seen = an.page.locator('[data-testid=tile][data-kind=camera][data-own=false] video').first();
    await seen.waitFor({ timeout: 20_000 });
    await moves('one, seen by An,', () => seen.evaluate(numberOnVideo));
    await lookable();
    await matrix('room-own-picture');
    await id('room-camera').click();
    await gone(own);
    await gone(seen);
    await closed('in a room too');
    await id('room-camera').click();
    await own.waitFor({ timeout: 20_000 });
    await seen.waitFor({ timeout: 20_000 });
    await moves('one, seen by An again,', () => seen.evaluate(numberOnVideo));
    await id('room-leave').click();
    await id('room-close-notice').click();
    await browser.close();
  });

  await test('without a camera that is said in words, and the call goes on', async () => {
    await stop(host.child);
    host = await bridge();
    await open();
    await id('open-settings').click();
    await id('test-camera').click();
    await id('call-settings').getByText('No camera was found').waitFor();
    await page.keyboard.press('Escape');
    const other = lan(['answer']);
    await id('call-start-video').click();
    await phase('active');
    await id('call-unseen').getByText('No camera was found').waitFor();
    await matrix('call-video-no-camera');
    assert((await id('call-stage').count()) === 0 && (await id('call-camera').getAttribute('aria-pressed')) === 'false', 'there is nothing to see');
    await id('call-hang-up').click();
    await other.ended;
  });
} catch (e) {
  await failed(e);
}
await finish();
