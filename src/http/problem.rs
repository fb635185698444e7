//! Problem details in JSON (RFC 9457): how bearerd refuses a request.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use serde::Serialize;

use super::whole_seconds;
use crate::documentation;

/// A refusal as its client reads it.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The status of the response.
    pub status: StatusCode,
    /// The stable code, for machines.
    pub code: &'static str,
    title: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    allow: Option<&'static str>,
}

/// RFC 9457 §3.1, with `code` as an extension (§3.2). The type is the address of the documentation of the code.
#[derive(Serialize)]
struct Members<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    code: &'static str,
}

impl Problem {
    /// A refusal whose `detail` says what happened and what to do; it holds no secret.
    pub fn new(
        status: StatusCode,
        code: &'static str,
        title: &'static str,
        detail: impl Into<String>,
    ) -> Self {
        Self { status, code, title, detail: detail.into(), retry_after: None, allow: None }
    }

    /// Adds `Retry-After`, where waiting helps.
    #[must_use]
    pub const fn after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }

    /// Adds `Allow`, for a 405 (RFC 9110 §15.5.6).
    #[must_use]
    pub const fn allowing(mut self, method: &'static str) -> Self {
        self.allow = Some(method);
        self
    }

    /// What kind of refusal this is, in a few words.
    pub const fn title(&self) -> &'static str {
        self.title
    }

    /// What happened, and what to do.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The response.
    pub fn response(&self) -> Response<Bytes> {
        let Self { status, code, title, detail, retry_after, allow } = self;
        let kind = documentation::of_code(code);
        let members = Members { kind, title, status: status.as_u16(), detail, code };
        let mut response = json(*status, "application/problem+json", &members);
        if let Some(wait) = *retry_after {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if let Some(method) = *allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(method));
        }
        response
    }
}

/// A response in JSON that no cache may store.
pub fn json(status: StatusCode, content_type: &'static str, body: &impl Serialize) -> Response<Bytes> {
    let mut text = serde_json::to_vec(body).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Bytes::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_its_members_and_says_how_long_to_wait_where_that_helps() {
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", "Try again.");
        assert!(!problem.response().headers().contains_key("retry-after"));

        let response = problem.after(Some(Duration::from_millis(1_001))).response();

        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(
            response.body(),
            "{\"type\":\"https://github.com/bearerd/bearerd/blob/main/docs/operate/troubleshooting.md#overloaded\",\
             \"title\":\"Overloaded\",\"status\":503,\"detail\":\"Try again.\",\"code\":\"overloaded\"}\n"
        );
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        assert_eq!(response.headers()["cache-control"], "no-store");
        assert_eq!(response.headers()["retry-after"], "2");
    }
}
