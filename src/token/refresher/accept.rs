//! An answer's token as the loop takes it: a new generation, or the one that it had.

use std::time::Duration;

use super::Refresher;
use crate::clock::{Moment, wall_clock};
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::endpoint::response::TokenResponse;
use crate::token::endpoint::validate;
use crate::token::error::{Malformed, TokenError};

impl<E: TokenEndpoint> Refresher<E> {
    /// Makes a token of a grant, if it is what was asked for.
    pub(super) fn accept(&mut self, grant: &TokenResponse, sent: Moment) -> Result<AccessToken, TokenError> {
        let credential = &self.credential;
        let scopes = validate::scopes(grant, credential)?;
        let now = wall_clock();
        self.response_warnings.of_grant(grant, credential, now);
        let lifetime = validate::lifetime(grant, credential, now)?;
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
