//! A room of several people through a forwarding unit that hears nothing.
//!
//! * [`frames`]: LiveKit's end-to-end encryption of frames and data packets, with its keys.
//! * [`video`]: packets of pictures to frames.
//! * [`core`]: a participant without I/O.
//! * [`stay`]: the same with sockets, signalling, this machine's sound and pictures, and coming in anew.
//! * [`Room`]: its handle.

pub mod core;
pub mod frames;
mod link;
mod net;
mod stay;
mod tcp;
pub mod video;

use self::core::{Person, Picture, Source};
use crate::audio::{AudioError, AudioSetup};
use crate::pictures::OwnPicture;
use crate::session::{Quality, Switches};
use crate::video::source as video_source;
use frames::Keys;
use sc_calls::Shown;
use stay::Stay;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use zeroize::Zeroizing;

/// Commands, packets of speech and events that may wait.
const QUEUE: usize = 256;
/// Pictures come for so long after somebody said that they are drawn.
pub const LEASE: Duration = Duration::from_secs(15);
/// What speech needs of the path, in bits a second.
const SPEECH: u64 = 60_000;
/// Frames of pictures that may wait: half a second of four.
const FRAMES: usize = 64;
/// Waits between tries to take the signalling up again, in milliseconds; then it is given up.
const TRIES: [u64; 9] = [0, 300, 700, 1_500, 3_000, 5_000, 5_000, 10_000, 10_000];
/// Whoever was inside for so long begins anew with the first wait.
const STABLE: Duration = Duration::from_secs(20);
/// So long a farewell may take.
const GOODBYE: Duration = Duration::from_millis(500);
/// A line of the chat is said within this, or not.
const SAID: Duration = Duration::from_secs(5);
/// Media flows within this, or one comes in anew.
const FLOWS: Duration = Duration::from_secs(15);
/// How often the addresses of this machine are looked at.
const WATCH: Duration = Duration::from_millis(500);

/// How a room is entered.
pub struct RoomOptions {
    /// The server's address, `https://…` or `wss://…`.
    pub url: String,
    /// A LiveKit access token for it.
    pub token: Zeroizing<String>,
    /// What media is encrypted with.
    pub keys: Keys,
    /// Where one speaks and listens.
    pub audio: AudioSetup,
    /// What is shown, if anything.
    pub video: Option<video_source::Source>,
    /// Comes in with the microphone off.
    pub muted: bool,
}

/// Where one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoomPhase {
    /// On the way in.
    #[default]
    Joining,
    /// Inside.
    Inside,
    /// The way is broken; nothing is sent until it is back.
    Reconnecting,
    /// It is over.
    Over(RoomEnd),
}

/// Why it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoomEnd {
    /// One has left.
    Left,
    /// A host has taken one out, or one is no member any more.
    Removed,
    /// The room was closed.
    Closed,
    /// One has come in with the same device anew.
    Elsewhere,
    /// There was no way in.
    Refused,
    /// The connection broke and did not come back.
    Lost,
}

/// The room as it is now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RoomView {
    /// Where one is.
    pub phase: RoomPhase,
    /// Who is inside; oneself first.
    pub people: Vec<Person>,
    /// Who speaks, loudest first.
    pub speaking: Vec<String>,
    /// The microphone is off.
    pub muted: bool,
    /// The hand is up.
    pub hand: bool,
    /// Whose media does not open.
    pub garbled: Vec<String>,
    /// What is wrong with the microphone, when one came in without.
    pub trouble: Option<AudioError>,
    /// Our own picture.
    pub own_picture: OwnPicture,
    /// Our own screen.
    pub own_screen: OwnPicture,
}

enum Command {
    Mute(bool),
    Hand(bool),
    Chat(String, oneshot::Sender<bool>),
    Epoch(u64, Zeroizing<Vec<u8>>),
    Audio(AudioSetup),
    Show(Shown, Option<video_source::Source>),
    Want(HashMap<Source, (u32, u32)>),
    PicturesLost(Option<Source>),
    Leave,
}

/// A stay in a room. It ends when it is dropped.
pub struct Room {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<RoomView>,
    quality: watch::Receiver<Option<watch::Receiver<Quality>>>,
    /// Read by the voice thread, whatever else is going on.
    switches: Arc<Switches>,
    gone: watch::Sender<bool>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.gone.send_replace(true);
    }
}

/// A message of the room's chat: of whom, what.
pub type Chat = (String, String);

/// What comes out of a room besides what its view says.
pub struct Heard {
    /// The chat.
    pub chat: mpsc::Receiver<Chat>,
    /// Frames of the pictures that are asked for. Whoever does not take them in time gets the next key frame.
    pub pictures: mpsc::Receiver<Picture>,
}

impl Room {
    /// Begins to come in; how far that is, is in the view. Needs a Tokio runtime.
    #[must_use]
    pub fn enter(options: RoomOptions) -> (Self, Heard) {
        let (commands, inbox) = mpsc::channel(QUEUE);
        let (chat, said) = mpsc::channel(QUEUE);
        let (frames, pictures) = mpsc::channel(FRAMES);
        let (tell, view) = watch::channel(RoomView { muted: options.muted, ..RoomView::default() });
        let (tell_quality, quality) = watch::channel(None);
        let switches = Arc::new(Switches::default());
        switches.muted.store(options.muted, Ordering::Relaxed);
        let (gone, going) = watch::channel(false);
        let shared = switches.clone();
        tokio::spawn(async move {
            let mut stay = Stay::new(options, tell, tell_quality, (chat, frames), shared).await;
            let end = tokio::select! {
                biased;
                end = Box::pin(stay.run(inbox)) => end,
                () = left(going) => RoomEnd::Left,
            };
            stay.close(end).await;
        });
        (Self { commands, view, quality, switches, gone }, Heard { chat: said, pictures })
    }

    /// The room, now and later.
    #[must_use]
    pub fn view(&self) -> watch::Receiver<RoomView> {
        self.view.clone()
    }

    /// How it sounds.
    #[must_use]
    pub fn quality(&self) -> Option<Quality> {
        self.quality.borrow().as_ref().map(|q| q.borrow().clone())
    }

    /// Turns the microphone off or on.
    pub async fn mute(&self, muted: bool) {
        // At once, also while the way is broken.
        self.switches.muted.store(muted, Ordering::Relaxed);
        self.tell(Command::Mute(muted)).await;
    }

    /// Raises the hand, or takes it down.
    pub async fn raise_hand(&self, up: bool) {
        self.tell(Command::Hand(up)).await;
    }

    /// Says something to everybody inside. False when it could not be said.
    pub async fn chat(&self, text: String) -> bool {
        let deadline = tokio::time::Instant::now() + SAID;
        while self.view.borrow().phase == RoomPhase::Inside {
            let (said, answer) = oneshot::channel();
            self.tell(Command::Chat(text.clone(), said)).await;
            match tokio::time::timeout_at(deadline, answer).await {
                Ok(Ok(true)) => return true,
                // The channel for it opens a moment after the sound does.
                Ok(Ok(false)) if tokio::time::Instant::now() < deadline => tokio::time::sleep(WATCH / 5).await,
                _ => return false,
            }
        }
        false
    }

    /// The secret of the group's new epoch.
    pub async fn add_epoch(&self, epoch: u64, secret: Zeroizing<Vec<u8>>) {
        self.tell(Command::Epoch(epoch, secret)).await;
    }

    /// These pictures are drawn now, in so many points across and down; no others come. To be said again within [`LEASE`], or none come:
    /// a window that is suspended does not pile them up.
    pub async fn want(&self, pictures: HashMap<Source, (u32, u32)>) {
        self.tell(Command::Want(pictures)).await;
    }

    /// Frames were lost on their way to the decoder, of one picture or of all: it goes on with a key frame.
    pub async fn pictures_lost(&self, of: Option<Source>) {
        self.tell(Command::PicturesLost(of)).await;
    }

    /// Shows oneself, or a screen, from there, or not any more. Both may be shown at once.
    pub async fn show(&self, what: Shown, source: Option<video_source::Source>) {
        self.tell(Command::Show(what, source)).await;
    }

    /// Other devices.
    pub async fn set_audio(&self, audio: AudioSetup) {
        self.tell(Command::Audio(audio)).await;
    }

    /// Goes.
    pub async fn leave(&self) {
        self.tell(Command::Leave).await;
        self.gone.send_replace(true);
    }

    async fn tell(&self, command: Command) {
        // Whoever is gone already hears nothing any more.
        let _ = self.commands.send(command).await;
    }
}

/// One wants to go: whoever is just connecting does not read commands, and is ended after a moment.
async fn left(mut going: watch::Receiver<bool>) {
    // An error: the room is let go of.
    let _ = going.wait_for(|g| *g).await;
    tokio::time::sleep(GOODBYE).await;
}
