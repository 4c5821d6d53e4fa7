//! A profile: the folder of one account on this device.
//!
//! `keys.json` (key slots), `store.db` (SQLCipher), `lock` (one process at a time).
//!
//! | keys.json | store.db | keyring | passphrase | result |
//! |---|---|---|---|---|
//! | – | – | answers | – | a new key, kept in the keyring |
//! | – | – | – | given | a new key, wrapped by the passphrase |
//! | – | – | – | – | [`Opening::NeedsPassphrase`] (new) |
//! | there | any | any | given, has a slot | open, or [`Opening::WrongPassphrase`] |
//! | there | any | slot opens | – | open |
//! | there | any | silent or no entry | –, has a slot | [`Opening::NeedsPassphrase`] |
//! | there | any | silent | –, no slot | [`Opening::KeyringSilent`] |
//! | there | any | no entry | –, no slot | [`Opening::KeyLost`] |
//! | – | there | | | [`Opening::KeyLost`]: never an empty app over an existing store |

use crate::{EngineError, EngineResult};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::OsRng;
use sc_store::keys::{KeySlots, SlotKind};
use sc_store::{DatabaseKey, Reader, Store, StoreError};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;
use zeroize::Zeroizing;

const SERVICE: &str = "org.secureconnect.messenger";
/// A keyring may ask the user something; after this it counts as silent.
const KEYRING_TIMEOUT: Duration = Duration::from_secs(20);

/// An opened profile.
pub struct Profile {
    /// The folder.
    pub dir: PathBuf,
    /// The store.
    pub store: Store,
    /// A reading connection.
    pub reader: Reader,
    /// Another one, so that the UI never waits for the tasks.
    pub second: Reader,
    _lock: File,
}

/// The parts of a profile.
pub struct Parts {
    /// The folder.
    pub dir: PathBuf,
    /// The store.
    pub store: Store,
    /// A reading connection.
    pub reader: Reader,
    /// Another one.
    pub second: Reader,
    /// To be kept as long as the profile is used: it holds the lock.
    pub keep: Box<dyn std::any::Any + Send>,
}

impl Profile {
    /// Takes it apart.
    #[must_use]
    pub fn split(self) -> Parts {
        Parts { dir: self.dir, store: self.store, reader: self.reader, second: self.second, keep: Box::new(self._lock) }
    }
}

/// What came of opening.
pub enum Opening {
    /// Open.
    Open(Box<Profile>),
    /// No keyring answers; a passphrase is needed. `new` when one is to be chosen.
    NeedsPassphrase {
        /// There is nothing yet.
        new: bool,
    },
    /// The passphrase does not fit.
    WrongPassphrase,
    /// The only key is in the keyring, which is locked, was not asked or does not answer. Nothing is lost.
    KeyringSilent,
    /// The store is there, but no key to it. `why` is a code.
    KeyLost {
        /// `no_key_file` or `wrong_key`.
        why: &'static str,
    },
}

/// Opens a profile. `use_keyring` is false where a passphrase is wanted (scripts, tests).
pub fn open(dir: &Path, passphrase: Option<&str>, use_keyring: bool) -> EngineResult<Opening> {
    std::fs::create_dir_all(dir).map_err(|e| StoreError::File(dir.to_owned(), e))?;
    restrict(dir);
    let lock = File::create(dir.join("lock")).map_err(|e| StoreError::File(dir.to_owned(), e))?;
    lock.try_lock().map_err(|_| EngineError::InUse)?;
    let (keys_path, store_path) = (dir.join("keys.json"), dir.join("store.db"));
    let Some(slots) = KeySlots::load(&keys_path)? else {
        if store_path.exists() {
            return Ok(Opening::KeyLost { why: "no_key_file" });
        }
        return create(dir, &keys_path, &store_path, passphrase, use_keyring, lock);
    };
    // A passphrase that was given is tried first: a keyring that hangs must not delay it.
    if let Some(passphrase) = passphrase.filter(|_| slots.has(SlotKind::Passphrase)) {
        return match slots.open_passphrase(passphrase) {
            Ok(key) => finish(dir, &store_path, &key, lock),
            Err(StoreError::Keys(_)) => Ok(Opening::WrongPassphrase),
            Err(e) => Err(e.into()),
        };
    }
    let mut silent = slots.has(SlotKind::Keyring) && !use_keyring;
    if slots.has(SlotKind::Keyring) && use_keyring {
        let account = keyring_account(dir, &slots);
        match keyring(move || read_keyring(&account)) {
            Ring::Got(secret) => {
                if let Ok(key) = slots.open_keyring(&secret) {
                    return finish(dir, &store_path, &key, lock);
                }
            }
            // Locked, denied, no answer: the key is not lost. It is asked for again at the next try.
            Ring::NoAccess => silent = true,
            Ring::NoEntry => {}
        }
    }
    if !slots.has(SlotKind::Passphrase) {
        return Ok(if silent { Opening::KeyringSilent } else { Opening::KeyLost { why: "wrong_key" } });
    }
    Ok(Opening::NeedsPassphrase { new: false })
}

fn create(
    dir: &Path,
    keys_path: &Path,
    store_path: &Path,
    passphrase: Option<&str>,
    use_keyring: bool,
    lock: File,
) -> EngineResult<Opening> {
    let key = KeySlots::new_key(&mut OsRng);
    let mut slots = KeySlots::default();
    if use_keyring && passphrase.is_none() {
        let secret = slots.set_keyring(&key, &mut OsRng)?;
        let account = keyring_account(dir, &slots);
        if !matches!(keyring(move || write_keyring(&account, secret.as_ref())), Ring::Got(())) {
            return Ok(Opening::NeedsPassphrase { new: true });
        }
    } else {
        let Some(p) = passphrase.filter(|p| !p.is_empty()) else { return Ok(Opening::NeedsPassphrase { new: true }) };
        slots.set_passphrase(&key, p, &mut OsRng)?;
    }
    slots.save(keys_path)?;
    finish(dir, store_path, &key, lock)
}

fn finish(dir: &Path, store_path: &Path, key: &DatabaseKey, lock: File) -> EngineResult<Opening> {
    match Store::open(store_path, key) {
        Ok(store) => {
            let (reader, second) = (Reader::open(store_path, key)?, Reader::open(store_path, key)?);
            Ok(Opening::Open(Box::new(Profile { dir: dir.to_owned(), store, reader, second, _lock: lock })))
        }
        Err(StoreError::WrongKey) => Ok(Opening::KeyLost { why: "wrong_key" }),
        Err(e) => Err(e.into()),
    }
}

/// Sets or changes the passphrase that opens an existing profile, beside the keyring where there is one. `current` is the
/// passphrase of now; without it the keyring is asked for the key.
pub fn set_passphrase(dir: &Path, current: Option<&str>, new: &str) -> EngineResult<()> {
    let path = dir.join("keys.json");
    let mut slots = KeySlots::load(&path)?.ok_or(StoreError::Keys("no key file"))?;
    let key = match current.filter(|_| slots.has(SlotKind::Passphrase)) {
        Some(current) => slots.open_passphrase(current)?,
        None if slots.has(SlotKind::Keyring) => {
            let account = keyring_account(dir, &slots);
            let Ring::Got(secret) = keyring(move || read_keyring(&account)) else {
                return Err(EngineError::invalid("KEYRING_SILENT", "The system's keyring does not answer. Unlock it and try again."));
            };
            slots.open_keyring(&secret)?
        }
        None => return Err(StoreError::Keys("the current passphrase is needed").into()),
    };
    slots.set_passphrase(&key, new, &mut OsRng)?;
    slots.save(&path)?;
    Ok(())
}

/// Sets a store whose key is lost aside and starts anew; nothing is deleted. Returns where it went.
pub fn set_aside(dir: &Path) -> EngineResult<PathBuf> {
    let aside = dir.join(format!("set-aside-{}", crate::now_ms()));
    std::fs::create_dir(&aside).map_err(|e| StoreError::File(aside.clone(), e))?;
    for name in ["store.db", "store.db-wal", "store.db-shm", "keys.json"] {
        let from = dir.join(name);
        if from.exists() {
            std::fs::rename(&from, aside.join(name)).map_err(|e| StoreError::File(from.clone(), e))?;
        }
    }
    Ok(aside)
}

#[cfg(unix)]
fn restrict(dir: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    if let Err(cause) = std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700)) {
        tracing::warn!(%cause, "the profile folder cannot be made private; its files are encrypted all the same");
    }
}

#[cfg(not(unix))]
fn restrict(_: &Path) {}

/// The name of the entry: the folder and the slot, so that starting anew never overwrites the key of a store set aside.
fn keyring_account(dir: &Path, slots: &KeySlots) -> String {
    let folder = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    format!("{}#{}", folder.display(), slots.keyring_tag())
}

/// What the keyring said.
enum Ring<T> {
    Got(T),
    NoEntry,
    NoAccess,
}

/// Runs a keyring call on a thread of its own: it may block on a prompt for ever.
fn keyring<T: Send + 'static>(f: impl FnOnce() -> Result<T, keyring_core::Error> + Send + 'static) -> Ring<T> {
    let (tx, rx) = std::sync::mpsc::channel();
    std::thread::spawn(move || tx.send(f()));
    match rx.recv_timeout(KEYRING_TIMEOUT) {
        Ok(Ok(v)) => Ring::Got(v),
        Ok(Err(keyring_core::Error::NoEntry)) => Ring::NoEntry,
        Ok(Err(cause)) => {
            tracing::info!(%cause, "the keyring does not answer");
            Ring::NoAccess
        }
        Err(_) => {
            tracing::info!("the keyring did not answer in time");
            Ring::NoAccess
        }
    }
}

#[cfg(target_os = "linux")]
fn entry(account: &str) -> Result<keyring_core::Entry, keyring_core::Error> {
    use keyring_core::api::CredentialStoreApi as _;
    zbus_secret_service_keyring_store::Store::new()?.build(SERVICE, account, None)
}

#[cfg(not(target_os = "linux"))]
fn entry(account: &str) -> Result<keyring_core::Entry, keyring_core::Error> {
    keyring_core::Entry::new(SERVICE, account)
}

fn read_keyring(account: &str) -> Result<Zeroizing<Vec<u8>>, keyring_core::Error> {
    let text = Zeroizing::new(entry(account)?.get_password()?);
    STANDARD.decode(text.as_bytes()).map(Zeroizing::new).map_err(|_| keyring_core::Error::NoEntry)
}

/// Writes and reads back: what cannot be read again must not protect anything.
fn write_keyring(account: &str, secret: &[u8]) -> Result<(), keyring_core::Error> {
    let text = Zeroizing::new(STANDARD.encode(secret));
    entry(account)?.set_password(&text)?;
    if read_keyring(account)?.as_slice() == secret { Ok(()) } else { Err(keyring_core::Error::NoEntry) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_passphrase_is_changed_with_the_one_before_and_nothing_else_opens_the_store() {
        let dir = tempfile::tempdir().unwrap();
        let opens = |p: Option<&str>| match open(dir.path(), p, false).unwrap() {
            Opening::Open(_) => "open",
            Opening::NeedsPassphrase { new: true } => "new",
            Opening::NeedsPassphrase { new: false } => "locked",
            Opening::WrongPassphrase => "wrong",
            Opening::KeyringSilent => "silent",
            Opening::KeyLost { why } => why,
        };
        assert_eq!((opens(None), opens(Some("một")), opens(None), opens(Some("hai"))), ("new", "open", "locked", "wrong"));
        for current in [None, Some("hai"), Some("")] {
            assert_eq!(set_passphrase(dir.path(), current, "ba").unwrap_err().code(), "WRONG_KEY", "{current:?}");
        }
        set_passphrase(dir.path(), Some("một"), "ba").unwrap();
        assert_eq!((opens(Some("một")), opens(Some("ba"))), ("wrong", "open"));
        std::fs::remove_file(dir.path().join("keys.json")).unwrap();
        assert_eq!((opens(Some("ba")), opens(None)), ("no_key_file", "no_key_file"));
    }
}
