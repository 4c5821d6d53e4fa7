//! A client is killed in every transaction of everything it does, before and after the commit: sending, receiving, every
//! kind of change of a group. It starts again, and all members end readable and in agreement.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::{Context as _, Result};
use sc_engine::core::Crash;
use sc_engine::{EngineError, ResetScope};
use sc_protocol::{ConversationId, UserId};
use sc_testkit::{Person, World, agree, until};
use std::time::Duration;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Send,
    Receive,
    Add,
    Remove,
    SeeCommit,
    Rejoin,
    ResetForEveryone,
    SeeReset,
}

struct Scene {
    alice: Option<Person>,
    bob: Person,
    carol: Person,
    c: ConversationId,
    inside: bool,
    said: u32,
}

impl Scene {
    fn alice(&self) -> &Person {
        self.alice.as_ref().unwrap()
    }

    fn carol_id(&self) -> Result<UserId> {
        self.carol.id()
    }

    async fn is_dead(&self) -> bool {
        matches!(self.alice().engine.db().write(|_| Ok(())).await, Err(EngineError::Stopped))
    }

    /// Does it with alice as the victim. Errors are what a crash looks like from inside.
    async fn carry_out(&mut self, step: Step) -> Result<()> {
        self.said += 1;
        let text = format!("{step:?} {}", self.said);
        let short = Duration::from_millis(300);
        let ignore = |r: Result<(), EngineError>| match r {
            Ok(()) | Err(EngineError::Stopped) => Ok(()),
            Err(e) => Err(e),
        };
        match step {
            Step::Send => ignore(self.alice().engine.send_text(self.c, &text, None).await.map(|_| ()))?,
            Step::Receive => {
                self.bob.say(self.c, &text).await?;
                self.bob.settle().await?;
            }
            Step::Add => ignore(self.alice().engine.add_members(self.c, vec![self.carol_id()?]).await)?,
            Step::Remove => ignore(self.alice().engine.remove_members(self.c, vec![self.carol_id()?]).await)?,
            Step::SeeCommit => {
                self.bob.engine.reset(Some(self.c), ResetScope::Device, None, short).await?;
                self.bob.say(self.c, &text).await?;
            }
            Step::Rejoin => ignore(self.alice().engine.reset(Some(self.c), ResetScope::Device, None, short).await.map(|_| ()))?,
            Step::ResetForEveryone => {
                ignore(self.alice().engine.reset(Some(self.c), ResetScope::Conversation, None, short).await.map(|_| ()))?;
            }
            Step::SeeReset => {
                self.bob.engine.reset(Some(self.c), ResetScope::Conversation, None, short).await?;
                self.bob.say(self.c, &text).await?;
            }
        }
        Ok(())
    }

    /// After the crash, or when there was none: alice starts again and everybody agrees.
    async fn recover(&mut self, step: Step) -> Result<()> {
        let alice = self.alice.take().unwrap();
        let restarted = alice.restart().await?;
        self.alice = Some(restarted);
        self.alice().online().await?;
        self.alice().settle().await?;
        self.bob.settle().await?;
        // A wish that was not stored is not promised: it is made again.
        match step {
            Step::Add => self.alice().engine.add_members(self.c, vec![self.carol_id()?]).await?,
            Step::Remove => self.alice().engine.remove_members(self.c, vec![self.carol_id()?]).await?,
            _ => {}
        }
        self.alice().settle().await?;
        let last = format!("all well {}", self.said);
        self.bob.say(self.c, &last).await?;
        self.alice().sees(self.c, &last).await?;
        match step {
            Step::Add => self.inside = true,
            Step::Remove => self.inside = false,
            _ => {}
        }
        if self.inside {
            self.carol.sees(self.c, &last).await?;
        }
        agree(&[self.alice(), &self.bob], self.c).await?;
        if self.inside {
            until("the third is in step", || async {
                Ok((self.carol.engine.authenticator(self.c).await? == self.alice().engine.authenticator(self.c).await?).then_some(()))
            })
            .await?;
        }
        Ok(())
    }
}

/// All steps in turn, each until the crash comes too late to meet it.
async fn every_step(steps: &[Step]) -> Result<()> {
    let world = World::with(|c| {
        // A day's work in a minute.
        c.repair_rate = 10_000;
        c.claim_rate = 10_000;
    })
    .await?;
    let (alice, bob, carol) = (world.person("alice").await?, world.person("bob").await?, world.person("carol").await?);
    let c = alice.engine.create_group("crashes", vec![alice.engine.find_user("bob").await?.user_id]).await?;
    alice.say(c, "start").await?;
    bob.sees(c, "start").await?;
    alice.settle().await?;
    alice.engine.set_role(c, bob.id()?, sc_protocol::rest::Role::Owner).await?;
    alice.engine.find_user("carol").await?;
    let mut scene = Scene { alice: Some(alice), bob, carol, c, inside: false, said: 0 };
    for step in steps {
        for at in [Crash::BeforeCommit, Crash::AfterCommit] {
            let mut met = 0;
            for nth in 1..40 {
                if *step == Step::Remove && !scene.inside {
                    scene.bob.engine.add_members(c, vec![scene.carol_id()?]).await?;
                    scene.bob.settle().await?;
                    scene.inside = true;
                }
                if *step == Step::Add && scene.inside {
                    scene.bob.engine.remove_members(c, vec![scene.carol_id()?]).await?;
                    scene.bob.settle().await?;
                    scene.inside = false;
                }
                agree(&[scene.alice(), &scene.bob], c).await?;
                scene.alice().engine.db().crash_at(nth, at).await?;
                scene.carry_out(*step).await?;
                // Dead, or done with everything without meeting the crash.
                let dead = until("the crash, or the end of the work", || async {
                    if scene.is_dead().await {
                        return Ok(Some(true));
                    }
                    let busy = scene.alice().engine.read(|r| r.outbox_len())? > 0 || scene.bob.engine.read(|r| r.outbox_len())? > 0;
                    let level = scene.alice().engine.read(|r| r.conversation(c))?.map(|c| c.last_seq)
                        == scene.bob.engine.read(|r| r.conversation(c))?.map(|c| c.last_seq);
                    Ok((!busy && level).then_some(false))
                })
                .await?;
                scene.recover(*step).await.with_context(|| format!("{step:?}, killed in transaction {nth}, {at:?}"))?;
                if !dead {
                    break;
                }
                met = nth;
            }
            println!("{step:?}: killed in {met} transactions, {at:?}");
            assert!(met > 0, "{step:?} was never met");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_transaction_of_sending_and_receiving() -> Result<()> {
    every_step(&[Step::Send, Step::Receive]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_transaction_of_a_change_of_the_group() -> Result<()> {
    every_step(&[Step::Add, Step::Remove, Step::SeeCommit]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_every_transaction_of_a_repair() -> Result<()> {
    every_step(&[Step::Rejoin, Step::ResetForEveryone, Step::SeeReset]).await
}
