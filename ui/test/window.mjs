// The story in the real window: without a keyring, and with a real one.
import { existsSync, readFileSync, readdirSync, readlinkSync, realpathSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { follows, guests, numberOn } from './film.mjs';
import { keyring, kill, openWindow, tool, until } from './driver.mjs';
import { PASSPHRASE, PASSWORD, assert, cli, dir, server } from './kit.mjs';

const bin = resolve(process.argv[2]);
const srv = await server(bin);
await cli(bin, 'lan', srv.url, ['register', 'lan']);
let w = await openWindow(bin, join(dir, 'minh'));
let passed = 0;
const step = async (name, f) => {
  await f();
  passed += 1;
  console.log(`ok  ${name}`);
};

/** The environments of the windows that this test has opened. */
function environments() {
  const profile = `SECURECONNECT_PROFILE=${join(dir, 'minh')}`;
  const found = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid)).flatMap((pid) => {
    try {
      if (readlinkSync(`/proc/${pid}/exe`) !== realpathSync(join(bin, 'secureconnect'))) return [];
      return [readFileSync(`/proc/${pid}/environ`, 'utf8').split('\0')];
    } catch {
      // It has ended meanwhile, or is the kernel's.
      return [];
    }
  });
  return found.filter((e) => e.includes(profile));
}

try {
  await step('the window opens and asks for a passphrase, as no keyring answers', async () => {
    await w.id('passphrase');
    console.log(`    first screen after ${Date.now() - w.started} ms (driver included)`);
    await w.check('passphrase');
    await w.type('passphrase', PASSPHRASE);
    await w.click('unlock');
  });
  await step('without a graphics card the window draws in the plain way', () => {
    const card = existsSync('/dev/dri') && readdirSync('/dev/dri').some((name) => name.startsWith('renderD'));
    const plain = environments().map((e) => e.includes('WEBKIT_DISABLE_DMABUF_RENDERER=1'));
    assert(plain.length === 1 && plain[0] === !card, `one window, with a card ${card}: ${plain}`);
  });
  await step('an account is made', async () => {
    await w.type('username', 'minh');
    await w.type('password', PASSWORD);
    await w.fill('server', srv.url);
    await w.check('welcome');
    await w.click('submit');
    await w.id('list-empty');
    await w.check('empty');
  });
  await step('messages go both ways', async () => {
    await w.click('open-new');
    await w.type('new-name', 'lan');
    await w.click('new-direct');
    await until('the sheet is closed', async () => !(await w.script("return Boolean(document.querySelector('[data-testid=new-sheet]'))")));
    await w.type('composer', 'Chao Lan');
    await w.click('send');
    await until('the message is sent', () => w.find('[data-testid=message][data-status=sent]'));
    const [heard] = await cli(bin, 'lan', srv.url, ['listen', '--count', '1', '--timeout', '20']);
    assert(heard.text === 'Chao Lan', 'Lan hears it');
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'Chào Minh, gặp nhau ở Hồ Gươm nhé!', '--wait']);
    await until('the answer is drawn', async () => (await w.text()).includes('Hồ Gươm'));
    await until('the bar knows that it is online', () => w.find('[data-testid=connection][data-state=online]'), 5_000);
    await w.check('conversation');
  });
  await step('the safety number is the one Lan sees', async () => {
    await w.click('open-card');
    const digits = await until('digits', async () => (await w.script("return document.querySelector('[data-testid=digits]').innerText")).replace(/\s/g, ''));
    const [lan] = await cli(bin, 'lan', srv.url, ['safety-number', 'minh']);
    assert(digits === lan.number, 'both see the same digits');
    await w.click('verify');
    await w.id('unverify');
    await w.check('card');
  });
  await step('the session is reset from the card', async () => {
    await w.click('card-reset');
    await w.click('reset-next');
    await w.click('reset-confirm');
    await w.id('reset-done');
    await w.check('reset');
    await w.click('reset-done');
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'khóa mới chạy tốt', '--wait']);
    await until('a message under the new keys', async () => (await w.text()).includes('khóa mới chạy tốt'));
  });
  await step("a guest's numbered pictures are drawn in the window and read back", async () => {
    await w.click('open-meetings');
    await w.click('meeting-create');
    const link = await until('the link', () => w.script("return document.querySelector('[data-testid=meeting] .line')?.innerText"));
    await w.script("document.querySelector('[data-testid=meeting] .btn.primary').click()");
    await until('Minh is inside', () => w.find('[data-testid=room-bar][data-phase=inside]'), 20_000);
    const browser = await guests();
    const an = await browser.enter(link, 'An Nguyễn');
    await until('a picture is drawn', () => w.find('canvas[data-drawn=true]'), 20_000);
    await follows('An', () => w.script(`return (${numberOn})(document.querySelector('canvas[data-drawn=true]'))`));
    await w.check('room-pictures');
    await an.leave();
    await browser.close();
    await w.click('room-leave');
    await w.click('room-close-notice');
  });
  await step('nothing but our three commands can be called', async () => {
    const refused = await w.wait("const done = arguments[0]; window.__TAURI_INTERNALS__.invoke('plugin:app|version').then(() => done('allowed'), (e) => done(String(e)))");
    assert(/not allowed|not found/i.test(refused), `a plugin command answers: ${refused}`);
  });
  await w.close();

  // The same app on a desktop that has a keyring.
  let ring = await keyring();
  const hoa = join(dir, 'hoa');
  await step('with a keyring nothing is asked for', async () => {
    w = await openWindow(bin, hoa, { bus: ring.address });
    await w.type('username', 'hoa');
    await w.type('password', PASSWORD);
    await w.fill('server', srv.url);
    await w.click('submit');
    await w.id('list-empty');
    await w.close();
    w = await openWindow(bin, hoa, { bus: ring.address });
    await w.id('list-empty');
  });
  await step('a keyring that does not answer is explained, and asked again', async () => {
    await w.close();
    kill(ring.daemon);
    w = await openWindow(bin, hoa);
    await w.id('open-again');
    await w.click('open-again');
    await until('it says that it still does not answer', async () => (await w.text()).includes('still does not answer'));
    await w.check('keyring-silent');
    await w.close();
  });
  await step('a passphrase beside the keyring opens the store without it', async () => {
    ring = await keyring();
    w = await openWindow(bin, hoa, { bus: ring.address });
    await w.click('open-settings');
    await w.click('passphrase-open');
    await w.type('passphrase-new', PASSPHRASE);
    await w.type('passphrase-repeat', PASSPHRASE);
    await w.click('passphrase-set');
    await w.id('passphrase-done');
    await w.check('passphrase-added');
    await w.close();
    w = await openWindow(bin, hoa);
    await w.type('passphrase', PASSPHRASE);
    await w.click('unlock');
    await w.id('list-empty');
    await w.close();
  });
  await step('a passphrase that was forgotten is replaced while the keyring answers', async () => {
    w = await openWindow(bin, hoa, { bus: ring.address });
    await w.click('open-settings');
    await w.click('passphrase-open');
    await w.type('passphrase-new', 'another phrase');
    await w.type('passphrase-repeat', 'another phrase');
    await w.check('passphrase-forgotten');
    await w.click('passphrase-set');
    await w.id('passphrase-done');
    await w.close();
    w = await openWindow(bin, hoa);
    await w.type('passphrase', PASSPHRASE);
    await w.click('unlock');
    await w.id('error');
    await w.type('passphrase', 'another phrase');
    await w.click('unlock');
    await w.id('list-empty');
    await w.close();
  });
  await step('a key that is lost is explained, and nothing is deleted', async () => {
    const lost = join(dir, 'mai');
    w = await openWindow(bin, lost, { bus: ring.address });
    await w.id('welcome');
    await w.close();
    await tool('secret-tool', ['clear', 'service', 'org.secureconnect.messenger'], ring.env);
    w = await openWindow(bin, lost, { bus: ring.address });
    await w.id('start-anew');
    await w.check('key-lost');
    await w.click('start-anew');
    await w.id('welcome');
    assert(readdirSync(lost).some((n) => n.startsWith('set-aside-') && readdirSync(join(lost, n)).includes('store.db')), 'the old store is still there');
  });
} catch (e) {
  await w.shot('failure').catch(() => undefined);
  console.error(e);
  console.log(`${passed} passed, 1 failed`);
  process.exit(1);
}
await w.close();
console.log(`${passed} passed, 0 failed`);
process.exit(0);
