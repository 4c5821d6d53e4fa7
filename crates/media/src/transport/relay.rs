//! Which STUN and TURN servers a call uses, and a way to those that are reached by TCP or TLS only.
//!
//! Where UDP passes, UDP is used. Where it does not (nobody answers a binding request), the relay is reached over TLS or TCP: the
//! connection library speaks TURN over UDP alone, so each such relay gets a socket on this machine ([`Bridge`]) that passes the same
//! messages on in a stream (RFC 8656, 3.1; channel data is padded there).

use super::IceServer;
use sc_turn::stun::{Class, Message, NotTurn, Writer, method, piece};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A binding request is sent so often, and waited for so long each time.
const TRIES: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(200);
const CONNECT: Duration = Duration::from_secs(5);
const DATAGRAM: usize = 65_535;
const QUEUE: usize = 256;

/// How TLS is spoken to a relay: with the roots of the web.
#[must_use]
pub fn web_tls() -> Option<Arc<ClientConfig>> {
    let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().ok()?;
    Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
}

/// One address of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Url {
    turn: bool,
    tls: bool,
    tcp: bool,
    host: String,
    port: u16,
}

impl Url {
    /// `turn:host:port?transport=tcp` (RFC 7065) and its kin; `None` for what is none.
    fn parse(text: &str) -> Option<Self> {
        let (scheme, rest) = text.split_once(':')?;
        let (turn, tls) = match scheme {
            "stun" => (false, false),
            "turn" => (true, false),
            "turns" => (true, true),
            _ => return None,
        };
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) if !place.ends_with(']') => (host, port.parse().ok()?),
            _ => (place, if tls { 5349 } else { 3478 }),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { turn, tls, tcp: tls || query == "transport=tcp", host, port })
    }
}

/// Relays over TCP and TLS that are reached through this machine. They end when this is dropped.
#[derive(Default)]
pub struct Bridges(Vec<tokio::task::JoinHandle<()>>);

impl Drop for Bridges {
    fn drop(&mut self) {
        self.0.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// The servers a connection can use here and now.
pub async fn usable(servers: Vec<IceServer>, tls: Option<Arc<ClientConfig>>) -> (Vec<IceServer>, Bridges) {
    let parsed = |s: &IceServer| s.urls.iter().filter_map(|u| Some((u.clone(), Url::parse(u)?))).collect::<Vec<_>>();
    let all: Vec<(IceServer, Vec<(String, Url)>)> = servers.into_iter().map(|s| (s.clone(), parsed(&s))).collect();
    let by_udp: Vec<&Url> = all.iter().flat_map(|(_, urls)| urls).map(|(_, u)| u).filter(|u| !u.tcp).collect();
    let udp = match by_udp.first() {
        Some(url) => answers(url).await,
        None => false,
    };
    let mut bridges = Bridges::default();
    let mut out = Vec::new();
    for (server, urls) in all {
        let mut kept: Vec<String> = urls.iter().filter(|(_, u)| udp && !u.tcp).map(|(text, _)| text.clone()).collect();
        if !udp {
            // TLS looks like everything else on the web: it passes where TCP to an odd port does not.
            for (_, url) in urls.iter().filter(|(_, u)| u.turn && u.tcp) {
                match bridge(url.clone(), tls.clone()).await {
                    Ok((address, task)) => {
                        kept.push(format!("turn:{address}?transport=udp"));
                        bridges.0.push(task);
                    }
                    Err(cause) => tracing::warn!(%cause, "a relay cannot be used"),
                }
            }
        }
        if !kept.is_empty() {
            out.push(IceServer { urls: kept, ..server });
        }
    }
    (out, bridges)
}

async fn resolve(url: &Url) -> io::Result<SocketAddr> {
    let found = tokio::time::timeout(CONNECT, tokio::net::lookup_host((url.host.as_str(), url.port))).await??;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| io::Error::other("the relay's name leads nowhere"))
}

/// True when a binding request comes back.
async fn answers(url: &Url) -> bool {
    let ask = async {
        let to = resolve(url).await?;
        let socket = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
        socket.connect(to).await?;
        let transaction: [u8; 12] = rand::random();
        let request = Writer::new(Class::Request, method::BINDING, &transaction).fingerprinted();
        let mut buffer = vec![0; 1_500];
        for _ in 0..TRIES {
            socket.send(&request).await?;
            if let Ok(Ok(n)) = tokio::time::timeout(PATIENCE, socket.recv(&mut buffer)).await {
                let m = buffer.get(..n).and_then(Message::parse);
                if m.is_some_and(|m| m.class == Class::Success && m.transaction == transaction) {
                    return Ok(true);
                }
            }
        }
        Ok::<bool, io::Error>(false)
    };
    ask.await.unwrap_or_else(|cause| {
        tracing::debug!(%cause, "UDP to the relay");
        false
    })
}

/// A socket on this machine that stands for a relay over TCP or TLS.
async fn bridge(url: Url, tls: Option<Arc<ClientConfig>>) -> io::Result<(SocketAddr, tokio::task::JoinHandle<()>)> {
    let socket = Arc::new(UdpSocket::bind("127.0.0.1:0").await?);
    let address = socket.local_addr()?;
    let task = tokio::spawn(async move {
        let mut ways: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>> = HashMap::new();
        let mut tasks = tokio::task::JoinSet::new();
        let mut buffer = vec![0; DATAGRAM];
        while let Ok((n, from)) = socket.recv_from(&mut buffer).await {
            let bytes = buffer.get(..n).unwrap_or_default().to_vec();
            // One stream for each of the connection's sockets; a stream that ended is begun anew.
            if ways.get(&from).is_none_or(mpsc::Sender::is_closed) {
                let (to, waiting) = mpsc::channel(QUEUE);
                ways.insert(from, to);
                let (socket, url, tls) = (socket.clone(), url.clone(), tls.clone());
                tasks.spawn(async move {
                    if let Err(cause) = stream(&socket, from, &url, tls, waiting).await {
                        tracing::info!(%cause, "the stream to the relay ended");
                    }
                });
            }
            if let Some(way) = ways.get(&from) {
                // A full queue: the packet is lost, as on any network.
                let _ = way.try_send(bytes);
            }
        }
    });
    Ok((address, task))
}

async fn stream(
    socket: &UdpSocket,
    from: SocketAddr,
    url: &Url,
    tls: Option<Arc<ClientConfig>>,
    waiting: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let to = resolve(url).await?;
    let tcp = tokio::time::timeout(CONNECT, TcpStream::connect(to)).await??;
    tcp.set_nodelay(true)?;
    if !url.tls {
        return pass(socket, from, tcp, waiting).await;
    }
    let config = tls.ok_or_else(|| io::Error::other("there is no TLS here"))?;
    let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
    let secured = tokio::time::timeout(CONNECT, TlsConnector::from(config).connect(name, tcp)).await??;
    pass(socket, from, secured, waiting).await
}

async fn pass(
    socket: &UdpSocket,
    from: SocketAddr,
    stream: impl AsyncRead + AsyncWrite,
    mut waiting: mpsc::Receiver<Vec<u8>>,
) -> io::Result<()> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let out = async {
        while let Some(mut bytes) = waiting.recv().await {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            writer.write_all(&bytes).await?;
            writer.flush().await?;
        }
        Ok(())
    };
    let back = async {
        let mut buffer = Vec::with_capacity(4_096);
        loop {
            match piece(&buffer) {
                Ok(Some(n)) if n <= buffer.len() => {
                    socket.send_to(buffer.get(..n).unwrap_or_default(), from).await?;
                    buffer.drain(..n);
                    continue;
                }
                Ok(_) => {}
                Err(NotTurn) => return Err(io::Error::other(NotTurn)),
            }
            if reader.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
    };
    tokio::select! {
        r = out => r,
        r = back => r,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_the_rfc_writes_them() {
        let url = |t: &str| Url::parse(t).map(|u| (u.turn, u.tls, u.tcp, u.host, u.port));
        assert_eq!(url("stun:a.example"), Some((false, false, false, "a.example".into(), 3478)));
        assert_eq!(url("turn:a.example:99?transport=udp"), Some((true, false, false, "a.example".into(), 99)));
        assert_eq!(url("turn:[2001:db8::1]:99?transport=tcp"), Some((true, false, true, "2001:db8::1".into(), 99)));
        assert_eq!(url("turns:[2001:db8::1]"), Some((true, true, true, "2001:db8::1".into(), 5349)));
        assert!(["", "http://x", "turn:x:port", "turn"].into_iter().all(|bad| Url::parse(bad).is_none()));
    }
}
