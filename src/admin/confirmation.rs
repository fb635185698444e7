//! The pages at `/credentials/{name}/refresh`: the question before a refresh, and its outcome.

use askama::Template;
use axum::response::Response;
use http::StatusCode;

use super::html;
use crate::http::Problem;

#[derive(Template)]
#[template(path = "refresh.html")]
struct Refresh<'a> {
    credential: &'a str,
    outcome: Option<Outcome<'a>>,
}

struct Outcome<'a> {
    is_success: bool,
    title: &'a str,
    detail: &'a str,
}

/// Asks whether the token is to be refreshed.
pub(super) fn question(credential: &str) -> Response {
    html::page(StatusCode::OK, &Refresh { credential, outcome: None })
}

/// Shows that the token was refreshed.
pub(super) fn refreshed(credential: &str, detail: &str) -> Response {
    let outcome = Some(Outcome { is_success: true, title: "Refreshed", detail });
    html::page(StatusCode::OK, &Refresh { credential, outcome })
}

/// Shows why the token was not refreshed.
pub(super) fn refused(credential: &str, problem: &Problem) -> Response {
    let outcome = Some(Outcome { is_success: false, title: problem.title(), detail: problem.detail() });
    html::page(problem.status, &Refresh { credential, outcome })
}
