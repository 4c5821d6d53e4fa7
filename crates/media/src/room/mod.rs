//! A room of several people through a forwarding unit that hears nothing.
//!
//! * [`frames`]: LiveKit's end-to-end encryption of frames and data packets, with its keys.
//! * [`video`]: packets of pictures to frames.
//! * [`core`]: a participant without I/O.
//! * [`Room`]: the same with sockets, signalling and this machine's sound.

pub mod core;
pub mod frames;
mod net;
pub mod video;

use self::core::{Core, Next, Out, Person, Picture, Source};
use crate::audio::{AudioError, AudioSetup, Input};
use crate::session::{Quality, Session, Switches, ToVoice, queue};
use crate::transport::{Carrier, PathKind, PathStats};
use crate::video::{Camera, Encoded, source as video_source};
use crate::voice::{Packet, VoiceId};
use frames::Keys;
use livekit_protocol as proto;
use net::{Signalling, Sockets};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

/// Commands, packets of speech and events that may wait.
const QUEUE: usize = 256;
/// Pictures come for so long after somebody said that they are drawn.
pub const LEASE: Duration = Duration::from_secs(15);
/// What speech needs of the path, in bits a second.
const SPEECH: u64 = 60_000;
/// Frames of pictures that may wait: half a second of four.
const FRAMES: usize = 64;
/// Waits between tries to take the signalling up again, in milliseconds; then it is given up.
const TRIES: [u64; 9] = [0, 300, 700, 1_500, 3_000, 5_000, 5_000, 10_000, 10_000];
/// Whoever was inside for so long begins anew with the first wait.
const STABLE: Duration = Duration::from_secs(20);
/// So long a farewell may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// A line of the chat is said within this, or not.
const SAID: Duration = Duration::from_secs(5);
/// Media flows within this, or one comes in anew.
const FLOWS: Duration = Duration::from_secs(15);
/// How often the addresses of this machine are looked at.
const WATCH: Duration = Duration::from_millis(500);

/// How a room is entered.
pub struct RoomOptions {
    /// The server's address, `https://…` or `wss://…`.
    pub url: String,
    /// A LiveKit access token for it.
    pub token: Zeroizing<String>,
    /// What media is encrypted with.
    pub keys: Keys,
    /// Where one speaks and listens.
    pub audio: AudioSetup,
    /// What is shown, if anything.
    pub video: Option<video_source::Source>,
    /// Comes in with the microphone off.
    pub muted: bool,
}

/// Where one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoomPhase {
    /// On the way in.
    #[default]
    Joining,
    /// Inside.
    Inside,
    /// The way is broken; nothing is sent until it is back.
    Reconnecting,
    /// It is over.
    Over(RoomEnd),
}

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomEnd {
    /// One has left.
    Left,
    /// A host has taken one out, or one is no member any more.
    Removed,
    /// The room was closed.
    Closed,
    /// One has come in with the same device anew.
    Elsewhere,
    /// There was no way in.
    Refused,
    /// The connection broke and did not come back.
    Lost,
}

/// The room as it is now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoomView {
    /// Where one is.
    pub phase: RoomPhase,
    /// Who is inside; oneself first.
    pub people: Vec<Person>,
    /// Who speaks, loudest first.
    pub speaking: Vec<String>,
    /// The microphone is off.
    pub muted: bool,
    /// The hand is up.
    pub hand: bool,
    /// Whose media does not open.
    pub garbled: Vec<String>,
    /// What is wrong with the microphone, when one came in without.
    pub trouble: Option<AudioError>,
    /// There should be pictures of ours, and are none.
    pub no_picture: bool,
}

enum Command {
    Mute(bool),
    Hand(bool),
    Chat(String, oneshot::Sender<bool>),
    Epoch(u64, Zeroizing<Vec<u8>>),
    Audio(AudioSetup),
    Want(HashMap<Source, (u32, u32)>),
    PicturesLost(Option<Source>),
    Leave,
}

/// A stay in a room. It ends when it is dropped.
pub struct Room {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<RoomView>,
    quality: watch::Receiver<Option<watch::Receiver<Quality>>>,
    /// Read by the voice thread, whatever else is going on.
    switches: Arc<Switches>,
    gone: watch::Sender<bool>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.gone.send_replace(true);
    }
}

/// A message of the room's chat: of whom, what.
pub type Chat = (String, String);

/// What comes out of a room besides what its view says.
pub struct Heard {
    /// The chat.
    pub chat: mpsc::Receiver<Chat>,
    /// Frames of the pictures that are asked for. Whoever does not take them in time gets the next key frame.
    pub pictures: mpsc::Receiver<Picture>,
}

impl Room {
    /// Begins to come in; how far that is, is in the view. Needs a Tokio runtime.
    #[must_use]
    pub fn enter(options: RoomOptions) -> (Self, Heard) {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (chat, said) = mpsc::channel(QUEUE);
        let (frames, pictures) = mpsc::channel(FRAMES);
        let (tell, view) = watch::channel(RoomView { muted: options.muted, ..RoomView::default() });
        let (tell_quality, quality) = watch::channel(None);
        let switches = Arc::new(Switches::default());
        switches.muted.store(options.muted, Ordering::Relaxed);
        let (gone, going) = watch::channel(false);
        let shared = switches.clone();
        tokio::spawn(async move {
            let mut stay = Stay::new(options, tell, tell_quality, (chat, frames), shared).await;
            let end = tokio::select! {
                biased;
                end = Box::pin(stay.run(inbox)) => end,
                () = left(going) => RoomEnd::Left,
            };
            stay.close(end).await;
        });
        (Self { commands, view, quality, switches, gone }, Heard { chat: said, pictures })
    }

    /// The room, now and later.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<RoomView> {
        self.view.clone()
    }

    /// How it sounds.
    #[must_use]
    pub fn quality(&self) -> Option<Quality> {
        self.quality.borrow().as_ref().map(|q| q.borrow().clone())
    }

    /// Turns the microphone off or on.
    pub async fn mute(&self, muted: bool) {
        // At once, also while the way is broken.
        self.switches.muted.store(muted, Ordering::Relaxed);
        self.tell(Command::Mute(muted)).await;
    }

    /// Raises the hand, or takes it down.
    pub async fn raise_hand(&self, up: bool) {
        self.tell(Command::Hand(up)).await;
    }

    /// Says something to everybody inside. False when it could not be said.
    pub async fn chat(&self, text: String) -> bool {
        let deadline = tokio::time::Instant::now() + SAID;
        while self.view.borrow().phase == RoomPhase::Inside {
            let (said, answer) = oneshot::channel();
            self.tell(Command::Chat(text.clone(), said)).await;
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(true)) => return true,
                // The channel for it opens a moment after the sound does.
                Ok(Ok(false)) if tokio::time::Instant::now() < deadline => tokio::time::sleep(WATCH / 5).await,
                _ => return false,
            }
        }
        false
    }

    /// The secret of the group's new epoch.
    pub async fn add_epoch(&self, epoch: u64, secret: Zeroizing<Vec<u8>>) {
        self.tell(Command::Epoch(epoch, secret)).await;
    }

    /// These pictures are drawn now, in so many points across and down; no others come. To be said again within [`LEASE`], or none come:
    /// a window that is suspended does not pile them up.
    pub async fn want(&self, pictures: HashMap<Source, (u32, u32)>) {
        self.tell(Command::Want(pictures)).await;
    }

    /// Frames were lost on their way to the decoder, of one picture or of all: it goes on with a key frame.
    pub async fn pictures_lost(&self, of: Option<Source>) {
        self.tell(Command::PicturesLost(of)).await;
    }

    /// Other devices.
    pub async fn set_audio(&self, audio: AudioSetup) {
        self.tell(Command::Audio(audio)).await;
    }

    /// Goes.
    pub async fn leave(&self) {
        self.tell(Command::Leave).await;
        self.gone.send_replace(true);
    }

    async fn tell(&self, command: Command) {
        // Whoever is gone already hears nothing any more.
        let _ = self.commands.send(command).await;
    }
}

/// One wants to go: whoever is just connecting does not read commands, and is ended after a moment.
async fn left(mut going: watch::Receiver<bool>) {
    // An error: the room is let go of.
    let _ = going.wait_for(|g| *g).await;
    tokio::time::sleep(GOODBYE).await;
}

/// Never comes while there is no camera.
async fn next_picture(camera: &mut Option<Camera>) -> Option<Encoded> {
    match camera {
        Some(c) => c.next().await,
        None => std::future::pending().await,
    }
}

/// The room's side of the voice thread.
struct RoomCarrier {
    out: mpsc::Sender<Packet>,
    sent: AtomicU64,
    received: AtomicU64,
}

#[async_trait::async_trait]
impl Carrier for RoomCarrier {
    async fn send(&self, packet: Packet) {
        self.sent.fetch_add(packet.payload.len() as u64, Ordering::Relaxed);
        // A full queue: what waits is late already.
        let _ = self.out.try_send(packet);
    }

    async fn stats(&self) -> PathStats {
        let count = |c: &AtomicU64| c.load(Ordering::Relaxed);
        PathStats { rtt: None, sent: count(&self.sent), received: count(&self.received), lost: 0.0, kind: PathKind::Direct }
    }

    async fn close(&self) {}
}

struct Speaker {
    id: VoiceId,
    start: u32,
}

struct Stay {
    url: String,
    token: Zeroizing<String>,
    keys: Option<Keys>,
    tell: watch::Sender<RoomView>,
    chat: mpsc::Sender<Chat>,
    frames: mpsc::Sender<Picture>,
    camera: Option<Camera>,
    /// Asked of every participant one becomes.
    wanted: HashMap<Source, (u32, u32)>,
    wanted_at: Instant,
    /// Pictures that go on with a key frame.
    cut: HashSet<Source>,
    carrier: Arc<RoomCarrier>,
    speech: mpsc::Receiver<Packet>,
    session: Option<Session<RoomCarrier>>,
    to_voice: SyncSender<ToVoice>,
    switches: Arc<Switches>,
    speakers: HashMap<String, Speaker>,
    next: VoiceId,
    /// How long one was inside the last time.
    inside: Duration,
}

/// How one time inside ended.
enum Ended {
    For(RoomEnd),
    Again,
}

impl Stay {
    async fn new(
        options: RoomOptions,
        tell: watch::Sender<RoomView>,
        quality: watch::Sender<Option<watch::Receiver<Quality>>>,
        (chat, frames): (mpsc::Sender<Chat>, mpsc::Sender<Picture>),
        switches: Arc<Switches>,
    ) -> Self {
        let asked_for_video = options.video.is_some();
        let (out, speech) = mpsc::channel(QUEUE);
        let carrier = Arc::new(RoomCarrier { out, sent: AtomicU64::new(0), received: AtomicU64::new(0) });
        let (mut to_voice, inbox) = queue();
        let opened = Session::open(options.audio.clone(), carrier.clone(), (to_voice.clone(), inbox), switches.clone()).await;
        let mut trouble = None;
        let session = match opened {
            Ok(s) => Some(s),
            Err(cause) => {
                tracing::warn!(%cause, "a room is entered without a microphone");
                trouble = Some(cause);
                let (to, inbox) = queue();
                to_voice = to;
                let silent = AudioSetup { input: Input::Silence, ..options.audio };
                // Without a speaker too one may still be seen, and raise the hand.
                Session::open(silent, carrier.clone(), (to_voice.clone(), inbox), switches.clone()).await.ok()
            }
        };
        // Opening a film or a camera may take a moment.
        let camera = match options.video {
            None => None,
            Some(source) => tokio::task::spawn_blocking(move || Camera::open(&source))
                .await
                .ok()
                .and_then(|opened| opened.inspect_err(|cause| tracing::warn!(%cause, "a room is entered without a picture")).ok()),
        };
        let no_picture = asked_for_video && camera.is_none();
        tell.send_modify(|v| (v.trouble, v.no_picture) = (trouble, no_picture));
        quality.send_replace(session.as_ref().map(Session::quality));
        Self {
            url: options.url,
            token: options.token,
            keys: Some(options.keys),
            tell,
            chat,
            frames,
            camera,
            wanted: HashMap::new(),
            wanted_at: Instant::now(),
            cut: HashSet::new(),
            carrier,
            speech,
            session,
            to_voice,
            switches,
            speakers: HashMap::new(),
            next: 0,
            inside: Duration::ZERO,
        }
    }

    async fn close(self, end: RoomEnd) {
        self.tell.send_modify(|v| {
            v.phase = RoomPhase::Over(end);
            v.people.clear();
            v.speaking.clear();
        });
        if let Some(s) = self.session {
            s.close().await;
        }
    }

    async fn run(&mut self, mut inbox: mpsc::Receiver<Command>) -> RoomEnd {
        let mut waits = TRIES.iter();
        while let Some(wait) = waits.next() {
            tokio::time::sleep(Duration::from_millis(*wait)).await;
            let keys = self.keys.take().unwrap_or_default();
            match Box::pin(self.once(keys, &mut inbox)).await {
                Ok(Ended::For(end)) => return end,
                Ok(Ended::Again) => {
                    self.phase(RoomPhase::Reconnecting);
                    self.tell.send_modify(|v| {
                        v.speaking.clear();
                        v.garbled.clear();
                    });
                }
                Err(net::NetError::Refused) => return RoomEnd::Refused,
                Err(cause) => tracing::warn!(%cause, "the room cannot be reached"),
            }
            if std::mem::take(&mut self.inside) > STABLE {
                waits = TRIES.iter();
            }
        }
        RoomEnd::Lost
    }

    fn phase(&self, phase: RoomPhase) {
        self.switches.transmit.store(phase == RoomPhase::Inside, Ordering::Relaxed);
        self.tell.send_modify(|v| v.phase = phase);
    }

    /// One time inside, with one participant of the unit.
    async fn once(&mut self, keys: Keys, inbox: &mut mpsc::Receiver<Command>) -> Result<Ended, net::NetError> {
        let (mut sockets, mut datagrams) = match Sockets::bind(&self.url) {
            Ok(s) => s,
            Err(cause) => {
                self.keys = Some(keys);
                return Err(cause);
            }
        };
        let muted = self.switches.muted.load(Ordering::Relaxed);
        let mut core = Core::new([&sockets.locals(0), &sockets.locals(1)], keys, muted, rand::random(), Instant::now());
        core.want(self.wanted.clone());
        if let Some(c) = &self.camera {
            core.show_camera((c.width, c.height));
        }
        let mut signalling = match Signalling::connect(&self.url, &self.token, None).await {
            Ok(s) => s,
            Err(cause) => {
                self.keys = Some(core.into_keys());
                return Err(cause);
            }
        };
        let mut look = tokio::time::interval(WATCH);
        let mut flowed = Instant::now();
        let ended = loop {
            match self.flush(&mut core, &mut signalling, &sockets).await {
                Some(Next::Stop) => break Ended::For(self.end()),
                Some(Next::Rejoin) => break Ended::Again,
                Some(Next::Resume) if !self.resume(&core, &mut signalling).await => break Ended::Again,
                Some(Next::Resume) | None => {}
            }
            let due = tokio::time::Instant::from_std(core.poll_timeout());
            tokio::select! {
                message = signalling.next() => match message {
                    Some(m) => core.handle_signal(Instant::now(), m),
                    None => if !self.resume(&core, &mut signalling).await {
                        break Ended::Again;
                    },
                },
                Some((from, to, bytes)) = datagrams.recv() => {
                    self.carrier.received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    core.handle_datagram(Instant::now(), from, to, &bytes);
                }
                Some(p) = self.speech.recv() => {
                    let level = self.session.as_ref().map_or(0.0, |s| s.quality().borrow().level_in);
                    core.send_voice(Instant::now(), p.timestamp, &p.payload, level);
                }
                picture = next_picture(&mut self.camera) => match picture {
                    Some(p) => core.send_picture(Instant::now(), &p),
                    None => {
                        self.camera = None;
                        self.tell.send_modify(|v| v.no_picture = true);
                    }
                },
                command = inbox.recv() => match command {
                    Some(Command::Leave) | None => {
                        core.leave();
                        self.flush(&mut core, &mut signalling, &sockets).await;
                        signalling.close().await;
                        break Ended::For(RoomEnd::Left);
                    }
                    Some(c) => self.on_command(&mut core, c),
                },
                _ = look.tick() => {
                    if core.is_up() {
                        self.inside += WATCH;
                        flowed = Instant::now();
                    }
                    if !self.wanted.is_empty() && self.wanted_at.elapsed() > LEASE {
                        self.wanted.clear();
                        core.want(HashMap::new());
                    }
                    if flowed.elapsed() > FLOWS {
                        break Ended::Again;
                    }
                    if sockets.changed() {
                        // New sockets, a new participant: the old addresses are gone.
                        break Ended::Again;
                    }
                }
                () = tokio::time::sleep_until(due) => core.handle_timeout(Instant::now()),
            }
        };
        sockets.close();
        self.keys = Some(core.into_keys());
        Ok(ended)
    }

    /// Takes the signalling up again, as long as the unit keeps the seat.
    async fn resume(&self, core: &Core, signalling: &mut Signalling) -> bool {
        let Some(sid) = core.sid() else { return false };
        self.phase(RoomPhase::Reconnecting);
        for wait in TRIES.iter().take(5) {
            tokio::time::sleep(Duration::from_millis(*wait)).await;
            if let Ok(s) = Signalling::connect(&self.url, &self.token, Some(sid)).await {
                *signalling = s;
                // Media may have gone on all the time; if not, the core says when it is back.
                if core.is_up() {
                    self.phase(RoomPhase::Inside);
                }
                return true;
            }
        }
        false
    }

    fn end(&self) -> RoomEnd {
        match self.tell.borrow().phase {
            RoomPhase::Over(end) => end,
            _ => RoomEnd::Lost,
        }
    }

    fn on_command(&mut self, core: &mut Core, command: Command) {
        match command {
            Command::Mute(muted) => {
                self.switches.muted.store(muted, Ordering::Relaxed);
                core.mute(muted);
                self.tell.send_modify(|v| v.muted = muted);
            }
            Command::Hand(up) => {
                core.raise_hand(up);
                self.tell.send_modify(|v| v.hand = up);
            }
            Command::Chat(text, said) => {
                // Whoever asked may have stopped waiting.
                let _ = said.send(core.chat(Instant::now(), &text));
            }
            Command::Epoch(epoch, secret) => {
                core.add_epoch(epoch, secret, Instant::now());
                self.tell.send_modify(|v| v.garbled.clear());
            }
            Command::Audio(setup) => {
                if let Some(s) = &self.session {
                    s.tell(ToVoice::Setup(setup));
                }
            }
            Command::Want(pictures) => {
                self.wanted.clone_from(&pictures);
                self.wanted_at = Instant::now();
                core.want(pictures);
            }
            Command::PicturesLost(of) => core.lose_pictures(of.as_ref()),
            Command::Leave => {}
        }
    }

    /// Does what the core wants done.
    async fn flush(&mut self, core: &mut Core, signalling: &mut Signalling, sockets: &Sockets) -> Option<Next> {
        let mut next = None;
        while let Some(out) = core.poll_output() {
            match out {
                Out::Transmit(t) => sockets.send(t.source, t.destination, &t.contents),
                Out::Signal(m) => signalling.send(*m).await,
                Out::Voice(identity, timestamp, opus) => self.heard(&identity, timestamp, opus),
                Out::Picture(picture) => {
                    if picture.key {
                        self.cut.remove(&picture.source);
                    }
                    if !self.cut.contains(&picture.source)
                        && let Err(full) = self.frames.try_send(picture)
                    {
                        // Nobody takes them in time: what follows builds on this one.
                        let source = full.into_inner().source;
                        core.lose_pictures(Some(&source));
                        self.cut.insert(source);
                    }
                }
                Out::People(people) => self.people(people),
                Out::Speaking(speaking) => self.tell.send_modify(|v| v.speaking = speaking),
                Out::Chat(identity, text) => {
                    // Nobody reads, or too slowly: the chat is not kept anyway.
                    let _ = self.chat.try_send((identity, text));
                }
                Out::Connected => {
                    self.phase(RoomPhase::Inside);
                    // A participant who came in anew has put the hand down.
                    if self.tell.borrow().hand {
                        core.raise_hand(true);
                    }
                }
                Out::Interrupted => {
                    self.phase(RoomPhase::Reconnecting);
                    core.restart(Instant::now());
                }
                Out::Muted => {
                    self.switches.muted.store(true, Ordering::Relaxed);
                    self.tell.send_modify(|v| v.muted = true);
                }
                Out::KeyNeeded => self.camera.iter().for_each(Camera::ask_for_key),
                Out::Carries(bits) => self.camera.iter().for_each(|c| c.set_rate(bits.saturating_sub(SPEECH))),
                Out::Garbled(identity) => self.tell.send_modify(|v| v.garbled.push(identity)),
                Out::Opens(identity) => self.tell.send_modify(|v| v.garbled.retain(|g| *g != identity)),
                Out::Over(reason, then) => {
                    if then == Next::Stop {
                        self.phase(RoomPhase::Over(end_of(reason)));
                    }
                    next = Some(then);
                }
            }
        }
        next
    }

    fn people(&mut self, people: Vec<Person>) {
        let to_voice = self.to_voice.clone();
        self.speakers.retain(|identity, s| {
            let there = people.iter().any(|p| p.identity == *identity);
            if !there {
                // A full queue: the voice stays, silent.
                let _ = to_voice.try_send(ToVoice::Gone(s.id));
            }
            there
        });
        self.tell.send_modify(|v| {
            v.garbled.retain(|g| people.iter().any(|p| p.identity == *g));
            v.people = people;
        });
    }

    fn heard(&mut self, identity: &str, timestamp: u32, opus: Vec<u8>) {
        if !self.speakers.contains_key(identity) {
            self.next += 1;
            // Counted from the first packet: where a stream begins says nothing.
            self.speakers.insert(identity.to_owned(), Speaker { id: self.next, start: timestamp.wrapping_sub(1 << 20) });
        }
        let Some(s) = self.speakers.get(identity) else { return };
        let packet = Packet { payload: opus, red: false, timestamp: timestamp.wrapping_sub(s.start) };
        // A full queue: as a packet that is lost.
        let _ = self.to_voice.try_send(ToVoice::Packet(s.id, packet, Instant::now()));
    }
}

fn end_of(reason: proto::DisconnectReason) -> RoomEnd {
    match reason {
        proto::DisconnectReason::ClientInitiated => RoomEnd::Left,
        proto::DisconnectReason::ParticipantRemoved => RoomEnd::Removed,
        proto::DisconnectReason::RoomDeleted | proto::DisconnectReason::RoomClosed => RoomEnd::Closed,
        proto::DisconnectReason::DuplicateIdentity => RoomEnd::Elsewhere,
        proto::DisconnectReason::JoinFailure => RoomEnd::Refused,
        _ => RoomEnd::Lost,
    }
}
