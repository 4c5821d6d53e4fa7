//! What is known of a peer connection's path: whether a relay is in it, its round trip, and what went over it.

use super::{PathKind, PathStats};
use rtc::peer_connection::transport::RTCIceCandidatePair;
use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use webrtc::peer_connection::{PeerConnection, RTCIceCandidate, RTCIceCandidateType, StatsSelector};

/// Addresses of the other side that are remembered.
const MOST: usize = 256;

/// The other side's relays. What comes from one before its address was told counts as found on the way (peer reflexive) to ICE.
#[derive(Default)]
pub(super) struct Relays(Mutex<HashSet<(String, u16)>>);

impl Relays {
    /// Takes them from a description or a candidate (RFC 8839, 5.1).
    pub(super) fn learn(&self, text: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace().skip(4);
            if let (Some(address), Some(port), Some("typ"), Some("relay")) = (words.next(), words.next(), words.next(), words.next())
                && let Ok(port) = port.parse()
                && known.len() < MOST
            {
                known.insert((address.to_owned(), port));
            }
        }
    }

    fn has(&self, address: &str, port: u16) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&(address.to_owned(), port))
    }
}

/// The two ends that are in use. The report has only those that were told; the other side's may have been found on the way.
async fn ends(pc: &dyn PeerConnection) -> Option<RTCIceCandidatePair> {
    let senders = pc.get_senders().await;
    senders.first()?.transport().await.ok()??.ice_transport().get_selected_candidate_pair().await.ok()?
}

/// Measures the path that is in use.
pub(super) async fn measure(pc: &dyn PeerConnection, relays: &Relays) -> PathStats {
    let report = pc.get_stats(Instant::now(), StatsSelector::None).await;
    let mut out = PathStats::default();
    if let Some(ends) = ends(pc).await {
        let relayed = |c: &RTCIceCandidate| c.typ == RTCIceCandidateType::Relay;
        let relay = relayed(ends.local()) || relayed(ends.remote()) || relays.has(&ends.remote().address, ends.remote().port);
        out.kind = if relay { PathKind::Relayed } else { PathKind::Direct };
    }
    // A pair that was taken once stays nominated there; only one is in use.
    let selected = report.transport().map(|t| t.selected_candidate_pair_id.as_str()).unwrap_or_default();
    for pair in report.candidate_pairs().filter(|p| p.nominated) {
        out.sent += pair.bytes_sent;
        out.received += pair.bytes_received;
        if pair.stats.id == selected && pair.current_round_trip_time > 0.0 {
            out.rtt = Duration::try_from_secs_f64(pair.current_round_trip_time).ok();
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relays_are_told_from_other_addresses() {
        let relays = Relays::default();
        relays.learn("v=0\r\na=candidate:1 1 udp 41819902 203.0.113.1 49160 typ relay raddr 0.0.0.0 rport 0\r\na=candidate:2 1 udp 2 10.0.0.1 9 typ host\r\n");
        relays.learn("candidate:3 1 udp 41819902 2001:db8::1 50000 typ relay");
        relays.learn("candidate:4 1 udp 5 198.51.100.9 high typ relay");
        assert!(relays.has("203.0.113.1", 49_160) && relays.has("2001:db8::1", 50_000));
        assert!(!relays.has("10.0.0.1", 9) && !relays.has("203.0.113.1", 49_161) && !relays.has("198.51.100.9", 0));
        for n in 0..1_000 {
            relays.learn(&format!("candidate:5 1 udp 5 198.51.100.9 {n} typ relay"));
        }
        assert!(relays.0.lock().unwrap_or_else(PoisonError::into_inner).len() <= MOST);
    }
}
