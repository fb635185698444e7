//! The refresher's progress, for requests that wait for a token.
//!
//! The refresher publishes a [`RefreshProgress`] at each step. From that a waiting request learns whether waiting can help,
//! and if not, why, and when a token may be available.

use std::sync::Arc;
use std::time::Duration;

use super::error::TokenError;
use super::limiter::{Barrier, Blocked};
use crate::clock::Moment;
use crate::telemetry::spans::SpanContext;

/// The refresher's progress at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct RefreshProgress {
    /// Since when a token request has been under way, if one is.
    pub(super) underway: Option<Moment>,
    /// The span of the latest token request, if there are traces.
    pub(super) span: Option<SpanContext>,
    /// How many token requests have ended.
    pub(super) finished: u64,
    /// Why the latest of them failed; `None` if it did not.
    pub(super) failure: Option<Arc<TokenError>>,
    /// The barrier of the next one.
    pub(super) blocked: Option<Blocked>,
    /// Until when no refresh is made, because the server has issued the current token again.
    pub(super) unchanged_until: Option<Moment>,
    /// When the refresh token ends, if that is known.
    pub(super) refresh_token_end: Option<Moment>,
    /// What operators see besides.
    pub(super) standing: Standing,
}

/// What operators see of a refresher, as of its latest step.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Standing {
    /// When the next token is due; `None` while only a person can help.
    pub(super) due: Option<Moment>,
    /// How often the refresh token was replaced since a person authorized the client.
    pub(super) rotations: u64,
    /// Whether the state outlives a restart.
    pub(super) is_durable: bool,
    /// When the quota of token requests is full again.
    pub(super) quota_full_at: Moment,
    /// Whether the refresh token ends soon, and no refresh moves its end.
    pub(super) is_grant_expiring: bool,
}

/// No usable token: why, and when one may be available.
#[derive(Clone, Debug)]
pub struct Unavailable {
    /// Why no token is usable.
    pub reason: Reason,
    /// The time until a token may be available; `None` where a person must act.
    pub retry_after: Option<Duration>,
    /// The failure of the latest token request, if that is the reason.
    pub failure: Option<Arc<TokenError>>,
}

/// Why no token is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The first token request has not ended.
    WaitingForFirstToken,
    /// The token endpoint does not respond, or its responses are unusable.
    EndpointUnavailable,
    /// The token endpoint limits the rate of requests.
    EndpointRateLimited,
    /// Our own quota of token requests is used up.
    QuotaExhausted,
    /// The store that the replicas share is away, without which no refresh token is used.
    SharedStoreUnavailable,
    /// The token endpoint refuses the client.
    ClientRejected,
    /// The token endpoint refuses every refresh token, or none is known.
    ReauthorizationRequired,
    /// The refresh token has been rotated `max_rotations` times.
    RotationLimit,
    /// The token endpoint grants fewer scopes than `require_scopes`.
    ScopeMissing,
}

impl Reason {
    /// The reason that a failure is.
    pub const fn of(failure: &TokenError) -> Self {
        match failure {
            TokenError::Network(_)
            | TokenError::Unreached(_)
            | TokenError::RefusedInPassing { .. }
            | TokenError::Discovery(_)
            | TokenError::Server(_)
            | TokenError::Unavailable { .. }
            | TokenError::AssertionFile(_)
            | TokenError::Malformed(_) => Self::EndpointUnavailable,
            TokenError::Throttled { .. } => Self::EndpointRateLimited,
            TokenError::Rejected { .. } | TokenError::Assertion(_) => Self::ClientRejected,
            TokenError::ReauthorizationRequired(_) => Self::ReauthorizationRequired,
            TokenError::RotationLimit(_) => Self::RotationLimit,
            TokenError::ScopeMissing(_) => Self::ScopeMissing,
        }
    }

    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::WaitingForFirstToken,
        Self::EndpointUnavailable,
        Self::EndpointRateLimited,
        Self::QuotaExhausted,
        Self::SharedStoreUnavailable,
        Self::ClientRejected,
        Self::ReauthorizationRequired,
        Self::RotationLimit,
        Self::ScopeMissing,
    ];

    /// Whether the reason stays until a person acts.
    pub const fn needs_person(self) -> bool {
        matches!(
            self,
            Self::ClientRejected | Self::ReauthorizationRequired | Self::RotationLimit | Self::ScopeMissing
        )
    }

    /// The reason's code, as error responses have it.
    pub const fn code(self) -> &'static str {
        match self {
            Self::WaitingForFirstToken => "waiting_for_first_token",
            Self::EndpointUnavailable => "token_endpoint_unavailable",
            Self::EndpointRateLimited => "token_endpoint_rate_limited",
            Self::QuotaExhausted => "token_quota_exhausted",
            Self::SharedStoreUnavailable => "shared_store_unavailable",
            Self::ClientRejected => "client_rejected",
            Self::ReauthorizationRequired => "reauthorization_required",
            Self::RotationLimit => "rotation_limit",
            Self::ScopeMissing => "scope_missing",
        }
    }
}

impl RefreshProgress {
    /// Whether no request is under way although none is blocked: a request may have become due while the machine was
    /// suspended.
    pub(super) fn may_be_overdue(&self, now: Moment) -> bool {
        self.underway.is_none() && self.blocked.is_none_or(|blocked| blocked.until <= now)
    }

    /// Why no token can become available until `deadline`, if that is certain.
    pub(super) fn hopeless(&self, now: Moment, deadline: Moment) -> Option<Unavailable> {
        let blocked = self.blocked.filter(|blocked| self.underway.is_none() && blocked.until > deadline)?;
        Some(self.because_of(blocked, now))
    }

    /// Why no token is available now.
    pub(super) fn unavailable(&self, now: Moment) -> Unavailable {
        match self.blocked {
            Some(blocked) if self.underway.is_none() => self.because_of(blocked, now),
            _ => Unavailable {
                reason: match &self.failure {
                    None if self.finished == 0 => Reason::WaitingForFirstToken,
                    None => Reason::EndpointUnavailable,
                    Some(failure) => Reason::of(failure),
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
            (Barrier::SharedStore, _) => Reason::SharedStoreUnavailable,
            (_, Some(failure)) => Reason::of(failure),
            (Barrier::Latch, None) => Reason::ClientRejected,
            (Barrier::Backoff | Barrier::Breaker | Barrier::InDoubt, None) => Reason::EndpointUnavailable,
        };
        Unavailable {
            reason,
            retry_after: (!reason.needs_person()).then(|| now.until(blocked.until)),
            failure: self.failure.clone().filter(|_| blocked.by != Barrier::Quota),
        }
    }
}
