//! The immutable configuration snapshot that all workers share.

use std::sync::Arc;

use crate::clock::Clock;
use crate::config::{Config, Http1Options, Limits, Sampling};
use crate::proxy::body::replay::BodyLimits;
use crate::proxy::callers::Callers;
use crate::proxy::limits::slots::Slots;
use crate::proxy::peer::Networks;
use crate::proxy::quota::budget::Budget;
use crate::proxy::route::guard::Policy;
use crate::proxy::route::{Route, Table};
use crate::telemetry::audit::AuditGate;
use crate::telemetry::metrics::traffic::Traffic;
use crate::telemetry::refused::Counts;
use crate::telemetry::spans::Spans;

/// Access policy, routes and limits. A reload replaces the snapshot as a whole.
#[derive(Debug)]
pub struct ServiceSettings {
    /// The checks of a request head.
    pub policy: Policy,
    /// The allowed networks, and those of trusted proxies.
    pub networks: Networks,
    /// The configured callers; `None` without any.
    pub callers: Option<Arc<Callers>>,
    /// The callers' own budgets, in the order of the callers; `None` for one without a quota. Empty if none has one.
    pub caller_budgets: Vec<Option<Budget>>,
    /// The routing table.
    pub table: Table,
    /// The pseudonym of this daemon in `CDN-Loop` and `Via`.
    pub instance: String,
    /// The limits on connections and requests.
    pub limits: Arc<Limits>,
    /// The limits of a request body, with the memory for replays that is shared across reloads.
    pub body_limits: BodyLimits,
    /// Slots for requests that wait for a token; shared across reloads.
    pub token_waiters: Arc<Slots>,
    /// How HTTP/1.1 is spoken.
    pub http1: Http1Options,
    /// Which exchanges are logged.
    pub sampling: Sampling,
    /// The counts of requests; shared across reloads.
    pub traffic: Arc<Traffic>,
    /// Where the spans of requests end; `None` without traces.
    pub spans: Option<Spans>,
    /// The clock of token lifetimes.
    pub clock: Clock,
    /// Refuses requests while nothing can be written to the audit trail; `None` if requests go on.
    pub audit_gate: Option<AuditGate>,
    /// Where refused requests are counted.
    pub refused: Option<Counts>,
}

impl ServiceSettings {
    /// The snapshot of a configuration.
    pub fn new(config: &Config, table: Table, instance: String, clock: Clock) -> Self {
        let limits = &config.server.limits;
        Self {
            policy: Policy::new(&config.server, &instance),
            networks: Networks::of(&config.server),
            callers: Callers::new(&config.callers).map(Arc::new),
            caller_budgets: Vec::new(),
            table,
            instance,
            limits: Arc::new(limits.clone()),
            body_limits: BodyLimits::new(limits),
            token_waiters: Slots::new(limits.token_waiters),
            http1: config.server.http1,
            sampling: config.log.access,
            traffic: Arc::new(Traffic::new(config.server.workers)),
            spans: None,
            clock,
            audit_gate: None,
            refused: None,
        }
    }

    /// Requests of callers go out within these budgets.
    #[must_use]
    pub fn with_caller_budgets(mut self, budgets: Vec<Option<Budget>>) -> Self {
        self.caller_budgets = budgets;
        self
    }

    /// Requests have spans.
    #[must_use]
    pub fn traced(mut self, spans: Option<Spans>) -> Self {
        self.spans = spans;
        self
    }

    /// Reports refused requests, and asks this gate before each request.
    #[must_use]
    pub fn with_reports(mut self, audit_gate: Option<AuditGate>, refused: Counts) -> Self {
        (self.audit_gate, self.refused) = (audit_gate, Some(refused));
        self
    }

    /// Continues the counters of the snapshot `before`: token waiters, replay memory and counts of requests.
    #[must_use]
    pub fn with_counters_of(mut self, before: &Self) -> Self {
        self.token_waiters = Arc::clone(&before.token_waiters);
        self.body_limits.budget = Arc::clone(&before.body_limits.budget);
        self.traffic = Arc::clone(&before.traffic);
        let callers = self.callers.as_ref().map_or(&[][..], |callers| callers.names());
        let routes = self.table.routes();
        let members = routes.iter().flat_map(Route::pool_members).collect();
        self.traffic.keep_only(routes.iter().map(|route| route.name.as_str()), callers, &members);
        self.spans.clone_from(&before.spans);
        self
    }

    /// Sets the bounds of the shared counters.
    pub fn resize(&self) {
        self.token_waiters.resize(self.limits.token_waiters);
        self.body_limits.budget.resize(self.limits.replay_total);
    }
}
