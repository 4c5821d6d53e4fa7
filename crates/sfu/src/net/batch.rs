//! Datagrams on their way out, gathered by receiver: a run of equal size leaves with one call.

use quinn_udp::{Transmit, UdpSockRef, UdpSocketState};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// The longest run the system takes in bytes.
const RUN: usize = 60_000;

struct Run {
    to: SocketAddr,
    from: IpAddr,
    segment: usize,
    bytes: Vec<u8>,
    count: usize,
    /// A shorter datagram ends a run.
    full: bool,
}

/// Runs in the order of their first datagram; those of one receiver stay in order among each other.
pub(super) struct Batches {
    runs: Vec<Run>,
    open: HashMap<SocketAddr, usize>,
    spare: Vec<Vec<u8>>,
    most: usize,
}

impl Batches {
    pub(super) fn new(most: usize) -> Self {
        Self { runs: Vec::new(), open: HashMap::new(), spare: Vec::new(), most: most.max(1) }
    }

    pub(super) fn add(&mut self, to: SocketAddr, from: IpAddr, datagram: &[u8]) {
        let most = self.most;
        if let Some(run) = self.open.get(&to).and_then(|i| self.runs.get_mut(*i)) {
            let fits = !run.full
                && run.from == from
                && datagram.len() <= run.segment
                && run.count < most
                && run.bytes.len() + datagram.len() <= RUN;
            if fits {
                run.bytes.extend_from_slice(datagram);
                run.count += 1;
                run.full = datagram.len() < run.segment;
                return;
            }
        }
        let mut bytes = self.spare.pop().unwrap_or_default();
        bytes.extend_from_slice(datagram);
        self.open.insert(to, self.runs.len());
        self.runs.push(Run { to, from, segment: datagram.len(), bytes, count: 1, full: false });
    }

    /// Gives everything to the system; what it does not take is lost, as on any network, and counted.
    pub(super) fn send(&mut self, udp: &UdpSocket, state: &UdpSocketState, from: bool, dropped: &AtomicU64) {
        self.open.clear();
        for mut run in self.runs.drain(..) {
            let transmit = Transmit {
                destination: run.to,
                ecn: None,
                contents: &run.bytes,
                segment_size: (run.count > 1).then_some(run.segment),
                src_ip: Some(run.from).filter(|_| from),
            };
            let sent = udp.try_io(Interest::WRITABLE, || state.try_send(UdpSockRef::from(udp), &transmit));
            if let Err(cause) = sent {
                dropped.fetch_add(run.count as u64, Ordering::Relaxed);
                if cause.kind() != io::ErrorKind::WouldBlock {
                    tracing::debug!(%cause, to = %run.to, "datagrams were not sent");
                }
            }
            run.bytes.clear();
            if self.spare.len() < 256 {
                self.spare.push(run.bytes);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_of_one_receiver_and_a_shorter_datagram_ends_them() {
        let (a, b): (SocketAddr, SocketAddr) = ("127.0.0.1:1".parse().unwrap(), "127.0.0.1:2".parse().unwrap());
        let from: IpAddr = "127.0.0.1".parse().unwrap();
        let mut batches = Batches::new(64);
        for (to, len) in [(a, 100), (b, 100), (a, 100), (b, 50), (a, 120), (b, 100)] {
            batches.add(to, from, &vec![7; len]);
        }
        let runs: Vec<_> = batches.runs.iter().map(|r| (r.to.port(), r.count, r.segment)).collect();
        assert_eq!(runs, [(1, 2, 100), (2, 2, 100), (1, 1, 120), (2, 1, 100)]);
    }
}
