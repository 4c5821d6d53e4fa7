//! The power goes off: what was written and not synced is forgotten, or kept in part, sector by sector.
//!
//! The programs run over `power_loss/shim.c`, which remembers every file as of its last sync. A cut is SIGKILL, and then
//! those copies, with some of the unsynced sectors, in place of the files. The test is worth something because it fails
//! with `synchronous = NORMAL` and `OFF`, which it shows.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Context as _, Result, ensure};
use programs::{Server, person, preload, program, rng};
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use sc_protocol::ConversationId;
use sc_store::model::Status;
use sc_testkit::{PASSPHRASE, Person, World, until};
use sqlx::ConnectOptions as _;
use sqlx::Row as _;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A folder on a disk whose power can be cut.
struct Disk {
    dir: PathBuf,
    durable: PathBuf,
    shim: PathBuf,
}

impl Disk {
    fn new(base: &Path) -> Result<Self> {
        let (dir, durable) = (base.join("disk"), base.join("durable"));
        std::fs::create_dir_all(&dir)?;
        std::fs::create_dir_all(&durable)?;
        Ok(Self { dir, durable, shim: preload("power_loss", base)? })
    }

    fn env(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("LD_PRELOAD", self.shim.clone()),
            ("POWER_LOSS_DIR", self.dir.clone()),
            ("POWER_LOSS_DURABLE", self.durable.clone()),
            ("POWER_LOSS_EIO", self.failing()),
        ]
    }

    /// While this file exists, the disk can sync nothing.
    fn failing(&self) -> PathBuf {
        self.durable.with_extension("failing")
    }

    /// After everything that uses it was killed.
    fn cut(&self, rng: &mut ChaCha20Rng) -> Result<()> {
        for entry in std::fs::read_dir(&self.durable)? {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == "tmp") {
                std::fs::remove_file(path)?;
            }
        }
        for entry in std::fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !path.is_file() {
                continue;
            }
            let kept = self.durable.join(path.file_name().context("a name")?);
            if !kept.exists() {
                std::fs::remove_file(path)?;
                continue;
            }
            let (mut bytes, written) = (std::fs::read(&kept)?, std::fs::read(&path)?);
            // The disk may have been at work on what was not synced yet: some sectors are new, and one is torn.
            let reach = written.len().min(bytes.len() + 64 * 1024);
            for at in (0..reach).step_by(512) {
                if rng.gen_bool(0.7) {
                    continue;
                }
                let end = written.len().min(at + if rng.gen_bool(0.1) { rng.gen_range(1..512) } else { 512 });
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[at..end].copy_from_slice(&written[at..end]);
            }
            std::fs::write(&path, &bytes)?;
            std::fs::write(&kept, &bytes)?;
        }
        Ok(())
    }
}

/// What the server has kept of a conversation: every temp id of the log, which is whole and without a hole.
async fn kept(disk: &Disk, c: ConversationId) -> Result<HashSet<Vec<u8>>> {
    // In a copy: opening repairs.
    let copy = tempfile::tempdir()?;
    for name in ["server.db", "server.db-wal"] {
        let _ = std::fs::copy(disk.dir.join(name), copy.path().join(name));
    }
    let file = copy.path().join("server.db");
    ensure!(file.exists(), "nothing is left");
    let mut db = sqlx::sqlite::SqliteConnectOptions::new().filename(file).connect().await?;
    let sound: String = sqlx::query_scalar("PRAGMA integrity_check").fetch_one(&mut db).await?;
    ensure!(sound == "ok", "the store is damaged: {sound}");
    let rows = sqlx::query("SELECT seq, temp_id FROM log WHERE conversation_id = $1 ORDER BY seq")
        .bind(c.as_bytes().as_slice())
        .fetch_all(&mut db)
        .await?;
    for (i, r) in rows.iter().enumerate() {
        ensure!(r.try_get::<i64, _>("seq")? == i64::try_from(i)? + 1, "a hole in the log");
    }
    rows.iter().map(|r| Ok(r.try_get("temp_id")?)).collect()
}

/// Cuts the power `cuts` times while people talk. Answers how many messages that were shown as sent the server has lost.
async fn cut_under_load(synchronous: &str, cuts: u32) -> Result<usize> {
    let mut rng = rng();
    let dir = tempfile::tempdir()?;
    let disk = Disk::new(dir.path())?;
    let env = |c: &mut Command| {
        c.envs(disk.env()).env("SECURECONNECT_SERVER_SYNCHRONOUS", synchronous);
    };
    let (mut server, url) = Server::start_with(&disk.dir, "127.0.0.1:0", env)?;
    let listen = url.trim_start_matches("http://").to_owned();
    let (alice, bob) = (person(dir.path(), &url, "alice").await?, person(dir.path(), &url, "bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    for _ in 0..cuts {
        for p in [&alice, &bob] {
            for _ in 0..rng.gen_range(1..12) {
                let text = format!("{} {}", p.name, rng.r#gen::<u64>());
                p.say(c, &text).await?;
            }
        }
        // Pacing of the fault, not a wait for a condition.
        tokio::time::sleep(Duration::from_millis(rng.gen_range(0..80))).await;
        drop(server);
        let acked = |p: &Person| -> Result<Vec<Vec<u8>>> {
            let mine = p.rows(c)?.into_iter().filter(|m| m.status == Status::Sent);
            Ok(mine.map(|m| m.temp_id.as_bytes().to_vec()).collect())
        };
        let acked: Vec<Vec<u8>> = acked(&alice)?.into_iter().chain(acked(&bob)?).collect();
        disk.cut(&mut rng)?;
        let lost = match kept(&disk, c).await {
            Ok(kept) => acked.iter().filter(|t| !kept.contains(*t)).count(),
            Err(cause) if synchronous != "FULL" => {
                println!("{synchronous}: {cause}");
                acked.len()
            }
            Err(cause) => return Err(cause),
        };
        if lost > 0 {
            return Ok(lost);
        }
        server = Server::start_with(&disk.dir, &listen, env)?.0;
        alice.engine.network_changed();
        bob.engine.network_changed();
        alice.online().await?;
    }
    alice.settle().await?;
    bob.settle().await?;
    until("both have everything", || async { Ok((alice.texts(c)?.len() == bob.texts(c)?.len()).then_some(())) }).await?;
    let texts = alice.texts(c)?;
    assert_eq!(texts, bob.texts(c)?);
    assert_eq!(texts.len(), texts.iter().collect::<HashSet<_>>().len(), "nothing twice");
    drop(server);
    Ok(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_power_cuts_lose_nothing_that_was_shown_as_sent() -> Result<()> {
    assert_eq!(cut_under_load("FULL", 50).await?, 0);
    Ok(())
}

/// A disk that cannot sync: nothing more is acknowledged, not even once it pretends to be well again; reads go on; after a
/// power cut and a new start everything that was shown as sent is there, and what waited goes out.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_sync_ends_the_writing_and_nothing_that_was_shown_as_sent_is_lost() -> Result<()> {
    let mut rng = rng();
    let dir = tempfile::tempdir()?;
    let disk = Disk::new(dir.path())?;
    let env = |c: &mut Command| {
        c.envs(disk.env());
    };
    let (server, url) = Server::start_with(&disk.dir, "127.0.0.1:0", env)?;
    let listen = url.trim_start_matches("http://").to_owned();
    let (alice, bob) = (person(dir.path(), &url, "alice").await?, person(dir.path(), &url, "bob").await?);
    let carol = sc_testkit::raw::account(listen.parse()?, "carol").await?;
    let c = alice.direct("bob").await?;
    for i in 0..20 {
        alice.say(c, &format!("kept {i}")).await?;
    }
    alice.settle().await?;
    bob.sees(c, "kept 19").await?;

    std::fs::write(disk.failing(), "")?;
    alice.say(c, "while it fails").await?;
    bob.say(c, "while it fails too").await?;
    let health = |ready: bool| {
        let url = format!("{url}/health/ready");
        until("the server says how its disk is", move || {
            let url = url.clone();
            async move { Ok((reqwest::get(url).await?.status().is_success() == ready).then_some(())) }
        })
    };
    health(false).await?;
    std::fs::remove_file(disk.failing())?;
    bob.say(c, "while it pretends").await?;
    let read = reqwest::Client::new().get(format!("{url}/v1/conversations")).bearer_auth(&carol).send().await?;
    ensure!(read.status().is_success(), "what is there can be read: {}", read.status());
    // Not even somebody who is new, now that the disk would sync again.
    let refused = sc_testkit::raw::account(listen.parse()?, "dave").await.unwrap_err().to_string();
    ensure!(refused.contains("STORAGE_FULL"), "{refused}");
    let pending = |p: &Person| -> Result<usize> { Ok(p.rows(c)?.iter().filter(|m| m.status == Status::Pending).count()) };
    assert_eq!((pending(&alice)?, pending(&bob)?), (1, 2), "nothing is acknowledged");
    health(false).await?;

    drop(server);
    disk.cut(&mut rng)?;
    let there = kept(&disk, c).await?;
    let sent: Vec<_> = alice.rows(c)?.into_iter().filter(|m| m.status == Status::Sent).collect();
    assert!(sent.len() >= 20 && sent.iter().all(|m| there.contains(m.temp_id.as_bytes().as_slice())), "what was shown as sent is kept");
    let _server = Server::start_with(&disk.dir, &listen, env)?;
    health(true).await?;
    for p in [&alice, &bob] {
        p.engine.network_changed();
        p.online().await?;
        p.settle().await?;
    }
    until("both have everything", || async { Ok((alice.texts(c)?.len() == 23 && bob.texts(c)?.len() == 23).then_some(())) }).await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_syncs_the_same_test_finds_what_was_lost() -> Result<()> {
    for synchronous in ["OFF", "NORMAL"] {
        assert!(cut_under_load(synchronous, 50).await? > 0, "{synchronous} loses something");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_loses_its_power_keeps_what_it_has_shown() -> Result<()> {
    let mut rng = rng();
    let world = World::new().await?;
    let bob = world.person("bob").await?;
    let disk = Disk::new(world.dir.path())?;
    let url = world.url();
    let cli = |args: &[&str]| -> Result<Command> {
        let mut c = Command::new(program("secureconnect-cli")?);
        c.args(["--json", "--server", &url, "--profile"]).arg(&disk.dir).args(args);
        c.env("SECURECONNECT_PASSPHRASE", PASSPHRASE).env("SECURECONNECT_PASSWORD", "alice's long password").envs(disk.env());
        c.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(c)
    };
    let registered = cli(&["register", "alice"])?.output()?;
    ensure!(registered.status.success(), "alice registers: {}", String::from_utf8_lossy(&registered.stderr));
    let mut expected = Vec::new();
    let mut c = None;
    for i in 0..15 {
        let text = format!("kept {i}");
        let sent = cli(&["send", "bob", &text, "--wait"])?.output()?;
        ensure!(sent.status.success(), "sent: {}", String::from_utf8_lossy(&sent.stderr));
        let line: serde_json::Value = serde_json::from_slice(&sent.stdout)?;
        c = Some(line["conversation"].as_str().context("conversation")?.to_owned());
        expected.push(text);
        disk.cut(&mut rng)?;
        let shown = cli(&["history", c.as_deref().unwrap(), "--limit", "100"])?.output()?;
        let shown = String::from_utf8(shown.stdout)?;
        for text in &expected {
            ensure!(shown.contains(&format!("\"{text}\"")), "after cut {i}, {text:?} is not there: {shown}");
        }
    }
    let c = c.context("a conversation")?.parse()?;
    bob.sees(c, "kept 14").await?;
    assert_eq!(bob.texts(c)?, expected, "and bob has each of them once");
    Ok(())
}
