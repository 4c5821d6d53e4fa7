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
  /** Counts what was opened: a jump inside the open conversation is an opening too. */
  opened = $state(0);
  #revision = 0;
  #paging = false;

  /** The conversation that is being opened, and what was told about it before it was there. */
  #opening: string | null = null;
  /** Counts what was asked for: only what was asked last is shown, it is the window the host has. */
  #turn = 0;
  #early: TimelineUpdate[] = [];

  /** Reads a conversation. What it answers shows it and says so; not when another was asked for since. */
  async prepare(conversation: string, around: number | null): Promise<() => boolean> {
    this.#opening = conversation;
    const turn = ++this.#turn;
    this.#early = [];
    const update = await api.openTimeline(conversation, around);
    return () => {
      if (turn !== this.#turn) return false;
      this.#opening = null;
      this.conversation = conversation;
      this.#take(update);
      this.target = around ?? (update.has_after ? update.first_unread : null);
      this.firstUnread = update.first_unread;
      this.loaded = true;
      this.opened += 1;
      for (const early of this.#early) this.apply(early);
      return true;
    };
  }

  async #again(): Promise<void> {
    // Another one is on its way: that is what will be shown.
    if (this.#opening !== null) return;
    if (this.conversation) (await this.prepare(this.conversation, null))();
  }

  clear(): void {
    this.#opening = null;
    this.#turn += 1;
    this.conversation = null;
    this.rows = [];
    this.loaded = false;
    this.target = null;
    this.firstUnread = null;
    this.#revision = 0;
  }

  apply(update: TimelineUpdate): void {
    const follows = update.revision === this.#revision + 1;
    if (update.conversation === this.#opening) {
      this.#early.push(update);
      if (!follows) return;
    }
    if (update.conversation !== this.conversation || update.revision <= this.#revision) return;
    if (update.delta.type !== 'reset' && !follows) {
      void this.#again();
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
