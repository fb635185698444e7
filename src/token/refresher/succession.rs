//! What becomes of a refresher when its credential's settings change: it goes on with others, or leaves its state.
//!
//! Both happen between two token requests, after [`Refresher::run_until`] has come back. Meanwhile requests read the store
//! as before.

use std::sync::Arc;

use super::Refresher;
use super::schedule;
use super::secrets::CurrentIdentity;
use crate::config::Credential;
use crate::token::endpoint::TokenEndpoint;
use crate::token::limiter::Limiter;
use crate::token::rotation::Rotation;
use crate::token::state::DurableState;

impl<E: TokenEndpoint> Refresher<E> {
    /// The same credential with other settings ([`Credential::shares_tokens_with`]). Token, quota, `Retry-After` and the count
    /// of failures stay. If the next request differs from the latest one, the refresher asks at once: an operator learns
    /// whether a changed secret works, and a rejection may not come again.
    #[must_use]
    pub fn renewed(mut self, credential: Arc<Credential>, endpoint: E) -> Self {
        let memory = self.limiter.snapshot();
        self.limiter = Limiter::new(&credential, self.clock);
        self.limiter.restore(memory);
        self.rotation.renew(Rotation::new(&credential));
        let before = self.credential.request_identity(self.identity.value());
        self.identity = CurrentIdentity::new(Arc::clone(&credential));
        let now = self.clock.now();
        if before != credential.request_identity(self.identity.value()) {
            self.secrets.changed(self.identity.value());
            self.limiter.release_latch();
            self.due = now;
        } else if let Some(token) = self.store.latest().filter(|_| self.due > now && self.same_token == 0) {
            let margin = credential.refresh_margin;
            self.due = schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64());
        }
        self.endpoint = endpoint;
        self.credential = credential;
        self
    }

    /// Goes on from this state, as if from the start. Nothing has been asked yet.
    #[must_use]
    pub fn with_state(mut self, durable: DurableState) -> Self {
        self.durable = durable;
        self.resume();
        self
    }

    /// The state with all that is known, for a refresher of the same credential that begins anew with other settings.
    pub fn into_state(self) -> DurableState {
        let state = self.remembered_before();
        self.durable.replaced(state)
    }

    /// Closes the state file, so that another credential can open it.
    pub fn give_up_place(&mut self) {
        self.durable.give_up_place();
    }

    /// Goes on with its state in another place.
    ///
    /// # Cancel safety
    ///
    /// None: the refresher is lost.
    pub async fn moved_to(mut self, place: DurableState) -> Self {
        self.durable = place.succeeding(self.remembered_before());
        self.durable.write().await;
        self
    }
}
