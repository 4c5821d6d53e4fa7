//! Who speaks: from the audio level extension (RFC 6464), which stays readable when the sound is encrypted.

use std::time::{Duration, Instant};

/// Louder than this is speech, in dBov.
const SPEECH: f32 = -45.0;
/// A silence shorter than this belongs to the speech around it.
const HOLD: Duration = Duration::from_millis(700);

/// One voice.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Voice {
    /// Smoothed, 0 to 1.
    level: f32,
    loud: Option<Instant>,
    heard: Option<Instant>,
}

impl Voice {
    /// A packet of that loudness, in dBov (0 the loudest, -127 silence).
    pub(crate) fn on_packet(&mut self, dbov: i8, now: Instant) {
        let db = f32::from(dbov);
        // -45 dBov is nought, -5 is one.
        let level = ((db - SPEECH) / 40.0).clamp(0.0, 1.0);
        self.level += (level - self.level) * 0.2;
        self.heard = Some(now);
        if db > SPEECH {
            self.loud = Some(now);
        }
    }

    /// How loud it is, when it speaks.
    pub(crate) fn speaking(&self, now: Instant) -> Option<f32> {
        let recent = |at: Option<Instant>| at.is_some_and(|at| now.saturating_duration_since(at) < HOLD);
        (recent(self.loud) && recent(self.heard)).then_some(self.level)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loud_voice_speaks_a_pause_does_not_end_it_and_silence_does() {
        let start = Instant::now();
        let mut v = Voice::default();
        assert!(v.speaking(start).is_none());
        for i in 0..20 {
            v.on_packet(-20, start + Duration::from_millis(20 * i));
        }
        let now = start + Duration::from_millis(400);
        assert!(v.speaking(now).is_some_and(|l| l > 0.4));
        v.on_packet(-127, now + Duration::from_millis(300));
        assert!(v.speaking(now + Duration::from_millis(300)).is_some());
        for i in 0..50 {
            v.on_packet(-127, now + Duration::from_millis(300 + 20 * i));
        }
        assert!(v.speaking(now + Duration::from_millis(1_300)).is_none());
    }
}
