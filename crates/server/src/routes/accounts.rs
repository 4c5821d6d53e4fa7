//! Registration, login, tokens, people.

use super::{Answer, Body, Path, devices};
use crate::address::Network;
use crate::auth::{self, Authed, MaybePending};
use crate::error::{ApiError, ApiResult, is_unique_violation};
use crate::mls::Member;
use crate::{App, db, identity, now_ms};
use axum::Json;
use axum::extract::State;
use opaque_ke::{
    CredentialFinalization, CredentialRequest, RegistrationRequest, RegistrationUpload, ServerLogin, ServerLoginParameters,
    ServerRegistration,
};
use rand::rngs::OsRng;
use sc_protocol::frame::ServerFrame;
use sc_protocol::identity::verify;
use sc_protocol::opaque::{CONTEXT, Suite};
use sc_protocol::rest::{
    AuthChallenge, Empty, LoginFinish, LoginStart, NewDevice, Refresh, RegisterFinish, RegisterStart, ServerInfo, Session, UserInfo,
    login_proof,
};
use sc_protocol::{Blob, ErrorCode, UserId, limits};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;

/// `GET /v1/server`.
pub async fn server_info(State(app): State<App>) -> Json<ServerInfo> {
    let external_sender = Blob::from(app.secrets.external_sender.verifying_key().to_bytes().as_slice());
    Json(ServerInfo { version: env!("CARGO_PKG_VERSION").into(), external_sender, registration: app.config.registration })
}

fn check_name(name: &str) -> ApiResult<()> {
    if limits::username_is_valid(name) {
        return Ok(());
    }
    Err(ApiError::bad("A username has 3 to 32 characters: a-z, 0-9, '.', '_' and '-'."))
}

/// Attempts by name, so that nobody's password is guessed from many places, and by network, so that no place guesses at many.
fn limit_attempts(app: &App, name: &str, from: Network) -> ApiResult<()> {
    let limit = |key: String, rate: u32| app.limiter.take(key, rate, f64::from(rate) / 60.0, now_ms()).map_err(ApiError::rate_limited);
    limit(from.bucket(), app.config.address_rate)?;
    limit(format!("login {name}"), app.config.login_rate)
}

fn opaque_part<T, E>(bytes: &Blob, len: usize, parse: impl Fn(&[u8]) -> Result<T, E>) -> ApiResult<T> {
    // opaque-ke ignores trailing bytes, so the length is checked here.
    let bad = || ApiError::bad("The OPAQUE message is malformed.");
    if bytes.len() != len {
        return Err(bad());
    }
    parse(bytes.as_slice()).map_err(|_| bad())
}

/// `POST /v1/auth/register/start`.
pub async fn register_start(State(app): State<App>, from: Network, Body(b): Body<RegisterStart>) -> Answer<AuthChallenge> {
    if !app.config.registration {
        return Err(ApiError::new(ErrorCode::RegistrationClosed, "This server takes no new accounts."));
    }
    check_name(&b.username)?;
    limit_attempts(&app, &b.username, from)?;
    let request = opaque_part(&b.request, 32, RegistrationRequest::<Suite>::deserialize)?;
    let taken: Option<i64> =
        sqlx::query_scalar("SELECT 1 FROM users WHERE username = $1").bind(&b.username).fetch_optional(&app.pool).await?;
    if taken.is_some() {
        return Err(taken_error());
    }
    let r = ServerRegistration::<Suite>::start(&app.secrets.opaque, request, b.username.as_bytes()).map_err(ApiError::internal)?;
    Ok(Json(AuthChallenge { response: Blob::from(r.message.serialize().as_slice()), login_id: None }))
}

fn taken_error() -> ApiError {
    ApiError::new(ErrorCode::UsernameTaken, "That username is taken. Choose another one.")
}

fn check_device(d: &NewDevice) -> ApiResult<()> {
    identity::check_key(d.signature_key.as_slice())?;
    identity::check_key(d.link_key.as_slice())?;
    if d.name.is_empty() || d.name.len() > limits::DEVICE_NAME_BYTES {
        return Err(ApiError::bad("A device name has 1 to 64 bytes."));
    }
    Ok(())
}

/// `POST /v1/auth/register/finish`.
pub async fn register_finish(State(app): State<App>, Body(b): Body<RegisterFinish>) -> Answer<Session> {
    if !app.config.registration {
        return Err(ApiError::new(ErrorCode::RegistrationClosed, "This server takes no new accounts."));
    }
    check_name(&b.username)?;
    check_device(&b.device)?;
    identity::check_key(b.identity_key.as_slice())?;
    let list = identity::check_list(b.device_list.as_slice(), b.identity_key.as_slice(), b.user_id, 0)?;
    identity::check_listed(&list, b.device.device_id, b.device.signature_key.as_slice())?;
    devices::check_first_key_packages(&b.key_packages, Member { user: b.user_id, device: b.device.device_id })?;
    let upload = opaque_part(&b.upload, 192, RegistrationUpload::<Suite>::deserialize)?;
    let record = ServerRegistration::<Suite>::finish(upload).serialize().to_vec();
    let inner = app.clone();
    let session = app
        .writer
        .write(move |cx| {
            Box::pin(async move {
                let inserted = sqlx::query(
                    "INSERT INTO users (user_id, username, opaque, identity_key, device_list, list_version, status, created_at) \
                     VALUES ($1, $2, $3, $4, $5, 1, 'ACTIVE', $6)",
                )
                .bind(b.user_id.as_bytes().as_slice())
                .bind(&b.username)
                .bind(record)
                .bind(b.identity_key.to_vec())
                .bind(b.device_list.to_vec())
                .bind(cx.now)
                .execute(&mut cx.conn)
                .await;
                match inserted {
                    Err(e) if is_unique_violation(&e) => return Err(taken_error()),
                    other => other?,
                };
                insert_device(cx, b.user_id, &b.device, "active").await?;
                devices::store_key_packages(cx, b.device.device_id, &b.key_packages).await?;
                auth::issue(&inner, cx, b.user_id, b.device.device_id, b.username, false, None).await
            })
        })
        .await?;
    Ok(Json(session))
}

/// Inserts a device row; a taken id is a conflict.
pub async fn insert_device(cx: &mut crate::log::writer::WriteCx, user: UserId, d: &NewDevice, status: &'static str) -> ApiResult<()> {
    let r = sqlx::query(
        "INSERT INTO devices (device_id, user_id, name, signature_key, link_key, status, created_at, last_seen, login_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7, $7)",
    )
    .bind(d.device_id.as_bytes().as_slice())
    .bind(user.as_bytes().as_slice())
    .bind(&d.name)
    .bind(d.signature_key.to_vec())
    .bind(d.link_key.to_vec())
    .bind(status)
    .bind(cx.now)
    .execute(&mut cx.conn)
    .await;
    match r {
        Err(e) if is_unique_violation(&e) => Err(ApiError::new(ErrorCode::Conflict, "That device id is in use.")),
        other => Ok(other.map(|_| ())?),
    }
}

/// `POST /v1/auth/login/start`. An unknown name gets an answer like any other.
pub async fn login_start(State(app): State<App>, from: Network, Body(b): Body<LoginStart>) -> Answer<AuthChallenge> {
    check_name(&b.username)?;
    limit_attempts(&app, &b.username, from)?;
    let request = opaque_part(&b.request, 96, CredentialRequest::<Suite>::deserialize)?;
    let row = sqlx::query("SELECT user_id, opaque FROM users WHERE username = $1").bind(&b.username).fetch_optional(&app.pool).await?;
    let (user, file) = match &row {
        None => (None, None),
        Some(r) => {
            let file = ServerRegistration::<Suite>::deserialize(r.try_get::<&[u8], _>("opaque")?).map_err(ApiError::internal)?;
            (Some(db::user_id(r, "user_id")?), Some(file))
        }
    };
    let params = ServerLoginParameters { context: Some(CONTEXT), identifiers: opaque_ke::Identifiers::default() };
    let started = ServerLogin::<Suite>::start(&mut OsRng, &app.secrets.opaque, file, request, b.username.as_bytes(), params)
        .map_err(|_| ApiError::bad("The OPAQUE message is malformed."))?;
    let response = Blob::from(started.message.serialize().as_slice());
    let login_id = app.logins.start(started.state, user, b.username)?;
    Ok(Json(AuthChallenge { response, login_id: Some(login_id) }))
}

/// `POST /v1/auth/login/finish`.
pub async fn login_finish(State(app): State<App>, Body(b): Body<LoginFinish>) -> Answer<Session> {
    let wrong = || ApiError::new(ErrorCode::InvalidCredentials, "The username or the password is wrong.");
    check_device(&b.device)?;
    let login = app.logins.take(&b.login_id).ok_or_else(wrong)?;
    let finalization = opaque_part(&b.finalization, 64, CredentialFinalization::<Suite>::deserialize)?;
    let params = ServerLoginParameters { context: Some(CONTEXT), identifiers: opaque_ke::Identifiers::default() };
    login.state.finish(finalization, params).map_err(|_| wrong())?;
    let user = login.user.ok_or_else(wrong)?;
    let (Ok(key), Ok(proof)) = (b.device.signature_key.as_slice().try_into(), b.proof.as_slice().try_into()) else { return Err(wrong()) };
    verify(key, &login_proof(&b.login_id, b.device.device_id), proof)
        .map_err(|_| ApiError::new(ErrorCode::InvalidIdentity, "The device did not prove that it holds its key."))?;
    let inner = app.clone();
    let username = login.username;
    let session = app
        .writer
        .write(move |cx| {
            Box::pin(async move {
                let status: String = sqlx::query_scalar("SELECT status FROM users WHERE user_id = $1")
                    .bind(user.as_bytes().as_slice())
                    .fetch_one(&mut cx.conn)
                    .await?;
                if status != "ACTIVE" {
                    return Err(ApiError::new(ErrorCode::AccountSuspended, "This account is suspended."));
                }
                let device = b.device.device_id;
                let row = sqlx::query("SELECT user_id, signature_key, status FROM devices WHERE device_id = $1")
                    .bind(device.as_bytes().as_slice())
                    .fetch_optional(&mut cx.conn)
                    .await?;
                let pending = match row {
                    Some(r) => known_device(&r, user, b.device.signature_key.as_slice())?,
                    None => {
                        let n: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM devices WHERE user_id = $1 AND status <> 'revoked'")
                            .bind(user.as_bytes().as_slice())
                            .fetch_one(&mut cx.conn)
                            .await?;
                        if db::uint(n) >= limits::DEVICES as u64 {
                            return Err(ApiError::new(ErrorCode::Conflict, "The account has as many devices as it may. Remove one first."));
                        }
                        insert_device(cx, user, &b.device, "pending").await?;
                        cx.to_user(user, ServerFrame::DevicesChanged {});
                        true
                    }
                };
                sqlx::query("UPDATE devices SET login_at = $1 WHERE device_id = $2")
                    .bind(cx.now)
                    .bind(device.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                // One family a device: a token stolen earlier ends here.
                sqlx::query("DELETE FROM refresh_tokens WHERE device_id = $1")
                    .bind(device.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                auth::issue(&inner, cx, user, device, username, pending, None).await
            })
        })
        .await?;
    Ok(Json(session))
}

/// True when the known device still waits for approval.
fn known_device(row: &SqliteRow, user: UserId, key: &[u8]) -> ApiResult<bool> {
    if db::user_id(row, "user_id")? != user || row.try_get::<&[u8], _>("signature_key")? != key {
        return Err(ApiError::new(ErrorCode::Conflict, "That device id is in use."));
    }
    match row.try_get::<&str, _>("status")? {
        "active" => Ok(false),
        "pending" => Ok(true),
        _ => Err(ApiError::new(ErrorCode::Forbidden, "This device was removed from the account. Set it up anew.")),
    }
}

/// `POST /v1/auth/refresh`.
pub async fn refresh(State(app): State<App>, Body(b): Body<Refresh>) -> Answer<Session> {
    auth::refresh(&app, b.refresh_token).await.map(Json)
}

/// `POST /v1/auth/logout`: ends the sessions of this device.
pub async fn logout(State(app): State<App>, m: MaybePending) -> Answer<Empty> {
    let device = m.who.device;
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                sqlx::query("DELETE FROM refresh_tokens WHERE device_id = $1")
                    .bind(device.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                cx.stop_device(device);
                Ok(Json(Empty {}))
            })
        })
        .await
}

const USER_COLUMNS: &str = "SELECT user_id, username, identity_key, device_list FROM users WHERE ";

/// An account as others see it.
pub fn user_info(r: &SqliteRow) -> ApiResult<UserInfo> {
    Ok(UserInfo {
        user_id: db::user_id(r, "user_id")?,
        username: r.try_get("username")?,
        identity_key: db::blob(r, "identity_key")?,
        device_list: db::blob(r, "device_list")?,
    })
}

/// `GET /v1/users/by-name/{name}`.
pub async fn user_by_name(State(app): State<App>, _: Authed, Path(name): Path<String>) -> Answer<UserInfo> {
    let sql = sqlx::AssertSqlSafe(format!("{USER_COLUMNS} username = $1"));
    let row = sqlx::query(sql).bind(name.to_lowercase()).fetch_optional(&app.pool).await?;
    row.ok_or_else(|| ApiError::not_found("user")).and_then(|r| user_info(&r)).map(Json)
}

/// `GET /v1/users/{id}`.
pub async fn user_by_id(State(app): State<App>, _: MaybePending, Path(id): Path<UserId>) -> Answer<UserInfo> {
    let sql = sqlx::AssertSqlSafe(format!("{USER_COLUMNS} user_id = $1"));
    let row = sqlx::query(sql).bind(id.as_bytes().as_slice()).fetch_optional(&app.pool).await?;
    row.ok_or_else(|| ApiError::not_found("user")).and_then(|r| user_info(&r)).map(Json)
}
