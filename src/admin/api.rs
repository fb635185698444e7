//! The paths of the admin address.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{RawQuery, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::credentials;
use super::credentials::Credentials;
use super::readiness::Readiness;
use super::reload;
use super::reload::Reloading;
use super::server;
use super::server::Bounds;
use crate::http::Problem;

/// The most requests in progress but those of health checks: fewer than connections, so that there is always a connection
/// that a health check's may replace.
const OPERATIONS: usize = Bounds::FOR_OPERATORS.connections / 2;

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
    let operations = operated.merge(reloaded).fallback(not_found);
    let places = Arc::new(Semaphore::new(OPERATIONS));
    let operations = operations.layer(from_fn_with_state(places, within_bound));
    server::serve(listener, health.merge(operations), Bounds::FOR_OPERATORS, pending()).await;
}

/// Answers a request unless [`OPERATIONS`] others are in progress.
async fn within_bound(State(places): State<Arc<Semaphore>>, request: Request, operation: Next) -> Response {
    match places.try_acquire() {
        Ok(_place) => operation.run(request).await,
        Err(_) => {
            let detail = "Too many operations are in progress at the admin address.";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", detail);
            problem.after(Some(Duration::from_secs(1))).into()
        }
    }
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
