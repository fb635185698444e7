//! Continuing from the state: at the start, and later where a person has put another state on disk.

use std::time::Duration;

use super::{Refresher, STATE_RECHECK_INTERVAL};
use crate::token::endpoint::TokenEndpoint;
use crate::token::error::TokenError;
use crate::token::rotation::{self, RefreshTokenInUse};
use crate::token::state::file::{RequestMark, State};
use crate::token::store::Succession;

impl<E: TokenEndpoint> Refresher<E> {
    /// Continues from the state, which belongs to this credential. If the next request differs from the latest one that was
    /// answered, it does not wait for the latch of an earlier rejection and is made at once; the old token stays in use
    /// until the answer.
    pub(super) fn resume(&mut self) {
        let state = self.durable.state();
        let is_as_before = state.request == Some(RequestMark::of(self.identity.request_identity()));
        let may_have_been_mended = state.request.is_some() && !is_as_before;
        self.limiter.restore(state.limiter);
        let token = state.access_token.clone();
        if may_have_been_mended {
            self.limiter.release_latch();
        }
        let is_rejected = self.limiter.is_rejected();
        self.secrets.resume(self.durable.state(), self.identity.value(), is_rejected);
        if let Some(token) = token {
            if is_as_before {
                self.due = self.planned(&token, self.durable.state().refresh_token_end);
            }
            let resumed = self.issued(&token, self.clock.now());
            self.trail.set_rotations(self.durable.state().rotations);
            self.trail.resumed(resumed);
            self.publish(token, Succession::Anew);
        }
    }

    /// Adopts the refresh token on disk, if a person has put another there. Answers whether that is so.
    pub(super) async fn take_state_from_disk(&mut self) -> bool {
        let mut state = self.durable.state().clone();
        let is_taken = self.take_from_disk_into(&mut state).await;
        if is_taken {
            self.durable.overwrite(state).await;
        }
        is_taken
    }

    /// Adopts the refresh token of a later state on disk, which a write has found and left there.
    pub(super) async fn take_left_state(&mut self) {
        let Some(found) = self.durable.take_left() else { return };
        let mut state = self.durable.state().clone();
        if rotation::take_up(&mut state, found.belonging_to(&self.credential), self.identity.value()) {
            self.limiter.release_latch();
        }
        self.durable.overwrite(state).await;
    }

    /// Records that the server refuses this refresh token, and looks for another on disk. Answers the wait before the
    /// same refresh token is sent again; `None` if the token is condemned.
    pub(super) async fn refused(
        &mut self,
        in_use: &RefreshTokenInUse,
        error: &TokenError,
    ) -> Option<Duration> {
        let mut state = self.durable.state().clone();
        let again_in = self.rotation.refused(&mut state, in_use, error, self.is_ordered);
        // Another replica may have been given a later refresh token, which it was too late to share.
        if let Some(shared) = &mut self.shared {
            shared.read_late().await;
        }
        if self.take_late_into(&mut state) {
            self.durable.keep(state.clone());
        }
        // Before the write, which does not overwrite a file that cannot be read now.
        if self.take_from_disk_into(&mut state).await {
            self.durable.overwrite(state).await;
        } else {
            self.durable.save(state).await;
        }
        again_in
    }

    async fn take_from_disk_into(&mut self, state: &mut State) -> bool {
        self.look_at_state = self.clock.now() + STATE_RECHECK_INTERVAL;
        let found = self.durable.read_again().await;
        let is_taken = found.is_some_and(|found| {
            rotation::take_up(state, found.belonging_to(&self.credential), self.identity.value())
        });
        if is_taken {
            self.writer.begin_anew();
        }
        is_taken
    }

    /// The state to save, with the current knowledge of the limiter and of the client secrets.
    pub(super) fn state_to_save(&self) -> State {
        let mut state = State {
            limiter: self.limiter.snapshot(),
            identity: Some(self.identity.token_identity()),
            request: Some(RequestMark::of(self.identity.request_identity())),
            ..self.durable.state().clone()
        };
        self.secrets.remember(&mut state);
        state
    }

    /// The state to save before a token request is answered: the latest answered request is an earlier one.
    pub(super) fn state_before_request(&self) -> State {
        State { request: self.durable.state().request, ..self.state_to_save() }
    }
}
