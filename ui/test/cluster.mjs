// Rooms on another server, as on a LiveKit cluster: LiveKit's own server SDK speaks to the one that carries them, its webhook to the one
// whose rooms they are, and a browser's guest and the command line meet there.
import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { AccessToken, RoomServiceClient, TrackSource, TwirpError } from 'livekit-server-sdk';
import { chromium } from 'playwright-core';
import { PASSPHRASE, PASSWORD, assert, cli, dir, jsonLines, server, shots, suite, tone, until } from './kit.mjs';

const bin = process.argv[2];
const [KEY, SECRET] = ['home', 'a secret of two servers, thirty-two long'];
const node = await server(bin, { data: join(dir, 'node'), env: { SECURECONNECT_SERVER_ROOMS_KEY: KEY, SECURECONNECT_SERVER_ROOMS_SECRET: SECRET } });
const home = await server(bin, {
  data: join(dir, 'home'),
  env: { SECURECONNECT_SERVER_LIVEKIT_URL: node.url.replace('http', 'ws'), SECURECONNECT_SERVER_LIVEKIT_KEY: KEY, SECURECONNECT_SERVER_LIVEKIT_SECRET: SECRET },
});
const service = new RoomServiceClient(node.url, KEY, SECRET);
for (const who of ['hoa', 'lan']) await cli(bin, who, home.url, ['register', who]);
tone(join(dir, 'lan.wav'), 440, 300);
mkdirSync(join(dir, 'heard'));
const host = (...args) => cli(bin, 'hoa', home.url, ['room', ...args]);

const { test, problems, finish } = suite(async () => {
  await page?.screenshot({ path: join(shots, 'cluster-failure.png') }).catch(() => {});
});

/** What a refusal of the service is called. */
const refusal = (asked) => asked.then(() => 'nothing', (e) => (e instanceof TwirpError ? e.code : String(e)));

const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking', '--use-fake-device-for-media-stream', '--use-fake-ui-for-media-stream', '--autoplay-policy=no-user-gesture-required'],
});
let page;
const [room] = await host('create', '--guests', '--seats', '3');
const name = new URL(room.link).pathname.split('/').pop();
let [lan, lanEnded] = [];

await test('a guest with a browser and a member at the command line meet on the other server', async () => {
  lan = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', home.url, '--profile', join(dir, 'lan'), 'room', 'join', room.link, '--audio-file', join(dir, 'lan.wav'), '--record', join(dir, 'heard')], {
    env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  lanEnded = new Promise((ended) => lan.once('exit', ended));
  const lines = jsonLines(lan);
  await until('Lan is inside', () => lines.some((l) => l.phase === 'inside'));
  page = await (await browser.newContext({ permissions: ['camera', 'microphone'], locale: 'en-US' })).newPage();
  page.on('pageerror', (e) => problems.push(`page error: ${e.message}`));
  await page.goto(room.link);
  await page.getByTestId('room-name').fill('An Nguyễn');
  await page.getByTestId('room-enter').click();
  await page.locator('[data-testid=room][data-phase=inside]').waitFor({ timeout: 20_000 });
  await until('they see each other', async () => (await page.getByTestId('tile').count()) === 2 && lines.some((l) => l.people?.some((p) => p.name === 'An Nguyễn' && p.microphone)));
  await until('two are counted at home', async () => (await host('list'))[0].inside === 2);
});

await test("LiveKit's SDK finds the room and those in it", async () => {
  const rooms = await service.listRooms();
  assert(rooms.length === 1 && rooms[0].name === name && rooms[0].numParticipants === 2, JSON.stringify(rooms));
  assert((await service.listRooms(['another'])).length === 0, 'by name');
  const people = await service.listParticipants(name);
  const an = people.find((p) => p.name === 'An Nguyễn');
  const sources = an.tracks.map((t) => t.source).sort();
  assert(people.length === 2 && sources.join() === [TrackSource.CAMERA, TrackSource.MICROPHONE].join(), JSON.stringify(people));
  assert((await service.getParticipant(name, an.identity)).sid === an.sid, 'one of them');
  assert((await refusal(service.getParticipant(name, 'nobody'))) === 'not_found', 'nobody');
  assert((await refusal(new RoomServiceClient(node.url, KEY, 'another secret').listRooms())) === 'unauthenticated', 'another secret');
});

await test("LiveKit's SDK silences somebody, which is seen at home, and takes them out", async () => {
  const an = (await service.listParticipants(name)).find((p) => p.name === 'An Nguyễn');
  const microphone = an.tracks.find((t) => t.source === TrackSource.MICROPHONE);
  assert((await service.mutePublishedTrack(name, an.identity, microphone.sid, true)).muted, 'it says so');
  await until('it is silent', async () => (await service.getParticipant(name, an.identity)).tracks.find((t) => t.sid === microphone.sid).muted);
  assert((await refusal(service.mutePublishedTrack(name, an.identity, microphone.sid, false))) === 'unauthenticated', 'nobody is switched on from afar');
  await service.removeParticipant(name, an.identity);
  await page.locator('[data-testid=room][data-cause=participant_removed]').waitFor();
  // A webhook as LiveKit signs it is taken; that it is heeded at once is shown by tests/cluster.rs.
  const body = JSON.stringify({ event: 'participant_left', room: { name } });
  const token = new AccessToken(KEY, SECRET, { ttl: '1m' });
  token.sha256 = createHash('sha256').update(body).digest('base64');
  const said = await fetch(`${home.url}/v1/livekit/webhook`, { method: 'POST', headers: { Authorization: await token.toJwt(), 'Content-Type': 'application/webhook+json' }, body });
  assert(said.status === 200, `the webhook: ${said.status}`);
  await until('one is counted at home', async () => (await host('list'))[0].inside === 1);
});

await test('a room that its host closes is closed there as well', async () => {
  await host('close', room.link);
  await lanEnded;
  await until('the room is gone', async () => (await service.listRooms()).length === 0);
});

await browser.close();
finish();
