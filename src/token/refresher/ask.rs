//! One token request: its secrets, its grant, the request itself, and the dispatch of its outcome.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tracing::debug;

use super::Refresher;
use crate::config::Secret;
use crate::token::endpoint::{HeldToken, TokenEndpoint};
use crate::token::error::TokenError;
use crate::token::replicas::{Occasion, Share, Turn};
use crate::token::rotation::{GrantChoice, Renewal};
use crate::token::store::Succession;

impl<E: TokenEndpoint> Refresher<E> {
    pub(super) async fn ask(&mut self) {
        let began = self.clock.now();
        self.progress.send_modify(|progress| {
            progress.underway = Some(began);
            progress.blocked = None;
        });
        self.follows_up = false;
        self.read_secrets_again().await;
        let Ok(choice) = self.choose_grant_again().await else {
            // A grant was available a moment ago. The next step reports why it is not any more.
            self.progress.send_modify(|progress| progress.underway = None);
            return;
        };
        self.report_fallback(&choice);
        let span = self.trail.begin_request();
        self.progress.send_if_modified(|progress| {
            progress.span = span;
            false
        });
        let client = self.secrets.identity(self.identity.value());
        let identity = choice.identity(&client).unwrap_or(client);
        // The request counts against the quota before it is made: a process that dies during the request has made it.
        // So is a request that spends a refresh token recorded before it is made.
        let before = self.state_before_request();
        let mut state = before.clone();
        choice.is_sent(&mut state);
        if matches!(self.turn(), Turn::Open | Turn::Other(_)) {
            return Box::pin(self.lose_turn(None)).await;
        }
        match self.share(&mut state, Occasion::Request).await {
            // A refresh token is not used unless the others know.
            Share::Away if matches!(choice, GrantChoice::RefreshToken(_)) && !self.may_go_on_alone() => {
                return Box::pin(self.withdraw_request(before)).await;
            }
            Share::Done | Share::Away => {}
            // The lease was lost unnoticed: another replica makes the request, or has made it.
            Share::Lost(theirs) => return Box::pin(self.lose_turn(theirs)).await,
        }
        self.durable.save_unless_replaced(state).await;
        if matches!(self.turn(), Turn::Open | Turn::Other(_)) {
            // The process has slept.
            return Box::pin(self.withdraw_request(before)).await;
        }
        let sent = self.clock.now();
        let (is_rejected, is_ordered) = (self.notices_rejection(), self.orders.refreshes.is_requested());
        self.cause = match (is_ordered, is_rejected && sent < self.due) {
            (true, _) => "operator",
            (false, true) => "forced",
            (false, false) => "scheduled",
        };
        let mut is_forced = is_rejected || is_ordered;
        let current = self.store.latest();
        let held = current.as_deref().map(|token| {
            // A token that an upstream has rejected is not usable.
            let is_rejected = self.demands.exceed(token.generation());
            HeldToken { token, is_usable: !is_rejected && token.is_usable(sent) }
        });
        let request = async {
            match self.identity.obstacle(&identity) {
                Some(obstacle) => Err(obstacle),
                None => self.endpoint.request(&self.credential, &identity, held).await,
            }
        };
        // A panic in the request must not end the loop.
        let outcome = AssertUnwindSafe(request)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(TokenError::Network("the request panicked".to_owned())));
        let latency = sent.until(self.clock.now());
        // An upstream may have rejected the token during the request, which is about to replace it.
        is_forced |= self.notices_rejection();
        let answered = outcome.map(|response| {
            let accepted = self.accept(&response, sent);
            (accepted, Renewal { token: response.refresh_token, lifetime: response.refresh_lifetime, sent })
        });
        match answered {
            Ok((Ok(token), new)) => {
                let succession = if is_forced { Succession::Forced } else { Succession::Scheduled };
                self.succeeded(token, succession, choice, new, latency).await;
            }
            Ok((Err(error), new)) => {
                // The response has no usable access token, but the refresh token may have been rotated.
                let mut state = self.durable.state().clone();
                choice.answered(new, &self.credential, self.identity.value(), &mut state);
                if let Some(theirs) = Box::pin(self.save_answer(state, Occasion::Success)).await {
                    Box::pin(self.adopt_shared(*theirs)).await;
                }
                self.failed(error, GrantChoice::Configured, latency).await;
            }
            Err(error) => self.failed(error, choice, latency).await,
        }
    }

    /// Reads the secrets again. Returns whether one has changed. With a new subject the refresher makes a request at once;
    /// the old token stays in use meanwhile.
    pub(super) async fn read_secrets_again(&mut self) -> bool {
        let before = self.identity.value().clone();
        let is_changed = self.identity.read_again().await;
        if is_changed {
            debug!(credential = %self.credential.name, "secret changed");
            self.secrets.changed(self.identity.value());
            if !self.identity.value().has_subjects_of(&before, self.is_on_fallback) {
                self.writer.begin_anew();
                self.limiter.release_latch();
                self.due = self.due.min(self.clock.now());
            }
        }
        is_changed
    }

    /// Whether a secret that stands for the principal may change while the daemon runs.
    pub(super) fn has_subject_file(&self) -> bool {
        self.credential.identity.subjects(self.is_on_fallback).any(Secret::may_change)
    }

    /// Chooses the grant. Before another request with the fallback, looks for a refresh token in the state on disk.
    async fn choose_grant_again(&mut self) -> Result<GrantChoice, TokenError> {
        let choice = self.choose_grant()?;
        if !(self.is_on_fallback && matches!(choice, GrantChoice::Fallback { .. })) {
            return Ok(choice);
        }
        self.take_state_from_disk().await;
        self.choose_grant()
    }

    /// Logs when the fallback grant comes into use.
    fn report_fallback(&mut self, choice: &GrantChoice) {
        let was_on_fallback = self.is_on_fallback;
        self.is_on_fallback = matches!(choice, GrantChoice::Fallback { .. });
        if was_on_fallback != self.is_on_fallback {
            self.writer.begin_anew();
        }
        if let (GrantChoice::Fallback { why }, false, Some(fallback)) =
            (choice, was_on_fallback, &self.identity.value().fallback)
        {
            self.trail.fallback_used(fallback.name(), why);
        }
    }
}
