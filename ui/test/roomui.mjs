// Rooms in the app's own interface, with a real sound server: a group's voice room, drop-in, and a meeting room with its door.
import { join } from 'node:path';
import { mkdirSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { PASSPHRASE, PASSWORD, assert, cli, dir, jsonLines, recording, server, sound, start, strength, tone, until } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];
const srv = await server(bin);
const ears = await sound();
for (const who of ['lan', 'minh', 'hoa', 'ngoc']) await cli(bin, who, srv.url, ['register', who]);
const [{ conversation: group }] = await cli(bin, 'minh', srv.url, ['group', 'create', 'Nhóm thứ Bảy', 'lan', 'hoa']);
const [LOW, HIGH] = [440, 1000];
tone(join(dir, 'lan.wav'), LOW, 240);
tone(join(dir, 'minh.wav'), HIGH, 240);

const host = await start(join(bin, 'sc-ui-bridge'), ['--profile', join(dir, 'minh'), '--ui', 'dist'], { match: /^http/, env: { ...ears.env, SECURECONNECT_PASSPHRASE: PASSPHRASE } });
const { page, id, check, lookable, matrix, test, failed, finish } = await openBrowser();
const phase = (name) => page.locator(`[data-testid=room-bar][data-phase=${name}]`).waitFor({ timeout: 20_000 });

function stay(who, target, args = []) {
  const heard = join(dir, `heard-by-${who}-${Math.random()}`);
  mkdirSync(heard);
  const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', srv.url, '--profile', join(dir, who), 'room', 'join', target, '--record', heard, ...args], {
    env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = jsonLines(child);
  // Once all that was printed is read.
  const ended = new Promise((resolve) => child.on('close', resolve));
  return { child, lines, ended, heard: () => recording(heard) };
}

async function open() {
  await page.goto(host.line);
  await page.locator('[data-testid=conversation]', { hasText: 'Nhóm thứ Bảy' }).click();
  await id('composer').waitFor();
  await lookable();
}

try {
  let lan;
  await test("who is inside a group's room, and who speaks, is seen from outside", async () => {
    await open();
    lan = stay('lan', group, ['--audio-file', join(dir, 'lan.wav')]);
    await id('room-inside').waitFor({ timeout: 20_000 });
    await page.locator('[data-testid=room-inside] .face.speaks').waitFor({ timeout: 20_000 });
    // Whoever was away finds a line of it.
    await page.getByTestId('system').filter({ hasText: 'lan opened the voice room' }).waitFor({ timeout: 10_000 });
    await matrix('room-outside');
  });

  await test('one comes in, both hear each other, the digits are the same, the chat is read', async () => {
    ears.speak(join(dir, 'minh.wav'));
    await id('room-join').click();
    await phase('inside');
    await until('Lan is heard in the speaker', async () => strength(await ears.listen('spk.monitor', 2), LOW) > 0.4);
    await until('Lan hears Minh', () => strength(lan.heard().slice(-96_000), HIGH) > 0.4);
    await matrix('room-inside');
    await id('room-details').click();
    await id('room-sheet').waitFor();
    const digits = (await id('room-check').innerText()).replace(/\s/g, '');
    assert(digits.length === 30 && lan.lines.some((l) => l.check === digits), 'both see the same thirty digits');
    await id('chat-input').fill('Nghe rõ không?');
    await id('chat-send').click();
    await until('the chat is read', () => lan.lines.some((l) => l.chat === 'Nghe rõ không?' && l.name === 'minh'));
    await until('the figures of the path are there', async () => /Through the server(?!, over).*\d+ ms.*[1-9]\d* kbit\/s in/s.test(await id('room-quality').innerText()));
    await id('room-quality').scrollIntoViewIfNeeded();
    await matrix('room-sheet');
    await page.keyboard.press('Escape');
    await id('room-mute').click();
    await until('Lan sees that Minh is muted', () => lan.lines.findLast((l) => l.people)?.people.some((p) => p.name === 'minh' && !p.microphone));
    await page.waitForTimeout(3_000);
    assert(Math.max(...lan.heard().slice(-48_000).map(Math.abs)) < 0.01, 'nothing is sent once the microphone is off');
    await id('room-mute').click();
  });

  await test('a newcomer changes the keys, and everybody still hears everybody', async () => {
    const before = lan.lines.findLast((l) => l.check).check;
    await id('open-card').click();
    const card = page.getByTestId('card');
    await card.getByRole('textbox', { name: 'Add a member' }).fill('ngoc');
    await card.getByRole('button', { name: 'Add a member' }).click();
    await id('member-ngoc').waitFor();
    await until('the keys are others', () => lan.lines.findLast((l) => l.check).check !== before);
    await id('room-details').click();
    const digits = (await id('room-check').innerText()).replace(/\s/g, '');
    assert(digits === lan.lines.findLast((l) => l.check).check, 'the same on both sides');
    await page.keyboard.press('Escape');
    // The keys before are forgotten after ten seconds: what is heard now is heard with the new ones.
    await page.waitForTimeout(11_000);
    await until('Lan is still heard', async () => strength(await ears.listen('spk.monitor', 2), LOW) > 0.4);
    await until('Minh is still heard', () => strength(lan.heard().slice(-96_000), HIGH) > 0.4);
    assert((await page.locator('[data-testid=room-bar] .note.bad').count()) === 0, 'nobody is garbled');
  });

  await test('one leaves, and the room is seen from outside again', async () => {
    await id('room-leave').click();
    await phase('over');
    await check('room-over');
    await id('room-close-notice').click();
    await id('room-bar').waitFor({ state: 'detached' });
    await id('room-inside').waitFor();
    lan.child.kill('SIGTERM');
    await id('room-inside').waitFor({ state: 'detached', timeout: 15_000 });
  });

  await test('a meeting room is made, its door kept, and closed', async () => {
    await id('open-meetings').click();
    await id('meeting-lobby').check();
    await id('meeting-create').click();
    await id('meeting').waitFor();
    await matrix('meetings');
    const link = await page.locator('[data-testid=meeting] .line').innerText();
    await page.locator('[data-testid=meeting] .btn.primary').click();
    await phase('inside');
    const hoa = stay('hoa', link, ['--audio-file', join(dir, 'lan.wav')]);
    await id('room-waits').waitFor({ timeout: 20_000 });
    await id('room-details').click();
    await id('room-admit').waitFor();
    await matrix('room-door');
    await id('room-admit').click();
    await page.locator('[data-testid=room-person][data-name=hoa]').waitFor({ timeout: 20_000 });
    await until('hoa is heard', async () => strength(await ears.listen('spk.monitor', 2), LOW) > 0.4);
    await page.getByLabel('Turn off the microphone of hoa').click();
    await page.locator('[data-testid=room-person][data-name=hoa]').getByLabel('The microphone is off').waitFor({ timeout: 20_000 });
    await until('hoa knows that she is not heard', () => hoa.lines.findLast((l) => l.people)?.people.some((p) => p.name === 'hoa' && !p.microphone));
    await until('and she is not', async () => strength(await ears.listen('spk.monitor', 2), LOW) < 0.05);

    await id('room-lock').click();
    await page.locator('[data-testid=room-lock][aria-pressed=true]').waitFor();
    const early = stay('ngoc', link, ['--audio-file', 'none']);
    assert((await early.ended) === 6 && early.lines.at(-1).cause === 'ROOM_LOCKED', 'a locked room lets nobody in');
    await id('room-lock').click();
    await page.locator('[data-testid=room-lock][aria-pressed=false]').waitFor();
    const waits = stay('ngoc', link, ['--audio-file', 'none']);
    await page.getByText('Turn away').click();
    await waits.ended;
    assert(waits.lines.at(-1)?.cause === 'ROOM_REFUSED', `ngoc is told: ${JSON.stringify(waits.lines.at(-1))}`);
    await page.getByText('Let people in at once').click();
    await page.getByText('Let people wait first').waitFor();
    const ngoc = stay('ngoc', link, ['--audio-file', 'none']);
    await page.locator('[data-testid=room-person][data-name=ngoc]').waitFor({ timeout: 20_000 });
    ngoc.child.kill('SIGTERM');
    await page.locator('[data-testid=room-person][data-name=ngoc]').waitFor({ state: 'detached', timeout: 20_000 });

    await page.getByLabel('Take hoa out of the room').click();
    assert((await hoa.ended) === 0 && hoa.lines.at(-1).cause === 'removed', 'hoa is told');
    const again = stay('hoa', link, ['--audio-file', 'none']);
    assert((await again.ended) === 6 && again.lines.at(-1).cause === 'ROOM_REFUSED', 'who was taken out stays out');
    await page.keyboard.press('Escape');
    await id('room-leave').click();
    await phase('over');
  });

  await test('a link that is none, and a room that is not there, are said in words', async () => {
    await id('open-meetings').click();
    await id('meeting-link').fill('https://example.org/');
    await id('meeting-enter').click();
    await id('meeting-error').waitFor();
    await check('meeting-bad-link');
    await id('meeting-link').fill(`${srv.url}/r/018f6b1e-7d4a-7c31-9d52-0f6a51d0a001#${'A'.repeat(43)}`);
    await id('meeting-enter').click();
    await page.locator('[data-testid=room-bar][data-cause=NOT_FOUND]').waitFor({ timeout: 15_000 });
  });
} catch (e) {
  await failed(e);
}
await finish();
