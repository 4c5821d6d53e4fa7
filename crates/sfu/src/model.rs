//! What goes in and comes out.

use livekit_protocol as proto;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use str0m::net::Transmit;

/// One participant's stay, from `join` until it is gone. Never used twice.
pub type SessionId = u64;

/// How the unit is set up.
#[derive(Debug, Clone)]
pub struct Config {
    /// Addresses its UDP port is reached at.
    pub udp: Vec<SocketAddr>,
    /// Addresses its TCP port is reached at, for networks where UDP does not pass.
    pub tcp: Vec<SocketAddr>,
    /// How long a participant without signalling is kept.
    pub grace: Duration,
    /// Tracks one participant may publish.
    pub tracks: usize,
    /// What is assumed to fit a receiver before it is measured, in bits per second.
    pub first_estimate: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { udp: Vec::new(), tcp: Vec::new(), grace: Duration::from_secs(5), tracks: 16, first_estimate: 1_500_000 }
    }
}

/// A STUN or TURN server that a participant may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:` and `turn:` addresses.
    pub urls: Vec<String>,
    /// For TURN.
    pub username: String,
    /// For TURN.
    pub credential: String,
}

/// What a participant may do. Comes from its access token.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // As LiveKit's grant.
pub struct Grants {
    /// Send media.
    pub publish: bool,
    /// Receive media.
    pub subscribe: bool,
    /// Send data packets.
    pub data: bool,
    /// Change its own name, metadata and attributes.
    pub update_metadata: bool,
    /// Not shown to others.
    pub hidden: bool,
}

impl Default for Grants {
    fn default() -> Self {
        Self { publish: true, subscribe: true, data: true, update_metadata: true, hidden: false }
    }
}

/// What participants know a room as: what follows the first slash of the unit's name for it, or all of it.
#[must_use]
pub fn name_of(room: &str) -> &str {
    room.split_once('/').map_or(room, |(_, name)| name)
}

/// Somebody comes in.
#[derive(Debug, Clone, Default)]
pub struct Join {
    /// Name of the room; what is before a slash says whose it is, and is not shown to participants: see [`name_of`].
    pub room: String,
    /// Opaque, one participant a room: a second one ends the first.
    pub identity: String,
    /// Shown to others.
    pub name: String,
    /// Shown to others.
    pub metadata: String,
    /// Shown to others.
    pub attributes: HashMap<String, String>,
    /// What it may do.
    pub grants: Grants,
    /// It gets every track without asking.
    pub auto_subscribe: bool,
    /// What it may use to find a way.
    pub ice_servers: Vec<IceServer>,
    /// As many may be in the room; 0 for any number. Whoever is there under the same identity does not count.
    pub most: usize,
}

/// Why somebody is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaveReason {
    /// They said so.
    Left,
    /// They came in anew.
    Replaced,
    /// They were taken out.
    Removed,
    /// Nothing was heard of them for the grace time.
    Lost,
    /// The room was closed.
    Closed,
    /// The unit stops; they may come in anew in a moment.
    Restart,
}

impl LeaveReason {
    pub(crate) fn wire(self) -> proto::DisconnectReason {
        match self {
            Self::Left => proto::DisconnectReason::ClientInitiated,
            Self::Replaced => proto::DisconnectReason::DuplicateIdentity,
            Self::Removed => proto::DisconnectReason::ParticipantRemoved,
            Self::Lost => proto::DisconnectReason::ConnectionTimeout,
            Self::Closed => proto::DisconnectReason::RoomDeleted,
            Self::Restart => proto::DisconnectReason::ServerShutdown,
        }
    }
}

/// What happened, for whoever drives the unit.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Somebody is in.
    Joined {
        /// Room.
        room: String,
        /// Who.
        identity: String,
        /// Their stay.
        session: SessionId,
    },
    /// Somebody is gone.
    Left {
        /// Room.
        room: String,
        /// Who.
        identity: String,
        /// Their stay.
        session: SessionId,
        /// Why.
        reason: LeaveReason,
    },
    /// A track is there, or its state is another.
    Track {
        /// Room.
        room: String,
        /// Whose.
        identity: String,
        /// What it shows.
        source: proto::TrackSource,
        /// It sends nothing for now, or is gone.
        muted: bool,
    },
    /// Who speaks, loudest first.
    Speaking {
        /// Room.
        room: String,
        /// Who.
        identities: Vec<String>,
    },
    /// Somebody's attributes are others.
    Attributes {
        /// Room.
        room: String,
        /// Who.
        identity: String,
        /// All of them.
        attributes: HashMap<String, String>,
    },
}

/// What the unit wants done.
#[derive(Debug)]
pub enum Output {
    /// A datagram, or a frame of a TCP connection.
    Transmit(Transmit),
    /// A message for a participant's signalling connection.
    Signal(SessionId, Box<proto::SignalResponse>),
    /// The participant is gone: its signalling connection is to be closed.
    Close(SessionId),
    /// For whoever drives the unit.
    Event(Event),
}
