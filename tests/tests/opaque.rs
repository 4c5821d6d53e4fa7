//! The OPAQUE implementation against RFC 9807, appendix C: ristretto255-SHA512, HKDF/HMAC-SHA-512, Identity KSF.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use opaque_ke::ksf::{Identity, Ksf};
use opaque_ke::rand::{CryptoRng, Error, RngCore};
use opaque_ke::*;
use std::collections::HashMap;

/// Ours (`sc_protocol::opaque::Suite`) but for the key-stretching function.
struct Rfc;

impl CipherSuite for Rfc {
    type OprfCs = opaque_ke::Ristretto255;
    type KeyExchange = opaque_ke::TripleDh<opaque_ke::Ristretto255, sha2::Sha512>;
    type Ksf = Identity;
}

/// Gives out chosen bytes in order; panics when more are asked for, and on drop when some are left.
struct Fixed(Vec<u8>);

impl Fixed {
    fn new(parts: &[&[u8]]) -> Self {
        Self(parts.concat())
    }
}

impl RngCore for Fixed {
    fn next_u32(&mut self) -> u32 {
        unreachable!("only bytes are drawn")
    }
    fn next_u64(&mut self) -> u64 {
        unreachable!("only bytes are drawn")
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        assert!(self.0.len() >= dest.len(), "{} bytes asked for, {} left", dest.len(), self.0.len());
        let rest = self.0.split_off(dest.len());
        dest.copy_from_slice(&std::mem::replace(&mut self.0, rest));
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}

impl CryptoRng for Fixed {}

impl Drop for Fixed {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.0.is_empty(), "{} bytes were not drawn", self.0.len());
    }
}

struct Vector(HashMap<&'static str, Vec<u8>>);

impl Vector {
    fn load(name: &str) -> Self {
        let head = format!("[{name}]\n");
        let body = include_str!("../vectors/rfc9807.txt").split_once(&head).unwrap().1;
        let line = |l: &'static str| {
            let (key, hex) = l.split_once(' ').unwrap();
            (key, (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(hex.get(i..i + 2).unwrap(), 16).unwrap()).collect())
        };
        Self(body.lines().take_while(|l| !l.starts_with('[')).map(line).collect())
    }

    fn get(&self, key: &str) -> &[u8] {
        self.0.get(key).unwrap_or_else(|| panic!("the vector has no {key}"))
    }

    /// Identities are absent when they are the public keys.
    fn ids(&self) -> Identifiers<'_> {
        Identifiers { client: self.0.get("client_identity").map(Vec::as_slice), server: self.0.get("server_identity").map(Vec::as_slice) }
    }

    fn is(&self, key: &str, got: impl AsRef<[u8]>) {
        let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
        assert_eq!(hex(got.as_ref()), hex(self.get(key)), "{key}");
    }
}

/// A blinding scalar: 64 bytes are drawn and reduced, so the canonical scalar is padded with zeros.
const PAD: &[u8] = &[0; 32];

fn real(name: &str) {
    let v = Vector::load(name);
    let password = v.get("password");
    let id = v.get("credential_identifier");
    // The third part is the *public* key shown for accounts that do not exist; it plays no part here.
    let setup =
        ServerSetup::<Rfc>::deserialize(&[v.get("oprf_seed"), v.get("server_private_key"), v.get("server_public_key")].concat()).unwrap();
    v.is("server_public_key", setup.keypair().public().serialize());

    // Registration.
    let start = ClientRegistration::<Rfc>::start(&mut Fixed::new(&[v.get("blind_registration"), PAD]), password).unwrap();
    v.is("registration_request", start.message.serialize());
    let response = ServerRegistration::<Rfc>::start(&setup, start.message, id).unwrap().message;
    v.is("registration_response", response.serialize());
    let params = ClientRegistrationFinishParameters::new(v.ids(), None);
    let finish = start.state.finish(&mut Fixed::new(&[v.get("envelope_nonce")]), password, response, params).unwrap();
    v.is("registration_upload", finish.message.serialize());
    v.is("export_key", finish.export_key);
    v.is("server_public_key", finish.server_s_pk.serialize());
    let upload = finish.message.serialize();
    v.is("client_public_key", upload.get(..32).unwrap());
    v.is("envelope", upload.get(96..).unwrap());
    let record = ServerRegistration::<Rfc>::finish(finish.message);
    v.is("registration_upload", record.serialize());

    // Login.
    let mut rng = Fixed::new(&[v.get("blind_login"), PAD, v.get("client_keyshare_seed"), v.get("client_nonce")]);
    let client = ClientLogin::<Rfc>::start(&mut rng, password).unwrap();
    v.is("KE1", client.message.serialize());
    // A masking key for a record that does not exist (64) is drawn even when there is one, so that both take as long.
    let mut rng = Fixed::new(&[&[0; 64], v.get("masking_nonce"), v.get("server_keyshare_seed"), v.get("server_nonce")]);
    let params = || ServerLoginParameters { context: Some(v.get("Context")), identifiers: v.ids() };
    let server = ServerLogin::<Rfc>::start(&mut rng, &setup, Some(record), client.message, id, params()).unwrap();
    v.is("KE2", server.message.serialize());
    let finish_params = ClientLoginFinishParameters::new(Some(v.get("Context")), v.ids(), None);
    let finish = client.state.finish(&mut Fixed::new(&[]), password, server.message, finish_params).unwrap();
    v.is("KE3", finish.message.serialize());
    v.is("session_key", finish.session_key);
    v.is("export_key", finish.export_key);
    v.is("server_public_key", finish.server_s_pk.serialize());
    v.is("session_key", server.state.finish(finish.message, params()).unwrap().session_key);
}

#[test]
fn registration_and_login_give_the_published_bytes() {
    real("C.1.1");
}

#[test]
fn registration_and_login_with_identities_give_the_published_bytes() {
    real("C.1.2");
}

#[test]
fn an_account_that_does_not_exist_is_answered_with_the_published_bytes() {
    let v = Vector::load("C.2.1");
    let setup =
        ServerSetup::<Rfc>::deserialize(&[v.get("oprf_seed"), v.get("server_private_key"), v.get("client_public_key")].concat()).unwrap();
    v.is("server_public_key", setup.keypair().public().serialize());
    let mut rng = Fixed::new(&[v.get("masking_key"), v.get("masking_nonce"), v.get("server_keyshare_seed"), v.get("server_nonce")]);
    let params = ServerLoginParameters { context: Some(v.get("Context")), identifiers: v.ids() };
    let ke1 = CredentialRequest::deserialize(v.get("KE1")).unwrap();
    v.is(
        "KE2",
        ServerLogin::<Rfc>::start(&mut rng, &setup, None, ke1, v.get("credential_identifier"), params).unwrap().message.serialize(),
    );
}

/// What is left of our suite: the KSF is Argon2id with the crate's defaults over a zero salt.
#[test]
fn the_key_stretching_is_argon2id_with_these_parameters() {
    use opaque_ke::generic_array::{GenericArray, typenum::U64};
    let got = opaque_ke::argon2::Argon2::default().hash(GenericArray::<u8, U64>::from([7; 64])).unwrap();
    let params = argon2::Params::new(19 * 1024, 2, 1, None).unwrap();
    let mut expect = [0; 64];
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(&[7; 64], &[0; 16], &mut expect)
        .unwrap();
    assert_eq!(got.as_slice(), expect);
}
