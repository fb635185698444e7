//! Discovery of an API's address, for routes with `upstream = "discover"`.
//!
//! Each credential of such a route has a discovery task. The task waits for the first token, reads the tenant in it, fetches
//! the issuer's document for that tenant, and publishes the address; again when the tenant changes, and every hour. The task
//! makes no token request and sends no token. After a failure the last address stays in use: requests wait only for the first one.

pub mod address;
pub mod document;
mod task;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use self::address::{AddressRefusal, DiscoveredApi, Reach};
pub use self::document::{DiscoveryError, Documents, IssuerClient};
pub use self::task::{Discovery, Publish};
use crate::clock::{Clock, Moment};

/// The task's progress, for requests that wait for an address.
#[derive(Clone, Debug, Default)]
struct DiscoveryProgress {
    /// The published address.
    found: Option<DiscoveredApi>,
    is_underway: bool,
    /// Why the latest attempt failed; `None` if it did not.
    failure: Option<Arc<DiscoveryError>>,
    /// When the next attempt is due.
    next: Moment,
}

/// A credential's discovery as routes use it: whether an address is known, and waiting for the first one.
#[derive(Clone, Debug)]
pub struct DiscoverySource {
    credential: Arc<str>,
    progress: watch::Receiver<DiscoveryProgress>,
    clock: Clock,
}

/// No address is known yet: why, and when one may be.
#[derive(Clone, Debug)]
pub struct Undiscovered {
    /// The time until an address may be known.
    pub retry_after: Duration,
    /// Why the latest attempt failed, if one has ended.
    pub failure: Option<Arc<DiscoveryError>>,
}

impl DiscoverySource {
    /// The credential's name.
    pub fn credential(&self) -> &str {
        &self.credential
    }

    /// Whether an address has been published.
    pub fn has_found(&self) -> bool {
        self.progress.borrow().found.is_some()
    }

    /// The published address.
    pub fn found(&self) -> Option<DiscoveredApi> {
        self.progress.borrow().found.clone()
    }

    /// Why the latest attempt failed, if it did.
    pub fn failure(&self) -> Option<Arc<DiscoveryError>> {
        self.progress.borrow().failure.clone()
    }

    /// Waits until the first address is published.
    ///
    /// # Errors
    ///
    /// [`Undiscovered`] when the time is up, or at once when the next attempt is due later than that.
    pub async fn wait(&self, within: Duration) -> Result<(), Undiscovered> {
        let deadline = self.clock.now() + within;
        let mut progress = self.progress.clone();
        loop {
            {
                let progress = progress.borrow_and_update();
                if progress.found.is_some() {
                    return Ok(());
                }
                if !progress.is_underway && progress.next > deadline {
                    return Err(progress.undiscovered(self.clock.now()));
                }
            }
            let left = self.clock.now().until(deadline);
            if !matches!(tokio::time::timeout(left, progress.changed()).await, Ok(Ok(()))) {
                return Err(progress.borrow().undiscovered(self.clock.now()));
            }
        }
    }
}

impl DiscoveryProgress {
    fn undiscovered(&self, now: Moment) -> Undiscovered {
        let wait = if self.is_underway { Duration::ZERO } else { now.until(self.next) };
        Undiscovered { retry_after: wait.max(Duration::from_secs(1)), failure: self.failure.clone() }
    }
}
