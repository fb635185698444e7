//! One token request of the loop, from the secrets that it is made with to what becomes of its answer.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use tracing::debug;

use super::Refresher;
use crate::config::Secret;
use crate::token::endpoint::TokenEndpoint;
use crate::token::error::TokenError;
use crate::token::rotation::Means;

impl<E: TokenEndpoint> Refresher<E> {
    pub(super) async fn ask(&mut self) {
        self.progress.send_modify(|progress| {
            progress.underway = true;
            progress.blocked = None;
        });
        self.follows_up = false;
        self.read_secrets_again().await;
        let Ok(means) = self.means_as_of_now().await else {
            // They were there a moment ago: the next step says what is wrong.
            self.progress.send_modify(|progress| progress.underway = false);
            return;
        };
        self.tell_fallback(&means);
        let client = self.secrets.identity(self.identity.value());
        let identity = means.identity(&client).unwrap_or(client);
        // What is taken out of the quota is so before it is used: who dies with the request under way has made it.
        self.durable.save_unless_replaced(self.remembered_before()).await;
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
                if means.answered(new.as_ref(), &self.credential, self.identity.value(), &mut state) {
                    self.durable.save(state).await;
                }
                self.failed(error, Means::Grant, latency).await;
            }
            Err(error) => self.failed(error, means, latency).await,
        }
    }

    /// Whether a secret has another value now. With a new subject the refresher asks at once; the old token serves meanwhile.
    pub(super) async fn read_secrets_again(&mut self) -> bool {
        let subject = self.subject().map(|subject| subject.expose_secret().to_owned()).map(Zeroizing::new);
        let is_changed = self.identity.read_again().await;
        if is_changed {
            debug!(credential = %self.credential.name, "secret changed");
            self.secrets.changed(self.identity.value());
            let is_same_subject =
                self.subject().map(ExposeSecret::expose_secret) == subject.as_ref().map(|old| old.as_str());
            if !is_same_subject {
                self.limiter.release_latch();
                self.due = self.due.min(self.clock.now());
            }
        }
        is_changed
    }

    /// The secret that stands for the principal, in the grant that is in use.
    fn subject(&self) -> Option<&SecretString> {
        self.identity.value().grant_in_use(self.is_on_fallback).subject()
    }

    /// Whether that secret may change while the daemon runs.
    pub(super) fn has_subject_file(&self) -> bool {
        let grant = self.credential.identity.grant_in_use(self.is_on_fallback);
        grant.subject().is_some_and(Secret::may_change)
    }

    /// What to ask with. While that is the fallback, someone may have put a refresh token into the state's place.
    async fn means_as_of_now(&mut self) -> Result<Means, TokenError> {
        let means = self.means()?;
        if !(self.is_on_fallback && matches!(means, Means::Fallback { .. })) {
            return Ok(means);
        }
        self.take_up_state().await;
        self.means()
    }

    /// Tells that the fallback is used, when that begins.
    fn tell_fallback(&mut self, means: &Means) {
        let was_on_fallback = self.is_on_fallback;
        self.is_on_fallback = matches!(means, Means::Fallback { .. });
        if let (Means::Fallback { why }, false, Some(fallback)) =
            (means, was_on_fallback, &self.identity.value().fallback)
        {
            self.trail.fallback_used(fallback.name(), why);
        }
    }
}
