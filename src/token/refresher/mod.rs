//! The refresher: one task for each credential, the only one that requests its tokens and writes its store.
//!
//! A refresher makes a token request when the token is due, when an upstream has rejected the token, or when an operator
//! requests a refresh. Requests are made one at a time, each admitted by the limiter. The task never ends by itself: whatever
//! the token endpoint does, the valid token stays in use and the next request is made later. The parts, in the order of the
//! loop:
//!
//! - `orders`: what operators ask for, before each step;
//! - [`schedule`]: when the next token is due;
//! - [`secrets`]: the credential's secrets, read again before each request;
//! - `ask`, `accept`, `outcome`: one token request, the token in its response, and what follows from success or failure;
//! - `resume`: what is taken from the state, at the start and later;
//! - `adopt`: a grant that an operator hands over;
//! - `sharing`: the turns of several replicas, and what another replica has brought;
//! - `succession`: a reload of the configuration that changes the credential.

mod accept;
mod adopt;
mod ask;
mod orders;
mod outcome;
mod resume;
pub(in crate::token) mod schedule;
pub(in crate::token) mod secrets;
mod sharing;
mod succession;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::watch;

use self::secrets::CurrentIdentity;
use super::access_token::Generation;
use super::client_secrets::ClientSecrets;
use super::demand::Demands;
use super::endpoint::TokenEndpoint;
use super::endpoint::warnings::ResponseWarnings;
use super::error::TokenError;
use super::fingerprint::Fingerprints;
use super::limiter::{Barrier, Blocked, Cause, Limiter};
use super::operator::Orders;
use super::progress::RefreshProgress;
use super::replicas::{SharedRecord, Turn};
use super::rotation::{GrantChoice, Rotation};
use super::source::TokenSource;
use super::state::DurableState;
use super::state::file::{RefreshTokenHash, RequestMark};
use super::store::{Store, Writer};
use crate::clock::{Clock, Moment};
use crate::config::Credential;
use crate::telemetry::Events;
use crate::telemetry::trail::{Subject, Trail};

/// The longest sleep. Timers stop while a machine is suspended: the refresher notices within this time that a token is due,
/// and at once if a request waits.
const MAX_SLEEP: Duration = Duration::from_mins(1);
/// How often the state on disk is read again while only a person can help.
const STATE_RECHECK_INTERVAL: Duration = Duration::from_mins(1);
/// How often the secrets are read again while the server rejects them.
const SECRET_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How often a file is read whose content identifies the principal: a refresh token or a subject token.
const SUBJECT_POLL_INTERVAL: Duration = Duration::from_secs(5);
/// Later than any other moment.
const NEVER: Moment = Moment::from_nanos(u64::MAX);

/// Keeps one credential's token fresh.
#[derive(Debug)]
pub struct Refresher<E> {
    credential: Arc<Credential>,
    endpoint: E,
    limiter: Limiter,
    durable: DurableState,
    /// The record that other replicas share, if there are any.
    shared: Option<Box<SharedRecord>>,
    rotation: Rotation,
    identity: CurrentIdentity,
    secrets: ClientSecrets,
    writer: Writer,
    store: Store,
    demands: Arc<Demands>,
    orders: Orders,
    progress: watch::Sender<RefreshProgress>,
    /// How many finished token requests have been reported to operators.
    finished: u64,
    clock: Clock,
    fingerprints: Fingerprints,
    trail: Trail,
    response_warnings: ResponseWarnings,
    /// When the next token is due.
    due: Moment,
    /// How often in a row the server has issued the current token again.
    same_token: u32,
    /// Before this moment a rejected token causes no request.
    no_forced_before: Moment,
    /// The latest token whose rejection was logged.
    rejected: Generation,
    /// Whether the last response calls for another request at once, with another grant or secret.
    follows_up: bool,
    /// Whether the last request was made with the fallback grant.
    is_on_fallback: bool,
    /// Why the token request under way is made, for events.
    cause: &'static str,
    /// How many failed writes of the state are in the history.
    counted_write_failures: u64,
    /// Whether the next request is an operator's order, which few barriers hold up.
    is_ordered: bool,
    /// The end of a refresh token that was warned of last.
    warned_of_end: Option<Moment>,
    /// Why no request is made until a person acts, if so.
    obstacle: Option<TokenError>,
    /// When to read the state on disk again, while only another refresh token there can help.
    look_at_state: Moment,
    /// The refresh token that another replica may just have used, for which this one waits until its access token ends.
    awaited: Option<RefreshTokenHash>,
    /// Before this moment the limiter admits no request, with or without the turn.
    no_turn_before: Moment,
    /// The latest request of another replica whose rejection was not taken for ours.
    unlatched: Option<RequestMark>,
}

/// The next step of the loop.
enum NextAction {
    Ask,
    /// Take the turn among the replicas.
    TakeTurn,
    /// Wait while another replica has the turn.
    WaitForTurn(Moment),
    Wait(Moment),
}

impl<E: TokenEndpoint> Refresher<E> {
    /// A refresher that has made no request yet, and the source from which requests read its tokens. Both start from the
    /// state: a token in it that is still usable is available at once, and a barrier in it still blocks token requests.
    pub fn new(
        credential: Arc<Credential>,
        endpoint: E,
        durable: DurableState,
        clock: Clock,
    ) -> (Self, TokenSource) {
        let (writer, store) = Store::new(clock);
        let demands = Arc::new(Demands::default());
        let (progress, seen) = watch::channel(RefreshProgress::default());
        let source = TokenSource::new(&credential.name, store.clone(), Arc::clone(&demands), seen, clock);
        let mut refresher = Self {
            durable,
            shared: None,
            rotation: Rotation::new(&credential),
            limiter: Limiter::new(&credential, clock),
            identity: CurrentIdentity::new(Arc::clone(&credential)),
            secrets: ClientSecrets::default(),
            endpoint,
            writer,
            store,
            demands,
            orders: Orders::new(),
            progress,
            finished: 0,
            clock,
            fingerprints: Fingerprints::of_credential(&credential),
            trail: Trail::new(subject(&credential), Events::default()),
            response_warnings: ResponseWarnings::default(),
            due: clock.now(),
            same_token: 0,
            no_forced_before: Moment::default(),
            rejected: Generation::NONE,
            follows_up: false,
            is_on_fallback: false,
            cause: "scheduled",
            counted_write_failures: 0,
            is_ordered: false,
            warned_of_end: None,
            obstacle: None,
            look_at_state: clock.now(),
            awaited: None,
            no_turn_before: Moment::default(),
            unlatched: None,
            credential,
        };
        refresher.resume();
        (refresher, source)
    }

    /// Sends the events to these readers, and continues the history that they have of the credential.
    #[must_use]
    pub fn recorded_by(mut self, events: &Events) -> Self {
        self.trail.continue_as(subject(&self.credential), events.clone());
        self
    }

    /// Keeps the token fresh until `stop` or `leave_off` resolves. The refresher can then continue, or leave its state to
    /// another. A token request that is under way then is finished and its result written; only `stop` drops a
    /// request, if it cannot use up a refresh token. No request begins after either.
    pub async fn run_until(&mut self, stop: impl Future<Output = ()>, leave_off: impl Future<Output = ()>) {
        let (mut stop, mut leave_off) = (std::pin::pin!(stop), std::pin::pin!(leave_off));
        let stops = loop {
            match self.carry_out_orders().await {
                // Between two token requests, even where the next is already due.
                NextAction::Ask | NextAction::TakeTurn if stop.as_mut().now_or_never().is_some() => {
                    break true;
                }
                NextAction::Ask | NextAction::TakeTurn if leave_off.as_mut().now_or_never().is_some() => {
                    break false;
                }
                NextAction::Ask if self.identity.has_refresh_token() => Box::pin(self.ask()).await,
                NextAction::Ask => tokio::select! {
                    biased;
                    () = Box::pin(self.ask()) => {}
                    () = &mut stop => break true,
                },
                NextAction::TakeTurn => Box::pin(self.take_turn()).await,
                NextAction::Wait(until) | NextAction::WaitForTurn(until) => {
                    // A lease under which a refresh token is still to be written is kept.
                    if !self.owes() {
                        self.end_turn().await;
                    }
                    tokio::select! {
                        biased;
                        () = self.wait(until) => {}
                        () = &mut stop => break true,
                        () = &mut leave_off => break false,
                    }
                }
            }
        };
        Box::pin(self.settle_debts()).await;
        self.end_turn().await;
        if stops {
            self.durable.finish_at_stop().await;
        } else {
            self.durable.finish().await;
        }
    }

    fn next_step(&mut self) -> NextAction {
        let now = self.clock.now();
        let is_rejected = self.notices_rejection();
        let cause = if now >= self.due || self.follows_up {
            Cause::Scheduled
        } else if !is_rejected && !self.orders.refreshes.is_requested() {
            return NextAction::Wait(self.due);
        } else if now < self.no_forced_before && !self.is_ordered {
            return NextAction::Wait(self.due.min(self.no_forced_before));
        } else {
            Cause::Forced
        };
        if let Err(obstacle) = self.choose_grant() {
            return self.wait_for_a_person(obstacle);
        }
        let turn = self.turn();
        let is_free = self.limiter.blocked().is_none_or(|blocked| blocked.until <= now);
        let may_ask = self.is_ordered || (is_free && now >= self.no_turn_before);
        let waits = if may_ask { self.waits_for_replicas(turn) } else { None };
        if let Some(step) = waits {
            return step;
        }
        self.limiter.divide(if turn == Turn::Away { self.replicas() } else { 1 });
        let admitted = self.limiter.admit(cause);
        match admitted.or_else(
            |blocked| {
                if self.is_ordered { self.limiter.admit_order() } else { Err(blocked) }
            },
        ) {
            Ok(()) => {
                self.obstacle = None;
                NextAction::Ask
            }
            Err(blocked) => {
                // The turn is of no use before.
                self.no_turn_before = blocked.until;
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
        self.rotation.choose(self.identity.value(), self.durable.state(), self.is_ordered)
    }

    /// Makes no request until a person has acted.
    fn wait_for_a_person(&mut self, obstacle: TokenError) -> NextAction {
        if self.obstacle.as_ref() != Some(&obstacle) {
            match &obstacle {
                TokenError::RotationLimit(_) => self.trail.rotation_limit_reached(&obstacle),
                _ => self.trail.reauthorization_required(&obstacle),
            }
            self.obstacle = Some(obstacle.clone());
        }
        let blocked = Blocked { until: NEVER, by: Barrier::Latch };
        self.progress.send_if_modified(|progress| {
            let is_known = progress.failure.as_deref() == Some(&obstacle);
            if !is_known {
                progress.failure = Some(Arc::new(obstacle));
            }
            progress.blocked.replace(blocked) != Some(blocked) || !is_known
        });
        NextAction::Wait(NEVER)
    }

    /// Whether an upstream has rejected the current token. Logs the rejection when it is first noticed.
    fn notices_rejection(&mut self) -> bool {
        let current = self.store.generation();
        let is_rejected = self.demands.exceed(current);
        if is_rejected && self.rejected < current {
            self.rejected = current;
            self.trail.token_rejected();
        }
        is_rejected
    }

    /// Sleeps until the moment, a new rejection or order, a new subject, or a changed secret while the server rejects the
    /// secret.
    async fn wait(&mut self, until: Moment) {
        let latched = matches!(self.progress.borrow().blocked, Some(Blocked { by: Barrier::Latch, .. }))
            && self.identity.may_change();
        let has_subject_file = self.has_subject_file();
        let longest = match (latched, has_subject_file) {
            (true, _) => SECRET_POLL_INTERVAL,
            (false, true) => SUBJECT_POLL_INTERVAL,
            (false, false) => MAX_SLEEP,
        };
        let earlier = [self.durable.retry_at(), self.writer.previous_until(), self.shared_look_at()];
        let until = earlier.into_iter().flatten().fold(until, Moment::min);
        let sleep = tokio::time::sleep(self.clock.now().until(until).min(longest));
        let mut is_announced = false;
        let announced = async {
            match &mut self.shared {
                Some(shared) => shared.changed().await,
                None => std::future::pending().await,
            }
        };
        let is_over = tokio::select! {
            biased;
            () = sleep => true,
            () = self.demands.raised() => false,
            () = self.orders.arrived() => false,
            () = announced => { is_announced = true; false }
        };
        if is_announced || self.shared_look_at().is_some_and(|look_at| look_at <= self.clock.now()) {
            Box::pin(self.look_at_shared()).await;
        }
        self.writer.drop_ended();
        if is_over {
            self.durable.write_if_lost().await;
        }
        let reads_secrets = latched || (has_subject_file && is_over);
        let is_changed = reads_secrets && self.read_secrets_again().await;
        if is_changed && latched {
            self.limiter.release_latch();
        }
        let now = self.clock.now();
        if self.durable.retry_at().is_some_and(|retry_at| retry_at <= now) {
            self.durable.write().await;
        }
        let is_in_doubt = matches!(self.limiter.blocked(), Some(Blocked { by: Barrier::InDoubt, .. }));
        let needs_refresh_token = self.obstacle.is_some() || self.is_on_fallback || is_in_doubt;
        if needs_refresh_token && self.look_at_state <= now && self.take_state_from_disk().await {
            self.limiter.release_latch();
        }
    }
}

/// The part of a credential that its events have.
fn subject(credential: &Credential) -> Subject {
    Subject {
        name: Arc::from(credential.name.as_str()),
        grant: credential.grant_name(),
        max_rotations: credential.max_rotations,
    }
}

#[cfg(test)]
mod tests;
