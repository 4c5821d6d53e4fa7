//! One error type for all routes and frames. What a client may know is an [`ErrorBody`]; what it may not is logged.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sc_protocol::{ErrorBody, ErrorCode};

tokio::task_local! {
    /// The id of the request being served, for error bodies and log lines.
    pub static REQUEST_ID: String;
}

/// The id of the request being served, if one is.
#[must_use]
pub fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}

/// A refusal.
#[derive(Debug, Clone)]
pub struct ApiError(pub Box<ErrorBody>);

impl std::fmt::Display for ApiError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.message)
    }
}

impl std::error::Error for ApiError {}

/// The result of everything a client can ask for.
pub type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    /// A refusal with a code and a sentence.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let mut body = ErrorBody::new(code, message);
        body.request_id = request_id();
        Self(Box::new(body))
    }

    /// The request makes no sense.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
    }

    /// Not a member.
    #[must_use]
    pub fn not_a_member() -> Self {
        Self::new(ErrorCode::NotAMember, "You are not a member of this conversation.")
    }

    /// No such thing.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(ErrorCode::NotFound, format!("There is no such {what}."))
    }

    /// Too much at once.
    #[must_use]
    pub fn rate_limited(retry_after_ms: u64) -> Self {
        let mut e = Self::new(ErrorCode::RateLimited, "Too many requests. Try again later.");
        e.0.retry_after_ms = Some(retry_after_ms);
        e
    }

    /// The group has moved on.
    #[must_use]
    pub fn stale_epoch(epoch: u64, seq: u64) -> Self {
        let mut e = Self::new(ErrorCode::StaleEpoch, "The conversation has moved on. Catch up and try again.");
        e.0.epoch = Some(epoch);
        e.0.seq = Some(seq);
        e
    }

    /// Something of ours broke: the cause is logged, the client gets the request id.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(request_id = request_id().as_deref(), %cause, "internal error");
        Self::new(ErrorCode::Internal, "The server failed to handle this request. Try again later.")
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(e: sqlx::Error) -> Self {
        if storage_is_full(&e) {
            tracing::error!(cause = %e, "storage is full or failing");
            return storage_failed();
        }
        if matches!(e, sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed) {
            let mut busy = Self::new(ErrorCode::Unavailable, "The server is busy. Try again in a moment.");
            busy.0.retry_after_ms = Some(1_000);
            return busy;
        }
        Self::internal(e)
    }
}

/// The answer while nothing can be stored.
#[must_use]
pub fn storage_failed() -> ApiError {
    ApiError::new(ErrorCode::StorageFull, "The server's disk is full or failing. Nothing was acknowledged; try again later.")
}

/// True for SQLITE_IOERR_WRITE, SQLITE_IOERR_FSYNC and SQLITE_IOERR_DIR_FSYNC: the disk may not hold what it was given.
#[must_use]
pub fn sync_failed(e: &sqlx::Error) -> bool {
    let Some(code) = e.as_database_error().and_then(|d| d.code()) else { return false };
    matches!(code.as_ref(), "778" | "1034" | "1290")
}

/// True for SQLITE_FULL, SQLITE_IOERR and SQLITE_READONLY in any of their extended forms.
#[must_use]
pub fn storage_is_full(e: &sqlx::Error) -> bool {
    let Some(code) = e.as_database_error().and_then(|d| d.code()) else { return false };
    code.parse::<i64>().is_ok_and(|c| matches!(c & 0xff, 8 | 10 | 13))
}

/// True for a violated UNIQUE or PRIMARY KEY.
#[must_use]
pub fn is_unique_violation(e: &sqlx::Error) -> bool {
    e.as_database_error().is_some_and(|d| d.is_unique_violation())
}

impl IntoResponse for ApiError {
    fn into_response(mut self) -> Response {
        if self.0.request_id.is_none() {
            self.0.request_id = request_id();
        }
        let status = StatusCode::from_u16(self.0.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry = self.0.retry_after_ms;
        let mut response = (status, axum::Json(self.0)).into_response();
        if let Some(ms) = retry {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
        }
        response
    }
}
