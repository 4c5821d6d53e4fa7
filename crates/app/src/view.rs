//! What the UI draws. Plain data, no secrets but what is on the screen.

use crate::settings::Settings;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sc_engine::{Preview, Report, ResetScope};
use sc_protocol::UserId;
use sc_protocol::rest::{ConversationKind, Role};
use sc_store::model::{Contact, ConversationState, IdentityChange, ListEntry, MessageRow, RowKind, Status, System};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
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
    /// The store is there but its key is not.
    KeyLost,
    /// No account yet.
    Welcome,
    /// The device waits to be approved by another one.
    Waiting,
    /// Everything.
    Ready,
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
    /// `keyring` or `passphrase`.
    pub protection: Option<String>,
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
    /// `created`, `added`, `removed`, `left`, `renamed`, `device_added`, `session_refreshed`, `session_reset`,
    /// `identity_changed`, `gap`, `not_added`, `refused`.
    pub event: String,
    /// Who it is about.
    pub who: String,
    /// It is about this account.
    pub who_own: bool,
    /// Who did it.
    pub by: String,
    /// This account did it.
    pub by_own: bool,
    /// A title, a reason.
    pub text: String,
    /// A number.
    #[ts(type = "number")]
    pub count: u64,
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

/// Names of accounts, for rows.
#[derive(Debug, Clone)]
pub struct Names {
    own: UserId,
    own_name: String,
    known: HashMap<UserId, Contact>,
}

impl Names {
    /// From the contacts.
    #[must_use]
    pub fn new(own: UserId, own_name: String, contacts: Vec<Contact>) -> Self {
        Self { own, own_name, known: contacts.into_iter().map(|c| (c.user_id, c)).collect() }
    }

    /// A name to show.
    #[must_use]
    pub fn name(&self, user: UserId) -> String {
        if user == self.own {
            return self.own_name.clone();
        }
        self.known.get(&user).map_or_else(|| "…".to_owned(), |c| c.username.clone())
    }

    /// A contact.
    #[must_use]
    pub fn contact(&self, user: UserId) -> Option<&Contact> {
        self.known.get(&user)
    }

    /// True for this account.
    #[must_use]
    pub fn is_own(&self, user: UserId) -> bool {
        user == self.own
    }

    fn system(&self, body: &str) -> SystemLine {
        let mut line = SystemLine {
            event: "refused".into(),
            who: String::new(),
            who_own: false,
            by: String::new(),
            by_own: false,
            text: String::new(),
            count: 0,
        };
        let Ok(s) = serde_json::from_str::<System>(body) else { return line };
        let (mut who, mut by) = (None, None);
        line.event = match s {
            System::Created { by: b } => {
                by = Some(b);
                "created"
            }
            System::Added { who: w, by: b } => {
                (who, by) = (Some(w), Some(b));
                "added"
            }
            System::Removed { who: w, by: b } => {
                (who, by) = (Some(w), Some(b));
                if w == b { "left" } else { "removed" }
            }
            System::Renamed { by: b, title } => {
                by = Some(b);
                line.text = title;
                "renamed"
            }
            System::DeviceAdded { who: w } => {
                who = Some(w);
                "device_added"
            }
            System::SessionRefreshed { who: w } => {
                who = Some(w);
                "session_refreshed"
            }
            System::SessionReset { by: b } => {
                by = Some(b);
                "session_reset"
            }
            System::IdentityChanged { who: w } => {
                who = Some(w);
                "identity_changed"
            }
            System::Gap { who: w, count } => {
                who = Some(w);
                line.count = count;
                "gap"
            }
            System::NotAdded { who: w } => {
                who = Some(w);
                "not_added"
            }
            System::Refused { reason } => {
                line.text = reason;
                "refused"
            }
        }
        .to_owned();
        if let Some(w) = who {
            (line.who, line.who_own) = (self.name(w), self.is_own(w));
        }
        if let Some(b) = by {
            (line.by, line.by_own) = (self.name(b), self.is_own(b));
        }
        line
    }
}

/// A row for the UI. `quoted` is the message it answers, `read_by_others` the newest seq somebody else has read.
#[must_use]
pub fn row(m: &MessageRow, names: &Names, quoted: Option<&MessageRow>, read_by_others: u64) -> Row {
    let own = names.is_own(m.sender);
    let status = match m.status {
        Status::Pending => "pending",
        Status::Sent if m.seq.is_some_and(|s| s <= read_by_others) => "read",
        Status::Sent => "sent",
        Status::Failed => "failed",
        Status::Received => "received",
    };
    let kind = match m.kind {
        RowKind::Text => "text",
        RowKind::System => "system",
        RowKind::Undecryptable => "undecryptable",
        RowKind::Unknown => "unknown",
    };
    let system = (m.kind == RowKind::System).then(|| names.system(&m.body));
    let reply = m.reply_to.map(|r| Quote {
        temp_id: r.to_string(),
        sender: quoted.map(|q| names.name(q.sender)).unwrap_or_default(),
        text: quoted.map(|q| q.body.chars().take(160).collect()).unwrap_or_default(),
    });
    Row {
        id: m.id,
        conversation: m.conversation.to_string(),
        seq: m.seq,
        temp_id: m.temp_id.to_string(),
        kind: kind.to_owned(),
        own,
        sender_id: m.sender.to_string(),
        sender: names.name(m.sender),
        text: if system.is_some() { String::new() } else { m.body.clone() },
        reply,
        time: m.sent_at,
        status: status.to_owned(),
        cause: m.cause.clone(),
        system,
    }
}

/// As a word.
#[must_use]
pub fn state_name(s: ConversationState) -> String {
    match s {
        ConversationState::Creating => "creating",
        ConversationState::Active => "active",
        ConversationState::Joining => "joining",
        ConversationState::Left => "left",
        ConversationState::Broken => "broken",
    }
    .to_owned()
}

fn changed_name(c: IdentityChange) -> String {
    match c {
        IdentityChange::None => "none",
        IdentityChange::Changed => "changed",
        IdentityChange::Blocking => "blocking",
    }
    .to_owned()
}

/// A list entry for the UI.
#[must_use]
pub fn list_item(e: &ListEntry, names: &Names) -> ListItem {
    let c = &e.conversation;
    let peer = c.peer.and_then(|p| names.contact(p));
    let last = e.last.as_ref().map(|m| Row { text: m.body.chars().take(200).collect(), ..row(m, names, None, others_read(c, names)) });
    let last = last.map(|l| if l.system.is_some() { Row { text: String::new(), ..l } } else { l });
    ListItem {
        id: c.id.to_string(),
        direct: c.kind == ConversationKind::Direct,
        title: title(c, names),
        avatar: c.peer.map_or_else(|| c.id.to_string(), |p| p.to_string()),
        verified: peer.is_some_and(|p| p.verified),
        state: state_name(c.state),
        last,
        time: c.last_activity,
        unread: e.unread,
        draft: c.draft.clone(),
        failed: e.failed,
    }
}

/// The newest seq that any other member has read.
#[must_use]
pub fn others_read(c: &sc_store::model::Conversation, names: &Names) -> u64 {
    c.roster.iter().filter(|m| !names.is_own(m.user_id)).map(|m| m.read_seq).max().unwrap_or(0)
}

fn title(c: &sc_store::model::Conversation, names: &Names) -> String {
    match c.peer {
        Some(p) => names.name(p),
        None => c.title.clone(),
    }
}

/// A conversation for the UI.
#[must_use]
pub fn conversation(c: &sc_store::model::Conversation, names: &Names, unreadable: usize) -> ConversationView {
    let member = |user: UserId, name: String, role: Role| {
        let k = names.contact(user);
        MemberView {
            id: user.to_string(),
            name,
            role: match role {
                Role::Owner => "OWNER",
                Role::Admin => "ADMIN",
                Role::Member => "MEMBER",
            }
            .to_owned(),
            own: names.is_own(user),
            verified: k.is_some_and(|k| k.verified),
            changed: changed_name(k.map_or(IdentityChange::None, |k| k.changed)),
        }
    };
    let mut members: Vec<MemberView> = c.roster.iter().map(|m| member(m.user_id, m.username.clone(), m.role)).collect();
    if members.is_empty()
        && let Some(p) = c.peer
    {
        members.push(member(p, names.name(p), Role::Member));
    }
    let own_role = c.roster.iter().find(|m| names.is_own(m.user_id)).map(|m| m.role);
    ConversationView {
        id: c.id.to_string(),
        direct: c.kind == ConversationKind::Direct,
        title: title(c, names),
        avatar: c.peer.map_or_else(|| c.id.to_string(), |p| p.to_string()),
        peer: c.peer.map(|p| p.to_string()),
        state: state_name(c.state),
        blocked_by: members.iter().filter(|m| m.changed == "blocking").cloned().collect(),
        members,
        may_manage: c.kind == ConversationKind::Group && own_role.is_some_and(|r| r >= Role::Admin),
        draft: c.draft.clone(),
        unreadable: u32::try_from(unreadable).unwrap_or(u32::MAX),
        post_quantum: c.suite == sc_protocol::suite::HYBRID,
    }
}

/// A safety number for the UI.
#[must_use]
pub fn safety(contact: &Contact, number: &str, qr: &[u8]) -> SafetyView {
    let modules = qrcodegen::QrCode::encode_binary(qr, qrcodegen::QrCodeEcc::Medium).map_or_else(
        |_| Vec::new(),
        |code| (0..code.size()).map(|y| (0..code.size()).map(|x| if code.get_module(x, y) { '1' } else { '0' }).collect()).collect(),
    );
    SafetyView {
        user_id: contact.user_id.to_string(),
        username: contact.username.clone(),
        number: number.to_owned(),
        qr: STANDARD.encode(qr),
        modules,
        verified: contact.verified,
        changed: changed_name(contact.changed),
    }
}
