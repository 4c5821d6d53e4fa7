//! The real programs, as processes that can be killed.
#![allow(dead_code, reason = "not every test uses all of it")]

pub mod stage;

use anyhow::{Context as _, Result, bail};
use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use sc_testkit::Person;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The path of a program of this workspace.
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    let path = exe.parent().and_then(Path::parent).context("target folder")?.join(name);
    if !path.exists() {
        bail!("{} is missing: cargo xtask test builds it first", path.display());
    }
    Ok(path)
}

/// Builds `tests/NAME/shim.c` into `dir`, to be preloaded into a program.
pub fn preload(name: &str, dir: &Path) -> Result<PathBuf> {
    let shim = dir.join(format!("{name}.so"));
    // Cargo says where this clone is; another one may share its target folder.
    let folder = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    let source = folder.join(name).join("shim.c");
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&shim).arg(source).arg("-ldl");
    if !cc.status().context("a C compiler is needed (apt install gcc)")?.success() {
        bail!("the shim {name} does not build");
    }
    Ok(shim)
}

/// Randomness of a run; its seed is printed.
pub fn rng() -> ChaCha20Rng {
    let seed = std::env::var("SECURECONNECT_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed {seed}");
    ChaCha20Rng::seed_from_u64(seed)
}

/// The server as a program of its own, killed with SIGKILL when dropped.
pub struct Server(pub Child);

impl Server {
    /// Starts it and waits until it listens; answers its address.
    pub fn start(data: &Path, listen: &str) -> Result<(Self, String)> {
        Self::start_with(data, listen, |_| {})
    }

    /// The same with more in its environment.
    pub fn start_with(data: &Path, listen: &str, change: impl FnOnce(&mut Command)) -> Result<(Self, String)> {
        let mut command = Command::new(program("secureconnect-server")?);
        command.args(["serve", "--listen", listen, "--data"]).arg(data).env("RUST_LOG", "error").stdout(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let url = line.trim().strip_prefix("listening on ").context("the server starts")?.to_owned();
        Ok((Self(child), url))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A new person whose engine runs in this process.
pub async fn person(dir: &Path, url: &str, name: &str) -> Result<Person> {
    Person::register(&dir.join(name), url, name).await
}
