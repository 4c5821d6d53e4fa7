//! The peer connections: which datagram is whose, when each wants to hear the time, and what each says.
//!
//! Invariant: after every change of an `Rtc` everything it has to say is taken at once ([`Peers::change`]); what it says waits in
//! order in [`Peers::events`] and [`Peers::out`]. Packets of media wait until all that came together is read ([`Peers::write`]): then each
//! connection takes its own at once, is told the time once, and says them in one go.

use crate::model::SessionId;
use crate::moving::Moving;
use rustc_hash::FxBuildHasher;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::channel::ChannelId;
use str0m::media::Mid;
use str0m::net::{Protocol, Receive, Transmit};
use str0m::rtp::{RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Reason, Rtc, RtcError};

pub(crate) type PeerKey = u64;
pub(crate) type TrackKey = u64;
/// By numbers that this unit gave out itself: nobody chooses them so that they collide.
pub(crate) type ByKey<V> = HashMap<u64, V, FxBuildHasher>;
/// Somebody's address: the same port may be another's in UDP and in TCP.
pub(crate) type Address = (Protocol, SocketAddr);

/// A connection's timers are looked at this often at most.
const TOGETHER: Duration = Duration::from_millis(1);
/// How often a connection is told the time only for its estimate of the path to be gone over. str0m wants that every 25 ms, whether anything
/// is sent or not, and would be told forty times a second by each listener in silence; media tells the time anyway.
const ESTIMATES: Duration = Duration::from_millis(100);
/// Connections that are looked at before packets are read again: many have their timers at the same moment.
const LOOKS: usize = 32;
/// Packets that wait for one connection, more than ever comes together; what is beyond is lost as on a path.
const WAITING: usize = 1_024;
/// Addresses one connection may be reached from before old ones are forgotten.
const ADDRESSES: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// What a participant sends.
    Publisher,
    /// What it gets.
    Subscriber,
}

/// A peer connection and what is known of it.
pub(crate) struct Peer {
    pub(crate) rtc: Rtc,
    pub(crate) session: SessionId,
    pub(crate) role: Role,
    /// Which layer of which track a stream is.
    pub(crate) streams: HashMap<Ssrc, (TrackKey, usize)>,
    /// The offer on its way.
    pub(crate) pending: Option<SdpPendingOffer>,
    /// Another offer is wanted after it.
    pub(crate) stale: bool,
    /// Addresses have to be found anew.
    pub(crate) restart: bool,
    /// What was new in the offer on its way: the channels, sections.
    pub(crate) offered: (bool, Vec<(u64, Mid)>),
    /// The name it is asked for by once that offer is answered.
    offered_ufrag: Option<String>,
    /// Data channels: reliable, lossy.
    pub(crate) channels: [Option<ChannelId>; 2],
    /// It was connected at least once.
    pub(crate) connected: bool,
    /// When it wants to hear the time.
    wants: Instant,
    /// When it will be looked at: not later than that. Moving it with every packet would cost more than a look in vain.
    due: Instant,
    /// When it was told the time last: an `Rtc` that is told looks at everything it has.
    told: Option<Instant>,
    /// Media on its way out.
    waiting: Vec<(Mid, RtpWrite)>,
    ufrag: String,
    addresses: VecDeque<Address>,
    moving: Moving,
}

#[derive(Default)]
pub(crate) struct Peers {
    all: ByKey<Peer>,
    by_address: HashMap<Address, PeerKey>,
    by_ufrag: HashMap<String, PeerKey>,
    due: BTreeSet<(Instant, PeerKey)>,
    /// Who has media waiting, and since when the first of them.
    written: (Vec<PeerKey>, Option<Instant>),
    next: PeerKey,
    pub(crate) events: VecDeque<(PeerKey, Event)>,
    pub(crate) out: VecDeque<Transmit>,
}

impl Peers {
    /// Adds a connection that is reached at `candidates`.
    pub(crate) fn add(&mut self, mut rtc: Rtc, session: SessionId, role: Role, candidates: &[Candidate], now: Instant) -> PeerKey {
        for c in candidates {
            rtc.add_local_candidate(c.clone());
        }
        self.next += 1;
        let key = self.next;
        let peer = Peer {
            rtc,
            session,
            role,
            streams: HashMap::new(),
            pending: None,
            stale: false,
            restart: false,
            offered: (false, Vec::new()),
            offered_ufrag: None,
            channels: [None; 2],
            connected: false,
            wants: now,
            due: now,
            told: None,
            waiting: Vec::new(),
            ufrag: String::new(),
            addresses: VecDeque::new(),
            moving: Moving::default(),
        };
        self.due.insert((now, key));
        self.all.insert(key, peer);
        self.drain(key);
        key
    }

    pub(crate) fn get(&self, key: PeerKey) -> Option<&Peer> {
        self.all.get(&key)
    }

    /// For what is not the `Rtc`; that is changed by [`Peers::change`] only.
    pub(crate) fn get_mut(&mut self, key: PeerKey) -> Option<&mut Peer> {
        self.all.get_mut(&key)
    }

    pub(crate) fn remove(&mut self, key: PeerKey) {
        // Says goodbye, so that the other side does not wait for a timeout.
        self.change(key, |p| drop(p.rtc.close()));
        self.forget(key);
    }

    /// Lets go without a word.
    fn forget(&mut self, key: PeerKey) {
        if let Some(peer) = self.all.remove(&key) {
            self.due.remove(&(peer.due, key));
            self.by_ufrag.remove(&peer.ufrag);
            if let Some(u) = &peer.offered_ufrag {
                self.by_ufrag.remove(u);
            }
            for a in &peer.addresses {
                if self.by_address.get(a) == Some(&key) {
                    self.by_address.remove(a);
                }
            }
        }
    }

    /// Changes a connection and takes what it says.
    pub(crate) fn change<T>(&mut self, key: PeerKey, f: impl FnOnce(&mut Peer) -> T) -> Option<T> {
        let value = f(self.all.get_mut(&key)?);
        self.drain(key);
        Some(value)
    }

    /// Sends a packet of media when the time is told next, which is at once.
    pub(crate) fn write(&mut self, now: Instant, key: PeerKey, mid: Mid, packet: RtpWrite) {
        let Some(peer) = self.all.get_mut(&key).filter(|p| p.waiting.len() < WAITING) else { return };
        if peer.waiting.is_empty() {
            self.written.0.push(key);
            self.written.1.get_or_insert(now);
        }
        peer.waiting.push((mid, packet));
    }

    fn send_written(&mut self, now: Instant) {
        let mut keys = std::mem::take(&mut self.written.0);
        self.written.1 = None;
        for key in keys.drain(..) {
            let Some(peer) = self.all.get_mut(&key) else { continue };
            let mut api = peer.rtc.direct_api();
            for (mid, packet) in peer.waiting.drain(..) {
                if let Some(stream) = api.stream_tx_by_mid(mid, None) {
                    stream.write_rtp(packet);
                }
            }
            self.send_all(now, key);
            self.schedule(key);
        }
        // Its room is used again.
        self.written.0 = keys;
    }

    /// Tells the time until nothing waits. Packets of one stream leave at one telling; those of others, and whatever a probe of the path
    /// wants, at further ones, a microsecond on each time. Left to timers, each would be a millisecond or two later than the one before.
    fn send_all(&mut self, now: Instant, key: PeerKey) {
        let mut at = now;
        for _ in 0..WAITING {
            self.tell_time(at, key);
            at += Duration::from_micros(1);
            if self.get(key).is_none_or(|p| p.wants > at) {
                return;
            }
        }
    }

    /// Takes what a connection says, and sees to it that it is looked at when it wants the time.
    fn drain(&mut self, key: PeerKey) {
        self.take(key);
        self.schedule(key);
    }

    /// Takes what a connection says.
    fn take(&mut self, key: PeerKey) {
        let Some(peer) = self.all.get_mut(&key) else { return };
        peer.wants = loop {
            match peer.rtc.poll_output() {
                Ok(Output::Timeout(at)) => break at,
                Ok(Output::Transmit(mut t)) => {
                    t.destination = peer.moving.sends((t.proto, t.destination), !is_stun(&t.contents)).1;
                    self.out.push_back(t);
                }
                Ok(Output::Event(e)) => self.events.push_back((key, e)),
                Err(cause) => {
                    tracing::debug!(%cause, "a connection failed");
                    peer.rtc.disconnect();
                    break peer.wants + Duration::from_secs(3_600);
                }
            }
        };
        // While a path is being found its own timers, which come after this one, are not to wait.
        let settled = peer.connected || peer.addresses.is_empty();
        if let Some(told) = peer.told.filter(|_| settled && peer.rtc.last_timeout_reason() == Reason::BweDelayControl) {
            peer.wants = peer.wants.max(told + ESTIMATES);
        }
    }

    /// Sees to it that a connection is looked at when it wants the time, but not all the time.
    fn schedule(&mut self, key: PeerKey) {
        let Some(peer) = self.all.get(&key) else { return };
        let at = peer.told.map_or(peer.wants, |told| peer.wants.max(told + TOGETHER));
        if at < peer.due {
            self.look_at(key, at);
        }
    }

    fn look_at(&mut self, key: PeerKey, at: Instant) {
        if let Some(peer) = self.all.get_mut(&key) {
            self.due.remove(&(peer.due, key));
            peer.due = at;
            self.due.insert((at, key));
        }
    }

    /// When the time is next wanted.
    pub(crate) fn due(&self) -> Option<Instant> {
        let timer = self.due.first().map(|(at, _)| *at);
        timer.into_iter().chain(self.written.1).min()
    }

    /// Tells the time to those who want it, some of them: it is due at once when there are more.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        self.send_written(now);
        for _ in 0..LOOKS {
            let Some(&(at, key)) = self.due.first() else { return };
            if at > now {
                return;
            }
            if self.get(key).is_some_and(|p| p.wants <= now) {
                self.tell_time(now, key);
            }
            // Whoever still wants the same moment is asked at the next one: time has to go on.
            let next = now + TOGETHER;
            let wants = self.get(key).map_or(next, |p| p.wants.max(next));
            self.look_at(key, wants);
        }
    }

    /// Tells the time and takes what is said then; when it is to be looked at next is another matter.
    fn tell_time(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.all.get_mut(&key) else { return };
        peer.told = Some(now);
        if let Err(cause) = peer.rtc.handle_input(Input::Timeout(now)) {
            tracing::debug!(%cause, "a connection failed at its time");
            peer.rtc.disconnect();
        }
        self.take(key);
    }

    /// Gives a datagram to whose it is; one that is nobody's is dropped.
    pub(crate) fn receive(&mut self, now: Instant, proto: Protocol, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        let from = (proto, source);
        let named = username(bytes).and_then(|u| self.by_ufrag.get(u)).copied();
        let Some(key) = named.or_else(|| self.by_address.get(&from).copied()) else { return };
        let Some(peer) = self.all.get_mut(&key) else { return };
        // From elsewhere, while the path in use is silent: it may be the same one. Nothing is believed before str0m has looked at it.
        let suspected = named.and_then(|_| peer.moving.suspects(from, now));
        let known = suspected.unwrap_or_else(|| peer.moving.known(from));
        let Ok(receive) = Receive::new(proto, known.1, destination, bytes) else { return };
        let input = Input::Receive(now, receive);
        if !peer.rtc.accepts(&input) {
            return;
        }
        peer.moving.heard(from, now);
        if named.is_some() && suspected.is_none() && self.by_address.get(&from) != Some(&key) {
            self.remember(key, from);
        }
        let said = self.out.len();
        let Some(peer) = self.all.get_mut(&key) else { return };
        if let Err(cause) = peer.rtc.handle_input(input) {
            tracing::debug!(%cause, "a datagram was refused");
        }
        self.drain(key);
        if let Some(known) = suspected {
            self.follow(key, known, from, (said, bytes), now);
        }
        if asks_again(bytes) {
            self.want_time(key, now);
        }
    }

    /// What was asked for again leaves when the time is told next, and nothing asks str0m for that.
    fn want_time(&mut self, key: PeerKey, now: Instant) {
        if let Some(peer) = self.all.get_mut(&key).filter(|p| p.role == Role::Subscriber) {
            peer.wants = now;
            self.schedule(key);
        }
    }

    /// A request that came from elsewhere moves the path when str0m found it authentic, which is to say when it is answered; the answer, among
    /// what was said since, goes there too.
    fn follow(&mut self, key: PeerKey, known: Address, to: Address, (said, request): (usize, &[u8]), now: Instant) {
        let Some(peer) = self.all.get_mut(&key) else { return };
        let was = peer.moving.current(known).1;
        let answers = |t: &Transmit| t.destination == was && t.contents.starts_with(&[1, 1]) && t.contents.get(4..20) == request.get(4..20);
        if self.out.iter().skip(said).any(answers) {
            tracing::debug!(session = %peer.session, "somebody is followed to another address");
            peer.moving.follow(known, to, now);
            self.remember(key, to);
            self.out.iter_mut().skip(said).filter(|t| (t.proto, t.destination) == (to.0, was)).for_each(|t| t.destination = to.1);
        }
    }

    fn remember(&mut self, key: PeerKey, source: Address) {
        let Some(peer) = self.all.get_mut(&key) else { return };
        peer.addresses.retain(|a| *a != source);
        peer.addresses.push_back(source);
        if peer.addresses.len() > ADDRESSES
            && let Some(old) = peer.addresses.pop_front()
            && self.by_address.get(&old) == Some(&key)
        {
            self.by_address.remove(&old);
        }
        self.by_address.insert(source, key);
    }

    /// After every exchange of descriptions: by which name the connection is asked for now.
    fn rename(&mut self, key: PeerKey) {
        let Some(peer) = self.all.get_mut(&key) else { return };
        let ufrag = peer.rtc.direct_api().local_ice_credentials().ufrag;
        if ufrag != peer.ufrag {
            self.by_ufrag.remove(&peer.ufrag);
            peer.moving = Moving::default();
            peer.ufrag.clone_from(&ufrag);
            self.by_ufrag.insert(ufrag, key);
        }
    }

    /// As [`Peers::change`], for descriptions of the other side. str0m asserts where it should refuse; a panic costs the one who caused it
    /// their connection and nobody else anything.
    fn guarded<T>(&mut self, key: PeerKey, f: impl FnOnce(&mut Peer) -> T) -> Option<T> {
        let peer = self.all.get_mut(&key)?;
        match std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| f(peer))) {
            Ok(value) => {
                self.drain(key);
                Some(value)
            }
            Err(_) => {
                tracing::error!("a description was more than str0m bears: its connection is given up");
                self.forget(key);
                None
            }
        }
    }

    /// Answers an offer.
    pub(crate) fn accept_offer(&mut self, key: PeerKey, offer: SdpOffer) -> Option<Result<SdpAnswer, RtcError>> {
        let answer = self.guarded(key, |p| p.rtc.sdp_api().accept_offer(offer));
        self.rename(key);
        answer
    }

    /// Takes the answer to the offer on its way; false when there is none, or it does not fit.
    pub(crate) fn accept_answer(&mut self, key: PeerKey, answer: SdpAnswer) -> bool {
        let taken = self.guarded(key, |p| match p.pending.take() {
            Some(pending) => p.rtc.sdp_api().accept_answer(pending, answer).inspect_err(|c| tracing::debug!(%c, "an answer")).is_ok(),
            None => false,
        });
        self.rename(key);
        taken == Some(true)
    }

    /// Makes an offer; its addresses count from now on.
    pub(crate) fn offer(&mut self, key: PeerKey, f: impl FnOnce(&mut str0m::change::SdpApi<'_>)) -> Option<SdpOffer> {
        let offer = self.change(key, |p| {
            let mut api = p.rtc.sdp_api();
            f(&mut api);
            let (offer, pending) = api.apply()?;
            p.pending = Some(pending);
            Some(offer)
        })?;
        self.rename(key);
        if let Some(offer) = &offer
            && let Some(ufrag) = offer.to_sdp_string().lines().find_map(|l| l.strip_prefix("a=ice-ufrag:").map(|u| u.trim().to_owned()))
        {
            // In a restart the new name counts before the answer is there.
            if let Some(p) = self.all.get_mut(&key) {
                let old = p.offered_ufrag.replace(ufrag.clone());
                if let Some(old) = old.filter(|o| *o != p.ufrag && *o != ufrag) {
                    self.by_ufrag.remove(&old);
                }
            }
            self.by_ufrag.insert(ufrag, key);
        }
        offer
    }
}

/// The first byte tells STUN from everything else that comes on the same port (RFC 7983).
fn is_stun(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|b| *b < 4)
}

/// RTCP that may ask for packets once more (RFC 4585, RFC 5761): all but the reports of what came when, of which there are many, alone in
/// their datagram. Of what is sealed the first header is readable.
fn asks_again(bytes: &[u8]) -> bool {
    const TRANSPORT_WIDE: (u8, u8) = (15, 205);
    let [first, kind, ..] = bytes else { return false };
    first >> 6 == 2 && (192..224).contains(kind) && (first & 0x1f, *kind) != TRANSPORT_WIDE
}

/// Whom a STUN request asks for: the part before the colon of USERNAME (RFC 8445, 7.2.2).
fn username(bytes: &[u8]) -> Option<&str> {
    const USERNAME: u16 = 0x0006;
    let u16_at = |at: usize| Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]));
    if bytes.len() < 20 || bytes.first()? & 0xc0 != 0 || bytes.get(4..8)? != [0x21, 0x12, 0xa4, 0x42] {
        return None;
    }
    let mut at = 20;
    while let (Some(kind), Some(len)) = (u16_at(at), u16_at(at + 2)) {
        let value = bytes.get(at + 4..at + 4 + usize::from(len))?;
        if kind == USERNAME {
            return std::str::from_utf8(value).ok()?.split(':').next();
        }
        at += 4 + usize::from(len).next_multiple_of(4);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_for_a_packet_is_told_from_a_report_and_from_media() {
        assert!(asks_again(&[0x81, 205, 0, 3]), "NACK");
        assert!(asks_again(&[0x81, 201, 0, 7]), "a report, with whatever follows");
        assert!(!asks_again(&[0x8f, 205, 0, 9]), "what came when");
        assert!(!asks_again(&[0x80, 96, 0, 9]) && !asks_again(&[0x80, 0xe0, 0, 9]) && !asks_again(&[0, 1]) && !asks_again(&[0x80]));
    }

    #[test]
    fn a_request_names_whom_it_asks_for() {
        let mut request = vec![0, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
        request.extend([7; 12]);
        request.extend([0, 6, 0, 5]);
        request.extend(b"ab:cd\0\0\0");
        assert_eq!(username(&request), Some("ab"));
        request.truncate(27);
        assert_eq!(username(&request), None);
        assert_eq!(username(&[]), None);
    }
}
