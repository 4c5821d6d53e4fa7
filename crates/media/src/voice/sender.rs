//! Speech out: blocks of 10 ms in, packets of 20 ms out, protected as much as the loss asks for.
//!
//! | packets lost | protection with copies | within the packet |
//! |---|---|---|
//! | any | in-band FEC: the next packet has a coarse copy | the same |
//! | from 3 % | RED: the next packet has the frame itself | deep redundancy: 400 ms |
//! | from 8 % | RED with two frames | |
//! | from 15 % | deep redundancy as well, for the bursts that RED does not span | |

use super::opus::{Encoder, OpusError};
use super::{BLOCK, FRAME, PT_OPUS, red};
use std::collections::VecDeque;

/// Bits per second of speech without redundancy.
const BITRATE: i32 = 32_000;
/// The same beside deep redundancy, which takes its bits from the packet.
const BITRATE_DRED: i32 = 40_000;

/// A packet's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// What it carries.
    pub payload: Vec<u8>,
    /// It is RED (RFC 2198), otherwise Opus.
    pub red: bool,
    /// Of its first sample, in samples since the start.
    pub timestamp: u32,
}

/// What may be done against losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// Copies beside the frame (RED) as well.
    Copies,
    /// Only what is in Opus' own packets: in rooms, where frames are encrypted one by one.
    Within,
}

/// Encodes one microphone.
pub struct VoiceSender {
    protection: Protection,
    encoder: Encoder,
    frame: Vec<f32>,
    timestamp: u32,
    earlier: VecDeque<(u32, Vec<u8>)>,
    loss: f32,
    copies: usize,
    deep: bool,
}

impl VoiceSender {
    /// Starts at timestamp 0.
    pub fn new(protection: Protection) -> Result<Self, OpusError> {
        let mut this = Self {
            protection,
            encoder: Encoder::new(BITRATE)?,
            frame: Vec::with_capacity(FRAME),
            timestamp: 0,
            earlier: VecDeque::new(),
            loss: 0.0,
            copies: 0,
            deep: false,
        };
        this.protect()?;
        Ok(this)
    }

    /// Takes 10 ms; gives a packet every second time.
    pub fn push(&mut self, block: &[f32; BLOCK]) -> Result<Option<Packet>, OpusError> {
        self.frame.extend_from_slice(block);
        let Some(frame) = self.frame.first_chunk::<FRAME>() else { return Ok(None) };
        let encoded = self.encoder.encode(frame)?;
        self.frame.clear();
        let timestamp = self.timestamp;
        self.timestamp = timestamp.wrapping_add(FRAME as u32);
        let earlier: Vec<(u32, &[u8])> = self
            .earlier
            .iter()
            .rev()
            .take(self.copies)
            .rev()
            .map(|(at, data)| (timestamp.wrapping_sub(*at), data.as_slice()))
            .filter(|(distance, _)| *distance <= (red::COPIES * FRAME) as u32)
            .collect();
        let red = !earlier.is_empty();
        let payload = if red { red::pack(PT_OPUS, &earlier, &encoded) } else { encoded.clone() };
        self.earlier.push_back((timestamp, encoded));
        while self.earlier.len() > red::COPIES {
            self.earlier.pop_front();
        }
        Ok(Some(Packet { payload, red, timestamp }))
    }

    /// 10 ms pass and nobody is to hear them: muted, or the path is gone.
    pub fn skip(&mut self) {
        self.frame.clear();
        self.earlier.clear();
        self.timestamp = self.timestamp.wrapping_add(BLOCK as u32);
    }

    /// The other side reports the share of packets it lost since its last report.
    pub fn on_report(&mut self, lost: f32) -> Result<(), OpusError> {
        // Up at once, down slowly: a bad moment is rarely alone.
        let rate = if lost > self.loss { 0.7 } else { 0.1 };
        self.loss += rate * (lost.clamp(0.0, 1.0) - self.loss);
        self.protect()
    }

    /// The share of packets taken for lost.
    #[must_use]
    pub fn loss(&self) -> f32 {
        self.loss
    }

    fn protect(&mut self) -> Result<(), OpusError> {
        self.copies = match self.loss {
            _ if self.protection == Protection::Within => 0,
            l if l >= 0.08 => 2,
            l if l >= 0.03 => 1,
            _ => 0,
        };
        let (from, until) = if self.protection == Protection::Within { (0.03, 0.015) } else { (0.15, 0.11) };
        let deep = self.loss >= if self.deep { until } else { from };
        if deep != self.deep {
            self.deep = deep;
            self.encoder.set_dred(deep)?;
            self.encoder.set_bitrate(if deep { BITRATE_DRED } else { BITRATE })?;
        }
        // FEC is there from the first packet: loss is known only after it has been heard.
        #[allow(clippy::cast_possible_truncation)]
        self.encoder.set_loss(((self.loss * 100.0) as i32).max(5))
    }
}
