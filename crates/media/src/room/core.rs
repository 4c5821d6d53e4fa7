//! A participant of a room, without I/O: LiveKit's signalling with two peer connections (str0m), media encrypted end to end.
//!
//! | state | entered by | what is sent |
//! |---|---|---|
//! | joining | [`Core::new`] | nothing |
//! | published | the unit has answered our offer | nothing |
//! | inside | both paths stand | sound and pictures; [`Out::Connected`], again after each break |
//! | interrupted | a path is silent, or lost: then others are looked for | nothing, until it is back: [`Out::Interrupted`] |
//! | over | the unit says so | [`Out::Over`], with what is to be done |
//!
//! Paths are of UDP; where none is found, or one is silent, TCP is among them too.
//!
//! Media that is not encrypted, or does not open, is dropped and told of once for each sender ([`Out::Garbled`]). Of pictures only those
//! come that are asked for ([`Core::want`]), as large as they are drawn.

mod paths;
mod pictures;
mod signalling;

use self::paths::{SILENT, rtc};
use self::pictures::{Incoming, OwnTrack};
pub use self::pictures::{Picture, Source};
use super::frames::{Counter, Keys, Kind, SealedData};
use crate::transport::PathStats;
use crate::video::layers::Wanted;
use livekit_protocol as proto;
use prost::Message as _;
use proto::signal_request::Message as Request;
use proto::signal_response::Message as Response;
use sc_calls::Shown;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use str0m::bwe::{Bitrate, BweKind};
use str0m::change::SdpPendingOffer;
use str0m::channel::ChannelId;
use str0m::media::{Mid, Pt};
use str0m::net::{Protocol, Receive, Transmit};
use str0m::rtp::{ExtensionValues, RtpWrite};
use str0m::{Event, IceConnectionState, Input, Output, Rtc};

/// LiveKit's data channels: reliable, lossy.
const CHANNELS: [&str; 2] = ["_reliable", "_lossy"];
/// What is believed of the path before anything is known, what is kept to whatever it seems to carry, and what we would like to send.
const START: Bitrate = Bitrate::kbps(500);
const LEAST: Bitrate = Bitrate::kbps(100);
const DESIRED: Bitrate = Bitrate::kbps(1_000);
const DESIRED_SCREEN: Bitrate = Bitrate::kbps(2_500);
/// How often the unit is told that we live.
const PING: Duration = Duration::from_secs(5);

/// Somebody in the room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Theirs for the whole room.
    pub identity: String,
    /// As they call themselves; members are known by their account.
    pub name: String,
    /// This device.
    pub own: bool,
    /// The microphone is on.
    pub microphone: bool,
    /// The camera is on.
    pub camera: bool,
    /// A screen is shown.
    pub screen: bool,
    /// The hand is up.
    pub hand: bool,
    /// Much of what they send or receive gets lost, or they are away for the moment.
    pub weak: bool,
}

/// What is to be done after the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing: it is over.
    Stop,
    /// Take the signalling up again.
    Resume,
    /// Come in anew.
    Rejoin,
}

/// What comes out.
#[derive(Debug)]
pub enum Out {
    /// A datagram, or a frame for a TCP connection.
    Transmit(Which, Transmit),
    /// A message for the unit.
    Signal(Box<proto::SignalRequest>),
    /// A packet of speech, decrypted: of whom, its timestamp, Opus.
    Voice(String, u32, Vec<u8>),
    /// The next frame of a picture that is asked for.
    Picture(Picture),
    /// Who is inside.
    People(Vec<Person>),
    /// Who speaks, loudest first.
    Speaking(Vec<String>),
    /// A message of the chat: of whom, what.
    Chat(String, String),
    /// Media flows, or flows again.
    Connected,
    /// It does not.
    Interrupted,
    /// The signalling is to be taken up again, so that the unit looks for other paths.
    Renew,
    /// A host has switched the microphone off.
    Muted,
    /// Somebody cannot begin without a key frame of this picture of ours.
    KeyNeeded(Shown, Wanted),
    /// Somebody looks at these layers of this picture of ours.
    LookedAt(Shown, Wanted),
    /// So many bits a second go through to the unit.
    Carries(u64),
    /// Somebody's media does not open.
    Garbled(String),
    /// It does again.
    Opens(String),
    /// It is over: the reason as LiveKit names it, and what is to be done.
    Over(proto::DisconnectReason, Next),
}

struct Side {
    rtc: Rtc,
    due: Instant,
    /// TCP is among its ways.
    tcp: bool,
    up: bool,
    /// When something came last.
    heard: Instant,
    /// As it was measured last.
    path: PathStats,
    /// Its keys are there: whether it is up is only a matter of the path.
    ready: bool,
    channels: [Option<ChannelId>; 2],
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum MediaOf {
    Sound,
    Picture,
    Chat,
}

/// The two connections with the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Which {
    /// What we send.
    Publisher,
    /// What we receive.
    Subscriber,
}

/// See the module.
pub struct Core {
    publisher: Side,
    subscriber: Side,
    /// The addresses of this machine.
    addresses: BTreeSet<IpAddr>,
    keys: Keys,
    iv: Counter,
    out: VecDeque<Out>,
    events: VecDeque<(Which, Event)>,
    /// Participants by sid.
    people: BTreeMap<String, proto::ParticipantInfo>,
    own: Option<proto::ParticipantInfo>,
    cid: String,
    track: Option<String>,
    voice: Option<(Mid, Pt)>,
    pending: Option<SdpPendingOffer>,
    offers: u32,
    speaking: HashMap<String, f32>,
    /// By sid, what the unit says of their connections.
    connections: HashMap<String, proto::ConnectionQualityInfo>,
    /// Whose sound, or picture, does not open.
    garbled: HashSet<(String, MediaOf)>,
    /// Pictures that are drawn, and how large.
    wanted: HashMap<Source, (u32, u32)>,
    /// What the unit has been told of each track.
    asked: HashMap<String, Option<(u32, u32)>>,
    incoming: HashMap<Mid, Incoming>,
    /// Our own pictures.
    shown: BTreeMap<Shown, OwnTrack>,
    /// An offer is due once the one that is out is answered.
    again: bool,
    /// The offer that is out has new sections.
    adds: bool,
    muted: bool,
    told_up: bool,
    was_up: bool,
    /// When something is done about it that there is no path.
    mend: Option<Instant>,
    ping: Instant,
    sequence: u64,
    /// Reliable packets sent so far.
    data: u32,
}

impl Core {
    /// Before the first message of the unit. `locals` are the addresses that are bound here for what is sent and for what is received:
    /// the unit has one port, so only ours tell its connections apart. `random` makes names and IVs.
    #[must_use]
    pub fn new(locals: [&[SocketAddr]; 2], keys: Keys, muted: bool, random: (u64, u128), now: Instant) -> Self {
        let [sending, receiving] = locals;
        let side = |locals: &[SocketAddr], bwe| Side {
            rtc: rtc(locals, now, bwe),
            due: now,
            tcp: false,
            up: false,
            heard: now,
            path: PathStats::default(),
            ready: false,
            channels: [None; 2],
        };
        Self {
            publisher: side(sending, true),
            subscriber: side(receiving, false),
            addresses: locals.iter().flat_map(|l| l.iter().map(SocketAddr::ip)).collect(),
            keys,
            iv: Counter::new(random.1),
            out: VecDeque::new(),
            events: VecDeque::new(),
            people: BTreeMap::new(),
            own: None,
            cid: format!("voice-{:016x}", random.0),
            track: None,
            voice: None,
            pending: None,
            offers: 0,
            speaking: HashMap::new(),
            connections: HashMap::new(),
            garbled: HashSet::new(),
            wanted: HashMap::new(),
            asked: HashMap::new(),
            incoming: HashMap::new(),
            shown: BTreeMap::new(),
            again: false,
            adds: false,
            muted,
            told_up: false,
            was_up: false,
            mend: None,
            ping: now + PING,
            sequence: 1_000,
            data: 0,
        }
    }

    // Inputs.

    /// The unit said something.
    pub fn handle_signal(&mut self, now: Instant, message: Response) {
        match message {
            Response::Join(j) => self.joined(j),
            Response::Reconnect(_) => self.back(now),
            Response::Answer(d) => self.answered(now, &d),
            Response::Offer(d) => self.offered(now, &d),
            Response::Trickle(t) => self.candidate(&t),
            Response::Update(u) => self.update(u.participants),
            Response::TrackPublished(t) if t.cid == self.cid => {
                let told = t.track.as_ref().is_some_and(|t| t.muted);
                self.track = t.track.map(|t| t.sid);
                // Switched while it was on its way.
                if told != self.muted {
                    self.mute(self.muted);
                }
                self.offer(now, false);
            }
            Response::TrackPublished(t) => {
                if let Some((what, own)) = self.shown.iter_mut().find(|(_, c)| c.cid == t.cid) {
                    own.track = t.track.map(|t| t.sid);
                    let (what, hidden) = (*what, own.hidden);
                    if hidden {
                        self.tell_hidden(what);
                    }
                    self.offer(now, false);
                }
            }
            Response::SpeakersChanged(s) => self.speakers(&s.speakers),
            Response::SubscribedQualityUpdate(u) => self.looked_at(&u),
            Response::ConnectionQuality(q) => self.qualities(q.updates),
            // Nobody else switches it on.
            Response::Mute(m) if m.muted && self.track.as_deref() == Some(&m.sid) => {
                self.muted = true;
                self.out.push_back(Out::Muted);
            }
            Response::Leave(l) => {
                let next = match l.action() {
                    proto::leave_request::Action::Disconnect => Next::Stop,
                    proto::leave_request::Action::Resume => Next::Resume,
                    proto::leave_request::Action::Reconnect => Next::Rejoin,
                };
                self.out.push_back(Out::Over(l.reason(), next));
            }
            _ => {}
        }
        self.settle(now);
    }

    /// A datagram came in on `to`, or a frame on the TCP connection that is called so.
    pub fn handle_datagram(&mut self, now: Instant, which: Which, protocol: Protocol, (from, to): (SocketAddr, SocketAddr), bytes: &[u8]) {
        let Ok(receive) = Receive::new(protocol, from, to, bytes) else { return };
        let input = Input::Receive(now, receive);
        if self.side(which).rtc.accepts(&input) {
            self.side(which).heard = now;
            self.change(which, |s| drop(s.rtc.handle_input(input)));
            self.tell_path(now);
        }
        self.settle(now);
    }

    /// It is that late.
    pub fn handle_timeout(&mut self, now: Instant) {
        for which in [Which::Publisher, Which::Subscriber] {
            if self.side(which).due <= now {
                self.change(which, |s| drop(s.rtc.handle_input(Input::Timeout(now))));
                let s = self.side(which);
                s.due = s.due.max(now + Duration::from_millis(1));
            }
        }
        self.tell_path(now);
        if self.mend.is_some_and(|at| at <= now) {
            self.mend(now);
        }
        if self.ping <= now {
            self.ping = now + PING;
            self.say(Request::PingReq(proto::Ping::default()));
        }
        self.settle(now);
    }

    /// A packet of our own speech, as loud as `level` (0 to 1).
    pub fn send_voice(&mut self, now: Instant, timestamp: u32, opus: &[u8], level: f32) {
        let Some((mid, pt)) = self.voice.filter(|_| self.told_up && !self.muted) else { return };
        let identity = self.own.as_ref().map(|o| o.identity.clone()).unwrap_or_default();
        let iv = self.iv.next();
        let Some(sealed) = self.keys.seal(Kind::Audio, &identity, opus, iv, now) else { return };
        self.sequence += 1;
        // RFC 6464: nought is the loudest, 127 silence.
        #[allow(clippy::cast_possible_truncation)]
        let dbov = (20.0 * level.max(1e-6).log10()).clamp(-127.0, 0.0) as i8;
        let ext = ExtensionValues { audio_level: Some(dbov), voice_activity: Some(dbov > -45), ..Default::default() };
        let write = RtpWrite::new(pt, self.sequence.into(), timestamp, now, sealed).ext_vals(ext);
        self.change(Which::Publisher, |s| {
            if let Some(stream) = s.rtc.direct_api().stream_tx_by_mid(mid, None) {
                stream.write_rtp(write);
            }
        });
        self.settle(now);
    }

    /// The microphone is off, or on again.
    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
        if let Some(sid) = self.track.clone() {
            self.say(Request::Mute(proto::MuteTrackRequest { sid, muted }));
        }
    }

    /// Raises the hand, or takes it down.
    pub fn raise_hand(&mut self, up: bool) {
        let value = if up { "1" } else { "" };
        let attributes = HashMap::from([("hand".to_owned(), value.to_owned())]);
        self.say(Request::UpdateMetadata(proto::UpdateParticipantMetadata { attributes, ..Default::default() }));
    }

    /// Says something to everybody. False when there is no way for it yet.
    pub fn chat(&mut self, now: Instant, text: &str) -> bool {
        let Some(own) = self.own.as_ref().map(|o| o.identity.clone()) else { return false };
        let user = proto::UserPacket { payload: text.as_bytes().to_vec(), topic: Some("chat".into()), ..Default::default() };
        let inner = proto::EncryptedPacketPayload { value: Some(proto::encrypted_packet_payload::Value::User(user)) };
        let iv = self.iv.next();
        let Some(sealed) = self.keys.seal_data(&own, &inner.encode_to_vec(), iv, now) else { return false };
        self.data += 1;
        let packet = proto::DataPacket {
            sequence: self.data,
            value: Some(proto::data_packet::Value::EncryptedPacket(proto::EncryptedPacket {
                encrypted_value: sealed.text,
                iv: sealed.iv,
                key_index: u32::from(sealed.index),
                ..Default::default()
            })),
            ..Default::default()
        };
        let bytes = packet.encode_to_vec();
        let written = self.change(Which::Publisher, |s| {
            let [Some(id), _] = s.channels else { return false };
            s.rtc.channel(id).is_some_and(|mut c| c.write(true, &bytes).is_ok_and(|w| w))
        });
        self.settle(now);
        written
    }

    /// The secret of a new epoch.
    pub fn add_epoch(&mut self, epoch: u64, secret: zeroize::Zeroizing<Vec<u8>>, now: Instant) {
        self.keys.add_epoch(epoch, secret, now);
        self.garbled.clear();
    }

    /// The network is another, or the signalling was away: paths are looked for anew.
    pub fn restart(&mut self, now: Instant) {
        if self.pending.is_some() && self.adds {
            // Nobody knows whether the unit has taken it; a second one would not fit either way.
            self.out.push_back(Out::Over(proto::DisconnectReason::UnknownReason, Next::Rejoin));
        } else if self.voice.is_some() {
            self.offer(now, true);
        }
        self.settle(now);
    }

    /// Goes.
    pub fn leave(&mut self) {
        self.say(Request::Leave(proto::LeaveRequest {
            reason: proto::DisconnectReason::ClientInitiated as i32,
            action: proto::leave_request::Action::Disconnect as i32,
            ..Default::default()
        }));
    }

    // Outputs.

    /// What is next; nothing when all is said.
    pub fn poll_output(&mut self) -> Option<Out> {
        self.out.pop_front()
    }

    /// When it wants to hear the time.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        // When its silence will be too long, as long as that is not known.
        let due = |s: &Side| if self.told_up { s.due.min(s.heard + SILENT) } else { s.due };
        let due = due(&self.publisher).min(due(&self.subscriber)).min(self.ping);
        self.mend.map_or(due, |at| due.min(at))
    }

    /// Both paths stand.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.told_up
    }

    /// Names our stay when the signalling is taken up again.
    #[must_use]
    pub fn sid(&self) -> Option<&str> {
        self.own.as_ref().map(|o| o.sid.as_str())
    }

    /// The keys, for a core that comes after this one.
    #[must_use]
    pub fn into_keys(self) -> Keys {
        self.keys
    }

    // Inside.

    fn side(&mut self, which: Which) -> &mut Side {
        match which {
            Which::Publisher => &mut self.publisher,
            Which::Subscriber => &mut self.subscriber,
        }
    }

    /// Changes a connection and takes everything it says.
    fn change<T>(&mut self, which: Which, f: impl FnOnce(&mut Side) -> T) -> T {
        let side = match which {
            Which::Publisher => &mut self.publisher,
            Which::Subscriber => &mut self.subscriber,
        };
        let value = f(side);
        loop {
            match side.rtc.poll_output() {
                Ok(Output::Timeout(at)) => {
                    side.due = at;
                    return value;
                }
                Ok(Output::Transmit(t)) => self.out.push_back(Out::Transmit(which, t)),
                Ok(Output::Event(e)) => self.events.push_back((which, e)),
                Err(cause) => {
                    // Whoever drives this sees that it is not up, and begins anew.
                    tracing::debug!(%cause, "a connection to the room failed");
                    side.due += Duration::from_secs(3_600);
                    (side.up, side.ready) = (false, false);
                    if std::mem::take(&mut self.told_up) {
                        self.out.push_back(Out::Interrupted);
                    }
                    return value;
                }
            }
        }
    }

    fn settle(&mut self, now: Instant) {
        while let Some((which, event)) = self.events.pop_front() {
            self.on_event(now, which, event);
        }
    }

    fn say(&mut self, message: Request) {
        self.out.push_back(Out::Signal(Box::new(proto::SignalRequest { message: Some(message) })));
    }

    fn on_event(&mut self, now: Instant, which: Which, event: Event) {
        match event {
            Event::Connected => {
                self.side(which).ready = true;
                self.path(now, which, true);
            }
            Event::IceConnectionStateChange(IceConnectionState::Disconnected) => self.path(now, which, false),
            Event::IceConnectionStateChange(s) if s.is_connected() && self.side(which).ready => self.path(now, which, true),
            Event::PeerStats(s) => self.measured(which, &s),
            Event::KeyframeRequest(r) if which == Which::Publisher => self.key_needed(r.mid, r.rid),
            Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. }) => self.out.push_back(Out::Carries(estimate.as_u64())),
            Event::RtpPacket(p) if which == Which::Subscriber => self.on_packet(now, &p),
            Event::ChannelOpen(id, label) => {
                if let Some(slot) = CHANNELS.iter().position(|l| *l == label)
                    && let Some(channel) = self.side(which).channels.get_mut(slot)
                {
                    *channel = Some(id);
                }
            }
            Event::ChannelData(d) if which == Which::Subscriber => self.on_data(now, &d.data),
            _ => {}
        }
    }

    fn on_packet(&mut self, now: Instant, p: &str0m::rtp::RtpPacket) {
        let Some(mid) = self.subscriber.rtc.direct_api().stream_rx(&p.header.ssrc).map(|s| s.mid()) else { return };
        let Some(media) = self.subscriber.rtc.media(mid) else { return };
        let picture = media.kind().is_video();
        let (owner, sid) = media.stream_id().split_once('|').map_or((media.stream_id(), media.track_id()), |(o, t)| (o, t));
        let Some(person) = self.people.get(owner) else { return };
        let Some(track) = person.tracks.iter().find(|t| t.sid == sid) else { return };
        let identity = person.identity.clone();
        let encrypted = track.encryption() == proto::encryption::Type::Gcm;
        if picture {
            let source = Source { identity, screen: pictures::is_screen(track) };
            self.on_picture(now, mid, source, encrypted, p);
            return;
        }
        if p.payload.is_empty() {
            return;
        }
        match self.keys.open(Kind::Audio, &identity, &p.payload, now) {
            Ok(opus) if encrypted => {
                self.opens(&identity, MediaOf::Sound);
                self.out.push_back(Out::Voice(identity, p.header.timestamp, opus));
            }
            _ => self.does_not_open(&identity, MediaOf::Sound),
        }
    }

    /// Told once for each sender, however much of theirs does not open.
    fn does_not_open(&mut self, identity: &str, what: MediaOf) {
        let first = !self.garbled.iter().any(|(i, _)| i == identity);
        self.garbled.insert((identity.to_owned(), what));
        if first {
            self.out.push_back(Out::Garbled(identity.to_owned()));
        }
    }

    fn opens(&mut self, identity: &str, what: MediaOf) {
        let was = self.garbled.remove(&(identity.to_owned(), what));
        if was && !self.garbled.iter().any(|(i, _)| i == identity) {
            self.out.push_back(Out::Opens(identity.to_owned()));
        }
    }

    fn on_data(&mut self, now: Instant, bytes: &[u8]) {
        let Ok(packet) = proto::DataPacket::decode(bytes) else { return };
        let Some(proto::data_packet::Value::EncryptedPacket(e)) = packet.value else { return };
        let identity = packet.participant_identity;
        let sealed = SealedData { text: e.encrypted_value, iv: e.iv, index: u8::try_from(e.key_index).unwrap_or(u8::MAX) };
        let Ok(text) = self.keys.open_data(&identity, &sealed, now) else {
            self.does_not_open(&identity, MediaOf::Chat);
            return;
        };
        self.opens(&identity, MediaOf::Chat);
        let Ok(inner) = proto::EncryptedPacketPayload::decode(text.as_slice()) else { return };
        if let Some(proto::encrypted_packet_payload::Value::User(u)) = inner.value
            && u.topic.as_deref() == Some("chat")
            && let Ok(text) = String::from_utf8(u.payload)
        {
            self.out.push_back(Out::Chat(identity, text));
        }
    }
}
