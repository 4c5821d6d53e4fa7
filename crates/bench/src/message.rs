//! One message in and out of a client's store, in groups of 2 and of 256, each in a transaction of its own.

use crate::percentiles;
use anyhow::{Context as _, Result};
use sc_engine::core::inbox::{Entry, receive};
use sc_engine::core::outbox::{Prepared, prepare, send_text};
use sc_protocol::frame::{Envelope, EnvelopeKind};
use sc_protocol::{Blob, ConversationId};
use sc_testkit::{Person, World};
use std::time::Instant;

const MESSAGES: u64 = 300;
const TEXT: &str = "tin nhắn thử, trời hôm nay đẹp quá, cuối tuần đi chơi nhé";

/// Both sizes.
pub async fn run() -> Result<()> {
    let world = World::with(|c| (c.login_rate, c.address_rate) = (100_000, 1_000_000)).await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let two = alice.direct("bob").await?;
    alice.say(two, "start").await?;
    bob.sees(two, "start").await?;
    let mut ids = vec![bob.id()?];
    for i in 0..254 {
        let name = format!("member{i}");
        sc_testkit::raw::account(world.addr, &name).await?;
        ids.push(alice.engine.find_user(&name).await?.user_id);
    }
    let many = alice.engine.create_group("many", ids).await?;
    alice.say(many, "start").await?;
    bob.sees(many, "start").await?;
    alice.settle().await?;
    // Nothing else is at work from here on.
    alice.engine.stop().await;
    bob.engine.stop().await;
    one(&alice, &bob, two, 2).await?;
    one(&alice, &bob, many, 256).await
}

/// Bytes this process has caused to be written to disk.
fn written() -> Result<u64> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find(|l| l.starts_with("write_bytes:")).context("write_bytes")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}

async fn one(alice: &Person, bob: &Person, c: ConversationId, size: usize) -> Result<()> {
    let (mut store, mut encrypt, mut decrypt) = (Vec::new(), Vec::new(), Vec::new());
    let mut envelopes = Vec::new();
    let first = bob.engine.read(|r| r.conversation(c))?.context("known")?.last_seq + 1;
    let ms = |t: Instant| t.elapsed().as_secs_f64() * 1000.0;
    let before = written()?;
    for i in 0..MESSAGES {
        let text = format!("{TEXT} {i}");
        let t = Instant::now();
        let row = alice.engine.db().write(move |cx| send_text(cx, c, &text, None)).await?;
        store.push(ms(t));
        let job = alice.engine.read(|r| r.job_by_temp_id(row.temp_id))?.context("a job")?;
        let t = Instant::now();
        let Prepared::Ready(job) = alice.engine.db().write(move |cx| prepare(cx, job.id)).await? else { anyhow::bail!("not ready") };
        encrypt.push(ms(t));
        let seq = first + i;
        envelopes.push(Envelope {
            conversation_id: c,
            seq,
            kind: EnvelopeKind::Application,
            generation: job.generation,
            epoch: job.epoch,
            sender_user: row.sender,
            sender_device: row.sender_device,
            temp_id: row.temp_id,
            sent_at: row.sent_at,
            payload: Blob::from(job.ciphertext.clone().unwrap_or_default()),
            ratchet_tree: None,
        });
        // Its place, so that the next one is the first job again.
        let (temp_id, at) = (row.temp_id, row.sent_at);
        let own = Entry::Own { conversation: c, temp_id, seq, at };
        alice.engine.db().write(move |cx| receive(cx, &[own]).map(|_| ())).await?;
    }
    let out = (written()? - before) / MESSAGES;
    let before = written()?;
    let half = envelopes.len() / 2;
    let rest = envelopes.split_off(half);
    let single = u64::try_from(envelopes.len())?;
    for e in envelopes {
        let t = Instant::now();
        bob.engine.db().write(move |cx| receive(cx, &[Entry::Envelope(Box::new(e))]).map(|_| ())).await?;
        decrypt.push(ms(t));
    }
    let inward = (written()? - before) / single;
    let before = written()?;
    let n = u32::try_from(rest.len())?;
    let t = Instant::now();
    let batch: Vec<Entry> = rest.into_iter().map(|e| Entry::Envelope(Box::new(e))).collect();
    bob.engine.db().write(move |cx| receive(cx, &batch).map(|_| ())).await?;
    let each = ms(t) / f64::from(n);
    let together = (written()? - before) / u64::from(n);
    let ((s, _), (e, e99), (d, d99)) = (percentiles(store), percentiles(encrypt), percentiles(decrypt));
    println!(
        "group of {size}: shown {s:.2} ms; encrypted and stored p50 {e:.2} / p99 {e99:.2} ms; decrypted, stored and indexed p50 {d:.2} / p99 {d99:.2} ms, \
         in a batch of {n} {each:.2} ms each; bytes to disk per message: out {out}, in {inward}, in a batch {together}"
    );
    Ok(())
}
