//! Without a network, and back.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_testkit::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_offline_goes_out_in_order_and_what_was_missed_comes_in() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "first").await?;
    bob.sees(c, "first").await?;
    alice.settle().await?;
    world.stop_server().await;
    for i in 0..20 {
        alice.say(c, &format!("offline {i}")).await?;
    }
    assert_eq!(alice.texts(c)?.len(), 21, "everything is shown at once");
    let alice = alice.restart().await?;
    assert_eq!(alice.texts(c)?.len(), 21, "and survives a restart");
    world.start_server().await?;
    alice.engine.network_changed();
    bob.engine.network_changed();
    bob.sees(c, "offline 19").await?;
    alice.settle().await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    let expected: Vec<String> = std::iter::once("first".to_owned()).chain((0..20).map(|i| format!("offline {i}"))).collect();
    assert_eq!(bob.texts(c)?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_away_gets_exactly_what_it_missed() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    let dir = bob.close().await?;
    for i in 0..250 {
        alice.say(c, &format!("missed {i}")).await?;
    }
    alice.settle().await?;
    let bob = sc_testkit::Person::open(&dir, "bob").await?;
    bob.sees(c, "missed 249").await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    assert_eq!(bob.engine.read(|r| r.search("missed 24", &sc_store::search::SearchFilter::default(), 50))?.len(), 11);
    Ok(())
}
