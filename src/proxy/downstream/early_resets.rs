//! The HTTP/2 streams of a connection that the client reset soon, before their responses.
//!
//! Such a stream costs its client two small frames and bearerd a request to an upstream, so that the limit of concurrent
//! streams is none for a client that resets each stream at once ("rapid reset", CVE-2023-44487). A client that cancels
//! some of its requests, or all at once, stays below the bound: each answered request offsets one reset.

use std::cell::Cell;
use std::time::Duration;

use tokio::time::Instant;

/// A stream that lives longer than this before its reset is no early one: the limit of concurrent streams bounds those.
const EARLY: Duration = Duration::from_secs(1);
/// The time in which early resets are counted together.
const WINDOW: Duration = Duration::from_secs(10);
/// The bound on early resets in a window, less the requests that were answered. A client may also reset twice as many
/// streams as it may have at once.
const MOST: u32 = 200;

/// The early resets of a connection.
#[derive(Debug)]
pub(super) struct EarlyResets {
    count: Cell<u32>,
    since: Cell<Instant>,
    most: Cell<u32>,
}

impl EarlyResets {
    pub(super) const fn new(now: Instant) -> Self {
        Self { count: Cell::new(0), since: Cell::new(now), most: Cell::new(MOST) }
    }

    /// The client may have this number of concurrent streams.
    pub(super) fn set_streams(&self, streams: u32) {
        self.most.set(MOST.max(streams.saturating_mul(2)));
    }

    /// A request was answered.
    pub(super) fn answered(&self) {
        self.count.set(self.count.get().saturating_sub(1));
    }

    /// A stream that began at that time was reset before its response; returns whether there were too many.
    pub(super) fn is_one_too_many(&self, began: Instant, now: Instant) -> bool {
        if now.duration_since(began) >= EARLY {
            return false;
        }
        if now.duration_since(self.since.get()) >= WINDOW {
            self.since.set(now);
            self.count.set(0);
        }
        self.count.set(self.count.get() + 1);
        self.count.get() > self.most.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_first_early_reset_above_the_bound_is_one_too_many() {
        let now = Instant::now();
        let resets = EarlyResets::new(now);
        assert!((0..MOST).all(|_| !resets.is_one_too_many(now, now)));
        assert!(resets.is_one_too_many(now, now));

        let resets = EarlyResets::new(now);
        resets.set_streams(1000);
        assert!((0..2000).all(|_| !resets.is_one_too_many(now, now)));
        assert!(resets.is_one_too_many(now, now));
    }

    #[test]
    fn answered_requests_offset_early_resets_and_late_ones_do_not_count() {
        let now = Instant::now();
        let resets = EarlyResets::new(now);
        for _ in 0..10 * MOST {
            resets.answered();
            assert!(!resets.is_one_too_many(now, now));
            assert!(!resets.is_one_too_many(now, now + EARLY));
        }
    }

    #[test]
    fn fewer_early_resets_than_the_bound_may_come_in_each_window() {
        let begin = Instant::now();
        let resets = EarlyResets::new(begin);
        for second in 0..100 {
            let now = begin + second * SECOND;
            assert!((0..MOST / 10).all(|_| !resets.is_one_too_many(now, now)), "{second}");
        }
    }
}
