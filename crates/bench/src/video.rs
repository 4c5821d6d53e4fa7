//! Pictures of a call of two through losses and limits: both ends' real media in this process, on real time, over the seeded network. The
//! film is 640 × 360 at 25 frames a second and its frames are numbered, so that what came and when is read from its points.

use anyhow::Result;
use sc_engine::call::Input;
use sc_media::MediaOptions;
use sc_media::audio::{Input as From, Output as To};
use sc_media::pictures::{OWN, OwnPicture, PictureState, THEIRS};
use sc_media::room::core::Picture;
use sc_media::video::source::Source;
use sc_testkit::calls::net::Network;
use sc_testkit::calls::{Pair, Side, options};
use sc_testkit::film::{film, numbers};
use sc_testkit::network::Path;
use std::collections::HashMap;
use std::path::Path as FilePath;
use std::time::{Duration, Instant};

const SIZE: (usize, usize) = (640, 360);
/// After the cameras are on, until it counts: the estimate finds the path.
const WARM: Duration = Duration::from_secs(5);
const LASTS: Duration = Duration::from_secs(60);

/// What a direction showed.
struct Seen {
    freezes: u64,
    frames: u64,
    /// Of the estimate: least, mean.
    estimate: (u64, u64),
    /// From the camera to the screen: median, 99th percentile.
    delay: (f64, f64),
    own: OwnPicture,
}

/// Each kind of path for a minute.
pub async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("film.y4m");
    // A minute and a half: no number comes twice.
    film(&path, 2_250, SIZE)?;
    println!(
        "pictures of a call of two, {} x {}, both ways, {} s each; of the two directions the worse one",
        SIZE.0,
        SIZE.1,
        LASTS.as_secs()
    );
    let far = |p: Path| Path { delay_ms: 20.0, jitter_ms: 2.0, ..p };
    let paths = [
        ("no loss", far(Path::default())),
        ("5 % loss", Path::lossy(0.05, 1.5)),
        ("10 % loss", Path::lossy(0.10, 2.0)),
        ("20 % loss", Path::lossy(0.20, 3.0)),
        ("400 kb/s", far(Path { rate: 400.0, queue_ms: 300.0, ..Path::default() })),
        ("250 kb/s", far(Path { rate: 250.0, queue_ms: 300.0, ..Path::default() })),
    ];
    for (name, path_is) in paths {
        let s = through(&path, path_is).await?;
        println!(
            "  {name:<9} freezes {:>2}, frames {:>4}, estimate at least {:>4} kb/s, on average {:>4}, camera to screen p50 {:.0} ms, p99 {:.0} ms, at the end {:?}",
            s.freezes,
            s.frames,
            s.estimate.0 / 1_000,
            s.estimate.1 / 1_000,
            s.delay.0,
            s.delay.1,
            s.own
        );
    }
    Ok(())
}

async fn through(film: &FilePath, path: Path) -> Result<Seen> {
    let nets = [1, 2].map(|seed| Network::new(path.clone(), seed));
    let side = |net: &Network| {
        let side = Side::new(MediaOptions { runtime: Some(net.runtime()), ..options() }, From::Silence, To::Nothing);
        side.media.set_video(Source::File(film.to_owned()));
        side
    };
    let [a, b] = &nets;
    let mut p = Pair::new(side(a), side(b));
    p.connect().await?;
    for i in 0..2 {
        p.input(i, Input::Camera(true))?;
    }
    p.pass(WARM).await?;
    let states = |p: &Pair| p.sides.each_ref().map(|s| s.media.pictures().unwrap_or_default());
    let (before, start) = (states(&p), Instant::now());
    let mut estimates: [Vec<u64>; 2] = Default::default();
    while start.elapsed() < LASTS {
        p.pass(Duration::from_millis(250)).await?;
        for (list, s) in estimates.iter_mut().zip(states(&p)) {
            list.push(s.estimate);
        }
    }
    let after = states(&p);
    let [left, right] = &p.sides;
    let [of_left, of_right] = &estimates;
    let [was_left, was_right] = &before;
    let [is_left, is_right] = &after;
    let seen = [
        direction((right, of_right, &is_right.own), (left, was_left, is_left), p.started(), start)?,
        direction((left, of_left, &is_left.own), (right, was_right, is_right), p.started(), start)?,
    ];
    p.hang_up().await?;
    let worst = seen.into_iter().max_by_key(|s| (s.freezes, std::cmp::Reverse(s.estimate.0)));
    worst.ok_or_else(|| anyhow::anyhow!("nothing was seen"))
}

/// From whoever shows to whoever sees.
fn direction(
    (from, estimates, own): (&Side, &[u64], &OwnPicture),
    (to, was, is): (&Side, &PictureState, &PictureState),
    begun: Instant,
    start: Instant,
) -> Result<Seen> {
    let read = |list: &[(Instant, Picture)]| numbers(list.iter().map(|(at, p)| (*at, p)));
    let when: HashMap<usize, Instant> = read(&from.pictures(OWN, begun))?.into_iter().map(|(at, n)| (n, at)).collect();
    let came = read(&to.pictures(THEIRS, begun))?;
    let late = came.iter().filter(|(at, _)| *at >= start).filter_map(|(at, n)| {
        let then = when.get(n)?;
        Some(at.saturating_duration_since(*then).as_secs_f64() * 1_000.0)
    });
    Ok(Seen {
        freezes: is.freezes - was.freezes,
        frames: is.frames - was.frames,
        estimate: (estimates.iter().copied().min().unwrap_or_default(), estimates.iter().sum::<u64>() / estimates.len().max(1) as u64),
        delay: crate::percentiles(late.collect()),
        own: own.clone(),
    })
}
