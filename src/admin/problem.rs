//! Answers of the admin address.

use axum::body::Body;
use axum::response::Response;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderValue, StatusCode};
use serde::Serialize;

use crate::http::Problem;

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let mut response = problem.response();
        if problem.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.map(Body::from)
    }
}

/// Refuses a method where only this one is allowed.
pub fn method_not_allowed(allowed: &'static str) -> Problem {
    let title = "Method not allowed";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", title, "See the Allow field.")
        .allowing(allowed)
}

/// A response in JSON that no cache may store.
pub fn json(status: StatusCode, body: &impl Serialize) -> Response {
    crate::http::json(status, "application/json", body).map(Body::from)
}
