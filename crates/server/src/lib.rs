//! The reference server: accounts, keys, conversations, the log, the gateway.
//!
//! It stores and orders ciphertext. What it may know: accounts, devices, who is in which conversation, when something of
//! what size was sent, how far somebody has read. What it never sees: content, titles, names of files, passwords.
//!
//! * [`config`], [`db`], [`error`], [`ops`]: the ground.
//! * [`log`]: the only writer, and the readers.
//! * [`mls`]: checks every handshake against MLS and the policy of the conversation.
//! * [`auth`]: OPAQUE, tokens, sessions.
//! * [`limiter`], [`address`]: who may ask how often.
//! * [`routes`], [`gateway`], [`hub`]: what clients talk to.
//! * [`turn`]: the relay for calls. [`rooms`]: group calls and meeting rooms.
//! * [`operator`]: what is done beside a running server.

pub mod address;
pub mod auth;
pub mod config;
pub mod db;
pub mod error;
pub mod gateway;
pub mod hub;
pub mod identity;
pub mod limiter;
pub mod log;
pub mod mls;
pub mod operator;
pub mod ops;
pub mod rooms;
pub mod routes;
pub mod serve;
pub mod turn;

use config::Config;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Everything a request needs. Cheap to clone.
#[derive(Clone)]
pub struct App(pub Arc<AppInner>);

/// The parts of [`App`].
pub struct AppInner {
    /// The relay for calls.
    pub turn: turn::Turn,
    /// Group calls and meeting rooms.
    pub rooms: rooms::Rooms,
    /// As loaded at the start.
    pub config: Config,
    /// Readers.
    pub pool: sqlx::SqlitePool,
    /// The writer.
    pub writer: log::writer::Writer,
    /// Connections.
    pub hub: Arc<hub::Hub>,
    /// The server's own keys.
    pub secrets: auth::Secrets,
    /// Logins under way.
    pub logins: auth::Logins,
    /// Limits by name and device.
    pub limiter: limiter::Limiter,
    /// Counters.
    pub metrics: Arc<ops::Metrics>,
}

impl std::ops::Deref for App {
    type Target = AppInner;
    fn deref(&self) -> &AppInner {
        &self.0
    }
}

/// Milliseconds since the Unix epoch. Order never depends on it: that is what `seq` is for.
#[must_use]
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
