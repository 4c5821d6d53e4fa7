//! Files in the place of devices, at the pace of a device.

use super::{AudioError, Sink, Source};
use crate::voice::{BLOCK, RATE};
use std::fs::File;
use std::io::BufWriter;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest file that is played: ten minutes.
const LONGEST: u32 = RATE * 600;
const PACE: Duration = Duration::from_millis(10);

/// Counts blocks that are due.
struct Clock {
    next: Option<Instant>,
}

impl Clock {
    fn due(&mut self, now: Instant) -> bool {
        let next = *self.next.get_or_insert(now);
        if now < next {
            return false;
        }
        // Behind by more than a tenth of a second (the machine slept): what is missed is not made up for.
        self.next = Some(if now - next > 10 * PACE { now + PACE } else { next + PACE });
        true
    }
}

/// Plays a file, then silence.
pub struct Player {
    samples: std::vec::IntoIter<f32>,
    clock: Clock,
}

fn unusable(e: impl std::fmt::Display) -> AudioError {
    AudioError::File(e.to_string())
}

impl Player {
    /// A WAV file of 48 kHz, mono or stereo, at most ten minutes.
    pub fn open(path: &Path) -> Result<Self, AudioError> {
        let reader = hound::WavReader::open(path).map_err(unusable)?;
        let spec = reader.spec();
        if spec.sample_rate != RATE || !(1..=2).contains(&spec.channels) || reader.duration() > LONGEST {
            return Err(unusable("it has to be mono or stereo, 48 kHz, and at most ten minutes long"));
        }
        let samples: Result<Vec<f32>, hound::Error> = match spec.sample_format {
            hound::SampleFormat::Float => reader.into_samples::<f32>().collect(),
            hound::SampleFormat::Int => {
                #[allow(clippy::cast_precision_loss)]
                let full = (1i64 << (spec.bits_per_sample.clamp(8, 32) - 1)) as f32;
                #[allow(clippy::cast_precision_loss)]
                reader.into_samples::<i32>().map(|s| s.map(|s| s as f32 / full)).collect()
            }
        };
        let samples = samples.map_err(unusable)?;
        let channels = usize::from(spec.channels);
        #[allow(clippy::cast_precision_loss)]
        let mono: Vec<f32> = samples.chunks_exact(channels).map(|c| c.iter().sum::<f32>() / channels as f32).collect();
        Ok(Self { samples: mono.into_iter(), clock: Clock { next: None } })
    }

    /// Nothing but silence.
    #[must_use]
    pub fn silence() -> Self {
        Self { samples: Vec::new().into_iter(), clock: Clock { next: None } }
    }
}

impl Source for Player {
    fn read(&mut self, block: &mut [f32; BLOCK], now: Instant) -> Result<bool, AudioError> {
        if !self.clock.due(now) {
            return Ok(false);
        }
        block.fill_with(|| self.samples.next().unwrap_or(0.0));
        Ok(true)
    }
}

/// Writes what it is given to a file, or nowhere.
pub struct Recorder {
    file: Option<hound::WavWriter<BufWriter<File>>>,
    clock: Clock,
}

impl Recorder {
    /// A WAV file, mono, 48 kHz, 16 bit.
    pub fn create(path: &Path) -> Result<Self, AudioError> {
        let spec = hound::WavSpec { channels: 1, sample_rate: RATE, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
        let file = hound::WavWriter::create(path, spec).map_err(unusable)?;
        Ok(Self { file: Some(file), clock: Clock { next: None } })
    }

    /// Nobody listens.
    #[must_use]
    pub fn nothing() -> Self {
        Self { file: None, clock: Clock { next: None } }
    }
}

impl Sink for Recorder {
    fn wants(&mut self, now: Instant) -> Result<bool, AudioError> {
        Ok(self.clock.due(now))
    }

    fn write(&mut self, block: &[f32; BLOCK]) -> Result<(), AudioError> {
        if let Some(file) = &mut self.file {
            for s in block {
                #[allow(clippy::cast_possible_truncation)]
                file.write_sample((s.clamp(-1.0, 1.0) * 32_767.0) as i16).map_err(unusable)?;
            }
        }
        Ok(())
    }
}
