//! Rooms: coming in, being inside, what hosts do. At most one at a time, and none beside a call.

use super::{App, AppError, Inner, id, lock, value};
use crate::command::{AppEvent, Command, WantedPicture};
use crate::view::own_trouble;
use crate::view::{InsideView, MeetingView, RoomLineView, RoomPersonView, RoomView, WaitingView, room};
use sc_engine::Engine;
use sc_engine::call::{Phase, Shown};
use sc_engine::rooms::RoomLink;
use sc_media::pictures::OwnPicture;
use sc_media::room::core::Source;
use sc_media::room::frames::Keys;
use sc_media::room::{Heard, Room, RoomOptions, RoomPhase};
use sc_media::video::source::Source as Video;
use sc_protocol::rooms::{ChangeRoom, CreateRoom, RoomInfo, RoomTokenAnswer, RoomTokenRequest, parse_identity};
use sc_protocol::{ConversationId, RoomId, UserId};
use serde_json::Value;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long leaving may take.
const GOODBYE: Duration = Duration::from_secs(2);
/// How often somebody in the lobby asks.
const ASK: Duration = Duration::from_secs(2);
/// Lines of the chat that are kept while one is inside.
const LINES: usize = 500;
/// Characters in a line.
const LINE: usize = 2_000;
/// Pictures that are drawn at once.
const PICTURES: usize = 64;
/// The longest side of one.
const SIDE: u32 = 4_096;

/// The room one is in, or on the way into.
pub(super) struct Active {
    conversation: Option<ConversationId>,
    room: Option<Arc<Room>>,
    view: RoomView,
    /// The epoch whose secret the room has.
    epoch: Option<u64>,
    task: tokio::task::JoinHandle<()>,
}

impl Active {
    pub(super) fn room(&self) -> Option<Arc<Room>> {
        self.room.clone()
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Which door.
#[derive(Clone)]
enum Door {
    Conversation(ConversationId),
    Link(RoomLink, String),
}

impl App {
    pub(super) async fn call_rooms(&self, e: &Engine, command: Command) -> Result<Value, AppError> {
        match command {
            Command::CreateRoom { seats, lobby, guests } => {
                let (link, info) = e.create_room(CreateRoom { max_participants: seats, lobby, guests }).await?;
                value(&meeting(&info, &[link]))
            }
            Command::Meetings => {
                let made = e.made_rooms()?;
                let list: Vec<MeetingView> = e.rooms().await?.rooms.iter().map(|r| meeting(r, &made)).collect();
                value(&list)
            }
            Command::EnterRoom { conversation, link, name, muted, video } => {
                let door = match (conversation, link) {
                    (Some(c), None) => Door::Conversation(id(&c)?),
                    (None, Some(l)) => {
                        // On another server one is a guest, and needs a name.
                        let own = e.account().map(|a| a.username).filter(|_| name.is_empty());
                        Door::Link(l.parse::<RoomLink>()?, own.unwrap_or(name))
                    }
                    _ => return Err(AppError::new("BAD_REQUEST", "Name a conversation or a link.")),
                };
                self.enter(e, door, muted, video).map(|()| Value::Null)
            }
            Command::LeaveRoom => {
                self.leave_room().await;
                Ok(Value::Null)
            }
            Command::MuteRoom { muted } => {
                self.room()?.mute(muted).await;
                Ok(Value::Null)
            }
            Command::RoomCamera { on } => {
                self.room()?.show(Shown::Camera, on.then(|| self.camera())).await;
                Ok(Value::Null)
            }
            Command::RoomScreen { source } => {
                self.room()?.show(Shown::Screen, source.map(Video::Screen)).await;
                Ok(Value::Null)
            }
            Command::RaiseHand { up } => {
                self.room()?.raise_hand(up).await;
                Ok(Value::Null)
            }
            Command::ShowPictures { pictures, decoded } => {
                let size = |p: &WantedPicture| (p.width.clamp(1, SIDE), p.height.clamp(1, SIDE));
                let wanted = pictures.into_iter().take(PICTURES).map(|p| {
                    let size = size(&p);
                    (Source { identity: p.identity, screen: p.screen }, size)
                });
                let wanted: HashMap<Source, (u32, u32)> = wanted.collect();
                self.decode(decoded.then(|| wanted.clone()));
                match self.room() {
                    Ok(room) => room.want(wanted).await,
                    // A call's, or the room is over and nothing is drawn any more.
                    Err(_) => self.draw(wanted.into_keys().collect()).await,
                }
                Ok(Value::Null)
            }
            Command::PictureDrawn => {
                self.0.decoded.drawn();
                Ok(Value::Null)
            }
            Command::PicturesLost { identity, screen } => {
                self.pictures_lost(Some(Source { identity, screen })).await;
                Ok(Value::Null)
            }
            Command::RoomChat { text } => self.chat(&text).await.map(|()| Value::Null),
            Command::CurrentRoom => value(&lock(&self.0.room).as_ref().map(|a| a.view.clone())),
            Command::Inside { conversation } => {
                let info = e.room(RoomId(id::<ConversationId>(&conversation)?.0)).await?;
                value(&inside(e, &info))
            }
            Command::ChangeRoom { room, seats, locked, lobby, guests } => {
                let change = ChangeRoom { max_participants: seats, locked, lobby, guests };
                let info = e.change_room(id(&room)?, &change).await?;
                self.hosted(e, &info);
                Ok(Value::Null)
            }
            Command::CloseRoom { room } => {
                e.close_room(id(&room)?).await?;
                Ok(Value::Null)
            }
            Command::AnswerLobby { room, ticket, admit } => {
                e.answer_lobby(id(&room)?, &ticket, admit).await?;
                Ok(Value::Null)
            }
            Command::HostAction { room, identity, action } => {
                e.act_as_host(id(&room)?, &identity, action.into()).await?;
                Ok(Value::Null)
            }
            _ => Err(AppError::new("INTERNAL", "This is no command of a room.")),
        }
    }

    /// Other devices for the room one is in.
    pub(super) async fn settle_room(&self, audio: sc_media::audio::AudioSetup) {
        if let Ok(room) = self.room() {
            room.set_audio(audio).await;
        }
    }

    fn room(&self) -> Result<Arc<Room>, AppError> {
        let room = lock(&self.0.room).as_ref().and_then(Active::room);
        room.ok_or_else(|| AppError::new("NOT_IN_ROOM", "You are in no room."))
    }

    /// True while one is in a room, or on the way into one.
    pub(super) fn in_room(&self) -> bool {
        lock(&self.0.room).as_ref().is_some_and(|a| a.view.phase != "over")
    }

    fn enter(&self, e: &Engine, door: Door, muted: bool, video: bool) -> Result<(), AppError> {
        if self.in_room() {
            return Err(AppError::new("IN_ROOM", "You are in a room already. Leave it first."));
        }
        if e.call().is_some_and(|c| !matches!(c.phase, Phase::Ended(_))) {
            return Err(AppError::new("IN_CALL", "There is a call already. End it first."));
        }
        *lock(&self.0.test) = None;
        self.end_preview();
        let (conversation, link) = match &door {
            Door::Conversation(c) => (Some(*c), None),
            Door::Link(l, _) => (None, Some(l.clone())),
        };
        let title = match conversation {
            Some(c) => e.read(|r| r.conversation(c))?.map(|c| c.title).unwrap_or_default(),
            None => String::new(),
        };
        let view = RoomView {
            id: conversation.map(|c| c.to_string()).or_else(|| link.as_ref().map(|l| l.room.to_string())).unwrap_or_default(),
            conversation: conversation.map(|c| c.to_string()),
            title,
            phase: "joining".into(),
            muted,
            link: link.as_ref().map(RoomLink::reveal).unwrap_or_default(),
            check: link.as_ref().map(RoomLink::check).unwrap_or_default(),
            ..RoomView::default()
        };
        let (app, engine) = (self.clone(), e.clone());
        let mut active = lock(&self.0.room);
        let task = tokio::spawn(async move {
            if let Err(cause) = app.stay(&engine, door, muted, video).await {
                tracing::info!(%cause, "a room could not be entered");
                app.over(&cause.code);
            }
        });
        *active = Some(Active { conversation, room: None, view, epoch: None, task });
        drop(active);
        self.tell_room();
        Ok(())
    }

    /// Asks at the door until it opens, then follows the room to its end.
    async fn stay(&self, e: &Engine, door: Door, muted: bool, video: bool) -> Result<(), AppError> {
        let mut request = RoomTokenRequest::default();
        let (token, url) = loop {
            let answer = match &door {
                Door::Conversation(c) => e.enter_conversation_room(*c).await?,
                Door::Link(l, name) => {
                    request.guest_name = Some(name.clone());
                    e.enter_room(l, &request).await?
                }
            };
            match answer {
                RoomTokenAnswer::Ready { token, url, .. } => break (token, url),
                RoomTokenAnswer::Waiting { ticket } => {
                    request.ticket = Some(ticket);
                    self.change(|a| a.view.phase = "waiting".into());
                    tokio::time::sleep(ASK).await;
                }
            }
        };
        let (keys, base) = match &door {
            Door::Conversation(c) => {
                let (epoch, secret) = e.await_room_secret(*c).await?;
                let check = e.epoch_check(*c).await?.unwrap_or_default();
                self.change(|a| {
                    a.epoch = Some(epoch);
                    a.view.check = check;
                });
                let mut keys = Keys::default();
                keys.add_epoch(epoch, secret, Instant::now());
                (keys, e.http()?.base().to_owned())
            }
            // A tenth of a second of work: not on the runtime's thread.
            Door::Link(l, _) => {
                let text = l.key.clone();
                let keys = tokio::task::spawn_blocking(move || Keys::of_link(&text))
                    .await
                    .map_err(|e| AppError::new("INTERNAL", e.to_string()))?;
                (keys, l.server.clone())
            }
        };
        let audio = self.0.options.audio.clone().unwrap_or_else(|| super::calls::audio(&lock(&self.0.settings)));
        let url = if url.is_empty() { base } else { url };
        let (room, heard) =
            Room::enter(RoomOptions { url, token: Zeroizing::new(token), keys, audio, video: video.then(|| self.camera()), muted });
        let room = Arc::new(room);
        self.change(|a| a.room = Some(room.clone()));
        // The group may have moved on between the key and now.
        if let Door::Conversation(c) = &door {
            self.room_epoch(e, *c).await;
        }
        if let Door::Link(l, _) = &door
            && let Ok(info) = e.room(l.room).await
        {
            self.hosted(e, &info);
        }
        self.tell_quality();
        let conversation = if let Door::Conversation(c) = door { Some(c) } else { None };
        self.follow_room(e, conversation, &room, heard).await;
        Ok(())
    }

    async fn follow_room(&self, e: &Engine, conversation: Option<ConversationId>, room: &Room, heard: Heard) {
        let Heard { mut chat, mut pictures } = heard;
        // Apart from what follows: it comes many times a second. It ends with the room.
        let frames = self.0.pictures.clone();
        tokio::spawn(async move {
            while let Some(picture) = pictures.recv().await {
                // Nobody may be looking.
                let _ = frames.send(Arc::new(picture));
            }
        });
        let mut view = room.view();
        // Told once, and only by whoever found nobody inside; others may come before there is a path.
        let (mut opens, mut alone) = (conversation, None);
        loop {
            let now = view.borrow_and_update().clone();
            let over = matches!(now.phase, RoomPhase::Over(_));
            alone = alone.or_else(|| (!now.people.is_empty()).then_some(now.people.len() == 1));
            if now.phase == RoomPhase::Inside
                && let Some(c) = opens.take().filter(|_| alone == Some(true))
                && let Err(cause) = e.tell_room_opened(c).await
            {
                tracing::warn!(%cause, "that the room was opened is not told");
            }
            let people = now.people.iter().map(|p| person(e, p, &now)).collect();
            self.change(|a| {
                a.view.phase = room::phase(now.phase).into();
                a.view.cause = room::cause(now.phase).into();
                a.view.people = people;
                a.view.muted = now.muted;
                a.view.hand = now.hand;
                a.view.camera = now.own_picture == OwnPicture::On;
                a.view.screen = now.own_screen == OwnPicture::On;
                let unseen = [&now.own_picture, &now.own_screen].map(own_trouble).into_iter().find(|t| !t.is_empty()).unwrap_or_default();
                a.view.trouble = now.trouble.as_ref().map_or(unseen, super::audio_code).into();
                if over {
                    a.room = None;
                }
            });
            if over {
                return;
            }
            tokio::select! {
                changed = view.changed() => if changed.is_err() {
                    return;
                },
                Some((identity, text)) = chat.recv() => {
                    let name = lock(&self.0.room).as_ref().and_then(|a| a.view.people.iter().find(|p| p.identity == identity).map(|p| p.name.clone()));
                    self.line(name.unwrap_or_default(), false, text);
                }
            }
        }
    }

    fn line(&self, name: String, own: bool, text: String) {
        self.change(|a| {
            let id = a.view.chat.last().map_or(0, |l| l.id + 1);
            a.view.chat.push(RoomLineView { id, name, own, text: text.chars().take(LINE).collect() });
            let extra = a.view.chat.len().saturating_sub(LINES);
            a.view.chat.drain(..extra);
        });
    }

    async fn chat(&self, text: &str) -> Result<(), AppError> {
        let text = text.trim();
        if text.is_empty() || text.chars().count() > LINE {
            return Err(AppError::new("TOO_LONG", "A line of the chat has 1 to 2,000 characters."));
        }
        if !self.room()?.chat(text.to_owned()).await {
            return Err(AppError::new("NOT_SENT", "That was not sent. Try again."));
        }
        self.line(String::new(), true, text.to_owned());
        Ok(())
    }

    pub(super) async fn leave_room(&self) {
        let room = lock(&self.0.room).as_ref().and_then(|a| a.room.clone());
        match room {
            Some(room) => {
                room.leave().await;
                let mut view = room.view();
                let over = view.wait_for(|v| matches!(v.phase, RoomPhase::Over(_)));
                if tokio::time::timeout(GOODBYE, over).await.is_err() {
                    tracing::warn!("a room did not end in time");
                }
                self.over("left");
            }
            // In the lobby, on the way, or over already: put away.
            None => drop(lock(&self.0.room).take()),
        }
        self.tell_room();
    }

    fn over(&self, cause: &str) {
        self.change(|a| {
            a.view.phase = "over".into();
            a.view.cause = cause.to_owned();
            a.view.people.clear();
            a.view.waiting.clear();
            a.room = None;
        });
    }

    fn change(&self, f: impl FnOnce(&mut Active)) {
        let mut room = lock(&self.0.room);
        let Some(active) = room.as_mut() else { return };
        let before = active.view.clone();
        f(active);
        let changed = before != active.view;
        drop(room);
        if changed {
            self.tell_room();
        }
    }

    fn tell_room(&self) {
        let room = lock(&self.0.room).as_ref().map(|a| Box::new(a.view.clone()));
        // Nobody may be listening.
        let _ = self.0.events.send(AppEvent::Room { room });
    }

    /// What only hosts see of the room one is in.
    fn hosted(&self, e: &Engine, info: &RoomInfo) {
        let waiting = info.waiting.iter().map(|w| WaitingView {
            ticket: w.ticket.clone(),
            name: name_of(e, w.user_id, w.guest_name.as_deref()),
            guest: w.user_id.is_none(),
        });
        let waiting: Vec<WaitingView> = waiting.collect();
        self.change(|a| {
            if a.view.id == info.room_id.to_string() {
                a.view.host |= info.host;
                a.view.locked = info.locked;
                a.view.lobby = info.lobby;
                a.view.waiting = waiting;
            }
        });
    }

    /// The server says who is in a room.
    pub(super) fn room_news(&self, e: &Engine, info: &RoomInfo) {
        if info.conversation {
            // Nobody may be listening.
            let _ = self.0.events.send(AppEvent::Inside { inside: inside(e, info) });
        }
        self.hosted(e, info);
    }

    /// A conversation changed: its group may be in another epoch.
    pub(super) async fn room_epoch(&self, e: &Engine, conversation: ConversationId) {
        let current = lock(&self.0.room).as_ref().filter(|a| a.conversation == Some(conversation)).map(|a| (a.room.clone(), a.epoch));
        let Some((Some(room), before)) = current else { return };
        match e.room_secret(conversation).await {
            Ok((epoch, secret)) if Some(epoch) != before => {
                room.add_epoch(epoch, secret).await;
                let check = e.epoch_check(conversation).await.ok().flatten().unwrap_or_default();
                self.change(|a| {
                    a.epoch = Some(epoch);
                    a.view.check = check;
                });
            }
            Ok(_) => {}
            // One is no member any more: the server ends the stay.
            Err(cause) => tracing::info!(%cause, "the room's key could not be renewed"),
        }
    }
}

impl Inner {
    pub(super) fn in_room(&self) -> bool {
        lock(&self.room).as_ref().is_some_and(|a| a.room.is_some())
    }

    /// How the room sounds.
    pub(super) fn room_quality(&self) -> Option<sc_media::Quality> {
        lock(&self.room).as_ref().and_then(|a| a.room.clone()).and_then(|r| r.quality())
    }
}

fn meeting(info: &RoomInfo, made: &[RoomLink]) -> MeetingView {
    MeetingView {
        id: info.room_id.to_string(),
        link: made.iter().find(|l| l.room == info.room_id).map(RoomLink::reveal).unwrap_or_default(),
        seats: info.max_participants,
        inside: info.member_count,
        locked: info.locked,
        lobby: info.lobby,
        guests: info.guests,
    }
}

fn name_of(e: &Engine, user: Option<UserId>, guest: Option<&str>) -> String {
    let known = user.and_then(|u| e.read(|r| r.contact(u)).ok().flatten()).map(|c| c.username);
    let own = e.account().filter(|a| Some(a.user) == user).map(|a| a.username);
    known.or(own).or_else(|| guest.map(str::to_owned)).unwrap_or_default()
}

fn person(e: &Engine, p: &sc_media::room::core::Person, room: &sc_media::room::RoomView) -> RoomPersonView {
    let user = parse_identity(&p.identity).map(|(u, _)| u);
    RoomPersonView {
        identity: p.identity.clone(),
        user: user.map(|u| u.to_string()).unwrap_or_default(),
        name: name_of(e, user, Some(&p.name)),
        guest: user.is_none(),
        own: p.own,
        speaks: room.speaking.contains(&p.identity),
        microphone: if p.own { !room.muted } else { p.microphone },
        camera: p.camera,
        screen: p.screen,
        hand: p.hand,
        weak: p.weak,
        garbled: room.garbled.contains(&p.identity),
    }
}

fn inside(e: &Engine, info: &RoomInfo) -> InsideView {
    let own = e.account();
    let people = info.people.iter().map(|p| RoomPersonView {
        identity: p.identity.clone(),
        user: p.user_id.map(|u| u.to_string()).unwrap_or_default(),
        name: name_of(e, p.user_id, p.guest_name.as_deref()),
        guest: p.user_id.is_none(),
        own: own.as_ref().is_some_and(|a| parse_identity(&p.identity).is_some_and(|(u, d)| u == a.user && d == a.device.device_id)),
        speaks: info.speaking.contains(&p.identity),
        microphone: p.microphone,
        camera: p.camera,
        screen: p.screen,
        hand: p.hand,
        weak: false,
        garbled: false,
    });
    InsideView { conversation: info.room_id.to_string(), people: people.collect() }
}
