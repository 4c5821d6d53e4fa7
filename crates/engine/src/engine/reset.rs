//! "Reset Secure Session": what it will do, doing it, what it has done.

use super::devices::PREPARED;
use super::{Engine, Event};
use crate::account::{self, Prepared};
use crate::core::inbox::{left, queue_rejoin};
use crate::jobs::kind;
use crate::{EngineError, EngineResult};
use sc_protocol::rest::ConversationKind;
use sc_protocol::{ConversationId, TempId, UserId};
use sc_store::model::{Conversation, ConversationState};
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// What is to be reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResetScope {
    /// This device's session in the conversation (level 1).
    Device,
    /// The session of everyone in the conversation (level 2).
    Conversation,
    /// The account's identity (level 3).
    Identity,
}

/// What a reset will do; said before it is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preview {
    /// What is to be reset.
    pub scope: ResetScope,
    /// Conversations that are touched.
    pub conversations: u32,
    /// People who are told.
    pub people: u32,
    /// Members by the server's word whom this device did not see coming in, by name: it was out of step then, or the
    /// server is lying. They are let in by [`Engine::accept_members`] and by nothing else.
    pub newcomers: Vec<(UserId, String)>,
    /// Messages that could not be read, and will be asked for again.
    pub unreadable: u32,
    /// Safety numbers change for everybody.
    pub safety_numbers_change: bool,
    /// The history on this device stays readable. Always true; a test holds it to that.
    pub history_kept: bool,
    /// The password is asked for.
    pub needs_password: bool,
}

/// What a reset has done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What was reset.
    pub scope: ResetScope,
    /// Conversations that work again.
    pub repaired: u32,
    /// Conversations that do not, yet; the app goes on trying.
    pub waiting: u32,
    /// Messages that are readable again.
    pub recovered: u32,
    /// Messages that are still being asked for.
    pub requested: u32,
}

impl Engine {
    /// What a reset would do.
    pub fn preview_reset(&self, id: Option<ConversationId>, scope: ResetScope) -> EngineResult<Preview> {
        let own = self.own_user()?;
        self.read(|r| {
            let all = r.conversations()?;
            let touched: Vec<Conversation> = all
                .into_iter()
                .filter(|c| scope == ResetScope::Identity || Some(c.id) == id)
                .filter(|c| c.state != ConversationState::Left)
                .collect();
            let mut people: Vec<UserId> =
                touched.iter().flat_map(|c| c.roster.iter().map(|m| m.user_id).chain(c.peer)).filter(|u| *u != own).collect();
            people.sort_unstable();
            people.dedup();
            let mut unreadable = 0;
            for c in &touched {
                unreadable += r.undecryptable(c.id)?.len();
            }
            let mut newcomers = Vec::new();
            for c in touched.iter().filter(|c| scope != ResetScope::Identity && c.kind == ConversationKind::Group) {
                let trusted = r.trusted(c.id)?;
                let new = c.roster.iter().filter(|m| m.user_id != own && !trusted.contains(&m.user_id));
                newcomers.extend(new.map(|m| (m.user_id, m.username.clone())));
            }
            let identity = scope == ResetScope::Identity;
            Ok(Preview {
                newcomers,
                scope,
                conversations: u32::try_from(touched.len()).unwrap_or(u32::MAX),
                people: u32::try_from(people.len()).unwrap_or(u32::MAX),
                unreadable: u32::try_from(unreadable).unwrap_or(u32::MAX),
                safety_numbers_change: identity,
                history_kept: true,
                needs_password: identity,
            })
        })
    }

    /// The person has been shown these members and lets them in.
    pub async fn accept_members(&self, id: ConversationId, users: Vec<UserId>) -> EngineResult<()> {
        self.0
            .db
            .write(move |cx| {
                let c = cx.conversation(id)?;
                users.into_iter().filter(|u| c.roster.iter().any(|m| m.user_id == *u)).try_for_each(|u| Ok(cx.w.trust(id, u)?))
            })
            .await
    }

    /// Resets and waits for the result, at most `patience`; what is not done by then goes on by itself.
    pub async fn reset(
        &self,
        id: Option<ConversationId>,
        scope: ResetScope,
        password: Option<&str>,
        patience: Duration,
    ) -> EngineResult<Report> {
        let unreadable = |e: &Self, id: Option<ConversationId>| {
            e.read(|r| {
                let mut n = 0;
                for c in r.conversations()?.iter().filter(|c| id.is_none() || Some(c.id) == id) {
                    n += r.undecryptable(c.id)?.len();
                }
                Ok(n)
            })
        };
        let before = unreadable(self, id)?;
        let targets = match (scope, id) {
            (ResetScope::Identity, _) => self.reset_identity(password).await?,
            (_, None) => return Err(EngineError::invalid("NOT_FOUND", "Name the conversation to reset.")),
            (ResetScope::Device, Some(id)) => {
                self.0
                    .db
                    .write(move |cx| {
                        let c = cx.conversation(id)?;
                        left(&c)?;
                        queue_rejoin(cx, &c)
                    })
                    .await?;
                vec![id]
            }
            (ResetScope::Conversation, Some(id)) => {
                self.0
                    .db
                    .write(move |cx| {
                        left(&cx.conversation(id)?)?;
                        if !cx.r().has_job(id, kind::RESET)? {
                            cx.w.push_job_first(id, kind::RESET, TempId::generate(), &[])?;
                        }
                        cx.events.insert(Event::Outbox);
                        Ok(())
                    })
                    .await?;
                vec![id]
            }
        };
        // Everything that could not be read is asked for once more.
        self.0
            .db
            .write({
                let targets = targets.clone();
                move |cx| {
                    for id in targets {
                        for row in cx.r().undecryptable(id)? {
                            if let Some(seq) = row.seq {
                                cx.w.resend_done(id, seq)?;
                                cx.w.want_resend(id, seq, cx.now)?;
                            }
                        }
                    }
                    Ok(())
                }
            })
            .await?;
        let deadline = tokio::time::Instant::now() + patience;
        let mut events = self.events();
        let waiting = loop {
            let waiting = self.read(|r| {
                let mut n = 0;
                for id in &targets {
                    let active =
                        r.conversation(*id)?.is_none_or(|c| matches!(c.state, ConversationState::Active | ConversationState::Left));
                    let busy = r.has_job(*id, kind::REJOIN)? || r.has_job(*id, kind::RESET)? || r.has_job(*id, kind::ADD)?;
                    n += u32::from(!active || busy);
                }
                Ok(n)
            })?;
            let left = unreadable(self, id)?;
            let now = tokio::time::Instant::now();
            // Messages that were asked for get half of the patience; their senders may be away.
            if (waiting == 0 && (left == 0 || now + patience / 2 > deadline)) || now >= deadline {
                break waiting;
            }
            // Not everything that matters is an event.
            let _ = tokio::time::timeout(Duration::from_millis(100), events.recv()).await;
        };
        let after = unreadable(self, id)?;
        let total = u32::try_from(targets.len()).unwrap_or(u32::MAX);
        Ok(Report {
            scope,
            repaired: total.saturating_sub(waiting),
            waiting,
            recovered: u32::try_from(before.saturating_sub(after)).unwrap_or(0),
            requested: u32::try_from(after).unwrap_or(0),
        })
    }

    async fn reset_identity(&self, password: Option<&str>) -> EngineResult<Vec<ConversationId>> {
        let password = password.ok_or_else(|| EngineError::invalid("PASSWORD_NEEDED", "A new identity needs your password."))?;
        let account = self.account().ok_or(EngineError::Locked("Log in first."))?;
        let shared = self.shared()?;
        let session = account::login(&shared.api, &account.username, password, &account.device, "").await?;
        shared.api.set_session(session.clone()).await?;
        // The new keys are stored before the server knows them: a lost answer must not lock the account out.
        let fresh = match self.prepared()?.filter(|p| p.account.user == account.user) {
            Some(kept) => kept,
            None => Prepared::identity(&self.0.db.crypto, &account)?,
        };
        self.keep_prepared(&fresh).await?;
        account::post_identity(&shared.api, &fresh, "SecureConnect").await?;
        shared.stop.send_replace(true);
        // The refresh token was moved to the new device: its tokens first, then everything else.
        shared.api.refresh(&session.access_token).await?;
        let private = fresh.clone();
        let targets = self
            .0
            .db
            .write(move |cx| {
                private.install(cx)?;
                cx.w.delete_meta(PREPARED)?;
                cx.w.delete_meta("key_packages_at")?;
                let mut ids = Vec::new();
                for c in cx.r().conversations()? {
                    if matches!(c.state, ConversationState::Left | ConversationState::Creating) {
                        continue;
                    }
                    cx.delete_group(c.id, c.generation)?;
                    cx.w.forget_ciphertexts(c.id)?;
                    cx.w.set_state(c.id, ConversationState::Joining)?;
                    queue_rejoin(cx, &c)?;
                    ids.push(c.id);
                }
                Ok(ids)
            })
            .await?;
        self.become_device(fresh.account).await?;
        Ok(targets)
    }
}
