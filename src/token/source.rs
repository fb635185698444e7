//! A credential as the request loop uses it: reading the current token, and waiting for another.
//!
//! Reading takes no lock. A forced refresh is requested *for a generation*: a thousand callers with the same rejected token
//! request the same generation, and one token request serves them all. A caller that disconnects while it waits withdraws
//! nothing; the refresher continues. A demand that no token request has served dies when the party that made the demand
//! accepts the token again.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::access_token::{AccessToken, Generation};
use super::demand::{Demand, Demanded, Demands, Rejection, Verdicts};
use super::error::TokenError;
use super::progress::{RefreshProgress, Unavailable};
use super::store::{Current, Store};
use crate::clock::Clock;
use crate::peer_text::printable;
use crate::telemetry::spans::SpanContext;

/// Reads one credential's tokens, and requests new ones.
#[derive(Clone, Debug)]
pub struct TokenSource {
    name: Arc<str>,
    store: Store,
    demands: Arc<Demands>,
    /// The demand of the party that this source belongs to.
    demand: Arc<Demand>,
    progress: watch::Receiver<RefreshProgress>,
    /// How many requests wait for a token.
    waiters: Arc<AtomicUsize>,
    /// The source on which requests wait instead, once the refresher of this source has ended.
    successor: Arc<OnceLock<TokenSource>>,
    clock: Clock,
}

/// Why a rejected token was not replaced.
#[derive(Debug)]
pub enum NotReplaced {
    /// The authorization server issues the same token again: the upstream's rejection has another cause.
    Unchanged,
    /// No token is available.
    Unavailable(Unavailable),
}

impl TokenSource {
    pub(super) fn new(
        name: &str,
        store: Store,
        demands: Arc<Demands>,
        progress: watch::Receiver<RefreshProgress>,
        clock: Clock,
    ) -> Self {
        let demand = demands.own();
        Self {
            name: Arc::from(name),
            store,
            demands,
            demand,
            progress,
            waiters: Arc::default(),
            successor: Arc::default(),
            clock,
        }
    }

    /// The same tokens, for a route: its demands are its own, and end with its own acceptance of a token.
    #[must_use]
    pub fn for_route(&self, verdicts: Arc<dyn Verdicts>) -> Self {
        Self { demand: self.demands.party(verdicts), ..self.clone() }
    }

    /// The credential's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both sources read the same tokens.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.demands, &other.demands)
    }

    /// Names the source of the credential that takes this credential's place. Once the refresher of this
    /// source has ended, requests that wait on this source wait for a token of the successor. Only the first
    /// call has an effect.
    pub fn succeeded_by(&self, successor: &Self) {
        let _ = self.successor.set(successor.clone());
    }

    /// The current token, if it is usable.
    pub fn current(&self) -> Option<Current> {
        self.store.usable()
    }

    /// The token before the current one, if it is usable and a scheduled renewal has replaced it within the last minute.
    pub fn previous(&self) -> Option<Arc<AccessToken>> {
        self.store.previous()
    }

    /// Whether the credential has ever had a token.
    pub fn has_had_a_token(&self) -> bool {
        self.store.generation() > Generation::NONE
    }

    /// The latest token's generation.
    pub fn generation(&self) -> Generation {
        self.store.generation()
    }

    /// The latest token, expired or not.
    pub(super) fn latest(&self) -> Option<Arc<AccessToken>> {
        self.store.latest()
    }

    /// The tenant that the latest token names, for operators.
    pub fn tenant(&self) -> Option<String> {
        self.latest()?.tenant().as_deref().map(printable)
    }

    /// Waits until the refresher has made progress, perhaps to another token.
    ///
    /// # Cancel safety
    ///
    /// No change is lost.
    pub(super) async fn changed(&mut self) {
        if self.progress.changed().await.is_err() {
            // The refresher has ended: nothing will change.
            std::future::pending::<()>().await;
        }
    }

    /// Whether no token request is under way.
    pub fn is_idle(&self) -> bool {
        self.progress.borrow().underway.is_none()
    }

    /// Whether a token request is under way, and the span of the latest one, if there are traces.
    pub fn token_request(&self) -> (bool, Option<SpanContext>) {
        let progress = self.progress.borrow();
        (progress.underway.is_some(), progress.span)
    }

    /// Waits until no token request is under way, or the refresher has ended.
    pub async fn idle(&self) {
        let _ = self.progress.clone().wait_for(|progress| progress.underway.is_none()).await;
    }

    /// Whether an upstream has rejected the latest token.
    pub fn is_rejected(&self) -> bool {
        self.demands.exceed(self.store.generation())
    }

    /// Why the latest token request failed, if it did.
    pub fn failure(&self) -> Option<Arc<TokenError>> {
        self.progress.borrow().failure.clone()
    }

    /// When the refresh token ends, on the wall clock, if that is known.
    pub fn refresh_token_expires(&self) -> Option<SystemTime> {
        let end = self.progress.borrow().refresh_token_end?;
        let now = self.clock.now();
        Some(self.clock.wall() + now.until(end) - now.since(end))
    }

    /// How many requests wait for a token now.
    pub fn waiters(&self) -> usize {
        self.waiters.load(Ordering::Relaxed)
    }

    /// The refresher's progress, and whether the upstreams reject the latest token.
    pub(super) fn seen(&self) -> (RefreshProgress, Rejection, Clock) {
        let rejection = self.demands.rejection(self.store.generation(), self.clock.now());
        (self.progress.borrow().clone(), rejection, self.clock)
    }

    /// Waits for a usable token.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the time is up, or at once when no token can become available within that time.
    pub async fn wait(&self, within: Duration) -> Result<Current, Unavailable> {
        self.wait_beyond(Generation::NONE, within, |_| None).await
    }

    /// Requests a token of a later generation than the rejected one, and waits for that token. A failed refresh is waited
    /// through if the next one can be made in time. Returns the rejected token itself if the demand is withdrawn.
    ///
    /// # Errors
    ///
    /// [`NotReplaced`] when no refresh succeeds or can be made in time, or when it brought the rejected token again.
    ///
    /// # Cancel safety
    ///
    /// The request stays in force, and the refresh continues.
    pub async fn replace(&self, rejected: Generation, within: Duration) -> Result<Current, NotReplaced> {
        self.demand(rejected);
        let mut unchanged = false;
        let outcome = self
            .wait_beyond(rejected, within, |progress| {
                let now = self.clock.now();
                unchanged = progress.unchanged_until.is_some_and(|until| now < until);
                unchanged.then(|| progress.unavailable(now))
            })
            .await;
        match outcome {
            Ok(token) => Ok(token),
            Err(_) if unchanged => Err(NotReplaced::Unchanged),
            Err(unavailable) => Err(NotReplaced::Unavailable(unavailable)),
        }
    }

    /// Requests a token of a later generation than the rejected one, without waiting for that token.
    pub fn demand(&self, rejected: Generation) {
        if self.demand.raise_beyond(rejected) {
            self.demands.wake();
        }
    }

    /// What this party demands now; a request notes it when it is sent. One relaxed load.
    pub fn demanded(&self) -> Demanded {
        self.demand.demanded()
    }

    /// Records that this party accepted a token, in a request that was sent under the given demand. Returns whether this
    /// withdraws the demand for a later one. One relaxed load without a demand.
    pub fn accepted(&self, generation: Generation, sent: Demanded) -> bool {
        self.demand.accepted(generation, sent)
    }

    /// Waits for a usable token of a later generation than `seen`, or for the withdrawal of the demand for one, until
    /// `give_up` returns a reason not to wait any longer. Once the refresher has ended, any usable token of the successor
    /// is accepted too.
    async fn wait_beyond(
        &self,
        seen: Generation,
        within: Duration,
        mut give_up: impl FnMut(&RefreshProgress) -> Option<Unavailable>,
    ) -> Result<Current, Unavailable> {
        let now = self.clock.now();
        let deadline = now + within;
        let mut progress = self.progress.clone();
        let _waiting = Waiting::count(&self.waiters);
        if progress.borrow().may_be_overdue(now) {
            self.demands.wake();
        }
        loop {
            // A refresher that has ended publishes no further token.
            let successor = self.successor.get().filter(|_| progress.has_changed().is_err());
            if let Some(successor) = successor {
                if let Some(token) = self.store.usable().filter(|token| token.generation() > seen) {
                    return Ok(token);
                }
                return Box::pin(successor.wait(self.clock.now().until(deadline))).await;
            }
            // In this order: a token published after the progress was read changes the progress, and a withdrawal after
            // this line resolves `withdrawn`; either ends the wait below.
            let withdrawn = self.demand.withdrawn();
            let (reason, hopeless, underway) = {
                let progress = progress.borrow_and_update();
                let hopeless = progress.hopeless(self.clock.now(), deadline);
                (give_up(&progress), hopeless, progress.underway.is_some())
            };
            let usable = self.store.usable();
            if let Some(token) = usable.filter(|token| token.generation() > seen) {
                return Ok(token);
            }
            if let Some(unavailable) = reason {
                return Err(unavailable);
            }
            let is_withdrawn = !underway && !self.demand.exceeds(seen);
            if let Some(token) =
                self.store.usable().filter(|token| is_withdrawn && token.generation() >= seen)
            {
                return Ok(token);
            }
            if let Some(unavailable) = hopeless {
                return Err(unavailable);
            }
            let left = self.clock.now().until(deadline);
            let may_go_on = tokio::select! {
                biased;
                changed = progress.changed() => changed.is_ok() || self.successor.get().is_some(),
                () = withdrawn => true,
                () = tokio::time::sleep(left) => false,
            };
            if !may_go_on {
                return Err(progress.borrow().unavailable(self.clock.now()));
            }
        }
    }
}

/// Counts a request that waits, until it is dropped.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn count(waiters: &'a AtomicUsize) -> Self {
        waiters.fetch_add(1, Ordering::Relaxed);
        Self(waiters)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
