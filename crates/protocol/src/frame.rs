//! Gateway frames: `GET /v1/gateway`, one WebSocket per device.
//!
//! Text frames are JSON, binary frames are MessagePack of the same types; the subprotocol chooses. Every request
//! carries a `request_id`; its answer or its `error` carries it back.

use crate::error::ErrorBody;
use crate::rest::SendMessage;
use crate::rooms::RoomInfo;
use crate::{Blob, ConversationId, DeviceId, TempId, UnixMillis, UserId};
use serde::{Deserialize, Serialize};

/// Subprotocol with JSON in text frames.
pub const SUBPROTOCOL_JSON: &str = "secureconnect.v1.json";
/// Subprotocol with MessagePack in binary frames.
pub const SUBPROTOCOL_MSGPACK: &str = "secureconnect.v1.msgpack";

/// WebSocket close code: read too slowly, reconnect and catch up.
pub const CLOSE_RESYNC: u16 = 4008;
/// WebSocket close code: the session is no longer valid (logged out, suspended, revoked).
pub const CLOSE_SESSION: u16 = 4001;
/// WebSocket close code: the server is going away; reconnect after a moment.
pub const CLOSE_RESTART: u16 = 1012;

/// What an envelope of the log holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EnvelopeKind {
    /// MLS PrivateMessage with content.
    Application,
    /// MLS PublicMessage with a commit.
    Commit,
    /// The same place in the log for a device the commit added: its Welcome, with the tree beside it.
    Welcome,
    /// MLS PublicMessage with a proposal by the server (a member left, a device was revoked).
    Proposal,
    /// A new generation of the group begins; the payload is the signed announcement.
    Reset,
}

impl EnvelopeKind {
    /// As stored.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        match self {
            Self::Application => 0,
            Self::Commit => 1,
            Self::Welcome => 2,
            Self::Proposal => 3,
            Self::Reset => 4,
        }
    }

    /// From storage.
    #[must_use]
    pub fn from_i64(v: i64) -> Option<Self> {
        [Self::Application, Self::Commit, Self::Welcome, Self::Proposal, Self::Reset].into_iter().find(|k| k.to_i64() == v)
    }
}

/// One entry of a conversation's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// Whose log.
    pub conversation_id: ConversationId,
    /// Dense, from 1.
    pub seq: u64,
    /// What the payload is.
    pub kind: EnvelopeKind,
    /// Generation of the group.
    pub generation: u32,
    /// Epoch it was stored in; for a commit, the one it starts from.
    pub epoch: u64,
    /// Who sent it; all zero for the server itself.
    pub sender_user: UserId,
    /// The device that sent it; all zero for the server itself.
    pub sender_device: DeviceId,
    /// The sender's id for it.
    pub temp_id: TempId,
    /// When the server stored it.
    pub sent_at: UnixMillis,
    /// Ciphertext or handshake.
    pub payload: Blob,
    /// With a Welcome: the ratchet tree of the new epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratchet_tree: Option<Blob>,
}

/// How far a device has got in one conversation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// Newest seq it has stored.
    pub seq: u64,
}

/// Levels that a frame may be nested.
pub const DEPTH: usize = 24;

/// From the device.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ClientFrame {
    /// Asks for everything after the cursors; conversations that are not named start at the device's first entry.
    /// Until the answer `caught_up`, live entries wait.
    Sync {
        /// At most [`crate::limits::SYNC_CURSORS`].
        cursors: Vec<Cursor>,
        /// False when another `sync` frame with more cursors follows.
        done: bool,
    },
    /// Stores an application message.
    SendMessage {
        /// Carried back.
        request_id: u64,
        /// The message.
        #[serde(flatten)]
        message: SendMessage,
    },
    /// Moves the account's read position; it never moves back.
    MarkAsRead {
        /// Carried back.
        request_id: u64,
        /// Where.
        conversation_id: ConversationId,
        /// Newest seq that was read.
        seq: u64,
    },
    /// Checks that membership holds; events of own conversations come without it.
    JoinConversation {
        /// Carried back.
        request_id: u64,
        /// Which.
        conversation_id: ConversationId,
    },
    /// Answered by `pong`.
    Ping {
        /// Carried back.
        request_id: u64,
    },
}

/// From the server.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ServerFrame {
    /// First frame of an accepted connection.
    Connected {
        /// The account.
        user_id: UserId,
        /// The device.
        device_id: DeviceId,
        /// The server's clock, to show a wrong one on the device.
        server_time: UnixMillis,
    },
    /// Only frame of a refused connection; a close follows.
    ConnectionError {
        /// Why.
        #[serde(flatten)]
        error: ErrorBody,
    },
    /// A message of this device is durable.
    MessageSent {
        /// Of the request.
        request_id: u64,
        /// Where.
        conversation_id: ConversationId,
        /// The client's id.
        temp_id: TempId,
        /// Its place.
        seq: u64,
        /// When it was stored.
        sent_at: UnixMillis,
    },
    /// An entry of a log.
    NewMessage(Envelope),
    /// Everything up to now has been sent; live entries follow.
    CaughtUp {},
    /// A member's read position moved.
    MessagesRead {
        /// Where.
        conversation_id: ConversationId,
        /// Who.
        user_id: UserId,
        /// How far.
        seq: u64,
    },
    /// Somebody's device list changed.
    DeviceListChanged {
        /// Whose.
        user_id: UserId,
    },
    /// A device of the account asks to be linked, or one was linked or revoked.
    DevicesChanged {},
    /// This account became a member, stopped being one, or a role changed.
    ConversationUpdated {
        /// Which.
        conversation_id: ConversationId,
    },
    /// One-time key packages run out.
    KeyPackagesLow {
        /// Ciphersuite.
        suite: u16,
        /// How many are left.
        remaining: u32,
    },
    /// Who is in a room, and who speaks, is another now. Goes to members of the conversation, or to hosts of a meeting room.
    RoomUpdated {
        /// As it is now.
        room: RoomInfo,
    },
    /// Answer to `mark_as_read` and `join_conversation`.
    Ok {
        /// Of the request.
        request_id: u64,
    },
    /// Answer to `ping`.
    Pong {
        /// Of the request.
        request_id: u64,
    },
    /// A refused request.
    Error {
        /// Of the request; 0 when it could not be read.
        request_id: u64,
        /// The client's id, when the request had one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        temp_id: Option<TempId>,
        /// Why.
        error: ErrorBody,
    },
}

/// How frames are written on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// Text frames.
    Json,
    /// Binary frames.
    MsgPack,
}

/// A frame could not be read.
#[derive(Debug, thiserror::Error)]
#[error("the frame could not be read: {0}")]
pub struct FrameError(String);

impl Encoding {
    /// Encodes a frame. Our own types always encode; a failure is a fault of the type.
    pub fn encode<T: Serialize>(self, frame: &T) -> Result<Vec<u8>, FrameError> {
        match self {
            Self::Json => serde_json::to_vec(frame).map_err(|e| FrameError(e.to_string())),
            Self::MsgPack => rmp_serde::to_vec_named(frame).map_err(|e| FrameError(e.to_string())),
        }
    }

    /// Decodes a frame; input is bounded by the socket's limit before it gets here. No frame of ours is nested deeper than
    /// [`DEPTH`]; what is deeper would use up the stack.
    pub fn decode<T: for<'a> Deserialize<'a>>(self, bytes: &[u8]) -> Result<T, FrameError> {
        match self {
            Self::Json => serde_json::from_slice(bytes).map_err(|e| FrameError(e.to_string())),
            Self::MsgPack => {
                let mut from = rmp_serde::Deserializer::from_read_ref(bytes);
                from.set_max_depth(DEPTH);
                T::deserialize(&mut from).map_err(|e| FrameError(e.to_string()))
            }
        }
    }
}
