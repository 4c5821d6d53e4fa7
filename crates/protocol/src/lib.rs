//! What crosses the wire between a device and the server, and nothing else.
//!
//! * [`id`]: typed identifiers (UUIDv7).
//! * [`limits`]: every size, count and rate both sides agree on.
//! * [`error`]: the stable error codes, the same on REST and on the gateway.
//! * [`rest`]: bodies of the `/v1` routes.
//! * [`rooms`]: bodies of the routes of rooms.
//! * [`frame`]: gateway frames, as JSON (text) or MessagePack (binary).
//! * [`opaque`]: the OPAQUE (RFC 9807) configuration both sides must share.
//! * [`identity`]: device certificates and signed device lists, the public half of who is who.
//! * [`blob`]: bytes that are base64 in JSON and raw in MessagePack.
//!
//! The crate does no I/O and holds no state. Everything here is versioned by the path prefix `/v1` and the
//! WebSocket subprotocols [`frame::SUBPROTOCOL_JSON`] and [`frame::SUBPROTOCOL_MSGPACK`].

pub mod blob;
pub mod error;
pub mod frame;
pub mod id;
pub mod identity;
pub mod limits;
pub mod opaque;
pub mod rest;
pub mod rooms;

pub use blob::Blob;
pub use error::{ErrorBody, ErrorCode};
pub use id::{CallId, ConversationId, DeviceId, RoomId, TempId, UserId};

/// Milliseconds since the Unix epoch. Frames carry these; REST bodies of this version do too.
pub type UnixMillis = i64;

/// MLS ciphersuites a conversation may use.
pub mod suite {
    /// MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519 (RFC 9420).
    pub const CLASSIC: u16 = 0x0001;
    /// MLS_128_MLKEM768X25519_AES128GCM_SHA256_Ed25519 (draft-ietf-mls-pq-ciphersuites, provisional code point).
    pub const HYBRID: u16 = 0x004F;
    /// Leaves up to which a new group takes the hybrid suite; above it commits and Welcomes grow too large.
    pub const HYBRID_LEAVES: usize = 32;
}
