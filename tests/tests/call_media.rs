//! Calls with real media over good and bad networks: real sockets, real DTLS, real codecs; files for microphones.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use anyhow::Result;
use sc_engine::call::{EndCause, FailCause, Input, Phase, Signal};
use sc_media::MediaOptions;
use sc_media::audio::{Input as From, Output as To};
use sc_testkit::calls::net::Network;
use sc_testkit::calls::{Pair, Side, options, samples, scale, tones};
use sc_testkit::network::Path;
use std::time::{Duration, Instant};

fn over(network: &Network) -> MediaOptions {
    MediaOptions { runtime: Some(network.runtime()), ..options() }
}

/// Each tone of a scale is higher than the one before; those in the middle are all there.
fn assert_scale(path: &std::path::Path, at_least: usize) {
    let all = tones(&samples(path).unwrap());
    let mut steps = all.clone();
    steps.dedup();
    assert!(steps.len() >= at_least, "{all:?}");
    assert!(steps.windows(2).all(|w| w[1] == w[0] + 100), "{all:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_hears_what_the_other_says() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |n: &str| dir.path().join(n);
    scale(&path("scale.wav"), 6)?;
    let side = |heard: &str| Side::new(options(), From::File(path("scale.wav")), To::File(path(heard)));
    let mut p = Pair::new(side("a.wav"), side("b.wav"));
    p.connect().await?;
    p.pass(Duration::from_millis(4_200)).await?;
    for side in &p.sides {
        let q = side.media.quality().unwrap();
        assert!(q.heard.played > 150, "{q:?}");
        assert_eq!((q.heard.concealed, q.heard.malformed), (0, 0), "{q:?}");
        assert!(q.path.rtt.is_some() && q.rate.0 > 5 && q.rate.1 > 5, "{q:?}");
    }
    p.hang_up().await?;
    assert!((0..2).all(|i| p.phase(i) == Some(Phase::Ended(EndCause::HungUp))));
    assert_scale(&path("a.wav"), 6);
    assert_scale(&path("b.wav"), 6);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_while_muted_is_never_heard() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |n: &str| dir.path().join(n);
    scale(&path("scale.wav"), 6)?;
    let mut p = Pair::new(
        Side::new(options(), From::File(path("scale.wav")), To::Nothing),
        Side::new(options(), From::Silence, To::File(path("b.wav"))),
    );
    p.connect().await?;
    p.pass(Duration::from_millis(1_000)).await?;
    p.input(0, Input::Mute(true))?;
    p.pass(Duration::from_millis(1_500)).await?;
    p.input(0, Input::Mute(false))?;
    p.pass(Duration::from_millis(1_500)).await?;
    p.hang_up().await?;
    let mut steps = tones(&samples(&path("b.wav"))?);
    steps.dedup();
    let gap = steps.windows(2).map(|w| w[1] - w[0]).max().unwrap();
    assert!((300..=400).contains(&gap), "a second and a half are missing: {steps:?}");
    assert!(steps.windows(2).all(|w| w[1] > w[0]), "and do not come later: {steps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_survives_every_fifth_packet_lost() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |n: &str| dir.path().join(n);
    scale(&path("scale.wav"), 10)?;
    let nets = [1, 2].map(|seed| Network::new(Path { reorder: 0.05, duplicate: 0.02, ..Path::lossy(0.2, 2.5) }, seed));
    let mut p = Pair::new(
        Side::new(over(&nets[0]), From::File(path("scale.wav")), To::Nothing),
        Side::new(over(&nets[1]), From::Silence, To::File(path("b.wav"))),
    );
    p.connect().await?;
    // What the speaker is told is lost.
    p.run(Duration::from_secs(4), |p| p.sides[0].media.quality().is_some_and(|q| q.path.lost > 0.01)).await?;
    p.pass(Duration::from_secs(6)).await?;
    let q = p.sides[1].media.quality().unwrap();
    assert!(q.heard.copied > 20, "and sends copies: {q:?}");
    assert!(q.heard.concealed < q.heard.played / 10, "{q:?}");
    assert!((0.08..0.35).contains(&q.loss_in), "what is told of it is near the truth: {q:?}");
    assert_eq!(q.heard.malformed, 0);
    p.hang_up().await?;
    let mut steps = tones(&samples(&path("b.wav"))?);
    steps.dedup();
    // Where a tone begins in a gap, what is made up may sound like another one.
    let wrong = steps.windows(2).filter(|w| w[1] <= w[0]).count();
    assert!(steps.len() >= 12 && wrong <= 1, "{steps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_blackout_there_is_sound_within_a_second_and_none_of_it_was_kept() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = |n: &str| dir.path().join(n);
    scale(&path("scale.wav"), 14)?;
    let nets = [1, 2].map(|seed| Network::new(Path { delay_ms: 20.0, ..Path::default() }, seed));
    let mut p = Pair::new(
        Side::new(over(&nets[0]), From::File(path("scale.wav")), To::Nothing),
        Side::new(over(&nets[1]), From::Silence, To::File(path("b.wav"))),
    );
    p.connect().await?;
    p.pass(Duration::from_secs(1)).await?;
    nets.iter().for_each(|n| n.cut(true));
    p.pass(Duration::from_secs(5)).await?;
    assert_eq!((p.phase(0), p.phase(1)), (Some(Phase::Reconnecting), Some(Phase::Reconnecting)));
    let before = p.sides[1].media.quality().unwrap().heard.played;
    nets.iter().for_each(|n| n.cut(false));
    let back = Instant::now();
    p.run(Duration::from_secs(10), |p| p.sides[1].media.quality().is_some_and(|q| q.heard.played > before + 2)).await?;
    let waited = back.elapsed();
    println!("sound again {} ms after the blackout", waited.as_millis());
    assert!(waited < Duration::from_millis(1_000), "{waited:?}");
    p.pass(Duration::from_secs(2)).await?;
    p.hang_up().await?;
    let mut steps = tones(&samples(&path("b.wav"))?);
    steps.dedup();
    let gap = steps.windows(2).map(|w| w[1].saturating_sub(w[0])).max().unwrap();
    assert!(gap >= 900, "five seconds are gone: {steps:?}");
    assert!(steps.windows(2).all(|w| w[1] > w[0]), "and do not come later: {steps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_another_fingerprint_is_never_spoken_to() -> Result<()> {
    let side = || Side::new(options(), From::Silence, To::Nothing);
    let mut p = Pair::new(side(), side());
    p.tamper = Box::new(|signal| match signal {
        Signal::Answer { call, sdp } => {
            let at = sdp.find("a=fingerprint:sha-256 ").unwrap() + "a=fingerprint:sha-256 ".len();
            let other = if &sdp[at..=at] == "0" { "1" } else { "0" };
            Signal::Answer { call, sdp: format!("{}{other}{}", &sdp[..at], &sdp[at + 1..]) }
        }
        other => other,
    });
    p.ring().await?;
    p.input(1, Input::Accept { video: false })?;
    p.pass(Duration::from_secs(6)).await?;
    let heard: Vec<u64> = p.sides.iter().map(|s| s.media.quality().map_or(0, |q| q.heard.received)).collect();
    assert_eq!(heard, [0, 0], "not one packet passed");
    assert!(!p.sides.iter().any(|s| s.phases.iter().any(|(_, p)| *p == Phase::Active)));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_makes_no_sense_ends_the_call_with_its_cause() -> Result<()> {
    for bad in ["", "v=0", "v=0\r\no=- 0 0 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 111\r\n", "\u{0}\u{ffff}"] {
        let side = || Side::new(options(), From::Silence, To::Nothing);
        let mut p = Pair::new(side(), side());
        p.tamper = Box::new(move |signal| match signal {
            Signal::Answer { call, .. } => Signal::Answer { call, sdp: bad.into() },
            other => other,
        });
        p.ring().await?;
        p.input(1, Input::Accept { video: false })?;
        p.run(Duration::from_secs(25), |p| (0..2).all(|i| matches!(p.phase(i), Some(Phase::Ended(EndCause::Failed(_)))))).await?;
        let cause = p.phase(0);
        assert!(matches!(cause, Some(Phase::Ended(EndCause::Failed(FailCause::BadDescription | FailCause::NoPath)))), "{bad:?}: {cause:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_microphone_nobody_rings_and_the_caller_is_told() -> Result<()> {
    let lost = From::Device("pulseaudio:there is no such thing".into());
    let mut p = Pair::new(Side::new(options(), lost, To::Nothing), Side::new(options(), From::Silence, To::Nothing));
    let refused = tokio::time::timeout(Duration::from_secs(5), p.ring()).await;
    assert!(refused.is_err() || refused.is_ok_and(|r| r.is_err()));
    assert!(p.sides[0].phases.iter().any(|(_, p)| *p == Phase::Ended(EndCause::Failed(FailCause::NoMicrophone))));
    assert!(p.sides[1].phases.is_empty());
    Ok(())
}

/// With these seeds a flight of the handshake is lost, and both sides' timers fire together.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_flight_of_the_handshake_is_repeated() -> Result<()> {
    for seed in [0, 10, 30, 60, 90, 170] {
        let nets = [seed + 1, seed + 2].map(|seed| Network::new(Path::lossy(0.2, 1.5), seed));
        let side = |net| Side::new(over(net), From::Silence, To::Nothing);
        let mut p = Pair::new(side(&nets[0]), side(&nets[1]));
        let took = p.connect().await?;
        println!("connected after {} ms", took.as_millis());
        assert!(took < Duration::from_secs(8), "seed {seed}: a handshake that has to wait for its timers again and again");
        p.hang_up().await?;
    }
    Ok(())
}
