//! Limits repeated log entries: a condition is logged once for each change, and a recurring event once in an
//! interval.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// The interval in which an event that recurs is logged once.
const INTERVAL: Duration = Duration::from_secs(10);

/// A condition that is logged only when it changes. The default value means that all is well.
#[derive(Debug, Default)]
pub struct OnChange<T>(T);

impl<T: Default + PartialEq> OnChange<T> {
    /// The condition as found last.
    pub const fn current(&self) -> &T {
        &self.0
    }

    /// Takes the condition as found now. Returns whether it differs from the last one.
    pub fn changes_to(&mut self, now: T) -> bool {
        let is_changed = now != self.0;
        self.0 = now;
        is_changed
    }

    /// Takes the condition as found now. Returns whether it differs from the last one and is not the default.
    pub fn begins(&mut self, now: T) -> bool {
        self.changes_to(now) && self.0 != T::default()
    }
}

/// An event that recurs: it is logged when it first happens, and later at most once in ten seconds with its count.
#[derive(Debug, Default)]
pub struct Throttle {
    unlogged: Cell<u64>,
    logged: Cell<Option<Instant>>,
}

impl Throttle {
    /// Counts the event. Returns how often it has happened since it was last logged if it is to be logged now.
    pub fn happened(&self) -> Option<u64> {
        let count = self.unlogged.get() + 1;
        let now = Instant::now();
        if self.logged.get().is_some_and(|logged| now.duration_since(logged) < INTERVAL) {
            self.unlogged.set(count);
            return None;
        }
        self.logged.set(Some(now));
        self.unlogged.set(0);
        Some(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_news_when_it_begins_changes_or_ends() {
        let (mut both, mut beginnings) = (OnChange::default(), OnChange::default());
        let found = [vec![], vec!["a"], vec!["a"], vec!["b"], vec![], vec!["b"]];

        let changes = found.clone().map(|now| both.changes_to(now));
        let begins = found.map(|now| beginnings.begins(now));

        assert_eq!(changes, [false, true, false, true, true, true]);
        assert_eq!(begins, [false, true, false, true, false, true]);
        assert_eq!(both.current(), &["b"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_recurring_event_is_logged_at_once_and_then_once_an_interval_with_its_count() {
        let recurring = Throttle::default();

        assert_eq!(recurring.happened(), Some(1));
        assert_eq!((recurring.happened(), recurring.happened()), (None, None));
        tokio::time::advance(INTERVAL).await;
        assert_eq!(recurring.happened(), Some(3));
        assert_eq!(recurring.happened(), None);
    }
}
