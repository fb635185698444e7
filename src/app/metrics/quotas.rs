//! The metrics of what APIs allow the tokens of credentials, and of what callers may use.

use std::sync::Arc;
use std::time::SystemTime;

use super::family::{as_f64, counters, gauges, labels, seconds};
use crate::proxy::quota::budget::Budget;
use crate::proxy::quota::ledger::Status;
use crate::telemetry::metrics::exposition::{Family, Labels};

/// Budgets of one kind, each with its labels and what its task has published last.
struct Shown<'b>(Vec<(Labels, &'b Budget, Arc<Status>)>);

impl<'b> Shown<'b> {
    fn new(budgets: &'b [Budget], label: &'static str) -> Self {
        let shown = |budget: &'b Budget| (labels([(label, budget.name())]), budget, budget.status());
        Self(budgets.iter().map(shown).collect())
    }

    fn each(&self, value: impl Fn(&Status) -> f64) -> Vec<(Labels, f64)> {
        self.0.iter().map(|(labels, _, status)| (labels.clone(), value(status))).collect()
    }

    fn limit(&self) -> Vec<(Labels, f64)> {
        self.each(|status| as_f64(i64::from(status.requests)))
    }

    fn left(&self) -> Vec<(Labels, f64)> {
        self.each(|status| as_f64(status.left()))
    }

    fn waiting(&self) -> Vec<(Labels, f64)> {
        self.each(|status| as_f64(status.waiting))
    }

    fn waits(&self, name: &'static str, help: &'static str, started: SystemTime) -> Family {
        let waits = self.0.iter().map(|(labels, budget, _)| (labels.clone(), budget.waits()));
        seconds(started, name, help, waits.collect())
    }

    fn granted(&self) -> Vec<(Labels, f64)> {
        self.each(|status| as_f64(status.counts.granted))
    }

    fn refused(&self) -> Vec<(Labels, f64)> {
        self.each(|status| as_f64(status.counts.refused))
    }
}

/// The metrics of the budgets of credentials; histograms count since `started`.
pub(super) fn of_apis(budgets: &[Budget], started: SystemTime) -> Vec<Family> {
    let all = Shown::new(budgets, "credential");
    vec![
        gauges(
            "bearerd_api_quota_limit",
            "The most requests that may go out to the API in an interval.",
            all.limit(),
        ),
        gauges("bearerd_api_quota_left", "The requests that may still go out to the API now.", all.left()),
        gauges("bearerd_api_quota_waiting", "Requests that wait for their turn.", all.waiting()),
        all.waits(
            "bearerd_api_quota_wait",
            "How long requests waited that did not get their turn at once.",
            started,
        ),
        counters("bearerd_api_quota_requests", "Requests that went out to the API.", all.granted()),
        counters(
            "bearerd_api_quota_borrowed",
            "Requests that went out beyond the share of their caller.",
            all.each(|status| as_f64(status.counts.borrowed)),
        ),
        counters(
            "bearerd_api_quota_refused",
            "Requests that were refused, because their turn came too late.",
            all.refused(),
        ),
    ]
}

/// The metrics of the budgets of callers; histograms count since `started`.
pub(super) fn of_callers(budgets: &[Budget], started: SystemTime) -> Vec<Family> {
    let all = Shown::new(budgets, "caller");
    vec![
        gauges("bearerd_caller_quota_limit", "The most requests of the caller in an interval.", all.limit()),
        gauges("bearerd_caller_quota_left", "The requests that the caller may still make now.", all.left()),
        gauges(
            "bearerd_caller_quota_waiting",
            "Requests of the caller that wait for its own quota.",
            all.waiting(),
        ),
        all.waits(
            "bearerd_caller_quota_wait",
            "How long requests waited for their caller's own quota that did not get their turn at once.",
            started,
        ),
        counters(
            "bearerd_caller_quota_requests",
            "Requests that went out within their caller's own quota.",
            all.granted(),
        ),
        counters(
            "bearerd_caller_quota_refused",
            "Requests that were refused, because their caller's own quota was used up.",
            all.refused(),
        ),
    ]
}
