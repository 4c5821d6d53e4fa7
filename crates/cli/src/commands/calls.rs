//! Calls: a line for each change, and at the end how it sounded.

use super::{Cli, PATIENCE};
use crate::args::SoundArgs;
use crate::output::print;
use sc_app::AppError;
use sc_app::command::{AppEvent, Command};
use sc_app::view::{AudioDevicesView, CallView, QualityView};
use serde_json::json;
use std::time::Duration;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;

/// The call is put away by itself after its end; it is over for the command before that.
const OVER: Duration = Duration::from_secs(90);

impl Cli<'_> {
    pub(super) async fn call(&self, user: &str, sound: &SoundArgs) -> Result<(), AppError> {
        let engine = self.engine()?;
        engine.settle(PATIENCE).await?;
        let contact = engine.find_user(user).await?;
        let conversation = engine.direct(contact.user_id).await?;
        // The first call of two people makes their conversation.
        engine.settle(PATIENCE).await?;
        let conversation = engine.direct(contact.user_id).await.unwrap_or(conversation);
        let events = self.app.events();
        self.app.call(Command::StartCall { conversation: conversation.to_string() }).await?;
        self.follow(events, sound, false, false, None).await
    }

    pub(super) async fn answer(&self, timeout: u64, decline: bool, sound: &SoundArgs) -> Result<(), AppError> {
        let events = self.app.events();
        self.engine()?.settle(PATIENCE).await?;
        let until = Instant::now() + Duration::from_secs(timeout);
        self.follow(events, sound, !decline, decline, Some(until)).await
    }

    /// Follows the call to its end.
    async fn follow(
        &self,
        mut events: tokio::sync::broadcast::Receiver<AppEvent>,
        sound: &SoundArgs,
        accept: bool,
        decline: bool,
        until: Option<Instant>,
    ) -> Result<(), AppError> {
        let mut shown = (String::new(), String::new());
        let mut quality: Option<QualityView> = None;
        let mut hang_up: Option<Instant> = None;
        let mut next: Option<CallView> = self.current().await?;
        loop {
            if let Some(call) = next.take().filter(|c| (c.id.clone(), c.phase.clone()) != shown) {
                shown = (call.id.clone(), call.phase.clone());
                if call.phase == "ended" {
                    return self.over(&call, quality.as_ref());
                }
                self.show(&call);
                if call.phase == "incoming" && (accept || decline) {
                    self.app.call(if accept { Command::AcceptCall } else { Command::HangUp }).await?;
                }
                if call.phase == "active" {
                    hang_up = hang_up.or_else(|| sound.duration.map(|s| Instant::now() + Duration::from_secs(s)));
                }
            }
            let idle = shown.0.is_empty();
            let deadline = if idle { until } else { hang_up };
            let wait = deadline.unwrap_or_else(|| Instant::now() + OVER);
            match tokio::time::timeout_at(wait, events.recv()).await {
                Ok(Ok(AppEvent::Call { call })) => next = call.map(|c| *c),
                Ok(Ok(AppEvent::Quality { quality: q })) => quality = Some(q),
                Ok(Ok(_)) => {}
                Ok(Err(RecvError::Lagged(_))) => next = self.current().await?,
                Ok(Err(RecvError::Closed)) => return Err(AppError::new("INTERNAL", "The app has stopped.")),
                Err(_) if idle && until.is_some() => return Err(AppError::new("NOT_FOUND", "Nobody called.")),
                Err(_) if deadline.is_some() => {
                    hang_up = None;
                    self.app.call(Command::HangUp).await?;
                }
                Err(_) => {}
            }
        }
    }

    async fn current(&self) -> Result<Option<CallView>, AppError> {
        let v = self.app.call(Command::CurrentCall).await?;
        serde_json::from_value(v).map_err(|e| AppError::new("ENCODING", e.to_string()))
    }

    fn show(&self, call: &CallView) {
        let v = json!({ "call": call.id, "phase": call.phase, "name": call.name, "outgoing": call.outgoing, "check": call.check });
        print(self.json, &v, || format!("{} {}", call.name, call.phase));
    }

    fn over(&self, call: &CallView, q: Option<&QualityView>) -> Result<(), AppError> {
        let v = json!({ "call": call.id, "phase": "ended", "cause": call.cause, "seconds": call.seconds, "quality": q });
        print(self.json, &v, || format!("{} ended: {}", call.name, call.cause));
        if call.seconds.is_some() || matches!(call.cause.as_str(), "declined" | "elsewhere" | "cancelled") {
            return Ok(());
        }
        Err(AppError::new("NO_CALL", format!("The call did not come about: {}.", call.cause)))
    }

    pub(super) async fn audio_devices(&self) -> Result<(), AppError> {
        let v = self.app.call(Command::AudioDevices).await?;
        let devices: AudioDevicesView = serde_json::from_value(v.clone()).map_err(|e| AppError::new("ENCODING", e.to_string()))?;
        print(self.json, &v, || {
            let line = |kind: &str, d: &sc_app::view::AudioDeviceView| {
                format!("{kind}  {}  {}{}", d.id, d.name, if d.preferred { "  *" } else { "" })
            };
            let inputs = devices.microphones.iter().map(|d| line("in ", d));
            inputs.chain(devices.speakers.iter().map(|d| line("out", d))).collect::<Vec<_>>().join("\n")
        });
        Ok(())
    }
}
