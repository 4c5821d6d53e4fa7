// The pictures of a room: encoded frames from the app, decoded by WebCodecs and drawn. Tells the app which are drawn, and how large.
import { api } from '../ipc/api';
import { host } from '../ipc/host';

const KEY = 1;
const SCREEN = 2;
/** Frames a decoder may have before it: more, and the picture is late. */
const BEHIND = 12;
/** A key frame is asked for this often at most. */
const ASK_MS = 1_000;
/** What is drawn is said again this often: the app stops sending fifteen seconds after the last time. */
const AGAIN_MS = 5_000;
/** Sizes that change within this are told of together. */
const TELL_MS = 150;

export type Source = { identity: string; screen: boolean };
export type Frame = Source & { key: boolean; timestamp: number; data: Uint8Array };

const name = (s: Source) => `${s.screen ? 'screen' : 'camera'} ${s.identity}`;

/** Takes a message of the app apart; nothing when it is none. */
export function parse(message: ArrayBuffer): Frame | undefined {
  const bytes = new Uint8Array(message);
  const [flags, length] = bytes;
  if (flags === undefined || length === undefined || bytes.length <= 6 + length) return undefined;
  const identity = new TextDecoder().decode(bytes.subarray(2, 2 + length));
  const timestamp = new DataView(message).getUint32(2 + length, true);
  return { identity, screen: (flags & SCREEN) !== 0, key: (flags & KEY) !== 0, timestamp, data: bytes.subarray(6 + length) };
}

/** One picture that is drawn. */
class Drawn {
  #decoder?: VideoDecoder;
  #last = 0;
  #clock = 0;
  #asked = -ASK_MS;
  /** Points of the screen that it may take. */
  place = { width: 1, height: 1 };

  constructor(
    readonly source: Source,
    readonly canvas: HTMLCanvasElement,
    readonly shown: (shown: boolean) => void,
  ) {}

  take(frame: Frame): void {
    if (this.#decoder && this.#decoder.decodeQueueSize > BEHIND) this.close();
    if (!this.#decoder) {
      if (!frame.key) return this.#lost();
      this.#decoder = this.#begin();
    }
    // Counted on over the rollover of 32 bits; a decoder wants microseconds.
    this.#clock += (frame.timestamp - this.#last) | 0;
    this.#last = frame.timestamp;
    const type = frame.key ? 'key' : 'delta';
    this.#decoder.decode(new EncodedVideoChunk({ type, timestamp: Math.round((this.#clock * 100) / 9), data: frame.data }));
  }

  #lost(): void {
    if (performance.now() - this.#asked < ASK_MS) return;
    this.#asked = performance.now();
    api.picturesLost(this.source.identity, this.source.screen).catch(() => undefined);
  }

  close(): void {
    if (this.#decoder && this.#decoder.state !== 'closed') this.#decoder.close();
    this.#decoder = undefined;
  }

  #begin(): VideoDecoder {
    const decoder = new VideoDecoder({
      output: (picture) => {
        this.#draw(picture);
        picture.close();
      },
      // It begins anew with a key frame.
      error: () => {
        if (this.#decoder === decoder) this.#decoder = undefined;
      },
    });
    decoder.configure({ codec: 'vp8', optimizeForLatency: true });
    return decoder;
  }

  /** In no more points than are seen: what is shown small costs little. */
  #draw(picture: VideoFrame): void {
    const by = Math.min(1, Math.max(this.place.width / picture.displayWidth, this.place.height / picture.displayHeight));
    const width = Math.max(1, Math.round(picture.displayWidth * by));
    const height = Math.max(1, Math.round(picture.displayHeight * by));
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    this.canvas.getContext('2d')?.drawImage(picture, 0, 0, width, height);
    this.shown(true);
  }
}

class Pictures {
  /** This web view can decode. */
  readonly able = 'VideoDecoder' in globalThis;
  #drawn = new Map<string, Drawn>();
  #listening = false;
  #timer?: ReturnType<typeof setTimeout>;

  /** Draws a picture while the canvas is there: a Svelte action. */
  draw = (canvas: HTMLCanvasElement, { source, shown }: { source: Source; shown: (shown: boolean) => void }) => {
    if (!this.able) return {};
    this.#listen();
    const drawn = new Drawn(source, canvas, shown);
    const key = name(source);
    this.#drawn.get(key)?.close();
    this.#drawn.set(key, drawn);
    const place = canvas.parentElement ?? canvas;
    const measure = () => {
      const ratio = globalThis.devicePixelRatio || 1;
      drawn.place = { width: Math.max(1, Math.round(place.clientWidth * ratio)), height: Math.max(1, Math.round(place.clientHeight * ratio)) };
      this.#tell();
    };
    const watch = new ResizeObserver(measure);
    watch.observe(place);
    measure();
    return {
      destroy: () => {
        watch.disconnect();
        drawn.close();
        if (this.#drawn.get(key) !== drawn) return;
        this.#drawn.delete(key);
        this.#tell();
      },
    };
  };

  #listen(): void {
    if (this.#listening) return;
    this.#listening = true;
    setInterval(() => this.#drawn.size > 0 && this.#tell(), AGAIN_MS);
    void host.pictures((message) => {
      const frame = parse(message);
      if (frame) this.#drawn.get(name(frame))?.take(frame);
    });
  }

  #tell(): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const pictures = [...this.#drawn.values()].map((d) => ({ ...d.source, ...d.place }));
      // Locked meanwhile: there is nothing to draw.
      api.showPictures(pictures).catch(() => undefined);
    }, TELL_MS);
  }
}

export const pictures = new Pictures();
