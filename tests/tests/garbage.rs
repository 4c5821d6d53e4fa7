//! What no client of ours would send, live: a hundred thousand mutated frames, frames no decoder should follow, and sockets
//! that break the rules of WebSocket. The server answers or closes with the right code, keeps its memory, and the neighbours
//! do not notice.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

mod programs;

use anyhow::{Context as _, Result, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use programs::rng;
use programs::stage::{Stage, high_limits, post, resident_kib, stage};
use rand::Rng as _;
use rand_chacha::ChaCha20Rng;
use sc_protocol::frame::{ClientFrame, Cursor, Encoding, SUBPROTOCOL_JSON, SUBPROTOCOL_MSGPACK};
use sc_protocol::rest::SendMessage;
use sc_protocol::{Blob, ConversationId, TempId};
use sc_testkit::raw::{self, Socket};
use std::time::{Duration, Instant};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

const FRAMES: u32 = 100_000;

/// A connection of member `who` in that encoding, caught up.
async fn connect(stage: &Stage, who: usize, encoding: Encoding) -> Result<Socket> {
    let mut request = format!("ws://{}/v1/gateway", stage.addr).into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {}", stage.tokens[who]).parse()?);
    let name = if encoding == Encoding::Json { SUBPROTOCOL_JSON } else { SUBPROTOCOL_MSGPACK };
    request.headers_mut().insert("sec-websocket-protocol", name.parse()?);
    Ok(tokio_tungstenite::connect_async(request).await?.0)
}

fn whole(encoding: Encoding, bytes: Vec<u8>) -> Message {
    // Text that is no text is another test: here the frame is legal and what it holds is not.
    if encoding == Encoding::Json { Message::text(String::from_utf8_lossy(&bytes).into_owned()) } else { Message::binary(bytes) }
}

fn valid(stage: &Stage, rng: &mut ChaCha20Rng) -> ClientFrame {
    let conversation_id = if rng.gen_bool(0.5) { stage.c } else { ConversationId::generate() };
    let payload = Blob::from(vec![7; rng.gen_range(0..600)]);
    match rng.gen_range(0..4) {
        0 => ClientFrame::SendMessage {
            request_id: rng.r#gen(),
            message: SendMessage { conversation_id, temp_id: TempId::generate(), epoch: stage.epoch, generation: 0, payload },
        },
        1 => ClientFrame::Sync { cursors: vec![Cursor { conversation_id, seq: rng.gen_range(0..4) }], done: rng.r#gen() },
        2 => ClientFrame::MarkAsRead { request_id: rng.r#gen(), conversation_id, seq: rng.gen_range(0..4) },
        _ => ClientFrame::Ping { request_id: rng.r#gen() },
    }
}

fn mutate(rng: &mut ChaCha20Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.gen_range(1..4) {
        let at = rng.gen_range(0..=bytes.len());
        match rng.gen_range(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.gen_range(0..8),
            1 if at < bytes.len() => bytes[at] = rng.r#gen(),
            2 => bytes.truncate(at),
            3 => bytes.insert(at, rng.r#gen()),
            4 => {
                let again = bytes[at..].to_vec();
                bytes.extend_from_slice(&again);
            }
            _ => bytes.splice(at.., rng.r#gen::<[u8; 9]>()).for_each(drop),
        }
    }
}

/// Sends its share, in portions, each followed by a ping that must be answered. Answers how often it was cut off.
async fn torment(stage: &Stage, who: usize, encoding: Encoding, mut rng: ChaCha20Rng) -> Result<u32> {
    let (mut sent, mut cut) = (0, 0);
    while sent < FRAMES / 2 {
        let mut socket = connect(stage, who, encoding).await?;
        loop {
            for _ in 0..500 {
                let mut bytes = encoding.encode(&valid(stage, &mut rng))?;
                mutate(&mut rng, &mut bytes);
                if socket.feed(whole(encoding, bytes)).await.is_err() {
                    break;
                }
                sent += 1;
            }
            let mark = rng.r#gen::<u32>();
            let ping = encoding.encode(&ClientFrame::Ping { request_id: u64::from(mark) })?;
            let answered = tokio::time::timeout(Duration::from_secs(20), async {
                socket.send(whole(encoding, ping)).await.ok()?;
                while let Some(Ok(m)) = socket.next().await {
                    let found = match &m {
                        Message::Text(t) => t.contains(&mark.to_string()),
                        Message::Binary(b) => b.windows(4).any(|w| w == mark.to_be_bytes()),
                        _ => false,
                    };
                    if found {
                        return Some(());
                    }
                }
                None
            });
            match answered.await.context("the server hangs")? {
                Some(()) if sent < FRAMES / 2 => {}
                Some(()) => break,
                None => {
                    cut += 1;
                    break;
                }
            }
        }
    }
    Ok(cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_mutated_frames_hurt_nobody() -> Result<()> {
    let stage = stage(&["alice", "bob", "carol"], high_limits).await?;
    let (a, b) = (rng(), rng());
    let mut neighbour = raw::connect(stage.addr, &stage.tokens[2]).await?.0;
    let before = resident_kib(stage.server.0.id())?;
    let torments = async { tokio::try_join!(torment(&stage, 0, Encoding::Json, a), torment(&stage, 1, Encoding::MsgPack, b)) };
    let mut torments = std::pin::pin!(torments);
    let (mut n, mut slowest) = (0, Duration::ZERO);
    let cut = loop {
        let asked = Instant::now();
        tokio::select! {
            cut = &mut torments => break cut?,
            placed = post(&mut neighbour, &stage, n, 200) => {
                placed.context("the neighbour is served")?;
                slowest = slowest.max(asked.elapsed());
                n += 1;
                // A person's pace.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let grown = resident_kib(stage.server.0.id())?.saturating_sub(before);
    println!("{FRAMES} frames, cut off {cut:?} times, grown by {grown} KiB, the neighbour's {n} messages at most {slowest:?}");
    assert!(grown < 16 * 1024, "grown by {grown} KiB");
    assert!(n > 20 && slowest < Duration::from_secs(2), "{n} messages, the slowest {slowest:?}");
    let ready = reqwest::get(format!("http://{}/health/ready", stage.addr)).await?;
    assert!(ready.status().is_success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_nested_ten_thousand_deep_is_refused() -> Result<()> {
    let stage = stage(&["alice", "bob"], high_limits).await?;
    for (encoding, deep) in [
        (Encoding::Json, "[".repeat(10_000).into_bytes()),
        (Encoding::Json, "{\"a\":".repeat(10_000).into_bytes()),
        (Encoding::Json, [b"{\"type\":\"ping\",\"x\":".to_vec(), b"[".repeat(10_000)].concat()),
        (Encoding::MsgPack, vec![0x91; 10_000]),
        (Encoding::MsgPack, [0x81, 0xa1, b'a'].repeat(10_000)),
    ] {
        let mut socket = connect(&stage, 0, encoding).await?;
        socket.send(whole(encoding, deep)).await?;
        let answer = tokio::time::timeout(Duration::from_secs(5), async {
            loop {
                let bytes = socket.next().await.context("the connection stays")??.into_data();
                if bytes.windows(11).any(|w| w == b"BAD_REQUEST") {
                    return anyhow::Ok(());
                }
            }
        });
        answer.await.context("no answer")??;
    }
    Ok(())
}

/// The code that a connection was closed with.
async fn closed_with(socket: &mut Socket) -> Result<u16> {
    let closed = async {
        while let Some(m) = socket.next().await {
            match m {
                Ok(Message::Close(Some(f))) => return Ok(u16::from(f.code)),
                Ok(_) => {}
                Err(e) => bail!("gone without a word: {e}"),
            }
        }
        bail!("gone without a word")
    };
    tokio::time::timeout(Duration::from_secs(20), closed).await.context("it is never closed")?
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_websockets_are_closed_with_the_code_of_what_they_broke() -> Result<()> {
    let stage = stage(&["alice", "bob"], high_limits).await?;
    let mut neighbour = raw::connect(stage.addr, &stage.tokens[1]).await?.0;
    let before = resident_kib(stage.server.0.id())?;

    let mut socket = connect(&stage, 0, Encoding::Json).await?;
    socket.send(Message::Frame(Frame::message(vec![0xff, 0xfe, 0xc0], OpCode::Data(Data::Text), true))).await?;
    assert_eq!(closed_with(&mut socket).await?, 1007, "text that is no UTF-8");

    let mut socket = connect(&stage, 0, Encoding::Json).await?;
    socket.send(Message::Frame(Frame::message(b"x".to_vec(), OpCode::Data(Data::Continue), true))).await?;
    assert_eq!(closed_with(&mut socket).await?, 1002, "the continuation of nothing");

    let mut socket = connect(&stage, 0, Encoding::MsgPack).await?;
    socket.send(Message::binary(vec![0; 1024 * 1024 + 1])).await.ok();
    assert_eq!(closed_with(&mut socket).await?, 1009, "more than a frame may have");

    // A message in pieces of one byte, a million of them.
    let mut socket = connect(&stage, 0, Encoding::MsgPack).await?;
    let mut pieces = 0;
    for i in 0..1_000_000 {
        let code = if i == 0 { Data::Binary } else { Data::Continue };
        if socket.feed(Message::Frame(Frame::message(vec![0x90], OpCode::Data(code), false))).await.is_err() {
            break;
        }
        pieces = i;
    }
    let code = closed_with(&mut socket).await;
    ensure!(pieces < 999_999 || matches!(code, Ok(1009)), "a million pieces were taken");

    assert!(post(&mut neighbour, &stage, 1, 512).await? > 0, "the neighbour is served");
    let grown = resident_kib(stage.server.0.id())?.saturating_sub(before);
    assert!(grown < 16 * 1024, "grown by {grown} KiB");
    Ok(())
}
