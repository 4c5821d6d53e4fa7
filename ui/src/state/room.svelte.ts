// The room one is in, and who is inside those of conversations: applies what the host tells.
import { api } from '../ipc/api';
import type { InsideView } from '../ipc/bindings/InsideView';
import type { QualityView } from '../ipc/bindings/QualityView';
import type { RoomPersonView } from '../ipc/bindings/RoomPersonView';
import type { RoomView } from '../ipc/bindings/RoomView';

class RoomModel {
  room = $state.raw<RoomView | null>(null);
  quality = $state.raw<QualityView | null>(null);
  #inside = $state.raw<Record<string, RoomPersonView[]>>({});

  /** How pictures are laid out, and whether they are drawn (and sent here) at all. */
  layout = $state<'grid' | 'speaker'>('grid');
  hidden = $state(false);

  /** Somebody shows something. */
  get pictures(): boolean {
    const live = this.room?.phase === 'inside' || this.room?.phase === 'reconnecting';
    return live && (this.room?.camera || this.room?.screen || this.room?.people.some((p) => !p.own && (p.camera || p.screen)) || false);
  }

  get shown(): boolean {
    return this.pictures && !this.hidden;
  }

  /** One is in a room, or on the way into one. */
  get running(): boolean {
    return this.room !== null && this.room.phase !== 'over';
  }

  async start(): Promise<void> {
    this.room = await api.currentRoom();
  }

  apply(room: RoomView | null): void {
    this.room = room;
    if (!this.running) this.quality = null;
  }

  /** Figures that come after the end say nothing. */
  measure(quality: QualityView): void {
    if (this.running) this.quality = quality;
  }

  told(inside: InsideView): void {
    this.#inside = { ...this.#inside, [inside.conversation]: inside.people };
  }

  /** Who is inside a conversation's room. */
  inside(conversation: string): RoomPersonView[] {
    return this.#inside[conversation] ?? [];
  }

  /** Asks once when a conversation is opened; changes come by themselves. */
  async look(conversation: string): Promise<void> {
    try {
      this.told(await api.inside(conversation));
    } catch {
      // Offline: what was known last stays, and the connection's bar says why.
    }
  }
}

export const rooms = new RoomModel();
