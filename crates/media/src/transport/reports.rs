//! What the other side reports of our speech (RFC 3550, 6.4): the stack hears it, but does not say so in its own figures (webrtc 0.21).

use super::TransportEvent;
use super::peer::OnEvent;
use rtc::interceptor::{Interceptor, Packet, Registry, Slot, StreamInfo, TaggedPacket};
use rtc::rtcp::receiver_report::ReceiverReport;
use rtc::rtcp::reception_report::ReceptionReport;
use rtc::rtcp::sender_report::SenderReport;
use rtc::sansio::Protocol;
use rtc::shared::error::Error;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

/// The share of our packets that the other side lost, as it reported last: in 256ths.
#[derive(Clone, Default)]
pub(super) struct Lost(Arc<AtomicU8>);

impl Lost {
    pub(super) fn share(&self) -> f32 {
        f32::from(self.0.load(Ordering::Relaxed)) / 256.0
    }
}

/// Hears reports on one of our streams.
struct Reports {
    ssrc: u32,
    lost: Lost,
    on_event: OnEvent,
    incoming: VecDeque<TaggedPacket>,
    outgoing: VecDeque<TaggedPacket>,
}

/// Tells of each report on the stream of our speech.
pub(super) fn hear(registry: Registry, ssrc: u32, lost: Lost, on_event: OnEvent) -> Registry {
    let (incoming, outgoing) = (VecDeque::new(), VecDeque::new());
    registry.with(Slot::from(3_600), Reports { ssrc, lost, on_event, incoming, outgoing })
}

impl Reports {
    fn hear(&self, reports: &[ReceptionReport]) {
        for r in reports.iter().filter(|r| r.ssrc == self.ssrc) {
            self.lost.0.store(r.fraction_lost, Ordering::Relaxed);
            (self.on_event)(TransportEvent::Report(self.lost.share()));
        }
    }
}

impl Protocol<TaggedPacket, TaggedPacket, ()> for Reports {
    type Rout = TaggedPacket;
    type Wout = TaggedPacket;
    type Eout = ();
    type Error = Error;
    type Time = Instant;

    fn handle_read(&mut self, msg: TaggedPacket) -> Result<(), Error> {
        if let Packet::Rtcp(packets) = &msg.message.packet {
            for p in packets {
                if let Some(r) = p.as_any().downcast_ref::<ReceiverReport>() {
                    self.hear(&r.reports);
                } else if let Some(r) = p.as_any().downcast_ref::<SenderReport>() {
                    self.hear(&r.reports);
                }
            }
        }
        self.incoming.push_back(msg);
        Ok(())
    }

    fn poll_read(&mut self) -> Option<TaggedPacket> {
        self.incoming.pop_front()
    }

    fn handle_write(&mut self, msg: TaggedPacket) -> Result<(), Error> {
        self.outgoing.push_back(msg);
        Ok(())
    }

    fn poll_write(&mut self) -> Option<TaggedPacket> {
        self.outgoing.pop_front()
    }
}

impl Interceptor for Reports {
    fn bind_local_stream(&mut self, _: &StreamInfo) {}

    fn unbind_local_stream(&mut self, _: &StreamInfo) {}

    fn bind_remote_stream(&mut self, _: &StreamInfo) {}

    fn unbind_remote_stream(&mut self, _: &StreamInfo) {}
}
