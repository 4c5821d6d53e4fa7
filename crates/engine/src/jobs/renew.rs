//! Renewing a session: rejoining by external commit (level 1), a new group for everyone (level 2).

use super::{Outcome, People, Rejoin, decode, encode, give_up, kind, refused, store_place};
use crate::core::inbox::Todo;
use crate::core::{Cx, MlsRows};
use crate::sync::Shared;
use crate::{EngineError, EngineResult};
use sc_e2ee::group::{Group, PublicState};
use sc_e2ee::kv::{KvStorage, ScratchStore};
use sc_e2ee::reset::Announcement;
use sc_protocol::rest::{Appended, GroupState, NewGroup, PostCommit, ResetConversation};
use sc_protocol::{Blob, ConversationId, ErrorCode, TempId, UnixMillis, UserId, suite};
use sc_store::model::{Conversation, ConversationState, Job, System};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct RejoinSent {
    post: PostCommit,
    #[serde(with = "serde_bytes")]
    scratch: Vec<u8>,
    suite: u16,
}

pub(super) async fn rejoin(s: &Shared, job: Job) -> EngineResult<Outcome> {
    let body: Rejoin = decode(&job.body)?;
    let id = job.conversation;
    let c = s.read(|r, id: ConversationId| r.conversation(id), id).await?;
    // What may have reached the server already is resolved first: only its answer says whether it holds a place in the log.
    let unneeded = body.only_if_joining && job.ciphertext.is_none();
    let done = c.as_ref().is_none_or(|c| c.state == ConversationState::Left || (unneeded && c.state != ConversationState::Joining));
    if done {
        s.db.write(move |cx| Ok(cx.w.delete_job(job.id)?)).await?;
        return Ok(Outcome::Done);
    }
    let sent: RejoinSent = match &job.ciphertext {
        Some(b) => decode(b)?,
        None => {
            let state: GroupState = match s.api.get(&format!("/v1/conversations/{id}/group")).await {
                Ok(g) => g,
                Err(EngineError::Server(e)) if e.code == ErrorCode::NotAMember => return refused(s, job, *e).await,
                Err(e) => return give_up(s, job, e).await,
            };
            // Who came in on the way to that state is seen by following, as far as this device still can.
            if c.is_some_and(|c| c.state == ConversationState::Active) {
                s.catch_up_to(id, state.seq).await?;
            }
            let prepared = job.clone();
            match s.db.write(move |cx| prepare_rejoin(cx, &prepared, &state)).await {
                Ok(sent) => sent,
                Err(e @ (EngineError::E2ee(_) | EngineError::Invalid(..))) => return broken(s, job, e).await,
                Err(e) => return Err(e),
            }
        }
    };
    match s.api.post::<Appended>(&format!("/v1/conversations/{id}/commits"), &sent.post).await {
        Ok(a) => {
            // Entries before the place are read with the old group where that is possible.
            s.catch_up_to(id, a.seq.saturating_sub(1)).await?;
            store_place(s, a).await?;
            Ok(Outcome::Done)
        }
        Err(EngineError::Server(e)) if matches!(e.code, ErrorCode::StaleEpoch | ErrorCode::InvalidCommit) => {
            let attempts = job.attempts;
            s.db.write(move |cx| {
                cx.w.set_ciphertext(&job, None, 0, 0)?;
                cx.w.delay_job(job.id, cx.now + 200 * i64::from(attempts))?;
                if body.only_if_joining && cx.conversation(id)?.state != ConversationState::Joining {
                    // It holds no place, and the device came in by a Welcome meanwhile.
                    cx.w.delete_job(job.id)?;
                } else if attempts >= 5 {
                    cx.w.delete_job(job.id)?;
                    cx.w.set_state(id, ConversationState::Broken)?;
                    cx.changed(id);
                }
                Ok(())
            })
            .await?;
            Ok(Outcome::Again)
        }
        Err(e) => give_up(s, job, e).await,
    }
}

/// The server's group cannot be entered: say so instead of trying for ever.
async fn broken(s: &Shared, job: Job, e: EngineError) -> EngineResult<Outcome> {
    tracing::warn!(conversation = %job.conversation, cause = %e, "the session cannot be renewed");
    let reason = e.code().to_owned();
    s.db.write(move |cx| {
        let c = cx.conversation(job.conversation)?;
        cx.w.delete_job(job.id)?;
        cx.w.set_state(c.id, ConversationState::Broken)?;
        cx.w.insert_system(c.id, c.last_seq, cx.now, &System::Refused { reason })?;
        cx.changed(c.id);
        Ok(())
    })
    .await?;
    Ok(Outcome::Done)
}

fn prepare_rejoin(cx: &mut Cx<'_>, job: &Job, state: &GroupState) -> EngineResult<RejoinSent> {
    let own = cx.own()?;
    let public = PublicState { group_info: state.group_info.to_vec(), ratchet_tree: state.ratchet_tree.to_vec() };
    let (group, scratch, bundle) = Group::rejoin(cx.crypto, &own.device, &own.certificate, &public)?;
    if group.id() != sc_e2ee::group::group_id(job.conversation, state.generation) {
        return Err(EngineError::invalid("IDENTITY_MISMATCH", "The server answered with another group."));
    }
    let c = cx.conversation(job.conversation)?;
    let leaves = group.leaves()?;
    if let Err(reason) = crate::core::inbox::vet_group(cx, &c, &leaves, group.suite())? {
        return Err(EngineError::invalid("IDENTITY_MISMATCH", format!("The server's group was refused: {reason}.")));
    }
    for l in &leaves {
        cx.pin(l.user, &l.identity_key, None)?;
    }
    let post = PostCommit {
        temp_id: job.temp_id,
        generation: state.generation,
        epoch: state.epoch,
        commit: Blob::from(bundle.commit),
        welcome: None,
        group_info: Blob::from(bundle.group_info),
        add_users: Vec::new(),
        remove_users: Vec::new(),
    };
    let sent = RejoinSent { post, scratch: scratch.to_bytes().map_err(sc_e2ee::E2eeError::mls)?, suite: group.suite() };
    cx.w.set_ciphertext(job, Some(&encode(&sent)?), state.generation, state.epoch)?;
    Ok(sent)
}

pub(super) fn install_rejoin(cx: &mut Cx<'_>, c: &Conversation, job: &Job, seq: u64, at: UnixMillis, todo: &mut Todo) -> EngineResult<()> {
    let Some(bytes) = &job.ciphertext else { return Ok(()) };
    let sent: RejoinSent = decode(bytes)?;
    cx.delete_group(c.id, c.generation)?;
    cx.delete_group(c.id, sent.post.generation)?;
    let scratch = ScratchStore::from_bytes(&sent.scratch).map_err(sc_e2ee::E2eeError::mls)?;
    scratch.install(&MlsRows(cx.w)).map_err(sc_e2ee::E2eeError::mls)?;
    let id = sc_e2ee::group::group_id(c.id, sent.post.generation);
    let group = Group::load(&KvStorage(MlsRows(cx.w)), &id)?;
    for l in group.as_ref().map(Group::leaves).transpose()?.unwrap_or_default() {
        cx.w.trust(c.id, l.user)?;
    }
    cx.set_group(c.id, group);
    cx.w.set_group(c.id, sent.post.generation, sent.suite)?;
    cx.w.set_state(c.id, ConversationState::Active)?;
    cx.w.set_needs_rejoin(c.id, false)?;
    cx.w.forget_ciphertexts(c.id)?;
    if c.last_seq > 0 {
        let who = cx.own()?.user;
        cx.w.insert_system(c.id, seq, at, &System::SessionRefreshed { who })?;
    }
    todo.want_refresh(c.id);
    Ok(())
}

pub(super) async fn reset(s: &Shared, job: Job) -> EngineResult<Outcome> {
    let id = job.conversation;
    let request: ResetConversation = match &job.ciphertext {
        Some(b) => decode(b)?,
        None => {
            let state: GroupState = match s.api.get(&format!("/v1/conversations/{id}/group")).await {
                Ok(g) => g,
                Err(e) => return give_up(s, job, e).await,
            };
            s.catch_up_to(id, state.seq).await?;
            let job = job.clone();
            s.db.write(move |cx| prepare_reset(cx, &job, &state)).await?
        }
    };
    match s.api.post::<Appended>(&format!("/v1/conversations/{id}/reset"), &request).await {
        Ok(a) => {
            s.catch_up_to(id, a.seq.saturating_sub(1)).await?;
            store_place(s, a).await?;
            Ok(Outcome::Done)
        }
        Err(EngineError::Server(e)) if e.code == ErrorCode::StaleEpoch => {
            s.db.write(move |cx| {
                cx.w.set_ciphertext(&job, None, 0, 0)?;
                cx.w.delay_job(job.id, cx.now + 200 * (1 << job.attempts.min(6)))?;
                Ok(())
            })
            .await?;
            Ok(Outcome::Again)
        }
        Err(e) => give_up(s, job, e).await,
    }
}

fn prepare_reset(cx: &mut Cx<'_>, job: &Job, state: &GroupState) -> EngineResult<ResetConversation> {
    let own = cx.own()?;
    let c = cx.conversation(job.conversation)?;
    let generation = state.generation + 1;
    let suite = if c.suite == 0 { suite::HYBRID } else { c.suite };
    cx.delete_group(c.id, generation)?;
    let (_, public) = cx.with_context(|mls| Ok(Group::create(mls, c.id, generation, suite, &own.server_key)?))?;
    let announcement = Announcement {
        conversation_id: c.id,
        generation,
        old_epoch: state.epoch,
        suite,
        user_id: own.user,
        device_id: own.device.device_id,
    };
    let request = ResetConversation {
        temp_id: job.temp_id,
        generation: state.generation,
        epoch: state.epoch,
        group: NewGroup { group_info: Blob::from(public.group_info), ratchet_tree: Blob::from(public.ratchet_tree) },
        announcement: Blob::from(announcement.sign(&own.device)?),
    };
    cx.w.set_ciphertext(job, Some(&encode(&request)?), generation, 0)?;
    Ok(request)
}

pub(super) fn install_reset(cx: &mut Cx<'_>, c: &Conversation, job: &Job, seq: u64, at: UnixMillis) -> EngineResult<()> {
    let own = cx.own()?.user;
    cx.delete_group(c.id, c.generation)?;
    let suite = if c.suite == 0 { suite::HYBRID } else { c.suite };
    cx.w.set_group(c.id, job.generation, suite)?;
    cx.w.set_state(c.id, ConversationState::Active)?;
    cx.w.set_needs_rejoin(c.id, false)?;
    cx.w.forget_ciphertexts(c.id)?;
    cx.w.insert_system(c.id, seq, at, &System::SessionReset { by: own })?;
    // The same people, no others: a reset never grows the roster.
    let trusted = cx.r().trusted(c.id)?;
    let users: Vec<UserId> = c.roster.iter().map(|m| m.user_id).filter(|u| *u != own && trusted.contains(u)).collect();
    cx.w.push_job_first(c.id, kind::ADD, TempId::generate(), &encode(&People { users, devices_only: true })?)?;
    Ok(())
}
