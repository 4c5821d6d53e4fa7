//! Rooms and stays in the store. Every change of a stay changes `member_count` in the same transaction.

use crate::db;
use crate::error::{ApiError, ApiResult};
use sc_protocol::{RoomId, UserId};
use sqlx::{Row as _, SqliteConnection};

/// A room as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredRoom {
    /// Which.
    pub id: RoomId,
    /// It belongs to the conversation with the same id.
    pub conversation: bool,
    /// Who made it.
    pub owner: UserId,
    /// Seats.
    pub max_participants: u32,
    /// Nobody else comes in.
    pub locked: bool,
    /// Whoever is not a host waits.
    pub lobby: bool,
    /// People without an account may come in.
    pub guests: bool,
    /// Active stays.
    pub member_count: u32,
}

fn room(r: &sqlx::sqlite::SqliteRow) -> Result<StoredRoom, sqlx::Error> {
    let id =
        RoomId::from_slice(r.try_get::<&[u8], _>("room_id")?).ok_or_else(|| sqlx::Error::Decode("column room_id holds no id".into()))?;
    let flag = |c: &str| r.try_get::<i64, _>(c).map(|v| v != 0);
    let count = |c: &str| r.try_get::<i64, _>(c).map(|v| u32::try_from(v).unwrap_or(0));
    Ok(StoredRoom {
        id,
        conversation: flag("conversation")?,
        owner: db::user_id(r, "owner")?,
        max_participants: count("max_participants")?,
        locked: flag("locked")?,
        lobby: flag("lobby")?,
        guests: flag("guests")?,
        member_count: count("member_count")?,
    })
}

/// A room that is not closed.
pub async fn load(conn: &mut SqliteConnection, id: RoomId) -> ApiResult<Option<StoredRoom>> {
    let row = sqlx::query("SELECT room_id, conversation, owner, max_participants, locked, lobby, guests, member_count FROM rooms WHERE room_id = $1 AND closed = 0")
        .bind(id.as_bytes().as_slice())
        .fetch_optional(conn)
        .await?;
    Ok(row.as_ref().map(room).transpose()?)
}

/// True for a room of this server, closed ones too.
pub async fn exists(conn: &mut SqliteConnection, id: RoomId) -> ApiResult<bool> {
    let row = sqlx::query("SELECT 1 FROM rooms WHERE room_id = $1").bind(id.as_bytes().as_slice()).fetch_optional(conn).await?;
    Ok(row.is_some())
}

/// The meeting rooms somebody has made, newest first.
pub async fn of_owner(conn: &mut SqliteConnection, owner: UserId) -> ApiResult<Vec<StoredRoom>> {
    let rows = sqlx::query("SELECT room_id, conversation, owner, max_participants, locked, lobby, guests, member_count FROM rooms WHERE owner = $1 AND conversation = 0 AND closed = 0 ORDER BY created_at DESC, room_id DESC LIMIT 200")
        .bind(owner.as_bytes().as_slice())
        .fetch_all(conn)
        .await?;
    Ok(rows.iter().map(room).collect::<Result<_, _>>()?)
}

/// Stores a new room, or leaves the one that is there as it is.
pub async fn insert(conn: &mut SqliteConnection, r: &StoredRoom, now: i64) -> ApiResult<()> {
    sqlx::query(
        "INSERT INTO rooms (room_id, conversation, owner, max_participants, locked, lobby, guests, closed, member_count, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, 0, 0, $8) ON CONFLICT (room_id) DO NOTHING",
    )
    .bind(r.id.as_bytes().as_slice())
    .bind(i64::from(r.conversation))
    .bind(r.owner.as_bytes().as_slice())
    .bind(i64::from(r.max_participants))
    .bind(i64::from(r.locked))
    .bind(i64::from(r.lobby))
    .bind(i64::from(r.guests))
    .bind(now)
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores what a host may change.
pub async fn update(conn: &mut SqliteConnection, r: &StoredRoom) -> ApiResult<()> {
    sqlx::query("UPDATE rooms SET max_participants = $1, locked = $2, lobby = $3, guests = $4 WHERE room_id = $5")
        .bind(i64::from(r.max_participants))
        .bind(i64::from(r.locked))
        .bind(i64::from(r.lobby))
        .bind(i64::from(r.guests))
        .bind(r.id.as_bytes().as_slice())
        .execute(conn)
        .await?;
    Ok(())
}

/// Closes a room for good.
pub async fn close(conn: &mut SqliteConnection, id: RoomId) -> ApiResult<()> {
    sqlx::query("UPDATE rooms SET closed = 1 WHERE room_id = $1").bind(id.as_bytes().as_slice()).execute(conn).await?;
    Ok(())
}

/// A stay begins; one of the same identity that was active ends.
pub async fn begin(conn: &mut SqliteConnection, id: RoomId, identity: &str, now: i64) -> ApiResult<()> {
    finish(conn, id, identity, now).await?;
    sqlx::query("INSERT INTO room_sessions (session_id, room_id, identity, joined_at, left_at, active) VALUES ($1, $2, $3, $4, 0, 1)")
        .bind(uuid::Uuid::now_v7().as_bytes().as_slice())
        .bind(id.as_bytes().as_slice())
        .bind(identity)
        .bind(now)
        .execute(&mut *conn)
        .await?;
    add(conn, id, 1).await
}

/// The active stay of that identity ends, and counts for its day.
pub async fn finish(conn: &mut SqliteConnection, id: RoomId, identity: &str, now: i64) -> ApiResult<()> {
    let rows = sqlx::query("SELECT session_id, joined_at FROM room_sessions WHERE room_id = $1 AND identity = $2 AND active = 1")
        .bind(id.as_bytes().as_slice())
        .bind(identity)
        .fetch_all(&mut *conn)
        .await?;
    for r in &rows {
        end_one(conn, r.try_get("session_id")?, r.try_get("joined_at")?, now).await?;
    }
    add(conn, id, -i64::try_from(rows.len()).unwrap_or(0)).await
}

async fn end_one(conn: &mut SqliteConnection, session: Vec<u8>, joined: i64, now: i64) -> ApiResult<()> {
    sqlx::query("UPDATE room_sessions SET active = 0, left_at = $1 WHERE session_id = $2")
        .bind(now)
        .bind(session)
        .execute(&mut *conn)
        .await?;
    sqlx::query(
        "INSERT INTO room_days (day, milliseconds, sessions) VALUES ($1, $2, 1) \
         ON CONFLICT (day) DO UPDATE SET milliseconds = room_days.milliseconds + excluded.milliseconds, sessions = room_days.sessions + 1",
    )
    .bind(now.div_euclid(86_400_000))
    .bind((now - joined).max(0))
    .execute(conn)
    .await?;
    Ok(())
}

async fn add(conn: &mut SqliteConnection, id: RoomId, n: i64) -> ApiResult<()> {
    if n != 0 {
        sqlx::query("UPDATE rooms SET member_count = member_count + $1 WHERE room_id = $2")
            .bind(n)
            .bind(id.as_bytes().as_slice())
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// At the start nobody is inside: stays that were active when the server ended are over. How many there were.
pub async fn end_all(conn: &mut SqliteConnection, now: i64) -> ApiResult<u64> {
    let rows = sqlx::query("SELECT session_id, joined_at FROM room_sessions WHERE active = 1").fetch_all(&mut *conn).await?;
    for r in &rows {
        end_one(conn, r.try_get("session_id")?, r.try_get("joined_at")?, now).await?;
    }
    recount(conn).await?;
    Ok(rows.len() as u64)
}

/// Sets every `member_count` to the number of active stays. How many were wrong.
pub async fn recount(conn: &mut SqliteConnection) -> ApiResult<u64> {
    let active = "(SELECT COUNT(*) FROM room_sessions s WHERE s.room_id = rooms.room_id AND s.active = 1)";
    let done = sqlx::query(sqlx::AssertSqlSafe(format!("UPDATE rooms SET member_count = {active} WHERE member_count <> {active}")))
        .execute(conn)
        .await
        .map_err(ApiError::from)?;
    Ok(done.rows_affected())
}
