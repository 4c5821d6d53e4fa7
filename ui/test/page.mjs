// A real browser on the bridge: pictures, axe, and a list of everything that went wrong.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { assert, shots } from './kit.mjs';

const axe = readFileSync(join(import.meta.dirname, '../node_modules/axe-core/axe.min.js'), 'utf8');

export async function openBrowser() {
  let passed = 0;
  const problems = [];
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, locale: 'en-US' });
  page.on('pageerror', (e) => problems.push(`page error: ${e.message}`));
  page.on('console', (m) => m.type() === 'error' && problems.push(`console: ${m.text()}`));
  /** Takes a picture and runs axe. */
  async function check(name) {
    await page.waitForTimeout(200);
    await page.screenshot({ path: join(shots, `${name}.png`) });
    await page.evaluate(axe);
    const result = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
    const serious = result.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical');
    for (const v of serious) problems.push(`axe on ${name}: ${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(' | ')}`);
  }
  return {
    page,
    id: (name) => page.getByTestId(name),
    check,
    /** Lets [`matrix`] change language and theme through the app's own command, without opening the settings over what is shown. */
    lookable: () =>
      page.evaluate(() => {
        const socket = new WebSocket(`ws://${location.host}/ws`, ['secureconnect.bridge', location.hash.slice(1)]);
        globalThis.setLook = async (language, theme) => {
          const ask = (id, command) =>
            new Promise((answer) => {
              const take = (m) => {
                const got = typeof m.data === 'string' ? JSON.parse(m.data) : {};
                if (got.id !== id) return;
                socket.removeEventListener('message', take);
                answer(got.ok);
              };
              socket.addEventListener('message', take);
              socket.send(JSON.stringify({ id, command }));
            });
          const state = await ask(1, { type: 'state' });
          await ask(2, { type: 'set_settings', settings: { ...state.settings, language, theme } });
        };
        return new Promise((ready) => (socket.onopen = ready));
      }),
    /** Every width, language and theme of what is shown now. */
    async matrix(name) {
      for (const lang of ['en', 'vi'])
        for (const theme of ['light', 'dark'])
          for (const width of [360, 768, 1280]) {
            await page.evaluate(([l, t]) => globalThis.setLook(l, t), [lang, theme]);
            await page.setViewportSize({ width, height: 780 });
            await check(`matrix-${name}-${lang}-${theme}-${width}`);
            const wide = await page.evaluate(() => document.documentElement.scrollWidth > document.documentElement.clientWidth + 1);
            assert(!wide, `${name} at ${width} does not scroll sideways`);
          }
      await page.evaluate(([l, t]) => globalThis.setLook(l, t), ['en', 'light']);
      await page.setViewportSize({ width: 1280, height: 800 });
    },
    async test(name, f) {
      await f();
      passed += 1;
      console.log(`ok  ${name}`);
    },
    async failed(e) {
      await page.screenshot({ path: join(shots, 'failure.png') });
      problems.push(String(e.stack ?? e));
    },
    /** Says what came of it and ends. */
    async finish() {
      await browser.close();
      for (const p of problems) console.error(p);
      console.log(`${passed} passed, ${problems.length} failed`);
      process.exit(problems.length === 0 ? 0 : 1);
    },
  };
}
