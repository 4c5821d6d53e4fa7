//! The database key and its slots.
//!
//! The key is random. A small header file beside the database holds it wrapped, once per slot; any slot opens the store.
//! Nothing in the header is secret by itself. A header without a database, or a database without a header, is said so:
//! a key is made only where there is neither.

use crate::{DatabaseKey, StoreError, StoreResult};
use aes_gcm::aead::Aead as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use argon2::{Algorithm, Argon2, Params, Version};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use std::io::Write as _;
use std::path::Path;
use zeroize::Zeroizing;

/// Argon2id: 64 MiB, 3 passes.
const ARGON: (u32, u32, u32) = (64 * 1024, 3, 1);

/// Where the key that wraps the database key is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotKind {
    /// In the operating system's keyring.
    Keyring,
    /// Derived from a passphrase (Argon2id).
    Passphrase,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Slot {
    kind: SlotKind,
    #[serde(with = "serde_bytes")]
    salt: Vec<u8>,
    #[serde(with = "serde_bytes")]
    wrapped: Vec<u8>,
}

/// The header file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct KeySlots {
    version: u32,
    slots: Vec<Slot>,
}

impl KeySlots {
    /// Reads the header; `None` when there is none.
    pub fn load(path: &Path) -> StoreResult<Option<Self>> {
        let bytes = match std::fs::read(path) {
            Ok(b) => b,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(StoreError::File(path.to_owned(), e)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| StoreError::Damaged("the key file"))
    }

    /// Writes the header: to a new file, synced, moved into place.
    pub fn save(&self, path: &Path) -> StoreResult<()> {
        let fail = |e| StoreError::File(path.to_owned(), e);
        let bytes = serde_json::to_vec(self).map_err(|_| StoreError::Damaged("the key file"))?;
        let fresh = path.with_extension("new");
        let mut file = std::fs::File::create(&fresh).map_err(fail)?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(fail)?;
        std::fs::rename(&fresh, path).map_err(fail)?;
        if let Some(dir) = path.parent() {
            // Not every file system can sync a folder; the file itself is synced.
            let _ = std::fs::File::open(dir).and_then(|d| d.sync_all());
        }
        Ok(())
    }

    /// A new random database key.
    #[must_use]
    pub fn new_key(rng: &mut impl RngCore) -> DatabaseKey {
        let mut key = Zeroizing::new([0; 32]);
        rng.fill_bytes(key.as_mut());
        key
    }

    /// True when there is a slot of that kind.
    #[must_use]
    pub fn has(&self, kind: SlotKind) -> bool {
        self.slots.iter().any(|s| s.kind == kind)
    }

    /// Adds or replaces the passphrase slot.
    pub fn set_passphrase(&mut self, key: &DatabaseKey, passphrase: &str, rng: &mut impl RngCore) -> StoreResult<()> {
        let mut salt = vec![0; 16];
        rng.fill_bytes(&mut salt);
        let kek = stretch(passphrase, &salt)?;
        self.set(SlotKind::Passphrase, salt, &kek, key)
    }

    /// Adds or replaces the keyring slot; returns the secret to be put into the keyring.
    pub fn set_keyring(&mut self, key: &DatabaseKey, rng: &mut impl RngCore) -> StoreResult<Zeroizing<[u8; 32]>> {
        let mut kek = Zeroizing::new([0; 32]);
        rng.fill_bytes(kek.as_mut());
        let mut tag = vec![0; 16];
        rng.fill_bytes(&mut tag);
        self.set(SlotKind::Keyring, tag, &kek, key)?;
        Ok(kek)
    }

    /// Names the keyring's entry apart from those of other stores; empty when there is no keyring slot.
    #[must_use]
    pub fn keyring_tag(&self) -> String {
        let slot = self.slots.iter().find(|s| s.kind == SlotKind::Keyring);
        slot.map(|s| s.salt.iter().map(|b| format!("{b:02x}")).collect()).unwrap_or_default()
    }

    fn set(&mut self, kind: SlotKind, salt: Vec<u8>, kek: &[u8; 32], key: &DatabaseKey) -> StoreResult<()> {
        let cipher = Aes256Gcm::new_from_slice(kek).map_err(|_| StoreError::Keys("wrapping key"))?;
        // Each wrapping key wraps one value, so the nonce may be zero.
        let wrapped = cipher.encrypt(&Default::default(), key.as_slice()).map_err(|_| StoreError::Keys("cannot wrap the key"))?;
        self.version = 1;
        self.slots.retain(|s| s.kind != kind);
        self.slots.push(Slot { kind, salt, wrapped });
        Ok(())
    }

    /// Opens with the passphrase.
    pub fn open_passphrase(&self, passphrase: &str) -> StoreResult<DatabaseKey> {
        let slot = self.slots.iter().find(|s| s.kind == SlotKind::Passphrase).ok_or(StoreError::Keys("no passphrase was set"))?;
        unwrap(&*stretch(passphrase, &slot.salt)?, &slot.wrapped).ok_or(StoreError::Keys("the passphrase is wrong"))
    }

    /// Opens with the secret from the keyring.
    pub fn open_keyring(&self, secret: &[u8]) -> StoreResult<DatabaseKey> {
        let slot = self.slots.iter().find(|s| s.kind == SlotKind::Keyring).ok_or(StoreError::Keys("no keyring was used"))?;
        unwrap(secret, &slot.wrapped).ok_or(StoreError::Keys("the keyring holds another key"))
    }
}

fn stretch(passphrase: &str, salt: &[u8]) -> StoreResult<Zeroizing<[u8; 32]>> {
    let params = Params::new(ARGON.0, ARGON.1, ARGON.2, Some(32)).map_err(|_| StoreError::Keys("Argon2 parameters"))?;
    let mut out = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), salt, out.as_mut())
        .map_err(|_| StoreError::Keys("the passphrase cannot be used"))?;
    Ok(out)
}

fn unwrap(kek: &[u8], wrapped: &[u8]) -> Option<DatabaseKey> {
    let cipher = Aes256Gcm::new_from_slice(kek).ok()?;
    let key = Zeroizing::new(cipher.decrypt(&Default::default(), wrapped).ok()?);
    Some(Zeroizing::new(key.as_slice().try_into().ok()?))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_opens_the_same_key_and_a_wrong_secret_does_not() {
        let mut rng = rand::rngs::OsRng;
        let key = KeySlots::new_key(&mut rng);
        let mut slots = KeySlots::default();
        slots.set_passphrase(&key, "mật khẩu", &mut rng).unwrap();
        let secret = slots.set_keyring(&key, &mut rng).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys.json");
        slots.save(&path).unwrap();
        let slots = KeySlots::load(&path).unwrap().unwrap();
        assert_eq!(slots.open_passphrase("mật khẩu").unwrap(), key);
        assert_eq!(slots.open_keyring(secret.as_ref()).unwrap(), key);
        assert!(slots.open_passphrase("mat khau").is_err());
        assert!(slots.open_keyring(&[0; 32]).is_err());
        assert!(slots.open_keyring(&[]).is_err());
    }
}
