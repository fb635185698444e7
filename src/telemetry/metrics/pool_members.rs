//! The counts of requests that went out with the tokens of a pool's credentials, for each member and worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::histogram::add;

/// The names of a pool and of one of its credentials.
type Names = (String, String);

/// The counts of all members; a reload keeps those whose names it keeps.
#[derive(Debug, Default)]
pub(super) struct AllMembers(Mutex<BTreeMap<Names, Arc<MemberTraffic>>>);

/// The counts of one member.
#[derive(Debug)]
pub struct MemberTraffic {
    workers: Box<[Count]>,
}

/// The count of one worker, in a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Count(AtomicU64);

/// The access of one worker to the counts of one member.
#[derive(Debug)]
pub struct MemberMeter {
    member: Arc<MemberTraffic>,
    worker: usize,
}

impl AllMembers {
    /// The counts of this credential of this pool, which begin with the first call.
    pub(super) fn of(&self, pool: &str, credential: &str, workers: usize) -> Arc<MemberTraffic> {
        let mut members = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = || Arc::new(MemberTraffic { workers: (0..workers).map(|_| Count::default()).collect() });
        Arc::clone(members.entry((pool.to_owned(), credential.to_owned())).or_insert_with(begin))
    }

    /// Forgets the counts of all members but these.
    pub(super) fn keep_only(&self, names: &BTreeSet<Names>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| names.contains(name));
    }
}

impl MemberTraffic {
    /// The requests so far.
    pub fn requests(&self) -> u64 {
        self.workers.iter().map(|count| count.0.load(Ordering::Relaxed)).sum()
    }
}

impl MemberMeter {
    /// The access of this worker. Used on the worker's thread only.
    pub(super) const fn new(member: Arc<MemberTraffic>, worker: usize) -> Self {
        Self { member, worker }
    }

    /// Counts a request that went out.
    pub fn sent(&self) {
        add(&self.member.workers[self.worker].0, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_keeps_its_counts_as_long_as_its_name() {
        let all = AllMembers::default();
        let [kept, gone] = ["a", "b"].map(|credential| all.of("p", credential, 2));
        for worker in [0, 1, 1] {
            MemberMeter::new(all.of("p", "a", 2), worker).sent();
        }
        MemberMeter::new(all.of("q", "a", 2), 0).sent();

        all.keep_only(&[("p".to_owned(), "a".to_owned())].into());

        assert_eq!((kept.requests(), gone.requests()), (3, 0));
        assert!(Arc::ptr_eq(&kept, &all.of("p", "a", 2)));
        assert!(!Arc::ptr_eq(&gone, &all.of("p", "b", 2)));
        assert_eq!(all.of("q", "a", 2).requests(), 0);
    }
}
