//! Rooms: links, the door, what hosts do. The media is elsewhere; the secrets for it come from here.
//!
//! A link is `https://server/r/ROOM#KEY`. The key is made here, is in the fragment, and is never sent to the server.

use crate::api::Api;
use crate::engine::Engine;
use crate::{EngineError, EngineResult};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rand::RngCore as _;
use sc_protocol::rest::Empty;
use sc_protocol::rooms::{
    ChangeRoom, CreateRoom, HostAction, HostRequest, LobbyAnswer, RoomInfo, RoomList, RoomTokenAnswer, RoomTokenRequest,
};
use sc_protocol::{ConversationId, RoomId};
use serde::{Deserialize, Serialize};
use std::str::FromStr;
use std::sync::PoisonError;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use zeroize::Zeroizing;

/// Bytes of a link's key.
const KEY: usize = 32;
/// How long a session that is on its way is waited for.
const SESSION: Duration = Duration::from_secs(10);
/// Where the links of rooms one has made are kept.
const MADE: &str = "rooms_made";

/// A meeting room and the key to what happens in it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomLink {
    /// `https://…`, without a path.
    pub server: String,
    /// Which.
    pub room: RoomId,
    /// The fragment.
    pub key: Zeroizing<String>,
}

impl std::fmt::Debug for RoomLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RoomLink({}, {})", self.server, self.room)
    }
}

impl RoomLink {
    /// Thirty digits of the key: whoever sees the same ones has the same link.
    #[must_use]
    pub fn check(&self) -> String {
        sc_e2ee::safety::epoch_check(self.key.as_bytes())
    }

    /// The whole link, with its key.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("{}/r/{}#{}", self.server, self.room, *self.key)
    }
}

impl FromStr for RoomLink {
    type Err = EngineError;
    fn from_str(s: &str) -> EngineResult<Self> {
        let bad = || EngineError::invalid("BAD_LINK", "This is no complete link of a meeting room. Copy all of it.");
        let s = s.trim();
        let s = s.strip_prefix("secureconnect://room/").map_or_else(|| s.to_owned(), |rest| format!("https://{rest}"));
        let (address, key) = s.split_once('#').ok_or_else(bad)?;
        let (server, room) = address.split_once("/r/").ok_or_else(bad)?;
        let secure = server.starts_with("https://") || server.starts_with("http://");
        if !secure || !(22..=200).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
            return Err(bad());
        }
        Ok(Self { server: server.to_owned(), room: room.parse().map_err(|_| bad())?, key: Zeroizing::new(key.to_owned()) })
    }
}

impl Engine {
    /// Makes a meeting room; its link stays on this device too.
    pub async fn create_room(&self, room: CreateRoom) -> EngineResult<(RoomLink, RoomInfo)> {
        let api = self.http()?;
        let info: RoomInfo = api.post("/v1/rooms", &room).await?;
        let mut key = Zeroizing::new([0u8; KEY]);
        rand::rngs::OsRng.fill_bytes(key.as_mut());
        let link =
            RoomLink { server: api.base().to_owned(), room: info.room_id, key: Zeroizing::new(URL_SAFE_NO_PAD.encode(key.as_ref())) };
        let mut made = self.made_rooms()?;
        made.push(link.clone());
        self.keep_rooms(&made).await?;
        Ok((link, info))
    }

    /// The links of rooms made on this device.
    pub fn made_rooms(&self) -> EngineResult<Vec<RoomLink>> {
        let text = self.read(|r| r.meta(MADE))?;
        Ok(text.and_then(|t| serde_json::from_slice(&t).ok()).unwrap_or_default())
    }

    /// The meeting rooms one has made, as they are now.
    pub async fn rooms(&self) -> EngineResult<RoomList> {
        self.http()?.get("/v1/rooms").await
    }

    /// A room as the server told of it last, without being asked.
    #[must_use]
    pub fn room_news(&self, room: RoomId) -> Option<RoomInfo> {
        let shared = self.shared().ok()?;
        shared.rooms.lock().unwrap_or_else(PoisonError::into_inner).get(&room).cloned()
    }

    /// A room as it is now.
    pub async fn room(&self, room: RoomId) -> EngineResult<RoomInfo> {
        self.http()?.get(&format!("/v1/rooms/{room}")).await
    }

    /// The door of a conversation's room. Nobody speaks where they would not write: see `may_speak`.
    pub async fn enter_conversation_room(&self, id: ConversationId) -> EngineResult<RoomTokenAnswer> {
        self.may_speak(id).await?;
        self.http()?.post(&format!("/v1/rooms/{id}/token"), &RoomTokenRequest::default()).await
    }

    /// This account came into the empty room of a conversation: the others find a line of it.
    pub async fn tell_room_opened(&self, id: ConversationId) -> EngineResult<()> {
        self.shared()?.db.write(move |cx| crate::core::rooms::tell_opened(cx, id)).await
    }

    /// The door of a meeting room: as a member of this server, as a guest of another.
    pub async fn enter_room(&self, link: &RoomLink, request: &RoomTokenRequest) -> EngineResult<RoomTokenAnswer> {
        let path = format!("/v1/rooms/{}/token", link.room);
        let own = self.http()?;
        if own.base() == link.server {
            return own.post(&path, &RoomTokenRequest { guest_name: None, ..request.clone() }).await;
        }
        Api::new(&link.server)?.open_post(&path, request).await
    }

    /// Locks, opens, resizes a room.
    pub async fn change_room(&self, room: RoomId, change: &ChangeRoom) -> EngineResult<RoomInfo> {
        self.http()?.put(&format!("/v1/rooms/{room}"), change).await
    }

    /// Closes a room for good.
    pub async fn close_room(&self, room: RoomId) -> EngineResult<()> {
        self.http()?.delete::<Empty>(&format!("/v1/rooms/{room}")).await?;
        // Its key is of no use any more.
        let mut made = self.made_rooms()?;
        made.retain(|l| l.room != room);
        self.keep_rooms(&made).await
    }

    async fn keep_rooms(&self, made: &[RoomLink]) -> EngineResult<()> {
        let text = serde_json::to_vec(made).map_err(|e| EngineError::invalid("ENCODING", e.to_string()))?;
        self.db().write(move |cx| Ok(cx.w.set_meta(MADE, &text)?)).await
    }

    /// Lets somebody in, or turns them away.
    pub async fn answer_lobby(&self, room: RoomId, ticket: &str, admit: bool) -> EngineResult<()> {
        let path = format!("/v1/rooms/{room}/lobby/{}", segment(ticket)?);
        self.http()?.post::<Empty>(&path, &LobbyAnswer { admit }).await.map(|_| ())
    }

    /// Takes somebody out, or switches off what they send.
    pub async fn act_as_host(&self, room: RoomId, identity: &str, action: HostAction) -> EngineResult<()> {
        let path = format!("/v1/rooms/{room}/people/{}", segment(identity)?);
        self.http()?.post::<Empty>(&path, &HostRequest { action }).await.map(|_| ())
    }

    /// The secret of the conversation's present epoch for the media of its room: epoch and 32 bytes.
    pub async fn room_secret(&self, id: ConversationId) -> EngineResult<(u64, Zeroizing<Vec<u8>>)> {
        self.known_room_secret(id).await?.ok_or_else(no_session)
    }

    /// The same; a session that is still on its way is waited for: a conversation is known before its Welcome has come.
    pub async fn await_room_secret(&self, id: ConversationId) -> EngineResult<(u64, Zeroizing<Vec<u8>>)> {
        // From before the first look, so that nothing comes between.
        let mut events = self.events();
        let until = tokio::time::Instant::now() + SESSION;
        loop {
            if let Some(found) = self.known_room_secret(id).await? {
                return Ok(found);
            }
            match tokio::time::timeout_at(until, events.recv()).await {
                Ok(Ok(_) | Err(RecvError::Lagged(_))) => {}
                Ok(Err(RecvError::Closed)) | Err(_) => return Err(no_session()),
            }
        }
    }

    async fn known_room_secret(&self, id: ConversationId) -> EngineResult<Option<(u64, Zeroizing<Vec<u8>>)>> {
        self.db()
            .write(move |cx| {
                let c = cx.conversation(id)?;
                cx.with_group(&c, |g, context| Ok((g.epoch(), g.export_media_secret(context, id.as_bytes())?)))
            })
            .await
    }
}

fn no_session() -> EngineError {
    EngineError::invalid("NO_SESSION", "There is no secure session in this conversation yet.")
}

/// A part of a path: identities and tickets have no character that would have to be escaped.
fn segment(s: &str) -> EngineResult<&str> {
    let fine = !s.is_empty() && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b':'));
    if fine { Ok(s) } else { Err(EngineError::invalid("NOT_FOUND", "There is no such person in the room.")) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_read_as_it_was_written_and_never_shown_by_accident() {
        let text = "https://chat.example.org/r/018f6b1e-7d4a-7c31-9d52-0f6a51d0a001#q5R0c2Vjb25kX2tleV9vZl90aGVfcm9vbV8x";
        let link: RoomLink = text.parse().unwrap();
        assert_eq!(link.reveal(), text);
        assert!(!format!("{link:?}").contains("q5R0"));
        let deep: RoomLink = text.replace("https://", "secureconnect://room/").parse().unwrap();
        assert_eq!(deep, link);
        for bad in [
            "",
            "https://x/r/1#aaaaaaaaaaaaaaaaaaaaaaaa",
            "ftp://x/r/018f6b1e-7d4a-7c31-9d52-0f6a51d0a001#aaaaaaaaaaaaaaaaaaaaaaaa",
            "https://x/r/018f6b1e-7d4a-7c31-9d52-0f6a51d0a001",
        ] {
            assert!(bad.parse::<RoomLink>().is_err(), "{bad}");
        }
    }
}
