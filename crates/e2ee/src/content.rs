//! What is inside a message: a versioned, self-describing CBOR envelope, padded to buckets.
//!
//! Kinds this build does not know are kept as bytes and shown as "newer version needed"; nothing is thrown away. `n`
//! counts the messages of a device in a conversation: a hole means the server held something back.

use crate::E2eeError;
use crate::identity::DeviceKeys;
use crate::sealed;
use rand::{CryptoRng, RngCore};
use sc_protocol::{TempId, UnixMillis, limits};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Padded sizes; above the last one, multiples of it.
const BUCKETS: [usize; 5] = [192, 512, 1536, 4096, 12_288];
/// Bytes of a call's signal.
const CALL_BYTES: usize = 32 * 1024;
const RESEND_INFO: &[u8] = b"SecureConnect resend v1";

/// Text, maybe as a reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Text {
    /// At most [`limits::TEXT_CHARS`] characters.
    pub body: String,
    /// The message it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply_to: Option<TempId>,
}

/// Asks for messages again: they could not be read here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResendRequest {
    /// Places in the log, at most 100.
    pub seqs: Vec<u64>,
    /// The answer is sealed to this key, so that only the asking device can open it.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
}

/// A message that was asked for, sealed to the asking device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResendAnswer {
    /// Its place in the log.
    pub seq: u64,
    /// [`Resent`] in CBOR, sealed.
    #[serde(with = "serde_bytes")]
    pub sealed: Vec<u8>,
}

/// What a resend answer holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resent {
    /// The message's id.
    pub temp_id: TempId,
    /// The message as it was encoded.
    #[serde(with = "serde_bytes")]
    pub message: Vec<u8>,
}

impl ResendAnswer {
    /// Seals a message for the device that asked.
    pub fn seal<R: RngCore + CryptoRng>(seq: u64, resent: &Resent, key: &[u8], rng: &mut R) -> Result<Self, E2eeError> {
        let key: [u8; 32] = key.try_into().map_err(|_| E2eeError::Invalid("resend key"))?;
        Ok(Self { seq, sealed: sealed::seal(&key, RESEND_INFO, &cbor(resent)?, rng)? })
    }

    /// Opens an answer to this device; an error when it is for another one.
    pub fn open(&self, device: &DeviceKeys) -> Result<Resent, E2eeError> {
        from_cbor(&sealed::open(device.link_secret(), RESEND_INFO, &self.sealed)?)
    }
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Content {
    /// Text.
    Text(Text),
    /// The title of the group.
    Title(String),
    /// Messages are asked for again.
    ResendRequest(ResendRequest),
    /// A message that was asked for.
    ResendAnswer(ResendAnswer),
    /// A session was refreshed by rejoining; a system line.
    SessionRefreshed,
    /// Somebody came into the empty room of the conversation; a system line.
    RoomOpened,
    /// A signal of a call, as the call's own encoding has it.
    Call(Vec<u8>),
    /// Of a newer version; kept as it is.
    Unknown(String),
}

/// A message as it is encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The sender's id for it.
    pub temp_id: TempId,
    /// Counts the sending device's messages in the conversation, from 1.
    pub n: u64,
    /// When it was written, by the sender's clock.
    pub written_at: UnixMillis,
    /// What it says.
    pub content: Content,
}

#[derive(Serialize, Deserialize)]
struct Wire {
    v: u8,
    id: TempId,
    n: u64,
    at: UnixMillis,
    k: String,
    #[serde(with = "serde_bytes")]
    b: Vec<u8>,
}

fn cbor<T: Serialize>(v: &T) -> Result<Vec<u8>, E2eeError> {
    let mut out = Vec::new();
    ciborium::into_writer(v, &mut out).map_err(|_| E2eeError::Invalid("cannot encode the content"))?;
    Ok(out)
}

/// Decodes what another member wrote. Nothing of ours is nested deeper than this, and what is would use up the stack.
pub(crate) fn from_cbor<T: DeserializeOwned>(b: &[u8]) -> Result<T, E2eeError> {
    const DEPTH: usize = 16;
    ciborium::de::from_reader_with_recursion_limit(b, DEPTH).map_err(|_| E2eeError::Invalid("the content cannot be read"))
}

impl Message {
    /// Encodes without padding, for the store.
    pub fn encode(&self) -> Result<Vec<u8>, E2eeError> {
        let (k, b) = match &self.content {
            Content::Text(t) => ("text", cbor(t)?),
            Content::Title(t) => ("title", cbor(t)?),
            Content::ResendRequest(r) => ("resend_request", cbor(r)?),
            Content::ResendAnswer(r) => ("resend_answer", cbor(r)?),
            Content::SessionRefreshed => ("session_refreshed", cbor(&())?),
            Content::RoomOpened => ("room_opened", cbor(&())?),
            Content::Call(signal) => ("call", signal.clone()),
            Content::Unknown(k) => return Err(E2eeError::Mls(format!("content of kind {k} cannot be written by this version"))),
        };
        cbor(&Wire { v: 1, id: self.temp_id, n: self.n, at: self.written_at, k: k.to_owned(), b })
    }

    /// Encodes and pads to a bucket: content, 0x80, zeros (ISO/IEC 7816-4).
    pub fn encode_padded(&self) -> Result<Vec<u8>, E2eeError> {
        let mut out = self.encode()?;
        out.push(0x80);
        let last = BUCKETS.last().copied().unwrap_or(512);
        let size = BUCKETS.iter().copied().find(|b| out.len() <= *b).unwrap_or_else(|| out.len().div_ceil(last) * last);
        out.resize(size, 0);
        Ok(out)
    }

    /// Decodes what [`Message::encode`] or [`Message::encode_padded`] wrote; limits are checked here, once.
    pub fn decode(bytes: &[u8]) -> Result<Self, E2eeError> {
        let w: Wire = from_cbor(bytes)?;
        let content = match w.k.as_str() {
            "text" => {
                let t: Text = from_cbor(&w.b)?;
                if t.body.chars().count() > limits::TEXT_CHARS {
                    return Err(E2eeError::Invalid("the text is longer than allowed"));
                }
                Content::Text(t)
            }
            "title" => {
                let t: String = from_cbor(&w.b)?;
                if t.chars().count() > limits::TITLE_CHARS {
                    return Err(E2eeError::Invalid("the title is longer than allowed"));
                }
                Content::Title(t)
            }
            "resend_request" => {
                let r: ResendRequest = from_cbor(&w.b)?;
                if r.seqs.len() > 100 || r.key.len() != 32 {
                    return Err(E2eeError::Invalid("the resend request is malformed"));
                }
                Content::ResendRequest(r)
            }
            "resend_answer" => Content::ResendAnswer(from_cbor(&w.b)?),
            "session_refreshed" => Content::SessionRefreshed,
            "room_opened" => Content::RoomOpened,
            "call" if w.b.len() > CALL_BYTES => return Err(E2eeError::Invalid("the call signal is longer than allowed")),
            "call" => Content::Call(w.b),
            other => Content::Unknown(other.chars().take(64).collect()),
        };
        Ok(Self { temp_id: w.id, n: w.n, written_at: w.at, content })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    fn text(body: &str) -> Message {
        let id = TempId(uuid::Uuid::from_bytes([5; 16]));
        Message { temp_id: id, n: 3, written_at: 1_700_000_000_000, content: Content::Text(Text { body: body.into(), reply_to: None }) }
    }

    #[test]
    fn the_encoding_is_pinned() {
        let hex: String = text("xin chào").encode().unwrap().iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(
            hex,
            "a66176016269645005050505050505050505050505050505616e036261741b0000018bcfe56800616b6474657874616250a164626f64796978696e206368c3a06f"
        );
    }

    #[test]
    fn padding_hides_the_length_and_comes_off_again() {
        let sizes: Vec<usize> =
            ["a", "ab", "a longer sentence of some words"].iter().map(|s| text(s).encode_padded().unwrap().len()).collect();
        assert_eq!(sizes, [192, 192, 192]);
        for len in [1, 150, 500, 5_000, 10_000] {
            let m = text(&"x".repeat(len));
            assert_eq!(Message::decode(&m.encode_padded().unwrap()).unwrap(), m);
        }
    }

    #[test]
    fn a_kind_of_a_newer_version_is_kept_apart() {
        let w = Wire { v: 2, id: TempId::generate(), n: 1, at: 0, k: "hologram".into(), b: vec![1] };
        assert_eq!(Message::decode(&cbor(&w).unwrap()).unwrap().content, Content::Unknown("hologram".into()));
    }

    #[test]
    fn what_is_nested_too_deep_is_refused_and_not_followed() {
        for deep in [vec![0x81; 100_000], [0xa1, 0x61, b'a'].repeat(100_000), vec![0xd8; 100_000]] {
            assert!(from_cbor::<ciborium::Value>(&deep).is_err());
            assert!(Message::decode(&deep).is_err());
        }
    }

    #[test]
    fn limits_hold_on_receipt_and_garbage_is_an_error() {
        assert!(Message::decode(&text(&"x".repeat(10_001)).encode().unwrap()).is_err());
        assert!(Message::decode(&text(&"ạ".repeat(10_000)).encode().unwrap()).is_ok());
        let good = text("hello").encode().unwrap();
        for cut in 0..good.len() {
            assert!(Message::decode(&good[..cut]).is_err());
        }
    }
}
