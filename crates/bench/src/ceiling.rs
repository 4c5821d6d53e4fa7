//! The ceiling: a bare WebSocket server over a log in SQLite with group commit. No accounts, no membership, no epochs, no
//! idempotency: what is left when everything that makes a messenger is taken away. The server's figures are ratios to it.
//!
//! Frames are binary: `[conversation u32][payload]` in, `[conversation u32][seq u64]` back to the sender and
//! `[conversation u32][seq u64][payload]` to everybody else in the conversation, after the commit.

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use sc_testkit::raw::Socket;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqliteConnection};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::server::{PAIRS, SECONDS, WINDOW};

/// Messages of one commit, as in the server.
const BATCH: usize = 512;

struct In {
    conversation: u32,
    from: u64,
    payload: Bytes,
}

#[derive(Default)]
struct Rooms {
    /// Who listens, by conversation: number of the connection and its way out.
    members: HashMap<u32, Vec<(u64, mpsc::UnboundedSender<Bytes>)>>,
}

type Shared = Arc<Mutex<Rooms>>;

fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(4096).write_buffer_size(32 * 1024)
}

async fn serve(dir: &Path) -> Result<SocketAddr> {
    let mut db = SqliteConnectOptions::new()
        .filename(dir.join("ceiling.db"))
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .connect()
        .await?;
    sqlx::query("CREATE TABLE log (conversation INTEGER NOT NULL, seq INTEGER NOT NULL, payload BLOB NOT NULL, PRIMARY KEY (conversation, seq)) WITHOUT ROWID")
        .execute(&mut db)
        .await?;
    let rooms: Shared = Arc::default();
    let (tx, rx) = mpsc::channel(65_536);
    tokio::spawn(write(db, rx, rooms.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    tokio::spawn(async move {
        let mut number = 0;
        while let Ok((tcp, _)) = listener.accept().await {
            number += 1;
            tokio::spawn(connection(tcp, number, tx.clone(), rooms.clone()));
        }
    });
    Ok(addr)
}

async fn connection(tcp: TcpStream, number: u64, writer: mpsc::Sender<In>, rooms: Shared) -> Result<()> {
    tcp.set_nodelay(true)?;
    let (mut sink, mut stream) = tokio_tungstenite::accept_async_with_config(tcp, Some(config())).await?.split();
    let (tx, mut rx) = mpsc::unbounded_channel::<Bytes>();
    tokio::spawn(async move {
        let mut out = Vec::new();
        while rx.recv_many(&mut out, 256).await > 0 {
            for b in out.drain(..) {
                sink.feed(Message::Binary(b)).await?;
            }
            sink.flush().await?;
        }
        anyhow::Ok(())
    });
    while let Some(Ok(m)) = stream.next().await {
        let Message::Binary(b) = m else { continue };
        let conversation = u32::from_be_bytes(b.get(..4).context("short")?.try_into()?);
        let payload = b.slice(4..);
        if payload.is_empty() {
            // The first frame says where this connection listens.
            rooms.lock().unwrap_or_else(PoisonError::into_inner).members.entry(conversation).or_default().push((number, tx.clone()));
            tx.send(b)?;
            continue;
        }
        writer.send(In { conversation, from: number, payload }).await?;
    }
    Ok(())
}

async fn write(mut db: SqliteConnection, mut rx: mpsc::Receiver<In>, rooms: Shared) -> Result<()> {
    let mut seqs: HashMap<u32, u64> = HashMap::new();
    let mut batch = Vec::with_capacity(BATCH);
    while rx.recv_many(&mut batch, BATCH).await > 0 {
        let placed: Vec<(In, u64)> = batch
            .drain(..)
            .map(|m| {
                let seq = seqs.entry(m.conversation).or_default();
                *seq += 1;
                let seq = *seq;
                (m, seq)
            })
            .collect();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut db).await?;
        for chunk in placed.chunks(64) {
            let mut q = sqlx::QueryBuilder::new("INSERT INTO log (conversation, seq, payload) ");
            q.push_values(chunk, |mut b, (m, seq)| {
                b.push_bind(i64::from(m.conversation)).push_bind(i64::try_from(*seq).unwrap_or_default()).push_bind(m.payload.as_ref());
            });
            q.build().execute(&mut db).await?;
        }
        sqlx::query("COMMIT").execute(&mut db).await?;
        let rooms = rooms.lock().unwrap_or_else(PoisonError::into_inner);
        for (m, seq) in placed {
            let mut head = m.conversation.to_be_bytes().to_vec();
            head.extend_from_slice(&seq.to_be_bytes());
            let ack = Bytes::from(head.clone());
            head.extend_from_slice(&m.payload);
            let full = Bytes::from(head);
            for (number, tx) in rooms.members.get(&m.conversation).into_iter().flatten() {
                // Whoever has gone is not waited for.
                let _ = tx.send(if *number == m.from { ack.clone() } else { full.clone() });
            }
        }
    }
    Ok(())
}

async fn join(addr: SocketAddr, conversation: u32) -> Result<Socket> {
    let (mut socket, _) = tokio_tungstenite::connect_async_with_config(format!("ws://{addr}/"), Some(config()), true).await?;
    socket.send(Message::binary(conversation.to_be_bytes().to_vec())).await?;
    next(&mut socket).await?;
    Ok(socket)
}

async fn next(socket: &mut Socket) -> Result<Bytes> {
    loop {
        match socket.next().await.context("closed")?? {
            Message::Binary(b) => return Ok(b),
            Message::Close(_) => bail!("closed"),
            _ => {}
        }
    }
}

fn frame(conversation: u32) -> Message {
    let mut b = conversation.to_be_bytes().to_vec();
    b.resize(4 + 512, 0x5a);
    Message::binary(b)
}

async fn press(mut socket: Socket, conversation: u32, end: Instant, acked: Arc<AtomicU64>) -> Result<()> {
    for _ in 0..WINDOW {
        socket.feed(frame(conversation)).await?;
    }
    socket.flush().await?;
    let mut outstanding = WINDOW;
    while outstanding > 0 {
        if next(&mut socket).await?.len() == 12 {
            acked.fetch_add(1, Relaxed);
            if Instant::now() < end {
                socket.send(frame(conversation)).await?;
            } else {
                outstanding -= 1;
            }
        }
    }
    Ok(())
}

fn listen(mut socket: Socket, end: Instant, delivered: Arc<AtomicU64>) {
    tokio::spawn(async move {
        while let Some(Ok(m)) = socket.next().await {
            if m.is_binary() && Instant::now() < end {
                delivered.fetch_add(1, Relaxed);
            }
        }
    });
}

/// Acknowledged 1:1 messages/s and deliveries/s in a group, with the same generator as the server's.
pub async fn run() -> Result<(f64, f64)> {
    let dir = tempfile::tempdir()?;
    let addr = serve(dir.path()).await?;
    let (acked, delivered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let mut senders = Vec::new();
    let end = Instant::now() + Duration::from_secs(SECONDS);
    for i in 0..u32::try_from(PAIRS)? {
        listen(join(addr, i).await?, end, delivered.clone());
        senders.push(tokio::spawn(press(join(addr, i).await?, i, end, acked.clone())));
    }
    for s in senders {
        s.await??;
    }
    #[allow(clippy::cast_precision_loss)]
    let pairs = acked.load(Relaxed) as f64 / SECONDS as f64;
    println!("ceiling, 1:1, {PAIRS} pairs x {WINDOW}: {pairs:.0} acked durable messages/s");
    let group = u32::MAX;
    let delivered = Arc::new(AtomicU64::new(0));
    let mut sockets = Vec::new();
    for _ in 1..PAIRS {
        sockets.push(join(addr, group).await?);
    }
    let sender = join(addr, group).await?;
    let (begin, end) = (Instant::now(), Instant::now() + Duration::from_secs(SECONDS));
    for s in sockets {
        listen(s, end, delivered.clone());
    }
    press(sender, group, end, Arc::default()).await?;
    #[allow(clippy::cast_precision_loss)]
    let fan_out = delivered.load(Relaxed) as f64 / begin.elapsed().as_secs_f64();
    println!("ceiling, group of {PAIRS}, one sender, window {WINDOW}: {fan_out:.0} deliveries/s");
    Ok((pairs, fan_out))
}
