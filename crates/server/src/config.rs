//! Configuration: defaults, then a TOML file, then `SECURECONNECT_*` environment variables. A bad value stops the
//! start with a sentence that names it.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// A text that no log shows.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// The text.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(s: &str) -> Self {
        Self(s.to_owned())
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// Everything the server can be told.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where the database and nothing else is kept.
    pub data: PathBuf,
    /// Address and port to listen on.
    pub listen: SocketAddr,
    /// Origins a browser may call from; empty for none.
    pub cors_origins: Vec<String>,
    /// New accounts may be made.
    pub registration: bool,
    /// Seconds an access token is valid.
    pub access_token_seconds: u64,
    /// Days a refresh token is valid.
    pub refresh_token_days: u64,
    /// Messages a device may send per second, on average.
    pub send_rate: u32,
    /// Messages a device may send at once.
    pub send_burst: u32,
    /// Login and registration attempts per minute and name.
    pub login_rate: u32,
    /// Login and registration attempts per minute and address (IPv6: per /64).
    pub address_rate: u32,
    /// Addresses are taken from the last entry of `X-Forwarded-For`; only behind a proxy of one's own that writes it.
    pub behind_proxy: bool,
    /// Rejoins of a device and resets of an account, per conversation and hour.
    pub repair_rate: u32,
    /// Key packages of one account another may claim an hour.
    pub claim_rate: u32,
    /// Connections of one account at a time.
    pub connections_per_user: usize,
    /// Bytes that may wait for one slow connection before it is closed.
    pub connection_queue_bytes: usize,
    /// `stun:` and `turn:` addresses that calls may use.
    pub ice_urls: Vec<String>,
    /// The secret that the TURN servers of `ice_urls` know too.
    pub turn_secret: Secret,
    /// A relay of our own for calls, on the same address as `listen`.
    pub turn: bool,
    /// Its port, UDP and TCP; 0 for any.
    pub turn_port: u16,
    /// Its port for TLS, with the two files below.
    pub turn_tls_port: u16,
    /// Certificate chain in PEM; without it there is no TLS.
    pub turn_tls_certificate: PathBuf,
    /// Private key in PEM.
    pub turn_tls_key: PathBuf,
    /// The address it is reached at from outside, when that is not the one it listens on.
    pub turn_external: Option<std::net::IpAddr>,
    /// It also relays to private, loopback and link-local addresses.
    pub turn_allow_private: bool,
    /// Relayed addresses of one account at a time.
    pub turn_per_account: usize,
    /// Relayed addresses in all.
    pub turn_allocations: usize,
    /// Kilobits a second of one relayed address, both ways together.
    pub turn_kilobits: u64,
    /// Seconds a TURN credential holds.
    pub turn_credential_seconds: u64,
    /// Group calls and meeting rooms by this server's own unit.
    pub rooms: bool,
    /// Their port, UDP and TCP, on the address of `listen`; 0 for any.
    pub rooms_port: u16,
    /// The address they are reached at from outside, when that is not the one they listen on.
    pub rooms_external: Option<std::net::IpAddr>,
    /// Seats of a meeting room that does not say how many.
    pub room_participants: u32,
    /// How long the seat of somebody is kept whose connection broke, in milliseconds.
    pub grace_period_ms: u64,
    /// A LiveKit cluster that carries the rooms in place of this server: `wss://…`.
    pub livekit_url: String,
    /// Its API key.
    pub livekit_key: String,
    /// The secret of that key.
    pub livekit_secret: Secret,
    /// An API key of this server's own unit: whoever has its secret may put rooms onto it, as onto a LiveKit server.
    pub rooms_key: String,
    /// The secret of that key.
    pub rooms_secret: Secret,
    /// `FULL` (durable) is the only setting that keeps the promise of an ack; tests lower it to prove that.
    pub synchronous: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: PathBuf::from("data"),
            listen: SocketAddr::from(([127, 0, 0, 1], 8420)),
            cors_origins: Vec::new(),
            registration: true,
            access_token_seconds: 900,
            refresh_token_days: 90,
            send_rate: 100,
            send_burst: 500,
            login_rate: 30,
            address_rate: 300,
            behind_proxy: false,
            repair_rate: 10,
            claim_rate: 100,
            connections_per_user: 40,
            connection_queue_bytes: 1 << 20,
            ice_urls: Vec::new(),
            turn_secret: Secret::default(),
            turn: true,
            turn_port: 3478,
            turn_tls_port: 5349,
            turn_tls_certificate: PathBuf::new(),
            turn_tls_key: PathBuf::new(),
            turn_external: None,
            turn_allow_private: false,
            turn_per_account: 20,
            turn_allocations: 10_000,
            turn_kilobits: 8_000,
            turn_credential_seconds: 3_600,
            rooms: true,
            rooms_port: 7881,
            rooms_external: None,
            room_participants: sc_protocol::rooms::SEATS,
            grace_period_ms: 5_000,
            livekit_url: String::new(),
            livekit_key: String::new(),
            livekit_secret: Secret::default(),
            rooms_key: String::new(),
            rooms_secret: Secret::default(),
            synchronous: "FULL".to_owned(),
        }
    }
}

/// A value that cannot be used, in words.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl Config {
    /// Defaults, then `file` when given, then the environment.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Self, ConfigError> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => std::fs::read_to_string(path)
                .map_err(|e| ConfigError(format!("cannot read the configuration file {}: {e}", path.display())))?
                .parse::<toml::Table>()
                .map_err(|e| ConfigError(format!("{} is not valid TOML: {e}", path.display())))?,
        };
        for (name, value) in env {
            let Some(key) = name.strip_prefix("SECURECONNECT_SERVER_") else { continue };
            table.insert(key.to_ascii_lowercase(), parse_env(key, &value));
        }
        let config: Self = table.try_into().map_err(|e: toml::de::Error| ConfigError(format!("configuration: {}", e.message())))?;
        config.check()?;
        Ok(config)
    }

    /// The certificate of the relay, when there is one.
    #[must_use]
    pub fn turn_certificate(&self) -> Option<&Path> {
        Some(self.turn_tls_certificate.as_path()).filter(|p| !p.as_os_str().is_empty())
    }

    fn check(&self) -> Result<(), ConfigError> {
        let fail = |what: &str| Err(ConfigError(format!("configuration: {what}")));
        if !(30..=86_400).contains(&self.access_token_seconds) {
            return fail("access_token_seconds must be 30 to 86400");
        }
        if self.refresh_token_days == 0
            || self.send_rate == 0
            || self.send_burst == 0
            || self.login_rate == 0
            || self.address_rate == 0
            || self.repair_rate == 0
            || self.claim_rate == 0
        {
            return fail("refresh_token_days and every rate must be at least 1");
        }
        if self.connections_per_user == 0 || self.connection_queue_bytes < 64 * 1024 {
            return fail("connections_per_user must be at least 1 and connection_queue_bytes at least 65536");
        }
        let is_ice = |u: &String| ["stun:", "stuns:", "turn:", "turns:"].iter().any(|s| u.starts_with(s));
        if let Some(bad) = self.ice_urls.iter().find(|u| !is_ice(u)) {
            return fail(&format!("ice_urls: {bad} is no stun: or turn: address"));
        }
        if self.turn_secret.0.is_empty() && self.ice_urls.iter().any(|u| u.starts_with("turn")) {
            return fail("turn_secret must be the secret of the TURN servers in ice_urls (coturn: static-auth-secret)");
        }
        if self.turn_certificate().is_some() && self.turn_tls_key.as_os_str().is_empty() {
            return fail("turn_tls_key must name the key of turn_tls_certificate");
        }
        if self.turn_per_account == 0 || self.turn_allocations == 0 || self.turn_kilobits == 0 {
            return fail("turn_per_account, turn_allocations and turn_kilobits must be at least 1");
        }
        if !(60..=86_400).contains(&self.turn_credential_seconds) {
            return fail("turn_credential_seconds must be 60 to 86400");
        }
        if !(2..=sc_protocol::rooms::SEATS_MOST).contains(&self.room_participants) {
            return fail("room_participants must be 2 to 200");
        }
        if !(500..=60_000).contains(&self.grace_period_ms) {
            return fail("grace_period_ms must be 500 to 60000");
        }
        if !self.livekit_url.is_empty() {
            if !self.livekit_url.starts_with("wss://") && !self.livekit_url.starts_with("ws://") {
                return fail("livekit_url must begin with wss:// (or ws:// in a closed network)");
            }
            if self.livekit_key.is_empty() || self.livekit_secret.0.is_empty() {
                return fail("livekit_key and livekit_secret must be those of the cluster at livekit_url");
            }
        }
        if !self.rooms_key.is_empty() {
            let named = self.rooms_key.len() <= 64 && self.rooms_key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
            if !named || self.rooms_key == crate::rooms::token::ISSUER {
                return fail("rooms_key must be 1 to 64 letters, digits, _ or -, and not \"secureconnect\"");
            }
            if self.rooms_secret.0.len() < 32 {
                return fail("rooms_secret must have at least 32 characters: whoever guesses it has this server's rooms");
            }
            if !self.livekit_url.is_empty() || !self.rooms {
                return fail("rooms_key needs this server's own unit: leave livekit_url empty and rooms on");
            }
        }
        if !matches!(self.synchronous.as_str(), "FULL" | "EXTRA" | "NORMAL" | "OFF") {
            return fail("synchronous must be FULL, EXTRA, NORMAL or OFF");
        }
        Ok(())
    }
}

fn parse_env(key: &str, value: &str) -> toml::Value {
    if matches!(key, "TURN_SECRET" | "LIVEKIT_KEY" | "LIVEKIT_SECRET" | "ROOMS_KEY" | "ROOMS_SECRET") {
        // A secret of digits is still a text; so is a key.
        return toml::Value::String(value.to_owned());
    }
    if matches!(key, "CORS_ORIGINS" | "ICE_URLS") {
        return toml::Value::Array(value.split(',').filter(|s| !s.is_empty()).map(|s| toml::Value::String(s.trim().to_owned())).collect());
    }
    if let Ok(n) = value.parse::<i64>() {
        return toml::Value::Integer(n);
    }
    match value {
        "true" => toml::Value::Boolean(true),
        "false" => toml::Value::Boolean(false),
        _ => toml::Value::String(value.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(None, pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())))
    }

    #[test]
    fn the_environment_overrides_the_defaults() {
        let c = env(&[("SECURECONNECT_SERVER_LISTEN", "0.0.0.0:9000"), ("SECURECONNECT_SERVER_REGISTRATION", "false")]).unwrap();
        assert_eq!(c.listen.port(), 9000);
        assert!(!c.registration);
    }

    #[test]
    fn a_bad_value_is_named() {
        for (name, value, expect) in [
            ("SECURECONNECT_SERVER_LISTEN", "nowhere", "socket address"),
            ("SECURECONNECT_SERVER_ACCESS_TOKEN_SECONDS", "1", "access_token_seconds"),
            ("SECURECONNECT_SERVER_LISTENN", "x", "listenn"),
            ("SECURECONNECT_SERVER_SYNCHRONOUS", "MAYBE", "synchronous"),
            ("SECURECONNECT_SERVER_ICE_URLS", "http://x", "ice_urls"),
            ("SECURECONNECT_SERVER_ICE_URLS", "stun:a:1,turn:a:1", "turn_secret"),
            ("SECURECONNECT_SERVER_LIVEKIT_URL", "https://x", "livekit_url"),
            ("SECURECONNECT_SERVER_LIVEKIT_URL", "wss://x", "livekit_key"),
            ("SECURECONNECT_SERVER_ROOMS_KEY", "a/b", "rooms_key"),
            ("SECURECONNECT_SERVER_ROOMS_KEY", "secureconnect", "rooms_key"),
            ("SECURECONNECT_SERVER_ROOMS_KEY", "1234", "rooms_secret"),
        ] {
            let e = env(&[(name, value)]).unwrap_err().to_string();
            assert!(e.contains(expect), "{e}");
        }
    }
}
