//! Calls between two people, without I/O: what is said ([`signal`]), who does what when ([`machine`]), and what carries
//! sound ([`port`]).
//!
//! Signals are ordinary encrypted messages of the direct conversation. They carry the DTLS fingerprints, so whoever
//! carries the signals cannot sit in the middle of the media; and they have one order for everybody, the log's, so every
//! device comes to the same end without asking anybody: the first answer is the answer.

pub mod machine;
pub mod port;
pub mod signal;

pub use machine::{CallState, Direction, EndCause, Input, Machine, Output, Phase, Received};
pub use port::{FailCause, MediaCommand, MediaEvent, MediaPort, Shown};
pub use signal::{EndReason, Signal, SignalError};

/// A call rings this long, in milliseconds; an offer that is older is a missed call.
pub const RING_MS: u64 = 45_000;
/// What belongs to a running call and comes later than this is of no use any more, in milliseconds.
pub const STALE_MS: u64 = 30_000;
