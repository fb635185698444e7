//! The task that owns a credential: the only one that asks for its tokens and writes its store.
//!
//! It asks when the schedule says so or when a request saw its token rejected, one request at a time, each
//! through the limiter. It never ends by itself: whatever a token endpoint does, the answer is to keep the
//! valid token and ask again later.

mod accept;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use secrecy::SecretString;
use tokio::sync::watch;
use tracing::debug;

use super::acceptance;
use super::access_token::{AccessToken, Generation};
use super::client::TokenEndpoint;
use super::current_identity::CurrentIdentity;
use super::durable_state::{DurableState, settings};
use super::error::{Class, TokenError};
use super::fingerprint::Fingerprints;
use super::limiter::{Barrier, Blocked, Cause, Limiter};
use super::oddities::Oddities;
use super::progress::Progress;
use super::rotation::{self, InUse, Rotation, asking_with};
use super::schedule;
use super::source::{Demand, TokenSource};
use super::state_file::State;
use super::store::{Store, Writer};
use crate::clock::{Clock, Moment};
use crate::config::Credential;
use crate::telemetry::audit;

/// The longest sleep: a machine that was suspended notices within this time that its token is old, and at once
/// if a request waits.
const RECHECK: Duration = Duration::from_mins(1);
/// How often a secret that was rejected is looked at for a change.
const SECRET_POLL: Duration = Duration::from_secs(1);
/// Later than anything.
const NEVER: Moment = Moment::from_nanos(u64::MAX);

/// Keeps one credential's token fresh.
#[derive(Debug)]
pub struct Refresher<E> {
    credential: Arc<Credential>,
    endpoint: E,
    limiter: Limiter,
    durable: DurableState,
    rotation: Rotation,
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
    /// Why nothing is asked until a person acts, if so.
    obstacle: Option<TokenError>,
    /// When to look whether another state was put in the place of ours, while that is all that helps.
    look_at_state: Moment,
}

/// What to do next.
enum Step {
    Ask,
    Wait(Moment),
}

impl<E: TokenEndpoint> Refresher<E> {
    /// A refresher that has not asked yet, and the source that requests read. It goes on from the state: a token in
    /// it that is still good is there at once, and what kept requests back does so still.
    pub fn new(
        credential: Arc<Credential>,
        endpoint: E,
        durable: DurableState,
        clock: Clock,
    ) -> (Self, TokenSource) {
        let (writer, store) = Store::new(clock);
        let demand = Arc::new(Demand::default());
        let (progress, seen) = watch::channel(Progress::default());
        let source = TokenSource::new(&credential.name, store.clone(), Arc::clone(&demand), seen, clock);
        let mut refresher = Self {
            durable,
            rotation: Rotation::new(&credential),
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
            obstacle: None,
            look_at_state: clock.now(),
            credential,
        };
        refresher.resume();
        (refresher, source)
    }

    /// Takes up what the state remembers. A token that was asked for with other settings is not ours any more, and
    /// with others a rejection need not come again.
    fn resume(&mut self) {
        let state = self.durable.state();
        let is_as_before = state.settings == Some(settings(&self.credential, self.identity.value()));
        let may_have_been_mended = state.settings.is_some() && !is_as_before;
        self.limiter.restore(state.memory);
        let token = state.access_token.clone().filter(|_| is_as_before);
        if may_have_been_mended {
            self.limiter.release_latch();
        }
        let is_enough =
            |token: &AccessToken| acceptance::missing(token.scopes(), &self.credential).is_empty();
        if let Some(token) = token.filter(is_enough) {
            let margin = self.credential.refresh_margin;
            self.due = schedule::refresh_at(token.issued(), token.expires(), margin, fastrand::f64());
            self.trail.resumed(token.generation().number(), self.fingerprints.of(&token).to_string());
            self.writer.publish(token);
        }
    }

    /// Keeps the token fresh until it is told to stop. A request that may use up a refresh token is finished then, and
    /// what it brought is written; any other is dropped.
    pub async fn run(mut self, stop: impl Future<Output = ()>) {
        let mut stop = std::pin::pin!(stop);
        loop {
            match self.next_step() {
                Step::Ask if self.identity.has_refresh_token() => self.ask().await,
                Step::Ask => tokio::select! {
                    () = self.ask() => {}
                    () = &mut stop => break,
                },
                Step::Wait(until) => tokio::select! {
                    () = self.wait(until) => {}
                    () = &mut stop => break,
                },
            }
        }
        self.durable.write().await;
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
        if let Err(obstacle) = self.in_use() {
            return self.stand_still(obstacle);
        }
        self.obstacle = None;
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

    fn in_use(&self) -> Result<Option<InUse>, TokenError> {
        self.rotation.in_use(self.identity.value(), self.durable.state())
    }

    /// Asks nothing until a person has acted.
    fn stand_still(&mut self, obstacle: TokenError) -> Step {
        if self.obstacle.as_ref() != Some(&obstacle) {
            match &obstacle {
                TokenError::RotationLimit { .. } => self.trail.rotation_limit_reached(&obstacle),
                _ => self.trail.reauthorization_required(&obstacle),
            }
            let failure = Arc::new(obstacle.clone());
            self.progress.send_modify(|progress| {
                progress.failure = Some(failure);
                progress.blocked = Some(Blocked { until: NEVER, by: Barrier::Latch });
            });
            self.obstacle = Some(obstacle);
        }
        Step::Wait(NEVER)
    }

    /// Takes up the refresh token that is on disk, if someone has put another there.
    async fn take_up_state(&mut self) {
        self.look_at_state = self.clock.now() + RECHECK;
        let Some(found) = self.durable.read_again().await else { return };
        let mut state = self.durable.state().clone();
        if rotation::take_up(&mut state, found, self.identity.value()) {
            self.durable.save(state).await;
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
        let until = self.durable.retry_at().map_or(until, |retry_at| retry_at.min(until));
        let sleep = tokio::time::sleep(self.clock.now().until(until).min(longest));
        tokio::select! {
            () = sleep => {}
            () = self.demand.raised() => {}
        }
        if latched && self.identity.read_again().await {
            debug!(credential = %self.credential.name, "secret changed");
            self.limiter.release_latch();
        }
        let now = self.clock.now();
        if self.durable.retry_at().is_some_and(|retry_at| retry_at <= now) {
            self.durable.write().await;
        }
        if self.obstacle.is_some() && self.look_at_state <= now {
            self.take_up_state().await;
            if self.in_use().is_ok() {
                self.limiter.release_latch();
            }
        }
    }

    async fn ask(&mut self) {
        self.progress.send_modify(|progress| {
            progress.underway = true;
            progress.blocked = None;
        });
        self.identity.read_again().await;
        let Ok(in_use) = self.in_use() else {
            // It was there a moment ago: the next step says what is wrong.
            self.progress.send_modify(|progress| progress.underway = false);
            return;
        };
        let asking = in_use.as_ref().map(|in_use| asking_with(self.identity.value(), in_use.token.clone()));
        let identity = asking.as_ref().unwrap_or_else(|| self.identity.value());
        let sent = self.clock.now();
        let current = self.store.latest();
        let request = self.endpoint.request(&self.credential, identity, current.as_deref());
        // A panic in there must not take the loop with it.
        let outcome = AssertUnwindSafe(request)
            .catch_unwind()
            .await
            .unwrap_or_else(|_| Err(TokenError::Network("the request panicked".to_owned())));
        let latency = sent.until(self.clock.now());
        // It may have been rejected meanwhile, and is about to be replaced.
        self.notices_rejection();
        let answered = outcome.map(|grant| (self.accept(&grant, sent), grant.refresh_token));
        match answered {
            Ok((Ok(token), new)) => self.succeeded(token, in_use, new.as_ref(), latency).await,
            Ok((Err(error), new)) => {
                // No access token for us, and yet the refresh token may be another now.
                let mut state = self.durable.state().clone();
                if in_use.is_some_and(|in_use| in_use.answered(new.as_ref(), &mut state)) {
                    self.durable.save(state).await;
                }
                self.failed(error, None, latency).await;
            }
            Err(error) => self.failed(error, in_use, latency).await,
        }
    }

    async fn succeeded(
        &mut self,
        token: AccessToken,
        in_use: Option<InUse>,
        new: Option<&SecretString>,
        latency: Duration,
    ) {
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
        let mut state = self.remembered();
        state.generation = generation;
        state.access_token = Some(token.clone());
        let is_rotated = in_use.is_some_and(|in_use| in_use.answered(new, &mut state));
        // Nothing else may come between the answer and a new refresh token's being durable; and a token that is used
        // should be there after a restart.
        self.durable.save(state).await;
        if is_rotated {
            let micros = u64::try_from(now.until(self.clock.now()).as_micros()).unwrap_or(u64::MAX);
            debug!(credential = %self.credential.name, micros, "refresh token replaced");
        }
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

    /// The state with what the limiter knows by now.
    fn remembered(&self) -> State {
        State {
            memory: self.limiter.snapshot(),
            settings: Some(settings(&self.credential, self.identity.value())),
            ..self.durable.state().clone()
        }
    }

    async fn failed(&mut self, mut error: TokenError, in_use: Option<InUse>, latency: Duration) {
        if let (Some(in_use), true) = (in_use, is_invalid_grant(&error)) {
            self.rotation.refuse(in_use.token, error.to_string());
            self.take_up_state().await;
            if let Err(obstacle) = self.in_use() {
                error = obstacle;
            } else {
                debug!(credential = %self.credential.name, "another refresh token is there");
                self.progress.send_modify(|progress| progress.underway = false);
                return;
            }
        }
        if let Class::Throttled { retry_after: Some(asked), .. } = error.class() {
            self.oddities.of_wait(asked, &self.credential);
        }
        self.limiter.failed(&error);
        let blocked = self.limiter.blocked();
        let now = self.clock.now();
        self.trail.refresh_failed(
            &audit::Failure {
                outcome: error.outcome(),
                needs_a_person: error.class() == Class::Rejected,
                next: blocked.map_or(Duration::ZERO, |blocked| now.until(blocked.until)),
                error: &error,
            },
            latency,
        );
        // What keeps the next request back is known before any waiter can look.
        self.progress.send_modify(|progress| {
            progress.underway = false;
            progress.finished += 1;
            progress.failure = Some(Arc::new(error));
            progress.blocked = blocked;
        });
        self.durable.save(self.remembered()).await;
    }
}

/// RFC 6749 §5.2: of a refresh token, that it has ended, was revoked or used, or is another client's.
fn is_invalid_grant(error: &TokenError) -> bool {
    matches!(error, TokenError::Rejected { code, .. } if code == "invalid_grant")
}

#[cfg(test)]
mod tests;
