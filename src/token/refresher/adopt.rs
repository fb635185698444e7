//! Replacing the grant in use by one that an operator hands over.
//!
//! The backoff, the rejections and the count of rotations of the old grant count no longer; the server's `Retry-After` still
//! does. As after a token request, nothing is published before the new refresh token is durable or known not to be.

use secrecy::ExposeSecret;

use super::Refresher;
use crate::clock::Moment;
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::endpoint::response::{MAX_LIFETIME, TokenResponse};
use crate::token::error::TokenError;
use crate::token::operator::{Adopted, GrantOrigin, NewGrant, NotAdopted};
use crate::token::refresh_token_end::RefreshTokenEnd;
use crate::token::rotation;
use crate::token::store::Succession;

impl<E: TokenEndpoint> Refresher<E> {
    /// Uses this grant from now on. The age of its access token counts from the moment `received`.
    pub(super) async fn adopt(&mut self, new: NewGrant, received: Moment) -> Result<Adopted, NotAdopted> {
        // The order may have been given to the refresher of the credential as it was before a reload.
        if !self.identity.has_refresh_token() {
            return Err(NotAdopted::OtherGrant);
        }
        let accepted = GrantOrigin::of(&self.credential);
        if new.origin != accepted {
            return Err(NotAdopted::OtherOrigin(accepted));
        }
        // A configured refresh token that was changed before this order must not take precedence over the new one.
        self.read_secrets_again().await;
        let now = self.clock.now();
        let (token, flaw) = match self.token_of(&new, received).transpose() {
            Ok(token) => (token, None),
            Err(flaw) => (None, Some(flaw)),
        };
        self.obstacle = None;
        (self.is_on_fallback, self.follows_up) = (false, false);
        self.limiter.authorized();
        self.same_token = 0;
        self.no_forced_before = Moment::default();
        let end = RefreshTokenEnd::first(new.refresh_lifetime, received);
        self.due = token.as_ref().map_or(now, |token| self.planned(token, end));
        if token.is_none() {
            self.writer.begin_anew();
        }
        let issued = token.as_ref().map(|token| self.issued(token, now));
        let mut state = self.state_to_save();
        rotation::adopt(&mut state, new.refresh_token, end, self.identity.value());
        state.generation = token.as_ref().map_or(state.generation, AccessToken::generation);
        state.access_token.clone_from(&token);
        Box::pin(self.share_grant(&mut state)).await;
        self.durable.overwrite(state).await;
        let is_durable = self.durable.is_durable() || self.is_shared();
        let blocked = self.limiter.blocked().filter(|blocked| token.is_none() && now < blocked.until);
        if let Some(token) = token {
            self.publish(token, Succession::Anew);
        }
        self.progress.send_modify(|progress| {
            progress.failure = None;
            progress.blocked = blocked;
            progress.unchanged_until = None;
        });
        self.trail.set_rotations(self.durable.state().rotations);
        self.trail.authorized(issued, is_durable, flaw.as_ref().map(|flaw| flaw as _));
        Ok(Adopted { is_durable })
    }

    /// The access token of the grant, checked as that of a response is; `None` without one, or if it has ended.
    fn token_of(&mut self, new: &NewGrant, received: Moment) -> Option<Result<AccessToken, TokenError>> {
        let has_ended = new.lifetime.is_some_and(|lifetime| lifetime.is_zero());
        let access_token = new.access_token.as_ref().filter(|_| !has_ended)?.expose_secret().to_owned();
        let response = TokenResponse {
            access_token: access_token.into(),
            lifetime: new.lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME)),
            lifetime_was_cut: new.lifetime.is_some_and(|lifetime| lifetime > MAX_LIFETIME),
            is_labelled_json: true,
            scopes: new.scopes.clone(),
            server_time: None,
            refresh_token: None,
            id_token: None,
            refresh_lifetime: None,
            flaw: None,
        };
        Some(self.accept(&response, received))
    }
}
