//! The jobs of the outbox, kind by kind.
//!
//! Every job is idempotent by its `temp_id`. What is sent is stored before it is sent and sent again unchanged until the
//! server has answered. A job is completed in the transaction that stores its place in the log ([`complete`]), whether
//! the place came as an answer, as a frame or while catching up.

mod membership;
mod renew;

pub use membership::verify_user;

use crate::core::Cx;
use crate::core::inbox::{Entry, Todo, project};
use crate::core::outbox::{Prepared, fail, prepare, queue_silent};
use crate::core::{calls, rooms};
use crate::sync::Shared;
use crate::{EngineError, EngineResult, Event, now_ms};
use membership::commit;
use renew::{install_rejoin, install_reset, rejoin, reset};
use sc_e2ee::content::{Content, Message, ResendRequest};
use sc_e2ee::group::Group;
use sc_protocol::frame::ClientFrame;
use sc_protocol::rest::{Appended, ConversationKind, CreateConversation, CreatedConversation, Empty, NewGroup, SendMessage};
use sc_protocol::{Blob, ConversationId, ErrorCode, TempId, UnixMillis, UserId, suite};
use sc_store::model::{Conversation, ConversationState, Job, System};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// Names of the kinds, as stored.
pub mod kind {
    /// A message with a row.
    pub const MESSAGE: &str = "message";
    /// A message without one.
    pub const SILENT: &str = "silent";
    /// Makes a conversation on the server.
    pub const CREATE: &str = "create";
    /// Adds people, or devices that are missing.
    pub const ADD: &str = "add";
    /// Removes people.
    pub const REMOVE: &str = "remove";
    /// Commits what the server proposed, or renews this device's keys.
    pub const COMMIT: &str = "commit";
    /// Rejoins by external commit (reset level 1).
    pub const REJOIN: &str = "rejoin";
    /// A new group for everyone (reset level 2).
    pub const RESET: &str = "reset";
    /// Leaves.
    pub const LEAVE: &str = "leave";
}

/// Body of [`kind::CREATE`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Create {
    /// The other person of a direct conversation.
    pub peer: Option<UserId>,
    /// The others of a group.
    pub members: Vec<UserId>,
}

/// Body of [`kind::ADD`] and [`kind::REMOVE`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct People {
    /// Who.
    pub users: Vec<UserId>,
    /// They are members already; only their devices are missing.
    pub devices_only: bool,
}

/// Body of [`kind::COMMIT`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Commit {
    /// Commit even when the server proposed nothing.
    pub force: bool,
}

/// Body of [`kind::REJOIN`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Rejoin {
    /// Nothing to do when a Welcome has come in the meantime.
    pub only_if_joining: bool,
}

/// CBOR.
pub fn encode<T: Serialize>(v: &T) -> EngineResult<Vec<u8>> {
    let mut out = Vec::new();
    ciborium::into_writer(v, &mut out).map_err(|e| EngineError::invalid("ENCODING", e.to_string()))?;
    Ok(out)
}

fn decode<T: DeserializeOwned>(b: &[u8]) -> EngineResult<T> {
    ciborium::from_reader(b).map_err(|e| EngineError::invalid("ENCODING", e.to_string()))
}

/// What to do with a job after a try.
#[derive(Debug)]
pub enum Outcome {
    /// Finished, or waiting for its place; look for the next one.
    Done,
    /// Something changed; try again at once.
    Again,
    /// Try again later.
    Wait,
}

/// Carries out one job.
pub async fn run(s: &Shared, job: Job) -> EngineResult<Outcome> {
    match job.kind.as_str() {
        kind::MESSAGE | kind::SILENT => send(s, job).await,
        kind::CREATE => create(s, job).await,
        kind::ADD | kind::REMOVE | kind::COMMIT => commit(s, job).await,
        kind::REJOIN => rejoin(s, job).await,
        kind::RESET => reset(s, job).await,
        kind::LEAVE => leave(s, job).await,
        other => {
            tracing::error!(kind = other, "a job of an unknown kind is dropped");
            s.db.write(move |cx| Ok(cx.w.delete_job(job.id)?)).await?;
            Ok(Outcome::Done)
        }
    }
}

/// The place of something of ours: finishes its job. Doing it twice changes nothing.
pub fn complete(cx: &mut Cx<'_>, c: &Conversation, temp_id: TempId, seq: u64, at: UnixMillis, todo: &mut Todo) -> EngineResult<()> {
    let Some(job) = cx.r().job_by_temp_id(temp_id)? else {
        // Given up here, stored there all the same.
        cx.w.mark_sent(c.id, temp_id, seq, at)?;
        return Ok(());
    };
    match job.kind.as_str() {
        kind::MESSAGE => {
            cx.w.mark_sent(c.id, temp_id, seq, at)?;
            cx.w.set_read_seq(c.id, seq)?;
        }
        kind::SILENT => {
            cx.w.set_silent(c.id, seq)?;
            match Message::decode(&job.body).map(|m| m.content) {
                Ok(Content::Call(signal)) => calls::placed(cx, c, seq, at, &signal, todo)?,
                Ok(Content::RoomOpened) => {
                    let own = cx.own()?.user;
                    rooms::opened(cx, c.id, own, seq, at)?;
                }
                _ => {}
            }
        }
        kind::REJOIN => install_rejoin(cx, c, &job, seq, at, todo)?,
        kind::RESET => install_reset(cx, c, &job, seq, at)?,
        _ => {
            let (epoch, generation) = (job.epoch, job.generation);
            let change = cx.with_group(c, |g, mls| {
                if !g.has_pending_commit() || g.epoch() != epoch || c.generation != generation {
                    return Ok(None);
                }
                let change = g.pending_change()?;
                g.merge_pending(mls)?;
                Ok(Some(change))
            })?;
            match change.flatten() {
                Some(change) => project(cx, c, seq, at, &change, todo)?,
                // The server took a commit whose keys are not here any more.
                None => crate::core::inbox::queue_rejoin(cx, c)?,
            }
            cx.w.forget_ciphertexts(c.id)?;
        }
    }
    cx.w.delete_job(job.id)?;
    cx.events.insert(Event::Outbox);
    Ok(())
}

async fn store_place(s: &Shared, a: Appended) -> EngineResult<()> {
    s.store(vec![Entry::Own { conversation: a.conversation_id, temp_id: a.temp_id, seq: a.seq, at: a.sent_at }]).await
}

async fn send(s: &Shared, job: Job) -> EngineResult<Outcome> {
    let id = job.id;
    let job = match s.db.write(move |cx| prepare(cx, id)).await? {
        Prepared::Ready(job) => job,
        Prepared::Later => return Ok(Outcome::Wait),
        Prepared::Failed => return Ok(Outcome::Done),
    };
    let message = SendMessage {
        conversation_id: job.conversation,
        temp_id: job.temp_id,
        epoch: job.epoch,
        generation: job.generation,
        payload: Blob::from(job.ciphertext.clone().unwrap_or_default()),
    };
    match s.request(|request_id| ClientFrame::SendMessage { request_id, message }).await {
        // The place came with the frame, in the order of the log.
        Ok(()) => Ok(Outcome::Done),
        Err(EngineError::Server(e)) => refused(s, job, *e).await,
        Err(e) => Err(e),
    }
}

async fn refused(s: &Shared, job: Job, e: sc_protocol::ErrorBody) -> EngineResult<Outcome> {
    match e.code {
        ErrorCode::StaleEpoch => {
            s.catch_up_to(job.conversation, e.seq.unwrap_or(0)).await?;
            s.db.write(move |cx| {
                let c = cx.conversation(job.conversation)?;
                let here = cx.with_group(&c, |g, _| Ok(g.epoch()))?;
                if c.state == ConversationState::Active && c.generation == job.generation && here == Some(job.epoch) {
                    // Everything is here and it is still not the server's state: out of step.
                    crate::core::inbox::break_session(cx, &c)?;
                    cx.w.delay_job(job.id, cx.now + 1_000)?;
                }
                Ok(())
            })
            .await?;
            Ok(Outcome::Again)
        }
        ErrorCode::NotAMember => {
            // The server decides who is a member; whether only this device is missing, it says too.
            s.refresh_conversation(job.conversation).await?;
            s.db.write(move |cx| {
                let c = cx.conversation(job.conversation)?;
                if c.state == ConversationState::Left {
                    return fail(cx, &job, "NOT_A_MEMBER");
                }
                crate::core::inbox::queue_rejoin(cx, &c)
            })
            .await?;
            Ok(Outcome::Wait)
        }
        code if code.is_retryable() => {
            let wait = i64::try_from(e.retry_after_ms.unwrap_or(1_000)).unwrap_or(1_000);
            s.db.write(move |cx| Ok(cx.w.delay_job(job.id, cx.now + wait)?)).await?;
            Ok(Outcome::Wait)
        }
        code => {
            s.db.write(move |cx| fail(cx, &job, code.as_str())).await?;
            Ok(Outcome::Done)
        }
    }
}

async fn create(s: &Shared, job: Job) -> EngineResult<Outcome> {
    let body: Create = decode(&job.body)?;
    let id = job.conversation;
    let request: CreateConversation = match &job.ciphertext {
        Some(b) => decode(b)?,
        None => {
            let (peer, job) = (body.peer, job.clone());
            s.db.write(move |cx| {
                let c = cx.conversation(id)?;
                let server_key = cx.own()?.server_key.clone();
                let (group, public) = cx.with_context(|mls| Ok(Group::create(mls, id, 0, c.suite, &server_key)?))?;
                cx.set_group(id, Some(group));
                let group = NewGroup { group_info: Blob::from(public.group_info), ratchet_tree: Blob::from(public.ratchet_tree) };
                let request = CreateConversation { conversation_id: id, peer, group };
                cx.w.set_ciphertext(&job, Some(&encode(&request)?), 0, 0)?;
                Ok(request)
            })
            .await?
        }
    };
    let path = if request.peer.is_some() { "/v1/conversations/direct" } else { "/v1/conversations" };
    let created: CreatedConversation = match s.api.post(path, &request).await {
        Ok(c) => c,
        // Ours from before a crash.
        Err(EngineError::Server(e)) if e.code == ErrorCode::Conflict => {
            CreatedConversation { conversation: s.api.get(&format!("/v1/conversations/{id}")).await?, created: true }
        }
        Err(e) => return give_up(s, job, e).await,
    };
    s.db.write(move |cx| {
        let info = created.conversation;
        if info.conversation_id != id {
            return adopt(cx, id, &info);
        }
        cx.w.set_roster(id, &info.members)?;
        cx.w.set_state(id, ConversationState::Active)?;
        if body.peer.is_none() {
            let by = cx.own()?.user;
            cx.w.insert_system(id, 0, cx.now, &System::Created { by })?;
        }
        let own = cx.own()?.user;
        for user in body.peer.into_iter().chain([own]) {
            cx.w.trust(id, user)?;
        }
        let users = body.peer.map_or(body.members, |p| vec![p]);
        cx.w.delete_job(job.id)?;
        let add = People { users, devices_only: body.peer.is_some() };
        cx.w.push_job_first(id, kind::ADD, TempId::generate(), &encode(&add)?)?;
        cx.changed(id);
        cx.events.insert(Event::Outbox);
        Ok(())
    })
    .await?;
    Ok(Outcome::Done)
}

/// The pair has a conversation already: what was written here moves there.
fn adopt(cx: &mut Cx<'_>, local: ConversationId, info: &sc_protocol::rest::ConversationInfo) -> EngineResult<()> {
    let c = cx.conversation(local)?;
    if cx.r().conversation(info.conversation_id)?.is_none() {
        let state = ConversationState::Joining;
        cx.w.insert_conversation(&Conversation { id: info.conversation_id, state, roster: info.members.clone(), next_n: 1, ..c })?;
    }
    cx.w.move_unsent(local, info.conversation_id)?;
    cx.delete_group(local, 0)?;
    cx.w.delete_conversation(local)?;
    cx.events.insert(Event::Moved(local, info.conversation_id));
    cx.changed(info.conversation_id);
    if !info.device_in_group {
        crate::core::inbox::queue_join(cx, info.conversation_id, 2_000)?;
    }
    cx.events.insert(Event::Outbox);
    Ok(())
}

/// A refusal that is not about the group: final ones end the job and are told.
async fn give_up(s: &Shared, job: Job, e: EngineError) -> EngineResult<Outcome> {
    if e.is_retryable() {
        return Err(e);
    }
    let code = e.code().to_owned();
    tracing::warn!(kind = job.kind, cause = %e, "a job was refused");
    s.db.write(move |cx| {
        let c = cx.conversation(job.conversation)?;
        cx.with_group(&c, |g, mls| Ok(g.clear_pending(mls.storage)?))?;
        cx.w.delete_job(job.id)?;
        cx.w.insert_system(c.id, c.last_seq, cx.now, &System::Refused { reason: code })?;
        if job.kind == kind::CREATE {
            cx.w.set_state(c.id, ConversationState::Broken)?;
        }
        cx.changed(c.id);
        Ok(())
    })
    .await?;
    Ok(Outcome::Done)
}

async fn leave(s: &Shared, job: Job) -> EngineResult<Outcome> {
    let id = job.conversation;
    match s.api.post::<Empty>(&format!("/v1/conversations/{id}/leave"), &Empty {}).await {
        Ok(_) => {}
        Err(EngineError::Server(e)) if e.code == ErrorCode::NotAMember => {}
        Err(e) => return give_up(s, job, e).await,
    }
    s.db.write(move |cx| {
        let c = cx.conversation(id)?;
        cx.delete_group(id, c.generation)?;
        cx.w.set_state(id, ConversationState::Left)?;
        cx.w.delete_job(job.id)?;
        let who = cx.own()?.user;
        cx.w.insert_system(id, c.last_seq, cx.now, &System::Removed { who, by: who })?;
        cx.changed(id);
        Ok(())
    })
    .await?;
    Ok(Outcome::Done)
}

/// Asks for messages that could not be read and whose time has come.
pub async fn ask_again(s: &Shared) -> EngineResult<()> {
    s.db.write(|cx| {
        let device = cx.own()?.device.link_public();
        for c in cx.r().conversations()? {
            if c.state != ConversationState::Active || c.needs_rejoin {
                continue;
            }
            let seqs = cx.r().resends_due(c.id, now_ms(), 100)?;
            if seqs.is_empty() {
                continue;
            }
            for seq in &seqs {
                cx.w.resend_asked(c.id, *seq, cx.now + 6 * 3_600_000)?;
            }
            queue_silent(cx, c.id, Content::ResendRequest(ResendRequest { seqs, key: device.to_vec() }))?;
        }
        Ok(())
    })
    .await
}

/// A conversation that has to be made.
pub fn start_conversation(cx: &mut Cx<'_>, peer: Option<UserId>, members: Vec<UserId>, title: &str) -> EngineResult<ConversationId> {
    let own = cx.own()?.user;
    let id = ConversationId::generate();
    let kind_of = if peer.is_some() { ConversationKind::Direct } else { ConversationKind::Group };
    let suite = if members.len() < suite::HYBRID_LEAVES { suite::HYBRID } else { suite::CLASSIC };
    let new = Conversation::new(id, kind_of, ConversationState::Creating, cx.now);
    cx.w.insert_conversation(&Conversation { title: title.to_owned(), peer, suite, ..new })?;
    let members: Vec<UserId> = members.into_iter().filter(|m| *m != own).collect();
    cx.w.push_job(id, kind::CREATE, TempId::generate(), &encode(&Create { peer, members })?)?;
    if !title.is_empty() {
        queue_silent(cx, id, Content::Title(title.to_owned()))?;
    }
    cx.changed(id);
    cx.events.insert(Event::Outbox);
    Ok(id)
}
