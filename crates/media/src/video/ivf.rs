//! Recordings of pictures as they came: IVF, the container of libvpx's tools.

use super::codec::Codec;
use std::fs::File;
use std::io::{Seek as _, SeekFrom, Write as _};
use std::path::Path;

/// Writes frames of one codec. What is before the first key frame is left out: nobody could draw it.
pub struct Recorder {
    file: File,
    frames: u32,
    first: u32,
}

impl Recorder {
    /// Makes the file.
    pub fn create(path: &Path) -> std::io::Result<Self> {
        Ok(Self { file: File::create(path)?, frames: 0, first: 0 })
    }

    /// The next frame, with its time in 90 kHz.
    pub fn push(&mut self, codec: Codec, timestamp: u32, frame: &[u8]) -> std::io::Result<()> {
        if self.frames == 0 {
            let Some((width, height)) = codec.size(frame).filter(|_| codec.is_key(frame)) else { return Ok(()) };
            self.head(codec, [width, height].map(|side| u16::try_from(side).unwrap_or(u16::MAX)))?;
            self.first = timestamp;
        }
        self.frames += 1;
        self.file.write_all(&u32::try_from(frame.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        self.file.write_all(&u64::from(timestamp.wrapping_sub(self.first)).to_le_bytes())?;
        self.file.write_all(frame)
    }

    fn head(&mut self, codec: Codec, sides: [u16; 2]) -> std::io::Result<()> {
        self.file.write_all(b"DKIF\0\0\x20\0")?;
        self.file.write_all(codec.fourcc())?;
        self.file.write_all(&sides.map(u16::to_le_bytes).concat())?;
        // So many units a second, so many of them one.
        self.file.write_all(&[90_000u32.to_le_bytes(), 1u32.to_le_bytes(), 0u32.to_le_bytes(), [0; 4]].concat())
    }

    /// Writes how many frames there are.
    pub fn finish(mut self) -> std::io::Result<u32> {
        if self.frames > 0 {
            self.file.seek(SeekFrom::Start(24))?;
            self.file.write_all(&self.frames.to_le_bytes())?;
        }
        self.file.sync_data()?;
        Ok(self.frames)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_begins_with_its_first_key_frame() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.ivf");
        let key = [0x10, 0, 0, 0x9d, 0x01, 0x2a, 64, 0, 32, 0, 7];
        let mut r = Recorder::create(&path).unwrap();
        for (time, frame) in [(5, &[1u8, 2, 3][..]), (90, &key), (3_690, &[1, 9])] {
            r.push(Codec::Vp8, time, frame).unwrap();
        }
        assert_eq!(r.finish().unwrap(), 2);
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(&bytes[..16], b"DKIF\0\0\x20\0VP80\x40\0\x20\0");
        assert_eq!(&bytes[24..28], &[2, 0, 0, 0]);
        assert_eq!(&bytes[32..44], &[11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&bytes[44..55], &key);
        assert_eq!(&bytes[55..], &[2, 0, 0, 0, 0x10, 0x0e, 0, 0, 0, 0, 0, 0, 1, 9]);
    }
}
