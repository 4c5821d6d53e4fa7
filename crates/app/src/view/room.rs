//! A room as it is drawn.

use sc_media::room::{RoomEnd, RoomPhase};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// The room one is in, or on the way into.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "RoomView.ts")]
#[allow(clippy::struct_excessive_bools)] // Each is a mark or a button in the picture.
pub struct RoomView {
    /// Its id.
    pub id: String,
    /// The conversation it belongs to; none for a meeting room.
    pub conversation: Option<String>,
    /// The conversation's title; empty for a meeting room.
    pub title: String,
    /// `waiting` (in the lobby), `joining`, `inside`, `reconnecting`, `over`.
    pub phase: String,
    /// Why it is over: `left`, `removed`, `closed`, `elsewhere`, `refused`, `lost`, or an error code of the door.
    pub cause: String,
    /// Who is inside; oneself first.
    pub people: Vec<RoomPersonView>,
    /// The chat since one came in, oldest first.
    pub chat: Vec<RoomLineView>,
    /// The microphone is off.
    pub muted: bool,
    /// Pictures of this side are sent.
    pub camera: bool,
    /// A screen of this side is sent.
    pub screen: bool,
    /// The hand is up.
    pub hand: bool,
    /// Why one is without a microphone, or a picture that should be there: a code, or nothing.
    pub trouble: String,
    /// Thirty digits to compare; empty when there are none.
    pub check: String,
    /// The link of a meeting room, with its key.
    pub link: String,
    /// One is its host.
    pub host: bool,
    /// Nobody else comes in.
    pub locked: bool,
    /// Whoever is not a host waits.
    pub lobby: bool,
    /// Who waits, for hosts.
    pub waiting: Vec<WaitingView>,
}

/// Somebody in a room.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "RoomPersonView.ts")]
#[allow(clippy::struct_excessive_bools)] // Each is a mark in the picture.
pub struct RoomPersonView {
    /// Theirs for the whole room.
    pub identity: String,
    /// The account; empty for guests.
    pub user: String,
    /// How they are called.
    pub name: String,
    /// Without an account: nobody vouches for the name.
    pub guest: bool,
    /// This device.
    pub own: bool,
    /// They speak now.
    pub speaks: bool,
    /// The microphone is on.
    pub microphone: bool,
    /// The camera is on.
    pub camera: bool,
    /// A screen is shown.
    pub screen: bool,
    /// The hand is up.
    pub hand: bool,
    /// Much of what they send or receive gets lost, or they are away for the moment.
    pub weak: bool,
    /// What they send does not open.
    pub garbled: bool,
}

/// A line of the room's chat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "RoomLineView.ts")]
pub struct RoomLineView {
    /// Counts the lines.
    pub id: u32,
    /// Who.
    pub name: String,
    /// This device.
    pub own: bool,
    /// What.
    pub text: String,
}

/// Somebody in the lobby.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "WaitingView.ts")]
pub struct WaitingView {
    /// Names them for the answer.
    pub ticket: String,
    /// How they are called.
    pub name: String,
    /// Without an account.
    pub guest: bool,
}

/// Who is inside a conversation's room, seen from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "InsideView.ts")]
pub struct InsideView {
    /// The conversation.
    pub conversation: String,
    /// Who is inside.
    pub people: Vec<RoomPersonView>,
}

/// A meeting room one has made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "MeetingView.ts")]
pub struct MeetingView {
    /// Its id.
    pub id: String,
    /// Its link with the key; empty when it was made on another device.
    pub link: String,
    /// Seats.
    pub seats: u32,
    /// Sessions that are active.
    pub inside: u32,
    /// Nobody else comes in.
    pub locked: bool,
    /// Whoever is not a host waits.
    pub lobby: bool,
    /// People without an account may come in.
    pub guests: bool,
}

/// The phase for the choice of words.
#[must_use]
pub fn phase(p: RoomPhase) -> &'static str {
    match p {
        RoomPhase::Joining => "joining",
        RoomPhase::Inside => "inside",
        RoomPhase::Reconnecting => "reconnecting",
        RoomPhase::Over(_) => "over",
    }
}

/// The cause of the end for the choice of words.
#[must_use]
pub fn cause(p: RoomPhase) -> &'static str {
    match p {
        RoomPhase::Over(RoomEnd::Left) => "left",
        RoomPhase::Over(RoomEnd::Removed) => "removed",
        RoomPhase::Over(RoomEnd::Closed) => "closed",
        RoomPhase::Over(RoomEnd::Elsewhere) => "elsewhere",
        RoomPhase::Over(RoomEnd::Refused) => "refused",
        RoomPhase::Over(RoomEnd::Lost) => "lost",
        _ => "",
    }
}
