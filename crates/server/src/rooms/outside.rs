//! Rooms that a LiveKit cluster carries: who is inside is asked, because the cluster alone knows.
//!
//! It is asked for its rooms every two seconds; for those in a room when their number is another one, when a webhook says that something
//! happened there, and every ten seconds in any case, so that a webhook that got lost, or that nobody configured, costs seconds and no
//! seat. Whoever came in takes their seat as in a room of our own, or is taken out; whoever is gone has their stay ended.
//!
//! A cluster that does not answer keeps what was known for twenty seconds. Then nobody is counted as inside; whoever still is when it answers
//! again keeps their seat, the door locked or not. After a start of this server so does everybody who was inside before it.

use super::cluster::{Cluster, ClusterError};
use super::{Rooms, end_stay, person_of, signal, store, tell};
use crate::{App, AppInner, now_ms};
use futures_util::StreamExt as _;
use sc_protocol::rooms::RoomPerson;
use sc_protocol::{ErrorCode, RoomId};
use sc_sfu::proto;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

/// How often the cluster is asked for its rooms.
const ROUND: Duration = Duration::from_secs(2);
/// How often it is asked who is in a room where nothing seems to have happened.
const WHOLE: Duration = Duration::from_secs(10);
/// A cluster that was silent for so long has nobody in it.
const DEAD: Duration = Duration::from_secs(20);
/// Hints of webhooks that may wait; those beyond are found by asking.
const HINTS: usize = 1_024;
/// Rooms that are asked for at once.
const AT_ONCE: usize = 8;

/// The cluster, and what is known of it.
pub struct Outside {
    /// Where it is asked.
    pub cluster: Cluster,
    /// It answered the last question.
    pub answers: AtomicBool,
    hints: mpsc::Sender<RoomId>,
    stop: watch::Sender<bool>,
    asked: Mutex<Asked>,
}

/// When the cluster answered last, and when it was last asked who is in a room.
struct Asked {
    heard: Instant,
    whole: HashMap<RoomId, Instant>,
    /// Rooms of others on the same cluster.
    others: HashSet<RoomId>,
    /// Since when this server has been looking, by its clock.
    since: i64,
}

impl Outside {
    /// What the follower reads is the second.
    #[must_use]
    pub fn new(cluster: Cluster) -> (Self, mpsc::Receiver<RoomId>) {
        let (hints, out) = mpsc::channel(HINTS);
        let asked = Asked { heard: Instant::now(), whole: HashMap::new(), others: HashSet::new(), since: now_ms() };
        (Self { cluster, answers: AtomicBool::new(true), hints, stop: watch::channel(false).0, asked: Mutex::new(asked) }, out)
    }

    /// Something happened in a room.
    pub fn hint(&self, room: RoomId) {
        // Full: the next round finds it.
        let _ = self.hints.try_send(room);
    }

    /// The server stops: nobody is asked any more.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }

    fn asked<T>(&self, f: impl FnOnce(&mut Asked) -> T) -> T {
        f(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn heard(&self) {
        self.asked(|a| a.heard = Instant::now());
        if !self.answers.swap(true, Ordering::Relaxed) {
            tracing::info!("the LiveKit cluster answers again");
        }
    }

    fn silent(&self, cause: &ClusterError) {
        if self.answers.swap(false, Ordering::Relaxed) {
            tracing::warn!(%cause, "who is in the rooms is not known; see livekit_url, livekit_key, livekit_secret");
        }
    }
}

/// Follows what happens in the cluster, until the server stops.
pub(super) fn follow(app: &App, outside: &Outside, mut hints: mpsc::Receiver<RoomId>) {
    let (app, mut stop) = (Arc::downgrade(&app.0), outside.stop.subscribe());
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let hint = tokio::select! {
                _ = stop.wait_for(|s| *s) => return,
                hint = hints.recv() => hint,
                _ = tick.tick() => None,
            };
            // What is left undone is done at the next start: then nobody is inside, and everybody is asked for.
            tokio::select! {
                _ = stop.wait_for(|s| *s) => return,
                more = step(&app, hint) => if !more {
                    return;
                },
            }
        }
    });
}

/// A room that was hinted at, or all. False when the server is gone.
async fn step(app: &Weak<AppInner>, hint: Option<RoomId>) -> bool {
    let Some(app) = app.upgrade().map(App) else { return false };
    let Some(outside) = app.rooms.outside.clone() else { return false };
    match hint {
        Some(room) => look(&app, &outside, room).await,
        None => round(&app, &outside).await,
    }
    true
}

async fn round(app: &App, outside: &Outside) {
    let rooms = match outside.cluster.rooms().await {
        Ok(rooms) => rooms,
        Err(cause) => {
            outside.silent(&cause);
            if outside.asked(|a| a.heard.elapsed()) > DEAD {
                forget_everybody(app).await;
            }
            return;
        }
    };
    outside.heard();
    super::expel_strangers(app).await;
    let theirs: HashMap<RoomId, usize> =
        rooms.iter().filter_map(|r| Some((r.name.parse().ok()?, usize::try_from(r.num_participants).ok()?))).collect();
    let ours: HashMap<RoomId, usize> = app.rooms.peopled().into_iter().collect();
    let due = outside.asked(|a| {
        a.whole.retain(|room, _| theirs.contains_key(room));
        a.others.retain(|room| theirs.contains_key(room));
        let all: HashSet<RoomId> = theirs.keys().chain(ours.keys()).copied().collect();
        let count = |of: &HashMap<RoomId, usize>, room: &RoomId| of.get(room).copied().unwrap_or_default();
        let due = |room: &RoomId| {
            let late = a.whole.get(room).is_none_or(|at| at.elapsed() > WHOLE);
            late || (!a.others.contains(room) && count(&theirs, room) != count(&ours, room))
        };
        all.into_iter().filter(due).collect::<Vec<_>>()
    });
    futures_util::stream::iter(due).for_each_concurrent(AT_ONCE, |room| look(app, outside, room)).await;
}

/// Asks who is in a room of this server.
async fn look(app: &App, outside: &Outside, room: RoomId) {
    let now = Instant::now();
    match is_ours(app, room).await {
        Some(true) => {}
        Some(false) => {
            return outside.asked(|a| {
                a.others.insert(room);
                a.whole.insert(room, now);
            });
        }
        None => return,
    }
    match outside.cluster.people(&room.to_string()).await {
        Ok(people) => {
            outside.heard();
            outside.asked(|a| a.whole.insert(room, now));
            settle(app, outside, room, people).await;
        }
        Err(cause) => outside.silent(&cause),
    }
}

/// Whether it is a room of this server; nothing when that cannot be found out now.
async fn is_ours(app: &App, room: RoomId) -> Option<bool> {
    let mut conn = app.pool.acquire().await.ok()?;
    store::exists(&mut conn, room).await.ok()
}

/// The cluster is gone: stays are over. Who had a seat, and who was taken out, is remembered.
async fn forget_everybody(app: &App) {
    for (room, _) in app.rooms.peopled() {
        let people = app.rooms.with(room, |l| std::mem::take(&mut l.people));
        for identity in people.into_keys() {
            end_stay(app, room, identity).await;
        }
    }
}

/// True for somebody to be seen: not a recorder, nobody on their way in or out.
fn is_inside(p: &proto::ParticipantInfo) -> bool {
    use proto::participant_info::{Kind, State};
    let shown = !p.permission.as_ref().is_some_and(|p| p.hidden) && p.kind() == Kind::Standard;
    shown && matches!(p.state(), State::Joined | State::Active)
}

/// Makes seats, stays and what is told what the cluster says.
async fn settle(app: &App, outside: &Outside, room: RoomId, people: Vec<proto::ParticipantInfo>) {
    let now: HashMap<String, proto::ParticipantInfo> = people.into_iter().filter(is_inside).map(|p| (p.identity.clone(), p)).collect();
    let gone: Vec<String> = app.rooms.with(room, |l| {
        let mut gone: Vec<String> = l.sids.keys().filter(|p| !now.contains_key(*p)).cloned().collect();
        for p in &gone {
            l.sids.remove(p);
            l.seats.free(p);
        }
        // Of somebody who was forgotten meanwhile the stay is over already.
        gone.retain(|p| l.people.remove(p).is_some());
        gone
    });
    for identity in gone {
        end_stay(app, room, identity).await;
    }
    let mut changed = false;
    for (identity, info) in &now {
        changed |= match known(app, room, identity, &info.sid) {
            Known::Same => app.rooms.with(room, |l| l.people.get_mut(identity).is_some_and(|p| show(p, info))),
            Known::Barred => {
                take_out(outside, room, identity).await;
                false
            }
            Known::New { kept } => {
                let kept = kept || joined_at(info).is_some_and(|at| at < outside.asked(|a| a.since));
                come_in(app, outside, room, info, kept).await
            }
        };
    }
    if changed {
        tell(app, room).await;
    }
}

/// Who somebody is that the cluster names.
enum Known {
    /// Inside since before.
    Same,
    /// Taken out by a host.
    Barred,
    /// They came in; `kept` when they had been inside before and nobody heard of it for a while.
    New { kept: bool },
}

fn known(app: &App, room: RoomId, identity: &str, sid: &str) -> Known {
    app.rooms.with(room, |l| {
        let same = l.sids.get(identity).is_some_and(|s| s == sid);
        if l.seats.is_removed(&signal::person(identity)) {
            return Known::Barred;
        }
        if same && l.people.contains_key(identity) { Known::Same } else { Known::New { kept: same } }
    })
}

/// Gives a newcomer the seat that is theirs, or takes them out; true when they are inside.
async fn come_in(app: &App, outside: &Outside, room: RoomId, info: &proto::ParticipantInfo, kept: bool) -> bool {
    let identity = &info.identity;
    match signal::seat(app, room, identity, kept).await {
        Ok(()) => {
            let mut person = person_of(identity, &info.name);
            show(&mut person, info);
            app.rooms.with(room, |l| {
                l.people.insert(identity.clone(), person);
                l.sids.insert(identity.clone(), info.sid.clone());
            });
            true
        }
        Err(e) => {
            app.rooms.refused(e.0.code);
            if matches!(e.0.code, ErrorCode::RoomFull | ErrorCode::RoomLocked | ErrorCode::RoomRefused | ErrorCode::NotFound) {
                take_out(outside, room, identity).await;
            } else {
                // Not their fault: they are asked for again.
                tracing::warn!(cause = %e, %room, "somebody's seat was not stored");
            }
            false
        }
    }
}

async fn take_out(outside: &Outside, room: RoomId, identity: &str) {
    if let Err(cause) = outside.cluster.remove(&room.to_string(), identity).await {
        tracing::warn!(%cause, %room, "somebody without a seat could not be taken out; it is tried again");
    }
}

/// When they came in, by the cluster's clock; older ones tell seconds only.
fn joined_at(info: &proto::ParticipantInfo) -> Option<i64> {
    let at = if info.joined_at_ms > 0 { info.joined_at_ms } else { info.joined_at.saturating_mul(1_000) };
    (at > 0).then_some(at)
}

/// What others see of somebody; true when it is something else than before.
fn show(p: &mut RoomPerson, info: &proto::ParticipantInfo) -> bool {
    let on = |source: proto::TrackSource| info.tracks.iter().any(|t| t.source() == source && !t.muted);
    let hand = info.attributes.get("hand").is_some_and(|h| h == "1");
    let new = (on(proto::TrackSource::Microphone), on(proto::TrackSource::Camera), on(proto::TrackSource::ScreenShare), hand);
    let other = (p.microphone, p.camera, p.screen, p.hand) != new;
    (p.microphone, p.camera, p.screen, p.hand) = new;
    other
}

impl Rooms {
    /// The rooms with somebody in them, or of whom that is remembered, and how many are counted.
    pub(super) fn peopled(&self) -> Vec<(RoomId, usize)> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().filter(|(_, l)| !l.people.is_empty() || !l.sids.is_empty()).map(|(id, l)| (*id, l.people.len())).collect()
    }
}
