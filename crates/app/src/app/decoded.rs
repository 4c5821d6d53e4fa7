//! Pictures decoded here, for a web view that cannot: without `VideoDecoder`, or without the codec in it.
//!
//! | state | entered by | what happens |
//! |---|---|---|
//! | off | the beginning, a host that decodes itself | nothing |
//! | on | [`Decoded::show`] with places | a thread decodes what is drawn; of each picture the newest waits, no larger than its place |
//! | handed out | [`Decoded::next`] | nothing more goes out until that was drawn, or [`DRAWS`] has passed |
//!
//! A web view that is slower than the call sees fewer pictures, not older ones: at most one waits for each place.

use super::lock;
use sc_media::room::core::{Picture, Source};
use sc_media::video::codec::Codec;
use sc_media::video::convert::I420;
use sc_media::video::vpx::Decoder;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, broadcast};

/// A picture that was not drawn within this is not waited for any more: the page may have been loaded anew.
const DRAWS: Duration = Duration::from_secs(1);
/// A key frame of a picture is asked for this often at most.
const ASKS: Duration = Duration::from_secs(1);
/// What came meanwhile is decoded for so long before the newest is shown.
const TOGETHER: Duration = Duration::from_millis(100);

/// Points across and down.
type Place = (u32, u32);

#[derive(Default)]
struct State {
    /// How large each is drawn; nothing while the host decodes itself.
    places: Option<HashMap<Source, Place>>,
    /// The thread runs.
    running: bool,
    /// The newest of each, the one that waits longest first.
    newest: Vec<(Source, I420)>,
    /// When the last one was handed out, until it was drawn.
    out: Option<Instant>,
}

/// What is decoded for the host.
#[derive(Clone, Default)]
pub(super) struct Decoded(Arc<(Mutex<State>, Notify)>);

/// Whoever can make a picture begin anew: that one, or all.
pub(super) type Lost = Box<dyn Fn(Option<Source>) + Send>;

impl Decoded {
    /// These are drawn, so large; `None`: the host decodes itself. What `start` gives is used when there is no thread yet.
    pub(super) fn show(&self, places: Option<HashMap<Source, Place>>, start: impl FnOnce() -> (broadcast::Receiver<Arc<Picture>>, Lost)) {
        let mut state = lock(&self.0.0);
        state.newest.retain(|(s, _)| places.as_ref().is_some_and(|p| p.contains_key(s)));
        state.places = places;
        if state.places.is_none() || state.running {
            return;
        }
        let (frames, lost) = start();
        let worker = Worker { to: self.clone(), lost, decoders: HashMap::new(), asked: HashMap::new(), lagged: None };
        match std::thread::Builder::new().name("pictures".into()).spawn(move || worker.run(frames)) {
            Ok(_) => state.running = true,
            // It is tried again when this is said again, every five seconds.
            Err(cause) => tracing::warn!(%cause, "pictures cannot be decoded"),
        }
    }

    /// Whether the host wants them so.
    pub(super) fn is_on(&self) -> bool {
        lock(&self.0.0).places.is_some()
    }

    /// What was handed out last is drawn.
    pub(super) fn drawn(&self) {
        lock(&self.0.0).out = None;
        self.0.1.notify_waiters();
    }

    /// The next picture, when the one before was drawn. May be dropped at any time.
    pub(super) async fn next(&self) -> (Source, I420) {
        loop {
            let changed = self.0.1.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let wait = {
                let mut state = lock(&self.0.0);
                let wait = state.out.and_then(|at| DRAWS.checked_sub(at.elapsed()));
                if wait.is_none() && !state.newest.is_empty() {
                    state.out = Some(Instant::now());
                    return state.newest.remove(0);
                }
                wait
            };
            match wait {
                // Late or not: it is looked at again.
                Some(wait) => drop(tokio::time::timeout(wait, changed).await),
                None => changed.await,
            }
        }
    }

    /// In the place of an older one.
    fn put(&self, source: &Source, picture: I420) {
        let mut state = lock(&self.0.0);
        match state.newest.iter_mut().find(|(s, _)| s == source) {
            Some((_, before)) => *before = picture,
            None => state.newest.push((source.clone(), picture)),
        }
        drop(state);
        self.0.1.notify_waiters();
    }
}

/// The thread that decodes.
struct Worker {
    to: Decoded,
    lost: Lost,
    decoders: HashMap<Source, (Codec, Decoder)>,
    asked: HashMap<Source, Instant>,
    lagged: Option<Instant>,
}

impl Worker {
    fn run(mut self, mut frames: broadcast::Receiver<Arc<Picture>>) {
        use broadcast::error::{RecvError, TryRecvError};
        loop {
            // Everything that came meanwhile is decoded first: only the newest of each is worth more work.
            let mut seen = HashMap::new();
            let mut next = frames.blocking_recv().map_err(|e| match e {
                RecvError::Lagged(n) => TryRecvError::Lagged(n),
                RecvError::Closed => TryRecvError::Closed,
            });
            let until = Instant::now() + TOGETHER;
            loop {
                match next {
                    Ok(picture) if self.take(&picture, &mut seen) => {}
                    Ok(_) | Err(TryRecvError::Closed) => return,
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Lagged(n)) => {
                        tracing::debug!(n, "pictures came faster than they were decoded");
                        self.decoders.clear();
                        if self.lagged.is_none_or(|at| at.elapsed() >= ASKS) {
                            self.lagged = Some(Instant::now());
                            (self.lost)(None);
                        }
                    }
                }
                if Instant::now() >= until {
                    break;
                }
                next = frames.try_recv();
            }
            for (source, (picture, place)) in seen {
                self.to.put(&source, fitted(picture, place));
            }
        }
    }

    /// A frame came. False when the host decodes itself now, and this thread ends.
    fn take(&mut self, picture: &Picture, seen: &mut HashMap<Source, (I420, Place)>) -> bool {
        let place = {
            let mut state = lock(&self.to.0.0);
            let Some(places) = &state.places else {
                state.running = false;
                return false;
            };
            self.decoders.retain(|s, _| places.contains_key(s));
            places.get(&picture.source).copied()
        };
        let Some(place) = place else { return true };
        if let Some(p) = self.decode(picture) {
            seen.insert(picture.source.clone(), (p, place));
        } else if self.asked.get(&picture.source).is_none_or(|at| at.elapsed() >= ASKS) {
            self.asked.retain(|_, at| at.elapsed() < ASKS);
            self.asked.insert(picture.source.clone(), Instant::now());
            (self.lost)(Some(picture.source.clone()));
        }
        true
    }

    /// Nothing when there is nothing to go on from.
    fn decode(&mut self, p: &Picture) -> Option<I420> {
        if self.decoders.get(&p.source).is_some_and(|(codec, _)| *codec != p.codec) {
            self.decoders.remove(&p.source);
        }
        if p.key && !self.decoders.contains_key(&p.source) {
            match Decoder::new(p.codec) {
                Ok(d) => drop(self.decoders.insert(p.source.clone(), (p.codec, d))),
                Err(cause) => tracing::warn!(%cause, "a picture cannot be decoded"),
            }
        }
        match self.decoders.get_mut(&p.source)?.1.decode(&p.frame) {
            Ok(seen) => seen,
            Err(cause) => {
                tracing::debug!(%cause, "a frame cannot be decoded");
                self.decoders.remove(&p.source);
                None
            }
        }
    }
}

/// No larger than it is seen when it fills its place.
fn fitted(picture: I420, (width, height): Place) -> I420 {
    let by = (f64::from(width) / f64::from(picture.width)).max(f64::from(height) / f64::from(picture.height));
    if by >= 1.0 {
        return picture;
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // Less than the side.
    let side = |n: u32| ((f64::from(n) * by).ceil() as u32).max(2);
    let most = (side(picture.width), side(picture.height));
    picture.within(most)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use sc_media::video::vpx::Encoder;
    use std::sync::mpsc;

    fn source(name: &str) -> Source {
        Source { identity: name.into(), screen: false }
    }

    struct Film(Codec, Encoder, u32);

    impl Film {
        fn new(codec: Codec) -> Self {
            Self(codec, Encoder::new(codec, (320, 180), 300, false).unwrap(), 0)
        }

        /// The next frame, all of that brightness.
        fn next(&mut self, of: &str, light: u8, key: bool) -> Picture {
            self.2 += 1;
            let frame = [vec![light; 320 * 180], vec![128; 320 * 90]].concat();
            let (frame, key) = self.1.encode(&frame, Duration::from_millis(40) * self.2, key).unwrap().unwrap();
            Picture { source: source(of), codec: self.0, timestamp: self.2 * 3_600, key, frame }
        }
    }

    fn places(names: &[&str]) -> HashMap<Source, Place> {
        names.iter().map(|n| (source(n), (160, 90))).collect()
    }

    fn light(p: &I420) -> u8 {
        p.brightness().first().copied().unwrap()
    }

    async fn soon<T>(f: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), f).await.unwrap()
    }

    #[tokio::test]
    async fn of_each_picture_the_newest_waits_and_goes_out_when_the_one_before_was_drawn() {
        let (frames, _) = broadcast::channel(64);
        let (tell, lost) = mpsc::channel();
        let decoded = Decoded::default();
        let start = || (frames.subscribe(), Box::new(move |s| tell.send(s).unwrap()) as Lost);
        decoded.show(Some(places(&["a", "b"])), start);
        let (mut a, mut b) = (Film::new(Codec::Vp8), Film::new(Codec::Vp9));
        let send = |p: Picture| frames.send(Arc::new(p)).map(|_| ()).unwrap();
        send(a.next("a", 50, true));
        let (of, first) = soon(decoded.next()).await;
        assert_eq!((of, first.width, first.height), (source("a"), 160, 90), "as large as it is drawn");
        assert!(light(&first).abs_diff(50) < 4);
        for n in 1..=4 {
            send(a.next("a", 50 + n * 30, false));
        }
        send(b.next("b", 200, true));
        // It is not drawn.
        send(Film::new(Codec::Vp8).next("c", 90, true));
        decoded.drawn();
        let until = async {
            loop {
                let (of, p) = decoded.next().await;
                decoded.drawn();
                if of == source("b") {
                    return p;
                }
                if light(&p).abs_diff(170) < 8 {
                    break;
                }
            }
            decoded.next().await.1
        };
        assert!(light(&soon(until).await).abs_diff(200) < 4);
        assert!(lost.try_recv().is_err(), "nothing was lost");
        decoded.show(None, || unreachable!("there is a thread"));
        assert!(!decoded.is_on());
    }

    #[tokio::test]
    async fn a_picture_without_its_beginning_is_asked_for() {
        let (frames, _) = broadcast::channel(64);
        let (tell, lost) = mpsc::channel();
        let decoded = Decoded::default();
        decoded.show(Some(places(&["a"])), || (frames.subscribe(), Box::new(move |s| tell.send(s).unwrap()) as Lost));
        let mut a = Film::new(Codec::Vp8);
        a.next("a", 50, true);
        frames.send(Arc::new(a.next("a", 60, false))).unwrap();
        let asked = tokio::task::spawn_blocking(move || lost.recv_timeout(Duration::from_secs(10))).await.unwrap().unwrap();
        assert_eq!(asked, Some(source("a")));
        frames.send(Arc::new(a.next("a", 90, true))).unwrap();
        assert!(light(&soon(decoded.next()).await.1).abs_diff(90) < 4);
    }

    #[tokio::test]
    async fn a_page_that_never_says_that_it_drew_gets_pictures_all_the_same() {
        let (frames, _) = broadcast::channel(64);
        let decoded = Decoded::default();
        decoded.show(Some(places(&["a"])), || (frames.subscribe(), Box::new(|_| ()) as Lost));
        let mut a = Film::new(Codec::Vp8);
        for n in 0..2 {
            frames.send(Arc::new(a.next("a", 50 + n * 50, n == 0))).unwrap();
            assert!(light(&soon(decoded.next()).await.1).abs_diff(50 + n * 50) < 5);
        }
    }
}
