//! Permits that one worker takes for one line without asking the ledger.
//!
//! The worker takes permits; the ledger closes the batch and learns how many were taken. Both happen by one atomic
//! operation on a cache line that no other worker uses.

use std::sync::atomic::{AtomicU32, Ordering};

/// Marks a closed batch. The bits below count the permits that were taken.
const CLOSED: u32 = 1 << 31;
/// The most permits of a batch. Attempts to take more are far fewer than what is left below [`CLOSED`].
pub const MAX_BATCH: u32 = 1024;

/// Permits for one line on one worker.
#[derive(Debug)]
pub struct Batch {
    size: u32,
    taken: AtomicU32,
}

impl Batch {
    /// A batch of `size` permits, the first of which is taken. `size` is at most [`MAX_BATCH`].
    pub fn with_one_taken(size: u32) -> Self {
        Self { size: size.min(MAX_BATCH), taken: AtomicU32::new(1) }
    }

    /// Takes a permit; `false` if none is left or the batch is closed. The worker discards the batch then.
    pub fn take(&self) -> bool {
        self.taken.fetch_add(1, Ordering::AcqRel) < self.size
    }

    /// Gives back a permit whose request was not sent. Nothing happens if the batch is closed: the permit counts as used.
    pub fn give_back(&self) {
        let less = |taken: u32| (taken > 0 && taken & CLOSED == 0).then(|| taken - 1);
        let _ = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    /// Whether the batch is closed.
    pub fn is_closed(&self) -> bool {
        self.taken.load(Ordering::Acquire) & CLOSED != 0
    }

    /// How many permits the batch had at first.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Closes the batch. Returns how many permits were taken.
    pub fn close(&self) -> u32 {
        let taken = self.taken.fetch_or(CLOSED, Ordering::AcqRel);
        (taken & !CLOSED).min(self.size)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_batch_gives_as_many_permits_as_it_has_and_none_once_it_is_closed() {
        let batch = Batch::with_one_taken(3);
        assert_eq!([batch.take(), batch.take(), batch.take()], [true, true, false]);
        assert_eq!(batch.close(), 3);

        let batch = Batch::with_one_taken(3);
        assert!(batch.take());
        batch.give_back();
        assert_eq!(batch.close(), 1);
        batch.give_back();
        assert_eq!(batch.close(), 1, "a permit that comes back late counts as used");
        assert!(!batch.take() && batch.is_closed());
    }

    #[test]
    fn a_permit_is_counted_or_refused_when_the_batch_closes_meanwhile() {
        for _ in 0..100 {
            let batch = Arc::new(Batch::with_one_taken(MAX_BATCH));
            let worker = Arc::clone(&batch);
            let taking = std::thread::spawn(move || (0..500).filter(|_| worker.take()).count());
            std::thread::yield_now();
            let counted = batch.close();
            let taken = u32::try_from(taking.join().unwrap()).unwrap();
            assert_eq!(counted, taken + 1);
        }
    }
}
