//! Every question a host may ask, and everything it is told without asking.

use crate::settings::Settings;
use crate::timeline::TimelineUpdate;
use crate::view::{AppState, CallView, Connection, InsideView, ListItem, QualityView, RoomView};
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// A question. The answer's type is named beside each.
#[derive(Clone, Serialize, Deserialize, TS)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export, export_to = "Command.ts")]
pub enum Command {
    /// `AppState`.
    State,
    /// Opens the store, or makes it. `AppState`.
    Unlock {
        /// The passphrase.
        passphrase: String,
    },
    /// Asks the keyring again. `AppState`.
    OpenAgain,
    /// Sets or changes the passphrase of the store. `AppState`.
    SetPassphrase {
        /// The one of now, where there is one.
        current: Option<String>,
        /// The new one.
        new: String,
    },
    /// Sets a store whose key is lost aside and starts anew; nothing is deleted. `AppState`.
    StartAnew,
    /// `AppState`.
    SetSettings {
        /// All of them.
        settings: Settings,
    },
    /// `AppState`.
    Register {
        /// Address.
        server: String,
        /// Name.
        username: String,
        /// Goes no further than this device.
        password: String,
    },
    /// `AppState`; a new device then waits for approval.
    Login {
        /// Address.
        server: String,
        /// Name.
        username: String,
        /// Goes no further than this device.
        password: String,
    },
    /// Asks whether this device was approved. `AppState`.
    PollLink,
    /// `ListItem[]`.
    Conversations,
    /// `ContactView[]`.
    Contacts,
    /// Finds a person. `ContactView`.
    FindUser {
        /// Exact name.
        name: String,
    },
    /// The direct conversation with somebody. Its id.
    Direct {
        /// The account.
        user: String,
    },
    /// A new group. Its id.
    CreateGroup {
        /// Title.
        title: String,
        /// Accounts.
        members: Vec<String>,
    },
    /// Nothing.
    AddMembers {
        /// The group.
        conversation: String,
        /// Accounts.
        users: Vec<String>,
    },
    /// Nothing.
    RemoveMembers {
        /// The group.
        conversation: String,
        /// Accounts.
        users: Vec<String>,
    },
    /// Nothing.
    Rename {
        /// The group.
        conversation: String,
        /// New title.
        title: String,
    },
    /// Nothing. By the owner of a group.
    SetRole {
        /// The group.
        conversation: String,
        /// Account.
        user: String,
        /// `OWNER` (hands the group over), `ADMIN`, `MEMBER`.
        role: String,
    },
    /// Nothing.
    Leave {
        /// The group.
        conversation: String,
    },
    /// `ConversationView`.
    Conversation {
        /// Which.
        conversation: String,
    },
    /// Opens the window at the first unread row, or around a row. `TimelineUpdate`, then events.
    OpenTimeline {
        /// Which.
        conversation: String,
        /// Around this row.
        #[ts(type = "number | null")]
        around: Option<i64>,
    },
    /// Moves the window. Nothing; the change comes as an event.
    PageTimeline {
        /// Older, else newer.
        older: bool,
    },
    /// Jumps to the newest rows. Nothing; the change comes as an event.
    TimelineEnd,
    /// Nothing.
    CloseTimeline,
    /// `Row`.
    Send {
        /// Where to.
        conversation: String,
        /// At most 10,000 characters.
        text: String,
        /// The message it answers.
        reply_to: Option<String>,
    },
    /// Sends a failed message again. Nothing.
    Retry {
        /// The row.
        #[ts(type = "number")]
        row: i64,
    },
    /// Nothing.
    SetDraft {
        /// Where.
        conversation: String,
        /// What is being written.
        text: String,
    },
    /// Nothing.
    MarkRead {
        /// Where.
        conversation: String,
        /// Up to here.
        #[ts(type = "number")]
        seq: u64,
    },
    /// `Row[]`, newest first.
    Search {
        /// Words.
        query: String,
        /// Among what.
        filter: Filter,
    },
    /// `FacetsView`: how the hits are spread.
    Facets {
        /// Words.
        query: String,
        /// Among what.
        filter: Filter,
    },
    /// The local id of the first message sent at that time or later; of the newest one when all are older. `number | null`.
    RowAt {
        /// Where.
        conversation: String,
        /// Unix milliseconds.
        #[ts(type = "number")]
        time: i64,
    },
    /// `SafetyView`.
    SafetyNumber {
        /// With whom.
        user: String,
    },
    /// Nothing.
    SetVerified {
        /// Whom.
        user: String,
        /// Compared, or not.
        verified: bool,
        /// The number that was shown.
        number: String,
    },
    /// A changed identity is accepted without comparing. Nothing.
    AcceptIdentity {
        /// Whose.
        user: String,
    },
    /// `DeviceView[]`.
    Devices,
    /// Nothing.
    ApproveDevice {
        /// Which.
        device: String,
        /// The code it shows.
        code: String,
    },
    /// Nothing.
    RevokeDevice {
        /// Which.
        device: String,
    },
    /// `PreviewView`.
    PreviewReset {
        /// Where; not needed for `identity`.
        conversation: Option<String>,
        /// What.
        scope: Scope,
    },
    /// `ReportView`.
    Reset {
        /// Where; not needed for `identity`.
        conversation: Option<String>,
        /// What.
        scope: Scope,
        /// Needed for `identity`.
        password: Option<String>,
        /// Newcomers of the preview that are let in, by id.
        #[serde(default)]
        accept: Vec<String>,
    },
    /// Calls the other person of a direct conversation. The call's id.
    StartCall {
        /// Which.
        conversation: String,
        /// With pictures of this side.
        #[serde(default)]
        video: bool,
    },
    /// Takes the call that rings. Nothing.
    AcceptCall {
        /// With pictures of this side.
        #[serde(default)]
        video: bool,
    },
    /// Hangs up, declines, or puts the notice of an ended call away. Nothing.
    HangUp,
    /// Turns the microphone off or on. Nothing.
    MuteCall {
        /// Off.
        muted: bool,
    },
    /// Shows this side in the call, or does not any more. Nothing.
    CallCamera {
        /// Show.
        on: bool,
    },
    /// Shows a screen or a window in the call, in the place of this side, or none any more. Nothing.
    CallScreen {
        /// Its id, of `screens`.
        source: Option<String>,
    },
    /// `ScreenView[]`: what can be shown.
    Screens,
    /// `CallView | null`.
    CurrentCall,
    /// `AudioDevicesView`.
    AudioDevices,
    /// Begins or ends hearing oneself after two seconds. Nothing; the levels come as events.
    TestCall {
        /// Begin.
        on: bool,
    },
    /// Begins or ends seeing oneself, apart from any call: the picture is that of `own`. Nothing.
    TestCamera {
        /// Begin.
        on: bool,
    },
    /// Makes a meeting room. `MeetingView`.
    CreateRoom {
        /// How many may come in.
        seats: Option<u32>,
        /// Whoever is not a host waits.
        lobby: bool,
        /// People without an account may come in.
        guests: bool,
    },
    /// `MeetingView[]`: the rooms one has made.
    Meetings,
    /// Begins to come in: a conversation's room, or by link. Nothing; the rest comes as events.
    EnterRoom {
        /// Which conversation's.
        conversation: Option<String>,
        /// Which link.
        link: Option<String>,
        /// How one is called where one has no account.
        #[serde(default)]
        name: String,
        /// With the microphone off.
        #[serde(default)]
        muted: bool,
        /// With pictures of this side.
        #[serde(default)]
        video: bool,
    },
    /// Leaves the room, or puts the notice of its end away. Nothing.
    LeaveRoom,
    /// Turns the microphone off or on. Nothing.
    MuteRoom {
        /// Off.
        muted: bool,
    },
    /// Shows this side in the room, or does not any more. Nothing.
    RoomCamera {
        /// Show.
        on: bool,
    },
    /// Shows a screen or a window in the room, or none any more. Nothing.
    RoomScreen {
        /// Its id, of `screens`.
        source: Option<String>,
    },
    /// Raises the hand, or takes it down. Nothing.
    RaiseHand {
        /// Up.
        up: bool,
    },
    /// These pictures are drawn now; no others come, and none fifteen seconds after this was said last. Nothing.
    ShowPictures {
        /// Which, and how large.
        pictures: Vec<WantedPicture>,
        /// Decoded: the web view cannot do that. Each has to be drawn before the next one comes.
        #[serde(default)]
        decoded: bool,
    },
    /// The decoded picture that came last is drawn. Nothing.
    PictureDrawn,
    /// What is drawn has lost frames: the picture goes on with a key frame. Nothing.
    PicturesLost {
        /// Of whom.
        identity: String,
        /// Their screen, not their camera.
        screen: bool,
    },
    /// Says something to those inside. Nothing.
    RoomChat {
        /// What.
        text: String,
    },
    /// `RoomView | null`.
    CurrentRoom,
    /// `InsideView`: who is in a conversation's room.
    Inside {
        /// Which.
        conversation: String,
    },
    /// As a host: what is not named stays. Nothing.
    ChangeRoom {
        /// Which.
        room: String,
        /// Seats.
        seats: Option<u32>,
        /// Nobody else comes in.
        locked: Option<bool>,
        /// Whoever is not a host waits.
        lobby: Option<bool>,
        /// People without an account may come in.
        guests: Option<bool>,
    },
    /// As a host: closes a room for good. Nothing.
    CloseRoom {
        /// Which.
        room: String,
    },
    /// As a host: lets somebody in, or turns them away. Nothing.
    AnswerLobby {
        /// Which.
        room: String,
        /// Who.
        ticket: String,
        /// In.
        admit: bool,
    },
    /// As a host: takes somebody out, or switches off what they send. Nothing.
    HostAction {
        /// Which.
        room: String,
        /// Who.
        identity: String,
        /// What.
        action: HostActionKind,
    },
    /// The system says the network is back. Nothing.
    NetworkChanged,
}

/// Words for the command log: never what was typed.
impl std::fmt::Debug for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = serde_json::to_value(self).ok().and_then(|v| v.get("type").and_then(|t| t.as_str().map(str::to_owned)));
        write!(f, "Command({})", name.unwrap_or_default())
    }
}

/// What a host does to somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "HostActionKind.ts")]
pub enum HostActionKind {
    /// They have to leave.
    Remove,
    /// Their microphone is switched off.
    Mute,
    /// Their camera is switched off.
    CameraOff,
    /// Their screen is switched off.
    ScreenOff,
}

impl From<HostActionKind> for sc_protocol::rooms::HostAction {
    fn from(k: HostActionKind) -> Self {
        match k {
            HostActionKind::Remove => Self::Remove,
            HostActionKind::Mute => Self::Mute,
            HostActionKind::CameraOff => Self::CameraOff,
            HostActionKind::ScreenOff => Self::ScreenOff,
        }
    }
}

/// Among what is searched; nothing set: everything on this device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "Filter.ts")]
pub struct Filter {
    /// Only in this conversation.
    pub conversation: Option<String>,
    /// Only what this account wrote.
    pub sender: Option<String>,
    /// Only from this time on, Unix milliseconds.
    #[ts(type = "number | null")]
    pub since: Option<i64>,
    /// Only before this time, Unix milliseconds.
    #[ts(type = "number | null")]
    pub until: Option<i64>,
}

/// What is to be reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(rename_all = "snake_case")]
#[ts(export, export_to = "Scope.ts")]
pub enum Scope {
    /// This device's session.
    Device,
    /// Everyone's session.
    Conversation,
    /// The identity.
    Identity,
}

/// What a host is told without asking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export, export_to = "AppEvent.ts")]
pub enum AppEvent {
    /// The app as a whole changed.
    State {
        /// As it is.
        state: AppState,
    },
    /// The connection changed.
    Connection {
        /// As it is.
        connection: Connection,
    },
    /// The list of conversations changed as a whole: it is to be asked for again.
    List,
    /// One conversation of the list changed.
    Item {
        /// As it is.
        item: Box<ListItem>,
    },
    /// A conversation changed (title, members, state).
    Conversation {
        /// Which.
        conversation: String,
    },
    /// A conversation goes on under another id.
    Moved {
        /// Was.
        from: String,
        /// Is.
        to: String,
    },
    /// The open window changed.
    Timeline {
        /// How.
        update: TimelineUpdate,
    },
    /// Contacts or verification changed.
    Contacts,
    /// Own devices changed.
    Devices,
    /// The call changed, or there is none any more.
    Call {
        /// As it is.
        call: Option<Box<CallView>>,
    },
    /// The room one is in changed, or there is none any more.
    Room {
        /// As it is.
        room: Option<Box<RoomView>>,
    },
    /// Who is inside a conversation's room is another now.
    Inside {
        /// As it is.
        inside: InsideView,
    },
    /// How the call, the room or the test call sounds.
    Quality {
        /// As it is.
        quality: QualityView,
    },
}

/// A picture that is drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "WantedPicture.ts")]
pub struct WantedPicture {
    /// Of whom.
    pub identity: String,
    /// Their screen, not their camera.
    pub screen: bool,
    /// Points across.
    pub width: u32,
    /// Points down.
    pub height: u32,
}
