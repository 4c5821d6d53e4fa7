//! The store: one writing connection, a pool of reading ones. SQLite in WAL mode with full durability.
//!
//! Statements keep to what SQLite and PostgreSQL share (`$1` parameters, no SQLite functions outside this file).

use sc_protocol::rest::{ConversationKind, Role};
use sc_protocol::{Blob, ConversationId, DeviceId, UserId};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{ConnectOptions as _, Row as _, SqliteConnection};
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

/// Where the store is and how durable a commit is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The file.
    pub path: PathBuf,
    /// `FULL` but in tests that prove it must be.
    pub synchronous: String,
    /// Most pages the file may have; tests fill the disk with it. 0 for no bound.
    pub max_pages: u32,
}

static MIGRATOR: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Opens the writing connection and brings the schema up to date.
pub async fn open_writer(o: &Options) -> Result<SqliteConnection, sqlx::Error> {
    // The linked SQLite is SQLCipher: libcrypto's exit handler would free what the connections' threads still use.
    #[cfg(target_os = "linux")]
    openssl_sys::init();
    let synchronous = sqlx::sqlite::SqliteSynchronous::from_str(&o.synchronous)?;
    let mut options = SqliteConnectOptions::new()
        .filename(&o.path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(synchronous)
        .busy_timeout(Duration::from_secs(5))
        .pragma("wal_autocheckpoint", "0")
        .pragma("cache_size", "-8192")
        .pragma("temp_store", "MEMORY")
        .disable_statement_logging();
    if o.max_pages > 0 {
        options = options.pragma("max_page_count", o.max_pages.to_string());
    }
    let mut conn = options.connect().await?;
    MIGRATOR.run_direct(None, &mut conn, false).await?;
    Ok(conn)
}

/// Brings everything in the write-ahead log into the file and syncs both. At the start: a log that a failed sync left behind
/// may be in the kernel's memory only, though it reads well.
pub async fn settle(conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    for _ in 0..20 {
        let busy: i64 = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").fetch_one(&mut *conn).await?.try_get(0)?;
        if busy == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    Err(sqlx::Error::Protocol("another program reads the database and does not let go of it; stop it and start again".into()))
}

/// Opens the readers; the writer must have been opened before.
pub async fn open_readers(o: &Options) -> Result<SqlitePool, sqlx::Error> {
    let options = SqliteConnectOptions::new()
        .filename(&o.path)
        .read_only(true)
        .busy_timeout(Duration::from_secs(5))
        .pragma("query_only", "1")
        .pragma("wal_autocheckpoint", "0")
        .disable_statement_logging();
    SqlitePoolOptions::new()
        .max_connections(4)
        .min_connections(4)
        .idle_timeout(None)
        .max_lifetime(None)
        .acquire_timeout(Duration::from_secs(10))
        .connect_with(options)
        .await
}

/// The version of the SQLite that is linked, for the log.
pub async fn sqlite_version(conn: &mut SqliteConnection) -> Result<String, sqlx::Error> {
    sqlx::query_scalar("SELECT sqlite_version()").fetch_one(conn).await
}

/// A u64 as stored. Sequence numbers and epochs never come near the sign bit.
#[must_use]
pub fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

/// A stored count.
#[must_use]
pub fn uint(v: i64) -> u64 {
    u64::try_from(v).unwrap_or(0)
}

fn bad_id(column: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {column} holds no id").into())
}

/// A user id column.
pub fn user_id(row: &SqliteRow, column: &str) -> Result<UserId, sqlx::Error> {
    UserId::from_slice(row.try_get::<&[u8], _>(column)?).ok_or_else(|| bad_id(column))
}

/// A device id column.
pub fn device_id(row: &SqliteRow, column: &str) -> Result<DeviceId, sqlx::Error> {
    DeviceId::from_slice(row.try_get::<&[u8], _>(column)?).ok_or_else(|| bad_id(column))
}

/// A conversation id column.
pub fn conversation_id(row: &SqliteRow, column: &str) -> Result<ConversationId, sqlx::Error> {
    ConversationId::from_slice(row.try_get::<&[u8], _>(column)?).ok_or_else(|| bad_id(column))
}

/// A role as stored.
#[must_use]
pub fn role(v: i64) -> Role {
    match v {
        2 => Role::Owner,
        1 => Role::Admin,
        _ => Role::Member,
    }
}

/// A role for storage.
#[must_use]
pub fn role_int(r: Role) -> i64 {
    match r {
        Role::Owner => 2,
        Role::Admin => 1,
        Role::Member => 0,
    }
}

/// A kind as stored.
#[must_use]
pub fn kind(v: i64) -> ConversationKind {
    if v == 0 { ConversationKind::Direct } else { ConversationKind::Group }
}

/// A kind for storage.
#[must_use]
pub fn kind_int(k: ConversationKind) -> i64 {
    match k {
        ConversationKind::Direct => 0,
        ConversationKind::Group => 1,
    }
}

/// A blob column as wire bytes.
pub fn blob(row: &SqliteRow, column: &str) -> Result<Blob, sqlx::Error> {
    row.try_get::<Vec<u8>, _>(column).map(Blob::from)
}
