//! Meeting rooms, and the door of every room.

use super::{Answer, Body, Path};
use crate::App;
use crate::address::Network;
use crate::auth::Authed;
use crate::error::{ApiError, ApiResult};
use crate::rooms::cluster::ClusterError;
use crate::rooms::door::{self, Visitor};
use crate::rooms::store::{self, StoredRoom};
use crate::rooms::tell;
use axum::Json;
use axum::body::Bytes;
use axum::extract::{FromRequestParts, State};
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use sc_protocol::rest::Empty;
use sc_protocol::rooms::{
    ChangeRoom, CreateRoom, HostAction, HostRequest, LobbyAnswer, RoomInfo, RoomList, RoomTokenAnswer, RoomTokenRequest, SEATS_MOST,
};
use sc_protocol::{ErrorCode, RoomId};

/// Tokens and looks a network may ask for in a minute without an account.
const GUESTS_PER_MINUTE: u32 = 120;
/// Meeting rooms an account may make in an hour.
const ROOMS_PER_HOUR: u32 = 60;

impl FromRequestParts<App> for Visitor {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if parts.headers.contains_key(AUTHORIZATION) {
            return Authed::from_request_parts(parts, app).await.map(Self::Member);
        }
        let Ok(address) = Network::from_request_parts(parts, app).await;
        app.limiter
            .take(format!("guest {address}"), GUESTS_PER_MINUTE, f64::from(GUESTS_PER_MINUTE) / 60.0, crate::now_ms())
            .map_err(ApiError::rate_limited)?;
        Ok(Self::Guest)
    }
}

fn seats(n: Option<u32>, default: u32) -> ApiResult<u32> {
    let n = n.unwrap_or(default);
    if (2..=SEATS_MOST).contains(&n) { Ok(n) } else { Err(ApiError::bad(format!("A room has 2 to {SEATS_MOST} seats."))) }
}

/// `POST /v1/rooms`
pub async fn create(State(app): State<App>, who: Authed, Body(b): Body<CreateRoom>) -> Answer<RoomInfo> {
    app.limiter
        .take(format!("room {}", who.user), ROOMS_PER_HOUR, f64::from(ROOMS_PER_HOUR) / 3_600.0, crate::now_ms())
        .map_err(ApiError::rate_limited)?;
    let room = StoredRoom {
        id: RoomId::generate(),
        conversation: false,
        owner: who.user,
        max_participants: seats(b.max_participants, app.config.room_participants.clamp(2, SEATS_MOST))?,
        locked: false,
        lobby: b.lobby,
        guests: b.guests,
        member_count: 0,
    };
    let new = room.clone();
    app.writer.write(move |cx| Box::pin(async move { store::insert(&mut cx.conn, &new, cx.now).await })).await?;
    Ok(Json(app.rooms.info(&room, true)))
}

/// `GET /v1/rooms`
pub async fn list(State(app): State<App>, who: Authed) -> Answer<RoomList> {
    let mut conn = app.pool.acquire().await?;
    let rooms = store::of_owner(&mut conn, who.user).await?.iter().map(|r| app.rooms.info(r, true)).collect();
    Ok(Json(RoomList { rooms }))
}

/// `GET /v1/rooms/{id}`: guests learn only how it looks from outside.
pub async fn get_one(State(app): State<App>, who: Visitor, Path(id): Path<RoomId>) -> Answer<RoomInfo> {
    let room = door::open(&app, id, &who).await?;
    let host = door::is_host(&room, &who);
    let mut info = app.rooms.info(&room, host);
    if matches!(who, Visitor::Guest) {
        info.people.clear();
        info.speaking.clear();
    }
    Ok(Json(info))
}

async fn as_host(app: &App, id: RoomId, who: Authed) -> ApiResult<StoredRoom> {
    let who = Visitor::Member(who);
    let room = door::open(app, id, &who).await?;
    if !door::is_host(&room, &who) {
        return Err(ApiError::new(ErrorCode::Forbidden, "Only a host of the room may do that."));
    }
    Ok(room)
}

/// `PUT /v1/rooms/{id}`
pub async fn change(State(app): State<App>, who: Authed, Path(id): Path<RoomId>, Body(b): Body<ChangeRoom>) -> Answer<RoomInfo> {
    let mut room = as_host(&app, id, who).await?;
    room.max_participants = seats(b.max_participants, room.max_participants)?;
    room.locked = b.locked.unwrap_or(room.locked);
    room.lobby = b.lobby.unwrap_or(room.lobby);
    room.guests = b.guests.unwrap_or(room.guests);
    let new = room.clone();
    app.writer.write(move |cx| Box::pin(async move { store::update(&mut cx.conn, &new).await })).await?;
    tell(&app, id).await;
    Ok(Json(app.rooms.info(&room, true)))
}

/// `DELETE /v1/rooms/{id}`: everybody has to leave, and nobody comes in again.
pub async fn close(State(app): State<App>, who: Authed, Path(id): Path<RoomId>) -> Answer<Empty> {
    as_host(&app, id, who).await?;
    app.writer.write(move |cx| Box::pin(async move { store::close(&mut cx.conn, id).await })).await?;
    if let Err(cause) = app.rooms.close(id).await {
        // It is closed: whoever is still inside is taken out one by one.
        tracing::warn!(%cause, room = %id, "a room was closed, and the server that carries it does not know yet");
    }
    Ok(Json(Empty {}))
}

/// `POST /v1/rooms/{id}/token`
pub async fn token(
    State(app): State<App>,
    who: Visitor,
    Path(id): Path<RoomId>,
    Body(b): Body<RoomTokenRequest>,
) -> Answer<RoomTokenAnswer> {
    door::ask(&app, id, &who, b).await.map(Json)
}

/// `POST /v1/rooms/{id}/lobby/{ticket}`
pub async fn lobby(
    State(app): State<App>,
    who: Authed,
    Path((id, ticket)): Path<(RoomId, String)>,
    Body(b): Body<LobbyAnswer>,
) -> Answer<Empty> {
    as_host(&app, id, who).await?;
    if !door::answer_ticket(&app, id, &ticket, b.admit) {
        return Err(ApiError::not_found("ticket"));
    }
    tell(&app, id).await;
    Ok(Json(Empty {}))
}

/// `POST /v1/rooms/{id}/people/{identity}`
pub async fn person(
    State(app): State<App>,
    who: Authed,
    Path((id, identity)): Path<(RoomId, String)>,
    Body(b): Body<HostRequest>,
) -> Answer<Empty> {
    as_host(&app, id, who).await?;
    if !app.rooms.carried() {
        return Err(ApiError::new(ErrorCode::Unavailable, "This server has no group calls."));
    }
    if b.action == HostAction::Remove {
        app.rooms.bar(id, &identity);
    }
    app.rooms.act(id, &identity, b.action).await.map_err(elsewhere)?;
    Ok(Json(Empty {}))
}

/// What carries the rooms did not do it.
fn elsewhere(cause: ClusterError) -> ApiError {
    tracing::warn!(%cause, "a host's wish");
    ApiError::new(ErrorCode::Unavailable, "The server that carries the rooms does not answer. Try again in a moment.")
}

/// `POST /v1/livekit/webhook`: something happened in a room that a cluster carries. What it was is asked, not believed.
pub async fn webhook(State(app): State<App>, headers: HeaderMap, body: Bytes) -> Answer<Empty> {
    let outside = app.rooms.outside.as_ref().ok_or_else(|| ApiError::not_found("route"))?;
    let token = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).map(|v| v.strip_prefix("Bearer ").unwrap_or(v));
    if !token.is_some_and(|t| outside.cluster.signed(t, &body)) {
        return Err(ApiError::new(ErrorCode::Unauthenticated, "The webhook is not signed with the key of the configuration."));
    }
    let event: serde_json::Value = serde_json::from_slice(&body).map_err(|_| ApiError::bad("The webhook is no JSON."))?;
    // Rooms of others on the same cluster have other names.
    if let Some(id) = event.pointer("/room/name").and_then(|n| n.as_str()).and_then(|n| n.parse::<RoomId>().ok()) {
        outside.hint(id);
    }
    Ok(Json(Empty {}))
}
