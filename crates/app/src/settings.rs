//! Settings of this device that are no secret: they are needed before the store is open, so they are a file beside it.

use serde::{Deserialize, Serialize};
use std::path::Path;

/// Light, dark, or as the system.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ts_rs::TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "Theme.ts")]
pub enum Theme {
    /// As the system.
    #[default]
    System,
    /// Light.
    Light,
    /// Dark.
    Dark,
}

/// Language of the UI.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ts_rs::TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "Language.ts")]
pub enum Language {
    /// As the system.
    #[default]
    System,
    /// Tiếng Việt.
    Vi,
    /// English.
    En,
}

/// Settings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ts_rs::TS)]
#[serde(default)]
#[ts(export, export_to = "Settings.ts")]
pub struct Settings {
    /// Colours.
    pub theme: Theme,
    /// Words.
    pub language: Language,
    /// Smaller rows in lists.
    pub compact: bool,
    /// Larger text: percent, 100 is normal.
    pub text_percent: u16,
    /// The microphone of calls; nothing for what the system prefers.
    pub microphone: Option<String>,
    /// The speaker of calls; nothing for what the system prefers.
    pub speaker: Option<String>,
    /// The camera of calls, by its name; nothing for any.
    pub camera: Option<String>,
    /// Calls go through a relay, so that the other person does not learn this device's addresses.
    pub relay_calls: bool,
}

impl Settings {
    /// As stored; defaults where there is nothing or it cannot be read.
    #[must_use]
    pub fn load(dir: &Path) -> Self {
        let read = std::fs::read(dir.join("settings.json")).ok().and_then(|b| serde_json::from_slice::<Self>(&b).ok());
        read.unwrap_or_default().clamped()
    }

    /// Stores them.
    pub fn save(&self, dir: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(dir)?;
        let fresh = dir.join("settings.json.new");
        std::fs::write(&fresh, serde_json::to_vec_pretty(self)?)?;
        std::fs::rename(fresh, dir.join("settings.json"))
    }

    /// With values in their ranges.
    #[must_use]
    pub fn clamped(mut self) -> Self {
        self.text_percent = if self.text_percent == 0 { 100 } else { self.text_percent.clamp(85, 150) };
        self
    }
}
