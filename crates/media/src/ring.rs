//! What is heard before anybody speaks: the bell of a call that comes in, and the tone that tells a caller that it rings over there.

use crate::audio::{AudioError, Output, open_output};
use crate::voice::{BLOCK, RATE};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const TICK: Duration = Duration::from_millis(5);

/// Which sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// A call comes in: two notes, a breath, again.
    Bell,
    /// It rings over there: a second of 425 Hz every five (ITU-T E.180).
    Ringback,
}

impl Tone {
    /// The sample at a time since the start, -1 to 1.
    fn sample(self, at: f32) -> f32 {
        let wave = |hz: f32, t: f32| (std::f32::consts::TAU * hz * t).sin();
        match self {
            Self::Ringback => {
                let t = at % 5.0;
                // Ten milliseconds of rise and fall: no click.
                let edge = (t.min(1.0 - t) / 0.01).clamp(0.0, 1.0);
                0.08 * edge * wave(425.0, t)
            }
            Self::Bell => {
                let t = at % 3.0;
                let note = |hz: f32, from: f32| {
                    let t = t - from;
                    if t < 0.0 { 0.0 } else { (t / 0.01).min(1.0) * (-2.5 * t).exp() * (wave(hz, t) + 0.3 * wave(2.0 * hz, t)) }
                };
                0.15 * (note(659.3, 0.0) + note(880.0, 0.25))
            }
        }
    }
}

/// Sounds until it is dropped.
pub struct Ring {
    stop: Arc<AtomicBool>,
}

impl Ring {
    /// Begins. What goes wrong is logged: a call does not fail because its bell cannot be heard.
    #[must_use]
    pub fn start(tone: Tone, output: Output) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let run = move || {
            if let Err(cause) = sound(tone, &output, &stopped) {
                tracing::warn!(%cause, "the bell cannot be heard");
            }
        };
        if let Err(cause) = std::thread::Builder::new().name("secureconnect-ring".into()).spawn(run) {
            tracing::warn!(%cause, "the bell cannot be heard");
        }
        Self { stop }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn sound(tone: Tone, output: &Output, stop: &AtomicBool) -> Result<(), AudioError> {
    let mut sink = open_output(output).or_else(|_| open_output(&Output::Default))?;
    let mut n = 0u32;
    while !stop.load(Ordering::Relaxed) {
        while sink.wants(Instant::now())? {
            let mut block = [0.0; BLOCK];
            for s in &mut block {
                #[allow(clippy::cast_precision_loss)]
                let at = (n % (15 * RATE)) as f32 / RATE as f32;
                *s = tone.sample(at);
                n = n.wrapping_add(1);
            }
            sink.write(&block)?;
        }
        std::thread::sleep(TICK);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_heard_and_neither_is_too_loud_or_clicks() {
        for tone in [Tone::Bell, Tone::Ringback] {
            let x: Vec<f32> = (0..15 * RATE).map(|n| tone.sample(n as f32 / RATE as f32)).collect();
            let peak = x.iter().fold(0.0f32, |a, s| a.max(s.abs()));
            let step = x.iter().zip(x.iter().skip(1)).fold(0.0f32, |a, (s, t)| a.max((s - t).abs()));
            assert!((0.05..0.4).contains(&peak) && step < 0.06, "{tone:?}: {peak} {step}");
            assert!(x.first().is_some_and(|s| s.abs() < 0.01));
        }
    }
}
