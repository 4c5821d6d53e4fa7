//! Rooms that another server carries. The cluster is a second real server whose unit is open to whoever has its key, by LiveKit's RoomService;
//! `ui/test/cluster.mjs` asks it the same with LiveKit's own SDK.
#![allow(clippy::unwrap_used, missing_docs)]

use anyhow::{Result, ensure};
use base64::Engine as _;
use sc_engine::EngineError;
use sc_media::audio::{Input, Output};
use sc_media::room::frames::Keys;
use sc_media::room::{Room, RoomEnd, RoomPhase};
use sc_protocol::rooms::{ChangeRoom, CreateRoom, HostAction, RoomTokenRequest};
use sc_protocol::{ErrorCode, RoomId};
use sc_testkit::calls::scale;
use sc_testkit::rooms::{counted, guest, heard, inside, join, options, view};
use sc_testkit::{World, until};
use secureconnect_server::config::Config;
use sha2::Digest as _;
use std::time::{Duration, Instant};

const KEY: &str = "home";
const SECRET: &str = "a secret of two servers, thirty-two long";

/// The server that carries rooms, and the one whose rooms they are.
async fn two() -> Result<(World, World)> {
    let node = World::with(|c| {
        c.rooms_key = KEY.into();
        c.rooms_secret = SECRET.into();
    })
    .await?;
    let home = World::with(|c| of_node(c, &node)).await?;
    Ok((node, home))
}

fn of_node(c: &mut Config, node: &World) {
    c.livekit_url = node.url().replacen("http", "ws", 1);
    c.livekit_key = KEY.into();
    c.livekit_secret = SECRET.into();
}

fn code(e: &EngineError) -> Option<ErrorCode> {
    if let EngineError::Server(b) = e { Some(b.code) } else { None }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversations_room_on_a_cluster_is_heard_and_counted_and_a_removed_member_is_out() -> Result<()> {
    let (_node, home) = two().await?;
    let (alice, bob) = (home.person("alice").await?, home.person("bob").await?);
    let group = alice.engine.create_group("Nhóm", vec![bob.id()?]).await?;
    alice.settle().await?;
    bob.settle().await?;
    until("both are members", || async { Ok(bob.engine.read(|r| r.conversation(group))?.map(|_| ())) }).await?;
    let room = RoomId(group.0);
    let dir = tempfile::tempdir()?;
    let (speech, ear) = (dir.path().join("speech.wav"), dir.path().join("ear.wav"));
    scale(&speech, 120)?;
    let a = join(&home, &alice, group, Input::File(speech), Output::Nothing).await?;
    let b = join(&home, &bob, group, Input::Silence, Output::File(ear.clone())).await?;
    inside(&a, 2).await?;
    inside(&b, 2).await?;
    until("bob hears alice", || async { Ok(heard(&ear).then_some(())) }).await?;
    counted(&alice, room, 2).await?;
    // Who is inside is known as soon as they come; what they send is asked for a little later.
    until("both are seen from outside, alice with her microphone", || async {
        let people = alice.engine.room(room).await?.people;
        let me = people.iter().find(|p| p.user_id == alice.id().ok());
        Ok((people.len() == 2 && me.is_some_and(|p| p.microphone && !p.camera)).then_some(()))
    })
    .await?;
    alice.engine.remove_members(group, vec![bob.id()?]).await?;
    view(&b, "bob has to leave", |v| v.phase == RoomPhase::Over(RoomEnd::Removed)).await?;
    inside(&a, 1).await?;
    counted(&alice, room, 1).await?;
    a.leave().await;
    counted(&alice, room, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_locks_and_hosts_of_a_meeting_room_hold_on_a_cluster() -> Result<()> {
    let (_node, home) = two().await?;
    let alice = home.person("alice").await?;
    let (link, info) = alice.engine.create_room(CreateRoom { max_participants: Some(2), lobby: false, guests: true }).await?;
    let enter = async |name: &str| -> Result<Room> {
        let answer = guest(&home, &link, name).await?;
        Ok(Room::enter(options(&home.url(), answer, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0)
    };
    let an = enter("An").await?;
    let token = guest(&home, &link, "Bình").await?;
    let again = async || -> Result<Room> {
        Ok(Room::enter(options(&home.url(), token.clone(), Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0)
    };
    let binh = again().await?;
    inside(&an, 2).await?;
    inside(&binh, 2).await?;
    counted(&alice, info.room_id, 2).await?;
    ensure!(code(&guest(&home, &link, "Chi").await.unwrap_err()) == Some(ErrorCode::RoomFull), "the third of two");
    let people = alice.engine.room(info.room_id).await?.people;
    let of = |name: &str| people.iter().find(|p| p.guest_name.as_deref() == Some(name)).map(|p| p.identity.clone()).unwrap();
    alice.engine.act_as_host(info.room_id, &of("An"), HostAction::Mute).await?;
    view(&an, "An's microphone is off", |v| v.muted).await?;
    until("that is seen from outside", || async {
        let people = alice.engine.room(info.room_id).await?.people;
        Ok(people.iter().any(|p| p.guest_name.as_deref() == Some("An") && !p.microphone).then_some(()))
    })
    .await?;
    alice.engine.act_as_host(info.room_id, &of("Bình"), HostAction::Remove).await?;
    view(&binh, "Bình is taken out", |v| v.phase == RoomPhase::Over(RoomEnd::Removed)).await?;
    counted(&alice, info.room_id, 1).await?;
    view(&again().await?, "an old token is no way back", |v| matches!(v.phase, RoomPhase::Over(RoomEnd::Removed))).await?;
    counted(&alice, info.room_id, 1).await?;
    until("a seat is free", || async { Ok(guest(&home, &link, "Chi").await.is_ok().then_some(())) }).await?;
    alice.engine.close_room(info.room_id).await?;
    view(&an, "the room is closed", |v| v.phase == RoomPhase::Over(RoomEnd::Closed)).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn home_stops_at_once_and_finds_those_again_who_went_on_meanwhile_behind_a_locked_door() -> Result<()> {
    let (node, mut home) = two().await?;
    let alice = home.person("alice").await?;
    let (link, info) = alice.engine.create_room(CreateRoom { max_participants: Some(4), lobby: false, guests: true }).await?;
    let answer = guest(&home, &link, "An").await?;
    let an = Room::enter(options(&home.url(), answer, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0;
    inside(&an, 1).await?;
    counted(&alice, info.room_id, 1).await?;
    alice.engine.change_room(info.room_id, &ChangeRoom { locked: Some(true), ..Default::default() }).await?;
    let began = Instant::now();
    home.stop_server().await;
    ensure!(began.elapsed() < Duration::from_secs(5), "nobody holds the store: {:?}", began.elapsed());
    home.start_server().await?;
    alice.online().await?;
    counted(&alice, info.room_id, 1).await?;
    inside(&an, 1).await?;
    ensure!(code(&guest(&home, &link, "Bình").await.unwrap_err()) == Some(ErrorCode::RoomLocked), "it is still locked");

    // What changes without anybody coming or going is asked for every ten seconds, or at once when a webhook says so.
    let up = async || -> Result<bool> { Ok(alice.engine.room(info.room_id).await?.people.iter().any(|p| p.hand)) };
    let metrics = reqwest::get(format!("{}/metrics", home.url())).await?.text().await?;
    ensure!(metrics.contains("secureconnect_rooms 1\n") && metrics.contains("secureconnect_room_participants 1\n"), "{metrics}");
    an.raise_hand(true).await;
    until("the hand is seen", || async { Ok(up().await?.then_some(())) }).await?;
    an.raise_hand(false).await;
    let (url, body) = (format!("{}/v1/livekit/webhook", home.url()), format!(r#"{{"event":"x","room":{{"name":"{}"}}}}"#, link.room));
    let (http, began) = (reqwest::Client::new(), Instant::now());
    until("the hand is down", || async {
        // More than once: the first may come before the hand is down over there.
        let said = http.post(&url).header("authorization", signed(&body)?).body(body.clone()).send().await?;
        ensure!(said.status() == 200);
        tokio::time::sleep(Duration::from_millis(200)).await;
        Ok((!up().await?).then_some(()))
    })
    .await?;
    ensure!(began.elapsed() < Duration::from_secs(4), "a webhook is heeded: {:?}", began.elapsed());
    an.leave().await;
    counted(&alice, info.room_id, 0).await?;
    drop(node);
    Ok(())
}

/// The token of a webhook with that body.
fn signed(body: &str) -> Result<String> {
    let sha256 = base64::engine::general_purpose::STANDARD.encode(sha2::Sha256::digest(body));
    let claims = serde_json::json!({ "iss": KEY, "exp": secureconnect_server::now_ms() / 1_000 + 60, "sha256": sha256 });
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    Ok(jsonwebtoken::encode(&jsonwebtoken::Header::default(), &claims, &key)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_dies_has_nobody_inside_and_one_that_comes_back_has_them_again() -> Result<()> {
    let (mut node, home) = two().await?;
    let alice = home.person("alice").await?;
    let (link, info) = alice.engine.create_room(CreateRoom { max_participants: None, lobby: false, guests: false }).await?;
    let answer = alice.engine.enter_room(&link, &RoomTokenRequest::default()).await?;
    let a = Room::enter(options(&home.url(), answer, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0;
    inside(&a, 1).await?;
    counted(&alice, info.room_id, 1).await?;
    let healthy = async || -> Result<bool> {
        Ok(reqwest::get(format!("{}/health/ready", home.url())).await?.text().await?.contains(r#""sfu":"healthy""#))
    };
    ensure!(healthy().await?);
    node.stop_server().await;
    let died = Instant::now();
    view(&a, "nothing is sent while it is away", |v| v.phase == RoomPhase::Reconnecting).await?;
    until("health says so", || async { Ok((!healthy().await?).then_some(())) }).await?;
    counted(&alice, info.room_id, 0).await?;
    ensure!(died.elapsed() > Duration::from_secs(15), "a short break costs nobody their seat");
    let e = alice.engine.act_as_host(info.room_id, "u:x", HostAction::Mute).await.unwrap_err();
    ensure!(code(&e) == Some(ErrorCode::Unavailable), "a host's wish that nobody heard is no success: {e}");
    node.start_server().await?;
    until("health says so", || async { Ok(healthy().await?.then_some(())) }).await?;
    inside(&a, 1).await?;
    counted(&alice, info.room_id, 1).await?;
    a.leave().await;
    counted(&alice, info.room_id, 0).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_rooms_of_its_own_only_and_a_webhook_without_it_is_refused() -> Result<()> {
    let (node, home) = two().await?;
    let zoe = node.person("zoe").await?;
    // A meeting room of the server that carries: whoever has the key gets into another room of the same name.
    let (link, info) = zoe.engine.create_room(CreateRoom { max_participants: None, lobby: false, guests: false }).await?;
    let answer = zoe.engine.enter_room(&link, &RoomTokenRequest::default()).await?;
    let z = Room::enter(options(&node.url(), answer, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0;
    inside(&z, 1).await?;
    let signer = secureconnect_server::rooms::token::Signer::shared(KEY, SECRET);
    let token = signer.sign(&link.room.to_string(), "u:mallory", "Mallory", 6, secureconnect_server::now_ms())?;
    let forged = sc_protocol::rooms::RoomTokenAnswer::Ready { token, url: String::new(), identity: "u:mallory".into() };
    let m = Room::enter(options(&node.url(), forged, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0;
    inside(&m, 1).await?;
    inside(&z, 1).await?;
    counted(&zoe, info.room_id, 1).await?;

    // A token's number of seats holds for whoever is not home: the second of one stays outside, and the first is not disturbed.
    let token = signer.sign(&link.room.to_string(), "u:second", "Second", 1, secureconnect_server::now_ms())?;
    let second = sc_protocol::rooms::RoomTokenAnswer::Ready { token, url: String::new(), identity: "u:second".into() };
    let s = Room::enter(options(&node.url(), second, Keys::of_link(&link.key), Input::Silence, Output::Nothing)?).0;
    view(&s, "the second of one stays outside", |v| v.phase == RoomPhase::Over(RoomEnd::Refused)).await?;
    inside(&m, 1).await?;

    let http = reqwest::Client::new();
    let ask = async |method: &str, token: &str| -> Result<(u16, String)> {
        let url = format!("{}/twirp/livekit.RoomService/{method}", node.url());
        let r = http
            .post(url)
            .bearer_auth(token)
            .header("content-type", "application/json")
            .body(format!(r#"{{"room":"{}"}}"#, link.room))
            .send()
            .await?;
        Ok((r.status().as_u16(), r.text().await?))
    };
    let grant = |admin: bool, list: bool| secureconnect_server::rooms::token::VideoGrant {
        room_admin: admin,
        room_list: list,
        room: link.room.to_string(),
        ..Default::default()
    };
    let now = secureconnect_server::now_ms();
    let admin = signer.errand(grant(true, false), now)?;
    let (status, people) = ask("ListParticipants", &admin).await?;
    ensure!(status == 200 && people.contains("u:mallory") && !people.contains(&zoe.id()?.to_string()), "{people}");
    ensure!(ask("ListParticipants", &signer.errand(grant(false, true), now)?).await?.0 == 401, "a list is not a room");
    ensure!(ask("ListRooms", &admin).await?.0 == 401, "a room is not a list");
    ensure!(ask("Nothing", &admin).await?.0 == 404, "what it does not offer");
    let garbage = http.post(format!("{}/twirp/livekit.RoomService/ListRooms", node.url())).bearer_auth(&admin).body(vec![0xff; 40]);
    ensure!(garbage.send().await?.status() == 400, "what is no request");
    ensure!(ask("ListParticipants", "x.y.z").await?.0 == 401);
    let url = format!("{}/twirp/livekit.RoomService/ListRooms", home.url());
    ensure!(http.post(url).bearer_auth(&admin).send().await?.status() == 404, "a server without a key offers nothing");

    let hook = async |token: Option<String>, body: &str| -> Result<u16> {
        let r = http.post(format!("{}/v1/livekit/webhook", home.url())).body(body.to_owned());
        let r = if let Some(t) = token { r.header("authorization", t) } else { r };
        Ok(r.send().await?.status().as_u16())
    };
    let body = format!(r#"{{"event":"participant_left","room":{{"name":"{}"}}}}"#, link.room);
    let signed = signed(&body)?;
    ensure!(hook(Some(signed.clone()), &body).await? == 200);
    ensure!(hook(Some(signed.clone()), "{}").await? == 401 && hook(None, &body).await? == 401 && hook(Some(admin), &body).await? == 401);
    let url = format!("{}/v1/livekit/webhook", node.url());
    ensure!(http.post(url).header("authorization", signed).body(body).send().await?.status() == 404, "no cluster, no webhook");
    Ok(())
}
