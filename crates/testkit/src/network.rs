//! A seeded network: what happens to a packet on its way. Time is an argument, so it serves virtual and real clocks alike.
//!
//! Losses come in bursts (Gilbert and Elliott's two states), delays wander, a rate limit has a queue that fills up, and there may
//! be blackouts. The same seed and the same packets give the same fate.

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use std::ops::Range;

/// What a path is like. The default is a perfect one.
#[derive(Clone, Debug, Default)]
pub struct Path {
    /// One way, in milliseconds.
    pub delay_ms: f64,
    /// Mean of what is added to it, in milliseconds (exponential, so that a few packets are very late).
    pub jitter_ms: f64,
    /// Share of packets lost, 0 to 1.
    pub loss: f64,
    /// Mean length of a burst of losses, in packets; below 1 is taken for 1.
    pub burst: f64,
    /// Share of packets that overtake others; otherwise order is kept.
    pub reorder: f64,
    /// Share of packets that come twice.
    pub duplicate: f64,
    /// Bits per millisecond that pass; 0 for no limit.
    pub rate: f64,
    /// What the queue before the limit holds, in milliseconds.
    pub queue_ms: f64,
    /// When nothing passes, in milliseconds.
    pub blackouts: Vec<Range<f64>>,
}

impl Path {
    /// Losses in bursts, 20 ms away, with a little jitter.
    #[must_use]
    pub fn lossy(loss: f64, burst: f64) -> Self {
        Self { delay_ms: 20.0, jitter_ms: 2.0, loss, burst, ..Self::default() }
    }
}

/// One direction of a path.
pub struct Channel {
    path: Path,
    rng: ChaCha8Rng,
    bad: bool,
    free_at: f64,
    last: f64,
}

impl Channel {
    /// A path with its fate.
    #[must_use]
    pub fn new(path: Path, seed: u64) -> Self {
        Self { path, rng: ChaCha8Rng::seed_from_u64(seed), bad: false, free_at: f64::NEG_INFINITY, last: f64::NEG_INFINITY }
    }

    /// When a packet that is sent at `now_ms` arrives: never, once, or twice.
    pub fn send(&mut self, now_ms: f64, bytes: usize) -> Vec<f64> {
        if self.lost() || self.path.blackouts.iter().any(|b| b.contains(&now_ms)) {
            return Vec::new();
        }
        let mut at = now_ms;
        if self.path.rate > 0.0 {
            let start = self.free_at.max(now_ms);
            if start - now_ms > self.path.queue_ms {
                return Vec::new();
            }
            #[allow(clippy::cast_precision_loss)]
            let bits = (bytes * 8) as f64;
            self.free_at = start + bits / self.path.rate;
            at = self.free_at;
        }
        at += self.path.delay_ms - self.path.jitter_ms * (1.0 - self.rng.r#gen::<f64>()).ln();
        if !self.rng.gen_bool(self.path.reorder) {
            at = at.max(self.last);
            self.last = at;
        }
        if self.rng.gen_bool(self.path.duplicate) { vec![at, at + 1.0] } else { vec![at] }
    }

    fn lost(&mut self) -> bool {
        let leave = 1.0 / self.path.burst.max(1.0);
        // In balance, the bad state holds `loss` of the packets.
        let enter = (self.path.loss * leave / (1.0 - self.path.loss).max(1e-9)).min(1.0);
        let turn = if self.bad { leave } else { enter };
        if self.rng.gen_bool(turn) {
            self.bad = !self.bad;
        }
        self.bad
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_have_their_share_and_their_length() {
        for (loss, burst) in [(0.05, 1.5), (0.2, 3.0)] {
            let mut c = Channel::new(Path { loss, burst, ..Path::default() }, 7);
            let fate: Vec<bool> = (0..100_000).map(|i| c.send(f64::from(i), 100).is_empty()).collect();
            let lost = fate.iter().filter(|l| **l).count();
            let bursts = fate.windows(2).filter(|w| *w == [false, true]).count();
            #[allow(clippy::cast_precision_loss)]
            let (share, length) = (lost as f64 / 100_000.0, lost as f64 / bursts as f64);
            assert!((share - loss).abs() < 0.01 && (length - burst).abs() < 0.15, "{share} {length}");
        }
    }

    #[test]
    fn a_full_queue_drops_and_a_blackout_lets_nothing_pass() {
        let mut c = Channel::new(Path { rate: 80.0, queue_ms: 50.0, blackouts: vec![1_000.0..2_000.0], ..Path::default() }, 1);
        let passed = (0..100).filter(|_| !c.send(0.0, 100).is_empty()).count();
        assert!((5..=7).contains(&passed), "50 ms of queue hold 5 packets of 10 ms: {passed}");
        assert!(c.send(1_500.0, 100).is_empty());
        assert_eq!(c.send(2_000.0, 100), [2_010.0]);
    }
}
