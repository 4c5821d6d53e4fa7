//! Search on the device (MSG-13): words and prefixes, Vietnamese with and without diacritics.
//!
//! The index holds folded words (no diacritics, đ as d, lower case). A query is folded too; where it was typed with
//! diacritics, the hits must have them. Newest first: common words are never ranked while somebody types.

use crate::StoreResult;
use crate::model::MessageRow;
use crate::read::{MESSAGE, Read, message};
use rusqlite::params;
use sc_protocol::ConversationId;
use unicode_normalization::UnicodeNormalization as _;
use unicode_normalization::char::is_combining_mark;

/// Hits looked at when diacritics have to be compared.
const CANDIDATES: u32 = 500;

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

impl Read<'_> {
    /// Messages with all words of `query` (each a word or its beginning), newest first.
    pub fn search(&self, query: &str, conversation: Option<ConversationId>, limit: u32) -> StoreResult<Vec<MessageRow>> {
        let Some(expression) = expression(query) else { return Ok(Vec::new()) };
        let wanted: Vec<String> = words(&exact(query)).filter(|w| fold(w) != **w).map(str::to_owned).collect();
        let fetch = if wanted.is_empty() && conversation.is_none() { limit } else { CANDIDATES.max(limit) };
        let columns = MESSAGE
            .replace("SELECT id", "SELECT m.id")
            .replace("body,", "m.body,")
            .replace("FROM messages", "FROM message_words w JOIN messages m ON m.id = w.rowid");
        let mut hits = match conversation {
            None => self.all(
                &format!("{columns} WHERE message_words MATCH ?1 ORDER BY w.rowid DESC LIMIT ?2"),
                params![expression, fetch],
                message,
            )?,
            Some(c) => self.all(
                &format!("{columns} WHERE message_words MATCH ?1 AND m.conversation_id = ?3 ORDER BY w.rowid DESC LIMIT ?2"),
                params![expression, fetch, c.as_bytes()],
                message,
            )?,
        };
        hits.retain(|m| {
            let body = exact(&m.body);
            wanted.iter().all(|w| words(&body).any(|b| b.starts_with(w.as_str())))
        });
        hits.truncate(limit as usize);
        Ok(hits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_takes_every_vietnamese_diacritic_off() {
        assert_eq!(fold("Đường về nhà Ưng Ặ ỷ"), "duong ve nha ung a y");
        assert_eq!(fold("e\u{0301}"), "e");
    }

    #[test]
    fn a_query_is_words_whatever_is_typed() {
        assert_eq!(expression("Xin  chào!"), Some("\"xin\"* \"chao\"*".to_owned()));
        assert_eq!(expression("\" OR * NEAR("), Some("\"or\"* \"near\"*".to_owned()));
        assert_eq!(expression("…"), None);
    }
}
