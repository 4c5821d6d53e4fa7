// Words of a system line.
import { duration, has, t } from '../i18n/index.svelte';
import type { SystemLine } from '../ipc/bindings/SystemLine';

/** A call of somebody else that was not taken. */
export function isMissed(line: SystemLine): boolean {
  return line.event === 'call' && !line.by_own && line.text === 'missed';
}

function callText(line: SystemLine): string {
  const own = line.by_own ? '-own' : '';
  const key = has(`sys-call-${line.text}${own}`) ? `sys-call-${line.text}${own}` : `sys-call-${line.text}`;
  return t(key, { by: line.by, duration: duration(line.count), kind: line.video ? 'video' : 'voice' });
}

export function systemText(line: SystemLine): string {
  if (line.event === 'call') return callText(line);
  // A refusal says why in words; a code nobody has put into words yet is shown as it is.
  const why = `reason-${line.text}`;
  const text = line.event === 'refused' && has(why) ? t(why) : line.text;
  const args = { who: line.who, by: line.by, text, count: line.count };
  const base = `sys-${line.event}`;
  const variants = [line.by_own ? `${base}-by-own` : '', line.who_own || (line.by_own && !line.who) ? `${base}-own` : '', base];
  return t(variants.find((v) => v !== '' && has(v)) ?? base, args);
}
