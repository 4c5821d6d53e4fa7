//! A device with a million stored messages: search, first rows, memory.

use crate::percentiles;
use anyhow::{Context as _, Result, bail};
use sc_engine::profile::{self, Opening};
use sc_engine::{Engine, EngineResult};
use sc_protocol::rest::ConversationKind;
use sc_protocol::{ConversationId, DeviceId, TempId, UserId};
use sc_store::model::{Conversation, ConversationState, RowKind, Status};
use sc_store::search::SearchFilter;
use sc_store::write_model::NewMessage;
use sc_testkit::PASSPHRASE;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const WORDS: &[&str] = &[
    "xin",
    "chào",
    "bạn",
    "hôm",
    "nay",
    "trời",
    "đẹp",
    "quá",
    "mình",
    "đi",
    "chơi",
    "không",
    "được",
    "rồi",
    "nhé",
    "đường",
    "về",
    "nhà",
    "cuối",
    "tuần",
    "meeting",
    "tomorrow",
    "please",
    "send",
    "file",
    "thanks",
    "later",
    "maybe",
    "coffee",
    "train",
    "nghĩ",
    "người",
    "việc",
    "làm",
    "ngày",
    "tháng",
    "sáng",
    "chiều",
    "tối",
    "ăn",
];
const MESSAGES: u64 = 1_000_000;

async fn engine(dir: &Path) -> Result<Engine> {
    let Opening::Open(p) = profile::open(dir, Some(PASSPHRASE), false)? else { bail!("the profile opens") };
    Ok(Engine::start(*p).await?)
}

/// Fills a profile with a thousand conversations and a million messages.
async fn fill(engine: &Engine) -> Result<Vec<ConversationId>> {
    let conversations: Vec<ConversationId> = (0..1_000).map(|_| ConversationId::generate()).collect();
    let (user, device) = (UserId::generate(), DeviceId::generate());
    let all = conversations.clone();
    engine
        .db()
        .write(move |cx| {
            for (i, id) in all.iter().enumerate() {
                let new = Conversation::new(*id, ConversationKind::Group, ConversationState::Active, cx.now);
                cx.w.insert_conversation(&Conversation { title: format!("nhóm {i}"), ..new })?;
            }
            Ok(())
        })
        .await?;
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0)
    };
    for batch in 0..MESSAGES / 10_000 {
        let rows: Vec<(ConversationId, u64, String)> = (0..10_000)
            .map(|i| {
                let n = batch * 10_000 + i;
                let words: Vec<String> = (0..3 + next() % 12)
                    .map(|_| {
                        if next() % 20 == 0 {
                            format!("r{}", next() % 200_000)
                        } else {
                            WORDS.get(next() % WORDS.len()).copied().unwrap_or_default().to_owned()
                        }
                    })
                    .collect();
                let at = usize::try_from(n).unwrap_or(0) % conversations.len();
                (conversations.get(at).copied().unwrap_or_else(ConversationId::generate), n, words.join(" "))
            })
            .collect();
        engine
            .db()
            .write(move |cx| -> EngineResult<()> {
                for (conversation, n, body) in &rows {
                    cx.w.insert_message(&NewMessage {
                        conversation: *conversation,
                        seq: Some(n / 1_000 + 1),
                        temp_id: TempId::generate(),
                        sender: user,
                        sender_device: device,
                        kind: RowKind::Text,
                        body,
                        reply_to: None,
                        sent_at: i64::try_from(*n).unwrap_or(0),
                        status: Status::Received,
                        cause: "",
                        raw: None,
                    })?;
                }
                Ok(())
            })
            .await?;
    }
    Ok(conversations)
}

/// Makes an account at `server` whose profile in `dir`, its key in the keyring, is filled; for the window's benchmark.
pub async fn prepare(dir: &str, server: &str) -> Result<()> {
    let Opening::Open(p) = profile::open(Path::new(dir), None, true)? else { bail!("a keyring is needed") };
    let engine = Engine::start(*p).await?;
    engine.register(server, "minh", "a long enough password", "laptop").await?;
    let start = Instant::now();
    fill(&engine).await?;
    println!("store of {MESSAGES} messages built and indexed in {:.1} s", start.elapsed().as_secs_f64());
    engine.stop().await;
    Ok(())
}

/// Opens a filled profile as the app does, looks at the list and at a conversation, and says how much memory that takes.
pub async fn open(dir: &str) -> Result<()> {
    let engine = engine(Path::new(dir)).await?;
    let list = engine.read(|r| r.conversations())?;
    let first = list.first().context("a conversation")?.id;
    let rows = engine.read(|r| r.rows_before(first, i64::MAX, 50))?.len();
    let found = engine.read(|r| r.search("coffee", &SearchFilter::default(), 50))?.len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    println!(
        "client core over {MESSAGES} messages: {:.1} MiB resident ({} conversations, {rows} rows, {found} hits)",
        kib / 1024.0,
        list.len()
    );
    Ok(())
}

/// Builds the profile, searches it, opens it in a process of its own.
pub async fn run() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let this = engine(dir.path()).await?;
    let start = Instant::now();
    let conversations = fill(&this).await?;
    println!("store of {MESSAGES} messages built and indexed in {:.1} s", start.elapsed().as_secs_f64());
    figures(&this, &conversations)?;
    this.stop().await;
    drop(this);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let status = Command::new(std::env::current_exe()?).arg("--open").arg(dir.path()).status()?;
    anyhow::ensure!(status.success(), "the profile opens in another process");
    Ok(())
}

fn figures(engine: &Engine, conversations: &[ConversationId]) -> Result<()> {
    let queries: &[(&str, &[&str])] = &[
        ("a word", &["coffee", "duong", "train", "nghi"]),
        ("a rare word", &["r1234", "r77", "r199999"]),
        ("two words", &["cuoi tuan", "send file", "hom nay"]),
        ("prefix of two letters", &["ch", "co", "ng", "tr"]),
        ("with diacritics", &["đường", "người", "chiều"]),
    ];
    for (name, list) in queries {
        let mut times = Vec::new();
        for round in 0..40 {
            let q = list.get(round % list.len()).copied().unwrap_or_default();
            let t = Instant::now();
            engine.read(|r| r.search(q, &SearchFilter::default(), 50))?;
            times.push(t.elapsed().as_secs_f64() * 1000.0);
        }
        let (p50, p99) = percentiles(times);
        println!("search, {name}: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    let mut times = Vec::new();
    for id in conversations.iter().take(200) {
        let t = Instant::now();
        engine.read(|r| r.rows_before(*id, i64::MAX, 50))?;
        times.push(t.elapsed().as_secs_f64() * 1000.0);
    }
    let (p50, p99) = percentiles(times);
    println!("first 50 rows of a conversation (query only): p50 {p50:.2} ms, p99 {p99:.2} ms");
    Ok(())
}
