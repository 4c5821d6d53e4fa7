//! Pictures of a participant: those of others that are drawn here, and our own camera and screen.

use super::{Core, MediaOf, Out, Request, Which};
use crate::room::frames::Kind;
use crate::room::video::Assembler;
use crate::video::codec::Codec;
use crate::video::layers::Wanted;
use crate::video::{Encoded, packet};
use livekit_protocol as proto;
use sc_calls::Shown;
use std::collections::{HashMap, HashSet};
use std::time::Instant;
use str0m::media::{KeyframeRequestKind, Mid, Pt, Rid, Simulcast, SimulcastLayer};
use str0m::rtp::{RtpWrite, Ssrc};

/// A picture somebody sends.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Of whom.
    pub identity: String,
    /// Their screen, not their camera.
    pub screen: bool,
}

/// A frame of a picture, decrypted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Which picture.
    pub source: Source,
    /// What it is encoded in.
    pub codec: Codec,
    /// In 90 kHz.
    pub timestamp: u32,
    /// A decoder can begin with it.
    pub key: bool,
    /// As a decoder takes it.
    pub frame: Vec<u8>,
}

/// Names of the layers (RFC 8851), as LiveKit has them for two: of half the sides, and the whole.
const RIDS: [&str; 2] = ["q", "h"];

/// One stream of a picture of our own.
#[derive(Clone, Copy)]
pub(super) struct OwnLayer {
    /// Something was not sent: it goes on with a key frame.
    cut: bool,
    sequence: u64,
    picture: u16,
}

/// A picture of our own.
pub(super) struct OwnTrack {
    pub(super) cid: String,
    pub(super) size: (u32, u32),
    /// It has two layers.
    pub(super) layered: bool,
    pub(super) layers: [OwnLayer; 2],
    pub(super) asked: bool,
    pub(super) track: Option<String>,
    pub(super) media: Option<(Mid, Pt)>,
    /// Its section was answered: what is sent goes out.
    pub(super) ready: bool,
    /// Nobody is to see it now.
    pub(super) hidden: bool,
}

impl OwnTrack {
    /// As it is offered.
    pub(super) fn simulcast(&self) -> Option<Simulcast> {
        let send = RIDS.iter().map(|r| SimulcastLayer::new(r)).collect();
        self.layered.then(|| Simulcast { send, recv: Vec::new() })
    }

    fn cut(&mut self) {
        self.layers.iter_mut().for_each(|l| l.cut = true);
    }
}

/// A picture on its way in.
pub(super) struct Incoming {
    source: Source,
    ssrc: Ssrc,
    frames: Assembler,
}

fn name_of(what: Shown) -> &'static str {
    match what {
        Shown::Camera => "camera",
        Shown::Screen => "screen",
    }
}

pub(super) fn is_screen(track: &proto::TrackInfo) -> bool {
    track.source() == proto::TrackSource::ScreenShare
}

impl Core {
    /// Shows the camera or a screen, whose pictures are so large, from the moment media flows; with a layer of half the sides beside it
    /// when there is one. Once it is known to the unit it is only hidden and shown again, with the layers it had.
    pub fn show(&mut self, what: Shown, size: (u32, u32), layered: bool) {
        if let Some(own) = self.shown.get_mut(&what) {
            own.hidden = false;
            own.cut();
        } else {
            let cid = format!("{}-{}", name_of(what), self.cid);
            let (track, media) = (None, None);
            let (asked, ready, hidden) = (false, false, false);
            let layers = [OwnLayer { cut: false, sequence: 1_000, picture: 0 }; 2];
            self.shown.insert(what, OwnTrack { cid, size, layered, layers, asked, track, media, ready, hidden });
        }
        self.publish_pictures();
        self.tell_hidden(what);
        self.wish_for_rate();
    }

    /// Shows it no longer.
    pub fn hide(&mut self, what: Shown) {
        if let Some(own) = self.shown.get_mut(&what).filter(|c| !c.hidden) {
            own.hidden = true;
            self.tell_hidden(what);
            self.wish_for_rate();
        }
    }

    /// How much of the path we would like to have.
    fn wish_for_rate(&mut self) {
        let screen = self.shown.get(&Shown::Screen).is_some_and(|s| !s.hidden);
        self.publisher.rtc.bwe().set_bitrate(super::LEAST, if screen { super::DESIRED_SCREEN } else { super::DESIRED });
    }

    /// Tells the unit whether it is hidden, once it knows it.
    pub(super) fn tell_hidden(&mut self, what: Shown) {
        let Some((Some(sid), muted)) = self.shown.get(&what).map(|c| (c.track.clone(), c.hidden)) else { return };
        self.say(Request::Mute(proto::MuteTrackRequest { sid, muted }));
    }

    /// A frame of our own.
    pub fn send_picture(&mut self, now: Instant, what: Shown, picture: &Encoded) {
        let identity = self.own.as_ref().map(|o| o.identity.clone()).unwrap_or_default();
        let Some(own) = self.shown.get_mut(&what).filter(|c| !c.hidden) else { return };
        let media = own.media.filter(|_| self.told_up && own.ready);
        // A picture that had one layer when it became known keeps to it.
        if picture.half && !own.layered {
            return;
        }
        let [half, whole] = &mut own.layers;
        let (layer, rid) = if picture.half { (half, RIDS[0]) } else { (whole, RIDS[1]) };
        let rid = own.layered.then(|| Rid::from(rid));
        if media.is_some() && layer.cut && !picture.key {
            self.out.push_back(Out::KeyNeeded(what, Wanted { half: picture.half, whole: !picture.half }));
            return;
        }
        let iv = self.iv.next();
        let sealed = media.and_then(|m| Some((m, self.keys.seal(Kind::Vp8, &identity, &picture.bytes, iv, now)?)));
        layer.cut = sealed.is_none();
        let Some(((mid, pt), sealed)) = sealed else { return };
        layer.picture = layer.picture.wrapping_add(1) & 0x7fff;
        let mut parts = packet::packets(Codec::Vp8, &sealed, layer.picture).peekable();
        let mut writes = Vec::new();
        while let Some(part) = parts.next() {
            layer.sequence += 1;
            writes
                .push(RtpWrite::new(pt, layer.sequence.into(), picture.timestamp, now, part).marker(parts.peek().is_none()).nackable(true));
        }
        for write in writes {
            self.change(Which::Publisher, |s| {
                if let Some(stream) = s.rtc.direct_api().stream_tx_by_mid(mid, rid) {
                    stream.write_rtp(write);
                }
            });
        }
        self.settle(now);
    }

    /// Somebody cannot begin without a key frame of the picture in this section.
    pub(super) fn key_needed(&mut self, mid: Mid, rid: Option<Rid>) {
        let what = self.shown.iter().find(|(_, own)| own.media.is_some_and(|(m, _)| m == mid)).map(|(what, _)| *what);
        let half = rid == Some(Rid::from(RIDS[0]));
        self.out.extend(what.map(|w| Out::KeyNeeded(w, Wanted { half, whole: !half })));
    }

    /// The unit says which layers of a picture of ours anybody looks at.
    #[allow(deprecated)] // Older units have the list without codecs.
    pub(super) fn looked_at(&mut self, u: &proto::SubscribedQualityUpdate) {
        let Some((what, own)) = self.shown.iter().find(|(_, own)| own.track.as_deref() == Some(&u.track_sid)) else { return };
        let all = u.subscribed_codecs.iter().flat_map(|c| &c.qualities).chain(&u.subscribed_qualities);
        let on: Vec<proto::VideoQuality> = all.filter(|q| q.enabled).map(proto::SubscribedQuality::quality).collect();
        let half = own.layered && !on.is_empty();
        let whole = on.iter().any(|q| *q != proto::VideoQuality::Low);
        self.out.push_back(Out::LookedAt(*what, Wanted { half, whole }));
    }

    /// These pictures are drawn now, in so many points across and down; no others come.
    pub fn want(&mut self, pictures: HashMap<Source, (u32, u32)>) {
        // One that is drawn again begins with a key frame.
        self.incoming.retain(|_, i| pictures.contains_key(&i.source));
        self.wanted = pictures;
        self.ask_for_pictures();
        self.forget_marks();
    }

    /// Frames were lost between here and the decoder, of one picture or of all: it goes on with a key frame.
    pub fn lose_pictures(&mut self, of: Option<&Source>) {
        self.incoming.values_mut().filter(|i| of.is_none_or(|o| *o == i.source)).for_each(|i| i.frames.lose());
    }

    /// Nobody is said not to open who has gone, or whose pictures are not drawn any more.
    pub(super) fn forget_marks(&mut self) {
        let there: HashSet<&String> = self.people.values().map(|p| &p.identity).collect();
        self.garbled.retain(|(identity, _)| there.contains(identity));
        let drawn = |identity: &String| {
            self.wanted.keys().any(|s| {
                let person = self.people.values().find(|p| p.identity == *identity && s.identity == *identity);
                person
                    .is_some_and(|p| p.tracks.iter().any(|t| t.r#type() == proto::TrackType::Video && is_screen(t) == s.screen && !t.muted))
            })
        };
        let marks = self.garbled.iter().filter(|(identity, what)| *what == MediaOf::Picture && !drawn(identity));
        let over: Vec<String> = marks.map(|(identity, _)| identity.clone()).collect();
        for identity in over {
            self.opens(&identity, MediaOf::Picture);
        }
    }

    /// Tells the unit of our pictures, once media flows: the first offer is answered by then.
    #[allow(deprecated)] // The layer's size is what the unit chooses by.
    pub(super) fn publish_pictures(&mut self) {
        let up = self.told_up;
        let mut requests = Vec::new();
        for (what, own) in self.shown.iter_mut().filter(|(_, c)| up && !c.asked && !c.hidden) {
            own.asked = true;
            let (width, height) = own.size;
            let layer =
                |quality, by| proto::VideoLayer { quality: quality as i32, width: width / by, height: height / by, ..Default::default() };
            let layers = if own.layered {
                vec![layer(proto::VideoQuality::Low, 2), layer(proto::VideoQuality::Medium, 1)]
            } else {
                vec![layer(proto::VideoQuality::High, 1)]
            };
            let source = match what {
                Shown::Camera => proto::TrackSource::Camera,
                Shown::Screen => proto::TrackSource::ScreenShare,
            };
            requests.push(proto::AddTrackRequest {
                cid: own.cid.clone(),
                name: name_of(*what).into(),
                r#type: proto::TrackType::Video as i32,
                source: source as i32,
                width,
                height,
                layers,
                encryption: proto::encryption::Type::Gcm as i32,
                ..Default::default()
            });
        }
        for request in requests {
            self.say(Request::AddTrack(request));
        }
    }

    /// Tells the unit which pictures are drawn here, and how large; only what is new to it.
    pub(super) fn ask_for_pictures(&mut self) {
        let mut now: HashMap<String, Option<(u32, u32)>> = HashMap::new();
        for p in self.people.values() {
            for t in p.tracks.iter().filter(|t| t.r#type() == proto::TrackType::Video) {
                let source = Source { identity: p.identity.clone(), screen: is_screen(t) };
                now.insert(t.sid.clone(), self.wanted.get(&source).copied());
            }
        }
        let news: Vec<_> = now.iter().filter(|(sid, size)| self.asked.get(*sid) != Some(*size)).map(|(s, z)| (s.clone(), *z)).collect();
        self.asked = now;
        for (sid, size) in news {
            let (width, height) = size.unwrap_or_default();
            let settings =
                proto::UpdateTrackSettings { track_sids: vec![sid], disabled: size.is_none(), width, height, ..Default::default() };
            self.say(Request::TrackSetting(settings));
        }
    }

    /// A packet of a picture: whole frames are opened and given out.
    pub(super) fn on_picture(&mut self, now: Instant, mid: Mid, source: Source, encrypted: bool, p: &str0m::rtp::RtpPacket) {
        if !self.wanted.contains_key(&source) {
            return;
        }
        let ssrc = p.header.ssrc;
        let fresh = || Incoming { source: source.clone(), ssrc, frames: Assembler::default() };
        let incoming = self.incoming.entry(mid).or_insert_with(fresh);
        if incoming.ssrc != ssrc || incoming.source != source {
            *incoming = fresh();
        }
        incoming.frames.push(*p.seq_no, p.header.timestamp, p.header.marker, &p.payload);
        let (mut opened, mut closed) = (Vec::new(), false);
        while let Some(f) = incoming.frames.pop(now) {
            match self.keys.open(Kind::Vp8, &source.identity, &f.bytes, now) {
                Ok(frame) if encrypted && Codec::Vp8.is_sane(&frame) => opened.push((f.timestamp, frame)),
                _ => {
                    // What follows builds on it.
                    incoming.frames.lose();
                    closed = true;
                }
            }
        }
        let ask = incoming.frames.wants_key(now);
        if closed {
            self.does_not_open(&source.identity, MediaOf::Picture);
        } else if !opened.is_empty() {
            self.opens(&source.identity, MediaOf::Picture);
        }
        for (timestamp, frame) in opened {
            let key = Codec::Vp8.is_key(&frame);
            self.out.push_back(Out::Picture(Picture { source: source.clone(), codec: Codec::Vp8, timestamp, key, frame }));
        }
        if ask {
            self.change(Which::Subscriber, |s| {
                if let Some(stream) = s.rtc.direct_api().stream_rx(&ssrc) {
                    stream.request_keyframe(KeyframeRequestKind::Pli);
                }
            });
        }
    }
}
