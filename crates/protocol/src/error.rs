//! Stable error codes. The same code appears in a REST body, in a gateway `error` frame and in the runbook.

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $status:literal, $retry:literal;)*) => {
        /// What went wrong, for programs. Codes are never renamed or reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)*
            /// A code this build does not know; treated as not retryable.
            #[serde(other, rename = "UNKNOWN")]
            Unknown,
        }

        impl ErrorCode {
            /// Every code of this version, for documentation and tests.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$variant,)*];

            /// The stable text of the code.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$variant => $text,)* ErrorCode::Unknown => "UNKNOWN" }
            }

            /// The HTTP status that goes with it.
            #[must_use]
            pub fn http_status(self) -> u16 {
                match self { $(ErrorCode::$variant => $status,)* ErrorCode::Unknown => 500 }
            }

            /// True when the same request may succeed later without being changed.
            #[must_use]
            pub fn is_retryable(self) -> bool {
                match self { $(ErrorCode::$variant => $retry,)* ErrorCode::Unknown => false }
            }
        }
    };
}

codes! {
    /// The request could not be understood.
    BadRequest = "BAD_REQUEST", 400, false;
    /// No valid access token.
    Unauthenticated = "UNAUTHENTICATED", 401, false;
    /// The access token has expired; refresh it.
    TokenExpired = "TOKEN_EXPIRED", 401, false;
    /// Wrong username or password; the server does not say which.
    InvalidCredentials = "INVALID_CREDENTIALS", 401, false;
    /// A spent refresh token came back: every session of its family is revoked.
    RefreshReused = "REFRESH_REUSED", 401, false;
    /// The account is suspended.
    AccountSuspended = "ACCOUNT_SUSPENDED", 403, false;
    /// The device waits for approval by another device of the account.
    DeviceNotLinked = "DEVICE_NOT_LINKED", 403, false;
    /// The role does not allow it.
    Forbidden = "FORBIDDEN", 403, false;
    /// Not a member of the conversation, or the device has no leaf in its group.
    NotAMember = "NOT_A_MEMBER", 403, false;
    /// There is no such thing.
    NotFound = "NOT_FOUND", 404, false;
    /// Somebody has that username.
    UsernameTaken = "USERNAME_TAKEN", 409, false;
    /// The group has moved on: `epoch` and `seq` say where it is. Catch up and try again.
    StaleEpoch = "STALE_EPOCH", 409, true;
    /// The state on the server is not the one the request assumed.
    Conflict = "CONFLICT", 409, false;
    /// A device of that user has no key package left.
    NoKeyPackage = "NO_KEY_PACKAGE", 409, true;
    /// Larger than the limit.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", 413, false;
    /// The commit breaks MLS or the policy of the conversation.
    InvalidCommit = "INVALID_COMMIT", 422, false;
    /// A certificate or device list does not verify.
    InvalidIdentity = "INVALID_IDENTITY", 422, false;
    /// Too much at once; `retry_after_ms` says when to try again.
    RateLimited = "RATE_LIMITED", 429, true;
    /// A fault of the server.
    Internal = "INTERNAL", 500, true;
    /// The server is starting, stopping or too busy.
    Unavailable = "UNAVAILABLE", 503, true;
    /// The server's disk is full or failing: nothing is accepted until it is mended.
    StorageFull = "STORAGE_FULL", 507, true;
    /// The device read too slowly; it must reconnect and catch up by cursor.
    SlowConsumer = "SLOW_CONSUMER", 503, true;
    /// Every seat of the room is taken.
    RoomFull = "ROOM_FULL", 409, true;
    /// A host has locked the room.
    RoomLocked = "ROOM_LOCKED", 403, false;
    /// A host has turned whoever asks away, or has taken them out.
    RoomRefused = "ROOM_REFUSED", 403, false;
    /// The registration of new accounts is switched off.
    RegistrationClosed = "REGISTRATION_CLOSED", 403, false;
}

impl std::fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The body of every refused request, and the content of an `error` frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ErrorBody {
    /// What went wrong, for programs.
    pub code: ErrorCode,
    /// What went wrong and what to do, for people, in English.
    pub message: String,
    /// The id of the request, for support.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Earliest sensible retry, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
    /// With `STALE_EPOCH`: the current epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<u64>,
    /// With `STALE_EPOCH`: the newest seq of the conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
}

impl ErrorBody {
    /// A body with a code and a sentence, the rest empty.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), request_id: None, retry_after_ms: None, epoch: None, seq: None }
    }
}
