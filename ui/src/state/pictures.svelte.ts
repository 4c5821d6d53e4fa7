// The pictures of a room or a call: encoded frames from the app, decoded by WebCodecs and drawn; where the web view has no decoder for
// them, the app decodes. Tells the app which are drawn, and how large.
import { api } from '../ipc/api';
import { host } from '../ipc/host';
import { VP8, VP9, decodes } from './decoder';
import { colours, parse, type Frame, type Source } from './frames';

/** Frames a decoder may have before it: more, and the picture is late. */
const BEHIND = 12;
/** A key frame is asked for this often at most. */
const ASK_MS = 1_000;
/** What is drawn is said again this often: the app stops sending fifteen seconds after the last time. */
const AGAIN_MS = 5_000;
/** Sizes that change within this are told of together. */
const TELL_MS = 150;

const name = (s: Source) => `${s.screen ? 'screen' : 'camera'} ${s.identity}`;

/** One picture that is drawn. */
class Drawn {
  #decoder?: VideoDecoder;
  #vp9 = false;
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
    if (frame.decoded) return this.#paint(frame.data);
    if (this.#decoder && this.#decoder.decodeQueueSize > BEHIND) this.close();
    if (this.#vp9 !== frame.vp9) this.close();
    if (!this.#decoder) {
      if (!frame.key) return this.#lost();
      this.#vp9 = frame.vp9;
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
    decoder.configure(this.#vp9 ? VP9 : VP8);
    return decoder;
  }

  /** In no more points than are seen: what is shown small costs little. */
  #draw(picture: VideoFrame): void {
    const by = Math.min(1, Math.max(this.place.width / picture.displayWidth, this.place.height / picture.displayHeight));
    const width = Math.max(1, Math.round(picture.displayWidth * by));
    const height = Math.max(1, Math.round(picture.displayHeight * by));
    this.#size(width, height)?.drawImage(picture, 0, 0, width, height);
    this.shown(true);
  }

  /** Decoded by the app, in no more points than are seen. */
  #paint(data: Uint8Array): void {
    const picture = colours(data);
    if (!picture) return;
    const { width, height, points } = picture;
    this.#size(width, height)?.putImageData(new ImageData(points, width, height), 0, 0);
    this.shown(true);
  }

  #size(width: number, height: number): CanvasRenderingContext2D | null {
    if (this.canvas.width !== width || this.canvas.height !== height) Object.assign(this.canvas, { width, height });
    return this.canvas.getContext('2d');
  }
}

class Pictures {
  /** This web view decodes; until that is known, nothing is asked for. */
  #able?: boolean;
  /** VP9 is looked at when some comes. */
  #vp9?: Promise<void>;
  #drawn = new Map<string, Drawn>();
  #listening = false;
  #timer?: ReturnType<typeof setTimeout>;

  /** Draws a picture while the canvas is there: a Svelte action. */
  draw = (canvas: HTMLCanvasElement, { source, shown }: { source: Source; shown: (shown: boolean) => void }) => {
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
      if (!frame) return;
      if (frame.vp9) this.#vp9 ??= decodes('vp9').then((able) => this.#found(able));
      this.#drawn.get(name(frame))?.take(frame);
      // The next one comes when this one is drawn, or a second later.
      if (frame.decoded) api.pictureDrawn().catch(() => undefined);
    });
    void decodes('vp8').then((able) => this.#found(able));
  }

  /** A codec is decoded here, or is not: then the app decodes. */
  #found(able: boolean): void {
    this.#able = able && this.#able !== false;
    this.#tell();
  }

  #tell(): void {
    clearTimeout(this.#timer);
    if (this.#able === undefined) return;
    this.#timer = setTimeout(() => {
      const pictures = [...this.#drawn.values()].map((d) => ({ ...d.source, ...d.place }));
      // Locked meanwhile: there is nothing to draw.
      api.showPictures(pictures, this.#able === false).catch(() => undefined);
    }, TELL_MS);
  }
}

export const pictures = new Pictures();
