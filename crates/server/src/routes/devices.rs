//! Devices of an account, their signed list, their key packages.

use super::{Answer, Body, Path};
use crate::auth::{Authed, MaybePending};
use crate::error::{ApiError, ApiResult};
use crate::log::writer::WriteCx;
use crate::mls::{self, Member};
use crate::routes::{accounts, groups};
use crate::{App, db, identity};
use axum::Json;
use axum::extract::State;
use sc_protocol::frame::ServerFrame;
use sc_protocol::identity::DeviceList;
use sc_protocol::rest::{
    ApproveDevice, ClaimKeyPackages, ClaimedKeyPackage, ClaimedKeyPackages, DeviceInfo, Empty, KeyPackageCount, KeyPackageUpload,
    OwnDevice, PutDeviceList, ResetIdentity, UploadKeyPackages,
};
use sc_protocol::{Blob, DeviceId, ErrorCode, UserId, limits, suite};
use sqlx::{Row as _, SqliteConnection};

/// A new identity needs a login younger than this.
const FRESH_LOGIN_MS: i64 = 5 * 60_000;

/// `GET /v1/devices`.
pub async fn list(State(app): State<App>, who: Authed) -> Answer<Vec<DeviceInfo>> {
    let rows = sqlx::query("SELECT device_id, name, signature_key, link_key, status, created_at, last_seen FROM devices WHERE user_id = $1 AND status <> 'revoked' ORDER BY created_at")
        .bind(who.user.as_bytes().as_slice())
        .fetch_all(&app.pool)
        .await?;
    let one = |r: &sqlx::sqlite::SqliteRow| -> ApiResult<DeviceInfo> {
        Ok(DeviceInfo {
            device_id: db::device_id(r, "device_id")?,
            name: r.try_get("name")?,
            signature_key: db::blob(r, "signature_key")?,
            link_key: db::blob(r, "link_key")?,
            pending: r.try_get::<&str, _>("status")? == "pending",
            created_at: r.try_get("created_at")?,
            last_seen: r.try_get("last_seen")?,
        })
    };
    rows.iter().map(one).collect::<ApiResult<Vec<_>>>().map(Json)
}

/// `GET /v1/devices/self`.
pub async fn own(State(app): State<App>, m: MaybePending) -> Answer<OwnDevice> {
    let row = sqlx::query("SELECT sealed_identity FROM devices WHERE device_id = $1")
        .bind(m.who.device.as_bytes().as_slice())
        .fetch_one(&app.pool)
        .await?;
    let sealed_identity = row.try_get::<Option<Vec<u8>>, _>("sealed_identity")?.map(Blob::from);
    Ok(Json(OwnDevice { pending: m.pending, sealed_identity }))
}

struct Account {
    identity_key: Vec<u8>,
    version: u64,
}

async fn account(conn: &mut SqliteConnection, user: UserId) -> ApiResult<Account> {
    let row = sqlx::query("SELECT identity_key, list_version FROM users WHERE user_id = $1")
        .bind(user.as_bytes().as_slice())
        .fetch_one(conn)
        .await?;
    Ok(Account { identity_key: row.try_get("identity_key")?, version: db::uint(row.try_get("list_version")?) })
}

async fn store_list(cx: &mut WriteCx, user: UserId, bytes: &Blob, list: &DeviceList) -> ApiResult<()> {
    sqlx::query("UPDATE users SET device_list = $1, list_version = $2 WHERE user_id = $3")
        .bind(bytes.to_vec())
        .bind(db::int(list.version))
        .bind(user.as_bytes().as_slice())
        .execute(&mut cx.conn)
        .await?;
    let peers: Vec<Vec<u8>> = sqlx::query_scalar(
        "SELECT DISTINCT o.user_id FROM members m JOIN members o ON o.conversation_id = m.conversation_id WHERE m.user_id = $1",
    )
    .bind(user.as_bytes().as_slice())
    .fetch_all(&mut cx.conn)
    .await?;
    for peer in peers.iter().filter_map(|p| UserId::from_slice(p)).chain([user]) {
        cx.to_user(peer, ServerFrame::DeviceListChanged { user_id: user });
    }
    cx.to_user(user, ServerFrame::DevicesChanged {});
    Ok(())
}

/// `POST /v1/devices/{id}/approve`.
pub async fn approve(State(app): State<App>, who: Authed, Path(device): Path<DeviceId>, Body(b): Body<ApproveDevice>) -> Answer<Empty> {
    if b.sealed_identity.len() > 1024 {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "The sealed identity is too large."));
    }
    let inner = app.clone();
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let row = sqlx::query("SELECT signature_key FROM devices WHERE device_id = $1 AND user_id = $2 AND status = 'pending'")
                    .bind(device.as_bytes().as_slice())
                    .bind(who.user.as_bytes().as_slice())
                    .fetch_optional(&mut cx.conn)
                    .await?
                    .ok_or_else(|| ApiError::not_found("waiting device"))?;
                let account = account(&mut cx.conn, who.user).await?;
                let list = identity::check_list(b.device_list.as_slice(), &account.identity_key, who.user, account.version)?;
                identity::check_listed(&list, device, row.try_get("signature_key")?)?;
                sqlx::query("UPDATE devices SET status = 'active', sealed_identity = $1 WHERE device_id = $2")
                    .bind(b.sealed_identity.to_vec())
                    .bind(device.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                store_list(cx, who.user, &b.device_list, &list).await?;
                revoke_unlisted(&inner, cx, who.user, &list).await?;
                Ok(Json(Empty {}))
            })
        })
        .await
}

/// `PUT /v1/devices/list`: devices that are no longer in the list are revoked at once.
pub async fn put_list(State(app): State<App>, who: Authed, Body(b): Body<PutDeviceList>) -> Answer<Empty> {
    let inner = app.clone();
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let account = account(&mut cx.conn, who.user).await?;
                let list = identity::check_list(b.device_list.as_slice(), &account.identity_key, who.user, account.version)?;
                if list.key_of(who.device).is_none() {
                    return Err(ApiError::bad("A device cannot remove itself from the list. Log out instead."));
                }
                store_list(cx, who.user, &b.device_list, &list).await?;
                revoke_unlisted(&inner, cx, who.user, &list).await?;
                Ok(Json(Empty {}))
            })
        })
        .await
}

async fn revoke_unlisted(app: &App, cx: &mut WriteCx, user: UserId, list: &DeviceList) -> ApiResult<()> {
    let rows = sqlx::query("SELECT device_id, status FROM devices WHERE user_id = $1 AND status <> 'revoked'")
        .bind(user.as_bytes().as_slice())
        .fetch_all(&mut cx.conn)
        .await?;
    for row in rows {
        let device = db::device_id(&row, "device_id")?;
        if list.key_of(device).is_some() || row.try_get::<&str, _>("status")? == "pending" {
            continue;
        }
        sqlx::query("UPDATE devices SET status = 'revoked', sealed_identity = NULL WHERE device_id = $1")
            .bind(device.as_bytes().as_slice())
            .execute(&mut cx.conn)
            .await?;
        for table in ["refresh_tokens", "key_packages"] {
            sqlx::query(sqlx::AssertSqlSafe(format!("DELETE FROM {table} WHERE device_id = $1")))
                .bind(device.as_bytes().as_slice())
                .execute(&mut cx.conn)
                .await?;
        }
        let convs = sqlx::query("SELECT conversation_id FROM leaves WHERE device_id = $1 AND end_seq IS NULL")
            .bind(device.as_bytes().as_slice())
            .fetch_all(&mut cx.conn)
            .await?;
        for c in convs {
            let id = db::conversation_id(&c, "conversation_id")?;
            groups::expel(app, cx, id, &[device]).await?;
        }
        cx.stop_device(device);
    }
    Ok(())
}

/// `POST /v1/identity/reset`.
pub async fn reset_identity(State(app): State<App>, m: MaybePending, Body(b): Body<ResetIdentity>) -> Answer<Empty> {
    let who = m.who;
    if crate::now_ms() - who.login_at > FRESH_LOGIN_MS {
        return Err(ApiError::new(ErrorCode::Forbidden, "Log in again first: a new identity needs a fresh login."));
    }
    let key = format!("identity {}", who.user);
    app.limiter.take(key, 3, 3.0 / 86_400.0, crate::now_ms()).map_err(ApiError::rate_limited)?;
    identity::check_key(b.identity_key.as_slice())?;
    check_first_key_packages(&b.key_packages, Member { user: who.user, device: b.device.device_id })?;
    let inner = app.clone();
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let account = account(&mut cx.conn, who.user).await?;
                let list = identity::check_list(b.device_list.as_slice(), b.identity_key.as_slice(), who.user, account.version)?;
                identity::check_listed(&list, b.device.device_id, b.device.signature_key.as_slice())?;
                if list.devices.len() != 1 || b.device.device_id == who.device {
                    return Err(ApiError::bad("A new identity starts with one new device."));
                }
                sqlx::query("UPDATE users SET identity_key = $1 WHERE user_id = $2")
                    .bind(b.identity_key.to_vec())
                    .bind(who.user.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                accounts::insert_device(cx, who.user, &b.device, "active").await?;
                store_key_packages(cx, b.device.device_id, &b.key_packages).await?;
                // The session goes on with the new device.
                sqlx::query("UPDATE refresh_tokens SET device_id = $1 WHERE device_id = $2")
                    .bind(b.device.device_id.as_bytes().as_slice())
                    .bind(who.device.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                store_list(cx, who.user, &b.device_list, &list).await?;
                revoke_unlisted(&inner, cx, who.user, &list).await?;
                Ok(Json(Empty {}))
            })
        })
        .await
}

/// `POST /v1/key-packages`.
pub async fn upload_key_packages(State(app): State<App>, who: Authed, Body(b): Body<UploadKeyPackages>) -> Answer<KeyPackageCount> {
    check_key_packages(&b.key_packages, Member { user: who.user, device: who.device })?;
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                if b.replace {
                    let device = who.device.as_bytes().as_slice();
                    sqlx::query("DELETE FROM key_packages WHERE device_id = $1").bind(device).execute(&mut cx.conn).await?;
                }
                store_key_packages(cx, who.device, &b.key_packages).await?;
                let counts = counts(&mut cx.conn, who.device).await?;
                if counts.counts.iter().any(|(_, n)| *n as usize > 4 * limits::KEY_PACKAGES) {
                    return Err(ApiError::new(ErrorCode::PayloadTooLarge, "Too many key packages are stored already."));
                }
                Ok(Json(counts))
            })
        })
        .await
}

fn check_key_packages(packages: &[KeyPackageUpload], owner: Member) -> ApiResult<()> {
    if packages.len() > 2 * limits::KEY_PACKAGES + 10 {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "At most 110 key packages at a time."));
    }
    for kp in packages {
        if kp.key_package.len() > limits::KEY_PACKAGE_BYTES || mls::check_key_package(kp.key_package.as_slice(), owner)? != kp.suite {
            return Err(ApiError::new(ErrorCode::InvalidIdentity, "A key package is too large or of another suite than it says."));
        }
    }
    Ok(())
}

/// What a first device comes with: it can be added to groups of every suite from its first moment.
pub fn check_first_key_packages(packages: &[KeyPackageUpload], owner: Member) -> ApiResult<()> {
    check_key_packages(packages, owner)?;
    if [suite::HYBRID, suite::CLASSIC].iter().all(|s| packages.iter().any(|k| k.last_resort && k.suite == *s)) {
        return Ok(());
    }
    Err(ApiError::bad("A first device comes with a last-resort key package for every suite."))
}

/// Stores checked key packages; one of last resort replaces the one before.
pub async fn store_key_packages(cx: &mut WriteCx, device: DeviceId, packages: &[KeyPackageUpload]) -> ApiResult<()> {
    let device = device.as_bytes().as_slice();
    for kp in packages {
        if kp.last_resort {
            sqlx::query("DELETE FROM key_packages WHERE device_id = $1 AND suite = $2 AND last_resort = 1")
                .bind(device)
                .bind(i64::from(kp.suite))
                .execute(&mut cx.conn)
                .await?;
        }
        sqlx::query("INSERT INTO key_packages (device_id, suite, key_package, last_resort) VALUES ($1, $2, $3, $4)")
            .bind(device)
            .bind(i64::from(kp.suite))
            .bind(kp.key_package.to_vec())
            .bind(i64::from(kp.last_resort))
            .execute(&mut cx.conn)
            .await?;
    }
    Ok(())
}

async fn counts(conn: &mut SqliteConnection, device: DeviceId) -> ApiResult<KeyPackageCount> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as("SELECT suite, COUNT(*) FROM key_packages WHERE device_id = $1 AND last_resort = 0 GROUP BY suite")
            .bind(device.as_bytes().as_slice())
            .fetch_all(conn)
            .await?;
    let counts = rows.into_iter().map(|(s, n)| (u16::try_from(s).unwrap_or(0), u32::try_from(n).unwrap_or(u32::MAX))).collect();
    Ok(KeyPackageCount { counts })
}

/// `GET /v1/key-packages`.
pub async fn count_key_packages(State(app): State<App>, who: Authed) -> Answer<KeyPackageCount> {
    let mut conn = app.pool.acquire().await?;
    counts(&mut conn, who.device).await.map(Json)
}

/// `POST /v1/users/{id}/key-packages/claim`: one package of each linked device, each one-time package given once.
pub async fn claim_key_packages(
    State(app): State<App>,
    who: Authed,
    Path(user): Path<UserId>,
    Body(b): Body<ClaimKeyPackages>,
) -> Answer<ClaimedKeyPackages> {
    app.limiter.take(format!("claim {}", who.user), 1_000, 5.0, crate::now_ms()).map_err(ApiError::rate_limited)?;
    if user != who.user {
        // Per pair: nobody empties somebody's one-time packages alone.
        let rate = app.config.claim_rate;
        let key = format!("claim {} {user}", who.user);
        app.limiter.take(key, rate, f64::from(rate) / 3600.0, crate::now_ms()).map_err(ApiError::rate_limited)?;
    }
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let row =
                    sqlx::query("SELECT user_id, username, identity_key, device_list FROM users WHERE user_id = $1 AND status = 'ACTIVE'")
                        .bind(user.as_bytes().as_slice())
                        .fetch_optional(&mut cx.conn)
                        .await?
                        .ok_or_else(|| ApiError::not_found("user"))?;
                let info = accounts::user_info(&row)?;
                let devices = sqlx::query("SELECT device_id FROM devices WHERE user_id = $1 AND status = 'active'")
                    .bind(user.as_bytes().as_slice())
                    .fetch_all(&mut cx.conn)
                    .await?;
                let (mut key_packages, mut without) = (Vec::new(), Vec::new());
                for d in devices {
                    let device_id = db::device_id(&d, "device_id")?;
                    if device_id == who.device {
                        continue;
                    }
                    match claim_one(cx, device_id, b.suite).await? {
                        Some(key_package) => key_packages.push(ClaimedKeyPackage { device_id, key_package }),
                        None => without.push(device_id),
                    }
                }
                Ok(Json(ClaimedKeyPackages { user: info, key_packages, without }))
            })
        })
        .await
}

async fn claim_one(cx: &mut WriteCx, device: DeviceId, suite: u16) -> ApiResult<Option<Blob>> {
    let row = sqlx::query(
        "SELECT id, key_package, last_resort FROM key_packages WHERE device_id = $1 AND suite = $2 ORDER BY last_resort, id LIMIT 1",
    )
    .bind(device.as_bytes().as_slice())
    .bind(i64::from(suite))
    .fetch_optional(&mut cx.conn)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get::<i64, _>("last_resort")? == 0 {
        sqlx::query("DELETE FROM key_packages WHERE id = $1").bind(row.try_get::<i64, _>("id")?).execute(&mut cx.conn).await?;
        let counts = counts(&mut cx.conn, device).await?;
        let remaining = counts.counts.iter().find(|(s, _)| *s == suite).map_or(0, |(_, n)| *n);
        if remaining < limits::KEY_PACKAGES_LOW {
            cx.to_devices(ServerFrame::KeyPackagesLow { suite, remaining }, vec![device]);
        }
    }
    Ok(Some(db::blob(&row, "key_package")?))
}
