//! The metrics of what APIs allow the tokens of credentials.

use std::sync::Arc;
use std::time::SystemTime;

use super::family::{as_f64, counters, gauges, labels, seconds};
use crate::proxy::quota::budget::Budget;
use crate::proxy::quota::ledger::Status;
use crate::telemetry::metrics::exposition::{Family, Labels};

/// The metrics of all budgets; histograms count since `started`.
pub(super) fn families(budgets: &[Budget], started: SystemTime) -> Vec<Family> {
    let all: Vec<(Labels, &Budget, Arc<Status>)> = budgets
        .iter()
        .map(|budget| (labels([("credential", budget.name())]), budget, budget.status()))
        .collect();
    let of_each = |value: &dyn Fn(&Status) -> f64| -> Vec<(Labels, f64)> {
        all.iter().map(|(labels, _, status)| (labels.clone(), value(status))).collect()
    };
    let waits = all.iter().map(|(labels, budget, _)| (labels.clone(), budget.waits()));
    vec![
        gauges(
            "bearerd_api_quota_limit",
            "The most requests that may go out to the API in an interval.",
            of_each(&|status| as_f64(i64::from(status.requests))),
        ),
        gauges(
            "bearerd_api_quota_left",
            "The requests that may still go out to the API now.",
            of_each(&|status| as_f64(u64::from(status.requests).saturating_sub(status.used))),
        ),
        gauges(
            "bearerd_api_quota_waiting",
            "Requests that wait for their turn.",
            of_each(&|status| as_f64(status.waiting)),
        ),
        seconds(
            started,
            "bearerd_api_quota_wait",
            "How long requests waited that did not get their turn at once.",
            waits.collect(),
        ),
        counters(
            "bearerd_api_quota_requests",
            "Requests that went out to the API.",
            of_each(&|status| as_f64(status.counts.granted)),
        ),
        counters(
            "bearerd_api_quota_borrowed",
            "Requests that went out beyond the share of their caller.",
            of_each(&|status| as_f64(status.counts.borrowed)),
        ),
        counters(
            "bearerd_api_quota_refused",
            "Requests that were refused, because their turn came too late.",
            of_each(&|status| as_f64(status.counts.refused)),
        ),
    ]
}
