//! A TCP proxy with switches: cut, black hole, refuse. Stands between a client and the server.

use anyhow::Result;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the network does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// Everything passes.
    Up,
    /// Connections are cut and new ones refused.
    Down,
    /// Connections stay, nothing passes: a half-open network.
    BlackHole,
}

/// A proxy to one address.
pub struct Proxy {
    /// Where clients connect to.
    pub addr: SocketAddr,
    network: Arc<watch::Sender<Network>>,
    lose: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts it.
    pub async fn start(target: SocketAddr) -> Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target).await
    }

    /// Starts it at a certain address.
    pub async fn start_at(at: SocketAddr, target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind(at).await?;
        let addr = listener.local_addr()?;
        let network = Arc::new(watch::channel(Network::Up).0);
        let lose = Arc::new(AtomicUsize::new(0));
        let (switch, losing) = (network.clone(), lose.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if *switch.borrow() == Network::Down {
                    continue;
                }
                let Ok(server) = TcpStream::connect(target).await else { continue };
                let (cr, cw) = client.into_split();
                let (sr, sw) = server.into_split();
                tokio::spawn(pump(cr, sw, switch.subscribe(), None));
                tokio::spawn(pump(sr, cw, switch.subscribe(), Some(losing.clone())));
            }
        });
        Ok(Self { addr, network, lose })
    }

    /// Turns the switch.
    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }

    /// Loses the `nth` answer from now on, counted from 1, and breaks its connection.
    pub fn lose_answer(&self, nth: usize) {
        self.lose.store(nth, SeqCst);
    }

    /// The address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>, lose: Option<Arc<AtomicUsize>>) {
    let mut buffer = vec![0u8; 16 * 1024];
    loop {
        let state = *network.borrow_and_update();
        match state {
            Network::Down => return,
            Network::BlackHole => {
                if network.changed().await.is_err() {
                    return;
                }
                continue;
            }
            Network::Up => {}
        }
        tokio::select! {
            n = from.read(&mut buffer) => {
                let Ok(n @ 1..) = n else { return };
                // The one to lose takes its connection with it.
                if lose.as_ref().is_some_and(|l| l.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)) == Ok(1)) {
                    return;
                }
                if to.write_all(buffer.get(..n).unwrap_or_default()).await.is_err() {
                    return;
                }
            }
            r = network.changed() => if r.is_err() { return },
        }
    }
}
