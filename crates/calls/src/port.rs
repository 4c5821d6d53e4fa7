//! What the machine asks of whoever carries sound and pictures, and what it hears back.

use sc_protocol::CallId;
use serde::{Deserialize, Serialize};

/// Why a call could not be carried, or broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailCause {
    /// The two devices found no way to each other.
    NoPath,
    /// There was a way, it broke, and no other was found.
    ConnectionLost,
    /// There is no microphone, or it may not be used.
    NoMicrophone,
    /// There is nothing to play sound on.
    NoSpeaker,
    /// The other side's description of the call makes no sense.
    BadDescription,
    /// The audio or network part of this device gave up.
    Device,
}

/// What is seen of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Shown {
    /// Themselves.
    Camera,
    /// Their screen, or a window on it.
    Screen,
}

/// To whoever carries sound and pictures. Nothing here waits: answers come as [`MediaEvent`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaCommand {
    /// Make ready and describe this side: [`MediaEvent::Offer`].
    Prepare {
        /// Which call.
        call: CallId,
    },
    /// Make ready to the other side's description: [`MediaEvent::Answer`].
    Answer {
        /// Which call.
        call: CallId,
        /// Session description (RFC 8866) of the caller.
        offer: String,
    },
    /// The other side answered.
    Accept {
        /// Which call.
        call: CallId,
        /// Session description of the answering side.
        answer: String,
    },
    /// More addresses of the other side.
    Candidates {
        /// Which call.
        call: CallId,
        /// Candidate attributes (RFC 8839, 5.1).
        list: Vec<String>,
    },
    /// Look for a new path: [`MediaEvent::Offer`]. Only the caller's side is asked.
    Restart {
        /// Which call.
        call: CallId,
    },
    /// Nothing is sent and nothing played while it is held.
    Hold {
        /// Which call.
        call: CallId,
        /// Hold it, or go on.
        held: bool,
    },
    /// The microphone is off, or on again.
    Mute {
        /// Which call.
        call: CallId,
        /// Off.
        muted: bool,
    },
    /// This is seen of this side from now on; nothing when there is none.
    Show {
        /// Which call.
        call: CallId,
        /// What is seen.
        what: Option<Shown>,
    },
    /// Stop everything that belongs to it.
    Close {
        /// Which call.
        call: CallId,
    },
}

/// From whoever carries sound and pictures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaEvent {
    /// This side's description, as the caller.
    Offer {
        /// Which call.
        call: CallId,
        /// Session description.
        sdp: String,
    },
    /// This side's description, as the one who is called.
    Answer {
        /// Which call.
        call: CallId,
        /// Session description.
        sdp: String,
    },
    /// More addresses of this side.
    Candidates {
        /// Which call.
        call: CallId,
        /// Candidate attributes.
        list: Vec<String>,
    },
    /// Sound flows, or flows again.
    Connected {
        /// Which call.
        call: CallId,
    },
    /// The path is gone; a new one may be found.
    Disconnected {
        /// Which call.
        call: CallId,
    },
    /// This device's addresses are others now.
    NetworkChanged {
        /// Which call.
        call: CallId,
    },
    /// Pictures of this side cannot be sent; the call goes on.
    NoPicture {
        /// Which call.
        call: CallId,
    },
    /// It cannot go on.
    Failed {
        /// Which call.
        call: CallId,
        /// Why.
        cause: FailCause,
    },
}

impl MediaEvent {
    /// The call it is about.
    #[must_use]
    pub fn call(&self) -> CallId {
        match self {
            Self::Offer { call, .. }
            | Self::Answer { call, .. }
            | Self::Candidates { call, .. }
            | Self::Connected { call }
            | Self::Disconnected { call }
            | Self::NetworkChanged { call }
            | Self::NoPicture { call }
            | Self::Failed { call, .. } => *call,
        }
    }
}

/// Carries sound and pictures of calls.
pub trait MediaPort: Send + Sync {
    /// Takes a command; returns at once.
    fn command(&self, command: MediaCommand);
}
