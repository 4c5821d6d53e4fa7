//! One call's pictures: our camera or screen on its way out, theirs on its way in.
//!
//! | our picture | entered by | what is sent |
//! |---|---|---|
//! | off | the beginning, the person | nothing; the device is closed |
//! | on | the person, and another try after a pause | frames, at the rate the path carries |
//! | paused | less than [`POOR`] for [`POOR_FOR`] | nothing, for [`AGAIN`]: the sound has the path for itself |
//! | failed | device or encoder, or no picture within [`OPENS`] | nothing; the device is closed |
//!
//! Theirs is there from its first whole frame until they say that it is over, or nothing came for [`SILENT`]. Invariants: nothing is sent
//! while there is no path or it is held; every queue is bounded, and what is dropped from one is followed by a key frame. Packets go out
//! no faster than two and a half times what the path carries, so that a key frame does not stand in the sound's way.

mod missing;

use self::missing::{Cadence, Missing};
use crate::room::core::{Picture, Source as Of};
use crate::room::video::Assembler;
use crate::session::{Quality, Switches};
use crate::transport::{PicturePacket, Transport};
use crate::video::codec::Codec;
use crate::video::layers::Wanted;
use crate::video::source::Source;
use crate::video::{Camera, Encoded, FIRST, LEAST, VideoError, packet};
use sc_calls::Shown;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

/// Where frames go that may be drawn. Called from the pictures' task: it must not wait.
pub type OnPicture = Arc<dyn Fn(Picture) + Send + Sync>;

/// Whose picture it is, in a call: their identity.
pub const THEIRS: &str = "peer";
/// And ours; in rooms too.
pub const OWN: &str = "own";

/// Packets, wishes and figures that may wait.
const QUEUE: usize = 512;
/// Packets of ours that may wait for their turn.
const OUTGOING: usize = 400;
/// Bits a second below which a picture takes more from the sound than it gives.
const POOR: u64 = (LEAST as u64 + 20) * 1_000;
/// So long it may be poor.
const POOR_FOR: Duration = Duration::from_secs(4);
/// A pause for the sound's sake.
const AGAIN: Duration = Duration::from_secs(10);
/// A device that gives no picture within this gives none.
const OPENS: Duration = Duration::from_secs(10);
/// The other side gets a key frame at most this often.
const KEYS: Duration = Duration::from_millis(300);
/// Without a packet for so long, their picture is over.
const SILENT: Duration = Duration::from_secs(3);
/// Of what the path carries, in hundredths, for frames; the rest is for what is sent again.
const FRAMES: u64 = 90;
/// After such a silence nothing of before is asked for: it would be shown late.
const PAUSE: Duration = Duration::from_secs(1);

/// Our own picture.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum OwnPicture {
    /// Nobody asked for it.
    #[default]
    Off,
    /// It is sent, or is when there is a path.
    On,
    /// The path carries the sound only.
    Paused,
    /// There is none.
    Failed(VideoError),
}

/// How the pictures are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PictureState {
    /// Ours.
    pub own: OwnPicture,
    /// There is one of theirs.
    pub theirs: bool,
    /// It is their screen.
    pub screen: bool,
    /// What the path carries of pictures, in bits a second; nought before the first report.
    pub estimate: u64,
    /// Whole frames of theirs so far.
    pub frames: u64,
    /// Times their picture stood still (as `freezeCount` of W3C's webrtc-stats).
    pub freezes: u64,
    /// Times there was none of ours although there should be.
    pub failures: u32,
}

/// To the pictures' task.
#[derive(Debug)]
pub enum ToPictures {
    /// A packet of theirs.
    Packet(PicturePacket, Instant),
    /// They need a key frame.
    KeyWanted,
    /// The path carries so many bits a second.
    Estimate(u64),
    /// Whoever draws lost frames: of ours, or of theirs.
    Lost(bool),
}

/// The queue to a pictures' task.
#[must_use]
pub fn queue() -> (mpsc::Sender<ToPictures>, mpsc::Receiver<ToPictures>) {
    mpsc::channel(QUEUE)
}

/// What is to be seen of us, and where it comes from.
pub type Wish = Option<(Shown, Source)>;

/// The pictures of a running call.
pub struct Pictures {
    to: mpsc::Sender<ToPictures>,
    /// Our picture from there, or none: never stuck behind anything else.
    wish: watch::Sender<Wish>,
    state: watch::Receiver<PictureState>,
    task: JoinHandle<()>,
}

impl Pictures {
    /// Starts; `to` and `inbox` are the ends of one queue.
    pub fn start(
        transport: Arc<dyn Transport>,
        (to, inbox): (mpsc::Sender<ToPictures>, mpsc::Receiver<ToPictures>),
        switches: Arc<Switches>,
        quality: watch::Receiver<Quality>,
        show: OnPicture,
    ) -> Self {
        let (tell, state) = watch::channel(PictureState::default());
        let (wish, wished) = watch::channel(None);
        let task = Task {
            transport,
            switches,
            quality,
            show,
            tell,
            camera: None,
            opening: None,
            wished,
            screen: false,
            outgoing: VecDeque::new(),
            due: Instant::now(),
            flowing: false,
            cut: false,
            number: 0,
            timestamp: 0,
            poor: None,
            again: None,
            answered: None,
            theirs: Assembler::default(),
            missing: Missing::default(),
            came: None,
            heard: None,
            cadence: Cadence::default(),
        };
        Self { to, wish, state, task: tokio::spawn(task.run(inbox)) }
    }

    /// Our picture from there, or none.
    pub fn show(&self, wish: Wish) {
        self.wish.send_replace(wish);
    }

    /// Whoever draws lost frames, of ours or of theirs.
    pub fn lost(&self, own: bool) {
        // A full queue: it is said again.
        let _ = self.to.try_send(ToPictures::Lost(own));
    }

    /// How they are, now and later.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<PictureState> {
        self.state.clone()
    }
}

impl Drop for Pictures {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One's own camera, seen by oneself alone. It ends when it is dropped.
pub struct Preview {
    lost: Arc<tokio::sync::Notify>,
    task: JoinHandle<()>,
}

impl Preview {
    /// Opens it.
    pub async fn open(source: Source, show: OnPicture) -> Result<Self, VideoError> {
        let opened = tokio::task::spawn_blocking(move || Camera::open(&source, Codec::Vp8, false)).await;
        let mut camera = opened.map_err(|e| VideoError::Device(e.to_string()))??;
        let lost = Arc::new(tokio::sync::Notify::new());
        let asked = lost.clone();
        let task = tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = asked.notified() => camera.ask_for_key(Wanted::ALL),
                    frame = camera.next() => match frame {
                        Some(f) => show(own_picture(&f, false)),
                        None => return,
                    },
                }
            }
        });
        Ok(Self { lost, task })
    }

    /// Whoever draws lost frames.
    pub fn lost(&self) {
        self.lost.notify_one();
    }
}

impl Drop for Preview {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A frame of ours for whoever draws it here.
pub(crate) fn own_picture(f: &Encoded, screen: bool) -> Picture {
    let source = Of { identity: OWN.to_owned(), screen };
    Picture { source, codec: f.codec, timestamp: f.timestamp, key: f.key, frame: f.bytes.clone() }
}

/// A packet that waits for its turn.
struct Waiting {
    timestamp: u32,
    last: bool,
    payload: Vec<u8>,
}

struct Task {
    transport: Arc<dyn Transport>,
    switches: Arc<Switches>,
    quality: watch::Receiver<Quality>,
    show: OnPicture,
    tell: watch::Sender<PictureState>,
    camera: Option<Camera>,
    /// A device may take its time: since when.
    opening: Option<(JoinHandle<Result<Camera, VideoError>>, Instant)>,
    /// What the person wants to be seen.
    wished: watch::Receiver<Wish>,
    /// That is a screen.
    screen: bool,
    outgoing: VecDeque<Waiting>,
    /// When the next packet may go out.
    due: Instant,
    /// There was a path the last time.
    flowing: bool,
    /// Something was not sent: only a key frame helps.
    cut: bool,
    /// Of frames.
    number: u16,
    timestamp: u32,
    poor: Option<Instant>,
    again: Option<Instant>,
    /// When a key frame was made for them.
    answered: Option<Instant>,
    theirs: Assembler,
    missing: Missing,
    /// When the last packet of theirs came; and the same while there is a picture.
    came: Option<Instant>,
    heard: Option<Instant>,
    cadence: Cadence,
}

async fn next(camera: Option<&mut Camera>) -> Option<Encoded> {
    match camera {
        Some(c) => c.next().await,
        None => std::future::pending().await,
    }
}

/// Never comes while none is being opened. A task that ended badly has opened nothing.
async fn opened(opening: Option<&mut (JoinHandle<Result<Camera, VideoError>>, Instant)>) -> Result<Camera, VideoError> {
    match opening {
        Some((task, _)) => task.await.unwrap_or_else(|e| Err(VideoError::Device(e.to_string()))),
        None => std::future::pending().await,
    }
}

impl Task {
    async fn run(mut self, mut inbox: mpsc::Receiver<ToPictures>) {
        loop {
            let wait = self.deadline();
            tokio::select! {
                // Whoever does not want to be seen any more comes first.
                biased;
                changed = self.wished.changed() => match changed {
                    Ok(()) => self.wish().await,
                    Err(_) => return,
                },
                what = inbox.recv() => match what {
                    Some(what) => self.take(what),
                    None => return,
                },
                camera = opened(self.opening.as_mut()) => self.shown(camera).await,
                frame = next(self.camera.as_mut()) => match frame {
                    Some(frame) => self.frame(&frame),
                    None => self.fail(VideoError::Ended).await,
                },
                () = tokio::time::sleep_until(wait.into()) => {}
            }
            let now = Instant::now();
            self.send(now).await;
            self.receive(now).await;
            self.judge(now).await;
        }
    }

    /// When something has to be done even if nothing happens.
    fn deadline(&self) -> Instant {
        let due = (!self.outgoing.is_empty()).then_some(self.due);
        let silent = self.heard.map(|at| at + SILENT);
        let opens = self.opening.as_ref().map(|(_, since)| *since + OPENS);
        let all = [due, opens, self.missing.deadline(self.rtt()), silent, self.again, self.poor.map(|p| p + POOR_FOR)];
        // An hour is no limit, only something to wait for.
        all.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + Duration::from_secs(3_600))
    }

    fn rtt(&self) -> Duration {
        self.quality.borrow().path.rtt.unwrap_or(Duration::from_millis(100))
    }

    fn take(&mut self, what: ToPictures) {
        match what {
            ToPictures::Packet(p, at) => self.packet(p, at),
            ToPictures::Lost(true) => self.camera.iter().for_each(|c| c.ask_for_key(Wanted::ALL)),
            ToPictures::KeyWanted => {
                // However often they ask: a picture of key frames alone is none. They ask again.
                let now = Instant::now();
                if self.answered.is_none_or(|at| now.saturating_duration_since(at) >= KEYS) {
                    self.answered = Some(now);
                    self.camera.iter().for_each(|c| c.ask_for_key(Wanted::ALL));
                }
            }
            ToPictures::Lost(false) => self.theirs.lose(),
            ToPictures::Estimate(bits) => {
                self.tell.send_if_modified(|s| std::mem::replace(&mut s.estimate, bits) != bits);
                self.camera.iter().for_each(|c| c.set_rate(bits * FRAMES / 100));
            }
        }
    }

    /// What the path carries, as far as is known.
    fn estimate(&self) -> u64 {
        Some(self.tell.borrow().estimate).filter(|e| *e > 0).unwrap_or(FIRST)
    }

    fn transmits(&self) -> bool {
        self.switches.transmit.load(Ordering::Relaxed)
    }

    /// The person wants something else to be seen, or nothing.
    async fn wish(&mut self) {
        let (wanted, screen) = {
            let wish = self.wished.borrow_and_update();
            (wish.is_some(), wish.as_ref().is_some_and(|(what, _)| *what == Shown::Screen))
        };
        self.close().await;
        self.screen = screen;
        self.transport.set_screen(screen);
        // Why there is nothing stays said.
        if wanted || !matches!(self.tell.borrow().own, OwnPicture::Failed(_)) {
            self.own(if wanted { OwnPicture::On } else { OwnPicture::Off });
        }
        self.open();
    }

    fn own(&self, own: OwnPicture) {
        self.tell.send_if_modified(|s| std::mem::replace(&mut s.own, own.clone()) != own);
    }

    /// Begins to open what the person wants to be seen.
    fn open(&mut self) {
        let wish = self.wished.borrow().clone();
        let codec = self.transport.codec();
        self.opening = wish.map(|(_, s)| (tokio::task::spawn_blocking(move || Camera::open(&s, codec, false)), Instant::now()));
    }

    async fn shown(&mut self, camera: Result<Camera, VideoError>) {
        self.opening = None;
        match camera {
            Ok(camera) => {
                camera.set_rate(self.estimate() * FRAMES / 100);
                self.camera = Some(camera);
                self.own(OwnPicture::On);
            }
            Err(cause) => self.fail(cause).await,
        }
    }

    async fn fail(&mut self, cause: VideoError) {
        tracing::warn!(%cause, "there is no picture of one's own");
        self.close().await;
        let cause = if self.screen { VideoError::NoScreen } else { cause };
        self.tell.send_modify(|s| {
            s.own = OwnPicture::Failed(cause);
            s.failures += 1;
        });
    }

    /// Lets go of the device, and says so to the other side. One that is being opened is closed as soon as it is open.
    async fn close(&mut self) {
        (self.poor, self.again, self.opening) = (None, None, None);
        self.outgoing.clear();
        if self.camera.take().is_none() || !self.transmits() {
            return;
        }
        let codec = self.transport.codec();
        for _ in 0..3 {
            self.timestamp = self.timestamp.wrapping_add(1);
            self.transport.send_picture(self.timestamp, true, codec.over().to_vec()).await;
        }
    }

    /// A frame of ours.
    fn frame(&mut self, frame: &Encoded) {
        (self.show)(own_picture(frame, self.screen));
        let flows = self.transmits();
        self.cut |= !flows || !self.flowing;
        self.flowing = flows;
        if !flows {
            return self.outgoing.clear();
        }
        if self.cut && !frame.key {
            return self.camera.iter().for_each(|c| c.ask_for_key(Wanted::ALL));
        }
        let codec = self.transport.codec();
        if frame.codec != codec {
            // They were asked only now what they speak.
            self.cut = true;
            return self.camera.iter().for_each(|c| c.speak(codec));
        }
        self.cut = false;
        self.number = self.number.wrapping_add(1) & 0x7fff;
        self.timestamp = frame.timestamp;
        let mut parts = packet::packets(frame.codec, &frame.bytes, self.number).peekable();
        while let Some(payload) = parts.next() {
            self.outgoing.push_back(Waiting { timestamp: frame.timestamp, last: parts.peek().is_none(), payload });
        }
        if self.outgoing.len() > OUTGOING {
            self.outgoing.clear();
            self.cut = true;
        }
    }

    /// What is due goes out.
    async fn send(&mut self, now: Instant) {
        if !self.outgoing.is_empty() && !self.transmits() {
            // What was to be seen then is not shown later.
            self.outgoing.clear();
            self.cut = true;
        }
        let estimate = self.estimate().max(POOR);
        // What was not used for a moment is not made up for.
        self.due = self.due.max(now.checked_sub(Duration::from_millis(10)).unwrap_or(now));
        while self.due <= now
            && let Some(w) = self.outgoing.pop_front()
        {
            self.due += Duration::from_secs_f64(w.payload.len() as f64 * 8.0 / (estimate as f64 * 2.5));
            self.transport.send_picture(w.timestamp, w.last, w.payload).await;
        }
    }

    /// The path is too poor for a picture, or may be good enough again.
    async fn judge(&mut self, now: Instant) {
        let poor = self.camera.is_some() && self.transmits() && self.estimate() < POOR;
        self.poor = poor.then(|| self.poor.unwrap_or(now));
        if self.opening.as_ref().is_some_and(|(_, since)| now >= *since + OPENS) {
            self.fail(VideoError::Device("it gives no picture".into())).await;
        } else if self.poor.is_some_and(|since| now >= since + POOR_FOR) {
            self.close().await;
            self.own(OwnPicture::Paused);
            self.again = Some(now + AGAIN);
        } else if self.again.is_some_and(|at| now >= at) {
            self.again = None;
            self.open();
        }
    }

    /// A packet of theirs.
    fn packet(&mut self, p: PicturePacket, at: Instant) {
        if self.came.replace(at).is_some_and(|before| at.saturating_duration_since(before) > PAUSE) {
            self.missing = Missing::default();
            self.theirs.lose();
        }
        if self.theirs.codec() != self.transport.codec() {
            self.theirs = Assembler::new(self.transport.codec());
        }
        self.missing.came(p.seq, at);
        let codec = self.theirs.codec();
        if p.payload == codec.over() {
            self.over();
            // It has a number like any other.
            return self.theirs.push(p.seq, p.timestamp, true, &[]);
        }
        if self.heard.is_some() || codec.descriptor(&p.payload).is_some_and(|(_, start)| start) {
            self.heard = Some(at);
            self.tell.send_if_modified(|s| std::mem::replace(&mut s.screen, p.screen) != p.screen);
        }
        self.theirs.push(p.seq, p.timestamp, p.last, &p.payload);
    }

    fn over(&mut self) {
        self.heard = None;
        self.cadence.pause();
        self.tell.send_if_modified(|s| std::mem::replace(&mut s.theirs, false));
    }

    /// Whole frames of theirs go on, and what is missing is asked for.
    async fn receive(&mut self, now: Instant) {
        let codec = self.theirs.codec();
        while let Some(f) = self.theirs.pop(now) {
            if !codec.is_sane(&f.bytes) {
                self.theirs.lose();
                break;
            }
            // A screen that rests is no picture that stands still.
            let screen = self.tell.borrow().screen;
            let freezes = if screen { 0 } else { self.cadence.frame(now) };
            self.tell.send_modify(|s| {
                s.theirs = self.heard.is_some();
                s.frames += 1;
                s.freezes += freezes;
            });
            let of = Of { identity: THEIRS.to_owned(), screen };
            (self.show)(Picture { source: of, codec, timestamp: f.timestamp, key: codec.is_key(&f.bytes), frame: f.bytes });
        }
        if self.heard.is_some_and(|at| now >= at + SILENT) {
            self.over();
        }
        let missing = self.missing.due(now, self.rtt());
        if !missing.is_empty() {
            self.transport.ask_again(&missing).await;
        }
        if self.heard.is_some() && self.theirs.wants_key(now) {
            self.transport.ask_for_key().await;
        }
    }
}
