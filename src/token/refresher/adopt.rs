//! A grant that an operator hands over takes the place of the one in use.
//!
//! What came of the old one is over: refusals, backoff, the count of rotations. What the server asked for is not: a
//! `Retry-After` stays. As after a request, nothing is published before the new refresh token is durable or known not
//! to be.

use secrecy::ExposeSecret;

use super::Refresher;
use super::schedule;
use crate::clock::Moment;
use crate::telemetry::audit;
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::endpoint::response::{MAX_LIFETIME, TokenResponse};
use crate::token::error::TokenError;
use crate::token::operator::{Adopted, NewGrant, NotAdopted};
use crate::token::rotation;

impl<E: TokenEndpoint> Refresher<E> {
    /// Uses this grant from now on. Its access token is as old as the moment it was `received`.
    pub(super) async fn adopt(&mut self, new: NewGrant, received: Moment) -> Result<Adopted, NotAdopted> {
        // A configured refresh token that was changed before this came is not to displace it.
        self.read_secrets_again().await;
        // With an access token beside it, it is what the server has just answered.
        if new.access_token.is_none() && rotation::is_refused(self.durable.state(), &new.refresh_token) {
            return Err(NotAdopted::Refused);
        }
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
        self.due = token.as_ref().map_or(now, |token| {
            let margin = self.credential.refresh_margin;
            schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64())
        });
        let issued = token.as_ref().map(|token| audit::Issued {
            generation: token.generation().number(),
            fingerprint: self.fingerprints.of(token).to_string(),
            lifetime: token.issued().until(token.expires()),
            next: now.until(self.due),
        });
        let mut state = self.state_to_save();
        rotation::adopt(&mut state, new.refresh_token, self.identity.value());
        state.generation = token.as_ref().map_or(state.generation, AccessToken::generation);
        state.access_token.clone_from(&token);
        self.durable.save(state).await;
        let is_durable = self.durable.is_durable();
        let gate = self.limiter.blocked().filter(|gate| token.is_none() && now < gate.until);
        if let Some(token) = token {
            self.writer.publish(token);
        }
        self.progress.send_modify(|progress| {
            progress.failure = None;
            progress.blocked = gate;
            progress.unchanged_until = None;
        });
        self.trail.authorized(issued, is_durable, flaw.as_ref().map(|flaw| flaw as _));
        Ok(Adopted { is_durable })
    }

    /// The access token that came along, if it is one that an answer may hold.
    fn token_of(&mut self, new: &NewGrant, received: Moment) -> Option<Result<AccessToken, TokenError>> {
        let has_ended = new.lifetime.is_some_and(|lifetime| lifetime.is_zero());
        let access_token = new.access_token.as_ref().filter(|_| !has_ended)?.expose_secret().to_owned();
        let grant = TokenResponse {
            access_token,
            lifetime: new.lifetime.map(|lifetime| lifetime.min(MAX_LIFETIME)),
            lifetime_was_cut: new.lifetime.is_some_and(|lifetime| lifetime > MAX_LIFETIME),
            is_labelled_json: true,
            scopes: new.scopes.clone(),
            server_time: None,
            refresh_token: None,
            flaw: None,
        };
        Some(self.accept(&grant, received))
    }
}
