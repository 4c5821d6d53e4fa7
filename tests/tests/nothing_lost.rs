//! Processes are killed at random moments; every message shown as sent arrives exactly once, in the same order.
//!
//! The programs are real and are killed with SIGKILL. `SECURECONNECT_SEED` replays a run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::Result;
use programs::{Server, person, program, rng};
use rand::Rng as _;
use sc_engine::EngineError;
use sc_engine::profile;
use sc_store::model::Status;
use sc_testkit::{PASSPHRASE, Person, World, until};
use std::process::{Command, Stdio};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_of_the_server_lose_double_and_reorder_nothing() -> Result<()> {
    let mut rng = rng();
    let dir = tempfile::tempdir()?;
    let (mut server, url) = Server::start(&dir.path().join("server"), "127.0.0.1:0")?;
    let listen = url.trim_start_matches("http://").to_owned();
    let (alice, bob) = (person(dir.path(), &url, "alice").await?, person(dir.path(), &url, "bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    let (mut a, mut b) = (0, 0);
    for _ in 0..50 {
        for _ in 0..rng.gen_range(1..6) {
            if rng.gen_bool(0.5) {
                alice.say(c, &format!("a{a}")).await?;
                a += 1;
            } else {
                bob.say(c, &format!("b{b}")).await?;
                b += 1;
            }
        }
        // Pacing of the fault, not a wait for a condition.
        tokio::time::sleep(Duration::from_millis(rng.gen_range(0..60))).await;
        drop(server);
        server = Server::start(&dir.path().join("server"), &listen)?.0;
        alice.engine.network_changed();
        bob.engine.network_changed();
        if rng.gen_bool(0.3) {
            alice.online().await?;
        }
    }
    alice.settle().await?;
    bob.settle().await?;
    let total = 1 + a + b;
    until("both have everything", || async { Ok((alice.texts(c)?.len() >= total && bob.texts(c)?.len() >= total).then_some(())) }).await?;
    let texts = alice.texts(c)?;
    assert_eq!(texts, bob.texts(c)?, "the same order on both sides, nothing twice");
    assert_eq!(texts.len(), total);
    let of = |p: char| texts.iter().filter(|t| t.starts_with(p) && t[1..].parse::<usize>().is_ok()).cloned().collect::<Vec<_>>();
    assert_eq!(of('a'), (0..a).map(|i| format!("a{i}")).collect::<Vec<_>>(), "each sender's order is kept");
    assert_eq!(of('b'), (0..b).map(|i| format!("b{i}")).collect::<Vec<_>>());
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_kills_of_a_client_lose_nothing_it_has_shown() -> Result<()> {
    let mut rng = rng();
    let dir = tempfile::tempdir()?;
    let (server, url) = Server::start(&dir.path().join("server"), "127.0.0.1:0")?;
    let bob = person(dir.path(), &url, "bob").await?;
    let alice = person(dir.path(), &url, "alice").await?;
    let c = alice.direct("bob").await?;
    alice.say(c, "start").await?;
    alice.settle().await?;
    let profile = alice.close().await?;
    until("the profile is free", || async {
        match profile::open(&profile, Some(PASSPHRASE), false) {
            Err(EngineError::InUse) => Ok(None),
            other => {
                drop(other?);
                Ok(Some(()))
            }
        }
    })
    .await?;
    for i in 0..20 {
        let mut child = Command::new(program("secureconnect-cli")?)
            .args(["--json", "--server", &url, "--profile"])
            .arg(&profile)
            .args(["send", &c.to_string(), &format!("k{i}"), "--wait"])
            .env("SECURECONNECT_PASSPHRASE", PASSPHRASE)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        // Later and later, so that some get far enough on a slow machine too.
        tokio::time::sleep(Duration::from_millis(rng.gen_range(60..260 + 30 * i))).await;
        child.kill()?;
        child.wait()?;
    }
    let alice = Person::open(&profile, "alice").await?;
    let shown = alice.texts(c)?;
    alice.online().await?;
    alice.settle().await?;
    bob.sees(c, shown.last().unwrap()).await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?, "what was shown has arrived once, in order");
    assert!(alice.rows(c)?.iter().filter(|m| m.body.starts_with('k')).all(|m| m.status == Status::Sent));
    assert!(shown.len() > 1, "some of the twenty got far enough to be shown");
    drop(server);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_takes_nothing_it_cannot_keep_and_loses_nothing() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    alice.settle().await?;
    world.stop_server().await;
    world.start_full_server().await?;
    alice.engine.network_changed();
    bob.engine.network_changed();
    for i in 0..150 {
        alice.say(c, &format!("{i} {}", "x".repeat(3_000))).await?;
    }
    until("the server says that its disk is full", || async {
        Ok(alice.rows(c)?.iter().any(|m| m.status == Status::Pending).then_some(()).filter(|()| world.is_degraded()))
    })
    .await?;
    let sent = alice.rows(c)?.iter().filter(|m| m.status == Status::Sent).count();
    assert!(sent < 151, "not everything fits");
    world.stop_server().await;
    world.start_server().await?;
    alice.engine.network_changed();
    bob.engine.network_changed();
    alice.settle().await?;
    until("bob has everything", || async { Ok((bob.texts(c)?.len() == 151).then_some(())) }).await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    Ok(())
}
