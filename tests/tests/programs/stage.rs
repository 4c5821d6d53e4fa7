//! A server with a group whose members are bare sockets.

use super::{Server, person};
use anyhow::{Context as _, Result, bail};
use sc_protocol::ConversationId;
use sc_protocol::frame::ServerFrame;
use sc_testkit::Person;
use sc_testkit::raw::{self, Socket};
use std::net::SocketAddr;
use std::process::Command;

/// A server of its own with people whose tokens are known, so that their sockets can misbehave.
pub struct Stage {
    pub server: Server,
    pub addr: SocketAddr,
    pub tokens: Vec<String>,
    /// The group of all of them.
    pub c: ConversationId,
    pub epoch: u64,
    pub dir: tempfile::TempDir,
}

/// Sets it up; everybody is in one group, and their own clients are closed again.
pub async fn stage(names: &[&str], change: impl FnOnce(&mut Command)) -> Result<Stage> {
    let dir = tempfile::tempdir()?;
    let (server, url) = Server::start_with(&dir.path().join("server"), "127.0.0.1:0", change)?;
    let addr = url.trim_start_matches("http://").parse()?;
    let mut people: Vec<Person> = Vec::new();
    for name in names {
        people.push(person(dir.path(), &url, name).await?);
    }
    let mut ids = Vec::new();
    for name in &names[1..] {
        ids.push(people[0].engine.find_user(name).await?.user_id);
    }
    let c = people[0].engine.create_group("abuse", ids).await?;
    people[0].say(c, "start").await?;
    for p in &people[1..] {
        p.sees(c, "start").await?;
    }
    people[0].settle().await?;
    let epoch = people[0].engine.authenticator(c).await?.context("a group")?.0;
    let mut tokens = Vec::new();
    for p in people {
        tokens.push(p.engine.http()?.access_token()?);
        p.engine.stop().await;
    }
    Ok(Stage { server, addr, tokens, c, epoch, dir })
}

/// Memory of a process.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

/// Sends and waits for the place.
pub async fn post(socket: &mut Socket, stage: &Stage, n: u64, bytes: usize) -> Result<u64> {
    raw::send(socket, &raw::message(stage.c, stage.epoch, n, bytes)).await?;
    loop {
        match raw::next(socket).await? {
            ServerFrame::MessageSent { request_id, seq, .. } if request_id == n => return Ok(seq),
            ServerFrame::Error { error, .. } => bail!("{error}"),
            _ => {}
        }
    }
}

/// Limits that do not stand in the way.
pub fn high_limits(c: &mut Command) {
    c.env("SECURECONNECT_SERVER_ADDRESS_RATE", "1000000")
        .env("SECURECONNECT_SERVER_SEND_BURST", "1000000")
        .env("SECURECONNECT_SERVER_SEND_RATE", "1000000");
}
