//! The counts of requests, for each configured caller and worker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::histogram::add;

/// The label of callers without a configured name.
pub const OTHER_CALLER: &str = "_other";

/// How many statuses a page has.
const PAGE: usize = 100;
/// The pages: statuses have three digits, and 0 is no response.
const PAGES: usize = 10;

/// The counts of all callers; a reload keeps those whose names it keeps.
#[derive(Debug, Default)]
pub(super) struct AllCallers {
    by_name: Mutex<BTreeMap<Arc<str>, Arc<CallerTraffic>>>,
    /// Those of [`OTHER_CALLER`], once callers are configured.
    other: OnceLock<Arc<CallerTraffic>>,
}

/// The counts of the caller of one name.
#[derive(Debug)]
pub struct CallerTraffic {
    workers: Box<[Requests]>,
}

/// The access of one worker to the counts of one caller.
#[derive(Debug)]
pub struct CallerMeter {
    caller: Arc<CallerTraffic>,
    worker: usize,
}

/// The requests that one worker has counted, by status. A page of memory is taken with the first request that needs it.
#[derive(Debug, Default)]
struct Requests {
    pages: [OnceLock<Box<[AtomicU64; PAGE]>>; PAGES],
    refused: AtomicU64,
}

impl AllCallers {
    /// The counts of the caller of this name, which begin with the first call.
    pub(super) fn of(&self, name: &str, workers: usize) -> Arc<CallerTraffic> {
        let begin =
            || Arc::new(CallerTraffic { workers: (0..workers).map(|_| Requests::default()).collect() });
        if name == OTHER_CALLER {
            return Arc::clone(self.other.get_or_init(begin));
        }
        let mut callers = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(callers.entry(Arc::from(name)).or_insert_with(begin))
    }

    /// Counts a request of nobody known that this worker has refused, if callers are configured.
    pub(super) fn refused_unknown(&self, status: u16, worker: usize) {
        if let Some(other) = self.other.get() {
            CallerMeter::new(Arc::clone(other), worker).answered(status, true);
        }
    }

    /// Forgets the counts of all callers but these, and those without a name.
    pub(super) fn keep_only(&self, names: &[String]) {
        let mut callers = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        callers.retain(|name, _| names.iter().any(|kept| **kept == **name));
    }
}

impl CallerTraffic {
    /// The requests so far, by status; 0 is no response.
    pub fn requests(&self) -> BTreeMap<u16, u64> {
        let mut sums = BTreeMap::new();
        let pages = self.workers.iter().flat_map(|worker| worker.pages.iter().enumerate());
        for (at, page) in pages.filter_map(|(at, page)| Some((at, page.get()?))) {
            for (status, count) in (at * PAGE..).zip(page.iter()) {
                let count = count.load(Ordering::Relaxed);
                if let (Ok(status), 1..) = (u16::try_from(status), count) {
                    *sums.entry(status).or_default() += count;
                }
            }
        }
        sums
    }

    /// The requests that bearerd refused.
    pub fn refused(&self) -> u64 {
        self.workers.iter().map(|worker| worker.refused.load(Ordering::Relaxed)).sum()
    }
}

impl CallerMeter {
    /// The access of this worker. Used on the worker's thread only.
    pub(super) const fn new(caller: Arc<CallerTraffic>, worker: usize) -> Self {
        Self { caller, worker }
    }

    /// Counts a request that has ended, with this status; 0 is no response.
    pub fn answered(&self, status: u16, is_refused: bool) {
        let Requests { pages, refused } = &self.caller.workers[self.worker];
        let status = usize::from(status);
        if let Some(page) = pages.get(status / PAGE) {
            let page = page.get_or_init(|| Box::new([const { AtomicU64::new(0) }; PAGE]));
            add(&page[status % PAGE], 1);
        }
        if is_refused {
            add(refused, 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scrape_adds_up_what_the_workers_counted_by_status() {
        let callers = AllCallers::default();
        let billing = callers.of("billing", 2);
        let [one, two] = [0, 1].map(|worker| CallerMeter::new(callers.of("billing", 2), worker));
        one.answered(200, false);
        two.answered(200, false);
        two.answered(403, true);
        two.answered(0, false);
        two.answered(999, false);

        assert_eq!(billing.requests(), [(0, 1), (200, 2), (403, 1), (999, 1)].into());
        assert_eq!(billing.refused(), 1);
        assert!(callers.of("crm", 2).requests().is_empty());
    }

    #[test]
    fn a_caller_keeps_its_counts_as_long_as_its_name() {
        let callers = AllCallers::default();
        let [billing, other] = ["billing", OTHER_CALLER].map(|name| callers.of(name, 1));
        let gone = callers.of("crm", 1);

        callers.keep_only(&["billing".to_owned()]);

        assert!(Arc::ptr_eq(&billing, &callers.of("billing", 1)));
        assert!(Arc::ptr_eq(&other, &callers.of(OTHER_CALLER, 1)));
        assert!(!Arc::ptr_eq(&gone, &callers.of("crm", 1)));
    }
}
