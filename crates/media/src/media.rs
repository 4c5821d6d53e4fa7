//! The media port: commands in, events out, one session for each call.

use crate::audio::{AudioError, AudioSetup};
use crate::pictures::{self, OnPicture, PictureState, Pictures, ToPictures};
use crate::session::{Quality, Session, Switches, ToVoice, queue};
use crate::transport::echo::Echo;
use crate::transport::peer::{OnEvent, Peer, PeerConfig};
use crate::transport::{IceServer, Transport, TransportError, TransportEvent};
use crate::video::codec::Codec;
use crate::video::source::Source;
use sc_calls::{FailCause, MediaCommand, MediaEvent, MediaPort, Shown};
use sc_protocol::CallId;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, watch};
use tokio_rustls::rustls::ClientConfig;
use webrtc::runtime::Runtime;

/// Commands and events that may wait.
const QUEUE: usize = 256;
/// Addresses that are found within this are told together.
const TOGETHER: Duration = Duration::from_millis(100);

/// Asks for STUN and TURN servers; an empty list when there are none, or nobody to ask.
pub type IceSource = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = Vec<IceServer>> + Send>> + Send + Sync>;

/// How calls are carried.
#[derive(Clone)]
pub struct MediaOptions {
    /// STUN and TURN servers.
    pub ice: IceSource,
    /// Addresses to bind; empty for all.
    pub bind: Vec<String>,
    /// The runtime whose sockets are used, when it is not Tokio's own.
    pub runtime: Option<Arc<dyn Runtime>>,
    /// How TLS is spoken to a relay: [`crate::transport::relay::web_tls`].
    pub tls: Option<Arc<ClientConfig>>,
    /// What pictures may be encoded in, the best first: [`Codec::SPOKEN`].
    pub codecs: Vec<Codec>,
    /// Where frames go that may be drawn: those of the other side, and one's own.
    pub show: OnPicture,
}

/// A call that runs.
struct Running {
    session: Session<dyn Transport>,
    pictures: Pictures,
}

impl Running {
    async fn close(self) {
        let Self { session, pictures } = self;
        drop(pictures);
        session.close().await;
    }
}

struct Shared {
    options: MediaOptions,
    audio: Mutex<AudioSetup>,
    /// What shows this side: the camera, and the screen.
    video: Mutex<Source>,
    screen: Mutex<Option<Source>>,
    relay_only: AtomicBool,
    sessions: tokio::sync::Mutex<HashMap<CallId, Running>>,
    events: mpsc::Sender<MediaEvent>,
    /// Of the call that runs.
    quality: watch::Sender<Option<watch::Receiver<Quality>>>,
    pictures: watch::Sender<Option<watch::Receiver<PictureState>>>,
}

/// Carries the sound of calls with this machine's devices.
pub struct Media {
    shared: Arc<Shared>,
    commands: mpsc::Sender<MediaCommand>,
}

/// The test call: one hears oneself two seconds later. Ends when it is dropped.
pub struct TestCall {
    session: Option<Session<Echo>>,
}

impl TestCall {
    /// Levels, and what is wrong with the devices.
    #[must_use]
    pub fn quality(&self) -> Option<watch::Receiver<Quality>> {
        self.session.as_ref().map(Session::quality)
    }
}

impl Drop for TestCall {
    fn drop(&mut self) {
        if let (Some(session), Ok(runtime)) = (self.session.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(session.close());
        }
    }
}

impl Media {
    /// Starts; the events come from the receiver. Needs a Tokio runtime.
    #[must_use]
    pub fn start(options: MediaOptions, audio: AudioSetup) -> (Arc<Self>, mpsc::Receiver<MediaEvent>) {
        let (commands, mut inbox) = mpsc::channel(QUEUE);
        let (events, outbox) = mpsc::channel(QUEUE);
        let shared = Arc::new(Shared {
            options,
            audio: Mutex::new(audio),
            video: Mutex::new(Source::Camera(None)),
            screen: Mutex::default(),
            relay_only: AtomicBool::new(false),
            sessions: tokio::sync::Mutex::default(),
            events,
            quality: watch::channel(None).0,
            pictures: watch::channel(None).0,
        });
        let worker = shared.clone();
        tokio::spawn(async move {
            while let Some(command) = inbox.recv().await {
                worker.handle(command).await;
            }
            for (_, running) in worker.sessions.lock().await.drain() {
                running.close().await;
            }
        });
        (Arc::new(Self { shared, commands }), outbox)
    }

    /// Which devices; a running call changes over.
    pub async fn set_audio(&self, audio: AudioSetup) {
        self.shared.audio.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&audio);
        for running in self.shared.sessions.lock().await.values() {
            running.session.tell(ToVoice::Setup(audio.clone()));
        }
    }

    /// Where pictures of one's own come from, the next time they are shown.
    pub fn set_video(&self, source: Source) {
        *self.shared.video.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    /// The screen or window that is shown the next time one is.
    pub fn set_screen(&self, source: Source) {
        *self.shared.screen.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// How the running call's pictures are.
    #[must_use]
    pub fn pictures(&self) -> Option<PictureState> {
        self.shared.pictures.borrow().as_ref().map(|p| p.borrow().clone())
    }

    /// Whoever draws lost frames, of one's own or of theirs: they go on with a key frame.
    pub async fn pictures_lost(&self, own: bool) {
        for running in self.shared.sessions.lock().await.values() {
            running.pictures.lost(own);
        }
    }

    /// Only through a relay, from the next call on: the other side does not learn this device's addresses.
    pub fn set_relay_only(&self, on: bool) {
        self.shared.relay_only.store(on, Ordering::Relaxed);
    }

    /// How the running call sounds.
    #[must_use]
    pub fn quality(&self) -> Option<Quality> {
        self.shared.quality.borrow().as_ref().map(|q| q.borrow().clone())
    }

    /// Begins a test call.
    pub async fn test_call(&self) -> Result<TestCall, AudioError> {
        let (to, inbox) = queue();
        let voice = to.clone();
        let on_event: OnEvent = Arc::new(move |event| {
            if let TransportEvent::Voice(packet, at) = event {
                // A full queue: as a packet that is lost.
                let _ = voice.try_send(ToVoice::Packet(0, packet, at));
            }
        });
        let audio = self.shared.audio();
        let session = Session::open(audio, Arc::new(Echo::new(on_event)), (to, inbox), Arc::default()).await?;
        session.switches.transmit.store(true, Ordering::Relaxed);
        Ok(TestCall { session: Some(session) })
    }
}

impl MediaPort for Media {
    fn command(&self, command: MediaCommand) {
        if let Err(cause) = self.commands.try_send(command) {
            tracing::error!(%cause, "a command to the media was lost");
        }
    }
}

fn cause_of(e: &AudioError) -> FailCause {
    match e {
        AudioError::NoDevice("speaker") | AudioError::Denied("speaker") | AudioError::Device("speaker", _) => FailCause::NoSpeaker,
        AudioError::NoDevice(_) | AudioError::Denied(_) | AudioError::Device("microphone", _) => FailCause::NoMicrophone,
        _ => FailCause::Device,
    }
}

fn cause_of_transport(e: &TransportError) -> FailCause {
    match e {
        TransportError::Description(_) => FailCause::BadDescription,
        TransportError::Local(_) => FailCause::Device,
    }
}

impl Shared {
    fn audio(&self) -> AudioSetup {
        self.audio.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn emit(&self, event: MediaEvent) {
        // Nobody listens any more: the engine has stopped.
        let _ = self.events.send(event).await;
    }

    async fn handle(self: &Arc<Self>, command: MediaCommand) {
        let (call, result) = match command {
            MediaCommand::Prepare { call } => (call, self.offer(call, false).await),
            MediaCommand::Restart { call } => (call, self.offer(call, true).await),
            MediaCommand::Answer { call, offer } => (call, self.answer(call, &offer).await),
            MediaCommand::Accept { call, answer } => (call, self.accept(call, &answer).await),
            MediaCommand::Candidates { call, list } => {
                if let Some(r) = self.sessions.lock().await.get(&call) {
                    r.session.transport.add_candidates(&list).await;
                }
                return;
            }
            MediaCommand::Hold { call, held } => return self.switch(call, |s| s.transmit.store(!held, Ordering::Relaxed)).await,
            MediaCommand::Mute { call, muted } => return self.switch(call, |s| s.muted.store(muted, Ordering::Relaxed)).await,
            MediaCommand::Show { call, what } => return self.show(call, what).await,
            MediaCommand::Close { call } => {
                let running = self.sessions.lock().await.remove(&call);
                if let Some(running) = running {
                    self.quality.send_replace(None);
                    self.pictures.send_replace(None);
                    running.close().await;
                }
                return;
            }
        };
        if let Err(cause) = result {
            self.emit(MediaEvent::Failed { call, cause }).await;
        }
    }

    async fn was_connected(&self, call: CallId) -> bool {
        self.sessions.lock().await.get(&call).is_some_and(|r| r.session.quality().borrow().heard.received > 0)
    }

    async fn show(&self, call: CallId, what: Option<Shown>) {
        let source = match what {
            Some(Shown::Camera) => Some(self.video.lock().unwrap_or_else(PoisonError::into_inner).clone()),
            Some(Shown::Screen) => self.screen.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            None => None,
        };
        if let Some(r) = self.sessions.lock().await.get(&call) {
            r.pictures.show(what.zip(source));
        }
    }

    async fn switch(&self, call: CallId, how: impl FnOnce(&Switches)) {
        if let Some(r) = self.sessions.lock().await.get(&call) {
            how(&r.session.switches);
        }
    }

    async fn offer(self: &Arc<Self>, call: CallId, restart: bool) -> Result<(), FailCause> {
        let transport = self.transport(call).await?;
        let sdp = transport.offer(restart).await.map_err(|e| failed(&e))?;
        self.emit(MediaEvent::Offer { call, sdp }).await;
        Ok(())
    }

    async fn answer(self: &Arc<Self>, call: CallId, offer: &str) -> Result<(), FailCause> {
        let transport = self.transport(call).await?;
        let sdp = transport.answer(offer).await.map_err(|e| failed(&e))?;
        self.emit(MediaEvent::Answer { call, sdp }).await;
        Ok(())
    }

    async fn accept(self: &Arc<Self>, call: CallId, answer: &str) -> Result<(), FailCause> {
        let transport = self.transport(call).await?;
        match transport.accept(answer).await {
            // An answer to a description that another one has followed: the call does not end for it.
            Err(cause) if self.was_connected(call).await => {
                tracing::info!(%cause, "an answer came too late");
                Ok(())
            }
            other => other.map_err(|e| failed(&e)),
        }
    }

    /// The call's transport; its session is opened when there is none.
    async fn transport(self: &Arc<Self>, call: CallId) -> Result<Arc<dyn Transport>, FailCause> {
        let mut sessions = self.sessions.lock().await;
        if let Some(r) = sessions.get(&call) {
            return Ok(r.session.transport.clone());
        }
        let config = PeerConfig {
            ice: (self.options.ice)().await,
            relay_only: self.relay_only.load(Ordering::Relaxed),
            bind: self.options.bind.clone(),
            runtime: self.options.runtime.clone(),
            tls: self.options.tls.clone(),
            codecs: self.options.codecs.clone(),
        };
        let (to, inbox) = queue();
        let switches = Arc::new(Switches::default());
        let (shown, seen) = pictures::queue();
        let on_event = self.on_event(call, to.clone(), shown.clone(), switches.clone());
        let peer: Arc<dyn Transport> = Arc::new(Peer::new(config, on_event).await.map_err(|e| failed(&e))?);
        let session = match Session::open(self.audio(), peer.clone(), (to, inbox), switches.clone()).await {
            Ok(session) => session,
            Err(e) => {
                tracing::warn!(cause = %e, "the devices could not be opened");
                peer.close().await;
                return Err(cause_of(&e));
            }
        };
        let pictures = Pictures::start(peer.clone(), (shown, seen), switches, session.quality(), self.options.show.clone());
        self.quality.send_replace(Some(session.quality()));
        self.pictures.send_replace(Some(pictures.state()));
        tokio::spawn(watch_own(call, pictures.state(), self.events.clone()));
        sessions.insert(call, Running { session, pictures });
        Ok(peer)
    }

    /// What a call's transport says, to the voice thread, the pictures and the machine.
    fn on_event(
        self: &Arc<Self>,
        call: CallId,
        voice: std::sync::mpsc::SyncSender<ToVoice>,
        pictures: mpsc::Sender<ToPictures>,
        switches: Arc<Switches>,
    ) -> OnEvent {
        let shared = Arc::downgrade(self);
        let connected = AtomicBool::new(false);
        let found = Arc::new(Mutex::new(Vec::new()));
        Arc::new(move |event| {
            let Some(shared) = shared.upgrade() else { return };
            // A full queue to the thread: as a packet that is lost.
            let tell = |what| drop(voice.try_send(what));
            // And here: as a packet that is lost, or a wish that comes again.
            let show = |what| drop(pictures.try_send(what));
            let event = match event {
                TransportEvent::Voice(packet, at) => return tell(ToVoice::Packet(0, packet, at)),
                TransportEvent::Report(lost) => return tell(ToVoice::Report(lost)),
                TransportEvent::Picture(p) => return show(ToPictures::Packet(p, Instant::now())),
                TransportEvent::KeyWanted => return show(ToPictures::KeyWanted),
                TransportEvent::Estimate(bits) => return show(ToPictures::Estimate(bits)),
                TransportEvent::Candidate(c) => return shared.found(call, &found, c),
                TransportEvent::Connected => {
                    // The first time; later the machine says when.
                    if !connected.swap(true, Ordering::Relaxed) {
                        switches.transmit.store(true, Ordering::Relaxed);
                    }
                    MediaEvent::Connected { call }
                }
                TransportEvent::Disconnected => {
                    switches.transmit.store(false, Ordering::Relaxed);
                    MediaEvent::Disconnected { call }
                }
                TransportEvent::NetworkChanged => MediaEvent::NetworkChanged { call },
                TransportEvent::Failed if connected.load(Ordering::Relaxed) => MediaEvent::Disconnected { call },
                TransportEvent::Failed => MediaEvent::Failed { call, cause: FailCause::NoPath },
            };
            tokio::spawn(async move { shared.emit(event).await });
        })
    }

    fn found(self: &Arc<Self>, call: CallId, found: &Arc<Mutex<Vec<String>>>, candidate: String) {
        let mut list = found.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(candidate);
        if list.len() > 1 {
            return;
        }
        let (shared, found) = (self.clone(), found.clone());
        tokio::spawn(async move {
            tokio::time::sleep(TOGETHER).await;
            let list = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
            for part in list.chunks(sc_calls::signal::CANDIDATES) {
                shared.emit(MediaEvent::Candidates { call, list: part.to_vec() }).await;
            }
        });
    }
}

/// Tells the machine when there can be no picture of one's own, as long as the call's pictures last.
async fn watch_own(call: CallId, mut state: watch::Receiver<PictureState>, events: mpsc::Sender<MediaEvent>) {
    let mut before = 0;
    while state.changed().await.is_ok() {
        let failures = state.borrow_and_update().failures;
        if failures != before && events.send(MediaEvent::NoPicture { call }).await.is_err() {
            return;
        }
        before = failures;
    }
}

fn failed(e: &TransportError) -> FailCause {
    tracing::warn!(cause = %e, "a call could not be made ready");
    cause_of_transport(e)
}
