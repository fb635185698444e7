//! The task that owns a credential: the only one that asks for its tokens and writes its store.
//!
//! It asks when the schedule says so or when a request saw its token rejected, one request at a time, each
//! through the limiter. It never ends by itself: whatever a token endpoint does, the answer is to keep the
//! valid token and ask again later.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;
use tracing::debug;

use super::acceptance;
use super::access_token::{AccessToken, Generation};
use super::client::TokenEndpoint;
use super::current_identity::CurrentIdentity;
use super::error::{Class, Malformed, TokenError};
use super::fingerprint::Fingerprints;
use super::limiter::{Barrier, Blocked, Cause, Limiter};
use super::oddities::Oddities;
use super::progress::Progress;
use super::schedule;
use super::source::{Demand, TokenSource};
use super::store::{Store, Writer};
use super::wire::Grant;
use crate::clock::{Clock, Moment, wall_clock};
use crate::config::Credential;
use crate::telemetry::audit;

/// The longest sleep: a machine that was suspended notices within this time that its token is old, and at once
/// if a request waits.
const RECHECK: Duration = Duration::from_mins(1);
/// How often a secret that was rejected is looked at for a change.
const SECRET_POLL: Duration = Duration::from_secs(1);

/// Keeps one credential's token fresh.
#[derive(Debug)]
pub struct Refresher<E> {
    credential: Arc<Credential>,
    endpoint: E,
    limiter: Limiter,
    identity: CurrentIdentity,
    writer: Writer,
    store: Store,
    demand: Arc<Demand>,
    progress: watch::Sender<Progress>,
    clock: Clock,
    fingerprints: Fingerprints,
    trail: audit::Trail,
    oddities: Oddities,
    /// When the schedule wants the next token.
    due: Moment,
    /// How often in a row the server handed out the token that we had.
    same_token: u32,
    /// Until when a rejected token is no reason to ask.
    no_forced_before: Moment,
    /// The latest token that was reported as rejected.
    rejected: Generation,
}

/// What to do next.
enum Step {
    Ask,
    Wait(Moment),
}

impl<E: TokenEndpoint> Refresher<E> {
    /// A refresher that has not asked yet, and the source that requests read.
    pub fn new(credential: Arc<Credential>, endpoint: E, clock: Clock) -> (Self, TokenSource) {
        let (writer, store) = Store::new(clock);
        let demand = Arc::new(Demand::default());
        let (progress, seen) = watch::channel(Progress::default());
        let source = TokenSource::new(&credential.name, store.clone(), Arc::clone(&demand), seen, clock);
        let refresher = Self {
            limiter: Limiter::new(&credential, clock),
            identity: CurrentIdentity::new(Arc::clone(&credential)),
            endpoint,
            writer,
            store,
            demand,
            progress,
            clock,
            fingerprints: Fingerprints::new(),
            trail: audit::Trail::new(&credential.name),
            oddities: Oddities::default(),
            due: clock.now(),
            same_token: 0,
            no_forced_before: Moment::default(),
            rejected: Generation::NONE,
            credential,
        };
        (refresher, source)
    }

    /// Keeps the token fresh for as long as the future is polled.
    pub async fn run(mut self) {
        loop {
            match self.next_step() {
                Step::Ask => self.ask().await,
                Step::Wait(until) => self.wait(until).await,
            }
        }
    }

    fn next_step(&mut self) -> Step {
        let now = self.clock.now();
        let is_rejected = self.notices_rejection();
        let cause = if now >= self.due {
            Cause::Scheduled
        } else if !is_rejected {
            return Step::Wait(self.due);
        } else if now < self.no_forced_before {
            return Step::Wait(self.due.min(self.no_forced_before));
        } else {
            Cause::Forced
        };
        match self.limiter.admit(cause) {
            Ok(()) => Step::Ask,
            Err(blocked) => {
                self.progress.send_if_modified(|progress| progress.blocked.replace(blocked) != Some(blocked));
                let until = match cause {
                    Cause::Scheduled => blocked.until,
                    Cause::Forced => blocked.until.min(self.due),
                };
                Step::Wait(until)
            }
        }
    }

    /// Whether the current token has been rejected; tells the trail when it is first seen.
    fn notices_rejection(&mut self) -> bool {
        let current = self.store.generation();
        let is_rejected = self.demand.exceeds(current);
        if is_rejected && self.rejected < current {
            self.rejected = current;
            self.trail.token_rejected();
        }
        is_rejected
    }

    /// Sleeps until the moment, a new demand, or a changed secret while that is what we wait for.
    async fn wait(&mut self, until: Moment) {
        let latched = matches!(self.progress.borrow().blocked, Some(Blocked { by: Barrier::Latch, .. }))
            && self.identity.may_change();
        let longest = if latched { SECRET_POLL } else { RECHECK };
        let sleep = tokio::time::sleep(self.clock.now().until(until).min(longest));
        tokio::select! {
            () = sleep => {}
            () = self.demand.raised() => {}
        }
        if latched && self.identity.read_again().await {
            debug!(credential = %self.credential.name, "secret changed");
            self.limiter.release_latch();
        }
    }

    async fn ask(&mut self) {
        self.progress.send_modify(|progress| {
            progress.underway = true;
            progress.blocked = None;
        });
        self.identity.read_again().await;
        let sent = self.clock.now();
        let current = self.store.latest();
        let request = self.endpoint.request(&self.credential, self.identity.value(), current.as_deref());
        // A panic in there must not take the loop with it.
        let outcome = AssertUnwindSafe(request)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(TokenError::Network("the request panicked".to_owned())));
        let latency = sent.until(self.clock.now());
        // It may have been rejected meanwhile, and is about to be replaced.
        self.notices_rejection();
        match outcome.and_then(|grant| self.accept(&grant, sent)) {
            Ok(token) => self.succeeded(token, latency),
            Err(error) => self.failed(error, latency),
        }
    }

    /// Makes a token of a grant, if it is what was asked for.
    fn accept(&mut self, grant: &Grant, sent: Moment) -> Result<AccessToken, TokenError> {
        let credential = &self.credential;
        let scopes = acceptance::scopes(grant, credential)?;
        let now = wall_clock();
        self.oddities.of_grant(grant, credential, now);
        let lifetime = acceptance::lifetime(grant, credential, now)?;
        let token = |generation, lifetime| {
            AccessToken::new(&grant.access_token, generation, sent, lifetime, scopes.clone())
                .map_err(|illegal| TokenError::Malformed(illegal.into()))
        };
        let latest = self.store.latest();
        let generation = latest.as_ref().map_or(Generation::NONE, |latest| latest.generation());
        let said = lifetime.filter(|lifetime| !lifetime.is_zero());
        let fresh = token(generation.next(), said.unwrap_or(credential.default_lifetime))?;
        let Some(latest) = latest.filter(|latest| latest.is_same_token(&fresh)) else {
            return Ok(fresh);
        };
        // The token that we had. With nothing left it ends when it was said to end; without a word it is taken
        // for good as long as before.
        let lifetime = match lifetime {
            Some(Duration::ZERO) => sent.until(latest.expires()),
            said => said.unwrap_or(credential.default_lifetime),
        };
        let again = token(generation, lifetime)?;
        if again.is_usable(self.clock.now()) {
            Ok(again)
        } else {
            Err(TokenError::Malformed(Malformed::Stale))
        }
    }

    fn succeeded(&mut self, token: AccessToken, latency: Duration) {
        let now = self.clock.now();
        let is_new = token.generation() > self.store.generation();
        let margin = self.credential.refresh_margin;
        let planned = schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64());
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
        let generation = token.generation();
        let issued = audit::Issued {
            generation: generation.number(),
            fingerprint: self.fingerprints.of(&token).to_string(),
            lifetime: token.issued().until(token.expires()),
            next: now.until(self.due),
        };
        self.writer.publish(token);
        if !is_new {
            self.demand.withdraw(generation);
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

    fn failed(&mut self, error: TokenError, latency: Duration) {
        if let Class::Throttled { retry_after: Some(asked), .. } = error.class() {
            self.oddities.of_wait(asked, &self.credential);
        }
        self.limiter.failed(&error);
        let blocked = self.limiter.blocked();
        let now = self.clock.now();
        let failure = audit::Failure {
            outcome: error.outcome(),
            needs_a_person: error.class() == Class::Rejected,
            next: blocked.map_or(Duration::ZERO, |blocked| now.until(blocked.until)),
            error: &error,
        };
        self.trail.refresh_failed(&failure, latency);
        // What keeps the next request back is known before any waiter can look.
        self.progress.send_modify(|progress| {
            progress.underway = false;
            progress.finished += 1;
            progress.failure = Some(Arc::new(error));
            progress.blocked = blocked;
        });
    }
}

#[cfg(test)]
mod tests;
