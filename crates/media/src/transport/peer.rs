//! A peer connection by `webrtc`: ICE (RFC 8445), DTLS-SRTP (RFC 5764), Opus and RED, and [`pictures`] beside them: a call has both
//! from its beginning, so that nothing is negotiated when somebody shows themselves.
//!
//! A restart binds new sockets, so that it follows the machine to another network. As long as nothing changed here, an interrupted
//! path is left to ICE: it goes on asking, and goes on when there is an answer.

use super::flights::Patient;
use super::path::{self, Relays};
use super::relay::{self, Bridges};
use super::reports::{self, Lost};
use super::{Carrier, IceServer, PathStats, Transport, TransportError, TransportEvent, network, pictures};
use crate::video::codec::Codec;
use crate::voice::{PT_OPUS, PT_RED, Packet};
use rtc::ice::mdns::MulticastDnsMode;
use rtc::media_stream::MediaStreamTrack;
use rtc::rtp;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_rustls::rustls::ClientConfig;
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCConfigurationBuilder, RTCIceCandidateInit,
    RTCIceGatheringState, RTCIceServer, RTCIceTransportPolicy, RTCPeerConnectionIceEvent, RTCPeerConnectionState, RTCSessionDescription,
    Registry, SettingEngineBuilder, configure_rtcp_reports,
};
use webrtc::runtime::{Runtime, TokioRuntime};

/// Without a sign of life for this long, the path is taken for broken.
const DISCONNECTED: Duration = Duration::from_millis(2_500);
/// A broken path is given up after this; the machine above gives up before.
const FAILED: Duration = Duration::from_secs(60);
/// Signs of life: they also find out that a path is back.
const KEEP_ALIVE: Duration = Duration::from_millis(400);
const CHECK: Duration = Duration::from_millis(150);
/// A relay is taken when nothing more direct was found for this long.
const DIRECT: Duration = Duration::from_millis(400);
/// Checks of a pair before it is given up: the other side may be slow to learn of it.
const CHECKS: u16 = 250;
/// A description waits this long for addresses; those that are found later follow by themselves.
const GATHER: Duration = Duration::from_millis(150);
/// How often the addresses are looked at.
const WATCH: Duration = Duration::from_millis(500);

/// Where events go. Called from the connection's task: it must not wait.
pub type OnEvent = Arc<dyn Fn(TransportEvent) + Send + Sync>;

/// How a connection is made.
#[derive(Clone, Default)]
pub struct PeerConfig {
    /// STUN and TURN servers.
    pub ice: Vec<IceServer>,
    /// Only through a relay: the other side does not learn this side's addresses.
    pub relay_only: bool,
    /// Addresses to bind; empty for all.
    pub bind: Vec<String>,
    /// What pictures may be encoded in, the best first.
    pub codecs: Vec<Codec>,
    /// How TLS is spoken to a relay.
    pub tls: Option<Arc<ClientConfig>>,
    /// The runtime whose sockets are used, when it is not Tokio's own.
    pub runtime: Option<Arc<dyn Runtime>>,
}

/// A connection to one other device.
pub struct Peer {
    pc: Arc<dyn PeerConnection>,
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    lost: Lost,
    sequence: AtomicU16,
    offset: u32,
    own: pictures::Own,
    theirs: Arc<pictures::Theirs>,
    gathering: Arc<Gathering>,
    relays: Relays,
    /// What this side speaks, and what both do.
    codecs: (Vec<Codec>, watch::Sender<Codec>),
    _bridges: Bridges,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Which addresses still have to be told.
struct Gathering {
    complete: watch::Sender<bool>,
    /// A description with the addresses before has been made.
    described: AtomicBool,
}

fn local(e: impl std::fmt::Display) -> TransportError {
    TransportError::Local(e.to_string())
}

fn theirs(e: impl std::fmt::Display) -> TransportError {
    TransportError::Description(e.to_string())
}

fn codec(mime: &str, fmtp: &str, payload_type: u8) -> RTCRtpCodecParameters {
    let rtp_codec =
        RTCRtpCodec { mime_type: mime.into(), clock_rate: 48_000, channels: 2, sdp_fmtp_line: fmtp.into(), rtcp_feedback: Vec::new() };
    RTCRtpCodecParameters { rtp_codec, payload_type }
}

impl Peer {
    /// Opens sockets. Nothing is sent before the first description.
    pub async fn new(config: PeerConfig, on_event: OnEvent) -> Result<Self, TransportError> {
        let opus = codec("audio/opus", "minptime=10;useinbandfec=1", PT_OPUS);
        let mut media = MediaEngine::default();
        media.register_codec(opus.clone(), RtpCodecKind::Audio).map_err(local)?;
        media.register_codec(codec("audio/red", "111/111", PT_RED), RtpCodecKind::Audio).map_err(local)?;
        pictures::register(&mut media, &config.codecs)?;
        let settings = SettingEngineBuilder::new()
            .with_ice_timeouts(Some(DISCONNECTED), Some(FAILED), Some(KEEP_ALIVE))
            .with_ice_connection_attempts(Some(CHECK), Some(CHECKS))
            // Its socket cannot be opened without a route for groups, and nobody here asks for names.
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_srflx_acceptance_min_wait(Some(DIRECT / 4))
            .with_prflx_acceptance_min_wait(Some(DIRECT / 2))
            .with_relay_acceptance_min_wait(Some(DIRECT))
            .with_discard_local_candidates_during_ice_restart(true)
            .with_include_loopback_candidate(true)
            .build();
        let (servers, bridges) = relay::usable(config.ice, config.tls).await;
        let servers = servers.into_iter();
        let servers = servers.map(|s| RTCIceServer { urls: s.urls, username: s.username, credential: s.credential }).collect();
        let gathering = Arc::new(Gathering { complete: watch::channel(false).0, described: AtomicBool::new(false) });
        let content = Arc::new(pictures::Content::default());
        let (ssrc, lost) = (rand::random(), Lost::default());
        let registry = reports::hear(configure_rtcp_reports(Registry::new()), ssrc, lost.clone(), on_event.clone());
        let theirs = Arc::new(pictures::Theirs::new(content.clone()));
        let policy = if config.relay_only { RTCIceTransportPolicy::Relay } else { RTCIceTransportPolicy::All };
        let bind = if config.bind.is_empty() { network::bind() } else { config.bind };
        let builder = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().with_ice_servers(servers).with_ice_transport_policy(policy).build())
            .with_media_engine(media)
            .with_setting_engine(settings)
            .with_interceptor_registry(pictures::watch(registry, on_event.clone(), content.clone()))
            .with_handler(Arc::new(Handler { on_event: on_event.clone(), gathering: gathering.clone(), theirs: theirs.clone() }))
            .with_udp_addrs(bind);
        let runtime = config.runtime.unwrap_or_else(|| Arc::new(TokioRuntime));
        let builder = builder.with_runtime(Arc::new(Patient(runtime)));
        let pc: Arc<dyn PeerConnection> = Arc::new(Box::pin(builder.build()).await.map_err(local)?);
        let coding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), ..Default::default() },
            codec: opus.rtp_codec,
            ..Default::default()
        };
        let track = MediaStreamTrack::new("voice".into(), "voice".into(), "voice".into(), RtpCodecKind::Audio, vec![coding]);
        let track = Arc::new(TrackLocalStaticRTP::new(track));
        pc.add_track(track.clone() as Arc<dyn TrackLocal>).await.map_err(local)?;
        let own = pictures::Own::new(content);
        pc.add_track(own.track()).await.map_err(local)?;
        prefer(&*pc, &config.codecs).await?;
        let tasks = vec![tokio::spawn(watch_network(on_event))];
        let codecs = (config.codecs, watch::channel(Codec::default()).0);
        let (sequence, offset) = (AtomicU16::new(rand::random()), rand::random());
        Ok(Self {
            pc,
            track,
            ssrc,
            lost,
            sequence,
            offset,
            own,
            theirs,
            gathering,
            relays: Relays::default(),
            codecs,
            _bridges: bridges,
            tasks,
        })
    }

    /// Addresses that are found from now on belong to the next description.
    fn describe_anew(&self) {
        self.gathering.described.store(false, Ordering::SeqCst);
        self.gathering.complete.send_replace(false);
    }

    /// What the other side's description says besides what the stack takes from it.
    fn hear(&self, description: &str) {
        self.relays.learn(description);
        self.codecs.1.send_replace(Codec::common(&self.codecs.0, description));
    }

    async fn described(&self) -> Result<String, TransportError> {
        let mut complete = self.gathering.complete.subscribe();
        // In time or not: what is missing then follows.
        let _ = tokio::time::timeout(GATHER, complete.wait_for(|c| *c)).await;
        self.gathering.described.store(true, Ordering::SeqCst);
        self.pc.local_description().await.map(|d| d.sdp).ok_or_else(|| local("there is no description of this side"))
    }
}

#[async_trait::async_trait]
impl Transport for Peer {
    async fn offer(&self, restart: bool) -> Result<String, TransportError> {
        if restart {
            self.describe_anew();
            self.pc.restart_ice().await.map_err(local)?;
        }
        let offer = self.pc.create_offer(None).await.map_err(local)?;
        self.pc.set_local_description(offer).await.map_err(local)?;
        self.described().await
    }

    async fn answer(&self, offer: &str) -> Result<String, TransportError> {
        self.hear(offer);
        // An answer names nothing that the offer does not (the stack would).
        let known: Vec<Codec> = self.codecs.0.iter().copied().filter(|c| Codec::common(&[*c], offer) == *c).collect();
        if known != self.codecs.0 {
            prefer(&*self.pc, &known).await?;
        }
        let offer = RTCSessionDescription::offer(offer.to_owned()).map_err(theirs)?;
        self.describe_anew();
        self.pc.set_remote_description(offer).await.map_err(theirs)?;
        let answer = self.pc.create_answer(None).await.map_err(theirs)?;
        self.pc.set_local_description(answer).await.map_err(local)?;
        self.described().await
    }

    async fn accept(&self, answer: &str) -> Result<(), TransportError> {
        self.hear(answer);
        let answer = RTCSessionDescription::answer(answer.to_owned()).map_err(theirs)?;
        self.pc.set_remote_description(answer).await.map_err(theirs)
    }

    async fn add_candidates(&self, list: &[String]) {
        for candidate in list {
            self.relays.learn(candidate);
            let init = RTCIceCandidateInit {
                candidate: candidate.clone(),
                sdp_mid: Some("0".into()),
                sdp_mline_index: Some(0),
                ..Default::default()
            };
            if let Err(cause) = self.pc.add_ice_candidate(init).await {
                tracing::debug!(%cause, "an address of the other side was passed over");
            }
        }
    }

    fn codec(&self) -> Codec {
        *self.codecs.1.borrow()
    }

    fn set_screen(&self, screen: bool) {
        self.own.set_screen(screen);
    }

    async fn send_picture(&self, timestamp: u32, last: bool, payload: Vec<u8>) {
        self.own.send(self.codec(), timestamp, last, payload).await;
    }

    async fn ask_again(&self, missing: &[u64]) {
        self.theirs.ask_again(missing).await;
    }

    async fn ask_for_key(&self) {
        self.theirs.ask_for_key().await;
    }
}

#[async_trait::async_trait]
impl Carrier for Peer {
    async fn send(&self, packet: Packet) {
        let header = rtp::header::Header {
            version: 2,
            payload_type: if packet.red { PT_RED } else { PT_OPUS },
            sequence_number: self.sequence.fetch_add(1, Ordering::Relaxed),
            timestamp: packet.timestamp.wrapping_add(self.offset),
            ssrc: self.ssrc,
            ..Default::default()
        };
        if let Err(cause) = self.track.write_rtp(rtp::Packet { header, payload: packet.payload.into() }).await {
            tracing::debug!(%cause, "a packet was not sent");
        }
    }

    async fn stats(&self) -> PathStats {
        PathStats { lost: self.lost.share(), ..path::measure(&*self.pc, &self.relays).await }
    }

    async fn close(&self) {
        for t in &self.tasks {
            t.abort();
        }
        if let Err(cause) = self.pc.close().await {
            tracing::debug!(%cause, "a connection was closed already");
        }
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for t in &self.tasks {
            t.abort();
        }
    }
}

/// Describes these codecs of pictures; else it would be the track's first one alone.
async fn prefer(pc: &dyn PeerConnection, codecs: &[Codec]) -> Result<(), TransportError> {
    for transceiver in pc.get_transceivers().await {
        let sender = transceiver.sender().await.map_err(local)?;
        if let Some(s) = sender
            && s.track().kind().await == RtpCodecKind::Video
        {
            transceiver.set_codec_preferences(pictures::preferences(codecs)).await.map_err(local)?;
        }
    }
    Ok(())
}

async fn watch_network(on_event: OnEvent) {
    let mut before = network::addresses();
    loop {
        tokio::time::sleep(WATCH).await;
        let now = network::addresses();
        if network::changed(&before, &now) {
            on_event(TransportEvent::NetworkChanged);
        }
        before = now;
    }
}

struct Handler {
    on_event: OnEvent,
    gathering: Arc<Gathering>,
    theirs: Arc<pictures::Theirs>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        match event.candidate.to_json() {
            Ok(_) if !self.gathering.described.load(Ordering::SeqCst) => {}
            Ok(c) if !c.candidate.is_empty() => (self.on_event)(TransportEvent::Candidate(c.candidate)),
            Ok(_) => {}
            Err(cause) => tracing::debug!(%cause, "an address of this side cannot be written"),
        }
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.gathering.complete.send_replace(true);
        }
    }

    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        tracing::debug!(%state, "the connection");
        match state {
            RTCPeerConnectionState::Connected => (self.on_event)(TransportEvent::Connected),
            RTCPeerConnectionState::Disconnected => (self.on_event)(TransportEvent::Disconnected),
            RTCPeerConnectionState::Failed => (self.on_event)(TransportEvent::Failed),
            _ => {}
        }
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let on_event = self.on_event.clone();
        if track.kind().await == RtpCodecKind::Video {
            let theirs = self.theirs.clone();
            tokio::spawn(async move { theirs.read(track, on_event).await });
            return;
        }
        tokio::spawn(async move {
            let mut first = None;
            while let Some(event) = track.poll().await {
                let TrackRemoteEvent::OnRtpPacket(p) = event else { continue };
                let red = match p.header.payload_type {
                    PT_OPUS => false,
                    PT_RED => true,
                    _ => continue,
                };
                // Counted from the first packet: where a stream begins says nothing.
                let start = *first.get_or_insert(p.header.timestamp.wrapping_sub(1 << 20));
                let packet = Packet { payload: p.payload.to_vec(), red, timestamp: p.header.timestamp.wrapping_sub(start) };
                on_event(TransportEvent::Voice(packet, Instant::now()));
            }
        });
    }
}
