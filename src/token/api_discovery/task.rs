//! The discovery task: when to look up an API's address, and what follows from the result.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::FutureExt;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::address::{AddressRefusal, DiscoveredApi};
use super::document::{DiscoveryError, Documents};
use super::{DiscoveryProgress, DiscoverySource};
use crate::backoff::Backoff;
use crate::clock::{Clock, Moment};
use crate::token::access_token::Generation;
use crate::token::jwt;
use crate::token::source::TokenSource;

/// How often a known address is looked up again.
const REDISCOVERY_INTERVAL: Duration = Duration::from_hours(1);
/// The waits after failed attempts.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::from_mins(1) };
/// The longest sleep: timers stop while a machine is suspended.
const MAX_SLEEP: Duration = Duration::from_mins(1);

/// Sends requests to this address from now on.
pub type Publish = Box<dyn Fn(&DiscoveredApi) -> Result<(), AddressRefusal> + Send + Sync>;

/// Keeps the address of one credential's API up to date.
pub struct Discovery<D> {
    token: TokenSource,
    documents: Arc<ArcSwap<D>>,
    publish: Vec<Publish>,
    progress: watch::Sender<DiscoveryProgress>,
    clock: Clock,
    /// The generation of the token that was read last, and the tenant in that token.
    seen: Generation,
    tenant: Option<String>,
    /// The published address.
    found: Option<DiscoveredApi>,
    failures: u32,
    due: Moment,
    /// The end of the wait that the issuer has asked for.
    not_before: Moment,
}

impl<D: Documents> Discovery<D> {
    /// A task before its first attempt, and its source for routes.
    pub fn new(token: TokenSource, documents: D, clock: Clock) -> (Self, DiscoverySource) {
        let (progress, seen) = watch::channel(DiscoveryProgress::default());
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

    /// Adds a receiver of addresses.
    pub fn publish_to(&mut self, publish: Publish) {
        self.publish.push(publish);
    }

    /// Publishes the address that an earlier discovery for the same principal has found. The first attempt is still made at
    /// once.
    pub fn resume(&mut self, found: DiscoveredApi) {
        if self.publish.iter().all(|publish| publish(&found).is_ok()) {
            self.progress.send_modify(|progress| progress.found = Some(found.clone()));
            self.found = Some(found);
        }
    }

    /// Keeps the address up to date until the future is dropped, which loses nothing.
    pub async fn run(mut self) {
        loop {
            self.look_at_token();
            let has_token = self.seen > Generation::NONE;
            let now = self.clock.now();
            if has_token && now >= self.due {
                self.discover().await;
                continue;
            }
            let sleep = if has_token { now.until(self.due).min(MAX_SLEEP) } else { MAX_SLEEP };
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.token.changed() => {}
            }
        }
    }

    /// Reads the tenant of a new token. The API of another tenant is looked up at once.
    fn look_at_token(&mut self) {
        let Some(token) = self.token.latest().filter(|token| token.generation() != self.seen) else {
            return;
        };
        let claims = jwt::claims(token.as_str());
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
            // A panic in the request must not end the task.
            Some(tenant) => AssertUnwindSafe(documents.find(tenant))
                .catch_unwind()
                .await
                .unwrap_or_else(|_| Err(DiscoveryError::Network("the request panicked".to_owned()))),
        };
        let outcome = outcome.and_then(|found| self.take(found));
        let wait = match &outcome {
            Ok(()) => {
                self.failures = 0;
                REDISCOVERY_INTERVAL
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
        // Up to a tenth earlier at random, so that tasks that started together do not make requests together.
        self.due = (now + wait.mul_f64(1.0 - fastrand::f64() / 10.0)).max(self.not_before);
        self.told(outcome.err().map(Arc::new));
    }

    /// Publishes an address, unless it is the published one.
    fn take(&mut self, found: DiscoveredApi) -> Result<(), DiscoveryError> {
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

    /// Publishes the result of an attempt to waiting requests, and logs a change.
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
            let found = self.found.clone();
            *progress = DiscoveryProgress { found, is_underway: false, failure, next: self.due };
        });
    }
}

#[cfg(test)]
mod tests;
