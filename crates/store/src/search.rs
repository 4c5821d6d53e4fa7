//! Search on the device (MSG-13): words and prefixes, Vietnamese with and without diacritics.
//!
//! The index holds folded words (no diacritics, đ as d, lower case). A query is folded too; where it was typed with
//! diacritics, the hits must have them. Newest first: common words are never ranked while somebody types.

use crate::StoreResult;
use crate::model::MessageRow;
use crate::read::{MESSAGE, Read, message};
use rusqlite::params;
use sc_protocol::{ConversationId, UnixMillis, UserId};
use std::collections::HashMap;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Hits looked at when diacritics have to be compared.
const CANDIDATES: u32 = 500;
/// Newest hits that are looked through when a filter is set.
const SCANNED: u32 = 20_000;

/// Without diacritics, lower case.
#[must_use]
pub fn fold(text: &str) -> String {
    text.nfd().filter(|c| !is_combining_mark(*c)).flat_map(char::to_lowercase).map(|c| if c == 'đ' { 'd' } else { c }).collect()
}

/// Composed, lower case, diacritics kept.
fn exact(text: &str) -> String {
    text.nfc().flat_map(char::to_lowercase).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty())
}

/// The FTS5 expression of a query: every word as a prefix. `None` when there is no word in it.
fn expression(query: &str) -> Option<String> {
    let folded = fold(query);
    let parts: Vec<String> = words(&folded).take(16).map(|w| format!("\"{w}\"*")).collect();
    (!parts.is_empty()).then(|| parts.join(" "))
}

/// Among what is searched; empty: everything on this device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SearchFilter {
    /// Only in this conversation.
    pub conversation: Option<ConversationId>,
    /// Only what this account wrote.
    pub sender: Option<UserId>,
    /// Only what was sent at this time or later.
    pub since: Option<UnixMillis>,
    /// Only what was sent before this time.
    pub until: Option<UnixMillis>,
}

/// How the newest hits are spread (at most [`CANDIDATES`] are counted), the most frequent first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facets {
    /// Hits by conversation.
    pub conversations: Vec<(ConversationId, u64)>,
    /// Hits by who wrote them.
    pub senders: Vec<(UserId, u64)>,
}

fn spread<K: Copy + Ord + std::hash::Hash>(keys: impl Iterator<Item = K>) -> Vec<(K, u64)> {
    let mut counts = HashMap::new();
    keys.for_each(|k| *counts.entry(k).or_default() += 1);
    let mut out: Vec<(K, u64)> = counts.into_iter().collect();
    out.sort_by_key(|(k, n)| (std::cmp::Reverse(*n), *k));
    out
}

impl Read<'_> {
    /// Messages with all words of `query` (each a word or its beginning), newest first.
    pub fn search(&self, query: &str, filter: &SearchFilter, limit: u32) -> StoreResult<Vec<MessageRow>> {
        let Some(expression) = expression(query) else { return Ok(Vec::new()) };
        let wanted: Vec<String> = words(&exact(query)).filter(|w| fold(w) != **w).map(str::to_owned).collect();
        let fetch = if wanted.is_empty() { limit } else { CANDIDATES.max(limit) };
        // A filter that leaves little must not read every hit there is.
        let among = if *filter == SearchFilter::default() {
            "FROM message_words w JOIN messages m ON m.id = w.rowid WHERE message_words MATCH ?1".to_owned()
        } else {
            format!(
                "FROM (SELECT rowid FROM message_words WHERE message_words MATCH ?1 ORDER BY rowid DESC LIMIT {SCANNED}) w \
                 JOIN messages m ON m.id = w.rowid WHERE (?3 IS NULL OR m.conversation_id = ?3) AND (?4 IS NULL OR m.sender = ?4) \
                 AND (?5 IS NULL OR m.sent_at >= ?5) AND (?6 IS NULL OR m.sent_at < ?6)"
            )
        };
        let columns = MESSAGE.replace("SELECT id", "SELECT m.id").replace("body,", "m.body,").replace("FROM messages", &among);
        let (conversation, sender) = (filter.conversation.as_ref().map(|c| c.as_bytes()), filter.sender.as_ref().map(|u| u.as_bytes()));
        let sql = format!("{columns} ORDER BY w.rowid DESC LIMIT ?2");
        let mut hits = if *filter == SearchFilter::default() {
            self.all(&sql, params![expression, fetch], message)?
        } else {
            self.all(&sql, params![expression, fetch, conversation, sender, filter.since, filter.until], message)?
        };
        hits.retain(|m| {
            let body = exact(&m.body);
            wanted.iter().all(|w| words(&body).any(|b| b.starts_with(w.as_str())))
        });
        hits.truncate(limit as usize);
        Ok(hits)
    }

    /// How the hits of a query are spread.
    pub fn facets(&self, query: &str, filter: &SearchFilter) -> StoreResult<Facets> {
        let hits = self.search(query, filter, CANDIDATES)?;
        Ok(Facets { conversations: spread(hits.iter().map(|m| m.conversation)), senders: spread(hits.iter().map(|m| m.sender)) })
    }

    /// The first message of a conversation that was sent at `time` or later; the newest one when all are older.
    pub fn row_at(&self, id: ConversationId, time: UnixMillis) -> StoreResult<Option<i64>> {
        let from = |pos: i64| {
            let sql = "SELECT id, pos, sent_at FROM messages WHERE conversation_id = ?1 AND pos >= ?2 ORDER BY pos LIMIT 1";
            self.one(sql, params![id.as_bytes(), pos], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?)))
        };
        // Times grow with places (the server gives both), so the place is found by halving.
        let (mut low, mut high) = (0, self.last_pos(id)?);
        let mut found = from(high)?.map(|(row, ..)| row);
        while low <= high {
            let middle = low + (high - low) / 2;
            match from(middle)? {
                Some((row, _, at)) if at >= time => {
                    found = Some(row);
                    high = middle - 1;
                }
                Some((_, pos, _)) => low = pos + 1,
                None => high = middle - 1,
            }
        }
        Ok(found)
    }

    fn last_pos(&self, id: ConversationId) -> StoreResult<i64> {
        let sql = "SELECT MAX(pos) FROM messages WHERE conversation_id = ?1";
        Ok(self.one(sql, [id.as_bytes()], |r| r.get::<_, Option<i64>>(0))?.flatten().unwrap_or(-1))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn folding_takes_every_vietnamese_diacritic_off() {
        assert_eq!(fold("Đường về nhà Ưng Ặ ỷ"), "duong ve nha ung a y");
        assert_eq!(fold("e\u{0301}"), "e");
    }

    #[test]
    fn filters_facets_and_dates() {
        use crate::Store;
        use crate::keys::KeySlots;
        use crate::model::{Conversation, ConversationState, RowKind, Status};
        use crate::write_model::NewMessage;
        use sc_protocol::rest::ConversationKind;
        use sc_protocol::{DeviceId, TempId};

        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("store.db"), &KeySlots::new_key(&mut rand::rngs::OsRng)).unwrap();
        let (a, b) = (ConversationId::generate(), ConversationId::generate());
        let (lan, minh) = (UserId::generate(), UserId::generate());
        let w = store.write().unwrap();
        for id in [a, b] {
            w.insert_conversation(&Conversation::new(id, ConversationKind::Group, ConversationState::Active, 0)).unwrap();
        }
        let mut rows = Vec::new();
        for (seq, conversation, sender, body) in
            [(10, a, lan, "cà phê sáng"), (20, a, minh, "cà phê chiều"), (30, a, lan, "ca phe khong dau"), (40, b, lan, "cà phê tối")]
        {
            let new = NewMessage {
                conversation,
                seq: Some(seq),
                temp_id: TempId::generate(),
                sender,
                sender_device: DeviceId::generate(),
                kind: RowKind::Text,
                body,
                reply_to: None,
                sent_at: i64::try_from(seq).unwrap() * 1_000,
                status: Status::Received,
                cause: "",
                raw: None,
            };
            rows.push(w.insert_message(&new).unwrap().unwrap());
        }
        let r = w.read();
        let find = |query: &str, f: SearchFilter| -> Vec<i64> { r.search(query, &f, 10).unwrap().iter().map(|m| m.id).collect() };
        let all = SearchFilter::default();
        assert_eq!(find("ca phe", all.clone()), [rows[3], rows[2], rows[1], rows[0]]);
        assert_eq!(find("cà phê", all.clone()), [rows[3], rows[1], rows[0]], "what is typed with diacritics is found with them");
        assert_eq!(find("ca phe", SearchFilter { conversation: Some(a), ..all.clone() }), [rows[2], rows[1], rows[0]]);
        assert_eq!(find("ca phe", SearchFilter { sender: Some(lan), since: Some(20_000), ..all.clone() }), [rows[3], rows[2]]);
        assert_eq!(find("ca phe", SearchFilter { since: Some(20_000), until: Some(40_000), ..all.clone() }), [rows[2], rows[1]]);
        let facets = r.facets("ca phe", &all).unwrap();
        assert_eq!((facets.conversations, facets.senders), (vec![(a, 3), (b, 1)], vec![(lan, 3), (minh, 1)]));
        assert_eq!(r.facets("cà phê", &all).unwrap().conversations, {
            let mut expected = vec![(a, 2), (b, 1)];
            expected.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
            expected
        });
        for (time, row) in [(0, 0), (10_000, 0), (10_001, 1), (20_000, 1), (29_000, 2), (99_000, 2)] {
            assert_eq!(r.row_at(a, time).unwrap(), Some(rows[row]), "at {time}");
        }
        assert_eq!(r.row_at(ConversationId::generate(), 0).unwrap(), None);
    }

    #[test]
    fn a_query_is_words_whatever_is_typed() {
        assert_eq!(expression("Xin  chào!"), Some("\"xin\"* \"chao\"*".to_owned()));
        assert_eq!(expression("\" OR * NEAR("), Some("\"or\"* \"near\"*".to_owned()));
        assert_eq!(expression("…"), None);
    }
}
