//! Rooms: what participants and strangers send to the forwarding unit, what a unit sends to a participant, encrypted frames.

use livekit_protocol as proto;
use prost::Message as _;
use sc_media::room::core::{Core, Which};
use sc_media::room::frames::{Keys, Kind};
use sc_media::room::video::Assembler;
use sc_media::video::codec::Codec;
use sc_sfu::{Config, Join, Protocol, Sfu};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

fn keys() -> Keys {
    let mut keys = Keys::default();
    keys.add_epoch(0, zeroize::Zeroizing::new(vec![1; 32]), Instant::now());
    keys
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Two participants; then, by the first byte of each piece, signals, datagrams and time.
pub fn unit(bytes: &[u8]) {
    let mut now = Instant::now();
    let config = Config { udp: vec![address(7_881)], tcp: vec![address(7_881)], ..Config::default() };
    let mut sfu = Sfu::new(config, now, 0, [1; 32]);
    let join = |identity: &str| Join { room: "r".into(), identity: identity.into(), auto_subscribe: true, ..Join::default() };
    let (a, b) = (sfu.join(now, join("a")), sfu.join(now, join("b")));
    let mut rest = bytes;
    while let [kind, len, tail @ ..] = rest {
        let (piece, after) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = after;
        match kind % 6 {
            0 | 1 => {
                if let Ok(request) = proto::SignalRequest::decode(piece) {
                    sfu.handle_signal(now, if kind % 6 == 0 { a } else { b }, request);
                }
            }
            2 => sfu.handle_datagram(now, Protocol::Udp, address(9), address(7_881), piece),
            3 => sfu.handle_datagram(now, Protocol::Tcp, address(9), address(7_881), piece),
            4 => {
                now += Duration::from_millis(u64::from(*len) * 20);
                sfu.handle_timeout(now);
            }
            _ => drop(sfu.resume(now, a)),
        }
        while sfu.poll_output().is_some() {}
    }
    assert!(sfu.participants() <= 2 && sfu.rooms() <= 1);
}

/// A hostile unit: signals and datagrams at a participant.
pub fn participant(bytes: &[u8]) {
    let now = Instant::now();
    let (sending, receiving) = ([address(1)], [address(2)]);
    let mut core = Core::new([&sending, &receiving], keys(), false, (1, 2), now);
    let mut rest = bytes;
    while let [kind, len, tail @ ..] = rest {
        let (piece, after) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = after;
        match kind % 3 {
            0 => {
                if let Ok(proto::SignalResponse { message: Some(m) }) = proto::SignalResponse::decode(piece) {
                    core.handle_signal(now, m);
                }
            }
            1 => {
                let (which, port) = if len % 2 == 0 { (Which::Publisher, 1) } else { (Which::Subscriber, 2) };
                let (protocol, port) = if len % 4 < 2 { (Protocol::Udp, port) } else { (Protocol::Tcp, 9) };
                core.handle_datagram(now, which, protocol, (address(7_881), address(port)), piece);
            }
            _ => core.handle_timeout(now + Duration::from_millis(u64::from(*len) * 20)),
        }
        while core.poll_output().is_some() {}
    }
}

/// Encrypted frames and data packets.
pub fn frames(bytes: &[u8]) {
    let mut keys = self::keys();
    let now = Instant::now();
    for kind in [Kind::Audio, Kind::Vp8] {
        let _ = keys.open(kind, "a", bytes, now);
    }
}

/// Packets of a picture, in any order: number, timestamp, marker, length, payload; of either codec.
pub fn video(bytes: &[u8]) {
    for codec in [Codec::Vp8, Codec::Vp9] {
        let mut frames = Assembler::new(codec);
        let now = Instant::now();
        let mut rest = bytes;
        while let [seq, time, last, len, tail @ ..] = rest {
            let (payload, next) = tail.split_at(usize::from(*len).min(tail.len()));
            frames.push(u64::from(*seq), u32::from(*time), last & 1 == 1, payload);
            while let Some(f) = frames.pop(now + Duration::from_millis(u64::from(*time))) {
                let _ = (codec.is_key(&f.bytes), codec.is_sane(&f.bytes), codec.size(&f.bytes));
            }
            let _ = frames.wants_key(now);
            rest = next;
        }
    }
}

/// Seeds: what a participant says when it comes in.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    use proto::signal_request::Message as Q;
    use proto::signal_response::Message as R;
    let piece = |kind: u8, bytes: Vec<u8>| {
        let len = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        [vec![kind, len], bytes].concat()
    };
    let ask = |m: Q| piece(0, proto::SignalRequest { message: Some(m) }.encode_to_vec());
    let say = |m: R| piece(0, proto::SignalResponse { message: Some(m) }.encode_to_vec());
    let track = proto::AddTrackRequest { cid: "c".into(), r#type: 1, source: 1, ..Default::default() };
    let sdp =
        "v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\n".to_owned();
    let offer = proto::SessionDescription { r#type: "offer".into(), sdp, id: 1, ..Default::default() };
    let unit = [ask(Q::AddTrack(track)), ask(Q::Offer(offer.clone())), ask(Q::Leave(proto::LeaveRequest::default()))].concat();
    let me = proto::ParticipantInfo { sid: "PA_1".into(), identity: "a".into(), ..Default::default() };
    let join = proto::JoinResponse { participant: Some(me), ..Default::default() };
    let key = [0x90, 0x80, 0x80, 1, 0, 0, 0, 0x9d, 1, 0x2a, 16, 0, 16, 0, 7];
    let video = [&[1, 1, 1, 15][..], &key, &[3, 3, 1, 5, 0x90, 0x80, 0x80, 3, 1], &[2, 2, 1, 5, 0x90, 0x80, 0x80, 2, 1]].concat();
    let participant = [say(R::Join(join)), say(R::Offer(offer)), vec![2, 50]].concat();
    vec![("room_unit", unit), ("room_participant", participant), ("room_frames", vec![0x42; 40]), ("room_video", video)]
}
