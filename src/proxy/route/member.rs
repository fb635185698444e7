//! A credential as a route uses it. A route with a pool has several, and each has a record of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::clock::Moment;
use crate::proxy::auth::rejection_hold::RejectionHold;
use crate::proxy::quota::budget::Budget;
use crate::token::{AccessToken, Demanded, Generation, TokenSource};

/// A credential of a route.
#[derive(Clone, Debug)]
pub struct Member {
    /// The tokens.
    pub source: TokenSource,
    /// The record of rejected tokens.
    pub hold: Arc<RejectionHold>,
    /// Until when the upstream refuses requests with the credential's tokens (429), in nanoseconds since boot.
    throttled_until: Arc<AtomicU64>,
    /// The requests that the API allows the credential; `None` without `api_quota`.
    pub budget: Option<Budget>,
}

impl Member {
    /// A credential of one more route, with the requests that the API allows it.
    pub fn new(source: &TokenSource, budget: Option<Budget>) -> Self {
        let hold = Arc::<RejectionHold>::default();
        let source = source.for_route(Arc::clone(&hold) as _);
        Self { source, hold, throttled_until: Arc::default(), budget }
    }

    /// Records that the upstream accepted a token, in a request that was sent under the given demand. This withdraws the
    /// demand if it is for another token in place of this one.
    pub fn accepted(&self, generation: Generation, sent: Demanded) {
        self.hold.accepted(generation);
        if self.source.accepted(generation, sent) {
            self.hold.not_replaced(generation);
        }
    }

    /// The token before a scheduled renewal, if it is usable and the upstream has accepted it on this route.
    pub fn previous_token(&self) -> Option<Arc<AccessToken>> {
        self.source.previous().filter(|token| self.hold.has_accepted(token.generation()))
    }

    /// Records that the upstream refuses requests until this moment.
    pub fn throttled(&self, until: Moment) {
        self.throttled_until.fetch_max(until.as_nanos(), Ordering::Relaxed);
    }

    /// The end of the time in which the upstream refuses requests.
    pub fn throttled_until(&self) -> Moment {
        Moment::from_nanos(self.throttled_until.load(Ordering::Relaxed))
    }

    /// Whether the upstream may be expected to accept a request now: there is a token, which the upstream has not rejected,
    /// no hold, and no refusal that lasts.
    pub fn is_ready(&self, now: Moment) -> bool {
        self.throttled_until() <= now
            && self.source.current().is_some()
            && !self.source.is_rejected()
            && self.hold.seen(now).is_none()
    }
}
