//! Stories of a client, a peer and time.

use super::*;

const SECRET: &[u8] = b"north";
const NOW: f64 = 1_000_000.0;

struct Ports(u64);

impl Sockets for Ports {
    fn open(&mut self, _: Client, ipv6: bool) -> Option<(RelayId, SocketAddr)> {
        self.0 += 1;
        let ip = if ipv6 { "2001:db8::1".parse().unwrap() } else { "203.0.113.1".parse().unwrap() };
        Some((self.0, SocketAddr::new(ip, 40_000 + u16::try_from(self.0).unwrap())))
    }
}

/// A client with its credentials.
struct Caller {
    relay: Relay,
    ports: Ports,
    client: Client,
    name: credentials::Credentials,
    nonce: String,
    count: u8,
}

fn caller(change: impl FnOnce(&mut Policy)) -> Caller {
    let mut policy =
        Policy { realm: "here".into(), secret: SECRET.to_vec(), allow_private: false, per_account: 2, allocations: 100, rate: 100_000 };
    change(&mut policy);
    let client = Client { connection: 0, address: "198.51.100.7:5000".parse().unwrap() };
    let name = credentials::issue(SECRET, b"lan", 1_000_600);
    let mut c = Caller { relay: Relay::new(policy, [1; 32]), ports: Ports(0), client, name, nonce: String::new(), count: 0 };
    assert_eq!(c.ask(method::ALLOCATE, |w| w, NOW), Err(438));
    c
}

impl Caller {
    /// Sends a request; the answer, or the code of the refusal. A new nonce is kept.
    fn ask(&mut self, method: u16, add: impl FnOnce(Writer) -> Writer, now: f64) -> Result<Vec<u8>, u16> {
        self.count += 1;
        let w = add(Writer::new(Class::Request, method, &[self.count; 12]));
        let w = w.put(at::USERNAME, self.name.username.as_bytes()).put(at::REALM, b"here").put(at::NONCE, self.nonce.as_bytes());
        let raw = w.signed(&credentials::long_term(&self.name.username, "here", &self.name.password));
        let Some(Out::ToClient(to, bytes)) = self.relay.client(self.client, &raw, now, &mut self.ports) else { panic!("no answer") };
        assert_eq!(to, self.client);
        let m = Message::parse(&bytes).unwrap();
        if let Some(e) = m.get(at::ERROR_CODE) {
            if let Some(nonce) = m.text(at::NONCE) {
                self.nonce = nonce.to_owned();
            }
            return Err(u16::from(e[2]) * 100 + u16::from(e[3]));
        }
        Ok(bytes)
    }

    fn allocate(&mut self) -> Result<SocketAddr, u16> {
        let bytes = self.ask(method::ALLOCATE, |w| w.put(at::REQUESTED_TRANSPORT, &[UDP, 0, 0, 0]), NOW)?;
        Ok(Message::parse(&bytes).unwrap().addresses(at::XOR_RELAYED_ADDRESS).unwrap()[0])
    }

    fn permit(&mut self, peer: &str, now: f64) -> Result<(), u16> {
        let peer = peer.parse().unwrap();
        self.ask(method::CREATE_PERMISSION, |w| w.address(at::XOR_PEER_ADDRESS, peer), now).map(drop)
    }

    fn bind(&mut self, number: u16, peer: &str, now: f64) -> Result<(), u16> {
        let (peer, n) = (peer.parse().unwrap(), (u32::from(number) << 16).to_be_bytes());
        self.ask(method::CHANNEL_BIND, |w| w.put(at::CHANNEL_NUMBER, &n).address(at::XOR_PEER_ADDRESS, peer), now).map(drop)
    }

    fn on_channel(&mut self, number: u16, data: &[u8], now: f64) -> Option<(RelayId, SocketAddr, Vec<u8>)> {
        let mut raw = number.to_be_bytes().to_vec();
        raw.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        raw.extend(data);
        match self.relay.client(self.client, &raw, now, &mut self.ports) {
            Some(Out::ToPeer(relay, peer, bytes)) => Some((relay, peer, bytes.to_vec())),
            _ => None,
        }
    }
}

const PEER: &str = "192.0.2.9:7000";

#[test]
fn what_is_sent_on_a_channel_reaches_the_peer_and_comes_back() {
    let mut c = caller(|_| {});
    assert_eq!(c.allocate(), Ok("203.0.113.1:40001".parse().unwrap()));
    assert_eq!(c.on_channel(0x4000, b"early", NOW), None);
    c.bind(0x4000, PEER, NOW).unwrap();
    assert_eq!(c.on_channel(0x4000, b"hello", NOW), Some((1, PEER.parse().unwrap(), b"hello".to_vec())));
    let back = c.relay.peer(1, PEER.parse().unwrap(), b"hi!", NOW);
    assert_eq!(back, Some(Out::ToClient(c.client, [0x40, 0, 0, 3, b'h', b'i', b'!'].to_vec())));
    assert_eq!(c.relay.peer(1, "192.0.2.10:7000".parse().unwrap(), b"who?", NOW), None, "a stranger is not let through");
}

#[test]
fn indications_need_a_permission_that_lasts_five_minutes() {
    let mut c = caller(|_| {});
    c.allocate().unwrap();
    let raw = Writer::new(Class::Indication, method::SEND, &[5; 12])
        .address(at::XOR_PEER_ADDRESS, PEER.parse().unwrap())
        .put(at::DATA, b"x")
        .done();
    assert_eq!(c.relay.client(c.client, &raw, NOW, &mut c.ports), None);
    c.permit(PEER, NOW).unwrap();
    assert_eq!(c.relay.client(c.client, &raw, NOW, &mut c.ports), Some(Out::ToPeer(1, PEER.parse().unwrap(), b"x")));
    let Some(Out::ToClient(_, back)) = c.relay.peer(1, PEER.parse().unwrap(), b"y", NOW) else { panic!() };
    assert_eq!(Message::parse(&back).unwrap().get(at::DATA), Some(b"y".as_slice()));
    assert_eq!(c.relay.client(c.client, &raw, NOW + 301.0, &mut c.ports), None);
}

#[test]
fn nobody_is_reached_behind_the_relay() {
    let mut c = caller(|_| {});
    c.allocate().unwrap();
    for peer in [
        "127.0.0.1:8420",
        "10.0.0.1:22",
        "192.168.1.1:80",
        "169.254.169.254:80",
        "100.64.0.1:9",
        "0.0.0.0:1",
        "224.0.0.1:1",
        "255.255.255.255:1",
    ] {
        assert_eq!(c.permit(peer, NOW), Err(403), "{peer}");
        assert_eq!(c.bind(0x4001, peer, NOW), Err(403), "{peer}");
    }
    for peer in ["::1", "::ffff:127.0.0.1", "::127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "fd00::1", "fe80::1", "ff02::1", "::"] {
        assert!(is_refused(peer.parse().unwrap(), false), "{peer}");
    }
    assert!(!is_refused("2001:db8::1".parse().unwrap(), false) && !is_refused("::1".parse().unwrap(), true));
    assert_eq!(c.permit("[2001:db8::1]:1", NOW), Err(443));
    let mut open = caller(|p| p.allow_private = true);
    open.allocate().unwrap();
    assert_eq!((open.permit("10.0.0.1:22", NOW), open.permit("0.0.0.0:1", NOW)), (Ok(()), Err(403)));
}

#[test]
fn an_account_has_its_quota_and_gets_it_back() {
    let mut c = caller(|_| {});
    for port in [5_000, 5_001, 5_002] {
        c.client.address.set_port(port);
        c.nonce = c.relay.nonce(c.client, 2_000_000);
        assert_eq!(c.allocate().is_ok(), port < 5_002);
    }
    c.client.address.set_port(5_000);
    c.nonce = c.relay.nonce(c.client, 2_000_000);
    c.ask(method::REFRESH, |w| w.put(at::LIFETIME, &[0; 4]), NOW).unwrap();
    assert_eq!(c.relay.tick(NOW), [Out::Close(1)]);
    c.client.address.set_port(5_002);
    c.nonce = c.relay.nonce(c.client, 2_000_000);
    assert!(c.allocate().is_ok());
}

#[test]
fn allocations_end_by_themselves_unless_they_are_renewed() {
    let mut c = caller(|_| {});
    c.allocate().unwrap();
    c.ask(method::REFRESH, |w| w, NOW + 500.0).unwrap();
    assert_eq!(c.relay.tick(NOW + 700.0), []);
    assert_eq!(c.relay.tick(NOW + 1_100.0), [Out::Close(1)]);
    assert!(c.relay.is_empty() && c.relay.per_account.is_empty() && c.relay.by_relay.is_empty());
}

#[test]
fn credentials_and_nonces_end_and_are_nobody_elses() {
    let mut c = caller(|_| {});
    c.allocate().unwrap();
    assert_eq!(c.ask(method::REFRESH, |w| w, NOW + 601.0), Err(401), "the name's time has ended");
    let mut c = caller(|_| {});
    c.name = credentials::issue(SECRET, b"lan", 9_000_000);
    c.allocate().unwrap();
    assert_eq!(c.ask(method::REFRESH, |w| w, NOW + 3_601.0), Err(438));
    c.name.password.push('x');
    assert_eq!(c.ask(method::REFRESH, |w| w, NOW), Err(401));
    c.name = credentials::issue(SECRET, b"mallory", 9_000_000);
    c.nonce = c.relay.nonce(c.client, 2_000_000);
    assert_eq!(c.ask(method::REFRESH, |w| w, NOW), Err(441));
}

#[test]
fn an_allocation_passes_so_much_a_second_and_no_more() {
    let mut c = caller(|p| p.rate = 10_000);
    c.allocate().unwrap();
    c.bind(0x4000, PEER, NOW).unwrap();
    let passed = |c: &mut Caller, at: f64| (0..20).filter(|_| c.on_channel(0x4000, &[0; 1_000], at).is_some()).count();
    assert_eq!((passed(&mut c, NOW), passed(&mut c, NOW + 0.5)), (10, 5));
}
