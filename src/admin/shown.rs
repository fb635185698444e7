//! Credentials as `/credentials` shows them, and what the API allows each.

use std::fmt;

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;

use super::api_quota::ApiQuota;
use super::problem::json;
use super::status::Credential;
use crate::token::{GrantOrigin, Operator, TokenSource};

/// The rate limits of APIs for the tokens of credentials, as they are at each call.
pub trait Quotas: fmt::Debug + Send + Sync {
    /// The rate limit of the API for the credential of this name; `None` without `api_quota`.
    fn api_quota(&self, credential: &str) -> Option<ApiQuota>;
}

/// A credential as `/credentials/{name}` shows it: its entry in `/status`, and how a grant is handed over.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: Credential,
    takes_grant: bool,
    #[serde(flatten)]
    origin: GrantOrigin,
}

/// All credentials as `/credentials` shows them.
#[derive(Serialize)]
struct Listed {
    credentials: Vec<Shown>,
}

/// The response with all credentials.
pub(super) fn list(all: &[(TokenSource, Operator)], quotas: &dyn Quotas) -> Response {
    let credentials = all.iter().map(|one| shown(one, quotas)).collect();
    json(StatusCode::OK, &Listed { credentials })
}

/// The response with one credential.
pub(super) fn show(one: &(TokenSource, Operator), quotas: &dyn Quotas) -> Response {
    json(StatusCode::OK, &shown(one, quotas))
}

/// The entry of a credential in `/status`.
pub(super) fn entry((source, operator): &(TokenSource, Operator), quotas: &dyn Quotas) -> Credential {
    Credential { api_quota: quotas.api_quota(source.name()), ..Credential::now(source, operator) }
}

fn shown(one: &(TokenSource, Operator), quotas: &dyn Quotas) -> Shown {
    let (_, operator) = one;
    Shown {
        status: entry(one, quotas),
        takes_grant: operator.takes_grants,
        origin: operator.origin.without_query(),
    }
}
