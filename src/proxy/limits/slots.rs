//! An atomic counter with a bound, for what all workers share: connections, descriptors, waiting requests, bytes.
//!
//! A [`Reservation`] gives its slots back when it is dropped, on whichever thread. Counting takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A bounded number of slots.
#[derive(Debug)]
pub struct Slots {
    limit: AtomicUsize,
    taken: AtomicUsize,
}

/// Slots that are taken; given back when dropped.
#[derive(Debug)]
pub struct Reservation {
    slots: Arc<Slots>,
    count: usize,
}

impl Slots {
    /// At most `limit` slots at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), taken: AtomicUsize::new(0) })
    }

    /// So many slots, if as many are free.
    pub fn take(self: &Arc<Self>, count: usize) -> Option<Reservation> {
        let mut reservation = self.reservation();
        reservation.grow_to(count).then_some(reservation)
    }

    /// A reservation of no slot so far.
    pub fn reservation(self: &Arc<Self>) -> Reservation {
        Reservation { slots: Arc::clone(self), count: 0 }
    }

    /// Changes the limit. Slots taken beyond a lower one stay taken until they are given back.
    pub fn resize(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// How many slots are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether at most a quarter of the slots is free.
    pub fn are_scarce(&self) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.taken() >= limit - limit / 4
    }
}

impl Reservation {
    /// Takes more slots until there are `count`; takes none, and returns `false`, where too few are free.
    pub fn grow_to(&mut self, count: usize) -> bool {
        let more = count.saturating_sub(self.count);
        let limit = self.slots.limit.load(Ordering::Relaxed);
        let room = |taken: usize| taken.checked_add(more).filter(|taken| *taken <= limit);
        let is_taken = self.slots.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room).is_ok();
        if is_taken {
            self.count += more;
        }
        is_taken
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.slots.taken.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_slots_are_taken_than_there_are_and_a_dropped_one_is_free_again() {
        let slots = Slots::new(2);
        let (first, second) = (slots.take(1), slots.take(1));
        assert!(first.is_some() && second.is_some());

        assert!(slots.take(1).is_none() && slots.take(1).is_none());
        assert_eq!(slots.taken(), 2);

        drop(first);
        assert!(slots.take(2).is_none() && slots.take(1).is_some());
        assert_eq!(slots.taken(), 1);
    }

    #[test]
    fn a_reservation_grows_only_by_what_is_free() {
        let slots = Slots::new(5);
        let mut reservation = slots.reservation();
        assert_eq!(slots.taken(), 0);

        assert!(reservation.grow_to(3) && reservation.grow_to(2));
        assert_eq!(slots.taken(), 3);
        assert!(!reservation.grow_to(6) && !reservation.grow_to(usize::MAX));
        assert!(reservation.grow_to(5) && slots.take(1).is_none());

        drop(reservation);
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn slots_taken_on_many_threads_at_once_all_come_back() {
        let slots = Slots::new(4);

        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        let taken = slots.take(1);
                        assert!(slots.taken() <= 4);
                        drop(taken);
                    }
                });
            }
        });

        assert_eq!(slots.taken(), 0);
        assert_eq!((0..8).map(|_| slots.take(1)).collect::<Vec<_>>().iter().flatten().count(), 4);
    }

    #[test]
    fn after_the_limit_was_lowered_no_slot_is_free_until_enough_come_back() {
        let slots = Slots::new(4);
        let mut held: Vec<_> = (0..4).filter_map(|_| slots.take(1)).collect();

        slots.resize(2);
        for left in [3, 2] {
            held.pop();
            assert!(slots.take(1).is_none(), "{left} are taken");
        }
        held.pop();
        assert!(slots.take(1).is_some());
    }

    #[test]
    fn slots_are_scarce_when_a_quarter_is_free() {
        let slots = Slots::new(8);
        let mut held: Vec<_> = (0..5).map(|_| slots.take(1)).collect();
        assert!(!slots.are_scarce());
        held.push(slots.take(1));
        assert!(slots.are_scarce());
        drop(held);
        assert!(!slots.are_scarce());
    }
}
