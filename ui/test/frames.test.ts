import { describe, expect, it } from 'vitest';
import { colours, parse } from '../src/state/frames';

/** A decoded picture of one colour. */
const plain = (width: number, height: number, [y, u, v]: [number, number, number]) =>
  new Uint8Array([width & 255, width >> 8, height & 255, height >> 8, ...Array(width * height).fill(y), ...Array((width * height) / 4).fill(u), ...Array((width * height) / 4).fill(v)]);

describe('decoded pictures', () => {
  it('have the colours of BT.601', () => {
    for (const [yuv, rgb] of [
      [[16, 128, 128], [0, 0, 0]],
      [[235, 128, 128], [255, 255, 255]],
      [[81, 90, 240], [255, 0, 0]],
      [[145, 54, 34], [0, 255, 0]],
      [[41, 240, 110], [0, 0, 255]],
    ] as [[number, number, number], number[]][]) {
      const seen = colours(plain(4, 2, yuv));
      expect([seen?.width, seen?.height, seen?.points.length]).toEqual([4, 2, 32]);
      const last = [...seen!.points.slice(28)];
      for (const [i, want] of [...rgb, 255].entries()) expect(Math.abs(last[i]! - want)).toBeLessThan(3);
    }
  });

  it('that are cut short, odd or empty are none', () => {
    expect(colours(plain(4, 2, [1, 2, 3]).subarray(0, 14))).toBeUndefined();
    expect(colours(new Uint8Array([3, 0, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1]))).toBeUndefined();
    expect(colours(new Uint8Array())).toBeUndefined();
    expect(colours(new Uint8Array(4))).toBeUndefined();
  });

  it('are told from frames', () => {
    const frame = parse(new Uint8Array([6, 2, 109, 105, 0, 0, 0, 0, 9]).buffer);
    expect(frame).toMatchObject({ identity: 'mi', screen: true, key: false, decoded: true });
  });
});
