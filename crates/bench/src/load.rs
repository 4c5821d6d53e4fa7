//! The server as a process of its own: memory at rest and per idle connection, delivery at a steady rate, a long catch-up.

use crate::percentiles;
use anyhow::{Context as _, Result, bail};
use sc_protocol::ConversationId;
use sc_protocol::frame::ServerFrame;
use sc_testkit::Person;
use sc_testkit::raw::{self, Socket};
use secureconnect_server::config::Config;
use secureconnect_server::serve::Server;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

const IDLE: usize = 2_000;
const PAIRS: usize = 50;
const RATE: u64 = 1_000;
const MISSED: u64 = 10_000;

/// What the child runs: a server with limits that do not stand in the way.
pub async fn serve(dir: &str, listen: &str) -> Result<()> {
    let config = Config {
        data: dir.into(),
        listen: listen.parse()?,
        claim_rate: 100_000,
        login_rate: 100_000,
        address_rate: 1_000_000,
        send_rate: 1_000_000,
        send_burst: 1_000_000,
        access_token_seconds: 7_200,
        ..Config::default()
    };
    let server = Server::start(config).await?;
    println!("{}", server.addr);
    std::future::pending().await
}

/// A server of its own, killed when it is let go.
pub struct Process(pub Child);

impl Drop for Process {
    fn drop(&mut self) {
        // It has nothing to lose here.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a server as a process of its own; where it listens.
pub fn child(data: &Path, listen: &str) -> Result<(Process, SocketAddr)> {
    let mut command = Command::new(std::env::current_exe()?);
    let mut child = command.arg("--serve").arg(data).arg(listen).stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
    let server = Process(child);
    Ok((server, line.trim().parse()?))
}

/// Proportional set size in KiB.
pub fn pss(pid: u32) -> Result<u64> {
    let all = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = all.lines().find(|l| l.starts_with("Pss:")).context("Pss")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

struct Pair {
    c: ConversationId,
    epoch: u64,
    tokens: [String; 2],
}

async fn pair(dir: &Path, addr: SocketAddr, i: usize) -> Result<Pair> {
    let url = format!("http://{addr}");
    let person = async |name: String| Person::register(&dir.join(&name), &url, &name).await;
    let (a, b) = (person(format!("left{i}")).await?, person(format!("right{i}")).await?);
    let c = a.direct(&b.name).await?;
    a.say(c, "start").await?;
    b.sees(c, "start").await?;
    let epoch = a.engine.authenticator(c).await?.context("a group")?.0;
    let tokens = [a.engine.http()?.access_token()?, b.engine.http()?.access_token()?];
    a.engine.stop().await;
    b.engine.stop().await;
    Ok(Pair { c, epoch, tokens })
}

/// All of it.
pub async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (server, addr) = child(&dir.path().join("server"), "127.0.0.1:0")?;
    let pid = server.0.id();
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("server at rest: {:.1} MiB", kib_to_mib(pss(pid)?));
    let mut pairs = Vec::new();
    for i in 0..PAIRS {
        pairs.push(pair(dir.path(), addr, i).await?);
    }
    steady(addr, &pairs).await?;
    catch_up(addr, pairs.first().context("a pair")?).await?;
    idle(addr, pid).await
}

/// KiB as MiB.
#[allow(clippy::cast_precision_loss)]
pub fn kib_to_mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// 1,000 messages a second, evenly spread; from the sending to the arrival of each.
async fn steady(addr: SocketAddr, pairs: &[Pair]) -> Result<()> {
    let sent: Arc<Mutex<std::collections::HashMap<sc_protocol::TempId, Instant>>> = Arc::default();
    let times: Arc<Mutex<Vec<f64>>> = Arc::default();
    let mut senders: Vec<(Socket, &Pair)> = Vec::new();
    for p in pairs {
        let mut receiver = raw::connect(addr, &p.tokens[1]).await?.0;
        let (sent, times) = (sent.clone(), times.clone());
        tokio::spawn(async move {
            while let Ok(f) = raw::next(&mut receiver).await {
                let ServerFrame::NewMessage(e) = f else { continue };
                let begun = sent.lock().unwrap_or_else(PoisonError::into_inner).remove(&e.temp_id);
                if let Some(t) = begun {
                    times.lock().unwrap_or_else(PoisonError::into_inner).push(t.elapsed().as_secs_f64() * 1000.0);
                }
            }
        });
        senders.push((raw::connect(addr, &p.tokens[0]).await?.0, p));
    }
    let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 / RATE));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
    for n in 0..RATE * 8 {
        tick.tick().await;
        let i = usize::try_from(n)? % senders.len();
        let (socket, p) = senders.get_mut(i).context("a sender")?;
        let frame = raw::message(p.c, p.epoch, n + 1, 512);
        if let sc_protocol::frame::ClientFrame::SendMessage { message, .. } = &frame {
            sent.lock().unwrap_or_else(PoisonError::into_inner).insert(message.temp_id, Instant::now());
        }
        raw::send(socket, &frame).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let times = std::mem::take(&mut *times.lock().unwrap_or_else(PoisonError::into_inner));
    let n = times.len();
    let (p50, p99) = percentiles(times);
    println!("delivery at {RATE} messages/s: p50 {p50:.2} ms, p99 {p99:.2} ms ({n} of {} arrived)", RATE * 8);
    Ok(())
}

/// 10,000 messages missed, from the wire alone.
async fn catch_up(addr: SocketAddr, p: &Pair) -> Result<()> {
    let mut sender = raw::connect(addr, &p.tokens[0]).await?.0;
    let mut acked = 0;
    for n in 0..MISSED {
        raw::send(&mut sender, &raw::message(p.c, p.epoch, n + 1, 512)).await?;
        if n % 200 == 199 {
            while acked <= n {
                if let ServerFrame::MessageSent { .. } = raw::next(&mut sender).await? {
                    acked += 1;
                }
            }
        }
    }
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let t = Instant::now();
        let missed = raw::connect(addr, &p.tokens[1]).await?.1;
        best = best.min(t.elapsed().as_secs_f64());
        if missed.len() < usize::try_from(MISSED)? {
            bail!("only {} came", missed.len());
        }
    }
    println!("catch-up of {MISSED} missed messages from the wire: {best:.3} s (connect, sync, all pages decoded; best of 3)");
    Ok(())
}

async fn idle(addr: SocketAddr, pid: u32) -> Result<()> {
    println!("making {IDLE} accounts …");
    let mut tokens = Vec::new();
    for chunk in (0..IDLE).collect::<Vec<_>>().chunks(16) {
        let some = chunk.iter().map(|i| {
            let name = format!("idle{i}");
            tokio::spawn(async move { raw::account(addr, &name).await })
        });
        for t in futures_util::future::join_all(some).await {
            tokens.push(t??);
        }
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = pss(pid)?;
    let mut sockets = Vec::new();
    let start = Instant::now();
    for chunk in tokens.chunks(64) {
        for r in futures_util::future::join_all(chunk.iter().map(|t| raw::connect(addr, t))).await {
            sockets.push(r?.0);
        }
    }
    #[allow(clippy::cast_precision_loss)]
    let rate = IDLE as f64 / start.elapsed().as_secs_f64();
    println!("logins by token, connected and synced: {rate:.0}/s");
    tokio::time::sleep(Duration::from_secs(3)).await;
    let after = pss(pid)?;
    #[allow(clippy::cast_precision_loss)]
    let each = after.saturating_sub(before) as f64 / IDLE as f64;
    println!("{IDLE} idle connections: {each:.1} KiB each ({:.1} -> {:.1} MiB)", kib_to_mib(before), kib_to_mib(after));
    drop(sockets);
    Ok(())
}
