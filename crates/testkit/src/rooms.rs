//! People in rooms, with the real media and keys.

use crate::{Person, World, until};
use anyhow::{Result, bail};
use sc_engine::rooms::RoomLink;
use sc_media::audio::{AudioSetup, Input, Output};
use sc_media::room::frames::Keys;
use sc_media::room::{Room, RoomOptions, RoomPhase, RoomView};
use sc_protocol::rooms::{RoomTokenAnswer, RoomTokenRequest};
use sc_protocol::{ConversationId, RoomId};
use std::path::Path;
use std::time::Instant;

/// How somebody comes in whose place the door has given; `url` is where rooms are when the answer does not say.
pub fn options(url: &str, answer: RoomTokenAnswer, keys: Keys, input: Input, output: Output) -> Result<RoomOptions> {
    let RoomTokenAnswer::Ready { token, url: elsewhere, .. } = answer else { bail!("the door is closed") };
    let url = if elsewhere.is_empty() { url.to_owned() } else { elsewhere };
    Ok(RoomOptions { url, token: token.into(), keys, audio: AudioSetup { input, output }, video: None, muted: false })
}

/// Into the room of a conversation, with the keys of its group.
pub async fn join(world: &World, p: &Person, c: ConversationId, input: Input, output: Output) -> Result<Room> {
    let answer = p.engine.enter_conversation_room(c).await?;
    // Whoever has just learnt of the conversation may have no session in it yet.
    let (epoch, secret) = p.engine.await_room_secret(c).await?;
    let mut keys = Keys::default();
    keys.add_epoch(epoch, secret, Instant::now());
    Ok(Room::enter(options(&world.url(), answer, keys, input, output)?).0)
}

/// A guest at the door of a meeting room.
pub async fn guest(world: &World, link: &RoomLink, name: &str) -> Result<RoomTokenAnswer, sc_engine::EngineError> {
    let api = sc_engine::api::Api::new(&world.url())?;
    let request = RoomTokenRequest { guest_name: Some(name.into()), ticket: None };
    api.open_post(&format!("/v1/rooms/{}/token", link.room), &request).await
}

/// Waits until the room looks like that.
pub async fn view(room: &Room, what: &str, f: impl Fn(&RoomView) -> bool) -> Result<RoomView> {
    until(what, || async {
        let v = room.view().borrow().clone();
        Ok(f(&v).then_some(v))
    })
    .await
}

/// Waits until so many are inside.
pub async fn inside(room: &Room, n: usize) -> Result<RoomView> {
    view(room, &format!("{n} are inside"), |v| v.phase == RoomPhase::Inside && v.people.len() == n).await
}

/// Waits until the server counts so many.
pub async fn counted(p: &Person, room: RoomId, n: u32) -> Result<()> {
    until(&format!("{n} are counted"), || async { Ok((p.engine.room(room).await?.member_count == n).then_some(())) }).await
}

/// The last second of what is recorded has sound in it.
#[must_use]
pub fn heard(path: &Path) -> bool {
    // The header is complete at the end only.
    let bytes = std::fs::read(path).unwrap_or_default();
    let samples = bytes.get(44..).unwrap_or_default().chunks_exact(2).filter_map(|b| b.try_into().ok().map(i16::from_le_bytes));
    samples.rev().take(48_000).any(|s| s.unsigned_abs() > 1_600)
}
