//! Responses of the admin address.

use axum::body::Body;
use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use crate::http::Problem;
use crate::telemetry::Events;
use crate::telemetry::trail::Operation;

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        problem.response().map(Body::from)
    }
}

/// Records an operation as an event, and returns its response.
pub(super) fn audited(
    operation: &Operation<'_>,
    events: &Events,
    outcome: Result<Response, Problem>,
) -> Response {
    match outcome {
        Ok(response) => {
            operation.done(events, response.status().as_u16());
            response
        }
        Err(problem) => {
            operation.refused(events, problem.status.as_u16(), problem.code);
            problem.into()
        }
    }
}

/// Refuses a method that is not `allowed`.
pub(super) fn method_not_allowed(allowed: &'static str) -> Problem {
    let title = "Method not allowed";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", title, "See the Allow field.")
        .allowing(allowed)
}

/// A response in JSON that no cache may store.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Response {
    crate::http::json(status, "application/json", body).map(Body::from)
}
