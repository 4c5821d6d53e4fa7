//! Typed HTTP to one server, with token refresh. One client, bounded answers, deadlines on everything.

use crate::{EngineError, EngineResult};
use sc_protocol::rest::{Refresh, Session};
use sc_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Mutex;

/// Largest answer that is read.
const ANSWER_BYTES: usize = 32 << 20;

/// Stores new tokens; awaited before they are used, so that they are never lost.
pub type OnSession = Arc<dyn Fn(Session) -> std::pin::Pin<Box<dyn Future<Output = EngineResult<()>> + Send>> + Send + Sync>;

/// The HTTP side of a server.
#[derive(Clone)]
pub struct Api {
    http: reqwest::Client,
    base: String,
    session: Arc<RwLock<Option<Session>>>,
    refreshing: Arc<Mutex<()>>,
    on_session: Option<OnSession>,
}

impl Api {
    /// For a server such as `https://chat.example.org`.
    pub fn new(server: &str) -> EngineResult<Self> {
        let base = server.trim_end_matches('/').to_owned();
        if !(base.starts_with("http://") || base.starts_with("https://")) {
            return Err(EngineError::invalid("BAD_SERVER", "The server address starts with https:// (or http:// on this machine)."));
        }
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(30))
            .connect_timeout(Duration::from_secs(10))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(|e| EngineError::Offline(e.without_url().to_string()))?;
        Ok(Self { http, base, session: Arc::default(), refreshing: Arc::default(), on_session: None })
    }

    /// With somebody who keeps the tokens.
    #[must_use]
    pub fn with_session(mut self, session: Option<Session>, on_session: OnSession) -> Self {
        self.session = Arc::new(RwLock::new(session));
        self.on_session = Some(on_session);
        self
    }

    /// The server's address.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The gateway's address.
    #[must_use]
    pub fn gateway(&self) -> String {
        format!("ws{}/v1/gateway", self.base.strip_prefix("http").unwrap_or(&self.base))
    }

    /// The current tokens.
    #[must_use]
    pub fn session(&self) -> Option<Session> {
        self.session.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes new tokens, after they are stored.
    pub async fn set_session(&self, session: Session) -> EngineResult<()> {
        let _one = self.refreshing.lock().await;
        self.keep(session).await
    }

    async fn keep(&self, session: Session) -> EngineResult<()> {
        if let Some(store) = &self.on_session {
            store(session.clone()).await?;
        }
        *self.session.write().unwrap_or_else(PoisonError::into_inner) = Some(session);
        Ok(())
    }

    /// `GET`, logged in.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> EngineResult<T> {
        self.authed(reqwest::Method::GET, path, None::<&()>).await
    }

    /// `POST`, logged in.
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> EngineResult<T> {
        self.authed(reqwest::Method::POST, path, Some(body)).await
    }

    /// `PUT`, logged in.
    pub async fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> EngineResult<T> {
        self.authed(reqwest::Method::PUT, path, Some(body)).await
    }

    /// `DELETE`, logged in.
    pub async fn delete<T: DeserializeOwned>(&self, path: &str) -> EngineResult<T> {
        self.authed(reqwest::Method::DELETE, path, None::<&()>).await
    }

    /// `GET`, without being logged in.
    pub async fn open_get<T: DeserializeOwned>(&self, path: &str) -> EngineResult<T> {
        self.send(reqwest::Method::GET, path, None::<&()>, None).await
    }

    /// `POST`, without being logged in.
    pub async fn open_post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> EngineResult<T> {
        self.send(reqwest::Method::POST, path, Some(body), None).await
    }

    async fn authed<T: DeserializeOwned>(&self, method: reqwest::Method, path: &str, body: Option<&impl Serialize>) -> EngineResult<T> {
        let token = self.access_token()?;
        match self.send(method.clone(), path, body, Some(&token)).await {
            Err(EngineError::Server(e)) if e.code == ErrorCode::TokenExpired => {
                let token = self.refresh(&token).await?;
                self.send(method, path, body, Some(&token)).await
            }
            other => other,
        }
    }

    /// The access token, as it is.
    pub fn access_token(&self) -> EngineResult<String> {
        let session = self.session();
        match session {
            Some(s) => Ok(s.access_token),
            None => Err(EngineError::Server(Box::new(ErrorBody::new(ErrorCode::Unauthenticated, "Log in first.")))),
        }
    }

    /// Exchanges the refresh token, once however many ask; `stale` is the access token that did not work.
    pub async fn refresh(&self, stale: &str) -> EngineResult<String> {
        let _one = self.refreshing.lock().await;
        let Some(session) = self.session() else {
            return Err(EngineError::Server(Box::new(ErrorBody::new(ErrorCode::Unauthenticated, "Log in first."))));
        };
        if session.access_token != stale {
            return Ok(session.access_token);
        }
        let fresh: Session = self.open_post("/v1/auth/refresh", &Refresh { refresh_token: session.refresh_token }).await?;
        let token = fresh.access_token.clone();
        self.keep(fresh).await?;
        Ok(token)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&impl Serialize>,
        token: Option<&str>,
    ) -> EngineResult<T> {
        let offline = |e: reqwest::Error| {
            let what = if e.is_timeout() {
                "no answer in time"
            } else if e.is_connect() {
                "no connection"
            } else {
                "the connection failed"
            };
            EngineError::Offline(what.to_owned())
        };
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(t) = token {
            request = request.bearer_auth(t);
        }
        if let Some(b) = body {
            request = request.json(b);
        }
        let mut response = request.send().await.map_err(offline)?;
        let status = response.status();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(offline)? {
            if bytes.len() + chunk.len() > ANSWER_BYTES {
                return Err(EngineError::Offline("the answer is too large".into()));
            }
            bytes.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|_| EngineError::Offline("the answer is not SecureConnect's".into()));
        }
        match serde_json::from_slice::<ErrorBody>(&bytes) {
            Ok(e) => Err(EngineError::Server(Box::new(e))),
            Err(_) => Err(EngineError::Offline(format!("the server answered with status {}", status.as_u16()))),
        }
    }
}
