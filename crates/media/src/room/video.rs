//! Packets put together to frames, in order, without I/O.
//!
//! | state | entered by | what comes out |
//! |---|---|---|
//! | lost | the beginning, [`Assembler::lose`], a hole older than [`PATIENCE`], too much at once | nothing; a key frame is asked for |
//! | following | a whole key frame | frame after frame without a hole; behind one older than [`HURRY`] a key frame is asked for, too |
//!
//! A frame builds on the one before, so none is given out behind a hole: a packet sent again may still fill it, or a whole key frame
//! behind it ends the waiting at once. A frame that is still on its way is no hole, however long that takes. What is held is bounded by [`MOST`] packets.

use crate::video::codec::Codec;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A packet that is missing so long does not come any more.
pub const PATIENCE: Duration = Duration::from_millis(600);
/// One that is missing so long may come too late: a key frame is asked for, and whichever is first is shown.
const HURRY: Duration = Duration::from_millis(200);
/// A key frame is asked for this often: the wish may get lost, too.
const ASK: Duration = Duration::from_millis(250);
/// Packets that are held: more than two seconds of a large picture.
const MOST: usize = 1_024;

/// An encoded frame as it was sent, still encrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// In 90 kHz.
    pub timestamp: u32,
    /// Without payload descriptors.
    pub bytes: Vec<u8>,
}

struct Piece {
    timestamp: u32,
    last: bool,
    start: bool,
    /// Nothing for packets that only fill the line.
    bytes: Vec<u8>,
}

/// One stream of packets.
#[derive(Default)]
pub struct Assembler {
    codec: Codec,
    pieces: BTreeMap<u64, Piece>,
    /// The number that comes next, while it follows.
    next: Option<u64>,
    /// The first number that is missing, and since when.
    hole: Option<(u64, Instant)>,
    asked: Option<Instant>,
}

impl Assembler {
    /// Of that codec.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        Self { codec, ..Self::default() }
    }

    /// Its codec.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// A packet came: its number counted on over rollovers, its timestamp, whether it ends a frame, and what is in it.
    pub fn push(&mut self, seq: u64, timestamp: u32, last: bool, payload: &[u8]) {
        if self.next.is_some_and(|n| seq < n) {
            return;
        }
        if self.pieces.len() >= MOST {
            self.lose();
        }
        let piece = match self.codec.descriptor(payload) {
            Some((at, start)) => Piece { timestamp, last, start, bytes: payload.get(at..).unwrap_or_default().to_vec() },
            None => Piece { timestamp, last, start: false, bytes: Vec::new() },
        };
        self.pieces.insert(seq, piece);
    }

    /// Forgets everything; a key frame is needed.
    pub fn lose(&mut self) {
        (self.next, self.hole) = (None, None);
        self.pieces.clear();
    }

    /// The next frame, when all of it is there.
    pub fn pop(&mut self, now: Instant) -> Option<Frame> {
        if let Some(next) = self.next {
            if let Some((from, to)) = self.whole_at(next) {
                self.hole = None;
                return Some(self.take(from, to));
            }
            self.hole = self.missing(next).map(|n| self.hole.filter(|(m, _)| *m == n).unwrap_or((n, now)));
            if self.hole.is_some_and(|(_, since)| now.saturating_duration_since(since) > PATIENCE) {
                (self.next, self.hole) = (None, None);
            }
        }
        let (from, to) = self.key()?;
        self.hole = None;
        Some(self.take(from, to))
    }

    /// Whether a key frame is to be asked for now; true at most four times a second.
    pub fn wants_key(&mut self, now: Instant) -> bool {
        let lost = self.next.is_none() || self.hole.is_some_and(|(_, since)| now.saturating_duration_since(since) >= HURRY);
        let wants = lost && !self.key_comes() && self.asked.is_none_or(|a| now.saturating_duration_since(a) >= ASK);
        if wants {
            self.asked = Some(now);
        }
        wants
    }

    /// The first number from here on that is missing while a later one is there.
    fn missing(&self, from: u64) -> Option<u64> {
        let there = self.pieces.range(from..).map(|(seq, _)| *seq);
        (from..).zip(there).find_map(|(next, seq)| (next != seq).then_some(next))
    }

    /// A key frame is on its way, and nothing of it is missing so far.
    fn key_comes(&self) -> bool {
        let start = self.pieces.iter().rev().find(|(_, p)| p.start);
        start.is_some_and(|(seq, p)| self.codec.is_key(&p.bytes) && self.missing(*seq).is_none())
    }

    /// The frame that begins with this number or behind what only fills the line: its first and last number.
    fn whole_at(&self, next: u64) -> Option<(u64, u64)> {
        let mut from = next;
        while self.pieces.get(&from)?.bytes.is_empty() {
            from += 1;
        }
        let first = self.pieces.get(&from).filter(|p| p.start)?;
        let mut to = from;
        loop {
            // Not over the start of another one: of many starts without an end, none is walked twice.
            let piece = self.pieces.get(&to).filter(|p| p.timestamp == first.timestamp && (to == from || !p.start))?;
            if piece.last {
                return Some((from, to));
            }
            to += 1;
        }
    }

    /// The last whole key frame that is here.
    fn key(&self) -> Option<(u64, u64)> {
        let starts = self.pieces.iter().rev().filter(|(_, p)| p.start && self.codec.is_key(&p.bytes));
        starts.into_iter().find_map(|(seq, _)| self.whole_at(*seq))
    }

    fn take(&mut self, from: u64, to: u64) -> Frame {
        let mut timestamp = 0;
        let mut bytes = Vec::new();
        for seq in from..=to {
            if let Some(p) = self.pieces.remove(&seq) {
                timestamp = p.timestamp;
                bytes.extend_from_slice(&p.bytes);
            }
        }
        self.pieces = self.pieces.split_off(&(to + 1));
        self.next = Some(to + 1);
        Frame { timestamp, bytes }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KEY: u8 = 0x00;
    const DELTA: u8 = 0x01;

    /// A frame of `n` packets: the first byte says what it is, the others which packet they are of.
    fn frame(from: u64, time: u32, kind: u8, n: u64) -> Vec<(u64, u32, bool, Vec<u8>)> {
        let packet = |i: u64| {
            let start = if i == 0 { 0x90 } else { 0x80 };
            // With all fields: a picture id of 15 bits, TL0PICIDX, TID and KEYIDX.
            (from + i, time, i + 1 == n, vec![start, 0xf0, 0x80, 0x01, 0x02, 0x03, if i == 0 { kind } else { u8::try_from(i).unwrap() }])
        };
        (0..n).map(packet).collect()
    }

    fn push(a: &mut Assembler, packets: &[(u64, u32, bool, Vec<u8>)]) {
        for (seq, time, last, payload) in packets {
            a.push(*seq, *time, *last, payload);
        }
    }

    #[test]
    fn frames_come_whole_and_in_order_however_their_packets_came() {
        let now = Instant::now();
        let mut a = Assembler::default();
        push(&mut a, &frame(5, 100, DELTA, 1));
        assert_eq!(a.pop(now), None, "nothing before a key frame");
        assert!(a.wants_key(now) && !a.wants_key(now) && a.wants_key(now + ASK));
        let (key, mut delta) = (frame(6, 200, KEY, 3), frame(9, 300, DELTA, 2));
        delta.reverse();
        push(&mut a, &delta);
        push(&mut a, &key);
        assert_eq!(a.pop(now), Some(Frame { timestamp: 200, bytes: vec![KEY, 1, 2] }));
        assert_eq!(a.pop(now), Some(Frame { timestamp: 300, bytes: vec![DELTA, 1] }));
        assert_eq!(a.pop(now), None);
        assert!(!a.wants_key(now + ASK * 2), "while it follows");
        // A packet that only fills the line is passed over.
        a.push(11, 300, false, &[]);
        push(&mut a, &frame(12, 400, DELTA, 1));
        assert_eq!(a.pop(now).unwrap().timestamp, 400);
    }

    #[test]
    fn behind_a_hole_nothing_comes_until_it_is_filled() {
        let now = Instant::now();
        let mut a = Assembler::default();
        push(&mut a, &frame(1, 1, KEY, 1));
        assert!(a.pop(now).is_some());
        let missing = frame(2, 2, DELTA, 1);
        push(&mut a, &frame(3, 3, DELTA, 1));
        assert_eq!(a.pop(now), None);
        assert!(!a.wants_key(now));
        push(&mut a, &missing);
        assert_eq!(a.pop(now + PATIENCE).unwrap().timestamp, 2);
        assert_eq!(a.pop(now + PATIENCE).unwrap().timestamp, 3);
    }

    #[test]
    fn a_hole_that_stays_asks_for_a_key_frame_and_goes_on_there() {
        let now = Instant::now();
        let mut a = Assembler::default();
        push(&mut a, &frame(1, 1, KEY, 1));
        assert!(a.pop(now).is_some());
        push(&mut a, &frame(3, 3, DELTA, 1));
        assert_eq!(a.pop(now), None);
        assert_eq!(a.pop(now + PATIENCE * 2), None);
        assert!(a.wants_key(now + PATIENCE * 2));
        push(&mut a, &frame(4, 4, DELTA, 1));
        assert_eq!(a.pop(now + PATIENCE * 2), None, "it builds on what is lost");
        push(&mut a, &frame(5, 5, KEY, 2));
        assert_eq!(a.pop(now + PATIENCE * 3).unwrap().timestamp, 5);
        push(&mut a, &frame(4, 4, DELTA, 1));
        assert_eq!(a.pop(now + PATIENCE * 3), None, "what is before is passed");
    }

    #[test]
    fn a_frame_that_takes_its_time_is_no_hole() {
        let now = Instant::now();
        let mut a = Assembler::default();
        let key = frame(1, 1, KEY, 9);
        for (i, packet) in key.iter().enumerate() {
            let at = now + PATIENCE * u32::try_from(i).unwrap();
            push(&mut a, std::slice::from_ref(packet));
            assert!(!a.wants_key(at), "it comes");
            assert_eq!(a.pop(at).is_some(), i == 8);
        }
        let slow = frame(10, 2, DELTA, 3);
        for (i, packet) in slow.iter().enumerate() {
            let at = now + PATIENCE * (20 + 2 * u32::try_from(i).unwrap());
            push(&mut a, std::slice::from_ref(packet));
            assert_eq!(a.pop(at).is_some(), i == 2);
            assert!(!a.wants_key(at));
        }
    }

    #[test]
    fn a_key_frame_behind_a_hole_ends_the_waiting_at_once() {
        let now = Instant::now();
        let mut a = Assembler::default();
        push(&mut a, &frame(1, 1, KEY, 1));
        assert!(a.pop(now).is_some());
        push(&mut a, &frame(3, 3, DELTA, 1));
        push(&mut a, &frame(4, 4, KEY, 1));
        push(&mut a, &frame(5, 5, DELTA, 1));
        assert_eq!(a.pop(now).unwrap().timestamp, 4);
        assert_eq!(a.pop(now).unwrap().timestamp, 5);
    }

    proptest! {
        #[test]
        fn whatever_comes_is_bounded_and_ends(packets in prop::collection::vec((0u64..3_000, 0u32..4, any::<bool>(), prop::collection::vec(any::<u8>(), 0..9)), 0..3_000)) {
            let now = Instant::now();
            let mut a = Assembler::default();
            for (i, (seq, time, last, payload)) in packets.into_iter().enumerate() {
                a.push(seq, time, last, &payload);
                prop_assert!(a.pieces.len() <= MOST);
                while a.pop(now + Duration::from_millis(i as u64)).is_some() {}
            }
        }
    }
}
