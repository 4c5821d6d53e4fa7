//! A server that forges, forks and reorders what happens in a group. What it does goes into its own store or through its own
//! doors; the clients are the real ones.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::{Context as _, Result};
use sc_e2ee::group::{Group, PublicState};
use sc_engine::ResetScope;
use sc_protocol::frame::{Envelope, EnvelopeKind};
use sc_protocol::rest::{Appended, GroupState, PostCommit};
use sc_protocol::{Blob, ConversationId, TempId, UserId};
use sc_store::model::{ConversationState, RowKind};
use sc_store::search::SearchFilter;
use sc_testkit::{PATIENCE, Person, World, until};

async fn restart(world: &mut World, people: &[&Person]) -> Result<()> {
    world.stop_server().await;
    world.start_server().await?;
    for p in people {
        p.engine.network_changed();
        p.online().await?;
    }
    Ok(())
}

/// A client that has no scruples: it joins by itself wherever the server lets it.
async fn force_join(eve: &Person, c: ConversationId) -> Result<()> {
    let api = eve.engine.http()?;
    let own = eve.engine.account().context("account")?.own();
    let state: GroupState = api.get(&format!("/v1/conversations/{c}/group")).await?;
    let public = PublicState { group_info: state.group_info.to_vec(), ratchet_tree: state.ratchet_tree.to_vec() };
    let (_, _, sent) = Group::rejoin(&eve.engine.db().crypto, &own.device, &own.certificate, &public)?;
    let post = PostCommit {
        temp_id: TempId::generate(),
        generation: state.generation,
        epoch: state.epoch,
        commit: Blob::from(sent.commit),
        welcome: None,
        group_info: Blob::from(sent.group_info),
        add_users: Vec::new(),
        remove_users: Vec::new(),
    };
    let _: Appended = api.post(&format!("/v1/conversations/{c}/commits"), &post).await?;
    Ok(())
}

fn state(p: &Person, c: ConversationId) -> Result<ConversationState> {
    Ok(p.engine.read(|r| r.conversation(c))?.context("known")?.state)
}

async fn refused(p: &Person, c: ConversationId, reason: &str) -> Result<()> {
    until(&format!("{} refuses with {reason}", p.name), || async {
        let told = p.rows(c)?.iter().any(|m| m.kind == RowKind::System && m.body.contains(reason));
        Ok((told && state(p, c)? == ConversationState::Broken).then_some(()))
    })
    .await
}

async fn let_in(world: &World, c: ConversationId, who: UserId) -> Result<()> {
    let join = "INSERT INTO members (conversation_id, user_id, role, read_seq) VALUES ($1, $2, 1, 0)";
    assert_eq!(world.tamper(join, vec![c.as_bytes().to_vec(), who.as_bytes().to_vec()]).await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_the_server_adds_by_a_forged_join_is_refused_and_reads_nothing() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob, carol, eve) =
        (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?, world.person("eve").await?);
    let direct = alice.direct("bob").await?;
    let group = alice.engine.create_group("friends", vec![bob.id()?, alice.engine.find_user("carol").await?.user_id]).await?;
    for c in [direct, group] {
        alice.say(c, "between us").await?;
        bob.sees(c, "between us").await?;
        let_in(&world, c, eve.id()?).await?;
    }
    carol.sees(group, "between us").await?;
    // Her own client is asked nothing: it must not take part in what follows.
    eve.engine.settle(PATIENCE).await?;
    restart(&mut world, &[&alice, &bob, &carol, &eve]).await?;
    for (c, reason) in [(direct, "third_person_in_direct"), (group, "stranger_joined")] {
        // She is a member by the server's word, and the server takes her commit.
        if let Err(e) = force_join(&eve, c).await {
            // Her own client may have got in first; either way her leaf is in the server's group.
            assert!(e.to_string().contains("invalid") || e.to_string().contains("epoch") || e.to_string().contains("moved on"), "{e}");
        }
        refused(&alice, c, reason).await?;
        refused(&bob, c, reason).await?;
        let row = alice.say(c, "eve must not read this").await?;
        assert!(row.seq.is_none());
    }
    assert!(eve.engine.read(|r| r.search("eve must not read", &SearchFilter::default(), 5))?.is_empty());
    let waiting = |p: &Person, c| -> Result<bool> { Ok(p.rows(c)?.iter().any(|m| m.body == "eve must not read this" && m.seq.is_none())) };
    assert!(waiting(&alice, direct)? && waiting(&alice, group)?, "nothing was sent into a group with her");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_package_the_server_swaps_is_not_used() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob, eve) = (world.person("alice").await?, world.person("bob").await?, world.person("eve").await?);
    let device = |p: &Person| p.engine.account().unwrap().device.device_id.as_bytes().to_vec();
    let swap = "UPDATE key_packages SET key_package = (SELECT k.key_package FROM key_packages k WHERE k.device_id = $2 AND k.suite = key_packages.suite LIMIT 1) \
                WHERE device_id = $1";
    assert!(world.tamper(swap, vec![device(&bob), device(&eve)]).await? > 0);
    let c = alice.direct("bob").await?;
    alice.say(c, "for bob alone").await?;
    alice.sees_event(c, "refused").await?;
    assert!(alice.rows(c)?.iter().any(|m| m.body.contains("IDENTITY_MISMATCH")), "and it says why");
    assert!(eve.engine.read(|r| r.search("for bob", &SearchFilter::default(), 5))?.is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_nobody_signed_is_refused_and_the_session_repaired() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "before").await?;
    bob.sees(c, "before").await?;
    alice.settle().await?;
    let (user, device) = (bob.id()?, bob.engine.account().unwrap().device.device_id);
    let app = world.server.as_ref().unwrap().app.clone();
    let forged = app.writer.write(move |cx| {
        Box::pin(async move {
            let now = cx.now;
            let seq = cx.conv(c).await?.assign();
            let envelope = Envelope {
                conversation_id: c,
                seq,
                kind: EnvelopeKind::Reset,
                generation: 1,
                epoch: 0,
                sender_user: user,
                sender_device: device,
                temp_id: TempId::generate(),
                sent_at: now,
                payload: Blob::from(vec![7; 200]),
                ratchet_tree: None,
            };
            cx.append(&envelope).await?;
            cx.deliver(envelope);
            Ok(())
        })
    });
    forged.await?;
    refused(&alice, c, "reset_not_signed").await?;
    alice.say(c, "waits").await?;
    let report = alice.engine.reset(Some(c), ResetScope::Device, None, PATIENCE).await?;
    assert_eq!((report.repaired, report.waiting), (1, 0));
    bob.sees(c, "waits").await?;
    bob.say(c, "after").await?;
    alice.sees(c, "after").await?;
    assert_eq!(alice.engine.read(|r| r.conversation(c))?.unwrap().generation, 0, "the reset never happened");
    Ok(())
}

/// The newest entry as its receiver will get it is another member's commit, also valid: two members now see two groups.
async fn fork(world: &mut World, alice: &Person, bob: Person, carol: &Person, c: ConversationId) -> Result<Person> {
    let dir = bob.close().await?;
    let epoch = carol.engine.authenticator(c).await?.context("a group")?.0;
    // Carol's client builds a commit that she never sends; the server has it all the same.
    let other = carol
        .engine
        .db()
        .write(move |cx| {
            let conversation = cx.conversation(c)?;
            let built = cx.with_group(&conversation, |g, mls| {
                let sent = g.commit(mls, Vec::new(), &[])?;
                g.clear_pending(mls.storage)?;
                Ok(sent.commit)
            })?;
            Ok(built.unwrap_or_default())
        })
        .await?;
    alice.engine.reset(Some(c), ResetScope::Device, None, PATIENCE).await?;
    until("alice has committed", || async { Ok(alice.engine.authenticator(c).await?.filter(|a| a.0 == epoch + 1).map(|_| ())) }).await?;
    let device = carol.engine.account().unwrap().device.device_id;
    let swap = "UPDATE log SET payload = $1, sender_user = $2, sender_device = $3 WHERE conversation_id = $4 AND seq = (SELECT MAX(seq) FROM log WHERE conversation_id = $4)";
    let values = vec![other, carol.id()?.as_bytes().to_vec(), device.as_bytes().to_vec(), c.as_bytes().to_vec()];
    assert_eq!(world.tamper(swap, values).await?, 1);
    let bob = Person::open(&dir, "bob").await?;
    bob.online().await?;
    let (a, b) = (alice.engine.authenticator(c).await?.unwrap(), bob.engine.authenticator(c).await?.unwrap());
    assert_eq!(a.0, b.0, "the same epoch by its number");
    assert_ne!(a.1, b.1, "and not the same group");
    Ok(bob)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_members_who_are_shown_two_groups_notice_and_end_in_one() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let c = alice
        .engine
        .create_group("fork", vec![alice.engine.find_user("bob").await?.user_id, alice.engine.find_user("carol").await?.user_id])
        .await?;
    alice.say(c, "together").await?;
    bob.sees(c, "together").await?;
    carol.sees(c, "together").await?;
    alice.settle().await?;
    let bob = fork(&mut world, &alice, bob, &carol, c).await?;
    // What is said now is said into two groups. It is listed, not lost, and the session heals by itself.
    for text in ["one", "two", "three"] {
        alice.say(c, text).await?;
    }
    alice.settle().await?;
    bob.sees_event(c, "session_refreshed").await?;
    for text in ["one", "two", "three"] {
        bob.sees(c, text).await?;
    }
    bob.all_readable(c).await?;
    bob.say(c, "one group again").await?;
    alice.sees(c, "one group again").await?;
    carol.sees(c, "one group again").await?;
    assert_eq!(alice.engine.authenticator(c).await?, bob.engine.authenticator(c).await?);
    Ok(())
}

async fn move_entry(world: &World, c: ConversationId, from: u64, to: u64) -> Result<()> {
    let app = world.server.as_ref().unwrap().app.clone();
    let done = app.writer.write(move |cx| {
        Box::pin(async move {
            sqlx::query("UPDATE log SET seq = $1 WHERE conversation_id = $2 AND seq = $3")
                .bind(i64::try_from(to).unwrap())
                .bind(c.as_bytes().as_slice())
                .bind(i64::try_from(from).unwrap())
                .execute(&mut cx.conn)
                .await?;
            Ok(())
        })
    });
    Ok(done.await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_the_server_shows_in_another_order_are_marked() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let c = alice.direct("bob").await?;
    alice.say(c, "first").await?;
    bob.sees(c, "first").await?;
    let dir = bob.close().await?;
    for text in ["do not", "agree"] {
        alice.say(c, text).await?;
    }
    alice.settle().await?;
    // The two change places, by way of a third.
    for (from, to) in [(2, 1_000), (3, 2), (1_000, 3)] {
        let newest = alice.engine.read(|r| r.conversation(c))?.unwrap().last_seq;
        let place = |n: u64| if n < 10 { newest - 3 + n } else { n };
        move_entry(&world, c, place(from), place(to)).await?;
    }
    let bob = Person::open(&dir, "bob").await?;
    bob.sees(c, "agree").await?;
    bob.sees(c, "do not").await?;
    assert_eq!(bob.texts(c)?, ["first", "agree", "do not"], "the order of the log is shown");
    bob.sees_event(c, "gap").await?;
    Ok(())
}
