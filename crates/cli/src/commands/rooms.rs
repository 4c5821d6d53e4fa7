//! Rooms: made, entered, hosted. While one is inside, a line for each change.

use super::{Cli, PATIENCE};
use crate::args::{MediaArgs, RoomCmd};
use crate::output::print;
use sc_app::AppError;
use sc_app::command::{AppEvent, Command, HostActionKind};
use sc_app::view::{MeetingView, QualityView, RoomView};
use sc_engine::rooms::RoomLink;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// Longer than this nothing happens in no room.
const DAY: Duration = Duration::from_secs(86_400);

fn typed<T: DeserializeOwned>(v: Value) -> Result<T, AppError> {
    serde_json::from_value(v).map_err(|e| AppError::new("ENCODING", e.to_string()))
}

/// The id of a room that is named by its link or its id.
fn id_of(room: &str) -> Result<String, AppError> {
    if room.contains('#') { Ok(room.parse::<RoomLink>()?.room.to_string()) } else { Ok(room.to_owned()) }
}

impl Cli<'_> {
    pub(super) async fn rooms(&self, command: RoomCmd) -> Result<(), AppError> {
        let locked = |room: &str, locked| -> Result<Command, AppError> {
            Ok(Command::ChangeRoom { room: id_of(room)?, seats: None, locked: Some(locked), lobby: None, guests: None })
        };
        let act = |room: &str, identity: String, action| -> Result<Command, AppError> {
            Ok(Command::HostAction { room: id_of(room)?, identity, action })
        };
        let command = match command {
            RoomCmd::Create { seats, lobby, guests } => {
                let made: MeetingView = typed(self.app.call(Command::CreateRoom { seats, lobby, guests }).await?)?;
                self.meeting(&made);
                return Ok(());
            }
            RoomCmd::List => {
                let all: Vec<MeetingView> = typed(self.app.call(Command::Meetings).await?)?;
                all.iter().for_each(|m| self.meeting(m));
                return Ok(());
            }
            RoomCmd::Join { target, name, say, admit, media } => {
                media.check()?;
                return self.join(&target, name, say, admit, &media).await;
            }
            RoomCmd::Lock { room } => locked(&room, true)?,
            RoomCmd::Unlock { room } => locked(&room, false)?,
            RoomCmd::Remove { room, identity } => act(&room, identity, HostActionKind::Remove)?,
            RoomCmd::Mute { room, identity } => act(&room, identity, HostActionKind::Mute)?,
            RoomCmd::Close { room } => Command::CloseRoom { room: id_of(&room)? },
        };
        self.app.call(command).await.map(|_| ())
    }

    fn meeting(&self, m: &MeetingView) {
        let v = json!({ "room": m.id, "link": m.link, "seats": m.seats, "inside": m.inside, "locked": m.locked, "lobby": m.lobby, "guests": m.guests });
        print(self.json, &v, || if m.link.is_empty() { m.id.clone() } else { m.link.clone() });
    }

    async fn join(&self, target: &str, name: String, say: Option<String>, admit: bool, media: &MediaArgs) -> Result<(), AppError> {
        let events = self.app.events();
        let (conversation, link) = if target.contains('#') {
            (None, Some(target.to_owned()))
        } else {
            self.engine()?.settle(PATIENCE).await?;
            (Some(self.resolve(target).await?.to_string()), None)
        };
        self.app.call(Command::EnterRoom { conversation, link, name, muted: false, video: media.shows() }).await?;
        self.inside(events, say, admit, media).await
    }

    async fn inside(
        &self,
        mut events: tokio::sync::broadcast::Receiver<AppEvent>,
        mut say: Option<String>,
        admit: bool,
        media: &MediaArgs,
    ) -> Result<(), AppError> {
        let mut shown = RoomView::default();
        let mut leave: Option<Instant> = None;
        let mut quality: Option<QualityView> = None;
        let mut was_inside = false;
        let mut screen = media.screen.clone();
        loop {
            let now: Option<RoomView> = typed(self.app.call(Command::CurrentRoom).await?)?;
            let Some(now) = now else { return Ok(()) };
            self.changes(&shown, &now);
            if now.phase == "inside" {
                was_inside = true;
                leave = leave.or_else(|| media.duration.map(|s| Instant::now() + Duration::from_secs(s)));
                if let Some(text) = say.take() {
                    self.app.call(Command::RoomChat { text }).await?;
                }
                if let Some(id) = screen.take() {
                    self.app.call(Command::RoomScreen { source: Some(id) }).await?;
                }
            }
            if now.phase == "over" {
                return self.left(&now, was_inside, quality.as_ref());
            }
            if admit {
                for w in now.waiting.iter().filter(|w| !shown.waiting.contains(w)) {
                    self.app.call(Command::AnswerLobby { room: now.id.clone(), ticket: w.ticket.clone(), admit: true }).await?;
                }
            }
            shown = now;
            let wait = leave.unwrap_or_else(|| Instant::now() + DAY);
            match tokio::time::timeout_at(wait, events.recv()).await {
                Ok(Ok(AppEvent::Quality { quality: q })) => quality = Some(q),
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) => return Err(AppError::new("INTERNAL", "The app has stopped.")),
                Err(_) => {
                    leave = None;
                    self.app.call(Command::LeaveRoom).await?;
                }
            }
        }
    }

    /// What is another now than before.
    fn changes(&self, before: &RoomView, now: &RoomView) {
        if (before.phase != now.phase || before.check != now.check) && now.phase != "over" {
            print(self.json, &json!({ "phase": now.phase, "check": now.check }), || now.phase.clone());
        }
        if before.people != now.people {
            let people: Vec<Value> = now.people.iter().map(|p| {
                json!({ "identity": p.identity, "name": p.name, "own": p.own, "speaks": p.speaks, "microphone": p.microphone, "camera": p.camera, "screen": p.screen, "hand": p.hand, "garbled": p.garbled })
            }).collect();
            print(self.json, &json!({ "people": people }), || now.people.iter().map(|p| p.name.clone()).collect::<Vec<_>>().join(", "));
        }
        for w in now.waiting.iter().filter(|w| !before.waiting.contains(w)) {
            print(self.json, &json!({ "waiting": w.name, "ticket": w.ticket, "guest": w.guest }), || format!("{} waits", w.name));
        }
        let known = before.chat.last().map(|l| l.id);
        for l in now.chat.iter().filter(|l| known.is_none_or(|k| l.id > k)) {
            print(self.json, &json!({ "chat": l.text, "name": l.name, "own": l.own }), || format!("{}: {}", l.name, l.text));
        }
    }

    fn left(&self, now: &RoomView, was_inside: bool, q: Option<&QualityView>) -> Result<(), AppError> {
        print(self.json, &json!({ "phase": "over", "cause": now.cause, "quality": q }), || format!("over: {}", now.cause));
        if was_inside || now.cause == "left" {
            return Ok(());
        }
        Err(AppError::new(&now.cause, "The room could not be entered."))
    }
}
