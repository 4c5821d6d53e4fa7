//! Speech without I/O: what leaves a microphone as packets and what comes out of packets again. Time is an argument.

pub mod delay;
pub mod mixer;
pub mod opus;
pub mod receiver;
pub mod red;
pub mod sender;
pub mod stretch;

pub use mixer::{Mixer, VoiceId};
pub use receiver::{VoiceReceiver, VoiceStats};
pub use sender::{Packet, Protection, VoiceSender};

/// Samples per second, everywhere in the house.
pub const RATE: u32 = 48_000;
/// Samples of a block: 10 ms.
pub const BLOCK: usize = 480;
/// Samples of a frame: 20 ms.
pub const FRAME: usize = 960;
/// RTP payload type of Opus.
pub const PT_OPUS: u8 = 111;
/// RTP payload type of RED.
pub const PT_RED: u8 = 63;
