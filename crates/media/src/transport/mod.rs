//! How packets get to the other side. Two ways: a peer connection ([`peer`], by a [`relay`] where it must), and back to oneself
//! ([`echo`], the test call).

pub mod echo;
mod flights;
pub mod network;
mod path;
pub mod peer;
mod pictures;
pub mod relay;
mod reports;

use crate::video::codec::Codec;
use crate::voice::{Packet, Protection};
use std::time::{Duration, Instant};

/// A STUN or TURN server with what it wants to hear.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:` and `turn:` addresses (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// For TURN.
    pub username: String,
    /// For TURN.
    pub credential: String,
}

/// What a transport cannot do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// The other side's description makes no sense.
    #[error("the other side's description of the call cannot be used: {0}")]
    Description(String),
    /// No socket, no randomness, no memory.
    #[error("no connection could be made ready: {0}")]
    Local(String),
}

/// A packet of pictures (RFC 7741).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PicturePacket {
    /// Its number, counted on over rollovers.
    pub seq: u64,
    /// In 90 kHz.
    pub timestamp: u32,
    /// It ends a frame.
    pub last: bool,
    /// Of a screen, not of a camera.
    pub screen: bool,
    /// Descriptor and part of a frame.
    pub payload: Vec<u8>,
}

/// What happens on a transport.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TransportEvent {
    /// An address of this side.
    Candidate(String),
    /// Packets pass.
    Connected,
    /// They do not, and may again.
    Disconnected,
    /// This side's addresses are others now.
    NetworkChanged,
    /// There is no way.
    Failed,
    /// A packet of speech came.
    Voice(Packet, Instant),
    /// The other side reports the share of packets it lost.
    Report(f32),
    /// A packet of pictures came.
    Picture(PicturePacket),
    /// The other side needs a key frame.
    KeyWanted,
    /// Pictures may take so much of the path: bits a second.
    Estimate(u64),
}

/// Where the packets go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum PathKind {
    /// Not known yet.
    #[default]
    Unknown,
    /// From device to device.
    Direct,
    /// Through a relay.
    Relayed,
    /// Through a room's forwarding unit.
    Unit,
    /// The same over TCP.
    UnitTcp,
}

/// The path, measured.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct PathStats {
    /// Round trip.
    pub rtt: Option<Duration>,
    /// Bytes sent so far.
    pub sent: u64,
    /// Bytes received so far.
    pub received: u64,
    /// Share of our packets the other side lost lately, 0 to 1.
    pub lost: f32,
    /// Where the packets go.
    pub kind: PathKind,
}

/// Carries packets of speech.
#[async_trait::async_trait]
pub trait Carrier: Send + Sync {
    /// Sends speech. Before there is a path, it is dropped.
    async fn send(&self, packet: Packet);
    /// What may be done against losses on the way.
    fn protection(&self) -> Protection {
        Protection::Copies
    }
    /// Measures the path.
    async fn stats(&self) -> PathStats;
    /// Lets go of everything.
    async fn close(&self);
}

/// Carries one call's packets of speech and of pictures. Descriptions are session descriptions (RFC 8866) in offer and answer (RFC 9429).
#[async_trait::async_trait]
pub trait Transport: Carrier {
    /// Describes this side as the caller; anew, with fresh addresses, when `restart`.
    async fn offer(&self, restart: bool) -> Result<String, TransportError>;
    /// Takes the caller's description and describes this side.
    async fn answer(&self, offer: &str) -> Result<String, TransportError>;
    /// Takes the answer.
    async fn accept(&self, answer: &str) -> Result<(), TransportError>;
    /// Takes addresses of the other side; those that make no sense are passed over.
    async fn add_candidates(&self, list: &[String]);
    /// What pictures are encoded in, on both sides, since the two have described themselves.
    fn codec(&self) -> Codec;
    /// What pictures are of from now on: a screen, or a camera.
    fn set_screen(&self, screen: bool);
    /// Sends a packet of pictures; its number is given by the transport.
    async fn send_picture(&self, timestamp: u32, last: bool, payload: Vec<u8>);
    /// Asks for packets of pictures that did not come, once more (RFC 4585, 6.2.1).
    async fn ask_again(&self, missing: &[u64]);
    /// Asks for a key frame (RFC 4585, 6.3.1).
    async fn ask_for_key(&self);
}
