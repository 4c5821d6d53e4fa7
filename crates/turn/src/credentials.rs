//! Credentials of the TURN REST API (draft-uberti-behave-turn-rest): the name is the time they end and who they are for, the
//! password an HMAC-SHA1 of it under a secret the issuer and the relay share. coturn checks the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use md5::{Digest as _, Md5};
use sha1::Sha1;
use sha2::Sha256;

/// A name and its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// `until:pseudonym`.
    pub username: String,
    /// Base64.
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credentials({})", self.username)
    }
}

fn mac(secret: &[u8], text: &[u8]) -> Vec<u8> {
    // HMAC takes keys of any length.
    Hmac::<Sha1>::new_from_slice(secret)
        .map(|mut m| {
            m.update(text);
            m.finalize().into_bytes().to_vec()
        })
        .unwrap_or_default()
}

fn password(secret: &[u8], username: &str) -> String {
    STANDARD.encode(mac(secret, username.as_bytes()))
}

/// Credentials for an account that hold until `until` (Unix seconds). The relay learns a pseudonym of the account, no more.
#[must_use]
pub fn issue(secret: &[u8], account: &[u8], until: i64) -> Credentials {
    let pseudonym = Hmac::<Sha256>::new_from_slice(secret)
        .map(|mut m| {
            m.update(b"SecureConnect TURN pseudonym v1");
            m.update(account);
            m.finalize().into_bytes().iter().take(8).map(|b| format!("{b:02x}")).collect::<String>()
        })
        .unwrap_or_default();
    let username = format!("{until}:{pseudonym}");
    let password = password(secret, &username);
    Credentials { username, password }
}

/// The long-term key (RFC 8489, 9.2.2) of a name whose time has not ended, and who it is for.
#[must_use]
pub fn key<'a>(secret: &[u8], realm: &str, username: &'a str, now: i64) -> Option<([u8; 16], &'a str)> {
    let (until, who) = username.split_once(':')?;
    let until: i64 = until.parse().ok()?;
    (until >= now && !who.is_empty()).then(|| (long_term(username, realm, &password(secret, username)), who))
}

/// MD5 of name, realm and password, as the RFC has it.
#[must_use]
pub fn long_term(username: &str, realm: &str, password: &str) -> [u8; 16] {
    Md5::new().chain_update(format!("{username}:{realm}:{password}")).finalize().into()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn what_is_issued_is_taken_until_its_time_ends() {
        let c = issue(b"north", &[3; 16], 1_000);
        assert!(c.username.starts_with("1000:") && c.username.len() == 21);
        assert_eq!(c.password, password(b"north", &c.username));
        let (k, who) = key(b"north", "here", &c.username, 1_000).unwrap();
        assert_eq!((k, who.len()), (long_term(&c.username, "here", &c.password), 16));
        assert!(key(b"north", "here", &c.username, 1_001).is_none());
        for bad in ["", ":", "x:y", "99999999999999999999:y", "5000:"] {
            assert!(key(b"north", "here", bad, 0).is_none(), "{bad}");
        }
    }

    #[test]
    fn the_long_term_key_is_that_of_the_rfc() {
        // RFC 8489, B.1: user, realm, pass.
        let hex: String = long_term("user", "realm", "pass").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hex, "8493fbc53ba582fb4c044c456bdc40eb");
    }
}
