//! What the operator does to accounts, beside a running server or without one.
//!
//! A running server sees it with the next request; a connection that is open ends with its next heartbeat.

use crate::config::Config;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};
use std::time::Duration;

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// There is no such account.
    #[error("there is no account with the name {0}")]
    NoSuchAccount(String),
    /// The database cannot be used.
    #[error("the database {0} cannot be used: {1}")]
    Database(String, sqlx::Error),
}

async fn open(config: &Config) -> Result<sqlx::SqliteConnection, sqlx::Error> {
    #[cfg(target_os = "linux")]
    openssl_sys::init();
    SqliteConnectOptions::new()
        .filename(config.data.join("server.db"))
        .busy_timeout(Duration::from_secs(10))
        .pragma("wal_autocheckpoint", "0")
        .connect()
        .await
}

/// Counts the people in every room anew. How many counts were wrong.
pub async fn repair_rooms(config: &Config) -> Result<u64, OperatorError> {
    let fail = |e| OperatorError::Database(config.data.display().to_string(), e);
    let mut db = open(config).await.map_err(fail)?;
    let wrong = crate::rooms::store::recount(&mut db).await.map_err(|e| fail(sqlx::Error::Protocol(e.to_string())))?;
    db.close().await.map_err(fail)?;
    Ok(wrong)
}

/// Suspends an account, or lets it in again. What it has stored stays.
pub async fn set_suspended(config: &Config, username: &str, suspended: bool) -> Result<(), OperatorError> {
    let fail = |e| OperatorError::Database(config.data.display().to_string(), e);
    let mut db = open(config).await.map_err(fail)?;
    let status = if suspended { "SUSPENDED" } else { "ACTIVE" };
    let changed =
        sqlx::query("UPDATE users SET status = $1 WHERE username = $2").bind(status).bind(username).execute(&mut db).await.map_err(fail)?;
    db.close().await.map_err(fail)?;
    if changed.rows_affected() == 0 {
        return Err(OperatorError::NoSuchAccount(username.to_owned()));
    }
    Ok(())
}
