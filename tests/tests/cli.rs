//! The command line as its users meet it: programs, their output and their exit codes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Context as _, Result, ensure};
use programs::program;
use sc_testkit::{PASSPHRASE, World};
use serde_json::Value;
use std::path::PathBuf;
use std::process::Command;

/// Somebody at a terminal.
struct Terminal {
    profile: PathBuf,
    url: String,
}

/// How a command ended: exit code, lines of JSON, the code of the error.
type Ended = (i32, Vec<Value>, String);

impl Terminal {
    fn new(world: &World, name: &str) -> Self {
        Self { profile: world.dir.path().join(name), url: world.url() }
    }

    fn with(&self, args: &[&str], change: impl FnOnce(&mut Command)) -> Result<Ended> {
        let mut c = Command::new(program("secureconnect-cli")?);
        c.args(["--json", "--server", &self.url, "--profile"]).arg(&self.profile).args(args);
        c.env("SECURECONNECT_PASSPHRASE", PASSPHRASE).env("SECURECONNECT_PASSWORD", "a long enough password");
        c.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent").stdin(std::process::Stdio::null());
        change(&mut c);
        let out = c.output()?;
        let lines = String::from_utf8(out.stdout)?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let error = String::from_utf8(out.stderr)?;
        let said: Option<Value> = error.lines().last().map(serde_json::from_str).transpose().with_context(|| error.clone())?;
        let code = said.and_then(|v| v["code"].as_str().map(str::to_owned)).unwrap_or_default();
        Ok((out.status.code().context("it ended by itself")?, lines, code))
    }

    fn run(&self, args: &[&str]) -> Result<Ended> {
        self.with(args, |_| {})
    }

    /// Runs what must succeed.
    fn ok(&self, args: &[&str]) -> Result<Vec<Value>> {
        let (code, lines, error) = self.run(args)?;
        ensure!(code == 0, "{args:?} ended with {code}: {error}");
        Ok(lines)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_story_by_commands_alone() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (Terminal::new(&world, "alice"), Terminal::new(&world, "bob"));
    assert_eq!(alice.ok(&["register", "alice"])?[0]["username"], "alice");
    bob.ok(&["register", "bob"])?;
    assert_eq!(bob.ok(&["whoami"])?[0]["username"], "bob");

    let sent = &alice.ok(&["send", "bob", "chào Bob", "--wait"])?[0];
    let direct = sent["conversation"].as_str().unwrap().to_owned();
    ensure!(sent["seq"].is_u64() && sent["temp_id"].is_string(), "{sent}");
    let heard = &bob.ok(&["listen", "--count", "1", "--timeout", "20"])?[0];
    assert_eq!((&heard["text"], &heard["sender"], &heard["kind"]), (&"chào Bob".into(), &"alice".into(), &"text".into()));
    assert_eq!((&heard["conversation"], &heard["temp_id"]), (&sent["conversation"], &sent["temp_id"]));
    assert_eq!(bob.run(&["listen", "--count", "1", "--timeout", "1"])?.1, Vec::<Value>::new(), "each message is listened to once");

    let group = alice.ok(&["group", "create", "Đi núi", "bob"])?[0]["conversation"].as_str().unwrap().to_owned();
    bob.ok(&["sync"])?;
    let of = |lines: Vec<Value>| -> Vec<String> { lines.iter().map(|l| l["id"].as_str().unwrap().to_owned()).collect() };
    assert_eq!(of(bob.ok(&["conversations"])?).len(), 2);
    assert_eq!(of(bob.ok(&["conversations", "--kind", "group"])?), [group.as_str()]);
    assert_eq!(of(bob.ok(&["conversations", "--unread"])?), [direct.as_str()], "a group without a message has nothing unread");
    assert_eq!(bob.ok(&["search", "chao"])?[0]["text"], "chào Bob");
    assert_eq!(bob.ok(&["history", &direct, "--limit", "5"])?.last().unwrap()["text"], "chào Bob");

    let (a, b) = (alice.ok(&["safety-number", "bob"])?.remove(0), bob.ok(&["safety-number", "alice"])?.remove(0));
    assert_eq!(a["number"], b["number"]);
    assert_eq!(a["verified"], false);
    let (code, _, error) = alice.run(&["verify", "bob", "--qr", a["qr"].as_str().unwrap()])?;
    assert_eq!((code, error.as_str()), (6, "IDENTITY_MISMATCH"), "her own code is not his");
    assert_eq!(alice.run(&["verify", "bob", "--qr", "AAAA"])?.2, "BAD_REQUEST");
    assert_eq!(alice.ok(&["safety-number", "bob"])?[0]["verified"], false, "nothing was marked");
    assert_eq!(alice.ok(&["verify", "bob", "--qr", b["qr"].as_str().unwrap()])?[0]["verified"], true);

    let reset = alice.ok(&["reset-session", &direct, "--yes"])?;
    assert_eq!(reset.len(), 2, "the preview, then the report: {reset:?}");
    alice.ok(&["send", &direct, "sau khi làm mới", "--wait"])?;
    assert_eq!(bob.ok(&["listen", "--count", "1", "--timeout", "20"])?[0]["text"], "sau khi làm mới");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_says_so_with_a_code_and_an_exit_code() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (Terminal::new(&world, "alice"), Terminal::new(&world, "bob"));
    let ended = |t: &Terminal, args: &[&str]| t.run(args).map(|(code, _, error)| (code, error));
    let is = |code: i32, error: &str| (code, error.to_owned());
    assert_eq!(ended(&alice, &["conversations"])?, is(3, "UNAUTHENTICATED"));
    alice.ok(&["register", "alice"])?;
    bob.ok(&["register", "bob"])?;
    let carol = Terminal::new(&world, "carol");
    assert_eq!(ended(&carol, &["register", "alice"])?, is(2, "USERNAME_TAKEN"));
    assert_eq!(ended(&carol, &["register", "A!"])?, is(2, "BAD_USERNAME"));
    let wrong = carol.with(&["login", "alice"], |c| {
        c.env("SECURECONNECT_PASSWORD", "not her password");
    })?;
    assert_eq!((wrong.0, wrong.2), is(3, "INVALID_CREDENTIALS"));
    let locked = alice.with(&["whoami"], |c| {
        c.env("SECURECONNECT_PASSPHRASE", "another passphrase");
    })?;
    assert_eq!((locked.0, locked.2), is(3, "WRONG_KEY"));
    assert_eq!(ended(&alice, &["send", "nobody", "x"])?, is(5, "NOT_FOUND"));
    assert_eq!(ended(&alice, &["send", "bob", ""])?, is(2, "EMPTY"));
    assert_eq!(ended(&alice, &["send", "bob", &"x".repeat(10_001)])?, is(2, "TOO_LONG"));
    assert_eq!(ended(&alice, &["send", "alice", "x"])?, is(2, "SELF"));

    let group = alice.ok(&["group", "create", "nhóm", "bob"])?[0]["conversation"].as_str().unwrap().to_owned();
    bob.ok(&["sync"])?;
    assert_eq!(ended(&bob, &["group", "remove", &group, "alice"])?, is(6, "FORBIDDEN"));
    assert_eq!(ended(&alice, &["history", "nothing-such"])?, is(5, "NOT_FOUND"));

    alice.ok(&["send", "bob", "before", "--wait"])?;
    world.stop_server().await;
    assert_eq!(ended(&alice, &["send", "bob", "while it is gone", "--wait"])?, is(4, "OFFLINE"));
    world.start_server().await?;
    alice.ok(&["sync"])?;
    let heard = bob.ok(&["listen", "--count", "2", "--timeout", "20"])?;
    assert_eq!(heard.iter().map(|l| l["text"].as_str().unwrap()).collect::<Vec<_>>(), ["before", "while it is gone"]);
    Ok(())
}
