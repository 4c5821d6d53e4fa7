//! Reading the log: pages for REST and catch-up for the gateway. A device is given the entries of its stays only.

use crate::db;
use crate::error::{ApiError, ApiResult};
use futures_util::TryStreamExt as _;
use sc_protocol::frame::{Envelope, EnvelopeKind};
use sc_protocol::{Blob, ConversationId, DeviceId, TempId};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, SqlitePool};

/// What a device may read of a conversation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stay {
    /// The conversation.
    pub conversation_id: ConversationId,
    /// First entry.
    pub start: u64,
    /// Last entry, when the stay is over.
    pub end: Option<u64>,
}

/// All stays of a device.
pub async fn stays(pool: &SqlitePool, device: DeviceId) -> ApiResult<Vec<Stay>> {
    let rows = sqlx::query("SELECT conversation_id, start_seq, end_seq FROM leaves WHERE device_id = $1")
        .bind(device.as_bytes().as_slice())
        .fetch_all(pool)
        .await?;
    rows.iter().map(stay).collect()
}

/// The stay of a device in one conversation.
pub async fn stay_in(pool: &SqlitePool, device: DeviceId, conversation: ConversationId) -> ApiResult<Option<Stay>> {
    let row = sqlx::query("SELECT conversation_id, start_seq, end_seq FROM leaves WHERE device_id = $1 AND conversation_id = $2")
        .bind(device.as_bytes().as_slice())
        .bind(conversation.as_bytes().as_slice())
        .fetch_optional(pool)
        .await?;
    row.as_ref().map(stay).transpose()
}

fn stay(row: &SqliteRow) -> ApiResult<Stay> {
    Ok(Stay {
        conversation_id: db::conversation_id(row, "conversation_id")?,
        start: db::uint(row.try_get("start_seq")?),
        end: row.try_get::<Option<i64>, _>("end_seq")?.map(db::uint),
    })
}

/// Bytes of one page, beyond its first entry.
const PAGE_BYTES: usize = 2 << 20;

/// Entries after `after`, ascending, at most `limit` and [`PAGE_BYTES`], within the stay; true when there may be more.
pub async fn page(pool: &SqlitePool, device: DeviceId, stay: Stay, after: u64, limit: u32) -> ApiResult<(Vec<Envelope>, bool)> {
    let first = stay.start.max(after.saturating_add(1));
    let mut rows = sqlx::query(
        "SELECT conversation_id, seq, kind, generation, epoch, sender_user, sender_device, temp_id, sent_at, payload \
         FROM log WHERE conversation_id = $1 AND seq >= $2 AND seq <= $3 ORDER BY seq LIMIT $4",
    )
    .bind(stay.conversation_id.as_bytes().as_slice())
    .bind(db::int(first))
    .bind(db::int(stay.end.unwrap_or(u64::MAX)))
    .bind(i64::from(limit))
    .fetch(pool);
    let (mut page, mut bytes, mut more) = (Vec::new(), 0, false);
    while let Some(row) = rows.try_next().await? {
        let e = envelope(&row)?;
        bytes += e.payload.len() + 300;
        if bytes > PAGE_BYTES && !page.is_empty() {
            more = true;
            break;
        }
        page.push(e);
    }
    drop(rows);
    more |= page.len() == limit as usize;
    if let (Some(low), Some(high)) = (page.first().map(|e| e.seq), page.last().map(|e| e.seq)) {
        welcomes_into(pool, device, stay.conversation_id, low..=high, &mut page).await?;
    }
    Ok((page, more))
}

/// Turns the commits that added this device into the Welcomes for it.
async fn welcomes_into(
    pool: &SqlitePool,
    device: DeviceId,
    conversation: ConversationId,
    range: std::ops::RangeInclusive<u64>,
    page: &mut [Envelope],
) -> ApiResult<()> {
    let rows = sqlx::query(
        "SELECT w.seq, w.welcome, w.ratchet_tree FROM welcome_recipients r JOIN welcomes w ON w.conversation_id = r.conversation_id AND w.seq = r.seq \
         WHERE r.conversation_id = $1 AND r.device_id = $2 AND r.seq BETWEEN $3 AND $4",
    )
    .bind(conversation.as_bytes().as_slice())
    .bind(device.as_bytes().as_slice())
    .bind(db::int(*range.start()))
    .bind(db::int(*range.end()))
    .fetch_all(pool)
    .await?;
    for row in rows {
        let seq = db::uint(row.try_get("seq")?);
        if let Some(e) = page.iter_mut().find(|e| e.seq == seq) {
            e.kind = EnvelopeKind::Welcome;
            e.payload = Blob::from(row.try_get::<Vec<u8>, _>("welcome")?);
            e.ratchet_tree = Some(Blob::from(row.try_get::<Vec<u8>, _>("ratchet_tree")?));
        }
    }
    Ok(())
}

fn envelope(row: &SqliteRow) -> Result<Envelope, sqlx::Error> {
    let kind = EnvelopeKind::from_i64(row.try_get("kind")?).ok_or_else(|| sqlx::Error::Decode("unknown envelope kind".into()))?;
    Ok(Envelope {
        conversation_id: db::conversation_id(row, "conversation_id")?,
        seq: db::uint(row.try_get("seq")?),
        kind,
        generation: u32::try_from(row.try_get::<i64, _>("generation")?).unwrap_or_default(),
        epoch: db::uint(row.try_get("epoch")?),
        sender_user: db::user_id(row, "sender_user")?,
        sender_device: db::device_id(row, "sender_device")?,
        temp_id: TempId::from_slice(row.try_get::<&[u8], _>("temp_id")?).ok_or_else(|| sqlx::Error::Decode("no temp_id".into()))?,
        sent_at: row.try_get("sent_at")?,
        payload: Blob::from(row.try_get::<&[u8], _>("payload")?),
        ratchet_tree: None,
    })
}

/// The newest seq of a conversation; 0 when its log is empty.
pub async fn last_seq(pool: &SqlitePool, conversation: ConversationId) -> ApiResult<u64> {
    let n: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM log WHERE conversation_id = $1")
        .bind(conversation.as_bytes().as_slice())
        .fetch_one(pool)
        .await
        .map_err(ApiError::from)?;
    Ok(db::uint(n))
}
