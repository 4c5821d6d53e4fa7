// Pictures of a room in the app's own interface: a camera whose frames are numbered, in a real browser, through the server's unit,
// decrypted by the app, decoded and drawn; the numbers are read back from what is drawn.
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { film, guests, numberOn, numberOnVideo, follows as moves } from './film.mjs';
import { PASSPHRASE, PASSWORD, assert, cli, dir, server, sound, start } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];

const srv = await server(bin);
const ears = await sound();
for (const who of ['minh', 'lan']) await cli(bin, who, srv.url, ['register', who]);
const host = await start(join(bin, 'sc-ui-bridge'), ['--profile', join(dir, 'minh'), '--ui', 'dist'], { match: /^http/, env: { ...ears.env, SECURECONNECT_PASSPHRASE: PASSPHRASE } });
const browser = await guests();
const { page, id, check, lookable, matrix, test, failed, finish } = await openBrowser();
const phase = (name) => page.locator(`[data-testid=room-bar][data-phase=${name}]`).waitFor({ timeout: 20_000 });
const tile = (name, kind = 'camera') => page.locator(`[data-testid=room-stage] [data-testid=tile][data-kind=${kind}]`, { hasText: name });
const drawn = (name, timeout = 20_000) => tile(name).locator('canvas[data-drawn=true]').waitFor({ timeout });

const follows = (name) => moves(name, () => tile(name).locator('canvas').evaluate(numberOn));

try {
  let link, an, binh;
  await test("a guest's camera is drawn in the app, frame after frame", async () => {
    await page.goto(host.line);
    await id('open-meetings').click();
    await id('meeting-create').click();
    link = await page.locator('[data-testid=meeting] .line').innerText();
    await page.locator('[data-testid=meeting] .btn.primary').click();
    await phase('inside');
    assert((await id('room-stage').count()) === 0, 'nothing is shown where nobody shows anything');
    an = await browser.enter(link, 'An Nguyễn Thị Thanh Huyền');
    await drawn('An');
    await follows('An');
    assert((await page.locator('[data-testid=room-bar] .note.bad').count()) === 0, 'everything opens');
  });

  await test('two of them, all of the same size or one of them large', async () => {
    binh = await browser.enter(link, 'Bình');
    await drawn('Bình');
    await follows('Bình');
    await lookable();
    await matrix('room-pictures-grid');
    await id('room-layout').click();
    assert((await page.locator('.place.large').count()) === 1, 'one is large');
    await tile('Bình').hover();
    await page.getByLabel('Keep Bình large').click();
    await page.locator('.place.large', { hasText: 'Bình' }).waitFor();
    await follows('Bình');
    await follows('An');
    await matrix('room-pictures-speaker');
  });

  await test('hidden pictures are not sent here, and are drawn again at once', async () => {
    /** What comes in three seconds: frames for the window and their rate, and the last rate of everything the unit sends here, both in kb/s. */
    const comes = () =>
      page.evaluate(
        () =>
          new Promise((done) => {
            const socket = new WebSocket(`ws://${location.host}/ws`, ['secureconnect.bridge', location.hash.slice(1)]);
            const seen = { frames: 0, pictures: 0, rate: null };
            socket.onmessage = (m) => {
              if (typeof m.data !== 'string') return ((seen.frames += 1), (seen.pictures += (m.data.size * 8) / 3_000));
              const { event } = JSON.parse(m.data);
              if (event?.quality) seen.rate = event.quality.rate_in;
            };
            setTimeout(() => (socket.close(), done(seen)), 3_000);
          }),
      );
    const shown = await comes();
    assert(shown.frames > 30 && shown.rate > 100, `pictures come: ${JSON.stringify(shown)}`);
    await id('room-pictures').click();
    await id('room-stage').waitFor({ state: 'detached' });
    await page.waitForTimeout(2_000);
    const hidden = await comes();
    assert(hidden.frames === 0 && hidden.rate !== null && hidden.rate < shown.rate - shown.pictures / 2, `hidden: ${JSON.stringify(hidden)}, before: ${JSON.stringify(shown)}`);
    console.log(`    shown ${shown.rate} kb/s, hidden ${hidden.rate} kb/s`);
    await id('room-pictures').click();
    await drawn('An', 3_000);
    await follows('An');
  });

  await test('a camera that is switched off leaves the name, and comes back', async () => {
    await an.camera();
    await tile('An').locator('canvas').waitFor({ state: 'detached' });
    assert((await tile('An').locator('.face').count()) === 1, 'the face is there');
    await an.camera();
    await drawn('An');
    await follows('An');
    await binh.leave();
    await tile('Bình').waitFor({ state: 'detached' });
  });

  await test("a member's film is seen by a guest and in the app", async () => {
    const lan = spawn(
      join(bin, 'secureconnect-cli'),
      ['--json', '--server', srv.url, '--profile', join(dir, 'lan'), 'room', 'join', link, '--audio-file', 'none', '--record', 'none', '--video-file', film],
      { env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD }, stdio: ['ignore', 'ignore', 'inherit'] },
    );
    const ended = new Promise((resolve) => lan.on('exit', resolve));
    await drawn('lan');
    await follows('lan');
    const seen = an.page.locator('[data-testid=tile][data-kind=camera][data-own=false] video');
    await seen.first().waitFor({ timeout: 20_000 });
    await moves('Lan, seen by An,', () => seen.first().evaluate(numberOnVideo));
    lan.kill('SIGTERM');
    await ended;
    await tile('lan').waitFor({ state: 'detached' });
  });

  await test('where the web view cannot decode, the app does: when it fails, without the codec, and without the interface', async () => {
    const url = page.url();
    // What decides it are frames of our own: a browser that has the codecs decodes them.
    const source = ts.transpile(readFileSync(join(import.meta.dirname, '../src/state/decoder.ts'), 'utf8'), { target: 'es2022', module: 'esnext' });
    const able = await page.evaluate(`(async () => { ${source.replaceAll('export ', '')}; return [await decodes('vp8'), await decodes('vp9')]; })()`);
    assert(able.every(Boolean), `VP8 and VP9 are found: ${able}`);
    // Each on top of the one before.
    for (const broken of [
      () => {
        globalThis.VideoDecoder = class {
          static isConfigSupported = async () => ({ supported: true });
          decodeQueueSize = 0;
          state = 'unconfigured';
          constructor(init) {
            this.init = init;
          }
          configure() {}
          close() {}
          decode() {
            this.state = 'closed';
            queueMicrotask(() => this.init.error(new DOMException('there is no codec', 'EncodingError')));
          }
          flush = async () => undefined;
        };
      },
      () => {
        VideoDecoder.prototype.configure = function () {
          throw new DOMException('it is not supported', 'NotSupportedError');
        };
      },
      () => delete globalThis.VideoDecoder,
    ]) {
      await page.addInitScript(`(${broken})()`);
      await page.goto('about:blank');
      await page.goto(url);
      await phase('inside');
      await drawn('An');
      await follows('An');
    }
    // Large and small alike, and with two of them.
    binh = await browser.enter(link, 'Bình');
    await drawn('Bình');
    await follows('Bình');
    await follows('An');
    await check('room-pictures-decoded');
    await binh.leave();
  });

  await test('with another key nothing is seen, and that is said', async () => {
    await id('room-leave').click();
    await phase('over');
    await id('room-close-notice').click();
    await id('open-meetings').click();
    const [door, key] = link.split('#');
    await id('meeting-link').fill(`${door}#${key.startsWith('A') ? 'B' : 'A'}${key.slice(1)}`);
    await id('meeting-enter').click();
    await phase('inside');
    await page.locator('[data-testid=room-bar] .note.bad', { hasText: 'another key' }).waitFor({ timeout: 20_000 });
    await id('room-stage').waitFor();
    await page.waitForTimeout(2_000);
    assert((await page.locator('canvas[data-drawn=true]').count()) === 0, 'nothing is drawn');
    await check('room-pictures-wrong-key');
  });
} catch (e) {
  await failed(e);
}
await browser.close();
await finish();
