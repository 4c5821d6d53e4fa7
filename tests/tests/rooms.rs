//! Rooms through a real server: seats, stays, keys that follow the members, a server that is started anew, hostile callers.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::{Result, ensure};
use sc_media::audio::{AudioSetup, Input, Output};
use sc_media::room::frames::Keys;
use sc_media::room::{Room, RoomEnd, RoomOptions, RoomPhase};
use sc_protocol::rooms::{CreateRoom, RoomTokenAnswer, RoomTokenRequest};
use sc_protocol::{ConversationId, ErrorCode, RoomId};
use sc_testkit::calls::scale;
use sc_testkit::rooms::{counted, guest, heard, inside, join, options, view};
use sc_testkit::{Person, World, until};
use secureconnect_server::operator;
use std::time::Duration;

/// Asks the server, whatever the own engine thinks of it.
async fn knock(p: &Person, c: ConversationId) -> Result<RoomTokenAnswer, sc_engine::EngineError> {
    p.engine.http()?.post(&format!("/v1/rooms/{c}/token"), &RoomTokenRequest::default()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_removed_from_the_group_is_out_of_its_room_and_of_its_keys() -> Result<()> {
    let world = World::new().await?;
    let [alice, bob, carol] = [world.person("alice").await?, world.person("bob").await?, world.person("carol").await?];
    let group = alice.engine.create_group("Nhóm", vec![bob.id()?, carol.id()?]).await?;
    for p in [&alice, &bob, &carol] {
        p.settle().await?;
    }
    until("all are members", || async { Ok(carol.engine.read(|r| r.conversation(group))?.map(|_| ())) }).await?;
    let room = RoomId(group.0);
    let a = join(&world, &alice, group, Input::Silence, Output::Nothing).await?;
    let c = join(&world, &carol, group, Input::Silence, Output::Nothing).await?;
    inside(&a, 2).await?;
    inside(&c, 2).await?;
    counted(&alice, room, 2).await?;
    let before = alice.engine.room_secret(group).await?;
    alice.engine.remove_members(group, vec![carol.id()?]).await?;
    view(&c, "carol has to leave", |v| v.phase == RoomPhase::Over(RoomEnd::Removed)).await?;
    inside(&a, 1).await?;
    counted(&alice, room, 1).await?;
    ensure!(knock(&carol, group).await.is_err(), "carol does not come in again");
    alice.settle().await?;
    bob.settle().await?;
    let after = alice.engine.room_secret(group).await?;
    ensure!(after.0 > before.0 && *after.1 != *before.1, "the keys are others");
    until("bob has the same keys", || async { Ok((bob.engine.room_secret(group).await?.1 == after.1).then_some(())) }).await?;
    a.leave().await;
    counted(&alice, room, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_started_anew_has_nobody_inside_until_they_are_back_by_themselves() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let (link, info) = alice.engine.create_room(CreateRoom { max_participants: Some(6), lobby: false, guests: true }).await?;
    let dir = tempfile::tempdir()?;
    let (speech, ear) = (dir.path().join("speech.wav"), dir.path().join("ear.wav"));
    scale(&speech, 120)?;
    let keys = || Keys::of_link(&link.key);
    let enter = |p: &Person| {
        let engine = p.engine.clone();
        let link = link.clone();
        async move { engine.enter_room(&link, &RoomTokenRequest::default()).await }
    };
    let a = Room::enter(options(&world.url(), enter(&alice).await?, keys(), Input::File(speech), Output::Nothing)?).0;
    let b = Room::enter(options(&world.url(), enter(&bob).await?, keys(), Input::Silence, Output::File(ear.clone()))?).0;
    inside(&a, 2).await?;
    inside(&b, 2).await?;
    until("bob hears alice", || async { Ok(heard(&ear).then_some(())) }).await?;
    counted(&alice, info.room_id, 2).await?;
    world.stop_server().await;
    view(&a, "nothing is sent while it is away", |v| v.phase == RoomPhase::Reconnecting).await?;
    world.start_server().await?;
    alice.online().await?;
    inside(&a, 2).await?;
    inside(&b, 2).await?;
    counted(&alice, info.room_id, 2).await?;
    until("bob hears alice again", || async { Ok(heard(&ear).then_some(())) }).await?;
    let data = world.dir.path().join("server");
    let config = secureconnect_server::config::Config { data, ..Default::default() };
    ensure!(operator::repair_rooms(&config).await? == 0, "every count is right");
    world.tamper("UPDATE rooms SET member_count = 40", Vec::new()).await?;
    ensure!(operator::repair_rooms(&config).await? == 1, "a wrong one is found");
    counted(&alice, info.room_id, 2).await?;
    a.leave().await;
    b.leave().await;
    counted(&alice, info.room_id, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seventh_of_six_is_told_so_and_no_token_opens_another_door() -> Result<()> {
    let world = World::new().await?;
    let alice = world.person("alice").await?;
    let (link, info) = alice.engine.create_room(CreateRoom { max_participants: None, lobby: false, guests: true }).await?;
    ensure!(info.max_participants == 6);
    let mut rooms = Vec::new();
    for n in 0..6 {
        let answer = guest(&world, &link, &format!("guest {n}")).await?;
        rooms.push(Room::enter(options(&world.url(), answer, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0);
    }
    for r in &rooms {
        inside(r, 6).await?;
    }
    let refused = guest(&world, &link, "guest 7").await.unwrap_err();
    ensure!(refused.to_string().contains("seat"), "{refused}");
    let code = |e: &sc_engine::EngineError| if let sc_engine::EngineError::Server(b) = e { Some(b.code) } else { None };
    ensure!(code(&refused) == Some(ErrorCode::RoomFull));
    counted(&alice, info.room_id, 6).await?;
    rooms.pop().unwrap().leave().await;
    until("a seat is free", || async { Ok(guest(&world, &link, "guest 8").await.is_ok().then_some(())) }).await?;
    // Neither a forged token nor one that is no longer good comes in.
    let forged = RoomOptions {
        url: world.url(),
        token: "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4IiwidmlkZW8iOnsicm9vbUpvaW4iOnRydWUsInJvb20iOiJ4In19.".to_owned().into(),
        keys: Keys::of_link(&link.key),
        audio: AudioSetup { input: Input::Silence, output: Output::Nothing },
        video: None,
        muted: true,
    };
    view(&Room::enter(forged).0, "a forged token is refused", |v| v.phase == RoomPhase::Over(RoomEnd::Refused)).await?;
    ensure!(guest(&world, &link, "").await.is_err() && guest(&world, &link, &"x".repeat(41)).await.is_err(), "a guest has a name");
    let members_only = alice.engine.create_room(CreateRoom { max_participants: None, lobby: false, guests: false }).await?.0;
    ensure!(code(&guest(&world, &members_only, "guest").await.unwrap_err()) == Some(ErrorCode::Unauthenticated));
    let bob = world.person("bob").await?;
    let c = alice.direct("bob").await?;
    alice.say(c, "xin chào").await?;
    alice.settle().await?;
    let mallory = world.person("mallory").await?;
    ensure!(code(&knock(&mallory, c).await.unwrap_err()) == Some(ErrorCode::NotFound), "no stranger learns of it");
    ensure!(mallory.engine.change_room(info.room_id, &Default::default()).await.is_err(), "only the host changes a room");
    ensure!(bob.engine.close_room(info.room_id).await.is_err());
    tokio::time::timeout(Duration::from_secs(10), alice.engine.close_room(info.room_id)).await??;
    view(&rooms[0], "the room is closed", |v| v.phase == RoomPhase::Over(RoomEnd::Closed)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn that_somebody_opened_the_room_is_one_line_for_everybody_and_nothing_unread() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "xin chào").await?;
    alice.settle().await?;
    until("bob has the conversation", || async { Ok(bob.engine.read(|r| r.conversation(c))?.map(|_| ())) }).await?;
    // Both at once, and one of them again.
    alice.engine.tell_room_opened(c).await?;
    bob.engine.tell_room_opened(c).await?;
    alice.settle().await?;
    bob.settle().await?;
    alice.engine.tell_room_opened(c).await?;
    alice.say(c, "vào phòng nhé").await?;
    alice.settle().await?;
    for p in [&alice, &bob] {
        let rows = until("the last message is there", || async {
            let rows = p.engine.read(|r| r.rows_before(c, i64::MAX, 50))?;
            Ok(rows.iter().any(|m| m.body == "vào phòng nhé").then_some(rows))
        })
        .await?;
        let lines: Vec<_> = rows.iter().filter(|m| m.body.contains("room_opened")).collect();
        ensure!(lines.len() == 1, "{}: {lines:?}", p.name);
    }
    let unread = bob.engine.read(|r| r.list_entry(c))?.map(|x| x.unread);
    ensure!(unread == Some(2), "two messages are unread, and no line: {unread:?}");
    Ok(())
}
