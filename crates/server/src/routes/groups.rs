//! Group changes: commits by compare-and-set, external joins, resets for everyone, removals by the server.

use super::{Answer, Body, Path};
use crate::auth::Authed;
use crate::error::{ApiError, ApiResult};
use crate::log::writer::{WriteCx, refusal};
use crate::mls::{self, CommitEffect, Group, Member};
use crate::{App, db};
use axum::Json;
use axum::extract::State;
use sc_protocol::frame::{Envelope, EnvelopeKind, ServerFrame};
use sc_protocol::rest::{Appended, ConversationKind, GroupState, PostCommit, ResetConversation, Role};
use sc_protocol::{Blob, ConversationId, DeviceId, ErrorCode, TempId, UserId, limits};
use sqlx::Row as _;

/// External commits and resets are bounded: each one makes everybody work.
fn take_repair(app: &App, key: String) -> ApiResult<()> {
    let rate = app.config.repair_rate;
    app.limiter.take(key, rate, f64::from(rate) / 3600.0, crate::now_ms()).map_err(ApiError::rate_limited)
}

struct Stored {
    group: Group,
    generation: u32,
    group_info: Blob,
}

async fn load(cx: &mut WriteCx, id: ConversationId) -> ApiResult<Stored> {
    let row = sqlx::query("SELECT generation, group_id, public_group, group_info FROM conversations WHERE conversation_id = $1")
        .bind(id.as_bytes().as_slice())
        .fetch_one(&mut cx.conn)
        .await?;
    let group = Group::load(row.try_get("public_group")?, row.try_get("group_id")?)?;
    Ok(Stored {
        group,
        generation: u32::try_from(row.try_get::<i64, _>("generation")?).unwrap_or(0),
        group_info: db::blob(&row, "group_info")?,
    })
}

/// `GET /v1/conversations/{id}/group`, for members whose device (re)joins.
pub async fn state(State(app): State<App>, who: Authed, Path(id): Path<ConversationId>) -> Answer<GroupState> {
    app.writer
        .write(move |cx| {
            Box::pin(async move {
                let conv = cx.conv(id).await.map_err(hide)?;
                if !conv.members.contains_key(&who.user) {
                    return Err(ApiError::not_a_member());
                }
                let (epoch, seq) = (conv.epoch, conv.last_seq);
                let stored = load(cx, id).await?;
                let ratchet_tree = Blob::from(stored.group.tree()?);
                Ok(Json(GroupState { generation: stored.generation, epoch, seq, group_info: stored.group_info, ratchet_tree }))
            })
        })
        .await
}

/// `POST /v1/conversations/{id}/commits`.
pub async fn commit(
    State(app): State<App>,
    who: Authed,
    Path(id): Path<ConversationId>,
    Body(mut b): Body<PostCommit>,
) -> Answer<Appended> {
    app.limiter.take(format!("commit {}", who.device), 200, 5.0, crate::now_ms()).map_err(ApiError::rate_limited)?;
    for users in [&mut b.add_users, &mut b.remove_users] {
        users.sort_unstable();
        users.dedup();
        if users.len() > limits::GROUP_MEMBERS {
            return Err(ApiError::new(ErrorCode::PayloadTooLarge, "The group change names too many people."));
        }
    }
    let sizes = [b.commit.len(), b.group_info.len(), b.welcome.as_ref().map_or(0, Blob::len)];
    if sizes.iter().any(|n| *n > limits::HANDSHAKE_BYTES) {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "The group change is larger than the server allows."));
    }
    let inner = app.clone();
    app.writer.write(move |cx| Box::pin(async move { commit_in(&inner, cx, who, id, b).await.map(Json) })).await
}

async fn commit_in(app: &App, cx: &mut WriteCx, who: Authed, id: ConversationId, b: PostCommit) -> ApiResult<Appended> {
    if let Some(done) = cx.earlier(who.device, b.temp_id).await? {
        return Ok(done);
    }
    let conv = cx.conv(id).await.map_err(hide)?;
    let role = *conv.members.get(&who.user).ok_or_else(ApiError::not_a_member)?;
    conv.admit_epoch(b.generation, b.epoch).map_err(refusal)?;
    let inside = conv.leaves.get(&who.device) == Some(&who.user);
    let mut stored = load(cx, id).await?;
    let effect = stored.group.commit(b.commit.as_slice(), b.group_info.as_slice())?;
    if effect.committer != (Member { user: who.user, device: who.device }) {
        return Err(ApiError::new(ErrorCode::InvalidCommit, "The commit is another device's."));
    }
    if !effect.external && !inside {
        return Err(ApiError::not_a_member());
    }
    if effect.external {
        take_repair(app, format!("rejoin {id} {}", who.device))?;
    }
    check_policy(cx, id, who.user, role, &effect, &b).await?;
    let answer = apply_commit(cx, id, who, &b, &effect, &stored.group).await?;
    // What the server proposed lives for one epoch: a leaf that should be gone and is not is proposed again.
    let conv = cx.conv(id).await?;
    let ghosts: Vec<DeviceId> =
        stored.group.members()?.into_iter().map(|(_, m)| m.device).filter(|d| !conv.leaves.contains_key(d)).collect();
    if !ghosts.is_empty() {
        expel(app, cx, id, &ghosts).await?;
    }
    Ok(answer)
}

/// A conversation that is not there is one nobody is a member of; other failures stay what they are.
pub fn hide(e: ApiError) -> ApiError {
    if e.0.code == ErrorCode::NotFound { ApiError::not_a_member() } else { e }
}

/// Who may change what: people come and go by admins; devices by their owners; what the server proposed by anybody.
async fn check_policy(
    cx: &mut WriteCx,
    id: ConversationId,
    user: UserId,
    role: Role,
    effect: &CommitEffect,
    b: &PostCommit,
) -> ApiResult<()> {
    let conv = cx.conv(id).await?;
    let refuse = |m: &str| Err(ApiError::new(ErrorCode::Forbidden, m));
    let changes_people = !b.add_users.is_empty() || !b.remove_users.is_empty();
    if changes_people && (conv.kind == ConversationKind::Direct || role < Role::Admin) {
        return refuse("Only the owner and admins of a group add and remove members.");
    }
    if conv.members.len() + b.add_users.len() > limits::GROUP_MEMBERS {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "The group would have too many members."));
    }
    for u in &b.remove_users {
        match conv.members.get(u) {
            None => return Err(ApiError::not_found("member")),
            Some(r) if *r >= role || *u == user => {
                return refuse("An admin removes members, the owner removes admins, nobody removes the owner.");
            }
            Some(_) => {}
        }
    }
    if effect.added.iter().any(|m| !conv.members.contains_key(&m.user) && !b.add_users.contains(&m.user)) {
        return refuse("A device of somebody who is not a member was added.");
    }
    if b.add_users.iter().any(|u| !effect.added.iter().any(|m| m.user == *u)) {
        return Err(ApiError::new(ErrorCode::InvalidCommit, "A new member has no device in the commit."));
    }
    // A leaf that belongs to nobody inside any more may be removed by anybody.
    let ghost = |m: &Member| !conv.leaves.contains_key(&m.device);
    let fine = |m: &Member| m.user == user || b.remove_users.contains(&m.user) || effect.removed_by_server.contains(m) || ghost(m);
    if !effect.removed.iter().all(fine) {
        return refuse("A device of somebody who stays a member was removed.");
    }
    let left: Vec<&UserId> = conv
        .leaves
        .iter()
        .filter(|(d, u)| b.remove_users.contains(u) && !effect.removed.iter().any(|m| m.device == **d))
        .map(|(_, u)| u)
        .collect();
    if !left.is_empty() {
        return Err(ApiError::new(ErrorCode::InvalidCommit, "A removed member keeps a device in the group."));
    }
    if !effect.added.is_empty() && b.welcome.is_none() {
        return Err(ApiError::new(ErrorCode::InvalidCommit, "Devices were added without a Welcome."));
    }
    if effect.added.iter().any(|m| conv.leaves.contains_key(&m.device) && !effect.removed.contains(m)) {
        return refuse("That device is in the group already.");
    }
    check_leaves(cx, &effect.new_leaves).await
}

/// Every new leaf is that of a linked device of an active account, with its key, under the account's identity.
pub async fn check_leaves(cx: &mut WriteCx, leaves: &[mls::NewLeaf]) -> ApiResult<()> {
    for leaf in leaves {
        let row = sqlx::query(
            "SELECT d.status, d.signature_key, u.identity_key, u.status AS account FROM devices d JOIN users u ON u.user_id = d.user_id \
             WHERE d.device_id = $1 AND d.user_id = $2",
        )
        .bind(leaf.member.device.as_bytes().as_slice())
        .bind(leaf.member.user.as_bytes().as_slice())
        .fetch_optional(&mut cx.conn)
        .await?;
        let fine = match &row {
            None => false,
            Some(r) => {
                r.try_get::<&str, _>("status")? == "active"
                    && r.try_get::<&str, _>("account")? == "ACTIVE"
                    && r.try_get::<&[u8], _>("signature_key")? == leaf.key
                    && r.try_get::<&[u8], _>("identity_key")? == leaf.identity
            }
        };
        if !fine {
            return Err(ApiError::new(ErrorCode::InvalidCommit, "A leaf is not that of a linked device."));
        }
    }
    Ok(())
}

async fn apply_commit(
    cx: &mut WriteCx,
    id: ConversationId,
    who: Authed,
    b: &PostCommit,
    effect: &CommitEffect,
    group: &Group,
) -> ApiResult<Appended> {
    let now = cx.now;
    let conv = cx.conv(id).await?;
    let before: Vec<DeviceId> = conv.leaves.keys().copied().collect();
    let (seq, generation) = (conv.assign(), conv.generation);
    conv.epoch = group.epoch();
    let envelope = Envelope {
        conversation_id: id,
        seq,
        kind: EnvelopeKind::Commit,
        generation,
        epoch: b.epoch,
        sender_user: who.user,
        sender_device: who.device,
        temp_id: b.temp_id,
        sent_at: now,
        payload: b.commit.clone(),
        ratchet_tree: None,
    };
    cx.append(&envelope).await?;
    save_group(cx, id, group, generation, &b.group_info).await?;
    for m in &effect.removed {
        end_leaf(cx, id, m.device, seq).await?;
    }
    if effect.external {
        insert_leaf(cx, id, effect.committer, seq).await?;
    }
    for u in &b.remove_users {
        remove_member(cx, id, *u).await?;
    }
    for u in &b.add_users {
        if cx.conv(id).await?.members.contains_key(u) {
            continue;
        }
        insert_member(cx, id, *u, Role::Member).await?;
    }
    for m in &effect.added {
        insert_leaf(cx, id, *m, seq).await?;
    }
    if let (Some(welcome), false) = (&b.welcome, effect.added.is_empty()) {
        let tree = Blob::from(group.tree()?);
        sqlx::query("INSERT INTO welcomes (conversation_id, seq, welcome, ratchet_tree) VALUES ($1, $2, $3, $4)")
            .bind(id.as_bytes().as_slice())
            .bind(db::int(seq))
            .bind(welcome.to_vec())
            .bind(tree.to_vec())
            .execute(&mut cx.conn)
            .await?;
        for m in &effect.added {
            sqlx::query("INSERT INTO welcome_recipients (conversation_id, seq, device_id) VALUES ($1, $2, $3)")
                .bind(id.as_bytes().as_slice())
                .bind(db::int(seq))
                .bind(m.device.as_bytes().as_slice())
                .execute(&mut cx.conn)
                .await?;
        }
        let frame = Envelope { kind: EnvelopeKind::Welcome, payload: welcome.clone(), ratchet_tree: Some(tree), ..envelope.clone() };
        cx.to_devices(ServerFrame::NewMessage(frame), effect.added.iter().map(|m| m.device).collect());
    }
    let answer = Appended { conversation_id: id, temp_id: b.temp_id, seq, sent_at: now };
    // The commit itself goes to those who were inside before it, the removed ones too: it tells them.
    let sent = ServerFrame::MessageSent { request_id: 0, conversation_id: id, temp_id: b.temp_id, seq, sent_at: now };
    cx.to_devices(sent, vec![who.device]);
    cx.to_devices(ServerFrame::NewMessage(envelope), before.into_iter().filter(|d| *d != who.device).collect());
    if !b.add_users.is_empty() || !b.remove_users.is_empty() {
        announce(cx, id, &b.remove_users).await?;
    }
    Ok(answer)
}

async fn save_group(cx: &mut WriteCx, id: ConversationId, group: &Group, generation: u32, info: &Blob) -> ApiResult<()> {
    sqlx::query("UPDATE conversations SET public_group = $1, group_info = $2, epoch = $3, generation = $4, group_id = $5 WHERE conversation_id = $6")
        .bind(group.to_blob()?)
        .bind(info.to_vec())
        .bind(db::int(group.epoch()))
        .bind(i64::from(generation))
        .bind(mls::group_id(id, generation))
        .bind(id.as_bytes().as_slice())
        .execute(&mut cx.conn)
        .await?;
    Ok(())
}

/// A device is inside: its stay begins, or goes on where it was when the account never stopped being a member.
pub async fn insert_leaf(cx: &mut WriteCx, id: ConversationId, m: Member, start: u64) -> ApiResult<()> {
    sqlx::query(
        "INSERT INTO leaves (conversation_id, device_id, user_id, start_seq, end_seq, in_group) VALUES ($1, $2, $3, $4, NULL, 1) \
         ON CONFLICT (conversation_id, device_id) DO UPDATE SET \
         start_seq = CASE WHEN leaves.end_seq IS NULL THEN leaves.start_seq ELSE $4 END, end_seq = NULL, in_group = 1",
    )
    .bind(id.as_bytes().as_slice())
    .bind(m.device.as_bytes().as_slice())
    .bind(m.user.as_bytes().as_slice())
    .bind(db::int(start))
    .execute(&mut cx.conn)
    .await?;
    if cx.knows(id) {
        let c = cx.conv(id).await?;
        c.leaves.insert(m.device, m.user);
        c.audience = None;
    }
    Ok(())
}

async fn end_leaf(cx: &mut WriteCx, id: ConversationId, device: DeviceId, end: u64) -> ApiResult<()> {
    sqlx::query("UPDATE leaves SET end_seq = $1, in_group = 0 WHERE conversation_id = $2 AND device_id = $3 AND end_seq IS NULL")
        .bind(db::int(end))
        .bind(id.as_bytes().as_slice())
        .bind(device.as_bytes().as_slice())
        .execute(&mut cx.conn)
        .await?;
    let c = cx.conv(id).await?;
    c.leaves.remove(&device);
    c.audience = None;
    Ok(())
}

/// Somebody becomes a member.
pub async fn insert_member(cx: &mut WriteCx, id: ConversationId, user: UserId, role: Role) -> ApiResult<()> {
    sqlx::query("INSERT INTO members (conversation_id, user_id, role, read_seq) VALUES ($1, $2, $3, 0)")
        .bind(id.as_bytes().as_slice())
        .bind(user.as_bytes().as_slice())
        .bind(db::role_int(role))
        .execute(&mut cx.conn)
        .await?;
    if cx.knows(id) {
        cx.conv(id).await?.members.insert(user, role);
    }
    Ok(())
}

/// Somebody stops being a member.
pub async fn remove_member(cx: &mut WriteCx, id: ConversationId, user: UserId) -> ApiResult<()> {
    sqlx::query("DELETE FROM members WHERE conversation_id = $1 AND user_id = $2")
        .bind(id.as_bytes().as_slice())
        .bind(user.as_bytes().as_slice())
        .execute(&mut cx.conn)
        .await?;
    // Whatever stay is open ends with the membership, inside the group or (after a reset) not yet again.
    let c = cx.conv(id).await?;
    c.members.remove(&user);
    c.leaves.retain(|_, u| *u != user);
    c.audience = None;
    let last = c.last_seq;
    sqlx::query("UPDATE leaves SET end_seq = $1, in_group = 0 WHERE conversation_id = $2 AND user_id = $3 AND end_seq IS NULL")
        .bind(db::int(last))
        .bind(id.as_bytes().as_slice())
        .bind(user.as_bytes().as_slice())
        .execute(&mut cx.conn)
        .await?;
    Ok(())
}

/// Tells the members, and those who were, that the conversation changed.
pub async fn announce(cx: &mut WriteCx, id: ConversationId, also: &[UserId]) -> ApiResult<()> {
    let users: Vec<UserId> = cx.conv(id).await?.members.keys().copied().chain(also.iter().copied()).collect();
    for user in users {
        cx.to_user(user, ServerFrame::ConversationUpdated { conversation_id: id });
    }
    Ok(())
}

/// Devices that left or were revoked: delivery stops now; the proposals for the next committer go into the log.
pub async fn expel(app: &App, cx: &mut WriteCx, id: ConversationId, devices: &[DeviceId]) -> ApiResult<()> {
    let mut stored = load(cx, id).await?;
    let proposals = stored.group.propose_removals(devices, &app.secrets.external_sender)?;
    let now = cx.now;
    let last = cx.conv(id).await?.last_seq;
    for device in devices {
        end_leaf(cx, id, *device, last).await?;
    }
    for payload in proposals {
        let conv = cx.conv(id).await?;
        let envelope = Envelope {
            conversation_id: id,
            seq: conv.assign(),
            kind: EnvelopeKind::Proposal,
            generation: conv.generation,
            epoch: conv.epoch,
            sender_user: UserId(uuid::Uuid::nil()),
            sender_device: DeviceId(uuid::Uuid::nil()),
            temp_id: TempId::generate(),
            sent_at: now,
            payload: Blob::from(payload),
            ratchet_tree: None,
        };
        cx.append(&envelope).await?;
        cx.deliver(envelope);
    }
    let info = stored.group_info.clone();
    save_group(cx, id, &stored.group, stored.generation, &info).await
}

/// `POST /v1/conversations/{id}/reset`: by either side of a direct conversation, by admins of a group.
pub async fn reset(
    State(app): State<App>,
    who: Authed,
    Path(id): Path<ConversationId>,
    Body(b): Body<ResetConversation>,
) -> Answer<Appended> {
    if b.announcement.len() > 4096 {
        return Err(ApiError::new(ErrorCode::PayloadTooLarge, "The announcement is too large."));
    }
    let inner = app.clone();
    app.writer.write(move |cx| Box::pin(async move { reset_in(&inner, cx, who, id, b).await.map(Json) })).await
}

async fn reset_in(app: &App, cx: &mut WriteCx, who: Authed, id: ConversationId, b: ResetConversation) -> ApiResult<Appended> {
    if let Some(done) = cx.earlier(who.device, b.temp_id).await? {
        return Ok(done);
    }
    let now = cx.now;
    let conv = cx.conv(id).await.map_err(hide)?;
    let role = *conv.members.get(&who.user).ok_or_else(ApiError::not_a_member)?;
    conv.admit_epoch(b.generation, b.epoch).map_err(refusal)?;
    if conv.kind == ConversationKind::Group && role < Role::Admin {
        return Err(ApiError::new(ErrorCode::Forbidden, "Only the owner and admins of a group reset it for everyone."));
    }
    let old_suite = load(cx, id).await?.group.suite();
    let generation = b.generation + 1;
    let creator = Member { user: who.user, device: who.device };
    let sender = app.secrets.external_sender.verifying_key().to_bytes();
    let group = Group::create(&b.group, &mls::group_id(id, generation), creator, &sender)?;
    check_leaves(cx, &[group.creator()?]).await?;
    take_repair(app, format!("reset {id} {}", who.user))?;
    if old_suite == sc_protocol::suite::HYBRID && group.suite() != old_suite {
        return Err(ApiError::new(ErrorCode::InvalidCommit, "A reset may not weaken the encryption."));
    }
    let conv = cx.conv(id).await?;
    let (seq, old_epoch) = (conv.assign(), conv.epoch);
    let before: Vec<DeviceId> = conv.leaves.keys().copied().collect();
    conv.generation = generation;
    conv.epoch = 0;
    let envelope = Envelope {
        conversation_id: id,
        seq,
        kind: EnvelopeKind::Reset,
        generation,
        epoch: old_epoch,
        sender_user: who.user,
        sender_device: who.device,
        temp_id: b.temp_id,
        sent_at: now,
        payload: b.announcement.clone(),
        ratchet_tree: None,
    };
    cx.append(&envelope).await?;
    save_group(cx, id, &group, generation, &b.group.group_info).await?;
    sqlx::query("UPDATE leaves SET in_group = 0 WHERE conversation_id = $1").bind(id.as_bytes().as_slice()).execute(&mut cx.conn).await?;
    let c = cx.conv(id).await?;
    c.leaves.clear();
    c.audience = None;
    insert_leaf(cx, id, creator, seq).await?;
    let sent = ServerFrame::MessageSent { request_id: 0, conversation_id: id, temp_id: b.temp_id, seq, sent_at: now };
    cx.to_devices(sent, vec![who.device]);
    cx.to_devices(ServerFrame::NewMessage(envelope), before.into_iter().filter(|d| *d != who.device).collect());
    Ok(Appended { conversation_id: id, temp_id: b.temp_id, seq, sent_at: now })
}
