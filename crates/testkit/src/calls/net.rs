//! A bad network under real sockets: a runtime for `webrtc` whose UDP sockets send through a [`Channel`].

use crate::network::{Channel, Path};
use std::collections::BinaryHeap;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, TokioRuntime, Transmit,
};

/// What one side sends goes through this.
#[derive(Clone)]
pub struct Network {
    channel: Arc<Mutex<Channel>>,
    start: Instant,
    cut: Arc<std::sync::atomic::AtomicBool>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Network")
    }
}

impl Network {
    /// A path with its fate; its time begins now.
    #[must_use]
    pub fn new(path: Path, seed: u64) -> Self {
        Self { channel: Arc::new(Mutex::new(Channel::new(path, seed))), start: Instant::now(), cut: Arc::default() }
    }

    /// Nothing passes, or everything again.
    pub fn cut(&self, cut: bool) {
        self.cut.store(cut, std::sync::atomic::Ordering::Relaxed);
    }

    fn fate(&self, bytes: usize) -> Vec<Duration> {
        if self.cut.load(std::sync::atomic::Ordering::Relaxed) {
            return Vec::new();
        }
        let now = self.start.elapsed().as_secs_f64() * 1000.0;
        let at = self.channel.lock().unwrap_or_else(PoisonError::into_inner).send(now, bytes);
        at.into_iter().map(|at| Duration::from_secs_f64((at - now).max(0.0) / 1000.0)).collect()
    }

    /// The runtime for [`sc_media::MediaOptions`].
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::new(Bad { network: self.clone(), inner: TokioRuntime })
    }
}

#[derive(Debug)]
struct Bad {
    network: Network,
    inner: TokioRuntime,
}

impl Runtime for Bad {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.inner.spawn(future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let inner = self.inner.wrap_udp_socket(socket)?;
        let (later, due) = mpsc::unbounded_channel();
        tokio::spawn(deliver(inner.clone(), due));
        Ok(Arc::new(Socket { network: self.network.clone(), inner, later }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.inner.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(&'a self, to: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        self.inner.connect_tcp(to)
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.inner.resolve_host(host)
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.inner.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.inner.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.inner.block_on(future);
    }
}

struct Later {
    at: Instant,
    order: u64,
    bytes: Vec<u8>,
    to: SocketAddr,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // The heap gives the largest: that is the earliest.
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

async fn deliver(socket: Arc<dyn AsyncUdpSocket>, mut due: mpsc::UnboundedReceiver<(Instant, Vec<u8>, SocketAddr)>) {
    let mut heap = BinaryHeap::new();
    let mut order = 0;
    loop {
        let next = heap.peek().map_or_else(|| Instant::now() + Duration::from_secs(3_600), |l: &Later| l.at);
        tokio::select! {
            got = due.recv() => match got {
                Some((at, bytes, to)) => {
                    order += 1;
                    heap.push(Later { at, order, bytes, to });
                }
                None => return,
            },
            () = tokio::time::sleep_until(next.into()) => {
                if let Some(l) = heap.pop() {
                    // A closed port on the other side is the other side's business.
                    let _ = socket.send_to(&l.bytes, l.to).await;
                }
            }
        }
    }
}

struct Socket {
    network: Network,
    inner: Arc<dyn AsyncUdpSocket>,
    later: mpsc::UnboundedSender<(Instant, Vec<u8>, SocketAddr)>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Socket")
    }
}

impl AsyncUdpSocket for Socket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let n = transmit.contents.len();
        let mut sent = Poll::Ready(Ok(n));
        for wait in self.network.fate(n) {
            if wait.is_zero() {
                sent = self.inner.poll_send(cx, transmit);
            } else {
                // The task that delivers ends with this socket.
                let _ = self.later.send((Instant::now() + wait, transmit.contents.to_vec(), transmit.destination));
            }
        }
        sent
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        self.inner.poll_recv(cx, bufs, meta)
    }
}
