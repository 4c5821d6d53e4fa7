//! A server that lies, and one whose operator suspends an account. What it does is written into its own store; the clients are the real ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_e2ee::identity::{AccountIdentity, DeviceKeys};
use sc_engine::ConnectionState;
use sc_protocol::identity::DeviceList;
use sc_protocol::{ConversationId, ErrorCode, UserId};
use sc_store::model::{IdentityChange, RowKind, Status};
use sc_store::search::SearchFilter;
use sc_testkit::{World, until};

fn impostor(user: UserId, version: u64) -> (Vec<u8>, Vec<u8>) {
    let (identity, device) = (AccountIdentity::generate(&mut rand::rngs::OsRng), DeviceKeys::generate(&mut rand::rngs::OsRng));
    let list = DeviceList { user_id: user, version, devices: vec![(device.device_id, device.public())] };
    (identity.public().to_vec(), identity.sign_list(&list))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_identity_the_server_swaps_is_announced_and_stops_sending_to_a_verified_contact() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    let number = alice.engine.safety_number(bob.id()?)?.digits();
    alice.engine.set_verified(bob.id()?, true, &number).await?;
    let (key, list) = impostor(bob.id()?, 2);
    let n = world
        .tamper("UPDATE users SET identity_key = $1, device_list = $2 WHERE user_id = $3", vec![key, list, bob.id()?.as_bytes().to_vec()])
        .await?;
    assert_eq!(n, 1);
    let contact = alice.engine.find_user("bob").await?;
    assert!(!contact.verified && contact.changed == IdentityChange::Blocking);
    alice.sees_event(c, "identity_changed").await?;
    let row = alice.say(c, "my secret").await?;
    assert_eq!((row.status, row.cause.as_str()), (Status::Failed, "IDENTITY_CHANGED"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_identity_for_the_own_account_is_refused() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let (key, list) = impostor(alice.id()?, 2);
    world
        .tamper("UPDATE users SET identity_key = $1, device_list = $2 WHERE user_id = $3", vec![key, list, alice.id()?.as_bytes().to_vec()])
        .await?;
    let c = alice.direct("bob").await?;
    alice.say(c, "must not reach a device of the server").await?;
    alice.sees_event(c, "refused").await?;
    assert!(alice.texts(c)?.len() == 1 && bob.engine.read(|r| r.message_count())? == 0);
    assert_ne!(alice.rows(c)?.iter().find(|m| m.kind == RowKind::Text).unwrap().status, Status::Sent);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_list_that_goes_back_is_refused() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    alice.engine.find_user("bob").await?;
    let old: Vec<u8> = alice.engine.read(|r| r.contact(bob.id().unwrap()))?.unwrap().device_list;
    let _phone = world.second_device(&bob, 2).await?;
    alice.engine.find_user("bob").await?;
    world.tamper("UPDATE users SET device_list = $1 WHERE user_id = $2", vec![old, bob.id()?.as_bytes().to_vec()]).await?;
    assert_eq!(alice.engine.find_user("bob").await.unwrap_err().code(), "ROLLED_BACK");
    Ok(())
}

fn last_seq(p: &sc_testkit::Person, c: ConversationId) -> Result<u64> {
    Ok(p.engine.read(|r| r.conversation(c))?.unwrap().last_seq)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_the_server_plays_again_is_not_shown_again() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "pay me 100").await?;
    bob.sees(c, "pay me 100").await?;
    alice.settle().await?;
    let seq = last_seq(&alice, c)?;
    let replay = "INSERT INTO log (conversation_id, seq, kind, generation, epoch, sender_user, sender_device, temp_id, sent_at, payload) \
                  SELECT conversation_id, seq + 1, kind, generation, epoch, sender_user, sender_device, $1, sent_at, payload FROM log \
                  WHERE conversation_id = $2 AND kind = 0 ORDER BY seq DESC LIMIT 1";
    assert_eq!(world.tamper(replay, vec![uuid::Uuid::now_v7().as_bytes().to_vec(), c.as_bytes().to_vec()]).await?, 1);
    world.stop_server().await;
    world.start_server().await?;
    bob.engine.network_changed();
    until("bob has met the entry", || async { Ok((last_seq(&bob, c)? > seq).then_some(())) }).await?;
    assert_eq!(bob.texts(c)?, ["pay me 100"]);
    bob.say(c, "still fine").await?;
    alice.engine.network_changed();
    alice.sees(c, "still fine").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_the_server_damages_is_listed_asked_for_and_healed() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "first").await?;
    bob.sees(c, "first").await?;
    let dir = bob.close().await?;
    alice.say(c, "second").await?;
    alice.settle().await?;
    let damage = "UPDATE log SET payload = CAST(substr(payload, 1, length(payload) - 20) || x'0000000000000000000000000000000000000000' AS BLOB) \
                  WHERE conversation_id = $1 AND seq = (SELECT MAX(seq) FROM log WHERE conversation_id = $1)";
    assert_eq!(world.tamper(damage, vec![c.as_bytes().to_vec()]).await?, 1);
    world.stop_server().await;
    world.start_server().await?;
    alice.engine.network_changed();
    alice.online().await?;
    let bob = sc_testkit::Person::open(&dir, "bob").await?;
    until("the damage is seen or healed", || async {
        Ok((bob.rows(c)?.iter().any(|m| m.kind == RowKind::Undecryptable) || bob.texts(c)?.len() == 2).then_some(()))
    })
    .await?;
    bob.sees(c, "second").await?;
    bob.all_readable(c).await?;
    assert_eq!(bob.texts(c)?, ["first", "second"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_the_server_removes_leaves_a_line() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "first").await?;
    bob.sees(c, "first").await?;
    let dir = bob.close().await?;
    for text in ["held back", "third"] {
        alice.say(c, text).await?;
    }
    alice.settle().await?;
    let hide = "DELETE FROM log WHERE conversation_id = $1 AND seq = (SELECT MAX(seq) - 1 FROM log WHERE conversation_id = $1)";
    assert_eq!(world.tamper(hide, vec![c.as_bytes().to_vec()]).await?, 1);
    let close = "UPDATE log SET seq = seq - 1 WHERE conversation_id = $1 AND seq = (SELECT MAX(seq) FROM log WHERE conversation_id = $1)";
    assert_eq!(world.tamper(close, vec![c.as_bytes().to_vec()]).await?, 1);
    world.stop_server().await;
    world.start_server().await?;
    let bob = sc_testkit::Person::open(&dir, "bob").await?;
    bob.sees(c, "third").await?;
    bob.sees_event(c, "gap").await?;
    assert_eq!(bob.texts(c)?, ["first", "third"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_the_server_invents_lets_nobody_in() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, eve) = (world.person("alice").await?, world.person("bob").await?, world.person("eve").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "between us").await?;
    bob.sees(c, "between us").await?;
    alice.settle().await?;
    let join = "INSERT INTO members (conversation_id, user_id, role, read_seq) VALUES ($1, $2, 2, 0)";
    world.tamper(join, vec![c.as_bytes().to_vec(), eve.id()?.as_bytes().to_vec()]).await?;
    // The server forgets what it had in memory, and Eve's device joins by itself: the server lets it.
    let mut world = world;
    world.stop_server().await;
    world.start_server().await?;
    for p in [&alice, &bob, &eve] {
        p.engine.network_changed();
        p.online().await?;
    }
    // Eve's own client will not enter a conversation of two as a third; one that would is refused by the others
    // (`Facts::vet`), who keep the people they have added themselves.
    until("eve's device has tried", || async {
        Ok(eve.engine.read(|r| r.conversation(c))?.filter(|c| c.state != sc_store::model::ConversationState::Joining).map(|_| ()))
    })
    .await?;
    alice.say(c, "eve must not read this").await?;
    bob.sees(c, "eve must not read this").await?;
    assert!(eve.engine.read(|r| r.search("eve must not read", &SearchFilter::default(), 5))?.is_empty());
    assert_eq!(alice.engine.read(|r| r.conversation(c))?.unwrap().peer, Some(bob.id()?), "what the conversation is has not changed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_account_is_told_so_and_keeps_what_it_has() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    assert_eq!(world.tamper("UPDATE users SET status = 'SUSPENDED' WHERE user_id = $1", vec![bob.id()?.as_bytes().to_vec()]).await?, 1);
    let bob = bob.restart().await?;
    let suspended = ConnectionState::LoggedOut(ErrorCode::AccountSuspended);
    until("bob is told", || async { Ok((*bob.engine.connection()?.borrow() == suspended).then_some(())) }).await?;
    let login = bob.engine.login(&world.url(), "bob", &sc_testkit::password("bob"), "laptop").await;
    assert_eq!(login.unwrap_err().code(), "ACCOUNT_SUSPENDED");
    assert_eq!(bob.texts(c)?, ["hello"]);
    Ok(())
}
