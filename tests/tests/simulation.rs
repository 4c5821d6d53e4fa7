//! Seeded random runs over the real server and real clients: people talk while networks fail, programs are restarted and
//! killed, the server is restarted, members come and go, sessions are reset and old copies of a store are brought back.
//! At the end of each run everything that was shown is everywhere, once, in the same place.
//!
//! A run is a function of its seed. `SECURECONNECT_SEED=n` replays one, `SECURECONNECT_SEEDS=n` makes that many.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::{Context as _, Result, ensure};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha20Rng;
use sc_engine::core::Crash;
use sc_engine::{EngineError, ResetScope};
use sc_protocol::ConversationId;
use sc_store::model::{ConversationState, RowKind, Status};
use sc_testkit::proxy::{Network, Proxy};
use sc_testkit::{Person, World, copy_profile, until};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Runs that share a server and its people; each has a conversation of its own.
const RUNS_A_WORLD: u64 = 8;
/// The first three stay in the conversation; the fourth comes and goes.
const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];
const GUEST: usize = 3;

struct Actor {
    person: Option<Person>,
    proxy: Proxy,
    /// An old copy of the store, and how many things had been said when it was made.
    copy: Option<(PathBuf, usize)>,
}

struct Said {
    by: usize,
    text: String,
    /// It was not shown, or shown by a store that is no more: it may arrive or not.
    open: bool,
}

struct Run {
    world: World,
    actors: Vec<Actor>,
    c: ConversationId,
    seed: u64,
    said: Vec<Said>,
    guest_inside: bool,
    log: String,
}

/// What an action may answer when the victim was killed, is away, or may not do it any more.
fn tolerate<T>(r: Result<T, EngineError>) -> Result<bool> {
    match r {
        Ok(_) => Ok(true),
        Err(EngineError::Stopped | EngineError::Offline(_)) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn people(world: &World) -> Result<Vec<Actor>> {
    let mut actors = Vec::new();
    for name in NAMES {
        let proxy = Proxy::start(world.addr).await?;
        let person = world.person_via(name, &proxy.url()).await?;
        actors.push(Actor { person: Some(person), proxy, copy: None });
    }
    Ok(actors)
}

impl Run {
    fn p(&self, i: usize) -> &Person {
        self.actors[i].person.as_ref().unwrap()
    }

    async fn reopen(&mut self, i: usize) -> Result<()> {
        let person = self.actors[i].person.take().unwrap();
        let again = person.restart().await?;
        self.actors[i].person = Some(again);
        Ok(())
    }

    async fn say(&mut self, i: usize) -> Result<()> {
        let text = format!("{} {} {}", self.seed, self.said.len(), NAMES[i]);
        let shown = tolerate(self.p(i).engine.send_text(self.c, &text, None).await)?;
        self.said.push(Said { by: i, text, open: !shown });
        Ok(())
    }

    async fn act(&mut self, rng: &mut ChaCha20Rng) -> Result<()> {
        let i = rng.gen_range(0..GUEST);
        let (c, short) = (self.c, Duration::from_millis(50));
        let pause = rng.gen_range(0..40);
        let dice = rng.gen_range(0..100);
        let _ = write!(self.log, "\n{:>3} {} ", dice, NAMES[i]);
        match dice {
            0..45 => self.say(i).await?,
            45..55 => self.actors[i].proxy.set(Network::Down),
            55..63 => self.connect(i),
            63..68 => self.reopen(i).await?,
            68..73 => {
                let at = if rng.gen_bool(0.5) { Crash::BeforeCommit } else { Crash::AfterCommit };
                let nth = rng.gen_range(1..8);
                tolerate(self.p(i).engine.db().crash_at(nth, at).await)?;
            }
            73..76 => {
                self.world.stop_server().await;
                self.world.start_server().await?;
            }
            76..82 => {
                // By the owner, who may.
                let guest = self.p(GUEST).id()?;
                let done = if self.guest_inside {
                    self.p(0).engine.remove_members(c, vec![guest]).await
                } else {
                    self.p(0).engine.add_members(c, vec![guest]).await
                };
                if tolerate(done)? {
                    self.guest_inside = !self.guest_inside;
                }
            }
            82..88 => {
                tolerate(self.p(i).engine.reset(Some(c), ResetScope::Device, None, short).await)?;
            }
            88..91 => {
                tolerate(self.p(0).engine.reset(Some(c), ResetScope::Conversation, None, short).await)?;
            }
            91..96 => {
                let to = self.world.dir.path().join(format!("copy-{}", NAMES[i]));
                let person = self.actors[i].person.take().unwrap();
                let dir = person.close().await?;
                // The copy is made when nobody writes any more.
                let probe = Person::open(&dir, NAMES[i]).await?;
                probe.engine.stop().await;
                drop(probe);
                let settled = Person::open(&dir, NAMES[i]).await?;
                copy_profile(&dir, &to)?;
                self.actors[i].copy = Some((to, self.said.len()));
                self.actors[i].person = Some(settled);
            }
            _ => self.restore(i).await?,
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        Ok(())
    }

    fn connect(&self, i: usize) {
        self.actors[i].proxy.set(Network::Up);
        self.p(i).engine.network_changed();
    }

    /// The store of a device is replaced by its old copy; the other two keep theirs.
    async fn restore(&mut self, i: usize) -> Result<()> {
        let Some((copy, then)) = self.actors[i].copy.take() else { return Ok(()) };
        let person = self.actors[i].person.take().unwrap();
        let dir = person.close().await?;
        until("the profile is free", || async { Ok(sc_engine::profile::open(&dir, Some(sc_testkit::PASSPHRASE), false).ok()) }).await?;
        copy_profile(&copy, &dir)?;
        self.actors[i].person = Some(Person::open(&dir, NAMES[i]).await?);
        for s in self.said.iter_mut().skip(then).filter(|s| s.by == i) {
            s.open = true;
        }
        Ok(())
    }

    /// Everything is repaired; then everybody has to have everything.
    async fn finish(&mut self) -> Result<()> {
        for i in 0..NAMES.len() {
            // A crash that was ordered and not met is taken back; one that was met is followed by a start.
            while !tolerate(self.p(i).engine.db().crash_at(u32::MAX, Crash::BeforeCommit).await)? {
                self.reopen(i).await?;
            }
            self.connect(i);
        }
        for i in 0..NAMES.len() {
            self.p(i).online().await?;
            until("everything is sent", || async {
                self.repair(i).await?;
                Ok((self.p(i).engine.read(|r| r.outbox_len())? == 0).then_some(()))
            })
            .await?;
        }
        let guest = self.p(GUEST).id()?;
        self.p(0).engine.add_members(self.c, vec![guest]).await?;
        self.p(0).settle().await?;
        let last = format!("{} the end", self.seed);
        self.p(1).say(self.c, &last).await?;
        for i in 0..NAMES.len() {
            self.sees(i, &last).await?;
        }
        until("all agree", || self.agree()).await
    }

    /// When a session is given up, the person does what the app tells them to.
    async fn repair(&self, i: usize) -> Result<()> {
        let broken = self.p(i).engine.read(|r| r.conversation(self.c))?.is_some_and(|c| c.state == ConversationState::Broken);
        if broken {
            let newcomers = self.p(i).engine.preview_reset(Some(self.c), ResetScope::Device)?.newcomers;
            self.p(i).engine.accept_members(self.c, newcomers.into_iter().map(|(u, _)| u).collect()).await?;
            self.p(i).engine.reset(Some(self.c), ResetScope::Device, None, Duration::from_secs(2)).await?;
        }
        Ok(())
    }

    async fn sees(&self, i: usize, text: &str) -> Result<()> {
        until(&format!("{} sees {text:?}", NAMES[i]), || async {
            self.repair(i).await?;
            Ok(self.p(i).texts(self.c)?.iter().any(|t| t == text).then_some(()))
        })
        .await
    }

    fn rows(&self, i: usize) -> Result<Option<BTreeMap<u64, (String, bool)>>> {
        let mut rows = BTreeMap::new();
        for m in self.p(i).rows(self.c)? {
            if m.kind == RowKind::System {
                continue;
            }
            // What a lost store had sent is listed where it was; in a group only its author could say it again.
            let lost = m.kind == RowKind::Undecryptable && m.cause == "restored_copy";
            let open = m.kind == RowKind::Undecryptable && !lost;
            let (false, false, Some(seq)) = (open, m.status == Status::Pending, m.seq) else { return Ok(None) };
            ensure!(m.status != Status::Failed, "a message failed: {}", m.cause);
            ensure!(rows.insert(seq, (m.body, lost)).is_none(), "two rows at {seq}");
        }
        Ok(Some(rows))
    }

    async fn agree(&self) -> Result<Option<()>> {
        let mut all = Vec::new();
        let mut epochs = Vec::new();
        for i in 0..NAMES.len() {
            if self.p(i).engine.read(|r| r.conversation(self.c))?.is_none_or(|c| c.state != ConversationState::Active)
                || self.p(i).engine.read(|r| r.outbox_len())? > 0
            {
                return Ok(None);
            }
            epochs.push(self.p(i).engine.authenticator(self.c).await?);
            if i != GUEST {
                let Some(rows) = self.rows(i)? else { return Ok(None) };
                all.push(rows);
            }
        }
        if epochs.iter().any(|e| *e != epochs[0]) {
            return Ok(None);
        }
        let mut truth: BTreeMap<u64, &str> = BTreeMap::new();
        for (seq, (text, _)) in all.iter().flatten().filter(|(_, (_, lost))| !lost) {
            ensure!(truth.insert(*seq, text).is_none_or(|t| t == text), "two messages at one place: {seq}");
        }
        for rows in &all {
            if rows.len() != truth.len() {
                return Ok(None);
            }
        }
        let texts: Vec<&str> = truth.values().copied().collect();
        for s in &self.said {
            let n = texts.iter().filter(|t| **t == s.text).count();
            ensure!(n == 1 || (n == 0 && s.open), "{:?} is there {n} times", s.text);
        }
        for (by, name) in NAMES.iter().enumerate().take(GUEST) {
            let of: Vec<usize> = texts.iter().filter_map(|t| self.said.iter().position(|s| s.by == by && s.text == **t)).collect();
            ensure!(of.is_sorted(), "{name}'s messages are out of order: {of:?}");
        }
        Ok(Some(()))
    }

    async fn report(&self) -> String {
        let mut out = self.log.clone();
        for (i, a) in self.actors.iter().enumerate() {
            let Some(p) = &a.person else { continue };
            let c = p.engine.read(|r| r.conversation(self.c)).ok().flatten();
            let epoch = p.engine.authenticator(self.c).await.ok().flatten().map(|e| e.0);
            let jobs = p.engine.read(|r| r.outbox_len()).ok();
            let _ = write!(out, "\n--- {} {:?} epoch {epoch:?} jobs {jobs:?}", NAMES[i], c.map(|c| (c.state, c.generation, c.last_seq)));
            for m in p.rows(self.c).unwrap_or_default() {
                let _ = write!(
                    out,
                    "\n    {:?} {:?} {:?} {} {}",
                    m.seq,
                    m.kind,
                    m.status,
                    m.cause,
                    m.body.chars().take(80).collect::<String>()
                );
            }
        }
        out
    }
}

async fn run_seed(world: World, mut actors: Vec<Actor>, seed: u64) -> Result<(World, Vec<Actor>)> {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    for a in &mut actors {
        a.copy = None;
    }
    let alice = actors[0].person.as_ref().unwrap();
    let mut ids = Vec::new();
    for name in &NAMES[1..GUEST] {
        ids.push(alice.engine.find_user(name).await?.user_id);
    }
    let c = alice.engine.create_group(&format!("seed {seed}"), ids).await?;
    let mut run = Run { world, actors, c, seed, said: Vec::new(), guest_inside: false, log: String::new() };
    // Half of the runs begin before anybody knows of the group.
    let first = run.p(0).say(c, "start").await?;
    if rng.gen_bool(0.5) {
        for i in 1..GUEST {
            run.p(i).sees(c, &first.body).await?;
        }
    } else {
        // Whoever is to say something has to know of it.
        for i in 1..GUEST {
            until("the group is known", || async { Ok(run.p(i).engine.read(|r| r.conversation(c))?.map(|_| ())) }).await?;
        }
    }
    let steps = rng.gen_range(8..24);
    let result = async {
        for _ in 0..steps {
            run.act(&mut rng).await?;
        }
        run.finish().await
    }
    .await;
    if let Err(e) = result {
        let report = run.report().await;
        return Err(e.context(format!("seed {seed}: {report}")));
    }
    Ok((run.world, run.actors))
}

async fn lane(next: Arc<AtomicU64>, first: u64, count: u64) -> Result<()> {
    loop {
        let from = next.fetch_add(RUNS_A_WORLD, Ordering::Relaxed);
        if from >= count {
            return Ok(());
        }
        let world = World::with(|c| {
            c.repair_rate = 100_000;
            c.claim_rate = 100_000;
        })
        .await?;
        let mut stage = (people(&world).await?, world);
        for seed in from..(from + RUNS_A_WORLD).min(count) {
            let (world, actors) = run_seed(stage.1, stage.0, first + seed).await?;
            stage = (actors, world);
        }
        for a in stage.0 {
            if let Some(p) = a.person {
                p.engine.stop().await;
            }
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|s| s.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_runs_end_with_everything_everywhere_once_and_in_the_same_place() -> Result<()> {
    let (first, count) = match number("SECURECONNECT_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("SECURECONNECT_SEEDS").unwrap_or(100)),
    };
    let next = Arc::new(AtomicU64::new(0));
    let lanes = tokio::task::LocalSet::new();
    lanes
        .run_until(async {
            let lanes: Vec<_> = (0..number("SECURECONNECT_LANES").unwrap_or(6))
                .map(|_| tokio::task::spawn_local(lane(next.clone(), first, count)))
                .collect();
            for l in lanes {
                l.await?.context("replay with SECURECONNECT_SEED")?;
            }
            anyhow::Ok(())
        })
        .await?;
    println!("{count} runs from seed {first}");
    Ok(())
}
