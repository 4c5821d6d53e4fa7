//! The door of a room: may they come in, is there a seat, do they have to wait.

use super::seats::NoSeat;
use super::store::{self, StoredRoom};
use super::{LOBBY, Ticket, tell};
use crate::auth::Authed;
use crate::error::{ApiError, ApiResult};
use crate::{App, now_ms};
use sc_protocol::rooms::{GUEST_NAME, RoomTokenAnswer, RoomTokenRequest, Waiting, member_identity};
use sc_protocol::{ConversationId, ErrorCode, RoomId, UserId, rooms};

/// Whoever asks.
#[derive(Debug, Clone)]
pub enum Visitor {
    /// With an account.
    Member(Authed),
    /// Without one.
    Guest,
}

impl Visitor {
    /// The account, when there is one.
    #[must_use]
    pub fn user(&self) -> Option<UserId> {
        match self {
            Self::Member(a) => Some(a.user),
            Self::Guest => None,
        }
    }
}

/// The room, made at the first question when it is a conversation's; not found for those who may not know of it.
pub async fn open(app: &App, id: RoomId, visitor: &Visitor) -> ApiResult<StoredRoom> {
    let mut conn = app.pool.acquire().await?;
    let stored = store::load(&mut conn, id).await?;
    if let Some(room) = stored.as_ref().filter(|r| !r.conversation) {
        return Ok(room.clone());
    }
    let members = super::members(&mut conn, ConversationId(id.0)).await?;
    drop(conn);
    let member = visitor.user().filter(|u| members.contains(u)).ok_or_else(|| ApiError::not_found("room"))?;
    if let Some(room) = stored {
        return Ok(room);
    }
    let room = StoredRoom {
        id,
        conversation: true,
        owner: member,
        max_participants: rooms::SEATS_MOST,
        locked: false,
        lobby: false,
        guests: false,
        member_count: 0,
    };
    let new = room.clone();
    app.writer.write(move |cx| Box::pin(async move { store::insert(&mut cx.conn, &new, cx.now).await })).await?;
    Ok(room)
}

/// True when they may lock, let in and take out. In a conversation's room everybody is at home: nobody may.
#[must_use]
pub fn is_host(room: &StoredRoom, visitor: &Visitor) -> bool {
    !room.conversation && visitor.user() == Some(room.owner)
}

/// Gives a token and keeps a seat, or sends to the lobby.
pub async fn ask(app: &App, id: RoomId, visitor: &Visitor, asked: RoomTokenRequest) -> ApiResult<RoomTokenAnswer> {
    let answer = decide(app, id, visitor, asked).await;
    if let Err(e) = &answer {
        app.rooms.refused(e.0.code);
    }
    answer
}

async fn decide(app: &App, id: RoomId, visitor: &Visitor, asked: RoomTokenRequest) -> ApiResult<RoomTokenAnswer> {
    if !app.rooms.carried() {
        return Err(ApiError::new(ErrorCode::Unavailable, "This server has no group calls."));
    }
    let room = open(app, id, visitor).await?;
    let host = is_host(&room, visitor);
    let guest_name = guest_name(&room, visitor, asked.guest_name)?;
    if host {
        app.rooms.watch(id, room.owner);
    }
    let now = now_ms();
    let ticket = asked.ticket.filter(|t| t.len() <= 64);
    let admitted = match (&ticket, room.lobby && !host) {
        (_, false) => true,
        (Some(t), true) => match app.rooms.with(id, |l| l.waiting.get_mut(t).map(|w| (w.asked = now, w.admitted).1)) {
            Some(Some(true)) => true,
            Some(Some(false)) => return Err(ApiError::new(ErrorCode::RoomRefused, "The host did not let you in.")),
            Some(None) => return Ok(RoomTokenAnswer::Waiting { ticket: t.clone() }),
            None => false,
        },
        (None, true) => false,
    };
    if !admitted {
        return wait(app, &room, visitor, guest_name, now).await;
    }
    let (identity, person) = match visitor {
        Visitor::Member(a) => (member_identity(a.user, a.device), a.user.to_string()),
        Visitor::Guest => {
            // The ticket of the lobby is theirs alone, so it can name them; without a lobby everybody is somebody new.
            let name = ticket.clone().filter(|_| room.lobby).unwrap_or_else(|| uuid::Uuid::now_v7().to_string());
            (format!("g:{name}"), format!("g:{name}"))
        }
    };
    let kept = app.rooms.with(id, |l| {
        let seats = room.max_participants;
        // Who was let in from the lobby is let in although the door is locked.
        let invited = room.lobby;
        l.seats.keep(&identity, &person, seats, room.locked && !invited, host, now)
    });
    kept.map_err(refusal)?;
    if let Some(t) = ticket {
        app.rooms.with(id, |l| l.waiting.remove(&t));
    }
    // Guests have no other way to know how a member is called.
    let name = match visitor {
        Visitor::Member(a) if !room.conversation => username(app, a.user).await?,
        _ => guest_name.unwrap_or_default(),
    };
    // Elsewhere nobody counts seats but this server: the number may change, and hosts come in beyond it.
    let most = if app.rooms.outside.is_some() { 0 } else { room.max_participants };
    let token = app.rooms.signer.sign(&id.to_string(), &identity, &name, most, now)?;
    Ok(RoomTokenAnswer::Ready { token, url: app.config.livekit_url.clone(), identity })
}

async fn username(app: &App, user: UserId) -> ApiResult<String> {
    let row = sqlx::query_scalar("SELECT username FROM users WHERE user_id = $1")
        .bind(user.as_bytes().as_slice())
        .fetch_optional(&app.pool)
        .await?;
    Ok(row.unwrap_or_default())
}

fn guest_name(room: &StoredRoom, visitor: &Visitor, name: Option<String>) -> ApiResult<Option<String>> {
    if !matches!(visitor, Visitor::Guest) {
        return Ok(None);
    }
    if !room.guests {
        return Err(ApiError::new(ErrorCode::Unauthenticated, "This room takes no guests. Log in to come in."));
    }
    let name = name.unwrap_or_default().trim().to_owned();
    if !GUEST_NAME.contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(ApiError::bad("A guest needs a name of at most 40 characters."));
    }
    Ok(Some(name))
}

async fn wait(app: &App, room: &StoredRoom, visitor: &Visitor, guest_name: Option<String>, now: i64) -> ApiResult<RoomTokenAnswer> {
    if room.locked {
        return Err(refusal(NoSeat::Locked));
    }
    let ticket = uuid::Uuid::now_v7().to_string();
    let info = Waiting { ticket: ticket.clone(), user_id: visitor.user(), guest_name, since: now };
    let fits = app.rooms.with(room.id, |l| {
        l.hosts.insert(room.owner);
        let fits = l.waiting.len() < LOBBY;
        if fits {
            l.waiting.insert(ticket.clone(), Ticket { info, admitted: None, asked: now });
        }
        fits
    });
    if !fits {
        return Err(refusal(NoSeat::Full));
    }
    tell(app, room.id).await;
    Ok(RoomTokenAnswer::Waiting { ticket })
}

/// A host lets somebody in, or turns them away. False when nobody waits under that ticket.
pub fn answer_ticket(app: &App, id: RoomId, ticket: &str, admit: bool) -> bool {
    app.rooms.with(id, |l| match l.waiting.get_mut(ticket) {
        Some(w) => {
            w.admitted = Some(admit);
            true
        }
        None => false,
    })
}

/// No seat, in words.
#[must_use]
pub fn refusal(no: NoSeat) -> ApiError {
    match no {
        NoSeat::Full => ApiError::new(ErrorCode::RoomFull, "Every seat of the room is taken. Try again when somebody has left."),
        NoSeat::Locked => ApiError::new(ErrorCode::RoomLocked, "The room is locked. Ask its host to open it."),
        NoSeat::Removed => ApiError::new(ErrorCode::RoomRefused, "The host has taken you out of this room."),
    }
}
