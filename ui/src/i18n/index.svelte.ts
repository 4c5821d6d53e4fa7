// Texts. Fluent files, Vietnamese and English; a test holds that both have the same keys and parse.
import { FluentBundle, FluentResource, type FluentVariable } from '@fluent/bundle';
import enFtl from './en.ftl?raw';
import viFtl from './vi.ftl?raw';

export type Locale = 'vi' | 'en';
export type Args = Record<string, FluentVariable>;

function make(locale: Locale, source: string): FluentBundle {
  const bundle = new FluentBundle(locale, { useIsolating: false });
  bundle.addResource(new FluentResource(source));
  return bundle;
}

const bundles: Record<Locale, FluentBundle> = { vi: make('vi', viFtl), en: make('en', enFtl) };

export const i18n = $state<{ locale: Locale }>({ locale: 'en' });

export function setLanguage(language: 'system' | 'vi' | 'en'): void {
  const system: Locale = navigator.language.toLowerCase().startsWith('vi') ? 'vi' : 'en';
  i18n.locale = language === 'system' ? system : language;
  document.documentElement.lang = i18n.locale;
}

export function has(key: string): boolean {
  return bundles[i18n.locale].hasMessage(key);
}

export function t(key: string, args?: Args): string {
  const bundle = bundles[i18n.locale];
  const pattern = bundle.getMessage(key)?.value;
  if (!pattern) return key;
  const errors: Error[] = [];
  return bundle.formatPattern(pattern, args, errors);
}

/** A sentence for an error code. */
export function errorText(code: string): string {
  return has(`error-${code}`) ? t(`error-${code}`) : t('error-other', { code });
}

const DAY = 86_400_000;

function startOfDay(ms: number): number {
  const d = new Date(ms);
  d.setHours(0, 0, 0, 0);
  return d.getTime();
}

// Making a formatter takes longer than drawing a row: each is made once.
const styles = {
  clock: { hour: '2-digit', minute: '2-digit' },
  weekday: { weekday: 'long' },
  shortWeekday: { weekday: 'short' },
  date: { day: 'numeric', month: 'long', year: 'numeric' },
  shortDate: { day: '2-digit', month: '2-digit', year: '2-digit' },
} as const satisfies Record<string, Intl.DateTimeFormatOptions>;
const formatters = new Map<string, Intl.DateTimeFormat>();

function format(style: keyof typeof styles, ms: number): string {
  const key = `${i18n.locale} ${style}`;
  let formatter = formatters.get(key);
  if (!formatter) formatters.set(key, (formatter = new Intl.DateTimeFormat(i18n.locale, styles[style])));
  return formatter.format(ms);
}

export function clock(ms: number): string {
  return format('clock', ms);
}

export function sameDay(a: number, b: number): boolean {
  return startOfDay(a) === startOfDay(b);
}

/** Today, yesterday, a weekday, a date. */
export function day(ms: number, now = Date.now()): string {
  const days = Math.round((startOfDay(now) - startOfDay(ms)) / DAY);
  if (days === 0) return t('today');
  if (days === 1) return t('yesterday');
  if (days > 1 && days < 7) return format('weekday', ms);
  return format('date', ms);
}

/** For lists: the clock today, else short. */
export function shortTime(ms: number, now = Date.now()): string {
  const days = Math.round((startOfDay(now) - startOfDay(ms)) / DAY);
  if (days === 0) return clock(ms);
  if (days < 7) return days === 1 ? t('yesterday') : format('shortWeekday', ms);
  return format('shortDate', ms);
}

/** 3:07, 1:02:45. */
export function duration(seconds: number): string {
  const two = (n: number) => String(n).padStart(2, '0');
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  return h > 0 ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}
