//! The writing transaction.

use crate::model::{CallLine, Contact, Conversation, ConversationState, IdentityChange, Job, RowKind, Status, System};
use crate::read::{Read, int};
use crate::search::fold;
use crate::{StoreError, StoreResult};
use rusqlite::{Transaction, params};
use sc_protocol::rest::{ConversationKind, MemberInfo};
use sc_protocol::{ConversationId, DeviceId, TempId, UnixMillis, UserId};

/// Unsent rows come after everything that has a place in the log.
pub const UNSENT: i64 = 1 << 62;

/// A message to be stored.
#[derive(Debug, Clone)]
pub struct NewMessage<'a> {
    /// The conversation.
    pub conversation: ConversationId,
    /// Place in the log; `None` while it is unsent.
    pub seq: Option<u64>,
    /// The sender's id.
    pub temp_id: TempId,
    /// Who.
    pub sender: UserId,
    /// With which device.
    pub sender_device: DeviceId,
    /// What it is.
    pub kind: RowKind,
    /// Text.
    pub body: &'a str,
    /// The message it answers.
    pub reply_to: Option<TempId>,
    /// When.
    pub sent_at: UnixMillis,
    /// How far it got.
    pub status: Status,
    /// Why it cannot be read.
    pub cause: &'a str,
    /// Encoded, to be sent again on request.
    pub raw: Option<&'a [u8]>,
}

/// An open writing transaction. Dropping it undoes everything.
pub struct Write<'a> {
    pub(crate) tx: Transaction<'a>,
}

impl Write<'_> {
    /// Makes it durable.
    pub fn commit(self) -> StoreResult<()> {
        Ok(self.tx.commit()?)
    }

    /// Reads inside the transaction.
    #[must_use]
    pub fn read(&self) -> Read<'_> {
        Read { conn: &self.tx }
    }

    fn run(&self, sql: &str, params: impl rusqlite::Params) -> StoreResult<usize> {
        Ok(self.tx.prepare_cached(sql)?.execute(params)?)
    }

    /// Begins a nested transaction; see [`Write::release`] and [`Write::undo`].
    pub fn savepoint(&self) -> StoreResult<()> {
        self.run("SAVEPOINT step", []).map(|_| ())
    }

    /// Keeps what happened since the savepoint.
    pub fn release(&self) -> StoreResult<()> {
        self.run("RELEASE step", []).map(|_| ())
    }

    /// Undoes what happened since the savepoint.
    pub fn undo(&self) -> StoreResult<()> {
        self.run("ROLLBACK TO step", [])?;
        self.release()
    }

    /// Begins the nested transaction of one entry of a batch; inner savepoints that were left open go with it.
    pub fn begin_entry(&self) -> StoreResult<()> {
        self.run("SAVEPOINT entry", []).map(|_| ())
    }

    /// Keeps the entry.
    pub fn end_entry(&self) -> StoreResult<()> {
        self.run("RELEASE entry", []).map(|_| ())
    }

    /// Undoes the entry.
    pub fn undo_entry(&self) -> StoreResult<()> {
        self.run("ROLLBACK TO entry", [])?;
        self.end_entry()
    }

    /// Somebody belongs to the conversation.
    pub fn trust(&self, id: ConversationId, user: UserId) -> StoreResult<()> {
        self.run(
            "INSERT INTO trusted (conversation_id, user_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![id.as_bytes(), user.as_bytes()],
        )
        .map(|_| ())
    }

    /// Somebody does not belong to the conversation any more.
    pub fn distrust(&self, id: ConversationId, user: UserId) -> StoreResult<()> {
        self.run("DELETE FROM trusted WHERE conversation_id = ?1 AND user_id = ?2", params![id.as_bytes(), user.as_bytes()]).map(|_| ())
    }

    /// A new stay begins: what was counted in the last one says nothing about it.
    pub fn forget_stay(&self, id: ConversationId) -> StoreResult<()> {
        self.run("DELETE FROM counters WHERE conversation_id = ?1", [id.as_bytes()])?;
        self.run("DELETE FROM trusted WHERE conversation_id = ?1", [id.as_bytes()]).map(|_| ())
    }

    /// Sets a value of this device.
    pub fn set_meta(&self, key: &str, value: &[u8]) -> StoreResult<()> {
        self.run(
            "INSERT INTO meta (key, value) VALUES (?1, ?2) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            params![key, value],
        )
        .map(|_| ())
    }

    /// Deletes a value of this device.
    pub fn delete_meta(&self, key: &str) -> StoreResult<()> {
        self.run("DELETE FROM meta WHERE key = ?1", [key]).map(|_| ())
    }

    /// Stores a contact as it is given.
    pub fn put_contact(&self, c: &Contact) -> StoreResult<()> {
        self.run(
            "INSERT INTO contacts (user_id, username, identity_key, device_list, list_version, verified, changed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) \
             ON CONFLICT (user_id) DO UPDATE SET username = excluded.username, identity_key = excluded.identity_key, device_list = excluded.device_list, \
             list_version = excluded.list_version, verified = excluded.verified, changed = excluded.changed",
            params![c.user_id.as_bytes(), c.username, c.identity_key, c.device_list, int(c.list_version), c.verified, c.changed.to_int()],
        )
        .map(|_| ())
    }

    /// Marks a contact as verified, or not.
    pub fn set_verified(&self, user: UserId, verified: bool) -> StoreResult<()> {
        self.run("UPDATE contacts SET verified = ?1, changed = 0 WHERE user_id = ?2", params![verified, user.as_bytes()]).map(|_| ())
    }

    /// A change of identity was accepted.
    pub fn set_changed(&self, user: UserId, changed: IdentityChange) -> StoreResult<()> {
        self.run("UPDATE contacts SET changed = ?1 WHERE user_id = ?2", params![changed.to_int(), user.as_bytes()]).map(|_| ())
    }

    /// Stores a new conversation.
    pub fn insert_conversation(&self, c: &Conversation) -> StoreResult<()> {
        let roster = serde_json::to_vec(&c.roster).map_err(|_| Read::damaged("roster"))?;
        self.run(
            "INSERT INTO conversations (conversation_id, kind, title, peer, generation, suite, state, last_seq, read_seq, last_activity, next_n, draft, roster, needs_rejoin) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)",
            params![
                c.id.as_bytes(),
                i64::from(c.kind == ConversationKind::Group),
                c.title,
                c.peer.map(|p| *p.as_bytes()),
                c.generation,
                c.suite,
                c.state.to_int(),
                int(c.last_seq),
                int(c.read_seq),
                c.last_activity,
                int(c.next_n),
                c.draft,
                roster,
                c.needs_rejoin
            ],
        )
        .map(|_| ())
    }

    /// Deletes a conversation that never came to be, with its rows and jobs.
    pub fn delete_conversation(&self, id: ConversationId) -> StoreResult<()> {
        self.run(
            "DELETE FROM message_words WHERE rowid IN (SELECT id FROM messages WHERE conversation_id = ?1 AND kind = 0)",
            [id.as_bytes()],
        )?;
        for table in ["messages", "outbox", "counters", "resends", "trusted", "silent", "unread", "conversations"] {
            self.run(&format!("DELETE FROM {table} WHERE conversation_id = ?1"), [id.as_bytes()])?;
        }
        Ok(())
    }

    /// Moves unsent rows and jobs of one conversation to another one (two people created a direct conversation at once).
    pub fn move_unsent(&self, from: ConversationId, to: ConversationId) -> StoreResult<()> {
        self.run(
            "UPDATE messages SET conversation_id = ?2, pos = ?3 + id WHERE conversation_id = ?1 AND pos >= ?3",
            params![from.as_bytes(), to.as_bytes(), UNSENT],
        )?;
        self.run(
            "UPDATE outbox SET conversation_id = ?2, ciphertext = NULL WHERE conversation_id = ?1 AND kind = 'message'",
            params![from.as_bytes(), to.as_bytes()],
        )?;
        Ok(())
    }

    /// Changes what a conversation is doing.
    pub fn set_state(&self, id: ConversationId, state: ConversationState) -> StoreResult<()> {
        self.run("UPDATE conversations SET state = ?1 WHERE conversation_id = ?2", params![state.to_int(), id.as_bytes()]).map(|_| ())
    }

    /// Sets generation and suite of the MLS group.
    pub fn set_group(&self, id: ConversationId, generation: u32, suite: u16) -> StoreResult<()> {
        self.run(
            "UPDATE conversations SET generation = ?1, suite = ?2 WHERE conversation_id = ?3",
            params![generation, suite, id.as_bytes()],
        )
        .map(|_| ())
    }

    /// Keys must be renewed before anything is sent, or were.
    pub fn set_needs_rejoin(&self, id: ConversationId, needs: bool) -> StoreResult<()> {
        self.run("UPDATE conversations SET needs_rejoin = ?1 WHERE conversation_id = ?2", params![needs, id.as_bytes()]).map(|_| ())
    }

    /// Sets what kind of conversation it is, once the server has said.
    pub fn set_kind(&self, id: ConversationId, kind: ConversationKind, peer: Option<UserId>) -> StoreResult<()> {
        let kind = i64::from(kind == ConversationKind::Group);
        self.run(
            "UPDATE conversations SET kind = ?1, peer = ?2 WHERE conversation_id = ?3",
            params![kind, peer.map(|p| *p.as_bytes()), id.as_bytes()],
        )
        .map(|_| ())
    }

    /// Sets the title.
    pub fn set_title(&self, id: ConversationId, title: &str) -> StoreResult<()> {
        self.run("UPDATE conversations SET title = ?1 WHERE conversation_id = ?2", params![title, id.as_bytes()]).map(|_| ())
    }

    /// Keeps what is being written.
    pub fn set_draft(&self, id: ConversationId, draft: &str) -> StoreResult<()> {
        self.run("UPDATE conversations SET draft = ?1 WHERE conversation_id = ?2", params![draft, id.as_bytes()]).map(|_| ())
    }

    /// Sets members, roles, read positions.
    pub fn set_roster(&self, id: ConversationId, roster: &[MemberInfo]) -> StoreResult<()> {
        let roster = serde_json::to_vec(roster).map_err(|_| Read::damaged("roster"))?;
        self.run("UPDATE conversations SET roster = ?1 WHERE conversation_id = ?2", params![roster, id.as_bytes()]).map(|_| ())
    }

    /// Advances the cursor; it never moves back.
    pub fn set_last_seq(&self, id: ConversationId, seq: u64, at: UnixMillis) -> StoreResult<()> {
        self.run(
            "UPDATE conversations SET last_seq = MAX(last_seq, ?1), last_activity = MAX(last_activity, ?2) WHERE conversation_id = ?3",
            params![int(seq), at, id.as_bytes()],
        )
        .map(|_| ())
    }

    /// Advances the read position; it never moves back.
    pub fn set_read_seq(&self, id: ConversationId, seq: u64) -> StoreResult<()> {
        self.run("UPDATE conversations SET read_seq = MAX(read_seq, ?1) WHERE conversation_id = ?2", params![int(seq), id.as_bytes()])
            .map(|_| ())
    }

    /// Something happened here now.
    pub fn touch(&self, id: ConversationId, at: UnixMillis) -> StoreResult<()> {
        self.run("UPDATE conversations SET last_activity = MAX(last_activity, ?1) WHERE conversation_id = ?2", params![at, id.as_bytes()])
            .map(|_| ())
    }

    /// Takes the next count for a message of this device.
    pub fn take_n(&self, id: ConversationId) -> StoreResult<u64> {
        let n: i64 = self
            .tx
            .prepare_cached("UPDATE conversations SET next_n = next_n + 1 WHERE conversation_id = ?1 RETURNING next_n - 1")?
            .query_row([id.as_bytes()], |r| r.get(0))?;
        Ok(u64::try_from(n).unwrap_or(0))
    }

    /// Raises the count, when the log shows that this device had sent more (its store was restored).
    pub fn raise_n(&self, id: ConversationId, n: u64) -> StoreResult<()> {
        self.run("UPDATE conversations SET next_n = MAX(next_n, ?1) WHERE conversation_id = ?2", params![int(n), id.as_bytes()]).map(|_| ())
    }

    /// Stores the newest count of a device.
    pub fn set_counter(&self, id: ConversationId, device: DeviceId, n: u64) -> StoreResult<()> {
        self.run(
            "INSERT INTO counters (conversation_id, device_id, n) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET n = MAX(n, excluded.n)",
            params![id.as_bytes(), device.as_bytes(), int(n)],
        )
        .map(|_| ())
    }

    /// Stores a message and indexes its words. `None` when one with the same id is there already.
    pub fn insert_message(&self, m: &NewMessage<'_>) -> StoreResult<Option<i64>> {
        let pos = m.seq.map_or(UNSENT, |s| int(s) << 20);
        let n = self.run(
            "INSERT INTO messages (conversation_id, pos, seq, temp_id, sender, sender_device, kind, body, reply_to, sent_at, status, cause, raw) \
             VALUES (?1, CASE WHEN ?2 < ?14 THEN ?2 ELSE ?14 + (SELECT COALESCE(MAX(id), 0) + 1 FROM messages) END, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13) \
             ON CONFLICT (conversation_id, temp_id, sender) DO NOTHING",
            params![
                m.conversation.as_bytes(),
                pos,
                m.seq.map(int),
                m.temp_id.as_bytes(),
                m.sender.as_bytes(),
                m.sender_device.as_bytes(),
                m.kind.to_int(),
                m.body,
                m.reply_to.map(|r| *r.as_bytes()),
                m.sent_at,
                m.status.to_int(),
                m.cause,
                m.raw,
                UNSENT
            ],
        )?;
        if n == 0 {
            return Ok(None);
        }
        let id = self.tx.last_insert_rowid();
        if m.kind == RowKind::Text {
            self.run("INSERT INTO message_words (rowid, body) VALUES (?1, ?2)", params![id, fold(m.body)])?;
        }
        Ok(Some(id))
    }

    /// Stores a system line after the entry at `seq`; the entry's own position stays free for it.
    pub fn insert_system(&self, id: ConversationId, seq: u64, at: UnixMillis, line: &System) -> StoreResult<()> {
        self.insert_line(id, TempId::generate(), seq, at, line)
    }

    fn insert_line(&self, id: ConversationId, temp_id: TempId, seq: u64, at: UnixMillis, line: &System) -> StoreResult<()> {
        let body = serde_json::to_string(line).map_err(|_| Read::damaged("system line"))?;
        self.run(
            "INSERT INTO messages (conversation_id, pos, seq, temp_id, sender, sender_device, kind, body, sent_at, status) \
             VALUES (?1, (SELECT MAX(?2 + 1, COALESCE(MAX(pos) + 1, ?2 + 1)) FROM messages WHERE conversation_id = ?1 AND pos BETWEEN ?2 AND ?2 + 1048575), ?3, ?4, ?5, ?5, 1, ?6, ?7, 3)",
            params![id.as_bytes(), int(seq) << 20, int(seq), temp_id.as_bytes(), [0u8; 16], body, at],
        )
        .map(|_| ())
    }

    /// Adds the line of a call, under the call's id.
    pub fn insert_call(&self, id: ConversationId, call: TempId, seq: u64, at: UnixMillis, line: &CallLine) -> StoreResult<()> {
        self.insert_line(id, call, seq, at, &System::Call(*line))
    }

    /// Changes the line of a call.
    pub fn update_call(&self, id: ConversationId, call: TempId, line: &CallLine) -> StoreResult<()> {
        let body = serde_json::to_string(&System::Call(*line)).map_err(|_| Read::damaged("system line"))?;
        let params = params![body, id.as_bytes(), call.as_bytes()];
        self.run("UPDATE messages SET body = ?1 WHERE conversation_id = ?2 AND temp_id = ?3 AND kind = 1", params).map(|_| ())
    }

    /// A message of ours has its place: it is sent.
    pub fn mark_sent(&self, id: ConversationId, temp_id: TempId, seq: u64, at: UnixMillis) -> StoreResult<bool> {
        let n = self.run(
            "UPDATE messages SET seq = ?1, pos = ?2, status = 1, cause = '', sent_at = ?3 WHERE conversation_id = ?4 AND temp_id = ?5 AND pos >= ?6",
            params![int(seq), int(seq) << 20, at, id.as_bytes(), temp_id.as_bytes(), UNSENT],
        )?;
        Ok(n > 0)
    }

    /// A message of ours failed for good, or waits again.
    pub fn set_status(&self, id: ConversationId, temp_id: TempId, status: Status, cause: &str) -> StoreResult<()> {
        self.run(
            "UPDATE messages SET status = ?1, cause = ?2 WHERE conversation_id = ?3 AND temp_id = ?4",
            params![status.to_int(), cause, id.as_bytes(), temp_id.as_bytes()],
        )
        .map(|_| ())
    }

    /// A row that could not be read can be, now: its text takes the place of the cause.
    pub fn heal(&self, row: i64, temp_id: TempId, body: &str, reply_to: Option<TempId>, own: bool, raw: &[u8]) -> StoreResult<()> {
        let status = if own { Status::Sent } else { Status::Received };
        self.run(
            "UPDATE messages SET kind = 0, temp_id = ?1, body = ?2, reply_to = ?3, status = ?4, cause = '', raw = ?5 WHERE id = ?6",
            params![temp_id.as_bytes(), body, reply_to.map(|r| *r.as_bytes()), status.to_int(), raw, row],
        )?;
        self.run("INSERT INTO message_words (rowid, body) VALUES (?1, ?2)", params![row, fold(body)]).map(|_| ())
    }

    /// Removes a row that turned out to hold nothing to show.
    pub fn delete_row(&self, row: i64) -> StoreResult<()> {
        self.run("DELETE FROM message_words WHERE rowid = ?1", [row])?;
        self.run("DELETE FROM messages WHERE id = ?1", [row]).map(|_| ())
    }

    /// Remembers that the message at `seq` is to be asked for.
    pub fn want_resend(&self, id: ConversationId, seq: u64, at: UnixMillis) -> StoreResult<()> {
        self.run(
            "INSERT INTO resends (conversation_id, seq, attempts, next_at) VALUES (?1, ?2, 0, ?3) ON CONFLICT DO NOTHING",
            params![id.as_bytes(), int(seq), at],
        )
        .map(|_| ())
    }

    /// It was asked for.
    pub fn resend_asked(&self, id: ConversationId, seq: u64, next_at: UnixMillis) -> StoreResult<()> {
        self.run(
            "UPDATE resends SET attempts = attempts + 1, next_at = ?3 WHERE conversation_id = ?1 AND seq = ?2",
            params![id.as_bytes(), int(seq), next_at],
        )
        .map(|_| ())
    }

    /// It came, or is not needed.
    pub fn resend_done(&self, id: ConversationId, seq: u64) -> StoreResult<()> {
        self.run("DELETE FROM resends WHERE conversation_id = ?1 AND seq = ?2", params![id.as_bytes(), int(seq)]).map(|_| ())
    }

    /// Counts an answer to a device; true when it may still be given.
    pub fn may_answer(&self, id: ConversationId, seq: u64, device: DeviceId, limit: u32) -> StoreResult<bool> {
        let times: i64 = self
            .tx
            .prepare_cached("INSERT INTO resent (conversation_id, seq, device_id, times) VALUES (?1, ?2, ?3, 1) ON CONFLICT DO UPDATE SET times = times + 1 RETURNING times")?
            .query_row(params![id.as_bytes(), int(seq), device.as_bytes()], |r| r.get(0))?;
        Ok(times <= i64::from(limit))
    }

    /// A message of this device with nothing to show has its place.
    pub fn set_silent(&self, id: ConversationId, seq: u64) -> StoreResult<()> {
        self.run("INSERT INTO silent (conversation_id, seq) VALUES (?1, ?2) ON CONFLICT DO NOTHING", params![id.as_bytes(), int(seq)])
            .map(|_| ())
    }

    /// Adds a job at the end of the outbox.
    pub fn push_job(&self, conversation: ConversationId, kind: &str, temp_id: TempId, body: &[u8]) -> StoreResult<i64> {
        self.run(
            "INSERT INTO outbox (conversation_id, kind, temp_id, body) VALUES (?1, ?2, ?3, ?4)",
            params![conversation.as_bytes(), kind, temp_id.as_bytes(), body],
        )?;
        Ok(self.tx.last_insert_rowid())
    }

    /// Adds a job before all others of its conversation.
    pub fn push_job_first(&self, conversation: ConversationId, kind: &str, temp_id: TempId, body: &[u8]) -> StoreResult<i64> {
        let first: Option<i64> = self.tx.prepare_cached("SELECT MIN(id) FROM outbox")?.query_row([], |r| r.get(0))?;
        let id = first.map_or(1, |f| f - 1);
        self.run(
            "INSERT INTO outbox (id, conversation_id, kind, temp_id, body) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, conversation.as_bytes(), kind, temp_id.as_bytes(), body],
        )?;
        Ok(id)
    }

    /// Keeps the encrypted form of a job: the bytes that are sent, again and again the same.
    pub fn set_ciphertext(&self, job: &Job, ciphertext: Option<&[u8]>, generation: u32, epoch: u64) -> StoreResult<()> {
        self.run(
            "UPDATE outbox SET ciphertext = ?1, generation = ?2, epoch = ?3 WHERE id = ?4",
            params![ciphertext, generation, int(epoch), job.id],
        )
        .map(|_| ())
    }

    /// Lets a job wait.
    pub fn delay_job(&self, id: i64, not_before: UnixMillis) -> StoreResult<()> {
        self.run("UPDATE outbox SET attempts = attempts + 1, not_before = ?1 WHERE id = ?2", params![not_before, id]).map(|_| ())
    }

    /// Lets every job run now: the network is back.
    pub fn hurry(&self) -> StoreResult<()> {
        self.run("UPDATE outbox SET not_before = 0 WHERE not_before > 0", []).map(|_| ())
    }

    /// A job is done.
    pub fn delete_job(&self, id: i64) -> StoreResult<()> {
        self.run("DELETE FROM outbox WHERE id = ?1", [id]).map(|_| ())
    }

    /// Jobs of that kind with that body are not needed any more, unless they may be with the server already.
    pub fn delete_jobs_with(&self, id: ConversationId, kind: &str, body: &[u8]) -> StoreResult<()> {
        self.run(
            "DELETE FROM outbox WHERE conversation_id = ?1 AND kind = ?2 AND body = ?3 AND ciphertext IS NULL",
            params![id.as_bytes(), kind, body],
        )
        .map(|_| ())
    }

    /// What was encrypted for an older state of the group is encrypted anew.
    pub fn forget_ciphertexts(&self, id: ConversationId) -> StoreResult<()> {
        self.run("UPDATE outbox SET ciphertext = NULL WHERE conversation_id = ?1 AND kind = 'message'", [id.as_bytes()]).map(|_| ())
    }

    /// Writes a row of the MLS state.
    pub fn mls_put(&self, scope: &[u8], label: &str, key: &[u8], value: &[u8]) -> StoreResult<()> {
        self.run(
            "INSERT INTO mls (scope, label, key, value) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (scope, label, key) DO UPDATE SET value = excluded.value",
            params![scope, label, key, value],
        )
        .map(|_| ())
    }

    /// Deletes a row of the MLS state.
    pub fn mls_delete(&self, scope: &[u8], label: &str, key: &[u8]) -> StoreResult<()> {
        self.run("DELETE FROM mls WHERE scope = ?1 AND label = ?2 AND key = ?3", params![scope, label, key]).map(|_| ())
    }

    /// Deletes all rows of a scope.
    pub fn mls_delete_scope(&self, scope: &[u8]) -> StoreResult<()> {
        self.run("DELETE FROM mls WHERE scope = ?1", [scope]).map(|_| ())
    }
}

impl From<&'static str> for StoreError {
    fn from(what: &'static str) -> Self {
        Self::Damaged(what)
    }
}
