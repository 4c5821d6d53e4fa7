//! What the server says about conversations: kind, roster, read positions, whether this device is inside.
//!
//! It is believed for showing and for deciding what to ask next, never for deciding who may read: that is
//! [`super::inbox`]'s policy over the group itself.

use super::Cx;
use crate::EngineResult;
use crate::core::inbox::{break_session, queue_join};
use sc_protocol::rest::{ConversationInfo, ConversationKind};
use sc_protocol::{ConversationId, UserId};
use sc_store::model::{Contact, Conversation, ConversationState, System};

/// A Welcome is the better way in and usually on its way; a device joins by itself after this.
const WELCOME_WAIT_MS: i64 = 1_500;

/// Takes over what the server says about a conversation; one that is not known yet is made.
pub fn apply_info(cx: &mut Cx<'_>, info: ConversationInfo) -> EngineResult<()> {
    let own = cx.own()?.user;
    let id = info.conversation_id;
    let direct = info.kind == ConversationKind::Direct;
    let peer = info.members.iter().map(|m| m.user_id).find(|u| direct && *u != own);
    let Some(c) = cx.r().conversation(id)? else { return meet(cx, info, peer) };
    if c.state == ConversationState::Creating {
        return Ok(());
    }
    if c.kind != info.kind || c.peer != peer {
        if !c.roster.is_empty() {
            tracing::warn!(conversation = %id, "the server changed what the conversation is; ignored");
            return Ok(());
        }
        cx.w.set_kind(id, info.kind, peer)?;
        // A Welcome may have come before it was known that there are two people.
        let strangers = cx.r().trusted(id)?.into_iter().any(|u| u != own && Some(u) != peer);
        if direct && strangers {
            cx.w.set_state(id, ConversationState::Broken)?;
        }
    }
    cx.w.set_roster(id, &info.members)?;
    if let Some(m) = info.members.iter().find(|m| m.user_id == own) {
        cx.w.set_read_seq(id, m.read_seq)?;
    }
    for m in &info.members {
        if let Some(k) = cx.r().contact(m.user_id)?.filter(|k| k.username != m.username) {
            cx.w.put_contact(&Contact { username: m.username.clone(), ..k })?;
        }
    }
    if c.state == ConversationState::Left {
        cx.w.set_state(id, ConversationState::Joining)?;
    }
    if !info.device_in_group && matches!(c.state, ConversationState::Joining | ConversationState::Left) {
        queue_join(cx, id, WELCOME_WAIT_MS)?;
    }
    cx.changed(id);
    Ok(())
}

/// The first that is heard of a conversation.
fn meet(cx: &mut Cx<'_>, info: ConversationInfo, peer: Option<UserId>) -> EngineResult<()> {
    let id = info.conversation_id;
    cx.w.insert_conversation(&Conversation {
        peer,
        generation: info.group_id.as_slice().last_chunk::<4>().map_or(0, |b| u32::from_be_bytes(*b)),
        last_seq: if info.device_in_group { 0 } else { info.last_seq },
        read_seq: info.last_seq,
        roster: info.members,
        ..Conversation::new(id, info.kind, ConversationState::Joining, info.last_activity)
    })?;
    if !info.device_in_group {
        queue_join(cx, id, WELCOME_WAIT_MS)?;
    }
    cx.changed(id);
    Ok(())
}

/// The server says that this account is not a member any more.
pub fn not_a_member(cx: &mut Cx<'_>, id: ConversationId) -> EngineResult<()> {
    let known = cx.r().conversation(id)?.filter(|c| !matches!(c.state, ConversationState::Creating | ConversationState::Left));
    if let Some(c) = known {
        cx.delete_group(id, c.generation)?;
        cx.w.set_state(id, ConversationState::Left)?;
        cx.changed(id);
    }
    Ok(())
}

/// The server has nothing between the cursor and `first`: this device's stay begins there, or something was held back.
pub fn hole(cx: &mut Cx<'_>, id: ConversationId, first: u64) -> EngineResult<()> {
    if let Some(c) = cx.r().conversation(id)?.filter(|c| c.state == ConversationState::Active && c.last_seq > 0) {
        cx.w.insert_system(id, first - 1, cx.now, &System::Refused { reason: "log_hole".into() })?;
        break_session(cx, &c)?;
    }
    Ok(cx.w.set_last_seq(id, first - 1, 0)?)
}

/// Somebody has read up to `seq`.
pub fn read_up_to(cx: &mut Cx<'_>, id: ConversationId, user: UserId, seq: u64) -> EngineResult<()> {
    let Some(mut c) = cx.r().conversation(id)? else { return Ok(()) };
    if user == cx.own()?.user {
        cx.w.set_read_seq(id, seq)?;
    }
    if let Some(m) = c.roster.iter_mut().find(|m| m.user_id == user) {
        m.read_seq = m.read_seq.max(seq);
        cx.w.set_roster(id, &c.roster)?;
    }
    cx.changed(id);
    Ok(())
}
