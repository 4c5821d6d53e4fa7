//! Clocks that are wrong and clocks that step, on the server and on a device: the order of the log is the order shown, nobody
//! is thrown out, and what waits does not wait for a day that is over.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Context as _, Result, ensure};
use programs::{Server, person, preload, program};
use sc_testkit::{PASSPHRASE, World};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HOUR: i64 = 3_600;
const STEPS: [i64; 8] = [HOUR, -HOUR, 24 * HOUR, 0, -24 * HOUR, 24 * HOUR, -24 * HOUR, 0];

/// A clock of its own for a program.
struct Clock {
    file: PathBuf,
    shim: PathBuf,
}

impl Clock {
    fn new(dir: &Path) -> Result<Self> {
        let clock = Self { file: dir.join("clock"), shim: preload("clock", dir)? };
        clock.set(0)?;
        Ok(clock)
    }

    /// Steps it to so many seconds from the true time.
    fn set(&self, seconds: i64) -> Result<()> {
        // In place: the program has the file mapped.
        use std::io::Write as _;
        let mut f = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(&self.file)?;
        Ok(f.write_all(&seconds.to_ne_bytes())?)
    }

    fn wear(&self, c: &mut Command) {
        c.env("LD_PRELOAD", &self.shim).env("CLOCK_FILE", &self.file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_clock_steps_keeps_the_order_and_throws_nobody_out() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let clock = Clock::new(dir.path())?;
    let (_server, url) = Server::start_with(&dir.path().join("server"), "127.0.0.1:0", |c| clock.wear(c))?;
    let (mut alice, bob) = (person(dir.path(), &url, "alice").await?, person(dir.path(), &url, "bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    let mut expected = vec!["start".to_owned()];
    for (i, step) in STEPS.into_iter().enumerate() {
        clock.set(step)?;
        let (a, b) = (format!("a{i}"), format!("b{i}"));
        alice.say(c, &a).await?;
        bob.sees(c, &a).await?;
        // A new connection, with tokens from another time.
        alice = alice.restart().await?;
        alice.online().await?;
        bob.say(c, &b).await?;
        alice.sees(c, &b).await?;
        expected.extend([a, b]);
    }
    let now = sc_engine::now_ms();
    let far = bob.rows(c)?.into_iter().filter(|m| (m.sent_at - now).abs() > HOUR * 1_000 / 2).count();
    assert!(far > 0, "the server's clock really was elsewhere");
    assert_eq!(alice.texts(c)?, expected, "by its place, not by its time");
    assert_eq!(bob.texts(c)?, expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_whose_clock_steps_sends_what_waits_and_shows_the_order_of_the_log() -> Result<()> {
    let mut world = World::new().await?;
    let bob = world.person("bob").await?;
    let clock = Clock::new(world.dir.path())?;
    let (profile, url) = (world.dir.path().join("alice"), world.url());
    let cli = |args: &[&str]| -> Result<Output> {
        let mut c = Command::new(program("secureconnect-cli")?);
        c.args(["--json", "--server", &url, "--profile"]).arg(&profile).args(args);
        c.env("SECURECONNECT_PASSPHRASE", PASSPHRASE).env("SECURECONNECT_PASSWORD", "alice's long password");
        clock.wear(&mut c);
        Ok(c.output()?)
    };
    let fine = |o: Output| -> Result<Output> {
        ensure!(o.status.success(), "{}", String::from_utf8_lossy(&o.stderr));
        Ok(o)
    };
    fine(cli(&["register", "alice"])?)?;
    let first = fine(cli(&["send", "bob", "start", "--wait"])?)?;
    let c = serde_json::from_slice::<serde_json::Value>(&first.stdout)?["conversation"].as_str().context("conversation")?.parse()?;
    let mut expected = vec!["start".to_owned()];
    for (i, step) in STEPS.into_iter().enumerate() {
        clock.set(step)?;
        let text = format!("at {step} ({i})");
        fine(cli(&["send", "bob", &text, "--wait"])?)?;
        expected.push(text);
    }
    // Written without a server a day ahead; sent when the clock is right again.
    world.stop_server().await;
    clock.set(24 * HOUR)?;
    // Whether it says so with an exit code is another test's business; it is stored.
    let _ = cli(&["send", "bob", "from tomorrow"])?;
    clock.set(0)?;
    world.start_server().await?;
    bob.engine.network_changed();
    fine(cli(&["sync"])?)?;
    expected.push("from tomorrow".to_owned());
    bob.sees(c, "from tomorrow").await?;
    assert_eq!(bob.texts(c)?, expected);
    let shown = String::from_utf8(fine(cli(&["history", &c.to_string(), "--limit", "100"])?)?.stdout)?;
    let mut at = 0;
    for text in &expected {
        let found = shown[at..].find(&format!("\"{text}\"")).with_context(|| format!("{text:?} in its place: {shown}"))?;
        at += found;
    }
    Ok(())
}
