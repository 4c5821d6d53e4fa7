//! Several voices in one ear: a receiver for each, added up.

use super::opus::OpusError;
use super::{BLOCK, Packet, VoiceReceiver, VoiceStats};
use std::collections::HashMap;

/// Who speaks. One voice in a call of two: any number will do.
pub type VoiceId = u32;

/// Voices at most; packets of others are passed over.
const VOICES: usize = 256;

/// Every voice that is heard.
#[derive(Default)]
pub struct Mixer {
    voices: HashMap<VoiceId, VoiceReceiver>,
    /// Of those that are gone.
    before: VoiceStats,
}

impl Mixer {
    /// A packet of somebody's came.
    pub fn insert(&mut self, from: VoiceId, packet: &Packet, now_ms: f64) -> Result<(), OpusError> {
        if !self.voices.contains_key(&from) {
            if self.voices.len() >= VOICES {
                return Ok(());
            }
            self.voices.insert(from, VoiceReceiver::new()?);
        }
        if let Some(v) = self.voices.get_mut(&from) {
            v.insert(packet.red, packet.timestamp, &packet.payload, now_ms);
        }
        Ok(())
    }

    /// Somebody is gone.
    pub fn remove(&mut self, from: VoiceId) {
        if let Some(v) = self.voices.remove(&from) {
            self.before = self.before.plus(v.stats());
        }
    }

    /// The next 10 ms of everybody. A voice that cannot be decoded is left out; the first such fault is returned.
    pub fn pull(&mut self, out: &mut [f32; BLOCK], now_ms: f64) -> Result<(), OpusError> {
        out.fill(0.0);
        let mut fault = Ok(());
        let mut one = [0.0; BLOCK];
        for v in self.voices.values_mut() {
            match v.pull(&mut one, now_ms) {
                Ok(_) => out.iter_mut().zip(&one).for_each(|(o, s)| *o += s),
                Err(e) => fault = fault.and(Err(e)),
            }
        }
        if self.voices.len() > 1 {
            out.iter_mut().for_each(|s| *s = limit(*s));
        }
        fault
    }

    /// How loud the loudest is.
    #[must_use]
    pub fn level(&self) -> f32 {
        self.voices.values().map(VoiceReceiver::level).fold(0.0, f32::max)
    }

    /// The share of frames that did not come, of the one who is worst off.
    #[must_use]
    pub fn loss(&self) -> f32 {
        self.voices.values().map(VoiceReceiver::loss).fold(0.0, f32::max)
    }

    /// Counts of all voices together; of their delays the longest.
    #[must_use]
    pub fn stats(&self) -> VoiceStats {
        self.voices.values().map(VoiceReceiver::stats).fold(self.before, VoiceStats::plus)
    }
}

/// Up to three quarters as it is; above, ever less, and never beyond one.
fn limit(s: f32) -> f32 {
    const KNEE: f32 = 0.75;
    let over = s.abs() - KNEE;
    if over <= 0.0 { s } else { (KNEE + (1.0 - KNEE) * (over / (1.0 - KNEE)).tanh()).copysign(s) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::voice::{FRAME, Protection, VoiceSender};

    fn tone(hz: f32) -> impl FnMut() -> [f32; BLOCK] {
        let mut n = 0.0f32;
        move || {
            std::array::from_fn(|_| {
                n += 1.0;
                0.4 * (std::f32::consts::TAU * hz * n / 48_000.0).sin()
            })
        }
    }

    fn strength(samples: &[f32], hz: f32) -> f32 {
        let (mut re, mut im, mut n) = (0.0f32, 0.0f32, 0.0f32);
        for s in samples {
            let w = std::f32::consts::TAU * hz * n / 48_000.0;
            re += s * w.cos();
            im += s * w.sin();
            n += 1.0;
        }
        (re * re + im * im).sqrt() * 2.0 / n
    }

    #[test]
    fn two_who_speak_at_once_are_both_heard_and_never_too_loud() {
        let mut mixer = Mixer::default();
        let mut voices = [(0, 440.0), (1, 1_000.0)].map(|(id, hz)| (VoiceSender::new(Protection::Copies).unwrap(), id, tone(hz)));
        let mut heard = Vec::new();
        for step in 0..200 {
            let now = f64::from(step) * 10.0;
            for (sender, id, tone) in &mut voices {
                if let Some(p) = sender.push(&tone()).unwrap() {
                    mixer.insert(*id, &p, now).unwrap();
                }
            }
            let mut block = [0.0; BLOCK];
            mixer.pull(&mut block, now).unwrap();
            heard.extend(block);
        }
        let end = heard.split_at(heard.len() - 20 * FRAME).1;
        assert!(strength(end, 440.0) > 0.2 && strength(end, 1_000.0) > 0.2);
        assert!(end.iter().all(|s| s.abs() <= 1.0));
        let counted = mixer.stats().received;
        mixer.remove(0);
        assert_eq!(mixer.stats().received, counted, "what was heard of somebody who left still counts");
    }
}
