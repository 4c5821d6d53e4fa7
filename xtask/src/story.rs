//! `cargo xtask run`: a server and the app; without a display the same story in the terminal.

use crate::sh::{cargo, run as sh_run, say, target_dir};
use crate::{setup, test};
use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A server that ends with this value.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM lets it finish what is queued; a server that does not listen is killed.
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        for _ in 0..100 {
            if asked.is_err() || matches!(self.child.try_wait(), Ok(Some(_))) {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Server {
    fn start(data: &Path, listen: &str) -> Result<Self> {
        let program = target_dir()?.join("debug/secureconnect-server");
        let log = std::fs::File::create(data.with_extension("log"))?;
        let mut child =
            Command::new(program).args(["serve", "--listen", listen, "--data"]).arg(data).stdout(Stdio::piped()).stderr(log).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let Some(url) = line.trim().strip_prefix("listening on ") else {
            let _ = child.wait();
            bail!("the server did not start; its log is {}", data.with_extension("log").display());
        };
        Ok(Self { url: url.to_owned(), child })
    }
}

fn data_home() -> PathBuf {
    let base = std::env::var_os("XDG_DATA_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".local/share")));
    base.unwrap_or_else(|| PathBuf::from(".")).join("secureconnect")
}

/// The step.
pub fn run() -> Result<()> {
    let display = std::env::var_os("DISPLAY").or_else(|| std::env::var_os("WAYLAND_DISPLAY")).is_some_and(|d| !d.is_empty());
    if display { window() } else { terminal() }
}

fn window() -> Result<()> {
    setup::build()?;
    test::ui_build()?;
    say("building the server and the app");
    sh_run(cargo().args(["build", "-p", "secureconnect-server", "-p", "secureconnect"]))?;
    let home = data_home();
    std::fs::create_dir_all(&home)?;
    let server = Server::start(&home.join("server"), "127.0.0.1:8420")?;
    say(&format!("the server listens on {}; its data is in {}", server.url, home.display()));
    println!("The app opens. Close its window to stop both.");
    sh_run(&mut Command::new(target_dir()?.join("debug/secureconnect")))
}

/// The main job in the terminal, with real programs.
fn terminal() -> Result<()> {
    setup::headless()?;
    say("no display: building the server and the command line instead of the window");
    sh_run(cargo().args(["build", "-p", "secureconnect-server", "-p", "secureconnect-cli"]))?;
    let dir = std::env::temp_dir().join(format!("secureconnect-story-{}", std::process::id()));
    std::fs::create_dir_all(&dir)?;
    let result = tell(&dir);
    let removed = std::fs::remove_dir_all(&dir);
    result?;
    removed.context("cannot remove the story's folder")
}

struct Story {
    dir: PathBuf,
    url: String,
}

impl Story {
    fn cli(&self, who: &str, args: &[&str]) -> Result<Vec<Value>> {
        let out = Command::new(target_dir()?.join("debug/secureconnect-cli"))
            .args(["--json", "--server", &self.url, "--profile"])
            .arg(self.dir.join(who))
            .args(args)
            .env("SECURECONNECT_PASSPHRASE", format!("{who}'s passphrase"))
            .env("SECURECONNECT_PASSWORD", format!("{who}'s password"))
            .output()?;
        if !out.status.success() {
            bail!("{who}: {} failed: {}", args.join(" "), String::from_utf8_lossy(&out.stderr).trim());
        }
        String::from_utf8_lossy(&out.stdout).lines().map(|l| serde_json::from_str(l).context("the command line prints JSON")).collect()
    }

    fn texts(&self, who: &str, with: &str) -> Result<Vec<String>> {
        let rows = self.cli(who, &["history", with])?;
        Ok(rows.iter().filter(|r| field(r, "kind") == "text").map(|r| field(r, "text")).collect())
    }
}

fn field(v: &Value, name: &str) -> String {
    v.get(name).map(|f| f.as_str().map_or_else(|| f.to_string(), str::to_owned)).unwrap_or_default()
}

fn step<T>(what: &str, f: impl FnOnce() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    let value = f()?;
    println!("{:>7.0} ms  {what}", start.elapsed().as_secs_f64() * 1000.0);
    Ok(value)
}

fn expect(what: &str, fine: bool) -> Result<()> {
    if fine { Ok(()) } else { bail!("not as it should be: {what}") }
}

fn tell(dir: &Path) -> Result<()> {
    say("two people talk, end-to-end encrypted");
    let mut server = step("the server starts on SQLite", || Server::start(&dir.join("server"), "127.0.0.1:0"))?;
    let s = Story { dir: dir.to_owned(), url: server.url.clone() };
    step("alice makes an account", || s.cli("alice", &["register", "alice"]))?;
    step("bob makes an account", || s.cli("bob", &["register", "bob"]))?;
    let numbers = step("both look at their safety number", || {
        Ok((s.cli("alice", &["safety-number", "bob"])?, s.cli("bob", &["safety-number", "alice"])?))
    })?;
    let number = numbers.0.first().map(|v| field(v, "number")).unwrap_or_default();
    expect("both see the same 60 digits", number.len() == 60 && numbers.1.first().map(|v| field(v, "number")) == Some(number.clone()))?;
    println!("            {number}");
    step("alice marks bob as verified", || s.cli("alice", &["verify", "bob"]))?;
    step("alice writes to bob", || s.cli("alice", &["send", "bob", "Xin chào Bob!", "--wait"]))?;
    step("bob reads it", || s.cli("bob", &["listen", "--count", "1", "--timeout", "20"]))?;
    step("bob answers", || s.cli("bob", &["send", "alice", "Chào Alice, mình đây.", "--wait"]))?;
    step("alice reads it", || s.cli("alice", &["listen", "--count", "1", "--timeout", "20"]))?;
    step("bob is away, alice writes three messages", || {
        for text in ["một", "hai", "ba"] {
            s.cli("alice", &["send", "bob", text, "--wait"])?;
        }
        Ok(())
    })?;
    let missed = step("bob is back and catches up", || s.cli("bob", &["listen", "--count", "3", "--timeout", "20"]))?;
    expect("the three messages, in order", missed.iter().map(|m| field(m, "text")).collect::<Vec<_>>() == ["một", "hai", "ba"])?;
    step("the server is gone, alice writes all the same", || {
        drop(std::mem::replace(&mut server, Server::start(&dir.join("elsewhere"), "127.0.0.1:0")?));
        s.cli("alice", &["send", "bob", "viết khi không có mạng"])
    })?;
    let listen = s.url.trim_start_matches("http://").to_owned();
    server = step("the server is back with its data", || Server::start(&dir.join("server"), &listen))?;
    step("alice's message goes out", || s.cli("alice", &["sync"]))?;
    step("bob's session is reset", || s.cli("bob", &["reset-session", "alice", "--yes"]))?;
    step("they go on with new keys", || s.cli("bob", &["send", "alice", "khóa mới", "--wait"]))?;
    let (alice, bob) = step("both histories are compared", || Ok((s.texts("alice", "bob")?, s.texts("bob", "alice")?)))?;
    expect("the same seven messages in the same order", alice == bob && alice.len() == 7)?;
    let found = step("alice searches without diacritics", || s.cli("alice", &["search", "khong co mang"]))?;
    expect("one message found", found.len() == 1)?;
    drop(server);
    say("done: every message arrived once, in order, and the server never saw a word");
    Ok(())
}
