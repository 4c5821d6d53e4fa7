//! The receive transaction: envelopes in order, each stored, projected and paid for with the cursor, together.
//!
//! What cannot be read becomes a row with a cause and is asked for again; the cursor moves on. A commit that does not fit
//! breaks the session: a rejoin is queued, at most [`REJOINS_PER_DAY`] a day and conversation, then the person is asked.

mod membership;
mod resend;
mod stay;

pub use membership::{project, vet_group};

use self::membership::{Facts, policy};
use self::resend::{answer_resend, resent};
use self::stay::{reset, welcome};
use super::Cx;
use super::calls::{self, CallNews};
use crate::jobs::{self, kind};
use crate::{EngineError, EngineResult};
use sc_e2ee::E2eeError;
use sc_e2ee::content::{Content, Message, Text};
use sc_e2ee::group::{Leaf, Received};
use sc_protocol::frame::{Envelope, EnvelopeKind};
use sc_protocol::rest::ConversationKind;
use sc_protocol::{ConversationId, TempId, UnixMillis, UserId};
use sc_store::model::{Conversation, ConversationState, RowKind, Status, System};
use sc_store::write_model::NewMessage;

/// Automatic rejoins of a conversation in a day.
pub const REJOINS_PER_DAY: u64 = 6;
/// Something of a log, in the order of the log.
#[derive(Debug, Clone)]
pub enum Entry {
    /// An envelope.
    Envelope(Box<Envelope>),
    /// The place of something this device sent.
    Own {
        /// Where.
        conversation: ConversationId,
        /// What.
        temp_id: TempId,
        /// Its place.
        seq: u64,
        /// When it was stored.
        at: UnixMillis,
    },
}

/// What the transport has to do after a batch.
#[derive(Debug, Default)]
pub struct Todo {
    /// Entries are missing from here on: fetch them.
    pub gaps: Vec<ConversationId>,
    /// Title, roster or kind are not known well: fetch them.
    pub refresh: Vec<ConversationId>,
    /// What the call machine is to hear.
    pub calls: Vec<CallNews>,
}

impl Todo {
    fn gap(&mut self, id: ConversationId) {
        if !self.gaps.contains(&id) {
            self.gaps.push(id);
        }
    }

    /// Asks for the details of a conversation.
    pub fn want_refresh(&mut self, id: ConversationId) {
        if !self.refresh.contains(&id) {
            self.refresh.push(id);
        }
    }
}

/// Stores a batch.
pub fn receive(cx: &mut Cx<'_>, batch: &[Entry]) -> EngineResult<Todo> {
    let mut todo = Todo::default();
    for entry in batch {
        // One entry can never make the others wait: what it did is undone and it becomes a row with a cause.
        cx.w.begin_entry()?;
        let result = match entry {
            Entry::Envelope(e) => envelope(cx, e, &mut todo),
            Entry::Own { conversation, temp_id, seq, at } => own(cx, *conversation, *temp_id, *seq, *at, &mut todo),
        };
        match result {
            Ok(()) => cx.w.end_entry()?,
            Err(EngineError::Store(fault)) if !fault.is_constraint() => return Err(fault.into()),
            Err(cause) => {
                cx.w.undo_entry()?;
                skip(cx, entry, &cause)?;
            }
        }
    }
    Ok(todo)
}

/// An entry that could not be stored as it is.
fn skip(cx: &mut Cx<'_>, entry: &Entry, cause: &EngineError) -> EngineResult<()> {
    let (id, seq, at) = match entry {
        Entry::Envelope(e) => (e.conversation_id, e.seq, e.sent_at),
        Entry::Own { conversation, seq, at, .. } => (*conversation, *seq, *at),
    };
    tracing::error!(conversation = %id, seq, %cause, "an entry could not be stored");
    cx.set_group(id, None);
    let Some(c) = cx.r().conversation(id)?.filter(|c| seq == c.last_seq + 1) else { return Ok(()) };
    match entry {
        Entry::Envelope(e) if e.kind == EnvelopeKind::Application => undecryptable(cx, &c, e, "malformed")?,
        _ => break_session(cx, &c)?,
    }
    cx.w.set_last_seq(id, seq, at)?;
    cx.changed(id);
    Ok(())
}

/// The conversation an entry belongs to; made when it is the first that is heard of it.
fn find(cx: &mut Cx<'_>, id: ConversationId, generation: u32, todo: &mut Todo) -> EngineResult<Conversation> {
    if let Some(c) = cx.r().conversation(id)? {
        return Ok(c);
    }
    let new = Conversation::new(id, ConversationKind::Group, ConversationState::Joining, cx.now);
    let c = Conversation { generation, ..new };
    cx.w.insert_conversation(&c)?;
    cx.events.insert(crate::Event::Conversations);
    todo.want_refresh(id);
    Ok(c)
}

fn envelope(cx: &mut Cx<'_>, e: &Envelope, todo: &mut Todo) -> EngineResult<()> {
    let c = find(cx, e.conversation_id, e.generation, todo)?;
    if e.seq <= c.last_seq || todo.gaps.contains(&c.id) {
        return Ok(());
    }
    // A Welcome into an unknown conversation begins a stay. Into a known one it may follow a reset, and what was said in
    // between is for this device too: it is fetched, and asked for again where it cannot be read.
    if e.seq != c.last_seq + 1 && (e.kind != EnvelopeKind::Welcome || c.last_seq > 0) {
        todo.gap(c.id);
        return Ok(());
    }
    if e.sender_device == cx.own()?.device.device_id {
        return own_envelope(cx, &c, e, todo);
    }
    match e.kind {
        EnvelopeKind::Application => application(cx, &c, e, todo)?,
        EnvelopeKind::Commit | EnvelopeKind::Proposal => handshake(cx, &c, e, todo)?,
        EnvelopeKind::Welcome => welcome(cx, &c, e, todo)?,
        EnvelopeKind::Reset => reset(cx, &c, e, todo)?,
    }
    cx.w.set_last_seq(c.id, e.seq, e.sent_at)?;
    cx.changed(c.id);
    Ok(())
}

fn application(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, todo: &mut Todo) -> EngineResult<()> {
    if e.generation != c.generation || c.state != ConversationState::Active {
        return undecryptable(cx, c, e, "not_joined");
    }
    // A failed message must leave no trace in the group, so it gets a savepoint.
    cx.w.savepoint()?;
    let received = cx.with_group(c, |g, mls| Ok(g.receive(mls, e.payload.as_slice(), &|_, _| Err("no commit was expected here"))));
    let outcome = match received {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Err(E2eeError::NotInGroup),
        Err(err) => return Err(err),
    };
    match outcome {
        Ok(Received::Message { sender, bytes }) => {
            cx.w.release()?;
            content(cx, c, e, &sender, &bytes, todo)
        }
        Ok(_) => cx.w.release().map_err(Into::into),
        Err(err) => {
            cx.set_group(c.id, None);
            cx.w.undo()?;
            match err {
                // Said before, or two messages under one key: the second is no copy of the first, and is asked for again.
                E2eeError::Duplicate if cx.r().message(c.id, e.temp_id)?.is_some() => Ok(()),
                E2eeError::Duplicate => undecryptable(cx, c, e, "key_missing"),
                E2eeError::Undecryptable(_) => {
                    undecryptable(cx, c, e, "key_missing")?;
                    // One may have been damaged on the way. Two in a row are a group that is not the sender's.
                    if is_unreadable(cx, c, e.seq - 1)? { break_session(cx, c) } else { Ok(()) }
                }
                E2eeError::WrongEpoch | E2eeError::NotInGroup => {
                    undecryptable(cx, c, e, "out_of_step")?;
                    break_session(cx, c)
                }
                E2eeError::Mls(_) => Err(err.into()),
                _ => undecryptable(cx, c, e, "malformed"),
            }
        }
    }
}

/// True when the entry at that place could not be read although this device was in the group.
fn is_unreadable(cx: &Cx<'_>, c: &Conversation, seq: u64) -> EngineResult<bool> {
    Ok(cx.r().message_at(c.id, seq)?.is_some_and(|(m, _)| m.kind == RowKind::Undecryptable && m.cause == "key_missing"))
}

/// Stores what a message says.
fn content(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, sender: &Leaf, bytes: &[u8], todo: &mut Todo) -> EngineResult<()> {
    let Ok(m) = Message::decode(bytes) else { return undecryptable(cx, c, e, "malformed") };
    count(cx, c, e, sender, m.n)?;
    match m.content {
        Content::Text(t) => {
            insert_text(cx, c, e, sender, m.temp_id, &t)?;
        }
        Content::Title(title) => {
            cx.w.set_title(c.id, &title)?;
            cx.w.insert_system(c.id, e.seq, e.sent_at, &System::Renamed { by: sender.user, title })?;
        }
        Content::ResendRequest(r) => answer_resend(cx, c, sender, &r)?,
        Content::ResendAnswer(a) => resent(cx, c, sender, &a)?,
        Content::Call(bytes) => {
            let from = calls::From { user: sender.user, device: sender.device, seq: e.seq, at: e.sent_at };
            calls::heard(cx, c, from, &bytes, todo)?;
        }
        Content::RoomOpened => super::rooms::opened(cx, c.id, sender.user, e.seq, e.sent_at)?,
        Content::SessionRefreshed => cx.w.insert_system(c.id, e.seq, e.sent_at, &System::SessionRefreshed { who: sender.user })?,
        _ => {
            let status = status_of(cx, sender.user)?;
            let row = NewMessage { kind: RowKind::Unknown, raw: Some(bytes), status, ..row(c, e, sender, m.temp_id, "") };
            cx.w.insert_message(&row)?;
        }
    }
    Ok(())
}

fn row<'m>(c: &Conversation, e: &Envelope, sender: &Leaf, temp_id: TempId, body: &'m str) -> NewMessage<'m> {
    NewMessage {
        conversation: c.id,
        seq: Some(e.seq),
        temp_id,
        sender: sender.user,
        sender_device: sender.device,
        kind: RowKind::Text,
        body,
        reply_to: None,
        sent_at: e.sent_at,
        status: Status::Received,
        cause: "",
        raw: None,
    }
}

/// What this account wrote, on whichever device, is sent; only what others wrote can be unread.
fn status_of(cx: &Cx<'_>, sender: UserId) -> EngineResult<Status> {
    Ok(if sender == cx.own()?.user { Status::Sent } else { Status::Received })
}

fn insert_text(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, sender: &Leaf, temp_id: TempId, t: &Text) -> EngineResult<()> {
    let status = status_of(cx, sender.user)?;
    cx.w.insert_message(&NewMessage { reply_to: t.reply_to, status, ..row(c, e, sender, temp_id, &t.body) })?;
    Ok(())
}

/// Follows the sender's count. A hole is something that was held back on the way.
fn count(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, sender: &Leaf, n: u64) -> EngineResult<()> {
    let last = cx.r().counter(c.id, sender.device)?;
    if let Some(missing) = last.and_then(|l| n.checked_sub(l + 1)).filter(|m| *m > 0) {
        cx.w.insert_system(c.id, e.seq, e.sent_at, &System::Gap { who: sender.user, count: missing })?;
    }
    Ok(cx.w.set_counter(c.id, sender.device, n)?)
}

/// A row with the cause, and a wish to get the message again.
fn undecryptable(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, cause: &str) -> EngineResult<()> {
    cx.w.insert_message(&NewMessage {
        conversation: c.id,
        seq: Some(e.seq),
        temp_id: e.temp_id,
        sender: e.sender_user,
        sender_device: e.sender_device,
        kind: RowKind::Undecryptable,
        body: "",
        reply_to: None,
        sent_at: e.sent_at,
        status: status_of(cx, e.sender_user)?,
        cause,
        raw: None,
    })?;
    if let Some(n) = cx.r().counter(c.id, e.sender_device)? {
        cx.w.set_counter(c.id, e.sender_device, n + 1)?;
    }
    // A moment later: the key may be on its way.
    cx.w.want_resend(c.id, e.seq, cx.now + 1_000)?;
    cx.events.insert(crate::Event::Outbox);
    Ok(())
}

fn handshake(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, todo: &mut Todo) -> EngineResult<()> {
    if e.generation != c.generation || c.state != ConversationState::Active {
        return Ok(());
    }
    let facts = Facts::of(cx, c)?;
    cx.w.savepoint()?;
    let result = cx.with_group(c, |g, mls| Ok(g.receive(mls, e.payload.as_slice(), &|before, change| policy(c, &facts, before, change))));
    let outcome = match result {
        Ok(Some(outcome)) => outcome,
        Ok(None) => Err(E2eeError::NotInGroup),
        Err(err) => return Err(err),
    };
    match outcome {
        Ok(Received::Changed(change)) => {
            cx.w.release()?;
            cx.w.forget_ciphertexts(c.id)?;
            project(cx, c, e.seq, e.sent_at, &change, todo)
        }
        Ok(_) => {
            cx.w.release()?;
            cx.events.insert(crate::Event::Outbox);
            queue_commit(cx, c)
        }
        Err(err) => {
            cx.set_group(c.id, None);
            cx.w.undo()?;
            match err {
                E2eeError::Mls(_) => Err(err.into()),
                E2eeError::Policy(reason) => {
                    tracing::warn!(conversation = %c.id, reason, "a group change was refused");
                    cx.w.insert_system(c.id, e.seq, e.sent_at, &System::Refused { reason: reason.to_owned() })?;
                    cx.w.set_state(c.id, ConversationState::Broken)?;
                    Ok(())
                }
                cause => {
                    tracing::warn!(conversation = %c.id, %cause, "a group change does not fit");
                    break_session(cx, c)
                }
            }
        }
    }
}

/// Everybody commits what the server proposed; the first one wins, the others find nothing left to do.
fn queue_commit(cx: &mut Cx<'_>, c: &Conversation) -> EngineResult<()> {
    // A change that is on its way is resolved first: it takes the proposals along, or the server files them again.
    let busy = cx.r().has_job(c.id, kind::COMMIT)? || cx.r().has_job(c.id, kind::ADD)? || cx.r().has_job(c.id, kind::REMOVE)?;
    if !busy {
        let job = cx.w.push_job_first(c.id, kind::COMMIT, TempId::generate(), &jobs::encode(&jobs::Commit::default())?)?;
        // Not all at the same moment.
        let wait = i64::from(rand::random::<u16>() % 1500);
        cx.w.delay_job(job, cx.now + wait)?;
    }
    Ok(())
}

/// The session is broken: rejoin by itself, unless that was done too often today.
pub fn break_session(cx: &mut Cx<'_>, c: &Conversation) -> EngineResult<()> {
    let key = format!("rejoins {} {}", c.id, cx.now / 86_400_000);
    let times = cx.r().meta(&key)?.and_then(|b| b.first().copied()).unwrap_or(0);
    if u64::from(times) >= REJOINS_PER_DAY {
        cx.w.set_state(c.id, ConversationState::Broken)?;
        return Ok(());
    }
    if !cx.r().has_job(c.id, kind::REJOIN)? {
        cx.w.set_meta(&key, &[times + 1])?;
        queue_rejoin(cx, c)?;
    }
    Ok(())
}

/// Queues a join of its own accord, unless a Welcome comes within `wait_ms`.
pub fn queue_join(cx: &mut Cx<'_>, id: ConversationId, wait_ms: i64) -> EngineResult<()> {
    if !cx.r().has_job(id, kind::REJOIN)? {
        let job = cx.w.push_job_first(id, kind::REJOIN, TempId::generate(), &jobs::encode(&jobs::Rejoin { only_if_joining: true })?)?;
        cx.w.delay_job(job, cx.now + wait_ms)?;
        cx.events.insert(crate::Event::Outbox);
    }
    Ok(())
}

/// Queues a rejoin before everything else of the conversation.
pub fn queue_rejoin(cx: &mut Cx<'_>, c: &Conversation) -> EngineResult<()> {
    // One that waits for a Welcome does nothing when that has come: it is not the same.
    if !cx.r().has_job(c.id, kind::REJOIN)?
        || cx.r().has_job_with(c.id, kind::REJOIN, &jobs::encode(&jobs::Rejoin { only_if_joining: true })?)?
    {
        cx.w.push_job_first(c.id, kind::REJOIN, TempId::generate(), &jobs::encode(&jobs::Rejoin { only_if_joining: false })?)?;
        cx.events.insert(crate::Event::Outbox);
    }
    Ok(())
}

/// An envelope of this very device, met while catching up.
fn own_envelope(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, todo: &mut Todo) -> EngineResult<()> {
    let job = cx.r().job_by_temp_id(e.temp_id)?;
    if let Some(job) = job.as_ref().filter(|j| e.kind == EnvelopeKind::Application && j.ciphertext.as_deref() != Some(e.payload.as_slice()))
    {
        // It waits here, and was encrypted and sent in a life this copy does not know: its ratchets must not be used again.
        tracing::warn!(conversation = %c.id, seq = e.seq, "this store is older than a message that waits in it");
        if job.ciphertext.is_none() {
            cx.w.raise_n(c.id, c.next_n + 1)?;
        }
        cx.w.set_needs_rejoin(c.id, true)?;
        queue_rejoin(cx, c)?;
    }
    let shown = |m: sc_store::model::MessageRow| m.status != Status::Received && m.kind != RowKind::Undecryptable;
    let known = job.is_some() || cx.r().message(c.id, e.temp_id)?.is_some_and(shown);
    if known {
        return own(cx, c.id, e.temp_id, e.seq, e.sent_at, todo);
    }
    // Nothing here knows of it: this store is an older copy. Its ratchets must not be used again.
    tracing::warn!(conversation = %c.id, seq = e.seq, "this store is older than what this device sent");
    if e.kind == EnvelopeKind::Application {
        undecryptable(cx, c, e, "restored_copy")?;
        cx.w.raise_n(c.id, c.next_n + 1)?;
        cx.w.set_needs_rejoin(c.id, true)?;
    }
    queue_rejoin(cx, c)?;
    cx.w.set_last_seq(c.id, e.seq, e.sent_at)?;
    cx.changed(c.id);
    Ok(())
}

/// Something of ours has its place.
fn own(cx: &mut Cx<'_>, id: ConversationId, temp_id: TempId, seq: u64, at: UnixMillis, todo: &mut Todo) -> EngineResult<()> {
    let Some(c) = cx.r().conversation(id)? else { return Ok(()) };
    let job = cx.r().job_by_temp_id(temp_id)?;
    if seq <= c.last_seq {
        // The cursor has passed it: what it finishes is finished all the same.
        if job.is_some() {
            jobs::complete(cx, &c, temp_id, seq, at, todo)?;
            cx.changed(id);
        }
        return Ok(());
    }
    if todo.gaps.contains(&id) {
        return Ok(());
    }
    // Also before the place of a join there may be something for this device: whoever fetches finds out.
    if seq != c.last_seq + 1 {
        todo.gap(id);
        return Ok(());
    }
    jobs::complete(cx, &c, temp_id, seq, at, todo)?;
    cx.w.set_last_seq(id, seq, at)?;
    cx.changed(id);
    Ok(())
}

/// A conversation error that the caller turns into words.
pub fn left(c: &Conversation) -> EngineResult<()> {
    if c.state == ConversationState::Left {
        Err(EngineError::invalid("NOT_A_MEMBER", "You are not a member of this conversation any more."))
    } else {
        Ok(())
    }
}
