//! The life of tokens as events: what was refreshed, what failed, what was rejected.
//!
//! Each is a log event of the target `bearerd::audit` with the credential, the generation and figures, and
//! with a fingerprint in the token's place.

use std::fmt::Display;
use std::time::Duration;

use tracing::{info, warn};

const TARGET: &str = "bearerd::audit";

/// What a credential's token requests came to so far.
#[derive(Debug, Default)]
pub struct Tally {
    requests: u64,
    successes: u64,
    rotations: u64,
    failing: bool,
}

/// A token that was issued.
#[derive(Debug)]
pub struct Refreshed<'a, F> {
    /// Whose it is.
    pub credential: &'a str,
    /// Which of the credential's tokens it is; 1 is the first.
    pub generation: u64,
    /// Whether it differs from the one before.
    pub is_new: bool,
    /// From when it was asked for to its end.
    pub lifetime: Duration,
    /// Until the next is asked for.
    pub next: Duration,
    /// What stands for it.
    pub fingerprint: F,
}

/// A token request that brought no token.
pub struct Failed<'a> {
    /// Whose it was.
    pub credential: &'a str,
    /// The generation of the token there is meanwhile; 0 if there is none.
    pub generation: u64,
    /// What became of it, in a word.
    pub outcome: &'a str,
    /// Whether it will go on failing until someone does something.
    pub needs_a_person: bool,
    /// What happened; holds no secret.
    pub error: &'a dyn Display,
}

impl Tally {
    /// A token came.
    pub fn refreshed<F: Display>(&mut self, event: &Refreshed<'_, F>, latency: Duration) {
        self.requests += 1;
        self.successes += 1;
        self.rotations += u64::from(event.is_new && event.generation > 1);
        if std::mem::take(&mut self.failing) {
            info!(
                target: TARGET,
                event = "credential.recovered",
                credential = event.credential,
                generation = event.generation,
                "credential recovered"
            );
        }
        info!(
            target: TARGET,
            event = "token.refreshed",
            credential = event.credential,
            generation = event.generation,
            same_token = !event.is_new,
            rotations = self.rotations,
            lifetime_seconds = event.lifetime.as_secs(),
            next_refresh_seconds = event.next.as_secs(),
            latency_ms = millis(latency),
            success_rate = self.success_rate(),
            fingerprint = %event.fingerprint,
            "token refreshed"
        );
    }

    /// No token came.
    pub fn refresh_failed(&mut self, event: &Failed<'_>, latency: Duration) {
        self.requests += 1;
        self.failing = true;
        warn!(
            target: TARGET,
            event = "token.refresh_failed",
            credential = event.credential,
            generation = event.generation,
            outcome = event.outcome,
            needs_a_person = event.needs_a_person,
            rotations = self.rotations,
            latency_ms = millis(latency),
            success_rate = self.success_rate(),
            error = %event.error,
            "token refresh failed"
        );
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people, exact for 2^53 requests")]
    fn success_rate(&self) -> f64 {
        self.successes as f64 / self.requests.max(1) as f64
    }
}

/// An upstream rejected the current token, and another is asked for.
pub fn token_rejected(credential: &str, generation: u64) {
    warn!(
        target: TARGET,
        event = "token.rejected",
        credential,
        generation,
        "token rejected upstream"
    );
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
