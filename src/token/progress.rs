//! What the refresher is doing, for those who wait for it.
//!
//! The refresher publishes a [`RefreshProgress`] at each step; a waiter reads from it whether waiting can help, and
//! if not, why, and when it might.

use std::sync::Arc;
use std::time::Duration;

use super::error::TokenError;
use super::limiter::{Barrier, Blocked};
use crate::clock::Moment;

/// The refresher's state at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct RefreshProgress {
    /// Whether a token request is under way.
    pub(super) underway: bool,
    /// How many have ended.
    pub(super) finished: u64,
    /// Why the latest of them brought no token; `None` if it did.
    pub(super) failure: Option<Arc<TokenError>>,
    /// What keeps the next one back.
    pub(super) blocked: Option<Blocked>,
    /// Until when asking would bring the same token again.
    pub(super) unchanged_until: Option<Moment>,
}

/// No usable token, why, and when there may be one.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// Why.
    pub reason: Reason,
    /// How long waiting may help; `None` where a person must act.
    pub retry_after: Option<Duration>,
    /// What the token endpoint said last, if that is why.
    pub failure: Option<Arc<TokenError>>,
}

/// Why there is no usable token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first token has been asked for and not arrived.
    WaitingForFirstToken,
    /// The token endpoint does not answer, or not usably.
    EndpointUnavailable,
    /// It asked to be left alone for a while.
    EndpointRateLimited,
    /// Our own quota of token requests is used up.
    QuotaExhausted,
    /// It refuses the client.
    ClientRejected,
    /// It takes no refresh token that there is.
    ReauthorizationRequired,
    /// The refresh token has been replaced as often as it may be.
    RotationLimit,
    /// It grants less than is required.
    ScopeMissing,
}

impl Reason {
    /// The same in a word, as answers have it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::WaitingForFirstToken => "waiting_for_first_token",
            Self::EndpointUnavailable => "token_endpoint_unavailable",
            Self::EndpointRateLimited => "token_endpoint_rate_limited",
            Self::QuotaExhausted => "token_quota_exhausted",
            Self::ClientRejected => "client_rejected",
            Self::ReauthorizationRequired => "reauthorization_required",
            Self::RotationLimit => "rotation_limit",
            Self::ScopeMissing => "scope_missing",
        }
    }
}

impl RefreshProgress {
    /// Whether nothing says why no request is under way: its time may have come while the machine slept.
    pub(super) fn may_be_overdue(&self, now: Moment) -> bool {
        !self.underway && self.blocked.is_none_or(|blocked| blocked.until <= now)
    }

    /// Why waiting until `deadline` cannot help, if it cannot.
    pub(super) fn hopeless(&self, now: Moment, deadline: Moment) -> Option<Unavailable> {
        let blocked = self.blocked.filter(|blocked| !self.underway && blocked.until > deadline)?;
        Some(self.because_of(blocked, now))
    }

    /// Why there is no token now.
    pub(super) fn unavailable(&self, now: Moment) -> Unavailable {
        match self.blocked {
            Some(blocked) if !self.underway => self.because_of(blocked, now),
            _ => Unavailable {
                reason: match &self.failure {
                    None if self.finished == 0 => Reason::WaitingForFirstToken,
                    None => Reason::EndpointUnavailable,
                    Some(failure) => reason_of(failure),
                },
                retry_after: Some(Duration::from_secs(1)),
                failure: self.failure.clone(),
            },
        }
    }

    fn because_of(&self, blocked: Blocked, now: Moment) -> Unavailable {
        let reason = match (blocked.by, &self.failure) {
            (Barrier::Quota, _) => Reason::QuotaExhausted,
            (Barrier::RetryAfter, _) => Reason::EndpointRateLimited,
            (_, Some(failure)) => reason_of(failure),
            (Barrier::Latch, None) => Reason::ClientRejected,
            (Barrier::Backoff | Barrier::Breaker, None) => Reason::EndpointUnavailable,
        };
        let is_for_a_person = matches!(
            reason,
            Reason::ClientRejected
                | Reason::ReauthorizationRequired
                | Reason::RotationLimit
                | Reason::ScopeMissing
        );
        Unavailable {
            reason,
            retry_after: (!is_for_a_person).then(|| now.until(blocked.until)),
            failure: self.failure.clone().filter(|_| blocked.by != Barrier::Quota),
        }
    }
}

fn reason_of(failure: &TokenError) -> Reason {
    match failure {
        TokenError::Network(_)
        | TokenError::Discovery(_)
        | TokenError::Server { .. }
        | TokenError::Malformed(_) => Reason::EndpointUnavailable,
        TokenError::Throttled { .. } => Reason::EndpointRateLimited,
        TokenError::Rejected { .. } | TokenError::Assertion(_) => Reason::ClientRejected,
        TokenError::ReauthorizationRequired(_) => Reason::ReauthorizationRequired,
        TokenError::RotationLimit { .. } => Reason::RotationLimit,
        TokenError::ScopeMissing { .. } => Reason::ScopeMissing,
    }
}
