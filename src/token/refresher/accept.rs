//! The access token of a response, as a new generation or as the current one again.

use std::time::Duration;

use super::Refresher;
use crate::clock::{Moment, wall_clock};
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::endpoint::response::TokenResponse;
use crate::token::endpoint::validate;
use crate::token::error::{Malformed, TokenError};

impl<E: TokenEndpoint> Refresher<E> {
    /// The access token of a response, if the response meets the credential's requirements.
    ///
    /// # Errors
    ///
    /// [`TokenError`], also where the server has issued the current token again and it has ended.
    pub(super) fn accept(
        &mut self,
        response: &TokenResponse,
        sent: Moment,
    ) -> Result<AccessToken, TokenError> {
        let credential = &self.credential;
        let scopes = validate::scopes(response, credential)?;
        let now = wall_clock();
        self.response_warnings.of_grant(response, credential, now);
        let lifetime = validate::lifetime(response, credential, now)?;
        let token = |generation, lifetime| {
            AccessToken::new(&response.access_token, generation, sent, lifetime, scopes.clone())
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
        // The current token again. A lifetime of zero leaves its end as it was; a missing lifetime means the default one.
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
