//! How a stay in a group begins: by Welcome, or anew after a reset.

use super::membership::{Facts, weaker};
use super::{Todo, queue_join, queue_rejoin};
use crate::EngineResult;
use crate::core::Cx;
use crate::jobs::{self, kind};
use sc_e2ee::group::Group;
use sc_e2ee::reset::Announcement;
use sc_protocol::frame::Envelope;
use sc_store::model::{Conversation, ConversationState, System};

/// After a reset its author adds everybody; a device that is forgotten joins by itself after this.
const RESET_WAIT_MS: i64 = 5_000;

pub(super) fn welcome(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, todo: &mut Todo) -> EngineResult<()> {
    // Nobody can be added who is inside: a Welcome never replaces a group that works.
    if !matches!(c.state, ConversationState::Joining | ConversationState::Left) || (e.generation < c.generation && c.last_seq > 0) {
        return Ok(());
    }
    let returns = c.state == ConversationState::Left;
    let tree = e.ratchet_tree.as_ref().map(sc_protocol::Blob::to_vec).unwrap_or_default();
    cx.w.savepoint()?;
    cx.delete_group(c.id, e.generation)?;
    let joined = cx.with_context(|mls| Ok(Group::join(mls, e.payload.as_slice(), &tree)));
    let group = match joined? {
        Ok(g) if g.id() == sc_e2ee::group::group_id(c.id, e.generation) => {
            let facts = Facts::of(cx, c)?;
            let facts = if returns { Facts { trusted: Vec::new(), ..facts } } else { facts };
            match facts.vet_group(c, &g.leaves()?, g.suite()) {
                Ok(()) => Ok(g),
                Err(reason) => {
                    cx.w.undo()?;
                    cx.w.insert_system(c.id, e.seq, e.sent_at, &System::Refused { reason: reason.to_owned() })?;
                    cx.w.set_state(c.id, ConversationState::Broken)?;
                    return Ok(());
                }
            }
        }
        Ok(_) => Err("wrong_group"),
        Err(cause) => {
            tracing::warn!(conversation = %c.id, %cause, "a Welcome cannot be used");
            Err("welcome")
        }
    };
    let group = match group {
        Ok(g) => g,
        Err(cause) => {
            cx.w.undo()?;
            tracing::info!(conversation = %c.id, cause, "joining by itself instead");
            cx.w.set_group(c.id, e.generation, c.suite)?;
            cx.w.set_state(c.id, ConversationState::Joining)?;
            return queue_rejoin(cx, c);
        }
    };
    cx.w.release()?;
    if returns {
        cx.w.forget_stay(c.id)?;
    }
    let leaves = group.leaves()?;
    let by = leaves.iter().find(|l| l.device == e.sender_device).map(|l| l.user);
    let suite = group.suite();
    cx.set_group(c.id, Some(group));
    cx.w.set_group(c.id, e.generation, suite)?;
    cx.w.set_state(c.id, ConversationState::Active)?;
    cx.w.set_needs_rejoin(c.id, false)?;
    // What waited for this Welcome would only hold up what is written next.
    cx.w.delete_jobs_with(c.id, kind::REJOIN, &jobs::encode(&jobs::Rejoin { only_if_joining: true })?)?;
    for l in &leaves {
        cx.pin(l.user, &l.identity_key, None)?;
        cx.w.trust(c.id, l.user)?;
    }
    if c.last_seq == 0
        && let Some(by) = by
    {
        cx.w.insert_system(c.id, e.seq, e.sent_at, &System::Created { by })?;
    }
    todo.want_refresh(c.id);
    cx.events.insert(crate::Event::Outbox);
    Ok(())
}

pub(super) fn reset(cx: &mut Cx<'_>, c: &Conversation, e: &Envelope, todo: &mut Todo) -> EngineResult<()> {
    if e.generation <= c.generation {
        return Ok(());
    }
    if matches!(c.state, ConversationState::Active | ConversationState::Broken) {
        let state = c.state;
        let facts = cx.with_group(c, |g, _| Ok((g.epoch(), g.leaves()?)))?;
        let fine = facts.is_some_and(|(epoch, leaves)| {
            leaves.iter().find(|l| l.device == e.sender_device).is_some_and(|leaf| {
                Announcement::verify(e.payload.as_slice(), &leaf.device_key).is_ok_and(|a| {
                    // A broken session may have been left behind; one that works knows the epoch.
                    let in_step = state == ConversationState::Broken || a.old_epoch == epoch;
                    let ours = a.conversation_id == c.id && a.generation == e.generation;
                    in_step && ours && a.device_id == leaf.device && a.user_id == leaf.user && !weaker(a.suite, c.suite)
                })
            })
        });
        if !fine {
            cx.w.insert_system(c.id, e.seq, e.sent_at, &System::Refused { reason: "reset_not_signed".into() })?;
            cx.w.set_state(c.id, ConversationState::Broken)?;
            return Ok(());
        }
    }
    cx.delete_group(c.id, c.generation)?;
    cx.w.set_group(c.id, e.generation, c.suite)?;
    cx.w.set_state(c.id, ConversationState::Joining)?;
    cx.w.forget_ciphertexts(c.id)?;
    cx.w.insert_system(c.id, e.seq, e.sent_at, &System::SessionReset { by: e.sender_user })?;
    // The Welcome follows in a moment; if it does not, the device joins by itself.
    queue_join(cx, c.id, RESET_WAIT_MS)?;
    todo.want_refresh(c.id);
    Ok(())
}
