//! What makes a microphone in a room bearable: echo cancellation, noise suppression, an even level, no rumble.

use crate::voice::{BLOCK, RATE};
use sonora::config::{AdaptiveDigital, EchoCanceller, GainController2, HighPassFilter, NoiseSuppression};
use sonora::{AudioProcessing, Config, StreamConfig};

/// Works on both directions of one call.
pub struct Processor(AudioProcessing);

impl Default for Processor {
    fn default() -> Self {
        // Slow and from nothing: a voice that is loud enough stays as it is.
        let gain =
            AdaptiveDigital { initial_gain_db: 0.0, max_gain_db: 30.0, max_gain_change_db_per_second: 3.0, ..AdaptiveDigital::default() };
        let config = Config {
            echo_canceller: Some(EchoCanceller::default()),
            noise_suppression: Some(NoiseSuppression::default()),
            gain_controller2: Some(GainController2 { adaptive_digital: Some(gain), ..GainController2::default() }),
            high_pass_filter: Some(HighPassFilter::default()),
            ..Config::default()
        };
        let stream = StreamConfig::new(RATE, 1);
        Self(AudioProcessing::builder().config(config).capture_config(stream).render_config(stream).build())
    }
}

impl Processor {
    /// What is about to be played: the echo to expect.
    pub fn render(&mut self, block: &[f32; BLOCK]) {
        let mut out = [0.0; BLOCK];
        if let Err(cause) = self.0.process_render_f32(&[block], &mut [&mut out]) {
            tracing::warn!(?cause, "the echo canceller did not take a block");
        }
    }

    /// Cleans what the microphone gave. When that fails, the block stays as it is.
    pub fn capture(&mut self, block: &mut [f32; BLOCK]) {
        let mut out = [0.0; BLOCK];
        match self.0.process_capture_f32(&[block.as_slice()], &mut [&mut out]) {
            Ok(()) => *block = out,
            Err(cause) => tracing::warn!(?cause, "a block could not be cleaned"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng as _, SeedableRng as _};

    /// Something like speech: syllables of noise through a slow filter.
    fn syllables(seed: u64, level: f32) -> impl FnMut() -> [f32; BLOCK] {
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let (mut n, mut low) = (0usize, 0.0f32);
        move || {
            let mut block = [0.0; BLOCK];
            for s in &mut block {
                n += 1;
                low += 0.15 * (rng.gen_range(-1.0..1.0) - low);
                *s = level * low * (n as f32 / 9_000.0).sin().abs().powi(2);
            }
            block
        }
    }

    fn power(block: &[f32; BLOCK]) -> f64 {
        block.iter().map(|s| f64::from(s * s)).sum()
    }

    #[test]
    fn the_echo_of_what_is_played_does_not_go_back() {
        let mut p = Processor::default();
        let (mut far, mut delayed) = (syllables(1, 0.6), std::collections::VecDeque::from(vec![[0.0; BLOCK]; 6]));
        let (mut before, mut after) = (0.0, 0.0);
        for i in 0..800 {
            let played = far();
            p.render(&played);
            delayed.push_back(played);
            let mut heard = delayed.pop_front().unwrap_or([0.0; BLOCK]).map(|s| 0.4 * s);
            let raw = power(&heard);
            p.capture(&mut heard);
            if i > 400 {
                before += raw;
                after += power(&heard);
            }
        }
        let db = 10.0 * (before / after.max(1e-12)).log10();
        assert!(db > 25.0, "only {db:.1} dB of the echo are gone");
    }

    #[test]
    fn a_loud_voice_stays_and_is_not_taken_for_noise() {
        let mut p = Processor::default();
        let mut voice = syllables(2, 1.0);
        let (mut before, mut after) = (0.0, 0.0);
        for i in 0..600 {
            p.render(&[0.0; BLOCK]);
            let mut block = voice();
            let raw = power(&block);
            p.capture(&mut block);
            if i > 200 {
                before += raw;
                after += power(&block);
            }
        }
        let db = 10.0 * (after / before).log10();
        assert!(db > -6.0, "{db:.1} dB");
    }
}
