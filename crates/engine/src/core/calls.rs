//! Calls in the receive transaction: their line in the timeline, and what the call machine is to hear after the commit.
//!
//! The line is made of the log alone, so it is the same on every device, whether it rang or was off at the time.

use super::Cx;
use super::inbox::Todo;
use crate::EngineResult;
use sc_calls::{EndReason, RING_MS, Signal};
use sc_protocol::rest::ConversationKind;
use sc_protocol::{CallId, DeviceId, TempId, UnixMillis, UserId};
use sc_store::model::{CallLine, CallOutcome, Conversation, RowKind, System};

/// What the call machine is to hear, in the order of the log.
#[derive(Debug, Clone)]
pub enum CallNews {
    /// Another device says something; stored by the server at that time.
    Heard(Box<sc_calls::Received>, UnixMillis),
    /// The offer or the answer of this device has its place.
    Placed(CallId, u64),
}

/// Where a signal is from.
#[derive(Debug, Clone, Copy)]
pub struct From {
    /// Who.
    pub user: UserId,
    /// On which device.
    pub device: DeviceId,
    /// Its place.
    pub seq: u64,
    /// When the server stored it.
    pub at: UnixMillis,
}

/// A signal of another device. One that cannot be read, or is said in a group, means nothing.
pub fn heard(cx: &mut Cx<'_>, c: &Conversation, from: From, bytes: &[u8], todo: &mut Todo) -> EngineResult<()> {
    if !is_direct(cx, c)? {
        return Ok(());
    }
    let Ok(signal) = Signal::decode(bytes) else {
        tracing::warn!(conversation = %c.id, seq = from.seq, "a call signal could not be read");
        return Ok(());
    };
    project(cx, c, from, &signal)?;
    let From { user, device, seq, at } = from;
    let received = sc_calls::Received { conversation: c.id, user, device, seq, age_ms: 0, signal };
    todo.calls.push(CallNews::Heard(Box::new(received), at));
    Ok(())
}

/// Of a conversation that was only just heard of, the server has not said the kind yet, and its roster is empty. While two people are alone
/// in its group it is taken for theirs: or the first call of somebody new would neither ring nor be missed.
fn is_direct(cx: &Cx<'_>, c: &Conversation) -> EngineResult<bool> {
    Ok(c.kind == ConversationKind::Direct || (c.roster.is_empty() && cx.r().trusted(c.id)?.len() == 2))
}

/// A signal of this device has its place.
pub fn placed(cx: &mut Cx<'_>, c: &Conversation, seq: u64, at: UnixMillis, bytes: &[u8], todo: &mut Todo) -> EngineResult<()> {
    let Ok(signal) = Signal::decode(bytes) else { return Ok(()) };
    let own = cx.own()?;
    let from = From { user: own.user, device: own.device.device_id, seq, at };
    project(cx, c, from, &signal)?;
    if let Signal::Offer { call, .. } | Signal::Answer { call, .. } = signal {
        todo.calls.push(CallNews::Placed(call, seq));
    }
    Ok(())
}

fn line(cx: &Cx<'_>, c: &Conversation, call: CallId) -> EngineResult<Option<CallLine>> {
    let row = cx.r().message(c.id, TempId(call.0))?.filter(|m| m.kind == RowKind::System);
    Ok(row.and_then(|m| match serde_json::from_str::<System>(&m.body) {
        Ok(System::Call(line)) => Some(line),
        _ => None,
    }))
}

/// The call that rings in a conversation.
fn ringing(c: &Conversation) -> String {
    format!("ringing {}", c.id)
}

fn project(cx: &mut Cx<'_>, c: &Conversation, from: From, signal: &Signal) -> EngineResult<()> {
    let call = signal.call();
    let id = TempId(call.0);
    let known = line(cx, c, call)?;
    match (signal, known) {
        (Signal::Offer { video, .. }, None) => {
            if cx.r().message(c.id, id)?.is_some() || rings(cx, c, from)? {
                return Ok(());
            }
            let line = CallLine { by: from.user, device: from.device, answered: None, outcome: None, seconds: 0, video: *video };
            cx.w.insert_call(c.id, id, from.seq, from.at, &line)?;
            cx.w.set_meta(&ringing(c), &crate::jobs::encode(&(call, from.user, from.at))?)?;
            cx.w.touch(c.id, from.at)?;
        }
        (Signal::Answer { .. }, Some(line)) if line.answered.is_none() && line.outcome.is_none() && from.user != line.by => {
            cx.w.update_call(c.id, id, &CallLine { answered: Some((from.at, from.device)), ..line })?;
            cx.w.set_meta(&ringing(c), &[])?;
        }
        (Signal::End { reason, .. }, Some(line)) if line.outcome.is_none() => {
            let taken = line.answered.is_none_or(|(_, device)| from.device == device || from.device == line.device);
            if taken {
                cx.w.update_call(c.id, id, &ended(line, *reason, from.at))?;
                cx.w.set_meta(&ringing(c), &[])?;
            }
        }
        _ => return Ok(()),
    }
    cx.changed(c.id);
    Ok(())
}

/// True when the other person's call rings already: of two at once, the second has no line.
fn rings(cx: &Cx<'_>, c: &Conversation, from: From) -> EngineResult<bool> {
    let now: Option<(CallId, UserId, UnixMillis)> = match cx.r().meta(&ringing(c))? {
        Some(bytes) if !bytes.is_empty() => ciborium::from_reader(bytes.as_slice()).ok(),
        _ => None,
    };
    let ring = i64::try_from(RING_MS).unwrap_or(i64::MAX);
    Ok(now.is_some_and(|(_, by, at)| by != from.user && from.at - at < ring))
}

fn ended(line: CallLine, reason: EndReason, at: UnixMillis) -> CallLine {
    let (outcome, seconds) = match (line.answered, reason) {
        (Some((since, _)), _) => (CallOutcome::Ended, u64::try_from((at - since) / 1000).unwrap_or(0)),
        (None, EndReason::Declined) => (CallOutcome::Declined, 0),
        (None, EndReason::Busy) => (CallOutcome::Busy, 0),
        (None, EndReason::Failed(_)) => (CallOutcome::Failed, 0),
        (None, EndReason::HungUp | EndReason::Cancelled | EndReason::NoAnswer) => (CallOutcome::Missed, 0),
    };
    CallLine { outcome: Some(outcome), seconds, ..line }
}
