//! The handle the app holds: commands in, events out. Every command is one transaction or one request; nothing blocks.

use crate::account::{self, Account};
use crate::api::Api;
use crate::core::inbox::queue_rejoin;
use crate::core::{Db, outbox};
use crate::jobs::{self, People, kind};
use crate::profile::{Parts, Profile};
use crate::sync::{self, Shared};
use crate::{EngineError, EngineResult};
use sc_e2ee::content::Content;
use sc_e2ee::identity::{AccountIdentity, DeviceKeys, link_code};
use sc_e2ee::safety::SafetyNumber;
use sc_protocol::frame::ClientFrame;
use sc_protocol::identity::DeviceList;
use sc_protocol::rest::{ApproveDevice, ConversationKind, DeviceInfo, Empty, PutDeviceList, Session, UserInfo};
use sc_protocol::{Blob, ConversationId, DeviceId, ErrorCode, TempId, UserId, limits, suite};
use sc_store::model::{Contact, Conversation, ConversationState, IdentityChange, MessageRow};
use sc_store::{Read, Reader, StoreResult};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{broadcast, watch};

const ACCOUNT: &str = "account";
const SESSION: &str = "session";
/// A new identity that is being posted.
const NEXT_ACCOUNT: &str = "account_next";

/// Something changed; sent after the commit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Event {
    /// A conversation, its rows or its place in the list.
    Conversation(ConversationId),
    /// The list of conversations.
    Conversations,
    /// A direct conversation turned out to exist: the first is now the second.
    Moved(ConversationId, ConversationId),
    /// Contacts, verification, changed identities.
    Contacts,
    /// Own devices.
    Devices,
    /// There is work for the outbox.
    Outbox,
}

/// How the connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Trying.
    Connecting,
    /// Receiving what was missed.
    CatchingUp,
    /// Up to date.
    Online,
    /// Waiting to try again.
    Offline,
    /// The session has ended; log in again.
    LoggedOut(ErrorCode),
}

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

struct Inner {
    db: Db,
    events: broadcast::Sender<Event>,
    live: Mutex<Option<Arc<Shared>>>,
    reader: Mutex<Option<Reader>>,
    spare: Mutex<Reader>,
    account: Mutex<Option<Account>>,
    dir: PathBuf,
}

/// The engine of one profile.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cbor<T: Serialize>(v: &T) -> EngineResult<Vec<u8>> {
    jobs::encode(v)
}

impl Engine {
    /// Over an opened profile. When somebody is logged in, it connects by itself.
    pub async fn start(profile: Profile) -> EngineResult<Self> {
        let (events, _) = broadcast::channel(4096);
        let Parts { dir, store, reader, second, keep } = profile.split();
        let account: Option<Account> = store.read().meta(ACCOUNT)?.and_then(|b| ciborium::from_reader(b.as_slice()).ok());
        let session: Option<Session> = store.read().meta(SESSION)?.and_then(|b| ciborium::from_reader(b.as_slice()).ok());
        let db = Db::spawn(store, keep, events.clone())?;
        let this = Self(Arc::new(Inner {
            db,
            events,
            live: Mutex::new(None),
            reader: Mutex::new(Some(reader)),
            spare: Mutex::new(second),
            account: Mutex::new(None),
            dir,
        }));
        if let Some(account) = account {
            this.go_live(account, session).await?;
        }
        Ok(this)
    }

    fn api(&self, server: &str, session: Option<Session>) -> EngineResult<Api> {
        let db = self.0.db.clone();
        let keep = move |s: Session| -> std::pin::Pin<Box<dyn Future<Output = EngineResult<()>> + Send>> {
            let db = db.clone();
            Box::pin(async move { db.write(move |cx| Ok(cx.w.set_meta(SESSION, &cbor(&s)?)?)).await })
        };
        Ok(Api::new(server)?.with_session(session, Arc::new(keep)))
    }

    async fn go_live(&self, account: Account, session: Option<Session>) -> EngineResult<()> {
        let own = account.own();
        self.0.db.set_own(Some(own.clone())).await?;
        let api = self.api(&account.server, session)?;
        *lock(&self.0.account) = Some(account);
        let reader = lock(&self.0.reader).take().ok_or(EngineError::Stopped)?;
        let shared = Shared::new(self.0.db.clone(), api, own.clone(), reader, self.0.events.clone());
        *lock(&self.0.live) = Some(shared.clone());
        if own.identity.is_some() {
            tokio::spawn(sync::run_gateway(shared.clone()));
            tokio::spawn(sync::run_outbox(shared));
        }
        Ok(())
    }

    async fn store_account(&self, account: &Account, session: &Session) -> EngineResult<()> {
        let (a, s) = (cbor(account)?, cbor(session)?);
        self.0
            .db
            .write(move |cx| {
                cx.w.set_meta(ACCOUNT, &a)?;
                Ok(cx.w.set_meta(SESSION, &s)?)
            })
            .await
    }

    fn shared(&self) -> EngineResult<Arc<Shared>> {
        lock(&self.0.live).clone().ok_or(EngineError::Locked("Log in first."))
    }

    /// The account on this device, if there is one.
    #[must_use]
    pub fn account(&self) -> Option<Account> {
        lock(&self.0.account).clone()
    }

    /// This account's id.
    pub fn own_user(&self) -> EngineResult<UserId> {
        Ok(self.shared()?.own.user)
    }

    /// The profile's folder.
    #[must_use]
    pub fn dir(&self) -> &std::path::Path {
        &self.0.dir
    }

    /// Changes from now on.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.0.events.subscribe()
    }

    /// How the connection is, and every change of it.
    pub fn connection(&self) -> EngineResult<watch::Receiver<ConnectionState>> {
        Ok(self.shared()?.state.subscribe())
    }

    /// Reads the store.
    pub fn read<T>(&self, f: impl FnOnce(Read<'_>) -> StoreResult<T>) -> EngineResult<T> {
        Ok(f(lock(&self.0.spare).read())?)
    }

    /// The name of an account, asked for when only its id is known.
    pub async fn name_of(&self, user: UserId) -> EngineResult<String> {
        let known = self.read(|r| r.contact(user))?.filter(|c| c.username != user.to_string());
        match known {
            Some(c) => Ok(c.username),
            None => Ok(self.shared()?.refresh_user(&format!("/v1/users/{user}")).await?.username),
        }
    }

    /// The HTTP side of the server.
    pub fn http(&self) -> EngineResult<Api> {
        Ok(self.shared()?.api.clone())
    }

    /// The writing thread, for benchmarks and fault tests.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.0.db
    }

    /// Makes a new account with this as its first device.
    pub async fn register(&self, server: &str, username: &str, password: &str, device_name: &str) -> EngineResult<()> {
        if self.account().is_some() {
            return Err(EngineError::invalid("LOGGED_IN", "This profile has an account already."));
        }
        let (account, session) = account::register(&Api::new(server)?, username, password, device_name).await?;
        self.store_account(&account, &session).await?;
        self.go_live(account, Some(session)).await
    }

    /// Logs in: this device again, or as a new device of the account that then waits for approval. Returns the code to
    /// compare when it waits.
    pub async fn login(&self, server: &str, username: &str, password: &str, device_name: &str) -> EngineResult<Option<String>> {
        if let Some(known) = self.account() {
            if known.username != username {
                return Err(EngineError::invalid("LOGGED_IN", "This profile belongs to another account."));
            }
            let shared = self.shared()?;
            let session = account::login(&shared.api, username, password, &known.device, device_name).await?;
            self.store_account(&known, &session).await?;
            shared.api.set_session(session).await?;
            shared.hurry.notify_waiters();
            return Ok(known.identity.is_none().then(|| code(&known)));
        }
        let api = Api::new(server)?;
        let device = DeviceKeys::generate(&mut rand::rngs::OsRng);
        let session = account::login(&api, username, password, &device, device_name).await?;
        let api = self.api(server, Some(session.clone()))?;
        let account = account::pending_account(&api, &session, device).await?;
        self.store_account(&account, &session).await?;
        let code = code(&account);
        self.go_live(account, Some(session)).await?;
        Ok(Some(code))
    }

    /// The code this device shows while it waits to be linked.
    #[must_use]
    pub fn waiting_code(&self) -> Option<String> {
        self.account().filter(|a| a.identity.is_none()).map(|a| code(&a))
    }

    /// Asks whether this device was approved; once it was, it connects.
    pub async fn poll_link(&self) -> EngineResult<bool> {
        let account = self.account().ok_or(EngineError::Locked("Log in first."))?;
        if account.identity.is_some() {
            return Ok(true);
        }
        let shared = self.shared()?;
        let Some(identity) = account::poll_link(&shared.api, &account).await? else { return Ok(false) };
        let account = Account { identity: Some(*identity.seed()), ..account };
        self.become_device(account).await?;
        Ok(true)
    }

    /// Goes on as another device of the account: after linking, after a new identity.
    async fn become_device(&self, account: Account) -> EngineResult<()> {
        let shared = self.shared()?;
        shared.stop.send_replace(true);
        let session = shared.api.session();
        let a = cbor(&account)?;
        self.0.db.write(move |cx| Ok(cx.w.set_meta(ACCOUNT, &a)?)).await?;
        self.0.db.set_own(Some(account.own())).await?;
        let api = self.api(&account.server, session)?;
        let fresh = shared.successor(api, account.own());
        *lock(&self.0.account) = Some(account);
        *lock(&self.0.live) = Some(fresh.clone());
        tokio::spawn(sync::run_gateway(fresh.clone()));
        tokio::spawn(sync::run_outbox(fresh));
        let _ = self.0.events.send(Event::Devices);
        Ok(())
    }

    /// The account's devices.
    pub async fn devices(&self) -> EngineResult<Vec<DeviceInfo>> {
        self.shared()?.api.get("/v1/devices").await
    }

    /// The code a waiting device shows.
    pub fn code_of(&self, d: &DeviceInfo) -> EngineResult<String> {
        let own = self
            .shared()?
            .own
            .identity
            .as_ref()
            .map(AccountIdentity::public)
            .ok_or(EngineError::Locked("This device is not linked yet."))?;
        Ok(link_code(self.own_user()?, d.device_id, d.signature_key.as_slice(), d.link_key.as_slice(), &own))
    }

    /// Approves a device whose code was compared.
    pub async fn approve_device(&self, device: DeviceId, shown: &str) -> EngineResult<()> {
        let shared = self.shared()?;
        let identity = shared.own.identity.clone().ok_or(EngineError::Locked("This device is not linked yet."))?;
        let waiting = self.devices().await?.into_iter().find(|d| d.device_id == device && d.pending);
        let waiting = waiting.ok_or_else(|| EngineError::invalid("NOT_FOUND", "No such device waits for approval."))?;
        let digits = |s: &str| s.chars().filter(char::is_ascii_digit).collect::<String>();
        if digits(&self.code_of(&waiting)?) != digits(shown) {
            return Err(EngineError::invalid("WRONG_CODE", "The code is not the one the new device shows. Do not approve it."));
        }
        let mut list = account::own_list(&shared.api, &shared.own).await?;
        let key = |b: &Blob| -> EngineResult<[u8; 32]> {
            b.as_slice().try_into().map_err(|_| EngineError::invalid("IDENTITY_MISMATCH", "The device's keys are malformed."))
        };
        list.version += 1;
        list.devices.push((device, key(&waiting.signature_key)?));
        let sealed = identity.seal_for(&key(&waiting.link_key)?, &mut rand::rngs::OsRng)?;
        let body = ApproveDevice { device_list: Blob::from(identity.sign_list(&list)), sealed_identity: Blob::from(sealed) };
        let _: Empty = shared.api.post(&format!("/v1/devices/{device}/approve"), &body).await?;
        let _ = self.0.events.send(Event::Devices);
        Ok(())
    }

    /// Removes a device from the account.
    pub async fn revoke_device(&self, device: DeviceId) -> EngineResult<()> {
        let shared = self.shared()?;
        let identity = shared.own.identity.clone().ok_or(EngineError::Locked("This device is not linked yet."))?;
        let list = account::own_list(&shared.api, &shared.own).await?;
        let devices = list.devices.into_iter().filter(|(d, _)| *d != device).collect();
        let list = DeviceList { version: list.version + 1, devices, ..list };
        let body = PutDeviceList { device_list: Blob::from(identity.sign_list(&list)) };
        let _: Empty = shared.api.put("/v1/devices/list", &body).await?;
        let _ = self.0.events.send(Event::Devices);
        Ok(())
    }

    /// Finds somebody by name; what the server says is checked against what is pinned.
    pub async fn find_user(&self, name: &str) -> EngineResult<Contact> {
        let name = name.trim().to_lowercase();
        if !limits::username_is_valid(&name) {
            return Err(EngineError::invalid("BAD_USERNAME", "A username has 3 to 32 characters: a-z, 0-9, '.', '_' and '-'."));
        }
        let shared = self.shared()?;
        let info: UserInfo = match shared.refresh_user(&format!("/v1/users/by-name/{name}")).await {
            Ok(info) => info,
            Err(EngineError::Offline(why)) => {
                return self.read(|r| r.contact_by_name(&name))?.ok_or(EngineError::Offline(why));
            }
            Err(e) => return Err(e),
        };
        if info.user_id == shared.own.user {
            return Err(EngineError::invalid("SELF", "That is you."));
        }
        self.read(|r| r.contact(info.user_id))?.ok_or_else(|| EngineError::invalid("NOT_FOUND", "There is no such user."))
    }

    /// The direct conversation with somebody; made when there is none. Works offline for known people.
    pub async fn direct(&self, peer: UserId) -> EngineResult<ConversationId> {
        self.0
            .db
            .write(move |cx| {
                if let Some(c) = cx.r().direct_with(peer)? {
                    return Ok(c.id);
                }
                jobs::start_conversation(cx, Some(peer), Vec::new(), "")
            })
            .await
    }

    /// A new group.
    pub async fn create_group(&self, title: &str, members: Vec<UserId>) -> EngineResult<ConversationId> {
        let title = title.trim().to_owned();
        if title.is_empty() || title.chars().count() > limits::TITLE_CHARS {
            return Err(EngineError::invalid("BAD_TITLE", format!("A title has 1 to {} characters.", limits::TITLE_CHARS)));
        }
        if members.is_empty() || members.len() >= limits::GROUP_MEMBERS {
            return Err(EngineError::invalid("BAD_MEMBERS", "A group needs at least one other member."));
        }
        self.0.db.write(move |cx| jobs::start_conversation(cx, None, members, &title)).await
    }

    /// Adds people to a group.
    pub async fn add_members(&self, id: ConversationId, users: Vec<UserId>) -> EngineResult<()> {
        self.people_job(id, kind::ADD, users).await
    }

    /// Removes people from a group.
    pub async fn remove_members(&self, id: ConversationId, users: Vec<UserId>) -> EngineResult<()> {
        self.people_job(id, kind::REMOVE, users).await
    }

    async fn people_job(&self, id: ConversationId, job: &'static str, users: Vec<UserId>) -> EngineResult<()> {
        self.0
            .db
            .write(move |cx| {
                let c = cx.conversation(id)?;
                outbox_guard(&c)?;
                if c.kind == ConversationKind::Direct {
                    return Err(EngineError::invalid("FORBIDDEN", "A direct conversation has two people. Make a group instead."));
                }
                cx.w.push_job(id, job, TempId::generate(), &jobs::encode(&People { users, devices_only: false })?)?;
                cx.events.insert(Event::Outbox);
                Ok(())
            })
            .await
    }

    /// Leaves a group.
    pub async fn leave(&self, id: ConversationId) -> EngineResult<()> {
        self.0
            .db
            .write(move |cx| {
                outbox_guard(&cx.conversation(id)?)?;
                cx.w.push_job(id, kind::LEAVE, TempId::generate(), &[])?;
                cx.events.insert(Event::Outbox);
                Ok(())
            })
            .await
    }

    /// Changes the title of a group.
    pub async fn rename(&self, id: ConversationId, title: &str) -> EngineResult<()> {
        let title = title.trim().to_owned();
        if title.is_empty() || title.chars().count() > limits::TITLE_CHARS {
            return Err(EngineError::invalid("BAD_TITLE", format!("A title has 1 to {} characters.", limits::TITLE_CHARS)));
        }
        self.0
            .db
            .write(move |cx| {
                outbox_guard(&cx.conversation(id)?)?;
                cx.w.set_title(id, &title)?;
                cx.changed(id);
                outbox::queue_silent(cx, id, Content::Title(title))
            })
            .await
    }

    /// Sends a text: stored and shown at once, sent when possible.
    pub async fn send_text(&self, id: ConversationId, text: &str, reply_to: Option<TempId>) -> EngineResult<MessageRow> {
        outbox::check_text(text)?;
        let text = text.to_owned();
        self.0.db.write(move |cx| outbox::send_text(cx, id, &text, reply_to)).await
    }

    /// Sends a failed message again.
    pub async fn retry(&self, row: i64) -> EngineResult<()> {
        self.0.db.write(move |cx| outbox::retry(cx, row)).await
    }

    /// Keeps what is being written.
    pub async fn set_draft(&self, id: ConversationId, draft: &str) -> EngineResult<()> {
        let draft: String = draft.chars().take(limits::TEXT_CHARS).collect();
        self.0.db.write(move |cx| Ok(cx.w.set_draft(id, &draft)?)).await
    }

    /// Everything up to `seq` was read.
    pub async fn mark_read(&self, id: ConversationId, seq: u64) -> EngineResult<()> {
        let moved = self
            .0
            .db
            .write(move |cx| {
                let c = cx.conversation(id)?;
                if seq <= c.read_seq {
                    return Ok(false);
                }
                cx.w.set_read_seq(id, seq)?;
                cx.changed(id);
                Ok(true)
            })
            .await?;
        if moved {
            let shared = self.shared()?;
            tokio::spawn(async move {
                let told = shared.request(|request_id| ClientFrame::MarkAsRead { request_id, conversation_id: id, seq }).await;
                if let Err(cause) = told {
                    tracing::debug!(%cause, "the read position is told with the next one");
                }
            });
        }
        Ok(())
    }

    /// The safety number with somebody.
    pub fn safety_number(&self, user: UserId) -> EngineResult<SafetyNumber> {
        let shared = self.shared()?;
        let identity: &AccountIdentity = shared.own.identity.as_ref().ok_or(EngineError::Locked("This device is not linked yet."))?;
        let contact = self.read(|r| r.contact(user))?.ok_or_else(|| EngineError::invalid("NOT_FOUND", "There is no such contact."))?;
        let key: [u8; 32] = contact
            .identity_key
            .as_slice()
            .try_into()
            .map_err(|_| EngineError::invalid("IDENTITY_MISMATCH", "The contact's key is malformed."))?;
        Ok(SafetyNumber::new(&identity.public(), shared.own.user.as_bytes(), &key, user.as_bytes()))
    }

    /// The safety number `number` was compared, or the mark is taken off. A number that has changed since it was shown is
    /// not the one that was compared.
    pub async fn set_verified(&self, user: UserId, verified: bool, number: &str) -> EngineResult<()> {
        if verified && self.safety_number(user)?.digits() != number {
            return Err(EngineError::invalid("IDENTITY_CHANGED", "The safety number has changed. Compare it again."));
        }
        self.0
            .db
            .write(move |cx| {
                cx.w.set_verified(user, verified)?;
                cx.events.insert(Event::Contacts);
                Ok(())
            })
            .await
    }

    /// A changed identity is accepted without comparing: sending works again, the mark stays off.
    pub async fn accept_identity(&self, user: UserId) -> EngineResult<()> {
        self.0
            .db
            .write(move |cx| {
                cx.w.set_changed(user, IdentityChange::None)?;
                cx.events.insert(Event::Contacts);
                cx.events.insert(Event::Outbox);
                Ok(())
            })
            .await
    }

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
            let identity = scope == ResetScope::Identity;
            Ok(Preview {
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
                        outbox_guard(&c)?;
                        queue_rejoin(cx, &c)
                    })
                    .await?;
                vec![id]
            }
            (ResetScope::Conversation, Some(id)) => {
                self.0
                    .db
                    .write(move |cx| {
                        outbox_guard(&cx.conversation(id)?)?;
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
        let kept: Option<Account> = self.read(|r| r.meta(NEXT_ACCOUNT))?.and_then(|b| ciborium::from_reader(b.as_slice()).ok());
        let fresh = kept.unwrap_or_else(|| account::prepare_identity(&account));
        let bytes = cbor(&fresh)?;
        self.0.db.write(move |cx| Ok(cx.w.set_meta(NEXT_ACCOUNT, &bytes)?)).await?;
        account::post_identity(&shared.api, &fresh, "SecureConnect").await?;
        shared.stop.send_replace(true);
        // The refresh token was moved to the new device: its tokens first, then everything else.
        shared.api.refresh(&session.access_token).await?;
        let targets = self
            .0
            .db
            .write(|cx| {
                cx.w.delete_meta(NEXT_ACCOUNT)?;
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
        self.become_device(fresh).await?;
        Ok(targets)
    }

    /// The operating system says the network is back: try at once.
    pub fn network_changed(&self) {
        if let Ok(s) = self.shared() {
            s.hurry.notify_waiters();
        }
    }

    /// Waits until the device is up to date and the outbox is empty.
    pub async fn settle(&self, patience: Duration) -> EngineResult<()> {
        let deadline = tokio::time::Instant::now() + patience;
        let mut connection = self.connection()?;
        let mut events = self.events();
        loop {
            let state = *connection.borrow_and_update();
            if let ConnectionState::LoggedOut(code) = state {
                return Err(EngineError::Server(Box::new(sc_protocol::ErrorBody::new(code, "The session has ended. Log in again."))));
            }
            if state == ConnectionState::Online && self.read(|r| r.outbox_len())? == 0 {
                return Ok(());
            }
            let changed = async {
                tokio::select! {
                    _ = connection.changed() => {}
                    _ = events.recv() => {}
                    () = tokio::time::sleep(Duration::from_millis(200)) => {}
                }
            };
            if tokio::time::timeout_at(deadline, changed).await.is_err() {
                return Err(EngineError::Offline("not everything could be sent in time; it goes out later".into()));
            }
        }
    }

    /// The group's epoch authenticator: equal on all devices that agree. `None` when there is no group.
    pub async fn authenticator(&self, id: ConversationId) -> EngineResult<Option<(u64, Vec<u8>)>> {
        self.0
            .db
            .write(move |cx| {
                let c = cx.conversation(id)?;
                cx.with_group(&c, |g, _| Ok((g.epoch(), g.authenticator())))
            })
            .await
    }

    /// The suite new groups take here, for tests of suite agility.
    #[must_use]
    pub fn default_suite(members: usize) -> u16 {
        if members < suite::HYBRID_LEAVES { suite::HYBRID } else { suite::CLASSIC }
    }

    /// Disconnects and stops the tasks. What is in the outbox goes out at the next start.
    pub async fn stop(&self) {
        let live = lock(&self.0.live).take();
        if let Some(s) = live {
            s.stop.send_replace(true);
            s.hurry.notify_waiters();
            let mut state = s.state.subscribe();
            let _ = tokio::time::timeout(Duration::from_secs(2), state.wait_for(|s| *s == ConnectionState::Offline)).await;
        }
    }
}

fn code(a: &Account) -> String {
    link_code(a.user, a.device.device_id, &a.device.public(), &a.device.link_public(), &a.expected_identity.unwrap_or_default())
}

fn outbox_guard(c: &Conversation) -> EngineResult<()> {
    crate::core::inbox::left(c)
}
