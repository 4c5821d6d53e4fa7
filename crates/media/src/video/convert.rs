//! What cameras and screens deliver, as I420 (all of Y, then U and V at half the size). Sides are made even by leaving the last line out.

use super::VideoError;
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// The most points across and down that are taken.
pub const SIDE: u32 = 4_096;

/// A picture: its points across and down, even, and I420.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct I420 {
    /// Points across.
    pub width: u32,
    /// Points down.
    pub height: u32,
    /// Y, U, V.
    pub bytes: Vec<u8>,
}

fn short() -> VideoError {
    VideoError::Device("a frame is shorter than its size says".into())
}

/// How a picture is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Y U Y V.
    Yuyv,
    /// All of Y, then U and V in turns at half the size.
    Nv12,
    /// Brightness alone.
    Grey,
    /// A JPEG for each frame; it says its size itself.
    Jpeg,
}

impl I420 {
    /// An empty one, of even sides.
    fn fresh(width: u32, height: u32) -> Result<Self, VideoError> {
        if !(2..=SIDE).contains(&width) || !(2..=SIDE).contains(&height) {
            return Err(VideoError::Device(format!("{width} × {height} points cannot be shown")));
        }
        let (width, height) = (width & !1, height & !1);
        Ok(Self { width, height, bytes: Vec::with_capacity((width * height * 3 / 2) as usize) })
    }

    /// Converts a frame of so many points.
    pub fn of(layout: Layout, (width, height): (u32, u32), from: &[u8]) -> Result<Self, VideoError> {
        let line = width as usize;
        let mut to = Self::fresh(width, height)?;
        let (w, h) = (to.width as usize, to.height as usize);
        match layout {
            Layout::Yuyv => to.samples(from, 2 * line, [(2, 0), (4, 1), (4, 3)])?,
            Layout::Nv12 => {
                let (y, uv) = from.split_at_checked(line * height as usize).ok_or_else(short)?;
                to.plane(y, line, (1, 0), (w, h))?;
                to.plane(uv, line, (2, 0), (w / 2, h / 2))?;
                to.plane(uv, line, (2, 1), (w / 2, h / 2))?;
            }
            Layout::Grey => {
                to.plane(from, line, (1, 0), (w, h))?;
                to.bytes.resize(w * h * 3 / 2, 128);
            }
            Layout::Jpeg => return Self::of_jpeg(from),
        }
        Ok(to)
    }

    fn of_jpeg(from: &[u8]) -> Result<Self, VideoError> {
        let options = DecoderOptions::default().set_max_width(SIDE as usize).set_max_height(SIDE as usize);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(from), options.jpeg_set_out_colorspace(ColorSpace::YCbCr));
        let points = decoder.decode().map_err(|e| VideoError::Device(e.to_string()))?;
        let (width, height) = decoder.dimensions().ok_or_else(short)?;
        let side = |n: usize| u32::try_from(n).map_err(|_| short());
        let size = (side(width)?, side(height)?);
        let mut to = Self::fresh(size.0, size.1)?;
        match points.len() / (width * height) {
            3 => to.samples(&points, 3 * width, [(3, 0), (6, 1), (6, 2)])?,
            // Without colours.
            1 => return Self::of(Layout::Grey, size, &points),
            _ => return Err(short()),
        }
        Ok(to)
    }

    /// Samples of every line, taken `step` bytes apart from `first` on.
    fn plane(&mut self, from: &[u8], line: usize, (step, first): (usize, usize), (w, h): (usize, usize)) -> Result<(), VideoError> {
        for y in 0..h {
            let from = from.get(y * line + first..).ok_or_else(short)?;
            let before = self.bytes.len();
            self.bytes.extend(from.iter().step_by(step).take(w));
            if self.bytes.len() - before < w {
                return Err(short());
            }
        }
        Ok(())
    }

    /// Y, U and V in the same lines, each with its step and its first one; of colours every second line.
    fn samples(&mut self, from: &[u8], line: usize, [y, u, v]: [(usize, usize); 3]) -> Result<(), VideoError> {
        let (w, h) = (self.width as usize, self.height as usize);
        self.plane(from, line, y, (w, h))?;
        self.plane(from, 2 * line, u, (w / 2, h / 2))?;
        self.plane(from, 2 * line, v, (w / 2, h / 2))
    }

    /// The same at half its sides: each point is the mean of four. Sides stay even.
    #[must_use]
    pub fn halved(&self) -> Self {
        let (width, height) = ((self.width / 2) & !1, (self.height / 2) & !1);
        let mut bytes = Vec::with_capacity((width * height * 3 / 2) as usize);
        let mut rest = self.bytes.as_slice();
        for half in [1, 2, 2] {
            let (w, h) = ((self.width / half) as usize, (self.height / half) as usize);
            let (plane, after) = rest.split_at_checked(w * h).unwrap_or((rest, &[]));
            let lines: Vec<&[u8]> = plane.chunks_exact(w.max(1)).collect();
            for pair in lines.chunks_exact(2).take((height / half) as usize) {
                let [upper, lower] = pair else { continue };
                bytes.extend(upper.chunks_exact(2).zip(lower.chunks_exact(2)).take((width / half) as usize).map(|(a, b)| {
                    let sum: u16 = a.iter().chain(b).map(|p| u16::from(*p)).sum();
                    #[allow(clippy::cast_possible_truncation)] // The mean of four bytes.
                    let mean = ((sum + 2) / 4) as u8;
                    mean
                }));
            }
            rest = after;
        }
        Self { width, height, bytes }
    }

    /// The same in at most so many points across and down, by leaving points out; sides stay even.
    #[must_use]
    pub fn within(self, most: (u32, u32)) -> Self {
        let by = (f64::from(self.width) / f64::from(most.0)).max(f64::from(self.height) / f64::from(most.1));
        if by <= 1.0 {
            return self;
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let side = |n: u32| ((f64::from(n) / by) as u32 & !1).max(2);
        let (width, height) = (side(self.width), side(self.height));
        let mut bytes = Vec::with_capacity((width * height * 3 / 2) as usize);
        let mut rest = self.bytes.as_slice();
        for half in [1, 2, 2] {
            let (w, h) = ((self.width / half) as usize, (self.height / half) as usize);
            let (plane, after) = rest.split_at_checked(w * h).unwrap_or((rest, &[]));
            let (to_w, to_h) = ((width / half) as usize, (height / half) as usize);
            for y in 0..to_h {
                let line = plane.get(y * h / to_h * w..).unwrap_or_default();
                bytes.extend((0..to_w).map(|x| line.get(x * w / to_w).copied().unwrap_or(128)));
            }
            rest = after;
        }
        Self { width, height, bytes }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_layout_is_the_same_picture() {
        let want = I420 { width: 2, height: 2, bytes: vec![100, 101, 102, 103, 140, 120] };
        let yuyv = [100, 140, 101, 120, 102, 9, 103, 9];
        assert_eq!(I420::of(Layout::Yuyv, (2, 2), &yuyv).unwrap(), want);
        assert_eq!(I420::of(Layout::Nv12, (2, 2), &[100, 101, 102, 103, 140, 120]).unwrap(), want);
        assert_eq!(I420::of(Layout::Grey, (2, 2), &[100, 101, 102, 103]).unwrap().bytes, [100, 101, 102, 103, 128, 128]);
    }

    #[test]
    fn an_odd_picture_loses_its_last_line_and_a_large_one_becomes_small() {
        let odd = I420::of(Layout::Grey, (5, 3), &(0..15).collect::<Vec<u8>>()).unwrap();
        assert_eq!((odd.width, odd.height, odd.bytes.len()), (4, 2, 12));
        assert_eq!(odd.bytes[..8], [0, 1, 2, 3, 5, 6, 7, 8]);
        let small = I420::of(Layout::Grey, (1_920, 1_080), &vec![7; 1_920 * 1_080]).unwrap().within((1_280, 720));
        assert_eq!((small.width, small.height, small.bytes.len()), (1_280, 720, 1_280 * 720 * 3 / 2));
        assert_eq!(small.clone().within((1_280, 720)), small);
    }

    #[test]
    fn half_a_picture_has_the_mean_of_its_points() {
        let grey = |w: u32, h: u32, y: Vec<u8>| I420::of(Layout::Grey, (w, h), &y).unwrap();
        let half = grey(4, 4, (0..16).map(|n| n * 10).collect()).halved();
        assert_eq!((half.width, half.height, half.bytes), (2, 2, vec![25, 45, 105, 125, 128, 128]));
        let odd = grey(6, 6, vec![50; 36]).halved();
        assert_eq!((odd.width, odd.height, odd.bytes.len()), (2, 2, 6));
        let large = grey(1_280, 720, vec![50; 1_280 * 720]).halved();
        assert_eq!(large.bytes.len(), 640 * 360 * 3 / 2);
    }

    #[test]
    fn a_jpeg_is_opened() {
        // 16 × 16 points of one grey, as a camera sends them.
        let jpeg = include_bytes!("grey.jpg");
        let seen = I420::of(Layout::Jpeg, (16, 16), jpeg).unwrap();
        assert_eq!((seen.width, seen.height, seen.bytes.len()), (16, 16, 384));
        assert!(seen.bytes[..256].iter().all(|y| y.abs_diff(90) < 4), "{}", seen.bytes[0]);
        assert!(I420::of(Layout::Jpeg, (16, 16), &jpeg[..40]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_a_camera_says_is_an_error_at_most(w in 0u32..70, h in 0u32..70, bytes in prop::collection::vec(any::<u8>(), 0..9_000)) {
            for layout in [Layout::Yuyv, Layout::Nv12, Layout::Grey, Layout::Jpeg] {
                if let Ok(p) = I420::of(layout, (w, h), &bytes) {
                    prop_assert_eq!(p.bytes.len(), (p.width * p.height * 3 / 2) as usize);
                    let half = p.halved();
                    prop_assert_eq!(half.bytes.len(), (half.width * half.height * 3 / 2) as usize);
                    prop_assert!(p.within((8, 8)).width <= 8);
                }
            }
        }
    }
}
