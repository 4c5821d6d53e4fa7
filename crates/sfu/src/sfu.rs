//! The unit: rooms, stays, tracks and who gets them.

use crate::forward::Forward;
use crate::model::{Config, Event, Grants, IceServer, Join, LeaveReason, Output, SessionId};
use crate::peers::{ByKey, PeerKey, Peers, TrackKey};
use crate::speakers::Voice;
use livekit_protocol as proto;
use rand::{Rng as _, SeedableRng as _};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::Candidate;
use str0m::media::{MediaKind, Mid, Pt, Rid};
use str0m::net::Protocol;

pub(crate) type DownKey = u64;

/// How often a part of what is looked at from time to time is looked at.
pub(crate) const TICK: Duration = Duration::from_millis(20);

/// A room: those in it.
pub(crate) struct Room {
    pub(crate) sid: String,
    pub(crate) sessions: BTreeSet<SessionId>,
    pub(crate) speaking: Vec<SessionId>,
    pub(crate) opened_ms: i64,
}

/// One participant's stay.
pub(crate) struct Session {
    pub(crate) room: String,
    pub(crate) sid: String,
    pub(crate) identity: String,
    pub(crate) name: String,
    pub(crate) metadata: String,
    pub(crate) attributes: HashMap<String, String>,
    pub(crate) grants: Grants,
    pub(crate) auto_subscribe: bool,
    pub(crate) ice_servers: Vec<IceServer>,
    pub(crate) publisher: PeerKey,
    pub(crate) subscriber: PeerKey,
    pub(crate) joined_ms: i64,
    pub(crate) version: u32,
    /// Offers made to it so far.
    pub(crate) offers: u32,
    /// Signalling is away since then.
    pub(crate) silent: Option<Instant>,
    /// What fits it, in bits per second.
    pub(crate) estimate: u64,
    pub(crate) tracks: Vec<TrackKey>,
    pub(crate) downs: Vec<DownKey>,
    /// Packets that got lost since the last look, up and down.
    pub(crate) loss: [Losses; 2],
    /// What everybody was told of its connection: the quality, and the share of packets that gets lost.
    pub(crate) quality: Option<(proto::ConnectionQuality, f32)>,
    /// It has been told how the others' connections are.
    pub(crate) told: bool,
}

/// Shares of packets that got lost, of all streams that were reported.
#[derive(Default)]
pub(crate) struct Losses {
    sum: f32,
    reports: u16,
}

impl Losses {
    pub(crate) fn add(&mut self, share: f32) {
        self.sum += share.clamp(0.0, 1.0);
        self.reports += 1;
    }

    /// Their mean; nothing is lost where nothing is sent.
    pub(crate) fn take(&mut self) -> f32 {
        let Self { sum, reports } = std::mem::take(self);
        sum / f32::from(reports.max(1))
    }
}

/// A layer of a track.
#[derive(Default)]
pub(crate) struct Layer {
    pub(crate) rid: Option<Rid>,
    pub(crate) bytes: u64,
    /// Bits per second, lately.
    pub(crate) rate: u64,
    pub(crate) last: Option<Instant>,
    pub(crate) asked: Option<Instant>,
}

/// Something published.
pub(crate) struct Track {
    pub(crate) session: SessionId,
    pub(crate) info: proto::TrackInfo,
    pub(crate) cid: String,
    pub(crate) kind: MediaKind,
    /// Its section in the publisher's description, once that is known.
    pub(crate) mid: Option<Mid>,
    pub(crate) layers: Vec<Layer>,
    pub(crate) voice: Voice,
    pub(crate) downs: Vec<DownKey>,
    /// The best layer its publisher was last told to send; nothing while it was told nothing.
    pub(crate) wanted: Option<Option<usize>>,
}

/// A track on its way to one receiver.
pub(crate) struct Down {
    pub(crate) track: TrackKey,
    pub(crate) session: SessionId,
    pub(crate) peer: PeerKey,
    /// Its section, once it is in an offer.
    pub(crate) mid: Option<Mid>,
    /// Once the receiver has answered.
    pub(crate) pt: Option<Pt>,
    pub(crate) forward: Forward,
    /// The receiver does not show it now.
    pub(crate) disabled: bool,
    /// The largest layer of use at the size it is shown.
    pub(crate) best: usize,
    pub(crate) paused: bool,
}

/// The selective forwarding unit. See the crate's documentation.
pub struct Sfu {
    pub(crate) config: Config,
    pub(crate) peers: Peers,
    pub(crate) rooms: HashMap<String, Room>,
    pub(crate) sessions: ByKey<Session>,
    pub(crate) tracks: ByKey<Track>,
    pub(crate) downs: ByKey<Down>,
    pub(crate) by_mid: HashMap<(PeerKey, Mid), DownKey>,
    pub(crate) out: VecDeque<Output>,
    pub(crate) next: u64,
    pub(crate) tick: Instant,
    pub(crate) ticks: u64,
    pub(crate) candidates: Vec<Candidate>,
    rng: rand::rngs::StdRng,
    wall: (Instant, i64),
    forwarded: u64,
}

impl Sfu {
    /// Ready. `unix_ms` is what the clock shows at `now`; `seed` makes its names.
    #[must_use]
    pub fn new(config: Config, now: Instant, unix_ms: i64, seed: [u8; 32]) -> Self {
        let udp = config.udp.iter().filter_map(|a| Candidate::host(*a, Protocol::Udp).ok());
        let tcp = config.tcp.iter().filter_map(|a| Candidate::builder().tcp().host(*a).tcptype(str0m::net::TcpType::Passive).build().ok());
        let candidates = udp.chain(tcp).collect();
        Self {
            config,
            peers: Peers::default(),
            rooms: HashMap::new(),
            sessions: ByKey::default(),
            tracks: ByKey::default(),
            downs: ByKey::default(),
            by_mid: HashMap::new(),
            out: VecDeque::new(),
            next: 0,
            tick: now + TICK,
            ticks: 0,
            candidates,
            rng: rand::rngs::StdRng::from_seed(seed),
            wall: (now, unix_ms),
            forwarded: 0,
        }
    }

    // Getters.

    /// Participants right now.
    #[must_use]
    pub fn participants(&self) -> usize {
        self.sessions.len()
    }

    /// Rooms with somebody in them.
    #[must_use]
    pub fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// Media packets given to receivers so far.
    #[must_use]
    pub fn forwarded(&self) -> u64 {
        self.forwarded
    }

    // Commands: see also `room`.

    /// A datagram, or a frame of a TCP connection, came in.
    pub fn handle_datagram(&mut self, now: Instant, proto: Protocol, source: SocketAddr, destination: SocketAddr, bytes: &[u8]) {
        self.peers.receive(now, proto, source, destination, bytes);
        self.settle(now);
    }

    /// It is that late.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.peers.handle_timeout(now);
        self.settle(now);
        while self.tick <= now {
            // After a pause of the process one look is enough.
            self.tick = (self.tick + TICK).max(now);
            self.on_tick(now);
            self.settle(now);
            if self.tick <= now {
                self.tick = now + TICK;
            }
        }
    }

    /// A participant said something.
    pub fn handle_signal(&mut self, now: Instant, session: SessionId, request: proto::SignalRequest) {
        if let Some(message) = request.message {
            self.on_signal(now, session, message);
        }
        self.settle(now);
    }

    // Outputs.

    /// What is to be done next; nothing when all is said.
    pub fn poll_output(&mut self) -> Option<Output> {
        // Media first: it is what cannot wait.
        self.peers.out.pop_front().map(Output::Transmit).or_else(|| self.out.pop_front())
    }

    /// When it wants to hear the time again.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.peers.due().map_or(self.tick, |d| d.min(self.tick))
    }

    // Inside.

    /// Handles what the connections said until they have nothing more to say.
    pub(crate) fn settle(&mut self, now: Instant) {
        while let Some((key, event)) = self.peers.events.pop_front() {
            self.on_event(now, key, event);
        }
    }

    pub(crate) fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A name as LiveKit's: two letters, an underscore, twelve letters and digits.
    pub(crate) fn sid(&mut self, prefix: &str) -> String {
        let text: String = (0..12).map(|_| char::from(self.rng.sample(rand::distributions::Alphanumeric))).collect();
        format!("{prefix}_{text}")
    }

    pub(crate) fn unix_ms(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.wall.0).as_millis();
        self.wall.1.saturating_add(i64::try_from(since).unwrap_or(i64::MAX))
    }

    pub(crate) fn count(&mut self) {
        self.forwarded += 1;
    }

    pub(crate) fn send(&mut self, to: SessionId, message: proto::signal_response::Message) {
        if self.sessions.get(&to).is_some_and(|s| s.silent.is_none()) {
            self.out.push_back(Output::Signal(to, Box::new(proto::SignalResponse { message: Some(message) })));
        }
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.out.push_back(Output::Event(event));
    }

    /// Those in the same room, but for the one.
    pub(crate) fn others(&self, session: SessionId) -> Vec<SessionId> {
        let Some(room) = self.sessions.get(&session).and_then(|s| self.rooms.get(&s.room)) else { return Vec::new() };
        room.sessions.iter().copied().filter(|s| *s != session).collect()
    }

    /// Takes somebody in. Whoever is there under the same identity is replaced.
    pub fn join(&mut self, now: Instant, join: Join) -> SessionId {
        let session = self.enter(now, join);
        self.settle(now);
        session
    }

    /// Somebody's signalling is back; false when their stay is over.
    pub fn resume(&mut self, now: Instant, session: SessionId) -> bool {
        let back = self.come_back(session);
        self.settle(now);
        back
    }

    /// Somebody's signalling is away: their media goes on until the grace time is over.
    pub fn signal_lost(&mut self, now: Instant, session: SessionId) {
        if let Some(s) = self.sessions.get_mut(&session) {
            s.silent.get_or_insert(now);
        }
    }

    /// Takes somebody out.
    pub fn leave(&mut self, now: Instant, session: SessionId, reason: LeaveReason) {
        self.part(session, reason);
        self.settle(now);
    }

    /// The stay of that participant, by the name they were given.
    #[must_use]
    pub fn find(&self, room: &str, identity: &str, sid: Option<&str>) -> Option<SessionId> {
        let room = self.rooms.get(room)?;
        let of = |id: &&SessionId| self.sessions.get(*id).is_some_and(|s| s.identity == identity && sid.is_none_or(|sid| s.sid == sid));
        room.sessions.iter().find(of).copied()
    }

    /// The stays in a room.
    #[must_use]
    pub fn sessions_in(&self, room: &str) -> Vec<SessionId> {
        self.rooms.get(room).map(|r| r.sessions.iter().copied().collect()).unwrap_or_default()
    }

    /// Asks a participant to stop sending what it sends of that kind, and stops giving it to others until it is switched on again.
    pub fn mute(&mut self, now: Instant, session: SessionId, source: proto::TrackSource) {
        self.silence(session, source);
        self.settle(now);
    }
}
