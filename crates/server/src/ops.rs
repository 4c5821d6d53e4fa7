//! Operations: request ids, health, metrics, OpenAPI.

use crate::App;
use crate::error::REQUEST_ID;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sc_protocol::rest::Health;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

static X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Counters of this process.
#[derive(Default)]
pub struct Metrics {
    operations: AtomicU64,
    batches: AtomicU64,
    failed_batches: AtomicU64,
    requests: AtomicU64,
    errors: AtomicU64,
    storage_failing: AtomicBool,
}

impl Metrics {
    /// The store could be opened again.
    pub fn recovered(&self) {
        self.storage_failing.store(false, Relaxed);
    }

    /// Nothing can be written any more.
    pub fn storage_failed(&self) {
        self.storage_failing.store(true, Relaxed);
    }

    /// Batches that were rolled back.
    #[must_use]
    pub fn failed_batches(&self) -> u64 {
        self.failed_batches.load(Relaxed)
    }

    /// A batch was committed or rolled back.
    pub fn batch(&self, operations: usize, ok: bool) {
        self.operations.fetch_add(operations as u64, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        self.storage_failing.store(!ok, Relaxed);
        if !ok {
            self.failed_batches.fetch_add(1, Relaxed);
        }
    }
}

/// Accepts or makes `X-Request-ID`, returns it, logs the request. Never logs headers, bodies or query strings.
pub async fn with_request_id(State(app): State<App>, req: Request, next: Next) -> Response {
    let given = req.headers().get(&X_REQUEST_ID).and_then(|v| v.to_str().ok());
    let usable = |id: &&str| (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let id = given.filter(usable).map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned);
    let (method, path) = (req.method().clone(), req.uri().path().to_owned());
    let started = std::time::Instant::now();
    let mut response = REQUEST_ID.scope(id.clone(), next.run(req)).await;
    let status = response.status();
    app.metrics.requests.fetch_add(1, Relaxed);
    if status.is_server_error() {
        app.metrics.errors.fetch_add(1, Relaxed);
    }
    tracing::debug!(request_id = %id, %method, %path, status = status.as_u16(), ms = started.elapsed().as_millis(), "request");
    if let Ok(v) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(X_REQUEST_ID.clone(), v);
    }
    response
}

/// `GET /health/live`: the process runs.
pub async fn live() -> axum::Json<Health> {
    axum::Json(health(BTreeMap::new(), true))
}

/// `GET /health/ready`: it can serve; per component.
pub async fn ready(State(app): State<App>) -> Response {
    let reads = sqlx::query("SELECT 1").execute(&app.pool).await.is_ok();
    let writes = !app.metrics.storage_failing.load(Relaxed) && !app.writer.is_closed();
    let state = |ok: bool| if ok { "healthy" } else { "degraded" }.to_owned();
    let relay = !app.config.turn || app.turn.server.is_some();
    let rooms = (!app.config.rooms && app.config.livekit_url.is_empty()) || app.rooms.healthy();
    let components = BTreeMap::from([
        ("database".to_owned(), state(reads)),
        ("writer".to_owned(), state(writes)),
        ("gateway".to_owned(), state(true)),
        ("turn".to_owned(), state(relay)),
        ("sfu".to_owned(), state(rooms)),
    ]);
    let ok = reads && writes;
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Without the relay calls may fail in some networks, without the unit there are no rooms; everything else works.
    (status, axum::Json(health(components, ok && relay && rooms))).into_response()
}

fn health(components: BTreeMap<String, String>, ok: bool) -> Health {
    Health { status: if ok { "healthy" } else { "degraded" }.into(), components, version: env!("CARGO_PKG_VERSION").into() }
}

/// `GET /metrics`, Prometheus text.
pub async fn metrics(State(app): State<App>) -> String {
    let m = &app.metrics;
    let relay = app.turn.server.as_ref();
    let rows = [
        ("turn_allocations", "gauge", relay.map_or(0, |r| r.allocations() as u64)),
        ("turn_relayed_packets_total", "counter", relay.map_or(0, sc_turn::server::Server::relayed)),
        ("connections", "gauge", app.hub.len() as u64),
        ("operations_total", "counter", m.operations.load(Relaxed)),
        ("batches_total", "counter", m.batches.load(Relaxed)),
        ("failed_batches_total", "counter", m.failed_batches.load(Relaxed)),
        ("http_requests_total", "counter", m.requests.load(Relaxed)),
        ("http_server_errors_total", "counter", m.errors.load(Relaxed)),
    ];
    let rooms = app.rooms.metric_rows();
    let text: String = rows
        .iter()
        .chain(&rooms)
        .map(|(name, kind, v)| format!("# TYPE secureconnect_{name} {kind}\nsecureconnect_{name} {v}\n"))
        .collect();
    text + &app.rooms.error_rows()
}
