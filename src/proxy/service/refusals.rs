//! Counts the requests that a worker refuses, by caller and code. Each sweep hands the counts over to those who report them.

use std::cell::RefCell;
use std::collections::HashMap;

use super::exchange::Exchange;
use crate::proxy::error::ProxyError;
use crate::telemetry::refused::{Counts, Refused};

/// The most callers and codes that are told apart between two sweeps.
const MAX_CALLERS: usize = 1024;

/// The refusals since the last sweep.
#[derive(Debug)]
pub struct Refusals {
    counts: RefCell<HashMap<Refused, u64>>,
    reports: Option<Counts>,
}

impl Refusals {
    /// No refusals so far. Without `reports`, none are counted.
    pub fn new(reports: Option<Counts>) -> Self {
        Self { counts: RefCell::default(), reports }
    }

    /// Counts a refusal, unless the error is no fault of the caller, or has an event of its own.
    pub fn add(&self, exchange: &Exchange, error: &ProxyError) {
        let is_told_otherwise =
            matches!(error, ProxyError::ApiQuotaExhausted { .. } | ProxyError::CallerQuotaExhausted { .. });
        let is_callers_fault = error.status().is_client_error() && !is_told_otherwise;
        if self.reports.is_none() || !is_callers_fault {
            return;
        }
        let mut counts = self.counts.borrow_mut();
        let caller = exchange.caller_name().map(Box::from);
        let refused = Refused { address: exchange.origin(), caller, code: error.code() };
        let is_told_apart = counts.len() < MAX_CALLERS || counts.contains_key(&refused);
        let refused =
            if is_told_apart { refused } else { Refused { address: None, caller: None, ..refused } };
        *counts.entry(refused).or_default() += 1;
    }

    /// Hands the counts over. Counts for which there is no room now stay.
    pub fn hand_over(&self) {
        let Some(reports) = &self.reports else { return };
        self.counts
            .borrow_mut()
            .retain(|refused, count| reports.try_send((refused.clone(), *count)).is_err());
    }
}

impl Drop for Refusals {
    fn drop(&mut self) {
        self.hand_over();
    }
}
