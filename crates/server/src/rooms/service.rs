//! `POST /twirp/livekit.RoomService/…`: this server's unit for rooms of others, as a LiveKit server offers it (Twirp, protobuf or JSON).
//!
//! Whoever signs with the key `rooms_key` has rooms of their own here; they neither see nor reach this server's. To the unit such a room is
//! `KEY/NAME`; a room of this server has no slash in its name.

use super::token::{Signer, VideoGrant};
use crate::App;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use prost::Message;
use sc_sfu::net::Handle;
use sc_sfu::{LeaveReason, proto};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A refusal of Twirp.
struct Refusal(StatusCode, &'static str, &'static str);

const UNKNOWN: Refusal = Refusal(StatusCode::NOT_FOUND, "bad_route", "this server does not offer that");
const NOT_ALLOWED: Refusal = Refusal(StatusCode::UNAUTHORIZED, "unauthenticated", "the token does not allow that, or is not valid");
const MALFORMED: Refusal = Refusal(StatusCode::BAD_REQUEST, "malformed", "the request is not what this method takes");
const NOT_FOUND: Refusal = Refusal(StatusCode::NOT_FOUND, "not_found", "there is no such room, person or track");

/// What the unit calls a room of that key.
pub(super) fn unit_name(signer: &Signer, room: &str) -> String {
    format!("{}/{room}", signer.issuer())
}

/// The route.
pub async fn call(State(app): State<App>, Path(method): Path<String>, headers: HeaderMap, body: Bytes) -> Response {
    let (Some(signer), Some(unit)) = (&app.rooms.shared, &app.rooms.unit) else { return refuse(UNKNOWN) };
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let text = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
    let token = text(header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer "));
    let Some(grant) = token.and_then(|t| signer.verify_errand(t)) else { return refuse(NOT_ALLOWED) };
    let call = Call { unit, signer, grant, json: kind.starts_with("application/json"), body: &body };
    let answered = match method.as_str() {
        "ListRooms" => call.list_rooms().await,
        "ListParticipants" => call.list_participants().await,
        "GetParticipant" => call.get_participant().await,
        "RemoveParticipant" => call.remove_participant().await,
        "MutePublishedTrack" => call.mute_published_track().await,
        "DeleteRoom" => call.delete_room().await,
        _ => Err(UNKNOWN),
    };
    answered.unwrap_or_else(refuse)
}

fn refuse(Refusal(status, code, msg): Refusal) -> Response {
    (status, axum::Json(serde_json::json!({ "code": code, "msg": msg }))).into_response()
}

struct Call<'a> {
    unit: &'a Handle,
    signer: &'a Signer,
    grant: VideoGrant,
    json: bool,
    body: &'a [u8],
}

type Answered = Result<Response, Refusal>;

impl Call<'_> {
    fn read<Q: Message + Default + DeserializeOwned>(&self) -> Result<Q, Refusal> {
        let read = if self.json { serde_json::from_slice(self.body).ok() } else { Q::decode(self.body).ok() };
        read.ok_or(MALFORMED)
    }

    fn answer<A: Message + Serialize>(&self, a: &A) -> Answered {
        if self.json {
            return Ok(axum::Json(a).into_response());
        }
        Ok(([(header::CONTENT_TYPE, "application/protobuf")], a.encode_to_vec()).into_response())
    }

    fn may(&self, yes: bool) -> Result<(), Refusal> {
        if yes { Ok(()) } else { Err(NOT_ALLOWED) }
    }

    /// The unit's name for a room that the token is for.
    fn room(&self, name: &str) -> Result<String, Refusal> {
        self.may(self.grant.room_admin && self.grant.room == name)?;
        Ok(unit_name(self.signer, name))
    }

    async fn find(&self, room: String, identity: &str) -> Result<proto::ParticipantInfo, Refusal> {
        self.unit.people(room).await.into_iter().find(|p| p.identity == identity).ok_or(NOT_FOUND)
    }

    async fn list_rooms(&self) -> Answered {
        let q: proto::ListRoomsRequest = self.read()?;
        self.may(self.grant.room_list)?;
        let own = unit_name(self.signer, "");
        let wanted = |r: &proto::Room| q.names.is_empty() || q.names.contains(&r.name);
        let rooms = self.unit.rooms().await.into_iter().filter(|(name, _)| name.starts_with(&own)).map(|(_, r)| r);
        self.answer(&proto::ListRoomsResponse { rooms: rooms.filter(wanted).collect() })
    }

    async fn list_participants(&self) -> Answered {
        let q: proto::ListParticipantsRequest = self.read()?;
        let participants = self.unit.people(self.room(&q.room)?).await;
        self.answer(&proto::ListParticipantsResponse { participants })
    }

    async fn get_participant(&self) -> Answered {
        let q: proto::RoomParticipantIdentity = self.read()?;
        self.answer(&self.find(self.room(&q.room)?, &q.identity).await?)
    }

    async fn remove_participant(&self) -> Answered {
        let q: proto::RoomParticipantIdentity = self.read()?;
        let room = self.room(&q.room)?;
        self.find(room.clone(), &q.identity).await?;
        self.unit.leave(room, q.identity, LeaveReason::Removed).await;
        self.answer(&proto::RemoveParticipantResponse {})
    }

    async fn mute_published_track(&self) -> Answered {
        let q: proto::MuteRoomTrackRequest = self.read()?;
        let room = self.room(&q.room)?;
        let track = self.find(room.clone(), &q.identity).await?.tracks.into_iter().find(|t| t.sid == q.track_sid).ok_or(NOT_FOUND)?;
        // Nobody's microphone is switched on from afar.
        self.may(q.muted)?;
        self.unit.mute(room, q.identity, track.source()).await;
        self.answer(&proto::MuteRoomTrackResponse { track: Some(proto::TrackInfo { muted: true, ..track }) })
    }

    async fn delete_room(&self) -> Answered {
        let q: proto::DeleteRoomRequest = self.read()?;
        self.may(self.grant.room_create)?;
        self.unit.close(unit_name(self.signer, &q.room)).await;
        self.answer(&proto::DeleteRoomResponse {})
    }
}
