//! How the views are made from what is stored: names for ids, words for states.

use super::{ConversationView, ListItem, MemberView, Quote, Row, SafetyView, SystemLine};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sc_protocol::rest::{ConversationKind, Role};
use sc_protocol::{UnixMillis, UserId};
use sc_store::model::{CallLine, CallOutcome, Contact, ConversationState, IdentityChange, ListEntry, MessageRow, RowKind, Status, System};
use std::collections::HashMap;

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

    fn system(&self, body: &str, at: UnixMillis) -> SystemLine {
        let mut line = SystemLine {
            video: false,
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
            System::RoomOpened { by: b } => {
                by = Some(b);
                "room_opened"
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
            System::Call(c) => {
                by = Some(c.by);
                line.count = c.seconds;
                line.text = call_word(&c, at, sc_engine::now_ms()).to_owned();
                line.video = c.video;
                "call"
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

/// What became of a call, as a word.
fn call_word(c: &CallLine, at: UnixMillis, now: UnixMillis) -> &'static str {
    let rang = now - at >= i64::try_from(sc_engine::call::RING_MS).unwrap_or(i64::MAX);
    match (c.outcome, c.answered) {
        (Some(CallOutcome::Missed), _) => "missed",
        (Some(CallOutcome::Declined), _) => "declined",
        (Some(CallOutcome::Busy), _) => "busy",
        (Some(CallOutcome::Failed), _) => "failed",
        (Some(CallOutcome::Ended), _) => "ended",
        (None, Some(_)) => "running",
        // Nobody said how it ended: it does not ring for ever.
        (None, None) if rang => "missed",
        (None, None) => "ringing",
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
    let system = (m.kind == RowKind::System).then(|| names.system(&m.body, m.sent_at));
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
