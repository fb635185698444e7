//! A refresher whose credential a reload has changed: it continues with the new settings, or leaves its state to another.
//!
//! Both happen between two token requests, after [`Refresher::run_until`] has returned. Requests read the store meanwhile.

use std::sync::Arc;

use super::Refresher;
use super::secrets::CurrentIdentity;
use crate::clock::Clock;
use crate::config::Credential;
use crate::token::endpoint::TokenEndpoint;
use crate::token::limiter::Limiter;
use crate::token::rotation::Rotation;
use crate::token::state::DurableState;
use crate::token::state::file::OpenError;

impl<E: TokenEndpoint> Refresher<E> {
    /// Continues with other settings that share tokens with the present ones ([`Credential::shares_tokens_with`]) and have the
    /// same state file. Token, quota, `Retry-After` and the count of failures stay. With other secrets the next token is
    /// requested at once, latch or not: the log then tells whether the new secrets work.
    #[must_use]
    pub fn renewed(mut self, credential: Arc<Credential>, endpoint: E) -> Self {
        let snapshot = self.limiter.snapshot();
        self.limiter = Limiter::new(&credential, self.clock);
        self.limiter.restore(snapshot);
        self.rotation.renew(Rotation::new(&credential));
        let is_changed = self.credential.identity != credential.identity;
        self.identity = CurrentIdentity::new(Arc::clone(&credential));
        self.credential = credential;
        let now = self.clock.now();
        if is_changed {
            self.secrets.changed(self.identity.value());
            self.limiter.release_latch();
            self.due = now;
        } else if let Some(token) = self.store.latest().filter(|_| self.due > now && self.same_token == 0) {
            self.due = self.planned(&token);
        }
        self.endpoint = endpoint;
        self
    }

    /// Starts from this state, before any token request.
    #[must_use]
    pub fn with_state(mut self, durable: DurableState) -> Self {
        self.durable = durable;
        self.resume();
        self
    }

    /// The state, for a new refresher of the same credential with other settings.
    pub fn into_state(self) -> DurableState {
        let state = self.state_to_save();
        self.durable.replaced(state)
    }

    /// Closes this refresher's state file, and opens the state of another credential with the same file. Blocks on the disk.
    ///
    /// # Errors
    ///
    /// As of [`DurableState::open`].
    pub fn open_successor_state(
        self,
        credential: &Credential,
        clock: Clock,
    ) -> Result<DurableState, OpenError> {
        drop(self);
        DurableState::open(credential, clock)
    }
}
