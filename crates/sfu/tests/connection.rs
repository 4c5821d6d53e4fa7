//! What the unit relies on in its WebRTC library beyond the release: `third_party/str0m/README.md`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use str0m::bwe::Bitrate;
use str0m::change::SdpAnswer;
use str0m::format::Codec;
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Input, Output, Rtc};

/// Two ends of a connection in virtual time; the first one sends pictures.
struct Two {
    ends: [Rtc; 2],
    mid: Mid,
    now: Instant,
}

fn at(end: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, 1], [1_000, 2_000][end]))
}

impl Two {
    fn new() -> Self {
        let now = Instant::now();
        let mut ends = [0, 1].map(|end| {
            let builder = Rtc::builder().clear_codecs().enable_vp8(true).set_rtp_mode(true);
            let mut rtc = builder.enable_bwe(Some(Bitrate::kbps(1_000))).build(now);
            rtc.add_local_candidate(Candidate::host(at(end), Protocol::Udp).unwrap());
            rtc
        });
        let mut api = ends[0].sdp_api();
        let mid = api.add_media(MediaKind::Video, Direction::SendOnly, None, None, None);
        let (offer, pending) = api.apply().unwrap();
        let answer = ends[1].sdp_api().accept_offer(offer).unwrap();
        ends[0].sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer.to_sdp_string()).unwrap()).unwrap();
        let mut two = Self { ends, mid, now };
        two.run(2_000);
        assert!(two.ends.iter().all(Rtc::is_connected));
        two.ends[0].direct_api().stream_tx_by_mid(mid, None).unwrap().set_unpaced(true);
        two
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 5 {
            self.now += Duration::from_millis(5);
            for end in 0..2 {
                self.ends[end].handle_input(Input::Timeout(self.now)).unwrap();
                self.deliver(end);
            }
        }
    }

    /// Carries what one end says; how many packets of pictures there were, and when it wants the time next.
    fn deliver(&mut self, end: usize) -> (usize, Instant) {
        let mut pictures = 0;
        loop {
            match self.ends[end].poll_output().unwrap() {
                Output::Timeout(next) => return (pictures, next),
                Output::Transmit(t) => {
                    pictures += usize::from((128..192).contains(&t.contents[0]) && t.contents.len() > 1_000);
                    let r = Receive::new(t.proto, at(end), t.destination, &t.contents).unwrap();
                    self.ends[1 - end].handle_input(Input::Receive(self.now, r)).unwrap();
                }
                Output::Event(_) => {}
            }
        }
    }

    fn write(&mut self, seq: u64) {
        let pt = self.ends[0].codec_config().params().iter().find(|p| p.spec().codec == Codec::Vp8).unwrap().pt();
        let mut payload = vec![0x10, 0x10, 0, 0, 0x9d, 1, 0x2a, 0x80, 2, 0x68, 1];
        payload.resize(1_100, 7);
        let packet = RtpWrite::new(pt, seq.into(), 3_000, self.now, payload);
        self.ends[0].direct_api().stream_tx_by_mid(self.mid, None).unwrap().write_rtp(packet);
    }
}

#[test]
fn packets_of_an_unpaced_stream_leave_at_one_telling_of_the_time_and_ask_for_no_other() {
    let mut two = Two::new();
    let (mut whole, mut done) = (0, 0);
    for picture in 0..20 {
        two.run(35);
        (0..5).for_each(|n| two.write(1_000 + picture * 5 + n));
        two.ends[0].handle_input(Input::Timeout(two.now)).unwrap();
        let (sent, next) = two.deliver(0);
        whole += usize::from(sent == 5);
        done += usize::from(sent == 5 && next > two.now + Duration::from_millis(1));
    }
    // While a path is probed each packet is told its time.
    assert!(whole >= 15, "pictures that left whole: {whole} of 20");
    assert!(done >= 15, "after which nothing was wanted: {done} of 20");
}
