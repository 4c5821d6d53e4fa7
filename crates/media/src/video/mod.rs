//! Pictures to packets: a source of frames, an encoder, and its packets.
//!
//! * [`camera`]: the cameras of this machine; [`screen`]: its screens and windows; [`convert`]: what they deliver, as encoders take it.
//! * [`codec`]: the codecs, and what their frames say of themselves.
//! * [`estimate`]: how much a path carries.
//! * [`ivf`]: what came, in a file.
//! * [`layers`]: which encoders a picture has.
//! * [`source`]: where frames come from.
//! * [`vpx`]: encoder and decoder (libvpx).
//! * [`packet`]: encoded frames cut to packets.
//! * [`Camera`]: a thread that takes a frame, encodes it and hands it on; whoever is too slow for it gets a key frame next.

pub mod camera;
pub mod codec;
pub mod convert;
pub mod estimate;
pub mod ivf;
pub mod layers;
pub mod packet;
pub mod screen;
pub mod source;
pub mod vpx;

use codec::Codec;
use layers::{Layers, Made, Wanted};
use source::{Frames, Source};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Frames that may wait to be sent.
const QUEUE: usize = 12;
/// The most a picture gets, in kb/s, and what it begins with: enough for 640 × 360.
pub(crate) const RATE: u32 = 700;
/// The same for a screen, whose letters are to be read.
const SCREEN_RATE: u32 = 1_500;
/// Frames of a screen that are sent after one that moved, each better than the one before; then it rests.
const BETTER: u32 = 8;
/// A screen that rests is sent this often all the same: who watches sees that it is there.
const RESTS: Duration = Duration::from_secs(1);
/// What a path is thought to carry before anything is known, in bits a second.
pub(crate) const FIRST: u64 = 450_000;
/// Below this a picture is no picture any more.
pub(crate) const LEAST: u32 = 80;

/// Why there is no picture.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VideoError {
    /// The file cannot be read, or is none of ours.
    #[error("the pictures of {0} cannot be used: {1}")]
    File(String, String),
    /// There is no camera.
    #[error("there is no camera")]
    NoCamera,
    /// There is no such screen or window.
    #[error("there is no such screen or window")]
    NoScreen,
    /// The device refuses or was pulled out.
    #[error("the device does not work: {0}")]
    Device(String),
    /// The source has no more frames.
    #[error("the pictures have ended")]
    Ended,
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
    /// What it is encoded in.
    pub codec: Codec,
    /// As a decoder takes it.
    pub bytes: Vec<u8>,
    /// It is of the layer of half the sides.
    pub half: bool,
    /// No better layer is sent now.
    pub best: bool,
}

#[derive(Default)]
struct Wishes {
    /// Which layers are to begin anew, and which are looked at ([`Wanted::bits`]).
    keys: AtomicU8,
    wanted: AtomicU8,
    /// Another codec is wanted.
    codec: Mutex<Option<Codec>>,
    /// In kb/s; nought while nobody has said.
    rate: AtomicU32,
    stop: AtomicBool,
}

/// Frames of a device that cannot be used, one after the other, before it is given up: at the start, on a bad cable, and while a window
/// changes its size there are some.
const BAD: u32 = 30;

/// The clock of all pictures: a camera that is closed and opened again goes on where time is, not at nought.
fn clock() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

/// A source of pictures that runs. It stops when it is dropped.
pub struct Camera {
    wishes: Arc<Wishes>,
    frames: mpsc::Receiver<Encoded>,
    /// Points across.
    pub width: u32,
    /// Points down.
    pub height: u32,
    /// There is a layer of half the sides too.
    pub layered: bool,
}

impl Drop for Camera {
    fn drop(&mut self) {
        self.wishes.stop.store(true, Ordering::Relaxed);
    }
}

impl Camera {
    /// Opens the source and starts, with two layers if that is asked for and of use. Waits for the device.
    pub fn open(source: &Source, codec: Codec, layered: bool) -> Result<Self, VideoError> {
        let (to, from) = mpsc::channel(QUEUE);
        let (tell, opened) = std::sync::mpsc::sync_channel(1);
        let wishes = Arc::new(Wishes::default());
        let (shared, source) = (wishes.clone(), source.clone());
        // The system's cameras stay in the thread that opened them.
        let run = move || {
            let screen = matches!(source, Source::Screen(_));
            let ready = source.open().and_then(|f| Ok((Layers::new(codec, (f.width(), f.height()), screen, layered)?, f)));
            let (encoder, frames) = match ready {
                Ok(r) => r,
                // Whoever asked may have gone.
                Err(cause) => return drop(tell.send(Err(cause))),
            };
            if tell.send(Ok((frames.width(), frames.height(), encoder.is_layered()))).is_ok()
                && let Err(cause) = run(frames, encoder, &shared, &to)
            {
                tracing::warn!(%cause, "the pictures end");
            }
        };
        let thread = std::thread::Builder::new().name("camera".into()).spawn(run);
        thread.map_err(|e| VideoError::Device(e.to_string()))?;
        let (width, height, layered) = opened.recv().map_err(|e| VideoError::Device(e.to_string()))??;
        Ok(Self { wishes, frames: from, width, height, layered })
    }

    /// The next frame; `None` when the source has ended.
    pub async fn next(&mut self) -> Option<Encoded> {
        self.frames.recv().await
    }

    /// Somebody needs a key frame.
    pub fn ask_for_key(&self, of: Wanted) {
        self.wishes.keys.fetch_or(of.bits(), Ordering::Relaxed);
    }

    /// Another codec from now on.
    pub fn speak(&self, codec: Codec) {
        *self.wishes.codec.lock().unwrap_or_else(PoisonError::into_inner) = Some(codec);
    }

    /// These layers are looked at.
    pub fn want(&self, layers: Wanted) {
        self.wishes.wanted.store(layers.bits(), Ordering::Relaxed);
    }

    /// The path carries so much, in bits a second.
    pub fn set_rate(&self, bits: u64) {
        self.wishes.rate.store(u32::try_from(bits / 1_000).unwrap_or(u32::MAX), Ordering::Relaxed);
    }
}

fn run(mut frames: Box<dyn Frames>, mut encoder: Layers, wishes: &Wishes, to: &mpsc::Sender<Encoded>) -> Result<(), VideoError> {
    let every = Duration::from_secs(1) / frames.rate().max(1);
    let mut due = Instant::now();
    let mut bad = 0;
    let (mut rests, mut sent) = (0, clock());
    // The first frame is one anyway.
    let mut keys = Wanted::ALL;
    while !wishes.stop.load(Ordering::Relaxed) {
        if let Some(wait) = due.checked_duration_since(Instant::now()).filter(|_| !frames.is_live()) {
            std::thread::sleep(wait);
        }
        // A machine that was asleep does not make up for it.
        due = (due + every).max(Instant::now());
        match frames.next() {
            Ok(()) => {}
            Err(cause @ VideoError::Device(_)) if bad < BAD => {
                tracing::debug!(%cause, "a frame was passed over");
                bad += 1;
                continue;
            }
            Err(cause) => return Err(cause),
        }
        bad = 0;
        let codec = wishes.codec.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(codec) = codec.filter(|c| *c != encoder.codec()) {
            encoder.speak(codec)?;
        }
        keys = keys.or(Wanted::of(wishes.keys.swap(0, Ordering::Relaxed)));
        let at = clock();
        rests = if frames.changed() { 0 } else { rests + 1 };
        if rests > BETTER && keys == Wanted::NONE && at.saturating_sub(sent) < RESTS {
            continue;
        }
        sent = at;
        let frame = frames.frame();
        let wanted = (wishes.rate.load(Ordering::Relaxed), Wanted::of(wishes.wanted.load(Ordering::Relaxed)));
        let (made, still) = encoder.encode((frame, (frames.width(), frames.height())), at, wanted, keys)?;
        keys = still;
        // 32 bits, and over.
        #[allow(clippy::cast_possible_truncation)]
        let timestamp = (at.as_micros() * 9 / 100) as u32;
        for Made { half, key, bytes } in made {
            let best = half != encoder.active.whole;
            match to.try_send(Encoded { timestamp, key, codec: encoder.codec(), bytes, half, best }) {
                Ok(()) => {}
                // The next ones would build on this one.
                Err(mpsc::error::TrySendError::Full(_)) => keys = keys.or(Wanted { half, whole: !half }),
                Err(mpsc::error::TrySendError::Closed(_)) => return Ok(()),
            }
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
        let mut camera = Camera::open(&Source::File(film), Codec::Vp8, false).unwrap();
        let first = camera.next().await.unwrap();
        assert!(first.key && Codec::Vp8.is_sane(&first.bytes));
        let second = camera.next().await.unwrap();
        assert!(!second.key);
        assert!(second.timestamp.wrapping_sub(first.timestamp) >= 90_000 / 25, "not faster than it was made");
        camera.ask_for_key(Wanted::ALL);
        let asked = async { while !camera.next().await.unwrap().key {} };
        tokio::time::timeout(Duration::from_secs(5), asked).await.unwrap();
        assert!(matches!(Camera::open(&Source::File(dir.path().join("none.y4m")), Codec::Vp8, false), Err(VideoError::File(..))));
    }

    /// A screen on which nothing moves.
    struct Still(Vec<u8>, bool);

    impl Frames for Still {
        fn width(&self) -> u32 {
            640
        }
        fn height(&self) -> u32 {
            360
        }
        fn rate(&self) -> u32 {
            50
        }
        fn changed(&self) -> bool {
            self.1
        }
        fn next(&mut self) -> Result<(), VideoError> {
            self.1 = false;
            Ok(())
        }
        fn frame(&self) -> &[u8] {
            &self.0
        }
    }

    #[test]
    fn a_screen_that_rests_becomes_sharp_and_then_costs_next_to_nothing_and_keeps_its_size() {
        let (to, mut from) = mpsc::channel(100);
        let wishes = Arc::new(Wishes::default());
        wishes.rate.store(100, Ordering::Relaxed);
        let shared = wishes.clone();
        let thread = std::thread::spawn(move || {
            let still = Still([vec![90; 640 * 360], vec![120; 640 * 180]].concat(), true);
            run(Box::new(still), Layers::new(Codec::Vp8, (640, 360), true, false)?, &shared, &to)
        });
        std::thread::sleep(Duration::from_millis(2_600));
        wishes.stop.store(true, Ordering::Relaxed);
        thread.join().unwrap().unwrap();
        let mut seen = Vec::new();
        while let Ok(f) = from.try_recv() {
            seen.push(f);
        }
        // Each better than the one before, then one a second; of the 130 that were read.
        assert!((usize::try_from(BETTER).unwrap() / 2..=14).contains(&seen.len()), "{}", seen.len());
        let first = vpx::Decoder::new(Codec::Vp8).unwrap().decode(&seen.first().unwrap().bytes).unwrap().unwrap();
        assert_eq!((first.width, first.height), (640, 360), "small letters cannot be read");
    }
}
