//! A real client catches up with what it has missed.

use anyhow::Result;
use sc_testkit::{Person, World};
use std::time::Instant;

const MISSED: usize = 10_000;

/// 10,000 missed messages: decrypted, stored, indexed.
pub async fn run() -> Result<()> {
    let world = World::with(|c| {
        c.send_rate = 1_000_000;
        c.send_burst = 1_000_000;
    })
    .await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    let dir = bob.close().await?;
    let start = Instant::now();
    for i in 0..MISSED {
        alice.say(c, &format!("tin nhắn số {i}, trời hôm nay đẹp quá, cuối tuần đi chơi nhé")).await?;
    }
    while alice.engine.read(|r| r.outbox_len())? > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let seconds = start.elapsed().as_secs_f64();
    #[allow(clippy::cast_precision_loss)]
    let rate = MISSED as f64 / seconds;
    println!("one client writes, encrypts and sends {MISSED} messages one after the other in {seconds:.1} s ({rate:.0}/s)");
    let bob = Person::open(&dir, "bob").await?;
    let start = Instant::now();
    let last = format!("tin nhắn số {}, trời hôm nay đẹp quá, cuối tuần đi chơi nhé", MISSED - 1);
    loop {
        let newest = bob.engine.read(|r| r.rows_before(c, 1 << 61, 1))?;
        if newest.first().is_some_and(|m| m.body == last) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    println!("catch-up of {MISSED} missed messages, decrypted, stored and indexed: {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
