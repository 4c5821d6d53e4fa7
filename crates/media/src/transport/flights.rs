//! A runtime for `webrtc` under which DTLS handshakes end on paths that lose packets, and end soon.
//!
//! A handshake is given up after seven repetitions, and each lost datagram costs a second or more. So what belongs to a handshake is sent
//! three times, each time when a burst of losses may be over: a handshake has some ten datagrams, and the other side passes over what it has.
//!
//! In `rtc-dtls` 0.21 a repeated flight of the other side restarts the timer for one's own flight. Both timers are a second, so when a
//! flight is lost the other side's repetition comes just before one's own is due, again and again, and nobody ever repeats the flight that
//! is missing: of ten calls on a path that loses a tenth, one does not come about. Here every second repetition is not handed on, so that
//! one's own timer ends in between. What is dropped is sent again by itself; after the handshake nothing is looked at. What comes through a
//! relay is wrapped, and passes as it is.

use std::collections::HashMap;
use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use webrtc::runtime::{AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime, Transmit};

/// A repetition within this of the last one that was handed on is dropped: more than one timer of the handshake, less than two.
const SOON: Duration = Duration::from_millis(1_500);
/// How long after the time before a datagram of a handshake is sent once more.
const AGAIN: [Duration; 2] = [Duration::from_millis(40), Duration::from_millis(90)];
/// Datagrams that wait to be sent once more; those beyond are sent once.
const WAITING: usize = 32;
/// Messages of handshakes that are remembered; a handshake has fewer than twenty.
const MOST: usize = 64;

/// The same runtime, with sockets that do that.
#[derive(Debug)]
pub struct Patient(pub Arc<dyn Runtime>);

impl Runtime for Patient {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.0.spawn(future)
    }

    fn spawn_reactor(&self, size: usize, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.0.spawn_reactor(size, future)
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let copies = Copies { socket: self.0.wrap_udp_socket(socket.try_clone()?)?, turn: tokio::sync::Mutex::new(()) };
        let inner = self.0.wrap_udp_socket(socket)?;
        Ok(Arc::new(Socket { inner, seen: Mutex::default(), copies: Arc::new(copies), waiting: Arc::default() }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.0.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(&'a self, to: SocketAddr) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        self.0.connect_tcp(to)
    }

    fn resolve_host<'a>(&'a self, host: &'a str) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.0.resolve_host(host)
    }

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.0.sleep(duration)
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.0.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.0.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.0.yield_now()
    }

    fn name(&self) -> &'static str {
        self.0.name()
    }
}

/// Type, number and offset of the first message of a flight.
type Flight = [u8; 6];

/// What begins an unencrypted handshake record (RFC 6347, 4.1 and 4.2.2); nothing for any other datagram.
fn flight(datagram: &[u8]) -> Option<Flight> {
    match datagram {
        [22, 254, _, 0, 0, _, _, _, _, _, _, _, _, kind, _, _, _, n0, n1, o0, o1, o2, ..] => Some([*kind, *n0, *n1, *o0, *o1, *o2]),
        _ => None,
    }
}

/// True for records of a handshake, also those that end it encrypted (RFC 6347, 4.1: types 20 and 22), and for such a record on its way to a
/// relay (RFC 8656, 12.4).
fn is_handshake(datagram: &[u8]) -> bool {
    match datagram {
        [20 | 22, 254, 253 | 255, ..] => true,
        [0x40..=0x4f, _, _, _, rest @ ..] => matches!(rest, [20 | 22, 254, 253 | 255, ..]),
        _ => false,
    }
}

/// When each flight of each sender was handed on last: nobody else's datagrams stand in the way of the other side's.
#[derive(Debug, Default)]
struct Seen(HashMap<(SocketAddr, Flight), Instant>);

impl Seen {
    fn drops(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> bool {
        let Some(flight) = flight(datagram).map(|f| (from, f)) else { return false };
        if self.0.get(&flight).is_some_and(|at| now.saturating_duration_since(*at) < SOON) {
            return true;
        }
        if self.0.len() >= MOST {
            self.0.clear();
        }
        self.0.insert(flight, now);
        false
    }
}

/// The same socket, registered once more, and only one at a time waits for it: a socket wakes the one who asked last, and whoever sends by the
/// other registration has to be woken too.
#[derive(Debug)]
struct Copies {
    socket: Arc<dyn AsyncUdpSocket>,
    turn: tokio::sync::Mutex<()>,
}

impl Copies {
    async fn send(&self, transmit: &Transmit<'_>) {
        let _turn = self.turn.lock().await;
        if let Err(cause) = std::future::poll_fn(|cx| self.socket.poll_send(cx, transmit)).await {
            tracing::debug!(%cause, "a datagram of a handshake was not sent once more");
        }
    }
}

#[derive(Debug)]
struct Socket {
    inner: Arc<dyn AsyncUdpSocket>,
    seen: Mutex<Seen>,
    copies: Arc<Copies>,
    /// Datagrams that wait to be sent once more.
    waiting: Arc<AtomicUsize>,
}

impl Socket {
    fn send_again(&self, transmit: &Transmit<'_>) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let (copies, waiting, contents) = (self.copies.clone(), self.waiting.clone(), transmit.contents.to_vec());
        let (destination, ecn, segment_size, src_ip) = (transmit.destination, transmit.ecn, transmit.segment_size, transmit.src_ip);
        tokio::spawn(async move {
            let transmit = Transmit { destination, ecn, contents: &contents, segment_size, src_ip };
            for later in AGAIN {
                tokio::time::sleep(later).await;
                copies.send(&transmit).await;
            }
            waiting.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

impl AsyncUdpSocket for Socket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        let sent = self.inner.poll_send(cx, transmit);
        if matches!(sent, Poll::Ready(Ok(_))) && is_handshake(transmit.contents) {
            self.send_again(transmit);
        }
        sent
    }

    fn poll_recv(&self, cx: &mut Context<'_>, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> Poll<io::Result<usize>> {
        let got = self.inner.poll_recv(cx, bufs, meta);
        if let Poll::Ready(Ok(n)) = got {
            for (buf, m) in bufs.iter_mut().zip(meta.iter()).take(n) {
                let whole = buf.get_mut(..m.len).unwrap_or_default();
                for datagram in whole.chunks_mut(m.stride.max(1)) {
                    if datagram.first() == Some(&22)
                        && self.seen.lock().unwrap_or_else(PoisonError::into_inner).drops(m.addr, datagram, Instant::now())
                        && let Some(first) = datagram.first_mut()
                    {
                        // No protocol begins so (RFC 7983): it is passed over.
                        *first = 255;
                    }
                }
            }
        }
        got
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn every_second_repetition_of_a_flight_is_dropped_and_nothing_else() {
        let hello = |record: u8, kind: u8, number: u8| {
            vec![22, 254, 253, 0, 0, 0, 0, 0, 0, 0, record, 0, 20, kind, 0, 0, 8, 0, number, 0, 0, 0, 0, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8]
        };
        let (mut seen, start) = (Seen::default(), Instant::now());
        let [them, other] = [1, 2].map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
        assert!(!seen.drops(other, &hello(0, 2, 1), start));
        let mut at = |datagram: &[u8], ms: u64| seen.drops(them, datagram, start + Duration::from_millis(ms));
        let dropped: Vec<bool> = (0..6).map(|n| at(&hello(n, 2, 1), u64::from(n) * 1_000)).collect();
        assert_eq!(dropped, [false, true, false, true, false, true]);
        assert!(!at(&hello(9, 11, 2), 5_001), "another flight");
        let encrypted = [22, 254, 253, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 20, 0, 0, 12, 0, 5, 0, 0, 0, 0];
        assert!(!at(&encrypted, 5_002) && !at(&encrypted, 5_003), "after the handshake");
        assert!(!at(&[0, 1, 0, 0], 5_004) && !at(&[], 5_005) && !at(&[22; 9], 5_006));
        for n in 0..=255 {
            assert!(!at(&hello(0, 1, n), 90_000 + u64::from(n)));
        }
        assert!(seen.0.len() <= MOST);
    }

    #[test]
    fn what_belongs_to_a_handshake_is_known_also_on_its_way_to_a_relay() {
        for yes in [&[22, 254, 255, 0][..], &[22, 254, 253, 0, 1], &[20, 254, 253], &[0x40, 1, 0, 9, 22, 254, 253]] {
            assert!(is_handshake(yes), "{yes:?}");
        }
        // Data, an alert, speech, STUN, speech to a relay, nothing.
        for no in
            [&[23, 254, 253, 0][..], &[21, 254, 253], &[0x80, 111, 0, 1], &[0, 1, 0, 0], &[0x40, 1, 0, 4, 0x80, 111], &[22, 3, 3], &[]]
        {
            assert!(!is_handshake(no), "{no:?}");
        }
    }

    #[tokio::test]
    async fn a_datagram_of_a_handshake_comes_three_times_and_any_other_once() {
        let bind = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (from, to) = (
            bind(),
            tokio::net::UdpSocket::from_std({
                let to = bind();
                to.set_nonblocking(true).unwrap();
                to
            })
            .unwrap(),
        );
        let socket = Patient(Arc::new(webrtc::runtime::TokioRuntime)).wrap_udp_socket(from).unwrap();
        let at = to.local_addr().unwrap();
        for datagram in [&[22, 254, 253, 1][..], &[0x80, 111, 0, 1], &[20, 254, 253, 2]] {
            socket.send_to(datagram, at).await.unwrap();
        }
        let mut came = Vec::new();
        let mut buf = [0; 64];
        while let Ok(Ok((n, _))) = tokio::time::timeout(Duration::from_millis(500), to.recv_from(&mut buf)).await {
            came.push(buf[..n].to_vec());
        }
        let count = |first: u8| came.iter().filter(|d| d.first() == Some(&first)).count();
        assert_eq!((count(22), count(0x80), count(20)), (3, 1, 3), "{came:?}");
    }
}
