//! Calls, devices and the test call: commands, and what is told while they last.

use super::{App, Inner, id, lock, value};
use crate::AppError;
use crate::command::{AppEvent, Command};
use crate::settings::Settings;
use crate::view::own_trouble;
use crate::view::{AudioDeviceView, AudioDevicesView, CallView, QualityView, ScreenView};
use sc_engine::call::{CallState, EndCause, Phase};
use sc_engine::{Engine, WeakEngine};
use sc_media::audio::device::{Device, Devices};
use sc_media::audio::{AudioSetup, Input, Output};
use sc_media::pictures::{OwnPicture, PictureState, Preview};
use sc_media::ring::{Ring, Tone};
use sc_media::transport::IceServer;
use sc_media::transport::relay::web_tls;
use sc_media::video::codec::Codec;
use sc_media::video::source::Source;
use sc_media::video::{camera, screen};
use sc_media::{IceSource, Media, MediaOptions};
use sc_protocol::rest::IceServers;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How often levels and figures are told.
const QUALITY: Duration = Duration::from_millis(200);

/// The devices of the settings.
pub(super) fn audio(settings: &Settings) -> AudioSetup {
    AudioSetup {
        input: settings.microphone.clone().map_or(Input::Default, Input::Device),
        output: settings.speaker.clone().map_or(Output::Default, Output::Device),
    }
}

/// Asks the server, each time anew: the credentials are of short life.
fn ice(engine: WeakEngine) -> IceSource {
    Arc::new(move || {
        let engine = engine.clone();
        Box::pin(async move {
            let Some(api) = engine.upgrade().and_then(|e| e.http().ok()) else { return Vec::new() };
            match tokio::time::timeout(Duration::from_secs(3), api.get::<IceServers>("/v1/calls/ice-servers")).await {
                Ok(Ok(found)) => found
                    .ice_servers
                    .into_iter()
                    .map(|s| IceServer { urls: s.urls, username: s.username, credential: s.credential })
                    .collect(),
                Ok(Err(cause)) => {
                    tracing::warn!(%cause, "no relay is known; only direct paths are tried");
                    Vec::new()
                }
                Err(_) => {
                    tracing::warn!("the server named no relay in time; only direct paths are tried");
                    Vec::new()
                }
            }
        })
    })
}

impl App {
    /// From now on this device rings.
    pub(super) fn start_media(&self, engine: &Engine) {
        let setup = self.0.options.audio.clone().unwrap_or_else(|| audio(&lock(&self.0.settings)));
        let show = self.0.drawn.show(self.0.pictures.clone());
        let options =
            MediaOptions { ice: ice(engine.weak()), bind: Vec::new(), runtime: None, tls: web_tls(), codecs: Codec::SPOKEN.to_vec(), show };
        let (media, events) = Media::start(options, setup);
        media.set_video(self.camera());
        media.set_relay_only(lock(&self.0.settings).relay_calls);
        engine.attach_media(media.clone(), events);
        *lock(&self.0.media) = Some(media);
    }

    /// What shows this side.
    pub(super) fn camera(&self) -> Source {
        self.0.options.video.clone().unwrap_or_else(|| Source::Camera(lock(&self.0.settings).camera.clone()))
    }

    fn media(&self) -> Result<Arc<Media>, AppError> {
        lock(&self.0.media).clone().ok_or_else(|| AppError::new("LOCKED", "Unlock the app first."))
    }

    /// The settings are others: so are the devices.
    pub(super) async fn settle_media(&self, settings: &Settings) {
        if let Ok(media) = self.media() {
            media.set_relay_only(settings.relay_calls);
            media.set_video(self.camera());
            if self.0.options.audio.is_none() {
                media.set_audio(audio(settings)).await;
                self.settle_room(audio(settings)).await;
            }
        }
    }

    pub(super) async fn call_calls(&self, e: &Engine, command: Command) -> Result<Value, AppError> {
        match command {
            Command::StartCall { .. } | Command::AcceptCall { .. } if self.in_room() => {
                Err(AppError::new("IN_ROOM", "You are in a room. Leave it first."))
            }
            Command::StartCall { conversation, video } => value(&e.start_call(id(&conversation)?, video).await?.to_string()),
            Command::AcceptCall { video } => {
                e.accept_call(video).await?;
                Ok(Value::Null)
            }
            Command::CallCamera { on } => {
                e.call_camera(on).await?;
                Ok(Value::Null)
            }
            Command::CallScreen { source } => {
                let on = source.is_some();
                if let Some(id) = source {
                    self.media()?.set_screen(Source::Screen(id));
                }
                e.call_screen(on).await?;
                Ok(Value::Null)
            }
            Command::Screens => {
                let found = tokio::task::spawn_blocking(screen::devices).await.map_err(|e| AppError::new("INTERNAL", e.to_string()))?;
                value(&found.into_iter().map(ScreenView::from).collect::<Vec<_>>())
            }
            Command::HangUp => {
                e.hang_up().await?;
                Ok(Value::Null)
            }
            Command::MuteCall { muted } => {
                e.mute_call(muted).await?;
                Ok(Value::Null)
            }
            Command::CurrentCall => value(&self.current_call(e).await?),
            Command::AudioDevices => {
                let look = || (Devices::now(), camera::devices());
                let (found, cameras) = tokio::task::spawn_blocking(look).await.map_err(|e| AppError::new("INTERNAL", e.to_string()))?;
                let view = |d: Device| AudioDeviceView { id: d.id, name: d.name, preferred: d.preferred };
                value(&AudioDevicesView {
                    microphones: found.microphones.into_iter().map(view).collect(),
                    speakers: found.speakers.into_iter().map(view).collect(),
                    cameras: cameras.into_iter().map(|c| c.name).collect(),
                })
            }
            Command::TestCamera { on } => self.test_camera(e, on).await,
            Command::TestCall { on } => self.test_call(e, on).await,
            _ => Err(AppError::new("BAD_REQUEST", "There is no such question.")),
        }
    }

    async fn test_call(&self, e: &Engine, on: bool) -> Result<Value, AppError> {
        if !on {
            *lock(&self.0.test) = None;
            return Ok(Value::Null);
        }
        if e.call().is_some_and(|s| !matches!(s.phase, Phase::Ended(_))) {
            return Err(AppError::new("IN_CALL", "There is a call already."));
        }
        let test = self.media()?.test_call().await.map_err(|cause| AppError::new(audio_code(&cause), cause.to_string()))?;
        *lock(&self.0.test) = Some(test);
        self.tell_quality();
        Ok(Value::Null)
    }

    async fn test_camera(&self, e: &Engine, on: bool) -> Result<Value, AppError> {
        let turn = self.end_preview();
        if !on {
            return Ok(Value::Null);
        }
        if self.in_room() || e.call().is_some_and(|s| !matches!(s.phase, Phase::Ended(_))) {
            return Err(AppError::new("IN_CALL", "There is a call already."));
        }
        let opened = Preview::open(self.camera(), self.0.drawn.show(self.0.pictures.clone())).await;
        let preview = opened.map_err(|cause| AppError::new(own_trouble(&OwnPicture::Failed(cause.clone())), cause.to_string()))?;
        let mut shown = lock(&self.0.preview);
        // Meanwhile it was closed, or a call needs the camera.
        if self.0.preview_turn.load(Ordering::SeqCst) == turn {
            *shown = Some(preview);
        }
        Ok(Value::Null)
    }

    /// Nobody sees themselves any more, also when their camera is only just opening. The turn that begins.
    pub(super) fn end_preview(&self) -> u32 {
        let mut shown = lock(&self.0.preview);
        *shown = None;
        self.0.preview_turn.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn current_call(&self, e: &Engine) -> Result<Option<CallView>, AppError> {
        let Some(state) = e.call() else { return Ok(None) };
        let contact = e.read(|r| r.contact(state.peer))?;
        let check = match state.phase {
            Phase::Ended(_) => None,
            _ => e.epoch_check(state.conversation).await?,
        };
        let seconds = e.call_duration().map(|d| d.as_secs());
        let pictures = lock(&self.0.media).as_ref().and_then(|m| m.pictures()).unwrap_or_default();
        Ok(Some(call_view(&state, contact.as_ref(), check, seconds, &pictures)))
    }

    /// Rings, and stops ringing.
    fn ring(&self, phase: Option<Phase>) {
        let tone = match phase {
            Some(Phase::Incoming) => Some(Tone::Bell),
            Some(Phase::Calling) => Some(Tone::Ringback),
            _ => None,
        };
        let mut ring = lock(&self.0.ring);
        if ring.as_ref().map(|(t, _)| *t) != tone && self.0.options.audio.is_none() {
            let output = audio(&lock(&self.0.settings)).output;
            *ring = tone.map(|t| (t, Ring::start(t, output)));
        }
    }

    /// The call is another one, or elsewhere.
    pub(super) async fn tell_call(&self, engine: &Engine) {
        self.ring(engine.call().map(|c| c.phase));
        if engine.call().is_some() {
            *lock(&self.0.test) = None;
            self.end_preview();
        }
        self.show_call(engine).await;
        self.tell_quality();
    }

    async fn show_call(&self, engine: &Engine) {
        match self.current_call(engine).await {
            // Nobody may be listening.
            Ok(call) => drop(self.0.events.send(AppEvent::Call { call: call.map(Box::new) })),
            Err(cause) => tracing::error!(%cause, "the call could not be shown"),
        }
    }

    /// Somebody is seen, or is not any more.
    async fn pictures_changed(&self) {
        if let Ok(engine) = self.engine() {
            self.show_call(&engine).await;
        }
    }

    /// Tells levels and figures as long as there is something to tell.
    pub(super) fn tell_quality(&self) {
        let mut telling = lock(&self.0.telling);
        if telling.as_ref().is_some_and(|t| !t.is_finished()) {
            return;
        }
        let app = Arc::downgrade(&self.0);
        *telling = Some(tokio::spawn(async move {
            let mut shown: Option<(OwnPicture, bool, bool)> = None;
            loop {
                tokio::time::sleep(QUALITY).await;
                let Some(inner) = app.upgrade() else { return };
                let pictures = lock(&inner.media).as_ref().and_then(|m| m.pictures()).map(|p| (p.own, p.theirs, p.screen));
                if shown != pictures {
                    shown = pictures;
                    App(inner.clone()).pictures_changed().await;
                }
                match quality(&inner) {
                    // Nobody may be listening.
                    Some(quality) => drop(inner.events.send(AppEvent::Quality { quality })),
                    // A room's sound may take a moment to open.
                    None if inner.in_room() => {}
                    None => return,
                }
            }
        }));
    }
}

fn quality(inner: &Inner) -> Option<QualityView> {
    let test = lock(&inner.test).as_ref().and_then(sc_media::TestCall::quality).map(|q| q.borrow().clone());
    let q = test.or_else(|| inner.room_quality()).or_else(|| lock(&inner.media).as_ref().and_then(|m| m.quality()))?;
    let pictures = lock(&inner.media).as_ref().and_then(|m| m.pictures()).unwrap_or_default();
    Some(QualityView::from(&q).with(&pictures))
}

/// What is wrong with a device, for the choice of words.
#[must_use]
pub(crate) fn audio_code(cause: &sc_media::audio::AudioError) -> &'static str {
    use sc_media::audio::AudioError as E;
    match cause {
        E::NoDevice("speaker") | E::Lost("speaker") | E::Denied("speaker") | E::Device("speaker", _) => "NO_SPEAKER",
        E::Denied(_) => "MICROPHONE_DENIED",
        _ => "NO_MICROPHONE",
    }
}

fn call_view(
    s: &CallState,
    contact: Option<&sc_store::model::Contact>,
    check: Option<String>,
    seconds: Option<u64>,
    pictures: &PictureState,
) -> CallView {
    use sc_engine::call::FailCause as F;
    let phase = match s.phase {
        Phase::Preparing | Phase::Calling => "calling",
        Phase::Incoming => "incoming",
        Phase::Answering | Phase::Connecting => "connecting",
        Phase::Active => "active",
        Phase::Reconnecting => "reconnecting",
        Phase::Ended(_) => "ended",
    };
    let cause = match s.phase {
        Phase::Ended(EndCause::HungUp) => "hung_up",
        Phase::Ended(EndCause::Cancelled) => "cancelled",
        Phase::Ended(EndCause::Declined) => "declined",
        Phase::Ended(EndCause::Busy) => "busy",
        Phase::Ended(EndCause::NoAnswer) => "no_answer",
        Phase::Ended(EndCause::Missed) => "missed",
        Phase::Ended(EndCause::Elsewhere) => "elsewhere",
        Phase::Ended(EndCause::Failed(F::NoPath)) => "no_path",
        Phase::Ended(EndCause::Failed(F::ConnectionLost)) => "connection_lost",
        Phase::Ended(EndCause::Failed(F::NoMicrophone)) => "no_microphone",
        Phase::Ended(EndCause::Failed(F::NoSpeaker)) => "no_speaker",
        Phase::Ended(_) => "failed",
        _ => "",
    };
    CallView {
        id: s.call.to_string(),
        conversation: s.conversation.to_string(),
        peer: s.peer.to_string(),
        name: contact.map_or_else(|| "…".to_owned(), |c| c.username.clone()),
        verified: contact.is_some_and(|c| c.verified),
        outgoing: s.direction == sc_engine::call::Direction::Outgoing,
        phase: phase.to_owned(),
        cause: cause.to_owned(),
        muted: s.muted,
        video: s.video,
        camera: s.camera,
        screen: s.screen,
        camera_trouble: own_trouble(&pictures.own).to_owned(),
        picture: pictures.theirs,
        picture_screen: pictures.theirs && pictures.screen,
        seconds,
        check: check.unwrap_or_default(),
    }
}
