//! What the connections say: packets on their way, requests for key frames, estimates, data.

use crate::forward::{Incoming, Picture, patch};
use crate::model::SessionId;
use crate::peers::{PeerKey, Role, TrackKey};
use crate::sfu::{DownKey, Sfu};
use livekit_protocol as proto;
use prost::Message as _;
use std::time::{Duration, Instant};
use str0m::Event;
use str0m::bwe::BweKind;
use str0m::channel::ChannelData;
use str0m::media::{KeyframeRequestKind, Mid};
use str0m::rtp::{ExtensionValues, RtpPacket, RtpWrite, Vp8Descriptor};

/// A publisher is asked for a key frame at most this often per layer.
const KEY_FRAMES: Duration = Duration::from_millis(250);
/// Streams of one publisher that are remembered.
const STREAMS: usize = 64;
/// Largest data packet that is passed on.
const DATA: usize = 64 * 1024;

impl Sfu {
    pub(crate) fn on_event(&mut self, now: Instant, key: PeerKey, event: Event) {
        match event {
            Event::RtpPacket(p) => self.on_packet(now, key, &p),
            Event::KeyframeRequest(r) => {
                if let Some(down) = self.by_mid.get(&(key, r.mid)).copied() {
                    self.ask_for_key_frame(now, down);
                }
            }
            Event::Connected => self.on_connected(now, key),
            Event::ChannelOpen(id, label) => {
                if let Some(p) = self.peers.get_mut(key)
                    && let Some(slot) = crate::room::CHANNELS.iter().position(|l| *l == label)
                    && let Some(channel) = p.channels.get_mut(slot)
                {
                    *channel = Some(id);
                }
            }
            Event::ChannelData(data) => self.on_data(key, data),
            Event::EgressBitrateEstimate(BweKind::Twcc { estimate, .. } | BweKind::Remb { estimate, .. }) => {
                if let Some(s) = self.peers.get(key).map(|p| p.session).and_then(|s| self.sessions.get_mut(&s)) {
                    s.estimate = estimate.as_u64();
                }
            }
            Event::MediaIngressStats(s) => self.on_loss(key, Role::Publisher, s.loss),
            Event::MediaEgressStats(s) => self.on_loss(key, Role::Subscriber, s.loss),
            _ => {}
        }
    }

    fn on_loss(&mut self, key: PeerKey, role: Role, loss: Option<f32>) {
        let Some(s) = self.peers.get(key).map(|p| p.session).and_then(|s| self.sessions.get_mut(&s)) else { return };
        let [up, down] = &mut s.loss;
        let losses = if role == Role::Publisher { up } else { down };
        // A stream on which nothing was sent tells nothing.
        loss.iter().for_each(|l| losses.add(*l));
    }

    fn on_connected(&mut self, now: Instant, key: PeerKey) {
        let Some(p) = self.peers.get_mut(key) else { return };
        p.connected = true;
        let (role, session) = (p.role, p.session);
        if role == Role::Subscriber {
            self.allot(now, session);
            for d in self.sessions.get(&session).map(|s| s.downs.clone()).unwrap_or_default() {
                self.ask_for_key_frame(now, d);
            }
        }
    }

    /// Which layer of which track it is: looked up once for each stream.
    fn place(&mut self, key: PeerKey, p: &RtpPacket) -> Option<(TrackKey, usize)> {
        let ssrc = p.header.ssrc;
        let peer = self.peers.get_mut(key)?;
        if let Some(known) = peer.streams.get(&ssrc) {
            return Some(*known);
        }
        let session = peer.session;
        // Only looks; nothing is said because of it.
        let (mid, rid) = peer.rtc.direct_api().stream_rx(&ssrc).map(|s| (s.mid(), s.rid()))?;
        let track = self.sessions.get(&session)?.tracks.iter().copied().find(|t| self.tracks.get(t).is_some_and(|t| t.mid == Some(mid)))?;
        let layers = &self.tracks.get(&track)?.layers;
        let layer = match rid {
            Some(rid) => layers.iter().position(|l| l.rid == Some(rid))?,
            None => 0,
        };
        let streams = &mut self.peers.get_mut(key)?.streams;
        if streams.len() >= STREAMS {
            streams.clear();
        }
        streams.insert(ssrc, (track, layer));
        Some((track, layer))
    }

    fn on_packet(&mut self, now: Instant, key: PeerKey, p: &RtpPacket) {
        let Some((track_key, layer)) = self.place(key, p) else { return };
        let Some(track) = self.tracks.get_mut(&track_key) else { return };
        let Some(l) = track.layers.get_mut(layer) else { return };
        l.bytes += p.payload.len() as u64 + 40;
        l.last = Some(now);
        let video = track.kind.is_video();
        if let Some(level) = p.header.ext_vals.audio_level.filter(|_| !video) {
            track.voice.on_packet(level, now);
        }
        if track.info.muted || p.payload.is_empty() {
            return;
        }
        let vp8 = if video { Vp8Descriptor::parse(&p.payload).ok() } else { None };
        let incoming = Incoming {
            layer,
            seq: *p.seq_no,
            time: p.header.timestamp,
            picture: vp8.as_ref().map(Picture::of),
            start: vp8.as_ref().is_some_and(|d| d.starts_keyframe(&p.payload)),
        };
        let seen = &p.header.ext_vals;
        let ext = ExtensionValues {
            audio_level: seen.audio_level,
            voice_activity: seen.voice_activity,
            video_orientation: seen.video_orientation,
            ..Default::default()
        };
        // The list is taken out for the loop, and put back: nothing in it changes who is subscribed.
        let downs = std::mem::take(&mut track.downs);
        for key in &downs {
            self.forward(now, *key, incoming, p, vp8.as_ref(), &ext);
        }
        if let Some(track) = self.tracks.get_mut(&track_key) {
            track.downs = downs;
        }
    }

    fn forward(
        &mut self,
        now: Instant,
        key: DownKey,
        incoming: Incoming,
        p: &RtpPacket,
        vp8: Option<&Vp8Descriptor>,
        ext: &ExtensionValues,
    ) {
        let Some(down) = self.downs.get_mut(&key) else { return };
        let (Some(mid), Some(pt)) = (down.mid, down.pt) else { return };
        let Some(out) = down.forward.pass(incoming, now) else { return };
        let mut write = RtpWrite::new(pt, out.seq.into(), out.time, p.timestamp, p.payload.clone())
            .marker(p.header.marker)
            .ext_vals(ext.clone())
            .nackable(vp8.is_some());
        if let (Some(d), Some(picture)) = (vp8, out.picture)
            && let Some(patch) = patch(d, picture)
        {
            write = write.vp8_patch(patch);
        }
        let peer = down.peer;
        self.peers.write(now, peer, mid, write);
        self.count();
    }

    /// Asks the publisher for a key frame of the layer a receiver waits for, or has.
    pub(crate) fn ask_for_key_frame(&mut self, now: Instant, down: DownKey) {
        let Some(d) = self.downs.get(&down) else { return };
        let Some(wanted) = d.forward.waits_for().or_else(|| d.forward.current()) else { return };
        let Some(track) = self.tracks.get_mut(&d.track).filter(|t| t.kind.is_video()) else { return };
        let (Some(mid), session) = (track.mid, track.session) else { return };
        let Some(layer) = track.layers.get_mut(wanted) else { return };
        if layer.asked.is_some_and(|at| now.saturating_duration_since(at) < KEY_FRAMES) {
            return;
        }
        layer.asked = Some(now);
        let rid = layer.rid;
        let Some(publisher) = self.sessions.get(&session).map(|s| s.publisher) else { return };
        self.request(publisher, mid, rid);
    }

    fn request(&mut self, publisher: PeerKey, mid: Mid, rid: Option<str0m::media::Rid>) {
        self.peers.change(publisher, |p| {
            if let Some(stream) = p.rtc.direct_api().stream_rx_by_mid(mid, rid) {
                stream.request_keyframe(KeyframeRequestKind::Pli);
            }
        });
    }

    // Data.

    fn on_data(&mut self, key: PeerKey, data: ChannelData) {
        let Some(peer) = self.peers.get(key) else { return };
        let (session, lossy) = (peer.session, peer.channels.get(1) == Some(&Some(data.id)));
        let Some(s) = self.sessions.get(&session).filter(|s| s.grants.data) else { return };
        if data.data.len() > DATA {
            return;
        }
        let Ok(mut packet) = proto::DataPacket::decode(data.data.as_slice()) else { return };
        packet.participant_sid.clone_from(&s.sid);
        packet.participant_identity.clone_from(&s.identity);
        let to = std::mem::take(&mut packet.destination_identities);
        let bytes = packet.encode_to_vec();
        let receivers: Vec<SessionId> = self
            .others(session)
            .into_iter()
            .filter(|o| to.is_empty() || self.sessions.get(o).is_some_and(|s| to.contains(&s.identity)))
            .collect();
        for o in receivers {
            self.send_data(o, lossy, &bytes);
        }
    }

    fn send_data(&mut self, session: SessionId, lossy: bool, bytes: &[u8]) {
        let Some(key) = self.sessions.get(&session).map(|s| s.subscriber) else { return };
        let written = self.peers.change(key, |p| {
            let id = (*p.channels.get(usize::from(lossy))?)?;
            p.rtc.channel(id)?.write(true, bytes).ok()
        });
        if written.flatten() != Some(true) {
            tracing::debug!(session, "a data packet found no room");
        }
    }
}
