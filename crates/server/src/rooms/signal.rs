//! `GET /rtc`: LiveKit's signalling, one WebSocket a participant.
//!
//! States: token checked → seat taken and stay stored → joined (or resumed) → signals both ways → ended. A connection that ends without
//! saying so leaves the participant to the unit's grace time.

use super::door::refusal;
use super::seats::NoSeat;
use super::{end_stay, person_of, service, store, tell, token};
use crate::error::{ApiError, ApiResult};
use crate::{App, now_ms};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prost::Message as _;
use sc_protocol::rooms::parse_identity;
use sc_protocol::{ErrorCode, RoomId};
use sc_sfu::net::{Handle, Link, NoEntry};
use sc_sfu::{Grants, Join, proto};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::Instant;

/// Largest message: a description of a large room.
const MESSAGE: usize = 512 * 1024;
/// Longest name of a room of others.
const NAME: usize = 256;
/// Silence after which a client is taken for gone: LiveKit's clients ping every five seconds.
const SILENT: Duration = Duration::from_secs(30);

/// Messages a participant may send at once, and how long one more takes: whoever says more is read more slowly.
const BURST: u32 = 400;
const REFILL: Duration = Duration::from_millis(20);

/// What LiveKit's SDKs put into the address.
#[derive(Debug, Deserialize)]
pub struct Params {
    /// A browser can send no header; others put it there.
    #[serde(default)]
    access_token: String,
    #[serde(default)]
    reconnect: String,
    #[serde(default)]
    sid: String,
    #[serde(default)]
    auto_subscribe: String,
}

/// The route of the two connections that LiveKit calls its older protocol.
pub async fn upgrade(State(app): State<App>, Query(q): Query<Params>, headers: HeaderMap, ws: WebSocketUpgrade) -> ApiResult<Response> {
    let Some(unit) = app.rooms.unit.clone() else { return Err(ApiError::not_found("route")) };
    let bearer = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    let (claims, room) = admit(&app, bearer.unwrap_or(&q.access_token))?;
    let servers = crate::routes::calls::servers(&app, &headers, claims.sub.as_bytes());
    let ws = ws.read_buffer_size(8 * 1024).max_message_size(MESSAGE).max_frame_size(MESSAGE);
    Ok(ws.on_upgrade(move |socket| async move {
        let join = join_of(&claims, room.name(), servers, q.auto_subscribe != "0");
        let came = match room {
            _ if q.reconnect == "1" => {
                resume(&unit, socket, join, &q.sid).await;
                Ok(())
            }
            Entrance::Own(id) => enter(&app, &unit, socket, id, join).await,
            Entrance::Theirs(_) => enter_theirs(&unit, socket, join, claims.room_config).await,
        };
        if let Err(e) = came {
            tracing::debug!(cause = %e, "somebody could not come in");
        }
    }))
}

/// Whose room a token is for.
enum Entrance {
    /// This server's.
    Own(RoomId),
    /// Of whoever has the shared key, by the unit's name for it.
    Theirs(String),
}

impl Entrance {
    fn name(&self) -> String {
        match self {
            Self::Own(id) => id.to_string(),
            Self::Theirs(name) => name.clone(),
        }
    }
}

/// Checks a token.
fn admit(app: &App, token: &str) -> ApiResult<(token::Claims, Entrance)> {
    if let Some(shared) = &app.rooms.shared
        && let Ok(claims) = shared.verify(token)
    {
        if claims.video.room.len() > NAME {
            return Err(ApiError::bad("The name of the room is too long."));
        }
        let name = service::unit_name(shared, &claims.video.room);
        return Ok((claims, Entrance::Theirs(name)));
    }
    let claims = app.rooms.signer.verify(token)?;
    let id: RoomId = claims.video.room.parse().map_err(|_| ApiError::not_found("room"))?;
    Ok((claims, Entrance::Own(id)))
}

/// What the unit is told of somebody with that token.
fn join_of(claims: &token::Claims, room: String, ice_servers: Vec<sc_sfu::IceServer>, auto_subscribe: bool) -> Join {
    let video = &claims.video;
    let may = |v: Option<bool>| v.unwrap_or(true);
    Join {
        room,
        identity: claims.sub.clone(),
        name: claims.name.clone(),
        metadata: claims.metadata.clone(),
        attributes: claims.attributes.clone(),
        grants: Grants {
            publish: may(video.can_publish),
            subscribe: may(video.can_subscribe),
            data: video.can_publish_data.unwrap_or(may(video.can_publish)),
            update_metadata: video.can_update_own_metadata.unwrap_or(false),
            hidden: video.hidden,
        },
        auto_subscribe,
        ice_servers,
        most: 0,
    }
}

/// `GET /rtc/validate`: SDKs ask after a connection that failed, to learn why.
pub async fn validate(State(app): State<App>, Query(q): Query<Params>) -> Response {
    let (status, text) = match admit(&app, &q.access_token) {
        Ok(_) => (StatusCode::OK, "success"),
        Err(_) => (StatusCode::UNAUTHORIZED, "invalid token"),
    };
    cors((status, text).into_response())
}

/// `GET /rtc/v1`, `GET /rtc/v1/validate`: the newer protocol with one connection is not spoken; SDKs fall back when they are told so.
pub async fn unknown_version() -> Response {
    cors((StatusCode::NOT_FOUND, "this server speaks the protocol with two connections").into_response())
}

/// A page of another origin may read these: they say nothing that a token does not.
fn cors(mut r: Response) -> Response {
    r.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    r
}

async fn enter(app: &App, unit: &Handle, mut socket: WebSocket, id: RoomId, join: Join) -> ApiResult<()> {
    let (identity, name) = (join.identity.clone(), join.name.clone());
    if let Err(e) = seat(app, id, &identity, false).await {
        app.rooms.refused(e.0.code);
        refuse(&mut socket, &e).await;
        return Err(e);
    }
    let Ok(link) = unit.join(join).await else {
        app.rooms.with(id, |l| l.seats.free(&identity));
        end_stay(app, id, identity).await;
        return Err(stopping());
    };
    let seated = app.rooms.with(id, |l| {
        let seated = l.seats.seated(&identity, link.session);
        if seated {
            l.people.insert(identity.clone(), person_of(&identity, &name));
        }
        seated
    });
    if !seated {
        unit.lost(&link).await;
        end_stay(app, id, identity).await;
        return Ok(());
    }
    tell(app, id).await;
    serve(unit, socket, link).await;
    Ok(())
}

/// Into a room of somebody else: seats and stays are theirs to keep, but for the number that the token names.
async fn enter_theirs(unit: &Handle, mut socket: WebSocket, join: Join, room: Option<token::RoomConfig>) -> ApiResult<()> {
    let most = room.map_or(0, |r| usize::try_from(r.max_participants).unwrap_or(usize::MAX));
    let link = match unit.join(Join { most, ..join }).await {
        Ok(link) => link,
        Err(NoEntry::Full) => {
            let e = refusal(NoSeat::Full);
            refuse(&mut socket, &e).await;
            return Err(e);
        }
        Err(NoEntry::Stopped) => return Err(stopping()),
    };
    serve(unit, socket, link).await;
    Ok(())
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "The server is stopping.")
}

/// Takes the seat and stores the stay; nobody is let in whose stay is not stored.
/// `kept`: the seat was theirs before, so that a lock does not hold against them.
pub(super) async fn seat(app: &App, id: RoomId, identity: &str, kept: bool) -> ApiResult<()> {
    let identity = identity.to_owned();
    let room = {
        let mut conn = app.pool.acquire().await?;
        store::load(&mut conn, id).await?.ok_or_else(|| ApiError::not_found("room"))?
    };
    let user = parse_identity(&identity).map(|(u, _)| u);
    // A token is good for hours; what it was given for may be over.
    let welcome = match user {
        Some(u) if room.conversation => super::is_member(app, id, u).await?,
        Some(u) => super::is_active(app, u).await?,
        None => room.guests,
    };
    if !welcome {
        return Err(ApiError::not_found("room"));
    }
    let host = !room.conversation && user == Some(room.owner);
    app.rooms
        .with(id, |l| {
            // A token outlives its seat: whoever comes back later needs a free one.
            l.seats.keep(&identity, &person(&identity), room.max_participants, room.locked && !kept, host, now_ms())?;
            l.seats.take(&identity);
            if host {
                l.hosts.insert(room.owner);
            }
            Ok::<(), NoSeat>(())
        })
        .map_err(refusal)?;
    let stored = {
        let identity = identity.clone();
        app.writer.write(move |cx| Box::pin(async move { store::begin(&mut cx.conn, id, &identity, cx.now).await })).await
    };
    if stored.is_err() {
        app.rooms.with(id, |l| l.seats.free(&identity));
    }
    stored
}

/// Whom a removal holds against: the account with all its devices, or the guest.
pub(super) fn person(identity: &str) -> String {
    parse_identity(identity).map_or_else(|| identity.to_owned(), |(u, _)| u.to_string())
}

async fn refuse(socket: &mut WebSocket, e: &ApiError) {
    let full = e.0.code == ErrorCode::RoomFull;
    let reason = if full { proto::DisconnectReason::JoinFailure } else { proto::DisconnectReason::ParticipantRemoved };
    let leave =
        proto::LeaveRequest { reason: reason as i32, action: proto::leave_request::Action::Disconnect as i32, ..Default::default() };
    let message = proto::SignalResponse { message: Some(proto::signal_response::Message::Leave(leave)) };
    // They may be gone already; there is nobody else to tell.
    let _ = socket.send(Message::Binary(message.encode_to_vec().into())).await;
    let _ = socket.send(Message::Close(None)).await;
}

async fn resume(unit: &Handle, mut socket: WebSocket, who: Join, sid: &str) {
    let back = unit.resume(who.room, who.identity, sid.to_owned()).await;
    match back {
        Some(link) => serve(unit, socket, link).await,
        None => {
            // The stay is over: the client comes in anew, with everything.
            let leave = proto::LeaveRequest {
                reason: proto::DisconnectReason::StateMismatch as i32,
                action: proto::leave_request::Action::Reconnect as i32,
                ..Default::default()
            };
            let message = proto::SignalResponse { message: Some(proto::signal_response::Message::Leave(leave)) };
            let _ = socket.send(Message::Binary(message.encode_to_vec().into())).await;
        }
    }
}

async fn serve(unit: &Handle, mut socket: WebSocket, mut link: Link) {
    let mut heard = Instant::now();
    let mut allowance = BURST;
    let mut refill = tokio::time::interval(REFILL);
    loop {
        tokio::select! {
            signal = link.signals.recv() => {
                let Some(signal) = signal else { break };
                let sent = tokio::time::timeout(SILENT, socket.send(Message::Binary(signal.encode_to_vec().into()))).await;
                if !matches!(sent, Ok(Ok(()))) {
                    break;
                }
            }
            _ = refill.tick() => allowance = (allowance + 1).min(BURST),
            message = tokio::time::timeout_at(heard + SILENT, socket.recv()), if allowance > 0 => {
                heard = Instant::now();
                allowance -= 1;
                match message {
                    Ok(Some(Ok(Message::Binary(bytes)))) => match proto::SignalRequest::decode(bytes) {
                        Ok(request) => unit.signal(link.session, request).await,
                        Err(cause) => tracing::debug!(%cause, "a signal that is none"),
                    },
                    Ok(Some(Ok(Message::Close(_)) | Err(_)) | None) | Err(_) => break,
                    Ok(Some(Ok(_))) => {}
                }
            }
        }
    }
    unit.lost(&link).await;
    let _ = socket.send(Message::Close(None)).await;
}
