//! The handle the app holds: commands in, events out. Every command is one transaction or one request; nothing blocks.

mod devices;
mod reset;

pub use reset::{Preview, Report, ResetScope};

use crate::account::Account;
use crate::api::Api;
use crate::calls::Calls;
use crate::core::inbox::left;
use crate::core::{Db, outbox};
use crate::jobs::{self, People, kind};
use crate::profile::{Parts, Profile};
use crate::sync::{self, Shared};
use crate::{EngineError, EngineResult};
use sc_e2ee::content::Content;
use sc_e2ee::identity::AccountIdentity;
use sc_e2ee::safety::SafetyNumber;
use sc_protocol::frame::ClientFrame;
use sc_protocol::rest::{ConversationKind, Empty, PutRole, Role, Session, UserInfo};
use sc_protocol::{ConversationId, ErrorCode, RoomId, TempId, UserId, limits};
use sc_store::model::{Contact, IdentityChange, MessageRow};
use sc_store::{Read, Reader, StoreResult};
use serde::Serialize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{broadcast, watch};
use zeroize::Zeroizing;

const ACCOUNT: &str = "account";
const SESSION: &str = "session";
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
    /// The present call.
    Call,
    /// Who is in a room is another now: [`Engine::room_news`].
    Room(RoomId),
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

struct Inner {
    db: Db,
    events: broadcast::Sender<Event>,
    live: Mutex<Option<Arc<Shared>>>,
    reader: Mutex<Option<Reader>>,
    spare: Mutex<Reader>,
    account: Mutex<Option<Account>>,
    dir: PathBuf,
    calls: Arc<Calls>,
}

/// The engine of one profile.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

/// An engine that this does not keep alive.
#[derive(Clone)]
pub struct WeakEngine(Weak<Inner>);

impl WeakEngine {
    /// The engine, while it lives.
    #[must_use]
    pub fn upgrade(&self) -> Option<Engine> {
        self.0.upgrade().map(Engine)
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cbor<T: Serialize>(v: &T) -> EngineResult<Zeroizing<Vec<u8>>> {
    jobs::encode(v).map(Zeroizing::new)
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
            calls: Arc::default(),
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
        let shared = Shared::new(self.0.db.clone(), api, own.clone(), reader, self.0.events.clone(), self.0.calls.clone());
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

    /// For tasks that end with the engine.
    #[must_use]
    pub fn weak(&self) -> WeakEngine {
        WeakEngine(Arc::downgrade(&self.0))
    }

    pub(crate) fn calls(&self) -> Arc<Calls> {
        self.0.calls.clone()
    }

    pub(crate) fn shared(&self) -> EngineResult<Arc<Shared>> {
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
            return Err(EngineError::invalid("BAD_MEMBERS", format!("A group has 2 to {} members.", limits::GROUP_MEMBERS)));
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
                left(&c)?;
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
                left(&cx.conversation(id)?)?;
                cx.w.push_job(id, kind::LEAVE, TempId::generate(), &[])?;
                cx.events.insert(Event::Outbox);
                Ok(())
            })
            .await
    }

    /// Gives a member of a group another role; the owner's own goes with it when it is `OWNER`. Needs the server.
    pub async fn set_role(&self, id: ConversationId, user: UserId, role: Role) -> EngineResult<()> {
        let shared = self.shared()?;
        let _: Empty = shared.api.put(&format!("/v1/conversations/{id}/members/{user}/role"), &PutRole { role }).await?;
        shared.refresh_conversation(id).await
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
                left(&cx.conversation(id)?)?;
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
        self.0
            .db
            .write(move |cx| {
                if cx.r().conversation(id)?.is_some_and(|c| c.draft != draft) {
                    cx.w.set_draft(id, &draft)?;
                    cx.changed(id);
                }
                Ok(())
            })
            .await
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

    /// The operating system says the network is back: try at once.
    pub fn network_changed(&self) {
        if let Ok(s) = self.shared() {
            // Kept when an attempt over the old network is still under way.
            s.hurry.notify_one();
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

    /// Thirty digits that are the same on every device of the conversation; they change with its members. `None` when there is no
    /// group.
    pub async fn epoch_check(&self, id: ConversationId) -> EngineResult<Option<String>> {
        Ok(self.authenticator(id).await?.map(|(_, a)| sc_e2ee::safety::epoch_check(&a)))
    }

    /// Disconnects and stops the tasks. What is in the outbox goes out at the next start.
    pub async fn stop(&self) {
        let live = lock(&self.0.live).take();
        if let Some(s) = live {
            s.stop.send_replace(true);
            let mut state = s.state.subscribe();
            let _ = tokio::time::timeout(Duration::from_secs(2), state.wait_for(|s| *s == ConnectionState::Offline)).await;
        }
    }
}
