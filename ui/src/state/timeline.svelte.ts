// The window on the open conversation: applies deltas by revision, asks anew when one is missing.
import { tick } from 'svelte';
import { api } from '../ipc/api';
import type { Row } from '../ipc/bindings/Row';
import type { TimelineUpdate } from '../ipc/bindings/TimelineUpdate';

class TimelineModel {
  conversation = $state<string | null>(null);
  rows = $state.raw<Row[]>([]);
  loaded = $state(false);
  hasBefore = $state(false);
  hasAfter = $state(false);
  firstUnread = $state<number | null>(null);
  /** True in the one update that puts rows before the first one. */
  prepending = $state(false);
  /** Row to be shown after opening. */
  target = $state<number | null>(null);
  #revision = 0;
  #paging = false;

  async open(conversation: string, around: number | null): Promise<void> {
    this.clear();
    this.conversation = conversation;
    const update = await api.openTimeline(conversation, around);
    if (this.conversation !== conversation) return;
    this.#take(update);
    this.target = around ?? (update.has_after ? update.first_unread : null);
    this.firstUnread = update.first_unread;
    this.loaded = true;
  }

  clear(): void {
    this.conversation = null;
    this.rows = [];
    this.loaded = false;
    this.target = null;
    this.firstUnread = null;
    this.#revision = 0;
  }

  apply(update: TimelineUpdate): void {
    if (update.conversation !== this.conversation || update.revision <= this.#revision) return;
    if (update.delta.type !== 'reset' && update.revision !== this.#revision + 1) {
      void this.open(update.conversation, null);
      return;
    }
    this.#take(update);
  }

  #take(update: TimelineUpdate): void {
    const { delta } = update;
    this.#revision = update.revision;
    this.hasBefore = update.has_before;
    this.hasAfter = update.has_after;
    if (delta.type === 'reset') this.rows = delta.rows;
    else if (delta.type === 'patch') this.rows = this.rows.with(delta.at, delta.row);
    else {
      const prepend = delta.at === 0 && delta.remove === 0 && delta.rows.length > 0 && this.rows.length > 0;
      this.prepending = prepend;
      this.rows = this.rows.toSpliced(delta.at, delta.remove, ...delta.rows);
      if (prepend) void tick().then(() => (this.prepending = false));
    }
  }

  async page(older: boolean): Promise<void> {
    if (this.#paging || !(older ? this.hasBefore : this.hasAfter)) return;
    this.#paging = true;
    try {
      await api.pageTimeline(older);
    } finally {
      this.#paging = false;
    }
  }
}

export const timeline = new TimelineModel();
