//! `/metrics`, at the admin address and at that of health checks.

use std::fmt;

use axum::response::Response;
use http::request::Parts;

/// Answers `GET /metrics`. The request is authorized by then.
pub trait Exposition: fmt::Debug + Send + Sync {
    /// The response in the format that `Accept` asks for.
    fn answer(&self, request: &Parts) -> Response;
}
