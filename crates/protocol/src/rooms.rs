//! Rooms: bodies of `/v1/rooms` and the frame that tells who is inside.
//!
//! A room belongs to a conversation (it has the conversation's id, and its members may come in), or is a meeting room of its own that
//! is entered by link. The key of a meeting room's media and chat is in the link's fragment, which never reaches the server; that of
//! a conversation's room comes from the conversation's MLS group.

use crate::{DeviceId, RoomId, UnixMillis, UserId};
use serde::{Deserialize, Serialize};

/// Seats of a meeting room unless it is told otherwise.
pub const SEATS: u32 = 6;
/// Seats a room may have.
pub const SEATS_MOST: u32 = 200;
/// Characters in the name a guest comes in with.
pub const GUEST_NAME: std::ops::RangeInclusive<usize> = 1..=40;

/// `POST /v1/rooms`: a meeting room; who makes it is its host.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CreateRoom {
    /// Seats; [`SEATS`] when it is not said.
    pub max_participants: Option<u32>,
    /// Whoever is not a host waits until one lets them in.
    pub lobby: bool,
    /// People without an account may come in by link.
    pub guests: bool,
}

/// `PUT /v1/rooms/{id}`, by a host: what is not named stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChangeRoom {
    /// Seats. Nobody has to leave because of it.
    pub max_participants: Option<u32>,
    /// Nobody else comes in.
    pub locked: Option<bool>,
    /// Whoever is not a host waits.
    pub lobby: Option<bool>,
    /// People without an account may come in.
    pub guests: Option<bool>,
}

/// Somebody in a room.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomPerson {
    /// As LiveKit's participant identity: [`member_identity`], or `g:` and something for a guest.
    pub identity: String,
    /// The account; none for a guest.
    pub user_id: Option<UserId>,
    /// The name a guest came in with; members are known by their account.
    pub guest_name: Option<String>,
    /// Since when.
    pub joined_at: UnixMillis,
    /// The microphone is on.
    pub microphone: bool,
    /// The camera is on.
    pub camera: bool,
    /// A screen is shown.
    pub screen: bool,
    /// The hand is up.
    pub hand: bool,
}

/// Somebody in the lobby, for hosts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Names them when they are let in or turned away.
    pub ticket: String,
    /// The account; none for a guest.
    pub user_id: Option<UserId>,
    /// The name a guest gave.
    pub guest_name: Option<String>,
    /// Since when.
    pub since: UnixMillis,
}

/// A room as it is now: `GET /v1/rooms/{id}`, and in the frame `room_updated`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomInfo {
    /// Which.
    pub room_id: RoomId,
    /// It belongs to the conversation with the same id.
    pub conversation: bool,
    /// Seats.
    pub max_participants: u32,
    /// Nobody else comes in.
    pub locked: bool,
    /// Whoever is not a host waits.
    pub lobby: bool,
    /// People without an account may come in.
    pub guests: bool,
    /// Sessions that are active: those inside, and those whose seat is kept for a moment.
    pub member_count: u32,
    /// Whoever asks is a host. In a frame it is false.
    pub host: bool,
    /// Who is inside.
    pub people: Vec<RoomPerson>,
    /// Who speaks, loudest first.
    pub speaking: Vec<String>,
    /// Who waits; empty for those who are no host.
    pub waiting: Vec<Waiting>,
}

/// `GET /v1/rooms`: the meeting rooms somebody has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomList {
    /// Newest first.
    pub rooms: Vec<RoomInfo>,
}

/// `POST /v1/rooms/{id}/token`: may I come in? Asked again with the ticket while one waits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RoomTokenRequest {
    /// How a guest wants to be called.
    pub guest_name: Option<String>,
    /// From the answer before.
    pub ticket: Option<String>,
}

/// May they come in?
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum RoomTokenAnswer {
    /// Yes. A seat is kept for a minute.
    Ready {
        /// A LiveKit access token.
        token: String,
        /// Where LiveKit's signalling is; empty for this server.
        url: String,
        /// As whom.
        identity: String,
    },
    /// A host has to say so first. Ask again in a few seconds.
    Waiting {
        /// For the next question.
        ticket: String,
    },
}

impl std::fmt::Debug for RoomTokenAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ready { url, identity, .. } => write!(f, "Ready({identity}, {url:?})"),
            Self::Waiting { .. } => f.write_str("Waiting"),
        }
    }
}

/// `POST /v1/rooms/{id}/people/{identity}`, by a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostAction {
    /// They have to leave, and do not come back until the room has been empty.
    Remove,
    /// Their microphone is switched off; they may switch it on again.
    Mute,
    /// The same with the camera.
    CameraOff,
    /// The same with the screen.
    ScreenOff,
}

/// The body of a host's action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostRequest {
    /// What is done.
    pub action: HostAction,
}

/// `POST /v1/rooms/{id}/lobby/{ticket}`, by a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LobbyAnswer {
    /// They may come in.
    pub admit: bool,
}

/// A member's identity in a room: the same account may be inside with several devices.
#[must_use]
pub fn member_identity(user: UserId, device: DeviceId) -> String {
    format!("u:{user}:{device}")
}

/// The account and device of a member's identity.
#[must_use]
pub fn parse_identity(identity: &str) -> Option<(UserId, DeviceId)> {
    let (user, device) = identity.strip_prefix("u:")?.split_once(':')?;
    Some((user.parse().ok()?, device.parse().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_names_account_and_device_and_a_guest_has_neither() {
        let (u, d) = (UserId::generate(), DeviceId::generate());
        assert_eq!(parse_identity(&member_identity(u, d)), Some((u, d)));
        assert_eq!(parse_identity("g:018f"), None);
        assert_eq!(parse_identity("u:1:2"), None);
    }

    #[test]
    fn the_answer_of_the_door_keeps_its_form() {
        let ready = RoomTokenAnswer::Ready { token: "t".into(), url: String::new(), identity: "g:1".into() };
        assert_eq!(serde_json::to_string(&ready).unwrap(), r#"{"state":"ready","token":"t","url":"","identity":"g:1"}"#);
        assert!(!format!("{ready:?}").contains("token"));
    }
}
