//! Pictures in a call over good and bad networks: real sockets, real encryption, real codecs; numbered films for cameras. What was seen is
//! read from the points of what came.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use anyhow::Result;
use sc_engine::call::Input;
use sc_media::MediaOptions;
use sc_media::audio::{Input as From, Output as To};
use sc_media::pictures::{OWN, OwnPicture, PictureState, THEIRS};
use sc_media::video::VideoError;
use sc_media::video::codec::Codec;
use sc_media::video::source::Source;
use sc_testkit::calls::net::Network;
use sc_testkit::calls::{Pair, Side, options};
use sc_testkit::film::{film, numbers};
use sc_testkit::network::Path;
use std::io::Write as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECS: fn(u64) -> Duration = Duration::from_secs;

fn over(network: &Network) -> MediaOptions {
    MediaOptions { runtime: Some(network.runtime()), ..options() }
}

fn side(options: MediaOptions, film: Option<&PathBuf>) -> Side {
    let side = Side::new(options, From::Silence, To::Nothing);
    side.media.set_video(film.cloned().map_or(Source::Camera(None), Source::File));
    side
}

fn state(p: &Pair, i: usize) -> PictureState {
    p.sides[i].media.pictures().unwrap_or_default()
}

/// The numbers a side has seen of the other's film since then.
fn seen(p: &Pair, i: usize, since: Instant) -> Result<Vec<usize>> {
    let frames = p.sides[i].pictures(THEIRS, p.started());
    let all = numbers(frames.iter().map(|(at, f)| (*at, f)))?;
    Ok(all.into_iter().filter(|(at, _)| *at >= since).map(|(_, n)| n).collect())
}

/// Frames come in the film's order and few are left out.
fn assert_flows(numbers: &[usize], at_least: usize) {
    assert!(numbers.len() >= at_least, "{numbers:?}");
    assert!(numbers.windows(2).all(|w| w[1] > w[0]), "{numbers:?}");
    let span = numbers.last().unwrap() - numbers.first().unwrap() + 1;
    assert!(numbers.len() * 10 >= span * 8, "{} of {span}: {numbers:?}", numbers.len());
}

fn a_film() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("film.y4m");
    film(&path, 1_500, (320, 180))?;
    Ok((dir, path))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_sees_the_other_and_nothing_once_a_camera_is_off() -> Result<()> {
    let (_dir, film) = a_film()?;
    let mut p = Pair::new(side(options(), Some(&film)), side(options(), Some(&film)));
    p.connect().await?;
    p.pass(MS(500)).await?;
    assert!((0..2).all(|i| state(&p, i) == PictureState::default()), "nobody is seen who did not ask for it");
    let start = Instant::now();
    (0..2).try_for_each(|i| p.input(i, Input::Camera(true)))?;
    p.run(SECS(5), |p| (0..2).all(|i| state(p, i).theirs)).await?;
    println!("seen after {} ms", start.elapsed().as_millis());
    p.pass(SECS(4)).await?;
    for i in 0..2 {
        assert_flows(&seen(&p, i, start)?, 60);
        let own = p.sides[i].pictures(OWN, start);
        assert!(own.len() >= 60 && own[0].1.key, "and oneself: {}", own.len());
        let s = state(&p, i);
        assert!(s.own == OwnPicture::On && s.estimate > 400_000, "{s:?}");
        assert!(p.sides[i].state().unwrap().camera);
    }
    p.input(0, Input::Camera(false))?;
    p.run(SECS(2), |p| !state(p, 1).theirs).await?;
    let off = Instant::now();
    p.pass(SECS(1)).await?;
    assert!(seen(&p, 1, off)?.is_empty() && state(&p, 0).own == OwnPicture::Off);
    assert!(p.sides[0].pictures(OWN, off + MS(300)).is_empty(), "the camera itself is closed");
    assert!(p.sides[0].pictures(THEIRS, off).len() > 20, "the other one is still seen");
    p.input(0, Input::Camera(true))?;
    p.run(SECS(2), |p| state(p, 1).theirs).await?;
    p.pass(SECS(1)).await?;
    assert_flows(&seen(&p, 1, off)?, 20);
    p.hang_up().await?;
    let over = Instant::now();
    p.pass(MS(500)).await?;
    for side in &p.sides {
        assert!(side.media.pictures().is_none() && side.pictures(OWN, over + MS(300)).is_empty(), "the cameras are closed with the call");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_both_know_vp9_it_is_spoken_and_else_vp8() -> Result<()> {
    let (_dir, film) = a_film()?;
    let both = [Codec::Vp9, Codec::Vp8];
    for (of, spoken) in [([&both[..], &both], Codec::Vp9), ([&both, &[Codec::Vp8]], Codec::Vp8), ([&[Codec::Vp8], &both], Codec::Vp8)] {
        let nets = [1, 2].map(|seed| Network::new(Path::lossy(0.05, 1.5), seed));
        let knows = |i: usize| MediaOptions { codecs: of[i].to_vec(), ..over(&nets[i]) };
        let [a, b] = [0, 1].map(|i| side(knows(i), Some(&film)));
        let mut p = Pair::new(a, b);
        // The caller's camera runs before anybody knows what the other side speaks.
        p.input(
            0,
            Input::Start { call: sc_protocol::CallId::generate(), conversation: p.conversation(), peer: p.sides[1].user, video: true },
        )?;
        p.run(SECS(5), |p| p.sides[1].state().is_some_and(|s| s.video)).await?;
        p.run(SECS(5), |p| !p.sides[0].pictures(OWN, p.started()).is_empty()).await?;
        p.input(1, Input::Accept { video: true })?;
        p.run(SECS(10), |p| (0..2).all(|i| state(p, i).theirs)).await?;
        p.pass(SECS(5)).await?;
        for i in 0..2 {
            let frames = p.sides[i].pictures(THEIRS, p.started());
            let others = frames.iter().filter(|(_, f)| f.codec != spoken).count();
            assert_eq!((others, frames.is_empty()), (0, false), "{of:?}: {spoken:?} is spoken, of {} frames", frames.len());
            let seen = seen(&p, i, p.started())?;
            println!("{of:?}: {spoken:?}, {} frames with a number", seen.len());
            // Some is lost: what is sent again is of the same codec.
            assert!(seen.len() >= 80 && seen.windows(2).all(|w| w[1] > w[0]), "{seen:?}");
        }
        p.hang_up().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_video_call_rings_as_one_and_is_taken_without_being_seen() -> Result<()> {
    let (_dir, film) = a_film()?;
    let mut p = Pair::new(side(options(), Some(&film)), side(options(), Some(&film)));
    let peer = p.sides[1].user;
    p.input(0, Input::Start { call: sc_protocol::CallId::generate(), conversation: p.conversation(), peer, video: true })?;
    p.run(SECS(5), |p| p.sides[1].state().is_some_and(|s| s.video && !s.camera)).await?;
    p.run(SECS(5), |p| !p.sides[0].pictures(OWN, p.started()).is_empty()).await?;
    p.input(1, Input::Accept { video: false })?;
    p.run(SECS(10), |p| state(p, 1).theirs).await?;
    p.pass(SECS(1)).await?;
    assert!(!state(&p, 0).theirs && state(&p, 1).own == OwnPicture::Off);
    assert_flows(&seen(&p, 1, p.started())?, 20);
    p.hang_up().await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_camera_the_call_goes_on_and_says_so() -> Result<()> {
    let mut p = Pair::new(side(options(), None), side(options(), Some(&PathBuf::from("/nonexistent"))));
    p.connect().await?;
    (0..2).try_for_each(|i| p.input(i, Input::Camera(true)))?;
    p.run(SECS(5), |p| (0..2).all(|i| p.sides[i].state().is_some_and(|s| !s.camera))).await?;
    // Whoever has a camera tests with that.
    let own = state(&p, 0).own;
    assert!(matches!(own, OwnPicture::Failed(VideoError::NoCamera | VideoError::Device(_))), "{own:?}");
    assert!(matches!(state(&p, 1).own, OwnPicture::Failed(VideoError::File(..))));
    let before = [0, 1].map(|i: usize| p.sides[i].media.quality().unwrap().heard.received);
    p.run(SECS(3), |p| (0..2).all(|i| p.sides[i].media.quality().is_some_and(|q| q.heard.received > before[i]))).await?;
    p.hang_up().await
}

/// A film that breaks off, as a camera that is pulled out.
#[tokio::test(flavor = "multi_thread")]
async fn a_camera_that_is_pulled_out_leaves_the_call_and_may_be_put_back() -> Result<()> {
    let (dir, whole) = a_film()?;
    let broken = dir.path().join("broken.y4m");
    film(&broken, 50, (320, 180))?;
    std::fs::OpenOptions::new().append(true).open(&broken)?.write_all(b"FRAME\nthe cable")?;
    let mut p = Pair::new(side(options(), Some(&broken)), side(options(), None));
    p.connect().await?;
    p.input(0, Input::Camera(true))?;
    p.run(SECS(5), |p| state(p, 1).theirs).await?;
    p.run(SECS(10), |p| !state(p, 1).theirs && p.sides[0].state().is_some_and(|s| !s.camera)).await?;
    assert_eq!(state(&p, 0).own, OwnPicture::Failed(VideoError::Ended));
    assert!(seen(&p, 1, p.started())?.len() > 20);
    p.sides[0].media.set_video(Source::File(whole));
    p.input(0, Input::Camera(true))?;
    p.run(SECS(5), |p| state(p, 1).theirs && state(p, 0).own == OwnPicture::On).await?;
    p.hang_up().await
}

#[tokio::test(flavor = "multi_thread")]
async fn losses_are_filled_in_and_the_picture_moves_on() -> Result<()> {
    let (_dir, film) = a_film()?;
    for (loss, freezes) in [(0.05, 1), (0.10, 3), (0.20, 12)] {
        let nets = [1, 2].map(|seed| Network::new(Path::lossy(loss, 1.5), seed));
        let mut p = Pair::new(side(over(&nets[0]), Some(&film)), side(over(&nets[1]), Some(&film)));
        p.connect().await?;
        let start = Instant::now();
        (0..2).try_for_each(|i| p.input(i, Input::Camera(true)))?;
        p.pass(SECS(8)).await?;
        for i in 0..2 {
            let s = state(&p, i);
            println!("{loss}: {s:?}");
            assert!(s.freezes <= freezes && s.estimate > 150_000, "{loss}: {s:?}");
            let numbers = seen(&p, i, start)?;
            assert!(numbers.len() > 100 && numbers.windows(2).all(|w| w[1] > w[0]), "{loss}: {numbers:?}");
        }
        p.hang_up().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_for_the_sound_alone_gets_the_sound_alone() -> Result<()> {
    let (_dir, film) = a_film()?;
    // 90 kb/s: speech needs half of that.
    let thin = Path { delay_ms: 20.0, rate: 90.0, queue_ms: 300.0, ..Path::default() };
    let nets = [Network::new(thin, 1), Network::new(Path { delay_ms: 20.0, ..Path::default() }, 2)];
    let mut p = Pair::new(side(over(&nets[0]), Some(&film)), side(over(&nets[1]), None));
    p.connect().await?;
    p.input(0, Input::Camera(true))?;
    p.run(SECS(30), |p| state(p, 0).own == OwnPicture::Paused).await?;
    // Until the queue is empty; well before the next try.
    p.pass(SECS(1)).await?;
    let before = p.sides[1].media.quality().unwrap().heard;
    p.pass(SECS(4)).await?;
    assert_eq!((&state(&p, 0).own, state(&p, 1).theirs), (&OwnPicture::Paused, false));
    let after = p.sides[1].media.quality().unwrap().heard;
    let (played, concealed) = (after.played - before.played, after.concealed - before.concealed);
    assert!(played > 150 && concealed * 20 < played, "{concealed} of {played}");
    assert!(p.sides[0].state().unwrap().camera, "the person still wants to be seen");
    p.hang_up().await
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_blackout_there_is_a_picture_again() -> Result<()> {
    let (_dir, film) = a_film()?;
    let nets = [1, 2].map(|seed| Network::new(Path { delay_ms: 20.0, ..Path::default() }, seed));
    let mut p = Pair::new(side(over(&nets[0]), Some(&film)), side(over(&nets[1]), None));
    p.connect().await?;
    p.input(0, Input::Camera(true))?;
    p.run(SECS(5), |p| state(p, 1).theirs).await?;
    nets.iter().for_each(|n| n.cut(true));
    p.pass(SECS(5)).await?;
    assert!(!state(&p, 1).theirs, "a picture that stands still for seconds is none");
    nets.iter().for_each(|n| n.cut(false));
    let back = Instant::now();
    p.run(SECS(5), |p| state(p, 1).theirs).await?;
    println!("seen again {} ms after the blackout", back.elapsed().as_millis());
    p.pass(SECS(2)).await?;
    assert_flows(&seen(&p, 1, back)?, 25);
    p.hang_up().await
}
