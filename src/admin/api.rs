//! The paths of the admin address.

use std::future::pending;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{any, get};
use tokio::net::TcpListener;

use super::credentials;
use super::credentials::Credentials;
use super::readiness::Readiness;
use super::reload;
use super::reload::Reloading;
use super::server;
use super::server::Bounds;
use crate::http::Problem;

/// Serves the admin address while the future is polled.
pub async fn serve(
    listener: TcpListener,
    readiness: Readiness,
    credentials: Credentials,
    reloading: Reloading,
) {
    let health =
        Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(readiness);
    let operated = Router::new()
        .route("/credentials", any(credentials::answer))
        .route("/credentials/", any(credentials::answer))
        .route("/credentials/{*path}", any(credentials::answer))
        .with_state(credentials);
    let reloaded = Router::new().route("/reload", any(reload::answer)).with_state(reloading);
    let router = health.merge(operated).merge(reloaded).fallback(not_found);
    server::serve(listener, router, Bounds::FOR_OPERATORS, pending()).await;
}

/// Answers 200 whenever the process can answer at all.
async fn livez() -> &'static str {
    "ok\n"
}

/// Answers 404 with the paths that exist; they are documented and no secret.
async fn not_found() -> Response {
    Problem::new(
        StatusCode::NOT_FOUND,
        "path_not_found",
        "Not found",
        "This is bearerd's admin address, with the paths /livez, /readyz, /readyz?verbose, /credentials and /reload. \
         Applications connect to server.listen.",
    )
    .into()
}

async fn readyz(State(readiness): State<Readiness>, RawQuery(query): RawQuery) -> (StatusCode, String) {
    let is_ready = readiness.is_ready();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let verbose = query.is_some_and(|query| query.split('&').any(|pair| pair.starts_with("verbose")));
    let text = match (verbose, is_ready) {
        (true, _) => readiness.explain(),
        (false, true) => "ok\n".to_owned(),
        (false, false) => "not ready\n".to_owned(),
    };
    (status, text)
}
