//! What of the other side's pictures did not come, and whether their picture moves.

use crate::room::video::PATIENCE;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Missing packets that are asked for; behind a greater gap only a key frame helps.
const MISSING: u64 = 128;
/// A packet may be late by so much before it is missing.
const LATE: Duration = Duration::from_millis(5);
/// It is asked for at most so often.
const ASKED: u32 = 12;
/// From this share of losses on, a packet is asked for before the first asking can have failed: one of the two gets through.
const LOSSY: f32 = 0.04;

/// Packets that did not come: number, since when, when they were asked for last, how often.
#[derive(Default)]
pub(super) struct Missing {
    newest: Option<u64>,
    list: BTreeMap<u64, (Instant, Option<Instant>, u32)>,
    /// Share of packets that did not come at first, lately.
    lost: f32,
}

impl Missing {
    pub(super) fn came(&mut self, seq: u64, now: Instant) {
        let Some(newest) = self.newest else {
            self.newest = Some(seq);
            return;
        };
        if seq <= newest {
            self.list.remove(&seq);
            return;
        }
        self.newest = Some(seq);
        if seq - newest > MISSING {
            self.list.clear();
            return;
        }
        for n in newest + 1..=seq {
            self.lost += (f32::from(u8::from(n != seq)) - self.lost) / 100.0;
        }
        self.list.extend((newest + 1..seq).map(|n| (n, (now, None, 0))));
        while self.list.len() as u64 > MISSING {
            self.list.pop_first();
        }
    }

    /// How long an asking is waited for.
    fn patience(&self, rtt: Duration) -> Duration {
        if self.lost > LOSSY { (rtt / 2).max(Duration::from_millis(15)) } else { (rtt * 6 / 5).max(Duration::from_millis(30)) }
    }

    /// When a number may be asked for.
    fn at((since, asked, _): &(Instant, Option<Instant>, u32), patience: Duration) -> Instant {
        asked.map_or(*since + LATE, |at| at + patience)
    }

    pub(super) fn deadline(&self, rtt: Duration) -> Option<Instant> {
        let patience = self.patience(rtt);
        self.list.values().map(|m| Self::at(m, patience)).min()
    }

    /// What is to be asked for now.
    pub(super) fn due(&mut self, now: Instant, rtt: Duration) -> Vec<u64> {
        self.list.retain(|_, (since, _, times)| *times < ASKED && now.saturating_duration_since(*since) < PATIENCE);
        let patience = self.patience(rtt);
        let mut out = Vec::new();
        for (seq, m) in &mut self.list {
            if now >= Self::at(m, patience) {
                m.1 = Some(now);
                m.2 += 1;
                out.push(*seq);
            }
        }
        out
    }
}

/// Whether a picture moves: it stands still when a frame is three times as late as the ones before, and at least 150 ms.
#[derive(Default)]
pub(super) struct Cadence {
    last: Option<Instant>,
    mean: f64,
}

impl Cadence {
    pub(super) fn pause(&mut self) {
        self.last = None;
    }

    /// One when the picture stood still before this frame.
    pub(super) fn frame(&mut self, now: Instant) -> u64 {
        let Some(last) = self.last.replace(now) else { return 0 };
        let took = now.saturating_duration_since(last).as_secs_f64();
        let frozen = self.mean > 0.0 && took > (self.mean * 3.0).max(self.mean + 0.150);
        self.mean = if self.mean > 0.0 { self.mean * 0.95 + took * 0.05 } else { took };
        u64::from(frozen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn what_is_missing_is_asked_for_until_it_comes_or_is_too_late() {
        let (now, rtt) = (Instant::now(), ms(50));
        let mut m = Missing::default();
        m.came(10, now);
        m.came(13, now);
        assert!(m.due(now, rtt).is_empty(), "it may only be late");
        assert_eq!(m.due(now + ms(5), rtt), [11, 12]);
        m.came(12, now + ms(6));
        assert!(m.due(now + ms(40), rtt).is_empty());
        assert_eq!(m.deadline(rtt), Some(now + ms(65)));
        assert_eq!(m.due(now + ms(65), rtt), [11]);
        assert!(m.due(now + PATIENCE, rtt).is_empty() && m.deadline(rtt).is_none());
    }

    #[test]
    fn on_a_lossy_path_one_asking_does_not_wait_for_the_other_to_fail() {
        let (now, rtt) = (Instant::now(), ms(50));
        let mut m = Missing::default();
        for n in (0..400).filter(|n| n % 10 != 3) {
            m.came(n, now);
            m.due(now, rtt);
        }
        assert!((0.05..0.15).contains(&m.lost), "{}", m.lost);
        m.list.clear();
        m.came(401, now);
        assert_eq!((m.due(now + ms(5), rtt), m.due(now + ms(30), rtt)), (vec![400], vec![400]));
    }

    #[test]
    fn a_great_gap_is_left_to_a_key_frame() {
        let now = Instant::now();
        let mut m = Missing::default();
        m.came(10, now);
        m.came(10 + MISSING + 1, now);
        assert!(m.due(now + ms(20), ms(10)).is_empty());
        for n in 1..1_000 {
            m.came(200 + n * 2, now);
        }
        assert!(m.list.len() as u64 <= MISSING);
    }

    #[test]
    fn a_picture_that_stands_still_is_counted() {
        let mut c = Cadence::default();
        let mut at = Instant::now();
        let mut after = |c: &mut Cadence, n: u64| {
            at += ms(n);
            c.frame(at)
        };
        assert_eq!((0..50).map(|_| after(&mut c, 40)).sum::<u64>(), 0);
        assert_eq!([after(&mut c, 180), after(&mut c, 400), after(&mut c, 40)], [0, 1, 0]);
        c.pause();
        assert_eq!(after(&mut c, 9_000), 0, "it was off");
    }
}
