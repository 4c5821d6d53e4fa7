// The only folder that knows a host: the desktop shell (Tauri) or the development bridge (a WebSocket).
import { Channel, invoke, isTauri } from '@tauri-apps/api/core';
import type { AppError } from './bindings/AppError';
import type { AppEvent } from './bindings/AppEvent';
import type { Command } from './bindings/Command';

export interface Host {
  call(command: Command): Promise<unknown>;
  subscribe(onEvent: (event: AppEvent) => void): Promise<void>;
  /** Frames of the pictures that are asked for, as the app packs them. */
  pictures(onFrame: (frame: ArrayBuffer) => void): Promise<void>;
}

class TauriHost implements Host {
  call(command: Command): Promise<unknown> {
    return invoke('call', { command });
  }

  async subscribe(onEvent: (event: AppEvent) => void): Promise<void> {
    await invoke('subscribe', { events: new Channel<AppEvent>(onEvent) });
  }

  async pictures(onFrame: (frame: ArrayBuffer) => void): Promise<void> {
    await invoke('pictures', { frames: new Channel<ArrayBuffer>(onFrame) });
  }
}

type Waiting = { resolve: (value: unknown) => void; reject: (error: AppError) => void };
type BridgeMessage = { id: number; ok?: unknown; error?: AppError } | { event: AppEvent };

class BridgeHost implements Host {
  #socket: Promise<WebSocket>;
  #waiting = new Map<number, Waiting>();
  #next = 1;
  #onEvent: (event: AppEvent) => void = () => {};
  #onFrame: (frame: ArrayBuffer) => void = () => {};

  constructor(token: string) {
    this.#socket = new Promise((resolve, reject) => {
      const socket = new WebSocket(`ws://${location.host}/ws`, ['secureconnect.bridge', token]);
      socket.binaryType = 'arraybuffer';
      socket.onopen = () => resolve(socket);
      socket.onerror = () => reject({ code: 'OFFLINE', message: 'The bridge does not answer.' });
      socket.onmessage = (m) => {
        if (m.data instanceof ArrayBuffer) this.#onFrame(m.data);
        else this.#receive(JSON.parse(m.data as string) as BridgeMessage);
      };
    });
  }

  #receive(message: BridgeMessage): void {
    if ('event' in message) return this.#onEvent(message.event);
    const waiting = this.#waiting.get(message.id);
    this.#waiting.delete(message.id);
    if (message.error) waiting?.reject(message.error);
    else waiting?.resolve(message.ok);
  }

  async call(command: Command): Promise<unknown> {
    const socket = await this.#socket;
    const id = this.#next++;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      socket.send(JSON.stringify({ id, command }));
    });
  }

  async subscribe(onEvent: (event: AppEvent) => void): Promise<void> {
    this.#onEvent = onEvent;
    await this.#socket;
  }

  async pictures(onFrame: (frame: ArrayBuffer) => void): Promise<void> {
    this.#onFrame = onFrame;
    await this.#socket;
  }
}

/** The host of this page. */
export const host: Host = isTauri() ? new TauriHost() : new BridgeHost(location.hash.slice(1));
