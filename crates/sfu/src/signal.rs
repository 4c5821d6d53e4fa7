//! What participants say on their signalling connection.

use crate::model::{Event, LeaveReason, SessionId};
use crate::room::clip;
use crate::sdp;
use crate::sfu::Sfu;
use livekit_protocol as proto;
use proto::signal_request::Message as Request;
use proto::signal_response::Message;
use std::time::Instant;
use str0m::Candidate;
use str0m::change::SdpOffer;

/// Largest description, in bytes, and most attributes.
const SDP: usize = 256 * 1024;
const ATTRIBUTES: usize = 16;
/// Tracks named in one message.
const SIDS: usize = 512;

impl Sfu {
    pub(crate) fn on_signal(&mut self, now: Instant, session: SessionId, message: Request) {
        if !self.sessions.contains_key(&session) {
            return;
        }
        match message {
            Request::Offer(d) => self.on_offer(session, &d),
            Request::Answer(d) if d.sdp.len() > SDP || !sdp::numbers_are_sane(&d.sdp) => {
                tracing::debug!(session, "an answer that makes no sense")
            }
            Request::Answer(d) => self.answered(now, session, &d),
            Request::Trickle(t) => self.on_candidate(session, &t),
            Request::AddTrack(t) => self.add_track(session, t),
            Request::Mute(m) => {
                if let Some(track) = self.own_track(session, &m.sid) {
                    self.set_muted(session, track, m.muted);
                }
            }
            Request::Subscription(s) => self.on_subscription(session, &s),
            Request::TrackSetting(t) => self.on_settings(now, session, &t),
            Request::Leave(_) => self.part(session, LeaveReason::Left),
            Request::SyncState(s) => self.on_sync(session, &s),
            Request::Ping(at) => self.send(session, Message::Pong(at)),
            Request::PingReq(p) => {
                let timestamp = self.unix_ms(now);
                self.send(session, Message::Pong(timestamp));
                self.send(session, Message::PongResp(proto::Pong { last_ping_timestamp: p.timestamp, timestamp }));
            }
            Request::UpdateMetadata(m) => self.on_metadata(session, m),
            // Of no use here: dynamic layers are measured, everybody may subscribe to everybody, data tracks are not taken.
            _ => tracing::debug!(session, "a request that is not served"),
        }
    }

    fn on_offer(&mut self, session: SessionId, d: &proto::SessionDescription) {
        let Some(key) = self.sessions.get(&session).map(|s| s.publisher) else { return };
        if d.sdp.len() > SDP || !sdp::numbers_are_sane(&d.sdp) {
            tracing::debug!(session, "an offer that makes no sense");
            return;
        }
        let Ok(offer) = SdpOffer::from_sdp_string(&d.sdp) else {
            tracing::debug!(session, "an offer that is none");
            return;
        };
        let sections = sdp::sections(&d.sdp);
        let answer = match self.peers.accept_offer(key, offer) {
            Some(Ok(answer)) => answer,
            Some(Err(cause)) => {
                tracing::debug!(session, %cause, "an offer was refused");
                return;
            }
            None => return,
        };
        self.bind(session, &sections, &d.mid_to_track_id);
        let tracks = self.sessions.get(&session).map(|s| s.tracks.as_slice()).unwrap_or_default();
        let of = |t: &crate::sfu::Track| t.mid.map(|m| (m.to_string(), t.info.sid.clone()));
        let mid_to_track_id = tracks.iter().filter_map(|t| self.tracks.get(t).and_then(of)).collect();
        let description = proto::SessionDescription { r#type: "answer".into(), sdp: answer.to_sdp_string(), id: d.id, mid_to_track_id };
        self.send(session, Message::Answer(description));
    }

    fn on_candidate(&mut self, session: SessionId, t: &proto::TrickleRequest) {
        let Some(s) = self.sessions.get(&session) else { return };
        let key = match t.target() {
            proto::SignalTarget::Publisher => s.publisher,
            proto::SignalTarget::Subscriber => s.subscriber,
        };
        let Ok(init) = serde_json::from_str::<serde_json::Value>(&t.candidate_init) else { return };
        let Some(text) = init.get("candidate").and_then(|c| c.as_str()).filter(|c| !c.is_empty()) else { return };
        // Names of the local network are nobody's address here; the other side's checks show where it is.
        let Ok(candidate) = Candidate::from_sdp_string(text) else { return };
        self.peers.change(key, |p| p.rtc.add_remote_candidate(candidate));
    }

    fn own_track(&self, session: SessionId, sid: &str) -> Option<u64> {
        self.sessions.get(&session)?.tracks.iter().copied().find(|t| self.tracks.get(t).is_some_and(|t| t.info.sid == sid))
    }

    fn track_in_room(&self, session: SessionId, sid: &str) -> Option<u64> {
        self.others(session).into_iter().find_map(|o| self.own_track(o, sid))
    }

    fn on_subscription(&mut self, session: SessionId, s: &proto::UpdateSubscription) {
        let sids = s.track_sids.iter().chain(s.participant_tracks.iter().flat_map(|p| &p.track_sids)).take(SIDS);
        let tracks: Vec<u64> = sids.filter_map(|sid| self.track_in_room(session, sid)).collect();
        for t in tracks {
            if s.subscribe {
                self.subscribe(session, t);
            } else if let Some(d) = self.down_of(session, t) {
                self.forget_down(d);
            }
        }
        self.negotiate(session);
    }

    fn down_of(&self, session: SessionId, track: u64) -> Option<u64> {
        self.sessions.get(&session)?.downs.iter().copied().find(|d| self.downs.get(d).is_some_and(|d| d.track == track))
    }

    fn on_settings(&mut self, now: Instant, session: SessionId, t: &proto::UpdateTrackSettings) {
        for sid in t.track_sids.iter().take(SIDS) {
            let Some(track) = self.track_in_room(session, sid) else { continue };
            let Some(down) = self.down_of(session, track) else { continue };
            let Some(best) = self.tracks.get(&track).map(|tr| best_layer(&tr.info, tr.layers.len(), t)) else { continue };
            if let Some(d) = self.downs.get_mut(&down) {
                d.disabled = t.disabled;
                d.best = best;
                let audio = self.tracks.get(&track).is_some_and(|t| t.kind.is_audio());
                if audio {
                    d.forward.aim((!t.disabled).then_some(0));
                }
            }
        }
        self.allot(now, session);
    }

    /// After a break: what the client has, and what it does not want.
    fn on_sync(&mut self, session: SessionId, s: &proto::SyncState) {
        if let Some(subscription) = &s.subscription {
            self.on_subscription(session, subscription);
        }
        for sid in s.track_sids_disabled.iter().take(SIDS) {
            let down = self.track_in_room(session, sid).and_then(|t| self.down_of(session, t));
            if let Some(d) = down.and_then(|d| self.downs.get_mut(&d)) {
                d.disabled = true;
            }
        }
    }

    fn on_metadata(&mut self, session: SessionId, m: proto::UpdateParticipantMetadata) {
        let Some(s) = self.sessions.get_mut(&session) else { return };
        let allowed = s.grants.update_metadata && m.attributes.len() <= ATTRIBUTES;
        if allowed {
            if !m.name.is_empty() {
                s.name = clip(m.name);
            }
            if !m.metadata.is_empty() {
                s.metadata = clip(m.metadata);
            }
            for (k, v) in m.attributes {
                let k = clip(k);
                if v.is_empty() {
                    s.attributes.remove(&k);
                } else if s.attributes.contains_key(&k) || s.attributes.len() < ATTRIBUTES {
                    s.attributes.insert(k, clip(v));
                }
            }
            let event = Event::Attributes { room: s.room.clone(), identity: s.identity.clone(), attributes: s.attributes.clone() };
            self.tell(event);
        }
        let reason = if allowed { proto::request_response::Reason::Ok } else { proto::request_response::Reason::NotAllowed };
        let answer = proto::RequestResponse { request_id: m.request_id, reason: reason as i32, ..Default::default() };
        self.send(session, Message::RequestResponse(answer));
        if allowed {
            self.changed(session);
        }
    }
}

/// The largest layer that is of use: by the size it is shown at, else by the quality that is asked for.
#[allow(deprecated)] // What the publisher said of its layers.
fn best_layer(info: &proto::TrackInfo, layers: usize, t: &proto::UpdateTrackSettings) -> usize {
    let most = layers.saturating_sub(1);
    if t.width > 0 && t.height > 0 {
        let mut sizes: Vec<_> = info.layers.iter().map(|l| (l.width, l.height)).collect();
        sizes.sort_unstable();
        // A layer that is a little smaller than the place does as well.
        let enough = |(w, h): &(u32, u32)| w.saturating_add(w / 4) >= t.width || h.saturating_add(h / 4) >= t.height;
        return sizes.iter().position(enough).unwrap_or(most).min(most);
    }
    match t.quality() {
        proto::VideoQuality::Low => 0,
        proto::VideoQuality::Medium => 1.min(most),
        proto::VideoQuality::High => most,
        proto::VideoQuality::Off => 0,
    }
}
