// The main story in a real browser, through the bridge: every screen in both languages and themes, wide and narrow, axe
// on each, no violation of the content policy, no error on the page.
import { join } from 'node:path';
import { PASSPHRASE, PASSWORD, assert, cli, dir, server, start, stop } from './kit.mjs';
import { openBrowser } from './page.mjs';

const bin = process.argv[2];
const srv = await server(bin);
await cli(bin, 'lan', srv.url, ['register', 'lan']);
await cli(bin, 'tam', srv.url, ['register', 'tam']);
const bridge = await start(join(bin, 'sc-ui-bridge'), ['--profile', join(dir, 'minh'), '--ui', 'dist'], { match: /^http/ });
const { page, id, check, test, failed, finish } = await openBrowser();

try {
  await test('a passphrase is chosen where there is no keyring', async () => {
    await page.goto(bridge.line);
    await id('passphrase').waitFor();
    await check('passphrase');
    await id('passphrase').fill(PASSPHRASE);
    await id('unlock').click();
    await id('welcome').waitFor();
  });

  await test('a taken name and a dead server are said in words, and nothing typed is lost', async () => {
    await id('username').fill('lan');
    await id('password').fill(PASSWORD);
    await id('server').fill(srv.url);
    await check('welcome');
    await id('submit').click();
    await id('error').waitFor();
    await check('welcome-error');
    assert((await id('username').inputValue()) === 'lan', 'the name is still there');
    await id('server').fill('http://127.0.0.1:9');
    await id('submit').click();
    await page.getByText('cannot be reached').waitFor();
    await id('server').fill(srv.url);
    await id('username').fill('minh');
    await id('submit').click();
    await id('list-empty').waitFor();
    await check('empty');
  });

  await test('a conversation is started and a message goes out and comes in', async () => {
    await id('open-new').click();
    await id('new-name').fill('nobody-here');
    await id('new-direct').click();
    await id('error').waitFor();
    await check('new-error');
    await id('new-name').fill('lan');
    await id('new-direct').click();
    await id('new-sheet').waitFor({ state: 'detached' });
    await id('composer').fill('Chào Lan, mình là Minh.');
    await id('composer').press('Enter');
    await page.locator('[data-testid=message][data-status=sent]').waitFor();
    const [heard] = await cli(bin, 'lan', srv.url, ['listen', '--count', '1', '--timeout', '20']);
    assert(heard.text === 'Chào Lan, mình là Minh.', 'Lan hears it');
    assert(heard.sender === 'minh', 'Lan knows from whom');
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'Chào Minh! Cuối tuần này đi Đà Lạt không?', '--wait']);
    await page.getByText('Đà Lạt').first().waitFor();
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'Thật ra mình đã đặt phòng rồi, nhìn ra hồ, có bếp nhỏ. '.repeat(4), '--wait']);
    await cli(bin, 'lan', srv.url, ['send', 'minh', '🎉', '--wait']);
    await page.getByText('🎉').first().waitFor();
  });

  await test('a reply quotes what it answers', async () => {
    const message = page.locator('[data-testid=message]', { hasText: 'Đà Lạt' });
    // What still comes in moves the rows, and the tools are where the pointer is: it follows them.
    for (let tries = 0; !(await id('replying').isVisible()); tries += 1) {
      assert(tries < 10, 'the row under the pointer has its tools');
      await message.hover();
      await message.getByTestId('reply').click({ timeout: 1_000 }).catch(() => undefined);
    }
    await id('composer').fill('Đi chứ. Mấy giờ xuất phát?');
    await check('replying');
    await id('send').click();
    await page.locator('[data-testid=message]', { hasText: 'xuất phát' }).locator('.quote').waitFor();
    await check('conversation');
  });

  await test('the safety number is the one Lan sees, and can be verified', async () => {
    await id('open-card').click();
    const digits = (await id('digits').innerText()).replace(/\s/g, '');
    const [lan] = await cli(bin, 'lan', srv.url, ['safety-number', 'minh']);
    assert(digits === lan.number, 'both see the same digits');
    await check('card');
    await id('verify').click();
    await id('unverify').waitFor();
    await check('card-verified');
  });

  await test('search finds it without diacritics and jumps to it', async () => {
    await page.keyboard.press('Escape');
    await id('open-search').click();
    await id('query').fill('da lat');
    await id('hit').first().waitFor();
    await check('search');
    await id('hit').first().click();
    await page.locator('[data-testid=message].target').waitFor();
    await page.keyboard.press('Escape');
  });

  await test('in a long conversation a hit far up is scrolled to, and the newest is one press away', async () => {
    for (let i = 0; i < 30; i += 1) await cli(bin, 'lan', srv.url, ['send', 'minh', `dòng ${i}\ncủa một cuộc trò chuyện\ndài`, '--wait']);
    // Waits until a message with that text is in sight, whole.
    const seen = (text) =>
      page.waitForFunction((wanted) => {
        const e = [...document.querySelectorAll('[data-testid=message]')].find((m) => m.textContent.includes(wanted));
        const [row, log] = [e?.getBoundingClientRect(), e?.closest('[role=log]').getBoundingClientRect()];
        return row && row.top >= log.top - 1 && row.bottom <= log.bottom + 1;
      }, text);
    await page.waitForFunction(() => document.querySelectorAll('.end').length === 0);
    await seen('dòng 29');
    await id('open-search').click();
    await id('query').fill('da lat');
    await id('hit').first().click();
    await page.locator('[data-testid=message].target').waitFor();
    await seen('Đà Lạt');
    await page.keyboard.press('Escape');
    await page.locator('.end button').click();
    await seen('dòng 29');
  });

  await test('hits are narrowed to a person, a time and a place, and a date is gone to', async () => {
    await id('search-here').click();
    const hits = (n, text) =>
      page.waitForFunction(([wanted, words]) => {
        const found = [...document.querySelectorAll('[data-testid=hit]')];
        return found.length === wanted && found.every((h) => h.textContent.includes(words));
      }, [n, text]);
    await id('query').fill('chao');
    await hits(2, 'Chào');
    assert((await id('search-where').inputValue()) !== '', 'it begins in this conversation');
    await id('search-who').locator('option', { hasText: 'lan' }).waitFor({ state: 'attached' });
    await check('search-facets');
    await id('search-who').selectOption({ label: 'lan (1)' });
    await hits(1, 'Đà Lạt');
    await id('search-who').selectOption({ label: 'You (1)' });
    await hits(1, 'mình là Minh');
    await id('search-when').selectOption('week');
    await hits(1, 'mình là Minh');
    await id('search-who').selectOption('');
    await hits(2, 'Chào');
    const today = await page.evaluate(() => new Date().toLocaleDateString('sv'));
    await id('search-date').fill(today);
    await page.locator('[data-testid=message].target', { hasText: 'mình là Minh' }).waitFor();
    await page.keyboard.press('Escape');
    await page.locator('.end button').click();
  });

  await test('without the server messages wait, and go out when it is back', async () => {
    stop(srv.child);
    await page.locator('[data-testid=connection][data-state=offline]').waitFor();
    await id('composer').fill('viết khi mất mạng');
    await id('composer').press('Enter');
    await page.locator('[data-testid=message][data-status=pending]').waitFor();
    await page.waitForTimeout(1000);
    await check('offline');
    const port = new URL(srv.url).host;
    srv.child = (await server(bin, { listen: port })).child;
    await page.locator('[data-testid=connection][data-state=online]').waitFor({ state: 'attached', timeout: 60_000 });
    await page.locator('[data-testid=message][data-status=pending]').waitFor({ state: 'detached' });
  });

  await test('a secure session is reset: scope, preview, report', async () => {
    await id('open-settings').click();
    await id('devices').waitFor();
    await check('settings');
    await id('open-reset').click();
    await check('reset-scope');
    await id('reset-next').click();
    await id('reset-preview').waitFor();
    await check('reset-preview');
    await id('reset-confirm').click();
    await id('reset-report').waitFor({ timeout: 40_000 });
    await check('reset-report');
    await id('reset-done').click();
    await page.getByTestId('system').filter({ hasText: 'renewed' }).first().waitFor();
  });

  await test('a second device is linked by its code, and removed only after being asked', async () => {
    const second = ['--json', '--server', srv.url, '--profile', join(dir, 'minh-2')];
    const env = { SECURECONNECT_PASSPHRASE: PASSPHRASE, SECURECONNECT_PASSWORD: PASSWORD };
    const login = await start(join(bin, 'secureconnect-cli'), [...second, 'login', 'minh', '--wait', '60'], { env, match: /pending/ });
    const { code } = JSON.parse(login.line);
    const linked = new Promise((ended) => login.child.on('exit', ended));
    await id('open-settings').click();
    await id('device-code').waitFor();
    await id('device-code').fill(code.replace(/^\d/, (d) => String((Number(d) + 1) % 10)));
    await id('device-approve').click();
    await page.getByText('not the one').first().waitFor();
    await check('device-wrong-code');
    await id('device-code').fill(code);
    await id('device-approve').click();
    await id('device-revoke').waitFor();
    assert((await linked) === 0, 'the other device is linked');
    await cli(bin, 'minh-2', srv.url, ['sync']);
    await id('device-revoke').click();
    await check('device-revoke');
    await id('device-revoke-confirm').click();
    await id('device-revoke').waitFor({ state: 'detached' });
    const refused = await cli(bin, 'minh-2', srv.url, ['sync']).then(() => '', String);
    assert(/UNAUTHENTICATED|REFRESH_REUSED/.test(refused), `a removed device is refused: ${refused}`);
    await page.keyboard.press('Escape');
  });

  await test('a group is made and titled', async () => {
    await id('open-new').click();
    await id('new-group').click();
    await id('group-title').fill('Hội leo núi cuối tuần với một cái tên rất dài để xem nó bị cắt ra sao');
    await id('new-name').fill('lan');
    await id('group-add').click();
    await check('new-group');
    await id('group-create').click();
    await id('new-sheet').waitFor({ state: 'detached' });
    await page.locator('[data-testid=open-conversation][aria-label^=Hội]').waitFor();
    await id('composer').fill('Chào cả nhóm');
    await id('composer').press('Enter');
    await page.locator('[data-testid=message][data-status=sent]', { hasText: 'Chào cả nhóm' }).waitFor();
    await id('open-card').click();
    await check('group');
  });

  await test('somebody is added from the card, and removed only after being asked', async () => {
    const card = page.getByTestId('card');
    await card.getByRole('textbox', { name: 'Add a member' }).fill('tam');
    await card.getByRole('button', { name: 'Add a member' }).click();
    await id('member-tam').waitFor();
    await page.getByTestId('system').filter({ hasText: 'tam' }).first().waitFor();
    await card.getByRole('button', { name: 'Remove tam' }).click();
    await check('group-remove');
    assert((await id('member-tam').count()) === 1, 'the first press removes nobody');
    await id('remove-confirm').click();
    await id('member-tam').waitFor({ state: 'detached' });
    await page.getByTestId('system').filter({ hasText: 'removed' }).first().waitFor();
  });

  await test('the list shows what is unread, people or groups', async () => {
    await cli(bin, 'lan', srv.url, ['send', 'minh', 'Mai gặp nhé', '--wait']);
    await id('filter-unread').filter({ hasText: '1' }).waitFor();
    await id('filter-unread').click();
    await check('list-unread');
    assert((await id('conversation').count()) === 1, 'one conversation is unread');
    for (let i = 0; i < 55; i += 1) await cli(bin, 'lan', srv.url, ['send', 'minh', `chưa đọc ${i}`, '--wait']);
    await page.locator('[data-testid=conversation][data-title=lan]').filter({ hasText: '56' }).click();
    await id('new-divider').waitFor();
    const placed = await page.waitForFunction(() => {
      const [line, log] = [document.querySelector('[data-testid=new-divider]'), document.querySelector('[role=log]')].map((e) => e?.getBoundingClientRect());
      return line && log && line.top >= log.top && line.bottom <= log.bottom && document.querySelectorAll('[data-testid=message]').length > 16;
    });
    assert(await placed.jsonValue(), 'it opens at the first unread message');
    await check('unread');
    await page.locator('.end button').click();
    await id('filter-unread').filter({ hasNotText: '1' }).waitFor();
    assert((await id('conversation').count()) === 1, 'what was just read stays under the pointer');
    await id('filter-groups').click();
    await page.locator('[data-testid=conversation][data-title^=Hội]').waitFor();
    assert((await id('conversation').count()) === 1, 'one group');
    await id('filter-all').click();
    await page.locator('[data-testid=conversation][data-title^=Hội]').click();
    await id('open-card').click();
  });

  await test('an owner gives roles, and hands the group over before leaving', async () => {
    const card = page.getByTestId('card');
    await card.getByText('You own this group').waitFor();
    await id('member-lan').click();
    await id('role-toggle').click();
    await id('member-lan').filter({ hasText: 'Admin' }).waitFor();
    await check('group-role');
    await id('hand-over').click();
    await check('group-hand-over');
    await id('hand-over-confirm').click();
    await id('member-lan').filter({ hasText: 'Owner' }).waitFor();
    await card.getByRole('button', { name: 'Leave group' }).waitFor();
    assert((await id('hand-over').count()) === 0, 'roles are the owner’s to give');
    await page.keyboard.press('Escape');
  });

  await test('every screen in both languages, both themes and three widths', async () => {
    const escape = () => page.keyboard.press('Escape');
    for (const lang of ['en', 'vi'])
      for (const theme of ['light', 'dark'])
        for (const width of [360, 768, 1280]) {
          const name = (screen) => `matrix-${screen}-${lang}-${theme}-${width}`;
          await page.setViewportSize({ width: 1280, height: 800 });
          if (await id('back').isVisible()) await id('back').click();
          await id('open-settings').click();
          await id('language').selectOption(lang);
          await id('theme').selectOption(theme);
          await page.setViewportSize({ width, height: 780 });
          await check(name('settings'));
          await escape();
          if (await id('back').isVisible()) await id('back').click();
          await check(name('list'));
          await id('open-search').click();
          await check(name('search'));
          const field = await id('query').boundingBox();
          assert(field.y < 80 && field.width > 150, `${name('search')} has its field on top`);
          await escape();
          await id('open-new').click();
          await check(name('new'));
          await escape();
          await page.locator('[data-testid=conversation][data-title=lan]').click();
          await id('composer').waitFor();
          await check(name('conversation'));
          await id('open-card').click();
          await check(name('card'));
          await id('card-reset').click();
          await check(name('reset'));
          await escape();
          if (await id('card').isVisible()) await page.getByTestId('card').getByRole('button').first().click();
          const foreign = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth + 1);
          assert(!foreign, `${name('conversation')} does not scroll sideways`);
        }
  });

  await test('ten thousand characters are sent, one more is not', async () => {
    await page.setViewportSize({ width: 1280, height: 800 });
    await page.locator('[data-testid=conversation][data-title=lan]').click();
    await id('composer').fill('x'.repeat(10_001));
    assert(await id('send').isDisabled(), 'too long a message cannot be sent');
    await check('too-long-vi-light');
    await id('composer').fill('ạ '.repeat(5_000));
    await id('send').click();
    await page.locator('[data-testid=message][data-status=pending]').waitFor({ state: 'detached' });
    await check('long-message-vi-light');
  });
} catch (e) {
  await failed(e);
}
await finish();
