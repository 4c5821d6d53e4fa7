//! The open window of the app over a real server: what it is told, in which order, and that nothing falls out of it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, missing_docs)]

use anyhow::Result;
use sc_app::command::{AppEvent, Command};
use sc_app::timeline::{Delta, TimelineUpdate};
use sc_app::view::Row;
use sc_app::{App, AppOptions};
use sc_testkit::{PASSPHRASE, World, password};
use std::time::Duration;
use tokio::sync::broadcast::Receiver;

/// What the UI does with what it is told.
struct Drawn {
    rows: Vec<Row>,
    revision: u32,
}

impl Drawn {
    fn apply(&mut self, u: TimelineUpdate) {
        assert_eq!(u.revision, self.revision + 1, "no revision is left out");
        self.revision = u.revision;
        match u.delta {
            Delta::Reset { rows } => self.rows = rows,
            Delta::Splice { at, remove, rows } => drop(self.rows.splice(at..at + remove, rows)),
            Delta::Patch { at, row } => self.rows[at] = *row,
        }
    }

    /// Follows what is told until the window is as wanted.
    async fn until(&mut self, events: &mut Receiver<AppEvent>, wanted: impl Fn(&[Row]) -> bool) -> Result<()> {
        let follow = async {
            while !wanted(&self.rows) {
                if let AppEvent::Timeline { update } = events.recv().await? {
                    self.apply(update);
                }
            }
            anyhow::Ok(())
        };
        match tokio::time::timeout(Duration::from_secs(20), follow).await {
            Ok(r) => r,
            Err(_) => anyhow::bail!("the window stays as {:?}", self.rows.iter().map(|r| (&r.text, &r.status)).collect::<Vec<_>>()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_message_of_a_conversation_stays_in_sight_when_it_is_sent() -> Result<()> {
    let mut world = World::new().await?;
    let bob = world.person("bob").await?;
    let passphrase = Some(PASSPHRASE.to_owned());
    let options = AppOptions {
        dir: world.dir.path().join("alice"),
        use_keyring: false,
        passphrase,
        device_name: "laptop".into(),
        audio: None,
        video: None,
    };
    let app = App::start(options).await?;
    let register = Command::Register { server: world.url(), username: "alice".into(), password: password("alice") };
    app.call(register).await?;
    app.engine()?.settle(Duration::from_secs(20)).await?;
    app.call(Command::FindUser { name: "bob".into() }).await?;
    // Without the server everything waits: the conversation itself, and what is written.
    world.stop_server().await;
    let conversation: String = serde_json::from_value(app.call(Command::Direct { user: bob.id()?.to_string() }).await?)?;
    let mut events = app.events();
    let opened = app.call(Command::OpenTimeline { conversation: conversation.clone(), around: None }).await?;
    let opened: TimelineUpdate = serde_json::from_value(opened)?;
    let Delta::Reset { rows } = opened.delta else { anyhow::bail!("a window begins whole") };
    let mut drawn = Drawn { rows, revision: opened.revision };
    assert!(drawn.rows.is_empty());

    for text in ["xin chào", "còn đó không"] {
        app.call(Command::Send { conversation: conversation.clone(), text: text.into(), reply_to: None }).await?;
    }
    drawn.until(&mut events, |rows| rows.iter().filter(|r| r.status == "pending").count() == 2).await?;
    world.start_server().await?;
    app.call(Command::NetworkChanged).await?;
    drawn.until(&mut events, |rows| rows.iter().filter(|r| r.status == "sent").count() == 2).await?;
    let texts: Vec<&str> = drawn.rows.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(texts, ["xin chào", "còn đó không"]);
    bob.sees(conversation.parse()?, "còn đó không").await?;
    app.stop().await;
    Ok(())
}
