//! End-to-end encryption without I/O: who is who, MLS groups, what is inside a message.
//!
//! * [`identity`]: the account identity key, device keys, certificates.
//! * [`safety`]: safety numbers (Signal's numeric fingerprint) and their QR codes.
//! * [`group`]: one MLS group (RFC 9420) as this product uses it; the only place that knows openmls.
//! * [`kv`]: openmls storage over any transactional key-value store.
//! * [`content`]: the versioned content format and its padding.
//! * [`sealed`]: sealing something to one device's X25519 key (linking, resend answers).
//! * [`reset`]: the signed announcement of a new group for everyone.
//!
//! Invariants: a group keeps no past epoch (`max_past_epochs = 0`), because the log is totally ordered; handshakes are
//! PublicMessages, so that the server can check them; every leaf carries a certificate that verifies, or the group is not
//! joined and the commit not merged. Storage and randomness come in as arguments; key lifetimes are checked by openmls
//! against the system's clock.

pub mod content;
pub mod group;
pub mod identity;
pub mod kv;
pub mod reset;
pub mod safety;
pub mod sealed;

/// What can go wrong here. None of it carries secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum E2eeError {
    /// Bytes from outside that do not parse or verify.
    #[error("{0}")]
    Invalid(&'static str),
    /// A certificate or device list.
    #[error(transparent)]
    Identity(#[from] sc_protocol::identity::IdentityError),
    /// Made for another epoch of the group than the current one.
    #[error("the message belongs to another epoch of the group")]
    WrongEpoch,
    /// The message was processed before.
    #[error("the message was received before")]
    Duplicate,
    /// The keys for it are not (or no longer) here.
    #[error("the message cannot be decrypted: {0}")]
    Undecryptable(&'static str),
    /// A commit that breaks the rules of the conversation; it was not merged.
    #[error("the group change breaks the rules: {0}")]
    Policy(&'static str),
    /// This device is no member of the group (any more).
    #[error("this device is not in the group")]
    NotInGroup,
    /// openmls or its storage failed.
    #[error("the group state failed: {0}")]
    Mls(String),
}

impl E2eeError {
    /// Wraps an openmls error; its texts name kinds, never keys or content.
    pub fn mls(e: impl std::fmt::Display) -> Self {
        Self::Mls(e.to_string())
    }
}
