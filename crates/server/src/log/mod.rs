//! The log: a dense sequence of envelopes per conversation, and the only way to write to the store.
//!
//! * [`state`]: what may be appended, decided from memory; no I/O.
//! * [`writer`]: the one task that owns the writing connection. It drains what is queued into one transaction (group
//!   commit, no timer), commits, and only then answers and fans out. **An answer means durable.**
//! * [`read`]: pages and cursors, on read-only connections.

pub mod read;
pub mod state;
pub mod writer;
