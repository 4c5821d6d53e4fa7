//! A bad network before the forwarding unit: it stands at the address at which the unit says it can be reached, and lets datagrams pass
//! as a seeded [`Channel`] has it, TCP as it comes. Real sockets, real time.

use crate::network::{Channel, Path};
use crate::proxy::Proxy;
use anyhow::Result;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::net::UdpSocket;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Duration, Instant};

/// Where the unit has to say it is (`rooms_external`).
pub const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
const DATAGRAM: usize = 2_048;

/// What datagrams meet; nothing: none passes.
type Ways = Arc<Mutex<Option<(Path, u64)>>>;

/// The way to one unit.
pub struct Detour {
    ways: Ways,
    /// Bytes in those that got through, both ways together.
    passed: Arc<AtomicU64>,
    /// Counts the addresses that everybody had, and those that the unit saw.
    moves: Arc<AtomicU64>,
    seen: Arc<AtomicU64>,
    /// TCP's way.
    pub tcp: Proxy,
    task: AbortHandle,
}

impl Drop for Detour {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Detour {
    /// Begins, with a perfect network.
    pub async fn start(unit: SocketAddr) -> Result<Self> {
        let outside = SocketAddr::new(OUTSIDE, unit.port());
        let front = Arc::new(UdpSocket::bind(outside).await?);
        let ways: Ways = Arc::new(Mutex::new(Some((Path::default(), 0))));
        let passed = Arc::new(AtomicU64::new(0));
        let (moves, seen) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let tcp = Proxy::start_at(outside, unit).await?;
        let task = tokio::spawn(serve(front, unit, ways.clone(), passed.clone(), (moves.clone(), seen.clone()))).abort_handle();
        Ok(Self { ways, passed, moves, seen, tcp, task })
    }

    /// Another network for datagrams, from now on: its seed is to be another one, too. Nothing: none passes any more.
    pub fn set(&self, path: Option<(Path, u64)>) {
        *self.ways.lock().unwrap_or_else(PoisonError::into_inner) = path;
    }

    /// From now on everybody has another address, as behind a router that forgot them: what is sent to the one before is lost.
    pub fn move_everybody(&self) {
        self.moves.fetch_add(1, Relaxed);
    }

    /// Addresses that the unit has seen so far.
    #[must_use]
    pub fn addresses(&self) -> u64 {
        self.seen.load(Relaxed)
    }

    /// Bytes in datagrams that got through, both ways together.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Relaxed)
    }
}

/// One direction of somebody's way.
struct Lane {
    ways: Ways,
    passed: Arc<AtomicU64>,
    /// Made anew when the seed is another one.
    channel: Option<(u64, Channel)>,
    /// Tells the directions' fates apart.
    number: u64,
    start: Instant,
}

impl Lane {
    /// When a datagram arrives: never, once or twice.
    fn fate(&mut self, bytes: usize) -> Vec<Instant> {
        let Some((path, seed)) = self.ways.lock().unwrap_or_else(PoisonError::into_inner).clone() else {
            self.channel = None;
            return Vec::new();
        };
        if self.channel.as_ref().is_none_or(|(s, _)| *s != seed) {
            self.channel = Some((seed, Channel::new(path, seed.wrapping_mul(1_000).wrapping_add(self.number))));
        }
        let now = self.start.elapsed().as_secs_f64() * 1_000.0;
        let times = self.channel.as_mut().map(|(_, c)| c.send(now, bytes)).unwrap_or_default();
        self.passed.fetch_add((times.len() * bytes) as u64, Relaxed);
        times.into_iter().map(|ms| self.start + Duration::from_secs_f64(ms.max(0.0) / 1_000.0)).collect()
    }

    /// Sends on, in its time.
    fn pass(&mut self, bytes: &[u8], through: &Arc<UdpSocket>, to: SocketAddr, late: &mut JoinSet<()>) {
        for at in self.fate(bytes.len()) {
            let (bytes, through) = (bytes.to_vec(), through.clone());
            late.spawn(async move {
                tokio::time::sleep_until(at).await;
                // Whoever is not there any more has lost it.
                let _ = through.send_to(&bytes, to).await;
            });
        }
        while late.try_join_next().is_some() {}
    }
}

async fn serve(
    front: Arc<UdpSocket>,
    unit: SocketAddr,
    ways: Ways,
    passed: Arc<AtomicU64>,
    (moves, seen): (Arc<AtomicU64>, Arc<AtomicU64>),
) {
    let start = Instant::now();
    let mut known: HashMap<SocketAddr, (Arc<UdpSocket>, Lane)> = HashMap::new();
    let mut number = 0;
    let mut lane = || {
        number += 1;
        Lane { ways: ways.clone(), passed: passed.clone(), channel: None, number, start }
    };
    // Both go with this task: whoever is on the way, and the readers of the answers.
    let (mut late, mut readers) = (JoinSet::new(), JoinSet::new());
    let mut buffer = vec![0; DATAGRAM];
    let mut moved = 0;
    loop {
        let Ok((n, from)) = front.recv_from(&mut buffer).await else { continue };
        if std::mem::replace(&mut moved, moves.load(Relaxed)) != moved {
            readers.abort_all();
            known.clear();
        }
        let (socket, lane) = match known.entry(from) {
            Entry::Occupied(e) => e.into_mut(),
            Entry::Vacant(e) => {
                let Ok(socket) = UdpSocket::bind((unit.ip(), 0)).await else { continue };
                let socket = Arc::new(socket);
                seen.fetch_add(1, Relaxed);
                readers.spawn(answers(socket.clone(), front.clone(), from, lane()));
                e.insert((socket, lane()))
            }
        };
        lane.pass(buffer.get(..n).unwrap_or_default(), socket, unit, &mut late);
    }
}

/// What the unit answers somebody.
async fn answers(socket: Arc<UdpSocket>, front: Arc<UdpSocket>, to: SocketAddr, mut lane: Lane) {
    let mut late = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM];
    loop {
        if let Ok((n, _)) = socket.recv_from(&mut buffer).await {
            lane.pass(buffer.get(..n).unwrap_or_default(), &front, to, &mut late);
        }
    }
}
