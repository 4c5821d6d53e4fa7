// Calls in a real browser, with a real sound server: what is spoken into the microphone comes out on the other side, and the
// other way round. Every state of a call in both languages and themes, wide and narrow.
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { spawn } from 'node:child_process';
import { PASSPHRASE, PASSWORD, assert, cli, dir, jsonLines, recording, server, sound, start, stop, strength, tone, until } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];
const srv = await server(bin);
const ears = await sound();
await cli(bin, 'lan', srv.url, ['register', 'lan']);
await cli(bin, 'minh', srv.url, ['register', 'minh']);
await cli(bin, 'minh', srv.url, ['send', 'lan', 'Gọi mình nhé?', '--wait']);
// Low for Lan, high for Minh.
const [LOW, HIGH] = [440, 1000];
tone(join(dir, 'lan.wav'), LOW, 300);
tone(join(dir, 'minh.wav'), HIGH, 300);
tone(join(dir, 'short.wav'), HIGH, 1.5);
const heardByLan = join(dir, 'heard-by-lan');
mkdirSync(heardByLan);

const bridge = () => start(join(bin, 'sc-ui-bridge'), ['--profile', join(dir, 'minh'), '--ui', 'dist'], { match: /^http/, env: { ...ears.env, SECURECONNECT_PASSPHRASE: PASSPHRASE } });
let host = await bridge();
const { page, id, check, lookable, matrix, test, failed, finish } = await openBrowser();
const phase = (name) => page.locator(`[data-testid=call][data-phase=${name}]`);
const none = () => id('call').waitFor({ state: 'detached', timeout: 15_000 });
const escape = () => page.keyboard.press('Escape');

/** Lan at the command line; the lines she prints, as they come. */
function lan(args) {
  const child = spawn(join(bin, 'secureconnect-cli'), ['--json', '--server', srv.url, '--profile', join(dir, 'lan'), ...args], {
    env: { ...process.env, SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const lines = jsonLines(child);
  const ended = new Promise((resolve) => child.on('close', resolve));
  return { lines, ended, child };
}

/** Calls in Lan's timeline. */
async function ringsAtLan() {
  const rows = await cli(bin, 'lan', srv.url, ['history', 'minh', '--limit', '200']);
  const n = rows.filter((r) => r.system?.event === 'call').length;
  assert(n > 0, 'there were calls');
  return n;
}

async function open() {
  await page.goto(host.line);
  await page.locator('[data-testid=conversation][data-title=lan]').click();
  await id('composer').waitFor();
  await lookable();
}

try {
  await test('nobody answers: the caller waits, cancels, and the timeline says so', async () => {
    await open();
    await id('call-start').click();
    await phase('calling').waitFor();
    assert(await id('call-start').isDisabled(), 'there is one call at a time');
    assert(strength(await ears.listen('spk.monitor', 6), 425) > 0.3, 'the caller hears that it rings over there');
    await matrix('call-calling');
    await id('call-hang-up').click();
    await phase('ended').waitFor();
    await check('call-ended');
    await page.getByText('Voice call, no answer').first().waitFor();
    await none();
  });

  await test('a call comes in, is taken, and both hear each other', async () => {
    const other = lan(['call', 'minh', '--audio-file', join(dir, 'lan.wav'), '--record', heardByLan]);
    await phase('incoming').waitFor({ timeout: 15_000 });
    const bell = await ears.listen('spk.monitor', 4);
    assert(strength(bell, 659.3) > 0.2 && strength(bell, 880) > 0.2, 'it rings');
    await matrix('call-incoming');
    const minh = ears.speak(join(dir, 'minh.wav'));
    await id('call-accept').click();
    await phase('active').waitFor();
    await page.locator('[data-testid=call-line]', { hasText: '0:02' }).waitFor();
    await until('Lan is heard in the speaker', async () => strength(await ears.listen('spk.monitor', 3), LOW) > 0.5);
    await matrix('call-active');
    await until('Lan hears Minh', () => strength(recording(heardByLan).slice(-96_000), HIGH) > 0.5);
    await id('call-mute').click();
    await page.locator('[data-testid=call-mute][aria-pressed=true]').waitFor();
    await page.waitForTimeout(3_000);
    const muted = recording(heardByLan).slice(-48_000);
    assert(Math.max(...muted.map(Math.abs)) < 0.01, 'and nothing once the microphone is off');
    await id('call-mute').click();
    const digits = (await (await id('call-details').click(), id('call-check')).innerText()).replace(/\s/g, '');
    assert(digits.length === 30 && other.lines.some((l) => l.check === digits), 'both see the same thirty digits');
    await id('call-quality').waitFor();
    await matrix('call-sheet');
    // Minh's own tone, louder, is in there all the time.
    const share = async () => strength((await ears.listen('micsink.monitor', 4)).slice(-96_000), LOW);
    assert((await share()) < 0.05, 'Lan is not heard there yet');
    await id('speaker').selectOption({ label: 'Null Output' });
    assert((await share()) > 0.15, 'another speaker is used at once');
    await id('speaker').selectOption('');
    minh.kill();
    await escape();
    await id('call-hang-up').click();
    assert((await other.ended) === 0, 'Lan hears that it is over');
    const last = other.lines.at(-1);
    assert(last.cause === 'hung_up' && last.quality.path === 'direct', JSON.stringify(last));
    await page.getByText(/Voice call, \d+:\d\d/).first().waitFor();
    await none();
  });

  await test('the microphone is pulled out in the middle of a call, and put back', async () => {
    const other = lan(['call', 'minh', '--audio-file', join(dir, 'lan.wav'), '--record', 'none']);
    await phase('incoming').waitFor({ timeout: 15_000 });
    await id('call-accept').click();
    await phase('active').waitFor();
    const modules = ears.pactl('list', 'short', 'modules').stdout;
    const number = (name) => modules.split('\n').find((l) => l.includes(name)).split('\t')[0];
    ears.pactl('unload-module', number('module-remap-source'));
    ears.pactl('unload-module', number('sink_name=micsink'));
    await id('call-trouble').waitFor({ timeout: 15_000 });
    await check('call-no-microphone');
    await until('Lan is still heard', async () => strength(await ears.listen('spk.monitor', 2), LOW) > 0.5);
    ears.pactl('load-module', 'module-null-sink', 'sink_name=micsink', 'rate=48000', 'channels=1');
    ears.pactl('load-module', 'module-remap-source', 'source_name=mic', 'master=micsink.monitor');
    ears.pactl('set-default-source', 'mic');
    await id('call-trouble').waitFor({ state: 'detached', timeout: 15_000 });
    assert(await phase('active').isVisible(), 'the call goes on');
    // A sound server takes 64 connections, and the devices were looked at and opened many times by now.
    const clients = ears.pactl('list', 'short', 'clients').stdout.trim().split('\n').length;
    assert(clients < 12, `no connection to the sound server is left behind: ${clients}`);
    other.child.kill('SIGKILL');
    await phase('reconnecting').waitFor({ timeout: 15_000 });
    await matrix('call-reconnecting');
    await id('call-hang-up').click();
    await none();
  });

  await test('a missed call and a declined one', async () => {
    const other = lan(['call', 'minh', '--audio-file', 'none', '--record', 'none']);
    await phase('incoming').waitFor({ timeout: 15_000 });
    await id('call-decline').click();
    await other.ended;
    assert(other.lines.at(-1).cause === 'declined', 'Lan is told');
    await page.getByText('Declined voice call').first().waitFor();
    await none();
    const again = lan(['call', 'minh', '--audio-file', 'none', '--record', 'none']);
    await phase('incoming').waitFor({ timeout: 15_000 });
    again.child.kill('SIGKILL');
    // Nobody says that it is over: it rings out by itself.
    await page.locator('[data-testid=call][data-cause=missed]').waitFor({ timeout: 60_000 });
    await matrix('call-missed');
    await none();
    await page.getByText('Missed voice call from lan').first().waitFor();
  });

  await test('the test call in the settings: one sees and hears oneself', async () => {
    await id('open-settings').click();
    await id('call-settings').scrollIntoViewIfNeeded();
    await id('microphone').waitFor();
    await id('test-call').click();
    // One speaks, is silent, and hears oneself: whoever went on with the same tone would be their own echo, and cancelled as such.
    const ear = ears.listen('spk.monitor', 8);
    ears.speak(join(dir, 'short.wav'));
    await page.waitForFunction(() => Number(document.querySelector('[data-testid=meter]')?.value) > 30, null, { timeout: 15_000 });
    await check('call-test');
    const out = await ear;
    const begins = out.findIndex((v) => Math.abs(v) > 0.05);
    assert(begins >= 0, 'something is heard');
    const heard = strength(out.subarray(begins, begins + 57_600), HIGH);
    assert(heard > 0.5, `after two seconds one hears oneself: ${heard}`);
    await id('test-stop').click();
    await id('test-call').waitFor();
    await escape();
  });

  await test('without any sound device the call is refused in words and nobody rings', async () => {
    const before = await ringsAtLan();
    await stop(host.child);
    ears.env.PULSE_SERVER = 'unix:/nonexistent';
    host = await bridge();
    await open();
    await id('call-start').click();
    await page.locator('[data-testid=call][data-cause=no_microphone]').waitFor({ timeout: 15_000 });
    await check('call-no-device');
    assert((await ringsAtLan()) === before, 'nobody rang');
    await none();
  });

  await test('a dead server is said before anybody is called', async () => {
    await stop(srv.child);
    await page.locator('[data-testid=connection][data-state=offline]').waitFor({ timeout: 30_000 });
    await id('call-start').click();
    await id('call-refused').waitFor();
    await check('call-offline');
  });
} catch (e) {
  await failed(e);
}
await finish();
