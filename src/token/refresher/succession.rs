//! What becomes of a refresher when its credential's settings change: it goes on with others, or leaves its state.
//!
//! Both happen between two token requests, after [`Refresher::run_until`] has come back. Meanwhile requests read the store
//! as before.

use std::sync::Arc;

use super::Refresher;
use super::schedule;
use super::secrets::CurrentIdentity;
use crate::clock::Clock;
use crate::config::Credential;
use crate::token::endpoint::TokenEndpoint;
use crate::token::limiter::Limiter;
use crate::token::rotation::Rotation;
use crate::token::state::DurableState;
use crate::token::state::file::OpenError;

impl<E: TokenEndpoint> Refresher<E> {
    /// The same credential with other settings, whose tokens are as good ([`Credential::shares_tokens_with`]) and whose
    /// state is in the same place. Token, quota, `Retry-After` and the count of failures stay. With other secrets the next
    /// token is asked for at once: whoever has changed them learns whether they work, and a rejection need not come again.
    #[must_use]
    pub fn renewed(mut self, credential: Arc<Credential>, endpoint: E) -> Self {
        let snapshot = self.limiter.snapshot();
        self.limiter = Limiter::new(&credential, self.clock);
        self.limiter.restore(snapshot);
        self.rotation.renew(Rotation::new(&credential));
        let is_changed = self.credential.identity != credential.identity;
        self.identity = CurrentIdentity::new(Arc::clone(&credential));
        let now = self.clock.now();
        if is_changed {
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
        let state = self.state_to_save();
        self.durable.replaced(state)
    }

    /// Opens a state in the place where this refresher had its own, which it gives up.
    ///
    /// # Errors
    ///
    /// As of [`DurableState::open`]. Waits for the disk.
    pub fn open_successor_state(
        self,
        credential: &Credential,
        clock: Clock,
    ) -> Result<DurableState, OpenError> {
        drop(self);
        DurableState::open(credential, clock)
    }
}
