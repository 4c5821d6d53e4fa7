//! A call as it is drawn.

use sc_media::Quality;
use sc_media::pictures::{OwnPicture, PictureState};
use sc_media::transport::PathKind;
use sc_media::video::VideoError;
use sc_media::video::screen::ScreenDevice;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// The call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "CallView.ts")]
#[allow(clippy::struct_excessive_bools)] // Each is a mark or a button in the picture.
pub struct CallView {
    /// Its id.
    pub id: String,
    /// Where.
    pub conversation: String,
    /// The other person.
    pub peer: String,
    /// Their name.
    pub name: String,
    /// Safety numbers were compared.
    pub verified: bool,
    /// This account calls.
    pub outgoing: bool,
    /// `calling`, `incoming`, `connecting`, `active`, `reconnecting`, `ended`.
    pub phase: String,
    /// Why it ended: `hung_up`, `cancelled`, `declined`, `busy`, `no_answer`, `missed`, `elsewhere`, `no_path`,
    /// `connection_lost`, `no_microphone`, `no_speaker`, `failed`.
    pub cause: String,
    /// The microphone is off.
    pub muted: bool,
    /// It rang as a video call.
    pub video: bool,
    /// Pictures of this side are sent, or are when there is a path and no screen is shown.
    pub camera: bool,
    /// A screen of this side is sent, or is when there is a path.
    pub screen: bool,
    /// Why they are not: `POOR_PATH` (the path carries the sound only), `NO_CAMERA`, `CAMERA_FAILED`, `SCREEN_FAILED`, or nothing.
    pub camera_trouble: String,
    /// There are pictures of the other side.
    pub picture: bool,
    /// They are of their screen.
    pub picture_screen: bool,
    /// How long sound has flown, when it has.
    #[ts(type = "number | null")]
    pub seconds: Option<u64>,
    /// Thirty digits to compare; empty when there are none.
    pub check: String,
}

/// How a call sounds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "QualityView.ts")]
pub struct QualityView {
    /// How loud the microphone is, 0 to 100.
    pub level_in: u8,
    /// How loud the other side is, 0 to 100.
    pub level_out: u8,
    /// Round trip, in milliseconds.
    pub rtt_ms: Option<u32>,
    /// From their packet to the ear, in milliseconds.
    pub delay_ms: u32,
    /// Packets of theirs that did not come, in percent.
    pub loss_in: u8,
    /// Packets of ours that did not arrive, in percent.
    pub loss_out: u8,
    /// Kilobits per second received.
    pub rate_in: u32,
    /// Kilobits per second sent.
    pub rate_out: u32,
    /// `unknown`, `direct`, `relayed`; of a room `unit`, `unit-tcp`.
    pub path: String,
    /// What the path carries of pictures, in kilobits per second; nought without any.
    pub picture_rate: u32,
    /// Times the other side's picture stood still.
    pub freezes: u32,
    /// Why the microphone does not work: a code, or nothing.
    pub microphone: String,
    /// Why the speaker does not work: a code, or nothing.
    pub speaker: String,
}

/// Loudness as a share of a meter: from -60 dB to full.
fn meter(rms: f32) -> u8 {
    let db = 20.0 * rms.max(1e-6).log10();
    percent((db + 60.0) / 60.0)
}

fn percent(share: f32) -> u8 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let p = (share.clamp(0.0, 1.0) * 100.0).round() as u8;
    p
}

impl From<&Quality> for QualityView {
    fn from(q: &Quality) -> Self {
        let code = |e: &Option<_>| e.as_ref().map(crate::app::audio_code).unwrap_or_default().to_owned();
        Self {
            level_in: meter(q.level_in),
            level_out: meter(q.level_out),
            rtt_ms: q.path.rtt.and_then(|d| u32::try_from(d.as_millis()).ok()),
            delay_ms: q.heard.delay_ms,
            loss_in: percent(q.loss_in),
            loss_out: percent(q.path.lost),
            rate_in: q.rate.1,
            rate_out: q.rate.0,
            path: match q.path.kind {
                PathKind::Unknown => "unknown",
                PathKind::Direct => "direct",
                PathKind::Relayed => "relayed",
                PathKind::Unit => "unit",
                PathKind::UnitTcp => "unit-tcp",
            }
            .to_owned(),
            picture_rate: 0,
            freezes: 0,
            microphone: code(&q.microphone),
            speaker: code(&q.speaker),
        }
    }
}

impl QualityView {
    /// With how the call's pictures are.
    #[must_use]
    pub fn with(mut self, p: &PictureState) -> Self {
        self.picture_rate = u32::try_from(p.estimate / 1_000).unwrap_or(u32::MAX);
        self.freezes = u32::try_from(p.freezes).unwrap_or(u32::MAX);
        self
    }
}

/// What is wrong with our picture, for the choice of words.
#[must_use]
pub(crate) fn own_trouble(own: &OwnPicture) -> &'static str {
    match own {
        OwnPicture::Paused => "POOR_PATH",
        OwnPicture::Failed(VideoError::NoCamera) => "NO_CAMERA",
        OwnPicture::Failed(VideoError::NoScreen) => "SCREEN_FAILED",
        OwnPicture::Failed(_) => "CAMERA_FAILED",
        OwnPicture::Off | OwnPicture::On => "",
    }
}

/// Devices to choose from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "AudioDevicesView.ts")]
pub struct AudioDevicesView {
    /// To speak into.
    pub microphones: Vec<AudioDeviceView>,
    /// To hear with.
    pub speakers: Vec<AudioDeviceView>,
    /// To be seen with: the system's names.
    pub cameras: Vec<String>,
}

/// A screen or window that can be shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "ScreenView.ts")]
pub struct ScreenView {
    /// Names it as long as it is there.
    pub id: String,
    /// Of a screen, its plug; of a window, its title.
    pub name: String,
    /// A window.
    pub window: bool,
    /// Points across.
    pub width: u32,
    /// Points down.
    pub height: u32,
}

impl From<ScreenDevice> for ScreenView {
    fn from(d: ScreenDevice) -> Self {
        Self { id: d.id, name: d.name, window: d.window, width: d.size.0, height: d.size.1 }
    }
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "AudioDeviceView.ts")]
pub struct AudioDeviceView {
    /// The system's id.
    pub id: String,
    /// The system's name.
    pub name: String,
    /// The system prefers it.
    pub preferred: bool,
}
