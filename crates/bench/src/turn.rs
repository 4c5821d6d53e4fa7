//! Relayed packets for a second of processor time: our relay and coturn in the same run, the same generator, a process each.

use anyhow::{Context as _, Result, bail};
use sc_turn::credentials::{Credentials, issue, long_term};
use sc_turn::relay::Policy;
use sc_turn::server::{Listen, Server};
use sc_turn::stun::{Class, Message, Writer, attribute as at, method};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const SECRET: &str = "north";
const REALM: &str = "here";
const CLIENTS: usize = 20;
const SECONDS: u64 = 6;
/// Clock ticks of `/proc/PID/stat` in a second (Linux).
const TICKS: f64 = 100.0;

/// Serves until it is killed.
pub async fn serve(listen: &str) -> Result<()> {
    let policy = Policy {
        realm: REALM.into(),
        secret: SECRET.into(),
        allow_private: true,
        per_account: 1_000,
        allocations: 1_000,
        rate: u64::MAX / 2,
    };
    let _server = Server::start(Listen { plain: listen.parse()?, tls: None, external: None }, policy, [1; 32]).await?;
    std::future::pending().await
}

/// Measures both, twice, so that whatever else this machine does is in both.
pub fn run() -> Result<()> {
    for size in [160, 1_100] {
        let mut best = [0.0f64; 2];
        for _ in 0..3 {
            for (i, name) in ["ours", "coturn"].into_iter().enumerate() {
                let address = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
                let mut server = if i == 0 { ours(address)? } else { coturn(address)? };
                let measured = load(address, &server, size);
                server.kill()?;
                server.wait()?;
                let (per_core, relayed, sent) = measured?;
                println!("turn {name}: {size} bytes, {per_core:.0} packets per second of processor, {relayed} of {sent} relayed");
                if let Some(b) = best.get_mut(i) {
                    *b = b.max(per_core);
                }
            }
        }
        let [ours, coturn] = best;
        println!("turn: {size} bytes, best of three: ours {ours:.0}, coturn {coturn:.0}: {:.2} times", ours / coturn);
    }
    Ok(())
}

fn ours(address: SocketAddr) -> Result<Child> {
    let mut c = Command::new(std::env::current_exe()?);
    Ok(c.args(["--turn", &address.to_string()]).spawn()?)
}

fn coturn(address: SocketAddr) -> Result<Child> {
    let mut c = Command::new("turnserver");
    c.args(["-n", "--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", "--use-auth-secret", "--allow-loopback-peers"]);
    c.args(["--no-tls", "--no-dtls", "--no-cli", "--log-file=/dev/null", "--simple-log", "--relay-threads=2", "--no-tcp"]);
    c.args([format!("--realm={REALM}"), format!("--static-auth-secret={SECRET}"), format!("--listening-port={}", address.port())]);
    let dir = tempfile::tempdir()?.keep();
    c.args([format!("--pidfile={}", dir.join("pid").display()), format!("--userdb={}", dir.join("db").display())]);
    c.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("install coturn")
}

/// Seconds of processor a process has used.
fn processor(child: &Child) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))?;
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: f64 = fields.iter().skip(11).take(2).filter_map(|f| f.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS)
}

fn load(server: SocketAddr, child: &Child, size: usize) -> Result<(f64, u64, u64)> {
    let peer = UdpSocket::bind("127.0.0.1:0")?;
    peer.set_read_timeout(Some(Duration::from_millis(100)))?;
    let to = peer.local_addr()?;
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|i| allocate(server, to, i)).collect::<Result<_>>()?;
    let (stop, received) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (stopped, count) = (stop.clone(), received.clone());
    let sink = std::thread::spawn(move || {
        let mut buffer = [0; 2_048];
        while !stopped.load(Ordering::Relaxed) {
            if peer.recv(&mut buffer).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    });
    let mut packet = vec![0x40, 0x00];
    packet.extend(u16::try_from(size)?.to_be_bytes());
    packet.resize(4 + size, 7);
    let (before, start, mut sent) = (processor(child)?, Instant::now(), 0u64);
    while start.elapsed() < Duration::from_secs(SECONDS) {
        for c in &clients {
            for _ in 0..4 {
                // A full buffer is the relay's limit, and counted as what was not relayed.
                let _ = c.send(&packet);
                sent += 1;
            }
        }
        std::thread::sleep(Duration::from_micros(300));
    }
    std::thread::sleep(Duration::from_millis(300));
    let used = processor(child)? - before;
    stop.store(true, Ordering::Relaxed);
    let _ = sink.join();
    let relayed = received.load(Ordering::Relaxed);
    #[allow(clippy::cast_precision_loss)]
    let per_core = relayed as f64 / used.max(0.01);
    Ok((per_core, relayed, sent))
}

/// A client with a channel to the peer.
fn allocate(server: SocketAddr, peer: SocketAddr, n: usize) -> Result<UdpSocket> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(Duration::from_millis(300)))?;
    let now = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())?;
    let Credentials { username, password } = issue(SECRET.as_bytes(), &n.to_be_bytes(), now + 600);
    let key = long_term(&username, REALM, &password);
    let mut nonce = Vec::new();
    let mut ask = |method: u16, add: &dyn Fn(Writer) -> Writer| -> Result<()> {
        let mut buffer = [0; 2_048];
        for _ in 0..20 {
            let w = add(Writer::new(Class::Request, method, &rand::random()));
            let w = w.put(at::USERNAME, username.as_bytes()).put(at::REALM, REALM.as_bytes()).put(at::NONCE, &nonce);
            socket.send(&w.signed(&key)).ok();
            let Ok(len) = socket.recv(&mut buffer) else {
                // It is still starting.
                std::thread::sleep(Duration::from_millis(50));
                continue;
            };
            let Some(m) = buffer.get(..len).and_then(Message::parse) else { continue };
            match m.class {
                Class::Success => return Ok(()),
                _ => nonce = m.get(at::NONCE).unwrap_or_default().to_vec(),
            }
        }
        bail!("the relay does not serve")
    };
    ask(method::ALLOCATE, &|w| w.put(at::REQUESTED_TRANSPORT, &[17, 0, 0, 0]))?;
    ask(method::CHANNEL_BIND, &|w| w.put(at::CHANNEL_NUMBER, &[0x40, 0, 0, 0]).address(at::XOR_PEER_ADDRESS, peer))?;
    Ok(socket)
}
