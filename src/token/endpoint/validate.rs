//! Whether a token response meets the credential's requirements: the scopes, the form and the lifetime of its token.

use std::time::{Duration, SystemTime};

use super::response::{MAX_LIFETIME, TokenResponse};
use crate::clock::Moment;
use crate::config::{Credential, NEVER_LISTED};
use crate::token::access_token::{AccessToken, Generation};
use crate::token::error::{Malformed, TokenError};
use crate::token::jwt;

/// The granted scopes; as requested, where the response does not say (RFC 6749 §5.1).
///
/// # Errors
///
/// [`TokenError::ScopeMissing`] without a required scope, [`TokenError::Malformed`] for an unusable token, or one that is not
/// a JWT where a JWT is expected.
pub(crate) fn scopes(response: &TokenResponse, credential: &Credential) -> Result<Vec<String>, TokenError> {
    if let Some(flaw) = &response.flaw {
        return Err(TokenError::Malformed(flaw.clone()));
    }
    let scopes = response.scopes.clone().unwrap_or_else(|| credential.scopes.clone());
    let is_missing = |scope: &&String| !scopes.contains(scope);
    let missing: Vec<String> = credential.require_scopes.iter().filter(is_missing).cloned().collect();
    if !missing.is_empty() {
        return Err(TokenError::ScopeMissing(missing));
    }
    if credential.expect_jwt && !jwt::has_form(&response.access_token) {
        return Err(TokenError::Malformed(Malformed::NotJwt));
    }
    Ok(scopes)
}

/// The response's token, which was requested at the moment `sent`, as the first of a credential.
///
/// # Errors
///
/// As of [`scopes`] and [`lifetime`], and [`Malformed::Token`] for a token that cannot stand in a header field.
pub(crate) fn first_token(
    response: &TokenResponse,
    credential: &Credential,
    sent: Moment,
    now: SystemTime,
) -> Result<AccessToken, TokenError> {
    let scopes = scopes(response, credential)?;
    let lifetime = lifetime(response, credential, now)?.filter(|lifetime| !lifetime.is_zero());
    let lifetime = lifetime.unwrap_or(credential.default_lifetime);
    AccessToken::new(&response.access_token, Generation::NONE.next(), sent, lifetime, scopes)
        .map_err(|illegal| TokenError::Malformed(illegal.into()))
}

/// The requested scopes that were not granted (RFC 6749 §3.3), without those that servers never list.
pub fn not_granted(granted: &[String], credential: &Credential) -> Vec<String> {
    let is_missing = |scope: &&String| !NEVER_LISTED.contains(&scope.as_str()) && !granted.contains(scope);
    credential.scopes.iter().filter(is_missing).cloned().collect()
}

/// The lifetime by `expires_in` or, where a JWT is expected, by the token's own `exp`, whichever ends earlier. The `exp` is
/// compared with the server's clock if the response has a `Date`: ours may be wrong.
///
/// # Errors
///
/// [`Malformed::Ended`] if the `exp` has passed.
pub(crate) fn lifetime(
    response: &TokenResponse,
    credential: &Credential,
    now: SystemTime,
) -> Result<Option<Duration>, TokenError> {
    if !credential.expect_jwt {
        return Ok(response.lifetime);
    }
    let Some(left) = jwt::left(&response.access_token, response.server_time.unwrap_or(now)) else {
        return Ok(response.lifetime);
    };
    if left.is_zero() {
        return Err(TokenError::Malformed(Malformed::Ended));
    }
    let said = response.lifetime.filter(|lifetime| !lifetime.is_zero());
    Ok(Some(said.unwrap_or(MAX_LIFETIME).min(left)))
}
