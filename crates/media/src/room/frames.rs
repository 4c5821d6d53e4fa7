//! End-to-end encryption of encoded frames: LiveKit's format, so that its SDKs with the same key hear and see us.
//!
//! `clear header ‖ AES-128-GCM(frame) ‖ tag 16 ‖ IV 12 ‖ 0x0C ‖ key index`. The clear header is what a forwarding unit must see: the first byte
//! of a packet of Opus, 10 bytes of a key frame of VP8 and 3 of any other; it is authenticated.
//!
//! Keys. A link's text becomes one key for everybody by PBKDF2, as in the SDKs. A conversation's secret is exported from its MLS group
//! anew in each epoch; every sender's key is derived from it with their identity, and the index is the epoch modulo 16. A sender goes over to
//! a new epoch after [`SWITCH`], so that receivers have it; receivers keep the one before for [`KEEP`].

use aes_gcm::aead::{Aead as _, AeadInPlace as _};
use aes_gcm::{Aes128Gcm, KeyInit as _, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// LiveKit's salt for both derivations.
const SALT: &[u8] = b"LKFrameEncryptionKey";
const ITERATIONS: u32 = 100_000;
const TAG: usize = 16;
const IV: usize = 12;
/// Bytes a frame grows by.
pub const OVERHEAD: usize = TAG + IV + 2;
/// Slots for keys, as in the SDKs.
const SLOTS: u8 = 16;
/// How long a sender stays with the epoch before.
pub const SWITCH: Duration = Duration::from_millis(500);
/// How long a receiver keeps keys that have been replaced.
pub const KEEP: Duration = Duration::from_secs(10);

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A packet of Opus.
    Audio,
    /// A frame of VP8, without the payload descriptor.
    Vp8,
}

impl Kind {
    /// How many bytes stay in the clear.
    fn clear(self, frame: &[u8]) -> usize {
        let n = match self {
            Self::Audio => 1,
            // The lowest bit of the first byte is nought in a key frame (RFC 6386, 9.1).
            Self::Vp8 if frame.first().is_some_and(|b| b & 1 == 0) => 10,
            Self::Vp8 => 3,
        };
        n.min(frame.len())
    }
}

/// Why a frame cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It is no encrypted frame.
    #[error("this is no encrypted frame")]
    Form,
    /// No key has that index: it is too old, or not here yet.
    #[error("no key has the index {0}")]
    NoKey(u8),
    /// The key is another, or somebody has changed the frame.
    #[error("the frame does not open")]
    Wrong,
}

struct Slot {
    /// Of the epoch, or the key itself when it is shared.
    secret: Zeroizing<Vec<u8>>,
    shared: bool,
    ciphers: HashMap<String, Aes128Gcm>,
    retire: Option<Instant>,
}

/// The keys of one room.
#[derive(Default)]
pub struct Keys {
    slots: HashMap<u8, Slot>,
    sending: Option<u8>,
    next: Option<(u8, Instant)>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Keys({} slots, sending {:?})", self.slots.len(), self.sending)
    }
}

fn cipher(key: &[u8; 16]) -> Aes128Gcm {
    Aes128Gcm::new(key.into())
}

impl Keys {
    /// The key of a link: the same for everybody, index 0.
    #[must_use]
    pub fn of_link(text: &str) -> Self {
        let mut key = Zeroizing::new(vec![0u8; 16]);
        pbkdf2::pbkdf2_hmac::<Sha256>(text.as_bytes(), SALT, ITERATIONS, &mut key);
        let slot = Slot { secret: key, shared: true, ciphers: HashMap::new(), retire: None };
        Self { slots: HashMap::from([(0, slot)]), sending: Some(0), next: None }
    }

    /// The secret of an epoch of the conversation's group, exported for this room.
    pub fn add_epoch(&mut self, epoch: u64, secret: Zeroizing<Vec<u8>>, now: Instant) {
        let index = u8::try_from(epoch % u64::from(SLOTS)).unwrap_or(0);
        if self.slots.get(&index).is_some_and(|s| *s.secret == *secret) {
            return;
        }
        for s in self.slots.values_mut() {
            s.retire.get_or_insert(now + KEEP);
        }
        self.slots.insert(index, Slot { secret, shared: false, ciphers: HashMap::new(), retire: None });
        if self.sending.is_none() {
            self.sending = Some(index);
        } else {
            self.next = Some((index, now + SWITCH));
        }
    }

    /// Goes over to new keys, forgets old ones.
    fn tidy(&mut self, now: Instant) {
        if let Some((index, at)) = self.next
            && at <= now
        {
            (self.sending, self.next) = (Some(index), None);
        }
        let sending = self.sending;
        self.slots.retain(|i, s| s.retire.is_none_or(|at| at > now) || Some(*i) == sending);
    }

    fn cipher_of(&mut self, index: u8, identity: &str) -> Option<&Aes128Gcm> {
        let slot = self.slots.get_mut(&index)?;
        if !slot.ciphers.contains_key(identity) {
            let mut key = Zeroizing::new([0u8; 16]);
            if slot.shared {
                key.copy_from_slice(slot.secret.get(..16)?);
            } else {
                Hkdf::<Sha256>::new(Some(SALT), &slot.secret).expand(identity.as_bytes(), key.as_mut()).ok()?;
            }
            slot.ciphers.insert(identity.to_owned(), cipher(&key));
        }
        slot.ciphers.get(identity)
    }

    /// Encrypts a frame of `identity`'s own. `iv` must never come twice: see [`Counter`]. `None` while there is no key.
    pub fn seal(&mut self, kind: Kind, identity: &str, frame: &[u8], iv: [u8; IV], now: Instant) -> Option<Vec<u8>> {
        self.tidy(now);
        let index = self.sending?;
        let cipher = self.cipher_of(index, identity)?;
        let (head, body) = frame.split_at(kind.clear(frame));
        let mut out = Vec::with_capacity(frame.len() + OVERHEAD);
        out.extend_from_slice(head);
        let mut body = body.to_vec();
        let tag = cipher.encrypt_in_place_detached(Nonce::from_slice(&iv), head, &mut body).ok()?;
        out.extend_from_slice(&body);
        out.extend_from_slice(&tag);
        out.extend_from_slice(&iv);
        out.extend_from_slice(&[12, index]);
        Some(out)
    }

    /// Decrypts a frame of `identity`.
    pub fn open(&mut self, kind: Kind, identity: &str, frame: &[u8], now: Instant) -> Result<Vec<u8>, FrameError> {
        self.tidy(now);
        let [rest @ .., iv_len, index] = frame else { return Err(FrameError::Form) };
        if usize::from(*iv_len) != IV {
            return Err(FrameError::Form);
        }
        let at = rest.len().checked_sub(IV + TAG).ok_or(FrameError::Form)?;
        let (text, end) = rest.split_at(at);
        let (tag, iv) = end.split_at(TAG);
        // Of the text alone: a frame shorter than its header is all in the clear, and what follows it is no part of it.
        let (head, body) = text.split_at(kind.clear(text));
        let cipher = self.cipher_of(*index, identity).ok_or(FrameError::NoKey(*index))?;
        let mut body = body.to_vec();
        cipher.decrypt_in_place_detached(Nonce::from_slice(iv), head, &mut body, Tag::from_slice(tag)).map_err(|_| FrameError::Wrong)?;
        Ok([head, &body].concat())
    }
}

/// A data packet's text, sealed: LiveKit's `EncryptedPacket`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedData {
    /// With the tag at its end.
    pub text: Vec<u8>,
    /// As in frames.
    pub iv: Vec<u8>,
    /// Index of the key.
    pub index: u8,
}

impl Keys {
    /// Seals a data packet of `identity`'s own.
    pub fn seal_data(&mut self, identity: &str, text: &[u8], iv: [u8; IV], now: Instant) -> Option<SealedData> {
        self.tidy(now);
        let index = self.sending?;
        let text = self.cipher_of(index, identity)?.encrypt(Nonce::from_slice(&iv), text).ok()?;
        Some(SealedData { text, iv: iv.to_vec(), index })
    }

    /// Opens a data packet of `identity`.
    pub fn open_data(&mut self, identity: &str, sealed: &SealedData, now: Instant) -> Result<Vec<u8>, FrameError> {
        self.tidy(now);
        if sealed.iv.len() != IV {
            return Err(FrameError::Form);
        }
        let cipher = self.cipher_of(sealed.index, identity).ok_or(FrameError::NoKey(sealed.index))?;
        cipher.decrypt(Nonce::from_slice(&sealed.iv), sealed.text.as_slice()).map_err(|_| FrameError::Wrong)
    }
}

/// Makes the IVs of one stay: counted on from a random start of 96 bits. One key may serve many people, devices and stays, so starts must
/// not meet; of a million stays with a million frames each, two meet with a chance of less than one in a billion.
#[derive(Debug)]
pub struct Counter(u128);

impl Counter {
    /// `start` is random.
    #[must_use]
    pub fn new(start: u128) -> Self {
        Self(start)
    }

    /// The next IV.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> [u8; IV] {
        self.0 = self.0.wrapping_add(1);
        let mut iv = [0; IV];
        iv.iter_mut().zip(self.0.to_be_bytes().into_iter().skip(16 - IV)).for_each(|(o, b)| *o = b);
        iv
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(s: &str) -> Vec<u8> {
        (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
    }

    /// What the SDK's derivation and cipher give for the link's text "correct horse" and the bytes 00 to 4f (computed with WebCrypto).
    const IV_OF_TEST: &str = "deadbeef0001020300010201";
    const AUDIO: &str = "0081aaadca95124f735f326103b3cbe9899e23568a5aee8e333c2dac6dd7c33f40ea4c3d5ca6d253cb0739670376eeba2e7a449ea272da50043bc2c2aef480999afbd5be879273bfbb8aa22dec874e78f9930108232bb72283099a1f82fccc34deadbeef00010203000102010c00";
    const KEY_FRAME: &str = "000102030405060708098aa3a2c39e1b586a442b7e1aa8d2fe80952a598351e7b90a07149354ecfa0849e1453255addb44d21c20781a6df7ad27714d91ab79d3277d40bbbdd78ff9ee93f0dcb18e997a621ce4dcbfe361e7956a935108875e37deadbeef00010203000102010c00";

    #[test]
    fn frames_are_livekits() {
        let now = Instant::now();
        let frame: Vec<u8> = (0..0x50).collect();
        let iv: [u8; 12] = hex(IV_OF_TEST).try_into().unwrap();
        let mut keys = Keys::of_link("correct horse");
        for (kind, sealed) in [(Kind::Audio, AUDIO), (Kind::Vp8, KEY_FRAME)] {
            assert_eq!(keys.seal(kind, "anybody", &frame, iv, now).unwrap(), hex(sealed));
            assert_eq!(keys.open(kind, "somebody", &hex(sealed), now).unwrap(), frame);
        }
    }

    #[test]
    fn data_packets_are_livekits() {
        const DATA: &str = "80a9accd94114e7c5e316004b2c8e8969f20578d5bed8f3c3d2ead6ad6c03e7feb4f3c5ba7d152c4063a660477edbb317b479fa573d9510b3ac1c3a9f58398e5fad6bf809370beb48ba12ceb864d794b80ff1cceb1fb6fbf3a1556953f271e58";
        let text: Vec<u8> = (0..0x50).collect();
        let mut keys = Keys::of_link("correct horse");
        let sealed = keys.seal_data("x", &text, hex(IV_OF_TEST).try_into().unwrap(), Instant::now()).unwrap();
        assert_eq!(sealed.text, hex(DATA));
        assert_eq!(keys.open_data("y", &sealed, Instant::now()).unwrap(), text);
    }

    #[test]
    fn a_changed_frame_another_key_and_garbage_do_not_open() {
        let now = Instant::now();
        let mut keys = Keys::of_link("correct horse");
        let mut sealed = hex(AUDIO);
        assert_eq!(Keys::of_link("wrong horse").open(Kind::Audio, "", &sealed, now), Err(FrameError::Wrong));
        sealed[0] ^= 1;
        assert_eq!(keys.open(Kind::Audio, "", &sealed, now), Err(FrameError::Wrong), "the clear byte is authenticated");
        assert_eq!(keys.open(Kind::Audio, "", &[12, 3], now), Err(FrameError::Form));
        let mut other = hex(AUDIO);
        *other.last_mut().unwrap() = 5;
        assert_eq!(keys.open(Kind::Audio, "", &other, now), Err(FrameError::NoKey(5)));
    }

    #[test]
    fn a_frame_shorter_than_its_header_opens() {
        let now = Instant::now();
        let mut keys = Keys::of_link("correct horse");
        for n in 0..12 {
            let sealed = keys.seal(Kind::Vp8, "x", &vec![0; n], Counter::new(9).next(), now).unwrap();
            assert_eq!(keys.open(Kind::Vp8, "x", &sealed, now).unwrap(), vec![0; n]);
        }
    }

    #[test]
    fn a_new_epoch_is_spoken_after_a_moment_and_the_one_before_is_heard_for_ten_seconds() {
        let start = Instant::now();
        let secret = |n: u8| Zeroizing::new(vec![n; 32]);
        let (mut a, mut b) = (Keys::default(), Keys::default());
        let mut iv = Counter::new(1);
        assert!(a.seal(Kind::Audio, "a", b"hello", iv.next(), start).is_none(), "nothing is sent without a key");
        for k in [&mut a, &mut b] {
            k.add_epoch(7, secret(1), start);
        }
        let first = a.seal(Kind::Audio, "a", b"hello", iv.next(), start).unwrap();
        assert_eq!(b.open(Kind::Audio, "a", &first, start).unwrap(), b"hello");
        assert_eq!(b.open(Kind::Audio, "c", &first, start), Err(FrameError::Wrong), "everybody has a key of their own");
        for k in [&mut a, &mut b] {
            k.add_epoch(8, secret(2), start);
        }
        let still = a.seal(Kind::Audio, "a", b"hello", iv.next(), start + SWITCH / 2).unwrap();
        assert_eq!(still.last(), Some(&7));
        let second = a.seal(Kind::Audio, "a", b"hello", iv.next(), start + SWITCH).unwrap();
        assert_eq!(second.last(), Some(&8));
        assert!(b.open(Kind::Audio, "a", &first, start + KEEP / 2).is_ok());
        assert!(b.open(Kind::Audio, "a", &second, start + KEEP / 2).is_ok());
        assert_eq!(b.open(Kind::Audio, "a", &first, start + KEEP), Err(FrameError::NoKey(7)));
    }

    proptest! {
        #[test]
        fn whatever_comes_is_opened_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), vp8: bool) {
            let kind = if vp8 { Kind::Vp8 } else { Kind::Audio };
            let mut keys = Keys::default();
            keys.add_epoch(0, Zeroizing::new(vec![1; 32]), Instant::now());
            let _ = keys.open(kind, "x", &bytes, Instant::now());
        }

        #[test]
        fn what_is_sealed_opens(bytes in prop::collection::vec(any::<u8>(), 0..2000), vp8: bool) {
            let kind = if vp8 { Kind::Vp8 } else { Kind::Audio };
            let mut keys = Keys::default();
            let now = Instant::now();
            keys.add_epoch(0, Zeroizing::new(vec![1; 32]), now);
            let sealed = keys.seal(kind, "x", &bytes, Counter::new(9).next(), now).unwrap();
            prop_assert_eq!(sealed.len(), bytes.len() + OVERHEAD);
            prop_assert_eq!(keys.open(kind, "x", &sealed, now).unwrap(), bytes);
        }
    }
}
