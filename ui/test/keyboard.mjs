// The app by keyboard alone, and a profile that was restored from an old copy.
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { PASSPHRASE, PASSWORD, assert, cli, dir, server, start, stop } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];
const srv = await server(bin);
for (const name of ['lan', 'tam']) await cli(bin, name, srv.url, ['register', name]);
const profile = join(dir, 'phim');
const { page, id, check, test, failed, finish } = await openBrowser();
let bridge;

async function open() {
  bridge = await start(join(bin, 'sc-ui-bridge'), ['--profile', profile, '--ui', 'dist'], { match: /^http/ });
  await page.goto('about:blank');
  await page.goto(bridge.line);
}

const close = () => stop(bridge.child);
const press = (key) => page.keyboard.press(key);
const write = (text) => page.keyboard.type(text);
const focused = () => page.evaluate(() => document.activeElement?.getAttribute('data-testid') ?? document.activeElement?.getAttribute('role') ?? '');

/** Goes on with Tab until that element has the focus; every stop on the way can be seen. */
async function reach(name, key = 'Tab') {
  for (let i = 0; i < 60; i += 1) {
    if ((await focused()) === name) return;
    await press(key);
    const unseen = await page.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body || e.id === 'composer') return null;
      const outlined = (x) => getComputedStyle(x).outlineStyle !== 'none';
      return outlined(e) ? null : e.outerHTML.slice(0, 120);
    });
    assert(!unseen, `the focus can be seen on ${unseen}`);
  }
  throw new Error(`${name} cannot be reached by keyboard; the focus is on ${await focused()}`);
}

async function choose(name, key) {
  await reach(name, key);
  await press('Enter');
}

try {
  await test('an account is made by keyboard', async () => {
    await open();
    await id('passphrase').waitFor();
    await reach('passphrase');
    await write(PASSPHRASE);
    await press('Enter');
    await id('welcome').waitFor();
    await reach('username');
    await write('phim');
    await reach('password');
    await write(PASSWORD);
    await reach('server');
    await press('Control+a');
    await write(srv.url);
    await press('Enter');
    await id('list-empty').waitFor();
  });

  await test('a conversation is started, and the keys go on into the composer', async () => {
    await choose('open-new');
    await id('new-sheet').waitFor();
    await reach('new-name');
    await write('lan');
    await press('Enter');
    await id('new-sheet').waitFor({ state: 'detached' });
    await page.waitForFunction(() => document.activeElement?.id === 'composer');
    await write('gõ bằng bàn phím');
    await press('Shift+Enter');
    await write('hai dòng');
    await press('Enter');
    await page.locator('[data-testid=message][data-status=sent]').waitFor();
    const [heard] = await cli(bin, 'lan', srv.url, ['listen', '--count', '1', '--timeout', '20']);
    assert(heard.text === 'gõ bằng bàn phím\nhai dòng', `lines are kept: ${heard.text}`);
  });

  await test('a message is chosen with the arrows and answered', async () => {
    for (const text of ['câu một', 'câu hai', 'câu ba']) await cli(bin, 'lan', srv.url, ['send', 'phim', text, '--wait']);
    // In the timeline: the list of conversations shows it a moment earlier.
    await page.locator('[data-testid=message]', { hasText: 'câu ba' }).waitFor();
    await reach('log', 'Shift+Tab');
    await press('ArrowUp');
    await press('ArrowUp');
    await check('keyboard-chosen');
    await choose('reply');
    await id('replying').filter({ hasText: 'câu hai' }).waitFor();
    await page.waitForFunction(() => document.activeElement?.id === 'composer');
    await write('trả lời câu hai');
    await press('Enter');
    await page.locator('[data-testid=message]', { hasText: 'trả lời' }).locator('.quote', { hasText: 'câu hai' }).waitFor();
  });

  await test('search, the card and its number', async () => {
    await press('Control+k');
    await page.waitForFunction(() => document.activeElement?.getAttribute('data-testid') === 'query');
    await write('cau mot');
    await id('hit').first().waitFor();
    await choose('hit');
    await page.locator('[data-testid=message].target').waitFor();
    await press('Escape');
    await choose('open-card', 'Shift+Tab');
    await choose('verify');
    await id('unverify').waitFor();
  });

  await test('the session is reset, and the focus comes back', async () => {
    await choose('card-reset');
    await id('reset-sheet').waitFor();
    await choose('reset-next');
    await id('reset-preview').waitFor();
    await choose('reset-confirm');
    await id('reset-report').waitFor({ timeout: 40_000 });
    await choose('reset-done');
    await id('reset-sheet').waitFor({ state: 'detached' });
    await page.waitForFunction(() => document.activeElement?.getAttribute('data-testid') === 'card-reset');
    await press('Escape');
    await id('card').waitFor({ state: 'detached' });
  });

  await test('settings and the list of keys', async () => {
    await choose('open-settings');
    await id('settings-sheet').waitFor();
    await reach('theme');
    await press('ArrowDown');
    await press('ArrowDown');
    await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
    await press('Escape');
    await id('settings-sheet').waitFor({ state: 'detached' });
    await page.waitForFunction(() => document.activeElement?.getAttribute('data-testid') === 'open-settings');
    await press('?');
    await id('keys-sheet').waitFor();
    await press('Escape');
    await id('keys-sheet').waitFor({ state: 'detached' });
  });

  await test('a profile restored from an old copy names who is new, and lets them in when told to', async () => {
    await id('open-new').click();
    await id('new-group').click();
    await id('group-title').fill('Nhóm cũ');
    await id('new-name').fill('lan');
    await id('group-add').click();
    await id('group-create').click();
    await id('new-sheet').waitFor({ state: 'detached' });
    await id('composer').fill('trước bản sao');
    await press('Enter');
    await page.locator('[data-testid=message][data-status=sent]', { hasText: 'trước bản sao' }).waitFor();
    await close();
    const copy = join(dir, 'copy');
    cpSync(profile, copy, { recursive: true });
    const unlock = async () => {
      await open();
      await id('passphrase').fill(PASSPHRASE);
      await press('Enter');
      await page.locator('[data-testid=conversation][data-title^=Nhóm]').click();
    };
    await unlock();
    await id('open-card').click();
    await page.getByTestId('card').getByRole('textbox', { name: 'Add a member' }).fill('tam');
    await press('Enter');
    await id('member-tam').waitFor();
    const [group] = await cli(bin, 'tam', srv.url, ['conversations', '--kind', 'group']);
    await cli(bin, 'tam', srv.url, ['send', group.id, 'chào từ tam', '--wait']);
    await page.getByText('chào từ tam').first().waitFor();
    await close();
    rmSync(profile, { recursive: true });
    cpSync(copy, profile, { recursive: true });
    await unlock();
    await page.locator('[data-testid=connection][data-state=online]').waitFor({ state: 'attached' });
    await id('open-card').click();
    await id('card-reset').click();
    await id('reset-next').click();
    await id('reset-newcomers').filter({ hasText: 'tam' }).waitFor();
    await check('reset-newcomers');
    await id('reset-confirm').click();
    await id('reset-report').waitFor({ timeout: 40_000 });
    await id('reset-done').click();
    await cli(bin, 'tam', srv.url, ['send', group.id, 'đọc được chứ?', '--wait']);
    await page.getByText('đọc được chứ?').first().waitFor();
  });
} catch (e) {
  await failed(e);
}
await finish();
