//! The relay without I/O (RFC 8656): bytes in, what to send out. Time is an argument, in seconds.
//!
//! An allocation belongs to one client (its transport and address) and to one account by its pseudonym. It sends only to peers the
//! client has a permission for, and never to those the policy refuses: this machine, its local network and link, groups, and what
//! is nobody's. A peer's packets reach the client only while the permission lasts.
//!
//! | what | lasts |
//! |---|---|
//! | allocation | as asked for, 10 minutes to an hour; a refresh renews it, of 0 ends it |
//! | permission | 5 minutes |
//! | channel, and its permission | 10 minutes |
//! | nonce | an hour; after that the client is told that it is stale |

use crate::credentials;
use crate::stun::{Class, Message, Writer, attribute as at, method};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const LIFETIME: u32 = 600;
const LONGEST: u32 = 3_600;
const PERMISSION: u64 = 300;
const CHANNEL: u64 = 600;
const NONCE: u64 = 3_600;
/// Peers of one allocation.
const PERMISSIONS: usize = 128;
/// UDP in REQUESTED-TRANSPORT.
const UDP: u8 = 17;

/// Where a client is: its connection (0 for UDP) and its address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// Number of its TCP or TLS connection; 0 for UDP.
    pub connection: u64,
    /// Its address.
    pub address: SocketAddr,
}

/// Number of an allocation's socket.
pub type RelayId = u64;

/// Whom the relay serves, and how much.
#[derive(Clone)]
pub struct Policy {
    /// The realm of the credentials.
    pub realm: String,
    /// The secret they are made with.
    pub secret: Vec<u8>,
    /// Also private, loopback and link-local peers.
    pub allow_private: bool,
    /// Allocations of one account at a time.
    pub per_account: usize,
    /// Allocations in all.
    pub allocations: usize,
    /// Bytes a second of one allocation, both ways together.
    pub rate: u64,
}

impl std::fmt::Debug for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Policy({})", self.realm)
    }
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Out<'a> {
    /// To a client.
    ToClient(Client, Vec<u8>),
    /// From an allocation's socket to a peer.
    ToPeer(RelayId, SocketAddr, &'a [u8]),
    /// Close an allocation's socket.
    Close(RelayId),
}

/// Opens the socket of an allocation: its number and the address others send to.
pub trait Sockets {
    /// `None` when there is none to be had.
    fn open(&mut self, client: Client, ipv6: bool) -> Option<(RelayId, SocketAddr)>;
}

struct Allocation {
    relay: RelayId,
    relayed: SocketAddr,
    account: String,
    username: String,
    until: u64,
    /// The request that made it: repeated when its answer was lost.
    transaction: [u8; 12],
    permissions: HashMap<IpAddr, u64>,
    channels: HashMap<u16, (SocketAddr, u64)>,
    by_peer: HashMap<SocketAddr, u16>,
    /// Bytes left, and since when.
    tokens: f64,
    filled: f64,
}

impl Allocation {
    fn permits(&self, peer: IpAddr, now: u64) -> bool {
        self.permissions.get(&peer).is_some_and(|until| *until > now)
    }

    /// Takes bytes from what may pass in this second.
    fn pay(&mut self, bytes: usize, rate: u64, now: f64) -> bool {
        #[allow(clippy::cast_precision_loss)]
        let (rate, bytes) = (rate as f64, bytes as f64);
        self.tokens = (self.tokens + (now - self.filled).max(0.0) * rate).min(rate);
        self.filled = now;
        let enough = self.tokens >= bytes;
        if enough {
            self.tokens -= bytes;
        }
        enough
    }
}

/// The relay.
pub struct Relay {
    policy: Policy,
    nonce_key: [u8; 32],
    allocations: HashMap<Client, Allocation>,
    by_relay: HashMap<RelayId, Client>,
    per_account: HashMap<String, usize>,
    /// Sockets that are to be closed with the next tick.
    closing: Vec<RelayId>,
}

struct Refusal {
    code: u16,
    reason: &'static str,
}

const fn no(code: u16, reason: &'static str) -> Refusal {
    Refusal { code, reason }
}

/// True for an address that nobody behind a relay has to reach (RFC 8656, 21.1; RFC 6890).
#[must_use]
pub fn is_refused(ip: IpAddr, allow_private: bool) -> bool {
    match ip {
        IpAddr::V4(a) => {
            let [first, second, ..] = a.octets();
            let nobodys = a.is_unspecified() || a.is_multicast() || a.is_broadcast() || first == 0 || first >= 240;
            let shared = first == 100 && (64..128).contains(&second);
            nobodys || (!allow_private && (a.is_loopback() || a.is_private() || a.is_link_local() || shared))
        }
        IpAddr::V6(a) => {
            if let Some(v4) = a.to_ipv4_mapped() {
                return is_refused(IpAddr::V4(v4), allow_private);
            }
            let local = a.is_loopback() || a.is_unique_local() || a.is_unicast_link_local();
            // Translated and tunnelled IPv4 would be a way around the list above.
            let [first, second, ..] = a.segments();
            let wrapped =
                (first == 0x64 && second == 0xff9b) || first == 0x2002 || a.to_ipv4().is_some_and(|v| !v.is_unspecified()) && first == 0;
            a.is_unspecified() || a.is_multicast() || (!allow_private && local) || (wrapped && !(allow_private && a == Ipv6Addr::LOCALHOST))
        }
    }
}

impl Relay {
    /// With a key for nonces.
    #[must_use]
    pub fn new(policy: Policy, nonce_key: [u8; 32]) -> Self {
        Self { policy, nonce_key, allocations: HashMap::new(), by_relay: HashMap::new(), per_account: HashMap::new(), closing: Vec::new() }
    }

    /// Allocations right now.
    #[must_use]
    pub fn len(&self) -> usize {
        self.allocations.len()
    }

    /// True when nobody uses it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.allocations.is_empty()
    }

    /// Bytes of a client: a message, or data on a channel. Unix seconds.
    pub fn client<'a>(&mut self, from: Client, bytes: &'a [u8], now: f64, sockets: &mut dyn Sockets) -> Option<Out<'a>> {
        let seconds = whole(now);
        if bytes.first().is_some_and(|b| b >> 6 == 1) {
            return self.channel_data(from, bytes, now);
        }
        let m = Message::parse(bytes)?;
        match (m.class, m.method) {
            (Class::Request, method::BINDING) => {
                let answer = Writer::new(Class::Success, m.method, &m.transaction).address(at::XOR_MAPPED_ADDRESS, from.address);
                Some(Out::ToClient(from, answer.fingerprinted()))
            }
            (Class::Indication, method::SEND) => self.send(from, &m, now),
            (Class::Request, _) => Some(self.request(from, &m, seconds, sockets)),
            _ => None,
        }
    }

    fn channel_data<'a>(&mut self, from: Client, bytes: &'a [u8], now: f64) -> Option<Out<'a>> {
        let number = u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?);
        let len = usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?));
        let data = bytes.get(4..4 + len)?;
        let rate = self.policy.rate;
        let a = self.allocations.get_mut(&from)?;
        let (peer, until) = *a.channels.get(&number)?;
        (until > whole(now) && a.pay(len, rate, now)).then_some(Out::ToPeer(a.relay, peer, data))
    }

    fn send<'a>(&mut self, from: Client, m: &Message<'a>, now: f64) -> Option<Out<'a>> {
        let [peer] = m.addresses(at::XOR_PEER_ADDRESS)?.try_into().ok()?;
        let data = m.get(at::DATA)?;
        let rate = self.policy.rate;
        let a = self.allocations.get_mut(&from)?;
        let peer: SocketAddr = peer;
        (a.permits(peer.ip(), whole(now)) && a.pay(data.len(), rate, now)).then_some(Out::ToPeer(a.relay, peer, data))
    }

    /// Bytes of a peer on an allocation's socket.
    pub fn peer(&mut self, relay: RelayId, peer: SocketAddr, bytes: &[u8], now: f64) -> Option<Out<'static>> {
        let client = *self.by_relay.get(&relay)?;
        let rate = self.policy.rate;
        let a = self.allocations.get_mut(&client)?;
        if !a.permits(peer.ip(), whole(now)) || !a.pay(bytes.len(), rate, now) {
            return None;
        }
        if let Some(number) = a.by_peer.get(&peer) {
            let mut out = Vec::with_capacity(bytes.len() + 8);
            out.extend_from_slice(&number.to_be_bytes());
            out.extend_from_slice(&u16::try_from(bytes.len()).ok()?.to_be_bytes());
            out.extend_from_slice(bytes);
            if client.connection != 0 {
                out.resize(out.len().next_multiple_of(4), 0);
            }
            return Some(Out::ToClient(client, out));
        }
        // An indication is matched with nothing: its transaction has to be unlike others, not secret.
        let mut transaction = [0; 12];
        for (to, from) in transaction.iter_mut().zip(now.to_bits().to_be_bytes()) {
            *to = from;
        }
        let m = Writer::new(Class::Indication, method::DATA, &transaction).address(at::XOR_PEER_ADDRESS, peer).put(at::DATA, bytes);
        Some(Out::ToClient(client, m.done()))
    }

    /// Ends what has not been renewed. Call it every few seconds.
    pub fn tick(&mut self, now: f64) -> Vec<Out<'static>> {
        let now = whole(now);
        let over: Vec<Client> = self.allocations.iter().filter(|(_, a)| a.until <= now).map(|(c, _)| *c).collect();
        for a in self.allocations.values_mut() {
            a.permissions.retain(|_, until| *until > now);
            a.channels.retain(|_, (_, until)| *until > now);
            let Allocation { channels, by_peer, .. } = a;
            by_peer.retain(|_, number| channels.contains_key(number));
        }
        let closing = std::mem::take(&mut self.closing).into_iter().map(Out::Close);
        let over: Vec<Out<'static>> = over.into_iter().filter_map(|c| self.end(c)).collect();
        closing.chain(over).collect()
    }

    /// The client's connection is gone, and its allocation with it.
    pub fn gone(&mut self, client: Client) -> Option<Out<'static>> {
        self.end(client)
    }

    /// An allocation whose time has ended does nothing any more; its socket is closed with the next tick.
    fn drop_if_over(&mut self, client: Client, now: u64) {
        if self.allocations.get(&client).is_some_and(|a| a.until <= now)
            && let Some(Out::Close(relay)) = self.end(client)
        {
            self.closing.push(relay);
        }
    }

    fn end(&mut self, client: Client) -> Option<Out<'static>> {
        let a = self.allocations.remove(&client)?;
        self.by_relay.remove(&a.relay);
        if let Some(n) = self.per_account.get_mut(&a.account) {
            *n -= 1;
            if *n == 0 {
                self.per_account.remove(&a.account);
            }
        }
        Some(Out::Close(a.relay))
    }

    fn nonce(&self, client: Client, until: u64) -> String {
        let mac = Hmac::<Sha256>::new_from_slice(&self.nonce_key).map(|mut m| {
            m.update(&until.to_be_bytes());
            m.update(format!("{client:?}").as_bytes());
            m.finalize().into_bytes().iter().take(8).map(|b| format!("{b:02x}")).collect::<String>()
        });
        format!("{until:x}-{}", mac.unwrap_or_default())
    }

    fn nonce_holds(&self, client: Client, nonce: &str, now: u64) -> bool {
        let until = nonce.split_once('-').and_then(|(until, _)| u64::from_str_radix(until, 16).ok());
        until.is_some_and(|until| {
            until > now && subtle::ConstantTimeEq::ct_eq(self.nonce(client, until).as_bytes(), nonce.as_bytes()).into()
        })
    }

    fn request(&mut self, from: Client, m: &Message<'_>, now: u64, sockets: &mut dyn Sockets) -> Out<'static> {
        let refused = |r: Refusal| Writer::new(Class::Error, m.method, &m.transaction).error(r.code, r.reason);
        let challenge = |r: Refusal| {
            let nonce = self.nonce(from, now + NONCE);
            Out::ToClient(from, refused(r).put(at::REALM, self.policy.realm.as_bytes()).put(at::NONCE, nonce.as_bytes()).done())
        };
        let (Some(username), Some(nonce)) = (m.text(at::USERNAME), m.text(at::NONCE)) else { return challenge(no(401, "Unauthorized")) };
        let seconds = i64::try_from(now).unwrap_or(i64::MAX);
        let Some((key, account)) = credentials::key(&self.policy.secret, &self.policy.realm, username, seconds) else {
            return challenge(no(401, "Unauthorized"));
        };
        if !m.is_whole(&key) {
            return challenge(no(401, "Unauthorized"));
        }
        if !self.nonce_holds(from, nonce, now) {
            return challenge(no(438, "Stale Nonce"));
        }
        let unknown = m.unknown(&KNOWN);
        let done = if unknown.is_empty() {
            match m.method {
                method::ALLOCATE => self.allocate(from, m, username, account, now, sockets),
                method::REFRESH => return self.refresh(from, m, username, now, &key),
                method::CREATE_PERMISSION => self.create_permission(from, m, username, now),
                method::CHANNEL_BIND => self.channel_bind(from, m, username, now),
                _ => Err(no(400, "Bad Request")),
            }
        } else {
            let names: Vec<u8> = unknown.iter().flat_map(|n| n.to_be_bytes()).collect();
            let answer = refused(no(420, "Unknown Attribute")).put(at::UNKNOWN_ATTRIBUTES, &names);
            return Out::ToClient(from, answer.signed(&key));
        };
        Out::ToClient(from, done.unwrap_or_else(refused).signed(&key))
    }

    fn allocate(
        &mut self,
        from: Client,
        m: &Message<'_>,
        username: &str,
        account: &str,
        now: u64,
        sockets: &mut dyn Sockets,
    ) -> Result<Writer, Refusal> {
        self.drop_if_over(from, now);
        if let Some(a) = self.allocations.get(&from) {
            return if a.transaction == m.transaction { Ok(allocated(a, from, m, now)) } else { Err(no(437, "Allocation Mismatch")) };
        }
        match m.get(at::REQUESTED_TRANSPORT).and_then(<[u8]>::first) {
            Some(&UDP) => {}
            Some(_) => return Err(no(442, "Unsupported Transport Protocol")),
            None => return Err(no(400, "Bad Request")),
        }
        let ipv6 = match m.get(at::REQUESTED_ADDRESS_FAMILY).and_then(<[u8]>::first) {
            None | Some(1) => false,
            Some(2) => true,
            Some(_) => return Err(no(440, "Address Family not Supported")),
        };
        if self.per_account.get(account).is_some_and(|n| *n >= self.policy.per_account) {
            return Err(no(486, "Allocation Quota Reached"));
        }
        if self.allocations.len() >= self.policy.allocations {
            return Err(no(508, "Insufficient Capacity"));
        }
        let (relay, relayed) = sockets.open(from, ipv6).ok_or(no(508, "Insufficient Capacity"))?;
        let lifetime = m.number(at::LIFETIME).unwrap_or(LIFETIME).clamp(LIFETIME, LONGEST);
        #[allow(clippy::cast_precision_loss)]
        let (tokens, filled) = (self.policy.rate as f64, now as f64);
        let a = Allocation {
            relay,
            relayed,
            account: account.to_owned(),
            username: username.to_owned(),
            until: now + u64::from(lifetime),
            transaction: m.transaction,
            permissions: HashMap::new(),
            channels: HashMap::new(),
            by_peer: HashMap::new(),
            tokens,
            filled,
        };
        let answer = allocated(&a, from, m, now);
        self.by_relay.insert(relay, from);
        *self.per_account.entry(account.to_owned()).or_default() += 1;
        self.allocations.insert(from, a);
        Ok(answer)
    }

    /// The client's allocation; one it made under another name is not its.
    fn own(&mut self, from: Client, username: &str, now: u64) -> Result<&mut Allocation, Refusal> {
        self.drop_if_over(from, now);
        let a = self.allocations.get_mut(&from).ok_or(no(437, "Allocation Mismatch"))?;
        let pseudonym = |name: &str| name.split_once(':').map(|(_, who)| who.to_owned());
        if pseudonym(&a.username) != pseudonym(username) {
            return Err(no(441, "Wrong Credentials"));
        }
        Ok(a)
    }

    fn refresh(&mut self, from: Client, m: &Message<'_>, username: &str, now: u64, key: &[u8]) -> Out<'static> {
        let wanted = m.number(at::LIFETIME).unwrap_or(LIFETIME);
        let lifetime = if wanted == 0 { 0 } else { wanted.clamp(LIFETIME, LONGEST) };
        match self.own(from, username, now) {
            Ok(a) => {
                a.until = now + u64::from(lifetime);
                self.drop_if_over(from, now);
                let answer = Writer::new(Class::Success, m.method, &m.transaction).put(at::LIFETIME, &lifetime.to_be_bytes());
                Out::ToClient(from, answer.signed(key))
            }
            Err(r) => Out::ToClient(from, Writer::new(Class::Error, m.method, &m.transaction).error(r.code, r.reason).signed(key)),
        }
    }

    fn create_permission(&mut self, from: Client, m: &Message<'_>, username: &str, now: u64) -> Result<Writer, Refusal> {
        let allow_private = self.policy.allow_private;
        let a = self.own(from, username, now)?;
        let peers = m.addresses(at::XOR_PEER_ADDRESS).filter(|p| !p.is_empty()).ok_or(no(400, "Bad Request"))?;
        permit(a, peers.iter().map(SocketAddr::ip), allow_private, now + PERMISSION)?;
        Ok(Writer::new(Class::Success, m.method, &m.transaction))
    }

    fn channel_bind(&mut self, from: Client, m: &Message<'_>, username: &str, now: u64) -> Result<Writer, Refusal> {
        let allow_private = self.policy.allow_private;
        let a = self.own(from, username, now)?;
        // RFC 8656 gives out 0x4000 to 0x4fff; clients of RFC 5766 go on to 0x7fff.
        let number = m.number(at::CHANNEL_NUMBER).and_then(|n| u16::try_from(n >> 16).ok()).filter(|n| (0x4000..0x8000).contains(n));
        let peer = m.addresses(at::XOR_PEER_ADDRESS).and_then(|p| p.first().copied());
        let (Some(number), Some(peer)) = (number, peer) else { return Err(no(400, "Bad Request")) };
        let other_peer = a.channels.get(&number).is_some_and(|(p, _)| *p != peer);
        let other_number = a.by_peer.get(&peer).is_some_and(|n| *n != number);
        if other_peer || other_number {
            return Err(no(400, "Bad Request"));
        }
        permit(a, std::iter::once(peer.ip()), allow_private, now + PERMISSION.max(CHANNEL))?;
        a.channels.insert(number, (peer, now + CHANNEL));
        a.by_peer.insert(peer, number);
        Ok(Writer::new(Class::Success, m.method, &m.transaction))
    }
}

const KNOWN: [u16; 12] = [
    at::USERNAME,
    at::MESSAGE_INTEGRITY,
    at::REALM,
    at::NONCE,
    at::LIFETIME,
    at::CHANNEL_NUMBER,
    at::XOR_PEER_ADDRESS,
    at::REQUESTED_TRANSPORT,
    at::REQUESTED_ADDRESS_FAMILY,
    at::EVEN_PORT,
    at::DONT_FRAGMENT,
    at::DATA,
];

fn permit(a: &mut Allocation, peers: impl Iterator<Item = IpAddr>, allow_private: bool, until: u64) -> Result<(), Refusal> {
    for peer in peers {
        if is_refused(peer, allow_private) {
            return Err(no(403, "Forbidden"));
        }
        if peer.is_ipv4() != a.relayed.is_ipv4() {
            return Err(no(443, "Peer Address Family Mismatch"));
        }
        if a.permissions.len() >= PERMISSIONS && !a.permissions.contains_key(&peer) {
            return Err(no(508, "Insufficient Capacity"));
        }
        let kept = a.permissions.entry(peer).or_insert(until);
        *kept = until.max(*kept);
    }
    Ok(())
}

fn allocated(a: &Allocation, from: Client, m: &Message<'_>, now: u64) -> Writer {
    let left = u32::try_from(a.until.saturating_sub(now)).unwrap_or(LONGEST);
    Writer::new(Class::Success, m.method, &m.transaction)
        .address(at::XOR_RELAYED_ADDRESS, a.relayed)
        .put(at::LIFETIME, &left.to_be_bytes())
        .address(at::XOR_MAPPED_ADDRESS, from.address)
}

fn whole(now: f64) -> u64 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = now.max(0.0) as u64;
    seconds
}

/// Any address, for sockets that are bound to all of them.
#[must_use]
pub fn any(ipv6: bool) -> IpAddr {
    if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests;
