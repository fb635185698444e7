//! What a caller is told where a credential has no usable token.

use crate::token::{Reason, Unavailable};

/// The title of the response.
pub(super) const fn title(reason: Reason) -> &'static str {
    match reason {
        Reason::WaitingForFirstToken => "Waiting for the first token",
        Reason::EndpointUnavailable => "Token endpoint unavailable",
        Reason::EndpointRateLimited => "Token endpoint rate limited",
        Reason::QuotaExhausted => "Token quota exhausted",
        Reason::SharedStoreUnavailable => "Shared store unavailable",
        Reason::ClientRejected => "OAuth client rejected",
        Reason::ReauthorizationRequired => "Authorization required",
        Reason::RotationLimit => "Rotation limit reached",
        Reason::ScopeMissing => "Scope missing",
    }
}

/// Why there is none, and a remedy.
pub(super) fn detail(credential: &str, unavailable: &Unavailable) -> String {
    let authorize =
        format!("Authorize the client: run `bearerd login {credential}`, or set a refresh_token.");
    let (why, remedy) = match unavailable.reason {
        Reason::WaitingForFirstToken => ("the first token request has not ended", "Try again."),
        Reason::EndpointUnavailable => ("the token endpoint issues none", "Try again."),
        Reason::EndpointRateLimited => ("the token endpoint limits the rate of requests", "Try again later."),
        Reason::QuotaExhausted => {
            ("its quota of token requests is used up", "Try again later, or raise `quota`.")
        }
        Reason::SharedStoreUnavailable => (
            "the store that the replicas share is away, and without it no refresh token is used",
            "Try again later; see `shared` in /status.",
        ),
        Reason::ClientRejected => (
            "the authorization server rejects the OAuth client",
            "Check client_id, client_secret and client_auth with the provider.",
        ),
        Reason::ReauthorizationRequired => {
            ("there is no refresh token that the authorization server accepts", authorize.as_str())
        }
        Reason::RotationLimit => {
            ("the refresh token has been replaced max_rotations times", authorize.as_str())
        }
        Reason::ScopeMissing => (
            "the authorization server grants fewer scopes than require_scopes",
            "Grant the client these scopes, or require fewer.",
        ),
    };
    let failure = unavailable.failure.as_ref();
    let last = failure.map(|failure| format!(" The last token request failed: {}.", failure.for_callers()));
    format!("The credential `{credential}` has no usable token: {why}. {remedy}{}", last.unwrap_or_default())
}
