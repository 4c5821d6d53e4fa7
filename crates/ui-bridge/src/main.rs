//! The UI in a browser, for development and tests: serves `ui/dist` with the same content policy as the window and
//! answers its commands over a loopback WebSocket. The address that is printed carries a token; without it nothing is
//! answered. Not part of any package.

use axum::Router;
use axum::extract::State;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use base64::Engine as _;
use clap::Parser;
use rand::RngCore as _;
use sc_app::command::Command;
use sc_app::{App, AppOptions, VideoSource};
use serde::Deserialize;
use std::path::PathBuf;
use std::sync::Arc;
use tower_http::services::ServeDir;
use tower_http::set_header::SetResponseHeaderLayer;

const CSP: &str = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(Parser)]
struct Args {
    /// Folder of the profile.
    #[arg(long)]
    profile: PathBuf,
    /// The built UI.
    #[arg(long, default_value = "ui/dist")]
    ui: PathBuf,
    /// Show this film (YUV4MPEG2) instead of the camera.
    #[arg(long)]
    video_file: Option<PathBuf>,
    /// Port on 127.0.0.1; 0 for any.
    #[arg(long, default_value_t = 0)]
    port: u16,
}

#[derive(Clone)]
struct Bridge {
    app: App,
    token: Arc<str>,
}

#[derive(Deserialize)]
struct Question {
    id: u64,
    command: Command,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(sc_app::LOG)),
        )
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let passphrase = std::env::var("SECURECONNECT_PASSPHRASE").ok().filter(|p| !p.is_empty());
    let app = App::start(AppOptions {
        dir: args.profile,
        use_keyring: false,
        passphrase,
        device_name: "browser".into(),
        audio: None,
        video: args.video_file.map(VideoSource::File),
    })
    .await?;
    let mut bytes = [0u8; 24];
    rand::rngs::OsRng.fill_bytes(&mut bytes);
    let token: Arc<str> = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes).into();
    let router = Router::new()
        .route("/ws", get(upgrade))
        .fallback_service(ServeDir::new(args.ui))
        .layer(SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CSP)))
        .with_state(Bridge { app, token: token.clone() });
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", args.port)).await?;
    println!("http://{}/#{token}", listener.local_addr()?);
    axum::serve(listener, router).await?;
    Ok(())
}

async fn upgrade(State(bridge): State<Bridge>, headers: HeaderMap, ws: WebSocketUpgrade) -> Response {
    // A browser can set no header on a WebSocket but this one.
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if !offered.split(',').any(|p| p.trim() == &*bridge.token) {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    ws.protocols(["secureconnect.bridge"]).on_upgrade(move |socket| serve(bridge.app, socket))
}

async fn serve(app: App, mut socket: WebSocket) {
    let mut events = app.events();
    let mut pictures = app.pictures();
    let (answers, mut answered) = tokio::sync::mpsc::channel::<String>(64);
    loop {
        let text = tokio::select! {
            message = socket.recv() => match message {
                Some(Ok(Message::Text(t))) => {
                    let (app, answers) = (app.clone(), answers.clone());
                    tokio::spawn(async move { answers.send(answer(&app, &t).await).await });
                    continue;
                }
                Some(Ok(_)) => continue,
                _ => return,
            },
            Some(text) = answered.recv() => text,
            Some(picture) = pictures.next() => {
                if socket.send(Message::Binary(picture.into())).await.is_err() {
                    return;
                }
                continue;
            }
            event = events.recv() => match event {
                Ok(event) => serde_json::json!({ "event": event }).to_string(),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => continue,
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
        };
        if socket.send(Message::Text(text.into())).await.is_err() {
            return;
        }
    }
}

async fn answer(app: &App, text: &str) -> String {
    match serde_json::from_str::<Question>(text) {
        Err(e) => serde_json::json!({ "id": 0, "error": { "code": "BAD_REQUEST", "message": e.to_string() } }),
        Ok(q) => match app.call(q.command).await {
            Ok(value) => serde_json::json!({ "id": q.id, "ok": value }),
            Err(error) => serde_json::json!({ "id": q.id, "error": error }),
        },
    }
    .to_string()
}
