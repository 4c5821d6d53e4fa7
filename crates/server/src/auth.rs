//! Accounts and sessions: OPAQUE (the password never arrives here), short access tokens, rotating refresh tokens.
//!
//! A refresh token is valid once. When a spent one comes back, somebody has a copy: its whole family ends.

use crate::error::{ApiError, ApiResult};
use crate::log::writer::WriteCx;
use crate::{App, db, now_ms};
use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use opaque_ke::{ServerLogin, ServerSetup};
use rand::RngCore as _;
use rand::rngs::OsRng;
use sc_protocol::opaque::Suite;
use sc_protocol::rest::Session;
use sc_protocol::{DeviceId, ErrorCode, UserId};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use sqlx::{Row as _, SqliteConnection};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use zeroize::Zeroizing;

/// Logins under way at most; each is 128 bytes and a name for a minute.
const LOGINS: usize = 10_000;
const LOGIN_TTL_MS: i64 = 60_000;

/// The server's own keys. Made at the first start, kept in the store.
pub struct Secrets {
    /// OPAQUE server setup.
    pub opaque: ServerSetup<Suite>,
    jwt: Zeroizing<Vec<u8>>,
    /// Signs the proposals the server files when somebody leaves.
    pub external_sender: ed25519_dalek::SigningKey,
    /// What TURN credentials are made with, when the configuration names no other.
    pub turn: Zeroizing<[u8; 32]>,
    /// Signs the tokens of rooms.
    pub rooms: Zeroizing<[u8; 32]>,
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secrets(redacted)")
    }
}

impl Secrets {
    /// Loads the keys, or makes them at the first start.
    pub async fn load(conn: &mut SqliteConnection) -> Result<Self, sqlx::Error> {
        let fresh = ServerSetup::<Suite>::new(&mut OsRng).serialize().to_vec();
        let opaque = secret(conn, "opaque", &fresh).await?;
        let opaque = ServerSetup::<Suite>::deserialize(&opaque).map_err(|e| sqlx::Error::Decode(format!("OPAQUE setup: {e}").into()))?;
        let mut key = Zeroizing::new([0u8; 32]);
        OsRng.fill_bytes(key.as_mut());
        let jwt = secret(conn, "jwt", key.as_ref()).await?;
        OsRng.fill_bytes(key.as_mut());
        let seed = secret(conn, "external_sender", key.as_ref()).await?;
        let seed: [u8; 32] = seed.as_slice().try_into().map_err(|_| sqlx::Error::Decode("external sender key".into()))?;
        OsRng.fill_bytes(key.as_mut());
        let turn = secret(conn, "turn", key.as_ref()).await?;
        let turn: [u8; 32] = turn.as_slice().try_into().map_err(|_| sqlx::Error::Decode("TURN key".into()))?;
        OsRng.fill_bytes(key.as_mut());
        let rooms = secret(conn, "rooms", key.as_ref()).await?;
        let rooms: [u8; 32] = rooms.as_slice().try_into().map_err(|_| sqlx::Error::Decode("key of rooms".into()))?;
        Ok(Self {
            opaque,
            jwt,
            external_sender: ed25519_dalek::SigningKey::from_bytes(&seed),
            turn: Zeroizing::new(turn),
            rooms: Zeroizing::new(rooms),
        })
    }
}

async fn secret(conn: &mut SqliteConnection, name: &str, fresh: &[u8]) -> Result<Zeroizing<Vec<u8>>, sqlx::Error> {
    sqlx::query("INSERT INTO server_secret (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(fresh)
        .execute(&mut *conn)
        .await?;
    let value = sqlx::query_scalar("SELECT value FROM server_secret WHERE name = $1").bind(name).fetch_one(conn).await?;
    Ok(Zeroizing::new(value))
}

/// A login between its two steps.
pub struct PendingLogin {
    /// OPAQUE state.
    pub state: ServerLogin<Suite>,
    /// Whom it is about, if there is such an account.
    pub user: Option<UserId>,
    /// As typed.
    pub username: String,
    started: i64,
}

/// Logins between their two steps.
#[derive(Default)]
pub struct Logins {
    pending: Mutex<HashMap<String, PendingLogin>>,
}

impl Logins {
    /// Remembers a login and names it.
    pub fn start(&self, state: ServerLogin<Suite>, user: Option<UserId>, username: String) -> ApiResult<String> {
        let now = now_ms();
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        if pending.len() >= LOGINS {
            pending.retain(|_, p| now - p.started < LOGIN_TTL_MS);
            // Full of logins nobody finishes: the oldest gives way, so that nobody can lock everybody out.
            if pending.len() >= LOGINS
                && let Some(oldest) = pending.iter().min_by_key(|(_, p)| p.started).map(|(k, _)| k.clone())
            {
                pending.remove(&oldest);
            }
        }
        let id = random_token();
        pending.insert(id.clone(), PendingLogin { state, user, username, started: now });
        Ok(id)
    }

    /// Takes a login; it can be finished once.
    pub fn take(&self, id: &str) -> Option<PendingLogin> {
        let p = self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        (now_ms() - p.started < LOGIN_TTL_MS).then_some(p)
    }
}

fn random_token() -> String {
    let mut bytes = Zeroizing::new([0u8; 32]);
    OsRng.fill_bytes(bytes.as_mut());
    URL_SAFE_NO_PAD.encode(bytes.as_ref())
}

fn token_hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    device: DeviceId,
    exp: u64,
}

/// Makes tokens for a device in a new family, or in the given one. Inside the writer's transaction.
pub async fn issue(
    app: &App,
    cx: &mut WriteCx,
    user: UserId,
    device: DeviceId,
    username: String,
    pending: bool,
    family: Option<(Vec<u8>, Vec<u8>)>,
) -> ApiResult<Session> {
    let refresh_token = random_token();
    let (family, parent) = family.map_or_else(|| (token_hash(&random_token()), None), |(f, p)| (f, Some(p)));
    let expires_at = cx.now + i64::try_from(app.config.refresh_token_days).unwrap_or(90) * 86_400_000;
    sqlx::query(
        "INSERT INTO refresh_tokens (token_hash, family, parent, device_id, expires_at, spent, spent_at) VALUES ($1, $2, $3, $4, $5, 0, 0)",
    )
    .bind(token_hash(&refresh_token))
    .bind(family)
    .bind(parent)
    .bind(device.as_bytes().as_slice())
    .bind(expires_at)
    .execute(&mut cx.conn)
    .await?;
    let expires_in = app.config.access_token_seconds;
    let exp = db::uint(cx.now / 1000) + expires_in;
    let claims = Claims { sub: user, device, exp };
    let access_token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&app.secrets.jwt))
        .map_err(ApiError::internal)?;
    Ok(Session { user_id: user, device_id: device, username, access_token, refresh_token, expires_in, pending })
}

/// Exchanges a refresh token.
pub async fn refresh(app: &App, token: String) -> ApiResult<Session> {
    let hash = token_hash(&token);
    let inner = app.clone();
    let outcome = app
        .writer
        .write(move |cx| {
            Box::pin(async move {
                let row = sqlx::query(
                    "SELECT r.family, r.device_id, r.expires_at, r.spent, r.spent_at, d.status, d.user_id, u.username, u.status AS account \
                     FROM refresh_tokens r JOIN devices d ON d.device_id = r.device_id JOIN users u ON u.user_id = d.user_id \
                     WHERE r.token_hash = $1",
                )
                .bind(&hash)
                .fetch_optional(&mut cx.conn)
                .await?;
                let Some(row) = row else { return Err(unauthenticated()) };
                let family: Vec<u8> = row.try_get("family")?;
                let device = db::device_id(&row, "device_id")?;
                let successor: Option<i64> = sqlx::query_scalar("SELECT spent FROM refresh_tokens WHERE parent = $1")
                    .bind(&hash)
                    .fetch_optional(&mut cx.conn)
                    .await?;
                // An answer that was lost: the same token may come back for a minute while its successor is unused.
                let again = successor == Some(0) && cx.now - row.try_get::<i64, _>("spent_at")? < 60_000;
                if again {
                    sqlx::query("DELETE FROM refresh_tokens WHERE parent = $1").bind(&hash).execute(&mut cx.conn).await?;
                } else if row.try_get::<i64, _>("spent")? != 0 {
                    // Committed, not refused: the family has to end.
                    sqlx::query("DELETE FROM refresh_tokens WHERE family = $1").bind(family).execute(&mut cx.conn).await?;
                    cx.stop_device(device);
                    return Ok(None);
                }
                if row.try_get::<&str, _>("account")? != "ACTIVE" {
                    return Err(suspended());
                }
                let status: &str = row.try_get("status")?;
                if status == "revoked" || row.try_get::<i64, _>("expires_at")? < cx.now {
                    return Err(unauthenticated());
                }
                let pending = status == "pending";
                sqlx::query("UPDATE refresh_tokens SET spent = 1, spent_at = $1 WHERE token_hash = $2")
                    .bind(cx.now)
                    .bind(&hash)
                    .execute(&mut cx.conn)
                    .await?;
                sqlx::query("DELETE FROM refresh_tokens WHERE device_id = $1 AND expires_at < $2")
                    .bind(device.as_bytes().as_slice())
                    .bind(cx.now)
                    .execute(&mut cx.conn)
                    .await?;
                let user = db::user_id(&row, "user_id")?;
                let username = row.try_get("username")?;
                issue(&inner, cx, user, device, username, pending, Some((family, hash))).await.map(Some)
            })
        })
        .await?;
    outcome
        .ok_or_else(|| ApiError::new(ErrorCode::RefreshReused, "This session was used twice and has been ended for safety. Log in again."))
}

/// Not logged in.
#[must_use]
pub fn unauthenticated() -> ApiError {
    ApiError::new(ErrorCode::Unauthenticated, "Log in first.")
}

fn suspended() -> ApiError {
    ApiError::new(ErrorCode::AccountSuspended, "This account is suspended.")
}

/// A request of a linked device of an active account.
#[derive(Debug, Clone, Copy)]
pub struct Authed {
    /// The account.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// When it last proved the password.
    pub login_at: i64,
}

/// As [`Authed`], but the device may still wait for approval.
#[derive(Debug, Clone, Copy)]
pub struct MaybePending {
    /// Who.
    pub who: Authed,
    /// It waits.
    pub pending: bool,
}

/// Checks an access token and the state of device and account.
pub async fn authenticate(app: &App, token: &str) -> ApiResult<MaybePending> {
    let mut v = Validation::new(Algorithm::HS256);
    v.leeway = 5;
    v.set_required_spec_claims(&["exp", "sub"]);
    let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(&app.secrets.jwt), &v)
        .map_err(|e| match e.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => ApiError::new(ErrorCode::TokenExpired, "The session has to be refreshed."),
            _ => unauthenticated(),
        })?
        .claims;
    let row = sqlx::query("SELECT d.status, d.login_at, u.status AS account FROM devices d JOIN users u ON u.user_id = d.user_id WHERE d.device_id = $1 AND d.user_id = $2")
        .bind(claims.device.as_bytes().as_slice())
        .bind(claims.sub.as_bytes().as_slice())
        .fetch_optional(&app.pool)
        .await?;
    let Some(row) = row else { return Err(unauthenticated()) };
    if row.try_get::<&str, _>("account")? != "ACTIVE" {
        return Err(suspended());
    }
    let status: &str = row.try_get("status")?;
    if status == "revoked" {
        return Err(unauthenticated());
    }
    let who = Authed { user: claims.sub, device: claims.device, login_at: row.try_get("login_at")? };
    Ok(MaybePending { who, pending: status == "pending" })
}

/// True while the account may use the server and the device belongs to it. What cannot be asked now is asked again later.
pub async fn is_welcome(app: &App, who: &Authed) -> bool {
    let row: Result<Option<(String, String)>, _> = sqlx::query_as(
        "SELECT d.status, u.status FROM devices d JOIN users u ON u.user_id = d.user_id WHERE d.device_id = $1 AND d.user_id = $2",
    )
    .bind(who.device.as_bytes().as_slice())
    .bind(who.user.as_bytes().as_slice())
    .fetch_optional(&app.pool)
    .await;
    match row {
        Ok(row) => row.is_some_and(|(device, account)| device == "active" && account == "ACTIVE"),
        Err(cause) => {
            tracing::warn!(%cause, "a session could not be checked");
            true
        }
    }
}

/// The bearer token of a request.
#[must_use]
pub fn bearer(parts: &Parts) -> Option<&str> {
    parts.headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

impl FromRequestParts<App> for MaybePending {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let token = bearer(parts).ok_or_else(unauthenticated)?;
        authenticate(app, token).await
    }
}

impl FromRequestParts<App> for Authed {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let m = MaybePending::from_request_parts(parts, app).await?;
        linked(m)
    }
}

/// Refuses a device that still waits for approval.
pub fn linked(m: MaybePending) -> ApiResult<Authed> {
    if m.pending {
        return Err(ApiError::new(ErrorCode::DeviceNotLinked, "Approve this device on another device of yours first."));
    }
    Ok(m.who)
}
