//! What can be typed.

use clap::{Parser, Subcommand, ValueEnum};
use sc_app::AppError;
use sc_media::audio::{AudioSetup, Input, Output};
use sc_media::video::source::Source as VideoSource;
use std::path::PathBuf;

/// The command line.
#[derive(Parser)]
#[command(
    name = "secureconnect-cli",
    version,
    about = "SecureConnect on the command line",
    after_help = "The passphrase of the profile comes from SECURECONNECT_PASSPHRASE or the keyring, the account's password from SECURECONNECT_PASSWORD; both are asked for when they are missing."
)]
pub struct Args {
    /// Folder of the profile.
    #[arg(long, global = true)]
    pub profile: Option<PathBuf>,
    /// Address of the server.
    #[arg(long, global = true, default_value = "http://127.0.0.1:8420")]
    pub server: String,
    /// One JSON object a line instead of text.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Cmd,
}

/// Commands.
#[derive(Subcommand)]
pub enum Cmd {
    /// Makes an account with this as its first device.
    Register {
        /// Username.
        user: String,
    },
    /// Logs in again, or as a new device that another one has to approve.
    Login {
        /// Username.
        user: String,
        /// Wait this many seconds for the approval.
        #[arg(long, default_value_t = 0)]
        wait: u64,
    },
    /// Who this profile is.
    Whoami,
    /// The conversations, newest activity first.
    Conversations {
        /// Only those with unread messages.
        #[arg(long)]
        unread: bool,
        /// Only those of one kind.
        #[arg(long)]
        kind: Option<KindArg>,
    },
    /// Groups.
    Group {
        /// What to do.
        #[command(subcommand)]
        command: GroupCmd,
    },
    /// Sends a message to a user or a conversation.
    Send {
        /// A username or the id of a conversation.
        to: String,
        /// The text.
        text: String,
        /// Return when the server has acknowledged it.
        #[arg(long)]
        wait: bool,
        /// Answers the message with this temp_id.
        #[arg(long)]
        reply_to: Option<String>,
    },
    /// Prints messages as they come; each once per profile.
    Listen {
        /// Stop after so many.
        #[arg(long)]
        count: Option<usize>,
        /// Stop after so many seconds.
        #[arg(long)]
        timeout: Option<u64>,
    },
    /// Prints a conversation, oldest first.
    History {
        /// The id of a conversation, or a username.
        conversation: String,
        /// At most so many.
        #[arg(long, default_value_t = 50)]
        limit: u32,
        /// Before this seq.
        #[arg(long)]
        before: Option<u64>,
    },
    /// Searches all messages on this device.
    Search {
        /// Words or their beginnings, with or without diacritics.
        query: String,
    },
    /// The safety number with somebody.
    SafetyNumber {
        /// Username.
        user: String,
    },
    /// Marks somebody's safety number as compared.
    Verify {
        /// Username.
        user: String,
        /// Their code, as their `safety-number` prints it or a reader of QR codes gives it (base64): compared here, and
        /// refused when it is another.
        #[arg(long)]
        qr: Option<String>,
    },
    /// Accepts a changed identity without comparing safety numbers; the verified mark stays off.
    AcceptIdentity {
        /// Username.
        user: String,
    },
    /// Repairs a secure session: says what will happen, then what happened.
    ResetSession {
        /// The id of a conversation, or a username.
        conversation: String,
        /// What to reset.
        #[arg(long, value_enum, default_value_t = ScopeArg::Device)]
        scope: ScopeArg,
        /// Do not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Calls somebody and stays until the call is over. Prints a line for each change, and how it sounded.
    Call {
        /// Username.
        user: String,
        /// How.
        #[command(flatten)]
        media: MediaArgs,
    },
    /// Waits for a call, takes it and stays until it is over.
    Answer {
        /// Wait this many seconds for a call.
        #[arg(long, default_value_t = 60)]
        timeout: u64,
        /// Say no instead.
        #[arg(long)]
        decline: bool,
        /// How.
        #[command(flatten)]
        media: MediaArgs,
    },
    /// Meeting rooms, and the rooms of conversations.
    Room {
        /// What.
        #[command(subcommand)]
        command: RoomCmd,
    },
    /// The sound devices of this machine.
    AudioDevices,
    /// Screens and windows that can be shown.
    Screens,
    /// Sends what waits, fetches what is missing.
    Sync,
    /// The account's devices.
    Devices,
    /// Approves a new device of the account.
    Approve {
        /// Id of the device.
        device: String,
        /// The six digits it shows.
        code: String,
    },
    /// Removes a device from the account.
    Revoke {
        /// Id of the device.
        device: String,
    },
}

/// What is spoken, shown, heard and seen.
#[derive(clap::Args, Clone)]
pub struct MediaArgs {
    /// Speak this file (WAV, 48 kHz) instead of the microphone; `none` for silence.
    #[arg(long)]
    pub audio_file: Option<PathBuf>,
    /// Show yourself with the camera.
    #[arg(long)]
    pub video: bool,
    /// Show this film (YUV4MPEG2, 4:2:0) instead of the camera, over and over.
    #[arg(long)]
    pub video_file: Option<PathBuf>,
    /// Show this screen or window, named as `screens` names it; in a call in the place of the camera.
    #[arg(long)]
    pub screen: Option<String>,
    /// Write what is heard to `received.wav` in this folder instead of playing it, and in a call what is seen to `received.ivf`; `none`
    /// for nowhere.
    #[arg(long)]
    pub record: Option<PathBuf>,
    /// Hang up after this many seconds of sound.
    #[arg(long)]
    pub duration: Option<u64>,
}

impl Args {
    fn media(&self) -> Option<&MediaArgs> {
        match &self.command {
            Cmd::Call { media, .. } | Cmd::Answer { media, .. } | Cmd::Room { command: RoomCmd::Join { media, .. } } => Some(media),
            _ => None,
        }
    }

    /// What the command takes in the place of devices.
    pub fn audio(&self) -> Option<AudioSetup> {
        let media = self.media()?;
        let none = |p: &PathBuf| p.as_os_str() == "none";
        let input = match &media.audio_file {
            None => Input::Default,
            Some(p) if none(p) => Input::Silence,
            Some(p) => Input::File(p.clone()),
        };
        let output = match &media.record {
            None => Output::Default,
            Some(p) if none(p) => Output::Nothing,
            Some(p) => Output::File(p.join("received.wav")),
        };
        Some(AudioSetup { input, output })
    }

    /// What the command shows.
    pub fn video(&self) -> Option<VideoSource> {
        self.media()?.video_file.clone().map(VideoSource::File)
    }
}

impl MediaArgs {
    /// With pictures of one's own.
    pub fn shows(&self) -> bool {
        self.video || self.video_file.is_some()
    }

    /// A film that cannot be shown is said before anybody is disturbed.
    pub fn check(&self) -> Result<(), AppError> {
        let film = self.video_file.clone().map(|f| VideoSource::File(f).open());
        film.transpose().map(drop).map_err(|e| AppError::new("NO_PICTURE", e.to_string()))
    }
}

/// Commands on rooms.
#[derive(Subcommand)]
pub enum RoomCmd {
    /// A new meeting room; prints its link, with the key that never reaches the server.
    Create {
        /// How many may come in.
        #[arg(long)]
        seats: Option<u32>,
        /// Whoever is not you waits until you let them in.
        #[arg(long)]
        lobby: bool,
        /// People without an account may come in with a browser.
        #[arg(long)]
        guests: bool,
    },
    /// The rooms you have made.
    List,
    /// Comes in and stays until the room is over; prints a line for each change. A link, a username, or a conversation's id.
    Join {
        /// Where.
        target: String,
        /// How you are called on a server where you have no account.
        #[arg(long, default_value = "")]
        name: String,
        /// Says this to everybody once inside.
        #[arg(long)]
        say: Option<String>,
        /// Lets everybody in who waits: for hosts.
        #[arg(long)]
        admit: bool,
        /// How.
        #[command(flatten)]
        media: MediaArgs,
    },
    /// Nobody else comes in.
    Lock {
        /// Its link or id.
        room: String,
    },
    /// Others may come in again.
    Unlock {
        /// Its link or id.
        room: String,
    },
    /// Takes somebody out, by their identity as `join` prints it.
    Remove {
        /// Its link or id.
        room: String,
        /// Who.
        identity: String,
    },
    /// Switches somebody's microphone off.
    Mute {
        /// Its link or id.
        room: String,
        /// Who.
        identity: String,
    },
    /// Closes a room for good.
    Close {
        /// Its link or id.
        room: String,
    },
}

/// Commands on groups.
#[derive(Subcommand)]
pub enum GroupCmd {
    /// A new group.
    Create {
        /// Title.
        title: String,
        /// Usernames.
        #[arg(required = true)]
        users: Vec<String>,
    },
    /// Adds somebody.
    Add {
        /// Id of the group.
        conversation: String,
        /// Username.
        user: String,
    },
    /// Removes somebody.
    Remove {
        /// Id of the group.
        conversation: String,
        /// Username.
        user: String,
    },
    /// Changes a member's role, by the owner.
    Role {
        /// Id of the group.
        conversation: String,
        /// Username.
        user: String,
        /// The new role; `owner` hands the group over.
        role: MemberRole,
    },
    /// Leaves. An owner hands the group over first.
    Leave {
        /// Id of the group.
        conversation: String,
    },
}

/// What a member of a group may do.
#[derive(Clone, Copy, ValueEnum)]
pub enum MemberRole {
    /// Changes roles.
    Owner,
    /// Adds and removes.
    Admin,
    /// Reads and writes.
    Member,
}

/// Which conversations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum KindArg {
    /// Two people.
    Direct,
    /// More.
    Group,
}

/// What to reset.
#[derive(Clone, Copy, ValueEnum)]
pub enum ScopeArg {
    /// This device's session in the conversation.
    Device,
    /// Everyone's session in the conversation.
    Conversation,
    /// The account's identity: safety numbers change for everybody.
    Identity,
}

/// Where the profile is when nothing is said.
pub fn default_profile() -> PathBuf {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share")));
    base.unwrap_or_default().join("secureconnect/cli")
}
