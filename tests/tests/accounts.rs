//! Accounts from their first moment, with the network failing in between.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Result, ensure};
use programs::{Server, person, program};
use sc_engine::{ConnectionState, EngineError};
use sc_protocol::ErrorCode;
use sc_testkit::proxy::Proxy;
use sc_testkit::{Person, World, password, until};
use std::process::Command;

/// Whoever can be found can be written to, also when their device has done nothing since it registered.
#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_just_registered_can_be_added_and_reads_what_was_written() -> Result<()> {
    let world = World::new().await?;
    let alice = world.person("alice").await?;
    let bob = Person::open(&world.dir.path().join("bob-1"), "bob").await?;
    let proxy = Proxy::start(world.addr).await?;
    // The account is made; the last answer does not reach its device, which therefore does nothing more.
    proxy.lose_answer(3);
    assert!(bob.engine.register(&proxy.url(), "bob", &password("bob"), "laptop").await.is_err());
    let c = alice.engine.create_group("just in time", vec![alice.engine.find_user("bob").await?.user_id]).await?;
    alice.say(c, "welcome, bob").await?;
    alice.settle().await?;
    bob.engine.register(&proxy.url(), "bob", &password("bob"), "laptop").await?;
    bob.sees(c, "welcome, bob").await?;
    bob.say(c, "thank you").await?;
    alice.sees(c, "thank you").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registration_whose_answer_was_lost_is_taken_up_again_and_by_nobody_else() -> Result<()> {
    let world = World::new().await?;
    let proxy = Proxy::start(world.addr).await?;
    let dir = world.dir.path().join("carol-1");
    let carol = Person::open(&dir, "carol").await?;
    // Lost in turn: the server's description; then the first step's answer; then, with what was kept, the second's.
    for nth in [1, 2, 2] {
        proxy.lose_answer(nth);
        let r = carol.engine.register(&proxy.url(), "carol", &password("carol"), "laptop").await;
        assert!(matches!(r, Err(EngineError::Offline(_))), "{r:?}");
    }
    let other = Person::open(&world.dir.path().join("mallory"), "mallory").await?;
    let taken = other.engine.register(&world.url(), "carol", &password("carol"), "laptop").await.unwrap_err();
    assert_eq!(taken.code(), "USERNAME_TAKEN");
    let carol = carol.restart().await?;
    let wrong = carol.engine.register(&proxy.url(), "carol", "not her password", "laptop").await.unwrap_err();
    assert_eq!(wrong.code(), "USERNAME_TAKEN");
    carol.engine.register(&proxy.url(), "carol", &password("carol"), "laptop").await?;
    carol.online().await?;
    let dave = world.person("dave").await?;
    let c = dave.direct("carol").await?;
    dave.say(c, "hello").await?;
    carol.sees(c, "hello").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_operator_suspends_an_account_beside_a_running_server_and_restores_it() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("server");
    let (_server, url) = Server::start(&data, "127.0.0.1:0")?;
    let (alice, bob) = (person(dir.path(), &url, "alice").await?, person(dir.path(), &url, "bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    let operate = |what: &str, name: &str| -> Result<(bool, String)> {
        let out = Command::new(program("secureconnect-server")?).args([what, name, "--data"]).arg(&data).output()?;
        Ok((out.status.success(), String::from_utf8_lossy(&out.stderr).into_owned()))
    };
    let (fine, why) = operate("suspend", "nobody")?;
    assert!(!fine && why.contains("no account with the name nobody"), "{why}");
    ensure!(operate("suspend", "bob")?.0, "bob is suspended");
    // His requests are refused at once, his open connection ends with its next heartbeat.
    assert_eq!(bob.engine.devices().await.unwrap_err().code(), "ACCOUNT_SUSPENDED");
    let out = ConnectionState::LoggedOut(ErrorCode::AccountSuspended);
    until("bob's connection ends", || async { Ok((*bob.engine.connection()?.borrow() == out).then_some(())) }).await?;
    alice.say(c, "meanwhile").await?;
    ensure!(operate("restore", "bob")?.0, "bob is active again");
    bob.engine.login(&url, "bob", &password("bob"), "laptop").await?;
    bob.sees(c, "meanwhile").await?;
    assert_eq!(bob.texts(c)?, ["before", "meanwhile"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_added_is_named_and_the_others_come_in() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let carol_id = carol.id()?;
    carol.engine.stop().await;
    // Used up, while her only device is away.
    let gone = "DELETE FROM key_packages WHERE device_id IN (SELECT device_id FROM devices WHERE user_id = $1)";
    ensure!(world.tamper(gone, vec![carol_id.as_bytes().to_vec()]).await? > 0, "she had some");
    let c = alice.engine.create_group("hai trong ba", vec![bob.id()?, carol_id]).await?;
    alice.sees_event(c, "not_added").await?;
    alice.say(c, "xin chào").await?;
    bob.sees(c, "xin chào").await?;
    let inside = |p: &Person| -> Result<Vec<String>> {
        let mut names: Vec<String> =
            p.engine.read(|r| r.conversation(c))?.map(|c| c.roster.into_iter().map(|m| m.username).collect()).unwrap_or_default();
        names.sort();
        Ok(names)
    };
    assert_eq!((inside(&alice)?, inside(&bob)?), (vec!["alice".into(), "bob".into()], vec!["alice".into(), "bob".into()]));

    // Once her device has been online there are new ones, and she can be added.
    let dir = carol.dir.clone();
    drop(carol);
    let carol = Person::open(&dir, "carol").await?;
    carol.online().await?;
    until("carol can be added", || async {
        alice.engine.add_members(c, vec![carol_id]).await?;
        alice.settle().await?;
        Ok((inside(&alice)?.len() == 3).then_some(()))
    })
    .await?;
    alice.say(c, "chào Carol").await?;
    carol.sees(c, "chào Carol").await
}
