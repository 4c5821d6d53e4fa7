//! `GET /r/{id}`: the page on which guests come into a meeting room with a browser, and the files it is made of.
//!
//! The key of the room is in the fragment of the address, which browsers do not send. The page runs under a policy that lets it load
//! and reach nothing but this server.

use super::Path;
use crate::error::ApiError;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sc_protocol::RoomId;

mod built {
    include!(concat!(env!("OUT_DIR"), "/guest_page.rs"));
}

const POLICY: &str = "default-src 'none'; script-src 'self'; worker-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; \
     connect-src 'self' ws: wss:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The page itself, whatever the room: it asks by itself what is behind the link.
pub async fn page(Path(_): Path<RoomId>) -> Response {
    match file("room.html") {
        Some(bytes) => answer(bytes, "text/html; charset=utf-8", "no-cache"),
        None => (StatusCode::NOT_FOUND, "This server was built without the page for guests. Open the link in the app.").into_response(),
    }
}

/// What the page loads. Names carry a hash of the content.
pub async fn asset(Path(name): Path<String>) -> Response {
    let kind = match name.rsplit('.').next() {
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        _ => "application/octet-stream",
    };
    match file(&format!("assets/{name}")) {
        Some(bytes) => answer(bytes, kind, "public, max-age=31536000, immutable"),
        None => ApiError::not_found("file").into_response(),
    }
}

fn file(name: &str) -> Option<&'static [u8]> {
    built::FILES.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
}

fn answer(bytes: &'static [u8], kind: &'static str, keep: &'static str) -> Response {
    let rows: [(HeaderName, &'static str); 6] = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, keep),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("permissions-policy"), "camera=(self), microphone=(self), display-capture=(self)"),
    ];
    let mut response = bytes.into_response();
    for (name, value) in rows {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
