//! Microphone, speaker, codecs and WebRTC, behind the calls' media port.
//!
//! * [`voice`]: speech to packets and back, without I/O.
//! * [`audio`]: devices and files.
//! * [`video`]: pictures to packets.
//! * [`transport`]: packets to the other side.
//! * [`pictures`]: a call's pictures, out and in.
//! * [`room`]: a room of several people, through a forwarding unit.
//! * [`ring`]: what is heard before anybody speaks.
//! * [`Media`]: the port, one [`session`] for each call. Its thread is the only one that touches both devices and codecs: the
//!   system's callbacks share lock-free rings with it, the connection shares bounded queues.

pub mod audio;
mod media;
pub mod pictures;
pub mod ring;
pub mod room;
mod session;
pub mod transport;
pub mod video;
pub mod voice;

pub use media::{IceSource, Media, MediaOptions, TestCall};
pub use session::Quality;
