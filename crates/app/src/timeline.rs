//! The window on a conversation: at most [`WINDOW`] rows, moved by pages, followed by deltas with a revision.
//!
//! A delta applies to the revision before it; a UI that missed one asks to open the window anew.

use crate::view::Row;
use serde::{Deserialize, Serialize};
use ts_rs::TS;

/// Rows in a window at most.
pub const WINDOW: u32 = 200;
/// Rows in a page.
pub const PAGE: u32 = 50;

/// A change of the window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[serde(tag = "type", rename_all = "snake_case")]
#[ts(export, export_to = "Delta.ts")]
pub enum Delta {
    /// All rows anew.
    Reset {
        /// The rows.
        rows: Vec<Row>,
    },
    /// `remove` rows at `at` give way to `rows`.
    Splice {
        /// Index.
        at: usize,
        /// How many go.
        remove: usize,
        /// What comes.
        rows: Vec<Row>,
    },
    /// One row changed in place.
    Patch {
        /// Index.
        at: usize,
        /// The row.
        row: Box<Row>,
    },
}

/// A delta with what it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, TS)]
#[ts(export, export_to = "TimelineUpdate.ts")]
pub struct TimelineUpdate {
    /// The conversation.
    pub conversation: String,
    /// After this delta.
    pub revision: u32,
    /// The change.
    pub delta: Delta,
    /// There are older rows.
    pub has_before: bool,
    /// There are newer rows.
    pub has_after: bool,
    /// First row that was not read when the window was opened.
    #[ts(type = "number | null")]
    pub first_unread: Option<i64>,
}

/// What turns `old` into `new`; `None` when nothing does.
#[must_use]
pub fn diff(old: &[Row], new: &[Row]) -> Option<Delta> {
    let head = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    if head == old.len() && head == new.len() {
        return None;
    }
    let (old_rest, new_rest) = (old.get(head..).unwrap_or_default(), new.get(head..).unwrap_or_default());
    let tail = old_rest.iter().rev().zip(new_rest.iter().rev()).take_while(|(a, b)| a == b).count();
    let (remove, rows) = (old_rest.len() - tail, new_rest.get(..new_rest.len() - tail).unwrap_or_default());
    match rows {
        [row] if remove == 1 && old_rest.first().is_some_and(|o| o.id == row.id) => {
            Some(Delta::Patch { at: head, row: Box::new(row.clone()) })
        }
        _ => Some(Delta::Splice { at: head, remove, rows: rows.to_vec() }),
    }
}

/// Applies a delta; the UI does the same in TypeScript, and a test holds both to it.
pub fn apply(rows: &mut Vec<Row>, delta: &Delta) {
    match delta {
        Delta::Reset { rows: all } => rows.clone_from(all),
        Delta::Splice { at, remove, rows: fresh } => {
            let at = (*at).min(rows.len());
            let end = (at + remove).min(rows.len());
            rows.splice(at..end, fresh.iter().cloned());
        }
        Delta::Patch { at, row } => {
            if let Some(r) = rows.get_mut(*at) {
                r.clone_from(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: i64, text: &str) -> Row {
        Row {
            id,
            conversation: String::new(),
            seq: None,
            temp_id: String::new(),
            kind: "text".into(),
            own: false,
            sender_id: String::new(),
            sender: String::new(),
            text: text.into(),
            reply: None,
            time: 0,
            status: "sent".into(),
            cause: String::new(),
            system: None,
        }
    }

    #[test]
    fn a_delta_turns_the_old_rows_into_the_new_ones_whatever_changed() {
        let all: Vec<Row> = (0..6).map(|i| row(i, "x")).collect();
        let pick = |mask: u32, text: &str| -> Vec<Row> {
            all.iter().filter(|r| mask >> r.id & 1 == 1).map(|r| row(r.id, if r.id == 2 { text } else { "x" })).collect()
        };
        for a in 0..64 {
            for b in 0..64 {
                let (old, new) = (pick(a, "old"), pick(b, "new"));
                let mut got = old.clone();
                if let Some(d) = diff(&old, &new) {
                    apply(&mut got, &d);
                }
                assert_eq!(got, new, "{a} -> {b}");
            }
        }
    }

    #[test]
    fn one_changed_row_is_a_patch_and_a_new_one_at_the_end_a_splice() {
        let old = vec![row(1, "a"), row(2, "b"), row(3, "c")];
        let mut new = old.clone();
        new.iter_mut().filter(|r| r.id == 2).for_each(|r| r.text = "B".into());
        assert!(matches!(diff(&old, &new), Some(Delta::Patch { at: 1, .. })));
        new = old.clone();
        new.push(row(4, "d"));
        assert!(matches!(diff(&old, &new), Some(Delta::Splice { at: 3, remove: 0, .. })));
    }
}
