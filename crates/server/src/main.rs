//! `secureconnect-server`: the reference server as a program.

use clap::{Parser, Subcommand};
use secureconnect_server::config::Config;
use secureconnect_server::operator;
use secureconnect_server::serve::Server;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

#[derive(Parser)]
#[command(name = "secureconnect-server", version, about = "The SecureConnect reference server")]
struct Args {
    /// TOML configuration file; SECURECONNECT_SERVER_* variables override it.
    #[arg(long, global = true)]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the server until it is told to stop (SIGINT or SIGTERM).
    Serve {
        /// Folder of the database.
        #[arg(long)]
        data: Option<PathBuf>,
        /// Address to listen on, such as 127.0.0.1:8420.
        #[arg(long)]
        listen: Option<SocketAddr>,
    },
    /// Suspends an account: it can neither log in nor send, and its connections end within half a minute.
    Suspend {
        /// The account's name.
        username: String,
        /// Folder of the database.
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Lets a suspended account in again.
    Restore {
        /// The account's name.
        username: String,
        /// Folder of the database.
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Counts the people in every room anew, and says how many counts were wrong.
    RepairRooms {
        /// Folder of the database.
        #[arg(long)]
        data: Option<PathBuf>,
    },
    /// Says whether the configuration can be used, and what it is.
    CheckConfig,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = match Config::load(args.config.as_deref(), std::env::vars()) {
        Ok(c) => c,
        Err(e) => {
            eprintln!("{e}");
            return ExitCode::from(2);
        }
    };
    match args.command {
        Command::CheckConfig => {
            println!("The configuration is valid.\n{config:#?}");
            ExitCode::SUCCESS
        }
        Command::Suspend { username, data } => operate(Config { data: data.unwrap_or(config.data.clone()), ..config }, &username, true),
        Command::Restore { username, data } => operate(Config { data: data.unwrap_or(config.data.clone()), ..config }, &username, false),
        Command::RepairRooms { data } => repair(Config { data: data.unwrap_or(config.data.clone()), ..config }),
        Command::Serve { data, listen } => {
            run(Config { data: data.unwrap_or(config.data.clone()), listen: listen.unwrap_or(config.listen), ..config })
        }
    }
}

fn operate(config: Config, username: &str, suspended: bool) -> ExitCode {
    let said = format!("{username} is {}.", if suspended { "suspended" } else { "active again" });
    beside(async { operator::set_suspended(&config, username, suspended).await.map(|()| said) })
}

fn repair(config: Config) -> ExitCode {
    beside(async { operator::repair_rooms(&config).await.map(|wrong| format!("{wrong} counts were wrong and are right now.")) })
}

/// Does something beside a running server, or without one.
fn beside(work: impl Future<Output = Result<String, operator::OperatorError>>) -> ExitCode {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        eprintln!("cannot start the runtime");
        return ExitCode::FAILURE;
    };
    match runtime.block_on(work) {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("cannot start the runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    runtime.block_on(async {
        let server = match Server::start(config).await {
            Ok(s) => s,
            Err(e) => {
                eprintln!("{e}");
                return ExitCode::FAILURE;
            }
        };
        println!("listening on http://{}", server.addr);
        tracing::info!(addr = %server.addr, "listening");
        stop_signal().await;
        tracing::info!("stopping");
        server.stop().await;
        ExitCode::SUCCESS
    })
}

#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut term) => {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(cause) => {
            tracing::warn!(%cause, "SIGTERM cannot be handled");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    let _ = tokio::signal::ctrl_c().await;
}
