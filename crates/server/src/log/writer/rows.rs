//! The rows of the log, as the writer stores and loads them.

use super::WriteCx;
use crate::db;
use crate::error::ApiResult;
use crate::log::state::ConvState;
use sc_protocol::frame::Envelope;
use sc_protocol::rest::Appended;
use sc_protocol::{ConversationId, DeviceId, TempId};
use sqlx::{Row as _, SqliteConnection};
use std::collections::HashMap;

/// Rows in one INSERT; 10 values each, far below SQLite's 32,766.
const CHUNK: usize = 256;

pub(super) async fn touch_activity(cx: &mut WriteCx, envelopes: &[Envelope]) -> ApiResult<()> {
    let newest: HashMap<ConversationId, i64> = envelopes.iter().map(|e| (e.conversation_id, e.sent_at)).collect();
    for (id, at) in newest {
        sqlx::query("UPDATE conversations SET last_activity = $1 WHERE conversation_id = $2")
            .bind(at)
            .bind(id.as_bytes().as_slice())
            .execute(&mut cx.conn)
            .await?;
    }
    Ok(())
}

pub(super) async fn insert_rows(conn: &mut SqliteConnection, rows: &[Envelope]) -> Result<(), sqlx::Error> {
    for chunk in rows.chunks(CHUNK) {
        let mut qb = sqlx::QueryBuilder::<sqlx::Sqlite>::new(
            "INSERT INTO log (conversation_id, seq, kind, generation, epoch, sender_user, sender_device, temp_id, sent_at, payload) ",
        );
        qb.push_values(chunk, |mut b, e| {
            b.push_bind(e.conversation_id.as_bytes().to_vec())
                .push_bind(db::int(e.seq))
                .push_bind(e.kind.to_i64())
                .push_bind(i64::from(e.generation))
                .push_bind(db::int(e.epoch))
                .push_bind(e.sender_user.as_bytes().to_vec())
                .push_bind(e.sender_device.as_bytes().to_vec())
                .push_bind(e.temp_id.as_bytes().to_vec())
                .push_bind(e.sent_at)
                .push_bind(e.payload.to_vec());
        });
        // Full chunks and single rows are worth keeping prepared.
        let keep = chunk.len() == CHUNK || chunk.len() == 1;
        qb.build().persistent(keep).execute(&mut *conn).await?;
    }
    Ok(())
}

pub(super) async fn earlier(conn: &mut SqliteConnection, device: DeviceId, temp_id: TempId) -> ApiResult<Option<Appended>> {
    let row = sqlx::query("SELECT conversation_id, seq, sent_at FROM log WHERE sender_device = $1 AND temp_id = $2")
        .bind(device.as_bytes().as_slice())
        .bind(temp_id.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let conversation_id = db::conversation_id(&row, "conversation_id")?;
    let seq = db::uint(row.try_get("seq")?);
    Ok(Some(Appended { conversation_id, temp_id, seq, sent_at: row.try_get("sent_at")? }))
}

pub(super) async fn load_conv(conn: &mut SqliteConnection, id: ConversationId) -> ApiResult<Option<ConvState>> {
    let key = id.as_bytes().as_slice();
    let Some(row) = sqlx::query("SELECT kind, generation, epoch FROM conversations WHERE conversation_id = $1")
        .bind(key)
        .fetch_optional(&mut *conn)
        .await?
    else {
        return Ok(None);
    };
    let last: i64 =
        sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM log WHERE conversation_id = $1").bind(key).fetch_one(&mut *conn).await?;
    let mut members = HashMap::new();
    for m in sqlx::query("SELECT user_id, role FROM members WHERE conversation_id = $1").bind(key).fetch_all(&mut *conn).await? {
        members.insert(db::user_id(&m, "user_id")?, db::role(m.try_get("role")?));
    }
    let mut leaves = HashMap::new();
    for l in sqlx::query("SELECT device_id, user_id FROM leaves WHERE conversation_id = $1 AND in_group = 1")
        .bind(key)
        .fetch_all(&mut *conn)
        .await?
    {
        leaves.insert(db::device_id(&l, "device_id")?, db::user_id(&l, "user_id")?);
    }
    Ok(Some(ConvState {
        kind: db::kind(row.try_get("kind")?),
        generation: u32::try_from(row.try_get::<i64, _>("generation")?).unwrap_or_default(),
        epoch: db::uint(row.try_get("epoch")?),
        last_seq: db::uint(last),
        members,
        leaves,
        audience: None,
    }))
}
