//! Counted places, for what there may only be so much of at once: connections, requests that wait.
//!
//! A place is given back by being dropped, wherever that happens. Counting takes no lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// So many places.
#[derive(Debug)]
pub struct Seats {
    limit: AtomicUsize,
    taken: AtomicUsize,
}

/// One of them; given back when dropped.
#[derive(Debug)]
pub struct Seat(Arc<Seats>);

impl Seats {
    /// At most `limit` at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit: AtomicUsize::new(limit), taken: AtomicUsize::new(0) })
    }

    /// A place, if there is one.
    pub fn take(self: &Arc<Self>) -> Option<Seat> {
        // Counted before it is looked at: two that come at once cannot both have the last one.
        let seat = Seat(Arc::clone(self));
        let before = self.taken.fetch_add(1, Ordering::Relaxed);
        (before < self.limit()).then_some(seat)
    }

    /// So many from now on. Those that are taken beyond it are given back in their time.
    pub fn resize(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Whether no more than a quarter of them is left: time to keep no place that is not needed.
    pub fn are_scarce(&self) -> bool {
        let limit = self.limit();
        self.taken() >= limit - limit / 4
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_places_and_one_that_is_given_back_is_there_again() {
        let seats = Seats::new(2);
        let (first, second) = (seats.take(), seats.take());
        assert!(first.is_some() && second.is_some());

        assert!(seats.take().is_none() && seats.take().is_none());
        assert_eq!(seats.taken(), 2);

        drop(first);
        assert!(seats.take().is_some());
        assert_eq!(seats.taken(), 1);
    }

    #[test]
    fn however_many_want_a_place_at_once_none_is_lost() {
        let seats = Seats::new(4);

        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..1000).for_each(|_| drop(seats.take())));
            }
        });

        assert_eq!(seats.taken(), 0);
        assert_eq!((0..8).map(|_| seats.take()).collect::<Vec<_>>().iter().flatten().count(), 4);
    }

    #[test]
    fn fewer_places_than_are_taken_leave_none_until_enough_are_given_back() {
        let seats = Seats::new(4);
        let mut held: Vec<_> = (0..4).filter_map(|_| seats.take()).collect();

        seats.resize(2);
        for left in [3, 2] {
            held.pop();
            assert!(seats.take().is_none(), "{left} are taken");
        }
        held.pop();
        assert!(seats.take().is_some());
    }

    #[test]
    fn places_are_scarce_when_a_quarter_is_left() {
        let seats = Seats::new(8);
        let mut held: Vec<_> = (0..5).map(|_| seats.take()).collect();
        assert!(!seats.are_scarce());
        held.push(seats.take());
        assert!(seats.are_scarce());
        drop(held);
        assert!(!seats.are_scarce());
    }
}
