//! LiveKit access tokens: who may come into which room, which server may look after which rooms, and that a webhook is the cluster's;
//! all signed with the secret of a key (HS256).

use crate::error::{ApiError, ApiResult};
use base64::Engine as _;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sc_protocol::ErrorCode;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use std::collections::HashMap;
use zeroize::Zeroizing;

/// Issuer of our own tokens.
pub(crate) const ISSUER: &str = "secureconnect";
/// How long a token is good for, in seconds: a connection that breaks is taken up again with it.
const SECONDS: i64 = 6 * 3_600;
/// How long one server's token for another one is good for: one request.
const ERRAND_SECONDS: i64 = 60;

/// LiveKit's grant for media.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(clippy::struct_excessive_bools)] // As LiveKit has it.
pub struct VideoGrant {
    /// May come in.
    pub room_join: bool,
    /// Where.
    pub room: String,
    /// May send; yes when it is not said.
    pub can_publish: Option<bool>,
    /// May receive; yes when it is not said.
    pub can_subscribe: Option<bool>,
    /// May send data; as `can_publish` when it is not said.
    pub can_publish_data: Option<bool>,
    /// May change name, metadata, attributes of their own.
    pub can_update_own_metadata: Option<bool>,
    /// Not shown to others.
    pub hidden: bool,
    /// May list rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_list: bool,
    /// May close rooms.
    #[serde(skip_serializing_if = "is_false")]
    pub room_create: bool,
    /// May list, silence and take out those in `room`.
    #[serde(skip_serializing_if = "is_false")]
    pub room_admin: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref)] // As serde calls it.
fn is_false(b: &bool) -> bool {
    !b
}

/// LiveKit's settings of a room that a token brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RoomConfig {
    /// Seats.
    pub max_participants: u32,
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Claims {
    /// The API key.
    pub iss: String,
    /// The identity; nothing in a server's token.
    #[serde(default)]
    pub sub: String,
    /// Until, in seconds since 1970.
    pub exp: i64,
    /// From.
    #[serde(default)]
    pub nbf: i64,
    /// Shown to others.
    #[serde(default)]
    pub name: String,
    /// Shown to others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    /// Shown to others.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub attributes: HashMap<String, String>,
    /// What they may do.
    pub video: VideoGrant,
    /// For a cluster that makes the room by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_config: Option<RoomConfig>,
}

/// What a webhook's token says besides whose it is.
#[derive(Debug, Deserialize)]
struct Digest {
    sha256: String,
}

/// A key and its secret: signs tokens and tells whether one was signed with it.
pub struct Signer {
    issuer: String,
    secret: Zeroizing<Vec<u8>>,
}

impl Signer {
    /// This server's own key.
    #[must_use]
    pub fn own(key: &[u8; 32]) -> Self {
        Self { issuer: ISSUER.into(), secret: Zeroizing::new(key.to_vec()) }
    }

    /// An API key that two servers share.
    #[must_use]
    pub fn shared(key: &str, secret: &str) -> Self {
        Self { issuer: key.to_owned(), secret: Zeroizing::new(secret.as_bytes().to_vec()) }
    }

    /// The key's name.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// A token for somebody who may come in.
    pub fn sign(&self, room: &str, identity: &str, name: &str, seats: u32, now_ms: i64) -> ApiResult<String> {
        let video = VideoGrant {
            room_join: true,
            room: room.to_owned(),
            can_publish: Some(true),
            can_subscribe: Some(true),
            can_publish_data: Some(true),
            can_update_own_metadata: Some(true),
            ..VideoGrant::default()
        };
        let config = Some(RoomConfig { max_participants: seats });
        self.encode(Claims { room_config: config, ..self.claims(identity, name, video, SECONDS, now_ms) })
    }

    /// A server's token for one request.
    pub fn errand(&self, video: VideoGrant, now_ms: i64) -> ApiResult<String> {
        self.encode(self.claims("", "", video, ERRAND_SECONDS, now_ms))
    }

    fn claims(&self, identity: &str, name: &str, video: VideoGrant, seconds: i64, now_ms: i64) -> Claims {
        let now = now_ms / 1_000;
        Claims {
            iss: self.issuer.clone(),
            sub: identity.to_owned(),
            // A clock that is a little behind is no reason to be refused.
            nbf: now - 60,
            exp: now + seconds,
            name: name.to_owned(),
            metadata: String::new(),
            attributes: HashMap::new(),
            video,
            room_config: None,
        }
    }

    fn encode(&self, claims: Claims) -> ApiResult<String> {
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&self.secret)).map_err(ApiError::internal)
    }

    fn decode<T: DeserializeOwned>(&self, token: &str) -> Option<T> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[&self.issuer]);
        rules.set_required_spec_claims(&["exp", "iss"]);
        rules.validate_nbf = true;
        jsonwebtoken::decode::<T>(token, &DecodingKey::from_secret(&self.secret), &rules).ok().map(|t| t.claims)
    }

    /// What a token for a room says; refused when it was not signed with this key, is not yet or no longer good, or names no room.
    pub fn verify(&self, token: &str) -> ApiResult<Claims> {
        let fits = |c: &Claims| c.video.room_join && !c.video.room.is_empty() && !c.sub.is_empty();
        let refused = || ApiError::new(ErrorCode::Unauthenticated, "The token of the room is not valid. Ask for a new one.");
        self.decode(token).filter(fits).ok_or_else(refused)
    }

    /// What a server may do that shows this token; nothing when it was not signed with this key, or is not good now.
    #[must_use]
    pub fn verify_errand(&self, token: &str) -> Option<VideoGrant> {
        self.decode::<Claims>(token).map(|c| c.video)
    }

    /// True when that body was signed with this key.
    #[must_use]
    pub fn signed(&self, token: &str, body: &[u8]) -> bool {
        let digest = || base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(body));
        self.decode::<Digest>(token).is_some_and(|d| d.sha256 == digest())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::now_ms;

    #[test]
    fn a_token_says_what_livekit_reads_and_is_good_for_its_room_only() {
        let signer = Signer::own(&[7; 32]);
        let token = signer.sign("room", "u:1", "Lan", 6, now_ms()).unwrap();
        let claims = signer.verify(&token).unwrap();
        assert_eq!((claims.sub.as_str(), claims.video.room.as_str(), claims.name.as_str()), ("u:1", "room", "Lan"));
        let json = serde_json::to_value(&claims).unwrap();
        assert_eq!(json.pointer("/video/roomJoin"), Some(&true.into()));
        assert_eq!(json.pointer("/video/canPublish"), Some(&true.into()));
        assert_eq!(json.pointer("/video/roomAdmin"), None, "nobody is given more than they need");
        assert_eq!(json.pointer("/roomConfig/maxParticipants"), Some(&6.into()));
        assert!(Signer::own(&[8; 32]).verify(&token).is_err(), "another server's");
        let old = signer.sign("room", "u:1", "", 6, now_ms() - 7 * 3_600_000).unwrap();
        assert!(signer.verify(&old).is_err(), "too old");
    }

    #[test]
    fn a_servers_token_opens_no_room_and_is_good_for_a_moment() {
        let signer = Signer::shared("home", "a secret that two servers share");
        let list = VideoGrant { room_list: true, ..VideoGrant::default() };
        let token = signer.errand(list.clone(), now_ms()).unwrap();
        assert_eq!(signer.verify_errand(&token), Some(list.clone()));
        assert!(signer.verify(&token).is_err());
        assert_eq!(Signer::shared("home", "another").verify_errand(&token), None);
        assert_eq!(Signer::shared("other", "a secret that two servers share").verify_errand(&token), None);
        assert_eq!(signer.verify_errand(&signer.errand(list, now_ms() - 600_000).unwrap()), None);
    }

    #[test]
    fn a_webhook_is_taken_only_with_the_digest_of_its_body() {
        let signer = Signer::shared("home", "a secret that two servers share");
        let body = br#"{"event":"participant_left"}"#;
        let sha256 = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(body));
        let claims = serde_json::json!({ "iss": "home", "exp": now_ms() / 1_000 + 60, "nbf": now_ms() / 1_000, "sha256": sha256 });
        let key = EncodingKey::from_secret(b"a secret that two servers share");
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap();
        assert!(signer.signed(&token, body));
        assert!(!signer.signed(&token, b"{}"), "another body");
        assert!(!signer.signed(&signer.sign("room", "u:1", "", 6, now_ms()).unwrap(), body), "a token for a room");
        assert!(!Signer::shared("home", "another").signed(&token, body));
    }
}
