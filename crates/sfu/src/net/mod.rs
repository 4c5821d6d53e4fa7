//! The shell around the core: one thread, one UDP port, one TCP port (RFC 4571 framing), commands from elsewhere.
//!
//! The thread is the only one that touches the [`Sfu`]. Commands come by a bounded queue; each participant's signals leave by a bounded
//! queue of their own, and whoever does not take them has lost their signalling. Datagrams leave in batches of one receiver (UDP
//! segmentation offload), because the system's network stack is what costs most.

mod batch;
mod tcp;

use crate::model::{Config, Event, Join, LeaveReason, Output, SessionId};
use crate::{Sfu, proto};
use batch::Batches;
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use str0m::net::Protocol;
use tokio::io::Interest;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, oneshot};

/// Commands that may wait.
const COMMANDS: usize = 4_096;
/// Signals that may wait for one participant.
const SIGNALS: usize = 1_024;
/// Frames of TCP connections that may wait.
const FRAMES: usize = 4_096;
/// Datagrams taken in before what they led to is sent.
const AT_ONCE: usize = 256;
/// Buffers for one call to the system, and their size: a run of datagrams may come in one of them.
const BUFFERS: usize = 16;
const BUFFER: usize = 65_535;
/// Socket buffers, in bytes: a key frame to many receivers at once has to fit.
const SOCKET: usize = 8 << 20;

/// A participant's signalling connection, as the unit sees it.
#[derive(Debug)]
pub struct Link {
    /// Whose.
    pub session: SessionId,
    /// What is to be sent; it ends when the participant is gone, or too slow.
    pub signals: mpsc::Receiver<proto::SignalResponse>,
    /// Tells one connection of a participant from the next.
    generation: u64,
}

/// Why somebody did not come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoEntry {
    /// The room has as many as it may.
    #[error("the room is full")]
    Full,
    /// The unit has stopped.
    #[error("the unit has stopped")]
    Stopped,
}

/// Where it listens.
#[derive(Debug, Clone)]
pub struct Listen {
    /// UDP; port 0 for any.
    pub udp: SocketAddr,
    /// TCP; nothing for none.
    pub tcp: Option<SocketAddr>,
    /// The address participants are told, when it is not one of this machine (behind NAT).
    pub external: Option<IpAddr>,
}

enum Command {
    Join(Box<Join>, oneshot::Sender<Result<Link, NoEntry>>),
    Resume { room: String, identity: String, sid: String, reply: oneshot::Sender<Option<Link>> },
    Signal(SessionId, Box<proto::SignalRequest>),
    Lost(SessionId, u64),
    Leave(String, String, LeaveReason),
    Mute(String, String, proto::TrackSource),
    Close(String),
    Rooms(oneshot::Sender<Vec<(String, proto::Room)>>),
    People(String, oneshot::Sender<Vec<proto::ParticipantInfo>>),
    Stop,
}

/// What the unit counts.
#[derive(Debug, Default)]
pub struct Stats {
    /// Rooms with somebody in them.
    pub rooms: AtomicU64,
    /// Participants.
    pub participants: AtomicU64,
    /// Media packets given to receivers.
    pub forwarded: AtomicU64,
    /// Datagrams the system did not take.
    pub dropped: AtomicU64,
}

/// A running unit. Cheap to clone; it stops when [`Handle::stop`] is called.
#[derive(Clone)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    stats: Arc<Stats>,
    /// Where participants reach it.
    pub udp: SocketAddr,
    /// Where they reach it where UDP does not pass.
    pub tcp: Option<SocketAddr>,
}

impl Handle {
    /// Binds and runs. What happens in the rooms comes out of the receiver, which has to be read.
    pub fn start(listen: Listen, mut config: Config, seed: [u8; 32]) -> io::Result<(Self, mpsc::Receiver<Event>)> {
        let udp = std::net::UdpSocket::bind(listen.udp)?;
        udp.set_nonblocking(true)?;
        let at = udp.local_addr()?;
        let tcp = match listen.tcp {
            // The same port, when any will do: one hole in a firewall.
            Some(a) if a.port() == 0 => Some(std::net::TcpListener::bind((a.ip(), at.port())).or_else(|_| std::net::TcpListener::bind(a))?),
            Some(a) => Some(std::net::TcpListener::bind(a)?),
            None => None,
        };
        if let Some(t) = &tcp {
            t.set_nonblocking(true)?;
        }
        let tcp_at = tcp.as_ref().map(std::net::TcpListener::local_addr).transpose()?;
        let told = told(at.ip(), listen.external);
        config.udp = told.iter().map(|ip| SocketAddr::new(*ip, at.port())).collect();
        config.tcp = tcp_at.iter().flat_map(|a| told.iter().map(|ip| SocketAddr::new(*ip, a.port()))).collect();
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (events, out) = mpsc::channel(COMMANDS);
        let stats = Arc::new(Stats::default());
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX));
        let sfu = Sfu::new(config, Instant::now(), unix, seed);
        let shared = stats.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("secureconnect-sfu".into()).spawn(move || {
            let ran = runtime.block_on(async move {
                let shell = Shell::new(sfu, udp, tcp, listen.external, events, shared)?;
                shell.run(inbox).await;
                io::Result::Ok(())
            });
            if let Err(cause) = ran {
                tracing::error!(%cause, "the rooms' thread could not begin");
            }
        })?;
        Ok((Self { commands, stats, udp: at, tcp: tcp_at }, out))
    }

    /// Somebody comes in.
    pub async fn join(&self, join: Join) -> Result<Link, NoEntry> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Join(Box::new(join), reply)).await.map_err(|_| NoEntry::Stopped)?;
        answer.await.map_err(|_| NoEntry::Stopped)?
    }

    /// Somebody's signalling is back; `None` when their stay is over.
    pub async fn resume(&self, room: String, identity: String, sid: String) -> Option<Link> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Resume { room, identity, sid, reply }).await.ok()?;
        answer.await.ok().flatten()
    }

    /// A participant said something.
    pub async fn signal(&self, session: SessionId, request: proto::SignalRequest) {
        // A unit that has stopped takes nothing; the participant's connection ends with it. So with the other commands.
        let _ = self.commands.send(Command::Signal(session, Box::new(request))).await;
    }

    /// A participant's signalling ended; nothing happens if it has been taken up again since.
    pub async fn lost(&self, link: &Link) {
        let _ = self.commands.send(Command::Lost(link.session, link.generation)).await;
    }

    /// Takes somebody out.
    pub async fn leave(&self, room: String, identity: String, reason: LeaveReason) {
        let _ = self.commands.send(Command::Leave(room, identity, reason)).await;
    }

    /// Takes the microphone, camera or screen of somebody away; they may switch it on again.
    pub async fn mute(&self, room: String, identity: String, source: proto::TrackSource) {
        let _ = self.commands.send(Command::Mute(room, identity, source)).await;
    }

    /// Ends a room for everybody.
    pub async fn close(&self, room: String) {
        let _ = self.commands.send(Command::Close(room)).await;
    }

    /// The rooms with somebody in them, by the unit's names for them. Nothing when the unit has stopped; so with the next one.
    pub async fn rooms(&self) -> Vec<(String, proto::Room)> {
        let (reply, answer) = oneshot::channel();
        let asked = self.commands.send(Command::Rooms(reply)).await;
        if asked.is_err() { Vec::new() } else { answer.await.unwrap_or_default() }
    }

    /// Those in a room, hidden ones too.
    pub async fn people(&self, room: String) -> Vec<proto::ParticipantInfo> {
        let (reply, answer) = oneshot::channel();
        let asked = self.commands.send(Command::People(room, reply)).await;
        if asked.is_err() { Vec::new() } else { answer.await.unwrap_or_default() }
    }

    /// Ends the thread; everybody is told.
    pub async fn stop(&self) {
        let _ = self.commands.send(Command::Stop).await;
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }
}

/// The addresses participants are told.
fn told(bound: IpAddr, external: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(ip) = external {
        return vec![ip];
    }
    if !bound.is_unspecified() {
        return vec![bound];
    }
    local_addresses(bound.is_ipv6())
}

/// This machine's addresses, as far as the system's routes show them.
fn local_addresses(ipv6: bool) -> Vec<IpAddr> {
    let probe = |target: &str, bind: &str| -> Option<IpAddr> {
        // Nothing is sent: connecting a UDP socket only asks for the route.
        let s = std::net::UdpSocket::bind(bind).ok()?;
        s.connect(target).ok()?;
        s.local_addr().ok().map(|a| a.ip())
    };
    let mut out: Vec<IpAddr> = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    out.extend(probe("192.0.2.1:9", "0.0.0.0:0"));
    if ipv6 {
        out.extend(probe("[2001:db8::1]:9", "[::]:0"));
    }
    out.dedup();
    out
}

/// A connection's end in the thread.
struct Outlet {
    generation: u64,
    signals: mpsc::Sender<proto::SignalResponse>,
}

struct Shell {
    sfu: Sfu,
    udp: UdpSocket,
    state: UdpSocketState,
    tcp: Option<TcpListener>,
    external: Option<IpAddr>,
    at: SocketAddr,
    connections: HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>,
    outlets: HashMap<SessionId, Outlet>,
    generation: u64,
    batches: Batches,
    events: mpsc::Sender<Event>,
    /// Events that found no room; a newer state replaces the one before.
    backlog: VecDeque<Event>,
    stats: Arc<Stats>,
}

impl Shell {
    fn new(
        sfu: Sfu,
        udp: std::net::UdpSocket,
        tcp: Option<std::net::TcpListener>,
        external: Option<IpAddr>,
        events: mpsc::Sender<Event>,
        stats: Arc<Stats>,
    ) -> io::Result<Self> {
        let at = udp.local_addr()?;
        let state = UdpSocketState::new(UdpSockRef::from(&udp))?;
        for done in [state.set_send_buffer_size(UdpSockRef::from(&udp), SOCKET), state.set_recv_buffer_size(UdpSockRef::from(&udp), SOCKET)]
        {
            if let Err(cause) = done {
                tracing::debug!(%cause, "socket buffers stay as the system has them");
            }
        }
        Ok(Self {
            sfu,
            udp: UdpSocket::from_std(udp)?,
            batches: Batches::new(state.max_gso_segments()),
            state,
            tcp: tcp.map(TcpListener::from_std).transpose()?,
            external,
            at,
            connections: HashMap::new(),
            outlets: HashMap::new(),
            generation: 0,
            events,
            backlog: VecDeque::new(),
            stats,
        })
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let (frames, mut framed) = mpsc::channel::<tcp::Frame>(FRAMES);
        let mut buffers = vec![0u8; BUFFERS * BUFFER];
        let tcp = self.tcp.take();
        let mut open = 0usize;
        loop {
            self.flush();
            let due = tokio::time::Instant::from_std(self.sfu.poll_timeout());
            tokio::select! {
                ready = self.udp.readable() => {
                    if ready.is_ok() {
                        self.take_datagrams(&mut buffers);
                    }
                }
                command = inbox.recv() => match command {
                    Some(Command::Stop) | None => return self.stop(),
                    Some(c) => {
                        self.on_command(c);
                        // What waits with it is one step as well.
                        for _ in 0..AT_ONCE {
                            match inbox.try_recv() {
                                Ok(Command::Stop) => return self.stop(),
                                Ok(c) => self.on_command(c),
                                Err(_) => break,
                            }
                        }
                    }
                },
                frame = framed.recv() => match frame {
                    Some(tcp::Frame::Opened(peer, out)) => drop(self.connections.insert(peer, out)),
                    Some(tcp::Frame::Bytes { from, to, bytes }) => {
                        let to = self.told(Some(to.ip()), to.port());
                        self.sfu.handle_datagram(Instant::now(), Protocol::Tcp, from, to, &bytes);
                    }
                    Some(tcp::Frame::Closed(peer)) => {
                        open = open.saturating_sub(1);
                        self.connections.remove(&peer);
                    }
                    None => {}
                },
                accepted = accept(tcp.as_ref()), if open < tcp::CONNECTIONS => {
                    if let Some((stream, peer)) = accepted {
                        open += 1;
                        tcp::serve(stream, peer, frames.clone());
                    }
                },
                () = tokio::time::sleep_until(due) => {}
            }
            let now = Instant::now();
            if self.sfu.poll_timeout() <= now {
                self.sfu.handle_timeout(now);
            }
        }
    }

    fn stop(mut self) {
        let now = Instant::now();
        let sessions: Vec<SessionId> = self.outlets.keys().copied().collect();
        for s in sessions {
            self.sfu.leave(now, s, LeaveReason::Restart);
        }
        self.flush();
    }

    /// An address of this machine as participants know it.
    fn told(&self, ip: Option<IpAddr>, port: u16) -> SocketAddr {
        SocketAddr::new(self.external.or(ip).unwrap_or(self.at.ip()), port)
    }

    fn take_datagrams(&mut self, buffers: &mut [u8]) {
        let mut taken = 0;
        while taken < AT_ONCE {
            let mut metas = [RecvMeta::default(); BUFFERS];
            let got = {
                let mut slices: Vec<IoSliceMut<'_>> = buffers.chunks_mut(BUFFER).map(IoSliceMut::new).collect();
                let (udp, state) = (&self.udp, &self.state);
                udp.try_io(Interest::READABLE, || state.recv(UdpSockRef::from(udp), &mut slices, &mut metas))
            };
            let Ok(n) = got else { return };
            let now = Instant::now();
            for (meta, buffer) in metas.iter().zip(buffers.chunks(BUFFER)).take(n) {
                let to = self.told(meta.dst_ip, self.at.port());
                let Some(bytes) = buffer.get(..meta.len) else { continue };
                for datagram in bytes.chunks(meta.stride.max(1)) {
                    taken += 1;
                    self.sfu.handle_datagram(now, Protocol::Udp, meta.addr, to, datagram);
                }
            }
        }
    }

    fn on_command(&mut self, command: Command) {
        let now = Instant::now();
        match command {
            Command::Join(join, reply) if self.sfu.is_full(&join) => {
                // Whoever asked may be gone already: so with the other answers.
                let _ = reply.send(Err(NoEntry::Full));
            }
            Command::Join(join, reply) => {
                let session = self.sfu.join(now, *join);
                let link = self.link(session);
                if let Err(Ok(link)) = reply.send(Ok(link)) {
                    self.outlets.remove(&link.session);
                    self.sfu.leave(now, session, LeaveReason::Left);
                }
            }
            Command::Resume { room, identity, sid, reply } => {
                let found = self.sfu.find(&room, &identity, Some(&sid));
                let link = found.map(|session| {
                    let link = self.link(session);
                    self.sfu.resume(now, session);
                    link
                });
                if let Err(Some(link)) = reply.send(link) {
                    self.lost(now, link.session, link.generation);
                }
            }
            Command::Signal(session, request) => self.sfu.handle_signal(now, session, *request),
            Command::Lost(session, generation) => self.lost(now, session, generation),
            Command::Leave(room, identity, reason) => {
                if let Some(session) = self.sfu.find(&room, &identity, None) {
                    self.sfu.leave(now, session, reason);
                }
            }
            Command::Mute(room, identity, source) => {
                if let Some(session) = self.sfu.find(&room, &identity, None) {
                    self.sfu.mute(now, session, source);
                }
            }
            Command::Close(room) => {
                for session in self.sfu.sessions_in(&room) {
                    self.sfu.leave(now, session, LeaveReason::Closed);
                }
            }
            Command::Rooms(reply) => drop(reply.send(self.sfu.list())),
            Command::People(room, reply) => drop(reply.send(self.sfu.people(&room))),
            Command::Stop => {}
        }
    }

    /// A new connection of a participant; the one before ends.
    fn link(&mut self, session: SessionId) -> Link {
        self.generation += 1;
        let (signals, out) = mpsc::channel(SIGNALS);
        self.outlets.insert(session, Outlet { generation: self.generation, signals });
        Link { session, signals: out, generation: self.generation }
    }

    fn lost(&mut self, now: Instant, session: SessionId, generation: u64) {
        if self.outlets.get(&session).is_some_and(|o| o.generation == generation) {
            self.outlets.remove(&session);
            self.sfu.signal_lost(now, session);
        }
    }

    /// Does what the core wants done.
    fn flush(&mut self) {
        while let Some(output) = self.sfu.poll_output() {
            match output {
                Output::Transmit(t) if t.proto == Protocol::Udp => self.batches.add(t.destination, t.source.ip(), &t.contents),
                Output::Transmit(t) => {
                    // A slow connection loses frames, as any network does.
                    if let Some(c) = self.connections.get(&t.destination) {
                        let _ = c.try_send(t.contents.to_vec());
                    }
                }
                Output::Signal(session, message) => self.signal(session, *message),
                Output::Close(session) => drop(self.outlets.remove(&session)),
                Output::Event(e) => self.event(e),
            }
        }
        self.batches.send(&self.udp, &self.state, self.external.is_none(), &self.stats.dropped);
        while let Some(e) = self.backlog.pop_front() {
            if let Err(mpsc::error::TrySendError::Full(e)) = self.events.try_send(e) {
                self.backlog.push_front(e);
                break;
            }
        }
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        self.stats.rooms.store(count(self.sfu.rooms()), Ordering::Relaxed);
        self.stats.participants.store(count(self.sfu.participants()), Ordering::Relaxed);
        self.stats.forwarded.store(self.sfu.forwarded(), Ordering::Relaxed);
    }

    fn signal(&mut self, session: SessionId, message: proto::SignalResponse) {
        let Some(outlet) = self.outlets.get(&session) else { return };
        if outlet.signals.try_send(message).is_err() {
            tracing::debug!(session, "signals are not taken");
            self.outlets.remove(&session);
            self.sfu.signal_lost(Instant::now(), session);
        }
    }

    fn event(&mut self, event: Event) {
        // Of states the newest says all.
        self.backlog.retain(|e| match (e, &event) {
            (Event::Speaking { room: a, .. }, Event::Speaking { room: b, .. }) => a != b,
            (Event::Track { room: a, identity: i, source: s, .. }, Event::Track { room: b, identity: j, source: t, .. }) => {
                (a, i, s) != (b, j, t)
            }
            (Event::Attributes { room: a, identity: i, .. }, Event::Attributes { room: b, identity: j, .. }) => (a, i) != (b, j),
            _ => true,
        });
        self.backlog.push_back(event);
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<(tokio::net::TcpStream, SocketAddr)> {
    match listener {
        Some(l) => match l.accept().await {
            Ok(accepted) => Some(accepted),
            Err(cause) => {
                tracing::warn!(%cause, "cannot accept");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                None
            }
        },
        None => std::future::pending().await,
    }
}
