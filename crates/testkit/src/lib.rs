//! A whole world in one process: a real server on a loopback port, real engines with real encrypted stores, people with
//! names. Faults by switch. No test sleeps and hopes: [`until`] waits for a condition with a deadline.
//!
//! * [`World`]: the server and its people.
//! * [`Person`]: one device of somebody.

pub mod calls;
pub mod detour;
pub mod film;
pub mod network;
pub mod proxy;
pub mod raw;
pub mod rooms;

use anyhow::{Context as _, Result, bail};
use sc_engine::profile::{self, Opening};
use sc_engine::{ConnectionState, Engine};
use sc_protocol::{ConversationId, UserId};
use sc_store::model::{ConversationState, MessageRow, RowKind, Status};
use secureconnect_server::config::Config;
use secureconnect_server::serve::Server;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `f` gives something; an error says what was waited for.
pub async fn until<T, F, Fut>(what: &str, mut f: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if let Some(v) = f().await? {
            return Ok(v);
        }
        if tokio::time::Instant::now() > deadline {
            bail!("waited in vain for: {what}");
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
    }
}

/// A server and a folder for everybody's data.
pub struct World {
    /// Everything is in here and goes with it.
    pub dir: tempfile::TempDir,
    /// The server, while it runs.
    pub server: Option<Server>,
    /// Where it listens, also after a restart.
    pub addr: SocketAddr,
    config: Config,
}

impl World {
    /// A fresh world.
    pub async fn new() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// A fresh world with another configuration.
    pub async fn with(change: impl FnOnce(&mut Config)) -> Result<Self> {
        let _ = tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).with_test_writer().try_init();
        let dir = tempfile::tempdir()?;
        let mut config = Config {
            data: dir.path().join("server"),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            login_rate: 1000,
            address_rate: 100_000,
            turn_port: 0,
            rooms_port: 0,
            ..Config::default()
        };
        change(&mut config);
        let server = Server::start(config.clone()).await?;
        let addr = server.addr;
        Ok(Self { dir, server: Some(server), addr, config: Config { listen: addr, ..config } })
    }

    /// A bad network before the unit of a world whose `rooms_external` is [`detour::OUTSIDE`].
    pub async fn detour(&self) -> Result<detour::Detour> {
        let unit = self.server.as_ref().and_then(|s| s.app.rooms.unit.as_ref()).context("the unit runs")?;
        detour::Detour::start(unit.udp).await
    }

    /// The server's address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Stops the server; clients notice.
    pub async fn stop_server(&mut self) {
        if let Some(s) = self.server.take() {
            s.stop().await;
        }
    }

    /// Starts it again on the same data and port.
    pub async fn start_server(&mut self) -> Result<()> {
        self.server = Some(Server::start(self.config.clone()).await?);
        Ok(())
    }

    /// Starts it again with almost no room left on its disk.
    pub async fn start_full_server(&mut self) -> Result<()> {
        let size = std::fs::metadata(self.config.data.join("server.db"))?.len();
        let pages = u32::try_from(size / 4096)? + 40;
        self.server = Some(Server::start_with(self.config.clone(), pages).await?);
        Ok(())
    }

    /// A lying server: runs SQL on its store, on its own writing connection. Answers how many rows that touched.
    pub async fn tamper(&self, sql: &'static str, values: Vec<Vec<u8>>) -> Result<u64> {
        let app = self.server.as_ref().context("the server runs")?.app.clone();
        let done = app.writer.write(move |cx| {
            Box::pin(async move {
                let mut q = sqlx::query(sql);
                for v in values {
                    q = q.bind(v);
                }
                Ok(q.execute(&mut cx.conn).await?.rows_affected())
            })
        });
        Ok(done.await?)
    }

    /// True once the server has met failing storage.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        self.server.as_ref().is_some_and(|s| s.app.metrics.failed_batches() > 0)
    }

    /// A new person with a first device.
    pub async fn person(&self, name: &str) -> Result<Person> {
        self.person_via(name, &self.url()).await
    }

    /// A new person whose device reaches the server at another address, a proxy's.
    pub async fn person_via(&self, name: &str, url: &str) -> Result<Person> {
        Person::register(&self.dir.path().join(format!("{name}-1")), url, name).await
    }

    /// Another device of a person, approved by the given one.
    pub async fn second_device(&self, first: &Person, n: u32) -> Result<Person> {
        let p = Person::open(&self.dir.path().join(format!("{}-{n}", first.name)), &first.name).await?;
        let code = p.engine.login(&self.url(), &first.name, &password(&first.name), "phone").await?.context("a new device waits")?;
        let device = p.engine.account().context("account")?.device.device_id;
        first.engine.approve_device(device, &code).await?;
        until("the device is linked", || async { Ok(p.engine.poll_link().await?.then_some(())) }).await?;
        p.online().await?;
        Ok(p)
    }
}

/// Copies the store and the key file of a profile that nobody writes to; what was at `to` goes.
pub fn copy_profile(from: &Path, to: &Path) -> Result<()> {
    for name in ["store.db", "store.db-wal", "store.db-shm"] {
        match std::fs::remove_file(to.join(name)) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e.into()),
            _ => {}
        }
    }
    std::fs::create_dir_all(to)?;
    for name in ["store.db", "store.db-wal", "keys.json"] {
        if from.join(name).exists() {
            std::fs::copy(from.join(name), to.join(name))?;
        }
    }
    Ok(())
}

/// Whether this process has a file open whose path begins so. Only Linux tells; elsewhere the lock has to do.
fn has_open(path: &Path) -> Result<bool> {
    let Ok(open) = std::fs::read_dir("/proc/self/fd") else { return Ok(false) };
    let path = path.canonicalize()?;
    let begins = |f: PathBuf| f.as_os_str().as_encoded_bytes().starts_with(path.as_os_str().as_encoded_bytes());
    Ok(open.flatten().filter_map(|e| std::fs::read_link(e.path()).ok()).any(begins))
}

/// What somebody shows of a conversation, as far as all members should show the same.
async fn shown(p: &Person, c: ConversationId) -> Result<Option<(Vec<(Option<u64>, String)>, Option<(u64, Vec<u8>)>)>> {
    let rows = p.rows(c)?;
    let open = rows.iter().any(|m| m.kind == RowKind::Undecryptable || m.status == Status::Pending || m.status == Status::Failed);
    let active = p.engine.read(|r| r.conversation(c))?.is_some_and(|c| c.state == ConversationState::Active);
    if open || !active || p.engine.read(|r| r.outbox_len())? > 0 {
        return Ok(None);
    }
    let texts = rows.into_iter().filter(|m| m.kind == RowKind::Text).map(|m| (m.seq, m.body)).collect();
    Ok(Some((texts, p.engine.authenticator(c).await?)))
}

/// Waits until all of them show the same messages in the same places, all readable, and are in the same epoch.
pub async fn agree(people: &[&Person], c: ConversationId) -> Result<()> {
    let agreed = until("all agree", || async {
        let mut first = None;
        for p in people {
            let Some(s) = shown(p, c).await? else { return Ok(None) };
            if *first.get_or_insert_with(|| s.clone()) != s {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await;
    if agreed.is_err() {
        for p in people {
            eprintln!("--- {}: {:?}", p.name, p.engine.read(|r| r.conversation(c))?.map(|c| (c.state, c.generation, c.last_seq)));
            eprintln!("    epoch {:?}, jobs {}", p.engine.authenticator(c).await?.map(|a| a.0), p.engine.read(|r| r.outbox_len())?);
            for m in p.rows(c)? {
                eprintln!("    {:?} {:?} {:?} {} {}", m.seq, m.kind, m.status, m.cause, m.body.chars().take(60).collect::<String>());
            }
        }
    }
    agreed
}

/// Everybody's password.
#[must_use]
pub fn password(name: &str) -> String {
    format!("{name}'s long password")
}

/// Everybody's passphrase.
pub const PASSPHRASE: &str = "correct horse battery staple";

/// One device of somebody.
pub struct Person {
    /// Their name.
    pub name: String,
    /// Folder of the profile.
    pub dir: PathBuf,
    /// The engine.
    pub engine: Engine,
}

impl Person {
    /// Opens the profile in a folder.
    pub async fn open(dir: &Path, name: &str) -> Result<Self> {
        let folder = dir.to_owned();
        let opening = until("the profile is free", || async {
            let folder = folder.clone();
            match tokio::task::spawn_blocking(move || profile::open(&folder, Some(PASSPHRASE), false)).await? {
                Err(sc_engine::EngineError::InUse) => Ok(None),
                other => Ok(Some(other?)),
            }
        })
        .await?;
        let Opening::Open(p) = opening else { bail!("the profile does not open") };
        Ok(Self { name: name.to_owned(), dir: dir.to_owned(), engine: Engine::start(*p).await? })
    }

    /// A new person whose first device keeps its profile in `dir`.
    pub async fn register(dir: &Path, url: &str, name: &str) -> Result<Self> {
        let p = Self::open(dir, name).await?;
        p.engine.register(url, name, &password(name), "laptop").await?;
        p.online().await?;
        Ok(p)
    }

    /// Closes the app; answers the folder it can be opened from again, when nobody writes to it any more: the lock is free, and no
    /// connection to the store is open. A copy that is made before holds half a store.
    pub async fn close(self) -> Result<PathBuf> {
        let Self { engine, dir, .. } = self;
        engine.stop().await;
        drop(engine);
        until("the profile is closed", || async {
            let lock = std::fs::File::open(dir.join("lock"))?;
            Ok((lock.try_lock().is_ok() && !has_open(&dir.join("store.db"))?).then_some(()))
        })
        .await?;
        Ok(dir)
    }

    /// Closes and opens again, as after a restart of the app.
    pub async fn restart(self) -> Result<Self> {
        let name = self.name.clone();
        Self::open(&self.close().await?, &name).await
    }

    /// Their account.
    pub fn id(&self) -> Result<UserId> {
        Ok(self.engine.own_user()?)
    }

    /// Waits until the device is up to date.
    pub async fn online(&self) -> Result<()> {
        let mut state = self.engine.connection()?;
        tokio::time::timeout(PATIENCE, state.wait_for(|s| *s == ConnectionState::Online))
            .await
            .with_context(|| format!("{} does not come online", self.name))??;
        Ok(())
    }

    /// The direct conversation with somebody.
    pub async fn direct(&self, other: &str) -> Result<ConversationId> {
        let c = self.engine.find_user(other).await?;
        Ok(self.engine.direct(c.user_id).await?)
    }

    /// Sends, without waiting.
    pub async fn say(&self, to: ConversationId, text: &str) -> Result<MessageRow> {
        Ok(self.engine.send_text(to, text, None).await?)
    }

    /// Waits until everything is sent.
    pub async fn settle(&self) -> Result<()> {
        self.engine.settle(PATIENCE).await.with_context(|| format!("{} does not settle", self.name))
    }

    /// All rows of a conversation.
    pub fn rows(&self, c: ConversationId) -> Result<Vec<MessageRow>> {
        Ok(self.engine.read(|r| r.rows_from(c, 0, 100_000))?)
    }

    /// All texts of a conversation, in order.
    pub fn texts(&self, c: ConversationId) -> Result<Vec<String>> {
        Ok(self.rows(c)?.into_iter().filter(|m| m.kind == RowKind::Text).map(|m| m.body).collect())
    }

    /// Waits until a text is there.
    pub async fn sees(&self, c: ConversationId, text: &str) -> Result<()> {
        until(&format!("{} sees \"{text}\"", self.name), || async { Ok(self.texts(c)?.iter().any(|t| t == text).then_some(())) }).await
    }

    /// Waits until a system line of that event is there.
    pub async fn sees_event(&self, c: ConversationId, event: &str) -> Result<()> {
        let mark = format!("\"event\":\"{event}\"");
        until(&format!("{} sees the line {event}", self.name), || async {
            Ok(self.rows(c)?.iter().any(|m| m.kind == RowKind::System && m.body.contains(&mark)).then_some(()))
        })
        .await
    }

    /// Waits until nothing is unreadable.
    pub async fn all_readable(&self, c: ConversationId) -> Result<()> {
        until(&format!("{} can read everything", self.name), || async {
            Ok(self.engine.read(|r| r.undecryptable(c))?.is_empty().then_some(()))
        })
        .await
    }
}
