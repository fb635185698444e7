//! The audit trail: events about a credential's tokens and about the operations of an operator.
//!
//! Each entry is a log event of the target `bearerd::audit`. Events about tokens carry the generation, the number of
//! rotations, the last latency, the success rate and a fingerprint in place of the token. No event contains a secret.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use tracing::{info, warn};

/// The audit trail of one credential.
#[derive(Debug, Default)]
pub struct Trail {
    credential: String,
    requests: u64,
    successes: u64,
    rotations: u64,
    latency: Duration,
    is_failing: bool,
    /// The generation of the current token; 0 before the first.
    generation: u64,
    fingerprint: String,
}

/// A token that was issued.
#[derive(Debug)]
pub struct Issued {
    /// The token's generation; 1 is the first.
    pub generation: u64,
    /// The token's fingerprint.
    pub fingerprint: String,
    /// The time from the request to the expiry.
    pub lifetime: Duration,
    /// The time until the next token request.
    pub next: Duration,
}

/// A token request that failed.
pub struct Failure<'a> {
    /// The outcome, as its code.
    pub outcome: &'a str,
    /// Whether token requests fail until a person acts.
    pub needs_a_person: bool,
    /// The time until the next attempt.
    pub next: Duration,
    /// The error, without secrets.
    pub error: &'a dyn Display,
}

/// An operation that was requested at the admin address.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// The name of the operation.
    pub action: &'a str,
    /// The credential; empty if no credential has the requested name.
    pub credential: &'a str,
    /// The client's address.
    pub peer: IpAddr,
}

impl Operation<'_> {
    /// Records an operation that was carried out or begun.
    pub fn done(&self, status: u16) {
        let Self { action, credential, peer } = self;
        info!(
            target: "bearerd::audit",
            event = "operator.acted",
            action,
            credential,
            %peer,
            status,
            "operator acted"
        );
    }

    /// Records a refused operation.
    pub fn refused(&self, status: u16, code: &str) {
        let Self { action, credential, peer } = self;
        warn!(
            target: "bearerd::audit",
            event = "operator.refused",
            action,
            credential,
            %peer,
            status,
            code,
            "operator refused"
        );
    }
}

/// Logs an event with the members that all events about tokens have.
macro_rules! event {
    ($level:ident, $trail:expr, $event:literal, { $($fields:tt)* }, $message:literal) => {
        $level!(
            target: "bearerd::audit",
            event = $event,
            credential = $trail.credential,
            generation = $trail.generation,
            rotations = $trail.rotations,
            latency_ms = u64::try_from($trail.latency.as_millis()).unwrap_or(u64::MAX),
            success_rate = $trail.success_rate(),
            fingerprint = $trail.fingerprint,
            $($fields)*
            $message
        )
    };
}

impl Trail {
    /// The trail of a credential without a token.
    pub fn new(credential: &str) -> Self {
        Self { credential: credential.to_owned(), ..Self::default() }
    }

    /// Records a token from before the start that is still in use.
    pub fn resumed(&mut self, generation: u64, fingerprint: String) {
        self.generation = generation;
        self.fingerprint = fingerprint;
        event!(info, self, "token.resumed", {}, "token resumed");
    }

    /// Records a token response with a token.
    pub fn refreshed(&mut self, token: Issued, latency: Duration) {
        let is_same = token.generation == self.generation;
        self.requests += 1;
        self.successes += 1;
        self.rotations += u64::from(self.generation > 0 && !is_same);
        self.latency = latency;
        self.generation = token.generation;
        self.fingerprint = token.fingerprint;
        if std::mem::take(&mut self.is_failing) {
            event!(info, self, "credential.recovered", {}, "credential recovered");
        }
        event!(info, self, "token.refreshed", {
            same_token = is_same,
            lifetime_seconds = token.lifetime.as_secs(),
            next_refresh_seconds = token.next.as_secs(),
        }, "token refreshed");
    }

    /// Records a grant that was handed over, with its token unless that has a flaw.
    pub fn authorized(&mut self, token: Option<Issued>, is_durable: bool, flaw: Option<&dyn Display>) {
        let has_token = token.is_some();
        if let Some(token) = token {
            self.rotations += u64::from(self.generation > 0 && token.generation != self.generation);
            self.generation = token.generation;
            self.fingerprint = token.fingerprint;
        }
        event!(info, self, "credential.authorized", {
            has_token,
            is_durable,
            error = flaw.map(tracing::field::display),
        }, "credential authorized");
        if has_token && std::mem::take(&mut self.is_failing) {
            event!(info, self, "credential.recovered", {}, "credential recovered");
        }
    }

    /// Records a failed token request.
    pub fn refresh_failed(&mut self, failure: &Failure<'_>, latency: Duration) {
        self.requests += 1;
        self.latency = latency;
        self.is_failing = true;
        event!(warn, self, "token.refresh_failed", {
            outcome = failure.outcome,
            needs_a_person = failure.needs_a_person,
            next_attempt_seconds = failure.next.as_secs() + u64::from(failure.next.subsec_nanos() > 0),
            error = failure.error.to_string(),
        }, "token refresh failed");
    }

    /// Counts a failed token request that another one follows at once.
    pub const fn followed_up(&mut self, latency: Duration) {
        self.requests += 1;
        self.latency = latency;
    }

    /// Records that the server now accepts the other client secret, the one of the configuration key `key`.
    pub fn client_secret_in_use(&self, key: &str) {
        event!(warn, self, "credential.client_secret_in_use", { in_use = key, }, "other client secret in use");
    }

    /// Records that the server accepts no refresh token, and that the fallback grant is in use.
    pub fn fallback_used(&self, grant: &str, why: &dyn Display) {
        event!(warn, self, "credential.fallback_used", {
            fallback = grant,
            needs_a_person = false,
            error = why.to_string(),
        }, "refresh token not accepted, fallback used");
    }

    /// Records that token requests have stopped until a person authorizes the client again.
    pub fn reauthorization_required(&mut self, error: &dyn Display) {
        self.is_failing = true;
        event!(warn, self, "credential.reauthorization_required", {
            needs_a_person = true,
            error = error.to_string(),
        }, "reauthorization required");
    }

    /// Records that the refresh token has reached `max_rotations`, and that token requests have stopped.
    pub fn rotation_limit_reached(&mut self, error: &dyn Display) {
        self.is_failing = true;
        event!(warn, self, "rotation.limit_reached", {
            needs_a_person = true,
            error = error.to_string(),
        }, "rotation limit reached");
    }

    /// Records that the refresh token ends soon, and that no refresh moves its end.
    pub fn refresh_token_ends(&self, left: Duration) {
        event!(warn, self, "credential.refresh_token_ends", {
            needs_a_person = true,
            ends_in_seconds = left.as_secs(),
        }, "refresh token ends soon");
    }

    /// Records that an upstream rejected the current token.
    pub fn token_rejected(&self) {
        event!(warn, self, "token.rejected", {}, "token rejected upstream");
    }

    #[expect(clippy::cast_precision_loss, reason = "exact for up to 2^53 requests")]
    fn success_rate(&self) -> f64 {
        self.successes as f64 / self.requests.max(1) as f64
    }
}
