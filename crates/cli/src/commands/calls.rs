//! Calls: a line for each change, and at the end how it sounded; what is seen goes to a file.

use super::{Cli, PATIENCE};
use crate::args::MediaArgs;
use crate::output::print;
use sc_app::command::{AppEvent, Command, WantedPicture};
use sc_app::view::{AudioDevicesView, CallView, QualityView, ScreenView};
use sc_app::{App, AppError};
use sc_media::pictures::THEIRS;
use sc_media::room::LEASE;
use sc_media::video::codec::Codec;
use sc_media::video::ivf::Recorder;
use serde_json::json;
use std::time::Duration;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;
use tokio::time::Instant;

/// The call is put away by itself after its end; it is over for the command before that.
const OVER: Duration = Duration::from_secs(90);

/// What makes a line of its own: call, phase, and the pictures on both sides.
type Mark = (String, String, String, [bool; 4]);

fn mark(c: &CallView) -> Mark {
    (c.id.clone(), c.phase.clone(), c.camera_trouble.clone(), [c.camera, c.screen, c.picture, c.picture_screen])
}

/// Whose call it is.
enum Part {
    /// This side's, of this id; when both call each other, theirs may take its place.
    Caller(String),
    /// Somebody's, to be taken or declined; until then it has to come.
    Called { accept: bool, until: Instant },
}

impl Part {
    fn until(&self) -> Option<Instant> {
        match self {
            Self::Caller(_) => None,
            Self::Called { until, .. } => Some(*until),
        }
    }

    /// False for a call that was over before this one began: what is caught up with may hold one, and its end is shown for a while.
    fn concerns(&self, call: &CallView, shown: &Mark) -> bool {
        call.phase != "ended" || call.id == shown.0 || matches!(self, Self::Caller(own) if *own == call.id)
    }
}

/// What is seen, on its way to a file.
struct Film {
    stop: watch::Sender<bool>,
    writing: tokio::task::JoinHandle<std::io::Result<u32>>,
}

impl Film {
    fn begin(app: &App, media: &MediaArgs) -> Result<Option<Self>, AppError> {
        let Some(dir) = media.record.as_ref().filter(|d| d.as_os_str() != "none") else { return Ok(None) };
        let path = dir.join("received.ivf");
        let recorder = Recorder::create(&path).map_err(|e| AppError::new("STORE", format!("{} cannot be written: {e}", path.display())))?;
        let (stop, stopped) = watch::channel(false);
        Ok(Some(Self { stop, writing: tokio::spawn(record(app.clone(), recorder, stopped)) }))
    }

    async fn finish(self) -> Result<(), AppError> {
        self.stop.send_replace(true);
        match self.writing.await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(cause)) => Err(AppError::new("STORE", format!("What was seen could not be written: {cause}"))),
            Err(cause) => Err(AppError::new("INTERNAL", cause.to_string())),
        }
    }
}

/// Says that the other side's picture is drawn, as a window does, and writes it down.
async fn record(app: App, mut to: Recorder, mut stopped: watch::Receiver<bool>) -> std::io::Result<u32> {
    let mut pictures = app.pictures();
    let mut again = tokio::time::interval(LEASE / 3);
    loop {
        tokio::select! {
            _ = stopped.changed() => return to.finish(),
            _ = again.tick() => {
                let wanted = |screen| WantedPicture { identity: THEIRS.to_owned(), screen, width: 640, height: 360 };
                if let Err(cause) = app.call(Command::ShowPictures { pictures: vec![wanted(false), wanted(true)], decoded: false }).await {
                    tracing::warn!(%cause, "the picture is not asked for");
                }
            }
            message = pictures.next() => {
                let Some(message) = message else { return to.finish() };
                let [flags, n, rest @ ..] = &*message else { continue };
                let codec = if flags & 8 == 0 { Codec::Vp8 } else { Codec::Vp9 };
                let Some((_, [a, b, c, d, frame @ ..])) = rest.split_at_checked(usize::from(*n)) else { continue };
                to.push(codec, u32::from_le_bytes([*a, *b, *c, *d]), frame)?;
            }
        }
    }
}

impl Cli<'_> {
    pub(super) async fn call(&self, user: &str, media: &MediaArgs) -> Result<(), AppError> {
        media.check()?;
        let engine = self.engine()?;
        engine.settle(PATIENCE).await?;
        let contact = engine.find_user(user).await?;
        let conversation = engine.direct(contact.user_id).await?;
        // The first call of two people makes their conversation.
        engine.settle(PATIENCE).await?;
        let conversation = engine.direct(contact.user_id).await.unwrap_or(conversation);
        let events = self.app.events();
        let call = self.app.call(Command::StartCall { conversation: conversation.to_string(), video: media.shows() }).await?;
        self.follow(events, media, Part::Caller(call.as_str().unwrap_or_default().to_owned())).await
    }

    pub(super) async fn answer(&self, timeout: u64, decline: bool, media: &MediaArgs) -> Result<(), AppError> {
        media.check()?;
        let events = self.app.events();
        self.engine()?.settle(PATIENCE).await?;
        let until = Instant::now() + Duration::from_secs(timeout);
        self.follow(events, media, Part::Called { accept: !decline, until }).await
    }

    /// Follows the call to its end.
    async fn follow(&self, mut events: Receiver<AppEvent>, media: &MediaArgs, part: Part) -> Result<(), AppError> {
        let mut shown = Mark::default();
        let mut quality: Option<QualityView> = None;
        let mut hang_up: Option<Instant> = None;
        let mut screen = media.screen.clone();
        let mut next: Option<CallView> = self.current().await?;
        let film = Film::begin(self.app, media)?;
        loop {
            if let Some(call) = next.take().filter(|c| mark(c) != shown && part.concerns(c, &shown)) {
                let before = std::mem::replace(&mut shown, mark(&call));
                if call.phase == "ended" {
                    if let Some(film) = film {
                        film.finish().await?;
                    }
                    return self.over(&call, quality.as_ref());
                }
                self.show(&call);
                if let Part::Called { accept, .. } = part
                    && before.1 != call.phase
                    && call.phase == "incoming"
                {
                    self.app.call(if accept { Command::AcceptCall { video: media.shows() } } else { Command::HangUp }).await?;
                }
                if call.phase == "active" {
                    if let Some(id) = screen.take() {
                        self.app.call(Command::CallScreen { source: Some(id) }).await?;
                    }
                    hang_up = hang_up.or_else(|| media.duration.map(|s| Instant::now() + Duration::from_secs(s)));
                }
            }
            let idle = shown.0.is_empty();
            let deadline = if idle { part.until() } else { hang_up };
            let wait = deadline.unwrap_or_else(|| Instant::now() + OVER);
            match tokio::time::timeout_at(wait, events.recv()).await {
                Ok(Ok(AppEvent::Call { call })) => next = call.map(|c| *c),
                Ok(Ok(AppEvent::Quality { quality: q })) => quality = Some(q),
                Ok(Ok(_)) => {}
                Ok(Err(RecvError::Lagged(_))) => next = self.current().await?,
                Ok(Err(RecvError::Closed)) => return Err(AppError::new("INTERNAL", "The app has stopped.")),
                Err(_) if idle && deadline.is_some() => return Err(AppError::new("NOT_FOUND", "Nobody called.")),
                Err(_) if deadline.is_some() => {
                    hang_up = None;
                    self.app.call(Command::HangUp).await?;
                }
                Err(_) => {}
            }
        }
    }

    async fn current(&self) -> Result<Option<CallView>, AppError> {
        let v = self.app.call(Command::CurrentCall).await?;
        serde_json::from_value(v).map_err(|e| AppError::new("ENCODING", e.to_string()))
    }

    fn show(&self, call: &CallView) {
        let v = json!({ "call": call.id, "phase": call.phase, "name": call.name, "outgoing": call.outgoing, "check": call.check, "video": call.video, "camera": call.camera, "screen": call.screen, "camera_trouble": call.camera_trouble, "picture": call.picture, "picture_screen": call.picture_screen });
        print(self.json, &v, || format!("{} {}", call.name, call.phase));
    }

    fn over(&self, call: &CallView, q: Option<&QualityView>) -> Result<(), AppError> {
        let v = json!({ "call": call.id, "phase": "ended", "cause": call.cause, "seconds": call.seconds, "quality": q });
        print(self.json, &v, || format!("{} ended: {}", call.name, call.cause));
        if call.seconds.is_some() || matches!(call.cause.as_str(), "declined" | "elsewhere" | "cancelled") {
            return Ok(());
        }
        Err(AppError::new("NO_CALL", format!("The call did not come about: {}.", call.cause)))
    }

    pub(super) async fn screens(&self) -> Result<(), AppError> {
        let v = self.app.call(Command::Screens).await?;
        let all: Vec<ScreenView> = serde_json::from_value(v.clone()).map_err(|e| AppError::new("ENCODING", e.to_string()))?;
        let line = |s: &ScreenView| format!("{}  {}  {} × {}", s.id, s.name, s.width, s.height);
        print(self.json, &v, || all.iter().map(line).collect::<Vec<_>>().join("\n"));
        Ok(())
    }

    pub(super) async fn audio_devices(&self) -> Result<(), AppError> {
        let v = self.app.call(Command::AudioDevices).await?;
        let devices: AudioDevicesView = serde_json::from_value(v.clone()).map_err(|e| AppError::new("ENCODING", e.to_string()))?;
        print(self.json, &v, || {
            let line = |kind: &str, d: &sc_app::view::AudioDeviceView| {
                format!("{kind}  {}  {}{}", d.id, d.name, if d.preferred { "  *" } else { "" })
            };
            let inputs = devices.microphones.iter().map(|d| line("in ", d));
            inputs.chain(devices.speakers.iter().map(|d| line("out", d))).collect::<Vec<_>>().join("\n")
        });
        Ok(())
    }
}
