import { describe, expect, it, vi } from 'vitest';
import type { Row } from '../src/ipc/bindings/Row';

const openTimeline = vi.fn();
vi.mock('../src/ipc/api', () => ({ api: { openTimeline: (...a: unknown[]) => openTimeline(...a), pageTimeline: vi.fn() } }));
const { timeline } = await import('../src/state/timeline.svelte');

const row = (id: number): Row => ({ id, conversation: 'c', seq: id, temp_id: `t${id}`, kind: 'text', own: false, sender_id: 'u', sender: 'lan', text: `m${id}`, reply: null, time: id, status: 'received', cause: '', system: null });
const update = (revision: number, delta: object) => ({ conversation: 'c', revision, delta, has_before: false, has_after: false, first_unread: null }) as never;

describe('the window', () => {
  it('applies deltas in order and asks anew when one is missing', async () => {
    openTimeline.mockResolvedValue(update(10, { type: 'reset', rows: [row(1), row(2)] }));
    (await timeline.prepare('c', null))();
    timeline.apply(update(11, { type: 'splice', at: 2, remove: 0, rows: [row(3)] }));
    timeline.apply(update(12, { type: 'patch', at: 0, row: { ...row(1), text: 'changed' } }));
    expect(timeline.rows.map((r) => r.text)).toEqual(['changed', 'm2', 'm3']);
    timeline.apply(update(12, { type: 'splice', at: 0, remove: 3, rows: [] }));
    expect(timeline.rows.length).toBe(3);
    timeline.apply(update(14, { type: 'splice', at: 0, remove: 3, rows: [] }));
    expect(openTimeline).toHaveBeenCalledTimes(2);
  });

  it('shows nothing of a conversation before all of it is there, and loses nothing that was told meanwhile', async () => {
    openTimeline.mockResolvedValue(update(1010, { type: 'reset', rows: [row(1)] }));
    const shown = timeline.rows;
    const opening = timeline.prepare('c', 1);
    // Of the window before, and of the one that is being opened.
    timeline.apply(update(1009, { type: 'splice', at: 0, remove: 3, rows: [] }));
    timeline.apply(update(1011, { type: 'splice', at: 1, remove: 0, rows: [row(2)] }));
    const show = await opening;
    expect(timeline.rows).toBe(shown);
    show();
    expect(timeline.rows.map((r) => r.id)).toEqual([1, 2]);
    expect(timeline.target).toBe(1);
  });

  it('of two conversations asked for, only the later one is shown', async () => {
    openTimeline.mockResolvedValue(update(2010, { type: 'reset', rows: [row(7)] }));
    const first = await timeline.prepare('d', null);
    const second = await timeline.prepare('c', null);
    second();
    first();
    expect(timeline.conversation).toBe('c');
  });

  it('asked for twice, the later window is the one that goes on', async () => {
    openTimeline.mockResolvedValueOnce(update(3000, { type: 'reset', rows: [] })).mockResolvedValueOnce(update(4000, { type: 'reset', rows: [] }));
    const [first, second] = [timeline.prepare('c', null), timeline.prepare('c', null)];
    timeline.apply(update(4001, { type: 'splice', at: 0, remove: 0, rows: [row(9)] }));
    (await first)();
    (await second)();
    expect(timeline.rows.map((r) => r.id)).toEqual([9]);
    timeline.apply(update(4002, { type: 'splice', at: 1, remove: 0, rows: [row(10)] }));
    expect(timeline.rows.map((r) => r.id)).toEqual([9, 10]);
  });
});
