//! The consequences of a token request: a token is made durable and published, and a failure delays the next request.

use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tracing::{debug, info};

use super::Refresher;
use super::schedule;
use crate::clock::Moment;
use crate::config::BasicEncoding;
use crate::telemetry::audit;
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::error::{FailureClass, TokenError};
use crate::token::rotation::GrantChoice;
use crate::token::store::Succession;

impl<E: TokenEndpoint> Refresher<E> {
    pub(super) async fn succeeded(
        &mut self,
        token: AccessToken,
        succession: Succession,
        choice: GrantChoice,
        new: Option<&SecretString>,
        latency: Duration,
    ) {
        let now = self.clock.now();
        let is_new = token.generation() > self.store.generation();
        let planned = self.planned(&token);
        let unchanged_until = if is_new {
            self.same_token = 0;
            self.due = planned;
            None
        } else {
            self.same_token = self.same_token.saturating_add(1);
            self.due = schedule::ask_again_at(now, planned, token.expires(), self.same_token);
            Some(schedule::no_forced_before(now, self.same_token))
        };
        self.no_forced_before = unchanged_until.unwrap_or_default();
        self.limiter.succeeded();
        let encoding = self.secrets.encoding_in_use();
        if let Some(which) = self.secrets.worked(self.identity.value()) {
            self.trail.client_secret_in_use(which.key());
        }
        let learnt = self.secrets.encoding_in_use().filter(|learnt| encoding != Some(*learnt));
        if learnt == Some(BasicEncoding::Form) {
            info!(credential = %self.credential.name, "client id and secret accepted form-encoded");
        }
        let generation = token.generation();
        let issued = self.issued(&token, now);
        let mut state = self.state_to_save();
        state.generation = generation;
        state.access_token = Some(token.clone());
        let is_rotated = choice.answered(new, &self.credential, self.identity.value(), &mut state);
        // Before anything else: until the new refresh token is durable, a crash loses it. The access token should be there
        // after a restart, too.
        self.durable.save(state).await;
        if is_rotated {
            let micros = u64::try_from(now.until(self.clock.now()).as_micros()).unwrap_or(u64::MAX);
            debug!(credential = %self.credential.name, micros, "refresh token replaced");
        }
        let changes_principal = std::mem::take(&mut self.changes_principal);
        self.writer.publish(token, if changes_principal { Succession::Anew } else { succession });
        if !is_new {
            self.demands.withdraw_beyond(generation);
        }
        self.progress.send_modify(|progress| {
            progress.underway = false;
            progress.finished += 1;
            progress.failure = None;
            progress.blocked = None;
            progress.unchanged_until = unchanged_until;
        });
        self.trail.refreshed(issued, latency);
    }

    pub(super) async fn failed(&mut self, mut error: TokenError, choice: GrantChoice, latency: Duration) {
        if error.refuses_client() && self.secrets.refused(self.identity.value()) {
            return self.follow_up(latency);
        }
        match choice {
            GrantChoice::RefreshToken(in_use) if error.refuses_grant() => {
                self.refused(&in_use.token, error.to_string()).await;
                match self.choose_grant() {
                    Err(obstacle) => error = obstacle,
                    Ok(_) => return self.follow_up(latency),
                }
            }
            GrantChoice::Fallback { why } if error.refuses_grant() => {
                let why = match why {
                    TokenError::ReauthorizationRequired(why) => why,
                    other => other.to_string(),
                };
                let both = format!("{why}; the fallback was refused too: {error}");
                error = TokenError::ReauthorizationRequired(both);
            }
            GrantChoice::RefreshToken(_) | GrantChoice::Fallback { .. } | GrantChoice::Configured => {}
        }
        if let FailureClass::Throttled { retry_after: Some(asked), .. } = error.class() {
            self.response_warnings.of_wait(asked, &self.credential);
        }
        self.limiter.failed(&error);
        let blocked = self.limiter.blocked();
        let now = self.clock.now();
        // Any other failure leaves a changed request unanswered: after a restart the refresher makes that request at once.
        let is_rejected = error.class() == FailureClass::Rejected;
        self.trail.refresh_failed(
            &audit::Failure {
                outcome: error.outcome(),
                needs_a_person: is_rejected,
                next: blocked.map_or(Duration::ZERO, |blocked| now.until(blocked.until)),
                error: &error,
            },
            latency,
        );
        // The barrier is published together with the failure, before any waiter can read either.
        self.progress.send_modify(|progress| {
            progress.underway = false;
            progress.finished += 1;
            progress.failure = Some(Arc::new(error));
            progress.blocked = blocked;
        });
        let state = if is_rejected { self.state_to_save() } else { self.state_before_request() };
        self.durable.save(state).await;
    }

    /// When to replace this token.
    pub(super) fn planned(&self, token: &AccessToken) -> Moment {
        let margin = self.credential.refresh_margin;
        schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64())
    }

    /// This token, as the log shows it.
    pub(super) fn issued(&self, token: &AccessToken, now: Moment) -> audit::Issued {
        audit::Issued {
            generation: token.generation().number(),
            fingerprint: self.fingerprints.of(token.as_str()),
            lifetime: token.issued().until(token.expires()),
            next: now.until(self.due),
        }
    }

    /// Makes another request at once, with another grant or secret. Waiters are not told of a failure yet.
    fn follow_up(&mut self, latency: Duration) {
        debug!(credential = %self.credential.name, "another grant or secret tried");
        self.follows_up = true;
        self.trail.followed_up(latency);
        self.progress.send_modify(|progress| progress.underway = false);
    }
}
