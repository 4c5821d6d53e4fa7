// A camera whose frames are numbered, guests in real browsers that have it, and how a number is read back from what is drawn.
import { closeSync, openSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { assert, dir } from './kit.mjs';

const [WIDTH, HEIGHT, RATE, FRAMES, BITS] = [640, 360, 20, 128, 7];

/** Frame n shows n in white and black blocks, the last one so that the number of white ones is even; everything is reddish. */
function camera(path) {
  const file = openSync(path, 'w');
  writeSync(file, `YUV4MPEG2 W${WIDTH} H${HEIGHT} F${RATE}:1 Ip A1:1 C420jpeg\n`);
  const frame = Buffer.alloc(WIDTH * HEIGHT * 1.5, 120);
  frame.fill(190, WIDTH * HEIGHT * 1.25);
  for (let n = 0; n < FRAMES; n++) {
    const bits = Array.from({ length: BITS }, (_, i) => (n >> i) & 1);
    bits.push(bits.reduce((a, b) => a ^ b, 0));
    const row = Buffer.concat(bits.map((b) => Buffer.alloc(WIDTH / bits.length, b ? 220 : 30)));
    for (let y = HEIGHT / 4; y < (HEIGHT * 3) / 4; y++) row.copy(frame, y * WIDTH);
    writeSync(file, 'FRAME\n');
    writeSync(file, frame);
  }
  closeSync(file);
}

/** The film of that camera. */
export const film = join(dir, 'camera.y4m');
camera(film);

/** A browser for guests with that camera. */
export async function guests() {
  const browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', `--use-file-for-fake-video-capture=${film}`],
  });
  return {
    close: () => browser.close(),
    async enter(link, name) {
      const context = await browser.newContext({ permissions: ['camera', 'microphone'], locale: 'en-US' });
      const page = await context.newPage();
      await page.goto(link);
      await page.getByTestId('room-name').fill(name);
      await page.getByTestId('room-enter').click();
      await page.locator('[data-testid=room][data-phase=inside]').waitFor({ timeout: 20_000 });
      return { page, leave: () => context.close(), camera: () => page.getByTestId('room-camera').click() };
    },
  };
}

/** Runs in the page: the number that a canvas shows, whether it is whole, and how red its edge is. */
export function numberOn(canvas) {
  const bits = 7;
  const { width, height } = canvas;
  const { data } = canvas.getContext('2d').getImageData(0, 0, width, height);
  const at = (x, y) => (Math.floor(y * height) * width + Math.floor(x * width)) * 4;
  const white = Array.from({ length: bits + 1 }, (_, i) => (data[at((i + 0.5) / (bits + 1), 0.5) + 1] > 110 ? 1 : 0));
  const edge = at(0.5, 0.1);
  const number = white.slice(0, bits).reduce((n, b, i) => n | (b << i), 0);
  return { number, even: white.reduce((a, b) => a ^ b, 0) === 0, red: data[edge] - data[edge + 2], width };
}

/** The same for a video, which runs in the page of a guest. */
export const numberOnVideo = new Function(
  'video',
  `const canvas = document.createElement('canvas');
  Object.assign(canvas, { width: video.videoWidth || 1, height: video.videoHeight || 1 });
  canvas.getContext('2d').drawImage(video, 0, 0, canvas.width, canvas.height);
  return (${numberOn})(canvas);`,
);

/** Whole frames, one after the other, each later than the one before: `read` answers what is drawn now. It is looked until eight times
 *  there was another frame: on a busy machine that takes longer. */
export async function follows(name, read) {
  const seen = [];
  const moved = () => seen.filter((s, i) => i > 0 && s.number !== seen[i - 1].number).length;
  for (let i = 0; i < 60 && (i < 12 || moved() < 8); i++) {
    await new Promise((wait) => setTimeout(wait, 150));
    seen.push({ ...(await read()), at: Date.now() });
  }
  assert(seen.every((s) => s.even), `what ${name} shows is read: ${JSON.stringify(seen)}`);
  assert(seen.every((s) => s.red > 40), `in its colour: ${JSON.stringify(seen)}`);
  const steps = seen.slice(1).map((s, i) => (s.number - seen[i].number + FRAMES) % FRAMES);
  // The numbers begin anew, so an old frame looks like one far ahead: no further than what was filmed since the last one came, and a quarter of them.
  let since = seen[0].at;
  const ahead = steps.map((s, i) => {
    const most = FRAMES / 4 + (RATE * (seen[i + 1].at - since)) / 1000;
    if (s > 0) since = seen[i + 1].at;
    return s < Math.min(most, (FRAMES * 3) / 4);
  });
  assert(ahead.every(Boolean), `no frame before one that was drawn: ${steps}`);
  assert(moved() >= 8, `it moves: ${steps}`);
}
