//! The relay's sockets: UDP, TCP and TLS for clients, a UDP socket for each allocation.
//!
//! One task reads each socket, as long as there is something to read before it waits again. The core is behind a lock that is
//! held for the microsecond it thinks, never while something is sent.

use crate::relay::{Client, Out, Policy, Relay, RelayId, Sockets, any};
use crate::stun::{NotTurn, piece};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};
use tokio_rustls::TlsAcceptor;

/// Longest datagram; also the longest piece of a stream.
const DATAGRAM: usize = 65_535;
/// Packets that may wait for a slow TCP client; beyond it they are lost, as on any network.
const QUEUE: usize = 256;
/// TCP and TLS connections at a time.
const CONNECTIONS: usize = 10_000;
/// A connection that says nothing for so long is closed.
const SILENT: Duration = Duration::from_secs(700);
/// TLS is set up within this.
const HANDSHAKE: Duration = Duration::from_secs(10);
const TICK: Duration = Duration::from_secs(2);

/// Where it listens.
pub struct Listen {
    /// UDP and TCP.
    pub plain: SocketAddr,
    /// TLS, when there is a certificate.
    pub tls: Option<(SocketAddr, TlsAcceptor)>,
    /// The address peers are told, when it is not the one that is bound (behind NAT).
    pub external: Option<IpAddr>,
}

struct Shared {
    relay: Mutex<Relay>,
    udp: UdpSocket,
    bind: IpAddr,
    external: Option<IpAddr>,
    relays: RwLock<HashMap<RelayId, Arc<UdpSocket>>>,
    connections: RwLock<HashMap<u64, mpsc::Sender<Vec<u8>>>>,
    next: AtomicU64,
    relayed: AtomicU64,
    stop: watch::Sender<bool>,
}

/// A running relay.
pub struct Server {
    shared: Arc<Shared>,
    /// Where it listens: UDP and TCP.
    pub plain: SocketAddr,
    /// Where it listens with TLS.
    pub tls: Option<SocketAddr>,
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

/// Opens sockets for the core; their tasks begin when the lock is free again.
struct Opening<'a> {
    shared: &'a Arc<Shared>,
    opened: Vec<(RelayId, Arc<UdpSocket>)>,
}

impl Sockets for Opening<'_> {
    fn open(&mut self, _: Client, ipv6: bool) -> Option<(RelayId, SocketAddr)> {
        let ip = if self.shared.bind.is_ipv6() == ipv6 { self.shared.bind } else { any(ipv6) };
        let socket = std::net::UdpSocket::bind(SocketAddr::new(ip, 0)).ok()?;
        socket.set_nonblocking(true).ok()?;
        let socket = UdpSocket::from_std(socket).ok()?;
        let bound = socket.local_addr().ok()?;
        let told = self.shared.external.filter(|e| e.is_ipv6() == ipv6).unwrap_or(bound.ip());
        let id = self.shared.next.fetch_add(1, Ordering::Relaxed);
        self.opened.push((id, Arc::new(socket)));
        Some((id, SocketAddr::new(told, bound.port())))
    }
}

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    /// Binds and serves. UDP and TCP have the same port.
    pub async fn start(listen: Listen, policy: Policy, nonce_key: [u8; 32]) -> io::Result<Self> {
        let (udp, tcp) = both(listen.plain).await?;
        let plain = udp.local_addr()?;
        let shared = Arc::new(Shared {
            relay: Mutex::new(Relay::new(policy, nonce_key)),
            udp,
            bind: plain.ip(),
            external: listen.external,
            relays: RwLock::default(),
            connections: RwLock::default(),
            next: AtomicU64::new(1),
            relayed: AtomicU64::new(0),
            stop: watch::channel(false).0,
        });
        let mut tls_at = None;
        if let Some((address, acceptor)) = listen.tls {
            let listener = TcpListener::bind(address).await?;
            tls_at = Some(listener.local_addr()?);
            shared.spawn(|s| accept(s, listener, Some(acceptor)));
        }
        shared.spawn(|s| accept(s, tcp, None));
        shared.spawn(datagrams);
        shared.spawn(ticks);
        Ok(Self { shared, plain, tls: tls_at })
    }

    /// Allocations right now.
    #[must_use]
    pub fn allocations(&self) -> usize {
        lock(&self.shared.relay).len()
    }

    /// Packets relayed so far, both ways.
    #[must_use]
    pub fn relayed(&self) -> u64 {
        self.shared.relayed.load(Ordering::Relaxed)
    }

    /// Stops; allocations end.
    pub fn stop(&self) {
        self.shared.stop.send_replace(true);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A port that is free for UDP and TCP.
async fn both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    const TRIES: usize = 20;
    let mut last = io::Error::other("no port");
    for _ in 0..TRIES {
        let udp = UdpSocket::bind(address).await?;
        match TcpListener::bind(udp.local_addr()?).await {
            Ok(tcp) => return Ok((udp, tcp)),
            Err(e) if address.port() == 0 => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

impl Shared {
    fn spawn<F: Future<Output = ()> + Send + 'static>(self: &Arc<Self>, task: impl FnOnce(Arc<Self>) -> F) {
        let (task, mut stop) = (task(self.clone()), self.stop.subscribe());
        tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                _ = stop.wait_for(|s| *s) => {}
            }
        });
    }

    /// Gives the core bytes of a client and does what it says.
    fn from_client(self: &Arc<Self>, from: Client, bytes: &[u8]) {
        let mut opening = Opening { shared: self, opened: Vec::new() };
        let out = lock(&self.relay).client(from, bytes, now(), &mut opening);
        for (id, socket) in opening.opened {
            self.relays.write().unwrap_or_else(PoisonError::into_inner).insert(id, socket.clone());
            self.spawn(move |s| peers(s, id, socket));
        }
        if let Some(out) = out {
            self.carry_out(out);
        }
    }

    fn carry_out(&self, out: Out<'_>) {
        match out {
            // A full buffer: the packet is lost, as on any network.
            Out::ToClient(c, bytes) if c.connection == 0 => drop(self.udp.try_send_to(&bytes, c.address)),
            Out::ToClient(c, bytes) => {
                let connections = self.connections.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(to) = connections.get(&c.connection) {
                    let _ = to.try_send(bytes);
                }
            }
            Out::ToPeer(relay, peer, bytes) => {
                let relays = self.relays.read().unwrap_or_else(PoisonError::into_inner);
                if let Some(socket) = relays.get(&relay) {
                    self.relayed.fetch_add(1, Ordering::Relaxed);
                    let _ = socket.try_send_to(bytes, peer);
                }
            }
            Out::Close(relay) => {
                self.relays.write().unwrap_or_else(PoisonError::into_inner).remove(&relay);
            }
        }
    }

    fn is_open(&self, relay: RelayId) -> bool {
        self.relays.read().unwrap_or_else(PoisonError::into_inner).contains_key(&relay)
    }
}

async fn datagrams(s: Arc<Shared>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        if let Err(cause) = s.udp.readable().await {
            tracing::error!(%cause, "the relay's socket is gone");
            return;
        }
        // Errors of single datagrams (a client's port is closed) are the next one's business.
        while let Ok((n, address)) = s.udp.try_recv_from(&mut buffer) {
            s.from_client(Client { connection: 0, address }, buffer.get(..n).unwrap_or_default());
        }
    }
}

/// What peers send to one allocation, until its socket is closed.
async fn peers(s: Arc<Shared>, relay: RelayId, socket: Arc<UdpSocket>) {
    let mut buffer = vec![0; DATAGRAM];
    let mut look = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            ready = socket.readable() => if ready.is_err() { return },
            _ = look.tick() => if !s.is_open(relay) { return },
        }
        while let Ok((n, peer)) = socket.try_recv_from(&mut buffer) {
            let out = lock(&s.relay).peer(relay, peer, buffer.get(..n).unwrap_or_default(), now());
            if let Some(out) = out {
                s.relayed.fetch_add(1, Ordering::Relaxed);
                s.carry_out(out);
            }
        }
    }
}

async fn ticks(s: Arc<Shared>) {
    loop {
        tokio::time::sleep(TICK).await;
        let over = lock(&s.relay).tick(now());
        over.into_iter().for_each(|out| s.carry_out(out));
    }
}

async fn accept(s: Arc<Shared>, listener: TcpListener, tls: Option<TlsAcceptor>) {
    loop {
        let (stream, address) = match listener.accept().await {
            Ok(x) => x,
            Err(cause) => {
                tracing::warn!(%cause, "the relay cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if s.connections.read().unwrap_or_else(PoisonError::into_inner).len() >= CONNECTIONS {
            continue;
        }
        if let Err(cause) = stream.set_nodelay(true) {
            tracing::debug!(%cause, "no TCP_NODELAY");
        }
        let tls = tls.clone();
        s.spawn(move |s| async move {
            match tls {
                None => serve(s, stream, address).await,
                Some(acceptor) => match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                    Ok(Ok(stream)) => serve(s, stream, address).await,
                    Ok(Err(cause)) => tracing::debug!(%cause, "no TLS"),
                    Err(_) => tracing::debug!("no TLS in time"),
                },
            }
        });
    }
}

async fn serve(s: Arc<Shared>, stream: impl AsyncRead + AsyncWrite + Send, address: SocketAddr) {
    let connection = s.next.fetch_add(1, Ordering::Relaxed);
    let (to, mut waiting) = mpsc::channel::<Vec<u8>>(QUEUE);
    s.connections.write().unwrap_or_else(PoisonError::into_inner).insert(connection, to);
    let client = Client { connection, address };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let reading = read(&s, client, &mut reader);
    let writing = async {
        while let Some(bytes) = waiting.recv().await {
            if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = reading => {}
        () = writing => {}
    }
    s.connections.write().unwrap_or_else(PoisonError::into_inner).remove(&connection);
    let out = lock(&s.relay).gone(client);
    if let Some(out) = out {
        s.carry_out(out);
    }
}

async fn read(s: &Arc<Shared>, client: Client, reader: &mut (impl AsyncRead + Unpin)) {
    let mut buffer = Vec::with_capacity(4_096);
    loop {
        loop {
            match piece(&buffer) {
                Ok(Some(n)) if n <= buffer.len() => {
                    s.from_client(client, buffer.get(..n).unwrap_or_default());
                    buffer.drain(..n);
                }
                Ok(_) => break,
                Err(NotTurn) => return,
            }
        }
        match tokio::time::timeout(SILENT, reader.read_buf(&mut buffer)).await {
            Ok(Ok(n)) if n > 0 => {}
            _ => return,
        }
    }
}
