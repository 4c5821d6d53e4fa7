//! The app behind every host: one profile, one engine, one open window.

mod calls;
mod decoded;
mod find;
mod pictures;
mod rooms;
mod window;

pub(crate) use self::calls::audio_code;
pub use self::pictures::Pictures;
use self::window::Window;
use crate::AppError;
use crate::command::{AppEvent, Command, Scope};
use crate::settings::Settings;
use crate::view::{self, AppState, Connection, ContactView, DeviceView, Names, Phase, PreviewView, Protection, ReportView};
use sc_engine::profile::{self, Opening};
use sc_engine::{ConnectionState, Engine, Event, ResetScope};
use sc_media::audio::AudioSetup;
use sc_media::pictures::Preview;
use sc_media::ring::{Ring, Tone};
use sc_media::{Media, TestCall};
use sc_protocol::{ConversationId, DeviceId, TempId, UserId};
use sc_store::keys::{KeySlots, SlotKind};
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::broadcast;

/// How long a reset is waited for before its report says what still goes on.
const RESET_PATIENCE: Duration = Duration::from_secs(20);
/// Changes within this are drawn together.
const COALESCE: Duration = Duration::from_millis(16);
/// Beyond so many changed conversations at once the list is asked for as a whole.
const ITEMS: usize = 16;

/// How an app is started.
#[derive(Clone)]
pub struct AppOptions {
    /// Folder of the profile.
    pub dir: PathBuf,
    /// Ask the keyring of the system.
    pub use_keyring: bool,
    /// For hosts that have one (scripts).
    pub passphrase: Option<String>,
    /// What this device is called.
    pub device_name: String,
    /// What calls use in the place of the devices of the settings; for hosts without a person.
    pub audio: Option<AudioSetup>,
    /// What is shown in calls and rooms in the place of a camera; for hosts without a person.
    pub video: Option<sc_media::video::source::Source>,
}

impl std::fmt::Debug for AppOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AppOptions({})", self.dir.display())
    }
}

struct Inner {
    options: AppOptions,
    engine: Mutex<Option<Engine>>,
    phase: Mutex<Phase>,
    settings: Mutex<Settings>,
    window: tokio::sync::Mutex<Option<Window>>,
    /// First revision of the next window: those of two windows never meet.
    revision: AtomicU32,
    watching: Mutex<Option<tokio::task::JoinHandle<()>>>,
    events: broadcast::Sender<AppEvent>,
    media: Mutex<Option<Arc<Media>>>,
    test: Mutex<Option<TestCall>>,
    preview: Mutex<Option<Preview>>,
    /// Counts what was asked of the preview, and what ends it: a camera that opens too late is closed.
    preview_turn: AtomicU32,
    room: Mutex<Option<rooms::Active>>,
    /// Which pictures of a call are drawn.
    drawn: pictures::Drawn,
    /// Frames for whoever draws.
    pictures: broadcast::Sender<Arc<sc_media::room::core::Picture>>,
    /// And those that are decoded here.
    decoded: decoded::Decoded,
    /// What sounds while a call is not taken yet.
    ring: Mutex<Option<(Tone, Ring)>>,
    /// Tells levels while there is a call.
    telling: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

/// The app.
#[derive(Clone)]
pub struct App(Arc<Inner>);

fn lock<T>(m: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id<T: std::str::FromStr>(s: &str) -> Result<T, AppError> {
    s.parse().map_err(|_| AppError::new("BAD_ID", "The id is malformed."))
}

fn value<T: Serialize>(v: &T) -> Result<Value, AppError> {
    serde_json::to_value(v).map_err(|e| AppError::new("ENCODING", e.to_string()))
}

impl App {
    /// Starts; opens the store when that needs nothing from anybody.
    pub async fn start(options: AppOptions) -> Result<Self, AppError> {
        let settings = Settings::load(&options.dir);
        let (events, _) = broadcast::channel(1024);
        let passphrase = options.passphrase.clone();
        let this = Self(Arc::new(Inner {
            options,
            engine: Mutex::new(None),
            phase: Mutex::new(Phase::Locked),
            settings: Mutex::new(settings),
            window: tokio::sync::Mutex::new(None),
            revision: AtomicU32::new(1),
            watching: Mutex::new(None),
            events,
            media: Mutex::new(None),
            test: Mutex::new(None),
            preview: Mutex::new(None),
            preview_turn: AtomicU32::new(0),
            room: Mutex::new(None),
            drawn: pictures::Drawn::default(),
            pictures: broadcast::channel(pictures::WAITING).0,
            decoded: decoded::Decoded::default(),
            ring: Mutex::new(None),
            telling: Mutex::new(None),
        }));
        match this.open(passphrase).await {
            Ok(()) => Ok(this),
            // Said by the state, not by a start that fails.
            Err(e) if e.code == "WRONG_KEY" => Ok(this),
            Err(e) => Err(e),
        }
    }

    async fn open(&self, passphrase: Option<String>) -> Result<(), AppError> {
        let options = self.0.options.clone();
        let opening = tokio::task::spawn_blocking(move || profile::open(&options.dir, passphrase.as_deref(), options.use_keyring))
            .await
            .map_err(|e| AppError::new("INTERNAL", e.to_string()))??;
        let phase = match opening {
            Opening::Open(profile) => {
                let engine = Engine::start(*profile).await?;
                *lock(&self.0.engine) = Some(engine.clone());
                self.follow(engine.clone());
                self.start_media(&engine);
                match engine.account() {
                    None => Phase::Welcome,
                    Some(a) if a.identity.is_none() => Phase::Waiting,
                    Some(_) => Phase::Ready,
                }
            }
            Opening::NeedsPassphrase { new: true } => Phase::ChoosePassphrase,
            Opening::NeedsPassphrase { new: false } => Phase::Locked,
            Opening::WrongPassphrase => {
                *lock(&self.0.phase) = Phase::Locked;
                return Err(AppError::new("WRONG_KEY", "The passphrase is wrong."));
            }
            Opening::KeyringSilent => Phase::KeyringSilent,
            Opening::KeyLost { .. } => Phase::KeyLost,
        };
        *lock(&self.0.phase) = phase;
        Ok(())
    }

    /// What happens without being asked for.
    #[must_use]
    pub fn events(&self) -> broadcast::Receiver<AppEvent> {
        self.0.events.subscribe()
    }

    /// The engine, once the store is open.
    pub fn engine(&self) -> Result<Engine, AppError> {
        lock(&self.0.engine).clone().ok_or_else(|| AppError::new("LOCKED", "Unlock the app first."))
    }

    /// The app as a whole.
    #[must_use]
    pub fn state(&self) -> AppState {
        let engine = lock(&self.0.engine).clone();
        let account = engine.as_ref().and_then(Engine::account);
        let connection = engine.as_ref().and_then(|e| e.connection().ok()).map_or(Connection::Offline, |c| connection(*c.borrow()));
        let protection = profile_protection(&self.0.options.dir);
        AppState {
            phase: *lock(&self.0.phase),
            user_id: account.as_ref().map(|a| a.user.to_string()),
            username: account.as_ref().map(|a| a.username.clone()),
            server: account.as_ref().map(|a| a.server.clone()),
            code: engine.as_ref().and_then(Engine::waiting_code),
            connection,
            protection,
            settings: lock(&self.0.settings).clone(),
        }
    }

    /// Answers a question.
    pub async fn call(&self, command: Command) -> Result<Value, AppError> {
        match command {
            Command::State => value(&self.state()),
            Command::Unlock { passphrase } => {
                if passphrase.is_empty() {
                    return Err(AppError::new("WRONG_KEY", "Enter the passphrase."));
                }
                if lock(&self.0.engine).is_none() {
                    self.open(Some(passphrase)).await?;
                }
                value(&self.told())
            }
            Command::OpenAgain => {
                if lock(&self.0.engine).is_none() {
                    self.open(None).await?;
                }
                value(&self.told())
            }
            Command::SetPassphrase { current, new } => self.set_passphrase(current, new).await,
            Command::StartAnew => self.start_anew().await,
            Command::SetSettings { settings } => {
                let settings = settings.clamped();
                settings.save(&self.0.options.dir).map_err(|e| AppError::new("STORE", format!("The settings could not be stored: {e}")))?;
                *lock(&self.0.settings) = settings.clone();
                self.settle_media(&settings).await;
                value(&self.told())
            }
            Command::Register { server, username, password } => {
                let engine = self.engine()?;
                engine.register(&normal_server(&server), &username.trim().to_lowercase(), &password, &self.0.options.device_name).await?;
                *lock(&self.0.phase) = Phase::Ready;
                self.watch_connection(&engine);
                value(&self.told())
            }
            Command::Login { server, username, password } => {
                let engine = self.engine()?;
                let code =
                    engine.login(&normal_server(&server), &username.trim().to_lowercase(), &password, &self.0.options.device_name).await?;
                *lock(&self.0.phase) = if code.is_some() { Phase::Waiting } else { Phase::Ready };
                self.watch_connection(&engine);
                value(&self.told())
            }
            Command::PollLink => {
                let engine = self.engine()?;
                if engine.poll_link().await? {
                    *lock(&self.0.phase) = Phase::Ready;
                    self.watch_connection(&engine);
                }
                value(&self.told())
            }
            Command::NetworkChanged => {
                self.engine()?.network_changed();
                Ok(Value::Null)
            }
            other @ (Command::StartCall { .. }
            | Command::AcceptCall { .. }
            | Command::CallCamera { .. }
            | Command::CallScreen { .. }
            | Command::Screens
            | Command::HangUp
            | Command::MuteCall { .. }
            | Command::CurrentCall
            | Command::AudioDevices
            | Command::TestCamera { .. }
            | Command::TestCall { .. }) => self.call_calls(&self.engine()?, other).await,
            other @ (Command::CreateRoom { .. }
            | Command::Meetings
            | Command::EnterRoom { .. }
            | Command::LeaveRoom
            | Command::MuteRoom { .. }
            | Command::RoomCamera { .. }
            | Command::RoomScreen { .. }
            | Command::RaiseHand { .. }
            | Command::RoomChat { .. }
            | Command::ShowPictures { .. }
            | Command::PictureDrawn
            | Command::PicturesLost { .. }
            | Command::CurrentRoom
            | Command::Inside { .. }
            | Command::ChangeRoom { .. }
            | Command::CloseRoom { .. }
            | Command::AnswerLobby { .. }
            | Command::HostAction { .. }) => self.call_rooms(&self.engine()?, other).await,
            other => self.call_ready(other).await,
        }
    }

    async fn call_ready(&self, command: Command) -> Result<Value, AppError> {
        let e = self.engine()?;
        match command {
            Command::Conversations => {
                let names = self.names(&e)?;
                let list = e.read(|r| r.list(10_000))?;
                value(&list.iter().map(|l| view::list_item(l, &names)).collect::<Vec<_>>())
            }
            Command::Contacts => {
                let contacts = e.read(|r| r.contacts())?;
                value(
                    &contacts
                        .into_iter()
                        .map(|c| ContactView { id: c.user_id.to_string(), name: c.username, verified: c.verified })
                        .collect::<Vec<_>>(),
                )
            }
            Command::FindUser { name } => {
                let c = e.find_user(&name).await?;
                value(&ContactView { id: c.user_id.to_string(), name: c.username, verified: c.verified })
            }
            Command::Direct { user } => value(&e.direct(id(&user)?).await?.to_string()),
            Command::CreateGroup { title, members } => {
                let members = members.iter().map(|m| id::<UserId>(m)).collect::<Result<_, _>>()?;
                value(&e.create_group(&title, members).await?.to_string())
            }
            Command::AddMembers { conversation, users } => {
                e.add_members(id(&conversation)?, users.iter().map(|u| id(u)).collect::<Result<_, _>>()?).await?;
                Ok(Value::Null)
            }
            Command::RemoveMembers { conversation, users } => {
                e.remove_members(id(&conversation)?, users.iter().map(|u| id(u)).collect::<Result<_, _>>()?).await?;
                Ok(Value::Null)
            }
            Command::Rename { conversation, title } => {
                e.rename(id(&conversation)?, &title).await?;
                Ok(Value::Null)
            }
            Command::SetRole { conversation, user, role } => {
                let role =
                    serde_json::from_value(Value::String(role)).map_err(|_| AppError::new("BAD_REQUEST", "There is no such role."))?;
                e.set_role(id(&conversation)?, id(&user)?, role).await?;
                Ok(Value::Null)
            }
            Command::Leave { conversation } => {
                e.leave(id(&conversation)?).await?;
                Ok(Value::Null)
            }
            Command::Conversation { conversation } => {
                let c: ConversationId = id(&conversation)?;
                let names = self.names(&e)?;
                let (c, unreadable) = e.read(|r| Ok((r.conversation(c)?, r.undecryptable(c)?.len())))?;
                let c = c.ok_or_else(|| AppError::new("NOT_FOUND", "There is no such conversation."))?;
                value(&view::conversation(&c, &names, unreadable))
            }
            Command::OpenTimeline { conversation, around } => value(&self.open_timeline(&e, id(&conversation)?, around).await?),
            Command::PageTimeline { older } => {
                self.page_timeline(&e, older).await?;
                Ok(Value::Null)
            }
            Command::TimelineEnd => {
                self.timeline_end(&e).await?;
                Ok(Value::Null)
            }
            Command::CloseTimeline => {
                *self.0.window.lock().await = None;
                Ok(Value::Null)
            }
            Command::Send { conversation, text, reply_to } => {
                let reply_to = reply_to.as_deref().map(id::<TempId>).transpose()?;
                let row = e.send_text(id(&conversation)?, &text, reply_to).await?;
                let names = self.names(&e)?;
                value(&view::row(&row, &names, None, 0))
            }
            Command::Retry { row } => {
                e.retry(row).await?;
                Ok(Value::Null)
            }
            Command::SetDraft { conversation, text } => {
                e.set_draft(id(&conversation)?, &text).await?;
                Ok(Value::Null)
            }
            Command::MarkRead { conversation, seq } => {
                e.mark_read(id(&conversation)?, seq).await?;
                Ok(Value::Null)
            }
            Command::Search { query, filter } => value(&self.search(&e, &query, &filter)?),
            Command::Facets { query, filter } => value(&self.facets(&e, &query, &filter)?),
            Command::RowAt { conversation, time } => {
                let c = id(&conversation)?;
                value(&e.read(|r| r.row_at(c, time))?)
            }
            Command::SafetyNumber { user } => {
                let user: UserId = id(&user)?;
                let number = e.safety_number(user)?;
                let contact = e.read(|r| r.contact(user))?.ok_or_else(|| AppError::new("NOT_FOUND", "There is no such contact."))?;
                value(&view::safety(&contact, &number.digits(), &number.qr()))
            }
            Command::SetVerified { user, verified, number } => {
                e.set_verified(id(&user)?, verified, &number).await?;
                Ok(Value::Null)
            }
            Command::AcceptIdentity { user } => {
                e.accept_identity(id(&user)?).await?;
                Ok(Value::Null)
            }
            Command::Devices => {
                let own = e.account().map(|a| a.device.device_id);
                let mut out = Vec::new();
                for d in e.devices().await? {
                    let code = if d.pending { e.code_of(&d)? } else { String::new() };
                    out.push(DeviceView {
                        id: d.device_id.to_string(),
                        own: Some(d.device_id) == own,
                        name: d.name,
                        pending: d.pending,
                        code,
                        last_seen: d.last_seen,
                    });
                }
                value(&out)
            }
            Command::ApproveDevice { device, code } => {
                e.approve_device(id::<DeviceId>(&device)?, &code).await?;
                Ok(Value::Null)
            }
            Command::RevokeDevice { device } => {
                e.revoke_device(id::<DeviceId>(&device)?).await?;
                Ok(Value::Null)
            }
            Command::PreviewReset { conversation, scope } => {
                let c = conversation.as_deref().map(id::<ConversationId>).transpose()?;
                value(&PreviewView::from(e.preview_reset(c, engine_scope(scope))?))
            }
            Command::Reset { conversation, scope, password, accept } => {
                let c = conversation.as_deref().map(id::<ConversationId>).transpose()?;
                if let Some(c) = c.filter(|_| !accept.is_empty()) {
                    e.accept_members(c, accept.iter().map(|u| id::<UserId>(u)).collect::<Result<_, _>>()?).await?;
                }
                let report = e.reset(c, engine_scope(scope), password.as_deref(), RESET_PATIENCE).await?;
                self.watch_connection(&e);
                value(&ReportView::from(report))
            }
            other => Err(AppError::new("BAD_REQUEST", format!("{other:?} is not answered here."))),
        }
    }

    async fn set_passphrase(&self, current: Option<String>, new: String) -> Result<Value, AppError> {
        self.engine()?;
        if new.is_empty() {
            return Err(AppError::new("WRONG_KEY", "Enter the passphrase."));
        }
        let dir = self.0.options.dir.clone();
        tokio::task::spawn_blocking(move || profile::set_passphrase(&dir, current.as_deref(), &new))
            .await
            .map_err(|e| AppError::new("INTERNAL", e.to_string()))??;
        value(&self.told())
    }

    async fn start_anew(&self) -> Result<Value, AppError> {
        if *lock(&self.0.phase) != Phase::KeyLost {
            return Err(AppError::new("FORBIDDEN", "The store can be opened; nothing is set aside."));
        }
        let aside = profile::set_aside(&self.0.options.dir)?;
        tracing::warn!(folder = %aside.display(), "a store whose key is lost was set aside");
        self.open(None).await?;
        value(&self.told())
    }

    fn told(&self) -> AppState {
        let state = self.state();
        // Nobody may be listening.
        let _ = self.0.events.send(AppEvent::State { state: state.clone() });
        state
    }

    fn names(&self, e: &Engine) -> Result<Names, AppError> {
        let account = e.account().ok_or_else(|| AppError::new("LOCKED", "Log in first."))?;
        Ok(Names::new(account.user, account.username, e.read(|r| r.contacts())?))
    }

    // ---- what happens by itself ----

    fn follow(&self, engine: Engine) {
        self.watch_connection(&engine);
        let app = Arc::downgrade(&self.0);
        let mut events = engine.events();
        tokio::spawn(async move {
            loop {
                let first = match events.recv().await {
                    Ok(e) => Some(e),
                    Err(broadcast::error::RecvError::Lagged(_)) => None,
                    Err(broadcast::error::RecvError::Closed) => return,
                };
                tokio::time::sleep(COALESCE).await;
                let mut batch: Vec<Event> = first.into_iter().collect();
                let mut lagged = batch.is_empty();
                loop {
                    match events.try_recv() {
                        Ok(e) if !batch.contains(&e) => batch.push(e),
                        Ok(_) => {}
                        Err(broadcast::error::TryRecvError::Lagged(_)) => lagged = true,
                        Err(_) => break,
                    }
                }
                let Some(inner) = app.upgrade() else { return };
                Self(inner).tell(&engine, batch, lagged).await;
            }
        });
    }

    async fn tell(&self, engine: &Engine, batch: Vec<Event>, lagged: bool) {
        let send = |e: AppEvent| drop(self.0.events.send(e));
        let mut list = lagged;
        let mut changed = Vec::new();
        let mut call = lagged;
        for event in &batch {
            match event {
                Event::Conversation(c) => {
                    changed.push(*c);
                    self.room_epoch(engine, *c).await;
                    send(AppEvent::Conversation { conversation: c.to_string() });
                }
                Event::Conversations => list = true,
                Event::Moved(from, to) => {
                    list = true;
                    send(AppEvent::Moved { from: from.to_string(), to: to.to_string() });
                }
                Event::Contacts => {
                    list = true;
                    send(AppEvent::Contacts);
                }
                Event::Devices => send(AppEvent::Devices),
                Event::Outbox => {}
                Event::Room(room) => {
                    if let Some(info) = engine.room_news(*room) {
                        self.room_news(engine, &info);
                    }
                }
                Event::Call => {
                    call = true;
                    // A call that rings out changes its line, and nobody says so.
                    changed.extend(engine.call().map(|c| c.conversation).filter(|c| !changed.contains(c)));
                }
            }
        }
        if list || changed.len() > ITEMS {
            send(AppEvent::List);
        } else if !changed.is_empty() {
            match self.items(engine, &changed) {
                Ok(items) => items.into_iter().for_each(send),
                Err(cause) => tracing::error!(%cause, "the list could not be drawn"),
            }
        }
        if call {
            self.tell_call(engine).await;
        }
        let mut guard = self.0.window.lock().await;
        if let Some(w) = guard.as_mut() {
            let concerned = lagged || batch.contains(&Event::Contacts) || changed.contains(&w.conversation);
            if concerned && let Err(cause) = self.redraw(engine, w) {
                tracing::error!(%cause, "the window could not be drawn");
            }
        }
    }

    /// What tells of these conversations in the list; one that is gone asks for the list anew.
    fn items(&self, engine: &Engine, changed: &[ConversationId]) -> Result<Vec<AppEvent>, AppError> {
        let names = self.names(engine)?;
        let told = |c: &ConversationId| {
            let entry = engine.read(|r| r.list_entry(*c))?;
            Ok(entry.map_or(AppEvent::List, |l| AppEvent::Item { item: Box::new(view::list_item(&l, &names)) }))
        };
        changed.iter().map(told).collect()
    }

    fn watch_connection(&self, engine: &Engine) {
        let Ok(mut states) = engine.connection() else { return };
        let app = Arc::downgrade(&self.0);
        let task = tokio::spawn(async move {
            loop {
                let now = *states.borrow_and_update();
                let Some(inner) = app.upgrade() else { return };
                let _ = inner.events.send(AppEvent::Connection { connection: connection(now) });
                drop(inner);
                if states.changed().await.is_err() {
                    return;
                }
            }
        });
        if let Some(old) = lock(&self.0.watching).replace(task) {
            old.abort();
        }
    }

    /// Stops the tasks; what is unsent goes out at the next start.
    pub async fn stop(&self) {
        let engine = lock(&self.0.engine).clone();
        *lock(&self.0.test) = None;
        *lock(&self.0.ring) = None;
        if self.in_room() {
            self.leave_room().await;
        }
        if let Some(e) = engine {
            e.stop().await;
        }
    }
}

fn connection(s: ConnectionState) -> Connection {
    match s {
        ConnectionState::Connecting => Connection::Connecting,
        ConnectionState::CatchingUp => Connection::CatchingUp,
        ConnectionState::Online => Connection::Online,
        ConnectionState::Offline => Connection::Offline,
        ConnectionState::LoggedOut(_) => Connection::LoggedOut,
    }
}

fn engine_scope(s: Scope) -> ResetScope {
    match s {
        Scope::Device => ResetScope::Device,
        Scope::Conversation => ResetScope::Conversation,
        Scope::Identity => ResetScope::Identity,
    }
}

/// `chat.example.org` becomes `https://chat.example.org`; this machine is spoken to without TLS.
fn normal_server(s: &str) -> String {
    let s = s.trim().trim_end_matches('/');
    if s.contains("://") {
        return s.to_owned();
    }
    let host = s.split(':').next().unwrap_or(s);
    let local = host == "localhost" || host.starts_with("127.");
    format!("{}://{s}", if local { "http" } else { "https" })
}

fn profile_protection(dir: &std::path::Path) -> Option<Protection> {
    let slots = KeySlots::load(&dir.join("keys.json")).ok().flatten()?;
    Some(match (slots.has(SlotKind::Keyring), slots.has(SlotKind::Passphrase)) {
        (true, true) => Protection::Both,
        (true, false) => Protection::Keyring,
        _ => Protection::Passphrase,
    })
}
