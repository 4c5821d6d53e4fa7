// A real browser on the bridge: pictures, axe, and a list of everything that went wrong.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { chromium } from 'playwright-core';
import { shots } from './kit.mjs';

const axe = readFileSync(join(import.meta.dirname, '../node_modules/axe-core/axe.min.js'), 'utf8');

export async function openBrowser() {
  let passed = 0;
  const problems = [];
  const browser = await chromium.launch({ executablePath: '/usr/bin/chromium', args: ['--no-sandbox', '--disable-gpu', '--disable-background-networking'] });
  const page = await browser.newPage({ viewport: { width: 1280, height: 800 }, locale: 'en-US' });
  page.on('pageerror', (e) => problems.push(`page error: ${e.message}`));
  page.on('console', (m) => m.type() === 'error' && problems.push(`console: ${m.text()}`));
  return {
    page,
    id: (name) => page.getByTestId(name),
    /** Takes a picture and runs axe. */
    async check(name) {
      await page.waitForTimeout(200);
      await page.screenshot({ path: join(shots, `${name}.png`) });
      await page.evaluate(axe);
      const result = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ['violations'] }));
      const serious = result.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical');
      for (const v of serious) problems.push(`axe on ${name}: ${v.id}: ${v.nodes.map((n) => n.html.slice(0, 160)).join(' | ')}`);
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
