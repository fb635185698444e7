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

    /// Whether the upstream may be expected to accept a request now.
    ///
    /// # Errors
    ///
    /// Why not: the reason that lasts longest, as far as that is known.
    pub fn check_ready(&self, now: Moment) -> Result<(), Unready> {
        if self.source.current().is_none() {
            return Err(Unready::NoToken);
        }
        if let Some(held) = self.hold.seen(now) {
            return Err(Unready::Held { until: held.until.max(self.throttled_until()) });
        }
        if self.source.is_rejected() {
            return Err(Unready::TokenRejected);
        }
        match self.throttled_until() {
            until if until > now => Err(Unready::Throttled { until }),
            _ => Ok(()),
        }
    }
}

/// Why the upstream is not expected to accept a request with a credential's token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unready {
    /// The credential has no usable token.
    NoToken,
    /// The upstream rejects the credential's fresh tokens too.
    Held {
        /// The end of the rejection hold, or of the time in which the upstream refuses requests, whichever is later.
        until: Moment,
    },
    /// The upstream has rejected the latest token, and the next one is not there yet.
    TokenRejected,
    /// The upstream refuses requests (429).
    Throttled {
        /// The end of that time.
        until: Moment,
    },
}

impl Unready {
    /// When the reason ends; `None` if that depends on the authorization server.
    pub const fn until(self) -> Option<Moment> {
        match self {
            Self::NoToken | Self::TokenRejected => None,
            Self::Held { until } | Self::Throttled { until } => Some(until),
        }
    }
}
