//! How long to wait: the delay within which nearly all packets come.
//!
//! The earliest packets of the last seconds show the path without waiting; how much later the others come goes into a
//! histogram that forgets. Its 96th percentile is the delay to keep (after NetEQ's delay manager, WebRTC).

const STEP_MS: f64 = 5.0;
const BINS: usize = 120;
const QUANTILE: f64 = 0.96;
const FORGET: f64 = 0.998;
/// The base is the minimum over one to two of these.
const WINDOW_MS: f64 = 4_000.0;

/// Estimates the delay to keep.
#[derive(Debug, Clone)]
pub struct Delay {
    bins: [f64; BINS],
    now: f64,
    before: f64,
    turn: f64,
}

impl Default for Delay {
    fn default() -> Self {
        let mut bins = [0.0; BINS];
        // Before anything is known: most packets within 20 ms.
        for (b, share) in bins.iter_mut().zip([0.55, 0.2, 0.1, 0.1, 0.05]) {
            *b = share;
        }
        Self { bins, now: f64::INFINITY, before: f64::INFINITY, turn: f64::NEG_INFINITY }
    }
}

impl Delay {
    /// A packet with samples from `media_ms` on came at `at_ms`.
    pub fn arrived(&mut self, media_ms: f64, at_ms: f64) {
        let transit = at_ms - media_ms;
        if at_ms - self.turn > WINDOW_MS {
            self.turn = at_ms;
            self.before = self.now;
            self.now = f64::INFINITY;
        }
        self.now = self.now.min(transit);
        let late = (transit - self.base().unwrap_or(transit)).max(0.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let bin = ((late / STEP_MS) as usize).min(BINS - 1);
        for b in &mut self.bins {
            *b *= FORGET;
        }
        if let Some(b) = self.bins.get_mut(bin) {
            *b += 1.0 - FORGET;
        }
    }

    /// Transit time of the earliest packets, in the clock's terms; `None` before the first.
    #[must_use]
    pub fn base(&self) -> Option<f64> {
        let base = self.now.min(self.before);
        base.is_finite().then_some(base)
    }

    /// Milliseconds after the base within which nearly all packets come.
    #[must_use]
    pub fn spread(&self) -> f64 {
        let total: f64 = self.bins.iter().sum();
        let mut sum = 0.0;
        for (i, b) in self.bins.iter().enumerate() {
            sum += b;
            if sum >= QUANTILE * total {
                #[allow(clippy::cast_precision_loss)]
                return i as f64 * STEP_MS;
            }
        }
        STEP_MS * 120.0
    }

    /// The path is another one.
    pub fn forget(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(jitter: impl Fn(u32) -> f64) -> Delay {
        let mut d = Delay::default();
        for i in 0..2_000 {
            let sent = f64::from(i) * 20.0;
            d.arrived(sent, sent + 70.0 + jitter(i));
        }
        d
    }

    #[test]
    fn a_steady_path_needs_no_waiting() {
        let d = run(|_| 0.0);
        assert!((d.base().unwrap_or(0.0) - 70.0).abs() < 0.01);
        assert!(d.spread() < 5.1, "{}", d.spread());
    }

    #[test]
    fn waiting_covers_all_but_the_rarest() {
        let d = run(|i| f64::from(i % 20) * 3.0);
        assert!((45.0..=60.0).contains(&d.spread()), "{}", d.spread());
        let rare = run(|i| if i % 100 == 0 { 300.0 } else { 0.0 });
        assert!(rare.spread() <= 10.0, "{}", rare.spread());
    }

    #[test]
    fn a_path_that_becomes_longer_becomes_the_base() {
        let d = run(|i| if i > 1_000 { 100.0 } else { 0.0 });
        assert!((d.base().unwrap_or(0.0) - 170.0).abs() < 0.01);
    }
}
