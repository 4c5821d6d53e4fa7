//! Where frames come from: cameras, screens and windows, and a film for scripts and tests.

use super::{VideoError, camera, screen};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// The longest side of a picture that is taken.
const SIDE: u32 = 1_920;

/// A source, before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The camera of this name, or any.
    Camera(Option<String>),
    /// The screen or window of this id ([`screen::devices`]).
    Screen(String),
    /// A film without compression (YUV4MPEG2, 4:2:0), over and over.
    File(PathBuf),
}

impl Source {
    /// Opens it.
    pub fn open(&self) -> Result<Box<dyn Frames>, VideoError> {
        match self {
            Self::Camera(name) => camera::open(name.as_deref()),
            Self::Screen(id) => screen::open(id),
            Self::File(path) => Ok(Box::new(Film::open(path)?)),
        }
    }
}

/// Frames, one after the other, each as I420: all of Y, then U and V at half the size.
pub trait Frames {
    /// Points across, of the frame that came last; even.
    fn width(&self) -> u32;
    /// Points down, of the frame that came last; even.
    fn height(&self) -> u32;
    /// The frame that came last is another one than the one before.
    fn changed(&self) -> bool {
        true
    }
    /// Frames a second.
    fn rate(&self) -> u32;
    /// The next one comes when it is there, not when it is asked for.
    fn is_live(&self) -> bool {
        false
    }
    /// Takes the next one.
    fn next(&mut self) -> Result<(), VideoError>;
    /// The one that came last.
    fn frame(&self) -> &[u8];
}

struct Film {
    path: PathBuf,
    file: BufReader<File>,
    begin: u64,
    width: u32,
    height: u32,
    rate: u32,
    frame: Vec<u8>,
}

fn unusable(path: &Path, cause: impl std::fmt::Display) -> VideoError {
    VideoError::File(path.display().to_string(), cause.to_string())
}

impl Film {
    fn open(path: &Path) -> Result<Self, VideoError> {
        let wrong = |what: &str| unusable(path, what);
        let mut file = BufReader::new(File::open(path).map_err(|e| unusable(path, e))?);
        let head = line(&mut file).map_err(|e| unusable(path, e))?;
        let mut fields = head.split(' ');
        if fields.next() != Some("YUV4MPEG2") {
            return Err(wrong("it is no YUV4MPEG2"));
        }
        let (mut width, mut height, mut rate) = (0, 0, 25);
        for f in fields {
            match f.split_at_checked(1) {
                Some(("W", n)) => width = n.parse().unwrap_or(0),
                Some(("H", n)) => height = n.parse().unwrap_or(0),
                Some(("F", n)) => {
                    let (a, b) = n.split_once(':').unwrap_or((n, "1"));
                    rate = a.parse::<u32>().unwrap_or(0).checked_div(b.parse().unwrap_or(0)).unwrap_or(0);
                }
                Some(("C", c)) if !matches!(c, "420" | "420jpeg" | "420mpeg2" | "420paldv") => {
                    return Err(wrong("it is not 4:2:0 of 8 bits"));
                }
                _ => {}
            }
        }
        let fits = |n: u32| (16..=SIDE).contains(&n) && n.is_multiple_of(2);
        if !fits(width) || !fits(height) || !(1..=60).contains(&rate) {
            return Err(wrong("its sides are to be even and at most 1920, with 1 to 60 frames a second"));
        }
        let begin = file.stream_position().map_err(|e| unusable(path, e))?;
        let frame = vec![0; (width * height * 3 / 2) as usize];
        Ok(Self { path: path.to_owned(), file, begin, width, height, rate, frame })
    }

    /// False at the end.
    fn read(&mut self) -> std::io::Result<bool> {
        if self.file.fill_buf()?.is_empty() {
            return Ok(false);
        }
        if !line(&mut self.file)?.starts_with("FRAME") {
            return Err(std::io::Error::other("a frame does not begin as one"));
        }
        self.file.read_exact(&mut self.frame)?;
        Ok(true)
    }
}

/// A line of a header, of a length that headers have.
fn line(file: &mut BufReader<File>) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    file.take(256).read_until(b'\n', &mut bytes)?;
    if bytes.pop() != Some(b'\n') {
        return Err(std::io::Error::other("a header has no end"));
    }
    String::from_utf8(bytes).map_err(std::io::Error::other)
}

impl Frames for Film {
    fn width(&self) -> u32 {
        self.width
    }

    fn height(&self) -> u32 {
        self.height
    }

    fn rate(&self) -> u32 {
        self.rate
    }

    fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn next(&mut self) -> Result<(), VideoError> {
        let again = |s: &mut Self| -> std::io::Result<bool> {
            s.file.seek(SeekFrom::Start(s.begin))?;
            s.read()
        };
        match self.read().and_then(|more| if more { Ok(true) } else { again(self) }) {
            Ok(true) => Ok(()),
            Ok(false) => Err(unusable(&self.path, "it has no frames")),
            Err(cause) => Err(unusable(&self.path, cause)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use super::*;

    /// A film of grey frames, each a little brighter.
    pub(in crate::video) fn film(dir: &Path, frames: u8) -> PathBuf {
        let path = dir.join("film.y4m");
        let mut bytes = b"YUV4MPEG2 W64 H32 F25:1 Ip C420jpeg\n".to_vec();
        for n in 0..frames {
            bytes.extend(b"FRAME\n");
            bytes.extend(vec![n * 10; 64 * 32]);
            bytes.extend(vec![128; 64 * 32 / 2]);
        }
        std::fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_film_is_played_over_and_over() {
        let dir = tempfile::tempdir().unwrap();
        let mut frames = Source::File(film(dir.path(), 3)).open().unwrap();
        assert_eq!((frames.width(), frames.height(), frames.rate()), (64, 32, 25));
        let first: Vec<u8> = (0..7)
            .map(|_| {
                frames.next().unwrap();
                *frames.frame().first().unwrap()
            })
            .collect();
        assert_eq!(first, [0, 10, 20, 0, 10, 20, 0]);
    }

    #[test]
    fn what_is_no_film_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        for bytes in [
            &b"RIFF"[..],
            b"YUV4MPEG2 W0 H0\n",
            b"YUV4MPEG2 W63 H32 F25:1\n",
            b"YUV4MPEG2 W64 H32 F25:1 C444\n",
            b"YUV4MPEG2 W64 H32 F9:0\n",
        ] {
            let path = dir.path().join("wrong.y4m");
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Source::File(path).open(), Err(VideoError::File(..))));
        }
        let path = dir.path().join("empty.y4m");
        std::fs::write(&path, b"YUV4MPEG2 W64 H32 F25:1\n").unwrap();
        assert!(Source::File(path).open().unwrap().next().is_err());
    }
}
