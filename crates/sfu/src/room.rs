//! Coming in, coming back, going; publishing and subscribing.

use crate::forward::Forward;
use crate::model::{Event, Join, LeaveReason, Output, SessionId};
use crate::peers::{PeerKey, Role, TrackKey};
use crate::sdp::Section;
use crate::sfu::{Down, DownKey, Layer, Room, Session, Sfu, Track};
use crate::speakers::Voice;
use livekit_protocol as proto;
use proto::signal_response::Message;
use std::collections::BTreeSet;
use std::time::Instant;
use str0m::bwe::Bitrate;
use str0m::change::SdpAnswer;
use str0m::channel::{ChannelConfig, Reliability};
use str0m::media::{Direction, MediaKind, Mid, Rid};
use str0m::{Rtc, format::Codec};

/// Signalling is pinged that often, and given up after the second figure: seconds.
const PING: (i32, i32) = (5, 15);
/// LiveKit's protocol that is spoken here.
pub(crate) const PROTOCOL: i32 = 16;
/// The version of LiveKit's server whose behaviour this is: its SDKs choose by it.
const VERSION: &str = "1.9.0";
/// The label of each data channel.
pub(crate) const CHANNELS: [&str; 2] = ["_reliable", "_lossy"];

impl Sfu {
    fn rtc(&self, role: Role, now: Instant) -> Rtc {
        let builder = Rtc::builder()
            .set_ice_lite(true)
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .set_stats_interval(Some(std::time::Duration::from_secs(2)))
            // A change of layer is answered by a key frame, never by what was sent long ago.
            .set_send_buffer_video(600);
        match role {
            Role::Publisher => builder.build(now),
            Role::Subscriber => builder.enable_bwe(Some(Bitrate::bps(self.config.first_estimate))).build(now),
        }
    }

    pub(crate) fn enter(&mut self, now: Instant, join: Join) -> SessionId {
        if let Some(before) = self.find(&join.room, &join.identity, None) {
            self.part(before, LeaveReason::Replaced);
        }
        let session = self.id();
        let sid = self.sid("PA");
        let candidates = self.candidates.clone();
        let publisher = self.peers.add(self.rtc(Role::Publisher, now), session, Role::Publisher, &candidates, now);
        let subscriber = self.peers.add(self.rtc(Role::Subscriber, now), session, Role::Subscriber, &candidates, now);
        let joined_ms = self.unix_ms(now);
        if !self.rooms.contains_key(&join.room) {
            let room = Room { sid: self.sid("RM"), sessions: BTreeSet::new(), speaking: Vec::new(), opened_ms: joined_ms };
            self.rooms.insert(join.room.clone(), room);
        }
        if let Some(room) = self.rooms.get_mut(&join.room) {
            room.sessions.insert(session);
        }
        let Join { room, identity, name, metadata, attributes, grants, auto_subscribe, ice_servers, most: _ } = join;
        let entered = Session {
            room: room.clone(),
            sid,
            identity: identity.clone(),
            name,
            metadata,
            attributes,
            grants,
            auto_subscribe,
            ice_servers,
            publisher,
            subscriber,
            joined_ms,
            version: 1,
            offers: 0,
            silent: None,
            estimate: self.config.first_estimate,
            tracks: Vec::new(),
            downs: Vec::new(),
            loss: Default::default(),
            quality: None,
            told: false,
        };
        self.sessions.insert(session, entered);
        self.welcome(session);
        self.announce(session);
        if self.sessions.get(&session).is_some_and(|s| s.auto_subscribe) {
            let there: Vec<TrackKey> =
                self.others(session).iter().filter_map(|o| self.sessions.get(o)).flat_map(|s| s.tracks.clone()).collect();
            for track in there {
                self.subscribe(session, track);
            }
        }
        self.negotiate(session);
        self.tell(Event::Joined { room, identity, session });
        session
    }

    fn ice_servers(&self, session: SessionId) -> Vec<proto::IceServer> {
        let servers = self.sessions.get(&session).map(|s| s.ice_servers.as_slice()).unwrap_or_default();
        let wire = |s: &crate::IceServer| proto::IceServer {
            urls: s.urls.clone(),
            username: s.username.clone(),
            credential: s.credential.clone(),
        };
        servers.iter().map(wire).collect()
    }

    fn server_info() -> proto::ServerInfo {
        proto::ServerInfo { version: VERSION.into(), protocol: PROTOCOL, node_id: "secureconnect".into(), ..Default::default() }
    }

    fn welcome(&mut self, session: SessionId) {
        let Some(s) = self.sessions.get(&session) else { return };
        let Some(room) = self.describe(&s.room) else { return };
        let others: Vec<_> = self.others(session).into_iter().filter_map(|o| self.shown(o)).collect();
        let join = proto::JoinResponse {
            room: Some(room),
            participant: self.participant(session),
            other_participants: others,
            server_version: VERSION.into(),
            ice_servers: self.ice_servers(session),
            subscriber_primary: true,
            client_configuration: None,
            ping_interval: PING.0,
            ping_timeout: PING.1,
            server_info: Some(Self::server_info()),
            ..Default::default()
        };
        self.send(session, Message::Join(join));
    }

    pub(crate) fn come_back(&mut self, session: SessionId) -> bool {
        let Some(s) = self.sessions.get_mut(&session) else { return false };
        s.silent = None;
        let subscriber = s.subscriber;
        let servers = self.ice_servers(session);
        self.send(
            session,
            Message::Reconnect(proto::ReconnectResponse {
                ice_servers: servers,
                client_configuration: None,
                server_info: Some(Self::server_info()),
                last_message_seq: 0,
            }),
        );
        // Whom the client may have missed.
        let others = self.others(session).into_iter().filter_map(|o| self.shown(o)).collect();
        self.send(session, Message::Update(proto::ParticipantUpdate { participants: others }));
        // An offer that was on its way may be lost: its answer does not come any more.
        self.roll_back(subscriber);
        if let Some(p) = self.peers.get_mut(subscriber) {
            p.restart = true;
        }
        tracing::debug!(session, "back");
        self.negotiate(session);
        true
    }

    pub(crate) fn part(&mut self, session: SessionId, reason: LeaveReason) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (tracks, downs) = (s.tracks.clone(), s.downs.clone());
        if reason != LeaveReason::Left {
            let action = match reason {
                LeaveReason::Restart => proto::leave_request::Action::Reconnect,
                _ => proto::leave_request::Action::Disconnect,
            };
            let leave = proto::LeaveRequest { reason: reason.wire() as i32, action: action as i32, ..Default::default() };
            self.send(session, Message::Leave(leave));
        }
        for t in tracks {
            self.unpublish(t);
        }
        for d in downs {
            self.forget_down(d);
        }
        let gone = self.participant(session).map(|mut p| {
            p.state = proto::participant_info::State::Disconnected as i32;
            p.disconnect_reason = reason.wire() as i32;
            p
        });
        let others = self.others(session);
        let Some(s) = self.sessions.remove(&session) else { return };
        self.peers.remove(s.publisher);
        self.peers.remove(s.subscriber);
        if !s.grants.hidden
            && let Some(gone) = gone
        {
            for o in others {
                self.send(o, Message::Update(proto::ParticipantUpdate { participants: vec![gone.clone()] }));
            }
        }
        if let Some(room) = self.rooms.get_mut(&s.room) {
            room.sessions.remove(&session);
            room.speaking.retain(|x| *x != session);
            if room.sessions.is_empty() {
                self.rooms.remove(&s.room);
            }
        }
        self.out.push_back(Output::Close(session));
        self.tell(Event::Left { room: s.room, identity: s.identity, session, reason });
    }

    // Publishing.

    // Older SDKs read the fields that newer ones have left behind.
    #[allow(deprecated)]
    pub(crate) fn add_track(&mut self, session: SessionId, req: proto::AddTrackRequest) {
        let Some(s) = self.sessions.get(&session) else { return };
        let known = s.tracks.iter().find_map(|t| self.tracks.get(t).filter(|t| t.cid == req.cid || t.info.sid == req.sid));
        if let Some(known) = known {
            let track = Some(known.info.clone());
            self.send(session, Message::TrackPublished(proto::TrackPublishedResponse { cid: req.cid, track }));
            return;
        }
        // The name comes back in what everybody is told.
        if req.cid.is_empty() || req.cid.len() > 256 {
            return;
        }
        let Some(kind) = kind(req.r#type) else { return };
        if !s.grants.publish || s.tracks.len() >= self.config.tracks {
            tracing::debug!(session, "may not publish");
            return;
        }
        let sid = self.sid("TR");
        let codec = if kind.is_video() { "video/VP8" } else { "audio/opus" };
        let layers = if kind.is_video() { named(req.layers) } else { Vec::new() };
        let codecs = vec![proto::SimulcastCodecInfo {
            mime_type: codec.into(),
            cid: req.cid.clone(),
            layers: layers.clone(),
            video_layer_mode: proto::video_layer::Mode::OneSpatialLayerPerStream as i32,
            ..Default::default()
        }];
        let info = proto::TrackInfo {
            sid,
            r#type: req.r#type,
            name: clip(req.name),
            muted: req.muted,
            width: req.width,
            height: req.height,
            simulcast: layers.len() > 1,
            disable_dtx: req.disable_dtx,
            source: req.source,
            layers,
            mime_type: codec.into(),
            codecs,
            stereo: req.stereo,
            disable_red: true,
            encryption: req.encryption,
            stream: clip(req.stream),
            ..Default::default()
        };
        let track = Track {
            session,
            info: info.clone(),
            cid: req.cid.clone(),
            kind,
            mid: None,
            layers: Vec::new(),
            voice: Voice::default(),
            downs: Vec::new(),
            wanted: None,
        };
        let key = self.id();
        self.tracks.insert(key, track);
        if let Some(s) = self.sessions.get_mut(&session) {
            s.tracks.push(key);
        }
        self.send(session, Message::TrackPublished(proto::TrackPublishedResponse { cid: req.cid, track: Some(info) }));
    }

    /// After an offer of the publisher: tracks that came, tracks that went.
    pub(crate) fn bind(&mut self, session: SessionId, sections: &[Section], named: &std::collections::HashMap<String, String>) {
        let Some(tracks) = self.sessions.get(&session).map(|s| s.tracks.clone()) else { return };
        let mut changed = false;
        for section in sections.iter().filter(|s| s.kind != "application") {
            let mid = Mid::from(section.mid.as_str());
            let bound = tracks.iter().copied().find(|t| self.tracks.get(t).is_some_and(|t| t.mid == Some(mid)));
            let cid = named.get(&section.mid).or(section.track.as_ref());
            if let Some(bound) = bound {
                let same = self.tracks.get(&bound).is_some_and(|t| cid.is_none_or(|c| *c == t.cid || *c == t.info.sid));
                if section.sends && same {
                    continue;
                }
                self.unpublish(bound);
                changed = true;
            }
            if !section.sends {
                continue;
            }
            let free = |t: &Track| t.mid.is_none() && section.kind == (if t.kind.is_video() { "video" } else { "audio" });
            let same = |t: &Track| free(t) && cid.is_some_and(|c| *c == t.cid || *c == t.info.sid);
            // Firefox names a track otherwise in its description: then the first of its kind that waits.
            let find = |fits: &dyn Fn(&Track) -> bool| tracks.iter().copied().find(|t| self.tracks.get(t).is_some_and(fits));
            let Some(key) = find(&same).or_else(|| find(&free)) else { continue };
            self.settle_track(key, mid, &section.rids);
            changed = true;
            let owner = self.sessions.get(&session);
            if let (Some(t), Some(s)) = (self.tracks.get(&key), owner) {
                let event =
                    Event::Track { room: s.room.clone(), identity: s.identity.clone(), source: t.info.source(), muted: t.info.muted };
                self.tell(event);
            }
            for o in self.others(session) {
                if self.sessions.get(&o).is_some_and(|s| s.auto_subscribe) {
                    self.subscribe(o, key);
                }
            }
        }
        if changed {
            self.changed(session);
            for o in self.others(session) {
                self.negotiate(o);
            }
        }
    }

    fn settle_track(&mut self, key: TrackKey, mid: Mid, rids: &[String]) {
        let Some(t) = self.tracks.get_mut(&key) else { return };
        t.mid = Some(mid);
        t.info.mid = mid.to_string();
        t.layers = if rids.is_empty() {
            vec![Layer::default()]
        } else {
            rids.iter().map(|r| Layer { rid: Some(Rid::from(r.as_str())), ..Layer::default() }).collect()
        };
        if let Some(c) = t.info.codecs.first_mut() {
            c.mid = mid.to_string();
        }
    }

    pub(crate) fn unpublish(&mut self, key: TrackKey) {
        let Some(track) = self.tracks.remove(&key) else { return };
        for d in track.downs {
            let to = self.forget_down(d);
            if let Some(to) = to {
                self.negotiate(to);
            }
        }
        let Some(s) = self.sessions.get_mut(&track.session) else { return };
        s.tracks.retain(|t| *t != key);
        let event = Event::Track { room: s.room.clone(), identity: s.identity.clone(), source: track.info.source(), muted: true };
        let publisher = s.publisher;
        if let Some(p) = self.peers.get_mut(publisher) {
            p.streams.retain(|_, (t, _)| *t != key);
        }
        self.tell(event);
        self.send(track.session, Message::TrackUnpublished(proto::TrackUnpublishedResponse { track_sid: track.info.sid }));
    }

    // Subscribing.

    pub(crate) fn subscribe(&mut self, session: SessionId, track: TrackKey) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (peer, may) = (s.subscriber, s.grants.subscribe);
        let Some(t) = self.tracks.get(&track) else { return };
        if !may || t.session == session || t.mid.is_none() || t.downs.iter().any(|d| s.downs.contains(d)) {
            return;
        }
        let video = t.kind.is_video();
        let mut forward = Forward::new(if video { 90_000 } else { 48_000 }, video);
        if !video {
            forward.aim(Some(0));
        }
        let best = t.layers.len().saturating_sub(1);
        let key = self.id();
        self.downs.insert(key, Down { track, session, peer, mid: None, pt: None, forward, disabled: false, best, paused: false });
        if let Some(t) = self.tracks.get_mut(&track) {
            t.downs.push(key);
        }
        if let Some(s) = self.sessions.get_mut(&session) {
            s.downs.push(key);
        }
        if let Some(p) = self.peers.get_mut(peer) {
            p.stale = true;
        }
    }

    /// Takes a track away from a receiver; who that was. Their next offer is due.
    pub(crate) fn forget_down(&mut self, key: DownKey) -> Option<SessionId> {
        let down = self.downs.remove(&key)?;
        if let Some(t) = self.tracks.get_mut(&down.track) {
            t.downs.retain(|d| *d != key);
        }
        if let Some(s) = self.sessions.get_mut(&down.session) {
            s.downs.retain(|d| *d != key);
        }
        if let Some(p) = self.peers.get_mut(down.peer) {
            p.stale = true;
        }
        // Its section stays known until it is in an offer: see `negotiate`.
        Some(down.session)
    }

    /// Offers a receiver what there is for it now, unless an offer is on its way: then after that.
    pub(crate) fn negotiate(&mut self, session: SessionId) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (key, downs, silent) = (s.subscriber, s.downs.clone(), s.silent.is_some());
        let Some(peer) = self.peers.get(key) else { return };
        let first = peer.channels == [None; 2];
        if peer.pending.is_some() || silent || !(peer.stale || first) {
            return;
        }
        let restart = peer.restart;
        let gone: Vec<Mid> =
            self.by_mid.iter().filter(|((p, _), d)| *p == key && !self.downs.contains_key(d)).map(|((_, m), _)| *m).collect();
        let wanted: Vec<(DownKey, MediaKind, String, String)> = downs
            .iter()
            .filter_map(|d| {
                let down = self.downs.get(d).filter(|d| d.mid.is_none())?;
                let track = self.tracks.get(&down.track)?;
                let owner = self.sessions.get(&track.session)?;
                Some((*d, track.kind, format!("{}|{}", owner.sid, track.info.sid), track.info.sid.clone()))
            })
            .collect();
        let (mut channels, mut mids) = ([None; 2], Vec::new());
        let offer = self.peers.offer(key, |api| {
            if first {
                for (slot, label) in channels.iter_mut().zip(CHANNELS) {
                    *slot = Some(api.add_channel_with_config(channel(label)));
                }
            }
            for mid in &gone {
                api.stop_media(*mid);
            }
            for (down, kind, stream, track) in wanted {
                mids.push((down, api.add_media(kind, Direction::SendOnly, Some(stream), Some(track), None)));
            }
            if restart {
                api.ice_restart(true);
            }
        });
        if let Some(p) = self.peers.get_mut(key) {
            (p.stale, p.restart) = (false, false);
            if first {
                p.channels = channels;
            }
            p.offered = (first, mids.clone());
        }
        for mid in gone {
            self.by_mid.remove(&(key, mid));
        }
        for (down, mid) in mids {
            self.by_mid.insert((key, mid), down);
            if let Some(d) = self.downs.get_mut(&down) {
                d.mid = Some(mid);
            }
        }
        if let Some(offer) = offer {
            let named = self.by_mid.iter().filter(|((p, _), _)| *p == key).filter_map(|((_, mid), d)| {
                let track = self.tracks.get(&self.downs.get(d)?.track)?;
                Some((mid.to_string(), track.info.sid.clone()))
            });
            let mid_to_track_id = named.collect();
            let Some(s) = self.sessions.get_mut(&session) else { return };
            s.offers += 1;
            let description =
                proto::SessionDescription { r#type: "offer".into(), sdp: offer.to_sdp_string(), id: s.offers, mid_to_track_id };
            self.send(session, Message::Offer(description));
        }
    }

    /// The offer on its way is given up: what was new in it has not been offered.
    fn roll_back(&mut self, key: PeerKey) {
        let Some(p) = self.peers.get_mut(key) else { return };
        p.pending = None;
        p.stale = true;
        let (channels, mids) = std::mem::take(&mut p.offered);
        if channels {
            p.channels = [None; 2];
        }
        for (down, mid) in mids {
            self.by_mid.remove(&(key, mid));
            if let Some(d) = self.downs.get_mut(&down) {
                (d.mid, d.pt) = (None, None);
            }
        }
    }

    /// The receiver answered: what it takes may flow.
    pub(crate) fn answered(&mut self, now: Instant, session: SessionId, d: &proto::SessionDescription) {
        let Some(s) = self.sessions.get(&session) else { return };
        // An older answer belongs to an offer that was given up.
        if d.id != 0 && d.id != s.offers {
            return;
        }
        let key = s.subscriber;
        let Ok(answer) = SdpAnswer::from_sdp_string(&d.sdp) else {
            tracing::debug!(session, "an answer that is none");
            return;
        };
        if !self.peers.accept_answer(key, answer) {
            // What was in the offer is in the next one, whenever there is one.
            self.roll_back(key);
            return;
        }
        if let Some(p) = self.peers.get_mut(key) {
            p.offered = (false, Vec::new());
        }
        let downs = self.sessions.get(&session).map(|s| s.downs.clone()).unwrap_or_default();
        for d in downs {
            let Some(down) = self.downs.get_mut(&d) else { continue };
            let (Some(mid), Some(track)) = (down.mid, self.tracks.get(&down.track)) else { continue };
            let codec = if track.kind.is_video() { Codec::Vp8 } else { Codec::Opus };
            // What is forwarded has been paced by whoever sent it; holding it back again would only make it late, one datagram at a time.
            self.peers.change(key, |p| {
                if let Some(stream) = p.rtc.direct_api().stream_tx_by_mid(mid, None) {
                    stream.set_unpaced(true);
                }
            });
            let Some(peer) = self.peers.get(key) else { continue };
            let taken = peer.rtc.media(mid).is_some_and(|m| m.direction().is_sending());
            down.pt = peer
                .rtc
                .codec_config()
                .params()
                .iter()
                .find(|p| p.spec().codec == codec)
                .map(str0m::format::PayloadParams::pt)
                .filter(|_| taken);
        }
        self.allot(now, session);
        if self.peers.get(key).is_some_and(|p| p.stale) {
            self.negotiate(session);
        }
    }

    pub(crate) fn silence(&mut self, session: SessionId, source: proto::TrackSource) {
        let Some(s) = self.sessions.get(&session) else { return };
        let found = s.tracks.iter().copied().filter(|t| self.tracks.get(t).is_some_and(|t| t.info.source() == source)).collect::<Vec<_>>();
        for t in found {
            let Some(sid) = self.tracks.get(&t).map(|t| t.info.sid.clone()) else { continue };
            self.send(session, Message::Mute(proto::MuteTrackRequest { sid, muted: true }));
            self.set_muted(session, t, true);
        }
    }

    pub(crate) fn set_muted(&mut self, session: SessionId, track: TrackKey, muted: bool) {
        let Some(t) = self.tracks.get_mut(&track).filter(|t| t.session == session && t.info.muted != muted) else { return };
        t.info.muted = muted;
        let downs = if muted { t.downs.clone() } else { Vec::new() };
        let source = t.info.source();
        for d in downs {
            if let Some(d) = self.downs.get_mut(&d) {
                d.forward.pause();
            }
        }
        if let Some(s) = self.sessions.get(&session) {
            let event = Event::Track { room: s.room.clone(), identity: s.identity.clone(), source, muted };
            self.tell(event);
        }
        self.changed(session);
    }
}

/// The layers with the names their streams have, smallest first.
fn named(mut layers: Vec<proto::VideoLayer>) -> Vec<proto::VideoLayer> {
    layers.truncate(3);
    layers.sort_by_key(|l| l.width);
    for ((spatial, rid), l) in (0..).zip(["q", "h", "f"]).zip(&mut layers) {
        l.spatial_layer = spatial;
        rid.clone_into(&mut l.rid);
    }
    layers
}

fn channel(label: &str) -> ChannelConfig {
    let lossy = label == "_lossy";
    ChannelConfig {
        label: label.to_owned(),
        ordered: !lossy,
        reliability: if lossy { Reliability::MaxRetransmits { retransmits: 0 } } else { Reliability::Reliable },
        ..Default::default()
    }
}

fn kind(wire: i32) -> Option<MediaKind> {
    match proto::TrackType::try_from(wire) {
        Ok(proto::TrackType::Audio) => Some(MediaKind::Audio),
        Ok(proto::TrackType::Video) => Some(MediaKind::Video),
        _ => None,
    }
}

/// Names are shown, not stored: nobody needs more than this.
pub(crate) fn clip(text: String) -> String {
    if text.len() <= 256 { text } else { text.chars().take(64).collect() }
}
