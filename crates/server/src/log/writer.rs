//! The one task that writes.
//!
//! States of a batch: drain (what is queued, at most [`BATCH`]) → `BEGIN IMMEDIATE` → apply in order → `COMMIT` → answer
//! and fan out. When anything about the transaction itself fails, every answer of the batch is that failure, the
//! connection is opened anew and the memory is dropped: the store is the truth. After a failed sync nothing more is written.
//!
//! Only this connection checkpoints the write-ahead log (SQLite before 3.51.3 can corrupt when one connection writes
//! while another checkpoints), and only here are conversations changed.

mod batch;
mod fan_out;
mod messages;
mod rows;

use self::rows::{earlier, insert_rows, load_conv};
use super::state::{ConvState, Refusal};
use crate::error::{ApiError, ApiResult};
use crate::hub::{Conn, Hub, SharedFrame};
use crate::ops::Metrics;
use crate::{db, now_ms};
use futures_util::future::BoxFuture;
use sc_protocol::frame::{Envelope, ServerFrame};
use sc_protocol::rest::{Appended, SendMessage};
use sc_protocol::{ConversationId, DeviceId, ErrorCode, TempId, UserId};
use sqlx::SqliteConnection;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Most operations in one transaction.
const BATCH: usize = 1024;
/// Operations that may wait; beyond it callers wait too, so that sockets push back.
const QUEUE: usize = 8192;
/// Conversations kept in memory; beyond it the memory is dropped and filled again.
const CACHE: usize = 50_000;
/// Where the answer to an append goes.
pub enum Reply {
    /// Onto the connection it came from.
    Frame(Arc<Conn>, u64),
    /// To the task that waits.
    Task(oneshot::Sender<ApiResult<Appended>>),
}

/// One message to be stored.
pub struct Append {
    /// The account.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    /// The message.
    pub message: SendMessage,
    /// Where to answer.
    pub reply: Reply,
}

type TxFn = Box<dyn for<'c> FnOnce(&'c mut WriteCx) -> BoxFuture<'c, ApiResult<Done>> + Send>;
/// Called with `Ok` after the commit, with the failure otherwise.
type Done = Box<dyn FnOnce(ApiResult<()>) + Send>;

enum Op {
    Append(Append),
    Tx(TxFn, Box<dyn FnOnce(ApiError) + Send>),
}

impl Op {
    /// Answers it without having done it.
    fn refuse(self, e: &ApiError) {
        match self {
            Self::Append(a) => fan_out::answer_append(a.reply, Err(e.clone())),
            Self::Tx(_, refused) => refused(e.clone()),
        }
    }
}

/// What happens once the batch is durable.
enum Effect {
    Answer(Reply, ApiResult<Appended>),
    Deliver { frame: Arc<SharedFrame>, audience: Arc<[DeviceId]>, sender: DeviceId },
    Refused(Box<dyn FnOnce(ApiError) + Send>, ApiError),
    ToDevices(Arc<SharedFrame>, Vec<DeviceId>),
    ToUser(UserId, ServerFrame),
    StopUser(UserId),
    StopDevice(DeviceId),
    Done(Done, ApiResult<()>),
}

/// The writing connection with the memory that goes with it. Handed to every operation.
pub struct WriteCx {
    /// Inside the batch's transaction.
    pub conn: SqliteConnection,
    /// The time of the batch.
    pub now: i64,
    convs: HashMap<ConversationId, ConvState>,
    touched: HashSet<ConversationId>,
    effects: Vec<Effect>,
    /// A sync has failed: see [`batch`].
    disk_failed: bool,
}

impl WriteCx {
    /// The conversation, loaded when it is not in memory. Changes hold once the batch commits.
    pub async fn conv(&mut self, id: ConversationId) -> ApiResult<&mut ConvState> {
        if !self.convs.contains_key(&id) {
            let state = load_conv(&mut self.conn, id).await?.ok_or_else(|| ApiError::not_found("conversation"))?;
            self.convs.insert(id, state);
        }
        self.touched.insert(id);
        self.convs.get_mut(&id).ok_or_else(|| ApiError::internal("conversation just loaded is missing"))
    }

    /// True once the conversation can be loaded: while it is being made, it cannot.
    #[must_use]
    pub fn knows(&self, id: ConversationId) -> bool {
        self.convs.contains_key(&id)
    }

    /// Puts a new conversation into memory, after its rows were written.
    pub fn insert_conv(&mut self, id: ConversationId, state: ConvState) {
        self.touched.insert(id);
        self.convs.insert(id, state);
    }

    /// Appends one envelope that is not an ordinary message; the caller has checked it.
    pub async fn append(&mut self, envelope: &Envelope) -> ApiResult<()> {
        insert_rows(&mut self.conn, std::slice::from_ref(envelope)).await?;
        let id = envelope.conversation_id;
        sqlx::query("UPDATE conversations SET last_activity = $1 WHERE conversation_id = $2")
            .bind(envelope.sent_at)
            .bind(id.as_bytes().as_slice())
            .execute(&mut self.conn)
            .await?;
        Ok(())
    }

    /// The answer an earlier send with the same id got.
    pub async fn earlier(&mut self, device: DeviceId, temp_id: TempId) -> ApiResult<Option<Appended>> {
        earlier(&mut self.conn, device, temp_id).await
    }

    /// After the commit: the envelope to every device in the group but the sender, which is told the place instead.
    pub fn deliver(&mut self, envelope: Envelope) {
        let sender = envelope.sender_device;
        let audience = self.convs.get_mut(&envelope.conversation_id).map(ConvState::audience).unwrap_or_default();
        let sent = sent_frame(0, &appended(&envelope));
        self.effects.push(Effect::ToDevices(SharedFrame::new(sent), vec![sender]));
        self.effects.push(Effect::Deliver { frame: SharedFrame::new(ServerFrame::NewMessage(envelope)), audience, sender });
    }

    /// After the commit: a frame to some devices.
    pub fn to_devices(&mut self, frame: ServerFrame, devices: Vec<DeviceId>) {
        self.effects.push(Effect::ToDevices(SharedFrame::new(frame), devices));
    }

    /// After the commit: a frame to every device of an account.
    pub fn to_user(&mut self, user: UserId, frame: ServerFrame) {
        self.effects.push(Effect::ToUser(user, frame));
    }

    /// After the commit: every connection of the account ends.
    pub fn stop_user(&mut self, user: UserId) {
        self.effects.push(Effect::StopUser(user));
    }

    /// After the commit: the connection of the device ends.
    pub fn stop_device(&mut self, device: DeviceId) {
        self.effects.push(Effect::StopDevice(device));
    }

    fn forget(&mut self) {
        for id in self.touched.drain() {
            self.convs.remove(&id);
        }
    }
}

/// Handle to the writer.
#[derive(Clone)]
pub struct Writer {
    tx: mpsc::Sender<Op>,
}

impl Writer {
    /// Starts the task. It ends, with everything queued committed (or refused, once a sync has failed), when the last handle is gone.
    pub fn spawn(conn: SqliteConnection, db: db::Options, hub: Arc<Hub>, metrics: Arc<Metrics>) -> (Self, tokio::task::JoinHandle<()>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        let cx = WriteCx { conn, now: now_ms(), convs: HashMap::new(), touched: HashSet::new(), effects: Vec::new(), disk_failed: false };
        let task = tokio::spawn(batch::run(cx, db, rx, hub, metrics));
        (Self { tx }, task)
    }

    /// True when the task has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.tx.is_closed()
    }

    /// Queues a message; waits while the queue is full. The answer goes where `reply` says.
    pub async fn append(&self, append: Append) -> ApiResult<()> {
        self.tx.send(Op::Append(append)).await.map_err(|_| stopping())
    }

    /// Runs an operation inside the next transaction and returns its result once that is durable. An `Err` undoes what
    /// the operation did and nothing else.
    pub async fn write<T, F>(&self, f: F) -> ApiResult<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut WriteCx) -> BoxFuture<'c, ApiResult<T>> + Send + 'static,
    {
        let (tx, rx) = oneshot::channel();
        let slot = Arc::new(std::sync::Mutex::new(Some(tx)));
        let refuse = slot.clone();
        let op: TxFn = Box::new(move |cx| {
            Box::pin(async move {
                let value = f(cx).await?;
                let done: Done = Box::new(move |commit| answer(&slot, commit.map(|()| value)));
                Ok(done)
            })
        });
        let refused = Box::new(move |e| answer(&refuse, Err(e)));
        self.tx.send(Op::Tx(op, refused)).await.map_err(|_| stopping())?;
        rx.await.map_err(|_| stopping())?
    }
}

type Slot<T> = std::sync::Mutex<Option<oneshot::Sender<ApiResult<T>>>>;

fn answer<T>(slot: &Slot<T>, value: ApiResult<T>) {
    let tx = slot.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    // A caller that stopped waiting does not want the answer.
    if let Some(tx) = tx {
        let _ = tx.send(value);
    }
}

fn stopping() -> ApiError {
    ApiError::new(ErrorCode::Unavailable, "The server is stopping. Try again in a moment.")
}

/// A refusal of the log as an answer.
#[must_use]
pub fn refusal(r: Refusal) -> ApiError {
    match r {
        Refusal::NotAMember => ApiError::not_a_member(),
        Refusal::Stale { epoch, seq } => ApiError::stale_epoch(epoch, seq),
    }
}

fn appended(e: &Envelope) -> Appended {
    Appended { conversation_id: e.conversation_id, temp_id: e.temp_id, seq: e.seq, sent_at: e.sent_at }
}

fn sent_frame(request_id: u64, a: &Appended) -> ServerFrame {
    ServerFrame::MessageSent { request_id, conversation_id: a.conversation_id, temp_id: a.temp_id, seq: a.seq, sent_at: a.sent_at }
}
