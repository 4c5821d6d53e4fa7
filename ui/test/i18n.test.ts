import { FluentBundle, FluentResource } from '@fluent/bundle';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';

const read = (name: string) => readFileSync(join('src/i18n', `${name}.ftl`), 'utf8');
const keys = (source: string) => [...source.matchAll(/^([a-zA-Z][\w-]*) =/gm)].map((m) => m[1]).sort();

describe('texts', () => {
  it('are the same in both languages, and all of them parse', () => {
    const [en, vi] = [read('en'), read('vi')];
    expect(keys(vi)).toEqual(keys(en));
    for (const [locale, source] of [['en', en], ['vi', vi]] as const) {
      const bundle = new FluentBundle(locale, { useIsolating: false });
      expect(bundle.addResource(new FluentResource(source))).toEqual([]);
      for (const key of keys(source)) expect(bundle.getMessage(key ?? '')?.value, `${locale}: ${key}`).toBeTruthy();
    }
  });

  it('that the components name are there', () => {
    const known = new Set(keys(read('en')));
    const dir = 'src/components';
    for (const file of readdirSync(dir)) {
      const source = readFileSync(join(dir, file), 'utf8');
      for (const m of source.matchAll(/\bt\('([\w-]+)'/g)) expect(known.has(m[1] ?? ''), `${file}: ${m[1]}`).toBe(true);
    }
  });

  it('has no colour and no size outside the tokens', () => {
    const dir = 'src/components';
    for (const file of readdirSync(dir)) {
      const style = readFileSync(join(dir, file), 'utf8').split('<style>')[1] ?? '';
      expect(style.match(/#[0-9a-f]{3,8}\b/gi), file).toBeNull();
    }
  });
});
