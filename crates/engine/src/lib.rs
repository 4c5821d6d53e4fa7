//! The sync engine: what turns a store and a server into a messenger.
//!
//! * [`profile`]: the folder of an account on this device: key slots, database, one process at a time.
//! * [`api`]: typed HTTP with token refresh; [`account`]: registration, login, linking, key packages.
//! * [`core`]: everything that changes the store, on the one thread that owns the writing connection: the send and
//!   receive transactions, projections, repair. No network there.
//! * [`sync`]: the actor: gateway in, outbox out. [`jobs`]: how each kind of job is carried out.
//! * [`Engine`]: the handle the app holds.
//!
//! Invariants: the UI is told after the commit; a frame is acknowledged by moving the cursor in the transaction that
//! stored it; the bytes of an encrypted job are stored before they are sent and sent again unchanged; jobs of one
//! conversation are done in order; the outbox waits while the device catches up.

pub mod account;
pub mod api;
pub mod calls;
pub mod core;
mod engine;
pub mod jobs;
pub mod profile;
pub mod rooms;
pub mod sync;

pub use engine::{ConnectionState, Engine, Event, Preview, Report, ResetScope, WeakEngine};
pub use sc_calls as call;

use sc_e2ee::E2eeError;
use sc_protocol::{ErrorBody, ErrorCode};
use sc_store::StoreError;

/// Everything that can go wrong, for people and programs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The server refused.
    #[error("{0}")]
    Server(Box<ErrorBody>),
    /// The server cannot be reached; what was entered is kept and goes out later.
    #[error("The server cannot be reached: {0}")]
    Offline(String),
    /// The local store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Encryption.
    #[error(transparent)]
    E2ee(#[from] E2eeError),
    /// Something the caller gave cannot be used.
    #[error("{1}")]
    Invalid(&'static str, String),
    /// The store has to be unlocked first.
    #[error("{0}")]
    Locked(&'static str),
    /// Another process uses the profile.
    #[error("This profile is open in another window or program. Close it first.")]
    InUse,
    /// The engine is stopping.
    #[error("The app is stopping.")]
    Stopped,
}

impl EngineError {
    /// The stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Server(e) => e.code.as_str(),
            Self::Offline(_) => "OFFLINE",
            Self::Store(StoreError::DiskFull) => "DISK_FULL",
            Self::Store(StoreError::WrongKey | StoreError::Keys(_)) => "WRONG_KEY",
            Self::Store(_) => "STORE",
            Self::E2ee(_) => "ENCRYPTION",
            Self::Invalid(code, _) => code,
            Self::Locked(_) => "LOCKED",
            Self::InUse => "IN_USE",
            Self::Stopped => "STOPPED",
        }
    }

    /// True when trying again later may help.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Server(e) => {
                // An ended session is not the job's fault: it waits for the next login.
                let session = [
                    ErrorCode::TokenExpired,
                    ErrorCode::Unauthenticated,
                    ErrorCode::RefreshReused,
                    ErrorCode::AccountSuspended,
                    ErrorCode::DeviceNotLinked,
                    ErrorCode::InvalidCredentials,
                ];
                e.code.is_retryable() || session.contains(&e.code)
            }
            Self::Offline(_) | Self::Stopped | Self::Locked(_) | Self::Store(_) => true,
            _ => false,
        }
    }

    pub(crate) fn invalid(code: &'static str, message: impl Into<String>) -> Self {
        Self::Invalid(code, message.into())
    }
}

/// The result of everything here.
pub type EngineResult<T> = Result<T, EngineError>;

/// Milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> i64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
}
