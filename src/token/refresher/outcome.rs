//! The consequences of a token request: a token is made durable and published, and a failure delays the next request.

use std::sync::Arc;
use std::time::Duration;

use tracing::{debug, info};

use super::Refresher;
use super::schedule;
use crate::clock::Moment;
use crate::config::BasicEncoding;
use crate::peer_text::printable;
use crate::telemetry::trail::{Attempt, Failure, Issued};
use crate::token::access_token::AccessToken;
use crate::token::endpoint::TokenEndpoint;
use crate::token::error::{FailureClass, TokenError};
use crate::token::progress::{Reason, Standing};
use crate::token::refresh_token_end::RefreshTokenEnd;
use crate::token::replicas::Occasion;
use crate::token::rotation::{GrantChoice, Renewal};
use crate::token::store::Succession;

/// How long before its end a refresh token is reported that cannot be renewed.
const NOTICE_OF_END: Duration = Duration::from_hours(24);

impl<E: TokenEndpoint> Refresher<E> {
    pub(super) async fn succeeded(
        &mut self,
        token: AccessToken,
        succession: Succession,
        choice: GrantChoice,
        new: Renewal,
        latency: Duration,
    ) {
        let now = self.clock.now();
        let is_new = token.generation() > self.store.generation();
        self.limiter.succeeded();
        let encoding = self.secrets.encoding_in_use();
        if let Some(which) = self.secrets.worked(self.identity.value()) {
            self.trail.client_secret_in_use(which.key());
        }
        let learnt = self.secrets.encoding_in_use().filter(|learnt| encoding != Some(*learnt));
        if learnt == Some(BasicEncoding::Form) {
            info!(credential = %self.credential.name, "client id and secret accepted form-encoded");
        }
        let mut state = self.state_to_save();
        state.generation = token.generation();
        state.access_token = Some(token.clone());
        let is_rotated = choice.answered(new, &self.credential, self.identity.value(), &mut state);
        let planned = self.planned(&token, state.refresh_token_end);
        let unchanged_until = if is_new {
            self.same_token = 0;
            self.due = planned;
            None
        } else {
            // An operator may ask as often as the quota admits, and makes no other request wait for longer.
            self.same_token = self.same_token.saturating_add(u32::from(!self.is_ordered)).max(1);
            let has_later_end =
                self.store.latest().is_some_and(|latest| schedule::is_later_end(&latest, &token));
            self.due = if has_later_end {
                planned
            } else {
                schedule::ask_again_at(now, planned, token.expires(), self.same_token)
            };
            Some(schedule::no_forced_before(now, self.same_token))
        };
        self.no_forced_before = unchanged_until.unwrap_or_default();
        let generation = token.generation();
        let issued = self.issued(&token, now);
        // Before anything else: until the new refresh token is durable, a crash loses it. The access token should be there
        // after a restart, too.
        let theirs = Box::pin(self.save_answer(state, Occasion::Success)).await;
        if is_rotated {
            let micros = u64::try_from(now.until(self.clock.now()).as_micros()).unwrap_or(u64::MAX);
            debug!(credential = %self.credential.name, micros, "refresh token replaced");
        }
        self.publish(token, succession);
        if !is_new {
            self.demands.withdraw_beyond(generation);
        }
        self.progress.send_modify(|progress| {
            progress.underway = None;
            progress.finished += 1;
            progress.failure = None;
            progress.blocked = None;
            progress.unchanged_until = unchanged_until;
        });
        self.trail.set_rotations(self.durable.state().rotations);
        self.trail.refreshed(issued, self.attempt(latency));
        if let Some(theirs) = theirs {
            Box::pin(self.adopt_shared(*theirs)).await;
        }
    }

    pub(super) async fn failed(&mut self, mut error: TokenError, choice: GrantChoice, latency: Duration) {
        if !error.refuses_grant() {
            let mut state = self.durable.state().clone();
            if error.is_without_answer() {
                choice.has_ended(&mut state);
            } else {
                choice.is_put_back(&mut state);
            }
            self.durable.keep(state);
        }
        if error.refuses_client() && self.secrets.refused(self.identity.value()) {
            return self.follow_up(&error, latency);
        }
        match choice {
            GrantChoice::RefreshToken(in_use) if error.refuses_grant() => {
                let again_in = self.refused(&in_use, &error).await;
                self.is_ordered = false;
                match (self.choose_grant(), again_in) {
                    (Err(obstacle), _) => error = obstacle,
                    (Ok(GrantChoice::RefreshToken(next)), Some(again_in)) if next.is(&in_use) => {
                        self.due = self.due.min(self.clock.now() + again_in);
                        error = TokenError::RefusedInPassing { why: error.to_string(), again_in };
                    }
                    (Ok(_), _) => return self.follow_up(&error, latency),
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
            // The server may have replaced the refresh token: soon, some servers still accept the old one.
            GrantChoice::RefreshToken(_) if error.is_without_answer() => {
                self.due = self.due.min(self.clock.now());
            }
            GrantChoice::RefreshToken(_) | GrantChoice::Fallback { .. } | GrantChoice::Configured => {}
        }
        if let FailureClass::Throttled { retry_after: Some(asked), .. } = error.class() {
            self.response_warnings.of_wait(asked, &self.credential);
        }
        self.limiter.failed(&error);
        if let Some(token) = self.store.usable() {
            self.limiter.end_latch_by(token.expires());
        }
        let blocked = self.limiter.blocked();
        let now = self.clock.now();
        // Any other failure leaves a changed request unanswered: after a restart the refresher makes that request at once.
        let is_rejected = error.class() == FailureClass::Rejected;
        let is_answered = is_rejected || matches!(error, TokenError::RefusedInPassing { .. });
        self.trail.refresh_failed(
            &Failure {
                outcome: error.outcome(),
                reason: Reason::of(&error).code(),
                needs_person: is_rejected,
                next: blocked.map_or(Duration::ZERO, |blocked| now.until(blocked.until)),
                error: &error,
            },
            self.attempt(latency),
        );
        // The barrier is published together with the failure, before any waiter can read either.
        self.progress.send_modify(|progress| {
            progress.underway = None;
            progress.finished += 1;
            progress.failure = Some(Arc::new(error));
            progress.blocked = blocked;
        });
        let state = if is_answered { self.state_to_save() } else { self.state_before_request() };
        if let Some(theirs) = Box::pin(self.save_answer(state, Occasion::Failure)).await {
            Box::pin(self.adopt_shared(*theirs)).await;
        }
    }

    /// When to replace this token. A refresh token that ends earlier is used before its end, unless a refresh does not
    /// move that end.
    pub(super) fn planned(&self, token: &AccessToken, end: Option<RefreshTokenEnd>) -> Moment {
        let margin = self.credential.refresh_margin;
        let planned = schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64());
        let uses_refresh_token = self.identity.has_refresh_token() && !self.is_on_fallback;
        match end.filter(|end| uses_refresh_token && !end.is_final) {
            Some(end) => planned.min(self.before_end(end)),
            None => planned,
        }
    }

    /// When to use a refresh token at the latest.
    fn before_end(&self, end: RefreshTokenEnd) -> Moment {
        let (begin, margin) = (end.at.before(end.lifetime), self.credential.refresh_margin);
        schedule::refresh_at(begin, end.at, margin, fastrand::f64())
    }

    /// Publishes the end of the refresh token, and warns once of an end that is near and that no refresh moves.
    pub(super) fn watch_end_of_refresh_token(&mut self) {
        let end = self.durable.state().refresh_token_end;
        self.progress.send_if_modified(|progress| {
            std::mem::replace(&mut progress.refresh_token_end, end.map(|end| end.at)) != end.map(|end| end.at)
        });
        let Some(end) = end else { return };
        let now = self.clock.now();
        let left = now.until(end.at);
        let is_near = if end.is_final {
            left <= NOTICE_OF_END
        } else {
            self.progress.borrow().failure.is_some() && now >= self.before_end(end)
        };
        let is_known = self
            .warned_of_end
            .is_some_and(|known| known.since(end.at).max(known.until(end.at)) < Duration::from_mins(1));
        if is_near && !is_known {
            self.warned_of_end = Some(end.at);
            self.trail.grant_expiring(left);
        }
    }

    /// Puts a token in use, with its fingerprint.
    pub(super) fn publish(&mut self, token: AccessToken, succession: Succession) {
        let fingerprint = self.fingerprints.of(token.as_str());
        self.writer.publish(token.fingerprinted(fingerprint), succession);
    }

    /// This token, as the log shows it.
    pub(super) fn issued(&self, token: &AccessToken, now: Moment) -> Issued {
        Issued {
            generation: token.generation().number(),
            fingerprint: self.fingerprints.of(token.as_str()).to_string(),
            tenant: token.tenant().as_deref().map(printable),
            scopes: token.scopes().to_vec(),
            lifetime: token.issued().until(token.expires()),
            next: now.until(self.due),
        }
    }

    /// Publishes what operators see besides the outcome of requests. Wakes nobody.
    pub(super) fn publish_standing(&mut self) {
        let (state, due) = (self.durable.state(), self.due);
        let standing = Standing {
            due: self.obstacle.is_none().then_some(due),
            rotations: state.rotations,
            is_durable: self.durable.is_durable() || self.is_shared(),
            quota_full_at: self.limiter.snapshot().quota_full_at,
            is_grant_expiring: state
                .refresh_token_end
                .is_some_and(|end| end.is_final && self.clock.now().until(end.at) <= NOTICE_OF_END),
        };
        self.progress.send_if_modified(|progress| {
            progress.standing = standing;
            false
        });
        let failures = self.durable.failed_writes();
        let new = failures.saturating_sub(std::mem::replace(&mut self.counted_write_failures, failures));
        if new > 0 {
            self.trail.history().state_writes_failed(new);
        }
    }

    const fn attempt(&self, latency: Duration) -> Attempt {
        Attempt { cause: self.cause, latency }
    }

    /// Makes another request at once, with another grant or secret. Waiters are not told of a failure yet.
    fn follow_up(&mut self, error: &TokenError, latency: Duration) {
        debug!(credential = %self.credential.name, "another grant or secret tried");
        self.follows_up = true;
        self.trail.followed_up(self.attempt(latency), error.outcome());
        self.progress.send_modify(|progress| progress.underway = None);
    }
}
