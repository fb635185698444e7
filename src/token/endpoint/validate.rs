//! Whether a grant is what was asked for: scopes, form and end of its token.

use std::time::{Duration, SystemTime};

use super::response::{MAX_LIFETIME, TokenResponse};
use crate::config::{Credential, NEVER_LISTED};
use crate::token::error::{Malformed, TokenError};
use crate::token::jwt;

/// The granted scopes, if they cover what is required and the token has the form it must have. Without a word of them
/// they are as asked for (RFC 6749 §5.1).
///
/// # Errors
///
/// [`TokenError::ScopeMissing`], that it is no JWT, or what else is wrong with the token.
pub fn scopes(grant: &TokenResponse, credential: &Credential) -> Result<Vec<String>, TokenError> {
    if let Some(flaw) = &grant.flaw {
        return Err(TokenError::Malformed(flaw.clone()));
    }
    let scopes = grant.scopes.clone().unwrap_or_else(|| credential.scopes.clone());
    let missing = missing(&scopes, credential);
    if !missing.is_empty() {
        return Err(TokenError::ScopeMissing { missing });
    }
    if credential.expect_jwt && !jwt::has_form(&grant.access_token) {
        return Err(TokenError::Malformed(Malformed::NotJwt));
    }
    Ok(scopes)
}

/// Which scopes these lack of those that are required.
pub fn missing(scopes: &[String], credential: &Credential) -> Vec<String> {
    credential.require_scopes.iter().filter(|scope| !scopes.contains(scope)).cloned().collect()
}

/// Which scopes were asked for and not granted, as far as servers list what they grant (RFC 6749 §3.3).
pub fn not_granted(granted: &[String], credential: &Credential) -> Vec<String> {
    let is_missing = |scope: &&String| !NEVER_LISTED.contains(&scope.as_str()) && !granted.contains(scope);
    credential.scopes.iter().filter(is_missing).cloned().collect()
}

/// The lifetime by `expires_in` or, where a JWT is expected, by the token's own `exp`, whichever ends earlier. The
/// server's time counts, where it says what it is: our clock may be off.
///
/// # Errors
///
/// That the token has ended by its `exp`.
pub fn lifetime(
    grant: &TokenResponse,
    credential: &Credential,
    now: SystemTime,
) -> Result<Option<Duration>, TokenError> {
    if !credential.expect_jwt {
        return Ok(grant.lifetime);
    }
    let Some(left) = jwt::left(&grant.access_token, grant.server_time.unwrap_or(now)) else {
        return Ok(grant.lifetime);
    };
    if left.is_zero() {
        return Err(TokenError::Malformed(Malformed::Ended));
    }
    let said = grant.lifetime.filter(|lifetime| !lifetime.is_zero());
    Ok(Some(said.unwrap_or(MAX_LIFETIME).min(left)))
}
