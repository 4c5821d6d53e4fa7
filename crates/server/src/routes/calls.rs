//! What calls need of the server beside the log: STUN and TURN servers, the embedded one and those of the configuration.

use super::Answer;
use crate::auth::Authed;
use crate::error::ApiError;
use crate::{App, now_ms};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use sc_protocol::rest::{IceServer, IceServers};
use sc_turn::credentials::{Credentials, issue};

/// Credentials an account may ask for in a minute.
const PER_MINUTE: u32 = 30;

/// `GET /v1/calls/ice-servers`
pub async fn ice_servers(State(app): State<App>, who: Authed, headers: HeaderMap) -> Answer<IceServers> {
    app.limiter.take(format!("ice {}", who.user), PER_MINUTE, f64::from(PER_MINUTE) / 60.0, now_ms()).map_err(ApiError::rate_limited)?;
    let ice_servers = servers(&app, &headers, who.user.as_bytes());
    let wire = |s: sc_sfu::IceServer| IceServer { urls: s.urls, username: s.username, credential: s.credential };
    let ice_servers = ice_servers.into_iter().map(wire).collect();
    Ok(axum::Json(IceServers { ice_servers, expires_in: app.config.turn_credential_seconds }))
}

/// STUN and TURN servers with credentials for somebody.
pub(crate) fn servers(app: &App, headers: &HeaderMap, who: &[u8]) -> Vec<sc_sfu::IceServer> {
    let c = &app.config;
    // The relay is reached at the name this server was reached at.
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok()).and_then(host_of);
    let own = host.map(|h| app.turn.urls(h)).unwrap_or_default();
    let (stun, turn): (Vec<String>, Vec<String>) = own.into_iter().chain(c.ice_urls.iter().cloned()).partition(|u| u.starts_with("stun"));
    let mut ice_servers = Vec::new();
    if !stun.is_empty() {
        ice_servers.push(sc_sfu::IceServer { urls: stun, ..Default::default() });
    }
    if !turn.is_empty() {
        let seconds = i64::try_from(c.turn_credential_seconds).unwrap_or(i64::MAX);
        let Credentials { username, password } = issue(&app.turn.secret, who, (now_ms() / 1000).saturating_add(seconds));
        ice_servers.push(sc_sfu::IceServer { urls: turn, username, credential: password });
    }
    ice_servers
}

/// The name of a `Host` header, without its port.
fn host_of(header: &str) -> Option<&str> {
    let end = if header.starts_with('[') { header.find(']').map(|i| i + 1)? } else { header.find(':').unwrap_or(header.len()) };
    let host = header.get(..end).filter(|h| !h.is_empty())?;
    host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']')).then_some(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_taken_out_of_the_header_and_nothing_else() {
        for (header, host) in
            [("chat.example.org", Some("chat.example.org")), ("127.0.0.1:8420", Some("127.0.0.1")), ("[::1]:8420", Some("[::1]"))]
        {
            assert_eq!(host_of(header), host);
        }
        for bad in ["", ":80", "[::1", "a b", "x?transport=tcp", "ạ"] {
            assert_eq!(host_of(bad), None, "{bad}");
        }
    }
}
