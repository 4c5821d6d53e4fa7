//! Configuration: defaults, then a TOML file, then `SECURECONNECT_*` environment variables. A bad value stops the
//! start with a sentence that names it.

use serde::Deserialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

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
        if !matches!(self.synchronous.as_str(), "FULL" | "EXTRA" | "NORMAL" | "OFF") {
            return fail("synchronous must be FULL, EXTRA, NORMAL or OFF");
        }
        Ok(())
    }
}

fn parse_env(key: &str, value: &str) -> toml::Value {
    if key == "CORS_ORIGINS" {
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
        ] {
            let e = env(&[(name, value)]).unwrap_err().to_string();
            assert!(e.contains(expect), "{e}");
        }
    }
}
