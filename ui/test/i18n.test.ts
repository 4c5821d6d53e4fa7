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

  it('are all used', () => {
    const files = ['src/components', 'src/i18n', 'src/state'].flatMap((d) => readdirSync(d).map((f) => join(d, f))).filter((f) => !f.endsWith('.ftl'));
    const source = [...files, 'src/App.svelte'].map((f) => readFileSync(f, 'utf8')).join('\n');
    const begun = [...source.matchAll(/`([a-z][\w-]*-)\$\{/g)].map((m) => m[1] ?? '');
    expect(keys(read('en')).filter((k) => k && !source.includes(`'${k}'`) && !begun.some((b) => k.startsWith(b)))).toEqual([]);
  });

  it('says every system line and every reason in words', async () => {
    const { systemText } = await import('../src/components/system');
    const { setLanguage } = await import('../src/i18n/index.svelte');
    const source = readFileSync('../crates/app/src/view.rs', 'utf8');
    const events = [...(source.match(/A system line\.[\s\S]*?pub event/)?.[0].matchAll(/`([a-z_]+)`/g) ?? [])].map((m) => m[1] ?? '');
    expect(events).toContain('not_added');
    const reasons = keys(read('en')).filter((k) => k?.startsWith('reason-')).map((k) => k?.replace('reason-', '') ?? '');
    const outcomes = [...(source.match(/of a call: ([^\n]+)/)?.[1]?.matchAll(/`([a-z_]+)`/g) ?? [])].map((m) => m[1] ?? '');
    expect(outcomes).toContain('missed');
    for (const language of ['en', 'vi'] as const) {
      setLanguage(language);
      for (const event of events)
        for (const by_own of [true, false])
          for (const who_own of [true, false])
            for (const text of event === 'refused' ? reasons : event === 'call' ? outcomes : ['Tên mới']) {
              const said = systemText({ event, who: 'Lan', by: 'Minh', by_own, who_own, text, count: 3, video: by_own });
              expect(said, `${language} ${event}`).not.toMatch(/sys-|reason-|[{}]/);
              if (event === 'refused') expect(said, text).not.toContain(text);
            }
    }
  });

  it('says every phase of a call and every cause of its end in words', () => {
    const source = readFileSync('../crates/app/src/view/call.rs', 'utf8');
    const words = (doc: RegExp) => [...(source.match(doc)?.[0].matchAll(/`([a-z_]+)`/g) ?? [])].map((m) => m[1] ?? '');
    const known = new Set(keys(read('en')));
    const phases = words(/`calling`[\s\S]*?pub phase/);
    const causes = words(/Why it ended:[\s\S]*?pub cause/);
    expect([phases.length, causes.length]).toEqual([6, 12]);
    for (const phase of phases) if (phase !== 'ended') expect(known.has(`call-${phase}`), phase).toBe(true);
    for (const cause of causes) expect(known.has(`call-ended-${cause}`), cause).toBe(true);
  });

  it('has no colour and no size outside the tokens', () => {
    const dir = 'src/components';
    for (const file of readdirSync(dir)) {
      const style = readFileSync(join(dir, file), 'utf8').split('<style>')[1] ?? '';
      expect(style.match(/#[0-9a-f]{3,8}\b/gi), file).toBeNull();
    }
  });
});
