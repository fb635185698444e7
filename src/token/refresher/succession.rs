//! A refresher whose credential a reload has changed: it continues with the new settings, or leaves its state to another.
//!
//! Both happen between two token requests, after [`Refresher::run_until`] has returned. Requests read the store meanwhile.

use std::sync::Arc;

use super::Refresher;
use super::secrets::CurrentIdentity;
use crate::config::Credential;
use crate::token::endpoint::TokenEndpoint;
use crate::token::limiter::Limiter;
use crate::token::state::DurableState;

impl<E: TokenEndpoint> Refresher<E> {
    /// Continues with other settings that share tokens with the present ones ([`Credential::shares_tokens_with`]). Token,
    /// quota, `Retry-After` and the count of failures stay. If the next request differs from the latest one, it is made at
    /// once: the log then tells whether a changed secret works, and a rejection may not come again.
    #[must_use]
    pub fn renewed(mut self, credential: Arc<Credential>, mut endpoint: E) -> Self {
        if credential.token_url == self.credential.token_url {
            endpoint.take_over(&self.endpoint);
        }
        let snapshot = self.limiter.snapshot();
        self.limiter = Limiter::new(&credential, self.clock);
        self.limiter.restore(snapshot);
        self.rotation.renew(&credential);
        let before = self.identity.request_identity();
        let identity = CurrentIdentity::new(Arc::clone(&credential));
        if !identity.value().has_subjects_of(self.identity.value(), self.is_on_fallback) {
            self.writer.begin_anew();
        }
        self.identity = identity;
        self.trail.continue_as(super::subject(&credential), self.trail.events().clone());
        self.credential = credential;
        // The change may have mended the cause of a failure.
        self.limiter.release_all_but_retry_after();
        let now = self.clock.now();
        if before != self.identity.request_identity() {
            self.secrets.changed(self.identity.value());
            self.due = now;
        } else if let Some(token) = self.store.latest().filter(|_| self.due > now && self.same_token == 0) {
            self.due = self.planned(&token, self.durable.state().refresh_token_end);
        }
        self.endpoint = endpoint;
        self
    }

    /// Carries out the orders that operators have given, or will give, to the previous refresher of this credential. Both have
    /// made no token request since [`Refresher::run_until`] returned, or none at all.
    pub const fn take_orders_of(&mut self, previous: &mut Self) {
        std::mem::swap(&mut self.orders, &mut previous.orders);
    }

    /// Starts from this state, before any token request.
    #[must_use]
    pub fn with_state(mut self, durable: DurableState) -> Self {
        self.durable = durable;
        self.resume();
        self.continue_shared();
        self
    }

    /// The state, for a new refresher of the same credential with other settings.
    pub fn into_state(self) -> DurableState {
        let state = self.state_before_request();
        self.durable.replaced(state)
    }

    /// Closes the state file, so that another credential can open it.
    pub fn give_up_place(&mut self) {
        self.durable.give_up_place();
    }

    /// Continues with the state in another file.
    ///
    /// # Cancel safety
    ///
    /// None: the refresher is lost.
    pub async fn moved_to(mut self, place: DurableState) -> Self {
        let state = self.state_before_request();
        let before = std::mem::replace(&mut self.durable, DurableState::in_memory(self.clock));
        self.durable = place.succeeding(before, state);
        self.durable.write().await;
        self
    }
}
