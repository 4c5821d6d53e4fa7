//! Who may be in a group: the policy a change is held to, and the lines it leaves.

use super::Todo;
use crate::EngineResult;
use crate::core::Cx;
use sc_e2ee::group::{Change, Leaf};
use sc_protocol::rest::ConversationKind;
use sc_protocol::{UnixMillis, UserId};
use sc_store::model::{Conversation, ConversationState, System};

/// What is known about who belongs to a conversation, for [`policy`].
pub(super) struct Facts {
    pub(super) own: crate::core::Own,
    pub(super) trusted: Vec<UserId>,
}

impl Facts {
    pub(super) fn of(cx: &Cx<'_>, c: &Conversation) -> EngineResult<Self> {
        Ok(Self { own: cx.own()?.clone(), trusted: cx.r().trusted(c.id)? })
    }

    /// Nobody shows another identity for this account; in a direct conversation there are two people.
    fn vet(&self, c: &Conversation, leaf: &Leaf) -> Result<(), &'static str> {
        if leaf.user == self.own.user && !self.own.is_own_identity(&leaf.identity_key) {
            return Err("own_identity");
        }
        if c.peer.is_some_and(|p| leaf.user != p && leaf.user != self.own.user) {
            return Err("third_person_in_direct");
        }
        Ok(())
    }

    /// The members of a group this device is to enter: vetted, and no strangers when it was inside before.
    pub(super) fn vet_group(&self, c: &Conversation, leaves: &[Leaf], suite: u16) -> Result<(), &'static str> {
        if c.suite != 0 && weaker(suite, c.suite) {
            return Err("weaker_suite");
        }
        leaves.iter().try_for_each(|l| self.vet(c, l))?;
        if !self.trusted.is_empty() && leaves.iter().any(|l| l.user != self.own.user && !self.trusted.contains(&l.user)) {
            return Err("stranger_in_group");
        }
        Ok(())
    }
}

/// Vets a group for a rejoin.
pub fn vet_group(cx: &Cx<'_>, c: &Conversation, leaves: &[Leaf], suite: u16) -> EngineResult<Result<(), &'static str>> {
    Ok(Facts::of(cx, c)?.vet_group(c, leaves, suite))
}

/// May the change be merged? The certificate is checked before; here is who may be in the group at all.
pub(super) fn policy(c: &Conversation, facts: &Facts, before: &[Leaf], change: &Change) -> Result<(), &'static str> {
    for l in change.added.iter().chain([&change.committer]) {
        facts.vet(c, l)?;
    }
    if change.added.iter().any(|l| before.iter().any(|o| o.device == l.device) && !change.removed.iter().any(|o| o.device == l.device)) {
        return Err("device_twice");
    }
    let joins_by_itself = change.added.contains(&change.committer);
    if joins_by_itself && change.committer.user != facts.own.user && !facts.trusted.contains(&change.committer.user) {
        return Err("stranger_joined");
    }
    Ok(())
}

pub(super) fn weaker(new: u16, old: u16) -> bool {
    old == sc_protocol::suite::HYBRID && new != old
}

/// System lines and pins for a change that was merged.
pub fn project(cx: &mut Cx<'_>, c: &Conversation, seq: u64, at: UnixMillis, change: &Change, todo: &mut Todo) -> EngineResult<()> {
    let leaves = cx.with_group(c, |g, _| Ok(if g.is_active() { g.leaves()? } else { Vec::new() }))?.unwrap_or_default();
    let known = cx.r().trusted(c.id)?;
    let by = change.committer.user;
    let mut told: Vec<UserId> = Vec::new();
    for l in change.added.iter().chain(change.rejoined.then_some(&change.committer)) {
        cx.pin(l.user, &l.identity_key, None)?;
    }
    for l in &change.added {
        if told.contains(&l.user) {
            continue;
        }
        told.push(l.user);
        cx.w.trust(c.id, l.user)?;
        let own_first = known.contains(&l.user) && !leaves.iter().any(|o| o.user == l.user && o.device != l.device);
        if own_first {
            continue;
        }
        if known.contains(&l.user) {
            cx.w.insert_system(c.id, seq, at, &System::DeviceAdded { who: l.user })?;
        } else if c.kind == ConversationKind::Group {
            cx.w.insert_system(c.id, seq, at, &System::Added { who: l.user, by })?;
        }
    }
    for l in &change.removed {
        if told.contains(&l.user) || leaves.iter().any(|o| o.user == l.user) {
            continue;
        }
        told.push(l.user);
        if c.kind == ConversationKind::Group {
            if c.roster.iter().all(|m| m.user_id != l.user) || by != l.user {
                cx.w.distrust(c.id, l.user)?;
            }
            // Removals by the server's proposal are people who left.
            let left = !c.roster.iter().any(|m| m.user_id == l.user);
            cx.w.insert_system(c.id, seq, at, &System::Removed { who: l.user, by: if left { l.user } else { by } })?;
        }
    }
    if change.rejoined {
        cx.w.insert_system(c.id, seq, at, &System::SessionRefreshed { who: by })?;
    }
    if change.self_removed {
        cx.w.set_state(c.id, ConversationState::Left)?;
        cx.delete_group(c.id, c.generation)?;
    }
    cx.changed(c.id);
    todo.want_refresh(c.id);
    Ok(())
}
