//! A room's sockets: datagrams on every address of this machine, TCP beside them where nothing comes of that, signalling on a WebSocket.

use super::core::Which;
use super::tcp;
use crate::transport::network;
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_response::Message as Response;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use str0m::net::{Protocol, Transmit};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::http::header::AUTHORIZATION;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use zeroize::Zeroizing;

/// Datagrams that may wait.
const QUEUE: usize = 1_024;
const DATAGRAM: usize = 2_048;
/// The signalling stands within this.
const CONNECT: Duration = Duration::from_secs(10);
/// Silence of the unit after which the signalling is taken for dead: it answers our pings.
const SILENT: Duration = Duration::from_secs(15);

/// Why there is no way.
#[derive(Debug, thiserror::Error)]
pub(super) enum NetError {
    #[error("no socket could be opened: {0}")]
    Socket(#[from] std::io::Error),
    #[error("the token was refused")]
    Refused,
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
}

/// What came in: for which connection with the unit, how, from where, on which of our addresses.
pub(super) struct Received {
    pub(super) which: Which,
    pub(super) protocol: Protocol,
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) bytes: Vec<u8>,
}

struct Udp {
    which: Which,
    at: SocketAddr,
    socket: Arc<UdpSocket>,
    reading: JoinHandle<()>,
}

/// Two sockets for each address of this machine: one to send media, one to receive it; and TCP connections where they are tried.
pub(super) struct Sockets {
    udp: Vec<Udp>,
    /// By connection with the unit, our name for the address, and the unit's.
    tcp: HashMap<(Which, SocketAddr, SocketAddr), tcp::Connection>,
    came: mpsc::Sender<Received>,
    before: BTreeSet<IpAddr>,
}

impl Sockets {
    /// Binds. The loopback address is one when the server is on it, or there is no other.
    pub(super) fn bind(url: &str) -> Result<(Self, mpsc::Receiver<Received>), NetError> {
        let (came, coming) = mpsc::channel(QUEUE);
        let before = network::addresses();
        let mut wanted: Vec<IpAddr> = before.iter().copied().collect();
        if before.is_empty() || ["//127.", "//localhost", "//[::1]"].iter().any(|l| url.contains(l)) {
            wanted.push(Ipv4Addr::LOCALHOST.into());
        }
        let open = |ip: IpAddr| -> std::io::Result<(SocketAddr, Arc<UdpSocket>)> {
            let s = std::net::UdpSocket::bind((ip, 0))?;
            s.set_nonblocking(true)?;
            Ok((s.local_addr()?, Arc::new(UdpSocket::from_std(s)?)))
        };
        let mut this = Self { udp: Vec::new(), tcp: HashMap::new(), came, before };
        let mut failed = None;
        for ip in wanted {
            match open(ip).and_then(|one| Ok([(Which::Publisher, one), (Which::Subscriber, open(ip)?)])) {
                Ok(both) => this.udp.extend(both.map(|(which, (at, socket))| {
                    let reading = tokio::spawn(read(socket.clone(), which, at, this.came.clone()));
                    Udp { which, at, socket, reading }
                })),
                Err(cause) => failed = Some(cause),
            }
        }
        match failed {
            Some(cause) if this.udp.is_empty() => Err(cause.into()),
            _ => Ok((this, coming)),
        }
    }

    /// The addresses for sending or receiving.
    pub(super) fn locals(&self, which: Which) -> Vec<SocketAddr> {
        self.udp.iter().filter(|u| u.which == which).map(|u| u.at).collect()
    }

    /// Sends; what the system does not take is lost, as on any network.
    pub(super) fn send(&mut self, which: Which, what: &Transmit) {
        let (from, to) = (what.source, what.destination);
        if what.proto == Protocol::Tcp {
            return self.send_tcp(which, (from, to), &what.contents);
        }
        if let Some(u) = self.udp.iter().find(|u| u.at == from)
            && let Err(cause) = u.socket.try_send_to(&what.contents, to)
        {
            tracing::debug!(%cause, "a datagram was not sent");
        }
    }

    fn send_tcp(&mut self, which: Which, (from, to): (SocketAddr, SocketAddr), bytes: &[u8]) {
        let key = (which, from, to);
        if self.tcp.get(&key).is_none_or(tcp::Connection::is_over) {
            // `from` is a name: the port it stands for is the system's to choose.
            let like = move |bytes| Received { which, protocol: Protocol::Tcp, from: to, to: from, bytes };
            self.tcp.insert(key, tcp::Connection::begin(from.ip(), to, like, self.came.clone()));
        }
        self.tcp.get(&key).iter().for_each(|c| c.send(bytes));
    }

    /// The addresses of this machine are others now.
    pub(super) fn changed(&mut self) -> bool {
        let now = network::addresses();
        let changed = network::changed(&self.before, &now);
        self.before = now;
        changed
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        for u in &self.udp {
            u.reading.abort();
        }
    }
}

async fn read(socket: Arc<UdpSocket>, which: Which, at: SocketAddr, came: mpsc::Sender<Received>) {
    let mut buffer = [0u8; DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((n, from)) => {
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                // Whoever does not read has lost it, as on any network.
                if let Err(mpsc::error::TrySendError::Closed(_)) =
                    came.try_send(Received { which, protocol: Protocol::Udp, from, to: at, bytes })
                {
                    return;
                }
            }
            // An answer that a port is closed; the next datagram may be fine.
            Err(cause) if matches!(cause.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::ConnectionReset) => {}
            Err(cause) => {
                tracing::debug!(%cause, "a socket of a room ended");
                return;
            }
        }
    }
}

/// LiveKit's signalling.
pub(super) struct Signalling {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    heard: Instant,
}

impl Signalling {
    /// Connects; `resume` names the stay that is taken up again. The token is in a header, not in the address.
    pub(super) async fn connect(url: &str, token: &Zeroizing<String>, resume: Option<&str>) -> Result<Self, NetError> {
        let unreachable = |e: &dyn std::fmt::Display| NetError::Unreachable(e.to_string());
        let base = url.trim_end_matches('/');
        let base = base.strip_prefix("http").map_or_else(|| base.to_owned(), |rest| format!("ws{rest}"));
        let back = resume.map(|sid| format!("&reconnect=1&sid={sid}")).unwrap_or_default();
        let address = format!("{base}/rtc?auto_subscribe=1&sdk=rust&version=2.0.0&protocol=16{back}");
        let mut request = address.into_client_request().map_err(|e| unreachable(&e))?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", **token)).map_err(|e| unreachable(&e))?;
        header.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, header);
        let connected = tokio::time::timeout(CONNECT, tokio_tungstenite::connect_async(request));
        match connected.await.map_err(|e| unreachable(&e))? {
            Ok((socket, _)) => Ok(Self { socket, heard: Instant::now() }),
            Err(tungstenite::Error::Http(r)) if matches!(r.status().as_u16(), 401 | 403 | 404) => Err(NetError::Refused),
            Err(e) => Err(unreachable(&e)),
        }
    }

    /// What the unit says next; nothing when the connection is gone.
    pub(super) async fn next(&mut self) -> Option<Response> {
        loop {
            // Counted from what was heard last: this future is dropped and made anew all the time.
            let message = tokio::time::timeout_at(self.heard + SILENT, self.socket.next()).await.ok()??.ok()?;
            self.heard = Instant::now();
            match message {
                Message::Binary(bytes) => match proto::SignalResponse::decode(bytes) {
                    Ok(proto::SignalResponse { message: Some(m) }) => return Some(m),
                    Ok(_) => {}
                    Err(cause) => tracing::debug!(%cause, "a signal that is none"),
                },
                Message::Close(_) => return None,
                _ => {}
            }
        }
    }

    /// Says something; a connection that is gone is seen by the next read.
    pub(super) async fn send(&mut self, message: proto::SignalRequest) {
        if let Err(cause) = self.socket.send(Message::Binary(message.encode_to_vec().into())).await {
            tracing::debug!(%cause, "a signal was not sent");
        }
    }

    pub(super) async fn close(&mut self) {
        // They may have closed it already.
        let _ = self.socket.close(None).await;
    }
}
