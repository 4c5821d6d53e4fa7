//! Safety numbers: Signal's numeric fingerprint (version 0, 5200 rounds of SHA-512) over account identity keys.
//!
//! Each side contributes 30 digits; the halves are sorted as text, so both people see the same 60. The QR code carries
//! the first 32 bytes of both fingerprints; a scan compares them crosswise.

use crate::E2eeError;
use sha2::{Digest as _, Sha512};
use subtle::ConstantTimeEq as _;

const ROUNDS: usize = 5200;
const QR_VERSION: u8 = 1;

/// The fingerprint of one side, in full.
fn fingerprint(key: &[u8], id: &[u8]) -> [u8; 64] {
    let mut hash = Sha512::new().chain_update([0, 0]).chain_update(key).chain_update(id).chain_update(key).finalize();
    for _ in 1..ROUNDS {
        hash = Sha512::new().chain_update(hash).chain_update(key).finalize();
    }
    hash.into()
}

fn digits(fingerprint: &[u8; 64]) -> String {
    fingerprint
        .chunks_exact(5)
        .take(6)
        .map(|c| {
            let n = c.iter().fold(0u64, |n, b| n << 8 | u64::from(*b));
            format!("{:05}", n % 100_000)
        })
        .collect()
}

/// Thirty digits for the state of a group: those who see the same ones are in the same group, with nobody in between. From the
/// epoch authenticator (RFC 9420, 8.7).
#[must_use]
pub fn epoch_check(authenticator: &[u8]) -> String {
    digits(&Sha512::new().chain_update(b"SecureConnect epoch check v1").chain_update(authenticator).finalize().into())
}

/// One side of a comparison: an Ed25519 identity key with its type byte, and the account's id.
fn side(key: &[u8; 32], user: &[u8; 16]) -> [u8; 64] {
    let mut typed = [0xED; 33];
    for (to, from) in typed.iter_mut().skip(1).zip(key) {
        *to = *from;
    }
    fingerprint(&typed, user)
}

/// The safety number of two people.
#[derive(Clone, PartialEq, Eq)]
pub struct SafetyNumber {
    own: [u8; 64],
    other: [u8; 64],
}

impl std::fmt::Debug for SafetyNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.digits())
    }
}

impl SafetyNumber {
    /// Of this account and another one.
    #[must_use]
    pub fn new(own_key: &[u8; 32], own_user: &[u8; 16], other_key: &[u8; 32], other_user: &[u8; 16]) -> Self {
        Self { own: side(own_key, own_user), other: side(other_key, other_user) }
    }

    /// The 60 digits, the same on both sides.
    #[must_use]
    pub fn digits(&self) -> String {
        let (a, b) = (digits(&self.own), digits(&self.other));
        if a < b { a + &b } else { b + &a }
    }

    /// What this side's QR code carries: version, own half, other half.
    #[must_use]
    pub fn qr(&self) -> Vec<u8> {
        let mut out = vec![QR_VERSION];
        out.extend(self.own.iter().take(32));
        out.extend(self.other.iter().take(32));
        out
    }

    /// Compares with the other side's code; an error when it is no such code at all.
    pub fn matches_qr(&self, scanned: &[u8]) -> Result<bool, E2eeError> {
        let (version, rest) = scanned.split_first().ok_or(E2eeError::Invalid("the code is empty"))?;
        if *version != QR_VERSION || rest.len() != 64 {
            return Err(E2eeError::Invalid("this is not a safety number of this version"));
        }
        let expect: Vec<u8> = self.other.iter().take(32).chain(self.own.iter().take(32)).copied().collect();
        Ok(rest.ct_eq(&expect).into())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn hex(s: &str) -> Vec<u8> {
        (0..s.len()).step_by(2).map(|i| u8::from_str_radix(s.get(i..i + 2).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn signals_published_number_comes_out() {
        let a = hex("0506863bc66d02b40d27b8d49ca7c09e9239236f9d7d25d6fcca5ce13c7064d868");
        let b = hex("05f781b6fb32fed9ba1cf2de978d4d5da28dc34046ae814402b5c0dbd96fda907b");
        let n = SafetyNumber { own: fingerprint(&a, b"+14152222222"), other: fingerprint(&b, b"+14153333333") };
        assert_eq!(n.digits(), "300354477692869396892869876765458257569162576843440918079131");
    }

    #[test]
    fn both_sides_see_the_same_and_the_codes_match_crosswise() {
        let (ka, ua, kb, ub) = ([1; 32], [2; 16], [3; 32], [4; 16]);
        let (a, b) = (SafetyNumber::new(&ka, &ua, &kb, &ub), SafetyNumber::new(&kb, &ub, &ka, &ua));
        assert_eq!(a.digits(), b.digits());
        assert_eq!(a.digits().len(), 60);
        assert!(a.matches_qr(&b.qr()).unwrap());
        assert!(!a.matches_qr(&a.qr()).unwrap());
        assert!(a.matches_qr(&[]).is_err());
        assert!(a.matches_qr(&[1; 64]).is_err());
        assert_ne!(SafetyNumber::new(&ka, &ua, &[9; 32], &ub).digits(), a.digits());
    }
}
