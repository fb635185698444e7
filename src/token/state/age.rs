//! How long ago a state was written, though the machine may have restarted and its clock been set.
//!
//! A write is stamped with both clocks. Within one boot the time since boot is exact, whatever happens to the wall
//! clock; after another only that is left, and it may have been set. Where they disagree a token is aged by the longer
//! time and a gate by the shorter; a token whose age nobody knows is not used. What no file can find out: after another
//! boot, a wall clock that was set back by less than the time that has passed makes a token look younger than it is.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::clock::{Clock, Moment};

/// A moment on both clocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// Which boot of the machine, if it says.
    pub(super) boot: Option<String>,
    /// Nanoseconds since then.
    pub(super) moment: u64,
    /// Nanoseconds since 1970.
    pub(super) wall: u64,
}

/// How long ago something was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Elapsed {
    /// At the least.
    pub(super) shortest: Duration,
    /// At the most, if anyone knows.
    pub(super) longest: Option<Duration>,
}

impl Stamp {
    /// The moment it is.
    pub(super) fn now(clock: Clock) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        let wall = clock.wall().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { boot: boot.map(|id| id.trim().to_owned()), moment: clock.now().as_nanos(), wall: nanos(wall) }
    }

    /// The moment it is on the clock that tokens live by.
    pub(super) const fn moment(&self) -> Moment {
        Moment::from_nanos(self.moment)
    }

    /// How long before this one `earlier` was.
    pub(super) fn since(&self, earlier: &Self) -> Elapsed {
        let is_same_boot = self.boot.is_some() && self.boot == earlier.boot;
        let by_boot = self.moment.checked_sub(earlier.moment).filter(|_| is_same_boot);
        let by_wall = self.wall.checked_sub(earlier.wall);
        let known = [by_boot, by_wall].into_iter().flatten().map(Duration::from_nanos);
        Elapsed { shortest: known.clone().min().unwrap_or_default(), longest: known.max() }
    }
}

/// In whole nanoseconds.
pub(super) fn nanos(duration: Duration) -> u64 {
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
    fn a_boot_that_began_after_the_write_is_another_whatever_its_name() {
        let written = stamp(Some("a"), 100, 1_000);

        assert_eq!(between(&written, &stamp(Some("a"), 50, 1_030)), (30, Some(30)));
    }

    #[test]
    fn this_machine_knows_its_boot() {
        let clock = Clock::system();
        let (earlier, later) = (Stamp::now(clock), Stamp::now(clock));

        assert!(earlier.boot.is_some());
        assert!(later.since(&earlier).longest.is_some_and(|longest| longest < Duration::from_secs(5)));
    }
}
