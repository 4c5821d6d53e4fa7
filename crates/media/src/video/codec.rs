//! The codecs of pictures, and what their frames and packets say of themselves. No I/O.
//!
//! VP8 is spoken by everybody, and alone in rooms. VP9 shows more at the same rate and takes more of the processor; calls of two speak it
//! where both sides were built with it (feature `vp9`).

/// The most points of a picture that is drawn: a frame names its size before it is worth the memory.
const POINTS: u32 = 4_096 * 2_304;

/// A codec.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// RFC 6386.
    #[default]
    Vp8,
    /// Profile 0 of the VP9 bitstream specification.
    Vp9,
}

impl Codec {
    /// What this build speaks in calls of two, the best first.
    pub const SPOKEN: &[Self] = if cfg!(feature = "vp9") { &[Self::Vp9, Self::Vp8] } else { &[Self::Vp8] };

    /// As session descriptions name it.
    #[must_use]
    pub fn mime(self) -> &'static str {
        match self {
            Self::Vp8 => "video/VP8",
            Self::Vp9 => "video/VP9",
        }
    }

    /// As containers name it.
    #[must_use]
    pub fn fourcc(self) -> &'static [u8; 4] {
        match self {
            Self::Vp8 => b"VP80",
            Self::Vp9 => b"VP90",
        }
    }

    /// What both speak: the best of ours that their description has.
    #[must_use]
    pub fn common(ours: &[Self], theirs: &str) -> Self {
        let name = |c: Self| format!("{}/90000", c.mime().trim_start_matches("video/"));
        ours.iter().copied().find(|c| theirs.contains(&name(*c))).unwrap_or_default()
    }

    /// Whether a decoder can begin with this frame (RFC 6386, 9.1; VP9, 6.2).
    #[must_use]
    pub fn is_key(self, frame: &[u8]) -> bool {
        match self {
            Self::Vp8 => frame.first().is_some_and(|b| b & 1 == 0),
            // Frame marker 2, profile 0, a frame of its own, of the kind that needs no other.
            Self::Vp9 => frame.first().is_some_and(|b| b & 0b1111_1100 == 0b1000_0000),
        }
    }

    /// The size that a frame names; of most there is none but a key frame's.
    #[must_use]
    pub fn size(self, frame: &[u8]) -> Option<(u32, u32)> {
        match (self, frame) {
            (Self::Vp8, [first, _, _, 0x9d, 0x01, 0x2a, w0, w1, h0, h1, ..]) if first & 1 == 0 => {
                let side = |a: u8, b: u8| u32::from(u16::from_le_bytes([a, b]) & 0x3fff);
                Some((side(*w0, *w1), side(*h0, *h1)))
            }
            (Self::Vp8, _) => None,
            (Self::Vp9, _) => Vp9::read(frame)?.size,
        }
    }

    /// A frame that a decoder may be given: it is one of this codec, and the size is one we draw.
    #[must_use]
    pub fn is_sane(self, frame: &[u8]) -> bool {
        let fits = |(w, h): (u32, u32)| w > 0 && h > 0 && w.saturating_mul(h) <= POINTS;
        match self {
            Self::Vp8 if self.is_key(frame) => self.size(frame).is_some_and(fits),
            Self::Vp8 => !frame.is_empty(),
            // Many in one would hide the sizes of all but the first. No encoder of ours makes them.
            Self::Vp9 => !is_many(frame) && Vp9::read(frame).is_some_and(|h| h.size.map_or(!h.key, fits)),
        }
    }

    /// Length of the payload descriptor of a packet, and whether a frame starts behind it (RFC 7741, 4.2; RFC 9628, 4.2).
    #[must_use]
    pub fn descriptor(self, payload: &[u8]) -> Option<(usize, bool)> {
        let first = *payload.first()?;
        let mut at = 1;
        let long = |at: usize| payload.get(at).map(|b| if b & 0x80 != 0 { 2 } else { 1 });
        let start = match self {
            Self::Vp8 => {
                if first & 0x80 != 0 {
                    let fields = *payload.get(at)?;
                    at += 1;
                    if fields & 0x80 != 0 {
                        at += long(at)?;
                    }
                    at += usize::from(fields & 0x40 != 0);
                    at += usize::from(fields & 0x30 != 0);
                }
                first & 0x10 != 0 && first & 0x07 == 0
            }
            Self::Vp9 => {
                // Layers, references and structures are never sent to us.
                if first & 0b0011_0010 != 0 {
                    return None;
                }
                if first & 0x80 != 0 {
                    at += long(at)?;
                }
                first & 0x08 != 0
            }
        };
        (payload.len() > at).then_some((at, start))
    }

    /// Says that no picture follows: a descriptor, and no frame behind it.
    #[must_use]
    pub fn over(self) -> [u8; 1] {
        match self {
            Self::Vp8 => [0x10],
            Self::Vp9 => [0x0c],
        }
    }

    /// What stands before each part of a frame: a picture id of 15 bits that counts frames, and whether it is the first or the last one.
    #[must_use]
    pub fn describe(self, id: u16, key: bool, (first, last): (bool, bool)) -> Vec<u8> {
        let [high, low] = (id | 0x8000).to_be_bytes();
        match self {
            Self::Vp8 => vec![if first { 0x90 } else { 0x80 }, 0x80, high, low],
            Self::Vp9 => vec![0x80 | u8::from(!key) << 6 | u8::from(first) << 3 | u8::from(last) << 2, high, low],
        }
    }
}

/// A superframe: many, with their sizes in an index at the end, which begins and ends with the same byte (VP9, annex B).
fn is_many(frame: &[u8]) -> bool {
    let Some(&mark) = frame.last() else { return false };
    let index = 2 + usize::from((mark >> 3 & 3) + 1) * usize::from((mark & 7) + 1);
    mark & 0xe0 == 0xc0 && frame.len().checked_sub(index).and_then(|at| frame.get(at)) == Some(&mark)
}

/// The beginning of a frame's header (VP9, 6.2), as far as the size stands in it.
struct Vp9 {
    key: bool,
    size: Option<(u32, u32)>,
}

/// Reads bits, the highest first.
struct Bits<'b>(&'b [u8], usize);

impl Bits<'_> {
    fn take(&mut self, n: usize) -> Option<u32> {
        (0..n).try_fold(0, |value, _| {
            let byte = *self.0.get(self.1 / 8)?;
            let bit = byte >> (7 - self.1 % 8) & 1;
            self.1 += 1;
            Some(value << 1 | u32::from(bit))
        })
    }

    fn size(&mut self) -> Option<(u32, u32)> {
        Some((self.take(16)? + 1, self.take(16)? + 1))
    }
}

impl Vp9 {
    const SYNC: u32 = 0x49_83_42;

    fn read(frame: &[u8]) -> Option<Self> {
        let mut b = Bits(frame, 0);
        // Frame marker, profile 0.
        if b.take(2)? != 2 || b.take(2)? != 0 {
            return None;
        }
        // That one which is here already is shown is never asked of us.
        if b.take(1)? == 1 {
            return None;
        }
        let (key, shown, resilient) = (b.take(1)? == 0, b.take(1)? == 1, b.take(1)? == 1);
        if key {
            // Of sRGB there is none in this profile.
            if b.take(24)? != Self::SYNC || b.take(3)? == 7 {
                return None;
            }
            b.take(1)?;
            return Some(Self { key, size: Some(b.size()?) });
        }
        let alone = !shown && b.take(1)? == 1;
        if !resilient {
            b.take(2)?;
        }
        if alone {
            // Behind the sync code and what is kept.
            let sync = b.take(24)? == Self::SYNC;
            b.take(8)?;
            let size = b.size()?;
            return sync.then_some(Self { key, size: Some(size) });
        }
        // What is kept, and the three frames it builds on; the size is one of theirs, or its own.
        b.take(8 + 3 * 4)?;
        for _ in 0..3 {
            if b.take(1)? == 1 {
                return Some(Self { key, size: None });
            }
        }
        Some(Self { key, size: Some(b.size()?) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use crate::video::vpx::Encoder;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn frames_say_what_they_are() {
        for codec in [Codec::Vp8, Codec::Vp9] {
            let mut e = Encoder::new(codec, (320, 180), 300, false).unwrap();
            for n in 0..6u8 {
                let picture = vec![40 * n; 320 * 180 * 3 / 2];
                let Some((frame, key)) = e.encode(&picture, Duration::from_millis(40) * u32::from(n), n == 4).unwrap() else { continue };
                assert_eq!((codec.is_key(&frame), codec.size(&frame)), (key, key.then_some((320, 180))), "{codec:?} {n}");
                assert!(codec.is_sane(&frame) && key == (n == 0 || n == 4));
            }
        }
    }

    #[test]
    fn a_size_that_nobody_draws_goes_to_no_decoder() {
        let vp8 = |w: u16, h: u16| {
            let ([a, b], [c, d]) = (w.to_le_bytes(), h.to_le_bytes());
            vec![0, 0, 0, 0x9d, 0x01, 0x2a, a, b, c, d]
        };
        // Key frame, sync code, colours of BT.601 in four bits, and the sides, each less one.
        let vp9 = |w: u16, h: u16| {
            let bits = 0x82_49_83_42_u128 << 36 | 0b0010 << 32 | u128::from(w - 1) << 16 | u128::from(h - 1);
            (bits << 4).to_be_bytes().get(7..).unwrap().to_vec()
        };
        for (codec, key) in [(Codec::Vp8, &vp8 as &dyn Fn(u16, u16) -> Vec<u8>), (Codec::Vp9, &vp9)] {
            assert_eq!(codec.size(&key(1_920, 1_080)), Some((1_920, 1_080)), "{codec:?}");
            assert!(codec.is_sane(&key(1_920, 1_080)) && codec.is_sane(&key(3_840, 2_160)));
            assert!(!codec.is_sane(&key(16_383, 16_383)) && !codec.is_sane(&[]) && !codec.is_sane(&key(64, 64)[..5]));
        }
        assert!(!Codec::Vp8.is_sane(&vp8(0, 10)) && Codec::Vp8.is_sane(&[1]) && !Codec::Vp8.is_sane(&[0]));
        let many = [vp9(64, 64), vec![0xc0, 9, 0xc0]].concat();
        assert!(!Codec::Vp9.is_sane(&many) && Codec::Vp9.is_sane(&many[..many.len() - 1]), "nor do many in one");
        assert!(!Codec::Vp9.is_sane(&[0b1000_1000, 0, 0]), "nor is one shown again");
        // Not a key frame, shown, of a size of its own: what it builds on says nothing of it.
        let grown = 0b1000_0110_u128 << 72 | 0xffff << 31 | 0xffff_u128 << 15;
        assert!(!Codec::Vp9.is_sane(&grown.to_be_bytes()[6..]), "nor does a frame that grows");
    }

    #[test]
    fn the_end_of_a_picture_is_no_beginning() {
        for codec in [Codec::Vp8, Codec::Vp9] {
            let begins = |payload: &[u8]| codec.descriptor(payload).is_some_and(|(_, start)| start);
            let part = |first| [codec.describe(7, true, (first, true)), vec![0]].concat();
            assert!(!begins(&codec.over()) && !begins(&[]) && begins(&part(true)) && !begins(&part(false)), "{codec:?}");
        }
    }

    #[test]
    fn both_speak_the_best_that_both_know() {
        let both = [Codec::Vp9, Codec::Vp8];
        let knows = "a=rtpmap:96 VP8/90000\r\na=rtpmap:98 VP9/90000\r\n";
        assert_eq!(Codec::common(&both, knows), Codec::Vp9);
        assert_eq!(Codec::common(&[Codec::Vp8], knows), Codec::Vp8);
        assert_eq!(Codec::common(&both, "a=rtpmap:96 VP8/90000\r\n"), Codec::Vp8);
        assert_eq!(Codec::common(&both, "m=audio"), Codec::Vp8);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..24)) {
            for codec in [Codec::Vp8, Codec::Vp9] {
                let _ = (codec.is_key(&bytes), codec.is_sane(&bytes), codec.size(&bytes), codec.descriptor(&bytes));
            }
        }
    }
}
