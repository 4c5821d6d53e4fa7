//! What a phone has to know of calls and rooms, told in time: before microphone and camera are opened, and when what runs has changed.

use sc_app::command::{AppEvent, Command};
use sc_app::{App, AppError};
use tauri::{AppHandle, Manager as _, Wry};
use tauri_plugin_call_session::{CallSession, Change, Follower, Kind, SessionError};
use tokio::sync::broadcast::error::RecvError;

/// What a command is about to open.
fn opens(command: &Command) -> Option<Kind> {
    let kind = |video: bool| if video { Kind::Video } else { Kind::Voice };
    match command {
        Command::StartCall { video, .. } | Command::AcceptCall { video } | Command::EnterRoom { video, .. } => Some(kind(*video)),
        Command::TestCall { on: true } => Some(Kind::Voice),
        Command::CallCamera { on: true } | Command::RoomCamera { on: true } | Command::TestCamera { on: true } => Some(Kind::Video),
        _ => None,
    }
}

fn refused(cause: &SessionError) -> AppError {
    let code = match cause {
        SessionError::MicrophoneDenied => "MICROPHONE_DENIED",
        SessionError::CameraDenied => "CAMERA_FAILED",
        SessionError::System(_) => "INTERNAL",
    };
    AppError::new(code, cause.to_string())
}

/// Asks the person for what the command needs.
pub async fn permit(handle: &AppHandle, command: &Command) -> Result<(), AppError> {
    let Some(kind) = opens(command) else { return Ok(()) };
    let handle = handle.clone();
    // The person may take their time.
    let asked = tauri::async_runtime::spawn_blocking(move || handle.state::<CallSession<Wry>>().permit(kind)).await;
    asked.map_err(|e| AppError::new("INTERNAL", e.to_string()))?.map_err(|cause| refused(&cause))
}

/// The change that an event means.
fn change(follower: &mut Follower, event: &AppEvent) -> Option<Change> {
    let kind = |runs: bool, video: bool| runs.then_some(if video { Kind::Video } else { Kind::Voice });
    match event {
        AppEvent::Call { call } => {
            follower.call(call.as_ref().and_then(|c| kind(!matches!(c.phase.as_str(), "ended" | "incoming"), c.camera)))
        }
        AppEvent::Room { room } => follower.room(room.as_ref().and_then(|r| kind(r.phase != "over", r.camera))),
        _ => None,
    }
}

/// Tells the phone what runs, as long as the app lives.
pub fn follow(handle: AppHandle, app: &App) {
    let mut events = app.events();
    tauri::async_runtime::spawn(async move {
        let mut follower = Follower::default();
        loop {
            match events.recv().await {
                Ok(event) => {
                    let Some(change) = change(&mut follower, &event) else { continue };
                    let handle = handle.clone();
                    let told = tauri::async_runtime::spawn_blocking(move || handle.state::<CallSession<Wry>>().tell(change)).await;
                    match told {
                        Ok(Ok(())) => {}
                        Ok(Err(cause)) => tracing::warn!(%cause, "the phone does not know of the call"),
                        Err(cause) => tracing::warn!(%cause, "the phone was not told of the call"),
                    }
                }
                // What runs is told anew with the next change.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}
