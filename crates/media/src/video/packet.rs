//! Encoded frames cut to packets: a payload descriptor ([`Codec::describe`]), then a part of the frame.

use super::codec::Codec;

/// Bytes of a frame in a packet; with headers, tags and a relay's framing it stays below 1,200.
const PART: usize = 1_080;

/// The payloads of a frame's packets; the last one gets the marker. `id` counts frames.
pub fn packets(codec: Codec, frame: &[u8], id: u16) -> impl Iterator<Item = Vec<u8>> {
    let key = codec.is_key(frame);
    // Parts of nearly the same length: none is worth less than its headers.
    let n = frame.len().div_ceil(PART).max(1);
    let part = frame.len().div_ceil(n).max(1);
    frame.chunks(part).enumerate().map(move |(i, bytes)| {
        let mut out = codec.describe(id, key, (i == 0, (i + 1) * part >= frame.len()));
        out.extend_from_slice(bytes);
        out
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::room::video::Assembler;
    use proptest::prelude::*;
    use std::time::Instant;

    proptest! {
        #[test]
        fn what_is_cut_is_put_together_again(mut frame in prop::collection::vec(any::<u8>(), 1..9_000), id: u16) {
            for (codec, key) in [(Codec::Vp8, 0x10), (Codec::Vp9, 0x82)] {
                // As a key frame: whoever comes in begins with it.
                frame.iter_mut().take(1).for_each(|b| *b = key);
                let all: Vec<_> = packets(codec, &frame, id).collect();
                let mut a = Assembler::new(codec);
                for (i, p) in all.iter().enumerate() {
                    prop_assert!(p.len() <= PART + 4);
                    a.push(i as u64, 7, i + 1 == all.len(), p);
                }
                prop_assert_eq!(&a.pop(Instant::now()).unwrap().bytes, &frame);
            }
        }
    }
}
