//! One token request of the loop, from the secrets that it is made with to what becomes of its answer.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tracing::debug;

use super::Refresher;
use crate::token::endpoint::TokenEndpoint;
use crate::token::error::TokenError;
use crate::token::rotation::GrantChoice;

impl<E: TokenEndpoint> Refresher<E> {
    pub(super) async fn ask(&mut self) {
        self.progress.send_modify(|progress| {
            progress.underway = true;
            progress.blocked = None;
        });
        self.follows_up = false;
        self.read_secrets_again().await;
        let Ok(means) = self.choose_grant_again().await else {
            // They were there a moment ago: the next step says what is wrong.
            self.progress.send_modify(|progress| progress.underway = false);
            return;
        };
        self.report_fallback(&means);
        let client = self.secrets.identity(self.identity.value());
        let identity = means.identity(&client).unwrap_or(client);
        // What is taken out of the quota is so before it is used: who dies with the request under way has made it.
        self.durable.save_unless_replaced(self.state_before_request()).await;
        let sent = self.clock.now();
        let current = self.store.latest();
        let request = self.endpoint.request(&self.credential, &identity, current.as_deref());
        // A panic in there must not take the loop with it.
        let outcome = AssertUnwindSafe(request)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(TokenError::Network("the request panicked".to_owned())));
        let latency = sent.until(self.clock.now());
        // It may have been rejected meanwhile, and is about to be replaced.
        self.notices_rejection();
        let answered = outcome.map(|grant| (self.accept(&grant, sent), grant.refresh_token));
        match answered {
            Ok((Ok(token), new)) => self.succeeded(token, means, new.as_ref(), latency).await,
            Ok((Err(error), new)) => {
                // No access token for us, and yet the refresh token may be another now.
                let mut state = self.durable.state().clone();
                if means.answered(new.as_ref(), self.identity.value(), &mut state) {
                    self.durable.save(state).await;
                }
                self.failed(error, GrantChoice::Configured, latency).await;
            }
            Err(error) => self.failed(error, means, latency).await,
        }
    }

    /// Whether a secret has another value now.
    pub(super) async fn read_secrets_again(&mut self) -> bool {
        let is_changed = self.identity.read_again().await;
        if is_changed {
            debug!(credential = %self.credential.name, "secret changed");
            self.secrets.changed(self.identity.value());
        }
        is_changed
    }

    /// What to ask with. While that is the fallback, someone may have put a refresh token into the state's place.
    async fn choose_grant_again(&mut self) -> Result<GrantChoice, TokenError> {
        let means = self.choose_grant()?;
        if !(self.is_on_fallback && matches!(means, GrantChoice::Fallback { .. })) {
            return Ok(means);
        }
        self.take_state_from_disk().await;
        self.choose_grant()
    }

    /// Tells that the fallback is used, when that begins.
    fn report_fallback(&mut self, means: &GrantChoice) {
        let was_on_fallback = self.is_on_fallback;
        self.is_on_fallback = matches!(means, GrantChoice::Fallback { .. });
        if let (GrantChoice::Fallback { why }, false, Some(fallback)) =
            (means, was_on_fallback, &self.identity.value().fallback)
        {
            self.trail.fallback_used(fallback.name(), why);
        }
    }
}
