//! The line that the room of a conversation leaves in its timeline: otherwise nobody who was away would know that others had met.

use super::{Cx, outbox};
use crate::EngineResult;
use sc_e2ee::content::Content;
use sc_protocol::{ConversationId, UnixMillis, UserId};
use sc_store::model::{RowKind, System};

/// Two who come in at once, or somebody who is back after a moment, have opened the room once, in milliseconds.
const ONCE: i64 = 60_000;
/// Rows that are looked at for that.
const ROWS: u32 = 30;

/// Tells the others that this account came into the empty room, unless that was told just now.
pub fn tell_opened(cx: &mut Cx<'_>, id: ConversationId) -> EngineResult<()> {
    if opened_at(cx, id, cx.now)? { Ok(()) } else { outbox::queue_silent(cx, id, Content::RoomOpened) }
}

/// Somebody opened the room: every device has the same line, because the log gives all the same order and times.
pub fn opened(cx: &mut Cx<'_>, id: ConversationId, by: UserId, seq: u64, at: UnixMillis) -> EngineResult<()> {
    if opened_at(cx, id, at)? { Ok(()) } else { Ok(cx.w.insert_system(id, seq, at, &System::RoomOpened { by })?) }
}

/// True when there is such a line of the last minute.
fn opened_at(cx: &Cx<'_>, id: ConversationId, at: UnixMillis) -> EngineResult<bool> {
    let rows = cx.r().rows_before(id, i64::MAX, ROWS)?;
    let is_line = |body: &str| matches!(serde_json::from_str(body), Ok(System::RoomOpened { .. }));
    Ok(rows.iter().any(|m| m.kind == RowKind::System && (at - m.sent_at).abs() < ONCE && is_line(&m.body)))
}
