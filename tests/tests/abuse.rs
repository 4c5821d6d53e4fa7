//! Slow, dead, greedy and hasty clients: the others do not notice, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::StreamExt as _;
use programs::stage::{Stage, high_limits, post, resident_kib, stage};
use programs::{Server, person};
use sc_engine::ConnectionState;
use sc_protocol::frame::{ClientFrame, ServerFrame};
use sc_testkit::proxy::{Network, Proxy};
use sc_testkit::raw::{self, Socket};
use sc_testkit::{World, until};
use std::collections::HashSet;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn who_never_reads_is_cut_off_and_complete_after_coming_back() -> Result<()> {
    const MESSAGES: u64 = 5_000;
    let stage = stage(&["alice", "bob", "carol", "dave"], high_limits).await?;
    let mut sender = raw::connect(stage.addr, &stage.tokens[0]).await?.0;
    let mut reader = raw::connect(stage.addr, &stage.tokens[1]).await?.0;
    // Two that are online and take nothing.
    let stalled = [raw::connect(stage.addr, &stage.tokens[2]).await?.0, raw::connect(stage.addr, &stage.tokens[3]).await?.0];
    let before = resident_kib(stage.server.0.id())?;
    let reading = tokio::spawn(async move {
        let (mut seen, mut last) = (0, 0);
        while seen < MESSAGES {
            if let ServerFrame::NewMessage(e) = raw::next(&mut reader).await? {
                ensure!(last == 0 || e.seq == last + 1, "out of order: {} after {last}", e.seq);
                last = e.seq;
                seen += 1;
            }
        }
        Ok(last)
    });
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut grown = 0;
    for n in 1..=MESSAGES {
        let t = Instant::now();
        post(&mut sender, &stage, n, 4096).await?;
        slowest = slowest.max(t.elapsed());
        grown = grown.max(resident_kib(stage.server.0.id())?.saturating_sub(before));
    }
    let last = reading.await??;
    println!("{MESSAGES} messages in {:?}, slowest ack {slowest:?}, grown by {grown} KiB", start.elapsed());
    // 20 MB for each of the two were not read; the server kept a bounded part of it.
    assert!(grown < 24 * 1024, "memory grew by {grown} KiB");
    assert!(slowest < Duration::from_secs(2), "somebody else waited {slowest:?}");
    for (socket, token) in stalled.into_iter().zip(&stage.tokens[2..]) {
        // What is left in the socket ends with the server having closed it.
        let mut socket = socket;
        let end = tokio::time::timeout(Duration::from_secs(30), async { while raw::next(&mut socket).await.is_ok() {} }).await;
        ensure!(end.is_ok(), "the server still keeps a connection that takes nothing");
        let missed = raw::connect(stage.addr, token).await?.1;
        let seqs: HashSet<u64> =
            missed.iter().filter_map(|f| if let ServerFrame::NewMessage(e) = f { Some(e.seq) } else { None }).collect();
        assert!((last - MESSAGES + 1..=last).all(|s| seqs.contains(&s)), "complete after coming back");
    }
    let wal = std::fs::metadata(stage.dir.path().join("server/server.db-wal"))?.len();
    assert!(wal < 64 << 20, "the write-ahead log stays bounded: {wal}");
    Ok(())
}

/// Posts at a rate for some seconds; answers the 99th percentile of the acknowledgements.
async fn steady(sender: &mut Socket, stage: &Stage, from: u64, rate: u64, seconds: u64) -> Result<Duration> {
    let mut tick = tokio::time::interval(Duration::from_micros(10_000_000 / rate));
    let mut times = Vec::new();
    for n in 0..rate * seconds / 10 {
        tick.tick().await;
        // Ten at once every so often: a single one after the other would measure the round trip, not the rate.
        let t = Instant::now();
        for k in 0..10 {
            raw::send(sender, &raw::message(stage.c, stage.epoch, from + n * 10 + k, 2_048)).await?;
        }
        for _ in 0..10 {
            while !matches!(raw::next(sender).await?, ServerFrame::MessageSent { .. }) {}
        }
        times.push(t.elapsed());
    }
    times.sort();
    Ok(times[times.len() * 99 / 100])
}

/// Somebody who catches up with everything from the beginning, a frame at a time, holds no snapshot of the store open: the
/// write-ahead log is brought into the file meanwhile, and those who write do not wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_and_slow_catch_up_does_not_hold_the_log_back() -> Result<()> {
    let stage = stage(&["alice", "bob"], |c| {
        high_limits(c);
        // What is sent live waits while one catches up; here it is not to end the connection.
        c.env("SECURECONNECT_SERVER_CONNECTION_QUEUE_BYTES", (128 << 20).to_string());
    })
    .await?;
    let mut sender = raw::connect(stage.addr, &stage.tokens[0]).await?.0;
    let alone = steady(&mut sender, &stage, 1_000_000, 2_000, 4).await?;
    let mut slow = raw::open(stage.addr, &stage.tokens[1]).await?;
    raw::send(&mut slow, &ClientFrame::Sync { cursors: Vec::new(), done: true }).await?;
    let hurry = Arc::new(AtomicBool::new(false));
    let hurried = hurry.clone();
    let reading = tokio::spawn(async move {
        let mut seen = 0;
        while seen < 2_000 * (4 + 12) {
            if let ServerFrame::NewMessage(_) = raw::next(&mut slow).await? {
                seen += 1;
            }
            if !hurried.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        anyhow::Ok(seen)
    });
    let beside = steady(&mut sender, &stage, 2_000_000, 2_000, 12).await?;
    ensure!(!reading.is_finished(), "the reader was at it all the time");
    hurry.store(true, Ordering::Relaxed);
    let wal = std::fs::metadata(stage.dir.path().join("server/server.db-wal"))?.len();
    println!("2,000/s: p99 of ten {alone:?} alone, {beside:?} beside the reader; the log has {wal} bytes");
    assert!(wal < 32 << 20, "the write-ahead log stays bounded: {wal}");
    let seen = tokio::time::timeout(Duration::from_secs(60), reading).await.context("the reader hangs")???;
    println!("the reader has {seen} of them");
    assert!(beside < alone * 2 + Duration::from_millis(20), "{alone:?} alone, {beside:?} beside the reader");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_half_open_is_noticed_on_both_sides_and_nothing_is_lost() -> Result<()> {
    let world = World::new().await?;
    let proxy = Proxy::start(world.addr).await?;
    let (alice, bob) = (world.person_via("alice", &proxy.url()).await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    alice.settle().await?;
    proxy.set(Network::BlackHole);
    alice.say(c, "into the hole").await?;
    bob.say(c, "meanwhile").await?;
    let start = Instant::now();
    let mut state = alice.engine.connection()?;
    // The heartbeat alone would take 45 s: the request that is not answered tells earlier.
    tokio::time::timeout(Duration::from_secs(30), state.wait_for(|s| *s != ConnectionState::Online)).await.context("not noticed")??;
    println!("noticed after {:?}", start.elapsed());
    proxy.set(Network::Up);
    alice.engine.network_changed();
    let healed = Instant::now();
    alice.sees(c, "meanwhile").await?;
    bob.sees(c, "into the hole").await?;
    assert!(healed.elapsed() < Duration::from_secs(5), "delivered {:?} after healing", healed.elapsed());
    alice.settle().await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    assert_eq!(alice.texts(c)?.len(), 3, "each once");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_three_times_over_two_ways_has_one_place() -> Result<()> {
    const MESSAGES: u64 = 300;
    let stage = stage(&["alice", "bob"], high_limits).await?;
    let mut socket = raw::connect(stage.addr, &stage.tokens[0]).await?.0;
    let (http, url) = (reqwest::Client::new(), format!("http://{}", stage.addr));
    let mut places = HashSet::new();
    for n in 1..=MESSAGES {
        let frame = raw::message(stage.c, stage.epoch, n, 512);
        let ClientFrame::SendMessage { message, .. } = &frame else { bail!("a message") };
        let route = format!("{url}/v1/conversations/{}/messages", stage.c);
        let post = http.post(route).bearer_auth(&stage.tokens[0]).json(message).send();
        let twice = async {
            raw::send(&mut socket, &frame).await?;
            raw::send(&mut socket, &frame).await
        };
        let (posted, sent) = tokio::join!(post, twice);
        sent?;
        let mut seqs = vec![posted?.error_for_status()?.json::<serde_json::Value>().await?["seq"].as_u64().context("seq")?];
        while seqs.len() < 3 {
            match raw::next(&mut socket).await? {
                ServerFrame::MessageSent { request_id, seq, .. } if request_id == n => seqs.push(seq),
                ServerFrame::Error { error, .. } => bail!("{error}"),
                _ => {}
            }
        }
        assert!(seqs.iter().all(|s| *s == seqs[0]), "three answers, one place: {seqs:?}");
        assert!(places.insert(seqs[0]), "a place of its own");
    }
    // Somebody who is no member plays a captured frame again.
    let url = format!("http://{}", stage.addr);
    let mallory = person(stage.dir.path(), &url, "mallory").await?;
    let mut foreign = raw::connect(stage.addr, &mallory.engine.http()?.access_token()?).await?.0;
    raw::send(&mut foreign, &raw::message(stage.c, stage.epoch, 1, 512)).await?;
    let refused = loop {
        if let ServerFrame::Error { error, .. } = raw::next(&mut foreign).await? {
            break error;
        }
    };
    assert_eq!(refused.code.as_str(), "NOT_A_MEMBER");
    let missed = raw::connect(stage.addr, &stage.tokens[1]).await?.1;
    let rows = missed.iter().filter(|f| matches!(f, ServerFrame::NewMessage(e) if places.contains(&e.seq))).count();
    assert_eq!(rows, usize::try_from(MESSAGES)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_half_requests_are_closed_and_hold_up_nobody() -> Result<()> {
    // As many as this process may have beside the other tests; both sides are on this machine.
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find(|l| l.starts_with("Max open files")).context("a limit of open files")?;
    let files: usize = line.split_whitespace().nth(3).context("a number")?.parse().unwrap_or(usize::MAX);
    let count = 10_000.min(files / 2);
    ensure!(count >= 500, "{files} open files are too few for this test: raise the limit (ulimit -n 20000)");
    let stage = stage(&["alice", "bob"], |_| {}).await?;
    let pid = stage.server.0.id();
    let before = resident_kib(pid)?;
    let mut half = Vec::new();
    for i in 0..count {
        let mut s = TcpStream::connect(stage.addr).await?;
        let part: &[u8] = match i % 3 {
            0 => b"GET /v1/server HTTP/1.1\r\nHost: x\r\nX-Slow: ",
            1 => b"G",
            _ => b"",
        };
        s.write_all(part).await?;
        half.push(s);
    }
    let start = Instant::now();
    let mut times = Vec::new();
    let mut good = raw::connect(stage.addr, &stage.tokens[0]).await?.0;
    for n in 1..=50 {
        let t = Instant::now();
        post(&mut good, &stage, n, 256).await?;
        drop(raw::connect(stage.addr, &stage.tokens[1]).await?);
        times.push(t.elapsed());
    }
    times.sort();
    let (grown, slowest) = (resident_kib(pid)?.saturating_sub(before), times[times.len() - 1]);
    println!("a message and a login beside {count} half requests: at most {slowest:?}; the server grew by {} MiB", grown / 1024);
    assert!(slowest < Duration::from_secs(2), "{slowest:?}");
    assert!(grown < 200 * 1024, "grown by {grown} KiB");
    for mut s in half {
        let mut rest = Vec::new();
        let closed = tokio::time::timeout_at((start + Duration::from_secs(15)).into(), s.read_to_end(&mut rest)).await;
        ensure!(closed.is_ok(), "a half request is still open after 15 s");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_storm_of_reconnects_after_a_restart_is_served() -> Result<()> {
    const CLIENTS: usize = 150;
    let mut stage = stage(&["alice", "bob"], high_limits).await?;
    let addr = stage.addr;
    let mut sender = raw::connect(addr, &stage.tokens[0]).await?.0;
    for n in 1..=50 {
        post(&mut sender, &stage, n, 512).await?;
    }
    let names: Vec<String> = (0..CLIENTS).map(|i| format!("storm{i}")).collect();
    let mut tokens = Vec::new();
    for name in &names {
        tokens.push(raw::account(addr, name).await?);
    }
    stage.server.0.kill()?;
    stage.server.0.wait()?;
    stage.server = Server::start_with(&stage.dir.path().join("server"), &addr.to_string(), high_limits)?.0;
    let start = Instant::now();
    // All at once, five times over: worse than a backoff with jitter lets it become.
    for round in 0..5 {
        let all = futures_util::future::join_all(tokens.iter().map(|t| raw::connect(addr, t))).await;
        ensure!(all.iter().all(Result::is_ok), "round {round}: {:?}", all.iter().find_map(|r| r.as_ref().err()));
        let missed = raw::connect(addr, &stage.tokens[1]).await?.1;
        ensure!(missed.iter().filter(|f| matches!(f, ServerFrame::NewMessage(_))).count() >= 50, "what was missed comes");
    }
    println!("5 x {CLIENTS} back and caught up after {:?}", start.elapsed());
    assert!(start.elapsed() < Duration::from_secs(15));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_open_sessions_live_on_and_it_recovers() -> Result<()> {
    let mut stage = stage(&["alice", "bob"], |_| {}).await?;
    let pid = stage.server.0.id();
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), "--nofile=100:100"]).status();
    ensure!(limited.context("prlimit (util-linux) is needed")?.success(), "the limit is set");
    let mut good = raw::connect(stage.addr, &stage.tokens[0]).await?.0;
    let mut greedy = Vec::new();
    for _ in 0..300 {
        greedy.push(TcpStream::connect(stage.addr).await?);
    }
    let cpu = |pid: u32| -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields: Vec<&str> = stat.rsplit(')').next().context("fields")?.split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    let (spent, t) = (cpu(pid)?, Instant::now());
    for n in 1..=20 {
        post(&mut good, &stage, n, 512).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Ticks are hundredths of a second.
    #[allow(clippy::cast_precision_loss)]
    let share = (cpu(pid)? - spent) as f64 / (t.elapsed().as_secs_f64() * 100.0);
    println!("processor share without descriptors: {:.0} %", share * 100.0);
    assert!(share < 0.5, "it spins: {share}");
    drop(greedy);
    until("new connections are accepted again", || async { Ok(raw::connect(stage.addr, &stage.tokens[1]).await.ok()) }).await?;
    ensure!(stage.server.0.try_wait()?.is_none(), "the server lives");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_bounded_by_its_own_limit_and_the_neighbours_are_served() -> Result<()> {
    let stage = stage(&["alice", "bob"], |c| {
        c.env("SECURECONNECT_SERVER_SEND_BURST", "50").env("SECURECONNECT_SERVER_SEND_RATE", "20");
    })
    .await?;
    let mut flood = raw::connect(stage.addr, &stage.tokens[0]).await?.0;
    let mut neighbour = raw::connect(stage.addr, &stage.tokens[1]).await?.0;
    for n in 1..=2_000 {
        raw::send(&mut flood, &raw::message(stage.c, stage.epoch, n, 512)).await?;
    }
    // Frames that mean nothing, too.
    for _ in 0..2_000 {
        raw::send(&mut flood, &ClientFrame::Ping { request_id: 0 }).await?;
    }
    let mut slowest = Duration::ZERO;
    for n in 1..=20 {
        let t = Instant::now();
        post(&mut neighbour, &stage, n, 512).await?;
        slowest = slowest.max(t.elapsed());
    }
    assert!(slowest < Duration::from_secs(2), "the neighbour waited {slowest:?}");
    let (mut taken, mut limited) = (0, 0);
    while taken + limited < 2_000 {
        match raw::next(&mut flood).await? {
            ServerFrame::MessageSent { request_id: 1.., .. } => taken += 1,
            ServerFrame::Error { error, .. } => {
                assert_eq!(error.code.as_str(), "RATE_LIMITED");
                assert!(error.retry_after_ms.is_some(), "and when to come back");
                limited += 1;
            }
            _ => {}
        }
    }
    println!("{taken} of the flood taken, {limited} refused");
    assert!(taken < 500, "{taken} is more than the limit allows");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_frames_end_only_their_own_connection() -> Result<()> {
    let stage = stage(&["alice", "bob"], |_| {}).await?;
    let mut neighbour = raw::connect(stage.addr, &stage.tokens[1]).await?.0;
    let before = resident_kib(stage.server.0.id())?;
    for _ in 0..20 {
        let mut big = raw::open(stage.addr, &stage.tokens[0]).await?;
        // More than a frame may have.
        let _ = raw::send(&mut big, &raw::message(stage.c, stage.epoch, 1, 300 * 1024)).await;
        let closed = tokio::time::timeout(Duration::from_secs(5), async {
            while let Some(m) = big.next().await {
                if m.is_err() {
                    break;
                }
            }
        })
        .await;
        ensure!(closed.is_ok(), "an oversized frame ends its connection");
    }
    assert!(post(&mut neighbour, &stage, 1, 512).await? > 0);
    let grown = resident_kib(stage.server.0.id())?.saturating_sub(before);
    assert!(grown < 16 * 1024, "grown by {grown} KiB");
    Ok(())
}
