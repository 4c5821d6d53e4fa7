//! One track's packets on their way to one receiver: numbers are rewritten so that the receiver sees a single stream, however often
//! the layer behind it changes or stops. A layer that its publisher begins anew under smaller numbers is not followed until the next change.

use std::time::Instant;
use str0m::rtp::{Vp8Descriptor, Vp8Patch};

/// Where numbers begin; below 65,536, because the receiver starts with a rollover count of nought (RFC 3711, 3.3.1).
const FIRST: u64 = 1_000;

/// Numbers of one picture in VP8's payload descriptor (RFC 7741, 4.2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Picture {
    pub(crate) id: u16,
    pub(crate) tl0: u8,
    pub(crate) key: u8,
}

impl Picture {
    pub(crate) fn of(d: &Vp8Descriptor) -> Self {
        Self { id: d.picture_id().unwrap_or(0), tl0: d.tl0_pic_idx().unwrap_or(0), key: d.key_idx().unwrap_or(0) }
    }

    fn minus(self, o: Self) -> Self {
        Self { id: self.id.wrapping_sub(o.id) & 0x7fff, tl0: self.tl0.wrapping_sub(o.tl0), key: self.key.wrapping_sub(o.key) & 0x1f }
    }

    fn next(self) -> Self {
        Self { id: self.id.wrapping_add(1) & 0x7fff, tl0: self.tl0.wrapping_add(1), key: self.key.wrapping_add(1) & 0x1f }
    }
}

/// What a packet brings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Incoming {
    pub(crate) layer: usize,
    pub(crate) seq: u64,
    pub(crate) time: u32,
    pub(crate) picture: Option<Picture>,
    /// A receiver may begin here.
    pub(crate) start: bool,
}

/// Its numbers towards the receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) seq: u64,
    pub(crate) time: u32,
    pub(crate) picture: Option<Picture>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    layer: usize,
    /// Packets before it belong to what was before.
    from: u64,
    seq: u64,
    time: u32,
    picture: Picture,
}

/// The state of one stream towards one receiver.
#[derive(Debug)]
pub(crate) struct Forward {
    clock: f64,
    /// A video: it may begin at a key frame only.
    keyed: bool,
    target: Option<usize>,
    source: Option<Source>,
    last: Option<(Outgoing, Instant)>,
}

impl Forward {
    pub(crate) fn new(clock: u32, keyed: bool) -> Self {
        Self { clock: f64::from(clock), keyed, target: None, source: None, last: None }
    }

    /// Which layer is wanted; nothing at all with `None`.
    pub(crate) fn aim(&mut self, layer: Option<usize>) {
        if layer.is_none() {
            self.source = None;
        }
        self.target = layer;
    }

    /// Nothing comes for a while: what comes then is numbered on from here.
    pub(crate) fn pause(&mut self) {
        self.source = None;
    }

    /// The layer that is forwarded now.
    pub(crate) fn current(&self) -> Option<usize> {
        self.source.map(|s| s.layer)
    }

    /// A key frame of that layer is missing.
    pub(crate) fn waits_for(&self) -> Option<usize> {
        self.target.filter(|t| self.keyed && self.current() != Some(*t))
    }

    /// The packet's numbers towards the receiver, or nothing when it is not for them.
    pub(crate) fn pass(&mut self, p: Incoming, now: Instant) -> Option<Outgoing> {
        let target = self.target?;
        if p.layer == target && self.current() != Some(target) {
            if self.keyed && !p.start {
                return self.through(p, now);
            }
            self.begin(p, now);
        }
        self.through(p, now)
    }

    fn begin(&mut self, p: Incoming, now: Instant) {
        let picture = p.picture.unwrap_or_default();
        self.source = Some(match self.last {
            None => Source { layer: p.layer, from: p.seq, seq: p.seq.wrapping_sub(FIRST), time: 0, picture: Picture::default() },
            Some((last, at)) => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                let elapsed = ((now.saturating_duration_since(at).as_secs_f64() * self.clock) as u32).max(1);
                Source {
                    layer: p.layer,
                    from: p.seq,
                    seq: p.seq.wrapping_sub(last.seq + 1),
                    time: p.time.wrapping_sub(last.time.wrapping_add(elapsed)),
                    picture: picture.minus(last.picture.unwrap_or_default().next()),
                }
            }
        });
    }

    fn through(&mut self, p: Incoming, now: Instant) -> Option<Outgoing> {
        let s = self.source.filter(|s| s.layer == p.layer && p.seq >= s.from)?;
        let out = Outgoing {
            seq: p.seq.wrapping_sub(s.seq),
            time: p.time.wrapping_sub(s.time),
            picture: p.picture.map(|pic| pic.minus(s.picture)),
        };
        if self.last.is_none_or(|(last, _)| out.seq > last.seq) {
            self.last = Some((out, now));
        }
        Some(out)
    }
}

/// The bytes to change in the payload; nothing when the descriptor has no such numbers.
pub(crate) fn patch(d: &Vp8Descriptor, picture: Picture) -> Option<Vp8Patch> {
    let mut b = d.patch();
    if let Some(before) = d.picture_id() {
        // A descriptor of seven bits keeps them.
        b = b.picture_id(if before < 0x80 && picture.id >= 0x80 { picture.id & 0x7f } else { picture.id });
    }
    if d.tl0_pic_idx().is_some() {
        b = b.tl0_pic_idx(picture.tl0);
    }
    if d.key_idx().is_some() {
        b = b.key_idx(picture.key);
    }
    b.build().ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    fn packet(layer: usize, seq: u64, time: u32, start: bool) -> Incoming {
        let id = u16::try_from(seq & 0x7fff).unwrap();
        Incoming { layer, seq, time, start, picture: Some(Picture { id, tl0: 0, key: 0 }) }
    }

    #[test]
    fn a_video_begins_with_a_key_frame_and_its_numbers_go_on_over_a_change_of_layer() {
        let now = Instant::now();
        let mut f = Forward::new(90_000, true);
        assert!(f.pass(packet(0, 70_000, 5, true), now).is_none(), "nothing is wanted yet");
        f.aim(Some(0));
        assert_eq!(f.waits_for(), Some(0));
        assert!(f.pass(packet(0, 70_001, 5, false), now).is_none(), "not in the middle");
        let a = f.pass(packet(0, 70_002, 9_000, true), now).unwrap();
        assert_eq!(a.seq, FIRST);
        let b = f.pass(packet(0, 70_003, 9_000, false), now).unwrap();
        assert_eq!((b.seq, b.time), (FIRST + 1, a.time));
        f.aim(Some(2));
        let c = f.pass(packet(0, 70_004, 12_000, false), now).unwrap();
        assert_eq!(c.seq, FIRST + 2, "the old layer goes on until the new one can begin");
        assert!(f.pass(packet(2, 99, 77, false), now).is_none());
        let later = now + Duration::from_millis(33);
        let d = f.pass(packet(2, 100, 500, true), later).unwrap();
        assert_eq!(d.seq, FIRST + 3);
        assert_eq!(d.time.wrapping_sub(c.time), 2_970);
        assert_eq!(d.picture.unwrap().id, c.picture.unwrap().id + 1);
        assert!(f.pass(packet(0, 70_005, 15_000, true), later).is_none(), "the old layer is over");
        assert!(f.pass(packet(2, 99, 77, false), later).is_none(), "what came before the key frame is of no use");
    }

    #[test]
    fn sound_begins_anywhere_and_late_packets_keep_their_place() {
        let now = Instant::now();
        let mut f = Forward::new(48_000, false);
        f.aim(Some(0));
        let a = f.pass(Incoming { layer: 0, seq: 10, time: 960, picture: None, start: false }, now).unwrap();
        let c = f.pass(Incoming { layer: 0, seq: 12, time: 2_880, picture: None, start: false }, now).unwrap();
        let b = f.pass(Incoming { layer: 0, seq: 11, time: 1_920, picture: None, start: false }, now).unwrap();
        assert_eq!((a.seq, b.seq, c.seq), (FIRST, FIRST + 1, FIRST + 2));
        assert_eq!(b.time.wrapping_sub(a.time), 960);
    }

    proptest! {
        #[test]
        fn no_number_is_given_twice(steps in prop::collection::vec((0usize..3, any::<bool>(), any::<bool>()), 1..300)) {
            let now = Instant::now();
            let mut f = Forward::new(90_000, true);
            let mut seqs = [500u64, 60_000, 1_000_000];
            let mut given = std::collections::HashSet::new();
            for (i, (layer, start, change)) in steps.into_iter().enumerate() {
                if change {
                    f.aim(Some(layer));
                }
                *seqs.get_mut(layer).unwrap() += 1;
                let at = now + Duration::from_millis(i as u64 * 10);
                if let Some(out) = f.pass(packet(layer, *seqs.get(layer).unwrap(), 0, start), at) {
                    prop_assert!(given.insert(out.seq), "{} twice", out.seq);
                }
            }
        }
    }
}
