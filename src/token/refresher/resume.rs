//! The loop and its state: what it goes on from at the start, and what someone has put in the state's place since.

use secrecy::SecretString;

use super::schedule;
use super::{RECHECK, Refresher};
use crate::token::endpoint::TokenEndpoint;
use crate::token::rotation;
use crate::token::state::file::State;

impl<E: TokenEndpoint> Refresher<E> {
    /// Takes up the state, which belongs to this credential. If the next request differs from the latest one that was
    /// answered, a rejection may not come again: the refresher asks at once, and the old token serves until the answer.
    pub(super) fn resume(&mut self) {
        let state = self.durable.state();
        let is_as_before = state.request == Some(self.credential.request_identity(self.identity.value()));
        let may_have_been_mended = state.request.is_some() && !is_as_before;
        self.limiter.restore(state.memory);
        let token = state.access_token.clone();
        if may_have_been_mended {
            self.limiter.release_latch();
        }
        let is_rejected = self.limiter.is_rejected();
        self.secrets.resume(self.durable.state(), self.identity.value(), is_rejected);
        if let Some(token) = token {
            if is_as_before {
                let margin = self.credential.refresh_margin;
                self.due = schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64());
            }
            self.trail.resumed(token.generation().number(), self.fingerprints.of(&token).to_string());
            self.writer.publish(token);
        }
    }

    /// Takes up the refresh token that is on disk, if someone has put another there.
    pub(super) async fn take_up_state(&mut self) {
        let mut state = self.durable.state().clone();
        if self.take_up_into(&mut state).await {
            self.durable.save(state).await;
        }
    }

    /// Remembers that the server does not take this refresh token, and looks for another.
    pub(super) async fn refused(&mut self, token: &SecretString, why: String) {
        let mut state = self.durable.state().clone();
        self.rotation.refuse(&mut state, token, why);
        // Before the save, which replaces what someone has put there.
        self.take_up_into(&mut state).await;
        self.durable.save(state).await;
    }

    async fn take_up_into(&mut self, state: &mut State) -> bool {
        self.look_at_state = self.clock.now() + RECHECK;
        let found = self.durable.read_again().await;
        found.is_some_and(|found| {
            rotation::take_up(state, found.belonging_to(&self.credential), self.identity.value())
        })
    }

    /// The state with what is known by now of when to ask, and with what.
    pub(super) fn remembered(&self) -> State {
        let mut state = State {
            memory: self.limiter.snapshot(),
            identity: Some(self.credential.token_identity()),
            request: Some(self.credential.request_identity(self.identity.value())),
            ..self.durable.state().clone()
        };
        self.secrets.remember(&mut state);
        state
    }

    /// The same state before the current request is answered: the latest answered request is an earlier one.
    pub(super) fn remembered_before(&self) -> State {
        State { request: self.durable.state().request, ..self.remembered() }
    }
}
