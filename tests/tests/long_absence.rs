//! A device that was away while its group went on for a thousand commits and a thousand messages.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_engine::ResetScope;
use sc_testkit::{PATIENCE, Person, World, agree, until};
use std::time::Instant;

const ROUNDS: usize = 500;

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_missed_a_thousand_commits_and_messages_reads_everything() -> Result<()> {
    let world = World::with(|c| {
        c.repair_rate = 1_000_000;
        c.send_rate = 1_000_000;
        c.send_burst = 1_000_000;
    })
    .await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let c = alice.engine.create_group("lâu ngày", vec![bob.id()?, carol.id()?]).await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    carol.sees(c, "before").await?;
    let before = bob.engine.authenticator(c).await?.unwrap().0;
    let away = bob.close().await?;

    let started = Instant::now();
    for i in 0..ROUNDS {
        for p in [&alice, &carol] {
            let report = p.engine.reset(Some(c), ResetScope::Device, None, PATIENCE).await?;
            assert_eq!((report.repaired, report.waiting), (1, 0), "round {i} of {}", p.name);
            p.say(c, &format!("{} {i}", p.name)).await?;
        }
    }
    alice.settle().await?;
    carol.settle().await?;
    println!("{ROUNDS} rounds in {:?}", started.elapsed());

    let back = Instant::now();
    let bob = Person::open(&away, "bob").await?;
    // Two thousand entries, each a step of the group: longer than one wait on a busy machine, as long as it goes on.
    let mut had = 0;
    while had < 2 * ROUNDS + 1 {
        had = until("bob has more of it", || async { Ok(Some(bob.texts(c)?.len()).filter(|n| *n > had)) }).await?;
    }
    assert_eq!(had, 2 * ROUNDS + 1);
    println!("bob is back after {:?}", back.elapsed());
    agree(&[&alice, &bob, &carol], c).await?;
    let after = bob.engine.authenticator(c).await?.unwrap().0;
    assert!(after >= before + 2 * ROUNDS as u64, "commits were missed: {before} to {after}");
    assert!(bob.engine.read(|r| r.undecryptable(c))?.is_empty());
    bob.say(c, "I have read it all").await?;
    alice.sees(c, "I have read it all").await?;
    carol.sees(c, "I have read it all").await?;
    Ok(())
}
