//! STUN (RFC 8489) and TURN (RFC 8656): a relay for calls whose devices find no direct way.
//!
//! * [`stun`]: messages, read within bounds and written.
//! * [`credentials`]: names and passwords that hold for a while, checked without a table of users.
//! * [`relay`]: the server without I/O: allocations, permissions, channels, quotas, and whom it refuses to send to.
//! * [`server`]: its sockets: UDP, TCP and TLS.
//!
//! What it relays is encrypted between the two ends; it sees addresses and sizes.

pub mod credentials;
pub mod relay;
pub mod server;
pub mod stun;
