//! The line that the room of a conversation leaves in its timeline: otherwise nobody who was away would know that others had met.

use super::{Cx, outbox};
use crate::EngineResult;
use sc_e2ee::content::Content;
use sc_protocol::{ConversationId, UnixMillis, UserId};
use sc_store::model::System;

/// Two who come in at once, or somebody who is back after a moment, have opened the room once, in milliseconds.
const ONCE: i64 = 60_000;
/// Places in the log that are looked at for that.
const PLACES: u64 = 200;

/// Tells the others that this account came into the empty room.
pub fn tell_opened(cx: &mut Cx<'_>, id: ConversationId) -> EngineResult<()> {
    outbox::queue_silent(cx, id, Content::RoomOpened)
}

/// Somebody opened the room: a line, when there is none of the minute before. Every device has the same ones, because the log gives all the same
/// places and times.
pub fn opened(cx: &mut Cx<'_>, id: ConversationId, by: UserId, seq: u64, at: UnixMillis) -> EngineResult<()> {
    let lines = cx.r().system_lines(id, seq.saturating_sub(PLACES))?;
    let told = |(when, line): &(UnixMillis, System)| matches!(line, System::RoomOpened { .. }) && (at - when).abs() < ONCE;
    if lines.iter().any(told) { Ok(()) } else { Ok(cx.w.insert_system(id, seq, at, &System::RoomOpened { by })?) }
}
