// Meeting rooms: the command line and real browsers in one room, through the server's own forwarding unit. What is spoken and shown
// is encrypted end to end; with another key nobody hears or sees anything.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { chromium } from 'playwright-core';
import { PASSPHRASE, PASSWORD, assert, cli, dir, jsonLines, recording, server, shots, suite, tone, until } from './kit.mjs';

const bin = process.argv[2];
const srv = await server(bin);
await cli(bin, 'lan', srv.url, ['register', 'lan']);
await cli(bin, 'minh', srv.url, ['register', 'minh']);
// Makes the rooms and hosts them: a profile can be open once.
await cli(bin, 'hoa', srv.url, ['register', 'hoa']);
const host = (...args) => cli(bin, 'hoa', srv.url, ['room', ...args]);
const LOW = 440;
tone(join(dir, 'lan.wav'), LOW, 300);

const { test, problems, finish } = suite(async () => {
  for (const [i, p] of pages.entries()) await p.screenshot({ path: join(shots, `room-failure-${i}.png`) }).catch(() => {});
});

/** Somebody at the command line in a room; what they print, as it comes. */
function stay(who, target, args = []) {
  const heard = join(dir, `heard-by-${who}-${Math.random()}`);
  mkdirSync(heard);
  const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', srv.url, '--profile', join(dir, who), 'room', 'join', target, '--record', heard, ...args], {
    env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const lines = jsonLines(child);
  let err = '';
  child.stderr.on('data', (d) => (err += d));
  const ended = new Promise((resolve) => child.on('exit', (code) => resolve({ code, err })));
  const people = () => lines.findLast((l) => l.people)?.people ?? [];
  return { child, lines, ended, people, heard: () => recording(heard), stop: () => (child.kill('SIGTERM'), ended) };
}

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required'],
});
const pages = [];
async function guest(link, name, { camera = true } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 }, permissions: ['camera', 'microphone'], locale: 'en-US' });
  const page = await context.newPage();
  pages.push(page);
  page.on('pageerror', (e) => problems.push(`page error of ${name}: ${e.message}`));
  const id = (n) => page.getByTestId(n);
  await page.goto(link);
  await id('room-name').fill(name);
  if (!camera) await id('door-camera').click();
  await id('room-enter').click();
  const phase = (p, timeout = 20_000) => page.locator(`[data-testid=room][data-phase=${p}]`).waitFor({ timeout });
  return { page, id, phase, context };
}

/** How much the picture of somebody moves: the mean change of brightness between two moments, and how bright it is. */
async function moves(page, own) {
  return page.evaluate(async (own) => {
    const video = document.querySelector(`[data-testid=tile][data-own=${own}] video`);
    if (!video || video.videoWidth === 0) return { width: 0, bright: 0, change: 0 };
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [160, 90];
    const g = canvas.getContext('2d', { willReadFrequently: true });
    const shot = () => {
      g.drawImage(video, 0, 0, 160, 90);
      return g.getImageData(0, 0, 160, 90).data;
    };
    const a = shot();
    await new Promise((wait) => setTimeout(wait, 700));
    const b = shot();
    let [bright, change] = [0, 0];
    for (let i = 0; i < a.length; i += 4) {
      bright += b[i + 1];
      change += Math.abs(b[i + 1] - a[i + 1]);
    }
    return { width: video.videoWidth, bright: bright / (160 * 90), change: change / (160 * 90) };
  }, own);
}

await test('a guest with a browser and a member at the command line hear each other, encrypted', async () => {
  const [room] = await host('create', '--guests');
  const lan = stay('lan', room.link, ['--audio-file', join(dir, 'lan.wav'), '--say', 'Xin chào']);
  await until('Lan is inside', () => lan.lines.some((l) => l.phase === 'inside'));
  const an = await guest(room.link, 'An Nguyễn');
  await an.phase('inside');
  await until('Lan sees An', () => lan.people().some((p) => p.name === 'An Nguyễn' && p.microphone));
  await until('An sees Lan', async () => (await an.id('tile').count()) === 2);
  // Chromium's fake microphone beeps; Lan's tone is heard in the page.
  await until('Lan hears the beeps', () => Math.max(0, ...lan.heard().slice(-48_000).map(Math.abs)) > 0.02);
  const heard = await until('An hears Lan', async () => {
    const s = await an.page.evaluate(async (hz) => {
      const audio = [...document.querySelectorAll('audio')].find((a) => a.srcObject);
      if (!audio) return 0;
      const context = new AudioContext({ sampleRate: 48_000 });
      const analyser = context.createAnalyser();
      analyser.fftSize = 16_384;
      context.createMediaStreamSource(audio.srcObject).connect(analyser);
      await new Promise((wait) => setTimeout(wait, 800));
      const bins = new Float32Array(analyser.frequencyBinCount);
      analyser.getFloatFrequencyData(bins);
      const at = Math.round((hz * analyser.fftSize) / 48_000);
      const peak = Math.max(...bins.slice(at - 2, at + 3));
      const rest = bins.slice(at + 40, at + 400).reduce((a, b) => Math.max(a, b), -200);
      await context.close();
      return peak - rest;
    }, LOW);
    return s > 15 ? s : 0;
  });
  assert(heard > 15, 'the tone stands out');
  await until('it is seen who speaks', () => lan.people().some((p) => p.own && p.speaks), 30_000);
  await until('the page shows who speaks', async () => (await an.page.locator('.tile.speaks').count()) > 0);
  assert(!lan.people().some((p) => p.garbled), 'everything opens');
  await an.id('room-mute').click();
  await until('Lan sees that An is muted', () => lan.people().some((p) => !p.own && !p.microphone));
  await an.id('room-mute').click();
  await an.id('room-hand').click();
  await until('the hand is seen', () => lan.people().some((p) => p.hand));
  await an.id('room-chat').click();
  await an.id('chat-input').fill('Chào Lan');
  await an.id('chat-send').click();
  await until('the chat is read', () => lan.lines.some((l) => l.chat === 'Chào Lan' && l.name === 'An Nguyễn'));
  await an.page.screenshot({ path: join(shots, 'room-page.png') });
  await an.id('room-leave').click();
  await until('Lan sees that An has left', () => lan.people().length === 1);
  assert((await host('list'))[0].inside === 1, 'one is counted');
  await lan.stop();
  await until('nobody is counted', async () => (await host('list'))[0].inside === 0);
});

await test('two browsers see each other; one with another key sees and hears nothing', async () => {
  const [room] = await host('create', '--guests');
  const an = await guest(room.link, 'An');
  await an.phase('inside');
  const binh = await guest(room.link, 'Bình');
  await binh.phase('inside');
  const seen = await until('Bình sees An move', async () => {
    const m = await moves(binh.page, false);
    return m.width > 0 && m.bright > 20 && m.change > 0.2 ? m : null;
  });
  assert(seen.width >= 160, JSON.stringify(seen));
  const wrong = room.link.replace(/#.*/, `#${'A'.repeat(43)}`);
  const eve = await guest(wrong, 'Eve');
  await eve.phase('inside');
  await eve.id('room-garbled').waitFor({ timeout: 20_000 });
  const dark = await moves(eve.page, false);
  assert(dark.width === 0 || dark.bright < 5, `without the key there is no picture: ${JSON.stringify(dark)}`);
  await eve.page.screenshot({ path: join(shots, 'room-wrong-key.png') });
  for (const p of [an, binh, eve]) await p.context.close();
});

await test('a full room, a locked one, the lobby, being taken out, a closed room', async () => {
  const [room] = await host('create', '--guests', '--seats', '2');
  const an = await guest(room.link, 'An', { camera: false });
  await an.phase('inside');
  const binh = await guest(room.link, 'Bình', { camera: false });
  await binh.phase('inside');
  const third = await guest(room.link, 'Cúc', { camera: false });
  await third.page.locator('[data-testid=room][data-cause=ROOM_FULL]').waitFor();
  await third.page.screenshot({ path: join(shots, 'room-full.png') });
  const refused = stay('minh', room.link);
  assert((await refused.ended).code === 6 && (await refused.ended).err.includes('ROOM_FULL'), 'the command line is told as well');
  await binh.id('room-leave').click();
  await host('lock', room.link);
  await third.id('room-enter').click();
  await third.page.locator('[data-testid=room][data-cause=ROOM_LOCKED]').waitFor();
  await host('unlock', room.link);
  await third.id('room-enter').click();
  await third.phase('inside');
  const identity = await third.page.locator('[data-testid=tile][data-own=true]').getAttribute('data-identity');
  await host('remove', room.link, identity);
  await third.page.locator('[data-testid=room][data-cause=participant_removed]').waitFor();
  await host('close', room.link);
  await an.page.locator('[data-testid=room][data-cause=room_deleted]').waitFor();
  await an.page.reload();
  await an.page.locator('[data-testid=room][data-cause=NOT_FOUND]').waitFor();
  for (const p of [an, binh, third]) await p.context.close();

  const [lobby] = await host('create', '--guests', '--lobby');
  const dung = await guest(lobby.link, 'Dũng', { camera: false });
  await dung.phase('waiting');
  await dung.page.screenshot({ path: join(shots, 'room-lobby.png') });
  const hoa = stay('hoa', lobby.link, ['--audio-file', 'none', '--admit']);
  await dung.phase('inside');
  assert(hoa.lines.some((l) => l.waiting === 'Dũng'), 'the host is told who waits');
  await hoa.stop();
  await dung.context.close();
});

await test('a link without its key, a room for members only and no room at all are said in words', async () => {
  const [room] = await host('create');
  const context = await browser.newContext({ locale: 'vi-VN', viewport: { width: 360, height: 740 } });
  const page = await context.newPage();
  pages.push(page);
  for (const [link, cause] of [[room.link.split('#')[0], 'incomplete'], [room.link, 'members_only'], [room.link.replace(room.room, '018f6b1e-7d4a-7c31-9d52-0f6a51d0a001'), 'NOT_FOUND']]) {
    await page.goto('about:blank');
    await page.goto(link);
    await page.locator(`[data-testid=room][data-cause=${cause}]`).waitFor();
    await page.screenshot({ path: join(shots, `room-${cause}-vi-360.png`) });
  }
  await context.close();
});

await test('a guest who vanishes and a client that is killed free their seats after the grace time', async () => {
  const [room] = await host('create', '--guests');
  const lan = stay('lan', room.link, ['--audio-file', join(dir, 'lan.wav')]);
  await until('Lan is inside', () => lan.lines.some((l) => l.phase === 'inside'));
  const an = await guest(room.link, 'An', { camera: false });
  await an.phase('inside');
  await an.context.setOffline(true);
  await until('two are counted while the seat is kept', async () => (await host('list'))[0].inside === 2);
  await an.context.setOffline(false);
  await an.context.close();
  await until('the seat is free', async () => (await host('list'))[0].inside === 1, 15_000);
  lan.child.kill('SIGKILL');
  await until('the seat of a killed client is free', async () => (await host('list'))[0].inside === 0, 15_000);
});

await browser.close();
finish();
