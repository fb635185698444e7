//! A credential as the request loop uses it: reading the current token, and waiting for another.
//!
//! Reading takes no lock. A forced refresh is requested *for a generation*: a thousand callers with the same rejected token
//! request the same generation, and one token request serves them all. A caller that disconnects while it waits withdraws
//! nothing; the refresher continues.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use super::access_token::{AccessToken, Generation};
use super::error::{FailureClass, TokenError};
use super::progress::{RefreshProgress, Unavailable};
use super::store::{Current, Store};
use crate::clock::Clock;
use crate::shared_request::Wanted;

/// Reads one credential's tokens, and requests new ones.
#[derive(Clone, Debug)]
pub struct TokenSource {
    name: Arc<str>,
    store: Store,
    /// The lowest generation that callers accept.
    wanted: Arc<Wanted>,
    progress: watch::Receiver<RefreshProgress>,
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
        wanted: Arc<Wanted>,
        progress: watch::Receiver<RefreshProgress>,
        clock: Clock,
    ) -> Self {
        Self { name: Arc::from(name), store, wanted, progress, successor: Arc::default(), clock }
    }

    /// The credential's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether both sources read the same tokens.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.wanted, &other.wanted)
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
        !self.progress.borrow().underway
    }

    /// Waits until no token request is under way, or the refresher has ended.
    pub async fn idle(&self) {
        let _ = self.progress.clone().wait_for(|progress| !progress.underway).await;
    }

    /// Whether an upstream has rejected the latest token.
    pub fn is_rejected(&self) -> bool {
        self.wanted.exceeds(self.store.generation().number())
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

    /// The credential's state, as one word of the admin API.
    pub fn state(&self) -> &'static str {
        let failure = self.failure();
        match (failure.as_deref(), self.current().is_some()) {
            (Some(TokenError::ReauthorizationRequired(_) | TokenError::RotationLimit(_)), _) => {
                "reauthorization_required"
            }
            (None, true) if !self.is_rejected() => "valid",
            (_, true) => "degraded",
            (Some(failure), false) if failure.class() == FailureClass::Rejected => "rejected",
            (_, false) if self.has_had_a_token() => "expired",
            (_, false) => "acquiring",
        }
    }

    /// Waits for a usable token.
    ///
    /// # Errors
    ///
    /// [`Unavailable`] when the time is up, or at once when no token can become available within that time.
    pub async fn wait(&self, within: Duration) -> Result<Current, Unavailable> {
        self.wait_beyond(Generation::NONE, within, |_| None).await
    }

    /// Requests a token of a later generation than the rejected one, and waits for that token.
    ///
    /// # Errors
    ///
    /// [`NotReplaced`] when the refresh failed, cannot be made in time, or brought the rejected token again.
    ///
    /// # Cancel safety
    ///
    /// The request stays in force, and the refresh continues.
    pub async fn replace(&self, rejected: Generation, within: Duration) -> Result<Current, NotReplaced> {
        let finished_before = self.progress.borrow().finished;
        self.demand(rejected);
        let mut unchanged = false;
        let outcome = self
            .wait_beyond(rejected, within, |progress| {
                let now = self.clock.now();
                unchanged = progress.unchanged_until.is_some_and(|until| now < until);
                let failed = progress.finished > finished_before && progress.failure.is_some();
                (unchanged || failed).then(|| progress.unavailable(now))
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
        self.wanted.raise_to(rejected.next().number());
    }

    /// Waits for a usable token of a later generation than `seen`, until `give_up` returns a reason not to
    /// wait any longer. Once the refresher has ended, any usable token of the successor is accepted too.
    async fn wait_beyond(
        &self,
        seen: Generation,
        within: Duration,
        mut give_up: impl FnMut(&RefreshProgress) -> Option<Unavailable>,
    ) -> Result<Current, Unavailable> {
        let now = self.clock.now();
        let deadline = now + within;
        let mut progress = self.progress.clone();
        if progress.borrow().may_be_overdue(now) {
            self.wanted.wake();
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
            // In this order: a token published after the progress was read changes the progress, which ends the wait
            // below.
            let hopeless = {
                let progress = progress.borrow_and_update();
                give_up(&progress).or_else(|| progress.hopeless(self.clock.now(), deadline))
            };
            if let Some(token) = self.store.usable().filter(|token| token.generation() > seen) {
                return Ok(token);
            }
            if let Some(unavailable) = hopeless {
                return Err(unavailable);
            }
            let left = self.clock.now().until(deadline);
            let changed = tokio::time::timeout(left, progress.changed()).await;
            let may_go_on = match changed {
                Ok(Ok(())) => true,
                Ok(Err(_)) => self.successor.get().is_some(),
                Err(_) => false,
            };
            if !may_go_on {
                return Err(progress.borrow().unavailable(self.clock.now()));
            }
        }
    }
}
