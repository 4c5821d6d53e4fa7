//! What calls take from outside: signals, packets of speech, messages to the relay.

use sc_calls::Signal;
use sc_media::voice::{BLOCK, VoiceReceiver, red};
use sc_turn::credentials::{issue, long_term};
use sc_turn::relay::{Client, Policy, Relay, RelayId, Sockets};
use sc_turn::stun::{Class, Message, Writer, attribute, piece};
use std::net::SocketAddr;

/// What other members say about a call.
pub fn signal(bytes: &[u8]) {
    if let Ok(s) = Signal::decode(bytes) {
        let _ = s.encode();
    }
}

/// A packet of speech in the middle of a call, of either format, and what is heard of it.
pub fn voice(bytes: &[u8]) {
    let _ = red::unpack(bytes);
    let Ok(mut receiver) = VoiceReceiver::new() else { return };
    let mut out = [0.0; BLOCK];
    let (stamp, rest) = bytes.split_at_checked(4).unwrap_or((&[0; 4], bytes));
    let jump = u32::from_be_bytes(stamp.try_into().unwrap_or_default());
    for (i, payload) in rest.chunks(rest.len().max(3) / 3).enumerate() {
        let i = u32::try_from(i).unwrap_or(0);
        receiver.insert(i % 2 == 0, jump.wrapping_mul(i).wrapping_add(i * 960), payload, f64::from(i) * 20.0);
        let _ = receiver.pull(&mut out, f64::from(i) * 20.0 + 40.0);
    }
    for i in 0..20 {
        let _ = receiver.pull(&mut out, 100.0 + f64::from(i) * 10.0);
    }
    assert!(out.iter().all(|s| s.is_finite()));
}

struct One;

impl Sockets for One {
    fn open(&mut self, _: Client, _: bool) -> Option<(RelayId, SocketAddr)> {
        Some((1, SocketAddr::from(([203, 0, 113, 1], 40_000))))
    }
}

/// Messages of a client that has credentials, and of one that has none.
pub fn turn(bytes: &[u8]) {
    let _ = piece(bytes);
    let policy = Policy { realm: "r".into(), secret: b"s".to_vec(), allow_private: false, per_account: 1, allocations: 1, rate: 1_000_000 };
    let mut relay = Relay::new(policy, [1; 32]);
    let client = Client { connection: 0, address: SocketAddr::from(([198, 51, 100, 7], 5_000)) };
    let _ = relay.client(client, bytes, 0.0, &mut One);
    let _ = relay.peer(1, client.address, bytes, 0.0);
    // The same attributes with a name, a nonce and an integrity that hold: what is behind them is reached too.
    let Some(m) = Message::parse(bytes) else { return };
    let name = issue(b"s", b"a", 100);
    let key = long_term(&name.username, "r", &name.password);
    let mut nonce = Vec::new();
    for _ in 0..2 {
        let mut w = Writer::new(Class::Request, m.method, &m.transaction);
        for n in [0x000c, 0x000d, 0x0012, 0x0013, 0x0017, 0x0018, 0x0019, 0x7fff] {
            for v in m.all(n) {
                w = w.put(n, v);
            }
        }
        let w = w.put(attribute::USERNAME, name.username.as_bytes()).put(attribute::NONCE, &nonce);
        let signed = w.signed(&key);
        if let Some(sc_turn::relay::Out::ToClient(_, answer)) = relay.client(client, &signed, 1.0, &mut One)
            && let Some(fresh) = Message::parse(&answer).and_then(|a| a.get(attribute::NONCE).map(<[u8]>::to_vec))
        {
            nonce = fresh;
        }
    }
    let _ = relay.tick(2.0);
}

/// A sample of each for the corpus.
pub fn samples() -> Vec<(&'static str, Vec<u8>)> {
    use sc_turn::stun::method;
    let call = sc_protocol::CallId::generate();
    let offer = Signal::Offer { call, sdp: "v=0\r\n".into(), video: true }.encode().unwrap_or_default();
    let list = Signal::Candidates { call, list: vec!["candidate:1".into()] }.encode().unwrap_or_default();
    let request = |m: u16| Writer::new(Class::Request, m, &[7; 12]);
    let peer = SocketAddr::from(([192, 0, 2, 9], 7_000));
    vec![
        ("call_signal", offer),
        ("call_signal", list),
        ("voice", red::pack(111, &[(960, &[0x78, 1, 2])], &[0x78, 3, 4, 5])),
        ("turn", request(method::ALLOCATE).put(attribute::REQUESTED_TRANSPORT, &[17, 0, 0, 0]).done()),
        (
            "turn",
            request(method::CHANNEL_BIND)
                .put(attribute::CHANNEL_NUMBER, &[0x40, 0, 0, 0])
                .address(attribute::XOR_PEER_ADDRESS, peer)
                .done(),
        ),
        ("turn", request(method::CREATE_PERMISSION).address(attribute::XOR_PEER_ADDRESS, peer).done()),
    ]
}
