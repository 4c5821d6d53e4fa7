// State of the whole app: applies what the host tells, holds no rules.
import { tick } from 'svelte';
import { setLanguage } from '../i18n/index.svelte';
import { api } from '../ipc/api';
import type { AppEvent } from '../ipc/bindings/AppEvent';
import type { AppState } from '../ipc/bindings/AppState';
import type { ConversationView } from '../ipc/bindings/ConversationView';
import type { ListItem } from '../ipc/bindings/ListItem';
import { host } from '../ipc/host';
import { calls } from './call.svelte';
import { rooms } from './room.svelte';
import { timeline } from './timeline.svelte';

export type Panel = 'none' | 'card' | 'search';
export type Sheet = 'none' | 'new' | 'settings' | 'reset' | 'keys' | 'call' | 'room' | 'meetings' | 'screen';

class AppModel {
  state = $state<AppState | null>(null);
  list = $state.raw<ListItem[]>([]);
  listLoaded = $state(false);
  open = $state<ConversationView | null>(null);
  openId = $state<string | null>(null);
  panel = $state<Panel>('none');
  sheet = $state<Sheet>('none');
  /** Conversation and scope the reset sheet starts with. */
  resetFor = $state<string | null>(null);
  /** Conversation the search begins in; everywhere when there is none. */
  searchIn = $state<string | null>(null);
  replyTo = $state<{ tempId: string; sender: string; text: string } | null>(null);
  contactsRevision = $state(0);
  devicesRevision = $state(0);

  async start(): Promise<void> {
    await host.subscribe((e) => void this.#event(e));
    this.#apply(await api.state());
    window.addEventListener('online', () => void api.networkChanged().catch(() => undefined));
  }

  /** Once the connection is told by events, answers to commands (which may be older) say nothing about it. */
  #connectionTold = false;

  #apply(answer: AppState): void {
    const state = this.#connectionTold && this.state ? { ...answer, connection: this.state.connection } : answer;
    const entered = state.phase === 'ready' && this.state?.phase !== 'ready';
    this.state = state;
    const root = document.documentElement;
    const dark = matchMedia('(prefers-color-scheme: dark)').matches;
    const theme = state.settings.theme === 'system' ? (dark ? 'dark' : 'light') : state.settings.theme;
    root.dataset['theme'] = theme;
    root.style.setProperty('--text-scale', String(state.settings.text_percent / 100));
    root.style.setProperty('--row', state.settings.compact ? '48px' : '68px');
    setLanguage(state.settings.language);
    if (entered) {
      void this.refreshList();
      void calls.start();
      void rooms.start();
    }
  }

  /** Opens the search, in one conversation or everywhere. */
  search(conversation: string | null): void {
    this.searchIn = conversation;
    this.panel = 'search';
  }

  set(state: AppState): void {
    this.#apply(state);
  }

  /** What was told about single conversations while the whole list is asked for: the answer may be older. */
  #told: ListItem[] = [];
  #refreshing: Promise<void> | null = null;
  #once = false;

  /** Asks for the whole list; asked for while it is asked for, it is asked for once more after that. */
  async refreshList(): Promise<void> {
    if (this.#refreshing) {
      this.#once = true;
      return this.#refreshing;
    }
    this.#refreshing = this.#refresh();
    try {
      await this.#refreshing;
    } finally {
      this.#refreshing = null;
      this.#told = [];
    }
  }

  async #refresh(): Promise<void> {
    do {
      this.#once = false;
      this.#told = [];
      this.list = await api.conversations();
      for (const item of this.#told.splice(0)) this.#place(item);
    } while (this.#once);
    if (this.listLoaded) return;
    this.listLoaded = true;
    // For whoever measures a start (User Timing): the frame with the list has been drawn.
    await tick();
    requestAnimationFrame(() => setTimeout(() => performance.mark('list-painted')));
  }

  /** Puts a conversation where it belongs: newest activity first. */
  #place(item: ListItem): void {
    if (this.#refreshing) this.#told.push(item);
    const rest = this.list.filter((c) => c.id !== item.id);
    const at = rest.findIndex((c) => c.time < item.time || (c.time === item.time && c.id > item.id));
    this.list = at < 0 ? [...rest, item] : rest.toSpliced(at, 0, item);
  }

  async #refreshOpen(): Promise<void> {
    const id = this.openId;
    if (!id) return;
    const view = await api.conversation(id);
    if (this.openId === id) this.open = view;
  }

  async #event(e: AppEvent): Promise<void> {
    if (e.type === 'state') this.#apply(e.state);
    else if (e.type === 'connection' && this.state) {
      this.#connectionTold = true;
      this.state = { ...this.state, connection: e.connection };
    } else if (e.type === 'item') this.#place(e.item);
    else if (e.type === 'list') await this.refreshList();
    else if (e.type === 'conversation' && e.conversation === this.openId) await this.#refreshOpen();
    else if (e.type === 'moved' && e.from === this.openId) await this.select(e.to);
    else if (e.type === 'timeline') timeline.apply(e.update);
    else if (e.type === 'contacts') {
      this.contactsRevision += 1;
      await this.#refreshOpen();
    } else if (e.type === 'devices') this.devicesRevision += 1;
    else if (e.type === 'call') calls.apply(e.call);
    else if (e.type === 'room') rooms.apply(e.room);
    else if (e.type === 'inside') rooms.told(e.inside);
    else if (e.type === 'quality') {
      calls.measure(e.quality);
      rooms.measure(e.quality);
    }
  }

  async select(id: string, around: number | null = null): Promise<void> {
    this.openId = id;
    this.replyTo = null;
    if (this.panel === 'card') this.panel = 'none';
    const [view, show] = await Promise.all([api.conversation(id), timeline.prepare(id, around)]);
    // Rows and header change together or not at all: of several openings only the last one shows.
    if (this.openId !== id || !show()) return;
    this.open = view;
  }

  async close(): Promise<void> {
    this.openId = null;
    this.open = null;
    this.panel = 'none';
    timeline.clear();
    await api.closeTimeline();
  }

  async neighbour(step: number, unreadOnly: boolean): Promise<void> {
    const items = unreadOnly ? this.list.filter((c) => c.unread > 0 || c.id === this.openId) : this.list;
    const at = items.findIndex((c) => c.id === this.openId);
    const next = items[at < 0 ? 0 : at + step];
    if (next) await this.select(next.id);
  }
}

export const app = new AppModel();
