//! A window that is behind others, or put away, asks for attention while it rings.

use sc_app::App;
use sc_app::command::AppEvent;
use tauri::{AppHandle, Manager as _, UserAttentionType};
use tokio::sync::broadcast::error::RecvError;

/// Whether it rings after this event; nothing when the event says nothing of it.
fn rings(event: &AppEvent) -> Option<bool> {
    match event {
        AppEvent::Call { call } => Some(call.as_ref().is_some_and(|c| c.phase == "incoming")),
        _ => None,
    }
}

/// Follows the calls, as long as the app lives.
pub fn follow(handle: AppHandle, app: &App) {
    let mut events = app.events();
    tauri::async_runtime::spawn(async move {
        let mut asked = false;
        loop {
            match events.recv().await {
                Ok(event) => {
                    let Some(now) = rings(&event).filter(|now| *now != asked) else { continue };
                    asked = now;
                    let Some(window) = handle.get_webview_window("main") else { continue };
                    if let Err(cause) = window.request_user_attention(now.then_some(UserAttentionType::Critical)) {
                        tracing::warn!(%cause, "the window cannot ask for attention");
                    }
                }
                // The next change of the call says the same.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    });
}
