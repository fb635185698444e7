//! The task: when to ask, and what to make of the answer.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::address::{Found, Refusal};
use super::document::{DiscoveryError, Documents};
use super::{DiscoverySource, Progress};
use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::token::access_token::Generation;
use crate::token::jwt;
use crate::token::source::TokenSource;

/// How often an address that is known is asked for again.
const AGAIN: Duration = Duration::from_hours(1);
/// The waits after failures.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };
/// The longest sleep: timers stand still while a machine is suspended.
const RECHECK: Duration = Duration::from_mins(1);

/// Leads requests to an address from now on.
pub type Publish = Box<dyn Fn(&Found) -> Result<(), Refusal> + Send + Sync>;

/// Keeps the address of one credential's API.
pub struct Discovery<D> {
    token: TokenSource,
    documents: Arc<ArcSwap<D>>,
    publish: Vec<Publish>,
    progress: watch::Sender<Progress>,
    clock: Clock,
    /// The token that was looked at last, and the tenant in it.
    seen: Generation,
    tenant: Option<String>,
    /// What is published.
    found: Option<Found>,
    failures: u32,
    due: Moment,
    /// Until when the issuer asked to be left alone.
    not_before: Moment,
}

impl<D: Documents> Discovery<D> {
    /// A task that has not asked yet, and what others see of it.
    pub fn new(token: TokenSource, documents: D, clock: Clock) -> (Self, DiscoverySource) {
        let (progress, seen) = watch::channel(Progress::default());
        let source = DiscoverySource { credential: Arc::from(token.name()), progress: seen, clock };
        let discovery = Self {
            token,
            documents: Arc::new(ArcSwap::from_pointee(documents)),
            publish: Vec::new(),
            progress,
            clock,
            seen: Generation::NONE,
            tenant: None,
            found: None,
            failures: 0,
            due: Moment::default(),
            not_before: Moment::default(),
        };
        (discovery, source)
    }

    /// The client that fetches documents; a reload replaces it when the way to the issuer changes.
    pub fn documents(&self) -> Arc<ArcSwap<D>> {
        Arc::clone(&self.documents)
    }

    /// Whom to tell of an address.
    pub fn publish_to(&mut self, publish: Publish) {
        self.publish.push(publish);
    }

    /// Keeps the address until it is dropped; nothing under way is worth finishing.
    pub async fn run(mut self) {
        loop {
            self.look_at_token();
            let has_token = self.seen > Generation::NONE;
            let now = self.clock.now();
            if has_token && now >= self.due {
                self.discover().await;
                continue;
            }
            let sleep = if has_token { now.until(self.due).min(RECHECK) } else { RECHECK };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.token.changed() => {}
            }
        }
    }

    /// Takes the tenant from a token that is new. Another tenant's API is asked for at once.
    fn look_at_token(&mut self) {
        let Some(token) = self.token.latest().filter(|token| token.generation() != self.seen) else {
            return;
        };
        let claims = std::str::from_utf8(token.as_bytes()).ok().and_then(jwt::claims);
        let tenant = claims.and_then(|claims| claims.tenant).filter(|tenant| !tenant.is_empty());
        if self.seen == Generation::NONE || tenant != self.tenant {
            self.due = self.clock.now().max(self.not_before);
            self.failures = 0;
        }
        self.seen = token.generation();
        self.tenant = tenant;
    }

    async fn discover(&mut self) {
        self.progress.send_modify(|progress| progress.is_underway = true);
        let documents = self.documents.load_full();
        let outcome = match &self.tenant {
            None => Err(DiscoveryError::NoTenant),
            // A panic in there must not take the task with it.
            Some(tenant) => AssertUnwindSafe(documents.find(tenant))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(DiscoveryError::Network("the request panicked".to_owned()))),
        };
        let outcome = outcome.and_then(|found| self.take(found));
        let wait = match &outcome {
            Ok(()) => {
                self.failures = 0;
                AGAIN
            }
            Err(_) => {
                self.failures = self.failures.saturating_add(1);
                BACKOFF.step(self.failures - 1)
            }
        };
        let now = self.clock.now();
        if let Err(DiscoveryError::Throttled { wait, .. }) = &outcome {
            self.not_before = now + *wait;
        }
        // Up to a tenth earlier, so that those who started together do not ask together.
        self.due = (now + wait.mul_f64(1.0 - fastrand::f64() / 10.0)).max(self.not_before);
        self.told(outcome.err().map(Arc::new));
    }

    /// Leads requests there, if they do not go there already.
    fn take(&mut self, found: Found) -> Result<(), DiscoveryError> {
        if self.found.as_ref() == Some(&found) {
            return Ok(());
        }
        for publish in &self.publish {
            publish(&found)?;
        }
        info!(
            credential = self.token.name(),
            api = found.address.origin(),
            path = found.address.path,
            "api discovered"
        );
        self.found = Some(found);
        Ok(())
    }

    /// Tells those who wait, and the log of what it has not been told before.
    fn told(&self, failure: Option<Arc<DiscoveryError>>) {
        let before = self.progress.borrow().failure.clone();
        let keeps_the_last = self.found.is_some();
        match (&failure, before) {
            (Some(error), before) if before.as_deref() != Some(&**error) => {
                warn!(credential = self.token.name(), %error, keeps_the_last, "discovery failed");
            }
            (Some(error), _) => debug!(credential = self.token.name(), %error, "discovery failed again"),
            (None, Some(_)) => info!(credential = self.token.name(), "discovery recovered"),
            (None, None) => {}
        }
        self.progress.send_modify(|progress| {
            *progress = Progress { has_found: keeps_the_last, is_underway: false, failure, next: self.due };
        });
    }
}

impl<D> fmt::Debug for Discovery<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Discovery")
            .field("token", &self.token)
            .field("found", &self.found)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
