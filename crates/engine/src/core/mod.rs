//! What changes the store: one thread, one transaction at a time.
//!
//! [`Db`] is the handle. A task is a function from [`Cx`] (the open transaction with groups and keys) to a value. When
//! it succeeds the transaction is committed and the [`Event`]s it noted are sent; when it fails everything is undone and
//! the groups in memory are dropped, because they may have run ahead.

pub mod calls;
pub mod directory;
pub mod inbox;
pub mod outbox;
pub mod rooms;

use crate::engine::Event;
use crate::{EngineError, EngineResult, now_ms};
use sc_e2ee::group::{Context, Crypto, Group};
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_e2ee::kv::{KvError, KvStorage, KvStore};
use sc_protocol::identity::Certificate;
use sc_protocol::{ConversationId, UserId};
use sc_store::model::{Contact, Conversation, IdentityChange, System};
use sc_store::{Read, Store, Write};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot};

/// Groups kept in memory.
const GROUPS: usize = 256;

/// Who this device is.
#[derive(Clone, Debug)]
pub struct Own {
    /// The account.
    pub user: UserId,
    /// Its name.
    pub username: String,
    /// The device's keys.
    pub device: DeviceKeys,
    /// Its certificate, once it is linked.
    pub certificate: Vec<u8>,
    /// The account identity, once it is linked.
    pub identity: Option<AccountIdentity>,
    /// Public identity keys the account had before.
    pub former: Vec<[u8; 32]>,
    /// The server's key for proposals.
    pub server_key: Vec<u8>,
}

impl Own {
    /// True for an identity of this account, the present one or one from before a reset.
    #[must_use]
    pub fn is_own_identity(&self, key: &[u8]) -> bool {
        let now = self.identity.as_ref().map(AccountIdentity::public);
        now.iter().chain(&self.former).any(|k| k.as_slice() == key)
    }
}

/// MLS rows of the open transaction.
pub struct MlsRows<'a>(pub &'a Write<'a>);

impl KvStore for MlsRows<'_> {
    fn get(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.read().mls_get(scope, label, key).map_err(|e| KvError(e.to_string()))
    }

    fn put(&self, scope: &[u8], label: &str, key: &[u8], value: &[u8]) -> Result<(), KvError> {
        self.0.mls_put(scope, label, key, value).map_err(|e| KvError(e.to_string()))
    }

    fn delete(&self, scope: &[u8], label: &str, key: &[u8]) -> Result<(), KvError> {
        self.0.mls_delete(scope, label, key).map_err(|e| KvError(e.to_string()))
    }

    fn delete_scope(&self, scope: &[u8]) -> Result<(), KvError> {
        self.0.mls_delete_scope(scope).map_err(|e| KvError(e.to_string()))
    }
}

/// Groups in memory, by conversation.
#[derive(Default)]
pub struct Groups(HashMap<ConversationId, Group>);

/// An open transaction with everything that belongs to it.
pub struct Cx<'a> {
    /// The transaction.
    pub w: &'a Write<'a>,
    /// Groups in memory.
    pub groups: &'a mut Groups,
    /// Algorithms and randomness.
    pub crypto: &'a Crypto,
    /// Who this device is; `None` before registration.
    pub own: Option<&'a Own>,
    /// The time.
    pub now: i64,
    /// What to tell after the commit.
    pub events: &'a mut BTreeSet<Event>,
}

impl<'a> Cx<'a> {
    /// Reads inside the transaction.
    #[must_use]
    pub fn r(&self) -> Read<'_> {
        self.w.read()
    }

    /// Who this device is.
    pub fn own(&self) -> EngineResult<&'a Own> {
        self.own.ok_or(EngineError::Locked("Log in first."))
    }

    /// A conversation that has to be there.
    pub fn conversation(&self, id: ConversationId) -> EngineResult<Conversation> {
        self.r().conversation(id)?.ok_or_else(|| EngineError::invalid("NOT_FOUND", "There is no such conversation."))
    }

    /// Calls `f` with the conversation's group and the context it needs; `None` when there is no group.
    pub fn with_group<T>(
        &mut self,
        c: &Conversation,
        f: impl FnOnce(&mut Group, &Context<'_, MlsRows<'_>>) -> EngineResult<T>,
    ) -> EngineResult<Option<T>> {
        let own = self.own()?;
        let storage = KvStorage(MlsRows(self.w));
        let id = sc_e2ee::group::group_id(c.id, c.generation);
        if self.groups.0.get(&c.id).is_none_or(|g| g.id() != id) {
            match Group::load(&storage, &id)? {
                Some(g) => self.groups.0.insert(c.id, g),
                None => return Ok(None),
            };
        }
        if self.groups.0.len() > GROUPS {
            self.groups.0.retain(|k, _| *k == c.id);
        }
        let Some(group) = self.groups.0.get_mut(&c.id) else { return Ok(None) };
        let cx = Context { crypto: self.crypto, storage: &storage, device: &own.device, certificate: &own.certificate };
        let result = f(group, &cx);
        if result.is_err() {
            self.groups.0.remove(&c.id);
        }
        result.map(Some)
    }

    /// Calls `f` with a context and no group.
    pub fn with_context<T>(&self, f: impl FnOnce(&Context<'_, MlsRows<'_>>) -> EngineResult<T>) -> EngineResult<T> {
        let own = self.own()?;
        let storage = KvStorage(MlsRows(self.w));
        f(&Context { crypto: self.crypto, storage: &storage, device: &own.device, certificate: &own.certificate })
    }

    /// Puts a group into memory, or takes it out.
    pub fn set_group(&mut self, id: ConversationId, group: Option<Group>) {
        match group {
            Some(g) => self.groups.0.insert(id, g),
            None => self.groups.0.remove(&id),
        };
    }

    /// Deletes all MLS state of a generation.
    pub fn delete_group(&mut self, id: ConversationId, generation: u32) -> EngineResult<()> {
        self.groups.0.remove(&id);
        Ok(Group::delete(&KvStorage(MlsRows(self.w)), &sc_e2ee::group::group_id(id, generation))?)
    }

    /// Remembers to tell that something of the conversation changed.
    pub fn changed(&mut self, id: ConversationId) {
        self.events.insert(Event::Conversation(id));
    }

    /// Pins the identity somebody shows, or notes that it changed. Returns true when it changed.
    pub fn pin(&mut self, user: UserId, identity_key: &[u8], username: Option<&str>) -> EngineResult<bool> {
        let own = self.own()?;
        if user == own.user {
            // The own identity is known here; whoever shows another one for this account is somebody else.
            if own.identity.is_some() && !own.is_own_identity(identity_key) {
                return Err(EngineError::invalid(
                    "IDENTITY_MISMATCH",
                    "Somebody showed another identity for your own account. Nothing was accepted.",
                ));
            }
            return Ok(false);
        }
        let Some(known) = self.r().contact(user)? else {
            let username = username.map_or_else(|| user.to_string(), str::to_owned);
            let contact = Contact {
                user_id: user,
                username,
                identity_key: identity_key.to_vec(),
                device_list: Vec::new(),
                list_version: 0,
                verified: false,
                changed: IdentityChange::None,
            };
            self.w.put_contact(&contact)?;
            self.events.insert(Event::Contacts);
            return Ok(false);
        };
        if known.identity_key == identity_key {
            return Ok(false);
        }
        let changed =
            if known.verified || known.changed == IdentityChange::Blocking { IdentityChange::Blocking } else { IdentityChange::Changed };
        // The list of the old identity says nothing about the new one; its version still may not go back.
        self.w.put_contact(&Contact { identity_key: identity_key.to_vec(), device_list: Vec::new(), verified: false, changed, ..known })?;
        self.events.insert(Event::Contacts);
        for c in self.r().conversations()? {
            if c.peer == Some(user) || c.roster.iter().any(|m| m.user_id == user) {
                self.w.insert_system(c.id, c.last_seq, self.now, &System::IdentityChanged { who: user })?;
                self.changed(c.id);
            }
        }
        Ok(true)
    }
}

/// Device certificate under an identity.
#[must_use]
pub fn certificate(identity: &AccountIdentity, user: UserId, device: &DeviceKeys) -> Vec<u8> {
    let c: Certificate = identity.certify(user, device.device_id, &device.public());
    c.to_bytes()
}

/// Where the writing thread ends as if the process had been killed there; for fault tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Crash {
    /// The transaction is forgotten.
    BeforeCommit,
    /// The transaction is kept; nobody hears of it.
    AfterCommit,
}

type Task = Box<dyn FnOnce(&mut Core) + Send>;

struct Core {
    store: Store,
    /// The profile's lock: it is held as long as anything can be written.
    _lock: Box<dyn std::any::Any + Send>,
    groups: Groups,
    crypto: Arc<Crypto>,
    own: Option<Own>,
    events: broadcast::Sender<Event>,
    /// Transactions until the thread ends, and where in the last one.
    crash: Option<(u32, Crash)>,
    crashed: bool,
}

/// Handle to the thread that owns the writing connection.
#[derive(Clone)]
pub struct Db {
    tx: mpsc::Sender<Task>,
    /// Algorithms and randomness.
    pub crypto: Arc<Crypto>,
}

impl Db {
    /// Starts the thread; it ends when the last handle is gone.
    pub fn spawn(store: Store, lock: Box<dyn std::any::Any + Send>, events: broadcast::Sender<Event>) -> EngineResult<Self> {
        let (tx, mut rx) = mpsc::channel::<Task>(256);
        let crypto = Arc::new(Crypto::default());
        let mut core =
            Core { store, _lock: lock, groups: Groups::default(), crypto: crypto.clone(), own: None, events, crash: None, crashed: false };
        std::thread::Builder::new()
            .name("secureconnect-db".into())
            .spawn(move || {
                while let Some(task) = rx.blocking_recv() {
                    task(&mut core);
                    if core.crashed {
                        return;
                    }
                }
            })
            .map_err(|e| EngineError::Offline(e.to_string()))?;
        Ok(Self { tx, crypto })
    }

    /// Runs a task in a transaction of its own.
    pub async fn write<T: Send + 'static>(&self, f: impl FnOnce(&mut Cx<'_>) -> EngineResult<T> + Send + 'static) -> EngineResult<T> {
        self.run(move |core| core.write(f)).await
    }

    /// Sets who this device is.
    pub async fn set_own(&self, own: Option<Own>) -> EngineResult<()> {
        self.run(move |core| {
            core.groups = Groups::default();
            core.own = own;
            Ok(())
        })
        .await
    }

    /// Who this device is.
    pub async fn own(&self) -> EngineResult<Own> {
        self.run(|core| core.own.clone().ok_or(EngineError::Locked("Log in first."))).await
    }

    /// Bounds the pages of the store, to test a full disk.
    pub async fn limit_pages(&self, pages: u32) -> EngineResult<()> {
        self.run(move |core| Ok(core.store.limit_pages(pages)?)).await
    }

    /// Ends the thread in its `nth` transaction from now on, counted from 1.
    pub async fn crash_at(&self, nth: u32, at: Crash) -> EngineResult<()> {
        self.run(move |core| {
            core.crash = Some((nth, at));
            Ok(())
        })
        .await
    }

    async fn run<T: Send + 'static>(&self, f: impl FnOnce(&mut Core) -> EngineResult<T> + Send + 'static) -> EngineResult<T> {
        let (tx, rx) = oneshot::channel();
        let task: Task = Box::new(move |core| {
            // A caller that stopped waiting does not want the answer.
            let _ = tx.send(f(core));
        });
        self.tx.send(task).await.map_err(|_| EngineError::Stopped)?;
        self.answer(rx).await
    }

    /// The answer, or that the thread has ended. A task that is put into the queue while the thread ends is neither run nor dropped
    /// as long as there is a handle: the answer alone would be waited for without an end.
    async fn answer<T>(&self, mut rx: oneshot::Receiver<EngineResult<T>>) -> EngineResult<T> {
        tokio::select! {
            biased;
            answer = &mut rx => answer.map_err(|_| EngineError::Stopped)?,
            // It may have been the last task.
            () = self.tx.closed() => rx.try_recv().map_err(|_| EngineError::Stopped)?,
        }
    }
}

impl Core {
    fn write<T>(&mut self, f: impl FnOnce(&mut Cx<'_>) -> EngineResult<T>) -> EngineResult<T> {
        let mut events = BTreeSet::new();
        let crash = self.crash.as_mut().and_then(|(left, at)| {
            *left -= 1;
            (*left == 0).then_some(*at)
        });
        let w = self.store.write()?;
        let mut cx =
            Cx { w: &w, groups: &mut self.groups, crypto: &self.crypto, own: self.own.as_ref(), now: now_ms(), events: &mut events };
        let result = f(&mut cx).and_then(|v| {
            if crash != Some(Crash::BeforeCommit) {
                w.commit()?;
            }
            Ok(v)
        });
        if crash.is_some() {
            self.crashed = true;
            return Err(EngineError::Stopped);
        }
        match &result {
            Ok(_) => {
                for e in events {
                    // Nobody may be listening.
                    let _ = self.events.send(e);
                }
            }
            Err(_) => self.groups.0.clear(),
        }
        result
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn without_thread() -> (Db, mpsc::Receiver<Task>) {
        let (tx, rx) = mpsc::channel(1);
        (Db { tx, crypto: Arc::new(Crypto::default()) }, rx)
    }

    #[tokio::test]
    async fn a_task_that_meets_the_end_of_the_thread_is_not_waited_for() {
        let (db, rx) = without_thread();
        let place = db.tx.clone().reserve_owned().await.unwrap();
        drop(rx);
        let (answer, waiting) = oneshot::channel::<EngineResult<()>>();
        place.send(Box::new(move |_| drop(answer)));
        let got = tokio::time::timeout(Duration::from_secs(5), db.answer(waiting)).await.expect("it waits for ever");
        assert!(matches!(got, Err(EngineError::Stopped)));
    }

    #[tokio::test]
    async fn the_answer_to_the_last_task_is_given() {
        let (db, rx) = without_thread();
        let (answer, waiting) = oneshot::channel();
        answer.send(Ok(7)).unwrap();
        drop(rx);
        assert_eq!(db.answer(waiting).await.unwrap(), 7);
    }
}
