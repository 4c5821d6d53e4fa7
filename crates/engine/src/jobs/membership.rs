//! Who is in the group: verified accounts, claimed key packages, commits.

use super::{Commit, Outcome, People, decode, encode, give_up, kind, refused, store_place};
use crate::core::Cx;
use crate::sync::Shared;
use crate::{EngineError, EngineResult};
use sc_e2ee::group::{CommitBundle, VerifiedKeyPackage, verify_key_package};
use sc_protocol::identity::DeviceList;
use sc_protocol::rest::{Appended, ClaimKeyPackages, ClaimedKeyPackages, PostCommit, UserInfo};
use sc_protocol::{Blob, ConversationId, ErrorCode, UserId};
use sc_store::model::{Contact, ConversationState, IdentityChange, Job, System};

/// Version of the own device list, the newest that was seen.
const OWN_LIST: &str = "own_list_version";

/// Verifies what the server says about an account against what is pinned; newest facts are stored.
pub fn verify_user(cx: &mut Cx<'_>, info: &UserInfo) -> EngineResult<DeviceList> {
    let list = DeviceList::verify(info.device_list.as_slice(), info.identity_key.as_slice()).map_err(sc_e2ee::E2eeError::from)?;
    if info.user_id == cx.own()?.user {
        // Pinning refuses another identity; here an older list, which would bring a removed device back.
        let known = cx.r().meta(OWN_LIST)?.and_then(|b| b.try_into().ok().map(u64::from_be_bytes)).unwrap_or(0);
        if list.version < known {
            return Err(EngineError::invalid(
                "ROLLED_BACK",
                "The server showed an older list of your devices than before. Nothing was sent.",
            ));
        }
        cx.w.set_meta(OWN_LIST, &list.version.to_be_bytes())?;
    }
    if list.user_id != info.user_id {
        return Err(EngineError::invalid("IDENTITY_MISMATCH", "The server answered with another account's identity."));
    }
    cx.pin(info.user_id, info.identity_key.as_slice(), Some(&info.username))?;
    if let Some(k) = cx.r().contact(info.user_id)? {
        if list.version < k.list_version {
            return Err(EngineError::invalid("ROLLED_BACK", "The server showed an older list of devices than before. Nothing was sent."));
        }
        cx.w.put_contact(&Contact {
            username: info.username.clone(),
            device_list: info.device_list.to_vec(),
            list_version: list.version,
            ..k
        })?;
    }
    Ok(list)
}

async fn claim(s: &Shared, user: UserId, suite: u16) -> EngineResult<Vec<VerifiedKeyPackage>> {
    let claimed: ClaimedKeyPackages = s.api.post(&format!("/v1/users/{user}/key-packages/claim"), &ClaimKeyPackages { suite }).await?;
    let crypto = s.db.crypto.clone();
    s.db.write(move |cx| {
        if claimed.user.user_id != user {
            return Err(EngineError::invalid("IDENTITY_MISMATCH", "The server answered with another account's keys."));
        }
        let list = verify_user(cx, &claimed.user)?;
        if cx.r().contact(user)?.is_some_and(|k| k.changed == IdentityChange::Blocking) {
            return Err(EngineError::invalid("IDENTITY_CHANGED", "Confirm the changed safety number first."));
        }
        let mut out = Vec::new();
        for k in &claimed.key_packages {
            // An expired or odd package is a device without one; it joins by itself.
            let Ok(verified) = verify_key_package(&crypto, suite, k.key_package.as_slice()) else { continue };
            let l = &verified.leaf;
            let listed = list.key_of(l.device).is_some_and(|key| key.as_slice() == l.device_key.as_slice());
            if l.user != user || l.identity_key.as_slice() != claimed.user.identity_key.as_slice() || !listed {
                return Err(EngineError::invalid(
                    "IDENTITY_MISMATCH",
                    "The server handed out keys that are not that person's. Nothing was sent.",
                ));
            }
            out.push(verified);
        }
        Ok(out)
    })
    .await
}

pub(super) async fn commit(s: &Shared, job: Job) -> EngineResult<Outcome> {
    let post: PostCommit = match &job.ciphertext {
        Some(b) => decode(b)?,
        None => match build_commit(s, &job).await {
            Ok(Some(post)) => post,
            Ok(None) => return Ok(Outcome::Done),
            Err(e) => return give_up(s, job, e).await,
        },
    };
    match s.api.post::<Appended>(&format!("/v1/conversations/{}/commits", job.conversation), &post).await {
        Ok(a) => {
            store_place(s, a).await?;
            Ok(Outcome::Done)
        }
        Err(EngineError::Server(e)) if e.code == ErrorCode::StaleEpoch => {
            let (id, conversation) = (job.id, job.conversation);
            s.db.write(move |cx| {
                let Some(job) = cx.r().job(id)? else { return Ok(()) };
                let c = cx.conversation(conversation)?;
                cx.with_group(&c, |g, mls| Ok(g.clear_pending(mls.storage)?))?;
                cx.w.set_ciphertext(&job, None, 0, 0)?;
                cx.w.delay_job(id, cx.now + 50 + i64::from(rand::random::<u8>()))?;
                Ok(())
            })
            .await?;
            s.catch_up_to(conversation, e.seq.unwrap_or(0)).await?;
            Ok(Outcome::Again)
        }
        Err(EngineError::Server(e)) if e.code == ErrorCode::NotAMember => refused(s, job, *e).await,
        Err(EngineError::Server(e)) if e.code == ErrorCode::InvalidCommit => {
            // Our tree is not the server's.
            s.db.write(move |cx| {
                let c = cx.conversation(job.conversation)?;
                cx.with_group(&c, |g, mls| Ok(g.clear_pending(mls.storage)?))?;
                cx.w.delete_job(job.id)?;
                crate::core::inbox::break_session(cx, &c)
            })
            .await?;
            Ok(Outcome::Done)
        }
        Err(e) => give_up(s, job, e).await,
    }
}

async fn build_commit(s: &Shared, job: &Job) -> EngineResult<Option<PostCommit>> {
    let c = s.read(move |r, id: ConversationId| r.conversation(id), job.conversation).await?;
    let Some(c) = c.filter(|c| c.state == ConversationState::Active) else {
        let id = job.id;
        s.db.write(move |cx| Ok(cx.w.delete_job(id)?)).await?;
        return Ok(None);
    };
    let mut people: People = if job.kind == kind::COMMIT { People::default() } else { decode(&job.body)? };
    let force = job.kind == kind::COMMIT && decode::<Commit>(&job.body)?.force;
    let adding = job.kind == kind::ADD;
    let (mut packages, mut absent) = (Vec::new(), Vec::new());
    if adding {
        let own = s.own.user;
        let mut users = people.users.clone();
        if !users.contains(&own) {
            users.push(own);
        }
        for user in users {
            packages.extend(claim(s, user, c.suite).await?);
        }
        if !people.devices_only {
            // The others come in all the same.
            let here = |u: &UserId| packages.iter().any(|p| p.leaf.user == *u);
            (people.users, absent) = people.users.into_iter().partition(here);
            absent.retain(|u| *u != own);
        }
    }
    let job = job.clone();
    s.db.write(move |cx| {
        let c = cx.conversation(job.conversation)?;
        for who in absent {
            cx.w.insert_system(c.id, c.last_seq, cx.now, &System::NotAdded { who })?;
            cx.changed(c.id);
        }
        let removes = people.users.clone();
        let bundle: Option<(CommitBundle, u64)> = cx
            .with_group(&c, |g, mls| {
                let leaves = g.leaves()?;
                packages.retain(|p| !leaves.iter().any(|l| l.device == p.leaf.device));
                let out: Vec<_> =
                    if adding { Vec::new() } else { leaves.iter().filter(|l| removes.contains(&l.user)).map(|l| l.device).collect() };
                if packages.is_empty() && out.is_empty() && !g.has_proposals() && !force {
                    return Ok(None);
                }
                if g.has_pending_commit() {
                    // Left behind by a job that is gone: a job on its way resends its own bytes.
                    g.clear_pending(mls.storage)?;
                }
                let epoch = g.epoch();
                Ok(Some((g.commit(mls, std::mem::take(&mut packages), &out)?, epoch)))
            })?
            .flatten();
        let Some((bundle, epoch)) = bundle else {
            cx.w.delete_job(job.id)?;
            return Ok(None);
        };
        let (add_users, remove_users) = match job.kind.as_str() {
            kind::ADD if !people.devices_only => (people.users, Vec::new()),
            kind::REMOVE => (Vec::new(), people.users),
            _ => (Vec::new(), Vec::new()),
        };
        let post = PostCommit {
            temp_id: job.temp_id,
            generation: c.generation,
            epoch,
            commit: Blob::from(bundle.commit),
            welcome: bundle.welcome.map(Blob::from),
            group_info: Blob::from(bundle.group_info),
            add_users,
            remove_users,
        };
        cx.w.set_ciphertext(&job, Some(&encode(&post)?), c.generation, epoch)?;
        Ok(Some(post))
    })
    .await
}
