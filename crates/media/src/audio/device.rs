//! Microphones and speakers by cpal. The system's callback and our thread share a lock-free ring; the callback does nothing else.
//!
//! No error is given for a device that vanishes on some systems (PulseAudio goes on with another one, with silence, or calls no
//! more): a microphone that gives nothing for [`SILENT`] is taken for lost, and whoever uses a device looks at [`Devices`] now and
//! then.

use super::{AudioError, Sink, Source};
use crate::voice::{BLOCK, RATE};
use cpal::traits::{DeviceTrait as _, HostTrait as _, StreamTrait as _};
use cpal::{BufferSize, ErrorKind, SampleFormat, SizedSample, Stream, StreamConfig};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

const MICROPHONE: &str = "microphone";
const SPEAKER: &str = "speaker";
/// Samples a ring holds: 200 ms.
const RING: usize = 20 * BLOCK;
/// Samples that wait for the speaker's next callback; more when it found too few, up to the last.
const AHEAD: std::ops::RangeInclusive<usize> = BLOCK * 5 / 4..=4 * BLOCK;
/// How many more.
const MORE: usize = BLOCK / 4;
const SILENT: Duration = Duration::from_secs(2);
const OPENING: Duration = Duration::from_secs(3);

/// A device as a person chooses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// The system's id for it; stays the same.
    pub id: String,
    /// The system's name for it.
    pub name: String,
    /// The system prefers it.
    pub preferred: bool,
}

/// What there is, of both sorts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// To speak into.
    pub microphones: Vec<Device>,
    /// To hear with.
    pub speakers: Vec<Device>,
}

impl Devices {
    /// What there is right now. Asks the system: not for a thread that must not wait.
    #[must_use]
    pub fn now() -> Self {
        let host = cpal::default_host();
        Self { microphones: list(&host, true), speakers: list(&host, false) }
    }
}

fn list(host: &cpal::Host, input: bool) -> Vec<Device> {
    let preferred = if input { host.default_input_device() } else { host.default_output_device() };
    let preferred = preferred.and_then(|d| d.id().ok());
    let describe = |d: cpal::Device| {
        let id = d.id().ok()?;
        let name = d.description().ok()?.name().to_owned();
        (!(input && is_monitor(&id.to_string()))).then(|| Device { preferred: preferred.as_ref() == Some(&id), id: id.to_string(), name })
    };
    let found: Result<Vec<Device>, cpal::Error> = if input {
        host.input_devices().map(|l| l.filter_map(describe).collect())
    } else {
        host.output_devices().map(|l| l.filter_map(describe).collect())
    };
    found.unwrap_or_else(|cause| {
        tracing::warn!(%cause, "the sound devices could not be listed");
        Vec::new()
    })
}

fn find(id: Option<&str>, input: bool) -> Result<cpal::Device, AudioError> {
    let host = cpal::default_host();
    let device = match id {
        Some(id) => id.parse().ok().and_then(|id| host.device_by_id(&id)),
        // Without a microphone, the system may prefer what it plays itself: that would be an echo.
        None if input => {
            let preferred = host.default_input_device().filter(|d| !is_monitor(&id_of(d)));
            preferred.or_else(|| host.input_devices().ok()?.find(|d| !is_monitor(&id_of(d))))
        }
        None => host.default_output_device(),
    };
    device.ok_or(AudioError::NoDevice(if input { MICROPHONE } else { SPEAKER }))
}

/// What is played, to be heard again (PulseAudio).
fn is_monitor(id: &str) -> bool {
    id.ends_with(".monitor")
}

fn id_of(device: &cpal::Device) -> String {
    device.id().map(|id| id.to_string()).unwrap_or_default()
}

fn trouble(what: &'static str, e: &cpal::Error) -> AudioError {
    match e.kind() {
        ErrorKind::PermissionDenied => AudioError::Denied(what),
        ErrorKind::DeviceNotAvailable | ErrorKind::HostUnavailable => AudioError::NoDevice(what),
        _ => AudioError::Device(what, e.to_string()),
    }
}

/// The flag that the stream's error callback raises.
fn watch(what: &'static str, lost: &Arc<AtomicBool>) -> impl FnMut(cpal::Error) + Send + 'static {
    let lost = lost.clone();
    move |e| match e.kind() {
        ErrorKind::Xrun => tracing::debug!(what, "samples were lost"),
        ErrorKind::DeviceChanged | ErrorKind::RealtimeDenied => tracing::info!(what, cause = %e, "the sound device changed"),
        _ => {
            tracing::warn!(what, cause = %e, "the sound device stopped");
            lost.store(true, Ordering::Relaxed);
        }
    }
}

/// 48 kHz, as few channels as there can be, 10 ms.
fn config(device: &cpal::Device, input: bool, what: &'static str) -> Result<(StreamConfig, SampleFormat), AudioError> {
    let ranges: Vec<cpal::SupportedStreamConfigRange> = if input {
        device.supported_input_configs().map_err(|e| trouble(what, &e))?.collect()
    } else {
        device.supported_output_configs().map_err(|e| trouble(what, &e))?.collect()
    };
    let usable = |r: &&cpal::SupportedStreamConfigRange| {
        matches!(r.sample_format(), SampleFormat::F32 | SampleFormat::I16) && r.min_sample_rate() <= RATE && RATE <= r.max_sample_rate()
    };
    let best = ranges.iter().filter(usable).min_by_key(|r| (r.sample_format() != SampleFormat::F32, r.channels()));
    let best = best.ok_or_else(|| AudioError::Device(what, "it has no mode of 48 kHz".into()))?;
    let size = BufferSize::Fixed(u32::try_from(BLOCK).unwrap_or(480));
    Ok((StreamConfig { channels: best.channels(), sample_rate: RATE, buffer_size: size }, best.sample_format()))
}

/// A microphone.
pub struct Microphone {
    _stream: Stream,
    id: String,
    ring: rtrb::Consumer<f32>,
    lost: Arc<AtomicBool>,
    heard: Option<Instant>,
    reader: Arc<OnceLock<Thread>>,
}

impl Microphone {
    /// Opens one, or the preferred one.
    pub fn open(id: Option<&str>) -> Result<Self, AudioError> {
        let device = find(id, true)?;
        let (config, format) = config(&device, true, MICROPHONE)?;
        let (to, ring) = rtrb::RingBuffer::new(RING);
        let lost = Arc::new(AtomicBool::new(false));
        let reader = Arc::new(OnceLock::new());
        let stream = match format {
            SampleFormat::I16 => Self::stream::<i16>(&device, config, to, &lost, reader.clone()),
            _ => Self::stream::<f32>(&device, config, to, &lost, reader.clone()),
        };
        let stream = stream.and_then(|s| s.play().map(|()| s)).map_err(|e| trouble(MICROPHONE, &e))?;
        Ok(Self { _stream: stream, id: id_of(&device), ring, lost, heard: None, reader })
    }

    fn stream<T: SizedSample + Into<Level>>(
        device: &cpal::Device,
        config: StreamConfig,
        mut to: rtrb::Producer<f32>,
        lost: &Arc<AtomicBool>,
        reader: Arc<OnceLock<Thread>>,
    ) -> Result<Stream, cpal::Error> {
        let channels = usize::from(config.channels);
        let callback = move |data: &[T], _: &cpal::InputCallbackInfo| {
            #[allow(clippy::cast_precision_loss)]
            for frame in data.chunks_exact(channels) {
                let sum: f32 = frame.iter().map(|s| Into::<Level>::into(*s).0).sum();
                // A full ring: nobody reads any more, and what is lost is old.
                let _ = to.push(sum / channels as f32);
            }
            if RING - to.slots() >= BLOCK
                && let Some(reader) = reader.get()
            {
                reader.unpark();
            }
        };
        device.build_input_stream(config, callback, watch(MICROPHONE, lost), Some(OPENING))
    }
}

impl Source for Microphone {
    fn read(&mut self, block: &mut [f32; BLOCK], now: Instant) -> Result<bool, AudioError> {
        let heard = *self.heard.get_or_insert(now);
        if self.lost.load(Ordering::Relaxed) || now - heard > SILENT {
            return Err(AudioError::Lost(MICROPHONE));
        }
        let Ok(chunk) = self.ring.read_chunk(BLOCK) else { return Ok(false) };
        for (to, from) in block.iter_mut().zip(chunk) {
            *to = from;
        }
        self.heard = Some(now);
        Ok(true)
    }

    fn wakes(&mut self, reader: Thread) -> bool {
        // Another reader would have to ask.
        self.reader.set(reader).is_ok()
    }

    fn device(&self) -> Option<&str> {
        Some(&self.id)
    }
}

/// A speaker.
pub struct Speaker {
    _stream: Stream,
    id: String,
    ring: rtrb::Producer<f32>,
    lost: Arc<AtomicBool>,
    /// A callback found too few samples.
    starved: Arc<AtomicBool>,
    ahead: usize,
    taken: Option<(Instant, usize)>,
}

impl Speaker {
    /// Opens one, or the preferred one.
    pub fn open(id: Option<&str>) -> Result<Self, AudioError> {
        let device = find(id, false)?;
        let (config, format) = config(&device, false, SPEAKER)?;
        let (ring, from) = rtrb::RingBuffer::new(RING);
        let lost = Arc::new(AtomicBool::new(false));
        let starved = Arc::new(AtomicBool::new(false));
        let stream = match format {
            SampleFormat::I16 => Self::stream::<i16>(&device, config, from, &lost, starved.clone()),
            _ => Self::stream::<f32>(&device, config, from, &lost, starved.clone()),
        };
        let stream = stream.and_then(|s| s.play().map(|()| s)).map_err(|e| trouble(SPEAKER, &e))?;
        Ok(Self { _stream: stream, id: id_of(&device), ring, lost, starved, ahead: *AHEAD.start(), taken: None })
    }

    fn stream<T: SizedSample + From<Level>>(
        device: &cpal::Device,
        config: StreamConfig,
        mut from: rtrb::Consumer<f32>,
        lost: &Arc<AtomicBool>,
        starved: Arc<AtomicBool>,
    ) -> Result<Stream, cpal::Error> {
        let channels = usize::from(config.channels);
        let callback = move |data: &mut [T], _: &cpal::OutputCallbackInfo| {
            if from.slots() < data.len() / channels {
                starved.store(true, Ordering::Relaxed);
            }
            for frame in data.chunks_exact_mut(channels) {
                let sample = T::from(Level(from.pop().unwrap_or(0.0)));
                frame.fill(sample);
            }
        };
        device.build_output_stream(config, callback, watch(SPEAKER, lost), Some(OPENING))
    }
}

impl Sink for Speaker {
    fn wants(&mut self, now: Instant) -> Result<bool, AudioError> {
        let waiting = RING - self.ring.slots();
        // The first callbacks come before anything was written.
        if self.starved.swap(false, Ordering::Relaxed) && self.taken.is_some() {
            self.ahead = (self.ahead + MORE).min(*AHEAD.end());
        }
        let (since, before) = *self.taken.get_or_insert((now, waiting));
        if waiting < before || waiting < self.ahead {
            self.taken = Some((now, waiting));
        } else if now - since > SILENT {
            return Err(AudioError::Lost(SPEAKER));
        }
        if self.lost.load(Ordering::Relaxed) {
            return Err(AudioError::Lost(SPEAKER));
        }
        Ok(waiting < self.ahead)
    }

    fn write(&mut self, block: &[f32; BLOCK]) -> Result<(), AudioError> {
        for s in block {
            // `wants` has seen the room.
            let _ = self.ring.push(*s);
        }
        if let Some((_, before)) = &mut self.taken {
            *before += BLOCK;
        }
        Ok(())
    }

    fn device(&self) -> Option<&str> {
        Some(&self.id)
    }
}

/// A sample between -1 and 1.
struct Level(f32);

impl From<f32> for Level {
    fn from(s: f32) -> Self {
        Self(s)
    }
}

impl From<i16> for Level {
    fn from(s: i16) -> Self {
        Self(f32::from(s) / 32_768.0)
    }
}

impl From<Level> for f32 {
    fn from(l: Level) -> Self {
        l.0
    }
}

impl From<Level> for i16 {
    fn from(l: Level) -> Self {
        #[allow(clippy::cast_possible_truncation)]
        let s = (l.0.clamp(-1.0, 1.0) * 32_767.0) as Self;
        s
    }
}
