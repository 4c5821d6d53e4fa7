//! VP8 and VP9 by libvpx, for a conversation: no frame waits for another, the rate is kept, errors do not spread past a key frame.

// libvpx has no safe interface; each block says why it is sound.
#![allow(unsafe_code)]

use super::VideoError;
use super::codec::Codec;
use super::convert::I420;
use std::mem::MaybeUninit;
use std::time::Duration;
use vpx_sys as vpx;

/// Speed against quality: of a core, 360p at 30 frames a second takes a few hundredths.
fn speed(codec: Codec) -> i32 {
    match codec {
        Codec::Vp8 => -8,
        Codec::Vp9 => 8,
    }
}

/// An encoder of one size.
pub struct Encoder {
    /// Boxed: libvpx keeps pointers between its parts.
    context: Box<vpx::vpx_codec_ctx_t>,
    config: vpx::vpx_codec_enc_cfg_t,
    width: u32,
    height: u32,
    last: Option<i64>,
}

// SAFETY: libvpx ties a context to no thread; it may be used by one at a time, which `&mut self` ensures.
unsafe impl Send for Encoder {}

fn check(what: &'static str, code: vpx::vpx_codec_err_t) -> Result<(), VideoError> {
    if code == vpx::vpx_codec_err_t::VPX_CODEC_OK { Ok(()) } else { Err(VideoError::Encoder(what, code as u32)) }
}

impl Encoder {
    /// For frames of this size, which is even, at so many kb/s; of a camera, or of a `screen`.
    pub fn new(codec: Codec, (width, height): (u32, u32), rate: u32, screen: bool) -> Result<Self, VideoError> {
        // SAFETY: the interface is a static of libvpx. The configuration is read only after libvpx has filled all of it, the context
        // only after it was initialized; on failure neither is used. Enums in both hold what the library of this very version wrote.
        unsafe {
            let interface = match codec {
                Codec::Vp8 => vpx::vpx_codec_vp8_cx(),
                Codec::Vp9 => vpx::vpx_codec_vp9_cx(),
            };
            let mut config = MaybeUninit::<vpx::vpx_codec_enc_cfg_t>::zeroed();
            check("configuration", vpx::vpx_codec_enc_config_default(interface, config.as_mut_ptr(), 0))?;
            let mut config = config.assume_init();
            config.g_w = width;
            config.g_h = height;
            config.g_threads = 1;
            // Timestamps in microseconds.
            config.g_timebase.num = 1;
            config.g_timebase.den = 1_000_000;
            config.g_lag_in_frames = 0;
            // Nothing is shown behind a hole: VP9, which pays for it, need not be ready for one.
            config.g_error_resilient = if codec == Codec::Vp8 { vpx::VPX_ERROR_RESILIENT_DEFAULT } else { 0 };
            config.rc_end_usage = vpx::vpx_rc_mode::VPX_CBR;
            config.rc_target_bitrate = rate;
            config.rc_min_quantizer = 4;
            config.rc_max_quantizer = 56;
            config.rc_undershoot_pct = 100;
            config.rc_overshoot_pct = 15;
            config.rc_buf_sz = 600;
            config.rc_buf_initial_sz = 400;
            config.rc_buf_optimal_sz = 500;
            config.rc_dropframe_thresh = 30;
            // Key frames come when they are asked for.
            config.kf_mode = vpx::vpx_kf_mode::VPX_KF_DISABLED;
            let mut context = Box::new(MaybeUninit::<vpx::vpx_codec_ctx_t>::zeroed());
            let version = vpx::VPX_ENCODER_ABI_VERSION.cast_signed();
            check("start", vpx::vpx_codec_enc_init_ver(context.as_mut_ptr(), interface, &raw const config, 0, version))?;
            let context = context.assume_init();
            let mut this = Self { context, config, width, height, last: None };
            this.control(vpx::vp8e_enc_control_id::VP8E_SET_CPUUSED, speed(codec))?;
            this.control(vpx::vp8e_enc_control_id::VP8E_SET_STATIC_THRESHOLD, 1)?;
            match codec {
                Codec::Vp8 => {
                    this.control(vpx::vp8e_enc_control_id::VP8E_SET_NOISE_SENSITIVITY, 0)?;
                    this.control(vpx::vp8e_enc_control_id::VP8E_SET_SCREEN_CONTENT_MODE, screen.into())?;
                }
                Codec::Vp9 => {
                    // Points are spent where something moves; screens are told from cameras.
                    this.control(vpx::vp8e_enc_control_id::VP9E_SET_AQ_MODE, 3)?;
                    this.control(vpx::vp8e_enc_control_id::VP9E_SET_TUNE_CONTENT, screen.into())?;
                }
            }
            // A key frame is at most this many hundredths of an average frame: a burst is a delay.
            this.control(vpx::vp8e_enc_control_id::VP8E_SET_MAX_INTRA_BITRATE_PCT, 600)?;
            Ok(this)
        }
    }

    fn control(&mut self, id: vpx::vp8e_enc_control_id, value: i32) -> Result<(), VideoError> {
        // SAFETY: the context is initialized; each of the controls used here takes one `int` (vp8cx.h).
        check("setting", unsafe { vpx::vpx_codec_control_(&raw mut *self.context, id as i32, value) })
    }

    /// Another rate, in kb/s.
    pub fn set_rate(&mut self, rate: u32) -> Result<(), VideoError> {
        self.config.rc_target_bitrate = rate;
        // SAFETY: the context is initialized and the configuration is the one it was initialized with, but for the rate.
        check("rate", unsafe { vpx::vpx_codec_enc_config_set(&raw mut *self.context, &raw const self.config) })
    }

    /// Encodes a frame (I420) taken at `at`. Nothing when the rate has no room for it; else the bytes, and whether it is a key frame.
    pub fn encode(&mut self, frame: &[u8], at: Duration, key: bool) -> Result<Option<(Vec<u8>, bool)>, VideoError> {
        if frame.len() != (self.width * self.height * 3 / 2) as usize {
            return Err(VideoError::Encoder("a frame of another size", 0));
        }
        // Timestamps rise, or libvpx refuses.
        let at = i64::try_from(at.as_micros()).unwrap_or(i64::MAX).max(self.last.map_or(0, |l| l + 1));
        let lasts = self.last.map_or(33_333, |l| u64::try_from(at - l).unwrap_or(1));
        self.last = Some(at);
        let flags = if key { i64::from(vpx::VPX_EFLAG_FORCE_KF) } else { 0 };
        let mut out = Vec::new();
        let mut is_key = false;
        // SAFETY: the image borrows `frame` for this call only, is never written to by an encoder, and its length is checked above.
        // Packets live until the next call on the context; they are copied at once. The union is read as its kind says.
        unsafe {
            let mut image = MaybeUninit::<vpx::vpx_image_t>::zeroed();
            let format = vpx::vpx_img_fmt::VPX_IMG_FMT_I420;
            if vpx::vpx_img_wrap(image.as_mut_ptr(), format, self.width, self.height, 1, frame.as_ptr().cast_mut()).is_null() {
                return Err(VideoError::Encoder("image", 0));
            }
            let context = &raw mut *self.context;
            let deadline = u64::from(vpx::VPX_DL_REALTIME);
            check("frame", vpx::vpx_codec_encode(context, image.as_ptr(), at, lasts, flags, deadline))?;
            let mut next = std::ptr::null();
            while let Some(packet) = vpx::vpx_codec_get_cx_data(context, &raw mut next).as_ref() {
                if packet.kind == vpx::vpx_codec_cx_pkt_kind::VPX_CODEC_CX_FRAME_PKT {
                    let f = packet.data.frame;
                    out.extend_from_slice(std::slice::from_raw_parts(f.buf.cast::<u8>(), f.sz));
                    is_key |= f.flags & vpx::VPX_FRAME_IS_KEY != 0;
                }
            }
        }
        Ok((!out.is_empty()).then_some((out, is_key)))
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        // SAFETY: the context is initialized, and not used after this.
        unsafe { vpx::vpx_codec_destroy(&raw mut *self.context) };
    }
}

/// A decoder, for whoever draws without one of their own.
pub struct Decoder(Box<vpx::vpx_codec_ctx_t>);

// SAFETY: as the encoder.
unsafe impl Send for Decoder {}

impl Decoder {
    /// Begins with a key frame.
    pub fn new(codec: Codec) -> Result<Self, VideoError> {
        // SAFETY: the interface is a static of libvpx; the context is read only after it was initialized.
        unsafe {
            let mut context = Box::new(MaybeUninit::<vpx::vpx_codec_ctx_t>::zeroed());
            let version = vpx::VPX_DECODER_ABI_VERSION.cast_signed();
            let interface = match codec {
                Codec::Vp8 => vpx::vpx_codec_vp8_dx(),
                Codec::Vp9 => vpx::vpx_codec_vp9_dx(),
            };
            let code = vpx::vpx_codec_dec_init_ver(context.as_mut_ptr(), interface, std::ptr::null(), 0, version);
            check("start of the decoder", code)?;
            Ok(Self(context.assume_init()))
        }
    }

    /// Decodes a frame; its picture, even sides. Nothing when the frame shows nothing.
    pub fn decode(&mut self, frame: &[u8]) -> Result<Option<I420>, VideoError> {
        let size = u32::try_from(frame.len()).map_err(|_| VideoError::Encoder("a frame that is too large", 0))?;
        // SAFETY: libvpx reads `frame` during this call only. A picture lives until the next call on the context and is copied at once;
        // its planes have `d_h` lines of `stride` bytes, of which `d_w` are points, the second and third half of both, rounded up.
        unsafe {
            let context = &raw mut *self.0;
            check("frame", vpx::vpx_codec_decode(context, frame.as_ptr(), size, std::ptr::null_mut(), 0))?;
            let mut next = std::ptr::null();
            let Some(image) = vpx::vpx_codec_get_frame(context, &raw mut next).as_ref() else { return Ok(None) };
            if image.fmt != vpx::vpx_img_fmt::VPX_IMG_FMT_I420 {
                return Err(VideoError::Encoder("a picture of another kind", 0));
            }
            let mut to = I420::fresh(image.d_w, image.d_h)?;
            for (plane, half) in [(0, 1), (1, 2), (2, 2)] {
                let (Some(plane), Some(stride)) = (image.planes.get(plane), image.stride.get(plane)) else { return Ok(None) };
                for y in 0..to.height / half {
                    let line = plane.offset(*stride as isize * (y as usize).cast_signed());
                    to.bytes.extend_from_slice(std::slice::from_raw_parts(line, (to.width / half) as usize));
                }
            }
            Ok(Some(to))
        }
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // SAFETY: the context is initialized, and not used after this.
        unsafe { vpx::vpx_codec_destroy(&raw mut *self.0) };
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A grey picture with a white square that wanders.
    fn picture(n: usize) -> Vec<u8> {
        let (w, h) = (320, 180);
        let mut frame = vec![90; w * h * 3 / 2];
        for y in 40..100 {
            let from = y * w + (n * 5) % (w - 60);
            frame.iter_mut().skip(from).take(60).for_each(|p| *p = 230);
        }
        frame
    }

    const BOTH: [Codec; 2] = [Codec::Vp8, Codec::Vp9];

    #[test]
    fn key_frames_come_when_asked_and_the_rate_is_kept() {
        for codec in BOTH {
            let mut e = Encoder::new(codec, (320, 180), 200, false).unwrap();
            let (mut bytes, mut keys) = (0, Vec::new());
            for n in 0..250 {
                let at = Duration::from_millis(40) * u32::try_from(n).unwrap();
                let Some((frame, key)) = e.encode(&picture(n), at, n == 100).unwrap() else { continue };
                assert!(codec.is_sane(&frame) && codec.is_key(&frame) == key);
                if key {
                    keys.push(n);
                }
                bytes += frame.len();
            }
            assert_eq!(keys, [0, 100], "{codec:?}");
            let rate = bytes * 8 / 10 / 1_000;
            assert!(rate < 240, "{codec:?}: {rate} kb/s");
            e.set_rate(100).unwrap();
            assert!(e.encode(&[0; 10], Duration::ZERO, false).is_err());
        }
    }

    #[test]
    fn what_is_encoded_is_seen_again() {
        for codec in BOTH {
            let (mut e, mut d) = (Encoder::new(codec, (320, 180), 400, false).unwrap(), Decoder::new(codec).unwrap());
            for n in 0..20 {
                let at = Duration::from_millis(40) * u32::try_from(n).unwrap();
                let Some((frame, _)) = e.encode(&picture(n), at, n == 0).unwrap() else { continue };
                let seen = d.decode(&frame).unwrap().unwrap();
                assert_eq!((seen.width, seen.height), (320, 180));
                let apart: usize = seen.bytes.iter().zip(picture(n)).map(|(a, b)| usize::from(a.abs_diff(b))).sum();
                assert!(seen.bytes.len() == 320 * 180 * 3 / 2 && apart / seen.bytes.len() < 4, "{codec:?} frame {n}");
            }
            assert!(d.decode(b"no frame of a picture").is_err());
        }
    }
}
