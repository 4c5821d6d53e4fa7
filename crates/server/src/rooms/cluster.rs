//! A LiveKit cluster that carries the rooms: what is asked of it, by LiveKit's RoomService (Twirp, protobuf).
//!
//! Each question has a token of its own that is good for a minute and allows no more than what is asked, a deadline, and a bound on the answer.

use super::token::{Signer, VideoGrant};
use crate::now_ms;
use prost::Message;
use sc_sfu::proto;
use std::time::Duration;

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Largest answer, in bytes: a room of two hundred is a fiftieth of it.
const ANSWER: usize = 8 << 20;

/// Why the cluster did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No answer.
    #[error("the LiveKit cluster did not answer: {0}")]
    Silent(String),
    /// It said no.
    #[error("the LiveKit cluster refused {0}: {1}")]
    Refused(&'static str, String),
    /// The answer is none, or too large.
    #[error("the LiveKit cluster's answer to {0} makes no sense")]
    Answer(&'static str),
}

/// The cluster of the configuration.
pub struct Cluster {
    http: reqwest::Client,
    base: String,
    signer: Signer,
}

impl Cluster {
    /// `url` is where participants go (`wss://…`); the service is at the same place.
    pub fn new(url: &str, key: &str, secret: &str) -> Result<Self, ClusterError> {
        let http = reqwest::Client::builder()
            .timeout(PATIENCE)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|e| ClusterError::Silent(e.to_string()))?;
        // `ws` becomes `http`, `wss` becomes `https`.
        let base = url.trim_end_matches('/').replacen("ws", "http", 1);
        Ok(Self { http, base, signer: Signer::shared(key, secret) })
    }

    /// True when a webhook's body was signed with the cluster's key.
    #[must_use]
    pub fn signed(&self, token: &str, body: &[u8]) -> bool {
        self.signer.signed(token, body)
    }

    /// The rooms with somebody in them, others' rooms too when the cluster is shared.
    pub async fn rooms(&self) -> Result<Vec<proto::Room>, ClusterError> {
        let grant = VideoGrant { room_list: true, ..VideoGrant::default() };
        let asked: proto::ListRoomsResponse = self.ask("ListRooms", grant, &proto::ListRoomsRequest::default()).await?;
        Ok(asked.rooms)
    }

    /// Those in a room; nobody when there is no such room.
    pub async fn people(&self, room: &str) -> Result<Vec<proto::ParticipantInfo>, ClusterError> {
        let asked = self.ask("ListParticipants", admin(room), &proto::ListParticipantsRequest { room: room.to_owned() }).await;
        let asked: proto::ListParticipantsResponse = gone_is_fine(asked)?;
        Ok(asked.participants)
    }

    /// Takes somebody out.
    pub async fn remove(&self, room: &str, identity: &str) -> Result<(), ClusterError> {
        let who = proto::RoomParticipantIdentity { room: room.to_owned(), identity: identity.to_owned(), ..Default::default() };
        let asked = self.ask::<_, proto::RemoveParticipantResponse>("RemoveParticipant", admin(room), &who).await;
        gone_is_fine(asked).map(drop)
    }

    /// Takes the microphone, camera or screen of somebody away.
    pub async fn mute(&self, room: &str, identity: &str, source: proto::TrackSource) -> Result<(), ClusterError> {
        let people = self.people(room).await?;
        let tracks = people.iter().filter(|p| p.identity == identity).flat_map(|p| &p.tracks);
        for track in tracks.filter(|t| t.source() == source && !t.muted) {
            let asked = proto::MuteRoomTrackRequest {
                room: room.to_owned(),
                identity: identity.to_owned(),
                track_sid: track.sid.clone(),
                muted: true,
            };
            let asked = self.ask::<_, proto::MuteRoomTrackResponse>("MutePublishedTrack", admin(room), &asked).await;
            gone_is_fine(asked)?;
        }
        Ok(())
    }

    /// Ends a room for everybody.
    pub async fn close(&self, room: &str) -> Result<(), ClusterError> {
        let grant = VideoGrant { room_create: true, ..VideoGrant::default() };
        let asked =
            self.ask::<_, proto::DeleteRoomResponse>("DeleteRoom", grant, &proto::DeleteRoomRequest { room: room.to_owned() }).await;
        gone_is_fine(asked).map(drop)
    }

    async fn ask<Q: Message, A: Message + Default>(&self, method: &'static str, grant: VideoGrant, q: &Q) -> Result<A, ClusterError> {
        let token = self.signer.errand(grant, now_ms()).map_err(|e| ClusterError::Refused(method, e.to_string()))?;
        let silent = |e: reqwest::Error| ClusterError::Silent(e.without_url().to_string());
        let request = self.http.post(format!("{}/twirp/livekit.RoomService/{method}", self.base)).bearer_auth(token);
        let mut response = request.header("Content-Type", "application/protobuf").body(q.encode_to_vec()).send().await.map_err(silent)?;
        let status = response.status();
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(silent)? {
            if body.len() + part.len() > ANSWER {
                return Err(ClusterError::Answer(method));
            }
            body.extend_from_slice(&part);
        }
        if !status.is_success() {
            return Err(ClusterError::Refused(method, refusal(status, &body)));
        }
        A::decode(body.as_slice()).map_err(|_| ClusterError::Answer(method))
    }
}

fn admin(room: &str) -> VideoGrant {
    VideoGrant { room_admin: true, room: room.to_owned(), ..VideoGrant::default() }
}

/// Twirp's code of a refusal, or the status where something else answered.
fn refusal(status: reqwest::StatusCode, body: &[u8]) -> String {
    let code = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|v| Some(v.get("code")?.as_str()?.to_owned()));
    code.filter(|c| c.len() <= 40).unwrap_or_else(|| status.to_string())
}

/// A room or a person that is not there any more is as it should be.
fn gone_is_fine<A: Default>(asked: Result<A, ClusterError>) -> Result<A, ClusterError> {
    match asked {
        Err(ClusterError::Refused(_, code)) if code == "not_found" => Ok(A::default()),
        other => other,
    }
}
