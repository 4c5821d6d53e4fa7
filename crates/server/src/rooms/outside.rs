//! Rooms that a LiveKit cluster carries: who is inside is asked, because the cluster alone knows.
//!
//! It is asked for its rooms every two seconds; for those in a room when their number is another one, when a webhook says that something
//! happened there, and every ten seconds in any case, so that a webhook that got lost, or that nobody configured, costs seconds and no
//! seat. Whoever came in takes their seat as in a room of our own, or is taken out; whoever is gone has their stay ended.
//!
//! A cluster that does not answer keeps what was known for twenty seconds. Then nobody is inside.

use super::cluster::Cluster;
use super::{Rooms, end_stay, person_of, signal, tell};
use crate::App;
use sc_protocol::RoomId;
use sc_protocol::rooms::RoomPerson;
use sc_sfu::proto;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How often the cluster is asked for its rooms.
const ROUND: Duration = Duration::from_secs(2);
/// How often it is asked who is in a room where nothing seems to have happened.
const WHOLE: Duration = Duration::from_secs(10);
/// A cluster that was silent for so long has nobody in it.
const DEAD: Duration = Duration::from_secs(20);
/// Hints of webhooks that may wait; those beyond are found by asking.
const HINTS: usize = 1_024;

/// The cluster, and what its webhooks say.
pub struct Outside {
    /// Where it is asked.
    pub cluster: Cluster,
    /// It answered the last question.
    pub answers: AtomicBool,
    hints: mpsc::Sender<RoomId>,
}

impl Outside {
    /// What the follower reads is the second.
    #[must_use]
    pub fn new(cluster: Cluster) -> (Self, mpsc::Receiver<RoomId>) {
        let (hints, out) = mpsc::channel(HINTS);
        (Self { cluster, answers: AtomicBool::new(true), hints }, out)
    }

    /// Something happened in a room.
    pub fn hint(&self, room: RoomId) {
        // Full: the next round finds it.
        let _ = self.hints.try_send(room);
    }
}

/// Follows what happens in the cluster, until the server stops.
pub(super) fn follow(app: App, outside: Arc<Outside>, mut hints: mpsc::Receiver<RoomId>) {
    tokio::spawn(async move {
        let mut asked = Asked { heard: Instant::now(), whole: HashMap::new() };
        let mut tick = tokio::time::interval(ROUND);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                hint = hints.recv() => match hint {
                    Some(room) => look(&app, &outside, room, &mut asked).await,
                    None => return,
                },
                _ = tick.tick() => {
                    if app.writer.is_closed() {
                        return;
                    }
                    round(&app, &outside, &mut asked).await;
                }
            }
        }
    });
}

/// When the cluster answered last, and when it was last asked who is in a room.
struct Asked {
    heard: Instant,
    whole: HashMap<RoomId, Instant>,
}

async fn round(app: &App, outside: &Outside, asked: &mut Asked) {
    super::expel_strangers(app).await;
    let rooms = match outside.cluster.rooms().await {
        Ok(rooms) => rooms,
        Err(cause) => {
            if outside.answers.swap(false, Ordering::Relaxed) {
                tracing::warn!(%cause, "who is in the rooms is not known; see livekit_url, livekit_key, livekit_secret");
            }
            if asked.heard.elapsed() > DEAD {
                for room in app.rooms.peopled() {
                    settle(app, outside, room.0, Vec::new()).await;
                }
            }
            return;
        }
    };
    asked.heard = Instant::now();
    if !outside.answers.swap(true, Ordering::Relaxed) {
        tracing::info!("the LiveKit cluster answers again");
    }
    let theirs: HashMap<RoomId, usize> =
        rooms.iter().filter_map(|r| Some((r.name.parse().ok()?, usize::try_from(r.num_participants).ok()?))).collect();
    let ours: HashMap<RoomId, usize> = app.rooms.peopled().into_iter().collect();
    asked.whole.retain(|room, _| theirs.contains_key(room));
    for room in theirs.keys().chain(ours.keys()).copied().collect::<HashSet<_>>() {
        let due = asked.whole.get(&room).is_none_or(|at| at.elapsed() > WHOLE);
        if due || theirs.get(&room).copied().unwrap_or_default() != ours.get(&room).copied().unwrap_or_default() {
            look(app, outside, room, asked).await;
        }
    }
}

/// Asks who is in a room.
async fn look(app: &App, outside: &Outside, room: RoomId, asked: &mut Asked) {
    match outside.cluster.people(&room.to_string()).await {
        Ok(people) => {
            asked.whole.insert(room, Instant::now());
            settle(app, outside, room, people).await;
        }
        Err(cause) => tracing::debug!(%cause, %room, "who is in a room was not told"),
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
    let before: HashSet<String> = app.rooms.with(room, |l| l.people.keys().cloned().collect());
    let mut changed = false;
    for gone in before.iter().filter(|p| !now.contains_key(*p)) {
        app.rooms.with(room, |l| {
            l.people.remove(gone);
            l.seats.free(gone);
        });
        end_stay(app, room, gone.clone()).await;
    }
    for (identity, info) in &now {
        if before.contains(identity) {
            changed |= app.rooms.with(room, |l| l.people.get_mut(identity).is_some_and(|p| show(p, info)));
            continue;
        }
        match signal::seat(app, room, identity).await {
            Ok(()) => {
                let mut person = person_of(identity, &info.name);
                show(&mut person, info);
                app.rooms.with(room, |l| l.people.insert(identity.clone(), person));
                changed = true;
            }
            // A room that is not of this server may be on the cluster as well.
            Err(e) if e.0.code == sc_protocol::ErrorCode::NotFound && !is_ours(app, room).await => {}
            Err(e) => {
                app.rooms.refused(e.0.code);
                if let Err(cause) = outside.cluster.remove(&room.to_string(), identity).await {
                    tracing::warn!(%cause, %room, "somebody without a seat could not be taken out; it is tried again");
                }
            }
        }
    }
    if changed {
        tell(app, room).await;
    }
}

/// True for a room of this server; also when that cannot be found out, because then nobody without a seat may stay.
async fn is_ours(app: &App, room: RoomId) -> bool {
    let Ok(mut conn) = app.pool.acquire().await else { return true };
    !matches!(super::store::exists(&mut conn, room).await, Ok(false))
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
    /// The rooms with somebody in them, and how many.
    fn peopled(&self) -> Vec<(RoomId, usize)> {
        let live = self.live.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        live.iter().filter(|(_, l)| !l.people.is_empty()).map(|(id, l)| (*id, l.people.len())).collect()
    }
}
