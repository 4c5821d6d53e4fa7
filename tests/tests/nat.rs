//! Calls between homes: two people, each behind a router of their own, in network namespaces of this machine. The routers translate
//! addresses as those in the world do, or let no datagrams pass; the server is somewhere outside. Real programs, real kernel. Then an
//! address becomes another one, and the network is away altogether.
//!
//! Needs Linux, `ip`, `iptables` and the rights of root (by `sudo` where the test itself has none). Where the system allows no namespaces,
//! as in some containers, the tests say that they were not run; with `SECURECONNECT_NAMESPACES` set they fail there.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Context as _, Result, bail, ensure};
use programs::program;
use sc_testkit::PASSPHRASE;
use sc_testkit::calls::{samples, scale, tone};
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Where the server is (RFC 5737, as the routers' addresses outside).
const SERVER: &str = "203.0.113.1";
/// Everybody's network at home: the same behind both routers, as it often is.
const HOME: &str = "192.168.7";

/// How a router treats datagrams (RFC 4787).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Router {
    /// Endpoint-independent mapping and filtering: whoever sends to the outer address gets in.
    Open,
    /// Endpoint-independent mapping; only who was written to gets in.
    Restricted,
    /// Another outer port for each one who is written to.
    Symmetric,
    /// None passes.
    NoDatagrams,
}

fn run(c: &mut Command) -> Result<()> {
    let out = c.output().with_context(|| format!("{c:?} cannot be started: cargo xtask setup installs what the tests need"))?;
    ensure!(out.status.success(), "{c:?}: {}", String::from_utf8_lossy(&out.stderr));
    Ok(())
}

/// False, and said, where no namespaces can be made, or no addresses translated in them.
fn possible() -> bool {
    let name = format!("sc{}-{}-probe", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed));
    let within = |words: &str| run(as_root("ip").args(["netns", "exec", &name, "iptables"]).args(words.split(' ')));
    let probed = run(as_root("ip").args(["netns", "add", &name]))
        .and_then(|()| within("-t nat -A POSTROUTING -j MASQUERADE --random-fully"))
        .and_then(|()| within("-A INPUT -m conntrack --ctstate NEW -j DROP"));
    // Whatever of it was made.
    let _ = as_root("ip").args(["netns", "del", &name]).output();
    let Err(why) = probed else { return true };
    assert!(std::env::var_os("SECURECONNECT_NAMESPACES").is_none(), "no networks can be made: {why:#}");
    println!("NOT RUN: no networks can be made here ({why:#})");
    false
}

fn as_root(name: &str) -> Command {
    let root = std::fs::read_to_string("/proc/self/status").is_ok_and(|s| s.lines().any(|l| l.starts_with("Uid:\t0\t")));
    if root {
        return Command::new(name);
    }
    let mut c = Command::new("sudo");
    c.args(["-n", "--preserve-env"]).arg(name);
    c
}

/// The world: a server, two routers, two homes.
struct Net(String);

/// Tests of this process run side by side.
static WORLDS: AtomicU32 = AtomicU32::new(0);

impl Net {
    fn build() -> Result<Self> {
        let net = Self(format!("sc{}-{}", std::process::id(), WORLDS.fetch_add(1, Ordering::Relaxed)));
        for name in ["out", "router-a", "router-b", "home-a", "home-b"] {
            run(as_root("ip").args(["netns", "add", &net.name(name)]))?;
            net.ip(name, "link set lo up")?;
        }
        net.ip("out", &format!("addr add {SERVER}/32 dev lo"))?;
        for (side, outside) in [("a", "198.51.100"), ("b", "192.0.2")] {
            let (router, home) = (format!("router-{side}"), format!("home-{side}"));
            net.cable("out", &format!("to-{side}"), &router, "wan")?;
            net.cable(&router, "lan", &home, "eth")?;
            net.address("out", &format!("to-{side}"), &format!("{outside}.1"))?;
            net.address(&router, "wan", &format!("{outside}.2"))?;
            net.address(&router, "lan", &format!("{HOME}.1"))?;
            net.address(&home, "eth", &format!("{HOME}.2"))?;
            net.ip(&router, &format!("route add default via {outside}.1"))?;
            net.ip(&home, &format!("route add default via {HOME}.1"))?;
        }
        for name in ["out", "router-a", "router-b"] {
            run(net.within(name, "sh").args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]))?;
        }
        Ok(net)
    }

    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.0)
    }

    /// A program in one of the namespaces.
    fn within(&self, name: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut c = as_root("ip");
        c.args(["netns", "exec", &self.name(name)]).arg(program);
        c
    }

    fn ip(&self, name: &str, words: &str) -> Result<()> {
        run(as_root("ip").args(["-n", &self.name(name)]).args(words.split(' ')))
    }

    fn cable(&self, from: &str, plug: &str, to: &str, socket: &str) -> Result<()> {
        let (from, to) = (self.name(from), self.name(to));
        run(as_root("ip").args(["link", "add", plug, "netns", &from, "type", "veth", "peer", "name", socket, "netns", &to]))
    }

    fn address(&self, name: &str, plug: &str, address: &str) -> Result<()> {
        self.ip(name, &format!("addr add {address}/24 dev {plug}"))?;
        self.ip(name, &format!("link set {plug} up"))
    }

    /// Another address in place of the one there is, with the way out behind `gateway`.
    fn readdress(&self, name: &str, plug: &str, (old, new): (&str, &str), gateway: &str) -> Result<()> {
        self.ip(name, &format!("addr del {old}/24 dev {plug}"))?;
        self.ip(name, &format!("addr add {new}/24 dev {plug}"))?;
        self.ip(name, &format!("route replace default via {gateway}"))
    }

    fn iptables(&self, router: &str, words: &str) -> Result<()> {
        run(self.within(router, "iptables").args(words.split(' ')))
    }

    fn set(&self, side: &str, router: Router) -> Result<()> {
        let name = format!("router-{side}");
        for flush in ["-F", "-t nat -F"] {
            self.iptables(&name, flush)?;
        }
        let rules: &[&str] = match router {
            Router::Open => &["-t nat -A PREROUTING -i wan -p udp -j DNAT --to-destination 192.168.7.2"],
            Router::Restricted | Router::Symmetric => &[],
            Router::NoDatagrams => &["-A FORWARD -p udp -j DROP"],
        };
        let ports = if router == Router::Symmetric { " --random-fully" } else { "" };
        // What nobody asked for is dropped at the door, as by every router at home: else the kernel would take it for its own.
        self.iptables(&name, "-A INPUT -i wan -m conntrack --ctstate NEW,INVALID -j DROP")?;
        self.iptables(&name, &format!("-t nat -A POSTROUTING -o wan -j MASQUERADE{ports}"))?;
        rules.iter().try_for_each(|r| self.iptables(&name, r))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in ["home-a", "home-b", "router-a", "router-b", "out"] {
            // Whatever of it was built, and whoever is left in it.
            if let Ok(left) = as_root("ip").args(["netns", "pids", &self.name(name)]).stderr(Stdio::null()).output() {
                for pid in String::from_utf8_lossy(&left.stdout).split_whitespace() {
                    let _ = as_root("kill").args(["-9", pid]).stderr(Stdio::null()).status();
                }
            }
            let _ = as_root("ip").args(["netns", "del", &self.name(name)]).stderr(Stdio::null()).status();
        }
    }
}

/// A program that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Not ours to kill where it was started by another.
        let _ = as_root("kill").args(["-9", &self.0.id().to_string()]).stderr(Stdio::null()).status();
        let _ = self.0.wait();
    }
}

struct World {
    net: Net,
    dir: tempfile::TempDir,
    /// Before the namespaces are gone.
    server: Option<Running>,
}

/// What one side of a call has to tell.
struct Told {
    path: String,
    /// Silences of more than a tenth between the first and the last tone, in tenths of a second.
    silences: Vec<usize>,
    /// Tenths of a second with a tone.
    tones: usize,
    /// From `incoming` or `calling` to `active`.
    setup: Duration,
    /// What was said at which millisecond of the call, for the case that it was no good.
    lines: Vec<(u128, Value)>,
}

impl World {
    fn begin() -> Result<Self> {
        let net = Net::build()?;
        let dir = tempfile::tempdir()?;
        scale(&dir.path().join("scale.wav"), 40)?;
        let mut server = net.within("out", program("secureconnect-server")?);
        server.args(["serve", "--listen", &format!("{SERVER}:8420"), "--data"]).arg(dir.path().join("server"));
        let mut child = server.env("RUST_LOG", "error").stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let this = Self { net, dir, server: Some(Running(child)) };
        ensure!(line.contains("listening"), "the server starts: {line}");
        for side in ["a", "b"] {
            this.net.set(side, Router::Restricted)?;
            run(&mut this.cli(side, &["register", &format!("home-{side}")]))?;
        }
        Ok(this)
    }

    fn recording(&self, side: &str) -> PathBuf {
        self.dir.path().join(format!("heard-{side}"))
    }

    fn cli(&self, side: &str, args: &[&str]) -> Command {
        let mut c = self.net.within(&format!("home-{side}"), program("secureconnect-cli").unwrap());
        c.args(["--json", "--server", &format!("http://{SERVER}:8420"), "--profile"]).arg(self.dir.path().join(side)).args(args);
        c.env("SECURECONNECT_PASSPHRASE", PASSPHRASE).env("SECURECONNECT_PASSWORD", "a long enough password");
        c.env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent").stdin(Stdio::null());
        c
    }

    /// With both sides' sound.
    fn media(&self, side: &str, args: &[&str]) -> Command {
        let mut c = self.cli(side, args);
        c.arg("--audio-file").arg(self.dir.path().join("scale.wav")).arg("--record").arg(self.recording(side));
        c
    }

    /// A call from a to b of so many seconds; `meanwhile` happens four seconds after it began.
    fn call(&self, seconds: u32, meanwhile: impl FnOnce() -> Result<()>) -> Result<[Told; 2]> {
        for side in ["a", "b"] {
            std::fs::create_dir_all(self.recording(side))?;
        }
        let b = Lines::of(self.media("b", &["answer"]))?;
        let a = Lines::of(self.media("a", &["call", "home-b", "--duration", &seconds.to_string()]))?;
        let (a, b) = (std::thread::spawn(move || a.read()), std::thread::spawn(move || b.read()));
        std::thread::sleep(Duration::from_secs(4));
        meanwhile()?;
        let ends = [a, b].map(|t| t.join().unwrap());
        let [a, b] = ends;
        Ok([self.told("a", &a?)?, self.told("b", &b?)?])
    }

    fn told(&self, side: &str, lines: &[(Instant, Value)]) -> Result<Told> {
        let at = |phase: &[&str]| lines.iter().find(|(_, l)| phase.iter().any(|p| l["phase"] == *p)).map(|(at, _)| *at);
        let (Some((_, end)), Some(rang), Some(active)) = (lines.last(), at(&["calling", "incoming"]), at(&["active"])) else {
            bail!("{side} tells {lines:?}")
        };
        let heard: Vec<bool> =
            samples(&self.recording(side).join("received.wav"))?.chunks_exact(4_800).map(|x| tone(x).is_some()).collect();
        let first = heard.iter().position(|h| *h).unwrap_or(0);
        let last = heard.iter().rposition(|h| *h).unwrap_or(0);
        let between = heard.get(first..=last).unwrap_or_default();
        Ok(Told {
            path: end["quality"]["path"].as_str().unwrap_or_default().to_owned(),
            silences: between.split(|h| *h).map(<[bool]>::len).filter(|n| *n > 1).collect(),
            tones: heard.iter().filter(|h| **h).count(),
            setup: active - rang,
            lines: lines.iter().map(|(at, l)| (at.saturating_duration_since(rang).as_millis(), l.clone())).collect(),
        })
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server = None;
    }
}

/// A program's lines of JSON, with the times they came at.
struct Lines(Running);

impl Lines {
    fn of(mut c: Command) -> Result<Self> {
        Ok(Self(Running(c.stdout(Stdio::piped()).spawn()?)))
    }

    fn read(mut self) -> Result<Vec<(Instant, Value)>> {
        let out = BufReader::new(self.0.0.stdout.take().context("stdout")?);
        let lines = out.lines().map(|l| Ok((Instant::now(), serde_json::from_str(&l?)?))).collect::<Result<Vec<_>>>()?;
        let status = self.0.0.wait()?;
        ensure!(status.success(), "a side ended with {status}: {lines:?}");
        Ok(lines)
    }
}

#[test]
fn a_call_finds_its_way_between_any_two_routers_and_goes_on_with_another_address() -> Result<()> {
    use Router::{NoDatagrams, Open, Restricted, Symmetric};
    if !possible() {
        return Ok(());
    }
    let world = World::begin()?;
    for (a, b, path) in [
        (Restricted, Restricted, "direct"),
        (Open, Symmetric, "direct"),
        (Restricted, Symmetric, "relayed"),
        (Symmetric, Symmetric, "relayed"),
        (NoDatagrams, Restricted, "relayed"),
        (NoDatagrams, NoDatagrams, "relayed"),
    ] {
        world.net.set("a", a)?;
        world.net.set("b", b)?;
        let mut heard = false;
        // Of some 150 calls two, through a relay and beside other tests, were heard too little on one side (docs/status.md).
        for _ in 0..2 {
            let sides = world.call(4, || Ok(()))?;
            for told in &sides {
                println!("{a:?} – {b:?}: {}, {} tenths heard, active after {} ms", told.path, told.tones, told.setup.as_millis());
                ensure!(told.path == path, "{a:?} – {b:?}: {path} was expected");
            }
            heard = sides.iter().all(|t| t.tones >= 25 && t.silences.iter().sum::<usize>() <= 5);
            if heard {
                break;
            }
            println!("{a:?} – {b:?}: one side heard too little; once more");
            for told in &sides {
                println!("{} tenths, silences {:?}, {:?}", told.tones, told.silences, told.lines);
            }
        }
        ensure!(heard, "{a:?} – {b:?}: both hear each other");
    }
    Ok(())
}

#[test]
fn a_call_goes_on_with_another_address_and_after_there_was_no_network_at_all() -> Result<()> {
    if !possible() {
        return Ok(());
    }
    let world = World::begin()?;
    // The router's, of which nobody at home sees anything; then one's own.
    let router = || world.net.readdress("router-a", "wan", ("198.51.100.2", "198.51.100.7"), "198.51.100.1");
    let own = || world.net.readdress("home-b", "eth", ("192.168.7.2", "192.168.7.9"), "192.168.7.1");
    let nothing = || {
        world.net.iptables("router-a", "-I FORWARD -j DROP")?;
        std::thread::sleep(Duration::from_secs(5));
        world.net.iptables("router-a", "-D FORWARD -j DROP")
    };
    let told = [
        ("another address of the router", 60, world.call(12, router)?),
        ("another address of one's own", 15, world.call(12, own)?),
        ("five seconds of nothing", 60, world.call(16, nothing)?),
    ];
    for (what, most, sides) in told {
        for t in sides {
            println!("{what}: {}, {} tenths heard, silences {:?}", t.path, t.tones, t.silences);
            let silent = t.silences.iter().sum::<usize>();
            ensure!(t.path == "direct" && silent <= most && t.tones >= 60, "{what}: at most {most} tenths of silence");
        }
    }
    Ok(())
}
