// Pictures as the app packs them: whose, and an encoded frame or a decoded picture.

const KEY = 1;
const SCREEN = 2;
const DECODED = 4;
const VP9 = 8;

export type Source = { identity: string; screen: boolean };
export type Frame = Source & { key: boolean; decoded: boolean; vp9: boolean; timestamp: number; data: Uint8Array };

/** Takes a message of the app apart; nothing when it is none. */
export function parse(message: ArrayBuffer): Frame | undefined {
  const bytes = new Uint8Array(message);
  const [flags, length] = bytes;
  if (flags === undefined || length === undefined || bytes.length <= 6 + length) return undefined;
  const identity = new TextDecoder().decode(bytes.subarray(2, 2 + length));
  const timestamp = new DataView(message).getUint32(2 + length, true);
  return { identity, screen: (flags & SCREEN) !== 0, key: (flags & KEY) !== 0, decoded: (flags & DECODED) !== 0, vp9: (flags & VP9) !== 0, timestamp, data: bytes.subarray(6 + length) };
}

/** A decoded picture (width, height, then Y, U and V) in the colours of a canvas: BT.601, as VP8 has them. Nothing when it is cut short. */
export function colours(data: Uint8Array): { width: number; height: number; points: Uint8ClampedArray<ArrayBuffer> } | undefined {
  const [w0 = 0, w1 = 0, h0 = 0, h1 = 0] = data;
  const [width, height] = [w0 | (w1 << 8), h0 | (h1 << 8)];
  const [y, u] = [4, 4 + width * height];
  const v = u + (width * height) / 4;
  if (width % 2 !== 0 || height % 2 !== 0 || width === 0 || data.length !== v + (width * height) / 4) return undefined;
  const points = new Uint8ClampedArray(width * height * 4);
  for (let line = 0, to = 0; line < height; line++) {
    const half = (line >> 1) * (width >> 1);
    for (let x = 0; x < width; x++, to += 4) {
      const light = 298 * (data[y + line * width + x]! - 16) + 128;
      const blue = data[u + half + (x >> 1)]! - 128;
      const red = data[v + half + (x >> 1)]! - 128;
      points[to] = (light + 409 * red) >> 8;
      points[to + 1] = (light - 100 * blue - 208 * red) >> 8;
      points[to + 2] = (light + 516 * blue) >> 8;
      points[to + 3] = 255;
    }
  }
  return { width, height, points };
}
