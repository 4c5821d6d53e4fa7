//! Rooms: who may come in, who is inside, who is told.
//!
//! Media are carried by the unit of this server, or by a LiveKit cluster of the configuration ([`outside`]); the unit may carry rooms of
//! other servers as well ([`service`]), of which nothing is known or stored here.
//!
//! The unit (`sfu`) knows tracks and identities; here are seats, locks, lobbies, hosts and stays. A stay is stored before its
//! participant is let in, and its end when the unit says it is over; at the start of the server every stay that was active is over.
//!
//! Invariants: active stays in the store, seats that are taken and participants of the unit are the same, but for those on their way in or
//! out. `member_count` is the number of active stays. Nobody is inside a conversation's room who is not its member: looked at
//! every two seconds, besides what the keys do at once.

pub mod cluster;
pub mod door;
pub mod outside;
pub mod seats;
pub mod service;
pub mod signal;
pub mod store;
pub mod token;

use crate::App;
use crate::config::Config;
use crate::error::ApiResult;
use sc_protocol::frame::ServerFrame;
use sc_protocol::rooms::{HostAction, RoomInfo, RoomPerson, Waiting, parse_identity};
use sc_protocol::{ConversationId, ErrorCode, RoomId, UserId};
use sc_sfu::net::{Handle, Listen};
use sc_sfu::{Event, LeaveReason, proto};
use seats::Seats;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use store::StoredRoom;
use tokio::sync::mpsc;

/// How often it is looked whether those inside may still be.
const LOOK: Duration = Duration::from_secs(2);
/// Somebody in the lobby who has not asked again for so long is gone, in milliseconds.
const PATIENCE_MS: i64 = 20_000;
/// In one lobby at most.
const LOBBY: usize = 100;

/// A room with somebody in it, or on their way.
#[derive(Default)]
struct Live {
    seats: Seats,
    people: BTreeMap<String, RoomPerson>,
    /// The cluster's names for the stays of those in it, when one carries the room.
    sids: HashMap<String, String>,
    speaking: Vec<String>,
    waiting: HashMap<String, Ticket>,
    /// Gateway connections of these accounts are told, besides the members of the conversation.
    hosts: HashSet<UserId>,
}

struct Ticket {
    info: Waiting,
    admitted: Option<bool>,
    asked: i64,
}

/// The rooms of this server.
pub struct Rooms {
    /// The unit; none when rooms are switched off, elsewhere, or could not start.
    pub unit: Option<Handle>,
    /// The cluster that carries the rooms in place of it.
    pub outside: Option<Arc<outside::Outside>>,
    signer: token::Signer,
    /// The key of those who may put rooms of their own onto the unit.
    shared: Option<token::Signer>,
    live: Mutex<HashMap<RoomId, Live>>,
    events: Mutex<Option<mpsc::Receiver<Event>>>,
    hints: Mutex<Option<mpsc::Receiver<RoomId>>>,
    /// Refusals by code, for metrics.
    pub errors: Mutex<BTreeMap<&'static str, u64>>,
}

impl Rooms {
    /// Starts the unit, unless the configuration has none or names a LiveKit cluster.
    pub fn start(config: &Config, key: &[u8; 32], seed: [u8; 32]) -> Self {
        let mut rooms = Self {
            unit: None,
            outside: None,
            signer: token::Signer::own(key),
            shared: None,
            live: Mutex::default(),
            events: Mutex::default(),
            hints: Mutex::default(),
            errors: Mutex::default(),
        };
        if !config.rooms && config.livekit_url.is_empty() {
            return rooms;
        }
        if !config.livekit_url.is_empty() {
            let (key, secret) = (&config.livekit_key, config.livekit_secret.reveal());
            rooms.signer = token::Signer::shared(key, secret);
            match cluster::Cluster::new(&config.livekit_url, key, secret) {
                Ok(c) => {
                    let (outside, hints) = outside::Outside::new(c);
                    (rooms.outside, rooms.hints) = (Some(Arc::new(outside)), Mutex::new(Some(hints)));
                }
                Err(cause) => tracing::warn!(%cause, "group calls cannot start"),
            }
            return rooms;
        }
        if !config.rooms_key.is_empty() {
            rooms.shared = Some(token::Signer::shared(&config.rooms_key, config.rooms_secret.reveal()));
        }
        let at = SocketAddr::new(config.listen.ip(), config.rooms_port);
        let listen = Listen { udp: at, tcp: Some(at), external: config.rooms_external };
        let sfu = sc_sfu::Config { grace: Duration::from_millis(config.grace_period_ms), ..Default::default() };
        match Handle::start(listen, sfu, seed) {
            Ok((unit, events)) => {
                rooms.unit = Some(unit);
                rooms.events = Mutex::new(Some(events));
            }
            Err(cause) => tracing::warn!(%cause, port = config.rooms_port, "group calls cannot start; set rooms_port, or rooms = false"),
        }
        rooms
    }

    /// Follows what happens in the rooms, until the unit has stopped or the server stops.
    pub fn follow(app: &App) {
        let hints = app.rooms.hints.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let (Some(outside), Some(hints)) = (&app.rooms.outside, hints) {
            outside::follow(app, outside, hints);
        }
        let events = app.rooms.events.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut events) = events else { return };
        let app = app.clone();
        tokio::spawn(async move {
            let mut look = tokio::time::interval(LOOK);
            loop {
                tokio::select! {
                    event = events.recv() => match event {
                        Some(e) => on_event(&app, e).await,
                        None => return,
                    },
                    _ = look.tick() => expel_strangers(&app).await,
                }
            }
        });
    }

    fn with<T>(&self, id: RoomId, f: impl FnOnce(&mut Live) -> T) -> T {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        f(live.entry(id).or_default())
    }

    /// Counts a refusal.
    pub fn refused(&self, code: ErrorCode) {
        *self.errors.lock().unwrap_or_else(PoisonError::into_inner).entry(code.as_str()).or_default() += 1;
    }

    /// The room as it is now; `host` sees who waits.
    #[must_use]
    pub fn info(&self, stored: &StoredRoom, host: bool) -> RoomInfo {
        self.with(stored.id, |l| RoomInfo {
            room_id: stored.id,
            conversation: stored.conversation,
            max_participants: stored.max_participants,
            locked: stored.locked,
            lobby: stored.lobby,
            guests: stored.guests,
            member_count: stored.member_count,
            host,
            people: l.people.values().cloned().collect(),
            speaking: l.speaking.clone(),
            waiting: if host { l.waiting.values().filter(|t| t.admitted.is_none()).map(|t| t.info.clone()).collect() } else { Vec::new() },
        })
    }

    /// Whoever is told of a meeting room besides those inside.
    pub fn watch(&self, id: RoomId, user: UserId) {
        self.with(id, |l| l.hosts.insert(user));
    }

    /// Somebody does not come back until the room has been empty: the account, or the guest.
    pub fn bar(&self, id: RoomId, identity: &str) {
        self.with(id, |l| l.seats.remove(&signal::person(identity)));
    }

    /// True when there is something that carries rooms.
    #[must_use]
    pub fn carried(&self) -> bool {
        self.unit.is_some() || self.outside.is_some()
    }

    /// True when whatever carries rooms is there and answers.
    #[must_use]
    pub fn healthy(&self) -> bool {
        self.unit.is_some() || self.outside.as_ref().is_some_and(|o| o.answers.load(std::sync::atomic::Ordering::Relaxed))
    }

    /// Takes somebody out of a room, or one of their sources away.
    pub async fn act(&self, id: RoomId, identity: &str, action: HostAction) -> Result<(), cluster::ClusterError> {
        let room = id.to_string();
        let source = match action {
            HostAction::Remove => {
                if let Some(unit) = &self.unit {
                    unit.leave(room, identity.to_owned(), LeaveReason::Removed).await;
                } else if let Some(outside) = &self.outside {
                    outside.cluster.remove(&room, identity).await?;
                    outside.hint(id);
                }
                return Ok(());
            }
            HostAction::Mute => proto::TrackSource::Microphone,
            HostAction::CameraOff => proto::TrackSource::Camera,
            HostAction::ScreenOff => proto::TrackSource::ScreenShare,
        };
        if let Some(unit) = &self.unit {
            unit.mute(room, identity.to_owned(), source).await;
        } else if let Some(outside) = &self.outside {
            outside.cluster.mute(&room, identity, source).await?;
            outside.hint(id);
        }
        Ok(())
    }

    /// Ends a room for everybody.
    pub async fn close(&self, id: RoomId) -> Result<(), cluster::ClusterError> {
        if let Some(unit) = &self.unit {
            unit.close(id.to_string()).await;
        } else if let Some(outside) = &self.outside {
            outside.cluster.close(&id.to_string()).await?;
            outside.hint(id);
        }
        Ok(())
    }

    /// Forgets rooms nobody is in or waits for.
    fn tidy(&self, now: i64) {
        let mut live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.retain(|_, l| {
            l.waiting.retain(|_, t| now - t.asked < PATIENCE_MS);
            !l.people.is_empty() || !l.sids.is_empty() || !l.waiting.is_empty() || !l.seats.is_empty(now)
        });
    }

    /// For metrics: name, kind, value.
    #[must_use]
    pub fn metric_rows(&self) -> [(&'static str, &'static str, u64); 4] {
        use std::sync::atomic::Ordering::Relaxed;
        let stats = self.unit.as_ref().map(Handle::stats);
        let count = |of: fn(&sc_sfu::net::Stats) -> &std::sync::atomic::AtomicU64| stats.map_or(0, |s| of(s).load(Relaxed));
        // Of rooms elsewhere no more is known than who is inside.
        let elsewhere = if self.outside.is_some() { self.peopled() } else { Vec::new() };
        let (rooms, people) =
            (elsewhere.iter().filter(|(_, n)| *n > 0).count() as u64, elsewhere.iter().map(|(_, n)| *n as u64).sum::<u64>());
        [
            ("rooms", "gauge", count(|s| &s.rooms) + rooms),
            ("room_participants", "gauge", count(|s| &s.participants) + people),
            ("room_packets_total", "counter", count(|s| &s.forwarded)),
            ("room_packets_dropped_total", "counter", count(|s| &s.dropped)),
        ]
    }

    /// Refusals by code, as Prometheus text.
    #[must_use]
    pub fn error_rows(&self) -> String {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        let rows = errors.iter().map(|(code, n)| format!("secureconnect_room_errors_total{{code=\"{code}\"}} {n}\n"));
        std::iter::once("# TYPE secureconnect_room_errors_total counter\n".to_owned()).chain(rows).collect()
    }
}

/// Something happened in the unit.
async fn on_event(app: &App, event: Event) {
    let room_of = |r: &str| r.parse::<RoomId>().ok();
    match event {
        // Told when the stay was stored: see `signal`.
        Event::Joined { .. } => {}
        Event::Left { room, identity, session, reason } => {
            let Some(id) = room_of(&room) else { return };
            let over = app.rooms.with(id, |l| {
                let over = l.seats.left(&identity, session);
                if over {
                    l.people.remove(&identity);
                    l.speaking.retain(|s| *s != identity);
                }
                over
            });
            tracing::debug!(room = %id, ?reason, over, "somebody left a room");
            if over {
                end_stay(app, id, identity).await;
            }
        }
        Event::Track { room, identity, source, muted } => {
            let Some(id) = room_of(&room) else { return };
            app.rooms.with(id, |l| {
                if let Some(p) = l.people.get_mut(&identity) {
                    match source {
                        proto::TrackSource::Microphone => p.microphone = !muted,
                        proto::TrackSource::Camera => p.camera = !muted,
                        proto::TrackSource::ScreenShare => p.screen = !muted,
                        _ => {}
                    }
                }
            });
            tell(app, id).await;
        }
        Event::Attributes { room, identity, attributes } => {
            let Some(id) = room_of(&room) else { return };
            app.rooms.with(id, |l| {
                if let Some(p) = l.people.get_mut(&identity) {
                    p.hand = attributes.get("hand").is_some_and(|h| h == "1");
                }
            });
            tell(app, id).await;
        }
        Event::Speaking { room, identities } => {
            let Some(id) = room_of(&room) else { return };
            app.rooms.with(id, |l| l.speaking = identities);
            tell(app, id).await;
        }
    }
}

/// The end of a stay, stored; then those concerned are told.
pub(crate) async fn end_stay(app: &App, id: RoomId, identity: String) {
    let done = app.writer.write(move |cx| Box::pin(async move { store::finish(&mut cx.conn, id, &identity, cx.now).await })).await;
    if let Err(e) = done {
        // The next start, or `repair-rooms`, ends it.
        tracing::error!(cause = %e, room = %id, "the end of a stay was not stored");
    }
    tell(app, id).await;
}

/// Tells the members of the conversation, or the hosts of a meeting room, what it looks like now.
pub(crate) async fn tell(app: &App, id: RoomId) {
    let told: ApiResult<()> = async {
        let mut conn = app.pool.acquire().await?;
        let Some(stored) = store::load(&mut conn, id).await? else { return Ok(()) };
        let users = if stored.conversation { members(&mut conn, ConversationId(id.0)).await? } else { Vec::new() };
        drop(conn);
        let mut users: HashSet<UserId> = users.into_iter().collect();
        users.extend(app.rooms.with(id, |l| l.hosts.iter().copied().collect::<Vec<_>>()));
        let host = !stored.conversation;
        let frame = ServerFrame::RoomUpdated { room: RoomInfo { host: false, ..app.rooms.info(&stored, host) } };
        for u in users {
            app.hub.send_user(u, frame.clone());
        }
        Ok(())
    }
    .await;
    if let Err(e) = told {
        tracing::warn!(cause = %e, room = %id, "nobody could be told of a room");
    }
}

/// The accounts in a conversation that may connect.
async fn members(conn: &mut sqlx::SqliteConnection, id: ConversationId) -> ApiResult<Vec<UserId>> {
    use sqlx::Row as _;
    let rows = sqlx::query(
        "SELECT m.user_id FROM members m JOIN users u ON u.user_id = m.user_id WHERE m.conversation_id = $1 AND u.status = 'ACTIVE'",
    )
    .bind(id.as_bytes().as_slice())
    .fetch_all(conn)
    .await?;
    let id = |r: &sqlx::sqlite::SqliteRow| {
        UserId::from_slice(r.try_get::<&[u8], _>("user_id")?).ok_or_else(|| sqlx::Error::Decode("column user_id holds no id".into()))
    };
    Ok(rows.iter().map(id).collect::<Result<_, _>>()?)
}

/// Somebody who just came in.
fn person_of(identity: &str, name: &str) -> RoomPerson {
    let user_id = parse_identity(identity).map(|(u, _)| u);
    RoomPerson {
        identity: identity.to_owned(),
        user_id,
        guest_name: Some(name.to_owned()).filter(|n| !n.is_empty() && user_id.is_none()),
        joined_at: crate::now_ms(),
        microphone: false,
        camera: false,
        screen: false,
        hand: false,
    }
}

/// True for an account of the conversation that may connect.
pub(crate) async fn is_member(app: &App, id: RoomId, user: UserId) -> ApiResult<bool> {
    let mut conn = app.pool.acquire().await?;
    Ok(members(&mut conn, ConversationId(id.0)).await?.contains(&user))
}

/// True for an account that is not suspended.
pub(crate) async fn is_active(app: &App, user: UserId) -> ApiResult<bool> {
    let status: Option<String> = sqlx::query_scalar("SELECT status FROM users WHERE user_id = $1")
        .bind(user.as_bytes().as_slice())
        .fetch_optional(&app.pool)
        .await?;
    Ok(status.as_deref() == Some("ACTIVE"))
}

/// Whoever is no member any more, or suspended, has to leave; rooms without anybody are forgotten.
async fn expel_strangers(app: &App) {
    app.rooms.tidy(crate::now_ms());
    let inside: Vec<(RoomId, Vec<String>)> = {
        let live = app.rooms.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.iter().map(|(id, l)| (*id, l.people.keys().cloned().collect())).collect()
    };
    for (id, people) in inside {
        let strangers: ApiResult<Vec<String>> = async {
            let mut conn = app.pool.acquire().await?;
            let Some(stored) = store::load(&mut conn, id).await? else { return Ok(people) };
            if !stored.conversation {
                drop(conn);
                let mut out = Vec::new();
                for p in people {
                    if let Some((u, _)) = parse_identity(&p)
                        && !is_active(app, u).await?
                    {
                        out.push(p);
                    }
                }
                return Ok(out);
            }
            let members = members(&mut conn, ConversationId(id.0)).await?;
            Ok(people.into_iter().filter(|p| parse_identity(p).is_none_or(|(u, _)| !members.contains(&u))).collect())
        }
        .await;
        let Ok(strangers) = strangers else { continue };
        for identity in strangers {
            if let Err(cause) = app.rooms.act(id, &identity, HostAction::Remove).await {
                tracing::warn!(%cause, room = %id, "somebody who is no member any more could not be taken out; it is tried again");
            }
        }
    }
}

/// Of the start: nobody is inside.
pub async fn settle(writer: &crate::log::writer::Writer) -> ApiResult<()> {
    let ended = writer.write(|cx| Box::pin(async move { store::end_all(&mut cx.conn, cx.now).await })).await?;
    if ended > 0 {
        tracing::info!(ended, "stays in rooms were still open and are over");
    }
    Ok(())
}
