//! The server killed before every step of its own, in turn: each write to its files, each sync, each write to a socket,
//! while a message, a change of the group and a new member are under way (`steps/shim.c` counts them).
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Result, ensure};
use programs::{Server, person, preload};
use sc_protocol::ConversationId;
use sc_testkit::{Person, until};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

struct Steps {
    data: PathBuf,
    shim: PathBuf,
    arm: PathBuf,
    listen: String,
}

impl Steps {
    fn start(&self) -> Result<(Server, String)> {
        let env = |c: &mut Command| {
            c.env("LD_PRELOAD", &self.shim).env("STEPS_ARM", &self.arm).env("SECURECONNECT_SERVER_REPAIR_RATE", "1000000");
            c.env("SECURECONNECT_SERVER_CLAIM_RATE", "1000000");
        };
        Server::start_with(&self.data, &self.listen, env)
    }

    /// Has the server killed before its `n`-th step from now; the file appears whole.
    fn kill_before(&self, n: u32) -> Result<()> {
        let fresh = self.arm.with_extension("new");
        std::fs::write(&fresh, n.to_string())?;
        Ok(std::fs::rename(fresh, &self.arm)?)
    }
}

async fn agree(people: &[&Person], c: ConversationId, members: usize) -> Result<()> {
    for p in people {
        p.engine.network_changed();
        p.online().await?;
        p.settle().await?;
    }
    until("all have the same", || async {
        let all = people.iter().map(|p| p.texts(c)).collect::<Result<Vec<_>>>()?;
        let state = |p: &Person| p.engine.read(|r| r.conversation(c));
        for p in people {
            let Some(view) = state(p)? else { return Ok(None) };
            if view.roster.len() != members || !p.engine.read(|r| r.undecryptable(c))?.is_empty() {
                return Ok(None);
            }
        }
        Ok(all.iter().all(|t| *t == all[0]).then_some(()))
    })
    .await?;
    let texts = people[0].texts(c)?;
    assert_eq!(texts.len(), texts.iter().collect::<HashSet<_>>().len(), "nothing twice");
    Ok(())
}

/// Resolves when the process has ended.
async fn died(server: &mut Server) {
    while server.0.try_wait().ok().flatten().is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Does `what` again and again, the server killed one step later each time, until it comes through; answers how many steps.
async fn every_step<F, R>(s: &Steps, server: &mut Server, people: &[&Person], c: ConversationId, what: F) -> Result<u32>
where
    F: Fn(u32) -> R,
    R: Future<Output = Result<usize>>,
{
    for n in 1..500 {
        s.kill_before(n)?;
        let members = what(n).await?;
        let mut killed = false;
        let done = async {
            for p in people {
                p.settle().await?;
            }
            // What comes after the last acknowledgement is a step too.
            agree(people, c, members).await
        };
        tokio::select! {
            r = done => r?,
            () = died(server) => killed = true,
        }
        if killed {
            *server = s.start()?.0;
            agree(people, c, members).await?;
        }
        if !killed {
            ensure!(n > 10, "only {n} steps were found");
            // What is left of the count must not hit what follows.
            server.0.kill()?;
            server.0.wait()?;
            *server = s.start()?.0;
            return Ok(n - 1);
        }
    }
    anyhow::bail!("it never comes through")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_killed_before_each_of_its_steps_loses_nothing() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let base: &Path = dir.path();
    let mut s = Steps { data: base.join("server"), shim: preload("steps", base)?, arm: base.join("arm"), listen: "127.0.0.1:0".to_owned() };
    let (mut server, url) = s.start()?;
    s.listen = url.trim_start_matches("http://").to_owned();
    let (alice, bob) = (person(base, &url, "alice").await?, person(base, &url, "bob").await?);
    let dave = person(base, &url, "dave").await?;
    let bob_id = bob.id()?;
    let c = alice.engine.create_group("từng bước", vec![bob_id]).await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;

    let people = [&alice, &bob];
    let messages = every_step(&s, &mut server, &people, c, |n| {
        let (alice, bob) = (&alice, &bob);
        async move {
            alice.say(c, &format!("from alice {n}")).await?;
            bob.say(c, &format!("from bob {n}")).await?;
            Ok(2)
        }
    })
    .await?;
    let titles = every_step(&s, &mut server, &people, c, |n| {
        let alice = &alice;
        async move {
            alice.engine.rename(c, &format!("bước {n}")).await?;
            alice.say(c, &format!("renamed {n}")).await?;
            Ok(2)
        }
    })
    .await?;
    let dave_id = dave.id()?;
    let members = every_step(&s, &mut server, &people, c, |n| {
        let alice = &alice;
        async move {
            if n % 2 == 1 {
                alice.engine.add_members(c, vec![dave_id]).await?;
            } else {
                alice.engine.remove_members(c, vec![dave_id]).await?;
            }
            alice.say(c, &format!("changed {n}")).await?;
            Ok(if n % 2 == 1 { 3 } else { 2 })
        }
    })
    .await?;
    println!("killed before each of {messages} steps of messages, {titles} of a new title, {members} of joining and leaving");
    Ok(())
}
