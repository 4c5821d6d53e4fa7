//! What the UI draws. Plain data, no secrets but what is on the screen.

mod build;
mod call;
pub mod room;

pub use build::{Names, conversation, list_item, others_read, row, safety, state_name};
pub(crate) use call::own_trouble;
pub use call::{AudioDeviceView, AudioDevicesView, CallView, QualityView, ScreenView};
pub use room::{InsideView, MeetingView, RoomLineView, RoomPersonView, RoomView, WaitingView};

use crate::settings::Settings;
use sc_engine::{Preview, Report, ResetScope};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Which screen there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "Phase.ts")]
pub enum Phase {
    /// No keyring: a passphrase has to be chosen.
    ChoosePassphrase,
    /// The passphrase has to be entered.
    Locked,
    /// The key is in the system's keyring, which does not answer.
    KeyringSilent,
    /// The store is there but its key is not.
    KeyLost,
    /// No account yet.
    Welcome,
    /// The device waits to be approved by another one.
    Waiting,
    /// Everything.
    Ready,
}

/// What opens this device's store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "Protection.ts")]
pub enum Protection {
    /// A key in the system's keyring.
    Keyring,
    /// A passphrase.
    Passphrase,
    /// Either of them.
    Both,
}

/// How the connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "Connection.ts")]
pub enum Connection {
    /// Trying.
    Connecting,
    /// Receiving what was missed.
    CatchingUp,
    /// Up to date.
    Online,
    /// Waiting to try again.
    Offline,
    /// The session has ended.
    LoggedOut,
}

/// The app as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "AppState.ts")]
pub struct AppState {
    /// Which screen.
    pub phase: Phase,
    /// Own account.
    pub user_id: Option<String>,
    /// Own name.
    pub username: Option<String>,
    /// The server.
    pub server: Option<String>,
    /// The code to compare while the device waits.
    pub code: Option<String>,
    /// The connection.
    pub connection: Connection,
    /// What opens this device's store; nothing when there is none yet.
    pub protection: Option<Protection>,
    /// Settings.
    pub settings: Settings,
}

/// A conversation in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "ListItem.ts")]
pub struct ListItem {
    /// Its id.
    pub id: String,
    /// One other person.
    pub direct: bool,
    /// Title, or the other person's name.
    pub title: String,
    /// For the colour of the avatar.
    pub avatar: String,
    /// Verified, for a direct one.
    pub verified: bool,
    /// `creating`, `active`, `joining`, `left`, `broken`.
    pub state: String,
    /// Newest row.
    pub last: Option<Row>,
    /// Unix milliseconds.
    #[ts(type = "number")]
    pub time: i64,
    /// Messages of others that were not read.
    #[ts(type = "number")]
    pub unread: u64,
    /// What was being written.
    pub draft: String,
    /// Messages that failed.
    #[ts(type = "number")]
    pub failed: u64,
}

/// How the hits of a search are spread.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "FacetsView.ts")]
pub struct FacetsView {
    /// Conversation and hits in it, most first.
    #[ts(type = "[string, number][]")]
    pub conversations: Vec<(String, u64)>,
    /// Account, its name and hits by it, most first.
    #[ts(type = "[string, string, number][]")]
    pub senders: Vec<(String, String, u64)>,
}

/// A quoted message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "Quote.ts")]
pub struct Quote {
    /// The message's id; `None` when it is not here.
    pub temp_id: String,
    /// Who wrote it.
    pub sender: String,
    /// Its beginning.
    pub text: String,
}

/// A system line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "SystemLine.ts")]
pub struct SystemLine {
    /// `created`, `added`, `removed`, `left`, `renamed`, `device_added`, `session_refreshed`, `room_opened`, `session_reset`,
    /// `identity_changed`, `gap`, `not_added`, `refused`, `call`.
    pub event: String,
    /// Who it is about.
    pub who: String,
    /// It is about this account.
    pub who_own: bool,
    /// Who did it.
    pub by: String,
    /// This account did it.
    pub by_own: bool,
    /// A title, a reason; of a call: `missed`, `declined`, `busy`, `failed`, `ended`, `running`, `ringing`.
    pub text: String,
    /// A number; of a call: seconds.
    #[ts(type = "number")]
    pub count: u64,
    /// Of a call: it rang as a video call.
    pub video: bool,
}

/// A row of the timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "Row.ts")]
pub struct Row {
    /// Local id, stable.
    #[ts(type = "number")]
    pub id: i64,
    /// The conversation.
    pub conversation: String,
    /// Place in the log.
    #[ts(type = "number | null")]
    pub seq: Option<u64>,
    /// The sender's id.
    pub temp_id: String,
    /// `text`, `system`, `undecryptable`, `unknown`.
    pub kind: String,
    /// By this account.
    pub own: bool,
    /// Who.
    pub sender_id: String,
    /// Their name.
    pub sender: String,
    /// Text.
    pub text: String,
    /// What it answers.
    pub reply: Option<Quote>,
    /// Unix milliseconds.
    #[ts(type = "number")]
    pub time: i64,
    /// `pending`, `sent`, `read`, `failed`, `received`.
    pub status: String,
    /// Why it failed or cannot be read: a code.
    pub cause: String,
    /// A system line.
    pub system: Option<SystemLine>,
}

/// A member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "MemberView.ts")]
pub struct MemberView {
    /// The account.
    pub id: String,
    /// Its name.
    pub name: String,
    /// `OWNER`, `ADMIN`, `MEMBER`.
    pub role: String,
    /// This account.
    pub own: bool,
    /// Safety numbers were compared.
    pub verified: bool,
    /// The identity changed: `none`, `changed`, `blocking`.
    pub changed: String,
}

/// An open conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "ConversationView.ts")]
pub struct ConversationView {
    /// Its id.
    pub id: String,
    /// One other person.
    pub direct: bool,
    /// Title, or the other person's name.
    pub title: String,
    /// For the avatar.
    pub avatar: String,
    /// The other person.
    pub peer: Option<String>,
    /// `creating`, `active`, `joining`, `left`, `broken`.
    pub state: String,
    /// Members.
    pub members: Vec<MemberView>,
    /// May add and remove.
    pub may_manage: bool,
    /// People whose changed identity stops sending.
    pub blocked_by: Vec<MemberView>,
    /// What was being written.
    pub draft: String,
    /// Rows that could not be read.
    pub unreadable: u32,
    /// Hybrid post-quantum keys.
    pub post_quantum: bool,
}

/// A safety number to compare.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "SafetyView.ts")]
pub struct SafetyView {
    /// The other account.
    pub user_id: String,
    /// Its name.
    pub username: String,
    /// 60 digits.
    pub number: String,
    /// The code's content, base64.
    pub qr: String,
    /// The code's modules, row by row, `1` is dark.
    pub modules: Vec<String>,
    /// They were compared.
    pub verified: bool,
    /// `none`, `changed`, `blocking`.
    pub changed: String,
}

/// A device of the account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "DeviceView.ts")]
pub struct DeviceView {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// This one.
    pub own: bool,
    /// Waits for approval.
    pub pending: bool,
    /// The code it shows while it waits.
    pub code: String,
    /// When it was last connected, unix milliseconds.
    #[ts(type = "number")]
    pub last_seen: i64,
}

/// A contact.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "ContactView.ts")]
pub struct ContactView {
    /// The account.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Safety numbers were compared.
    pub verified: bool,
}

/// What a reset will do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "PreviewView.ts")]
pub struct PreviewView {
    /// `device`, `conversation`, `identity`.
    pub scope: String,
    /// Conversations that are touched.
    pub conversations: u32,
    /// People who are told.
    pub people: u32,
    /// Members this device did not see coming in: `[id, name]`.
    pub newcomers: Vec<(String, String)>,
    /// Messages that will be asked for again.
    pub unreadable: u32,
    /// Safety numbers change.
    pub safety_numbers_change: bool,
    /// History stays.
    pub history_kept: bool,
    /// The password is asked for.
    pub needs_password: bool,
}

/// What a reset has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "ReportView.ts")]
pub struct ReportView {
    /// `device`, `conversation`, `identity`.
    pub scope: String,
    /// Conversations that work again.
    pub repaired: u32,
    /// Conversations that do not, yet.
    pub waiting: u32,
    /// Messages that are readable again.
    pub recovered: u32,
    /// Messages that are still being asked for.
    pub requested: u32,
}

fn scope_name(s: ResetScope) -> String {
    match s {
        ResetScope::Device => "device",
        ResetScope::Conversation => "conversation",
        ResetScope::Identity => "identity",
    }
    .to_owned()
}

impl From<Preview> for PreviewView {
    fn from(p: Preview) -> Self {
        Self {
            scope: scope_name(p.scope),
            conversations: p.conversations,
            people: p.people,
            newcomers: p.newcomers.into_iter().map(|(id, name)| (id.to_string(), name)).collect(),
            unreadable: p.unreadable,
            safety_numbers_change: p.safety_numbers_change,
            history_kept: p.history_kept,
            needs_password: p.needs_password,
        }
    }
}

impl From<Report> for ReportView {
    fn from(r: Report) -> Self {
        Self { scope: scope_name(r.scope), repaired: r.repaired, waiting: r.waiting, recovered: r.recovered, requested: r.requested }
    }
}
