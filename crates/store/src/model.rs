//! What is stored, as Rust types.

use sc_protocol::rest::{ConversationKind, MemberInfo};
use sc_protocol::{ConversationId, DeviceId, TempId, UnixMillis, UserId};

macro_rules! stored_enum {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $v:ident = $n:literal,)* } else $other:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $v,)* }
        impl $name {
            pub(crate) fn to_int(self) -> i64 { match self { $(Self::$v => $n,)* } }
            pub(crate) fn from_int(n: i64) -> Self { match n { $($n => Self::$v,)* _ => Self::$other } }
        }
    };
}

stored_enum! {
    /// What a row of the timeline is.
    RowKind {
        /// Text.
        Text = 0,
        /// A system line; the body is JSON, see [`System`].
        System = 1,
        /// A message that could not be read; `cause` says why.
        Undecryptable = 2,
        /// Of a newer version of the app.
        Unknown = 3,
    } else Unknown
}

stored_enum! {
    /// How far a message has got.
    Status {
        /// Waits to be sent.
        Pending = 0,
        /// The server has it.
        Sent = 1,
        /// Refused for good; `cause` says why.
        Failed = 2,
        /// From somebody else.
        Received = 3,
    } else Failed
}

stored_enum! {
    /// What a conversation is doing.
    ConversationState {
        /// Being set up on the server.
        Creating = 0,
        /// Everything works.
        Active = 1,
        /// Known, but this device is not in its group yet.
        Joining = 2,
        /// This account is no member any more.
        Left = 3,
        /// The secure session broke and could not be repaired automatically.
        Broken = 4,
    } else Broken
}

stored_enum! {
    /// Whether a contact's identity is the one that was pinned.
    IdentityChange {
        /// It is.
        None = 0,
        /// It changed; the conversation says so.
        Changed = 1,
        /// It changed after it had been verified; sending waits until the change is accepted.
        Blocking = 2,
    } else Blocking
}

/// Somebody this device knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// The account.
    pub user_id: UserId,
    /// Its name.
    pub username: String,
    /// The pinned account identity key.
    pub identity_key: Vec<u8>,
    /// Newest signed device list.
    pub device_list: Vec<u8>,
    /// Its version; a smaller one is refused.
    pub list_version: u64,
    /// Safety numbers were compared under this key.
    pub verified: bool,
    /// The identity changed.
    pub changed: IdentityChange,
}

/// A conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// Its id.
    pub id: ConversationId,
    /// Direct or group.
    pub kind: ConversationKind,
    /// Title of a group; empty for a direct one.
    pub title: String,
    /// The other person of a direct one.
    pub peer: Option<UserId>,
    /// Generation of the MLS group.
    pub generation: u32,
    /// Ciphersuite of the MLS group.
    pub suite: u16,
    /// What it is doing.
    pub state: ConversationState,
    /// Newest seq that was stored.
    pub last_seq: u64,
    /// Newest seq this account has read.
    pub read_seq: u64,
    /// When something last happened.
    pub last_activity: UnixMillis,
    /// Count of the next message this device sends.
    pub next_n: u64,
    /// What was being written.
    pub draft: String,
    /// Members, roles, read positions.
    pub roster: Vec<MemberInfo>,
    /// Keys must be renewed before anything is sent.
    pub needs_rejoin: bool,
}

impl Conversation {
    /// One that holds nothing yet; `now` is when it was heard of.
    #[must_use]
    pub fn new(id: ConversationId, kind: ConversationKind, state: ConversationState, now: UnixMillis) -> Self {
        Self {
            id,
            kind,
            title: String::new(),
            peer: None,
            generation: 0,
            suite: 0,
            state,
            last_seq: 0,
            read_seq: 0,
            last_activity: now,
            next_n: 1,
            draft: String::new(),
            roster: Vec::new(),
            needs_rejoin: false,
        }
    }
}

/// A conversation in the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListEntry {
    /// The conversation.
    pub conversation: Conversation,
    /// Messages of others after the read position.
    pub unread: u64,
    /// The newest row.
    pub last: Option<MessageRow>,
    /// Messages that failed.
    pub failed: u64,
}

/// A row of the timeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageRow {
    /// Local id; stable.
    pub id: i64,
    /// The conversation.
    pub conversation: ConversationId,
    /// Order in the conversation.
    pub pos: i64,
    /// Place in the log, once known.
    pub seq: Option<u64>,
    /// The sender's id.
    pub temp_id: TempId,
    /// Who sent it.
    pub sender: UserId,
    /// With which device.
    pub sender_device: DeviceId,
    /// What it is.
    pub kind: RowKind,
    /// Text, or JSON of a system line.
    pub body: String,
    /// The message it answers.
    pub reply_to: Option<TempId>,
    /// When the server stored it; until then, when it was written.
    pub sent_at: UnixMillis,
    /// How far it got.
    pub status: Status,
    /// Why it failed or cannot be read: a code.
    pub cause: String,
}

/// A system line, stored as JSON and put into words by the UI.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum System {
    /// The conversation began.
    Created {
        /// Who made it.
        by: UserId,
    },
    /// Somebody came in.
    Added {
        /// Who.
        who: UserId,
        /// Who added them.
        by: UserId,
    },
    /// Somebody was removed, or left when both are the same.
    Removed {
        /// Who.
        who: UserId,
        /// Who removed them.
        by: UserId,
    },
    /// The title changed.
    Renamed {
        /// Who changed it.
        by: UserId,
        /// The new title.
        title: String,
    },
    /// Somebody uses a new device.
    DeviceAdded {
        /// Whose.
        who: UserId,
    },
    /// Somebody's device refreshed its secure session.
    SessionRefreshed {
        /// Whose.
        who: UserId,
    },
    /// Somebody came into the empty room of the conversation.
    RoomOpened {
        /// Who.
        by: UserId,
    },
    /// The session was reset for everyone.
    SessionReset {
        /// Who reset it.
        by: UserId,
    },
    /// Somebody's identity changed: safety numbers are new.
    IdentityChanged {
        /// Whose.
        who: UserId,
    },
    /// Messages of somebody were held back on the way.
    Gap {
        /// Whose.
        who: UserId,
        /// How many.
        count: u64,
    },
    /// Somebody could not be added: none of their devices can be at the moment.
    NotAdded {
        /// Who.
        who: UserId,
    },
    /// A group change was refused because it breaks the rules.
    Refused {
        /// Why, as a code.
        reason: String,
    },
    /// A call. Its row has the call's id and changes while the call goes on.
    Call(CallLine),
}

/// What became of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallOutcome {
    /// Nobody answered, or the caller gave up before.
    Missed,
    /// It was not wanted.
    Declined,
    /// The other person was in another call.
    Busy,
    /// It could not be carried.
    Failed,
    /// The two talked.
    Ended,
}

/// A call in the timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CallLine {
    /// Who called.
    pub by: UserId,
    /// From which device.
    pub device: DeviceId,
    /// When somebody answered, and on which device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered: Option<(UnixMillis, DeviceId)>,
    /// What became of it; nothing while it goes on, or when nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<CallOutcome>,
    /// How long the two talked, in seconds.
    #[serde(default)]
    pub seconds: u64,
    /// It rang as a video call.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub video: bool,
}

/// A job of the outbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Order of work.
    pub id: i64,
    /// The conversation.
    pub conversation: ConversationId,
    /// `message`, or a name the engine gives meaning to.
    pub kind: String,
    /// Makes retries idempotent.
    pub temp_id: TempId,
    /// What to do, encoded.
    pub body: Vec<u8>,
    /// Once encrypted: the bytes to be sent, again and again the same.
    pub ciphertext: Option<Vec<u8>>,
    /// Generation it was encrypted for.
    pub generation: u32,
    /// Epoch it was encrypted for.
    pub epoch: u64,
    /// Tries so far.
    pub attempts: u32,
    /// Not before this time.
    pub not_before: UnixMillis,
}
