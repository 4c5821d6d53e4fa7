//! Calls through a real server: who rings, who talks, and what every timeline tells afterwards.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::{Result, ensure};
use sc_engine::call::{EndCause, Phase};
use sc_engine::{Event, ResetScope};
use sc_media::Media;
use sc_media::audio::{AudioSetup, Input, Output};
use sc_protocol::ConversationId;
use sc_store::model::{CallLine, CallOutcome, System};
use sc_testkit::calls::{options, samples, scale, tones};
use sc_testkit::{Person, World, until};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Gives a device ears and a mouth.
fn media(p: &Person, input: Input, output: Output) -> Arc<Media> {
    let (media, events) = Media::start(options(), AudioSetup { input, output });
    p.engine.attach_media(media.clone(), events);
    media
}

fn silent(p: &Person) -> Arc<Media> {
    media(p, Input::Silence, Output::Nothing)
}

async fn phase(p: &Person, wanted: Phase) -> Result<()> {
    until(&format!("{} is {wanted:?}", p.name), || async { Ok((p.engine.call().map(|c| c.phase) == Some(wanted)).then_some(())) }).await
}

async fn gone(p: &Person) -> Result<()> {
    until(&format!("{} has no call", p.name), || async { Ok(p.engine.call().is_none().then_some(())) }).await
}

/// The calls of a timeline, in its order.
fn lines(p: &Person, c: ConversationId) -> Result<Vec<CallLine>> {
    let rows = p.rows(c)?;
    Ok(rows
        .iter()
        .filter_map(|m| serde_json::from_str(&m.body).ok())
        .filter_map(|s| if let System::Call(l) = s { Some(l) } else { None })
        .collect())
}

/// Waits until all of them tell the same, and that.
async fn tell(people: &[&Person], c: ConversationId, outcomes: &[CallOutcome]) -> Result<()> {
    until(&format!("all tell {outcomes:?}"), || async {
        let all: Vec<Vec<CallLine>> = people.iter().map(|p| lines(p, c)).collect::<Result<_>>()?;
        let told: Vec<_> = all[0].iter().filter_map(|l| l.outcome).collect();
        Ok((all.iter().all(|l| *l == all[0]) && told == outcomes).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_rings_on_every_device_and_one_of_them_talks() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let phone = world.second_device(&bob, 2).await?;
    let path = |n: &str| world.dir.path().join(n);
    scale(&path("scale.wav"), 8)?;
    media(&alice, Input::File(path("scale.wav")), Output::Nothing);
    silent(&bob);
    media(&phone, Input::Silence, Output::File(path("phone.wav")));
    let c = alice.direct("bob").await?;
    alice.say(c, "shall I call you?").await?;
    for d in [&bob, &phone] {
        d.sees(c, "shall I call you?").await?;
    }
    alice.engine.start_call(c, false).await?;
    for d in [&bob, &phone] {
        phase(d, Phase::Incoming).await?;
    }
    phase(&alice, Phase::Calling).await?;
    let busy = alice.engine.start_call(c, false).await.unwrap_err();
    assert_eq!(busy.code(), "IN_CALL");
    phone.engine.accept_call(false).await?;
    phase(&bob, Phase::Ended(EndCause::Elsewhere)).await?;
    for d in [&alice, &phone] {
        phase(d, Phase::Active).await?;
    }
    // The thirty digits are the same for both.
    assert_eq!(alice.engine.epoch_check(c).await?, phone.engine.epoch_check(c).await?);
    tokio::time::sleep(Duration::from_secs(3)).await;
    phone.engine.hang_up().await?;
    phase(&alice, Phase::Ended(EndCause::HungUp)).await?;
    tell(&[&alice, &bob, &phone], c, &[CallOutcome::Ended]).await?;
    assert!((2..=5).contains(&lines(&alice, c)?[0].seconds));
    assert_scale(&path("phone.wav")).await?;
    gone(&alice).await
}

async fn assert_scale(path: &Path) -> Result<()> {
    let steps = until("the recording is complete", || async {
        let mut steps = samples(path).map(|s| tones(&s)).unwrap_or_default();
        steps.dedup();
        Ok((steps.len() >= 5).then_some(steps))
    })
    .await?;
    ensure!(steps.windows(2).all(|w| w[1] == w[0] + 100), "{steps:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_about_is_told_alike_on_both_sides() -> Result<()> {
    let world = World::new().await?;
    let [alice, bob, carol] = [world.person("alice").await?, world.person("bob").await?, world.person("carol").await?];
    [&alice, &bob, &carol].into_iter().for_each(|p| drop(silent(p)));
    let c = alice.direct("bob").await?;
    // Declined.
    alice.settle().await?;
    alice.engine.start_call(c, false).await?;
    phase(&bob, Phase::Incoming).await?;
    bob.engine.hang_up().await?;
    phase(&alice, Phase::Ended(EndCause::Declined)).await?;
    // Given up by the caller.
    alice.engine.hang_up().await?;
    gone(&alice).await?;
    alice.engine.start_call(c, false).await?;
    phase(&bob, Phase::Incoming).await?;
    alice.engine.hang_up().await?;
    phase(&bob, Phase::Ended(EndCause::Missed)).await?;
    tell(&[&alice, &bob], c, &[CallOutcome::Declined, CallOutcome::Missed]).await?;
    // In another call.
    alice.engine.hang_up().await?;
    bob.engine.hang_up().await?;
    gone(&bob).await?;
    let with_carol = carol.direct("bob").await?;
    carol.settle().await?;
    carol.engine.start_call(with_carol, true).await?;
    phase(&bob, Phase::Incoming).await?;
    bob.engine.accept_call(false).await?;
    phase(&carol, Phase::Active).await?;
    for who in [&bob, &carol] {
        assert!(lines(who, with_carol)?.iter().all(|l| l.video), "a video call is one in the timeline");
    }
    gone(&alice).await?;
    alice.engine.start_call(c, false).await?;
    phase(&alice, Phase::Ended(EndCause::Busy)).await?;
    tell(&[&alice, &bob], c, &[CallOutcome::Declined, CallOutcome::Missed, CallOutcome::Busy]).await?;
    assert_eq!(bob.engine.call().map(|s| s.phase), Some(Phase::Active), "the call with carol goes on");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_off_finds_a_missed_call_and_does_not_ring() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    silent(&alice);
    let c = alice.direct("bob").await?;
    alice.say(c, "later").await?;
    bob.sees(c, "later").await?;
    let dir = bob.close().await?;
    alice.engine.start_call(c, false).await?;
    phase(&alice, Phase::Calling).await?;
    alice.engine.hang_up().await?;
    alice.say(c, "you were not there").await?;
    alice.settle().await?;
    let bob = Person::open(&dir, "bob").await?;
    let mut events = bob.engine.events();
    silent(&bob);
    bob.sees(c, "you were not there").await?;
    tell(&[&alice, &bob], c, &[CallOutcome::Missed]).await?;
    // The next call is the first thing this device shows: not even the end of the one that is over.
    gone(&alice).await?;
    alice.engine.start_call(c, false).await?;
    phase(&bob, Phase::Incoming).await?;
    let mut shown = 0;
    while let Ok(event) = events.try_recv() {
        shown += usize::from(matches!(event, Event::Call));
    }
    assert_eq!(shown, 1);
    Ok(())
}

/// The conversation, its first message and the call all come in one piece.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_call_of_somebody_new_rings_where_a_device_comes_online() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    silent(&alice);
    let dir = bob.close().await?;
    let c = alice.direct("bob").await?;
    alice.say(c, "are you there?").await?;
    alice.settle().await?;
    let c = alice.direct("bob").await?;
    alice.engine.start_call(c, false).await?;
    phase(&alice, Phase::Calling).await?;
    alice.settle().await?;
    let bob = Person::open(&dir, "bob").await?;
    silent(&bob);
    phase(&bob, Phase::Incoming).await?;
    bob.engine.accept_call(false).await?;
    phase(&alice, Phase::Active).await?;
    alice.engine.hang_up().await?;
    tell(&[&alice, &bob], c, &[CallOutcome::Ended]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn two_who_call_each_other_at_once_talk_and_have_one_call_in_their_timelines() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    let (a, b) = (silent(&alice), silent(&bob));
    let c = alice.direct("bob").await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    let (one, two) = tokio::join!(alice.engine.start_call(c, false), bob.engine.start_call(c, false));
    ensure!(one.is_ok() && two.is_ok());
    phase(&alice, Phase::Active).await?;
    phase(&bob, Phase::Active).await?;
    assert_eq!(alice.engine.call().unwrap().call, bob.engine.call().unwrap().call);
    until("both hear", || async {
        let heard = |m: &Media| m.quality().is_some_and(|q| q.heard.played > 20);
        Ok((heard(&a) && heard(&b)).then_some(()))
    })
    .await?;
    bob.engine.hang_up().await?;
    tell(&[&alice, &bob], c, &[CallOutcome::Ended]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_outlives_the_server_and_its_end_is_told_later() -> Result<()> {
    let mut world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    silent(&alice);
    let heard = silent(&bob);
    let c = alice.direct("bob").await?;
    alice.settle().await?;
    alice.engine.start_call(c, false).await?;
    phase(&bob, Phase::Incoming).await?;
    bob.engine.accept_call(false).await?;
    phase(&alice, Phase::Active).await?;
    phase(&bob, Phase::Active).await?;
    world.stop_server().await;
    let before = heard.quality().unwrap().heard.played;
    until("bob still hears", || async { Ok(heard.quality().filter(|q| q.heard.played > before + 50).map(drop)) }).await?;
    assert_eq!(alice.engine.start_call(c, false).await.unwrap_err().code(), "OFFLINE");
    alice.engine.hang_up().await?;
    // The path is gone with the other side; what it said waits for the server.
    phase(&bob, Phase::Reconnecting).await?;
    world.start_server().await?;
    alice.engine.network_changed();
    bob.engine.network_changed();
    tell(&[&alice, &bob], c, &[CallOutcome::Ended]).await?;
    phase(&bob, Phase::Ended(EndCause::HungUp)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whose_identity_changed_after_it_was_verified_is_not_called() -> Result<()> {
    let world = World::new().await?;
    let (alice, bob) = (world.person("alice").await?, world.person("bob").await?);
    silent(&alice);
    let c = alice.direct("bob").await?;
    alice.say(c, "hello").await?;
    bob.sees(c, "hello").await?;
    let number = alice.engine.safety_number(bob.id()?)?.digits();
    alice.engine.set_verified(bob.id()?, true, &number).await?;
    bob.engine.reset(None, ResetScope::Identity, Some(&sc_testkit::password("bob")), sc_testkit::PATIENCE).await?;
    until("alice knows", || async {
        let user = bob.id()?;
        let contact = alice.engine.read(|r| r.contact(user))?;
        Ok(contact.filter(|k| k.changed == sc_store::model::IdentityChange::Blocking).map(drop))
    })
    .await?;
    assert_eq!(alice.engine.start_call(c, false).await.unwrap_err().code(), "IDENTITY_CHANGED");
    Ok(())
}
