//! The task that owns a credential: the only one that asks for its tokens and writes its store.
//!
//! It asks when the schedule says so or when a request saw its token rejected, one request at a time, each
//! through the limiter. It never ends by itself: whatever a token endpoint does, the answer is to keep the
//! valid token and ask again later.

mod accept;
mod adopt;
mod ask;
mod orders;
mod outcome;
mod resume;
pub(in crate::token) mod schedule;
pub(in crate::token) mod secrets;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use self::secrets::CurrentIdentity;
use super::access_token::Generation;
use super::client_secrets::ClientSecrets;
use super::endpoint::TokenEndpoint;
use super::endpoint::warnings::ResponseWarnings;
use super::error::TokenError;
use super::fingerprint::Fingerprints;
use super::limiter::{Barrier, Blocked, Cause, Limiter};
use super::operator::Orders;
use super::progress::RefreshProgress;
use super::rotation::{GrantChoice, Rotation};
use super::source::TokenSource;
use super::state::DurableState;
use super::store::{Store, Writer};
use crate::clock::{Clock, Moment};
use crate::config::Credential;
use crate::shared_request::Wanted;
use crate::telemetry::audit;

/// The longest sleep: a machine that was suspended notices within this time that its token is old, and at once
/// if a request waits.
const MAX_SLEEP: Duration = Duration::from_mins(1);
/// How often the state on disk is read again while only a person can help.
const STATE_RECHECK_INTERVAL: Duration = Duration::from_mins(1);
/// How often a secret that was rejected is looked at for a change.
const SECRET_POLL_INTERVAL: Duration = Duration::from_secs(1);
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
    secrets: ClientSecrets,
    writer: Writer,
    store: Store,
    wanted: Arc<Wanted>,
    orders: Orders,
    progress: watch::Sender<RefreshProgress>,
    /// How many token requests an operator has been told of.
    finished: u64,
    clock: Clock,
    fingerprints: Fingerprints,
    trail: audit::Trail,
    response_warnings: ResponseWarnings,
    /// When the schedule wants the next token.
    due: Moment,
    /// How often in a row the server handed out the token that we had.
    same_token: u32,
    /// Until when a rejected token is no reason to ask.
    no_forced_before: Moment,
    /// The latest token that was reported as rejected.
    rejected: Generation,
    /// Whether the next request follows from the answer to the last: it has no cause of its own.
    follows_up: bool,
    /// Whether the last request was made with the fallback, which has been told.
    is_on_fallback: bool,
    /// Why nothing is asked until a person acts, if so.
    obstacle: Option<TokenError>,
    /// When to look whether another state was put in the place of ours, while that is all that helps.
    look_at_state: Moment,
}

/// What to do next.
enum NextAction {
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
        let wanted = Arc::new(Wanted::default());
        let (progress, seen) = watch::channel(RefreshProgress::default());
        let source = TokenSource::new(&credential.name, store.clone(), Arc::clone(&wanted), seen, clock);
        let mut refresher = Self {
            durable,
            rotation: Rotation::new(&credential),
            limiter: Limiter::new(&credential, clock),
            identity: CurrentIdentity::new(Arc::clone(&credential)),
            secrets: ClientSecrets::default(),
            endpoint,
            writer,
            store,
            wanted,
            orders: Orders::new(),
            progress,
            finished: 0,
            clock,
            fingerprints: Fingerprints::new(),
            trail: audit::Trail::new(&credential.name),
            response_warnings: ResponseWarnings::default(),
            due: clock.now(),
            same_token: 0,
            no_forced_before: Moment::default(),
            rejected: Generation::NONE,
            follows_up: false,
            is_on_fallback: false,
            obstacle: None,
            look_at_state: clock.now(),
            credential,
        };
        refresher.resume();
        (refresher, source)
    }

    /// Keeps the token fresh until it is told to stop. A request that may use up a refresh token is finished then, and
    /// what it brought is written; any other is dropped.
    pub async fn run(self, stop: impl Future<Output = ()>) {
        self.run_until(stop, std::future::pending()).await;
    }

    /// The same until it is told to stop, or to leave off: then any request is finished, and the refresher comes back as
    /// it is, to go on or to leave its state to another.
    pub async fn run_until(
        mut self,
        stop: impl Future<Output = ()>,
        leave_off: impl Future<Output = ()>,
    ) -> Self {
        let (mut stop, mut leave_off) = (std::pin::pin!(stop), std::pin::pin!(leave_off));
        loop {
            match self.carry_out_orders().await {
                // Between two requests, however many are due.
                NextAction::Ask if leave_off.as_mut().now_or_never().is_some() => break,
                NextAction::Ask if self.identity.has_refresh_token() => self.ask().await,
                NextAction::Ask => tokio::select! {
                    () = self.ask() => {}
                    () = &mut stop => break,
                },
                NextAction::Wait(until) => tokio::select! {
                    () = self.wait(until) => {}
                    () = &mut stop => break,
                    () = &mut leave_off => break,
                },
            }
        }
        self.durable.finish().await;
        self
    }

    fn next_step(&mut self) -> NextAction {
        let now = self.clock.now();
        let is_rejected = self.notices_rejection();
        let cause = if now >= self.due || self.follows_up {
            Cause::Scheduled
        } else if !is_rejected && !self.orders.is_refresh_requested() {
            return NextAction::Wait(self.due);
        } else if now < self.no_forced_before {
            return NextAction::Wait(self.due.min(self.no_forced_before));
        } else {
            Cause::Forced
        };
        if let Err(obstacle) = self.choose_grant() {
            return self.wait_for_a_person(obstacle);
        }
        self.obstacle = None;
        match self.limiter.admit(cause) {
            Ok(()) => NextAction::Ask,
            Err(blocked) => {
                self.progress.send_if_modified(|progress| progress.blocked.replace(blocked) != Some(blocked));
                let until = match cause {
                    Cause::Scheduled => blocked.until,
                    Cause::Forced => blocked.until.min(self.due),
                };
                NextAction::Wait(until)
            }
        }
    }

    fn choose_grant(&self) -> Result<GrantChoice, TokenError> {
        self.rotation.choose(self.identity.value(), self.durable.state())
    }

    /// Asks nothing until a person has acted.
    fn wait_for_a_person(&mut self, obstacle: TokenError) -> NextAction {
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
        NextAction::Wait(NEVER)
    }

    /// Whether the current token has been rejected; tells the trail when it is first seen.
    fn notices_rejection(&mut self) -> bool {
        let current = self.store.generation();
        let is_rejected = self.wanted.exceeds(current.number());
        if is_rejected && self.rejected < current {
            self.rejected = current;
            self.trail.token_rejected();
        }
        is_rejected
    }

    /// Sleeps until the moment, a new demand or order, or a changed secret while that is what we wait for.
    async fn wait(&mut self, until: Moment) {
        let latched = matches!(self.progress.borrow().blocked, Some(Blocked { by: Barrier::Latch, .. }))
            && self.identity.may_change();
        let longest = if latched { SECRET_POLL_INTERVAL } else { MAX_SLEEP };
        let until = self.durable.retry_at().map_or(until, |retry_at| retry_at.min(until));
        let sleep = tokio::time::sleep(self.clock.now().until(until).min(longest));
        tokio::select! {
            () = sleep => {}
            () = self.wanted.raised() => {}
            () = self.orders.arrived() => {}
        }
        if latched && self.read_secrets_again().await {
            self.limiter.release_latch();
        }
        let now = self.clock.now();
        if self.durable.retry_at().is_some_and(|retry_at| retry_at <= now) {
            self.durable.write().await;
        }
        let lacks_refresh_token = self.obstacle.is_some() || self.is_on_fallback;
        if lacks_refresh_token && self.look_at_state <= now {
            self.take_state_from_disk().await;
            if matches!(self.choose_grant(), Ok(GrantChoice::RefreshToken(_))) {
                self.limiter.release_latch();
            }
        }
    }
}

#[cfg(test)]
mod tests;
