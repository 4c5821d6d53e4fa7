//! Everything a host (desktop shell, bridge, command line) may ask, and what it is told.
//!
//! * [`command::Command`]: every question, typed; [`App::call`] answers it.
//! * [`view`]: what the UI draws. Types for TypeScript are generated from here into `ui/src/ipc/bindings`.
//! * [`timeline`]: the bounded window on a conversation and its deltas.
//! * [`settings`]: what is known before the store is open: language, theme.
//!
//! The UI holds no rules: it draws views and sends commands. Nothing here blocks; every error has a stable code.

mod app;
pub mod command;
pub mod settings;
pub mod timeline;
pub mod view;

pub use app::{App, AppOptions, Pictures};

/// What hosts log when nothing else is said. The sound library calls every closed connection an
/// error, and the network libraries warn of what is part of every call.
pub const LOG: &str = "warn,pulseaudio::client=off,rtc_dtls=error,rtc_ice=error";
pub use sc_engine as engine;

pub use sc_media::video::source::Source as VideoSource;

use sc_engine::EngineError;
use serde::{Deserialize, Serialize};

/// An error as every host shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ts_rs::TS, thiserror::Error)]
#[error("{message}")]
#[ts(export, export_to = "AppError.ts")]
pub struct AppError {
    /// Stable, for programs and for the choice of words in the UI.
    pub code: String,
    /// In English, for logs and the command line.
    pub message: String,
}

impl From<EngineError> for AppError {
    fn from(e: EngineError) -> Self {
        let message = match &e {
            EngineError::Server(b) => b.message.clone(),
            other => other.to_string(),
        };
        Self { code: e.code().to_owned(), message }
    }
}

impl AppError {
    /// With a code and a sentence.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}
