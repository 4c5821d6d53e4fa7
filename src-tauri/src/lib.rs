//! The desktop shell: a window, three commands, a channel of events and one of pictures. No logic.
//!
//! The webview may call [`call`] (one typed question), [`subscribe`] (the channel of events) and [`pictures`] (the channel of frames to
//! draw), nothing else: no plugin command is exposed to it. On phones it tells the system of calls ([`phone`]).

mod attention;
#[cfg(target_os = "linux")]
mod graphics;
mod phone;

use sc_app::command::{AppEvent, Command};
use sc_app::{App, AppError, AppOptions, VideoSource};
use std::path::PathBuf;
use std::process::ExitCode;
use tauri::ipc::{Channel, Response};
use tauri::{AppHandle, Manager as _, State};
use tokio::sync::OnceCell;

/// The app, started when the window first asks, so that a slow keyring does not delay the window.
#[derive(Default)]
struct Shell {
    app: OnceCell<App>,
    options: OnceCell<AppOptions>,
    /// Hands pictures to the page that asked last.
    drawing: std::sync::Mutex<Option<tauri::async_runtime::JoinHandle<()>>>,
}

impl Shell {
    async fn app(&self, handle: &AppHandle) -> Result<&App, AppError> {
        let options = self.options.get().cloned().ok_or_else(|| AppError::new("LOCKED", "The app is starting."))?;
        let start = || async {
            let app = App::start(options).await?;
            phone::follow(handle.clone(), &app);
            attention::follow(handle.clone(), &app);
            Ok(app)
        };
        self.app.get_or_try_init(start).await
    }
}

#[tauri::command]
async fn call(handle: AppHandle, shell: State<'_, Shell>, command: Command) -> Result<serde_json::Value, AppError> {
    phone::permit(&handle, &command).await?;
    shell.app(&handle).await?.call(command).await
}

#[tauri::command]
async fn subscribe(handle: AppHandle, shell: State<'_, Shell>, events: Channel<AppEvent>) -> Result<(), AppError> {
    let mut receiver = shell.app(&handle).await?.events();
    tauri::async_runtime::spawn(async move {
        loop {
            match receiver.recv().await {
                Ok(event) => {
                    if events.send(event).is_err() {
                        return;
                    }
                }
                // The list and the window are told anew with the next change; nothing is lost in the store.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(n)) => tracing::warn!(n, "the window was told too much at once"),
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            }
        }
    });
    Ok(())
}

#[tauri::command]
async fn pictures(handle: AppHandle, shell: State<'_, Shell>, frames: Channel<Response>) -> Result<(), AppError> {
    let mut pictures = shell.app(&handle).await?.pictures();
    let task = tauri::async_runtime::spawn(async move {
        while let Some(frame) = pictures.next().await {
            if frames.send(Response::new(frame)).is_err() {
                return;
            }
        }
    });
    // A page that was loaded anew does not get everything twice.
    if let Some(before) = shell.drawing.lock().unwrap_or_else(std::sync::PoisonError::into_inner).replace(task) {
        before.abort();
    }
    Ok(())
}

fn options(data_dir: Option<PathBuf>) -> AppOptions {
    let dir = std::env::var_os("SECURECONNECT_PROFILE")
        .map(PathBuf::from)
        .or_else(|| data_dir.map(|d| d.join("profile")))
        .unwrap_or_else(|| PathBuf::from("profile"));
    let host = std::fs::read_to_string("/etc/hostname").ok().map(|h| h.trim().to_owned()).filter(|h| !h.is_empty());
    AppOptions {
        dir,
        use_keyring: true,
        passphrase: None,
        device_name: host.unwrap_or_else(|| std::env::consts::OS.to_owned()),
        audio: None,
        video: std::env::var_os("SECURECONNECT_VIDEO_FILE").map(|f| VideoSource::File(f.into())),
    }
}

/// Runs the app until its window is closed.
#[cfg_attr(mobile, tauri::mobile_entry_point)]
pub fn run() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_env("SECURECONNECT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(sc_app::LOG));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    #[cfg(target_os = "linux")]
    graphics::choose();
    let built = tauri::Builder::default()
        .plugin(tauri_plugin_call_session::init())
        .manage(Shell::default())
        .setup(|handle| {
            let data = handle.path().app_data_dir().ok();
            // Set once, here.
            let _ = handle.state::<Shell>().options.set(options(data));
            Ok(())
        })
        .invoke_handler(tauri::generate_handler![call, subscribe, pictures])
        .run(tauri::generate_context!());
    match built {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            eprintln!("The window cannot be opened: {cause}. Is there a display, and is WebKitGTK installed?");
            ExitCode::FAILURE
        }
    }
}
