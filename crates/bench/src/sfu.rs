//! The forwarding unit beside Janus (Debian's): publishers of 1.5 Mb/s, many receivers, each server on a core of its own, the load
//! on the other one. One publisher for all of them, as in a lecture, or many rooms of a few people, whose pictures come at different
//! times. The same clients for both: WebRTC by str0m, without congestion feedback, so that nothing but forwarding is measured. Most
//! receivers count packets without decrypting them; a few decrypt, and measure how late each packet is: from just before it is given to
//! the kernel to when the kernel received it for them, so that the load's own waits do not count.

mod janus;

use anyhow::{Context as _, Result, bail, ensure};
use janus::Janus;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use quinn_udp::{RecvMeta, UdpSockRef, UdpSocketState};
use sc_sfu::net::{Handle, Listen};
use sc_sfu::{Join, proto};
use std::io::{BufRead as _, BufReader, IoSliceMut, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use str0m::change::{SdpAnswer, SdpOffer};
use str0m::media::{Direction, MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// 30 pictures a second of 5 packets: 1.5 Mb/s with headers.
const FRAMES: u64 = 30;
const PACKETS: u64 = 5;
const BYTES: usize = 1_200;
/// Receivers that decrypt and measure.
const WITNESSES: usize = 4;
const WARM: f64 = 3.0;
const MEASURED: f64 = 10.0;

/// `--sfu LISTEN`: the unit alone, with its signalling as frames on TCP: their room, who they are, then LiveKit's messages.
pub async fn serve(listen: &str) -> Result<()> {
    let ip: IpAddr = listen.parse()?;
    let at = SocketAddr::new(ip, 0);
    let (unit, mut events) = Handle::start(Listen { udp: at, tcp: None, external: None }, sc_sfu::Config::default(), [7; 32])?;
    tokio::spawn(async move { while events.recv().await.is_some() {} });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (socket, _) = listener.accept().await?;
        tokio::spawn(participant(unit.clone(), socket));
    }
}

async fn participant(unit: Handle, socket: tokio::net::TcpStream) -> Result<()> {
    use prost::Message as _;
    let (mut read, mut write) = socket.into_split();
    let room = String::from_utf8(frame(&mut read).await?)?;
    let identity = String::from_utf8(frame(&mut read).await?)?;
    let mut link = unit.join(Join { room, identity, auto_subscribe: true, ..Join::default() }).await.context("stopped")?;
    let session = link.session;
    tokio::spawn(async move {
        while let Some(m) = link.signals.recv().await {
            let bytes = m.encode_to_vec();
            write.write_u32(u32::try_from(bytes.len())?).await?;
            write.write_all(&bytes).await?;
        }
        anyhow::Ok(())
    });
    loop {
        let bytes = frame(&mut read).await?;
        unit.signal(session, proto::SignalRequest::decode(bytes.as_slice())?).await;
    }
}

async fn frame(read: &mut tokio::net::tcp::OwnedReadHalf) -> Result<Vec<u8>> {
    let mut bytes = vec![0; read.read_u32().await? as usize];
    read.read_exact(&mut bytes).await?;
    Ok(bytes)
}

/// A server to be measured.
trait Target {
    fn pid(&self) -> u32;
    /// The answer to a publisher's offer of the track `cid`, in a room of its own.
    fn publish(&mut self, room: usize, cid: &str, offer: &str) -> Result<String>;
    /// An offer for a new receiver in that room, once its publisher is up.
    fn subscribe(&mut self, room: usize) -> Result<String>;
    /// The answer to the last offer.
    fn answer(&mut self, sdp: &str) -> Result<()>;
}

struct Ours {
    child: Child,
    address: String,
    publishers: Vec<Signalling>,
    receivers: Vec<Signalling>,
}

struct Signalling(TcpStream);

impl Signalling {
    fn open(address: &str, room: usize, identity: &str) -> Result<Self> {
        let mut this = Self(TcpStream::connect(address)?);
        this.0.set_nodelay(true)?;
        this.0.set_read_timeout(Some(Duration::from_secs(10)))?;
        this.write(format!("room {room}").as_bytes())?;
        this.write(identity.as_bytes())?;
        Ok(this)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.0.write_all(&u32::try_from(bytes.len())?.to_be_bytes())?;
        Ok(self.0.write_all(bytes)?)
    }

    fn say(&mut self, message: proto::signal_request::Message) -> Result<()> {
        use prost::Message as _;
        self.write(&proto::SignalRequest { message: Some(message) }.encode_to_vec())
    }

    fn until<T>(&mut self, f: impl Fn(proto::signal_response::Message) -> Option<T>) -> Result<T> {
        use prost::Message as _;
        loop {
            let mut len = [0; 4];
            self.0.read_exact(&mut len)?;
            let mut bytes = vec![0; u32::from_be_bytes(len) as usize];
            self.0.read_exact(&mut bytes)?;
            if let Some(v) = proto::SignalResponse::decode(bytes.as_slice())?.message.and_then(&f) {
                return Ok(v);
            }
        }
    }
}

impl Ours {
    fn start(ip: IpAddr) -> Result<Self> {
        let exe = std::env::current_exe()?;
        let mut child =
            Command::new("taskset").args(["-c", "0"]).arg(exe).args(["--sfu", &ip.to_string()]).stdout(Stdio::piped()).spawn()?;
        let mut line = String::new();
        BufReader::new(child.stdout.take().context("stdout")?).read_line(&mut line)?;
        let address = line.trim().strip_prefix("listening on ").context("the unit did not start")?.to_owned();
        Ok(Self { child, address, publishers: Vec::new(), receivers: Vec::new() })
    }
}

impl Target for Ours {
    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn publish(&mut self, room: usize, cid: &str, offer: &str) -> Result<String> {
        use proto::signal_response::Message as R;
        let mut s = Signalling::open(&self.address, room, "publisher")?;
        let track = proto::AddTrackRequest {
            cid: cid.into(),
            r#type: proto::TrackType::Video as i32,
            source: proto::TrackSource::Camera as i32,
            ..Default::default()
        };
        s.say(proto::signal_request::Message::AddTrack(track))?;
        s.until(|m| matches!(m, R::TrackPublished(_)).then_some(()))?;
        s.say(proto::signal_request::Message::Offer(proto::SessionDescription {
            r#type: "offer".into(),
            sdp: offer.into(),
            id: 1,
            ..Default::default()
        }))?;
        let sdp = s.until(|m| if let R::Answer(d) = m { Some(d.sdp) } else { None })?;
        self.publishers.push(s);
        Ok(sdp)
    }

    fn subscribe(&mut self, room: usize) -> Result<String> {
        use proto::signal_response::Message as R;
        let mut s = Signalling::open(&self.address, room, &format!("receiver {}", self.receivers.len()))?;
        let sdp = s.until(|m| if let R::Offer(d) = m { Some(d.sdp) } else { None })?;
        self.receivers.push(s);
        Ok(sdp)
    }

    fn answer(&mut self, sdp: &str) -> Result<()> {
        let s = self.receivers.last_mut().context("nobody subscribes")?;
        s.say(proto::signal_request::Message::Answer(proto::SessionDescription {
            r#type: "answer".into(),
            sdp: sdp.into(),
            id: 1,
            ..Default::default()
        }))
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A WebRTC client on a socket of its own.
struct Client {
    rtc: Rtc,
    socket: UdpSocket,
    /// None for a witness, which takes datagrams one by one, each with its time.
    state: Option<UdpSocketState>,
    /// When the kernel received the datagram that is read now, in microseconds.
    arrived: u64,
    at: SocketAddr,
    due: Instant,
    connected: bool,
    received: u64,
    delays: Vec<f64>,
}

impl Client {
    fn new(ip: IpAddr, witness: bool) -> Result<Self> {
        let socket = UdpSocket::bind((ip, 0))?;
        socket.set_nonblocking(true)?;
        let state = if witness {
            setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
            setsockopt(&socket, sockopt::RcvBuf, &(1 << 20))?;
            None
        } else {
            let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
            state.set_recv_buffer_size(UdpSockRef::from(&socket), 1 << 20).ok();
            Some(state)
        };
        let at = socket.local_addr()?;
        // Neither congestion feedback nor retransmission: nothing but forwarding.
        let mut rtc = Rtc::builder()
            .clear_codecs()
            .enable_opus(true, false)
            .enable_vp8(true)
            .clear_extension_map()
            .set_extension(4, str0m::rtp::Extension::RtpMid)
            .set_rtp_mode(true)
            .build(Instant::now());
        rtc.add_local_candidate(Candidate::host(at, Protocol::Udp)?);
        Ok(Self { rtc, socket, state, arrived: 0, at, due: Instant::now(), connected: false, received: 0, delays: Vec::new() })
    }

    fn drive(&mut self, buffer: &mut [u8]) -> Result<()> {
        match self.state.take() {
            Some(state) => {
                self.count(&state, buffer)?;
                self.state = Some(state);
            }
            None => self.witness(buffer)?,
        }
        let now = Instant::now();
        if self.due <= now {
            self.rtc.handle_input(Input::Timeout(now))?;
            self.take()?;
        }
        Ok(())
    }

    /// Reads what there is, decrypts it and notes its time.
    fn witness(&mut self, buffer: &mut [u8]) -> Result<()> {
        loop {
            let mut space = nix::cmsg_space!(nix::sys::time::TimeSpec);
            let mut parts = [IoSliceMut::new(buffer)];
            let got = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_DONTWAIT);
            let Ok(got) = got else { return Ok(()) };
            let time = got.cmsgs()?.find_map(|c| if let ControlMessageOwned::ScmTimestampns(t) = c { Some(t) } else { None });
            let time = time.context("a datagram without its time")?;
            self.arrived = u64::try_from(time.tv_sec() * 1_000_000 + time.tv_nsec() / 1_000)?;
            let from = got.address.as_ref().and_then(|a| a.as_sockaddr_in()).context("no IPv4")?;
            let (from, len) = (SocketAddr::V4(SocketAddrV4::from(*from)), got.bytes);
            let Some(datagram) = buffer.get(..len) else { return Ok(()) };
            let Ok(r) = Receive::new(Protocol::Udp, from, self.at, datagram) else { continue };
            self.rtc.handle_input(Input::Receive(Instant::now(), r))?;
            self.take()?;
        }
    }

    /// Reads what there is and counts media.
    fn count(&mut self, state: &UdpSocketState, buffer: &mut [u8]) -> Result<()> {
        loop {
            let mut meta = [RecvMeta::default()];
            let got = state.recv(UdpSockRef::from(&self.socket), &mut [IoSliceMut::new(buffer)], &mut meta);
            let [meta] = meta;
            if got.is_err() {
                break;
            }
            let Some(bytes) = buffer.get(..meta.len) else { break };
            for datagram in bytes.chunks(meta.stride.max(1)) {
                let media = matches!(datagram, [first, second, ..] if (128..192).contains(first) && second & 0x7f == 96);
                if media {
                    self.received += 1;
                    continue;
                }
                let Ok(r) = Receive::new(Protocol::Udp, meta.addr, self.at, datagram) else { continue };
                self.rtc.handle_input(Input::Receive(Instant::now(), r))?;
                self.take()?;
            }
        }
        Ok(())
    }

    fn take(&mut self) -> Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(t) => {
                    self.due = t;
                    return Ok(());
                }
                Output::Transmit(t) => drop(self.socket.send_to(&t.contents, t.destination)),
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::RtpPacket(p)) => {
                    self.received += 1;
                    if let Some(sent) = p.payload.get(20..28).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes) {
                        #[allow(clippy::cast_precision_loss)]
                        self.delays.push(self.arrived.saturating_sub(sent) as f64 / 1_000.0);
                    }
                }
                Output::Event(_) => {}
            }
        }
    }
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(0))
}

/// Processor seconds a process has used.
fn processor(pid: u32) -> Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = text.rsplit_once(')').context("stat")?.1.split_whitespace().collect();
    let tick = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok()).context("stat");
    Ok((tick(11)? + tick(12)?) / 100.0)
}

/// What was seen of one server with so many receivers.
#[derive(Debug, Clone, Copy)]
pub struct Seen {
    rooms: usize,
    receivers: usize,
    /// Microseconds of processor for a forwarded packet.
    cost: f64,
    /// Share of a core.
    load: f64,
    /// Share of the packets that did not come.
    lost: f64,
    /// Milliseconds from the publisher to a witness, 50th and 99th percentile.
    delay: (f64, f64),
}

impl Seen {
    /// Streams of 1.5 Mb/s that fit 70 % of a core at that cost.
    #[allow(clippy::cast_precision_loss)]
    fn streams(&self) -> f64 {
        0.7e6 / (self.cost * (FRAMES * PACKETS) as f64)
    }
}

fn packet(first: bool, last: bool) -> Vec<u8> {
    let mut v = vec![if first { 0x10 } else { 0 }];
    // A key frame of 640 by 360, as far as anybody looks.
    v.extend([0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 2, 0x68, 1]);
    v.resize(if last { BYTES / 2 } else { BYTES }, 7);
    if let Some(at) = v.get_mut(20..28) {
        at.copy_from_slice(&micros().to_be_bytes());
    }
    v
}

/// Somebody who sends pictures.
struct Publisher {
    client: Client,
    mid: Mid,
    pt: Pt,
    /// When its pictures come, as a share of the time between two.
    phase: f64,
    frames: u64,
    sequence: u64,
}

impl Publisher {
    fn enter(target: &mut dyn Target, ip: IpAddr, room: usize, phase: f64, buffer: &mut [u8]) -> Result<Self> {
        let mut client = Client::new(ip, false)?;
        let mut api = client.rtc.sdp_api();
        let mid: Mid = api.add_media(MediaKind::Video, Direction::SendOnly, Some("bench".into()), Some("bench".into()), None);
        let (offer, pending) = api.apply().context("no offer")?;
        let answer = target.publish(room, "bench", &offer.to_sdp_string())?;
        client.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer)?)?;
        client.take()?;
        connect(&mut [&mut client], buffer)?;
        let vp8 = client.rtc.codec_config().params().iter().find(|p| p.spec().codec == str0m::format::Codec::Vp8).map(|p| p.pt());
        Ok(Self { client, mid, pt: vp8.context("no VP8")?, phase, frames: 0, sequence: 1_000 })
    }

    /// Sends the pictures that are due after so many seconds.
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    fn send(&mut self, elapsed: f64) -> Result<()> {
        while self.frames < (elapsed * FRAMES as f64 + self.phase) as u64 {
            for i in 0..PACKETS {
                let last = i + 1 == PACKETS;
                let time = u32::try_from(self.frames * 3_000 % (1 << 32)).unwrap_or(0);
                let now = Instant::now();
                let write = RtpWrite::new(self.pt, self.sequence.into(), time, now, packet(i == 0, last)).marker(last);
                self.client.rtc.direct_api().stream_tx_by_mid(self.mid, None).context("no stream")?.write_rtp(write);
                self.sequence += 1;
                self.client.rtc.handle_input(Input::Timeout(now))?;
                self.client.take()?;
            }
            self.frames += 1;
        }
        Ok(())
    }
}

/// So many rooms with so many receivers each.
#[allow(clippy::cast_precision_loss)]
fn measure(target: &mut dyn Target, ip: IpAddr, (rooms, each): (usize, usize)) -> Result<Seen> {
    let mut buffer = vec![0u8; 65_535];
    let mut publishers: Vec<Publisher> = Vec::new();
    let mut clients: Vec<Client> = Vec::new();
    for room in 0..rooms {
        let phase = room as f64 / rooms as f64;
        publishers.push(Publisher::enter(target, ip, room, phase, &mut buffer)?);
        // Janus knows a publisher a moment after its path stands.
        let settled = Instant::now() + Duration::from_millis(300);
        while Instant::now() < settled {
            drive(&mut publishers, &mut clients, &mut buffer)?;
            std::thread::sleep(Duration::from_millis(2));
        }
        for i in 0..each {
            // All in the one room, or one in each of the first rooms.
            let mut c = Client::new(ip, if rooms == 1 { i < WITNESSES } else { i == 0 && room < WITNESSES })?;
            let offer = target.subscribe(room)?;
            let answer = c.rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&offer)?)?;
            c.take()?;
            target.answer(&answer.to_sdp_string())?;
            let [.., publisher] = publishers.as_mut_slice() else { bail!("nobody publishes") };
            connect(&mut [&mut c, &mut publisher.client], &mut buffer)?;
            clients.push(c);
            if i % 16 == 0 {
                drive(&mut publishers, &mut clients, &mut buffer)?;
            }
        }
    }
    let start = Instant::now();
    let mut before: Option<(f64, u64, u64, Instant)> = None;
    loop {
        let elapsed = start.elapsed().as_secs_f64();
        let total: u64 = clients.iter().map(|c| c.received).sum();
        let sent: u64 = publishers.iter().map(|p| p.sequence).sum();
        if before.is_none() && elapsed > WARM {
            before = Some((processor(target.pid())?, total, sent, Instant::now()));
            clients.iter_mut().for_each(|c| c.delays.clear());
        }
        if elapsed > WARM + MEASURED {
            let (cpu, packets, sent_before, since) = before.context("not warm")?;
            let used = processor(target.pid())? - cpu;
            let came = (total - packets).max(1) as f64;
            let expected = ((sent - sent_before) * each as u64).max(1) as f64;
            let delays = clients.iter_mut().flat_map(|c| std::mem::take(&mut c.delays)).collect();
            return Ok(Seen {
                rooms,
                receivers: rooms * each,
                cost: used * 1e6 / came,
                load: used / since.elapsed().as_secs_f64(),
                lost: (1.0 - came / expected).max(0.0),
                delay: crate::percentiles(delays),
            });
        }
        for p in &mut publishers {
            p.send(elapsed)?;
        }
        drive(&mut publishers, &mut clients, &mut buffer)?;
        std::thread::sleep(Duration::from_micros(300));
    }
}

fn drive(publishers: &mut [Publisher], clients: &mut [Client], buffer: &mut [u8]) -> Result<()> {
    for c in publishers.iter_mut().map(|p| &mut p.client).chain(clients) {
        c.drive(buffer)?;
    }
    Ok(())
}

fn connect(clients: &mut [&mut Client], buffer: &mut [u8]) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(10);
    while clients.iter().any(|c| !c.connected) {
        for c in clients.iter_mut() {
            c.drive(buffer)?;
        }
        if Instant::now() > deadline {
            bail!("a client found no way");
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

fn show(name: &str, s: &Seen) {
    println!(
        "sfu: {name}: {} rooms, {} receivers: {:.2} us of processor a forwarded packet, {:.0} % of a core, {:.2} % lost, delay p50 {:.2} ms p99 {:.2} ms: {:.0} streams at 70 % of a core",
        s.rooms,
        s.receivers,
        s.cost,
        s.load * 100.0,
        s.lost * 100.0,
        s.delay.0,
        s.delay.1,
        s.streams()
    );
}

/// Only these, and without the other server: `SFU_ROOMS=120x5,1x50` is 120 rooms of five receivers, then one of fifty.
fn only() -> Result<Option<Vec<(usize, usize)>>> {
    let Ok(wanted) = std::env::var("SFU_ROOMS") else { return Ok(None) };
    let pair = |s: &str| -> Result<(usize, usize)> {
        let (rooms, each) = s.split_once('x').context("SFU_ROOMS is like 120x5,1x50")?;
        Ok((rooms.parse()?, each.parse()?))
    };
    wanted.split(',').map(pair).collect::<Result<_>>().map(Some)
}

/// Both servers, in turn.
pub fn run() -> Result<()> {
    // The load has a core of its own.
    let done = Command::new("taskset").args(["-pc", "1", &std::process::id().to_string()]).stdout(Stdio::null()).status()?;
    ensure!(done.success(), "taskset is needed (util-linux), and two cores");
    let ip = *sc_media::transport::network::addresses().iter().find(|a| a.is_ipv4()).context("this machine has no network address")?;
    let route = String::from_utf8(Command::new("ip").args(["-o", "addr", "show", "to", &format!("{ip}/32")]).output()?.stdout)?;
    let interface = route.split_whitespace().nth(1).context("no interface has the address")?.to_owned();
    let only = only()?;
    let all = [(1, 50), (1, 150), (1, 300), (1, 600), (20, 5), (60, 5), (80, 5), (100, 5), (120, 5), (100, 6)];
    for n in only.as_deref().unwrap_or(&all) {
        let seen = measure(&mut Ours::start(ip)?, ip, *n)?;
        show("ours", &seen);
    }
    if only.is_some() {
        return Ok(());
    }
    if Command::new("janus").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        println!("sfu: Janus is not installed here (apt-get install janus): no comparison");
        return Ok(());
    }
    for (name, loops) in [("Janus, a thread for each connection", 0), ("Janus, one event loop", 1)] {
        for n in [(1, 50), (1, 150), (20, 5)] {
            let seen = measure(&mut Janus::start(&interface, loops)?, ip, n)?;
            show(name, &seen);
        }
    }
    Ok(())
}
