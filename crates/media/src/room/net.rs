//! A room's sockets: datagrams on every address of this machine, signalling on a WebSocket.

use crate::transport::network;
use futures_util::{SinkExt as _, StreamExt as _};
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_response::Message as Response;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
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

type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

/// Two sockets for each address of this machine: one to send media, one to receive it.
pub(super) struct Sockets {
    all: Vec<(SocketAddr, Arc<UdpSocket>, JoinHandle<()>)>,
    before: BTreeSet<IpAddr>,
}

impl Sockets {
    /// Binds. The loopback address is one when the server is on it, or there is no other.
    pub(super) fn bind(url: &str) -> Result<(Self, mpsc::Receiver<Datagram>), NetError> {
        let (tx, rx) = mpsc::channel(QUEUE);
        let before = network::addresses();
        let mut wanted: Vec<IpAddr> = before.iter().copied().collect();
        if before.is_empty() || ["//127.", "//localhost", "//[::1]"].iter().any(|l| url.contains(l)) {
            wanted.push(Ipv4Addr::LOCALHOST.into());
        }
        let mut all = Vec::new();
        let mut failed = None;
        let open = |ip: IpAddr| -> std::io::Result<(SocketAddr, Arc<UdpSocket>)> {
            let s = std::net::UdpSocket::bind((ip, 0))?;
            s.set_nonblocking(true)?;
            Ok((s.local_addr()?, Arc::new(UdpSocket::from_std(s)?)))
        };
        for ip in wanted {
            match open(ip).and_then(|one| Ok([one, open(ip)?])) {
                Ok(both) => all.extend(both.map(|(at, socket)| (at, socket.clone(), tokio::spawn(read(socket, at, tx.clone()))))),
                Err(cause) => failed = Some(cause),
            }
        }
        match failed {
            Some(cause) if all.is_empty() => Err(cause.into()),
            _ => Ok((Self { all, before }, rx)),
        }
    }

    /// The addresses for sending (0) or receiving (1).
    pub(super) fn locals(&self, which: usize) -> Vec<SocketAddr> {
        self.all.iter().skip(which).step_by(2).map(|(at, ..)| *at).collect()
    }

    /// Sends; what the system does not take is lost, as on any network.
    pub(super) fn send(&self, from: SocketAddr, to: SocketAddr, bytes: &[u8]) {
        if let Some((_, socket, _)) = self.all.iter().find(|(at, ..)| *at == from)
            && let Err(cause) = socket.try_send_to(bytes, to)
        {
            tracing::debug!(%cause, "a datagram was not sent");
        }
    }

    /// The addresses of this machine are others now.
    pub(super) fn changed(&mut self) -> bool {
        let now = network::addresses();
        let changed = network::changed(&self.before, &now);
        self.before = now;
        changed
    }

    pub(super) fn close(&self) {
        for (_, _, task) in &self.all {
            task.abort();
        }
    }
}

impl Drop for Sockets {
    fn drop(&mut self) {
        self.close();
    }
}

async fn read(socket: Arc<UdpSocket>, at: SocketAddr, tx: mpsc::Sender<Datagram>) {
    let mut buffer = [0u8; DATAGRAM];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((n, from)) => {
                let bytes = buffer.get(..n).unwrap_or_default().to_vec();
                // Whoever does not read has lost it, as on any network.
                if let Err(mpsc::error::TrySendError::Closed(_)) = tx.try_send((from, at, bytes)) {
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
