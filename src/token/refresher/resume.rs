//! Continuing from the state: at the start, and later where a person has put another state on disk.

use secrecy::SecretString;

use super::{Refresher, STATE_RECHECK_INTERVAL};
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::endpoint::validate;
use crate::token::rotation;
use crate::token::state::file::State;
use crate::token::state::settings;

impl<E: TokenEndpoint> Refresher<E> {
    /// Continues from the state. A token that was requested with other settings is not used, and with other settings the
    /// next request does not wait for the latch of an earlier rejection.
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
            self.due = self.planned(&token);
            self.trail.resumed(token.generation().number(), self.fingerprints.of(&token).to_string());
            self.writer.publish(token);
        }
    }

    /// Adopts the refresh token on disk, if a person has put another there.
    pub(super) async fn take_state_from_disk(&mut self) {
        let mut state = self.durable.state().clone();
        if self.take_from_disk_into(&mut state).await {
            self.durable.save(state).await;
        }
    }

    /// Records that the server refuses this refresh token, and looks for another on disk.
    pub(super) async fn refused(&mut self, token: &SecretString, why: String) {
        let mut state = self.durable.state().clone();
        self.rotation.refuse(&mut state, token, why);
        // Before the save, which overwrites the file.
        self.take_from_disk_into(&mut state).await;
        self.durable.save(state).await;
    }

    async fn take_from_disk_into(&mut self, state: &mut State) -> bool {
        self.look_at_state = self.clock.now() + STATE_RECHECK_INTERVAL;
        let found = self.durable.read_again().await;
        found.is_some_and(|found| rotation::take_up(state, found, self.identity.value()))
    }

    /// The state to save, with the current knowledge of the limiter and of the client secrets.
    pub(super) fn state_to_save(&self) -> State {
        let mut state = State {
            limiter: self.limiter.snapshot(),
            settings: Some(settings(&self.credential, self.identity.value())),
            ..self.durable.state().clone()
        };
        self.secrets.remember(&mut state);
        state
    }

    /// The state to save before a token request: the token in it was requested with the settings in it.
    pub(super) fn state_before_request(&self) -> State {
        State { settings: self.durable.state().settings, ..self.state_to_save() }
    }
}
