//! Sealing to one X25519 key: an ephemeral key agreement, HKDF-SHA256 over the transcript, AES-256-GCM.
//!
//! Wire form: ephemeral public key (32) ‖ ciphertext with tag. The key is used once, so the nonce is zero.

use crate::E2eeError;
use aes_gcm::aead::{Aead as _, Payload};
use aes_gcm::{Aes256Gcm, KeyInit as _};
use hkdf::Hkdf;
use rand::{CryptoRng, RngCore};
use sha2::Sha256;
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// The public half of a secret.
#[must_use]
pub fn public(secret: &[u8; 32]) -> [u8; 32] {
    PublicKey::from(&StaticSecret::from(*secret)).to_bytes()
}

/// Seals `plaintext` to `recipient`; `info` separates uses.
pub fn seal<R: RngCore + CryptoRng>(recipient: &[u8; 32], info: &[u8], plaintext: &[u8], rng: &mut R) -> Result<Vec<u8>, E2eeError> {
    let ephemeral = StaticSecret::random_from_rng(rng);
    let public = PublicKey::from(&ephemeral).to_bytes();
    let key = derive(&ephemeral, recipient, &public, recipient, info)?;
    let cipher = Aes256Gcm::new_from_slice(key.as_ref()).map_err(|_| E2eeError::Invalid("key length"))?;
    let ciphertext =
        cipher.encrypt(&Default::default(), Payload { msg: plaintext, aad: info }).map_err(|_| E2eeError::Invalid("cannot seal"))?;
    Ok([public.as_slice(), &ciphertext].concat())
}

/// Opens what was sealed to `secret`.
pub fn open(secret: &[u8; 32], info: &[u8], bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, E2eeError> {
    let (ephemeral, ciphertext) = bytes.split_first_chunk::<32>().ok_or(E2eeError::Invalid("the sealed data is too short"))?;
    let own = StaticSecret::from(*secret);
    let key = derive(&own, ephemeral, ephemeral, &PublicKey::from(&own).to_bytes(), info)?;
    let cipher = Aes256Gcm::new_from_slice(key.as_ref()).map_err(|_| E2eeError::Invalid("key length"))?;
    cipher
        .decrypt(&Default::default(), Payload { msg: ciphertext, aad: info })
        .map(Zeroizing::new)
        .map_err(|_| E2eeError::Invalid("the sealed data is not for this device or was changed"))
}

fn derive(
    secret: &StaticSecret,
    peer: &[u8; 32],
    ephemeral: &[u8; 32],
    recipient: &[u8; 32],
    info: &[u8],
) -> Result<Zeroizing<[u8; 32]>, E2eeError> {
    let shared = secret.diffie_hellman(&PublicKey::from(*peer));
    if !shared.was_contributory() {
        return Err(E2eeError::Invalid("the key agreement is degenerate"));
    }
    let mut key = Zeroizing::new([0u8; 32]);
    Hkdf::<Sha256>::new(Some(&[ephemeral.as_slice(), recipient].concat()), shared.as_bytes())
        .expand(info, key.as_mut())
        .map_err(|_| E2eeError::Invalid("key derivation"))?;
    Ok(key)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn only_the_recipient_opens_it_for_the_same_use_unchanged() {
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(1);
        let (own, other) = ([7u8; 32], [8u8; 32]);
        let bytes = seal(&public(&own), b"use", b"secret", &mut rng).unwrap();
        assert_eq!(open(&own, b"use", &bytes).unwrap().as_slice(), b"secret");
        assert!(open(&other, b"use", &bytes).is_err());
        assert!(open(&own, b"other use", &bytes).is_err());
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert!(open(&own, b"use", &bad).is_err(), "byte {i}");
        }
        assert!(open(&own, b"use", &[0u8; 48]).is_err(), "a low-order point");
    }
}
