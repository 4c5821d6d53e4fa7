//! How much a path carries, from what became of each packet. Without I/O; the sender's clock is an input, the receiver's appears only in
//! differences.
//!
//! A path that is asked for more than it carries keeps packets waiting before it loses them. So the first sign is the queue: how much
//! longer than the shortest of the last ten seconds the quickest packet of a report took. Loss says less: a radio loses without being
//! full. A loss that stays when less is sent is the path's own, and nothing is given up for it.
//!
//! | what is seen | what follows |
//! |---|---|
//! | a queue of more than [`FULL`] | 85 % of what arrived, then a pause |
//! | more loss than the path's own and [`LOSS`] | less by half of the loss, then a pause |
//! | neither | more, by half in a second until the first queue, then by a fifth, and by a twelfth just after one; at most half more than what arrived |

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A queue of this length is a full path.
const FULL: f64 = 0.060;
/// Below this it is an empty one.
const EMPTY: f64 = 0.030;
/// A share of lost packets that is nothing yet.
const LOSS: f64 = 0.12;
/// After less was sent, until it shows.
const PAUSE: Duration = Duration::from_millis(400);
/// What is arriving, over this long.
const WINDOW: Duration = Duration::from_secs(1);
/// What is lost, over this long: losses come in bursts.
const LOSSES: Duration = Duration::from_secs(3);
/// After a queue it is filled carefully for so long.
const CAREFUL: Duration = Duration::from_secs(4);
/// The quickest packet is remembered so long, in so many parts: a path may become another.
const PART: Duration = Duration::from_secs(2);
const PARTS: u32 = 5;
/// Packets that say something about loss.
const ENOUGH: usize = 20;
/// Reductions in vain, until a loss is taken for the path's own.
const IN_VAIN: u32 = 2;
/// Reductions without a shorter queue, until the way is taken for a longer one.
const LONGER: u32 = 8;

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fate {
    /// When it left.
    pub left: Instant,
    /// When it arrived, on the other side's clock; nothing when it did not.
    pub arrived: Option<Duration>,
    /// Bytes.
    pub size: usize,
}

/// The estimate.
pub struct Estimator {
    target: f64,
    least: f64,
    most: f64,
    start: Option<Instant>,
    /// The quickest packet of each part of the last seconds, and when the part began.
    quickest: VecDeque<(Instant, f64)>,
    lately: VecDeque<(Instant, usize, bool)>,
    pause: Option<Instant>,
    told: Option<Instant>,
    /// When there was a queue.
    met: Option<Instant>,
    /// The share of packets the path loses by itself.
    own: f64,
    /// The loss when less was sent for it, and how often that was in vain.
    vain: (f64, u32),
    /// The queue when less was sent for it, and how often that was.
    full: (f64, u32),
}

impl Estimator {
    /// Begins with `first`, and stays between `least` and `most`; bits a second.
    #[must_use]
    pub fn new(first: f64, least: f64, most: f64) -> Self {
        Self {
            target: first.clamp(least, most),
            least,
            most,
            start: None,
            quickest: VecDeque::new(),
            lately: VecDeque::new(),
            pause: None,
            told: None,
            met: None,
            own: 0.0,
            vain: (0.0, 0),
            full: (0.0, 0),
        }
    }

    /// Bits a second.
    #[must_use]
    pub fn target(&self) -> f64 {
        self.target
    }

    /// A report came.
    pub fn on_report(&mut self, now: Instant, fates: impl IntoIterator<Item = Fate>) {
        let mut least: Option<f64> = None;
        for f in fates {
            let start = *self.start.get_or_insert(f.left);
            self.lately.push_back((now, f.size, f.arrived.is_some()));
            if let Some(arrived) = f.arrived {
                // Reports may come in another order than packets left.
                let left = f.left.saturating_duration_since(start).as_secs_f64() - start.saturating_duration_since(f.left).as_secs_f64();
                let took = arrived.as_secs_f64() - left;
                least = Some(least.map_or(took, |l| l.min(took)));
            }
        }
        while self.lately.front().is_some_and(|(at, ..)| now.saturating_duration_since(*at) > LOSSES) {
            self.lately.pop_front();
        }
        let queue = least.map(|took| took - self.remember(now, took));
        let since = self.told.replace(now).map_or(Duration::ZERO, |t| now.saturating_duration_since(t));
        self.settle(now, queue, since.min(WINDOW).as_secs_f64());
    }

    /// The shortest way of the last seconds, this one among them.
    fn remember(&mut self, now: Instant, took: f64) -> f64 {
        match self.quickest.back_mut() {
            Some((since, least)) if now.saturating_duration_since(*since) < PART => *least = least.min(took),
            _ => self.quickest.push_back((now, took)),
        }
        // By time, not by number: between two pictures there may be minutes, and clocks drift.
        while self.quickest.front().is_some_and(|(since, _)| now.saturating_duration_since(*since) > PART * PARTS) {
            self.quickest.pop_front();
        }
        self.quickest.iter().fold(took, |a, (_, b)| a.min(*b))
    }

    /// Share of packets that were lost lately, when there were enough to say.
    fn loss(&self) -> Option<f64> {
        let lost = self.lately.iter().filter(|(.., arrived)| !arrived).count();
        (self.lately.len() >= ENOUGH).then(|| lost as f64 / self.lately.len() as f64)
    }

    /// Bits a second that arrived lately.
    fn arriving(&self, now: Instant) -> f64 {
        let lately = || self.lately.iter().filter(|(at, ..)| now.saturating_duration_since(*at) <= WINDOW);
        let bytes: usize = lately().filter(|(.., arrived)| *arrived).map(|(_, size, _)| size).sum();
        let since = lately().next().map_or(Duration::ZERO, |(at, ..)| now.saturating_duration_since(*at));
        bytes as f64 * 8.0 / since.as_secs_f64().max(0.3)
    }

    fn settle(&mut self, now: Instant, queue: Option<f64>, since: f64) {
        let arriving = self.arriving(now);
        let loss = self.loss();
        if let Some(loss) = loss {
            // A better path is noticed, a moment of luck is not.
            self.own = self.own.min(loss + 0.05);
        }
        let free = self.pause.is_none_or(|until| now >= until);
        let lossy = loss.filter(|l| *l > self.own + LOSS);
        if let Some(queue) = queue.filter(|q| *q > FULL) {
            self.met = Some(now);
            if free {
                self.longer(queue);
                self.lower(now, arriving.min(self.target) * 0.85);
            }
        } else if let Some(loss) = lossy {
            if free {
                self.blame(loss);
                self.lower(now, self.target * (1.0 - loss / 2.0));
            }
        } else if free && queue.is_some_and(|q| q < EMPTY) {
            (self.vain.1, self.full.1) = (0, 0);
            let pace = match self.met {
                None => 2.0,
                Some(at) if now.saturating_duration_since(at) < CAREFUL => 12.0,
                Some(_) => 5.0,
            };
            let more = self.target * since / pace;
            // What is not sent is not measured.
            let limit = (arriving * 1.5 + 50_000.0).max(self.target);
            self.target = (self.target + more).min(limit).clamp(self.least, self.most);
        }
    }

    /// A loss that stays however little is sent belongs to the path.
    fn blame(&mut self, loss: f64) {
        let (before, times) = self.vain;
        let times = if times > 0 && loss > before * 0.7 { times + 1 } else { 1 };
        self.vain = (loss, times);
        if times > IN_VAIN {
            (self.own, self.vain.1) = (loss, 0);
        }
    }

    /// A queue that stays however little is sent is none: packets go another way.
    fn longer(&mut self, queue: f64) {
        let (first, times) = self.full;
        self.full = if times == 0 { (queue, 1) } else { (first, times + 1) };
        if times >= LONGER && queue > first * 0.8 {
            self.quickest.clear();
            self.full.1 = 0;
        }
    }

    fn lower(&mut self, now: Instant, to: f64) {
        self.target = to.clamp(self.least, self.most);
        self.pause = Some(now + PAUSE);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha8Rng;
    use rand_chacha::rand_core::{RngCore as _, SeedableRng as _};

    /// A path in virtual time: so many bits a second, a queue of at most half a second, a delay with jitter, and loss.
    struct Path {
        rate: f64,
        loss: f64,
        free: f64,
        random: ChaCha8Rng,
    }

    impl Path {
        fn new(rate: f64, loss: f64) -> Self {
            Self { rate, loss, free: 0.0, random: ChaCha8Rng::seed_from_u64(7) }
        }

        fn chance(&mut self) -> f64 {
            f64::from(self.random.next_u32()) / f64::from(u32::MAX)
        }

        /// Seconds of a sender that sends 25 frames a second as its estimate says; gives back the mean estimate and the mean queue.
        fn run(&mut self, e: &mut Estimator, start: Instant, from: f64, seconds: f64) -> (f64, f64) {
            let (mut reports, mut sum, mut waits, mut n) = (VecDeque::new(), 0.0, 0.0, 0.0);
            let mut t = from;
            while t < from + seconds {
                let mut fates = Vec::new();
                for f in 0..3 {
                    let at = t + f64::from(f) * 0.04;
                    let packets = (e.target() / 8.0 / 25.0 / 1_000.0).max(1.0).round();
                    let size = (e.target() / 8.0 / 25.0 / packets).max(50.0);
                    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
                    for _ in 0..packets as u32 {
                        let begins = self.free.max(at);
                        let full = begins - at > 0.5;
                        let lost = full || self.chance() < self.loss;
                        if !full {
                            self.free = begins + size * 8.0 / self.rate;
                        }
                        let arrived = self.free + 0.03 + self.chance() * 0.01;
                        waits += self.free - at;
                        n += 1.0;
                        let left = start + Duration::from_secs_f64(at);
                        fates.push(Fate { left, arrived: (!lost).then(|| Duration::from_secs_f64(arrived)), size: size as usize });
                    }
                }
                // A report every 120 ms, heard 60 ms later.
                reports.push_back((t + 0.18, fates));
                t += 0.12;
                while reports.front().is_some_and(|(at, _)| *at <= t) {
                    let (at, fates) = reports.pop_front().unwrap();
                    e.on_report(start + Duration::from_secs_f64(at), fates);
                }
                sum += e.target() * 0.12;
            }
            (sum / seconds, waits / n)
        }
    }

    fn fresh() -> Estimator {
        Estimator::new(400_000.0, 80_000.0, 1_500_000.0)
    }

    #[test]
    fn a_wide_path_is_found_to_be_wide_whatever_it_loses() {
        for loss in [0.0, 0.05, 0.1, 0.2] {
            let (mut e, start) = (fresh(), Instant::now());
            let mut path = Path::new(10_000_000.0, loss);
            path.run(&mut e, start, 0.0, 15.0);
            let (mean, _) = path.run(&mut e, start, 15.0, 45.0);
            assert!(mean > if loss > 0.15 { 300_000.0 } else { 900_000.0 }, "{loss}: {mean}");
        }
    }

    #[test]
    fn a_narrow_path_is_filled_and_not_flooded() {
        for (rate, loss) in [(250_000.0, 0.0), (600_000.0, 0.0), (600_000.0, 0.05)] {
            let (mut e, start) = (fresh(), Instant::now());
            let mut path = Path::new(rate, loss);
            path.run(&mut e, start, 0.0, 10.0);
            let (mean, queue) = path.run(&mut e, start, 10.0, 50.0);
            assert!(mean > rate * 0.6 && mean < rate * 1.1, "{rate} {loss}: {mean}");
            assert!(queue < 0.12, "{rate} {loss}: a queue of {queue} s");
        }
    }

    #[test]
    fn a_path_that_becomes_narrow_is_followed_within_three_seconds_and_back() {
        let (mut e, start) = (fresh(), Instant::now());
        let mut path = Path::new(1_200_000.0, 0.0);
        path.run(&mut e, start, 0.0, 20.0);
        path.rate = 200_000.0;
        path.run(&mut e, start, 20.0, 3.0);
        let (mean, queue) = path.run(&mut e, start, 23.0, 10.0);
        assert!(mean < 220_000.0 && queue < 0.2, "{mean} {queue}");
        path.rate = 1_200_000.0;
        path.run(&mut e, start, 33.0, 20.0);
        assert!(e.target() > 700_000.0, "{}", e.target());
    }

    #[test]
    fn a_longer_way_is_not_taken_for_a_queue_for_ever() {
        let (mut e, start) = (fresh(), Instant::now());
        let mut path = Path::new(5_000_000.0, 0.0);
        path.run(&mut e, start, 0.0, 10.0);
        // The same packets, 200 ms later: as through a relay on the other side of the world.
        let mut t = 10.0;
        while t < 30.0 {
            let at = |ms: f64| Duration::from_secs_f64(t + ms / 1_000.0);
            let fates = (0..12).map(|i| Fate { left: start + at(f64::from(i)), arrived: Some(at(240.0 + f64::from(i))), size: 1_000 });
            e.on_report(start + at(300.0), fates);
            t += 0.1;
        }
        assert!(e.target() > 600_000.0, "{}", e.target());
    }

    #[test]
    fn nothing_and_nonsense_are_taken() {
        let (mut e, now) = (fresh(), Instant::now());
        e.on_report(now, []);
        let odd = Fate { left: now + Duration::from_secs(9), arrived: Some(Duration::MAX), size: 1 << 40 };
        e.on_report(now, [odd, Fate { left: now, arrived: Some(Duration::ZERO), ..odd }, Fate { arrived: None, ..odd }]);
        assert!((80_000.0..=1_500_000.0).contains(&e.target()));
    }
}
