//! Cameras of this machine, by nokhwa: Video4Linux and Media Foundation. On macOS and phones there are none yet: its way there hangs or
//! panics.

/// A camera of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameraDevice {
    /// The system's name for it; names it in the settings too.
    pub name: String,
}

#[cfg(any(target_os = "linux", target_os = "windows"))]
mod native {
    use super::CameraDevice;
    use crate::video::VideoError;
    use crate::video::convert::{I420, Layout};
    use crate::video::source::Frames;
    use nokhwa::Camera;
    use nokhwa::utils::{ApiBackend, CameraFormat, CameraIndex, CameraInfo, FrameFormat, RequestedFormat, RequestedFormatType, Resolution};
    use std::sync::{Mutex, MutexGuard, TryLockError};
    use std::time::{Duration, Instant};

    /// What is understood, best first: the first two are not compressed.
    const FORMATS: [FrameFormat; 4] = [FrameFormat::YUYV, FrameFormat::NV12, FrameFormat::MJPEG, FrameFormat::GRAY];
    /// What a picture of a call has, or nearly: nokhwa takes a size only when the camera has just that.
    const SIZES: [(u32, u32); 4] = [(640, 360), (640, 480), (848, 480), (1_280, 720)];
    const RATE: u32 = 30;
    /// The most that is sent.
    const MOST: (u32, u32) = (1_280, 720);

    fn device(e: &nokhwa::NokhwaError) -> VideoError {
        VideoError::Device(e.to_string())
    }

    fn infos() -> Vec<CameraInfo> {
        let mut list = nokhwa::query(ApiBackend::Auto).unwrap_or_default();
        list.sort_by_key(|c| c.index().as_index().unwrap_or(u32::MAX));
        // A camera has several nodes of one name; the first one has the picture.
        let mut seen = std::collections::HashSet::new();
        list.retain(|c| seen.insert(c.human_name()));
        list
    }

    /// What there is now.
    #[must_use]
    pub fn devices() -> Vec<CameraDevice> {
        infos().iter().map(|c| CameraDevice { name: c.human_name() }).collect()
    }

    /// One camera at a time, and the next one is opened when the one before is closed.
    static TURN: Mutex<()> = Mutex::new(());
    /// How long that is waited for, and for the first frame.
    const WAIT: Duration = Duration::from_secs(5);

    struct Live {
        camera: Camera,
        frame: I420,
        _turn: MutexGuard<'static, ()>,
    }

    fn turn() -> Result<MutexGuard<'static, ()>, VideoError> {
        let until = Instant::now() + WAIT;
        loop {
            match TURN.try_lock() {
                Ok(turn) => return Ok(turn),
                Err(TryLockError::Poisoned(turn)) => return Ok(turn.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() > until => return Err(VideoError::Device("it is still open".into())),
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn opened(index: &CameraIndex) -> Result<Camera, VideoError> {
        let wishes = SIZES.into_iter().flat_map(|(width, height)| {
            FORMATS.map(|f| RequestedFormatType::Closest(CameraFormat::new(Resolution::new(width, height), f, RATE)))
        });
        let mut last = VideoError::NoCamera;
        for wish in wishes.chain([RequestedFormatType::AbsoluteHighestFrameRate, RequestedFormatType::None]) {
            let tried = Camera::new(index.clone(), RequestedFormat::with_formats(wish, &FORMATS)).and_then(|mut c| {
                c.open_stream()?;
                Ok(c)
            });
            match tried {
                Ok(camera) => return Ok(camera),
                Err(cause) => last = device(&cause),
            }
        }
        Err(last)
    }

    /// Opens the one of this name, or the first one when it is not there.
    pub fn open(name: Option<&str>) -> Result<Box<dyn Frames>, VideoError> {
        let list = infos();
        let info = list.iter().find(|c| name.is_some_and(|n| n == c.human_name())).or_else(|| list.first());
        let info = info.ok_or(VideoError::NoCamera)?;
        let turn = turn()?;
        let mut live = Live { camera: opened(info.index())?, frame: I420::default(), _turn: turn };
        // Its size is certain with the first whole frame only.
        let until = Instant::now() + WAIT;
        loop {
            match live.next() {
                Ok(()) => return Ok(Box::new(live)),
                Err(cause) if Instant::now() > until => return Err(cause),
                Err(_) => {}
            }
        }
    }

    impl Frames for Live {
        fn width(&self) -> u32 {
            self.frame.width
        }

        fn height(&self) -> u32 {
            self.frame.height
        }

        fn rate(&self) -> u32 {
            self.camera.frame_rate().clamp(1, 60)
        }

        fn is_live(&self) -> bool {
            true
        }

        fn frame(&self) -> &[u8] {
            &self.frame.bytes
        }

        fn next(&mut self) -> Result<(), VideoError> {
            let taken = self.camera.frame().map_err(|e| device(&e))?;
            let layout = match taken.source_frame_format() {
                FrameFormat::YUYV => Layout::Yuyv,
                FrameFormat::NV12 => Layout::Nv12,
                FrameFormat::MJPEG => Layout::Jpeg,
                FrameFormat::GRAY => Layout::Grey,
                other => return Err(VideoError::Device(format!("frames of the kind {other} are not understood"))),
            };
            let size = (taken.resolution().width(), taken.resolution().height());
            self.frame = I420::of(layout, size, taken.buffer())?.within(MOST);
            Ok(())
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "windows"))]
pub use native::{devices, open};

/// None yet.
#[cfg(not(any(target_os = "linux", target_os = "windows")))]
#[must_use]
pub fn devices() -> Vec<CameraDevice> {
    Vec::new()
}

/// None yet.
#[cfg(not(any(target_os = "linux", target_os = "windows")))]
pub fn open(_name: Option<&str>) -> Result<Box<dyn super::source::Frames>, super::VideoError> {
    Err(super::VideoError::NoCamera)
}
