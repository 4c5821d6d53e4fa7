// Screens and windows that are shown, in calls and rooms: another program's real window on a real X display, whose content is numbered;
// the numbers are read back from what the others see.
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { film, follows as moves, guests, numberOn, numberOnVideo } from './film.mjs';
import { PASSPHRASE, PASSWORD, assert, cli, dir, jsonLines, server, sound, start, stop, until } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];
const srv = await server(bin);
const ears = await sound();
for (const who of ['minh', 'lan']) await cli(bin, who, srv.url, ['register', who]);
await cli(bin, 'minh', srv.url, ['send', 'lan', 'Mình cho bạn xem nhé?', '--wait']);

/** A display without anybody at it. */
const { line: number } = await start('Xvfb', ['-displayfd', '1', '-screen', '0', '1000x700x24', '-nolisten', 'tcp', '-noreset']);
const display = { DISPLAY: `:${number.trim()}`, WAYLAND_DISPLAY: '' };
const TITLE = 'Bài giảng số 3: vì sao lá cây đổi màu khi trời trở lạnh, và những điều ít người biết về mùa thu ở miền Bắc';

/** A program with one window, which shows numbers as the film does. */
function slides() {
  const file = join(dir, 'slides.html');
  writeFileSync(
    file,
    `<!doctype html><meta charset="utf-8"><title>${TITLE}</title>
    <style>html, body { margin: 0; height: 100%; background: rgb(200, 110, 90); } div { position: fixed; inset: 25% 0; display: flex; } i { flex: 1; }</style>
    <div>${'<i></i>'.repeat(8)}</div>
    <script>
      let n = 0;
      setInterval(() => {
        n = (n + 1) % 128;
        const bits = Array.from({ length: 7 }, (_, i) => (n >> i) & 1);
        bits.push(bits.reduce((a, b) => a ^ b, 0));
        document.querySelectorAll('i').forEach((e, i) => (e.style.background = bits[i] ? 'rgb(220, 220, 220)' : 'rgb(30, 30, 30)'));
      }, 120);
    </script>`,
  );
  const args = ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--no-first-run', `--user-data-dir=${join(dir, `browser-${Math.random()}`)}`];
  const child = spawn('/usr/bin/chromium', [...args, '--window-size=640,600', '--window-position=20,20', `--app=file://${file}`], { env: { ...process.env, ...display }, stdio: 'ignore', detached: true });
  const close = () => {
    try {
      process.kill(-child.pid, 'SIGKILL');
    } catch {
      // It has ended already.
    }
  };
  process.on('exit', close);
  return close;
}

const bridge = (env) => start(join(bin, 'sc-ui-bridge'), ['--profile', join(dir, 'minh'), '--ui', 'dist', '--video-file', film], { match: /^http/, env: { ...ears.env, ...env, SECURECONNECT_PASSPHRASE: PASSPHRASE } });
let closeSlides = slides();
let host = await bridge(display);
const { page, id, check, lookable, matrix, test, failed, finish } = await openBrowser();
const phase = (name) => page.locator(`[data-testid=call][data-phase=${name}]`).waitFor({ timeout: 20_000 });
const gone = (what) => what.waitFor({ state: 'detached', timeout: 15_000 });
const drawn = (where) => id(where).locator('canvas[data-drawn=true]').waitFor({ timeout: 20_000 });
const follows = (name, where) => moves(name, () => id(where).locator('canvas').evaluate(numberOn));
const offered = () => page.locator('[data-testid=screen][data-window=true]', { hasText: 'Bài giảng số 3' });
/** A guest's video has its first frame. */
const begins = (video) => until('the first frame', () => video.evaluate((v) => v.videoWidth > 1).catch(() => false));
/** Devices that the app reads: each has a thread of that name. */
const read = () => readdirSync(`/proc/${host.child.pid}/task`).filter((t) => readFileSync(`/proc/${host.child.pid}/task/${t}/comm`, 'utf8').trim() === 'camera').length;

function lan(args, record = 'none') {
  const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', srv.url, '--profile', join(dir, 'lan'), ...args, '--audio-file', 'none', '--record', record], {
    env: { ...process.env, ...display, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = jsonLines(child);
  const ended = new Promise((resolve) => child.on('close', resolve));
  return { lines, ended, child, last: () => lines.findLast((l) => l.phase === 'active') };
}

async function open() {
  await page.goto(host.line);
  await page.locator('[data-testid=conversation][data-title=lan]').click();
  await id('composer').waitFor();
  await lookable();
}

async function over() {
  await phase('ended');
  await page.locator('[data-testid=call]').getByRole('button', { name: 'Close' }).click();
  await gone(id('call'));
}

try {
  await test('a window is chosen and shown in a call, in the place of the camera, which comes back', async () => {
    await open();
    const seen = join(dir, 'seen-by-lan');
    mkdirSync(seen);
    const other = lan(['answer'], seen);
    await id('call-start-video').click();
    await phase('active');
    await drawn('call-own');
    await id('call-screen').click();
    await offered().waitFor({ timeout: 20_000 });
    assert((await page.locator('[data-testid=screen][data-window=false]').count()) === 1, 'the whole screen is offered too');
    await matrix('screen-choice');
    await offered().click();
    await gone(id('screen-sheet'));
    await until('Lan is told that it is a screen', () => other.last()?.picture_screen === true);
    await drawn('call-own');
    await follows('the window', 'call-own');
    await matrix('call-screen-own');
    await id('call-screen').click();
    await until('Lan sees a face again', () => other.last()?.picture === true && other.last().picture_screen === false);
    await id('call-camera').click();
    await until('and nothing', () => other.last()?.picture === false);
    await until('nothing is read any more', () => read() === 0);
    await id('call-hang-up').click();
    await other.ended;
    await over();
    const ivf = readFileSync(join(seen, 'received.ivf'));
    assert(ivf.readUInt32LE(24) > 50, `Lan has seen ${ivf.readUInt32LE(24)} frames`);
  });

  await test("the other one's window is drawn, and that it is one is said", async () => {
    const [nothing] = await cli(bin, 'lan', srv.url, ['screens'], { DISPLAY: '', WAYLAND_DISPLAY: '' });
    assert(nothing.length === 0, 'without a display there is nothing to show');
    const [list] = await cli(bin, 'lan', srv.url, ['screens'], display);
    const theirs = list.find((s) => s.window && s.name.startsWith('Bài giảng số 3'));
    assert(theirs, `it is named: ${JSON.stringify(list)}`);
    const other = lan(['call', 'minh', '--screen', theirs.id]);
    await phase('incoming');
    await id('call-accept').click();
    await phase('active');
    await drawn('call-theirs');
    await id('call-theirs').getByText('Screen of lan').waitFor();
    await follows("Lan's window", 'call-theirs');
    await matrix('call-screen-theirs');
    await id('call-hang-up').click();
    await other.ended;
    await over();
  });

  await test('a window that is closed is said not to be shown any more, and the call goes on', async () => {
    const other = lan(['answer']);
    await id('call-start').click();
    await phase('active');
    await id('call-screen').click();
    await offered().click();
    await until('Lan sees it', () => other.last()?.picture_screen === true);
    closeSlides();
    await id('call-unseen').getByText('not shown any more').waitFor({ timeout: 20_000 });
    await until('Lan does not any more', () => other.last()?.picture === false);
    await check('call-screen-gone');
    assert((await id('call-screen').getAttribute('aria-pressed')) === 'false', 'the button says so');
    await id('call-hang-up').click();
    await other.ended;
    await over();
    closeSlides = slides();
  });

  await test('in a room a guest sees the window and the camera at once', async () => {
    const browser = await guests();
    await id('open-meetings').click();
    await id('meeting-create').click();
    const link = await page.locator('[data-testid=meeting] .line').innerText();
    await page.locator('[data-testid=meeting] .btn.primary').click();
    await page.locator('[data-testid=room-bar][data-phase=inside]').waitFor({ timeout: 20_000 });
    const an = await browser.enter(link, 'An');
    await id('room-camera').click();
    await id('room-screen').click();
    await offered().click();
    const own = page.locator('[data-testid=room-stage] [data-testid=tile][data-own=true][data-kind=screen] canvas[data-drawn=true]');
    await own.waitFor({ timeout: 20_000 });
    await moves("one's own window", () => own.evaluate(numberOn));
    for (const kind of ['screen', 'camera']) {
      const seen = an.page.locator(`[data-testid=tile][data-kind=${kind}][data-own=false] video`).first();
      await begins(seen);
      await moves(`the ${kind}, seen by An,`, () => seen.evaluate(numberOnVideo));
    }
    await lookable();
    await matrix('room-screen-own');
    await id('room-screen').click();
    await gone(an.page.locator('[data-testid=tile][data-kind=screen]'));
    await gone(own);
    await until('the camera alone is read', () => read() === 1);
    await id('room-screen').click();
    await offered().click();
    const again = an.page.locator('[data-testid=tile][data-kind=screen] video').first();
    await begins(again);
    await moves('the screen, shown again,', () => again.evaluate(numberOnVideo));
    await id('room-leave').click();
    await id('room-close-notice').click();
    await until('nothing is read any more', () => read() === 0);
    await browser.close();
  });

  await test('where nothing can be shown, that is said', async () => {
    await stop(host.child);
    host = await bridge({ DISPLAY: '', WAYLAND_DISPLAY: '' });
    await open();
    const other = lan(['answer']);
    await id('call-start').click();
    await phase('active');
    await id('call-screen').click();
    await id('screen-none').waitFor({ timeout: 20_000 });
    await matrix('screen-none');
    await page.keyboard.press('Escape');
    await id('call-hang-up').click();
    await other.ended;
  });
} catch (e) {
  await failed(e);
}
await finish();
