//! The life of a credential's tokens as events: what was issued, what failed, what was rejected.
//!
//! Each is a log event of the target `bearerd::audit` and says what the trail came to by then: the generation,
//! how often tokens replaced each other, the last latency, the success rate, and a fingerprint in the token's
//! place. What an operator does, or may not do, is an event too. No secret.

use std::fmt::Display;
use std::net::IpAddr;
use std::time::Duration;

use tracing::{info, warn};

/// One credential's trail.
#[derive(Debug)]
pub struct Trail {
    credential: String,
    requests: u64,
    successes: u64,
    rotations: u64,
    latency: Duration,
    is_failing: bool,
    /// The current token's; 0 and nothing before the first.
    generation: u64,
    fingerprint: String,
}

/// A token that was issued.
#[derive(Debug)]
pub struct Issued {
    /// Which of the credential's tokens it is; 1 is the first.
    pub generation: u64,
    /// What stands for it.
    pub fingerprint: String,
    /// From when it was asked for to its end.
    pub lifetime: Duration,
    /// Until the next is asked for.
    pub next: Duration,
}

/// A token request that brought no token.
pub struct Failure<'a> {
    /// What became of it, in a word.
    pub outcome: &'a str,
    /// Whether it will go on failing until someone does something.
    pub needs_a_person: bool,
    /// Until the next one may be made.
    pub next: Duration,
    /// What happened; holds no secret.
    pub error: &'a dyn Display,
}

/// What someone asked for at the admin address.
#[derive(Clone, Copy, Debug)]
pub struct Operation<'a> {
    /// In a word.
    pub action: &'a str,
    /// The credential, if there is one of that name.
    pub credential: &'a str,
    /// From where.
    pub peer: IpAddr,
}

impl Operation<'_> {
    /// It was done, or at least begun.
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

    /// It was not.
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

/// An event with what all of them say.
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
    /// The trail of a credential that has had no token yet.
    pub fn new(credential: &str) -> Self {
        Self {
            credential: credential.to_owned(),
            requests: 0,
            successes: 0,
            rotations: 0,
            latency: Duration::ZERO,
            is_failing: false,
            generation: 0,
            fingerprint: String::new(),
        }
    }

    /// A token that was issued before the start goes on.
    pub fn resumed(&mut self, generation: u64, fingerprint: String) {
        self.generation = generation;
        self.fingerprint = fingerprint;
        event!(info, self, "token.resumed", {}, "token resumed");
    }

    /// A token came.
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

    /// Someone handed over another grant, with a token that is used unless it has a flaw.
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

    /// No token came.
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

    /// A token request brought no token, and another follows from that.
    pub const fn followed_up(&mut self, latency: Duration) {
        self.requests += 1;
        self.latency = latency;
    }

    /// The server knows the client by the other of its two secrets now, the one with this key.
    pub fn client_secret_in_use(&self, key: &str) {
        event!(warn, self, "credential.client_secret_in_use", { in_use = key, }, "other client secret in use");
    }

    /// No refresh token is taken any more: tokens are asked for with another grant from now on.
    pub fn fallback_used(&self, grant: &str, why: &dyn Display) {
        event!(warn, self, "credential.fallback_used", {
            fallback = grant,
            needs_a_person = false,
            error = why.to_string(),
        }, "no refresh token is taken, fallback used");
    }

    /// No refresh token is taken any more: nothing is asked until someone puts another there.
    pub fn reauthorization_required(&mut self, error: &dyn Display) {
        self.is_failing = true;
        event!(warn, self, "credential.reauthorization_required", {
            needs_a_person = true,
            error = error.to_string(),
        }, "reauthorization required");
    }

    /// The refresh token has been replaced as often as it may be: nothing is asked until someone puts another there.
    pub fn rotation_limit_reached(&mut self, error: &dyn Display) {
        self.is_failing = true;
        event!(warn, self, "rotation.limit_reached", {
            needs_a_person = true,
            error = error.to_string(),
        }, "rotation limit reached");
    }

    /// An upstream rejected the current token; another may be asked for now, later, or not at all.
    pub fn token_rejected(&self) {
        event!(warn, self, "token.rejected", {}, "token rejected upstream");
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people, exact for 2^53 requests")]
    fn success_rate(&self) -> f64 {
        self.successes as f64 / self.requests.max(1) as f64
    }
}
