//! What the admin address does not do, as an answer (RFC 9457), with nothing in it that was sent.

use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;

/// An answer other than what was asked for.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its status.
    pub status: StatusCode,
    /// The same in a word, for machines.
    pub code: &'static str,
    title: &'static str,
    detail: String,
    /// How long it is of no use to come again.
    retry_after: Option<Duration>,
    /// What else would be taken of the path.
    allow: Option<&'static str>,
}

#[derive(Serialize)]
struct Body9457<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    /// A problem that says in `detail` what to do.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, code, title, detail: detail.into(), retry_after: None, allow: None }
    }

    /// The same, with `Retry-After`.
    #[must_use]
    pub const fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// The same, with `Allow`.
    #[must_use]
    pub const fn allowing(mut self, method: &'static str) -> Self {
        self.allow = Some(method);
        self
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        let body = Body9457 {
            kind: format!("urn:problem-type:bearerd:{}", problem.code),
            title: problem.title,
            status: problem.status.as_u16(),
            detail: &problem.detail,
            code: problem.code,
        };
        let mut response = json(problem.status, "application/problem+json", &body);
        let headers = response.headers_mut();
        if let Some(wait) = problem.retry_after {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(method) = problem.allow {
            headers.insert(ALLOW, HeaderValue::from_static(method));
        }
        if problem.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer in JSON, which nobody is to keep.
pub fn json(status: StatusCode, kind: &'static str, body: &impl Serialize) -> Response {
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
