//! The paths of the admin address.

use std::io;

use axum::Router;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::routing::get;
use tokio::net::TcpListener;

use super::readiness::Readiness;

/// Serves the admin address for as long as the future is polled.
///
/// # Errors
///
/// If the listener fails for good.
pub async fn serve(listener: TcpListener, readiness: Readiness) -> io::Result<()> {
    let router =
        Router::new().route("/livez", get(livez)).route("/readyz", get(readyz)).with_state(readiness);
    axum::serve(listener, router).await
}

/// The process answers: that is all it says.
async fn livez() -> &'static str {
    "ok\n"
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
