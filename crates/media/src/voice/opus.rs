//! Opus (RFC 6716) through libopus, with deep redundancy (DRED). The only unsafe code of the house lives here.
//!
//! Invariants: the pointers come from the matching `create` and are freed once, in `drop`; every slice is passed with its own
//! length; the library keeps no pointer to what it is given after it has returned.

#![allow(unsafe_code)]

use crate::voice::{FRAME, RATE};
use opusic_sys as sys;
use std::ffi::c_int;
use std::ptr::NonNull;

/// A packet that libopus does not take, or a state it cannot make.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Opus error {0}")]
pub struct OpusError(pub i32);

/// Samples of one channel in the longest packet (120 ms).
pub const LONGEST: usize = 5760;
/// Bytes of a packet we write: 20 ms at the highest rate with redundancy.
pub const PACKET: usize = 1000;
/// What DRED reaches back to at most, in samples.
const DRED_SAMPLES: i32 = 48_000;
/// DRED sent, in units of 10 ms.
const DRED_LENGTH: i32 = 40;

fn check(code: c_int) -> Result<usize, OpusError> {
    usize::try_from(code).map_err(|_| OpusError(code))
}

/// Encodes speech: mono, 48 kHz, 20 ms.
pub struct Encoder(NonNull<sys::OpusEncoder>);

// SAFETY: the state belongs to this value alone and libopus has no thread-local parts.
unsafe impl Send for Encoder {}

impl Encoder {
    /// For speech at `bitrate` bits per second, with in-band FEC.
    pub fn new(bitrate: i32) -> Result<Self, OpusError> {
        let mut error = 0;
        // SAFETY: `error` outlives the call; the result is checked before use.
        let raw = unsafe { sys::opus_encoder_create(RATE.cast_signed(), 1, sys::OPUS_APPLICATION_VOIP, &raw mut error) };
        let mut this = Self(NonNull::new(raw).ok_or(OpusError(error))?);
        this.set(sys::OPUS_SET_BITRATE_REQUEST, bitrate)?;
        this.set(sys::OPUS_SET_COMPLEXITY_REQUEST, 9)?;
        this.set(sys::OPUS_SET_INBAND_FEC_REQUEST, 1)?;
        Ok(this)
    }

    fn set(&mut self, request: c_int, value: i32) -> Result<(), OpusError> {
        // SAFETY: every request used here takes one integer.
        check(unsafe { sys::opus_encoder_ctl(self.0.as_ptr(), request, value) }).map(drop)
    }

    /// Tells what share of the packets is lost, in percent, so that FEC gets its share of the bits.
    pub fn set_loss(&mut self, percent: i32) -> Result<(), OpusError> {
        self.set(sys::OPUS_SET_PACKET_LOSS_PERC_REQUEST, percent.clamp(0, 100))
    }

    /// Bits per second.
    pub fn set_bitrate(&mut self, bitrate: i32) -> Result<(), OpusError> {
        self.set(sys::OPUS_SET_BITRATE_REQUEST, bitrate)
    }

    /// Deep redundancy instead of FEC, or back.
    pub fn set_dred(&mut self, on: bool) -> Result<(), OpusError> {
        self.set(sys::OPUS_SET_DRED_DURATION_REQUEST, if on { DRED_LENGTH } else { 0 })
    }

    /// Encodes one frame.
    pub fn encode(&mut self, pcm: &[f32; FRAME]) -> Result<Vec<u8>, OpusError> {
        let mut out = vec![0u8; PACKET];
        let room = i32::try_from(out.len()).unwrap_or(i32::MAX);
        // SAFETY: `pcm` has FRAME samples of one channel, `out` has `room` bytes.
        let n = check(unsafe {
            sys::opus_encode_float(self.0.as_ptr(), pcm.as_ptr(), c_int::try_from(FRAME).unwrap_or(0), out.as_mut_ptr(), room)
        })?;
        out.truncate(n);
        Ok(out)
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: made by `opus_encoder_create`, dropped once.
        unsafe { sys::opus_encoder_destroy(self.0.as_ptr()) }
    }
}

/// Decodes to mono, 48 kHz.
pub struct Decoder {
    raw: NonNull<sys::OpusDecoder>,
    dred: Dred,
    out: Vec<f32>,
}

struct Dred {
    decoder: NonNull<sys::OpusDREDDecoder>,
    state: NonNull<sys::OpusDRED>,
}

impl Drop for Dred {
    fn drop(&mut self) {
        // SAFETY: both were made by their `create`, dropped once.
        unsafe {
            sys::opus_dred_decoder_destroy(self.decoder.as_ptr());
            sys::opus_dred_free(self.state.as_ptr());
        }
    }
}

// SAFETY: as for the encoder.
unsafe impl Send for Decoder {}

impl Decoder {
    /// With concealment by the deep model.
    pub fn new() -> Result<Self, OpusError> {
        let mut error = 0;
        // SAFETY: `error` outlives the calls; every result is checked before use.
        let (raw, decoder, state) = unsafe {
            let raw = sys::opus_decoder_create(RATE.cast_signed(), 1, &raw mut error);
            let decoder = sys::opus_dred_decoder_create(&raw mut error);
            (raw, decoder, sys::opus_dred_alloc(&raw mut error))
        };
        let dred = match (NonNull::new(decoder), NonNull::new(state)) {
            (Some(decoder), Some(state)) => Dred { decoder, state },
            // Out of memory: what was made of the pair is lost with the call.
            _ => return Err(OpusError(error)),
        };
        let this = Self { raw: NonNull::new(raw).ok_or(OpusError(error))?, dred, out: vec![0.0; LONGEST] };
        // SAFETY: the request takes one integer.
        check(unsafe { sys::opus_decoder_ctl(this.raw.as_ptr(), sys::OPUS_SET_COMPLEXITY_REQUEST, 5) })?;
        Ok(this)
    }

    /// Samples a packet stands for.
    pub fn samples(packet: &[u8]) -> Result<usize, OpusError> {
        let len = i32::try_from(packet.len()).map_err(|_| OpusError(sys::OPUS_BAD_ARG))?;
        if len == 0 {
            return Err(OpusError(sys::OPUS_BAD_ARG));
        }
        // SAFETY: `packet` has `len` bytes, at least one.
        check(unsafe { sys::opus_packet_get_nb_samples(packet.as_ptr(), len, RATE.cast_signed()) })
    }

    /// The packet has a coarse copy of the frame before it.
    pub fn has_fec(packet: &[u8]) -> Result<bool, OpusError> {
        let len = i32::try_from(packet.len()).map_err(|_| OpusError(sys::OPUS_BAD_ARG))?;
        // SAFETY: `packet` has `len` bytes; the library looks at none when there is none.
        check(unsafe { sys::opus_packet_has_lbrr(packet.as_ptr(), len) }).map(|n| n > 0)
    }

    fn run(&mut self, packet: Option<&[u8]>, samples: usize, fec: bool) -> Result<&[f32], OpusError> {
        let room = c_int::try_from(samples.min(LONGEST)).unwrap_or(0);
        let (data, len) = packet.map_or((std::ptr::null(), 0), |p| (p.as_ptr(), i32::try_from(p.len()).unwrap_or(0)));
        // SAFETY: `data` has `len` bytes or is null with none; `out` has LONGEST samples, `room` at most.
        let n = check(unsafe { sys::opus_decode_float(self.raw.as_ptr(), data, len, self.out.as_mut_ptr(), room, c_int::from(fec)) })?;
        Ok(self.out.get(..n).unwrap_or_default())
    }

    /// Decodes a packet.
    pub fn decode(&mut self, packet: &[u8]) -> Result<&[f32], OpusError> {
        self.run(Some(packet), LONGEST, false)
    }

    /// The frame before `next`, from the copy in it ([`Decoder::has_fec`]); concealed when there is none.
    pub fn recover(&mut self, next: &[u8], samples: usize) -> Result<&[f32], OpusError> {
        self.run(Some(next), samples, true)
    }

    /// Goes on with what was heard last.
    pub fn conceal(&mut self, samples: usize) -> Result<&[f32], OpusError> {
        self.run(None, samples, false)
    }

    /// The frame that began `before` samples before `packet` does, from the packet's deep redundancy; `None` when it does not
    /// reach back that far.
    pub fn recall(&mut self, packet: &[u8], before: usize, samples: usize) -> Result<Option<&[f32]>, OpusError> {
        let len = i32::try_from(packet.len()).map_err(|_| OpusError(sys::OPUS_BAD_ARG))?;
        let (offset, frame) = (i32::try_from(before).unwrap_or(i32::MAX), i32::try_from(samples.min(LONGEST)).unwrap_or(0));
        let mut end = 0;
        // SAFETY: `packet` has `len` bytes, `end` outlives the call, both states are ours.
        let reach = check(unsafe {
            sys::opus_dred_parse(
                self.dred.decoder.as_ptr(),
                self.dred.state.as_ptr(),
                packet.as_ptr(),
                len,
                DRED_SAMPLES,
                RATE.cast_signed(),
                &raw mut end,
                0,
            )
        })?;
        if reach < before {
            return Ok(None);
        }
        // SAFETY: the state was just filled; `out` has LONGEST samples, `frame` at most.
        let n = check(unsafe {
            sys::opus_decoder_dred_decode_float(self.raw.as_ptr(), self.dred.state.as_ptr(), offset, self.out.as_mut_ptr(), frame)
        })?;
        Ok(self.out.get(..n))
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: made by `opus_decoder_create`, dropped once.
        unsafe { sys::opus_decoder_destroy(self.raw.as_ptr()) }
    }
}
