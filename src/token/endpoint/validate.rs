//! Whether a token response meets the credential's requirements: the scopes, the form and the lifetime of its token.

use std::time::{Duration, SystemTime};

use super::response::{MAX_LIFETIME, TokenResponse};
use crate::config::{Credential, NEVER_LISTED};
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
    let missing = missing(&scopes, credential);
    if !missing.is_empty() {
        return Err(TokenError::ScopeMissing { missing });
    }
    if credential.expect_jwt && !jwt::has_form(&response.access_token) {
        return Err(TokenError::Malformed(Malformed::NotJwt));
    }
    Ok(scopes)
}

/// The required scopes that are missing.
pub(crate) fn missing(scopes: &[String], credential: &Credential) -> Vec<String> {
    credential.require_scopes.iter().filter(|scope| !scopes.contains(scope)).cloned().collect()
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
