//! The send transactions: 1. message and job, shown at once; 2. ciphertext and advanced ratchet, before anything is sent.

use super::Cx;
use super::inbox::{left, queue_rejoin};
use crate::jobs::kind;
use crate::{EngineError, EngineResult, Event};
use sc_e2ee::content::{Content, Message, Text};
use sc_protocol::{ConversationId, TempId, limits};
use sc_store::model::{Conversation, ConversationState, IdentityChange, Job, MessageRow, RowKind, Status};
use sc_store::write_model::NewMessage;

/// Checks a text before anything is stored.
pub fn check_text(text: &str) -> EngineResult<()> {
    if text.trim().is_empty() {
        return Err(EngineError::invalid("EMPTY", "There is nothing to send."));
    }
    let n = text.chars().count();
    if n > limits::TEXT_CHARS {
        return Err(EngineError::invalid(
            "TOO_LONG",
            format!("A message has at most {} characters; this one has {n}.", limits::TEXT_CHARS),
        ));
    }
    Ok(())
}

/// Transaction 1: the message is stored and shown; it goes out when it can.
pub fn send_text(cx: &mut Cx<'_>, id: ConversationId, text: &str, reply_to: Option<TempId>) -> EngineResult<MessageRow> {
    check_text(text)?;
    let own = cx.own()?;
    let c = cx.conversation(id)?;
    left(&c)?;
    let temp_id = TempId::generate();
    let blocked = blocking(cx, &c)?;
    let n = if blocked { 0 } else { cx.w.take_n(id)? };
    let row =
        cx.w.insert_message(&NewMessage {
            conversation: id,
            seq: None,
            temp_id,
            sender: own.user,
            sender_device: own.device.device_id,
            kind: RowKind::Text,
            body: text,
            reply_to,
            sent_at: cx.now,
            status: if blocked { Status::Failed } else { Status::Pending },
            cause: if blocked { "IDENTITY_CHANGED" } else { "" },
            raw: None,
        })?
        .ok_or_else(|| EngineError::invalid("CONFLICT", "The message is there already."))?;
    if !blocked {
        let message = Message { temp_id, n, written_at: cx.now, content: Content::Text(Text { body: text.to_owned(), reply_to }) };
        cx.w.push_job(id, kind::MESSAGE, temp_id, &message.encode_padded()?)?;
    }
    cx.w.touch(id, cx.now)?;
    cx.w.set_draft(id, "")?;
    cx.changed(id);
    cx.events.insert(Event::Outbox);
    cx.r().row(row)?.ok_or_else(|| EngineError::invalid("NOT_FOUND", "The message is gone."))
}

/// Tries a failed message again.
pub fn retry(cx: &mut Cx<'_>, row: i64) -> EngineResult<()> {
    let m = cx
        .r()
        .row(row)?
        .filter(|m| m.status == Status::Failed)
        .ok_or_else(|| EngineError::invalid("NOT_FOUND", "There is no failed message to send again."))?;
    let c = cx.conversation(m.conversation)?;
    left(&c)?;
    if blocking(cx, &c)? {
        return Err(EngineError::invalid("IDENTITY_CHANGED", "Confirm the changed safety number before you send."));
    }
    let n = cx.w.take_n(c.id)?;
    let message =
        Message { temp_id: m.temp_id, n, written_at: m.sent_at, content: Content::Text(Text { body: m.body, reply_to: m.reply_to }) };
    if cx.r().job_by_temp_id(m.temp_id)?.is_none() {
        cx.w.push_job(c.id, kind::MESSAGE, m.temp_id, &message.encode_padded()?)?;
    }
    cx.w.set_status(c.id, m.temp_id, Status::Pending, "")?;
    cx.changed(c.id);
    cx.events.insert(Event::Outbox);
    Ok(())
}

/// Queues something that makes no row: a title, a request between devices.
pub fn queue_silent(cx: &mut Cx<'_>, id: ConversationId, content: Content) -> EngineResult<()> {
    let n = cx.w.take_n(id)?;
    let temp_id = TempId::generate();
    let message = Message { temp_id, n, written_at: cx.now, content };
    cx.w.push_job(id, kind::SILENT, temp_id, &message.encode_padded()?)?;
    cx.events.insert(Event::Outbox);
    Ok(())
}

/// True when somebody's identity changed after it was verified, and the change was not accepted yet.
pub fn blocking(cx: &Cx<'_>, c: &Conversation) -> EngineResult<bool> {
    let own = cx.own()?.user;
    let trusted = cx.r().trusted(c.id)?;
    let people = c.roster.iter().map(|m| m.user_id).chain(c.peer).chain(trusted).filter(|u| *u != own);
    for u in people {
        if cx.r().contact(u)?.is_some_and(|k| k.changed == IdentityChange::Blocking) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What came of preparing a job.
#[derive(Debug)]
pub enum Prepared {
    /// These bytes are to be sent.
    Ready(Job),
    /// Something else has to happen first: a commit of the server's proposals, a rejoin, a Welcome.
    Later,
    /// It cannot be sent; the row says why.
    Failed,
}

/// Transaction 2: encrypts for the current state of the group, unless that was done; the bytes are stored.
pub fn prepare(cx: &mut Cx<'_>, job_id: i64) -> EngineResult<Prepared> {
    let Some(mut job) = cx.r().job(job_id)? else { return Ok(Prepared::Later) };
    let c = cx.conversation(job.conversation)?;
    match c.state {
        ConversationState::Left => {
            fail(cx, &job, "NOT_A_MEMBER")?;
            return Ok(Prepared::Failed);
        }
        ConversationState::Broken | ConversationState::Creating | ConversationState::Joining => return Ok(Prepared::Later),
        ConversationState::Active => {}
    }
    if c.needs_rejoin {
        queue_rejoin(cx, &c)?;
        return Ok(Prepared::Later);
    }
    if blocking(cx, &c)? {
        fail(cx, &job, "IDENTITY_CHANGED")?;
        return Ok(Prepared::Failed);
    }
    let own = cx.own()?.user;
    let others: Vec<_> = c.roster.iter().map(|m| m.user_id).chain(c.peer).filter(|u| *u != own).collect();
    let body = job.body.clone();
    let (have, generation) = (job.ciphertext.is_some().then_some((job.generation, job.epoch)), c.generation);
    let encrypted = cx.with_group(&c, |g, mls| {
        if have == Some((generation, g.epoch())) {
            return Ok(Some((None, g.epoch())));
        }
        if g.has_proposals() || !g.is_active() {
            return Ok(None);
        }
        // Nobody to read it: it would be shown as sent and never arrive.
        if !others.is_empty() && !g.has_any(&others) {
            return Ok(Some((None, u64::MAX)));
        }
        Ok(Some((Some(g.encrypt(mls, &body)?), g.epoch())))
    })?;
    match encrypted {
        None => {
            queue_rejoin(cx, &c)?;
            Ok(Prepared::Later)
        }
        Some(None) => {
            // This job is the first of the conversation, so no change is on its way.
            if !cx.r().has_job(c.id, kind::COMMIT)? {
                cx.w.push_job_first(c.id, kind::COMMIT, TempId::generate(), &crate::jobs::encode(&crate::jobs::Commit::default())?)?;
            }
            Ok(Prepared::Later)
        }
        Some(Some((None, u64::MAX))) => {
            if !cx.r().has_job(c.id, kind::ADD)? {
                let people = crate::jobs::People { users: others, devices_only: true };
                let add = cx.w.push_job_first(c.id, kind::ADD, TempId::generate(), &crate::jobs::encode(&people)?)?;
                cx.w.delay_job(add, cx.now + 15_000)?;
            }
            Ok(Prepared::Later)
        }
        Some(Some((ciphertext, epoch))) => {
            if let Some(bytes) = ciphertext {
                cx.w.set_ciphertext(&job, Some(&bytes), c.generation, epoch)?;
                job = Job { ciphertext: Some(bytes), generation: c.generation, epoch, ..job };
            }
            Ok(Prepared::Ready(job))
        }
    }
}

/// Gives a job up; a message says why and can be sent again.
pub fn fail(cx: &mut Cx<'_>, job: &Job, cause: &str) -> EngineResult<()> {
    cx.w.delete_job(job.id)?;
    if job.kind == kind::MESSAGE {
        cx.w.set_status(job.conversation, job.temp_id, Status::Failed, cause)?;
    }
    cx.changed(job.conversation);
    Ok(())
}
