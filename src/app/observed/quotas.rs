//! Callers and budgets as `/status` shows them.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::{InForceParts, Observed};
use crate::admin::Quotas;
use crate::admin::status::{ApiQuota, Caller, CallerQuota, QuotaLine, Time};
use crate::clock::wall_clock;
use crate::config;
use crate::proxy::quota::budget::Budget;
use crate::proxy::quota::ledger::{LineStatus, Status};
use crate::proxy::quota::line::LineKey;
use crate::telemetry::event::milliseconds;

/// A caller's part of the budgets of credentials.
#[derive(Clone, Copy, Default)]
struct OfCaller {
    waiting: usize,
    /// The least of its shares, from 0 to 1.
    share: Option<f64>,
}

impl Observed {
    /// The budgets of credentials, each once.
    pub(in crate::app) fn budgets(&self) -> Vec<Budget> {
        let settings = self.settings();
        let members = settings.table.routes().iter().flat_map(|route| &route.members);
        let mut all: Vec<Budget> = Vec::new();
        for budget in members.filter_map(|member| member.budget.as_ref()) {
            if !all.iter().any(|known| known.is(budget)) {
                all.push(budget.clone());
            }
        }
        all
    }

    /// The budgets of callers with a quota.
    pub(in crate::app) fn caller_budgets(&self) -> Vec<Budget> {
        self.settings().caller_budgets.iter().flatten().cloned().collect()
    }

    /// The configured callers.
    pub(super) fn shown_callers(&self) -> Vec<Caller> {
        let in_force = self.in_force.load();
        let InForceParts { config, settings, .. } = &**in_force;
        let budgets: Vec<_> = self.budgets().iter().map(Budget::status).collect();
        let by_caller = by_caller(&budgets);
        let caller = |(at, one): (usize, &config::Caller)| {
            let counts = settings.traffic.caller(&one.name);
            let OfCaller { waiting, share } = by_caller.get(one.name.as_str()).copied().unwrap_or_default();
            let quota = settings.caller_budgets.get(at).and_then(Option::as_ref).map(caller_quota);
            let waits_for_itself = quota.as_ref().map_or(0, |quota| quota.waiting);
            Caller {
                name: one.name.clone(),
                weight: one.weight,
                requests: counts.requests().values().sum(),
                refused: counts.refused(),
                waiting: (waiting + waits_for_itself) as u64,
                share: share.map(|share| (share * 1000.0).round() / 1000.0),
                quota,
            }
        };
        config.callers.iter().enumerate().map(caller).collect()
    }
}

/// The part of each configured caller of these budgets.
fn by_caller(budgets: &[Arc<Status>]) -> HashMap<&str, OfCaller> {
    let mut by_caller: HashMap<&str, OfCaller> = HashMap::new();
    for status in budgets {
        for line in &status.lines {
            let LineKey::Caller(name) = &line.key else { continue };
            let share = line.share / f64::from(status.requests.max(1));
            let of_caller = by_caller.entry(name).or_default();
            of_caller.waiting += line.waiting;
            of_caller.share = Some(of_caller.share.map_or(share, |least| least.min(share)));
        }
    }
    by_caller
}

fn caller_quota(budget: &Budget) -> CallerQuota {
    let status = budget.status();
    CallerQuota {
        requests: status.requests,
        per_ms: milliseconds(status.per),
        used: status.used,
        left: status.left(),
        waiting: status.waiting,
        granted: status.counts.granted,
        refused: status.counts.refused,
    }
}

impl Quotas for Observed {
    fn api_quota(&self, credential: &str) -> Option<ApiQuota> {
        let budgets = self.budgets();
        let budget = budgets.iter().find(|budget| budget.name() == credential)?;
        let status = budget.status();
        let Status { requests, per, used, waiting, blocked_until, lines, counts } = &*status;
        let line = |line: &LineStatus| QuotaLine {
            name: line.key.to_string(),
            weight: line.weight,
            share: (line.share * 100.0).round() / 100.0,
            used: line.used,
            borrowed: line.borrowed,
            waiting: line.waiting,
            refused: line.refused,
        };
        let pause = blocked_until.map(|until| until.saturating_duration_since(Instant::now()));
        Some(ApiQuota {
            requests: *requests,
            per_ms: milliseconds(*per),
            used: *used,
            left: status.left(),
            waiting: *waiting,
            blocked_until: pause.and_then(|pause| Time::new(wall_clock().checked_add(pause)?)),
            granted: counts.granted,
            borrowed: counts.borrowed,
            refused: counts.refused,
            lines: lines.iter().map(line).collect(),
        })
    }
}
