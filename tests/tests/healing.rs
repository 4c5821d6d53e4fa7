//! Sessions that break, and heal.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_engine::ResetScope;
use sc_store::model::{ConversationState, RowKind};
use sc_testkit::{PATIENCE, Person, World, copy_profile, password, until};

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_of_this_device_renews_the_keys_and_loses_nothing() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    let before = alice.engine.authenticator(c).await?;
    let number = alice.engine.safety_number(bob.id()?)?.digits();
    let preview = bob.engine.preview_reset(Some(c), ResetScope::Device)?;
    assert!(preview.history_kept && !preview.safety_numbers_change && preview.people == 1);
    let report = bob.engine.reset(Some(c), ResetScope::Device, None, PATIENCE).await?;
    assert_eq!((report.repaired, report.waiting), (1, 0));
    bob.say(c, "after").await?;
    alice.sees(c, "after").await?;
    alice.sees_event(c, "session_refreshed").await?;
    assert_ne!(alice.engine.authenticator(c).await?, before);
    assert_eq!(alice.engine.safety_number(bob.id()?)?.digits(), number, "who is trusted has not changed");
    assert_eq!(bob.texts(c)?, ["before", "after"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_for_everyone_starts_a_new_group_of_the_same_people() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let ids = vec![alice.engine.find_user("bob").await?.user_id, alice.engine.find_user("carol").await?.user_id];
    let c = alice.engine.create_group("three", ids).await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    carol.sees(c, "before").await?;
    alice.settle().await?;
    let report = alice.engine.reset(Some(c), ResetScope::Conversation, None, PATIENCE).await?;
    assert_eq!(report.waiting, 0);
    alice.say(c, "after").await?;
    bob.sees(c, "after").await?;
    carol.sees(c, "after").await?;
    carol.sees_event(c, "session_reset").await?;
    bob.say(c, "bob after").await?;
    alice.sees(c, "bob after").await?;
    carol.sees(c, "bob after").await?;
    assert_eq!(alice.texts(c)?, carol.texts(c)?);
    assert_eq!(alice.engine.read(|r| r.conversation(c))?.unwrap().generation, 1);
    assert_eq!(carol.engine.authenticator(c).await?, alice.engine.authenticator(c).await?);
    let refused = bob.engine.reset(Some(c), ResetScope::Conversation, None, std::time::Duration::from_secs(3)).await?;
    assert_eq!(refused.repaired, 1, "a plain member's reset is refused and the session stays as it is");
    assert_eq!(bob.engine.read(|r| r.conversation(c))?.unwrap().generation, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_identity_changes_the_safety_number_and_drops_the_verified_mark() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    let bob_id = bob.id()?;
    let number = alice.engine.safety_number(bob_id)?.digits();
    assert_eq!(number, bob.engine.safety_number(alice.id()?)?.digits());
    alice.engine.set_verified(bob_id, true, &number).await?;
    let wrong = bob.engine.reset(None, ResetScope::Identity, Some("not the password"), PATIENCE).await.unwrap_err();
    assert_eq!(wrong.code(), "INVALID_CREDENTIALS");
    bob.engine.reset(None, ResetScope::Identity, Some(&password("bob")), PATIENCE).await?;
    alice.sees_event(c, "identity_changed").await?;
    assert_eq!(bob.texts(c)?, ["before"], "the history stays readable");
    let changed = alice.engine.read(|r| r.contact(bob_id))?.unwrap();
    assert!(!changed.verified);
    assert_ne!(alice.engine.safety_number(bob_id)?.digits(), number);
    let row = alice.say(c, "is it you?").await?;
    assert_eq!(
        (row.status, row.cause.as_str()),
        (sc_store::model::Status::Failed, "IDENTITY_CHANGED"),
        "nothing goes to a changed identity unasked"
    );
    assert_eq!(
        alice.engine.set_verified(bob_id, true, &number).await.unwrap_err().code(),
        "IDENTITY_CHANGED",
        "the old number cannot be confirmed"
    );
    alice.engine.accept_identity(bob_id).await?;
    alice.engine.retry(row.id).await?;
    bob.sees(c, "is it you?").await?;
    bob.say(c, "it is").await?;
    alice.sees(c, "it is").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_restored_from_an_old_copy_notices_renews_its_keys_and_gets_its_messages_back() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "one").await?;
    bob.sees(c, "one").await?;
    alice.settle().await?;
    let old = world.dir.path().join("old-copy");
    let dir = alice.close().await?;
    copy_profile(&dir, &old)?;
    let alice = Person::open(&dir, "alice").await?;
    alice.online().await?;
    alice.say(c, "two, lost by the restore").await?;
    alice.settle().await?;
    bob.say(c, "three").await?;
    alice.sees(c, "three").await?;
    alice.engine.stop().await;
    drop(alice);
    let alice = Person::open(&old, "alice").await?;
    alice.sees(c, "three").await?;
    alice.sees(c, "two, lost by the restore").await?;
    alice.all_readable(c).await?;
    bob.sees_event(c, "session_refreshed").await?;
    alice.say(c, "four").await?;
    bob.sees(c, "four").await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    Ok(())
}

/// The copy knows the message, as one that waits; that it was encrypted and sent, it does not know.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_from_before_a_waiting_message_was_sent_does_not_use_its_keys_again() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    alice.settle().await?;
    world.stop_server().await;
    alice.say(c, "waits").await?;
    let dir = alice.close().await?;
    let copy = world.dir.path().join("copy");
    copy_profile(&dir, &copy)?;
    world.start_server().await?;
    let alice = Person::open(&dir, "alice").await?;
    bob.sees(c, "waits").await?;
    alice.settle().await?;
    alice.close().await?;
    copy_profile(&copy, &dir)?;
    let alice = Person::open(&dir, "alice").await?;
    alice.online().await?;
    alice.say(c, "after").await?;
    bob.sees(c, "after").await?;
    bob.all_readable(c).await?;
    assert_eq!(bob.texts(c)?, ["before", "waits", "after"]);
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_devices_commit_at_once_and_all_agree() -> Result<()> {
    let world = World::new().await?;
    let mut people = Vec::new();
    for name in ["alice", "bob", "carol", "dave", "erin", "frank"] {
        people.push(world.person(name).await?);
    }
    let id = |n: usize| people[n].id();
    let c = people[0].engine.create_group("busy", vec![id(1)?, id(2)?]).await?;
    people[0].say(c, "start").await?;
    people[1].sees(c, "start").await?;
    people[2].sees(c, "start").await?;
    people[0].settle().await?;
    for _ in 0..3 {
        let (a, b, d) = tokio::join!(
            people[0].engine.reset(Some(c), ResetScope::Device, None, PATIENCE),
            people[1].engine.reset(Some(c), ResetScope::Device, None, PATIENCE),
            people[2].say(c, "meanwhile"),
        );
        a?;
        b?;
        d?;
    }
    people[0].engine.add_members(c, vec![id(3)?]).await?;
    people[0].engine.add_members(c, vec![id(4)?]).await?;
    people[0].settle().await?;
    people[2].say(c, "done").await?;
    for p in people.iter().take(5) {
        p.sees(c, "done").await?;
    }
    until("all are in the same epoch", || async {
        let first = people[0].engine.authenticator(c).await?;
        for p in people.iter().take(5) {
            if p.engine.authenticator(c).await? != first {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    for p in people.iter().take(3) {
        p.all_readable(c).await?;
        assert_eq!(p.engine.read(|r| r.conversation(c))?.unwrap().state, ConversationState::Active);
        assert_eq!(p.rows(c)?.iter().filter(|m| m.kind == RowKind::Text && m.body == "meanwhile").count(), 3);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_came_in_while_a_store_was_lost_is_shown_and_let_in_by_the_person_alone() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, dave) = (world.person("alice").await?, world.person("bob").await?, world.person("dave").await?);
    let c = alice.engine.create_group("lost and found", vec![alice.engine.find_user("bob").await?.user_id]).await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    alice.settle().await?;
    let alice = alice.restart().await?;
    let old = world.dir.path().join("old-copy");
    let dir = alice.close().await?;
    copy_profile(&dir, &old)?;
    let alice = Person::open(&dir, "alice").await?;
    alice.online().await?;
    alice.engine.add_members(c, vec![alice.engine.find_user("dave").await?.user_id]).await?;
    alice.settle().await?;
    bob.say(c, "hello dave").await?;
    dave.sees(c, "hello dave").await?;
    alice.engine.stop().await;
    drop(alice);
    // The copy does not know that she added dave herself. It enters no group with somebody it did not see coming in.
    let alice = Person::open(&old, "alice").await?;
    alice.sees_event(c, "refused").await?;
    until("the session is given up", || async {
        Ok((alice.engine.read(|r| r.conversation(c))?.unwrap().state == ConversationState::Broken).then_some(()))
    })
    .await?;
    let preview = alice.engine.preview_reset(Some(c), ResetScope::Device)?;
    assert_eq!(preview.newcomers, [(dave.id()?, "dave".to_owned())]);
    alice.engine.reset(Some(c), ResetScope::Device, None, std::time::Duration::from_secs(2)).await?;
    assert_eq!(alice.engine.read(|r| r.conversation(c))?.unwrap().state, ConversationState::Broken, "a reset alone lets nobody in");
    alice.engine.accept_members(c, vec![dave.id()?]).await?;
    let report = alice.engine.reset(Some(c), ResetScope::Device, None, PATIENCE).await?;
    assert_eq!((report.repaired, report.waiting), (1, 0));
    alice.say(c, "back again").await?;
    bob.sees(c, "back again").await?;
    dave.sees(c, "back again").await?;
    alice.sees(c, "hello dave").await
}
