//! "Reset for everyone" (level 2): the announcement of a new group, signed by the initiator's device.
//!
//! It binds conversation, generation, the old epoch and the new group, so that the server can neither make one up nor
//! use one again. Receivers also check that the roster of the new group does not grow.

use crate::E2eeError;
use crate::content::from_cbor;
use crate::identity::DeviceKeys;
use sc_protocol::{ConversationId, DeviceId, UserId, identity};
use serde::{Deserialize, Serialize};

const LABEL: &[u8] = b"SecureConnect reset v1\0";

/// What is announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// The new generation.
    pub generation: u32,
    /// The epoch in which the old group ended.
    pub old_epoch: u64,
    /// Suite of the new group; it must not be weaker than the old one.
    pub suite: u16,
    /// Who resets.
    pub user_id: UserId,
    /// With which device.
    pub device_id: DeviceId,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    #[serde(with = "serde_bytes")]
    body: Vec<u8>,
    #[serde(with = "serde_bytes")]
    signature: Vec<u8>,
}

impl Announcement {
    /// Signs it.
    pub fn sign(&self, device: &DeviceKeys) -> Result<Vec<u8>, E2eeError> {
        let mut body = Vec::new();
        ciborium::into_writer(self, &mut body).map_err(|_| E2eeError::Invalid("cannot encode the announcement"))?;
        let signature = device.sign(&[LABEL, &body].concat()).to_vec();
        let mut out = Vec::new();
        ciborium::into_writer(&Signed { body, signature }, &mut out).map_err(|_| E2eeError::Invalid("cannot encode the announcement"))?;
        Ok(out)
    }

    /// Verifies it under the key the initiator's leaf had in the old group.
    pub fn verify(bytes: &[u8], device_key: &[u8]) -> Result<Self, E2eeError> {
        let signed: Signed = from_cbor(bytes)?;
        let key: [u8; 32] = device_key.try_into().map_err(|_| E2eeError::Invalid("device key"))?;
        let signature: [u8; 64] = signed.signature.as_slice().try_into().map_err(|_| E2eeError::Invalid("signature length"))?;
        identity::verify(&key, &[LABEL, &signed.body].concat(), &signature)?;
        from_cbor(&signed.body)
    }
}
