//! Where sound comes from and goes to: devices, files, nothing. Blocks of 10 ms, mono, 48 kHz.
//!
//! A device that goes away is an error of the next read or write; who reads decides what takes its place.

pub mod device;
pub mod file;
pub mod process;

use crate::voice::BLOCK;
use std::path::PathBuf;
use std::thread::Thread;
use std::time::Instant;

/// What can go wrong with a device or a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AudioError {
    /// There is no such device, or none at all.
    #[error("there is no {0}")]
    NoDevice(&'static str),
    /// The system does not allow its use.
    #[error("the system does not allow the use of the {0}")]
    Denied(&'static str),
    /// It was there and is gone.
    #[error("the {0} is gone")]
    Lost(&'static str),
    /// The file is no mono or stereo WAV, or cannot be read or written.
    #[error("the audio file cannot be used: {0}")]
    File(String),
    /// Anything else the system says.
    #[error("the {0} cannot be used: {1}")]
    Device(&'static str, String),
}

/// Sound comes from here.
pub trait Source: Send {
    /// Fills `block` when 10 ms are ready. False: not yet.
    fn read(&mut self, block: &mut [f32; BLOCK], now: Instant) -> Result<bool, AudioError>;

    /// From now on that thread is unparked when a block is ready. False: this source cannot do that, and has to be asked.
    fn wakes(&mut self, _reader: Thread) -> bool {
        false
    }

    /// The device it is, by [`device::Device::id`].
    fn device(&self) -> Option<&str> {
        None
    }
}

/// Sound goes there.
pub trait Sink: Send {
    /// True when it should be given another block.
    fn wants(&mut self, now: Instant) -> Result<bool, AudioError>;

    /// Takes a block.
    fn write(&mut self, block: &[f32; BLOCK]) -> Result<(), AudioError>;

    /// The device it is, by [`device::Device::id`].
    fn device(&self) -> Option<&str> {
        None
    }
}

/// Which source.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Input {
    /// The microphone the system prefers.
    #[default]
    Default,
    /// A certain microphone, by [`device::Device::id`].
    Device(String),
    /// A WAV file, once, then silence: for scripts.
    File(PathBuf),
    /// No microphone at all: for scripts.
    Silence,
}

/// Which sink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Output {
    /// What the system prefers.
    #[default]
    Default,
    /// A certain one, by [`device::Device::id`].
    Device(String),
    /// A WAV file that is written: for scripts.
    File(PathBuf),
    /// Nobody listens: for scripts.
    Nothing,
}

/// What a call uses.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AudioSetup {
    /// Where the person speaks.
    pub input: Input,
    /// Where the other one is heard.
    pub output: Output,
}

/// Opens a source.
pub fn open_input(input: &Input) -> Result<Box<dyn Source>, AudioError> {
    Ok(match input {
        Input::Default => Box::new(device::Microphone::open(None)?),
        Input::Device(id) => Box::new(device::Microphone::open(Some(id))?),
        Input::File(path) => Box::new(file::Player::open(path)?),
        Input::Silence => Box::new(file::Player::silence()),
    })
}

/// Opens a sink.
pub fn open_output(output: &Output) -> Result<Box<dyn Sink>, AudioError> {
    Ok(match output {
        Output::Default => Box::new(device::Speaker::open(None)?),
        Output::Device(id) => Box::new(device::Speaker::open(Some(id))?),
        Output::File(path) => Box::new(file::Recorder::create(path)?),
        Output::Nothing => Box::new(file::Recorder::nothing()),
    })
}
