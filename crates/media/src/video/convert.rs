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
    /// Blue, green, red, and a byte that says nothing.
    Bgrx,
}

/// The pointer on a screen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pointer {
    /// Where its first point lies on the whole display.
    pub at: (i32, i32),
    /// Points across.
    pub width: usize,
    /// Line by line: how opaque, red, green, blue, from the highest byte on; the colours are multiplied already.
    pub points: Vec<u32>,
}

impl Pointer {
    /// Draws it into points as of [`Layout::Bgrx`], so many in a line, whose first one lies at `origin`. What is outside is left out.
    pub fn draw(&self, to: &mut [u8], line: usize, origin: (i32, i32)) {
        let start = (i64::from(self.at.0) - i64::from(origin.0), i64::from(self.at.1) - i64::from(origin.1));
        for (y, row) in (start.1..).zip(self.points.chunks(self.width.max(1))) {
            let place = |x: i64| Some(4 * (usize::try_from(y).ok()? * line + usize::try_from(x).ok().filter(|x| *x < line)?));
            for (x, point) in (start.0..).zip(row) {
                let [opaque, red, green, blue] = point.to_be_bytes();
                let under = place(x).and_then(|from| to.get_mut(from..from + 3));
                for (under, over) in under.into_iter().flatten().zip([blue, green, red]) {
                    let rest = u16::from(*under) * u16::from(255 - opaque) / 255;
                    #[allow(clippy::cast_possible_truncation)] // At most 255.
                    let mixed = (u16::from(over) + rest).min(255) as u8;
                    *under = mixed;
                }
            }
        }
    }
}

impl I420 {
    /// Brightness alone, line by line.
    #[must_use]
    pub fn brightness(&self) -> &[u8] {
        self.bytes.get(..(self.width * self.height) as usize).unwrap_or_default()
    }

    /// An empty one, of even sides.
    pub(super) fn fresh(width: u32, height: u32) -> Result<Self, VideoError> {
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
            Layout::Bgrx => to.colours(from, 4 * line)?,
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

    /// Colours as screens have them to those of video (BT.601); of every four points one mean colour.
    fn colours(&mut self, from: &[u8], line: usize) -> Result<(), VideoError> {
        let (w, h) = (self.width as usize, self.height as usize);
        let row = |y: usize| from.get(y * line..y * line + 4 * w).map(|r| r.as_chunks::<4>().0).ok_or_else(short);
        for y in 0..h {
            self.bytes.extend(row(y)?.iter().map(|p| mixed(*p, [25, 129, 66], 16)));
        }
        let mut reds = Vec::with_capacity(w * h / 4);
        for y in (0..h).step_by(2) {
            for (a, b) in row(y)?.as_chunks::<2>().0.iter().zip(row(y + 1)?.as_chunks::<2>().0) {
                let mean = mean([a, b]);
                self.bytes.push(mixed(mean, [112, -74, -38], 128));
                reds.push(mixed(mean, [-18, -94, 112], 128));
            }
        }
        self.bytes.append(&mut reds);
        Ok(())
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

    /// The same in at most so many points across and down, each mixed of its neighbours; sides stay even.
    #[must_use]
    pub fn within(self, most: (u32, u32)) -> Self {
        let by = (f64::from(self.width) / f64::from(most.0)).max(f64::from(self.height) / f64::from(most.1));
        if by <= 1.0 {
            return self;
        }
        if by > 2.0 {
            // Every point counts, however small it becomes.
            return self.halved().within(most);
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let side = |n: u32| ((f64::from(n) / by) as u32 & !1).max(2);
        let (width, height) = (side(self.width), side(self.height));
        let mut bytes = Vec::with_capacity((width * height * 3 / 2) as usize);
        let mut rest = self.bytes.as_slice();
        for half in [1, 2, 2] {
            let (w, h) = ((self.width / half) as usize, (self.height / half) as usize);
            let (plane, after) = rest.split_at_checked(w * h).unwrap_or((rest, &[]));
            scale(plane, (w, h), &mut bytes, ((width / half) as usize, (height / half) as usize));
            rest = after;
        }
        Self { width, height, bytes }
    }
}

/// Blue, green and red, each so much of 256, on top of `base`.
fn mixed([blue, green, red, _]: [u8; 4], [b, g, r]: [i32; 3], base: i32) -> u8 {
    let sum = b * i32::from(blue) + g * i32::from(green) + r * i32::from(red);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // 16 to 240.
    let value = (base + ((sum + 128) >> 8)).clamp(0, 255) as u8;
    value
}

/// The mean colour of four points.
fn mean([a, b]: [&[[u8; 4]; 2]; 2]) -> [u8; 4] {
    let ([a0, a1], [b0, b1]) = (a, b);
    let mut out = [0; 4];
    for (to, (((a, b), c), d)) in out.iter_mut().zip(a0.iter().zip(a1).zip(b0).zip(b1)) {
        #[allow(clippy::cast_possible_truncation)] // The mean of four bytes.
        let mean = ((u16::from(*a) + u16::from(*b) + u16::from(*c) + u16::from(*d) + 2) / 4) as u8;
        *to = mean;
    }
    out
}

/// Where each of `to` points lies among `from` points: the one before it, and how near the next one is, of 256.
fn places(from: usize, to: usize) -> impl Iterator<Item = (usize, u32)> {
    (0..to).map(move |n| {
        let at = n * from * 256 / to.max(1);
        (at / 256, u32::try_from(at % 256).unwrap_or(0))
    })
}

/// A plane in another size; each point is mixed of the four that are nearest.
fn scale(plane: &[u8], (w, h): (usize, usize), to: &mut Vec<u8>, (to_w, to_h): (usize, usize)) {
    let across: Vec<_> = places(w, to_w).collect();
    for (y, near) in places(h, to_h) {
        let line = |y: usize| plane.get(y * w..(y + 1) * w);
        let Some(upper) = line(y) else { return };
        let lower = line(y + 1).unwrap_or(upper);
        let at = |line: &[u8], x: usize| u32::from(line.get(x).or(line.last()).copied().unwrap_or(128));
        to.extend(across.iter().map(|(x, beside)| {
            let row = |line: &[u8]| at(line, *x) * (256 - beside) + at(line, x + 1) * beside;
            #[allow(clippy::cast_possible_truncation)] // Mixed of bytes.
            let point = ((row(upper) * (256 - near) + row(lower) * near) >> 16) as u8;
            point
        }));
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
    fn colours_of_a_screen_are_those_of_video() {
        // White, red, green and blue, four points each; then black, which is left out.
        let row: Vec<u8> =
            [[255, 255, 255, 0], [0, 0, 255, 9], [0, 255, 0, 0], [255, 0, 0, 255]].into_iter().flat_map(|p| [p, p]).flatten().collect();
        let seen = I420::of(Layout::Bgrx, (8, 3), &[row.clone(), row, vec![0; 32]].concat()).unwrap();
        assert_eq!((seen.width, seen.height), (8, 2));
        let line = [235, 235, 82, 82, 144, 144, 41, 41];
        assert_eq!(seen.bytes, [&line[..], &line, &[128, 90, 54, 240], &[128, 240, 34, 110]].concat());
        assert!(I420::of(Layout::Bgrx, (8, 3), &[0; 63]).is_err());
    }

    #[test]
    fn the_pointer_is_drawn_where_it_is() {
        let mut to = vec![100; 4 * 3 * 2];
        // Two by two, at the right edge: half of it is outside. Opaque red, and half a white.
        let pointer = Pointer { at: (12, 20), width: 2, points: vec![0xffff_0000, 1, 0x8080_8080, 1] };
        pointer.draw(&mut to, 3, (10, 20));
        let mut want = vec![100; 4 * 3 * 2];
        want[8..11].copy_from_slice(&[0, 0, 255]);
        want[20..23].copy_from_slice(&[128 + 49; 3]);
        assert_eq!(to, want);
        pointer.draw(&mut to, 3, (2_000, -2_000));
        Pointer { width: 0, ..pointer }.draw(&mut to, 0, (0, 0));
        assert_eq!(to.len(), want.len());
    }

    #[test]
    fn a_slope_stays_one_when_it_is_made_smaller() {
        let (w, h) = (300, 200);
        let slope: Vec<u8> = (0..h).flat_map(|y| (0..w).map(move |x| ((x + y) / 2) as u8)).collect();
        let small = I420::of(Layout::Grey, (w, h), &slope).unwrap().within((200, 200));
        assert_eq!((small.width, small.height), (200, 132));
        let off = (0..132u32).flat_map(|y| (0..200u32).map(move |x| (x, y))).map(|(x, y)| {
            let point = small.bytes[(y * 200 + x) as usize];
            point.abs_diff(((x * 300 / 200 + y * 200 / 132) / 2) as u8)
        });
        assert!(off.max().unwrap() <= 1);
        let large = I420::of(Layout::Grey, (3_840, 2_160), &vec![9; 3_840 * 2_160]).unwrap().within((1_920, 1_080));
        assert_eq!((large.width, large.height, large.bytes[7]), (1_920, 1_080, 9));
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
            for layout in [Layout::Yuyv, Layout::Nv12, Layout::Grey, Layout::Jpeg, Layout::Bgrx] {
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
