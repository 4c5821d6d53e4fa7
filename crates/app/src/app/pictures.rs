//! Pictures of a room or a call on their way to whoever draws them: encoded frames, decrypted, as bytes. In a call `peer` names the other
//! side's, and everywhere `own` one's own.
//!
//! A message is `flags ‖ n ‖ identity of n bytes ‖ timestamp ‖ frame`: of the flags 1 is a key frame and 2 a screen, the timestamp counts
//! 90,000 a second in four bytes, the lowest first, and the frame is VP8, with the flag 8 VP9. A host that is slower than the room loses frames; it then gets
//! nothing of a picture until its next key frame, which is asked for.
//!
//! For a host that cannot decode the flag 4 stands for a decoded picture ([`super::decoded`]): behind the timestamp, which is nought, come
//! points across and down, two bytes each, and I420.

use super::{App, lock};
use sc_media::pictures::{OWN, OnPicture, THEIRS};
use sc_media::room::LEASE;
use sc_media::room::core::{Picture, Source};
use sc_media::video::codec::Codec;
use sc_media::video::convert::I420;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::sync::broadcast;

/// Frames that wait for a host: two seconds of two pictures.
pub(super) const WAITING: usize = 128;

fn begin(flags: u8, source: &Source, timestamp: u32, room: usize) -> Vec<u8> {
    let identity = source.identity.as_bytes();
    let n = u8::try_from(identity.len()).unwrap_or(u8::MAX);
    let mut out = Vec::with_capacity(6 + identity.len() + room);
    out.push(flags | u8::from(source.screen) << 1);
    out.push(n);
    out.extend_from_slice(identity.get(..usize::from(n)).unwrap_or(identity));
    out.extend_from_slice(&timestamp.to_le_bytes());
    out
}

/// A picture's frame as a message.
fn message(p: &Picture) -> Vec<u8> {
    let mut out = begin(u8::from(p.key) | u8::from(p.codec == Codec::Vp9) << 3, &p.source, p.timestamp, p.frame.len());
    out.extend_from_slice(&p.frame);
    out
}

/// A decoded picture as a message.
fn decoded_message(source: &Source, picture: &I420) -> Vec<u8> {
    let mut out = begin(4, source, 0, 4 + picture.bytes.len());
    for side in [picture.width, picture.height] {
        // At most `SIDE`.
        out.extend_from_slice(&u16::try_from(side).unwrap_or(u16::MAX).to_le_bytes());
    }
    out.extend_from_slice(&picture.bytes);
    out
}

/// Which pictures of a call, or of oneself, are drawn, and when that was said last. A host that says so no longer gets nothing.
#[derive(Clone, Default)]
pub(super) struct Drawn(Arc<Mutex<Option<Wanted>>>);

type Wanted = (HashSet<Source>, Instant);

impl Drawn {
    /// These are drawn now. Gives back those that were not before.
    fn set(&self, now: HashSet<Source>) -> Vec<Source> {
        let at = Instant::now();
        let before = lock(&self.0).replace((now.clone(), at)).filter(|(_, then)| at.saturating_duration_since(*then) < LEASE);
        let before = before.map(|(list, _)| list).unwrap_or_default();
        now.into_iter().filter(|s| !before.contains(s)).collect()
    }

    fn has(&self, source: &Source) -> bool {
        lock(&self.0).as_ref().is_some_and(|(list, at)| at.elapsed() < LEASE && list.contains(source))
    }

    /// Hands on what is drawn.
    pub(super) fn show(&self, frames: broadcast::Sender<Arc<Picture>>) -> OnPicture {
        let drawn = self.clone();
        Arc::new(move |picture| {
            if drawn.has(&picture.source) {
                // Nobody may be looking.
                let _ = frames.send(Arc::new(picture));
            }
        })
    }
}

/// What a host draws.
pub struct Pictures {
    app: App,
    frames: broadcast::Receiver<Arc<Picture>>,
    /// Frames were lost, and the room does not know yet.
    lost: bool,
    begun: Begun,
}

/// After a loss: whose pictures have begun anew. Nothing before the first one.
#[derive(Default)]
struct Begun(Option<HashSet<Source>>);

impl Begun {
    fn lose(&mut self) {
        self.0 = Some(HashSet::new());
    }

    /// Whether a decoder can go on with this one.
    fn follows(&mut self, p: &Picture) -> bool {
        let Some(begun) = &mut self.0 else { return true };
        if p.key {
            begun.insert(p.source.clone());
            return true;
        }
        begun.contains(&p.source)
    }
}

impl Pictures {
    /// The next message; `None` when the app is gone. May be dropped at any time: nothing is forgotten.
    pub async fn next(&mut self) -> Option<Vec<u8>> {
        loop {
            if self.lost {
                self.app.pictures_lost(None).await;
                self.lost = false;
            }
            let decoded = self.app.0.decoded.clone();
            let frame = tokio::select! {
                frame = self.frames.recv() => frame,
                (source, picture) = decoded.next() => return Some(decoded_message(&source, &picture)),
            };
            match frame {
                Ok(_) if decoded.is_on() => self.begun.lose(),
                Ok(picture) if self.begun.follows(&picture) => return Some(message(&picture)),
                // It builds on what was lost.
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(n)) => {
                    tracing::debug!(n, "pictures came faster than they were drawn");
                    // Where the app decodes, nothing of this is missed.
                    self.lost = !decoded.is_on();
                    self.begun.lose();
                }
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

impl App {
    /// Frames of the pictures that were asked for with `show_pictures`.
    #[must_use]
    pub fn pictures(&self) -> Pictures {
        Pictures { app: self.clone(), frames: self.0.pictures.subscribe(), lost: false, begun: Begun::default() }
    }

    pub(super) async fn pictures_lost(&self, of: Option<Source>) {
        let room = lock(&self.0.room).as_ref().and_then(super::rooms::Active::room);
        if let Some(room) = room {
            return room.pictures_lost(of).await;
        }
        let media = lock(&self.0.media).clone();
        let lost = |name: &str| of.as_ref().is_none_or(|o| o.identity == name);
        if let Some(preview) = lock(&self.0.preview).as_ref().filter(|_| lost(OWN)) {
            preview.lost();
        }
        for (own, name) in [(true, OWN), (false, THEIRS)] {
            if let Some(media) = media.as_ref().filter(|_| lost(name)) {
                media.pictures_lost(own).await;
            }
        }
    }

    /// A host that cannot decode draws these, so large; `None`: it decodes itself.
    pub(super) fn decode(&self, places: Option<HashMap<Source, (u32, u32)>>) {
        let start = || {
            let (app, runtime) = (Arc::downgrade(&self.0), tokio::runtime::Handle::current());
            let lost = move |of| {
                if let Some(inner) = app.upgrade() {
                    runtime.spawn(async move { App(inner).pictures_lost(of).await });
                }
            };
            (self.0.pictures.subscribe(), Box::new(lost) as super::decoded::Lost)
        };
        self.0.decoded.show(places, start);
    }

    /// These pictures of a call, or of oneself, are drawn now: one that was not begins with a key frame.
    pub(super) async fn draw(&self, pictures: HashSet<Source>) {
        for source in self.0.drawn.set(pictures) {
            self.pictures_lost(Some(source)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_drawn_is_handed_on() {
        let source = |name: &str| Source { identity: name.into(), screen: false };
        let (frames, mut seen) = broadcast::channel(4);
        let drawn = Drawn::default();
        let show = drawn.show(frames);
        let picture = |name: &str| Picture { source: source(name), codec: Codec::Vp8, timestamp: 0, key: true, frame: vec![7] };
        show(picture(THEIRS));
        assert!(seen.try_recv().is_err());
        assert_eq!(drawn.set(HashSet::from([source(THEIRS)])), [source(THEIRS)]);
        assert!(drawn.set(HashSet::from([source(THEIRS)])).is_empty(), "it was drawn before");
        show(picture(OWN));
        assert!(seen.try_recv().is_err());
        show(picture(THEIRS));
        assert!(seen.try_recv().is_ok());
    }

    #[test]
    fn after_a_loss_each_picture_goes_on_with_a_key_frame_of_its_own() {
        let of = |name: &str, key| {
            let source = Source { identity: name.into(), screen: false };
            Picture { source, codec: Codec::Vp8, timestamp: 0, key, frame: vec![7] }
        };
        let mut begun = Begun::default();
        assert!(begun.follows(&of("a", false)), "nothing is lost yet");
        begun.lose();
        assert!(!begun.follows(&of("a", false)));
        assert!(begun.follows(&of("a", true)) && begun.follows(&of("a", false)));
        assert!(!begun.follows(&of("b", false)));
    }

    #[test]
    fn a_message_says_whose_picture_it_is() {
        let source = Source { identity: "minh".into(), screen: true };
        let mut p = Picture { source, codec: Codec::Vp8, timestamp: 0x0102_0304, key: true, frame: vec![9, 8] };
        assert_eq!(message(&p), [3, 4, b'm', b'i', b'n', b'h', 4, 3, 2, 1, 9, 8]);
        p.codec = Codec::Vp9;
        assert_eq!(message(&p).first(), Some(&11));
        let seen = I420 { width: 2, height: 258, bytes: vec![6; 774] };
        let decoded = decoded_message(&p.source, &seen);
        assert_eq!(decoded.get(..14), Some([6, 4, b'm', b'i', b'n', b'h', 0, 0, 0, 0, 2, 0, 2, 1].as_slice()));
        assert_eq!(decoded.len(), 14 + 774);
    }
}
