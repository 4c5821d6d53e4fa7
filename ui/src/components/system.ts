// Words of a system line.
import { has, t } from '../i18n/index.svelte';
import type { SystemLine } from '../ipc/bindings/SystemLine';

export function systemText(line: SystemLine): string {
  // A refusal says why in words; a code nobody has put into words yet is shown as it is.
  const why = `reason-${line.text}`;
  const text = line.event === 'refused' && has(why) ? t(why) : line.text;
  const args = { who: line.who, by: line.by, text, count: line.count };
  const base = `sys-${line.event}`;
  const variants = [line.by_own ? `${base}-by-own` : '', line.who_own || (line.by_own && !line.who) ? `${base}-own` : '', base];
  return t(variants.find((v) => v !== '' && has(v)) ?? base, args);
}
