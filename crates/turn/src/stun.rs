//! STUN messages (RFC 8489): read within bounds, written with integrity.

use hmac::{Hmac, Mac as _};
use sha1::Sha1;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const COOKIE: u32 = 0x2112_A442;
const HEADER: usize = 20;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
/// Attributes read from one message.
const ATTRIBUTES: usize = 32;

/// Methods (RFC 8489, 18.2; RFC 8656, 17).
pub mod method {
    #![allow(missing_docs)]
    pub const BINDING: u16 = 0x001;
    pub const ALLOCATE: u16 = 0x003;
    pub const REFRESH: u16 = 0x004;
    pub const SEND: u16 = 0x006;
    pub const DATA: u16 = 0x007;
    pub const CREATE_PERMISSION: u16 = 0x008;
    pub const CHANNEL_BIND: u16 = 0x009;
}

/// Attributes (RFC 8489, 18.3; RFC 8656, 18).
pub mod attribute {
    #![allow(missing_docs)]
    pub const USERNAME: u16 = 0x0006;
    pub const MESSAGE_INTEGRITY: u16 = 0x0008;
    pub const ERROR_CODE: u16 = 0x0009;
    pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
    pub const CHANNEL_NUMBER: u16 = 0x000c;
    pub const LIFETIME: u16 = 0x000d;
    pub const XOR_PEER_ADDRESS: u16 = 0x0012;
    pub const DATA: u16 = 0x0013;
    pub const REALM: u16 = 0x0014;
    pub const NONCE: u16 = 0x0015;
    pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
    pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
    pub const EVEN_PORT: u16 = 0x0018;
    pub const REQUESTED_TRANSPORT: u16 = 0x0019;
    pub const DONT_FRAGMENT: u16 = 0x001a;
    pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
    pub const FINGERPRINT: u16 = 0x8028;
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Wants an answer.
    Request,
    /// Wants none.
    Indication,
    /// It was done.
    Success,
    /// It was not.
    Error,
}

/// A message as it came; borrows it.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    /// What it is.
    pub class: Class,
    /// What it is about.
    pub method: u16,
    /// Carried back in the answer.
    pub transaction: [u8; 12],
    raw: &'a [u8],
    attributes: Vec<(u16, usize, &'a [u8])>,
}

fn word(b: &[u8], at: usize) -> Option<u16> {
    b.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

impl<'a> Message<'a> {
    /// Reads exactly one message.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let kind = word(raw, 0).filter(|k| k & 0xc000 == 0)?;
        let cookie = u32::from_be_bytes(raw.get(4..8)?.try_into().ok()?);
        if cookie != COOKIE || usize::from(word(raw, 2)?) + HEADER != raw.len() || !raw.len().is_multiple_of(4) {
            return None;
        }
        let class = match (kind >> 4 & 1, kind >> 8 & 1) {
            (0, 0) => Class::Request,
            (1, 0) => Class::Indication,
            (0, 1) => Class::Success,
            _ => Class::Error,
        };
        let method = (kind & 0xf) | (kind >> 1 & 0x70) | (kind >> 2 & 0xf80);
        let (mut attributes, mut at) = (Vec::new(), HEADER);
        while at < raw.len() {
            let (name, len) = (word(raw, at)?, usize::from(word(raw, at + 2)?));
            attributes.push((name, at, raw.get(at + 4..at + 4 + len)?));
            at += 4 + len.next_multiple_of(4);
            if attributes.len() > ATTRIBUTES || at > raw.len() {
                return None;
            }
        }
        Some(Self { class, method, transaction: raw.get(8..20)?.try_into().ok()?, raw, attributes })
    }

    /// The first attribute of that name.
    #[must_use]
    pub fn get(&self, name: u16) -> Option<&'a [u8]> {
        self.all(name).next()
    }

    /// All attributes of that name.
    pub fn all(&self, name: u16) -> impl Iterator<Item = &'a [u8]> {
        self.attributes.iter().filter(move |(n, _, _)| *n == name).map(|(_, _, v)| *v)
    }

    /// A text attribute.
    #[must_use]
    pub fn text(&self, name: u16) -> Option<&'a str> {
        self.get(name).and_then(|v| std::str::from_utf8(v).ok())
    }

    /// A number of 32 bits.
    #[must_use]
    pub fn number(&self, name: u16) -> Option<u32> {
        self.get(name)?.try_into().ok().map(u32::from_be_bytes)
    }

    /// Addresses of that name; one that makes no sense makes `None`.
    #[must_use]
    pub fn addresses(&self, name: u16) -> Option<Vec<SocketAddr>> {
        self.all(name).map(|v| unxor(v, &self.transaction)).collect()
    }

    /// The names that have to be understood and are not among `known`.
    #[must_use]
    pub fn unknown(&self, known: &[u16]) -> Vec<u16> {
        self.attributes.iter().map(|(n, _, _)| *n).filter(|n| *n < 0x8000 && !known.contains(n)).collect()
    }

    /// True when the message has an integrity and that is made with `key`.
    #[must_use]
    pub fn is_whole(&self, key: &[u8]) -> bool {
        let Some((_, at, value)) = self.attributes.iter().find(|(n, _, _)| *n == attribute::MESSAGE_INTEGRITY) else { return false };
        let Some(before) = self.raw.get(..*at) else { return false };
        subtle::ConstantTimeEq::ct_eq(integrity(before, key).as_slice(), value).into()
    }
}

/// The integrity of everything before it: the length counts as if it ended there.
fn integrity(before: &[u8], key: &[u8]) -> [u8; 20] {
    let len = u16::try_from(before.len() - HEADER + 24).unwrap_or(u16::MAX).to_be_bytes();
    let (head, tail) = (before.get(..2).unwrap_or_default(), before.get(4..).unwrap_or_default());
    Hmac::<Sha1>::new_from_slice(key)
        .map(|mut m| {
            m.update(head);
            m.update(&len);
            m.update(tail);
            m.finalize().into_bytes().into()
        })
        .unwrap_or_default()
}

fn unxor(v: &[u8], transaction: &[u8; 12]) -> Option<SocketAddr> {
    let port = word(v, 2)? ^ 0x2112;
    let mask: Vec<u8> = COOKIE.to_be_bytes().iter().chain(transaction).copied().collect();
    let plain: Vec<u8> = v.get(4..)?.iter().zip(&mask).map(|(a, b)| a ^ b).collect();
    let ip = match (v.get(1)?, v.len()) {
        (1, 8) => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok()?)),
        (2, 20) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok()?)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

/// Writes a message.
pub struct Writer {
    out: Vec<u8>,
}

impl Writer {
    /// Begins one.
    #[must_use]
    pub fn new(class: Class, method: u16, transaction: &[u8; 12]) -> Self {
        let class = match class {
            Class::Request => 0x000,
            Class::Indication => 0x010,
            Class::Success => 0x100,
            Class::Error => 0x110,
        };
        let kind = class | (method & 0xf) | (method & 0x70) << 1 | (method & 0xf80) << 2;
        let mut out = Vec::with_capacity(128);
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&COOKIE.to_be_bytes());
        out.extend_from_slice(transaction);
        Self { out }
    }

    /// Adds an attribute.
    #[must_use]
    pub fn put(mut self, name: u16, value: &[u8]) -> Self {
        self.out.extend_from_slice(&name.to_be_bytes());
        self.out.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        self.out.extend_from_slice(value);
        self.out.resize(self.out.len().next_multiple_of(4), 0);
        self
    }

    /// Adds an address.
    #[must_use]
    pub fn address(self, name: u16, address: SocketAddr) -> Self {
        let (family, ip) = match address.ip() {
            IpAddr::V4(a) => (1, a.octets().to_vec()),
            IpAddr::V6(a) => (2, a.octets().to_vec()),
        };
        let transaction = self.out.get(8..20).unwrap_or_default().to_vec();
        let mask = COOKIE.to_be_bytes().into_iter().chain(transaction);
        let mut value = vec![0, family];
        value.extend_from_slice(&(address.port() ^ 0x2112).to_be_bytes());
        value.extend(ip.iter().zip(mask).map(|(a, b)| a ^ b));
        self.put(name, &value)
    }

    /// Adds why not.
    #[must_use]
    pub fn error(self, code: u16, reason: &str) -> Self {
        let mut value = vec![0, 0, u8::try_from(code / 100).unwrap_or(5), u8::try_from(code % 100).unwrap_or(0)];
        value.extend_from_slice(reason.as_bytes());
        self.put(attribute::ERROR_CODE, &value)
    }

    fn sized(mut self) -> Self {
        let len = u16::try_from(self.out.len() - HEADER).unwrap_or(u16::MAX).to_be_bytes();
        for (to, from) in self.out.iter_mut().skip(2).zip(len) {
            *to = from;
        }
        self
    }

    /// With integrity under `key`.
    #[must_use]
    pub fn signed(self, key: &[u8]) -> Vec<u8> {
        let mac = integrity(&self.out, key);
        self.put(attribute::MESSAGE_INTEGRITY, &mac).done()
    }

    /// As it is.
    #[must_use]
    pub fn done(self) -> Vec<u8> {
        self.sized().out
    }

    /// With a fingerprint (RFC 8489, 14.7).
    #[must_use]
    pub fn fingerprinted(self) -> Vec<u8> {
        let counted = self.put(attribute::FINGERPRINT, &[0; 4]).sized();
        let before = counted.out.get(..counted.out.len() - 8).unwrap_or_default();
        let crc = crc32fast::hash(before) ^ FINGERPRINT_XOR;
        let mut out = before.to_vec();
        out.extend_from_slice(&attribute::FINGERPRINT.to_be_bytes());
        out.extend_from_slice(&[0, 4]);
        out.extend_from_slice(&crc.to_be_bytes());
        out
    }
}

/// What one piece of a TCP stream is: a message, or data on a channel padded to four bytes; how long it is in all. `None` when more
/// bytes are needed to say.
///
/// # Errors
/// It is neither: the stream is lost.
pub fn piece(stream: &[u8]) -> Result<Option<usize>, NotTurn> {
    let (Some(first), Some(len)) = (word(stream, 0), word(stream, 2)) else { return Ok(None) };
    match first >> 14 {
        0 => Ok(Some(usize::from(len) + HEADER)),
        1 => Ok(Some((usize::from(len) + 4).next_multiple_of(4))),
        _ => Err(NotTurn),
    }
}

/// Bytes that are neither STUN nor channel data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stream is no TURN")]
pub struct NotTurn;

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let hex: String = hex.split_whitespace().collect();
        (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect()
    }

    #[test]
    fn the_published_request_is_read_and_whole() {
        // RFC 5769, 2.4: long-term credentials; user, realm and nonce as given there.
        let raw = bytes(
            "00010060 2112a442 78ad3433 c6ad72c0 29da412e 00060012 e3839ee3 8388e383 aae38383 e382afe3 82b90000 0015001c 662f2f34
             39396b39 35346436 4f4c3334 6f4c3946 53547679 36347341 0014000b 6578616d 706c652e 6f726700 00080014 f6702465 6dd64a3e
             02b8e071 2e85c9a2 8ca89666",
        );
        let m = Message::parse(&raw).unwrap();
        assert_eq!((m.class, m.method), (Class::Request, method::BINDING));
        assert_eq!(m.text(attribute::USERNAME), Some("マトリックス"));
        assert_eq!(m.text(attribute::REALM), Some("example.org"));
        assert!(m.is_whole(&crate::credentials::long_term("マトリックス", "example.org", "TheMatrIX")));
        assert!(!m.is_whole(b"another"));
    }

    #[test]
    fn an_address_is_read_as_it_was_written() {
        for a in ["192.0.2.1:32853", "[2001:db8::7]:443"] {
            let a: SocketAddr = a.parse().unwrap();
            let raw = Writer::new(Class::Success, method::ALLOCATE, &[9; 12]).address(attribute::XOR_RELAYED_ADDRESS, a).signed(b"k");
            let m = Message::parse(&raw).unwrap();
            assert_eq!(m.addresses(attribute::XOR_RELAYED_ADDRESS), Some(vec![a]));
            assert!((m.class, m.method) == (Class::Success, method::ALLOCATE) && m.is_whole(b"k"));
        }
    }

    #[test]
    fn a_stream_is_cut_into_pieces() {
        let message = Writer::new(Class::Request, method::BINDING, &[1; 12]).fingerprinted();
        assert_eq!(piece(&message), Ok(Some(message.len())));
        assert_eq!(piece(&[0x40, 0x01, 0, 5, 1, 2, 3, 4, 5]), Ok(Some(12)));
        assert_eq!(piece(&[0, 1, 0]), Ok(None));
        // What is no TURN may look like a channel; its length is bounded all the same.
        assert_eq!(piece(b"GET / HTTP/1.1"), Ok(Some(21_540)));
        assert_eq!(piece(&[0x80, 0, 0, 0]), Err(NotTurn));
    }

    proptest! {
        #[test]
        fn garbage_is_refused_or_read_within_its_bounds(raw in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(m) = Message::parse(&raw) {
                let _ = (m.unknown(&[]), m.addresses(attribute::XOR_PEER_ADDRESS), m.is_whole(b"k"));
            }
        }

        #[test]
        fn a_message_with_a_changed_byte_is_not_whole(at in 0usize..48, bit in 0u8..8) {
            let mut raw = Writer::new(Class::Request, method::REFRESH, &[7; 12]).put(attribute::USERNAME, b"somebody").signed(b"key");
            let at = at % raw.len();
            raw[at] ^= 1 << bit;
            prop_assert!(!Message::parse(&raw).is_some_and(|m| m.is_whole(b"key")));
        }
    }
}
