//! What a participant says to the unit and hears from it: descriptions of the two connections, and who is inside.

use super::{CHANNELS, Core, Next, Out, Person, Request, Which};
use livekit_protocol as proto;
use sc_calls::Shown;
use std::time::Instant;
use str0m::Candidate;
use str0m::change::{SdpAnswer, SdpOffer};
use str0m::channel::{ChannelConfig, Reliability};
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind};

impl Core {
    pub(super) fn joined(&mut self, j: proto::JoinResponse) {
        self.own = j.participant;
        self.people = j.other_participants.into_iter().map(|p| (p.sid.clone(), p)).collect();
        self.tell_people();
        self.say(Request::AddTrack(proto::AddTrackRequest {
            cid: self.cid.clone(),
            name: "voice".into(),
            r#type: proto::TrackType::Audio as i32,
            source: proto::TrackSource::Microphone as i32,
            muted: self.muted,
            disable_red: true,
            encryption: proto::encryption::Type::Gcm as i32,
            ..Default::default()
        }));
    }

    /// The signalling is back: what was said meanwhile is repeated, and paths are looked for anew.
    pub(super) fn back(&mut self, now: Instant) {
        self.say(Request::SyncState(proto::SyncState::default()));
        self.asked.clear();
        self.ask_for_pictures();
        // Asked or answered while nobody listened: the unit says the same once more.
        self.shown.values_mut().filter(|c| c.track.is_none()).for_each(|c| c.asked = false);
        self.publish_pictures();
        if self.track.is_some() {
            self.mute(self.muted);
        }
        for what in [Shown::Camera, Shown::Screen] {
            self.tell_hidden(what);
        }
        self.restart(now);
    }

    pub(super) fn offer(&mut self, now: Instant, restart: bool) {
        if self.pending.is_some() && !restart {
            self.again = true;
            return;
        }
        let first = self.voice.is_none();
        let cid = self.cid.clone();
        let mut mid = None;
        let fresh = self.shown.iter().filter(|(_, c)| c.track.is_some() && c.media.is_none());
        let fresh: Vec<_> = fresh.map(|(what, c)| (*what, c.cid.clone(), c.simulcast())).collect();
        let mut sections = Vec::new();
        let made = self.change(Which::Publisher, |s| {
            let mut api = s.rtc.sdp_api();
            if first {
                mid = Some(api.add_media(MediaKind::Audio, Direction::SendOnly, Some("room".into()), Some(cid), None));
                for (slot, label) in s.channels.iter_mut().zip(CHANNELS) {
                    let lossy = label == CHANNELS[1];
                    let reliability = if lossy { Reliability::MaxRetransmits { retransmits: 0 } } else { Reliability::Reliable };
                    *slot = Some(api.add_channel_with_config(ChannelConfig {
                        label: label.into(),
                        ordered: !lossy,
                        reliability,
                        ..Default::default()
                    }));
                }
            }
            for (what, cid, layers) in fresh {
                sections.push((what, api.add_media(MediaKind::Video, Direction::SendOnly, Some("room".into()), Some(cid), layers)));
            }
            if restart {
                api.ice_restart(true);
            }
            api.apply()
        });
        let pt = |codec| self.publisher.rtc.codec_config().params().iter().find(|p| p.spec().codec == codec).map(|p| p.pt());
        if let Some(mid) = mid {
            self.voice = pt(Codec::Opus).map(|pt| (mid, pt));
        }
        let vp8 = pt(Codec::Vp8);
        for (what, mid) in &sections {
            if let Some(c) = self.shown.get_mut(what) {
                c.media = vp8.map(|pt| (*mid, pt));
            }
        }
        let Some((offer, pending)) = made else { return };
        self.pending = Some(pending);
        self.adds = mid.is_some() || !sections.is_empty();
        self.offers += 1;
        self.say(Request::Offer(proto::SessionDescription {
            r#type: "offer".into(),
            sdp: offer.to_sdp_string(),
            id: self.offers,
            ..Default::default()
        }));
        self.settle(now);
    }

    pub(super) fn answered(&mut self, now: Instant, d: &proto::SessionDescription) {
        if d.id != 0 && d.id != self.offers {
            return;
        }
        let (Ok(answer), Some(pending)) = (SdpAnswer::from_sdp_string(&d.sdp), self.pending.take()) else { return };
        let taken = self.change(Which::Publisher, |s| s.rtc.sdp_api().accept_answer(pending, answer));
        if let Err(cause) = taken {
            tracing::warn!(%cause, "the room's answer cannot be used");
            self.out.push_back(Out::Over(proto::DisconnectReason::JoinFailure, Next::Rejoin));
        } else {
            self.adds = false;
            self.begin_to_wait(now);
            self.shown.values_mut().for_each(|c| c.ready = c.media.is_some());
            if std::mem::take(&mut self.again) {
                self.offer(now, false);
            }
        }
        self.settle(now);
    }

    pub(super) fn offered(&mut self, now: Instant, d: &proto::SessionDescription) {
        let Ok(offer) = SdpOffer::from_sdp_string(&d.sdp) else { return };
        let answer = self.change(Which::Subscriber, |s| s.rtc.sdp_api().accept_offer(offer));
        match answer {
            Ok(answer) => {
                let sdp = answer.to_sdp_string();
                self.say(Request::Answer(proto::SessionDescription { r#type: "answer".into(), sdp, id: d.id, ..Default::default() }));
                self.begin_to_wait(now);
                // Of a track that was not offered yet, the unit has heard nothing.
                self.asked.clear();
                self.ask_for_pictures();
            }
            Err(cause) => {
                tracing::warn!(%cause, "the room's offer cannot be used");
                self.out.push_back(Out::Over(proto::DisconnectReason::JoinFailure, Next::Rejoin));
            }
        }
        self.settle(now);
    }

    pub(super) fn candidate(&mut self, t: &proto::TrickleRequest) {
        let which = if t.target() == proto::SignalTarget::Publisher { Which::Publisher } else { Which::Subscriber };
        let init: Option<serde_json::Value> = serde_json::from_str(&t.candidate_init).ok();
        let text = init.as_ref().and_then(|i| i.get("candidate")).and_then(|c| c.as_str());
        if let Some(candidate) = text.and_then(|c| Candidate::from_sdp_string(c).ok()) {
            self.change(which, |s| s.rtc.add_remote_candidate(candidate));
        }
    }

    pub(super) fn update(&mut self, participants: Vec<proto::ParticipantInfo>) {
        for p in participants {
            if self.own.as_ref().is_some_and(|o| o.identity == p.identity) {
                if self.own.as_ref().is_some_and(|o| o.sid == p.sid) {
                    self.own = Some(p);
                }
            } else if p.state() == proto::participant_info::State::Disconnected {
                self.people.remove(&p.sid);
                self.connections.remove(&p.sid);
                self.speaking.remove(&p.identity);
            } else {
                // Somebody who came in anew has another sid.
                let before = self.people.extract_if(.., |_, o| o.identity == p.identity && o.sid != p.sid);
                before.for_each(|(sid, _)| drop(self.connections.remove(&sid)));
                self.people.insert(p.sid.clone(), p);
            }
        }
        self.ask_for_pictures();
        self.forget_marks();
        self.tell_people();
    }

    fn tell_people(&mut self) {
        let person = |p: &proto::ParticipantInfo, own: bool| {
            let on = |source| p.tracks.iter().any(|t| t.source() == source && !t.muted);
            Person {
                identity: p.identity.clone(),
                name: p.name.clone(),
                own,
                microphone: on(proto::TrackSource::Microphone),
                camera: on(proto::TrackSource::Camera),
                screen: on(proto::TrackSource::ScreenShare),
                hand: p.attributes.get("hand").is_some_and(|h| h == "1"),
                weak: self
                    .connections
                    .get(&p.sid)
                    .is_some_and(|c| matches!(c.quality(), proto::ConnectionQuality::Poor | proto::ConnectionQuality::Lost)),
            }
        };
        let own = self.own.iter().map(|p| person(p, true));
        let people = own.chain(self.people.values().map(|p| person(p, false))).collect();
        self.out.push_back(Out::People(people));
    }

    pub(super) fn qualities(&mut self, updates: Vec<proto::ConnectionQualityInfo>) {
        for c in updates {
            if self.identity(&c.participant_sid).is_some() {
                self.connections.insert(c.participant_sid.clone(), c);
            }
        }
        self.tell_people();
    }

    /// The largest share of our packets that somebody here loses: on our way to the unit, and on the worst one from it.
    #[must_use]
    pub fn loss(&self) -> f32 {
        let lost = |c: &proto::ConnectionQualityInfo| match c.quality() {
            // Whoever is away hears nothing, however it is protected.
            proto::ConnectionQuality::Lost | proto::ConnectionQuality::Excellent => 0.0,
            // As our unit counts it; LiveKit's points are of the same sort.
            _ => share_lost(c.score),
        };
        let own = self.own.as_ref().and_then(|o| self.connections.get(&o.sid)).map_or(0.0, lost);
        let others = self.people.keys().filter_map(|sid| self.connections.get(sid)).map(lost).fold(0.0, f32::max);
        1.0 - (1.0 - own) * (1.0 - others)
    }

    fn identity(&self, sid: &str) -> Option<&str> {
        let own = self.own.as_ref().filter(|o| o.sid == sid);
        own.or_else(|| self.people.get(sid)).map(|p| p.identity.as_str())
    }

    pub(super) fn speakers(&mut self, changed: &[proto::SpeakerInfo]) {
        for s in changed {
            let Some(identity) = self.identity(&s.sid).map(str::to_owned) else { continue };
            if s.active {
                self.speaking.insert(identity, s.level);
            } else {
                self.speaking.remove(&identity);
            }
        }
        let mut list: Vec<(&String, f32)> = self.speaking.iter().map(|(i, l)| (i, *l)).collect();
        list.sort_by(|a, b| b.1.total_cmp(&a.1));
        let speaking = list.into_iter().map(|(i, _)| i.clone()).collect();
        self.out.push_back(Out::Speaking(speaking));
    }
}

/// The share of packets that a score stands for. A unit may say anything: what is no number tells nothing.
fn share_lost(score: f32) -> f32 {
    if score.is_finite() { ((5.0 - score) / 10.0).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::share_lost;

    #[test]
    fn a_score_is_a_share_whatever_the_unit_says() {
        assert!((share_lost(4.0) - 0.1).abs() < 1e-6);
        assert_eq!([f32::NAN, f32::INFINITY, 7.0, -900.0].map(share_lost), [0.0, 0.0, 0.0, 1.0]);
    }
}
