//! Everything that only reads.

use crate::model::{Contact, Conversation, ConversationState, IdentityChange, Job, ListEntry, MessageRow, RowKind, Status, System};
use crate::{StoreError, StoreResult};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use sc_protocol::rest::ConversationKind;
use sc_protocol::{ConversationId, DeviceId, TempId, UnixMillis, UserId};
use uuid::Uuid;

/// A connection that reads.
#[derive(Clone, Copy)]
pub struct Read<'a> {
    pub(crate) conn: &'a Connection,
}

pub(crate) const MESSAGE: &str =
    "SELECT id, conversation_id, pos, seq, temp_id, sender, sender_device, kind, body, reply_to, sent_at, status, cause FROM messages ";
const CONVERSATION: &str = "SELECT conversation_id, kind, title, peer, generation, suite, state, last_seq, read_seq, last_activity, next_n, draft, roster, needs_rejoin FROM conversations ";
const CONTACT: &str = "SELECT user_id, username, identity_key, device_list, list_version, verified, changed FROM contacts ";
const JOB: &str = "SELECT id, conversation_id, kind, temp_id, body, ciphertext, generation, epoch, attempts, not_before FROM outbox ";

pub(crate) fn int(v: u64) -> i64 {
    i64::try_from(v).unwrap_or(i64::MAX)
}

fn uint(v: i64) -> u64 {
    u64::try_from(v).unwrap_or(0)
}

fn uuid(row: &Row<'_>, i: usize) -> rusqlite::Result<Uuid> {
    row.get::<_, [u8; 16]>(i).map(Uuid::from_bytes)
}

fn opt_uuid(row: &Row<'_>, i: usize) -> rusqlite::Result<Option<Uuid>> {
    Ok(row.get::<_, Option<[u8; 16]>>(i)?.map(Uuid::from_bytes))
}

pub(crate) fn message(row: &Row<'_>) -> rusqlite::Result<MessageRow> {
    Ok(MessageRow {
        id: row.get(0)?,
        conversation: ConversationId(uuid(row, 1)?),
        pos: row.get(2)?,
        seq: row.get::<_, Option<i64>>(3)?.map(uint),
        temp_id: TempId(uuid(row, 4)?),
        sender: UserId(uuid(row, 5)?),
        sender_device: DeviceId(uuid(row, 6)?),
        kind: RowKind::from_int(row.get(7)?),
        body: row.get(8)?,
        reply_to: opt_uuid(row, 9)?.map(TempId),
        sent_at: row.get(10)?,
        status: Status::from_int(row.get(11)?),
        cause: row.get(12)?,
    })
}

fn conversation(row: &Row<'_>) -> rusqlite::Result<Conversation> {
    let roster: Vec<u8> = row.get(12)?;
    Ok(Conversation {
        id: ConversationId(uuid(row, 0)?),
        kind: if row.get::<_, i64>(1)? == 0 { ConversationKind::Direct } else { ConversationKind::Group },
        title: row.get(2)?,
        peer: opt_uuid(row, 3)?.map(UserId),
        generation: row.get(4)?,
        suite: row.get(5)?,
        state: ConversationState::from_int(row.get(6)?),
        last_seq: uint(row.get(7)?),
        read_seq: uint(row.get(8)?),
        last_activity: row.get(9)?,
        next_n: uint(row.get(10)?),
        draft: row.get(11)?,
        // Written by this crate; a damaged roster is fetched again from the server.
        roster: serde_json::from_slice(&roster).unwrap_or_default(),
        needs_rejoin: row.get(13)?,
    })
}

fn contact(row: &Row<'_>) -> rusqlite::Result<Contact> {
    Ok(Contact {
        user_id: UserId(uuid(row, 0)?),
        username: row.get(1)?,
        identity_key: row.get(2)?,
        device_list: row.get(3)?,
        list_version: uint(row.get(4)?),
        verified: row.get(5)?,
        changed: IdentityChange::from_int(row.get(6)?),
    })
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get(0)?,
        conversation: ConversationId(uuid(row, 1)?),
        kind: row.get(2)?,
        temp_id: TempId(uuid(row, 3)?),
        body: row.get(4)?,
        ciphertext: row.get(5)?,
        generation: row.get(6)?,
        epoch: uint(row.get(7)?),
        attempts: row.get(8)?,
        not_before: row.get(9)?,
    })
}

impl<'a> Read<'a> {
    pub(crate) fn all<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        f: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
    ) -> StoreResult<Vec<T>> {
        let mut st = self.conn.prepare_cached(sql)?;
        let rows = st.query_map(params, f)?.collect::<Result<Vec<_>, _>>()?;
        Ok(rows)
    }

    pub(crate) fn one<T>(
        &self,
        sql: &str,
        params: impl rusqlite::Params,
        f: impl FnOnce(&Row<'_>) -> rusqlite::Result<T>,
    ) -> StoreResult<Option<T>> {
        Ok(self.conn.prepare_cached(sql)?.query_row(params, f).optional()?)
    }

    /// A value of this device: account, keys, tokens.
    pub fn meta(&self, key: &str) -> StoreResult<Option<Vec<u8>>> {
        self.one("SELECT value FROM meta WHERE key = ?1", [key], |r| r.get(0))
    }

    /// A contact by id.
    pub fn contact(&self, user: UserId) -> StoreResult<Option<Contact>> {
        self.one(&format!("{CONTACT} WHERE user_id = ?1"), [user.as_bytes()], contact)
    }

    /// A contact by name.
    pub fn contact_by_name(&self, name: &str) -> StoreResult<Option<Contact>> {
        self.one(&format!("{CONTACT} WHERE username = ?1"), [name], contact)
    }

    /// All contacts by name.
    pub fn contacts(&self) -> StoreResult<Vec<Contact>> {
        self.all(&format!("{CONTACT} ORDER BY username"), [], contact)
    }

    /// A conversation.
    pub fn conversation(&self, id: ConversationId) -> StoreResult<Option<Conversation>> {
        self.one(&format!("{CONVERSATION} WHERE conversation_id = ?1"), [id.as_bytes()], conversation)
    }

    /// The direct conversation with somebody.
    pub fn direct_with(&self, peer: UserId) -> StoreResult<Option<Conversation>> {
        self.one(&format!("{CONVERSATION} WHERE peer = ?1 ORDER BY state LIMIT 1"), [peer.as_bytes()], conversation)
    }

    /// All conversations, newest activity first.
    pub fn conversations(&self) -> StoreResult<Vec<Conversation>> {
        self.all(&format!("{CONVERSATION} ORDER BY last_activity DESC, conversation_id"), [], conversation)
    }

    /// The list, newest activity first.
    pub fn list(&self, limit: u32) -> StoreResult<Vec<ListEntry>> {
        let conversations =
            self.all(&format!("{CONVERSATION} ORDER BY last_activity DESC, conversation_id LIMIT ?1"), [limit], conversation)?;
        conversations.into_iter().map(|c| self.entry(c)).collect()
    }

    /// A conversation as the list shows it.
    pub fn list_entry(&self, id: ConversationId) -> StoreResult<Option<ListEntry>> {
        self.conversation(id)?.map(|c| self.entry(c)).transpose()
    }

    fn entry(&self, conversation: Conversation) -> StoreResult<ListEntry> {
        let id = conversation.id;
        let unread = self.one("SELECT n FROM unread WHERE conversation_id = ?1", [id.as_bytes()], |r| r.get(0).map(uint))?.unwrap_or(0);
        let last = self.one(&format!("{MESSAGE} WHERE conversation_id = ?1 ORDER BY pos DESC LIMIT 1"), [id.as_bytes()], message)?;
        let failed = self.one(
            "SELECT COUNT(*) FROM messages WHERE conversation_id = ?1 AND pos > ?2 AND status = 2",
            params![id.as_bytes(), 1i64 << 61],
            |r| r.get::<_, i64>(0),
        )?;
        Ok(ListEntry { conversation, unread, last, failed: uint(failed.unwrap_or(0)) })
    }

    /// Rows before a position, ascending.
    pub fn rows_before(&self, id: ConversationId, pos: i64, limit: u32) -> StoreResult<Vec<MessageRow>> {
        let mut rows = self.all(
            &format!("{MESSAGE} WHERE conversation_id = ?1 AND pos < ?2 ORDER BY pos DESC LIMIT ?3"),
            params![id.as_bytes(), pos, limit],
            message,
        )?;
        rows.reverse();
        Ok(rows)
    }

    /// Rows from a position on, ascending.
    pub fn rows_from(&self, id: ConversationId, pos: i64, limit: u32) -> StoreResult<Vec<MessageRow>> {
        self.all(
            &format!("{MESSAGE} WHERE conversation_id = ?1 AND pos >= ?2 ORDER BY pos LIMIT ?3"),
            params![id.as_bytes(), pos, limit],
            message,
        )
    }

    /// Rows of all conversations in the order they were stored, after a local id.
    pub fn rows_after_id(&self, id: i64, limit: u32) -> StoreResult<Vec<MessageRow>> {
        self.all(&format!("{MESSAGE} WHERE id > ?1 ORDER BY id LIMIT ?2"), params![id, limit], message)
    }

    /// A message by its sender's id.
    pub fn message(&self, id: ConversationId, temp_id: TempId) -> StoreResult<Option<MessageRow>> {
        self.one(&format!("{MESSAGE} WHERE conversation_id = ?1 AND temp_id = ?2"), params![id.as_bytes(), temp_id.as_bytes()], message)
    }

    /// A row by its local id.
    pub fn row(&self, id: i64) -> StoreResult<Option<MessageRow>> {
        self.one(&format!("{MESSAGE} WHERE id = ?1"), [id], message)
    }

    /// The message at a place in the log, and its encoded form.
    pub fn message_at(&self, id: ConversationId, seq: u64) -> StoreResult<Option<(MessageRow, Option<Vec<u8>>)>> {
        let sql = MESSAGE.replace(", cause FROM", ", cause, raw FROM");
        self.one(&format!("{sql} WHERE conversation_id = ?1 AND pos = ?2"), params![id.as_bytes(), int(seq) << 20], |r| {
            Ok((message(r)?, r.get(13)?))
        })
    }

    /// The encoded form of a message.
    pub fn raw(&self, row: i64) -> StoreResult<Option<Vec<u8>>> {
        Ok(self.one("SELECT raw FROM messages WHERE id = ?1", [row], |r| r.get::<_, Option<Vec<u8>>>(0))?.flatten())
    }

    /// System lines from a place in the log on, with their times; those of a newer version are left out.
    pub fn system_lines(&self, id: ConversationId, from: u64) -> StoreResult<Vec<(UnixMillis, System)>> {
        let rows = self.all(
            "SELECT sent_at, body FROM messages WHERE conversation_id = ?1 AND pos >= ?2 AND kind = 1 ORDER BY pos LIMIT 1000",
            params![id.as_bytes(), int(from) << 20],
            |r| Ok((r.get(0)?, r.get::<_, String>(1)?)),
        )?;
        Ok(rows.into_iter().filter_map(|(at, body)| Some((at, serde_json::from_str(&body).ok()?))).collect())
    }

    /// Rows that could not be read, oldest first.
    pub fn undecryptable(&self, id: ConversationId) -> StoreResult<Vec<MessageRow>> {
        self.all(&format!("{MESSAGE} WHERE conversation_id = ?1 AND kind = 2 ORDER BY seq LIMIT 1000"), [id.as_bytes()], message)
    }

    /// Places whose message is due to be asked for again.
    pub fn resends_due(&self, id: ConversationId, now: i64, limit: u32) -> StoreResult<Vec<u64>> {
        self.all(
            "SELECT seq FROM resends WHERE conversation_id = ?1 AND next_at <= ?2 AND attempts < 3 ORDER BY seq LIMIT ?3",
            params![id.as_bytes(), now, limit],
            |r| r.get::<_, i64>(0).map(uint),
        )
    }

    /// True when that place holds a message of this device with nothing to show.
    pub fn is_silent(&self, id: ConversationId, seq: u64) -> StoreResult<bool> {
        Ok(self
            .one("SELECT 1 FROM silent WHERE conversation_id = ?1 AND seq = ?2", params![id.as_bytes(), int(seq)], |_| Ok(()))?
            .is_some())
    }

    /// True when somebody was added after that place in the log.
    pub fn added_after(&self, id: ConversationId, user: UserId, seq: u64) -> StoreResult<bool> {
        let line = format!("{{\"event\":\"added\",\"who\":\"{user}\"%");
        let sql = "SELECT 1 FROM messages WHERE conversation_id = ?1 AND pos > ?2 AND kind = 1 AND body LIKE ?3 LIMIT 1";
        Ok(self.one(sql, params![id.as_bytes(), int(seq) << 20, line], |_| Ok(()))?.is_some())
    }

    /// People who belong to a conversation.
    pub fn trusted(&self, id: ConversationId) -> StoreResult<Vec<UserId>> {
        self.all("SELECT user_id FROM trusted WHERE conversation_id = ?1", [id.as_bytes()], |r| uuid(r, 0).map(UserId))
    }

    /// True when no job of the conversation comes before this one.
    pub fn is_first_job(&self, job: i64) -> StoreResult<bool> {
        let sql = "SELECT NOT EXISTS (SELECT 1 FROM outbox o JOIN outbox j ON j.conversation_id = o.conversation_id WHERE j.id = ?1 AND o.id < j.id)";
        Ok(self.one(sql, [job], |r| r.get(0))?.unwrap_or(false))
    }

    /// Newest count of a device's messages.
    pub fn counter(&self, id: ConversationId, device: DeviceId) -> StoreResult<Option<u64>> {
        self.one("SELECT n FROM counters WHERE conversation_id = ?1 AND device_id = ?2", params![id.as_bytes(), device.as_bytes()], |r| {
            r.get::<_, i64>(0).map(uint)
        })
    }

    /// The first job of every conversation, in order of work.
    pub fn first_jobs(&self, now: i64) -> StoreResult<Vec<Job>> {
        // Nothing is put off for more than an hour: what lies further ahead was written by a clock that has been set back.
        let sql = format!(
            "{JOB} WHERE id IN (SELECT MIN(id) FROM outbox GROUP BY conversation_id) AND NOT (not_before BETWEEN ?1 + 1 AND ?1 + 3600000) \
             ORDER BY id LIMIT 100"
        );
        self.all(&sql, [now], job)
    }

    /// A job by its id.
    pub fn job(&self, id: i64) -> StoreResult<Option<Job>> {
        self.one(&format!("{JOB} WHERE id = ?1"), [id], job)
    }

    /// A job by its idempotency key.
    pub fn job_by_temp_id(&self, temp_id: TempId) -> StoreResult<Option<Job>> {
        self.one(&format!("{JOB} WHERE temp_id = ?1"), [temp_id.as_bytes()], job)
    }

    /// True when the conversation has a job of that kind.
    pub fn has_job(&self, id: ConversationId, kind: &str) -> StoreResult<bool> {
        Ok(self
            .one("SELECT 1 FROM outbox WHERE conversation_id = ?1 AND kind = ?2 LIMIT 1", params![id.as_bytes(), kind], |_| Ok(()))?
            .is_some())
    }

    /// True when the conversation has a job of that kind with that body.
    pub fn has_job_with(&self, id: ConversationId, kind: &str, body: &[u8]) -> StoreResult<bool> {
        let sql = "SELECT 1 FROM outbox WHERE conversation_id = ?1 AND kind = ?2 AND body = ?3 LIMIT 1";
        Ok(self.one(sql, params![id.as_bytes(), kind, body], |_| Ok(()))?.is_some())
    }

    /// Jobs in the outbox.
    pub fn outbox_len(&self) -> StoreResult<u64> {
        Ok(self.one("SELECT COUNT(*) FROM outbox", [], |r| r.get::<_, i64>(0).map(uint))?.unwrap_or(0))
    }

    /// The time of the next job that waits, if any.
    pub fn next_job_at(&self) -> StoreResult<Option<i64>> {
        Ok(self
            .one("SELECT MIN(not_before) FROM outbox WHERE id IN (SELECT MIN(id) FROM outbox GROUP BY conversation_id)", [], |r| {
                r.get::<_, Option<i64>>(0)
            })?
            .flatten())
    }

    /// A row of the MLS state.
    pub fn mls_get(&self, scope: &[u8], label: &str, key: &[u8]) -> StoreResult<Option<Vec<u8>>> {
        self.one("SELECT value FROM mls WHERE scope = ?1 AND label = ?2 AND key = ?3", params![scope, label, key], |r| r.get(0))
    }

    /// Messages stored.
    pub fn message_count(&self) -> StoreResult<u64> {
        Ok(self.one("SELECT COUNT(*) FROM messages", [], |r| r.get::<_, i64>(0).map(uint))?.unwrap_or(0))
    }

    pub(crate) fn damaged(what: &'static str) -> StoreError {
        StoreError::Damaged(what)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use crate::Store;
    use crate::keys::KeySlots;
    use sc_protocol::{ConversationId, TempId};

    #[test]
    fn unread_messages_are_counted_with_every_change() {
        use crate::model::{Conversation, ConversationState, RowKind, Status, System};
        use crate::write_model::NewMessage;
        use rand::{Rng as _, SeedableRng as _};
        use sc_protocol::rest::ConversationKind;
        use sc_protocol::{DeviceId, UserId};

        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("store.db"), &KeySlots::new_key(&mut rand::rngs::OsRng)).unwrap();
        let mut rng = rand_chacha::ChaCha20Rng::seed_from_u64(7);
        let ids = [ConversationId::generate(), ConversationId::generate()];
        let w = store.write().unwrap();
        for id in ids {
            w.insert_conversation(&Conversation::new(id, ConversationKind::Group, ConversationState::Active, 0)).unwrap();
        }
        let (mut seq, mut rows, mut most) = (0, Vec::new(), 0);
        for _ in 0..2_000 {
            let id = ids[usize::from(rng.gen_bool(0.3))];
            match rng.gen_range(0..10) {
                0 => w.set_read_seq(id, rng.gen_range(0..=seq)).unwrap(),
                1 => {
                    w.insert_system(id, seq, 0, &System::Gap { who: UserId::generate(), count: 1 }).unwrap();
                }
                2 if !rows.is_empty() => w.delete_row(rows.swap_remove(rng.gen_range(0..rows.len()))).unwrap(),
                3 => w.move_unsent(ids[0], ids[1]).unwrap(),
                n => {
                    seq += 1;
                    let status = [Status::Received, Status::Sent, Status::Pending][n % 3];
                    let kind = if n == 9 { RowKind::Undecryptable } else { RowKind::Text };
                    let at = (status != Status::Pending).then_some(seq);
                    let (temp_id, sender, sender_device) = (TempId::generate(), UserId::generate(), DeviceId::generate());
                    let base = NewMessage {
                        conversation: id,
                        seq: at,
                        temp_id,
                        sender,
                        sender_device,
                        kind,
                        body: "x",
                        reply_to: None,
                        sent_at: 0,
                        status,
                        cause: "",
                        raw: None,
                    };
                    rows.extend(w.insert_message(&base).unwrap());
                }
            }
            for entry in w.read().list(10).unwrap() {
                let c = &entry.conversation;
                let from = (i64::try_from(c.read_seq).unwrap() << 20) | 0xF_FFFF;
                let all = w.read().rows_from(c.id, from + 1, 10_000).unwrap();
                let unread = all.iter().filter(|m| m.kind != RowKind::System && m.status == Status::Received).count();
                assert_eq!(entry.unread, unread as u64);
                most = most.max(unread);
            }
        }
        assert!(most > 20, "it was worth counting: {most}");
    }

    #[test]
    fn a_job_waits_for_its_time_and_not_for_a_day_that_a_wrong_clock_has_seen() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::open(&dir.path().join("store.db"), &KeySlots::new_key(&mut rand::rngs::OsRng)).unwrap();
        let (now, minute, day) = (1_800_000_000_000, 60_000, 86_400_000);
        let w = store.write().unwrap();
        let job = w.push_job(ConversationId::generate(), "message", TempId::generate(), b"x").unwrap();
        for (not_before, due) in [(0, true), (now - minute, true), (now, true), (now + minute, false), (now + day, true)] {
            w.delay_job(job, not_before).unwrap();
            assert_eq!(w.read().first_jobs(now).unwrap().len(), usize::from(due), "{}", not_before - now);
        }
    }
}
