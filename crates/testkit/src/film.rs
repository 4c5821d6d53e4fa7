//! Films whose frames are numbered in their points, so that whoever sees one knows which it is.

use sc_media::room::core::Picture;
use sc_media::video::codec::Codec;
use sc_media::video::convert::I420;
use sc_media::video::vpx::Decoder;
use std::io::Write as _;
use std::path::Path;

/// Digits of the number, as black and white fields in the upper half.
const BITS: usize = 12;
/// Frames a second.
pub const RATE: usize = 25;

/// The number a frame of this film has in its points.
#[must_use]
pub fn number(frame: &I420) -> Option<usize> {
    let (width, height) = (frame.width as usize, frame.height as usize);
    let (w, h) = (width / (BITS + 1), height / 4);
    let mean = |bit: usize| -> Option<f32> {
        let (mut sum, mut n) = (0u32, 0u32);
        for y in h + h / 4..2 * h - h / 4 {
            let from = y * width + bit * w + w / 4;
            for p in frame.brightness().get(from..from + w / 2)? {
                sum += u32::from(*p);
                n += 1;
            }
        }
        #[allow(clippy::cast_precision_loss)]
        Some(sum as f32 / n.max(1) as f32)
    };
    // The last field is black when the others are in sight at all.
    if mean(BITS)? > 80.0 {
        return None;
    }
    (0..BITS).try_fold(0, |n, bit| Some(n << 1 | usize::from(mean(bit)? > 125.0)))
}

/// Writes a film (YUV4MPEG2) of so many frames and points. Around the number something moves, as in a conversation.
pub fn film(path: &Path, frames: usize, (width, height): (usize, usize)) -> std::io::Result<()> {
    let mut out = std::io::BufWriter::new(std::fs::File::create(path)?);
    writeln!(out, "YUV4MPEG2 W{width} H{height} F{RATE}:1 Ip C420jpeg")?;
    let w = width / (BITS + 1);
    for n in 0..frames {
        out.write_all(b"FRAME\n")?;
        let mut points = Vec::with_capacity(width * height);
        for y in 0..height {
            for x in 0..width {
                let field = x / w;
                let white = field < BITS && n >> (BITS - 1 - field) & 1 == 1;
                points.push(match (y * 4 / height, white) {
                    (1, true) => 220,
                    (1, false) => 30,
                    // Wandering stripes with a little texture.
                    #[allow(clippy::cast_possible_truncation)]
                    _ => (80 + ((x + 2 * n) / 16 % 6) * 20 + (x * 7 + y * 13) % 9) as u8,
                });
            }
        }
        out.write_all(&points)?;
        out.write_all(&vec![128; width * height / 2])?;
    }
    out.flush()
}

/// The numbers in frames as they came, those without one left out. A decoder needs them all, from the first key frame on.
pub fn numbers<'a, T>(frames: impl IntoIterator<Item = (T, &'a Picture)>) -> anyhow::Result<Vec<(T, usize)>> {
    let mut decoder: Option<(Codec, Decoder)> = None;
    let mut out = Vec::new();
    for (with, f) in frames {
        if decoder.as_ref().is_none_or(|(codec, _)| *codec != f.codec) {
            decoder = Some((f.codec, Decoder::new(f.codec)?));
        }
        let Some((_, decoder)) = &mut decoder else { continue };
        out.extend(decoder.decode(&f.frame)?.as_ref().and_then(number).map(|n| (with, n)));
    }
    Ok(out)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use sc_media::video::source::Source;

    #[test]
    fn the_number_of_each_frame_is_in_its_points() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f.y4m");
        film(&path, 40, (320, 180)).unwrap();
        let mut frames = Source::File(path).open().unwrap();
        for n in 0..40 {
            frames.next().unwrap();
            assert_eq!(number(&I420 { width: 320, height: 180, bytes: frames.frame().to_vec() }), Some(n));
        }
        assert_eq!(number(&I420 { width: 320, height: 180, bytes: vec![120; 320 * 270] }), None);
    }
}
