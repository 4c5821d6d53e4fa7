//! The relay of calls inside the server: started from the configuration, named to those who call.
//!
//! A server whose relay cannot start serves all the same: calls find direct ways, and health says what is missing.

use crate::config::Config;
use crate::serve::StartError;
use sc_turn::relay::Policy;
use sc_turn::server::{Listen, Server};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

/// What the relay calls itself in its challenges.
const REALM: &str = "SecureConnect";

/// The relay, when the configuration wants one and it could start.
pub struct Turn {
    /// It runs.
    pub server: Option<Server>,
    /// What credentials are made with, here and at outside TURN servers.
    pub secret: Zeroizing<Vec<u8>>,
}

impl Turn {
    /// Starts it. `key` is the server's own, for credentials when the configuration has none.
    pub async fn start(config: &Config, key: &[u8; 32], nonce_key: [u8; 32]) -> Result<Self, StartError> {
        let configured = config.turn_secret.reveal();
        let secret = Zeroizing::new(if configured.is_empty() { key.to_vec() } else { configured.as_bytes().to_vec() });
        if !config.turn {
            return Ok(Self { server: None, secret });
        }
        let policy = Policy {
            realm: REALM.to_owned(),
            secret: secret.to_vec(),
            allow_private: config.turn_allow_private,
            per_account: config.turn_per_account,
            allocations: config.turn_allocations,
            rate: config.turn_kilobits * 125,
        };
        let ip = config.listen.ip();
        let tls = tls(config)?.map(|acceptor| (SocketAddr::new(ip, config.turn_tls_port), acceptor));
        let listen = Listen { plain: SocketAddr::new(ip, config.turn_port), tls, external: config.turn_external };
        let server = match Server::start(listen, policy, nonce_key).await {
            Ok(server) => Some(server),
            Err(cause) => {
                tracing::warn!(%cause, port = config.turn_port, "the relay for calls cannot start; set turn_port, or turn = false");
                None
            }
        };
        Ok(Self { server, secret })
    }

    /// Its addresses for somebody who reached this server at `host`.
    #[must_use]
    pub fn urls(&self, host: &str) -> Vec<String> {
        let Some(server) = &self.server else { return Vec::new() };
        let port = server.plain.port();
        let mut urls =
            vec![format!("stun:{host}:{port}"), format!("turn:{host}:{port}?transport=udp"), format!("turn:{host}:{port}?transport=tcp")];
        urls.extend(server.tls.map(|a| format!("turns:{host}:{}?transport=tcp", a.port())));
        urls
    }
}

fn tls(config: &Config) -> Result<Option<TlsAcceptor>, StartError> {
    let Some(certificate) = config.turn_certificate() else { return Ok(None) };
    let fault = |e: &dyn std::fmt::Display| StartError::Certificate(certificate.display().to_string(), e.to_string());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect).map_err(|e| fault(&e))?;
    let key = PrivateKeyDer::from_pem_file(&config.turn_tls_key).map_err(|e| fault(&e))?;
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let tls = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|b| b.with_no_client_auth().with_single_cert(chain, key))
        .map_err(|e| fault(&e))?;
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}
