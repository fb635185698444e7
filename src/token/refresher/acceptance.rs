//! Whether an answer's token is what was asked for, and when it ends.

use std::time::{Duration, SystemTime};

use super::Refresher;
use crate::clock::{Moment, wall_clock};
use crate::token::access_token::AccessToken;
use crate::token::client::TokenEndpoint;
use crate::token::error::{Malformed, TokenError};
use crate::token::jwt;
use crate::token::wire::{Grant, MAX_LIFETIME};

impl<E: TokenEndpoint> Refresher<E> {
    /// Makes a token of a grant, if it is what was asked for.
    pub(super) fn accept(&mut self, grant: &Grant, sent: Moment) -> Result<AccessToken, TokenError> {
        if let Some(flaw) = &grant.flaw {
            return Err(TokenError::Malformed(flaw.clone()));
        }
        let credential = &self.credential;
        let scopes = grant.scopes.clone().unwrap_or_else(|| credential.scopes.clone());
        let missing: Vec<String> =
            credential.require_scopes.iter().filter(|scope| !scopes.contains(scope)).cloned().collect();
        if !missing.is_empty() {
            return Err(TokenError::ScopeMissing { missing });
        }
        if credential.expect_jwt && !jwt::has_form(&grant.access_token) {
            return Err(TokenError::Malformed(Malformed::NotJwt));
        }
        let now = wall_clock();
        self.oddities.of_grant(grant, credential, now);
        let lifetime = if credential.expect_jwt { bounded_by_exp(grant, now)? } else { grant.lifetime };
        let token = |generation, lifetime| {
            AccessToken::new(&grant.access_token, generation, sent, lifetime, scopes.clone())
                .map_err(|illegal| TokenError::Malformed(illegal.into()))
        };
        let latest = self.store.latest();
        let before = self.durable.state().generation;
        let generation = latest.as_ref().map_or(before, |latest| latest.generation().max(before));
        let said = lifetime.filter(|lifetime| !lifetime.is_zero());
        let fresh = token(generation.next(), said.unwrap_or(credential.default_lifetime))?;
        let Some(latest) = latest.filter(|latest| latest.is_same_token(&fresh)) else {
            return Ok(fresh);
        };
        // The token that we had. With nothing left it ends when it was said to end; without a word it is taken
        // for good as long as before.
        let lifetime = match lifetime {
            Some(Duration::ZERO) => sent.until(latest.expires()),
            said => said.unwrap_or(credential.default_lifetime),
        };
        let again = token(generation, lifetime)?;
        if again.is_usable(self.clock.now()) {
            Ok(again)
        } else {
            Err(TokenError::Malformed(Malformed::Stale))
        }
    }
}

/// The lifetime by `expires_in` or by the token's own `exp`, whichever ends earlier. The server's time counts, where
/// it says what it is: our clock may be off.
fn bounded_by_exp(grant: &Grant, now: SystemTime) -> Result<Option<Duration>, TokenError> {
    let Some(left) = jwt::left(&grant.access_token, grant.server_time.unwrap_or(now)) else {
        return Ok(grant.lifetime);
    };
    if left.is_zero() {
        return Err(TokenError::Malformed(Malformed::Ended));
    }
    let said = grant.lifetime.filter(|lifetime| !lifetime.is_zero());
    Ok(Some(said.unwrap_or(MAX_LIFETIME).min(left)))
}
