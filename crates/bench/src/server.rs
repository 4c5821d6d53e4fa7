//! The server under load over real sockets. The generator shares the cores.
#![allow(clippy::indexing_slicing)]

use crate::percentiles;
use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use sc_protocol::ConversationId;
use sc_protocol::frame::{Encoding, ServerFrame};
use sc_testkit::raw::{self, Socket, next};
use sc_testkit::{Person, World};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;

/// Pairs of accounts; also the size of the group.
pub const PAIRS: usize = 100;
/// Messages a sender has outstanding.
pub const WINDOW: usize = 16;
/// Length of each measurement.
pub const SECONDS: u64 = 8;

struct Seat {
    token: String,
}

async fn connect(world: &World, seat: &Seat) -> Result<Socket> {
    Ok(raw::connect(world.addr, &seat.token).await?.0)
}

fn message(id: ConversationId, epoch: u64, request_id: u64) -> Result<Message> {
    Ok(Message::binary(Encoding::MsgPack.encode(&raw::message(id, epoch, request_id, 512))?))
}

/// Accounts, conversations, then load.
pub async fn run() -> Result<(f64, f64)> {
    let world = Arc::new(
        World::with(|c| {
            c.send_rate = 1_000_000;
            c.send_burst = 1_000_000;
            c.access_token_seconds = 7_200;
            c.connections_per_user = 4_000;
        })
        .await?,
    );
    println!("making {} accounts and {PAIRS} conversations …", 2 * PAIRS);
    let mut people = Vec::new();
    for i in 0..2 * PAIRS {
        people.push(world.person(&format!("user{i}")).await?);
    }
    let mut pairs = Vec::new();
    for i in 0..PAIRS {
        let (a, b) = (&people[2 * i], &people[2 * i + 1]);
        let c = a.direct(&b.name).await?;
        a.say(c, "start").await?;
        b.sees(c, "start").await?;
        pairs.push((c, epoch(a, c).await?));
    }
    let mut ids = Vec::new();
    for p in people.iter().take(PAIRS).skip(1) {
        ids.push(p.id()?);
    }
    for p in people.iter().take(PAIRS).skip(1) {
        people[0].engine.find_user(&p.name).await?;
    }
    let group = people[0].engine.create_group("hundred", ids).await?;
    people[0].say(group, "start").await?;
    for p in people.iter().take(PAIRS).skip(1) {
        p.sees(group, "start").await?;
    }
    let group_epoch = epoch(&people[0], group).await?;
    let mut seats = Vec::new();
    for p in people {
        let token = p.engine.http()?.access_token()?;
        p.engine.stop().await;
        seats.push(Seat { token });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    sequential(&world, &seats, pairs[0]).await?;
    let pairs = throughput(&world, &seats, &pairs).await?;
    let group = fan_out(&world, &seats, (group, group_epoch)).await?;
    Ok((pairs, group))
}

async fn epoch(p: &Person, c: ConversationId) -> Result<u64> {
    Ok(p.engine.authenticator(c).await?.context("a group")?.0)
}

async fn sequential(world: &World, seats: &[Seat], (id, epoch): (ConversationId, u64)) -> Result<()> {
    let mut socket = connect(world, &seats[0]).await?;
    let mut times = Vec::new();
    for i in 1..=3_000u64 {
        let m = message(id, epoch, i)?;
        let t = Instant::now();
        socket.send(m).await?;
        loop {
            match next(&mut socket).await? {
                ServerFrame::MessageSent { request_id, .. } if request_id == i => break,
                ServerFrame::Error { error, .. } => bail!("{error}"),
                _ => {}
            }
        }
        times.push(t.elapsed().as_secs_f64() * 1000.0);
    }
    let (p50, p99) = percentiles(times);
    println!("sequential durable ack: p50 {p50:.2} ms, p99 {p99:.2} ms");
    Ok(())
}

async fn throughput(world: &Arc<World>, seats: &[Seat], pairs: &[(ConversationId, u64)]) -> Result<f64> {
    let (acked, delivered, disorder) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let end = Instant::now() + Duration::from_secs(SECONDS);
    let mut tasks = Vec::new();
    for (i, (id, epoch)) in pairs.iter().copied().enumerate() {
        let mut receiver = connect(world, &seats[2 * i + 1]).await?;
        let (delivered, disorder) = (delivered.clone(), disorder.clone());
        tasks.push(tokio::spawn(async move {
            let mut last = 0;
            while let Ok(Ok(frame)) = tokio::time::timeout_at((end + Duration::from_secs(3)).into(), next(&mut receiver)).await {
                if let ServerFrame::NewMessage(e) = frame {
                    if last != 0 && e.seq != last + 1 {
                        disorder.fetch_add(1, Relaxed);
                    }
                    last = e.seq;
                    delivered.fetch_add(1, Relaxed);
                }
            }
            Ok::<(), anyhow::Error>(())
        }));
        let mut sender = connect(world, &seats[2 * i]).await?;
        let acked = acked.clone();
        tasks.push(tokio::spawn(async move {
            let mut n = 0;
            for _ in 0..WINDOW {
                n += 1;
                sender.feed(message(id, epoch, n)?).await?;
            }
            sender.flush().await?;
            let mut outstanding = WINDOW;
            while outstanding > 0 {
                match next(&mut sender).await? {
                    ServerFrame::MessageSent { request_id, .. } if request_id > 0 => {
                        acked.fetch_add(1, Relaxed);
                        if Instant::now() < end {
                            n += 1;
                            sender.send(message(id, epoch, n)?).await?;
                        } else {
                            outstanding -= 1;
                        }
                    }
                    ServerFrame::Error { error, .. } => bail!("{error}"),
                    _ => {}
                }
            }
            Ok(())
        }));
    }
    for t in tasks {
        t.await??;
    }
    let (a, d, x) = (acked.load(Relaxed), delivered.load(Relaxed), disorder.load(Relaxed));
    println!("1:1, {PAIRS} pairs x {WINDOW}: {} acked durable messages/s ({a} acked, {d} delivered, {x} out of order)", a / SECONDS);
    #[allow(clippy::cast_precision_loss)]
    Ok(a as f64 / SECONDS as f64)
}

async fn fan_out(world: &Arc<World>, seats: &[Seat], (id, epoch): (ConversationId, u64)) -> Result<f64> {
    let delivered = Arc::new(AtomicU64::new(0));
    let end = Instant::now() + Duration::from_secs(SECONDS);
    for seat in seats.iter().take(PAIRS).skip(1) {
        let mut socket = connect(world, seat).await?;
        let delivered = delivered.clone();
        tokio::spawn(async move {
            // Counted without decoding: the generator shares the cores with the server.
            while let Some(Ok(m)) = socket.next().await {
                if m.is_binary() && Instant::now() < end {
                    delivered.fetch_add(1, Relaxed);
                }
            }
        });
    }
    let mut sender = connect(world, &seats[0]).await?;
    let (begin, before) = (Instant::now(), delivered.load(Relaxed));
    let mut n = 0;
    for _ in 0..WINDOW {
        n += 1;
        sender.feed(message(id, epoch, n)?).await?;
    }
    sender.flush().await?;
    while Instant::now() < end {
        if let ServerFrame::MessageSent { request_id: 1.., .. } = next(&mut sender).await? {
            n += 1;
            sender.send(message(id, epoch, n)?).await?;
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = (delivered.load(Relaxed) - before) as f64 / begin.elapsed().as_secs_f64();
    println!("group of {PAIRS}, one sender, window {WINDOW}: {rate:.0} deliveries/s");
    Ok(rate)
}
