//! A stay in a room: the core's loop between sockets, signalling, sound and pictures, and coming in anew when the way breaks.

use super::core::{Core, Next, Out, Person, Picture, Source, Which};
use super::link::{Link, News};
use super::net::{self, Received, Signalling, Sockets};
use super::{Chat, Command, FLOWS, LEASE, QUEUE, RoomEnd, RoomOptions, RoomPhase, RoomView, SPEECH, STABLE, TRIES, WATCH};
use crate::audio::{AudioSetup, Input};
use crate::pictures::{OWN, OwnPicture, own_picture};
use crate::room::frames::Keys;
use crate::session::{Quality, Session, Switches, ToVoice, queue};
use crate::transport::{Carrier, PathStats};
use crate::video::codec::Codec;
use crate::video::layers::Wanted;
use crate::video::{Camera, Encoded, VideoError, source as video_source};
use crate::voice::{Packet, Protection, VoiceId};
use livekit_protocol as proto;
use sc_calls::Shown;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

/// A picture of one's own: being opened, as a device may take its time, or running.
#[derive(Default)]
struct Own {
    camera: Option<Camera>,
    opening: Option<JoinHandle<Result<Camera, VideoError>>>,
    /// What the unit said last of who looks at it.
    looked_at: Wanted,
}

/// What comes of it.
enum Came {
    Opened(Result<Camera, VideoError>),
    /// Nothing: it has ended.
    Frame(Option<Encoded>),
}

impl Own {
    /// Begins to open what is to be shown, in layers where that is of use; what was shown before is closed at once.
    fn show(&mut self, source: Option<video_source::Source>) {
        self.camera = None;
        self.opening = source.map(|s| tokio::task::spawn_blocking(move || Camera::open(&s, Codec::Vp8, true)));
    }

    /// Never comes while nothing is shown.
    async fn next(&mut self) -> Came {
        if let Some(task) = &mut self.opening {
            // A task that ended badly has opened nothing.
            let result = task.await.unwrap_or_else(|e| Err(VideoError::Device(e.to_string())));
            self.opening = None;
            return Came::Opened(result);
        }
        match &mut self.camera {
            Some(c) => Came::Frame(c.next().await),
            None => std::future::pending().await,
        }
    }
}

/// The room's side of the voice thread.
struct RoomCarrier {
    out: mpsc::Sender<Packet>,
    path: Mutex<PathStats>,
}

#[async_trait::async_trait]
impl Carrier for RoomCarrier {
    async fn send(&self, packet: Packet) {
        // A full queue: what waits is late already.
        let _ = self.out.try_send(packet);
    }

    fn protection(&self) -> Protection {
        Protection::Within
    }

    async fn stats(&self) -> PathStats {
        *self.path.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn close(&self) {}
}

struct Speaker {
    id: VoiceId,
    start: u32,
}

pub(super) struct Stay {
    url: String,
    token: Zeroizing<String>,
    keys: Option<Keys>,
    tell: watch::Sender<RoomView>,
    chat: mpsc::Sender<Chat>,
    frames: mpsc::Sender<Picture>,
    camera: Own,
    screen: Own,
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
    /// What was said while there was no participant to hear it.
    unheard: VecDeque<Command>,
}

/// How one time inside ended.
enum Ended {
    For(RoomEnd),
    Again,
}

impl Stay {
    pub(super) async fn new(
        options: RoomOptions,
        tell: watch::Sender<RoomView>,
        quality: watch::Sender<Option<watch::Receiver<Quality>>>,
        (chat, frames): (mpsc::Sender<Chat>, mpsc::Sender<Picture>),
        switches: Arc<Switches>,
    ) -> Self {
        let (out, speech) = mpsc::channel(QUEUE);
        let carrier = Arc::new(RoomCarrier { out, path: Mutex::default() });
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
        tell.send_modify(|v| v.trouble = trouble);
        quality.send_replace(session.as_ref().map(Session::quality));
        let mut this = Self {
            url: options.url,
            token: options.token,
            keys: Some(options.keys),
            tell,
            chat,
            frames,
            camera: Own::default(),
            screen: Own::default(),
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
            unheard: VecDeque::new(),
        };
        this.show(Shown::Camera, options.video);
        this
    }

    fn own(&mut self, what: Shown) -> &mut Own {
        match what {
            Shown::Camera => &mut self.camera,
            Shown::Screen => &mut self.screen,
        }
    }

    fn show(&mut self, what: Shown, source: Option<video_source::Source>) {
        let state = if source.is_some() { OwnPicture::On } else { OwnPicture::Off };
        self.own(what).show(source);
        self.say_own(what, state);
    }

    /// Something came of a picture of ours.
    fn came(&mut self, core: &mut Core, what: Shown, came: Came) {
        match came {
            Came::Opened(Ok(camera)) => {
                core.show(what, (camera.width, camera.height), camera.layered);
                camera.want(self.own(what).looked_at);
                self.own(what).camera = Some(camera);
            }
            Came::Frame(Some(frame)) => self.taken(core, what, &frame),
            Came::Opened(Err(cause)) => self.unseen(core, what, cause),
            Came::Frame(None) => self.unseen(core, what, VideoError::Ended),
        }
    }

    /// There is no picture of ours.
    fn unseen(&mut self, core: &mut Core, what: Shown, cause: VideoError) {
        tracing::warn!(%cause, ?what, "there is no picture of one's own");
        self.own(what).camera = None;
        core.hide(what);
        let cause = if what == Shown::Screen { VideoError::NoScreen } else { cause };
        self.say_own(what, OwnPicture::Failed(cause));
    }

    fn say_own(&self, what: Shown, own: OwnPicture) {
        self.tell.send_if_modified(|v| {
            let place = match what {
                Shown::Camera => &mut v.own_picture,
                Shown::Screen => &mut v.own_screen,
            };
            std::mem::replace(place, own.clone()) != own
        });
    }

    /// A frame of ours: to the unit, and to whoever draws it here.
    fn taken(&self, core: &mut Core, what: Shown, frame: &Encoded) {
        core.send_picture(Instant::now(), what, frame);
        let own = own_picture(frame, what == Shown::Screen);
        if frame.best && self.wanted.contains_key(&own.source) {
            // Nobody takes them in time: they say so, and get a key frame.
            let _ = self.frames.try_send(own);
        }
    }

    /// So many bits a second go through: a screen, which is to be read, gets most of it.
    fn carries(&self, bits: u64) {
        let bits = bits.saturating_sub(SPEECH);
        let face = if self.screen.camera.is_some() { bits / 4 } else { bits };
        let rest = if self.camera.camera.is_some() { bits - face } else { bits };
        self.camera.camera.iter().for_each(|c| c.set_rate(face));
        self.screen.camera.iter().for_each(|c| c.set_rate(rest));
    }

    pub(super) async fn close(self, end: RoomEnd) {
        self.tell.send_modify(|v| {
            v.phase = RoomPhase::Over(end);
            v.people.clear();
            v.speaking.clear();
        });
        if let Some(s) = self.session {
            s.close().await;
        }
    }

    pub(super) async fn run(&mut self, mut inbox: mpsc::Receiver<Command>) -> RoomEnd {
        let mut waits = TRIES.iter();
        while let Some(wait) = waits.next() {
            self.meanwhile(tokio::time::sleep(Duration::from_millis(*wait)), &mut inbox).await;
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

    /// Waits for something, and closes camera or screen at once when that is wanted meanwhile. Everything else is heard afterwards.
    async fn meanwhile<T>(&mut self, what: impl Future<Output = T>, inbox: &mut mpsc::Receiver<Command>) -> T {
        let mut what = std::pin::pin!(what);
        loop {
            tokio::select! {
                done = &mut what => return done,
                command = inbox.recv(), if self.unheard.len() < QUEUE => match command {
                    Some(c) => {
                        if let Command::Show(what, None) = c {
                            self.show(what, None);
                        }
                        self.unheard.push_back(c);
                    }
                    None => return what.await,
                },
            }
        }
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
        let mut core =
            Core::new([&sockets.locals(Which::Publisher), &sockets.locals(Which::Subscriber)], keys, muted, rand::random(), Instant::now());
        core.want(self.wanted.clone());
        for (what, own) in [(Shown::Camera, &self.camera), (Shown::Screen, &self.screen)] {
            own.camera.iter().for_each(|c| core.show(what, (c.width, c.height), c.layered));
        }
        let (url, token) = (self.url.clone(), self.token.clone());
        let mut link = match self.meanwhile(Box::pin(Signalling::connect(&url, &token, None)), inbox).await {
            Ok(s) => Link::new(url, token, s),
            Err(cause) => {
                self.keys = Some(core.into_keys());
                return Err(cause);
            }
        };
        let mut look = tokio::time::interval(WATCH);
        let mut flowed = Instant::now();
        let ended = 'stay: loop {
            while let Some(c) = self.unheard.pop_front() {
                if matches!(c, Command::Leave) {
                    break 'stay self.farewell(&mut core, &mut link, &mut sockets).await;
                }
                self.on_command(&mut core, c);
            }
            match self.flush(&mut core, &mut link, &mut sockets).await {
                Some(Next::Stop) => break Ended::For(self.end()),
                Some(Next::Rejoin) => break Ended::Again,
                Some(Next::Resume) => match core.sid() {
                    Some(sid) => link.renew(sid),
                    None => break Ended::Again,
                },
                None => {}
            }
            let due = tokio::time::Instant::from_std(core.poll_timeout());
            tokio::select! {
                news = link.next() => match news {
                    News::Said(m) => core.handle_signal(Instant::now(), *m),
                    News::Broken => match core.sid() {
                        Some(sid) => link.renew(sid),
                        None => break Ended::Again,
                    },
                    // It may have been raised or taken down while nobody heard it.
                    News::Back => core.raise_hand(self.tell.borrow().hand),
                    News::Lost => break Ended::Again,
                },
                Some(Received { which, protocol, from, to, bytes }) = datagrams.recv() => {
                    core.handle_datagram(Instant::now(), which, protocol, (from, to), &bytes);
                }
                Some(p) = self.speech.recv() => {
                    let level = self.session.as_ref().map_or(0.0, |s| s.quality().borrow().level_in);
                    core.send_voice(Instant::now(), p.timestamp, &p.payload, level);
                }
                came = self.camera.next() => self.came(&mut core, Shown::Camera, came),
                came = self.screen.next() => self.came(&mut core, Shown::Screen, came),
                command = inbox.recv() => match command {
                    Some(Command::Leave) | None => break self.farewell(&mut core, &mut link, &mut sockets).await,
                    Some(c) => self.on_command(&mut core, c),
                },
                _ = look.tick() => {
                    *self.carrier.path.lock().unwrap_or_else(PoisonError::into_inner) = core.path_stats();
                    if core.is_up() {
                        self.inside += WATCH;
                        flowed = Instant::now();
                        // A full queue: it is told the next time.
                        let _ = self.to_voice.try_send(ToVoice::Report(core.loss()));
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
        self.keys = Some(core.into_keys());
        Ok(ended)
    }

    async fn farewell(&mut self, core: &mut Core, link: &mut Link, sockets: &mut Sockets) -> Ended {
        core.leave();
        self.flush(core, link, sockets).await;
        link.close().await;
        Ended::For(RoomEnd::Left)
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
            Command::Show(what, source) => {
                if source.is_none() {
                    core.hide(what);
                }
                self.show(what, source);
            }
            Command::Want(pictures) => {
                for (screen, own) in [(false, &self.camera), (true, &self.screen)] {
                    let of = Source { identity: OWN.to_owned(), screen };
                    if pictures.contains_key(&of) && !self.wanted.contains_key(&of) {
                        own.camera.iter().for_each(|c| c.ask_for_key(Wanted::ALL));
                    }
                }
                self.wanted.clone_from(&pictures);
                self.wanted_at = Instant::now();
                core.want(pictures);
            }
            Command::PicturesLost(of) => {
                for (screen, own) in [(false, &self.camera), (true, &self.screen)] {
                    if of.as_ref().is_none_or(|o| o.identity == OWN && o.screen == screen) {
                        own.camera.iter().for_each(|c| c.ask_for_key(Wanted::ALL));
                    }
                }
                core.lose_pictures(of.as_ref());
            }
            Command::Leave => {}
        }
    }

    /// Does what the core wants done.
    async fn flush(&mut self, core: &mut Core, link: &mut Link, sockets: &mut Sockets) -> Option<Next> {
        let mut next = None;
        while let Some(out) = core.poll_output() {
            match out {
                Out::Transmit(which, t) => sockets.send(which, &t),
                Out::Signal(m) => link.say(*m).await,
                Out::Voice(identity, timestamp, opus) => self.heard(&identity, timestamp, opus),
                // A name that only we have.
                Out::Picture(picture) if picture.source.identity == OWN => {}
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
                Out::Interrupted => self.phase(RoomPhase::Reconnecting),
                Out::Renew => next = Some(Next::Resume),
                Out::Muted => {
                    self.switches.muted.store(true, Ordering::Relaxed);
                    self.tell.send_modify(|v| v.muted = true);
                }
                Out::KeyNeeded(what, layers) => self.own(what).camera.iter().for_each(|c| c.ask_for_key(layers)),
                Out::LookedAt(what, layers) => {
                    let own = self.own(what);
                    own.looked_at = layers;
                    own.camera.iter().for_each(|c| c.want(layers));
                }
                Out::Carries(bits) => self.carries(bits),
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
