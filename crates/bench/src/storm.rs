//! Everybody comes back at once: ten thousand devices within five seconds of a restart, each with messages it missed.

use crate::load::{Process, child, kib_to_mib, pss};
use crate::percentiles;
use anyhow::{Context as _, Result, ensure};
use futures_util::future::join_all;
use sc_protocol::frame::ServerFrame;
use sc_testkit::{Person, raw};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const GROUPS: usize = 50;
const MEMBERS: usize = 200;
const MISSED: usize = 50;
const WITHIN: Duration = Duration::from_secs(5);

/// A group whose owner is a real client; the others are tokens. Its 50 messages are written while nobody is there.
async fn group(dir: &Path, addr: SocketAddr, g: usize) -> Result<Vec<String>> {
    let owner = Person::register(&dir.join(format!("owner{g}")), &format!("http://{addr}"), &format!("owner{g}")).await?;
    let mut tokens = Vec::new();
    let mut ids = Vec::new();
    for part in (0..MEMBERS).collect::<Vec<_>>().chunks(20) {
        let made = part.iter().map(|i| {
            let name = format!("member{g}.{i}");
            tokio::spawn(async move { raw::account(addr, &name).await.map(|token| (name, token)) })
        });
        for m in join_all(made).await {
            let (name, token) = m??;
            ids.push(owner.engine.find_user(&name).await?.user_id);
            tokens.push(token);
        }
    }
    let c = owner.engine.create_group("storm", ids).await?;
    for i in 0..MISSED {
        owner.say(c, &format!("missed {i}")).await?;
    }
    owner.settle().await?;
    owner.engine.stop().await;
    Ok(tokens)
}

/// One device: comes at its moment, must get what it missed, once and in order. Answers how long it took.
async fn back(addr: SocketAddr, token: String, at: tokio::time::Instant) -> Result<f64> {
    tokio::time::sleep_until(at).await;
    let begun = Instant::now();
    let (_socket, missed) = raw::connect(addr, &token).await?;
    let seqs: Vec<u64> = missed.iter().filter_map(|f| if let ServerFrame::NewMessage(e) = f { Some(e.seq) } else { None }).collect();
    ensure!(seqs.len() >= MISSED && seqs.windows(2).all(|w| matches!(w, [a, b] if *b == a + 1)), "{} came, or not in order", seqs.len());
    Ok(begun.elapsed().as_secs_f64() * 1000.0)
}

/// All of it.
pub async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("server");
    let (server, addr) = child(&data, "127.0.0.1:0")?;
    println!("making {} accounts in {GROUPS} groups …", GROUPS * MEMBERS);
    let mut tokens = Vec::new();
    for g in 0..GROUPS {
        tokens.extend(group(dir.path(), addr, g).await.with_context(|| format!("group {g}"))?);
    }
    drop(server);
    let restarted = Instant::now();
    let (server, addr): (Process, SocketAddr) = child(&data, &addr.to_string())?;
    println!("restarted and ready after {:.2} s", restarted.elapsed().as_secs_f64());
    let start = tokio::time::Instant::now();
    let count = u32::try_from(tokens.len())?;
    let all = tokens.into_iter().zip(0u32..).map(|(t, i)| tokio::spawn(back(addr, t, start + WITHIN * i / count)));
    let mut times = Vec::new();
    for r in join_all(all).await {
        times.push(r??);
    }
    let total = start.elapsed().as_secs_f64();
    let n = times.len();
    let (p50, p99) = percentiles(times);
    println!(
        "{n} devices back within {} s of a restart, {MISSED} missed messages each: all caught up {total:.1} s after the first, none refused; a device p50 {p50:.0} ms, p99 {p99:.0} ms; server {:.0} MiB",
        WITHIN.as_secs(),
        kib_to_mib(pss(server.0.id())?)
    );
    Ok(())
}
