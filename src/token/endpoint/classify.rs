//! Decides what a response to a token request means, by one table over the response's status, its error, the
//! words of that error, and the request.
//!
//! No bytes that a server can send make [`classify`] panic. The result of [`classify`] quotes nothing of the
//! response except the code and the description of an error, both redacted.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use secrecy::SecretString;

use super::error_response::ErrorResponse;
use super::exchange::Body;
use super::foreign::foreign;
use super::redact::redacted;
use super::response::{self, Expected, TokenResponse};
use crate::config::ErrorCodes;
use crate::http::retry_after;
use crate::token::error::{Malformed, NO_CODE, Refusal, TokenError};

/// The least wait where the server limits the rate of requests and names no time to wait. `retry_after_max`
/// does not shorten this wait.
const MIN_RATE_LIMIT_WAIT: Duration = Duration::from_mins(1);

/// Codes of a temporary failure (RFC 6749 §4.1.2.1).
const TRANSIENT: &[&str] = &["temporarily_unavailable", "server_error"];
/// Codes besides `invalid_grant` that refuse a refresh token.
const DEAD_REFRESH_TOKEN: &[&str] = &[
    "bad_refresh_token",
    "invalid_refresh_token",
    "expired_token",
    "token_expired",
    "refresh_token_not_found",
    "token_revoked",
];
/// Codes that refuse the client: RFC 6749 §5.2, Keycloak's and Auth0's.
const UNKNOWN_CLIENT: &[&str] = &["invalid_client", "unauthorized_client", "access_denied"];
/// Codes that refuse the request for another reason (RFC 6749 §5.2, RFC 8707 §2, OpenID Connect Core §3.1.2.6).
const REFUSED: &[&str] = &[
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "unsupported_grant_type",
    "consent_required",
    "interaction_required",
    "login_required",
];

/// The parts of a token request that decide what its response means.
#[derive(Clone, Copy, Debug)]
pub(in crate::token) struct Asked<'a> {
    /// The members of a successful response.
    pub expected: Expected<'a>,
    /// Further error codes of this server.
    pub errors: &'a ErrorCodes,
    /// The secrets that no error may quote.
    pub secrets: &'a [SecretString],
    /// Whether the credential holds a usable token.
    pub holds_token: bool,
    /// Whether the request spends a refresh token.
    pub spends_refresh_token: bool,
}

/// The meaning of a response without a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Meaning {
    Throttled,
    Transient,
    Redirect,
    Refused(Refusal),
}

/// Decides what a response means.
///
/// # Errors
///
/// [`TokenError`] for every response without a token.
pub(in crate::token) fn classify(
    status: StatusCode,
    headers: &HeaderMap,
    body: &Body,
    asked: &Asked<'_>,
) -> Result<TokenResponse, TokenError> {
    let error = ErrorResponse::read(status, body);
    // A 2xx response that names an error is classified as a 400 response with this error.
    let counted = if status.is_success() && error.is_error { 400 } else { status.as_u16() };
    match counted {
        204..=206 => Err(TokenError::Malformed(Malformed::Status(counted))),
        200..=299 => response::read(headers, body, asked.expected).map_err(|flaw| {
            let is_json = !matches!(flaw, Malformed::NotJson { .. });
            let foreign = || foreign(headers, &body.bytes, asked.secrets);
            TokenError::Malformed(if is_json { flaw } else { foreign().unwrap_or(flaw) })
        }),
        300..=599 => Err(failure(status.as_u16(), counted, (headers, body), error, asked)),
        other => Err(TokenError::Malformed(Malformed::Status(other))),
    }
}

/// The table: the first branch whose condition holds decides.
fn meaning(status: u16, has_retry_after: bool, error: &ErrorResponse, asked: &Asked<'_>) -> Meaning {
    let is = |codes: &[&str]| is_any(error.code.as_deref(), codes);
    let is_listed = |codes: &[String]| is_any(error.code.as_deref(), codes);
    let ErrorCodes { dead, throttled, client, transient } = asked.errors;
    let is_dead =
        is(DEAD_REFRESH_TOKEN) || is(&["unauthorized_client"]) && error.speaks_of_dead_refresh_token();
    let refused_grant =
        Meaning::Refused(if asked.spends_refresh_token && error.speaks_of_use_in_progress() {
            Refusal::GrantInPassing
        } else {
            Refusal::Grant
        });
    let is_throttled = match status {
        429 => true,
        400..=499 => error.speaks_of_rate_limit(),
        _ => false,
    };
    if status >= 400 && has_retry_after || is_throttled || is(&["slow_down"]) || is_listed(throttled) {
        Meaning::Throttled
    } else if is_listed(dead) {
        refused_grant
    } else if is_listed(client) {
        Meaning::Refused(Refusal::Client)
    } else if matches!(status, 408 | 421 | 425 | 500..) || is(TRANSIENT) || is_listed(transient) {
        Meaning::Transient
    } else if status < 400 {
        Meaning::Redirect
    } else if is(&["invalid_grant"]) || asked.spends_refresh_token && is_dead {
        refused_grant
    } else if status == 401 || is(UNKNOWN_CLIENT) {
        Meaning::Refused(Refusal::Client)
    } else if asked.holds_token && !is(REFUSED) && !is(DEAD_REFRESH_TOKEN) {
        // An ingress or a firewall may have answered in place of the authorization server.
        Meaning::Transient
    } else if asked.spends_refresh_token && matches!(status, 400 | 403) && error.gives_no_reason() {
        Meaning::Refused(Refusal::GrantInPassing)
    } else {
        Meaning::Refused(Refusal::Request)
    }
}

fn is_any(code: Option<&str>, codes: &[impl AsRef<str>]) -> bool {
    code.is_some_and(|code| codes.iter().any(|known| known.as_ref().eq_ignore_ascii_case(code)))
}

fn failure(
    status: u16,
    counted: u16,
    (headers, body): (&HeaderMap, &Body),
    error: ErrorResponse,
    asked: &Asked<'_>,
) -> TokenError {
    let retry_after = retry_after(headers);
    let meaning = meaning(counted, retry_after.is_some(), &error, asked);
    let code = error.code.map(|code| redacted(&code, asked.secrets));
    let description = error.description.map(|words| redacted(&words, asked.secrets));
    let code = match (code, &description) {
        (None, None) => foreign(headers, &body.bytes, asked.secrets).map(|kind| kind.to_string()),
        (code, _) => code,
    };
    match (meaning, code) {
        (Meaning::Throttled, _) => {
            let at_least = if retry_after.is_some() { Duration::ZERO } else { MIN_RATE_LIMIT_WAIT };
            TokenError::Throttled { status, retry_after, at_least }
        }
        (Meaning::Transient, Some(code)) => TokenError::Unavailable { status, code, description },
        (Meaning::Transient, None) => TokenError::Server(status),
        (Meaning::Redirect, _) => TokenError::Rejected {
            status,
            code: "redirect".to_owned(),
            description: Some(
                "redirects are never followed: they would show the secret to another".to_owned(),
            ),
            refusal: Refusal::Request,
        },
        (Meaning::Refused(refusal), code) => TokenError::Rejected {
            status,
            code: code.unwrap_or_else(|| NO_CODE.to_owned()),
            description,
            refusal,
        },
    }
}

#[cfg(test)]
mod tests;
