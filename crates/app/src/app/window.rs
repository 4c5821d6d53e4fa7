//! The open window on a timeline: what it holds, paging, redrawing.

use super::App;
use crate::AppError;
use crate::command::AppEvent;
use crate::timeline::{self, Delta, PAGE, TimelineUpdate, WINDOW};
use crate::view::{self, Names, Row};
use sc_engine::Engine;
use sc_protocol::ConversationId;
use sc_store::UNSENT;
use sc_store::model::MessageRow;
use std::sync::atomic::Ordering;

/// The open window.
pub(super) struct Window {
    pub(super) conversation: ConversationId,
    rows: Vec<Row>,
    first: i64,
    last: i64,
    /// The window ends at the newest row and follows it.
    follows: bool,
    has_before: bool,
    revision: u32,
    first_unread: Option<i64>,
}

/// Where a window begins. A message that waits stands after every place there is and goes to its place once it has one:
/// a window of such messages only begins before everything.
fn begin(messages: &[MessageRow]) -> i64 {
    messages.first().filter(|m| m.pos < UNSENT).map_or(0, |m| m.pos)
}

impl App {
    fn rows(&self, e: &Engine, names: &Names, c: ConversationId, messages: &[MessageRow]) -> Result<Vec<Row>, AppError> {
        e.read(|r| {
            let read_by_others = r.conversation(c)?.map_or(0, |c| view::others_read(&c, names));
            messages
                .iter()
                .map(|m| {
                    let quoted = m.reply_to.map(|t| r.message(c, t)).transpose()?.flatten();
                    Ok(view::row(m, names, quoted.as_ref(), read_by_others))
                })
                .collect()
        })
        .map_err(AppError::from)
    }

    pub(super) async fn open_timeline(&self, e: &Engine, c: ConversationId, around: Option<i64>) -> Result<TimelineUpdate, AppError> {
        // Before anything is read: what is stored meanwhile is drawn after the window is there.
        let mut window = self.0.window.lock().await;
        let names = self.names(e)?;
        let conversation = e.read(|r| r.conversation(c))?.ok_or_else(|| AppError::new("NOT_FOUND", "There is no such conversation."))?;
        let own = e.own_user()?;
        let (messages, follows, first_unread) = e.read(|r| {
            let unread_from = (i64::try_from(conversation.read_seq).unwrap_or(i64::MAX >> 21) << 20) | 0xF_FFFF;
            let unread = r.rows_from(c, unread_from + 1, PAGE)?;
            let first_unread = unread.iter().find(|m| m.sender != own && m.kind != sc_store::model::RowKind::System).map(|m| m.id);
            let anchor = match around {
                Some(id) => r.row(id)?.filter(|m| m.conversation == c).map(|m| m.pos),
                None if unread.len() as u32 >= PAGE => unread.first().map(|m| m.pos),
                None => None,
            };
            let Some(pos) = anchor else {
                return Ok((r.rows_before(c, i64::MAX, PAGE)?, true, first_unread));
            };
            let mut rows = r.rows_before(c, pos, PAGE)?;
            let after = r.rows_from(c, pos, PAGE)?;
            let follows = (after.len() as u32) < PAGE;
            rows.extend(after);
            Ok((rows, follows, first_unread))
        })?;
        let rows = self.rows(e, &names, c, &messages)?;
        let revision = self.0.revision.fetch_add(1_000, Ordering::Relaxed);
        let (first, last) = (begin(&messages), messages.last().map_or(0, |m| m.pos));
        let has_before = first > 0 && !e.read(|r| r.rows_before(c, first, 1))?.is_empty();
        let update = TimelineUpdate {
            conversation: c.to_string(),
            revision,
            delta: Delta::Reset { rows: rows.clone() },
            has_before,
            has_after: !follows,
            first_unread,
        };
        *window = Some(Window { conversation: c, rows, first, last, follows, has_before, revision, first_unread });
        Ok(update)
    }

    pub(super) async fn page_timeline(&self, e: &Engine, older: bool) -> Result<(), AppError> {
        let mut guard = self.0.window.lock().await;
        let Some(w) = guard.as_mut() else { return Ok(()) };
        let c = w.conversation;
        if older {
            let page = e.read(|r| r.rows_before(c, w.first, PAGE))?;
            w.first = page.first().map_or(w.first, |m| m.pos);
            let all = e.read(|r| r.rows_from(c, w.first, WINDOW))?;
            if all.len() as u32 == WINDOW {
                w.follows = false;
                w.last = all.last().map_or(w.last, |m| m.pos);
            }
        } else {
            let page = e.read(|r| r.rows_from(c, w.last + 1, PAGE))?;
            w.follows = (page.len() as u32) < PAGE;
            w.last = page.last().map_or(w.last, |m| m.pos);
            let kept = e.read(|r| r.rows_before(c, w.last + 1, WINDOW))?;
            w.first = kept.first().map_or(w.first, |m| m.pos).max(w.first);
        }
        self.redraw(e, w)
    }

    pub(super) async fn timeline_end(&self, e: &Engine) -> Result<(), AppError> {
        let mut guard = self.0.window.lock().await;
        let Some(w) = guard.as_mut() else { return Ok(()) };
        let newest = e.read(|r| r.rows_before(w.conversation, i64::MAX, PAGE))?;
        w.first = begin(&newest);
        w.follows = true;
        self.redraw(e, w)
    }

    /// Reads the window anew and tells what changed.
    pub(super) fn redraw(&self, e: &Engine, w: &mut Window) -> Result<(), AppError> {
        let names = self.names(e)?;
        let c = w.conversation;
        let mut messages = if w.follows {
            let newest = e.read(|r| r.rows_before(c, i64::MAX, WINDOW))?;
            newest.into_iter().filter(|m| m.pos >= w.first).collect::<Vec<_>>()
        } else {
            e.read(|r| r.rows_from(c, w.first, WINDOW))?.into_iter().filter(|m| m.pos <= w.last).collect()
        };
        if messages.len() as u32 > WINDOW {
            messages.drain(..messages.len() - WINDOW as usize);
        }
        w.first = begin(&messages);
        w.last = messages.last().map_or(0, |m| m.pos);
        let rows = self.rows(e, &names, c, &messages)?;
        let has_before = w.first > 0 && !e.read(|r| r.rows_before(c, w.first, 1))?.is_empty();
        let delta = timeline::diff(&w.rows, &rows);
        if delta.is_none() && has_before == w.has_before {
            return Ok(());
        }
        w.revision += 1;
        w.has_before = has_before;
        w.rows = rows;
        let delta = delta.unwrap_or(Delta::Splice { at: 0, remove: 0, rows: Vec::new() });
        let update = TimelineUpdate {
            conversation: c.to_string(),
            revision: w.revision,
            delta,
            has_before,
            has_after: !w.follows,
            first_unread: w.first_unread,
        };
        let _ = self.0.events.send(AppEvent::Timeline { update });
        Ok(())
    }
}
