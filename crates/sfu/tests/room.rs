//! The unit with real WebRTC clients (str0m) over a network in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use sc_sfu::proto::signal_request::Message as Request;
use sc_sfu::proto::signal_response::Message as Response;
use sc_sfu::{Config, Event as Happened, Join, LeaveReason, Output as Out, Protocol, SessionId, Sfu, proto};
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::change::{SdpAnswer, SdpOffer};
use str0m::media::{Direction, MediaKind, Mid, Rid, Simulcast, SimulcastLayer};
use str0m::net::Receive;
use str0m::rtp::{ExtensionValues, RtpWrite};
use str0m::{Candidate, Event, Input, Output, Rtc};

const UNIT: u16 = 7_000;

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], port))
}

struct Client {
    session: SessionId,
    publisher: Rtc,
    subscriber: Rtc,
    ports: [u16; 2],
    heard: Vec<(Mid, u64, Vec<u8>)>,
    signals: Vec<Response>,
    closed: bool,
}

struct World {
    sfu: Sfu,
    now: Instant,
    clients: Vec<Client>,
    events: Vec<Happened>,
    next: u16,
    /// Media to that port is lost.
    deaf: Option<u16>,
}

impl World {
    fn new() -> Self {
        let now = Instant::now();
        let config = Config { udp: vec![at(UNIT)], ..Config::default() };
        Self { sfu: Sfu::new(config, now, 1_800_000_000_000, [3; 32]), now, clients: Vec::new(), events: Vec::new(), next: 1, deaf: None }
    }

    fn enter(&mut self, identity: &str) -> usize {
        let join = Join { room: "room".into(), identity: identity.into(), auto_subscribe: true, ..Join::default() };
        let session = self.sfu.join(self.now, join);
        let ports = [self.next, self.next + 1];
        self.next += 2;
        let rtc = |port: u16| {
            let mut rtc = Rtc::builder().clear_codecs().enable_opus(true, false).enable_vp8(true).set_rtp_mode(true).build(self.now);
            rtc.add_local_candidate(Candidate::host(at(port), Protocol::Udp).unwrap());
            rtc
        };
        let (publisher, subscriber) = (rtc(ports[0]), rtc(ports[1]));
        self.clients.push(Client { session, publisher, subscriber, ports, heard: Vec::new(), signals: Vec::new(), closed: false });
        self.clients.len() - 1
    }

    /// Publishes a track; its section. With layers when it is a video of three.
    fn publish(&mut self, who: usize, cid: &str, video: bool) -> Mid {
        let layers = if video { 3 } else { 0 };
        let track = proto::AddTrackRequest {
            cid: cid.into(),
            r#type: i32::from(video),
            source: if video { proto::TrackSource::Camera } else { proto::TrackSource::Microphone } as i32,
            layers: (0..layers)
                .map(|i| proto::VideoLayer { quality: i, width: 320 << i, height: 180 << i, ..Default::default() })
                .collect(),
            encryption: proto::encryption::Type::Gcm as i32,
            ..Default::default()
        };
        self.signal(who, Request::AddTrack(track));
        let c = &mut self.clients[who];
        let mut api = c.publisher.sdp_api();
        let simulcast = video.then(|| {
            let mut s = Simulcast::new();
            ["q", "h", "f"].iter().for_each(|r| s.add_send_layer(SimulcastLayer::new(r)));
            s
        });
        let kind = if video { MediaKind::Video } else { MediaKind::Audio };
        let mid = api.add_media(kind, Direction::SendOnly, Some("s".into()), Some(cid.into()), simulcast);
        let (offer, pending) = api.apply().unwrap();
        self.signal(
            who,
            Request::Offer(proto::SessionDescription { r#type: "offer".into(), sdp: offer.to_sdp_string(), id: 7, ..Default::default() }),
        );
        let answer = self.said(who, |m| if let Response::Answer(d) = m { Some(d.clone()) } else { None }).unwrap();
        assert_eq!(answer.id, 7, "the answer names the offer");
        assert!(answer.mid_to_track_id.contains_key(&mid.to_string()));
        self.clients[who].publisher.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer.sdp).unwrap()).unwrap();
        self.run(600);
        mid
    }

    fn signal(&mut self, who: usize, message: Request) {
        let session = self.clients[who].session;
        self.sfu.handle_signal(self.now, session, proto::SignalRequest { message: Some(message) });
        self.flush();
    }

    fn said<T>(&self, who: usize, f: impl Fn(&Response) -> Option<T>) -> Option<T> {
        self.clients[who].signals.iter().rev().find_map(f)
    }

    fn flush(&mut self) {
        while let Some(out) = self.sfu.poll_output() {
            match out {
                Out::Transmit(t) if self.deaf.is_some_and(|p| t.destination == at(p)) && (128..192).contains(&t.contents[0]) => {}
                Out::Transmit(t) => {
                    for c in &mut self.clients {
                        for (rtc, port) in [(&mut c.publisher, c.ports[0]), (&mut c.subscriber, c.ports[1])] {
                            if t.destination == at(port)
                                && let Ok(r) = Receive::new(Protocol::Udp, t.source, t.destination, &t.contents)
                            {
                                rtc.handle_input(Input::Receive(self.now, r)).unwrap();
                            }
                        }
                    }
                    self.pump();
                }
                Out::Signal(s, m) => {
                    let i = self.clients.iter().position(|c| c.session == s).unwrap_or(self.clients.len());
                    let m = m.message.unwrap();
                    let Some(c) = self.clients.get_mut(i) else { continue };
                    if let Response::Offer(d) = &m {
                        let answer = c.subscriber.sdp_api().accept_offer(SdpOffer::from_sdp_string(&d.sdp).unwrap()).unwrap();
                        let d = proto::SessionDescription {
                            r#type: "answer".into(),
                            sdp: answer.to_sdp_string(),
                            id: d.id,
                            ..Default::default()
                        };
                        self.sfu.handle_signal(self.now, s, proto::SignalRequest { message: Some(Request::Answer(d)) });
                    }
                    self.clients[i].signals.push(m);
                }
                Out::Close(s) => self.clients.iter_mut().filter(|c| c.session == s).for_each(|c| c.closed = true),
                Out::Event(e) => self.events.push(e),
            }
        }
    }

    /// Takes what the clients say.
    fn pump(&mut self) {
        for c in &mut self.clients {
            for (rtc, port) in [(&mut c.publisher, c.ports[0]), (&mut c.subscriber, c.ports[1])] {
                loop {
                    match rtc.poll_output().unwrap() {
                        Output::Timeout(_) => break,
                        Output::Transmit(t) => self.sfu.handle_datagram(self.now, Protocol::Udp, at(port), t.destination, &t.contents),
                        Output::Event(Event::RtpPacket(p)) => {
                            let mid = rtc.direct_api().stream_rx(&p.header.ssrc).unwrap().mid();
                            c.heard.push((mid, *p.seq_no, p.payload.to_vec()));
                        }
                        Output::Event(_) => {}
                    }
                }
            }
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now += Duration::from_millis(5);
            for c in &mut self.clients {
                c.publisher.handle_input(Input::Timeout(self.now)).unwrap();
                c.subscriber.handle_input(Input::Timeout(self.now)).unwrap();
            }
            self.pump();
            if self.sfu.poll_timeout() <= self.now {
                self.sfu.handle_timeout(self.now);
            }
            self.flush();
        }
    }

    #[allow(clippy::too_many_arguments)] // What a packet has.
    fn send(&mut self, who: usize, mid: Mid, rid: Option<&str>, seq: u64, time: u32, payload: &[u8], level: Option<i8>) {
        let c = &mut self.clients[who];
        let codec = if rid.is_some() { str0m::format::Codec::Vp8 } else { str0m::format::Codec::Opus };
        let pt = c.publisher.codec_config().params().iter().find(|p| p.spec().codec == codec).unwrap().pt();
        let ext = ExtensionValues { audio_level: level, voice_activity: Some(true), ..Default::default() };
        let write = RtpWrite::new(pt, seq.into(), time, self.now, payload).marker(rid.is_some()).ext_vals(ext);
        c.publisher.direct_api().stream_tx_by_mid(mid, rid.map(Rid::from)).unwrap().write_rtp(write);
    }
}

#[test]
fn what_one_says_everybody_else_hears_byte_by_byte_and_it_is_seen_who_speaks() {
    let mut w = World::new();
    let [lan, minh, hoa] = ["lan", "minh", "hoa"].map(|n| w.enter(n));
    w.run(300);
    let mid = w.publish(lan, "mic", false);
    for i in 0..50u64 {
        w.send(lan, mid, None, 100 + i, u32::try_from(i * 960).unwrap(), &[u8::try_from(i).unwrap(); 60], Some(-20));
        w.run(20);
    }
    for other in [minh, hoa] {
        let heard: Vec<u8> = w.clients[other].heard.iter().map(|(_, _, p)| p[0]).collect();
        assert!(heard.len() >= 45 && heard.windows(2).all(|p| p[0] < p[1]), "in order: {heard:?}");
        assert!(w.clients[other].heard.iter().all(|(_, _, p)| p.len() == 60 && p.iter().all(|b| *b == p[0])), "nothing is changed");
    }
    assert!(w.clients[lan].heard.is_empty(), "nobody hears themselves");
    assert!(w.events.iter().any(|e| matches!(e, Happened::Speaking { identities, .. } if identities == &["lan"])));
    let speaker = w.said(minh, |m| if let Response::SpeakersChanged(s) = m { s.speakers.first().cloned() } else { None }).unwrap();
    assert!(speaker.active && speaker.level > 0.3);
    let info = w
        .said(minh, |m| if let Response::Update(u) = m { u.participants.iter().find(|p| p.identity == "lan").cloned() } else { None })
        .unwrap();
    assert_eq!(info.tracks[0].encryption, proto::encryption::Type::Gcm as i32, "others learn that it is encrypted");
    // Somebody who comes later hears it too.
    let an = w.enter("an");
    w.run(600);
    for i in 50..70u64 {
        w.send(lan, mid, None, 100 + i, u32::try_from(i * 960).unwrap(), &[9; 10], Some(-20));
        w.run(20);
    }
    assert!(w.clients[an].heard.len() > 10);
    // Whoever is muted is not forwarded, whatever they send.
    let before = w.clients[minh].heard.len();
    let sid = info.tracks[0].sid.clone();
    w.signal(lan, Request::Mute(proto::MuteTrackRequest { sid, muted: true }));
    w.send(lan, mid, None, 171, 171 * 960, &[1; 10], Some(-20));
    w.run(50);
    assert_eq!(w.clients[minh].heard.len(), before);
}

/// A packet of VP8 with a descriptor of 15 bits and, when it is a key frame, its beginning.
fn picture(layer: u8, n: u16, key: bool) -> Vec<u8> {
    let mut p = vec![0x90, 0x80, 0x80 | (n >> 8) as u8, n as u8, u8::from(!key), layer, n as u8];
    p.extend([layer; 600]);
    p
}

#[test]
fn a_receiver_gets_the_layer_that_fits_the_place_where_it_is_shown_as_one_stream() {
    let mut w = World::new();
    let [lan, minh] = ["lan", "minh"].map(|n| w.enter(n));
    w.run(300);
    let mid = w.publish(lan, "camera", true);
    let sid = w.said(lan, |m| if let Response::TrackPublished(t) = m { Some(t.track.clone().unwrap().sid) } else { None }).unwrap();
    let mut n = 0u16;
    let mut play = |w: &mut World, frames: u16| {
        for _ in 0..frames {
            n += 1;
            for (layer, rid) in (0u8..).zip(["q", "h", "f"]) {
                // A key frame every tenth: as if it had been asked for.
                let bytes = picture(layer, n, n.is_multiple_of(10));
                w.send(lan, mid, Some(rid), 1_000 + u64::from(n) + 10_000 * u64::from(layer), u32::from(n) * 3_000, &bytes, None);
            }
            w.run(35);
        }
    };
    play(&mut w, 60);
    let layer_of = |p: &[u8]| p[5];
    let last = |w: &World| layer_of(&w.clients[minh].heard.last().unwrap().2);
    assert_eq!(last(&w), 2, "the largest fits");
    w.signal(
        minh,
        Request::TrackSetting(proto::UpdateTrackSettings { track_sids: vec![sid.clone()], width: 300, height: 170, ..Default::default() }),
    );
    play(&mut w, 40);
    assert_eq!(last(&w), 0, "a small place gets the smallest");
    let told = w.said(lan, |m| if let Response::SubscribedQualityUpdate(q) = m { Some(q.clone()) } else { None }).unwrap();
    let enabled: Vec<bool> = told.subscribed_codecs[0].qualities.iter().map(|q| q.enabled).collect();
    assert_eq!(enabled, [true, false, false], "the publisher need not send the others");
    let before = w.clients[minh].heard.len();
    w.signal(
        minh,
        Request::TrackSetting(proto::UpdateTrackSettings { track_sids: vec![sid.clone()], disabled: true, ..Default::default() }),
    );
    play(&mut w, 10);
    assert!(w.clients[minh].heard.len() <= before + 1, "what is not shown is not sent");
    w.signal(minh, Request::TrackSetting(proto::UpdateTrackSettings { track_sids: vec![sid], quality: 2, ..Default::default() }));
    play(&mut w, 40);
    assert_eq!(last(&w), 2);
    let seqs: Vec<u64> = w.clients[minh].heard.iter().map(|(_, s, _)| *s).collect();
    assert!(seqs.windows(2).all(|s| s[1] == s[0] + 1), "one stream without holes: {seqs:?}");
    let ids: Vec<u16> = w.clients[minh].heard.iter().map(|(_, _, p)| u16::from(p[2] & 0x7f) << 8 | u16::from(p[3])).collect();
    assert!(ids.windows(2).all(|i| i[1] == i[0] + 1), "pictures are numbered on: {ids:?}");
}

#[test]
fn what_comes_together_goes_out_together() {
    let mut w = World::new();
    let [lan, minh] = ["lan", "minh"].map(|n| w.enter(n));
    w.run(300);
    let mid = w.publish(lan, "camera", true);
    for n in 1..40u16 {
        w.send(lan, mid, Some("f"), 1_000 + u64::from(n), u32::from(n) * 3_000, &picture(2, n, n.is_multiple_of(5)), None);
        w.run(35);
    }
    for n in 0..5u16 {
        w.send(lan, mid, Some("f"), 1_040 + u64::from(n), 120_000, &picture(2, 40 + n, false), None);
    }
    let to = at(w.clients[minh].ports[1]);
    w.clients[lan].publisher.handle_input(Input::Timeout(w.now)).unwrap();
    w.pump();
    assert!(w.sfu.poll_timeout() <= w.now, "it is to go out at once");
    w.sfu.handle_timeout(w.now);
    let mut sent = 0;
    while let Some(out) = w.sfu.poll_output() {
        sent += usize::from(matches!(out, Out::Transmit(t) if t.destination == to && t.contents.len() > 600));
    }
    assert_eq!(sent, 5, "no packet waits for a timer");
}

#[test]
fn what_is_asked_for_again_comes_at_once_though_nothing_else_is_sent() {
    let mut w = World::new();
    let [lan, minh] = ["lan", "minh"].map(|n| w.enter(n));
    w.run(300);
    let mid = w.publish(lan, "camera", true);
    for n in 1..40u16 {
        w.send(lan, mid, Some("f"), 1_000 + u64::from(n), u32::from(n) * 3_000, &picture(2, n, n.is_multiple_of(5)), None);
        w.run(35);
    }
    // One is lost, the next one tells that it was, and then there are no more.
    let before = w.clients[minh].heard.len();
    w.deaf = Some(w.clients[minh].ports[1]);
    w.send(lan, mid, Some("f"), 1_040, 120_000, &picture(2, 40, false), None);
    w.run(5);
    w.deaf = None;
    w.send(lan, mid, Some("f"), 1_041, 123_000, &picture(2, 41, false), None);
    let mut waited = 0;
    while w.clients[minh].heard.len() < before + 2 {
        w.run(5);
        waited += 5;
        assert!(waited <= 50, "it is asked for within 33 ms, and comes with the next look");
    }
}

#[test]
fn listeners_in_silence_are_not_told_the_time_forty_times_a_second() {
    let mut w = World::new();
    for n in 0..8 {
        w.enter(&format!("listener {n}"));
    }
    w.run(2_000);
    let end = w.now + Duration::from_secs(1);
    let mut woken = 0;
    loop {
        w.now = w.sfu.poll_timeout().max(w.now + Duration::from_micros(100));
        if w.now > end {
            break;
        }
        w.sfu.handle_timeout(w.now);
        w.flush();
        woken += 1;
    }
    assert!((50..200).contains(&woken), "fifty looks at rates and voices, and a few at eight connections: {woken}");
}

#[test]
fn whoever_loses_their_signalling_keeps_the_seat_for_the_grace_time_and_comes_back_as_themselves() {
    let mut w = World::new();
    let [lan, minh] = ["lan", "minh"].map(|n| w.enter(n));
    w.run(300);
    let mid = w.publish(lan, "mic", false);
    w.sfu.signal_lost(w.now, w.clients[lan].session);
    w.run(3_000);
    assert!(!w.clients[lan].closed);
    w.send(lan, mid, None, 5, 5, &[1; 10], None);
    w.run(50);
    assert!(!w.clients[minh].heard.is_empty(), "media goes on");
    assert!(w.sfu.resume(w.now, w.clients[lan].session));
    w.flush();
    assert!(w.said(lan, |m| matches!(m, Response::Reconnect(_)).then_some(())).is_some());
    w.run(6_000);
    assert!(!w.clients[lan].closed, "back in time");
    w.sfu.signal_lost(w.now, w.clients[lan].session);
    w.run(5_500);
    assert!(w.clients[lan].closed);
    assert!(w.events.iter().any(|e| matches!(e, Happened::Left { identity, reason: LeaveReason::Lost, .. } if identity == "lan")));
    assert!(!w.sfu.resume(w.now, w.clients[lan].session), "too late");
    assert_eq!(w.sfu.participants(), 1);
}

#[test]
fn the_same_identity_anew_replaces_the_first_and_an_empty_room_is_forgotten() {
    let mut w = World::new();
    let first = w.enter("lan");
    w.run(300);
    let second = w.enter("lan");
    w.run(300);
    assert!(w.clients[first].closed && !w.clients[second].closed);
    let reason = w.said(first, |m| if let Response::Leave(l) = m { Some(l.reason()) } else { None });
    assert_eq!(reason, Some(proto::DisconnectReason::DuplicateIdentity));
    w.signal(second, Request::Leave(proto::LeaveRequest::default()));
    assert_eq!((w.sfu.participants(), w.sfu.rooms()), (0, 0));
}

#[test]
fn strangers_and_garbage_change_nothing() {
    let mut w = World::new();
    let [lan, minh] = ["lan", "minh"].map(|n| w.enter(n));
    w.run(300);
    let mid = w.publish(lan, "mic", false);
    let mut seed = 12_345u32;
    for i in 0..20_000u32 {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let bytes: Vec<u8> = (0..seed % 200).map(|k| (seed >> (k % 24)) as u8 ^ k as u8).collect();
        // From nowhere, and from a participant's own address.
        let from = if i % 2 == 0 { at(60_000) } else { at(w.clients[lan].ports[0]) };
        w.sfu.handle_datagram(w.now, Protocol::Udp, from, at(UNIT), &bytes);
        w.flush();
    }
    for junk in ["", "v=0", "m=audio 9 x 1\r\na=mid:0\r\n"] {
        let d = proto::SessionDescription { r#type: "offer".into(), sdp: junk.into(), id: 99, ..Default::default() };
        w.signal(minh, Request::Offer(d.clone()));
        w.signal(minh, Request::Answer(d));
    }
    w.send(lan, mid, None, 9, 9, &[4; 10], None);
    w.run(100);
    assert_eq!(w.sfu.participants(), 2);
    assert!(w.clients[minh].heard.iter().any(|(_, _, p)| p == &[4; 10]), "the others do not notice");
}
