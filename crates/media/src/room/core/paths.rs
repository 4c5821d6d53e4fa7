//! A participant's paths to the unit: whether they work, how they are measured, and what is done when there is none.

use super::{Core, DESIRED, LEAST, Out, START, Side, Which};
use crate::transport::{PathKind, PathStats};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::net::{Protocol, TcpType};
use str0m::{Candidate, Rtc};

/// TCP is tried as well when there is no path for so long: it costs a connection, and what is lost on it holds up what follows.
const UDP_FIRST: Duration = Duration::from_secs(1);
/// Then the unit is asked for other paths, and so often again.
const RENEW: Duration = Duration::from_secs(5);
/// The port of whoever only connects (RFC 6544, 4.5).
const NO_PORT: u16 = 9;
/// How a path is asked whether it is there: first and last wait between two questions, and how many remain without an answer before it is
/// given up, six seconds in all: an interruption that is shorter needs no new path.
const ASK: (Duration, Duration, usize) = (Duration::from_millis(200), Duration::from_millis(500), 12);
/// How often the paths are measured.
const MEASURE: Duration = Duration::from_secs(1);
/// Nothing comes for so long, of media or of answers: there is an interruption.
pub(super) const SILENT: Duration = Duration::from_secs(3);

impl Side {
    pub(super) fn works(&self, now: Instant) -> bool {
        self.up && now < self.heard + SILENT
    }
}

/// A connection that is not described yet, reached at `locals`; what is sent follows what the path carries with `bwe`.
pub(super) fn rtc(locals: &[SocketAddr], now: Instant, bwe: bool) -> Rtc {
    let mut builder = Rtc::builder();
    builder.set_initial_stun_rto(ASK.0);
    builder.set_max_stun_rto(ASK.1);
    builder.set_max_stun_retransmits(ASK.2);
    let builder = builder.set_rtp_mode(true).clear_codecs().enable_opus(true, false).enable_vp8(true).set_stats_interval(Some(MEASURE));
    let builder = if bwe { builder.enable_bwe(Some(START)) } else { builder };
    let mut rtc = builder.build(now);
    if bwe {
        rtc.bwe().set_bitrate(LEAST, DESIRED);
    }
    for a in locals {
        if let Ok(c) = Candidate::host(*a, Protocol::Udp) {
            rtc.add_local_candidate(c);
        }
    }
    rtc
}

impl Core {
    /// The paths as they were measured last: sent is what goes to the unit, received what comes from it.
    #[must_use]
    pub fn path_stats(&self) -> PathStats {
        PathStats { received: self.subscriber.path.received, ..self.publisher.path }
    }

    /// From now on there may be a path.
    pub(super) fn begin_to_wait(&mut self, now: Instant) {
        if !self.was_up {
            self.mend.get_or_insert(now + UDP_FIRST);
        }
    }

    /// There is no path, or none that works.
    pub(super) fn mend(&mut self, now: Instant) {
        for which in [Which::Publisher, Which::Subscriber] {
            if !self.side(which).works(now) && !std::mem::replace(&mut self.side(which).tcp, true) {
                self.try_tcp(which);
            }
        }
        // The unit believes in a path for longer than we do, and only it can begin the subscriber's anew.
        self.mend = self.was_up.then(|| now + RENEW);
        if self.was_up {
            self.out.push_back(Out::Renew);
        }
    }

    fn try_tcp(&mut self, which: Which) {
        for ip in self.addresses.clone() {
            let candidate = Candidate::builder().tcp().host(SocketAddr::new(ip, NO_PORT)).tcptype(TcpType::Active).build();
            if let Ok(c) = candidate {
                self.change(which, |s| s.rtc.add_local_candidate(c).is_some());
            }
        }
    }

    pub(super) fn path(&mut self, now: Instant, which: Which, up: bool) {
        let side = self.side(which);
        side.up = up;
        if up {
            side.heard = now;
        }
        self.tell_path(now);
    }

    /// Whether media flows, when that has changed.
    pub(super) fn tell_path(&mut self, now: Instant) {
        let all = self.publisher.works(now) && self.subscriber.works(now);
        if all != self.told_up {
            self.told_up = all;
            self.was_up |= all;
            self.mend = (!all).then(|| now + UDP_FIRST);
            self.out.push_back(if all { Out::Connected } else { Out::Interrupted });
            self.publish_pictures();
        }
    }

    pub(super) fn measured(&mut self, which: Which, s: &str0m::stats::PeerStats) {
        let pair = s.selected_candidate_pair.as_ref();
        self.side(which).path = PathStats {
            // Asked of the path itself: there is an answer when nothing is sent, too.
            rtt: pair.and_then(|p| p.current_round_trip_time).or(s.rtt),
            sent: s.peer_bytes_tx,
            received: s.peer_bytes_rx,
            lost: s.egress_loss_fraction.unwrap_or(0.0),
            kind: pair.map_or(PathKind::Unknown, |p| if p.protocol == Protocol::Tcp { PathKind::UnitTcp } else { PathKind::Unit }),
        };
    }
}
