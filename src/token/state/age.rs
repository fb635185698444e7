//! The age of a state, even if the machine has restarted or its clock was set since the write.
//!
//! A write is stamped with two clocks: the time since boot and the wall clock. Within one boot the time since boot is exact;
//! after another boot only the wall clock remains, which may have been set. Where the clocks disagree, the longer time counts
//! for the age of a token and the shorter one for the end of a barrier; a token of unknown age is not used. One error cannot
//! be detected: after another boot, a wall clock that was set back by less than the time that has passed makes a token look
//! younger than it is.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Moment};

/// One moment on both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::token) struct Stamp {
    /// The id of the machine's boot, if the system provides one.
    pub(in crate::token) boot: Option<String>,
    /// Nanoseconds since that boot.
    pub(in crate::token) moment: u64,
    /// Nanoseconds since 1970.
    pub(in crate::token) wall: u64,
}

/// The time between two stamps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::token) struct Elapsed {
    /// The shortest possible time.
    pub(in crate::token) shortest: Duration,
    /// The longest possible time; `None` if unknown.
    pub(in crate::token) longest: Option<Duration>,
}

impl Stamp {
    /// The present moment.
    pub(in crate::token) fn now(clock: Clock) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let wall = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { boot: boot.map(|id| id.trim().to_owned()), moment: clock.now().as_nanos(), wall: nanos(wall) }
    }

    /// The moment on the clock of the time since boot, which tokens and barriers use.
    pub(in crate::token) const fn moment(&self) -> Moment {
        Moment::from_nanos(self.moment)
    }

    /// The time from `earlier` to this stamp.
    pub(in crate::token) fn since(&self, earlier: &Self) -> Elapsed {
        let is_same_boot = self.boot.is_some() && self.boot == earlier.boot;
        let by_boot = self.moment.checked_sub(earlier.moment).filter(|_| is_same_boot);
        let by_wall = self.wall.checked_sub(earlier.wall);
        let known = [by_boot, by_wall].into_iter().flatten().map(Duration::from_nanos);
        Elapsed { shortest: known.clone().min().unwrap_or_default(), longest: known.max() }
    }
}

/// A duration in nanoseconds, at most `u64::MAX`.
pub(in crate::token) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn stamp(boot: Option<&str>, moment: u64, wall: u64) -> Stamp {
        Stamp { boot: boot.map(str::to_owned), moment: moment * SECOND, wall: wall * SECOND }
    }

    fn between(earlier: &Stamp, later: &Stamp) -> (u64, Option<u64>) {
        let elapsed = later.since(earlier);
        (elapsed.shortest.as_secs(), elapsed.longest.map(|longest| longest.as_secs()))
    }

    #[test]
    fn within_one_boot_both_clocks_count() {
        let written = stamp(Some("a"), 100, 1_000);

        assert_eq!(between(&written, &stamp(Some("a"), 130, 1_030)), (30, Some(30)));
        // The wall clock was set forward, set back a little, and set back behind the write.
        assert_eq!(between(&written, &stamp(Some("a"), 130, 9_000)), (30, Some(8_000)));
        assert_eq!(between(&written, &stamp(Some("a"), 130, 1_010)), (10, Some(30)));
        assert_eq!(between(&written, &stamp(Some("a"), 130, 5)), (30, Some(30)));
    }

    #[test]
    fn after_another_boot_only_the_wall_clock_counts() {
        let written = stamp(Some("a"), 100, 1_000);

        assert_eq!(between(&written, &stamp(Some("b"), 400, 1_030)), (30, Some(30)));
        assert_eq!(between(&stamp(None, 100, 1_000), &stamp(None, 400, 1_030)), (30, Some(30)));
        assert_eq!(between(&written, &stamp(Some("b"), 400, 999)), (0, None));
    }

    #[test]
    fn a_boot_that_began_after_the_write_is_another_one_whatever_its_id() {
        let written = stamp(Some("a"), 100, 1_000);

        assert_eq!(between(&written, &stamp(Some("a"), 50, 1_030)), (30, Some(30)));
    }

    #[test]
    fn this_machine_provides_a_boot_id() {
        let clock = Clock::system();
        let (earlier, later) = (Stamp::now(clock), Stamp::now(clock));

        assert!(earlier.boot.is_some());
        assert!(later.since(&earlier).longest.is_some_and(|longest| longest < Duration::from_secs(5)));
    }
}
