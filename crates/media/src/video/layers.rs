//! Which encoders a picture has: one, or in a room a second one of half the sides, so that whoever has a small place or a narrow path for
//! it need not hold up the others. What nobody looks at is not encoded.
//!
//! | wanted | the path carries | what is encoded |
//! |---|---|---|
//! | both | enough for two | both |
//! | both | less | half the sides |
//! | half the sides | | half the sides |
//! | neither: only oneself is seen | | the whole |

use super::codec::Codec;
use super::convert::I420;
use super::vpx::Encoder;
use super::{LEAST, RATE, SCREEN_RATE, VideoError};
use std::time::Duration;

/// Below the first a picture is sent at half its sides, above the second at its own again: few good points are seen better than many
/// bad ones.
const SMALL: (u32, u32) = (180, 260);
/// A picture with fewer points down is small already.
const TALL: u32 = 300;
/// What the layer of half the sides gets beside the whole, in kb/s.
const HALF_RATE: u32 = 150;
/// And alone: more does not make it better.
const HALF_ALONE: u32 = 250;
/// Below the first the whole is left out beside it, above the second it is there again.
const BOTH: (u32, u32) = (330, 400);

/// What others look at; a set of bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The layer of half the sides.
    pub half: bool,
    /// The whole picture.
    pub whole: bool,
}

impl Wanted {
    /// Both.
    pub const ALL: Self = Self { half: true, whole: true };
    /// Nothing.
    pub const NONE: Self = Self { half: false, whole: false };

    /// What is in one of them.
    #[must_use]
    pub fn or(self, o: Self) -> Self {
        Self { half: self.half || o.half, whole: self.whole || o.whole }
    }

    /// As one byte.
    #[must_use]
    pub fn bits(self) -> u8 {
        u8::from(self.half) | u8::from(self.whole) << 1
    }

    /// From it.
    #[must_use]
    pub fn of(bits: u8) -> Self {
        Self { half: bits & 1 != 0, whole: bits & 2 != 0 }
    }
}

/// An encoder of the size that fits the frames and the rate. Of a screen the size stays: small letters cannot be read.
pub(super) struct Scaled {
    codec: Codec,
    encoder: Encoder,
    width: u32,
    height: u32,
    rate: u32,
    small: bool,
    screen: bool,
}

impl Scaled {
    pub(super) fn new(codec: Codec, (width, height): (u32, u32), screen: bool) -> Result<Self, VideoError> {
        let rate = if screen { SCREEN_RATE } else { RATE };
        Ok(Self { codec, encoder: Encoder::new(codec, (width, height), rate, screen)?, width, height, rate, small: false, screen })
    }

    /// Follows the rate; what changes little is left.
    pub(super) fn set_rate(&mut self, rate: u32) -> Result<(), VideoError> {
        let rate = if rate == 0 { self.rate } else { rate.clamp(LEAST, if self.screen { SCREEN_RATE } else { RATE }) };
        if rate.abs_diff(self.rate) * 10 <= self.rate {
            return Ok(());
        }
        self.rate = rate;
        let small = !self.screen && self.height >= TALL && rate < if self.small { SMALL.1 } else { SMALL.0 };
        if small == self.small {
            return self.encoder.set_rate(rate);
        }
        self.small = small;
        self.fresh()
    }

    /// Follows the size of the frames.
    pub(super) fn set_size(&mut self, (width, height): (u32, u32)) -> Result<(), VideoError> {
        if (width, height) == (self.width, self.height) {
            return Ok(());
        }
        (self.width, self.height, self.small) = (width, height, self.small && height >= TALL);
        self.fresh()
    }

    /// Another encoder. Its first frame is a key frame.
    fn fresh(&mut self) -> Result<(), VideoError> {
        let by = if self.small { 2 } else { 1 };
        let size = ((self.width / by) & !1, (self.height / by) & !1);
        self.encoder = Encoder::new(self.codec, size, self.rate, self.screen)?;
        Ok(())
    }

    pub(super) fn encode(&mut self, frame: &[u8], at: Duration, key: bool) -> Result<Option<(Vec<u8>, bool)>, VideoError> {
        if !self.small {
            return self.encoder.encode(frame, at, key);
        }
        let whole = I420 { width: self.width, height: self.height, bytes: frame.to_vec() };
        self.encoder.encode(&whole.halved().bytes, at, key)
    }
}

/// The encoder of the layer of half the sides.
struct Half {
    encoder: Encoder,
    size: (u32, u32),
    rate: u32,
}

impl Half {
    fn encode(&mut self, halved: &I420, at: Duration, rate: u32, key: bool) -> Result<Option<(Vec<u8>, bool)>, VideoError> {
        if self.size != (halved.width, halved.height) {
            *self = Self::new(halved, rate)?;
        }
        if rate.abs_diff(self.rate) * 10 > self.rate {
            self.rate = rate;
            self.encoder.set_rate(rate)?;
        }
        self.encoder.encode(&halved.bytes, at, key)
    }

    fn new(halved: &I420, rate: u32) -> Result<Self, VideoError> {
        let size = (halved.width, halved.height);
        // Layers are for rooms, and those speak VP8.
        Ok(Self { encoder: Encoder::new(Codec::Vp8, size, rate, false)?, size, rate })
    }
}

/// A frame of one layer.
pub(super) struct Made {
    pub(super) half: bool,
    pub(super) key: bool,
    pub(super) bytes: Vec<u8>,
}

/// The encoders of one picture.
pub(super) struct Layers {
    whole: Scaled,
    /// Nothing yet, or nothing since it was used last.
    half: Option<Half>,
    layered: bool,
    pub(super) active: Wanted,
}

impl Layers {
    /// For frames of this size, of a camera or of a screen; with two layers if that is asked for and of use: those are VP8.
    pub(super) fn new(codec: Codec, (width, height): (u32, u32), screen: bool, layered: bool) -> Result<Self, VideoError> {
        let layered = layered && codec == Codec::Vp8 && !screen && height >= TALL;
        Ok(Self { whole: Scaled::new(codec, (width, height), screen)?, half: None, layered, active: Wanted { half: false, whole: true } })
    }

    pub(super) fn codec(&self) -> Codec {
        self.whole.codec
    }

    /// Another codec from now on. The next frame is a key frame.
    pub(super) fn speak(&mut self, codec: Codec) -> Result<(), VideoError> {
        self.whole.codec = codec;
        self.whole.fresh()
    }

    pub(super) fn is_layered(&self) -> bool {
        self.layered
    }

    /// What is encoded at a rate.
    fn plan(&self, rate: u32, wanted: Wanted) -> Wanted {
        let fits = rate == 0 || rate >= if self.active == Wanted::ALL { BOTH.0 } else { BOTH.1 };
        match wanted {
            _ if !self.layered => Wanted { half: false, whole: true },
            Wanted::NONE => Wanted { half: false, whole: true },
            Wanted { whole: true, .. } if fits => Wanted::ALL,
            _ => Wanted { half: true, whole: false },
        }
    }

    /// Encodes a frame at a rate in kb/s, nought while none is known; `keys` names the layers that are to begin anew. What is sent may be
    /// less than that: a frame is left out when the rate has no room for it.
    pub(super) fn encode(
        &mut self,
        (frame, size): (&[u8], (u32, u32)),
        at: Duration,
        (rate, wanted): (u32, Wanted),
        mut keys: Wanted,
    ) -> Result<(Vec<Made>, Wanted), VideoError> {
        let plan = self.plan(rate, wanted);
        if plan != self.active {
            // Whoever sees a layer for the first time, or again, begins with a key frame; one sees oneself in the best that is sent.
            keys = Wanted::ALL;
            self.active = plan;
        }
        let mut made = Vec::new();
        if plan.half {
            let halved = I420 { width: size.0, height: size.1, bytes: frame.to_vec() }.halved();
            let rate = if plan.whole { HALF_RATE } else { rate.clamp(LEAST, HALF_ALONE) };
            let half = match &mut self.half {
                Some(half) => half,
                none => none.insert(Half::new(&halved, rate)?),
            };
            if let Some((bytes, key)) = half.encode(&halved, at, rate, keys.half)? {
                made.push(Made { half: true, key, bytes });
                keys.half = false;
            }
        }
        if plan.whole {
            self.whole.set_size(size)?;
            self.whole.set_rate(if plan.half { rate.saturating_sub(HALF_RATE) } else { rate })?;
            if let Some((bytes, key)) = self.whole.encode(frame, at, keys.whole)? {
                made.push(Made { half: false, key, bytes });
                keys.whole = false;
            }
        }
        Ok((made, Wanted { half: keys.half && plan.half, whole: keys.whole && plan.whole }))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::video::vpx::Decoder;

    #[test]
    fn at_a_low_rate_a_picture_is_small_and_whole() {
        let mut e = Scaled::new(Codec::Vp8, (640, 360), false).unwrap();
        let frame = [vec![90; 640 * 360], vec![120; 640 * 180]].concat();
        let mut at = Duration::ZERO;
        let mut size = |rate: u32| {
            e.set_rate(rate).unwrap();
            at += Duration::from_millis(40);
            let (bytes, key) = e.encode(&frame, at, true).unwrap().unwrap();
            assert!(key);
            let seen = Decoder::new(Codec::Vp8).unwrap().decode(&bytes).unwrap().unwrap();
            assert!(seen.brightness().iter().all(|p| p.abs_diff(90) < 6));
            (seen.width, seen.height)
        };
        assert_eq!(
            [size(700), size(0), size(200), size(120), size(200), size(300)],
            [(640, 360), (640, 360), (640, 360), (320, 180), (320, 180), (640, 360)]
        );
    }

    #[test]
    fn what_nobody_looks_at_is_not_encoded_and_a_narrow_path_carries_the_small_one() {
        let frame = [vec![90; 640 * 360], vec![120; 640 * 180]].concat();
        let mut layers = Layers::new(Codec::Vp8, (640, 360), false, true).unwrap();
        let mut at = Duration::ZERO;
        let small = Wanted { half: true, whole: false };
        let mut sent = |rate, wanted| {
            at += Duration::from_millis(40);
            let (made, _) = layers.encode((&frame, (640, 360)), at, (rate, wanted), Wanted::NONE).unwrap();
            made.iter()
                .map(|m| {
                    let width = m.key.then(|| Decoder::new(Codec::Vp8).unwrap().decode(&m.bytes).unwrap().unwrap().width);
                    assert!(width.is_none_or(|w| w == if m.half { 320 } else { 640 }));
                    (m.half, m.key)
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(sent(800, Wanted::NONE), [(false, true)], "one sees oneself");
        assert_eq!(sent(800, Wanted::ALL), [(true, true), (false, true)]);
        assert_eq!(sent(800, Wanted::ALL), [(true, false), (false, false)]);
        assert_eq!(sent(800, small), [(true, true)]);
        assert_eq!(sent(800, Wanted::ALL).len(), 2);
        assert_eq!(sent(340, Wanted::ALL).len(), 2, "it is not left at once");
        assert_eq!(sent(300, Wanted::ALL), [(true, true)]);
        assert_eq!(sent(390, Wanted::ALL), [(true, false)], "nor is it there again at once");
        assert_eq!(sent(420, Wanted::ALL).len(), 2);
    }

    #[test]
    fn screens_and_small_pictures_have_one_layer() {
        for (size, screen) in [((640, 360), true), ((320, 180), false)] {
            let mut layers = Layers::new(Codec::Vp8, size, screen, true).unwrap();
            assert!(!layers.is_layered());
            let frame = vec![90; (size.0 * size.1 * 3 / 2) as usize];
            let (made, _) = layers.encode((&frame, size), Duration::ZERO, (0, Wanted::ALL), Wanted::ALL).unwrap();
            assert!(matches!(made.as_slice(), [Made { half: false, key: true, .. }]));
        }
    }
}
