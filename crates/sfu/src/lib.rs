//! A selective forwarding unit: it takes each participant's media once and gives it to the others, and reads none of it.
//!
//! It speaks LiveKit's signalling (`livekit-protocol`), so LiveKit's SDKs can join. It knows tracks and opaque identities; who may
//! come in, seats, lobbies and grace periods of people belong to whoever drives it. Media is end-to-end encrypted by those who
//! send it; what is in the clear are RTP headers, the audio level extension and the first bytes of a frame that tell a key frame
//! from others.
//!
//! * [`Sfu`] is the core and does no I/O: datagrams, signals and time go in (`join`, `handle_*`), [`Output`]s come out of
//!   [`Sfu::poll_output`]; [`Sfu::poll_timeout`] says when it wants to hear the time again.
//! * [`net`] is the shell: one UDP port and one TCP port (RFC 4571 framing), one thread, segmentation offload on the way out.
//!
//! # A participant
//!
//! | state | entered by | left by |
//! |---|---|---|
//! | present, signalling | `join`, `resume` | `signal_lost`, `leave`, a leave request, the same identity anew |
//! | present, silent | `signal_lost` | `resume`; after the grace time it is gone |
//! | gone | see above | never: a later `join` is another participant |
//!
//! Each participant has two peer connections, as LiveKit has: what it publishes (it offers) and what it is subscribed to (the unit
//! offers). At most one offer of the unit is on its way; changes in the meantime are in the next one.
//!
//! # Invariants
//!
//! * A packet is forwarded in the order its rewritten numbers say: a receiver sees one stream however often its layer changes, and a
//!   change of layer begins with a key frame.
//! * Whatever an `Rtc` is told is followed by taking everything it says (str0m's single-mutation rule): see `peers`.
//! * Nothing a participant sends makes the unit panic or keep more than a bounded amount for them.

mod forward;
mod layers;
mod media;
mod model;
mod moving;
pub mod net;
mod peers;
mod room;
mod sdp;
mod seen;
mod sfu;
mod signal;
mod speakers;
mod ticks;

pub use livekit_protocol as proto;
pub use model::{Config, Event, Grants, IceServer, Join, LeaveReason, Output, SessionId, name_of};
pub use sfu::Sfu;
pub use str0m::net::{Protocol, Transmit};
