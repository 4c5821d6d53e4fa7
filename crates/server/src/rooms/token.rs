//! LiveKit access tokens: who may come into which room, signed (HS256).

use crate::config::Config;
use crate::error::{ApiError, ApiResult};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use sc_protocol::ErrorCode;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// Issuer of our own tokens.
const ISSUER: &str = "secureconnect";
/// How long a token is good for, in seconds: a connection that breaks is taken up again with it.
const SECONDS: i64 = 6 * 3_600;

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
    /// The identity.
    pub sub: String,
    /// Until, in seconds since 1970.
    pub exp: i64,
    /// From.
    pub nbf: i64,
    /// Shown to others.
    #[serde(default)]
    pub name: String,
    /// What they may do.
    pub video: VideoGrant,
    /// For a cluster that makes the room by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_config: Option<RoomConfig>,
}

/// Signs tokens: for this server's own unit, or for an outside LiveKit cluster.
pub struct Signer {
    issuer: String,
    secret: Zeroizing<Vec<u8>>,
}

impl Signer {
    /// With the key of the configuration's cluster, or with the server's own.
    #[must_use]
    pub fn new(config: &Config, own: &[u8; 32]) -> Self {
        if config.livekit_url.is_empty() {
            return Self { issuer: ISSUER.into(), secret: Zeroizing::new(own.to_vec()) };
        }
        Self { issuer: config.livekit_key.clone(), secret: Zeroizing::new(config.livekit_secret.reveal().as_bytes().to_vec()) }
    }

    /// A token for somebody who may come in.
    pub fn sign(&self, room: &str, identity: &str, name: &str, seats: u32, now_ms: i64) -> ApiResult<String> {
        let now = now_ms / 1_000;
        let claims = Claims {
            iss: self.issuer.clone(),
            sub: identity.to_owned(),
            // A clock that is a little behind is no reason to be refused.
            nbf: now - 60,
            exp: now + SECONDS,
            name: name.to_owned(),
            video: VideoGrant {
                room_join: true,
                room: room.to_owned(),
                can_publish: Some(true),
                can_subscribe: Some(true),
                can_publish_data: Some(true),
                can_update_own_metadata: Some(true),
                hidden: false,
            },
            room_config: Some(RoomConfig { max_participants: seats }),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(&self.secret)).map_err(ApiError::internal)
    }

    /// What a token of ours says; refused when it is not ours, not yet or no longer good, or names no room.
    pub fn verify(&self, token: &str) -> ApiResult<Claims> {
        let refused = || ApiError::new(ErrorCode::Unauthenticated, "The token of the room is not valid. Ask for a new one.");
        let mut rules = Validation::new(Algorithm::HS256);
        rules.set_issuer(&[&self.issuer]);
        rules.set_required_spec_claims(&["exp", "sub", "iss"]);
        rules.validate_nbf = true;
        let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(&self.secret), &rules).map_err(|_| refused())?.claims;
        if !claims.video.room_join || claims.video.room.is_empty() || claims.sub.is_empty() {
            return Err(refused());
        }
        Ok(claims)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::now_ms;

    #[test]
    fn a_token_says_what_livekit_reads_and_is_good_for_its_room_only() {
        let signer = Signer::new(&Config::default(), &[7; 32]);
        let token = signer.sign("room", "u:1", "Lan", 6, now_ms()).unwrap();
        let claims = signer.verify(&token).unwrap();
        assert_eq!((claims.sub.as_str(), claims.video.room.as_str(), claims.name.as_str()), ("u:1", "room", "Lan"));
        let json = serde_json::to_value(&claims).unwrap();
        assert_eq!(json.pointer("/video/roomJoin"), Some(&true.into()));
        assert_eq!(json.pointer("/video/canPublish"), Some(&true.into()));
        assert_eq!(json.pointer("/roomConfig/maxParticipants"), Some(&6.into()));
        assert!(Signer::new(&Config::default(), &[8; 32]).verify(&token).is_err(), "another server's");
        let old = signer.sign("room", "u:1", "", 6, now_ms() - 7 * 3_600_000).unwrap();
        assert!(signer.verify(&old).is_err(), "too old");
    }
}
