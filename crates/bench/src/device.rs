//! Search over a million stored messages.

use crate::percentiles;
use anyhow::Result;
use sc_protocol::rest::ConversationKind;
use sc_protocol::{ConversationId, DeviceId, TempId, UserId};
use sc_store::keys::KeySlots;
use sc_store::model::{Conversation, ConversationState, RowKind, Status};
use sc_store::write_model::NewMessage;
use sc_store::{Reader, Store};
use std::time::Instant;

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

/// Builds the store and searches it.
pub fn search() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let key = KeySlots::new_key(&mut rand_core());
    let path = dir.path().join("store.db");
    let mut store = Store::open(&path, &key)?;
    let conversations: Vec<ConversationId> = (0..1_000).map(|_| ConversationId::generate()).collect();
    let (user, device) = (UserId::generate(), DeviceId::generate());
    let start = Instant::now();
    let w = store.write()?;
    for id in &conversations {
        w.insert_conversation(&Conversation {
            id: *id,
            kind: ConversationKind::Group,
            title: "group".into(),
            peer: None,
            generation: 0,
            suite: 1,
            state: ConversationState::Active,
            last_seq: 0,
            read_seq: 0,
            last_activity: 0,
            next_n: 1,
            draft: String::new(),
            roster: Vec::new(),
            needs_rejoin: false,
        })?;
    }
    w.commit()?;
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 33).unwrap_or(0)
    };
    for batch in 0..MESSAGES / 10_000 {
        let w = store.write()?;
        for i in 0..10_000 {
            let n = batch * 10_000 + i;
            let body: Vec<String> = (0..3 + next() % 12)
                .map(|_| {
                    if next() % 20 == 0 {
                        format!("r{}", next() % 200_000)
                    } else {
                        WORDS.get(next() % WORDS.len()).copied().unwrap_or_default().to_owned()
                    }
                })
                .collect();
            let at = usize::try_from(n).unwrap_or(0) % conversations.len();
            w.insert_message(&NewMessage {
                conversation: conversations.get(at).copied().unwrap_or_else(ConversationId::generate),
                seq: Some(n / 1_000 + 1),
                temp_id: TempId::generate(),
                sender: user,
                sender_device: device,
                kind: RowKind::Text,
                body: &body.join(" "),
                reply_to: None,
                sent_at: i64::try_from(n).unwrap_or(0),
                status: Status::Received,
                cause: "",
                raw: None,
            })?;
        }
        w.commit()?;
    }
    println!("store of {MESSAGES} messages built and indexed in {:.1} s", start.elapsed().as_secs_f64());
    let reader = Reader::open(&path, &key)?;
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
            reader.read().search(q, None, 50)?;
            times.push(t.elapsed().as_secs_f64() * 1000.0);
        }
        let (p50, p99) = percentiles(times);
        println!("search, {name}: p50 {p50:.2} ms, p99 {p99:.2} ms");
    }
    let mut times = Vec::new();
    for id in conversations.iter().take(200) {
        let t = Instant::now();
        reader.read().rows_before(*id, i64::MAX, 50)?;
        times.push(t.elapsed().as_secs_f64() * 1000.0);
    }
    let (p50, p99) = percentiles(times);
    println!("first 50 rows of a conversation (query only): p50 {p50:.2} ms, p99 {p99:.2} ms");
    Ok(())
}

fn rand_core() -> impl rand::RngCore {
    rand::rngs::OsRng
}
