//! ICE over TCP (RFC 6544): frames with a length in front (RFC 4571).

use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Connections at a time.
pub(super) const CONNECTIONS: usize = 4_096;
/// The first frame has to come within this; later, silence longer than the second figure ends a connection.
const FIRST: Duration = Duration::from_secs(10);
const SILENT: Duration = Duration::from_secs(60);
/// The longest frame: nothing that is spoken here is longer than a datagram on a network.
const FRAME: usize = 2_048;
/// Frames that may wait for a slow connection.
const QUEUE: usize = 256;

/// From a connection to the thread's loop.
pub(super) enum Frame {
    Opened(SocketAddr, mpsc::Sender<Vec<u8>>),
    Bytes { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    Closed(SocketAddr),
}

/// Serves a connection until it ends, is silent or breaks the rules.
pub(super) fn serve(stream: TcpStream, peer: SocketAddr, frames: mpsc::Sender<Frame>) {
    tokio::spawn(async move {
        if let Err(cause) = both_ways(stream, peer, &frames).await {
            tracing::debug!(%cause, %peer, "a TCP connection ended");
        }
        // The loop is gone only when everything is.
        let _ = frames.send(Frame::Closed(peer)).await;
    });
}

async fn both_ways(stream: TcpStream, peer: SocketAddr, frames: &mpsc::Sender<Frame>) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let to = stream.local_addr()?;
    let (mut read, mut write) = stream.into_split();
    let (out, mut outgoing) = mpsc::channel::<Vec<u8>>(QUEUE);
    let gone = || std::io::Error::from(std::io::ErrorKind::BrokenPipe);
    frames.send(Frame::Opened(peer, out)).await.map_err(|_| gone())?;
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
        let mut patience = FIRST;
        loop {
            let frame =
                tokio::time::timeout(patience, next(&mut read)).await.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
            patience = SILENT;
            frames.send(Frame::Bytes { from: peer, to, bytes: frame }).await.map_err(|_| gone())?;
        }
    };
    tokio::select! {
        r = writing => r,
        r = reading => r,
    }
}

async fn next(read: &mut tokio::net::tcp::OwnedReadHalf) -> std::io::Result<Vec<u8>> {
    let len = usize::from(read.read_u16().await?);
    if len > FRAME {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; len];
    read.read_exact(&mut bytes).await?;
    Ok(bytes)
}
