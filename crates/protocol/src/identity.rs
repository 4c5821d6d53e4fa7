//! Who is who, in public: a device certificate and a signed device list, both signed by the account identity key.
//!
//! The certificate travels in the MLS credential of every leaf. The list is versioned; a reader that has seen version
//! n refuses a smaller one. Layouts are fixed binary, parsed once and bounded: a wrong length is an error.

use crate::limits::DEVICES;
use crate::{DeviceId, UserId};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

const CERTIFICATE_LABEL: &[u8] = b"SecureConnect device v1\0";
const LIST_LABEL: &[u8] = b"SecureConnect device list v1\0";
const CERTIFICATE_LEN: usize = 1 + 16 + 16 + 32 + 64;
const ENTRY_LEN: usize = 16 + 32;
const VERSION: u8 = 1;

/// A certificate or list cannot be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Wrong length, version or key encoding.
    #[error("the identity data is malformed")]
    Malformed,
    /// The signature does not verify.
    #[error("the identity signature does not verify")]
    BadSignature,
}

/// Says: this device, with this key, belongs to the account with this identity key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The account.
    pub user_id: UserId,
    /// The device.
    pub device_id: DeviceId,
    /// Account identity key (Ed25519).
    pub identity_key: [u8; 32],
    signature: [u8; 64],
}

impl Certificate {
    /// Issues a certificate for a device key.
    #[must_use]
    pub fn issue(identity: &SigningKey, user_id: UserId, device_id: DeviceId, device_key: &[u8; 32]) -> Self {
        let identity_key = identity.verifying_key().to_bytes();
        let signature = identity.sign(&Self::signed(user_id, device_id, device_key)).to_bytes();
        Self { user_id, device_id, identity_key, signature }
    }

    /// Parses and verifies a certificate against the key of the leaf it came in.
    pub fn verify(bytes: &[u8], device_key: &[u8]) -> Result<Self, IdentityError> {
        let c = Self::parse(bytes)?;
        let device_key: [u8; 32] = device_key.try_into().map_err(|_| IdentityError::Malformed)?;
        verify(&c.identity_key, &Self::signed(c.user_id, c.device_id, &device_key), &c.signature)?;
        Ok(c)
    }

    /// Parses a certificate that was verified before.
    pub fn parse(bytes: &[u8]) -> Result<Self, IdentityError> {
        let mut r = Reader(bytes);
        if bytes.len() != CERTIFICATE_LEN || r.take::<1>()? != [VERSION] {
            return Err(IdentityError::Malformed);
        }
        let user_id = UserId::from_slice(&r.take::<16>()?).ok_or(IdentityError::Malformed)?;
        let device_id = DeviceId::from_slice(&r.take::<16>()?).ok_or(IdentityError::Malformed)?;
        let (identity_key, signature) = (r.take::<32>()?, r.take::<64>()?);
        Ok(Self { user_id, device_id, identity_key, signature })
    }

    /// The wire form.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(self.user_id.as_bytes());
        out.extend_from_slice(self.device_id.as_bytes());
        out.extend_from_slice(&self.identity_key);
        out.extend_from_slice(&self.signature);
        out
    }

    fn signed(user: UserId, device: DeviceId, device_key: &[u8; 32]) -> Vec<u8> {
        [CERTIFICATE_LABEL, user.as_bytes(), device.as_bytes(), device_key].concat()
    }
}

/// The devices of an account, signed by its identity key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceList {
    /// The account.
    pub user_id: UserId,
    /// Grows with every change.
    pub version: u64,
    /// `(device, device key)`.
    pub devices: Vec<(DeviceId, [u8; 32])>,
}

impl DeviceList {
    /// The signed wire form.
    #[must_use]
    pub fn sign(&self, identity: &SigningKey) -> Vec<u8> {
        let mut out = self.body();
        let signature = identity.sign(&[LIST_LABEL, &out].concat()).to_bytes();
        out.extend_from_slice(&signature);
        out
    }

    /// Parses and verifies a list.
    pub fn verify(bytes: &[u8], identity_key: &[u8]) -> Result<Self, IdentityError> {
        let split = bytes.len().checked_sub(64).ok_or(IdentityError::Malformed)?;
        let (body, signature) = bytes.split_at_checked(split).ok_or(IdentityError::Malformed)?;
        let mut r = Reader(body);
        if r.take::<1>()? != [VERSION] {
            return Err(IdentityError::Malformed);
        }
        let user_id = UserId::from_slice(&r.take::<16>()?).ok_or(IdentityError::Malformed)?;
        let version = u64::from_be_bytes(r.take::<8>()?);
        if r.0.len() % ENTRY_LEN != 0 || r.0.len() / ENTRY_LEN > DEVICES {
            return Err(IdentityError::Malformed);
        }
        let mut devices = Vec::with_capacity(r.0.len() / ENTRY_LEN);
        while !r.0.is_empty() {
            let id = DeviceId::from_slice(&r.take::<16>()?).ok_or(IdentityError::Malformed)?;
            devices.push((id, r.take::<32>()?));
        }
        let key: [u8; 32] = identity_key.try_into().map_err(|_| IdentityError::Malformed)?;
        let signature: [u8; 64] = signature.try_into().map_err(|_| IdentityError::Malformed)?;
        verify(&key, &[LIST_LABEL, body].concat(), &signature)?;
        Ok(Self { user_id, version, devices })
    }

    /// The key of a device, if it is in the list.
    #[must_use]
    pub fn key_of(&self, device: DeviceId) -> Option<&[u8; 32]> {
        self.devices.iter().find(|(d, _)| *d == device).map(|(_, k)| k)
    }

    fn body(&self) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(self.user_id.as_bytes());
        out.extend_from_slice(&self.version.to_be_bytes());
        for (id, key) in &self.devices {
            out.extend_from_slice(id.as_bytes());
            out.extend_from_slice(key);
        }
        out
    }
}

/// Verifies an Ed25519 signature strictly (no small-order keys, canonical encodings).
pub fn verify(key: &[u8; 32], message: &[u8], signature: &[u8; 64]) -> Result<(), IdentityError> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| IdentityError::Malformed)?;
    key.verify_strict(message, &Signature::from_bytes(signature)).map_err(|_| IdentityError::BadSignature)
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], IdentityError> {
        let (head, rest) = self.0.split_first_chunk::<N>().ok_or(IdentityError::Malformed)?;
        self.0 = rest;
        Ok(*head)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn key(n: u8) -> SigningKey {
        SigningKey::from_bytes(&[n; 32])
    }

    #[test]
    fn a_certificate_holds_for_its_own_device_key_only() {
        let (aik, device) = (key(1), key(2).verifying_key().to_bytes());
        let c = Certificate::issue(&aik, UserId::generate(), DeviceId::generate(), &device);
        assert_eq!(Certificate::verify(&c.to_bytes(), &device).unwrap(), c);
        assert_eq!(Certificate::verify(&c.to_bytes(), &key(3).verifying_key().to_bytes()), Err(IdentityError::BadSignature));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let (aik, device) = (key(1), key(2).verifying_key().to_bytes());
        let c = Certificate::issue(&aik, UserId::generate(), DeviceId::generate(), &device).to_bytes();
        let l = DeviceList { user_id: UserId::generate(), version: 7, devices: vec![(DeviceId::generate(), device)] }.sign(&aik);
        for i in 0..c.len() {
            let mut bad = c.clone();
            bad[i] ^= 1;
            assert!(Certificate::verify(&bad, &device).is_err(), "byte {i}");
        }
        for i in 0..l.len() {
            let mut bad = l.clone();
            bad[i] ^= 1;
            assert!(DeviceList::verify(&bad, &aik.verifying_key().to_bytes()).is_err(), "byte {i}");
            assert!(DeviceList::verify(&l[..i], &aik.verifying_key().to_bytes()).is_err(), "cut at {i}");
        }
        assert!(Certificate::verify(&[], &device).is_err());
    }
}
