//! Two and more people talk.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_engine::ConnectionState;
use sc_protocol::rest::Role;
use sc_store::model::Status;
use sc_testkit::{Person, World, until};

#[tokio::test(flavor = "multi_thread")]
async fn two_people_talk_both_ways_in_the_same_order() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "xin chào").await?;
    bob.sees(c, "xin chào").await?;
    bob.say(c, "chào Alice").await?;
    alice.sees(c, "chào Alice").await?;
    alice.settle().await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    assert!(alice.rows(c)?.iter().filter(|m| m.body == "xin chào").all(|m| m.status == Status::Sent && m.seq.is_some()));
    assert_eq!(alice.engine.authenticator(c).await?, bob.engine.authenticator(c).await?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_write_first_at_once_and_end_in_one_conversation() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let (a, b) = tokio::join!(alice.direct("bob"), bob.direct("alice"));
    let (ra, rb) = tokio::join!(alice.say(a?, "from alice"), bob.say(b?, "from bob"));
    ra?;
    rb?;
    let find = |p: &sc_testkit::Person| p.engine.read(|r| r.conversations()).map(|l| l.into_iter().map(|c| c.id).collect::<Vec<_>>());
    let c = until("one conversation on both sides", || async {
        let (x, y) = (find(&alice)?, find(&bob)?);
        Ok((x.len() == 1 && x == y).then(|| x[0]))
    })
    .await?;
    alice.sees(c, "from bob").await?;
    bob.sees(c, "from alice").await?;
    alice.settle().await?;
    bob.settle().await?;
    assert_eq!(alice.texts(c)?, bob.texts(c)?);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_adds_and_removes_people_and_keeps_its_title_secret() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let bob_id = alice.engine.find_user("bob").await?.user_id;
    let carol_id = alice.engine.find_user("carol").await?.user_id;
    let c = alice.engine.create_group("Nhóm bạn", vec![bob_id]).await?;
    alice.say(c, "welcome bob").await?;
    bob.sees(c, "welcome bob").await?;
    until("bob sees the title", || async { Ok(bob.engine.read(|r| r.conversation(c))?.filter(|c| c.title == "Nhóm bạn").map(|_| ())) })
        .await?;
    alice.engine.add_members(c, vec![carol_id]).await?;
    alice.say(c, "welcome carol").await?;
    carol.sees(c, "welcome carol").await?;
    bob.sees(c, "welcome carol").await?;
    assert!(!carol.texts(c)?.contains(&"welcome bob".to_owned()), "history from before joining is not hers");
    bob.sees_event(c, "added").await?;
    alice.engine.remove_members(c, vec![bob_id]).await?;
    alice.say(c, "without bob").await?;
    carol.sees(c, "without bob").await?;
    bob.sees_event(c, "removed").await?;
    assert!(!bob.texts(c)?.contains(&"without bob".to_owned()));
    assert_eq!(bob.say(c, "hello?").await.unwrap_err().downcast::<sc_engine::EngineError>()?.code(), "NOT_A_MEMBER");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_leaves_and_the_others_get_new_keys() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let ids = vec![alice.engine.find_user("bob").await?.user_id, alice.engine.find_user("carol").await?.user_id];
    let c = alice.engine.create_group("three", ids).await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    carol.sees(c, "hello").await?;
    let before = alice.engine.authenticator(c).await?;
    bob.engine.leave(c).await?;
    alice.sees_event(c, "removed").await?;
    carol.sees_event(c, "removed").await?;
    alice.say(c, "bob is gone").await?;
    carol.sees(c, "bob is gone").await?;
    assert_ne!(alice.engine.authenticator(c).await?, before);
    until("the same epoch", || async { Ok((alice.engine.authenticator(c).await? == carol.engine.authenticator(c).await?).then_some(())) })
        .await?;
    assert!(!bob.texts(c)?.contains(&"bob is gone".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_are_held_to_and_an_owner_leaves_once_the_group_is_handed_over() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let ids = vec![alice.engine.find_user("bob").await?.user_id, alice.engine.find_user("carol").await?.user_id];
    let c = alice.engine.create_group("three", ids).await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    carol.sees(c, "hello").await?;
    carol.engine.remove_members(c, vec![bob.id()?]).await?;
    carol.sees_event(c, "refused").await?;
    assert_eq!(carol.engine.set_role(c, carol.id()?, Role::Owner).await.unwrap_err().code(), "FORBIDDEN");
    alice.engine.leave(c).await?;
    alice.sees_event(c, "refused").await?;
    alice.engine.set_role(c, bob.id()?, Role::Owner).await?;
    let role = |p: &Person, of| {
        p.engine.read(|r| r.conversation(c)).map(|c| c.and_then(|c| c.roster.iter().find(|m| m.user_id == of).map(|m| m.role)))
    };
    until("bob knows that the group is his", || async { Ok((role(&bob, bob.id()?)? == Some(Role::Owner)).then_some(())) }).await?;
    assert_eq!(role(&alice, alice.id()?)?, Some(Role::Admin));
    alice.engine.leave(c).await?;
    bob.sees_event(c, "removed").await?;
    bob.engine.remove_members(c, vec![carol.id()?]).await?;
    carol.sees_event(c, "removed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_device_is_logged_out_and_reads_nothing_more() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    let phone = world.second_device(&alice, 2).await?;
    until("the phone is in the group", || async { Ok(phone.engine.authenticator(c).await.ok().flatten().map(|_| ())) }).await?;
    bob.say(c, "to both").await?;
    phone.sees(c, "to both").await?;
    alice.engine.revoke_device(phone.engine.account().unwrap().device.device_id).await?;
    let state = phone.engine.connection()?;
    until("the phone is logged out", || async {
        phone.engine.network_changed();
        Ok(matches!(*state.borrow(), ConnectionState::LoggedOut(_)).then_some(()))
    })
    .await?;
    let epoch = |p: &Person| {
        let engine = p.engine.clone();
        async move { engine.authenticator(c).await.map(|a| a.map_or(0, |(epoch, _)| epoch)) }
    };
    let with_phone = epoch(&phone).await?;
    until("the phone's leaf is gone", || async {
        Ok((epoch(&bob).await? > with_phone && epoch(&alice).await? > with_phone).then_some(()))
    })
    .await?;
    bob.say(c, "not for the phone").await?;
    alice.sees(c, "not for the phone").await?;
    assert_eq!(phone.texts(c)?.last().map(String::as_str), Some("to both"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_device_is_linked_by_code_and_takes_part() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    let phone = world.second_device(&alice, 2).await?;
    until("the phone is in the group", || async { Ok(phone.engine.authenticator(c).await.ok().flatten().map(|_| ())) }).await?;
    bob.say(c, "to both of you").await?;
    alice.sees(c, "to both of you").await?;
    phone.sees(c, "to both of you").await?;
    phone.say(c, "from the phone").await?;
    bob.sees(c, "from the phone").await?;
    alice.sees(c, "from the phone").await?;
    assert_eq!(alice.engine.safety_number(bob.id()?)?.digits(), phone.engine.safety_number(bob.id()?)?.digits());
    Ok(())
}
