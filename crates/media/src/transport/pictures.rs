//! The pictures of a peer connection: their codecs, retransmission on a stream of its own (RFC 4588: a packet sent again under the number it had
//! would use a key and its number twice), a report of what became of each packet, and what the two sides ask of each other.
//!
//! What is missing is asked for above ([`crate::pictures`]), not by the stack's own interceptor: that one does not see that a packet
//! came by retransmission, and asks again until it gives up (webrtc 0.21).

use super::peer::OnEvent;
use super::{PicturePacket, TransportError, TransportEvent};
use crate::video::codec::Codec;
use crate::video::estimate::{Estimator, Fate};
use crate::video::{FIRST, LEAST, RATE};
use rtc::interceptor::{
    BandwidthEstimator, CongestionControlBuilder, Interceptor, NackResponderBuilder, Packet, PacketReport, Slot, StreamInfo, TaggedPacket,
    TwccReceiverBuilder, TwccSenderBuilder,
};
use rtc::media_stream::MediaStreamTrack;
use rtc::rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc::rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc::rtcp::transport_feedbacks::transport_layer_nack::{NackPair, TransportLayerNack, nack_pairs_from_sequence_numbers};
use rtc::rtp;
use rtc::rtp_transceiver::rtp_sender::{
    RTCPFeedback, RTCRtpCodec, RTCRtpCodecParameters, RTCRtpCodingParameters, RTCRtpEncodingParameters, RTCRtpHeaderExtensionCapability,
    RTCRtpRtxParameters, RtpCodecKind,
};
use rtc::sansio::Protocol;
use rtc::shared::error::Error;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{MediaEngine, Registry};

/// A codec's payload type; the next one is its retransmissions'. Numbers of what was sent again may come back under another codec's (the
/// stack has one for each stream): what a packet is of is what both agreed on.
fn payload_type(codec: Codec) -> u8 {
    match codec {
        Codec::Vp8 => 96,
        Codec::Vp9 => 98,
    }
}
/// Packets that can be sent again: four seconds of them.
const KEPT: u16 = 512;
/// Packets that are sent again in a second: three times what a path loses that loses a third.
const AGAIN: usize = 300;
/// Says what a picture shows, in one byte: nought for a camera, one for a screen.
const CONTENT_TYPE: &str = "http://www.webrtc.org/experiments/rtp-hdrext/video-content-type";
const SCREEN: u8 = 1;
/// The most the path is asked for: sound and retransmissions have to fit beside the picture.
const MOST: f64 = RATE as f64 * 1_500.0;

fn parameters(mime: &str, fmtp: &str, payload_type: u8, feedback: &[(&str, &str)]) -> RTCRtpCodecParameters {
    let feedback = feedback.iter().map(|(typ, parameter)| RTCPFeedback { typ: (*typ).into(), parameter: (*parameter).into() });
    let rtp_codec = RTCRtpCodec {
        mime_type: mime.into(),
        clock_rate: 90_000,
        channels: 0,
        sdp_fmtp_line: fmtp.into(),
        rtcp_feedback: feedback.collect(),
    };
    RTCRtpCodecParameters { rtp_codec, payload_type }
}

fn spoken(codec: Codec) -> RTCRtpCodecParameters {
    let profile = if codec == Codec::Vp9 { "profile-id=0" } else { "" };
    parameters(codec.mime(), profile, payload_type(codec), &[("nack", ""), ("nack", "pli"), ("transport-cc", "")])
}

/// What a description names. VP8 first: whoever knows no other finds it where it was.
pub(super) fn preferences(codecs: &[Codec]) -> Vec<RTCRtpCodecParameters> {
    codecs.iter().rev().copied().map(spoken).collect()
}

/// What is spoken of pictures.
pub(super) fn register(media: &mut MediaEngine, codecs: &[Codec]) -> Result<(), TransportError> {
    let local = |e: Error| TransportError::Local(e.to_string());
    for codec in codecs.iter().rev() {
        let number = payload_type(*codec);
        media.register_codec(spoken(*codec), RtpCodecKind::Video).map_err(local)?;
        let again = parameters("video/rtx", &format!("apt={number}"), number + 1, &[]);
        media.register_codec(again, RtpCodecKind::Video).map_err(local)?;
    }
    for uri in [rtc::sdp::extmap::TRANSPORT_CC_URI, CONTENT_TYPE] {
        let capability = RTCRtpHeaderExtensionCapability { uri: uri.to_owned() };
        media.register_header_extension(capability, RtpCodecKind::Video, None).map_err(local)?;
    }
    Ok(())
}

/// Who watches over the packets on their way. Sound is not reported on packet by packet: it is a small, constant part.
pub(super) fn watch(registry: Registry, on_event: OnEvent, content: Arc<Content>) -> Registry {
    let measure =
        Measure { estimator: Estimator::new(FIRST as f64, f64::from(LEAST) * 1_000.0, MOST), told: None, on_event: on_event.clone() };
    registry
        .with(Slot::CongestionControl, CongestionControlBuilder::new(measure).build())
        .with(Slot::TwccSender, TwccSenderBuilder::new().build())
        .with(Slot::from(3_500), Asked::new(on_event, content))
        .with(Slot::NackResponder, NackResponderBuilder::new().with_size(KEPT).build())
        .with(Slot::TwccReceiver, TwccReceiverBuilder::new().build())
}

/// The estimate, told whenever it is another one.
struct Measure {
    estimator: Estimator,
    told: Option<u64>,
    on_event: OnEvent,
}

impl BandwidthEstimator for Measure {
    fn on_reports(&mut self, now: Instant, reports: &[PacketReport]) {
        let fate = |r: &PacketReport| Fate { left: r.departure, arrived: r.arrival.filter(|_| r.arrived), size: r.size };
        // The stack lists sound too, as lost: nobody reports on it. Arrived, but nobody says when, says nothing of the queue, and is no loss.
        let known = reports.iter().filter(|r| r.is_twcc && (!r.arrived || r.arrival.is_some()));
        self.estimator.on_report(now, known.map(fate));
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let target = self.estimator.target() as u64;
        if self.told.replace(target) != Some(target) {
            (self.on_event)(TransportEvent::Estimate(target));
        }
    }

    fn target_bitrate(&self) -> f64 {
        self.estimator.target()
    }
}

/// The two sides' content type of pictures: a screen, or a camera. Shared between the stack's packets and whoever sends and reads them.
#[derive(Default)]
pub(super) struct Content {
    own: AtomicBool,
    theirs: AtomicBool,
}

/// What the two sides ask of each other, and say of their pictures: hears when a key frame is asked for (PLI and FIR, RFC 4585 and RFC
/// 5104); of what is asked for again, each number is answered once and no more than a bad path loses (an asking is small, its answer
/// large); and marks packets of a screen ([`CONTENT_TYPE`]).
struct Asked {
    on_event: OnEvent,
    content: Arc<Content>,
    /// The mark's number, by stream.
    marks: HashMap<u32, u8>,
    second: Option<Instant>,
    answered: usize,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

impl Asked {
    fn new(on_event: OnEvent, content: Arc<Content>) -> Self {
        let (incoming, outgoing) = (VecDeque::new(), VecDeque::new());
        Self { on_event, content, marks: HashMap::new(), second: None, answered: 0, incoming, outgoing }
    }

    /// The numbers of an asking that are answered.
    fn answer(&mut self, now: Instant, asked: &TransportLayerNack) -> Vec<u16> {
        if self.second.is_none_or(|s| now.saturating_duration_since(s) >= Duration::from_secs(1)) {
            (self.second, self.answered) = (Some(now), 0);
        }
        let numbers: BTreeSet<u16> = asked.nacks.iter().flat_map(NackPair::packet_list).collect();
        let numbers: Vec<u16> = numbers.into_iter().take(AGAIN.saturating_sub(self.answered)).collect();
        self.answered += numbers.len();
        numbers
    }

    fn bind(&mut self, stream: &StreamInfo) {
        let mark = stream.rtp_header_extensions.iter().find(|e| e.uri == CONTENT_TYPE).and_then(|e| u8::try_from(e.id).ok());
        self.marks.extend(mark.map(|m| (stream.ssrc, m)));
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Asked {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, mut msg: TaggedPacket) -> Result<(), Error> {
        let now = msg.now;
        match &mut msg.message.packet {
            Packet::Rtcp(packets) => {
                for p in packets.iter_mut() {
                    if p.as_any().is::<PictureLossIndication>() || p.as_any().is::<FullIntraRequest>() {
                        (self.on_event)(TransportEvent::KeyWanted);
                    }
                    let Some(asked) = p.as_any().downcast_ref::<TransportLayerNack>() else { continue };
                    let nacks = nack_pairs_from_sequence_numbers(&self.answer(now, asked));
                    *p = Box::new(TransportLayerNack { nacks, ..asked.clone() });
                }
            }
            Packet::Rtp(p) => {
                // One that is sent again has none: as it was.
                let mark = self.marks.get(&p.header.ssrc).and_then(|id| p.header.get_extension(*id));
                if let Some(kind) = mark.as_ref().and_then(|m| m.first()) {
                    self.content.theirs.store(kind & SCREEN != 0, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        self.incoming.push_back(msg);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, mut msg: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtp(p) = &mut msg.message.packet
            && let Some(id) = self.marks.get(&p.header.ssrc)
        {
            let kind = if self.content.own.load(Ordering::Relaxed) { &[SCREEN] } else { &[0] };
            p.header.set_extension(*id, kind.as_slice().into())?;
        }
        self.outgoing.push_back(msg);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }
}

impl Interceptor for Asked {
    fn bind_local_stream(&mut self, stream: &StreamInfo) {
        self.bind(stream);
    }

    fn unbind_local_stream(&mut self, stream: &StreamInfo) {
        self.marks.remove(&stream.ssrc);
    }

    fn bind_remote_stream(&mut self, stream: &StreamInfo) {
        self.bind(stream);
    }

    fn unbind_remote_stream(&mut self, stream: &StreamInfo) {
        self.marks.remove(&stream.ssrc);
    }
}

/// Our pictures.
pub(super) struct Own {
    track: Arc<TrackLocalStaticRTP>,
    ssrc: u32,
    sequence: AtomicU16,
    offset: u32,
    content: Arc<Content>,
}

impl Own {
    pub(super) fn new(content: Arc<Content>) -> Self {
        let (ssrc, rtx) = (rand::random(), rand::random());
        let rtx = Some(RTCRtpRtxParameters { ssrc: rtx });
        let coding = RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters { ssrc: Some(ssrc), rtx, ..Default::default() },
            codec: spoken(Codec::Vp8).rtp_codec,
            ..Default::default()
        };
        let track = MediaStreamTrack::new("picture".into(), "picture".into(), "picture".into(), RtpCodecKind::Video, vec![coding]);
        let track = Arc::new(TrackLocalStaticRTP::new(track));
        Self { track, ssrc, sequence: AtomicU16::new(rand::random()), offset: rand::random(), content }
    }

    pub(super) fn track(&self) -> Arc<dyn TrackLocal> {
        self.track.clone()
    }

    pub(super) fn set_screen(&self, screen: bool) {
        self.content.own.store(screen, Ordering::Relaxed);
    }

    pub(super) async fn send(&self, codec: Codec, timestamp: u32, last: bool, payload: Vec<u8>) {
        let header = rtp::header::Header {
            version: 2,
            marker: last,
            payload_type: payload_type(codec),
            sequence_number: self.sequence.fetch_add(1, Ordering::Relaxed),
            timestamp: timestamp.wrapping_add(self.offset),
            ssrc: self.ssrc,
            ..Default::default()
        };
        if let Err(cause) = self.track.write_rtp(rtp::Packet { header, payload: payload.into() }).await {
            tracing::debug!(%cause, "a packet of a picture was not sent");
        }
    }
}

/// Their pictures, once there are some.
pub(super) struct Theirs {
    track: Mutex<Option<(Arc<dyn TrackRemote>, u32)>>,
    content: Arc<Content>,
}

impl Theirs {
    pub(super) fn new(content: Arc<Content>) -> Self {
        Self { track: Mutex::default(), content }
    }

    fn track(&self) -> Option<(Arc<dyn TrackRemote>, u32)> {
        self.track.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn say(&self, what: impl FnOnce(u32) -> Box<dyn rtc::rtcp::Packet>) {
        let Some((track, ssrc)) = self.track() else { return };
        if let Err(cause) = track.write_rtcp(vec![what(ssrc)]).await {
            tracing::debug!(%cause, "nothing can be asked of the other side's pictures");
        }
    }

    pub(super) async fn ask_again(&self, missing: &[u64]) {
        // Numbers are counted on over rollovers here, and not on the wire.
        #[allow(clippy::cast_possible_truncation)]
        let numbers: Vec<u16> = missing.iter().map(|n| *n as u16).collect();
        let nacks = nack_pairs_from_sequence_numbers(&numbers);
        self.say(|media_ssrc| Box::new(TransportLayerNack { sender_ssrc: media_ssrc, media_ssrc, nacks })).await;
    }

    pub(super) async fn ask_for_key(&self) {
        self.say(|media_ssrc| Box::new(PictureLossIndication { sender_ssrc: media_ssrc, media_ssrc })).await;
    }

    /// Reads a track to its end.
    pub(super) async fn read(&self, track: Arc<dyn TrackRemote>, on_event: OnEvent) {
        let mut newest: Option<u64> = None;
        let mut stream = None;
        while let Some(event) = track.poll().await {
            let TrackRemoteEvent::OnRtpPacket(p) = event else { continue };
            if ![Codec::Vp8, Codec::Vp9].map(payload_type).contains(&p.header.payload_type) {
                continue;
            }
            if stream.replace(p.header.ssrc) != Some(p.header.ssrc) {
                *self.track.lock().unwrap_or_else(PoisonError::into_inner) = Some((track.clone(), p.header.ssrc));
            }
            let seq = counted(newest, p.header.sequence_number);
            newest = newest.max(Some(seq));
            on_event(TransportEvent::Picture(PicturePacket {
                seq,
                timestamp: p.header.timestamp,
                last: p.header.marker,
                screen: self.content.theirs.load(Ordering::Relaxed),
                payload: p.payload.to_vec(),
            }));
        }
    }
}

/// A number of sixteen bits, counted on over rollovers: the one that is nearest to the newest so far.
fn counted(newest: Option<u64>, number: u16) -> u64 {
    const ROUND: u64 = 1 << 16;
    // The first one has a round before it: packets may come in another order.
    let Some(newest) = newest else { return ROUND + u64::from(number) };
    let [.., high, low] = newest.to_be_bytes();
    let ahead = u64::from(number.wrapping_sub(u16::from_be_bytes([high, low])));
    if ahead < ROUND / 2 { newest + ahead } else { (newest + ahead).saturating_sub(ROUND) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_again_is_answered_once_and_within_limits() {
        let (mut l, now) = (Asked::new(Arc::new(|_| {}), Arc::default()), Instant::now());
        let ask = |pairs: Vec<(u16, u16)>| TransportLayerNack {
            sender_ssrc: 1,
            media_ssrc: 1,
            nacks: pairs.into_iter().map(|(packet_id, lost_packets)| NackPair { packet_id, lost_packets }).collect(),
        };
        assert_eq!(l.answer(now, &ask(vec![(7, 0b101), (7, 0), (8, 0)])), [7, 8, 10]);
        let flood = ask((0..200).map(|n| (n * 17, 0xffff)).collect());
        assert_eq!(l.answer(now, &flood).len(), AGAIN - 3);
        assert!(l.answer(now + Duration::from_millis(500), &flood).is_empty());
        assert_eq!(l.answer(now + Duration::from_secs(1), &flood).len(), AGAIN);
    }

    #[test]
    fn numbers_are_counted_on_over_rollovers() {
        let first = counted(None, 65_534);
        let next = |n| counted(Some(first), n);
        assert_eq!([next(65_535), next(0), next(5), next(65_530)], [first + 1, first + 2, first + 7, first - 4]);
        assert_eq!(counted(Some(3), 65_535), 0, "nothing before nought");
    }
}
