//! Sizes, counts and rates both sides agree on. A client checks before it sends; the server checks again.

/// Characters (Unicode scalar values) in one text message (MSG-2).
pub const TEXT_CHARS: usize = 10_000;
/// Characters in a conversation title.
pub const TITLE_CHARS: usize = 120;
/// Bytes of one encrypted application payload.
pub const PAYLOAD_BYTES: usize = 96 * 1024;
/// Bytes of one commit, Welcome, GroupInfo or ratchet tree.
pub const HANDSHAKE_BYTES: usize = 2 * 1024 * 1024;
/// Bytes of one gateway frame in either direction.
pub const FRAME_BYTES: usize = 256 * 1024;
/// Bytes of one REST body; handshakes are base64 in JSON, and there may be three.
pub const BODY_BYTES: usize = 8 * 1024 * 1024;
/// Members of a group conversation.
pub const GROUP_MEMBERS: usize = 1_000;
/// Devices of one account.
pub const DEVICES: usize = 20;
/// Cursors in one `sync` frame; a device with more sends several, the last one with `done`.
pub const SYNC_CURSORS: usize = 1_000;
/// Envelopes in one page of history.
pub const PAGE: u32 = 500;
/// One-time key packages a device keeps on the server, per suite.
pub const KEY_PACKAGES: usize = 50;
/// Below this a device refills them.
pub const KEY_PACKAGES_LOW: u32 = 10;
/// Bytes of one key package (hybrid ones are about 2.7 KB).
pub const KEY_PACKAGE_BYTES: usize = 16 * 1024;
/// Shortest and longest username, in characters: lower-case letters, digits, `.`, `_`, `-`.
pub const USERNAME: std::ops::RangeInclusive<usize> = 3..=32;
/// Bytes of a device name.
pub const DEVICE_NAME_BYTES: usize = 64;
/// Silence after which a peer is taken for dead, in seconds; pings go out at a third of it.
pub const DEAD_PEER_SECONDS: u64 = 45;

/// True when `name` may be registered: the whole alphabet is ASCII, so two names that look alike are alike.
#[must_use]
pub fn username_is_valid(name: &str) -> bool {
    USERNAME.contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
}
