//! A way over TCP where datagrams do not pass: frames with their length in front (RFC 4571), one connection for each pair of addresses
//! that is tried (RFC 6544). What the connection does not take in time is lost, as on any network: media that waits is late.

use super::net::Received;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// The longest frame: the unit sends nothing that is longer than a datagram.
const FRAME: usize = 2_048;
/// Frames that may wait for the connection, and bytes that may wait in the system for the network.
const QUEUE: usize = 64;
const BUFFER: u32 = 64 * 1024;
const CONNECT: Duration = Duration::from_secs(5);
/// A connection that ended is tried again after this, when there is something to send.
const AGAIN: Duration = Duration::from_secs(1);

/// A connection that is being made, stands or has ended.
pub(super) struct Connection {
    out: mpsc::Sender<Vec<u8>>,
    task: JoinHandle<()>,
    begun: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Connection {
    /// Begins to connect from an address of this machine; what comes is given to `came` with the names in `like`.
    pub(super) fn begin(
        from: IpAddr,
        to: SocketAddr,
        like: impl Fn(Vec<u8>) -> Received + Send + Sync + 'static,
        came: mpsc::Sender<Received>,
    ) -> Self {
        let (out, outgoing) = mpsc::channel(QUEUE);
        let task = tokio::spawn(async move {
            if let Err(cause) = both_ways(from, to, outgoing, like, &came).await {
                tracing::debug!(%cause, "a TCP connection to a room ended");
            }
        });
        Self { out, task, begun: Instant::now() }
    }

    /// It has ended, and may be tried again.
    pub(super) fn is_over(&self) -> bool {
        self.out.is_closed() && self.begun.elapsed() > AGAIN
    }

    /// Sends, or loses what there is no room for.
    pub(super) fn send(&self, bytes: &[u8]) {
        if let Err(cause) = self.out.try_send(bytes.to_vec()) {
            tracing::debug!(%cause, "a frame was not sent");
        }
    }
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = if to.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_send_buffer_size(BUFFER)?;
    socket.set_nodelay(true)?;
    socket.bind(SocketAddr::new(from, 0))?;
    let connected = tokio::time::timeout(CONNECT, socket.connect(to)).await;
    connected.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

async fn both_ways(
    from: IpAddr,
    to: SocketAddr,
    mut outgoing: mpsc::Receiver<Vec<u8>>,
    like: impl Fn(Vec<u8>) -> Received,
    came: &mpsc::Sender<Received>,
) -> std::io::Result<()> {
    let (mut read, mut write) = connect(from, to).await?.into_split();
    let writing = async {
        while let Some(bytes) = outgoing.recv().await {
            let Ok(len) = u16::try_from(bytes.len()) else { continue };
            let mut framed = len.to_be_bytes().to_vec();
            framed.extend(bytes);
            write.write_all(&framed).await?;
        }
        Ok(())
    };
    let reading = async {
        loop {
            // Whoever does not read has lost it, as on any network.
            if let Err(mpsc::error::TrySendError::Closed(_)) = came.try_send(like(next(&mut read).await?)) {
                return Ok(());
            }
        }
    };
    tokio::select! {
        r = writing => r,
        r = reading => r,
    }
}

async fn next(read: &mut OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let len = usize::from(read.read_u16().await?);
    if len > FRAME {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    read.read_exact(&mut bytes).await?;
    Ok(bytes)
}
