//! `secureconnect-cli`: the same core as the app, for scripts, bots and tests.
//!
//! Exit codes: 0 done; 1 something failed; 2 wrong usage or input; 3 not logged in or wrong password; 4 the server cannot
//! be reached (what was entered is kept and goes out later); 5 no such user, conversation or message; 6 refused.
//! Errors are `{"code","message"}` on standard error, with `--json` or without.

mod args;
mod commands;
mod output;

use args::Args;
use clap::Parser as _;
use sc_app::{App, AppError, AppOptions};
use std::process::ExitCode;

fn exit_code(e: &AppError) -> u8 {
    match e.code.as_str() {
        "OFFLINE" | "UNAVAILABLE" => 4,
        "UNAUTHENTICATED"
        | "TOKEN_EXPIRED"
        | "INVALID_CREDENTIALS"
        | "REFRESH_REUSED"
        | "ACCOUNT_SUSPENDED"
        | "DEVICE_NOT_LINKED"
        | "LOCKED"
        | "WRONG_KEY"
        | "PASSWORD_NEEDED" => 3,
        "NOT_FOUND" => 5,
        "ROOM_FULL" | "ROOM_LOCKED" | "ROOM_REFUSED" | "FORBIDDEN" | "NOT_A_MEMBER" | "RATE_LIMITED" | "IDENTITY_CHANGED"
        | "IDENTITY_MISMATCH" | "ROLLED_BACK" => 6,
        c if c.starts_with("BAD_") || matches!(c, "EMPTY" | "TOO_LONG" | "WEAK_PASSWORD" | "SELF" | "USERNAME_TAKEN") => 2,
        _ => 1,
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let filter =
        tracing_subscriber::EnvFilter::try_from_env("SECURECONNECT_LOG").unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(run(args));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{}", serde_json::json!({ "code": e.code, "message": e.message }));
            ExitCode::from(exit_code(&e))
        }
    }
}

async fn run(args: Args) -> Result<(), AppError> {
    let dir = args.profile.clone().unwrap_or_else(args::default_profile);
    let passphrase = std::env::var("SECURECONNECT_PASSPHRASE").ok().filter(|p| !p.is_empty());
    let options = AppOptions {
        dir,
        use_keyring: passphrase.is_none(),
        passphrase,
        device_name: "command line".into(),
        audio: args.audio(),
        video: args.video(),
    };
    let mut app = App::start(options.clone()).await?;
    if matches!(app.state().phase, sc_app::view::Phase::ChoosePassphrase | sc_app::view::Phase::Locked) && options.passphrase.is_none() {
        let asked = output::ask_secret("Passphrase: ")?;
        drop(app);
        app = App::start(AppOptions { passphrase: Some(asked), use_keyring: false, ..options }).await?;
    }
    let result = commands::run(&app, args).await;
    app.stop().await;
    result
}
