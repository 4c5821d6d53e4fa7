//! The actor: the gateway in, the outbox out.
//!
//! | state | what happens |
//! |---|---|
//! | connecting | backoff 1, 2, 4 … 30 s with jitter; at once when somebody says the network is back |
//! | catching up | cursors are sent; entries come in order; the outbox waits |
//! | online | entries come as they happen; the outbox runs, one job at a time per conversation |
//! | logged out | nothing, until a new login |

mod outbox;

pub use outbox::run_outbox;

use crate::account;
use crate::api::Api;
use crate::calls::Calls;
use crate::core::inbox::{Entry, Todo, receive};
use crate::core::{Db, Own, directory};
use crate::engine::{ConnectionState, Event};
use crate::jobs::{self, kind};
use crate::{EngineError, EngineResult, now_ms};
use futures_util::{SinkExt as _, StreamExt as _};
use sc_protocol::frame::{ClientFrame, Cursor, Encoding, Envelope, EnvelopeKind, SUBPROTOCOL_MSGPACK, ServerFrame};
use sc_protocol::rest::{ConversationInfo, ConversationPage, EnvelopePage, UserInfo};
use sc_protocol::rooms::RoomInfo;
use sc_protocol::{ConversationId, ErrorBody, ErrorCode, RoomId, limits};
use sc_store::model::ConversationState;
use sc_store::{Read, Reader, StoreResult};
use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc, oneshot, watch};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderValue, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

/// Entries stored in one transaction.
const BATCH: usize = 100;
/// An answer on the gateway comes within this, or the connection is taken for dead.
const ANSWER: Duration = Duration::from_secs(20);
/// Whoever was asked whether it is still there answers within this.
const PROBE: Duration = Duration::from_millis(1_500);

/// What the server says to a request.
type Answer = Result<(), Box<ErrorBody>>;

/// What the tasks of an engine share.
pub struct Shared {
    /// The writing thread.
    pub db: Db,
    /// HTTP.
    pub api: Api,
    /// Who this device is.
    pub own: Own,
    /// Where changes are told.
    pub events: broadcast::Sender<Event>,
    /// How the connection is.
    pub state: watch::Sender<ConnectionState>,
    /// Somebody says that connecting is worth a try.
    pub hurry: Notify,
    probe: Notify,
    /// The engine stops.
    pub stop: watch::Sender<bool>,
    /// Who follows calls.
    pub calls: Arc<Calls>,
    /// Rooms, as the server told of them last.
    pub rooms: Mutex<HashMap<RoomId, RoomInfo>>,
    reader: Arc<Mutex<Reader>>,
    gateway: Mutex<Option<mpsc::Sender<ClientFrame>>>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_request: AtomicU64,
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Rooms that are remembered; beyond it they are asked for anew.
const ROOMS: usize = 1_000;

impl Shared {
    /// Remembers what a room looks like now.
    fn room_news(&self, room: RoomInfo) -> RoomId {
        let id = room.room_id;
        let mut rooms = lock(&self.rooms);
        if rooms.len() >= ROOMS {
            rooms.clear();
        }
        rooms.insert(id, room);
        id
    }

    /// Puts the parts together.
    pub fn new(db: Db, api: Api, own: Own, reader: Reader, events: broadcast::Sender<Event>, calls: Arc<Calls>) -> Arc<Self> {
        Self::assemble(db, api, own, Arc::new(Mutex::new(reader)), events, calls)
    }

    /// The same for another device of the account: after linking, after a new identity.
    #[must_use]
    pub fn successor(&self, api: Api, own: Own) -> Arc<Self> {
        Self::assemble(self.db.clone(), api, own, self.reader.clone(), self.events.clone(), self.calls.clone())
    }

    fn assemble(db: Db, api: Api, own: Own, reader: Arc<Mutex<Reader>>, events: broadcast::Sender<Event>, calls: Arc<Calls>) -> Arc<Self> {
        Arc::new(Self {
            db,
            api,
            own,
            events,
            state: watch::channel(ConnectionState::Connecting).0,
            hurry: Notify::new(),
            probe: Notify::new(),
            stop: watch::channel(false).0,
            calls,
            reader,
            gateway: Mutex::new(None),
            waiting: Mutex::default(),
            rooms: Mutex::default(),
            next_request: AtomicU64::new(1),
        })
    }

    /// Reads, on a thread that may wait.
    pub async fn read<A: Send + 'static, T: Send + 'static>(
        &self,
        f: impl FnOnce(Read<'_>, A) -> StoreResult<T> + Send + 'static,
        arg: A,
    ) -> EngineResult<T> {
        let reader = self.reader.clone();
        let read = tokio::task::spawn_blocking(move || f(lock(&reader).read(), arg)).await;
        Ok(read.map_err(|_| EngineError::Stopped)??)
    }

    /// Sends a request on the gateway and waits for its answer.
    pub async fn request(&self, frame: impl FnOnce(u64) -> ClientFrame) -> EngineResult<()> {
        let gateway = lock(&self.gateway).clone().ok_or_else(|| EngineError::Offline("not connected".into()))?;
        let id = self.next_request.fetch_add(1, Ordering::Relaxed);
        let (tx, rx) = oneshot::channel();
        lock(&self.waiting).insert(id, tx);
        let sent = gateway.send(frame(id)).await;
        let answer = if sent.is_ok() { tokio::time::timeout(ANSWER, rx).await.ok().and_then(Result::ok) } else { None };
        lock(&self.waiting).remove(&id);
        match answer {
            Some(Ok(())) => Ok(()),
            Some(Err(e)) => Err(EngineError::Server(e)),
            None => {
                // Half open, most likely: the session ends when its sender is gone, and a new one begins.
                let mut current = lock(&self.gateway);
                if current.as_ref().is_some_and(|g| g.same_channel(&gateway)) {
                    *current = None;
                }
                Err(EngineError::Offline("no answer".into()))
            }
        }
    }

    fn answer(&self, id: u64, result: Answer) {
        if let Some(tx) = lock(&self.waiting).remove(&id) {
            // The one who asked may have stopped waiting.
            let _ = tx.send(result);
        }
    }

    /// Stores entries, then fetches what they show to be missing.
    pub async fn store(&self, entries: Vec<Entry>) -> EngineResult<()> {
        let todo = self.store_batch(entries).await?;
        self.follow_up(todo).await
    }

    async fn follow_up(&self, mut todo: Todo) -> EngineResult<()> {
        let mut rounds = 0;
        while let Some(id) = todo.gaps.pop() {
            rounds += 1;
            if rounds > 1_000 {
                return Err(EngineError::Offline("the server's log has holes".into()));
            }
            let more = self.fetch(id).await?;
            todo.refresh.extend(more.refresh);
        }
        for id in todo.refresh {
            if let Err(cause) = self.refresh_conversation(id).await {
                tracing::debug!(%cause, "a conversation could not be refreshed; it is at the next connection");
            }
        }
        Ok(())
    }

    async fn store_batch(&self, entries: Vec<Entry>) -> EngineResult<Todo> {
        let mut todo = self.db.write(move |cx| receive(cx, &entries)).await?;
        self.calls.news(std::mem::take(&mut todo.calls));
        Ok(todo)
    }

    /// Fetches one page after the cursor, until there is none.
    async fn fetch(&self, id: ConversationId) -> EngineResult<Todo> {
        let mut all = Todo::default();
        loop {
            let after = self.read(|r, id: ConversationId| r.conversation(id), id).await?.map_or(0, |c| c.last_seq);
            let page: EnvelopePage =
                match self.api.get(&format!("/v1/conversations/{id}/messages?after={after}&limit={}", limits::PAGE)).await {
                    Ok(p) => p,
                    Err(EngineError::Server(e)) if e.code == ErrorCode::NotAMember => return Ok(all),
                    Err(e) => return Err(e),
                };
            // A Welcome and a join of our own begin a stay.
            let own = self.own.device.device_id;
            let opens = |e: &Envelope| e.kind == EnvelopeKind::Welcome || (e.kind == EnvelopeKind::Commit && e.sender_device == own);
            let Some((first, opens)) = page.envelopes.first().map(|e| (e.seq, opens(e))) else { return Ok(all) };
            if first > after + 1 {
                // A first join that is on its way has its place before this.
                if !opens && self.read(|r, id: ConversationId| r.has_job(id, kind::REJOIN), id).await? && after > 0 {
                    let joining = self
                        .read(|r, id: ConversationId| r.conversation(id), id)
                        .await?
                        .is_some_and(|c| c.state == ConversationState::Joining);
                    if joining {
                        return Ok(all);
                    }
                }
                self.db.write(move |cx| directory::hole(cx, id, first)).await?;
            }
            let last = page.envelopes.last().map_or(0, |e| e.seq);
            for chunk in page.envelopes.chunks(BATCH) {
                let todo = self.store_batch(chunk.iter().map(|e| Entry::Envelope(Box::new(e.clone()))).collect()).await?;
                all.refresh.extend(todo.refresh);
            }
            if last >= page.last_seq {
                return Ok(all);
            }
        }
    }

    /// Waits until the cursor has reached `seq`; fetches when it does not come by itself.
    pub async fn catch_up_to(&self, id: ConversationId, seq: u64) -> EngineResult<()> {
        let mut events = self.events.subscribe();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(300);
        loop {
            let at = self.read(|r, id: ConversationId| r.conversation(id), id).await?.map_or(0, |c| c.last_seq);
            if at >= seq {
                return Ok(());
            }
            if tokio::time::timeout_at(deadline, events.recv()).await.is_err() {
                self.fetch(id).await?;
                return Ok(());
            }
        }
    }

    /// Asks the server about a conversation: roster, roles, whether this device is inside.
    pub async fn refresh_conversation(&self, id: ConversationId) -> EngineResult<()> {
        match self.api.get::<ConversationInfo>(&format!("/v1/conversations/{id}")).await {
            Ok(info) => self.db.write(move |cx| directory::apply_info(cx, info)).await,
            Err(EngineError::Server(e)) if matches!(e.code, ErrorCode::NotAMember | ErrorCode::NotFound) => {
                self.db.write(move |cx| directory::not_a_member(cx, id)).await
            }
            Err(e) => Err(e),
        }
    }

    async fn refresh_all(&self) -> EngineResult<()> {
        let mut cursor = String::new();
        loop {
            let page: ConversationPage = self.api.get(&format!("/v1/conversations?limit=200{cursor}")).await?;
            // A page is one transaction: a start with many conversations is not as many waits for the disk.
            let known = page.conversations;
            self.db.write(move |cx| known.into_iter().try_for_each(|info| directory::apply_info(cx, info))).await?;
            match page.next_cursor {
                Some(c) => cursor = format!("&cursor={c}"),
                None => return Ok(()),
            }
        }
    }

    /// Fetches what the server says about an account and checks it against what is pinned.
    pub async fn refresh_user(&self, path: &str) -> EngineResult<UserInfo> {
        let info: UserInfo = self.api.get(path).await?;
        let checked = info.clone();
        self.db.write(move |cx| jobs::verify_user(cx, &checked).map(|_| ())).await?;
        Ok(info)
    }

    /// The network is another one: the connection over the old one is given up, and a new one tried at once.
    pub fn reconnect(&self) {
        *lock(&self.gateway) = None;
        self.hurry.notify_one();
    }

    /// Something else says that the network may be gone: the connection is asked whether it still works, and given up when it does not.
    pub fn probe(&self) {
        self.probe.notify_one();
    }

    fn stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits until the engine stops, also when that was said before.
    async fn stopped(&self) {
        // The sender is here, so it cannot be gone.
        let _ = self.stop.subscribe().wait_for(|s| *s).await;
    }
}

/// The gateway's task.
pub async fn run_gateway(s: Arc<Shared>) {
    let mut attempt = 0u32;
    while !s.stopping() {
        s.state.send_replace(ConnectionState::Connecting);
        // Cutting a session off anywhere is what a crash would do: it is safe.
        let result = tokio::select! {
            r = session(&s, &mut attempt) => r,
            () = s.stopped() => break,
        };
        *lock(&s.gateway) = None;
        lock(&s.waiting).clear();
        if let Err(EngineError::Server(e)) = &result
            && matches!(
                e.code,
                ErrorCode::Unauthenticated | ErrorCode::AccountSuspended | ErrorCode::RefreshReused | ErrorCode::DeviceNotLinked
            )
        {
            s.state.send_replace(ConnectionState::LoggedOut(e.code));
            tokio::select! {
                () = s.hurry.notified() => {}
                () = s.stopped() => {}
            }
            continue;
        }
        if let Err(cause) = &result {
            tracing::info!(%cause, "the connection ended");
        }
        s.state.send_replace(ConnectionState::Offline);
        let base = 1_000u64.saturating_mul(1 << attempt.min(5)).min(30_000);
        attempt += 1;
        let jitter = rand::random::<u64>() % (base / 2 + 1);
        let wait = Duration::from_millis(base / 2 + jitter);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = s.hurry.notified() => {}
            () = s.stopped() => {}
        }
    }
    *lock(&s.gateway) = None;
    lock(&s.waiting).clear();
    s.state.send_replace(ConnectionState::Offline);
}

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

async fn connect(s: &Shared, token: &str) -> EngineResult<Socket> {
    let offline = |e: &dyn std::fmt::Display| EngineError::Offline(e.to_string());
    let mut request = s.api.gateway().into_client_request().map_err(|e| offline(&e))?;
    let bearer = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|e| offline(&e))?;
    request.headers_mut().insert(header::AUTHORIZATION, bearer);
    request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL_MSGPACK));
    let max = Some(16 << 20);
    let config = WebSocketConfig::default().read_buffer_size(16 * 1024).write_buffer_size(0).max_message_size(max).max_frame_size(max);
    let connecting = tokio_tungstenite::connect_async_with_config(request, Some(config), true);
    match tokio::time::timeout(Duration::from_secs(15), connecting).await {
        Ok(Ok((socket, _))) => Ok(socket),
        Ok(Err(WsError::Http(r))) => Err(offline(&format!("status {}", r.status().as_u16()))),
        Ok(Err(e)) => Err(offline(&e)),
        Err(_) => Err(offline(&"no answer in time")),
    }
}

async fn session(s: &Arc<Shared>, attempt: &mut u32) -> EngineResult<()> {
    let connected_with = s.api.access_token()?;
    let mut socket = connect(s, &connected_with).await?;
    match tokio::time::timeout(ANSWER, next_frame(&mut socket)).await {
        Ok(Ok(Some(ServerFrame::Connected { server_time, .. }))) => {
            let skew = now_ms() - server_time;
            s.calls.set_skew(skew);
            if skew.abs() > 5 * 60_000 {
                tracing::warn!(seconds = skew / 1000, "this device's clock differs from the server's");
            }
        }
        Ok(Ok(Some(ServerFrame::ConnectionError { error })))
            if error.code == ErrorCode::TokenExpired || error.code == ErrorCode::Unauthenticated =>
        {
            s.api.refresh(&connected_with).await?;
            *attempt = 0;
            s.hurry.notify_one();
            return Ok(());
        }
        Ok(Ok(Some(ServerFrame::ConnectionError { error }))) => return Err(EngineError::Server(Box::new(error))),
        _ => return Err(EngineError::Offline("the server did not answer".into())),
    }
    s.state.send_replace(ConnectionState::CatchingUp);
    let (tx, mut outgoing) = mpsc::channel(64);
    for frame in cursors(s).await? {
        send(&mut socket, &frame).await?;
    }
    *lock(&s.gateway) = Some(tx);
    let mut ping = tokio::time::interval(Duration::from_secs(limits::DEAD_PEER_SECONDS / 3));
    let mut heard = tokio::time::Instant::now();
    let mut probed: Option<tokio::time::Instant> = None;
    let mut batch = Vec::new();
    let mut frames = Vec::new();
    loop {
        tokio::select! {
            message = socket.next() => {
                heard = tokio::time::Instant::now();
                if message.as_ref().is_some_and(Result::is_ok) {
                    probed = None;
                } else if probed.is_some() {
                    // It was known to be doubtful: a new one is tried at once.
                    s.hurry.notify_one();
                }
                let Some(frame) = decode(message)? else { continue };
                frames.push(frame);
                // What is there already is stored in one transaction.
                while frames.len() < BATCH {
                    match tokio::time::timeout(Duration::ZERO, socket.next()).await {
                        Ok(m) => frames.extend(decode(m)?),
                        Err(_) => break,
                    }
                }
                for frame in frames.drain(..) {
                    if let Some(other) = collect(frame, &mut batch) {
                        flush(s, &mut batch).await?;
                        handle(s, other, attempt).await;
                    }
                }
                flush(s, &mut batch).await?;
            }
            frame = outgoing.recv() => match frame {
                Some(frame) => send(&mut socket, &frame).await?,
                None => return Err(EngineError::Offline("the server does not answer".into())),
            },
            () = s.probe.notified() => {
                probed.get_or_insert_with(tokio::time::Instant::now);
                match tokio::time::timeout(PROBE, socket.send(Message::Ping(Vec::new().into()))).await {
                    Ok(sent) => sent.map_err(|e| EngineError::Offline(e.to_string()))?,
                    Err(_) => return Err(EngineError::Offline("the server takes nothing".into())),
                }
            }
            () = tokio::time::sleep_until(probed.unwrap_or(heard) + PROBE), if probed.is_some() => {
                s.hurry.notify_one();
                return Err(EngineError::Offline("the server does not answer any more".into()));
            }
            _ = ping.tick() => {
                if heard.elapsed() > Duration::from_secs(limits::DEAD_PEER_SECONDS) {
                    return Err(EngineError::Offline("the server is silent".into()));
                }
                socket.send(Message::Ping(Vec::new().into())).await.map_err(|e| EngineError::Offline(e.to_string()))?;
            }
        }
    }
}

async fn cursors(s: &Shared) -> EngineResult<Vec<ClientFrame>> {
    let all: Vec<Cursor> = s
        .read(|r, ()| r.conversations(), ())
        .await?
        .into_iter()
        .filter(|c| c.state != ConversationState::Creating)
        .map(|c| Cursor { conversation_id: c.id, seq: c.last_seq })
        .collect();
    let mut frames: Vec<ClientFrame> =
        all.chunks(limits::SYNC_CURSORS).map(|c| ClientFrame::Sync { cursors: c.to_vec(), done: false }).collect();
    match frames.last_mut() {
        Some(ClientFrame::Sync { done, .. }) => *done = true,
        _ => frames.push(ClientFrame::Sync { cursors: Vec::new(), done: true }),
    }
    Ok(frames)
}

async fn send(socket: &mut Socket, frame: &ClientFrame) -> EngineResult<()> {
    let bytes = Encoding::MsgPack.encode(frame).map_err(|e| EngineError::invalid("ENCODING", e.to_string()))?;
    let sending = socket.send(Message::Binary(bytes.into()));
    match tokio::time::timeout(ANSWER, sending).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) => Err(EngineError::Offline(e.to_string())),
        Err(_) => Err(EngineError::Offline("the server takes nothing".into())),
    }
}

fn decode(message: Option<Result<Message, WsError>>) -> EngineResult<Option<ServerFrame>> {
    match message {
        None => Err(EngineError::Offline("the server closed the connection".into())),
        Some(Err(e)) => Err(EngineError::Offline(e.to_string())),
        Some(Ok(Message::Binary(b))) => match Encoding::MsgPack.decode(&b) {
            Ok(f) => Ok(Some(f)),
            Err(cause) => {
                // A frame of a newer server: what is not known is not needed.
                tracing::warn!(%cause, "a frame was skipped");
                Ok(None)
            }
        },
        Some(Ok(Message::Close(f))) => {
            Err(EngineError::Offline(f.map_or_else(|| "closed".to_owned(), |f| format!("closed: {}", f.reason))))
        }
        Some(Ok(_)) => Ok(None),
    }
}

async fn next_frame(socket: &mut Socket) -> EngineResult<Option<ServerFrame>> {
    loop {
        if let Some(f) = decode(socket.next().await)? {
            return Ok(Some(f));
        }
    }
}

/// Log entries go into the batch; anything else comes back.
fn collect(frame: ServerFrame, batch: &mut Vec<Entry>) -> Option<ServerFrame> {
    match frame {
        ServerFrame::NewMessage(e) => {
            batch.push(Entry::Envelope(Box::new(e)));
            None
        }
        ServerFrame::MessageSent { request_id, conversation_id, temp_id, seq, sent_at } => {
            batch.push(Entry::Own { conversation: conversation_id, temp_id, seq, at: sent_at });
            (request_id != 0).then_some(ServerFrame::Ok { request_id })
        }
        other => Some(other),
    }
}

async fn flush(s: &Shared, batch: &mut Vec<Entry>) -> EngineResult<()> {
    while !batch.is_empty() {
        let n = batch.len().min(BATCH);
        let part: Vec<Entry> = batch.drain(..n).collect();
        let again = part.clone();
        let todo = s.store_batch(part).await?;
        let gaps = !todo.gaps.is_empty();
        s.follow_up(todo).await?;
        if gaps {
            // What followed the gap came with the fetch and is skipped as known, or is stored now.
            s.store(again).await?;
        }
    }
    Ok(())
}

async fn handle(s: &Arc<Shared>, frame: ServerFrame, attempt: &mut u32) {
    let result = match frame {
        ServerFrame::CaughtUp {} => {
            *attempt = 0;
            s.state.send_replace(ConnectionState::Online);
            let s = s.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = after_catch_up(&s) => {}
                    () = s.stopped() => {}
                }
            });
            Ok(())
        }
        ServerFrame::Ok { request_id } | ServerFrame::Pong { request_id } => {
            s.answer(request_id, Ok(()));
            Ok(())
        }
        ServerFrame::Error { request_id, error, .. } => {
            if request_id == 0 {
                tracing::warn!(code = %error.code, "the server refused a frame");
            }
            s.answer(request_id, Err(Box::new(error)));
            Ok(())
        }
        ServerFrame::MessagesRead { conversation_id, user_id, seq } => {
            s.db.write(move |cx| directory::read_up_to(cx, conversation_id, user_id, seq)).await
        }
        ServerFrame::DeviceListChanged { user_id } => s.refresh_user(&format!("/v1/users/{user_id}")).await.map(|_| ()),
        ServerFrame::ConversationUpdated { conversation_id } => s.refresh_conversation(conversation_id).await,
        ServerFrame::DevicesChanged {} => {
            let _ = s.events.send(Event::Devices);
            Ok(())
        }
        ServerFrame::RoomUpdated { room } => {
            // Nobody may be listening.
            let _ = s.events.send(Event::Room(s.room_news(room)));
            Ok(())
        }
        ServerFrame::KeyPackagesLow { .. } => account::refill_key_packages(&s.db, &s.api).await,
        _ => Ok(()),
    };
    if let Err(cause) = result {
        tracing::info!(%cause, "a notice of the server could not be followed up");
    }
}

async fn after_catch_up(s: &Shared) {
    let steps = async {
        s.db.write(|cx| Ok(cx.w.hurry()?)).await?;
        account::refill_key_packages(&s.db, &s.api).await?;
        s.refresh_all().await
    };
    if let Err(cause) = steps.await {
        tracing::info!(%cause, "the state could not be refreshed; it is at the next connection");
    }
    let _ = s.events.send(Event::Outbox);
}
