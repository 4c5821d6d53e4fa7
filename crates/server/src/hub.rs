//! Who is connected, and one bounded queue for each connection.
//!
//! A frame for many receivers is encoded once per encoding and shared. Queues are bounded in bytes: a connection that
//! reads too slowly is closed with a resync code and served by cursor when it comes back; nothing is dropped silently.

use axum::body::Bytes;
use axum::extract::ws::{Message, Utf8Bytes};
use sc_protocol::frame::{Encoding, ServerFrame};
use sc_protocol::{ConversationId, DeviceId, UserId};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use tokio::sync::Notify;

/// A frame on its way out, encoded at most once per encoding however many receivers it has.
pub struct SharedFrame {
    frame: ServerFrame,
    /// Place in a log, for frames that are part of one: catch-up uses it to drop what was already sent.
    pub place: Option<(ConversationId, u64)>,
    size: usize,
    json: OnceLock<Utf8Bytes>,
    msgpack: OnceLock<Bytes>,
}

impl SharedFrame {
    /// Wraps a frame.
    #[must_use]
    pub fn new(frame: ServerFrame) -> Arc<Self> {
        let (place, size) = match &frame {
            ServerFrame::NewMessage(e) => {
                let tree = e.ratchet_tree.as_ref().map_or(0, sc_protocol::Blob::len);
                (Some((e.conversation_id, e.seq)), e.payload.len() + tree + 300)
            }
            // An answer to a request always goes out; a notice of a place belongs to the log.
            ServerFrame::MessageSent { request_id, conversation_id, seq, .. } => {
                ((*request_id == 0).then_some((*conversation_id, *seq)), 200)
            }
            _ => (None, 200),
        };
        Arc::new(Self { frame, place, size, json: OnceLock::new(), msgpack: OnceLock::new() })
    }

    /// The WebSocket message for a connection of that encoding.
    #[must_use]
    pub fn message(&self, encoding: Encoding) -> Message {
        match encoding {
            Encoding::Json => Message::Text(
                self.json.get_or_init(|| Utf8Bytes::try_from(encode(Encoding::Json, &self.frame)).unwrap_or_default()).clone(),
            ),
            Encoding::MsgPack => Message::Binary(self.msgpack.get_or_init(|| encode(Encoding::MsgPack, &self.frame)).clone()),
        }
    }
}

fn encode(encoding: Encoding, frame: &ServerFrame) -> Bytes {
    match encoding.encode(frame) {
        Ok(bytes) => Bytes::from(bytes),
        Err(cause) => {
            tracing::error!(%cause, "a frame of ours could not be encoded");
            Bytes::new()
        }
    }
}

/// Why a connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Its queue is full.
    TooSlow,
    /// Logged out, suspended, revoked or replaced by a newer connection of the device.
    SessionEnded,
    /// The server is stopping.
    Restart,
}

#[derive(Default)]
struct Queue {
    frames: VecDeque<Arc<SharedFrame>>,
    bytes: usize,
    stop: Option<Stop>,
}

/// One connection's queue.
pub struct Conn {
    /// The account.
    pub user: UserId,
    /// The device.
    pub device: DeviceId,
    queue: Mutex<Queue>,
    notify: Notify,
    limit: usize,
}

impl Conn {
    /// Queues frames in order; stops the connection when they do not fit.
    pub fn push(&self, frames: &[Arc<SharedFrame>]) {
        let mut q = lock(&self.queue);
        if q.stop.is_some() {
            return;
        }
        for f in frames {
            q.bytes += f.size;
            q.frames.push_back(f.clone());
        }
        // One large frame is not slowness.
        if q.bytes > self.limit && q.frames.len() > 1 {
            q.frames = VecDeque::new();
            q.stop = Some(Stop::TooSlow);
        }
        drop(q);
        self.notify.notify_one();
    }

    /// Queues one frame.
    pub fn send(&self, frame: ServerFrame) {
        self.push(&[SharedFrame::new(frame)]);
    }

    /// Ends the connection.
    pub fn stop(&self, why: Stop) {
        let mut q = lock(&self.queue);
        q.stop.get_or_insert(why);
        drop(q);
        self.notify.notify_one();
    }

    /// Takes everything that waits. The bytes stay counted until [`Conn::sent`] says they left.
    #[must_use]
    pub fn take(&self) -> (VecDeque<Arc<SharedFrame>>, Option<Stop>) {
        let mut q = lock(&self.queue);
        (std::mem::take(&mut q.frames), q.stop)
    }

    /// True once the connection has to end.
    #[must_use]
    pub fn stopped(&self) -> bool {
        lock(&self.queue).stop.is_some()
    }

    /// Wakes the task of the connection.
    pub fn wake(&self) {
        self.notify.notify_one();
    }

    /// Frames from the queue were handed to the socket, or dropped.
    pub fn sent<'a>(&self, frames: impl IntoIterator<Item = &'a Arc<SharedFrame>>) {
        let n: usize = frames.into_iter().map(|f| f.size).sum();
        let mut q = lock(&self.queue);
        q.bytes = q.bytes.saturating_sub(n);
    }

    /// Waits until there may be something to take.
    pub async fn ready(&self) {
        self.notify.notified().await;
    }
}

/// All connections of this node.
#[derive(Default)]
pub struct Hub {
    inner: RwLock<HubInner>,
}

#[derive(Default)]
struct HubInner {
    by_device: HashMap<DeviceId, Arc<Conn>>,
    by_user: HashMap<UserId, Vec<DeviceId>>,
    closed: bool,
}

impl Hub {
    /// Adds a connection; one that the device had before is ended. `None` when the account has too many or the server stops.
    pub fn add(&self, user: UserId, device: DeviceId, per_user: usize, limit: usize) -> Option<Arc<Conn>> {
        let mut h = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let known = h.by_user.entry(user).or_default();
        let is_new = !known.contains(&device);
        if is_new && known.len() >= per_user {
            return None;
        }
        if is_new {
            known.push(device);
        }
        if h.closed {
            return None;
        }
        let conn = Arc::new(Conn { user, device, queue: Mutex::default(), notify: Notify::new(), limit });
        if let Some(old) = h.by_device.insert(device, conn.clone()) {
            old.stop(Stop::SessionEnded);
        }
        Some(conn)
    }

    /// Forgets a connection, unless a newer one has taken its place.
    pub fn remove(&self, conn: &Arc<Conn>) {
        let mut h = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        if !h.by_device.get(&conn.device).is_some_and(|c| Arc::ptr_eq(c, conn)) {
            return;
        }
        h.by_device.remove(&conn.device);
        if let Some(devices) = h.by_user.get_mut(&conn.user) {
            devices.retain(|d| *d != conn.device);
            if devices.is_empty() {
                h.by_user.remove(&conn.user);
            }
        }
    }

    /// The connection of a device.
    #[must_use]
    pub fn device(&self, device: DeviceId) -> Option<Arc<Conn>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_device.get(&device).cloned()
    }

    /// The connections of those of `devices` that are connected.
    pub fn devices<'a>(&self, devices: impl Iterator<Item = &'a DeviceId>) -> Vec<Arc<Conn>> {
        let h = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        devices.filter_map(|d| h.by_device.get(d).cloned()).collect()
    }

    /// Sends a frame to every connected device of an account.
    pub fn send_user(&self, user: UserId, frame: ServerFrame) {
        let frame = SharedFrame::new(frame);
        let h = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        for d in h.by_user.get(&user).into_iter().flatten() {
            if let Some(c) = h.by_device.get(d) {
                c.push(std::slice::from_ref(&frame));
            }
        }
    }

    /// Ends every connection of an account.
    pub fn stop_user(&self, user: UserId) {
        let h = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        for d in h.by_user.get(&user).into_iter().flatten() {
            if let Some(c) = h.by_device.get(d) {
                c.stop(Stop::SessionEnded);
            }
        }
    }

    /// Ends the connection of a device.
    pub fn stop_device(&self, device: DeviceId) {
        if let Some(c) = self.device(device) {
            c.stop(Stop::SessionEnded);
        }
    }

    /// Ends all connections and takes no new ones: the server stops.
    pub fn close(&self) {
        let mut h = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        h.closed = true;
        for c in h.by_device.values() {
            c.stop(Stop::Restart);
        }
    }

    /// Connections right now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).by_device.len()
    }

    /// True when nobody is connected.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}
