//! What is looked at from time to time: voices, layers, qualities, absences.
//!
//! Rates and layers are looked at in turns: everybody's twice a second, but never all at once, because packets wait meanwhile.

use crate::layers::{Wish, allocate};
use crate::model::{Event, LeaveReason, SessionId};
use crate::peers::TrackKey;
use crate::sfu::{DownKey, Sfu};
use livekit_protocol as proto;
use proto::signal_response::Message;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use str0m::bwe::Bitrate;

/// A layer without packets for so long is not sent.
const STOPPED: Duration = Duration::from_millis(1_500);
/// Ticks between looks at: absences, voices, qualities.
const EVERY: (u64, u64, u64) = (5, 15, 200);
/// Turns in which rates and layers are looked at: each has half a second.
const TURNS: u64 = 25;
/// A share of lost packets that differs by so much from what was told is told anew.
const NEWS: f32 = 0.02;

impl Sfu {
    pub(crate) fn on_tick(&mut self, now: Instant) {
        self.ticks += 1;
        if self.ticks.is_multiple_of(EVERY.0) {
            self.absent(now);
        }
        if self.ticks.is_multiple_of(EVERY.1) {
            self.voices(now);
        }
        let turn = self.ticks % TURNS;
        self.measure(turn);
        let theirs: Vec<SessionId> = self.sessions.keys().copied().filter(|s| s % TURNS == turn).collect();
        for s in theirs {
            self.allot(now, s);
        }
        if turn == 0 {
            self.tell_publishers();
        }
        if self.ticks.is_multiple_of(EVERY.2) {
            self.qualities();
        }
    }

    fn absent(&mut self, now: Instant) {
        let grace = self.config.grace;
        let lost: Vec<SessionId> = self
            .sessions
            .iter()
            .filter(|(_, s)| s.silent.is_some_and(|at| now.saturating_duration_since(at) >= grace))
            .map(|(id, _)| *id)
            .collect();
        for s in lost {
            self.part(s, LeaveReason::Lost);
        }
    }

    fn voices(&mut self, now: Instant) {
        let names: Vec<String> = self.rooms.keys().cloned().collect();
        for name in names {
            let Some(room) = self.rooms.get(&name) else { continue };
            let mut speaking: Vec<(SessionId, f32)> = Vec::new();
            for s in &room.sessions {
                let tracks = self.sessions.get(s).map(|s| s.tracks.as_slice()).unwrap_or_default();
                let level =
                    tracks.iter().filter_map(|t| self.tracks.get(t)).filter(|t| !t.info.muted).filter_map(|t| t.voice.speaking(now));
                if let Some(level) = level.reduce(f32::max) {
                    speaking.push((*s, level));
                }
            }
            speaking.sort_by(|a, b| b.1.total_cmp(&a.1));
            let before = room.speaking.clone();
            let after: Vec<SessionId> = speaking.iter().map(|(s, _)| *s).collect();
            let info = |s: &SessionId, level: f32, active: bool| {
                self.sessions.get(s).map(|s| proto::SpeakerInfo { sid: s.sid.clone(), level, active })
            };
            let mut speakers: Vec<_> = speaking.iter().filter_map(|(s, l)| info(s, *l, true)).collect();
            speakers.extend(before.iter().filter(|s| !after.contains(s)).filter_map(|s| info(s, 0.0, false)));
            if speakers.is_empty() {
                continue;
            }
            let to: Vec<SessionId> = room.sessions.iter().copied().collect();
            for s in to {
                self.send(s, Message::SpeakersChanged(proto::SpeakersChanged { speakers: speakers.clone() }));
            }
            if before != after {
                let identities = after.iter().filter_map(|s| self.sessions.get(s)).map(|s| s.identity.clone()).collect();
                if let Some(room) = self.rooms.get_mut(&name) {
                    room.speaking = after;
                }
                self.tell(Event::Speaking { room: name, identities });
            }
        }
    }

    /// Rates of the layers over the last look.
    fn measure(&mut self, turn: u64) {
        for (_, t) in self.tracks.iter_mut().filter(|(key, _)| **key % TURNS == turn) {
            for l in &mut t.layers {
                let lately = std::mem::take(&mut l.bytes) * 8 * 2;
                // A key frame is no new rate.
                l.rate = if l.rate == 0 { lately } else { (l.rate * 3 + lately) / 4 };
            }
        }
    }

    fn wish(&self, down: DownKey, now: Instant) -> Option<Wish> {
        let d = self.downs.get(&down)?;
        let t = self.tracks.get(&d.track).filter(|t| t.kind.is_video())?;
        if d.disabled || d.pt.is_none() || t.info.muted {
            return None;
        }
        let alive = |l: &crate::sfu::Layer| l.last.is_some_and(|at| now.saturating_duration_since(at) < STOPPED);
        let rates = t.layers.iter().map(|l| if alive(l) { l.rate.max(1) } else { 0 }).collect();
        Some(Wish { rates, best: d.best, now: d.forward.current() })
    }

    /// Gives a receiver the layers that fit it.
    pub(crate) fn allot(&mut self, now: Instant, session: SessionId) {
        let Some(s) = self.sessions.get(&session) else { return };
        let (estimate, downs, peer) = (s.estimate, s.downs.clone(), s.subscriber);
        let videos: Vec<DownKey> = downs
            .into_iter()
            .filter(|d| self.downs.get(d).and_then(|d| self.tracks.get(&d.track)).is_some_and(|t| t.kind.is_video()))
            .collect();
        if videos.is_empty() {
            return;
        }
        let wishes: Vec<(DownKey, Option<Wish>)> = videos.into_iter().map(|d| (d, self.wish(d, now))).collect();
        let list: Vec<Wish> = wishes.iter().filter_map(|(_, w)| w.clone()).collect();
        let grant = allocate(estimate, &list);
        let mut layers = grant.layers.into_iter();
        let mut states = Vec::new();
        for (down, wish) in wishes {
            let wished = wish.is_some();
            let sends = wish.is_some_and(|w| w.rates.iter().any(|r| *r > 0));
            let layer = if wished { layers.next().flatten() } else { None };
            let Some(d) = self.downs.get_mut(&down) else { continue };
            d.forward.aim(layer);
            let paused = sends && layer.is_none();
            if paused != d.paused {
                d.paused = paused;
                states.push((d.track, paused));
            }
            if d.forward.waits_for().is_some() {
                self.ask_for_key_frame(now, down);
            }
        }
        self.tell_states(session, &states);
        let desired = Bitrate::bps(grant.desired.max(300_000));
        self.peers.change(peer, |p| p.rtc.bwe().set_bitrate(Bitrate::bps(0), desired));
    }

    /// What had to be paused because it does not fit, so that the receiver can say so.
    fn tell_states(&mut self, session: SessionId, states: &[(TrackKey, bool)]) {
        if states.is_empty() {
            return;
        }
        let stream_states = states
            .iter()
            .filter_map(|(t, paused)| {
                let t = self.tracks.get(t)?;
                let state = if *paused { proto::StreamState::Paused } else { proto::StreamState::Active };
                Some(proto::StreamStateInfo {
                    participant_sid: self.sessions.get(&t.session)?.sid.clone(),
                    track_sid: t.info.sid.clone(),
                    state: state as i32,
                })
            })
            .collect();
        self.send(session, Message::StreamStateUpdate(proto::StreamStateUpdate { stream_states }));
    }

    /// Tells publishers which layers nobody looks at: sending them is a waste of their network.
    #[allow(deprecated)] // Older SDKs read the list without codecs.
    fn tell_publishers(&mut self) {
        let mut news = Vec::new();
        for (key, t) in self.tracks.iter().filter(|(_, t)| t.kind.is_video() && t.layers.len() > 1) {
            let best = t.downs.iter().filter_map(|d| self.downs.get(d)).filter(|d| !d.disabled).map(|d| d.best).max();
            if t.wanted != Some(best) {
                news.push((*key, best));
            }
        }
        for (key, best) in news {
            let Some(t) = self.tracks.get_mut(&key) else { continue };
            t.wanted = Some(best);
            let qualities: Vec<_> = (0..t.layers.len())
                .filter_map(|l| Some(proto::SubscribedQuality { quality: i32::try_from(l).ok()?, enabled: best.is_some_and(|b| l <= b) }))
                .collect();
            let update = proto::SubscribedQualityUpdate {
                track_sid: t.info.sid.clone(),
                subscribed_codecs: vec![proto::SubscribedCodec { codec: "vp8".into(), qualities: qualities.clone() }],
                subscribed_qualities: qualities,
            };
            let to = t.session;
            self.send(to, Message::SubscribedQualityUpdate(update));
        }
    }

    /// Tells a room what has changed, and whoever has come in how everybody's connection is: senders protect their speech by it.
    fn qualities(&mut self) {
        let mut news = BTreeSet::new();
        for (id, s) in &mut self.sessions {
            let [up, down] = &mut s.loss;
            let lost = up.take().max(down.take());
            let quality = match lost {
                _ if s.silent.is_some() => proto::ConnectionQuality::Lost,
                l if l < 0.02 => proto::ConnectionQuality::Excellent,
                l if l < 0.06 => proto::ConnectionQuality::Good,
                _ => proto::ConnectionQuality::Poor,
            };
            if s.quality.is_none_or(|(q, l)| q != quality || (l - lost).abs() >= NEWS) {
                s.quality = Some((quality, lost));
                news.insert(*id);
            }
        }
        let info = |id: &SessionId| {
            let s = self.sessions.get(id)?;
            let (quality, lost) = s.quality?;
            Some(proto::ConnectionQualityInfo { participant_sid: s.sid.clone(), quality: quality as i32, score: 5.0 - 10.0 * lost })
        };
        let mut say = Vec::new();
        for room in self.rooms.values() {
            for to in &room.sessions {
                let told = self.sessions.get(to).is_some_and(|s| s.told);
                let updates: Vec<_> = room.sessions.iter().filter(|s| !told || news.contains(s)).filter_map(info).collect();
                if !updates.is_empty() {
                    say.push((*to, proto::ConnectionQualityUpdate { updates }));
                }
            }
        }
        for (to, update) in say {
            self.send(to, Message::ConnectionQuality(update));
            self.sessions.get_mut(&to).into_iter().for_each(|s| s.told = true);
        }
    }
}
