//! Conversations, members, messages.

use super::{Answer, Body, Path, Query, groups};
use crate::auth::Authed;
use crate::error::{ApiError, ApiResult};
use crate::log::read;
use crate::log::state::ConvState;
use crate::log::writer::{Append, Reply, WriteCx};
use crate::mls::{self, Group, Member};
use crate::{App, db};
use axum::Json;
use axum::extract::State;
use sc_protocol::frame::ServerFrame;
use sc_protocol::rest::{
    Appended, ConversationInfo, ConversationKind, ConversationPage, CreateConversation, CreatedConversation, Empty, EnvelopePage,
    MemberInfo, PutRole, Role, SendMessage,
};
use sc_protocol::{ConversationId, DeviceId, ErrorCode, UserId, limits};
use serde::Deserialize;
use sqlx::{Row as _, SqliteConnection};
use std::collections::HashMap;
use tokio::sync::oneshot;

/// Reads a conversation as one device sees it.
pub async fn info(conn: &mut SqliteConnection, id: ConversationId, device: DeviceId) -> ApiResult<Option<ConversationInfo>> {
    let key = id.as_bytes().as_slice();
    let Some(row) = sqlx::query("SELECT kind, group_id, epoch, last_activity FROM conversations WHERE conversation_id = $1")
        .bind(key)
        .fetch_optional(&mut *conn)
        .await?
    else {
        return Ok(None);
    };
    let last: i64 =
        sqlx::query_scalar("SELECT COALESCE(MAX(seq), 0) FROM log WHERE conversation_id = $1").bind(key).fetch_one(&mut *conn).await?;
    let leaf: Option<i64> = sqlx::query_scalar("SELECT 1 FROM leaves WHERE conversation_id = $1 AND device_id = $2 AND in_group = 1")
        .bind(key)
        .bind(device.as_bytes().as_slice())
        .fetch_optional(&mut *conn)
        .await?;
    let rows = sqlx::query("SELECT m.user_id, u.username, m.role, m.read_seq FROM members m JOIN users u ON u.user_id = m.user_id WHERE m.conversation_id = $1 ORDER BY u.username")
        .bind(key)
        .fetch_all(conn)
        .await?;
    let member = |r: &sqlx::sqlite::SqliteRow| -> Result<MemberInfo, sqlx::Error> {
        Ok(MemberInfo {
            user_id: db::user_id(r, "user_id")?,
            username: r.try_get("username")?,
            role: db::role(r.try_get("role")?),
            read_seq: db::uint(r.try_get("read_seq")?),
        })
    };
    Ok(Some(ConversationInfo {
        conversation_id: id,
        kind: db::kind(row.try_get("kind")?),
        group_id: db::blob(&row, "group_id")?,
        epoch: db::uint(row.try_get("epoch")?),
        last_seq: db::uint(last),
        device_in_group: leaf.is_some(),
        members: rows.iter().map(member).collect::<Result<_, _>>()?,
        last_activity: row.try_get("last_activity")?,
    }))
}

/// Reads a conversation for a member.
pub async fn info_for(app: &App, id: ConversationId, who: &Authed) -> ApiResult<ConversationInfo> {
    let mut conn = app.pool.acquire().await?;
    let info = info(&mut conn, id, who.device).await?.ok_or_else(ApiError::not_a_member)?;
    if info.members.iter().any(|m| m.user_id == who.user) { Ok(info) } else { Err(ApiError::not_a_member()) }
}

/// Query of the list.
#[derive(Deserialize)]
pub struct ListQuery {
    cursor: Option<String>,
    limit: Option<u32>,
    kind: Option<ConversationKind>,
}

/// `GET /v1/conversations`, newest activity first. The cursor is `time:id` of the last one.
pub async fn list(State(app): State<App>, who: Authed, Query(q): Query<ListQuery>) -> Answer<ConversationPage> {
    let limit = q.limit.unwrap_or(50).clamp(1, 200);
    let (before, before_id) = match &q.cursor {
        None => (i64::MAX, vec![0xff; 16]),
        Some(c) => {
            let (t, id) = c.split_once(':').ok_or_else(|| ApiError::bad("The cursor is malformed."))?;
            let id: ConversationId = id.parse().map_err(|_| ApiError::bad("The cursor is malformed."))?;
            (t.parse().map_err(|_| ApiError::bad("The cursor is malformed."))?, id.as_bytes().to_vec())
        }
    };
    let kind = q.kind.map_or(-1, db::kind_int);
    let mut conn = app.pool.acquire().await?;
    let rows = sqlx::query(
        "SELECT c.conversation_id FROM members m JOIN conversations c ON c.conversation_id = m.conversation_id \
         WHERE m.user_id = $1 AND (c.last_activity < $2 OR (c.last_activity = $2 AND c.conversation_id < $3)) AND ($4 < 0 OR c.kind = $4) \
         ORDER BY c.last_activity DESC, c.conversation_id DESC LIMIT $5",
    )
    .bind(who.user.as_bytes().as_slice())
    .bind(before)
    .bind(before_id)
    .bind(kind)
    .bind(i64::from(limit))
    .fetch_all(&mut *conn)
    .await?;
    let mut conversations = Vec::with_capacity(rows.len());
    for r in rows {
        conversations.extend(info(&mut conn, db::conversation_id(&r, "conversation_id")?, who.device).await?);
    }
    let full = conversations.len() == limit as usize;
    let next_cursor = conversations.last().filter(|_| full).map(|c| format!("{}:{}", c.last_activity, c.conversation_id));
    let total: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM members WHERE user_id = $1")
        .bind(who.user.as_bytes().as_slice())
        .fetch_one(&mut *conn)
        .await?;
    Ok(Json(ConversationPage { conversations, next_cursor, total: db::uint(total) }))
}

/// `GET /v1/conversations/{id}`.
pub async fn get_one(State(app): State<App>, who: Authed, Path(id): Path<ConversationId>) -> Answer<ConversationInfo> {
    info_for(&app, id, &who).await.map(Json)
}

/// `POST /v1/conversations`.
pub async fn create_group(State(app): State<App>, who: Authed, Body(b): Body<CreateConversation>) -> Answer<CreatedConversation> {
    create(app, who, b, ConversationKind::Group, HashMap::from([(who.user, Role::Owner)]), None).await
}

/// `POST /v1/conversations/direct`: one per pair, idempotent.
pub async fn create_direct(State(app): State<App>, who: Authed, Body(b): Body<CreateConversation>) -> Answer<CreatedConversation> {
    let peer = b.peer.filter(|p| *p != who.user).ok_or_else(|| ApiError::bad("A direct conversation needs another person."))?;
    let (low, high) = if who.user < peer { (who.user, peer) } else { (peer, who.user) };
    let pair = [low.as_bytes().as_slice(), high.as_bytes()].concat();
    create(app, who, b, ConversationKind::Direct, HashMap::from([(who.user, Role::Member), (peer, Role::Member)]), Some(pair)).await
}

async fn create(
    app: App,
    who: Authed,
    b: CreateConversation,
    kind: ConversationKind,
    members: HashMap<UserId, Role>,
    pair: Option<Vec<u8>>,
) -> Answer<CreatedConversation> {
    app.limiter.take(format!("create {}", who.user), 100, 1.0, crate::now_ms()).map_err(ApiError::rate_limited)?;
    let gid = mls::group_id(b.conversation_id, 0);
    let creator = Member { user: who.user, device: who.device };
    let sender = app.secrets.external_sender.verifying_key().to_bytes();
    let group = Group::create(&b.group, &gid, creator, &sender)?;
    let blob = group.to_blob()?;
    let leaf = group.creator()?;
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                if let Some(pair) = &pair {
                    let existing = sqlx::query("SELECT conversation_id FROM conversations WHERE pair_key = $1")
                        .bind(pair)
                        .fetch_optional(&mut cx.conn)
                        .await?;
                    if let Some(row) = existing {
                        let id = db::conversation_id(&row, "conversation_id")?;
                        let conversation = info(&mut cx.conn, id, who.device).await?.ok_or_else(|| ApiError::not_found("conversation"))?;
                        return Ok(Json(CreatedConversation { conversation, created: false }));
                    }
                }
                groups::check_leaves(cx, std::slice::from_ref(&leaf)).await?;
                insert(cx, &b, kind, &members, pair, gid, blob, creator).await?;
                for user in members.keys() {
                    cx.to_user(*user, ServerFrame::ConversationUpdated { conversation_id: b.conversation_id });
                }
                let conversation =
                    info(&mut cx.conn, b.conversation_id, who.device).await?.ok_or_else(|| ApiError::not_found("conversation"))?;
                Ok(Json(CreatedConversation { conversation, created: true }))
            })
        })
        .await
}

#[allow(clippy::too_many_arguments)]
async fn insert(
    cx: &mut WriteCx,
    b: &CreateConversation,
    kind: ConversationKind,
    members: &HashMap<UserId, Role>,
    pair: Option<Vec<u8>>,
    gid: Vec<u8>,
    group: Vec<u8>,
    creator: Member,
) -> ApiResult<()> {
    let id = b.conversation_id;
    let inserted = sqlx::query(
        "INSERT INTO conversations (conversation_id, kind, pair_key, generation, group_id, epoch, public_group, group_info, last_activity) \
         VALUES ($1, $2, $3, 0, $4, 0, $5, $6, $7)",
    )
    .bind(id.as_bytes().as_slice())
    .bind(db::kind_int(kind))
    .bind(pair)
    .bind(gid)
    .bind(group)
    .bind(b.group.group_info.to_vec())
    .bind(cx.now)
    .execute(&mut cx.conn)
    .await;
    match inserted {
        Err(e) if crate::error::is_unique_violation(&e) => {
            return Err(ApiError::new(ErrorCode::Conflict, "That conversation id is in use."));
        }
        other => other?,
    };
    for (user, role) in members {
        let known: Option<i64> = sqlx::query_scalar("SELECT 1 FROM users WHERE user_id = $1")
            .bind(user.as_bytes().as_slice())
            .fetch_optional(&mut cx.conn)
            .await?;
        if known.is_none() {
            return Err(ApiError::not_found("user"));
        }
        groups::insert_member(cx, id, *user, *role).await?;
    }
    groups::insert_leaf(cx, id, creator, 1).await?;
    let state = ConvState {
        kind,
        generation: 0,
        epoch: 0,
        last_seq: 0,
        members: members.clone(),
        leaves: HashMap::from([(creator.device, creator.user)]),
        audience: None,
    };
    cx.insert_conv(id, state);
    Ok(())
}

/// Query of a page of history.
#[derive(Deserialize)]
pub struct PageQuery {
    after: Option<u64>,
    limit: Option<u32>,
}

/// `GET /v1/conversations/{id}/messages?after=&limit=`: what this device may read, ascending.
pub async fn messages(
    State(app): State<App>,
    who: Authed,
    Path(id): Path<ConversationId>,
    Query(q): Query<PageQuery>,
) -> Answer<EnvelopePage> {
    let stay = read::stay_in(&app.pool, who.device, id).await?.ok_or_else(ApiError::not_a_member)?;
    let limit = q.limit.unwrap_or(100).clamp(1, limits::PAGE);
    let last_seq = read::last_seq(&app.pool, id).await?;
    let (envelopes, _) = read::page(&app.pool, who.device, stay, q.after.unwrap_or(0), limit).await?;
    Ok(Json(EnvelopePage { envelopes, last_seq: stay.end.unwrap_or(last_seq) }))
}

/// A message that may go to the writer.
pub fn check_message(app: &App, who: &Authed, m: &SendMessage) -> ApiResult<()> {
    if m.payload.len() > limits::PAYLOAD_BYTES {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "The message is larger than the server allows."));
    }
    if m.payload.is_empty() {
        return Err(ApiError::bad("The message is empty."));
    }
    let key = who.device.to_string();
    app.limiter.take(key, app.config.send_burst, f64::from(app.config.send_rate), crate::now_ms()).map_err(ApiError::rate_limited)
}

/// `POST /v1/conversations/{id}/messages`.
pub async fn send(State(app): State<App>, who: Authed, Path(id): Path<ConversationId>, Body(m): Body<SendMessage>) -> Answer<Appended> {
    if m.conversation_id != id {
        return Err(ApiError::bad("The conversation in the path and in the body differ."));
    }
    check_message(&app, &who, &m)?;
    let (tx, rx) = oneshot::channel();
    app.writer.append(Append { user: who.user, device: who.device, message: m, reply: Reply::Task(tx) }).await?;
    rx.await.map_err(|_| ApiError::new(ErrorCode::Unavailable, "The server is stopping. Try again in a moment."))?.map(Json)
}

/// `POST /v1/conversations/{id}/leave`.
pub async fn leave(State(app): State<App>, who: Authed, Path(id): Path<ConversationId>) -> Answer<Empty> {
    let inner = app.clone();
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let conv = cx.conv(id).await.map_err(groups::hide)?;
                let role = *conv.members.get(&who.user).ok_or_else(ApiError::not_a_member)?;
                if conv.kind == ConversationKind::Direct {
                    return Err(ApiError::new(ErrorCode::Forbidden, "A direct conversation cannot be left. Archive it instead."));
                }
                if role == Role::Owner && conv.members.len() > 1 {
                    return Err(ApiError::new(ErrorCode::Forbidden, "Hand the group over to another member before you leave it."));
                }
                let devices: Vec<DeviceId> = conv.leaves.iter().filter(|(_, u)| **u == who.user).map(|(d, _)| *d).collect();
                groups::expel(&inner, cx, id, &devices).await?;
                groups::remove_member(cx, id, who.user).await?;
                groups::announce(cx, id, &[who.user]).await?;
                Ok(Json(Empty {}))
            })
        })
        .await
}

/// `PUT /v1/conversations/{id}/members/{user}/role`, by the owner.
pub async fn put_role(
    State(app): State<App>,
    who: Authed,
    Path((id, user)): Path<(ConversationId, UserId)>,
    Body(b): Body<PutRole>,
) -> Answer<Empty> {
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let conv = cx.conv(id).await?;
                if conv.kind == ConversationKind::Direct || conv.members.get(&who.user) != Some(&Role::Owner) || user == who.user {
                    return Err(ApiError::new(ErrorCode::Forbidden, "Only the owner of a group changes the roles of others."));
                }
                if !conv.members.contains_key(&user) {
                    return Err(ApiError::not_found("member"));
                }
                let mut changes = vec![(user, b.role)];
                if b.role == Role::Owner {
                    changes.push((who.user, Role::Admin));
                }
                for (u, r) in changes {
                    cx.conv(id).await?.members.insert(u, r);
                    sqlx::query("UPDATE members SET role = $1 WHERE conversation_id = $2 AND user_id = $3")
                        .bind(db::role_int(r))
                        .bind(id.as_bytes().as_slice())
                        .bind(u.as_bytes().as_slice())
                        .execute(&mut cx.conn)
                        .await?;
                }
                groups::announce(cx, id, &[]).await?;
                Ok(Json(Empty {}))
            })
        })
        .await
}
