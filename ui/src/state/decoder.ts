// Whether this web view decodes what comes. The interface may be there without the codec, and say nothing of it (WebKit without GStreamer's
// plugins), so a frame of ours is decoded. What others send decides nothing: nobody can choose for us who decodes it.

export const VP8: VideoDecoderConfig = { codec: 'vp8', optimizeForLatency: true };
/** Profile 0, of a size that is drawn, 8 bits: calls of two, where both sides were built with it. */
export const VP9: VideoDecoderConfig = { codec: 'vp09.00.31.08', optimizeForLatency: true };
/** A grey picture of 320 × 180, as the app's encoder makes it. */
const GREY = {
  vp8: 'UA8AnQEqQAG0ADknAA4cJAwsLETMJECYAAAwzbfIZKy5JC8vS7pDJWXJIXl6XdIZKy5JC8vS7pDJWXJIXl6XdIZKy5JC8vS7pDJWXJIXl6XdIZKy5JC8vS7pDJWXJIXl6XdIZKy5JC8vS7pDJWXJIXl6XdIZKy5JC8vS7pDJWXJIXlzAAA==',
  vp9: 'gkmDQgAT8As2DjgkHBicAABQQ+i/QABwB7IiqjKcA4KXVn8FH3HWInPPrEEA',
};
/** A decoder that takes longer than this for one frame is none. */
const PATIENCE_MS = 3_000;

export async function decodes(codec: 'vp8' | 'vp9'): Promise<boolean> {
  if (!('VideoDecoder' in globalThis)) return false;
  const data = Uint8Array.from(atob(GREY[codec]), (c) => c.charCodeAt(0));
  let decoder: VideoDecoder | undefined;
  const seen = new Promise<boolean>((answer) => {
    setTimeout(() => answer(false), PATIENCE_MS);
    try {
      decoder = new VideoDecoder({
        output: (picture) => {
          answer(picture.displayWidth === 320 && picture.displayHeight === 180);
          picture.close();
        },
        error: () => answer(false),
      });
      decoder.configure(codec === 'vp8' ? VP8 : VP9);
      decoder.decode(new EncodedVideoChunk({ type: 'key', timestamp: 0, data }));
      decoder.flush().catch(() => answer(false));
    } catch {
      answer(false);
    }
  });
  const able = await seen;
  if (decoder && decoder.state !== 'closed') decoder.close();
  return able;
}
