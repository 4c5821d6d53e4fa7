//! Starting, serving and stopping. A stop takes no new connections, ends the open ones with a code that says
//! "restart", commits what is queued, and only then returns.

use crate::config::Config;
use crate::hub::Hub;
use crate::log::writer::Writer;
use crate::rooms::{self, Rooms};
use crate::turn::Turn;
use crate::{App, AppInner, auth, db, limiter, ops, routes};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tower::Service as _;

/// Connections in all; beyond it new ones wait in the kernel.
const MAX_CONNECTIONS: usize = 50_000;

/// A fault at the start, in words.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The data folder cannot be made.
    #[error("cannot create the data folder {0}: {1}")]
    Data(String, std::io::Error),
    /// The address is taken or not ours.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// The certificate of the relay cannot be used.
    #[error("cannot use the certificate {0} of the relay or its key: {1}")]
    Certificate(String, String),
    /// The store cannot be opened.
    #[error("cannot open the database: {0}")]
    Store(#[from] sqlx::Error),
}

/// A running server.
pub struct Server {
    /// Where it listens.
    pub addr: SocketAddr,
    /// Its parts, for tests.
    pub app: App,
    stop: watch::Sender<bool>,
    accept: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Server {
    /// Opens the store, binds, serves in the background.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, 0).await
    }

    /// As [`Server::start`], with a bound on the pages of the database, to test a full disk.
    pub async fn start_with(config: Config, max_pages: u32) -> Result<Self, StartError> {
        std::fs::create_dir_all(&config.data).map_err(|e| StartError::Data(config.data.display().to_string(), e))?;
        let options = db::Options { path: config.data.join("server.db"), synchronous: config.synchronous.clone(), max_pages };
        let mut conn = db::open_writer(&options).await?;
        db::settle(&mut conn).await?;
        tracing::info!(sqlite = db::sqlite_version(&mut conn).await?, synchronous = config.synchronous, "store opened");
        let secrets = auth::Secrets::load(&mut conn).await?;
        let pool = db::open_readers(&options).await?;
        let listener = TcpListener::bind(config.listen).await.map_err(|e| StartError::Listen(config.listen, e))?;
        let addr = listener.local_addr().map_err(|e| StartError::Listen(config.listen, e))?;
        let hub = Arc::new(Hub::default());
        let metrics = Arc::new(ops::Metrics::default());
        let (writer, writer_task) = Writer::spawn(conn, options, hub.clone(), metrics.clone());
        let turn = Turn::start(&config, &secrets.turn, rand::random()).await?;
        if let Err(cause) = rooms::settle(&writer).await {
            tracing::error!(%cause, "stays in rooms that were open could not be ended");
        }
        let rooms = Rooms::start(&config, &secrets.rooms, rand::random());
        let app = App(Arc::new(AppInner {
            turn,
            rooms,
            config,
            pool,
            writer,
            hub,
            secrets,
            logins: auth::Logins::default(),
            limiter: limiter::Limiter::default(),
            metrics,
        }));
        Rooms::follow(&app);
        let (stop, stopping) = watch::channel(false);
        let accept = tokio::spawn(accept(listener, app.clone(), stopping));
        Ok(Self { addr, app, stop, accept, writer: writer_task })
    }

    /// Stops; everything acknowledged, and everything queued, is durable when this returns; after a failed sync what is queued
    /// is refused instead.
    pub async fn stop(self) {
        self.app.hub.close();
        if let Some(relay) = &self.app.turn.server {
            relay.stop();
        }
        if let Some(outside) = &self.app.rooms.outside {
            outside.stop();
        }
        if let Some(unit) = &self.app.rooms.unit {
            unit.stop().await;
        }
        let _ = self.stop.send(true);
        if let Err(cause) = self.accept.await {
            tracing::error!(%cause, "the accept loop failed");
        }
        // Sockets end on their own tasks and hold the app; give them a moment, then let go of ours.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
        while !self.app.hub.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.app.pool.close().await;
        drop(self.app);
        if tokio::time::timeout(Duration::from_secs(10), self.writer).await.is_err() {
            tracing::error!("the writer did not finish in time");
        }
    }
}

async fn accept(listener: TcpListener, app: App, stopping: watch::Receiver<bool>) {
    let router = routes::router(app);
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10)).max_headers(64).max_buf_size(16 * 1024).keep_alive(true);
    let mut tasks = JoinSet::new();
    let mut stop = stopping.clone();
    loop {
        while tasks.try_join_next().is_some() {}
        let (tcp, peer) = tokio::select! {
            _ = stop.changed() => break,
            r = listener.accept(), if tasks.len() < MAX_CONNECTIONS => match r {
                Ok(x) => x,
                Err(cause) => {
                    // Out of descriptors, most likely: wait instead of spinning; open sessions live on.
                    tracing::warn!(%cause, "cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            _ = tasks.join_next(), if tasks.len() >= MAX_CONNECTIONS => continue,
        };
        if let Err(cause) = tcp.set_nodelay(true) {
            tracing::debug!(%cause, "no TCP_NODELAY");
        }
        let router = router.clone();
        let service = hyper::service::service_fn(move |mut req: hyper::Request<Incoming>| {
            req.extensions_mut().insert(axum::extract::ConnectInfo(peer));
            router.clone().call(req)
        });
        let conn = http.serve_connection(TokioIo::new(tcp), service).with_upgrades();
        let mut stop = stopping.clone();
        tasks.spawn(async move {
            let mut conn = std::pin::pin!(conn);
            let mut asked = false;
            loop {
                tokio::select! {
                    r = conn.as_mut() => {
                        if let Err(cause) = r {
                            tracing::debug!(%cause, "connection");
                        }
                        break;
                    }
                    _ = stop.changed(), if !asked => {
                        asked = true;
                        conn.as_mut().graceful_shutdown();
                    }
                }
            }
        });
    }
    drop(listener);
    let finish = async { while tasks.join_next().await.is_some() {} };
    if tokio::time::timeout(Duration::from_secs(5), finish).await.is_err() {
        tasks.abort_all();
    }
}
