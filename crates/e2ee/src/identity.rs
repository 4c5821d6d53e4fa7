//! The keys of a person and of a device.
//!
//! The account identity key (Ed25519) signs device certificates and the device list, nothing else. Each device has a
//! key of its own (Ed25519), which is its leaf key in every group, and a link key (X25519) to be sent secrets.

use crate::E2eeError;
use crate::sealed;
use ed25519_dalek::{Signer as _, SigningKey};
use rand::{CryptoRng, RngCore};
use sc_protocol::identity::{Certificate, DeviceList};
use sc_protocol::{DeviceId, UserId};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

const LINK_INFO: &[u8] = b"SecureConnect link v1";

/// The account identity: private half.
#[derive(Clone, ZeroizeOnDrop)]
pub struct AccountIdentity(SigningKey);

impl std::fmt::Debug for AccountIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AccountIdentity(redacted)")
    }
}

impl AccountIdentity {
    /// A new identity.
    pub fn generate<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        Self(SigningKey::generate(rng))
    }

    /// From its 32-byte seed.
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for the encrypted store.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half, which others pin.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.0.verifying_key().to_bytes()
    }

    /// Certifies a device.
    #[must_use]
    pub fn certify(&self, user: UserId, device: DeviceId, device_key: &[u8; 32]) -> Certificate {
        Certificate::issue(&self.0, user, device, device_key)
    }

    /// Signs a device list.
    #[must_use]
    pub fn sign_list(&self, list: &DeviceList) -> Vec<u8> {
        list.sign(&self.0)
    }

    /// Encrypts the identity to a device that is being linked.
    pub fn seal_for<R: RngCore + CryptoRng>(&self, link_key: &[u8; 32], rng: &mut R) -> Result<Vec<u8>, E2eeError> {
        sealed::seal(link_key, LINK_INFO, self.seed().as_ref(), rng)
    }

    /// Opens an identity that was sealed for this device; it must be the one the account shows in public.
    pub fn open(device: &DeviceKeys, bytes: &[u8], expect_public: &[u8]) -> Result<Self, E2eeError> {
        let seed = sealed::open(&device.link, LINK_INFO, bytes)?;
        let seed: [u8; 32] = seed.as_slice().try_into().map_err(|_| E2eeError::Invalid("the sealed identity has a wrong length"))?;
        let this = Self::from_seed(&seed);
        if this.public() == expect_public { Ok(this) } else { Err(E2eeError::Invalid("the sealed identity is another account's")) }
    }
}

/// The keys of this device.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct DeviceKeys {
    /// The device.
    #[zeroize(skip)]
    pub device_id: DeviceId,
    seed: [u8; 32],
    link: [u8; 32],
}

impl std::fmt::Debug for DeviceKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceKeys({})", self.device_id)
    }
}

impl DeviceKeys {
    /// New keys for a new device.
    pub fn generate<R: RngCore + CryptoRng>(rng: &mut R) -> Self {
        let (mut seed, mut link) = ([0; 32], [0; 32]);
        rng.fill_bytes(&mut seed);
        rng.fill_bytes(&mut link);
        Self { device_id: DeviceId::generate(), seed, link }
    }

    fn signing(&self) -> SigningKey {
        SigningKey::from_bytes(&self.seed)
    }

    /// The device's signature key: the leaf key.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.signing().verifying_key().to_bytes()
    }

    /// The key others seal to.
    #[must_use]
    pub fn link_public(&self) -> [u8; 32] {
        sealed::public(&self.link)
    }

    pub(crate) fn link_secret(&self) -> &[u8; 32] {
        &self.link
    }

    /// Signs as this device.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing().sign(message).to_bytes()
    }
}

/// What both sides show when a device is linked: 30 digits over the new device's keys and the account's identity key.
///
/// The server carries the keys, so the code has to be too long to be met by chance: about 2^99, each try 5200 hashes.
#[must_use]
pub fn link_code(user: UserId, device: DeviceId, signature_key: &[u8], link_key: &[u8], identity_key: &[u8]) -> String {
    use sha2::{Digest as _, Sha512};
    let mut digest = Sha512::new()
        .chain_update(b"SecureConnect link code v1\0")
        .chain_update(identity_key)
        .chain_update(user.as_bytes())
        .chain_update(device.as_bytes())
        .chain_update(signature_key)
        .chain_update(link_key)
        .finalize();
    for _ in 1..5200 {
        digest = Sha512::new().chain_update(digest).chain_update(signature_key).finalize();
    }
    let group = |c: &[u8]| format!("{:05}", c.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)) % 100_000);
    digest.chunks_exact(5).take(6).map(group).collect::<Vec<_>>().join(" ")
}
