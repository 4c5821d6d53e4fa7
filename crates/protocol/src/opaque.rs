//! The OPAQUE configuration (RFC 9807): OPAQUE-3DH over ristretto255 with SHA-512, Argon2id as the key-stretching
//! function. Both sides must agree on every part, so it is a fact of the protocol.

use opaque_ke::CipherSuite;
use opaque_ke::argon2::Argon2;

/// The suite of this version of the protocol.
#[derive(Debug)]
pub struct Suite;

impl CipherSuite for Suite {
    type OprfCs = opaque_ke::Ristretto255;
    type KeyExchange = opaque_ke::TripleDh<opaque_ke::Ristretto255, sha2::Sha512>;
    type Ksf = Argon2<'static>;
}

/// Bound into the key exchange, so that a transcript of one version is worthless in another.
pub const CONTEXT: &[u8] = b"SecureConnect OPAQUE v1";
