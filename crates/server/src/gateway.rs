//! `GET /v1/gateway`: one WebSocket per device.
//!
//! States of a connection: authenticated → `connected` → the device sends its cursors → catch-up from the log, page by
//! page, while live entries wait in the queue → what was sent already is dropped from the queue → `caught_up` → live.
//! A connection that never syncs is sent nothing of any log.

use crate::auth::{self, Authed};
use crate::error::{ApiError, ApiResult};
use crate::hub::{Conn, SharedFrame, Stop};
use crate::log::read;
use crate::log::writer::{Append, Reply};
use crate::routes::conversations::{check_message, info_for};
use crate::{App, now_ms};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use futures_util::{SinkExt as _, StreamExt as _};
use sc_protocol::frame::{
    CLOSE_RESTART, CLOSE_RESYNC, CLOSE_SESSION, ClientFrame, Cursor, Encoding, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK, ServerFrame,
};
use sc_protocol::{ConversationId, ErrorBody, limits};
use std::collections::HashMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

type Sink = futures_util::stream::SplitSink<WebSocket, Message>;

/// Cursors a device may name in all.
const MAX_CURSORS: usize = 100_000;

/// The route.
pub async fn upgrade(State(app): State<App>, headers: HeaderMap, ws: WebSocketUpgrade) -> ApiResult<Response> {
    let ws = ws
        .protocols([SUBPROTOCOL_MSGPACK, SUBPROTOCOL_JSON])
        .read_buffer_size(4096)
        .write_buffer_size(32 * 1024)
        .max_write_buffer_size(8 << 20)
        .max_message_size(limits::FRAME_BYTES)
        .max_frame_size(limits::FRAME_BYTES);
    let encoding = match ws.selected_protocol().and_then(|p| p.to_str().ok()) {
        Some(SUBPROTOCOL_MSGPACK) => Encoding::MsgPack,
        Some(_) => Encoding::Json,
        None => return Err(ApiError::bad("Ask for the subprotocol secureconnect.v1.json or secureconnect.v1.msgpack.")),
    };
    let token = headers
        .get(axum::http::header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| v.strip_prefix("Bearer "))
        .map(str::to_owned);
    let bearer = token;
    let who = match &bearer {
        None => Err(auth::unauthenticated()),
        Some(t) => auth::authenticate(&app, t).await.and_then(auth::linked),
    };
    let token = bearer.unwrap_or_default();
    Ok(ws.on_upgrade(move |socket| async move {
        match who {
            Ok(who) => serve(app, socket, who, encoding, token).await,
            Err(e) => refuse(socket, encoding, *e.0).await,
        }
    }))
}

async fn refuse(mut socket: WebSocket, encoding: Encoding, error: ErrorBody) {
    let frame = SharedFrame::new(ServerFrame::ConnectionError { error });
    // The peer may be gone already; there is nobody else to tell.
    let _ = socket.send(frame.message(encoding)).await;
    let _ = socket.send(close(CLOSE_SESSION, "session")).await;
}

fn close(code: u16, reason: &'static str) -> Message {
    Message::Close(Some(CloseFrame { code, reason: reason.into() }))
}

/// The close code (RFC 6455, 7.4.1) for what a peer did wrong; none when the connection is just gone.
fn fault(cause: axum::Error) -> Option<u16> {
    match *cause.into_inner().downcast::<tungstenite::Error>().ok()? {
        tungstenite::Error::Capacity(_) => Some(1009),
        tungstenite::Error::Utf8(_) => Some(1007),
        tungstenite::Error::Protocol(_) => Some(1002),
        _ => None,
    }
}

async fn serve(app: App, mut socket: WebSocket, who: Authed, encoding: Encoding, token: String) {
    let Some(conn) = app.hub.add(who.user, who.device, app.config.connections_per_user, app.config.connection_queue_bytes) else {
        let mut e = ErrorBody::new(sc_protocol::ErrorCode::Unavailable, "Too many connections, or the server is stopping.");
        e.retry_after_ms = Some(5_000);
        refuse(socket, encoding, e).await;
        return;
    };
    // Asked again now that a revocation finds this connection: nothing slips in between.
    if let Err(e) = auth::authenticate(&app, &token).await.and_then(auth::linked) {
        app.hub.remove(&conn);
        refuse(socket, encoding, *e.0).await;
        return;
    }
    let hello = SharedFrame::new(ServerFrame::Connected { user_id: who.user, device_id: who.device, server_time: now_ms() });
    if socket.send(hello.message(encoding)).await.is_ok() {
        let (sink, stream) = socket.split();
        let mut session =
            Session { app: app.clone(), who, encoding, conn: conn.clone(), sink, live: false, cursors: Vec::new(), held: VecDeque::new() };
        session.run(stream).await;
    }
    app.hub.remove(&conn);
    let _ = app
        .writer
        .write(move |cx| {
            Box::pin(async move {
                sqlx::query("UPDATE devices SET last_seen = $1 WHERE device_id = $2")
                    .bind(cx.now)
                    .bind(who.device.as_bytes().as_slice())
                    .execute(&mut cx.conn)
                    .await?;
                Ok(())
            })
        })
        .await
        .inspect_err(|e| tracing::debug!(cause = %e.0, "last seen was not stored"));
}

struct Session {
    app: App,
    who: Authed,
    encoding: Encoding,
    conn: Arc<Conn>,
    sink: Sink,
    /// Catch-up is over.
    live: bool,
    cursors: Vec<Cursor>,
    /// Live entries that wait for the end of the catch-up.
    held: VecDeque<Arc<SharedFrame>>,
}

/// The connection is over; the peer may or may not have been told.
struct Over;

impl Session {
    async fn run(&mut self, mut stream: futures_util::stream::SplitStream<WebSocket>) {
        let ping_every = Duration::from_secs(limits::DEAD_PEER_SECONDS / 3);
        let mut ping = tokio::time::interval_at(tokio::time::Instant::now() + ping_every, ping_every);
        let mut heard = tokio::time::Instant::now();
        let conn = self.conn.clone();
        loop {
            let result = tokio::select! {
                () = conn.ready() => self.drain().await,
                message = stream.next() => {
                    let result = self.incoming(message).await;
                    heard = tokio::time::Instant::now();
                    result
                }
                _ = ping.tick() => self.beat(heard.elapsed()).await,
            };
            if result.is_err() {
                return;
            }
        }
    }

    /// The heartbeat: the peer lives, and its session still holds.
    async fn beat(&mut self, silent: Duration) -> Result<(), Over> {
        if silent > Duration::from_secs(limits::DEAD_PEER_SECONDS) {
            return Err(Over);
        }
        if !auth::is_welcome(&self.app, &self.who).await {
            self.send(close(CLOSE_SESSION, "session")).await?;
            return Err(Over);
        }
        self.send(Message::Ping(Vec::new().into())).await
    }

    async fn send(&mut self, message: Message) -> Result<(), Over> {
        // A peer that takes nothing for this long is dead or hostile.
        match tokio::time::timeout(Duration::from_secs(20), self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Over),
        }
    }

    /// Sends what waits: everything when live, answers only before that.
    async fn drain(&mut self) -> Result<(), Over> {
        let (mut frames, stop) = self.conn.take();
        if let Some(stop) = stop {
            let message = match stop {
                Stop::TooSlow => close(CLOSE_RESYNC, "resync"),
                Stop::SessionEnded => close(CLOSE_SESSION, "session"),
                Stop::Restart => close(CLOSE_RESTART, "restart"),
            };
            // Best effort: a stuck peer cannot be told.
            let _ = tokio::time::timeout(Duration::from_secs(2), self.sink.send(message)).await;
            return Err(Over);
        }
        if !self.live {
            let (entries, rest) = frames.into_iter().partition(|f| f.place.is_some());
            self.held.extend::<VecDeque<_>>(entries);
            frames = rest;
        }
        self.write(&frames).await?;
        self.conn.sent(&frames);
        Ok(())
    }

    async fn write(&mut self, frames: &VecDeque<Arc<SharedFrame>>) -> Result<(), Over> {
        let encoding = self.encoding;
        let sink = &mut self.sink;
        let all = async {
            for f in frames {
                sink.feed(f.message(encoding)).await?;
            }
            sink.flush().await
        };
        let done = tokio::time::timeout(Duration::from_secs(20), all).await;
        if matches!(done, Ok(Ok(()))) { Ok(()) } else { Err(Over) }
    }

    async fn incoming(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), Over> {
        let bytes = match message {
            None | Some(Ok(Message::Close(_))) => return Err(Over),
            Some(Err(cause)) => {
                if let Some(code) = fault(cause) {
                    // Best effort: who sends such frames may not listen.
                    let _ = tokio::time::timeout(Duration::from_secs(2), self.sink.send(close(code, "frame"))).await;
                }
                return Err(Over);
            }
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => return Ok(()),
            Some(Ok(Message::Text(t))) if self.encoding == Encoding::Json => axum::body::Bytes::from(t),
            Some(Ok(Message::Binary(b))) if self.encoding == Encoding::MsgPack => b,
            Some(Ok(_)) => {
                self.conn.send(error_frame(0, ApiError::bad("The frame is not of the negotiated subprotocol.")));
                return Ok(());
            }
        };
        match self.encoding.decode::<ClientFrame>(&bytes) {
            Ok(frame) => self.handle(frame).await,
            Err(e) => {
                self.conn.send(error_frame(0, ApiError::bad(e.to_string())));
                Ok(())
            }
        }
    }

    async fn handle(&mut self, frame: ClientFrame) -> Result<(), Over> {
        match frame {
            ClientFrame::SendMessage { request_id, message } => {
                let result = match check_message(&self.app, &self.who, &message) {
                    Ok(()) => {
                        let reply = Reply::Frame(self.conn.clone(), request_id);
                        self.app.writer.append(Append { user: self.who.user, device: self.who.device, message, reply }).await
                    }
                    Err(e) => Err(e),
                };
                if let Err(e) = result {
                    self.conn.send(error_frame(request_id, e));
                }
                Ok(())
            }
            ClientFrame::Sync { cursors, done } => self.sync(cursors, done).await,
            ClientFrame::MarkAsRead { request_id, conversation_id, seq } => {
                let result = self.mark_as_read(conversation_id, seq).await;
                self.answer(request_id, result)
            }
            ClientFrame::JoinConversation { request_id, conversation_id } => {
                let result = info_for(&self.app, conversation_id, &self.who).await.map(|_| ());
                self.answer(request_id, result)
            }
            ClientFrame::Ping { request_id } => {
                self.conn.send(ServerFrame::Pong { request_id });
                Ok(())
            }
        }
    }

    #[allow(clippy::unnecessary_wraps)]
    fn answer(&self, request_id: u64, result: ApiResult<()>) -> Result<(), Over> {
        self.conn.send(match result {
            Ok(()) => ServerFrame::Ok { request_id },
            Err(e) => error_frame(request_id, e),
        });
        Ok(())
    }

    async fn mark_as_read(&self, id: ConversationId, seq: u64) -> ApiResult<()> {
        let user = self.who.user;
        self.app.limiter.take(format!("read {}", self.who.device), 200, 20.0, now_ms()).map_err(ApiError::rate_limited)?;
        self.app
            .writer
            .write(move |cx| {
                Box::pin(async move {
                    let conv = cx.conv(id).await.map_err(crate::routes::groups::hide)?;
                    if !conv.members.contains_key(&user) {
                        return Err(ApiError::not_a_member());
                    }
                    let seq = seq.min(conv.last_seq);
                    let devices = conv.leaves.keys().copied().collect();
                    let moved =
                        sqlx::query("UPDATE members SET read_seq = $1 WHERE conversation_id = $2 AND user_id = $3 AND read_seq < $1")
                            .bind(crate::db::int(seq))
                            .bind(id.as_bytes().as_slice())
                            .bind(user.as_bytes().as_slice())
                            .execute(&mut cx.conn)
                            .await?;
                    if moved.rows_affected() > 0 {
                        cx.to_devices(ServerFrame::MessagesRead { conversation_id: id, user_id: user, seq }, devices);
                    }
                    Ok(())
                })
            })
            .await
    }

    async fn sync(&mut self, cursors: Vec<Cursor>, done: bool) -> Result<(), Over> {
        if cursors.len() > limits::SYNC_CURSORS || self.cursors.len() + cursors.len() > MAX_CURSORS {
            self.conn.send(error_frame(0, ApiError::bad("Too many cursors in one sync frame.")));
            return Ok(());
        }
        self.live = false;
        self.cursors.extend(cursors);
        if !done {
            return Ok(());
        }
        let known: HashMap<ConversationId, u64> = self.cursors.drain(..).map(|c| (c.conversation_id, c.seq)).collect();
        match self.catch_up(known).await {
            Ok(sent) => {
                self.live = true;
                let sent = sent?;
                let (taken, stop) = self.conn.take();
                self.held.extend(taken);
                if stop.is_some() {
                    self.conn.wake();
                    return Ok(());
                }
                let fresh = |f: &Arc<SharedFrame>| f.place.is_none_or(|(c, seq)| sent.get(&c).is_none_or(|s| seq > *s));
                let (rest, dropped): (VecDeque<_>, VecDeque<_>) = std::mem::take(&mut self.held).into_iter().partition(fresh);
                self.conn.sent(&dropped);
                self.write(&rest).await?;
                self.conn.sent(&rest);
                let caught_up = SharedFrame::new(ServerFrame::CaughtUp {});
                self.send(caught_up.message(self.encoding)).await
            }
            Err(e) => {
                // Half caught up is not up: the device comes back and asks anew.
                tracing::warn!(cause = %e.0, "catch-up failed");
                self.send(close(CLOSE_RESTART, "retry")).await?;
                Err(Over)
            }
        }
    }

    /// Sends the log after the cursors; returns how far each conversation was sent.
    async fn catch_up(&mut self, known: HashMap<ConversationId, u64>) -> ApiResult<Result<HashMap<ConversationId, u64>, Over>> {
        let mut sent = HashMap::new();
        for stay in read::stays(&self.app.pool, self.who.device).await? {
            let mut after = known.get(&stay.conversation_id).copied().unwrap_or(0);
            loop {
                if stay.end.is_some_and(|end| after >= end) {
                    break;
                }
                if self.conn.stopped() {
                    self.conn.wake();
                    return Ok(Ok(sent));
                }
                let (page, more) = read::page(&self.app.pool, self.who.device, stay, after, limits::PAGE).await?;
                let Some(last) = page.last().map(|e| e.seq) else { break };
                after = last;
                let frames = page.into_iter().map(|e| SharedFrame::new(ServerFrame::NewMessage(e))).collect();
                if self.write(&frames).await.is_err() {
                    return Ok(Err(Over));
                }
                if !more {
                    break;
                }
            }
            sent.insert(stay.conversation_id, after);
        }
        Ok(Ok(sent))
    }
}

fn error_frame(request_id: u64, e: ApiError) -> ServerFrame {
    ServerFrame::Error { request_id, temp_id: None, error: *e.0 }
}
