//! The device's encrypted store (SQLCipher): messages, outbox, cursors, search, and the MLS state on the same
//! transaction.
//!
//! * [`keys`]: the database key in its slots (keyring, passphrase).
//! * [`Store`]: the one writing connection; [`Write`] is its open transaction.
//! * [`Reader`]: a read-only connection for lists, timelines and search. [`Read`] is what both can do.
//!
//! Invariants: a message that was shown as sent or received is committed; ciphertext, ratchet, message and cursor change
//! in one transaction; nothing leaves the store unencrypted but through [`Read`]. Only the writing connection
//! checkpoints the write-ahead log.

pub mod keys;
pub mod model;
mod read;
pub mod search;
mod write;

pub use read::Read;
pub use write::{UNSENT, Write};
/// Rows to be written.
pub mod write_model {
    pub use crate::write::NewMessage;
}

use rusqlite::{Connection, OpenFlags, TransactionBehavior};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The key does not open the file.
    #[error("the database cannot be opened with this key")]
    WrongKey,
    /// The disk is full. Nothing was changed; free space and try again.
    #[error("the disk is full; nothing was changed")]
    DiskFull,
    /// The database is of a newer version of the app.
    #[error("the database was written by a newer version of the app; update it")]
    TooNew,
    /// No slot opens with what was given.
    #[error("{0}")]
    Keys(&'static str),
    /// A stored value does not parse.
    #[error("a stored value is damaged: {0}")]
    Damaged(&'static str),
    /// SQLite failed.
    #[error("the database failed: {0}")]
    Sqlite(rusqlite::Error),
    /// A file could not be read or written.
    #[error("{0}: {1}")]
    File(PathBuf, std::io::Error),
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        match e.sqlite_error_code() {
            Some(rusqlite::ErrorCode::NotADatabase) => Self::WrongKey,
            Some(rusqlite::ErrorCode::DiskFull) => Self::DiskFull,
            _ => Self::Sqlite(e),
        }
    }
}

impl StoreError {
    /// A value that breaks a rule of the schema: a fault of what was to be stored, not of the store.
    #[must_use]
    pub fn is_constraint(&self) -> bool {
        matches!(self, Self::Sqlite(e) if e.sqlite_error_code() == Some(rusqlite::ErrorCode::ConstraintViolation))
    }
}

/// The result of everything here.
pub type StoreResult<T> = Result<T, StoreError>;

/// The key of a database: 32 random bytes.
pub type DatabaseKey = Zeroizing<[u8; 32]>;

const MIGRATIONS: &[&str] = &[include_str!("../migrations/0001_initial.sql"), include_str!("../migrations/0002_unread.sql")];

/// SQLCipher uses libcrypto, whose exit handler frees what other threads still use: a program that ends while its store is
/// open would crash. The first initialisation decides; this one asks for no handler.
fn init_crypto() {
    #[cfg(target_os = "linux")]
    openssl_sys::init();
}

fn open(path: &Path, key: &DatabaseKey, flags: OpenFlags) -> StoreResult<Connection> {
    init_crypto();
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    let hex: Zeroizing<String> = Zeroizing::new(key.iter().map(|b| format!("{b:02x}")).collect());
    conn.execute_batch(&Zeroizing::new(format!("PRAGMA key = \"x'{}'\";", *hex)))?;
    conn.execute_batch("PRAGMA cipher_log_level = NONE;")?;
    conn.query_row("SELECT COUNT(*) FROM sqlite_schema", [], |r| r.get::<_, i64>(0))?;
    conn.set_prepared_statement_cache_capacity(256);
    Ok(conn)
}

/// The writing connection.
pub struct Store {
    conn: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database, making it when there is none, and brings its schema up to date.
    pub fn open(path: &Path, key: &DatabaseKey) -> StoreResult<Self> {
        let mut conn = open(path, key, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let mode: String = conn.pragma_update_and_check(None, "journal_mode", "WAL", |r| r.get(0))?;
        if mode != "wal" {
            return Err(StoreError::Damaged("journal mode"));
        }
        conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON; PRAGMA secure_delete = ON; PRAGMA trusted_schema = OFF; PRAGMA cache_size = -16384;")?;
        migrate(&mut conn)?;
        Ok(Self { conn, path: path.to_owned() })
    }

    /// Begins a writing transaction. Dropping it undoes it.
    pub fn write(&mut self) -> StoreResult<Write<'_>> {
        Ok(Write { tx: self.conn.transaction_with_behavior(TransactionBehavior::Immediate)? })
    }

    /// Reads on the writing connection.
    #[must_use]
    pub fn read(&self) -> Read<'_> {
        Read { conn: &self.conn }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bounds the pages of the file, to test a full disk.
    pub fn limit_pages(&self, pages: u32) -> StoreResult<()> {
        self.conn.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))?;
        Ok(())
    }
}

fn migrate(conn: &mut Connection) -> StoreResult<()> {
    let version: usize = conn.pragma_query_value(None, "user_version", |r| r.get(0))?;
    if version > MIGRATIONS.len() {
        return Err(StoreError::TooNew);
    }
    for (i, sql) in MIGRATIONS.iter().enumerate().skip(version) {
        let tx = conn.transaction()?;
        tx.execute_batch(sql)?;
        tx.pragma_update(None, "user_version", i + 1)?;
        tx.commit()?;
    }
    Ok(())
}

/// A read-only connection.
pub struct Reader {
    conn: Connection,
}

impl Reader {
    /// Opens the database for reading; the [`Store`] must have been opened before.
    pub fn open(path: &Path, key: &DatabaseKey) -> StoreResult<Self> {
        let conn = open(path, key, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        conn.execute_batch("PRAGMA query_only = ON; PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -8192;")?;
        Ok(Self { conn })
    }

    /// What can be read.
    #[must_use]
    pub fn read(&self) -> Read<'_> {
        Read { conn: &self.conn }
    }
}
