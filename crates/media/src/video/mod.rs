//! Pictures to packets: a source of frames, VP8, and its packets.
//!
//! * [`source`]: where frames come from.
//! * [`vp8`]: the encoder (libvpx).
//! * [`packet`]: encoded frames cut to packets (RFC 7741).
//! * [`Camera`]: a thread that takes a frame, encodes it and hands it on; whoever is too slow for it gets a key frame next.

pub mod packet;
pub mod source;
pub mod vp8;

use source::{Frames, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use vp8::Encoder;

/// Frames that may wait to be sent.
const QUEUE: usize = 8;
/// The most a picture gets, in kb/s, and what it begins with: enough for 640 × 360.
const RATE: u32 = 700;
/// Below this a picture is no picture any more.
const LEAST: u32 = 80;

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VideoError {
    /// The file cannot be read, or is none of ours.
    #[error("the pictures of {0} cannot be used: {1}")]
    File(String, String),
    /// The encoder refuses.
    #[error("the encoder refuses ({0}): {1}")]
    Encoder(&'static str, u32),
}

/// A frame as it is sent, before encryption.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encoded {
    /// In 90 kHz.
    pub timestamp: u32,
    /// A decoder can begin with it.
    pub key: bool,
    /// VP8.
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct Wishes {
    key: AtomicBool,
    /// In kb/s; nought while nobody has said.
    rate: AtomicU32,
    stop: AtomicBool,
}

/// A source of pictures that runs. It stops when it is dropped.
pub struct Camera {
    wishes: Arc<Wishes>,
    frames: mpsc::Receiver<Encoded>,
    /// Points across.
    pub width: u32,
    /// Points down.
    pub height: u32,
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.wishes.stop.store(true, Ordering::Relaxed);
    }
}

impl Camera {
    /// Opens the source and starts.
    pub fn open(source: &Source) -> Result<Self, VideoError> {
        let frames = source.open()?;
        let (width, height) = (frames.width(), frames.height());
        let encoder = Encoder::new(width, height, RATE)?;
        let (to, from) = mpsc::channel(QUEUE);
        let wishes = Arc::new(Wishes::default());
        let shared = wishes.clone();
        let run = move || {
            if let Err(cause) = run(frames, encoder, &shared, &to) {
                tracing::warn!(%cause, "the pictures end");
            }
        };
        std::thread::Builder::new().name("camera".into()).spawn(run).map_err(|e| VideoError::File("a thread".into(), e.to_string()))?;
        Ok(Self { wishes, frames: from, width, height })
    }

    /// The next frame; `None` when the source has ended.
    pub async fn next(&mut self) -> Option<Encoded> {
        self.frames.recv().await
    }

    /// Somebody needs a key frame.
    pub fn ask_for_key(&self) {
        self.wishes.key.store(true, Ordering::Relaxed);
    }

    /// The path carries so much, in bits a second.
    pub fn set_rate(&self, bits: u64) {
        let rate = u32::try_from(bits / 1_000).unwrap_or(RATE).clamp(LEAST, RATE);
        self.wishes.rate.store(rate, Ordering::Relaxed);
    }
}

fn run(mut frames: Box<dyn Frames>, mut encoder: Encoder, wishes: &Wishes, to: &mpsc::Sender<Encoded>) -> Result<(), VideoError> {
    let every = Duration::from_secs(1) / frames.rate().max(1);
    let start = Instant::now();
    let mut due = start;
    let mut rate = RATE;
    // The first frame is one anyway.
    let mut key = true;
    while !wishes.stop.load(Ordering::Relaxed) {
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        // A machine that was asleep does not make up for it.
        due = (due + every).max(Instant::now());
        let frame = frames.next()?;
        let wanted = wishes.rate.load(Ordering::Relaxed);
        if wanted != 0 && wanted.abs_diff(rate) * 10 > rate {
            encoder.set_rate(wanted)?;
            rate = wanted;
        }
        key |= wishes.key.swap(false, Ordering::Relaxed);
        let at = start.elapsed();
        let Some((bytes, is_key)) = encoder.encode(frame, at, key)? else { continue };
        // 32 bits, and over.
        #[allow(clippy::cast_possible_truncation)]
        let timestamp = (at.as_micros() * 9 / 100) as u32;
        match to.try_send(Encoded { timestamp, key: is_key, bytes }) {
            Ok(()) => key = false,
            // The next ones would build on this one.
            Err(mpsc::error::TrySendError::Full(_)) => key = true,
            Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_film_runs_in_its_time_and_begins_with_a_key_frame() {
        let dir = tempfile::tempdir().unwrap();
        let film = source::tests::film(dir.path(), 10);
        let mut camera = Camera::open(&Source::File(film)).unwrap();
        let first = camera.next().await.unwrap();
        assert!(first.key && crate::room::video::is_sane(&first.bytes));
        let second = camera.next().await.unwrap();
        assert!(!second.key);
        assert!(second.timestamp.wrapping_sub(first.timestamp) >= 90_000 / 25, "not faster than it was made");
        camera.ask_for_key();
        let asked = async { while !camera.next().await.unwrap().key {} };
        tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
        assert!(matches!(Camera::open(&Source::File(dir.path().join("none.y4m"))), Err(VideoError::File(..))));
    }
}
