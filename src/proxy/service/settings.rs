//! What all workers serve by: nothing of it changes while they run.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::config::{Config, Limits};
use crate::proxy::body::replay::Allowance;
use crate::proxy::limits::slots::Slots;
use crate::proxy::peer::Networks;
use crate::proxy::route::Table;
use crate::proxy::route::guard::Policy;

/// Who may call, where requests go, and within which limits.
#[derive(Debug)]
pub struct Terms {
    /// Who may call.
    pub policy: Policy,
    /// What callers' addresses are worth.
    pub networks: Networks,
    /// Where requests go.
    pub table: Table,
    /// How we are called in `Via`.
    pub instance: String,
    /// Largest head, in bytes.
    pub header_bytes: usize,
    /// What a request's body may take.
    pub allowance: Allowance,
    /// How long a request may wait for a usable token.
    pub token_wait: Duration,
    /// Places for those that do.
    pub token_waiters: Arc<Slots>,
    /// Whether every exchange is written to the log.
    pub access_log: bool,
    /// The clock of tokens.
    pub clock: Clock,
}

impl Terms {
    /// The same, with what all requests share: places to wait for a token, memory for bodies.
    #[must_use]
    pub fn sharing_with(mut self, before: &Self) -> Self {
        self.token_waiters = Arc::clone(&before.token_waiters);
        self.allowance.budget = Arc::clone(&before.allowance.budget);
        self
    }

    /// Makes what is shared as large as it is configured.
    pub fn resize(&self, limits: &Limits) {
        self.token_waiters.resize(limits.token_waiters);
        self.allowance.budget.resize(limits.replay_total);
    }

    /// As it is configured.
    pub fn new(config: &Config, table: Table, instance: String, clock: Clock) -> Self {
        let limits = &config.server.limits;
        Self {
            policy: Policy::new(&config.server, &instance),
            networks: Networks::of(&config.server),
            table,
            instance,
            header_bytes: limits.header_bytes,
            allowance: Allowance::new(limits),
            token_wait: limits.token_wait,
            token_waiters: Slots::new(limits.token_waiters),
            access_log: config.log.access,
            clock,
        }
    }
}
