//! The loop and its state: what it goes on from at the start, and what someone has put in the state's place since.

use secrecy::SecretString;

use super::schedule;
use super::{Refresher, STATE_RECHECK_INTERVAL};
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::endpoint::validate;
use crate::token::rotation;
use crate::token::state::file::State;
use crate::token::state::settings;

impl<E: TokenEndpoint> Refresher<E> {
    /// Takes up what the state remembers. A token that was asked for with other settings is not ours any more, and
    /// with others a rejection need not come again.
    pub(super) fn resume(&mut self) {
        let state = self.durable.state();
        let is_as_before = state.settings == Some(settings(&self.credential, self.identity.value()));
        let may_have_been_mended = state.settings.is_some() && !is_as_before;
        self.limiter.restore(state.limiter);
        let token = state.access_token.clone().filter(|_| is_as_before);
        if may_have_been_mended {
            self.limiter.release_latch();
        }
        let is_rejected = self.limiter.is_rejected();
        self.secrets.resume(self.durable.state(), self.identity.value(), is_rejected);
        let is_enough = |token: &AccessToken| validate::missing(token.scopes(), &self.credential).is_empty();
        if let Some(token) = token.filter(is_enough) {
            let margin = self.credential.refresh_margin;
            self.due = schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64());
            self.trail.resumed(token.generation().number(), self.fingerprints.of(&token).to_string());
            self.writer.publish(token);
        }
    }

    /// Takes up the refresh token that is on disk, if someone has put another there.
    pub(super) async fn take_state_from_disk(&mut self) {
        let mut state = self.durable.state().clone();
        if self.take_from_disk_into(&mut state).await {
            self.durable.save(state).await;
        }
    }

    /// Remembers that the server does not take this refresh token, and looks for another.
    pub(super) async fn refused(&mut self, token: &SecretString, why: String) {
        let mut state = self.durable.state().clone();
        self.rotation.refuse(&mut state, token, why);
        // Before the save, which replaces what someone has put there.
        self.take_from_disk_into(&mut state).await;
        self.durable.save(state).await;
    }

    async fn take_from_disk_into(&mut self, state: &mut State) -> bool {
        self.look_at_state = self.clock.now() + STATE_RECHECK_INTERVAL;
        let found = self.durable.read_again().await;
        found.is_some_and(|found| rotation::take_up(state, found, self.identity.value()))
    }

    /// The state with what is known by now of when to ask, and with what.
    pub(super) fn state_to_save(&self) -> State {
        let mut state = State {
            limiter: self.limiter.snapshot(),
            settings: Some(settings(&self.credential, self.identity.value())),
            ..self.durable.state().clone()
        };
        self.secrets.remember(&mut state);
        state
    }

    /// The same before there is an answer: the token that is there was asked for with the settings before.
    pub(super) fn state_before_request(&self) -> State {
        State { settings: self.durable.state().settings, ..self.state_to_save() }
    }
}
