//! The `/v1` routes. Each handler reads its input, asks the writer or a reader, answers.

pub mod accounts;
pub mod calls;
pub mod conversations;
pub mod devices;
pub mod groups;
pub mod guest_page;
pub mod rooms;

use crate::error::{ApiError, ApiResult};
use crate::rooms::{service, signal};
use crate::{App, gateway, ops};
use axum::Router;
use axum::extract::{DefaultBodyLimit, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::routing::{get, post, put};
use sc_protocol::{ErrorCode, limits};
use serde::de::DeserializeOwned;

/// Largest body of what another server says, in bytes: it is read before its signature is.
const SIGNED: usize = 64 * 1024;

/// A JSON body, with our errors.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Body<T> {
    type Rejection = ApiError;
    async fn from_request(req: Request, app: &App) -> Result<Self, ApiError> {
        // The head has a deadline of its own; a body that trickles in has this one.
        let read = tokio::time::timeout(std::time::Duration::from_secs(30), axum::Json::<T>::from_request(req, app));
        match read.await.map_err(|_| ApiError::bad("The request took too long."))? {
            Ok(axum::Json(v)) => Ok(Self(v)),
            Err(r) if r.status() == 413 => Err(ApiError::new(ErrorCode::PayloadTooLarge, "The request is larger than the server allows.")),
            Err(_) => Err(ApiError::bad("The request body is not the JSON this route expects.")),
        }
    }
}

/// A path parameter, with our errors.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        axum::extract::Path::<T>::from_request_parts(parts, app)
            .await
            .map(|p| Self(p.0))
            .map_err(|_| ApiError::bad("The id in the path is malformed."))
    }
}

/// Query parameters, with our errors.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        axum::extract::Query::<T>::from_request_parts(parts, app)
            .await
            .map(|p| Self(p.0))
            .map_err(|_| ApiError::bad("A query parameter is malformed."))
    }
}

/// What a handler returns.
pub type Answer<T> = ApiResult<axum::Json<T>>;

/// All routes.
pub fn router(app: App) -> Router {
    let open = Router::new()
        .route("/server", get(accounts::server_info))
        .route("/auth/register/start", post(accounts::register_start))
        .route("/auth/register/finish", post(accounts::register_finish))
        .route("/auth/login/start", post(accounts::login_start))
        .route("/auth/login/finish", post(accounts::login_finish))
        .route("/auth/refresh", post(accounts::refresh))
        .layer(DefaultBodyLimit::max(16 * 1024));
    let v1 = Router::new()
        .merge(open)
        .route("/auth/logout", post(accounts::logout))
        .route("/users/by-name/{name}", get(accounts::user_by_name))
        .route("/users/{id}", get(accounts::user_by_id))
        .route("/users/{id}/key-packages/claim", post(devices::claim_key_packages))
        .route("/key-packages", post(devices::upload_key_packages).get(devices::count_key_packages))
        .route("/devices", get(devices::list))
        .route("/devices/self", get(devices::own))
        .route("/devices/list", put(devices::put_list))
        .route("/devices/{id}/approve", post(devices::approve))
        .route("/identity/reset", post(devices::reset_identity))
        .route("/conversations", get(conversations::list).post(conversations::create_group))
        .route("/conversations/direct", post(conversations::create_direct))
        .route("/conversations/{id}", get(conversations::get_one))
        .route("/conversations/{id}/messages", get(conversations::messages).post(conversations::send))
        .route("/conversations/{id}/leave", post(conversations::leave))
        .route("/conversations/{id}/members/{user}/role", put(conversations::put_role))
        .route("/conversations/{id}/group", get(groups::state))
        .route("/conversations/{id}/commits", post(groups::commit))
        .route("/conversations/{id}/reset", post(groups::reset))
        .route("/calls/ice-servers", get(calls::ice_servers))
        .route("/rooms", get(rooms::list).post(rooms::create))
        .route("/rooms/{id}", get(rooms::get_one).put(rooms::change).delete(rooms::close))
        .route("/rooms/{id}/token", post(rooms::token))
        .route("/rooms/{id}/lobby/{ticket}", post(rooms::lobby))
        .route("/rooms/{id}/people/{identity}", post(rooms::person))
        .route("/livekit/webhook", post(rooms::webhook).layer(DefaultBodyLimit::max(SIGNED)))
        .route("/gateway", get(gateway::upgrade));
    let router = Router::new()
        .nest("/v1", v1)
        .route("/r/{id}", get(guest_page::page))
        .route("/r/assets/{name}", get(guest_page::asset))
        .route("/twirp/livekit.RoomService/{method}", post(service::call).layer(DefaultBodyLimit::max(SIGNED)))
        .route("/rtc", get(signal::upgrade))
        .route("/rtc/validate", get(signal::validate))
        .route("/rtc/v1", get(signal::unknown_version))
        .route("/rtc/v1/validate", get(signal::unknown_version))
        .route("/health/live", get(ops::live))
        .route("/health/ready", get(ops::ready))
        .route("/metrics", get(ops::metrics))
        .route("/openapi.json", get(openapi))
        .fallback(|| async { ApiError::not_found("route") })
        .method_not_allowed_fallback(|| async { ApiError::bad("This route does not take that method.") })
        .layer(DefaultBodyLimit::max(limits::BODY_BYTES))
        .layer(axum::middleware::from_fn_with_state(app.clone(), ops::with_request_id));
    let router = match cors(&app.config.cors_origins) {
        Some(layer) => router.layer(layer),
        None => router,
    };
    router.with_state(app)
}

fn cors(origins: &[String]) -> Option<tower_http::cors::CorsLayer> {
    if origins.is_empty() {
        return None;
    }
    let origins: Vec<_> = origins.iter().filter_map(|o| o.parse().ok()).collect();
    Some(tower_http::cors::CorsLayer::new().allow_origin(origins).allow_headers(tower_http::cors::Any).allow_methods(tower_http::cors::Any))
}

async fn openapi() -> axum::response::Response {
    use axum::response::IntoResponse as _;
    ([(axum::http::header::CONTENT_TYPE, "application/json")], include_str!("../../openapi.json")).into_response()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    #[test]
    fn openapi_names_every_route_and_no_other() {
        let document: serde_json::Value = serde_json::from_str(include_str!("../../openapi.json")).unwrap();
        let documented: std::collections::BTreeSet<String> = document["paths"].as_object().unwrap().keys().cloned().collect();
        let source = include_str!("mod.rs").split("#[cfg(test)]").next().unwrap();
        let routes: std::collections::BTreeSet<String> = source
            .split(".route(")
            .skip(1)
            .map(|rest| rest.split('"').nth(1).unwrap())
            .map(|r| {
                if r.starts_with("/health")
                    || r.starts_with("/twirp")
                    || r.starts_with("/rtc")
                    || r.starts_with("/r/")
                    || r == "/metrics"
                    || r == "/openapi.json"
                {
                    r.to_owned()
                } else {
                    format!("/v1{r}")
                }
            })
            .collect();
        assert_eq!(documented, routes);
    }
}
