//! The clock that measures the age of tokens.
//!
//! Tokens expire while a machine is suspended, so an expiry is a point on `CLOCK_BOOTTIME`, which counts suspend, and
//! not on `CLOCK_MONOTONIC`, which stops. Code that decides whether a token is usable takes a [`Clock`]; tests pass
//! one that follows tokio's paused time.

use std::ops::Add;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A point in time, in nanoseconds since boot, suspend included.
///
/// Arithmetic saturates: an absurd lifetime ends in the far future and never panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

impl Moment {
    /// The moment `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// The time from `earlier` to this moment; zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The time from this moment to `later`; zero if `later` has passed.
    pub const fn until(self, later: Self) -> Duration {
        later.since(self)
    }

    /// The moment `duration` earlier, but not before boot.
    #[must_use]
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(nanos(duration)))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(nanos(duration)))
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A source of [`Moment`]s.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Boot,
    #[cfg(test)]
    Tokio {
        origin: tokio::time::Instant,
        /// Nanoseconds of suspend, in which tokio's timers stood still.
        suspended: Option<&'static AtomicU64>,
    },
}

impl Clock {
    /// The system's clock: the time since boot, suspend included.
    pub const fn system() -> Self {
        Self(Source::Boot)
    }

    /// A clock that follows tokio's time, and stands still while a test pauses it.
    #[cfg(test)]
    pub fn tokio() -> Self {
        Self(Source::Tokio { origin: tokio::time::Instant::now(), suspended: None })
    }

    /// A clock like [`Clock::tokio`], with the nanoseconds by which it is ahead of tokio's timers.
    #[cfg(test)]
    pub fn suspendable() -> (Self, &'static AtomicU64) {
        let suspended: &'static AtomicU64 = Box::leak(Box::default());
        (Self(Source::Tokio { origin: tokio::time::Instant::now(), suspended: Some(suspended) }), suspended)
    }

    /// The current moment.
    pub fn now(self) -> Moment {
        match self.0 {
            Source::Boot => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
                Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
            }
            // Begins at one second, so that "never" and "just now" differ in tests too.
            #[cfg(test)]
            Source::Tokio { origin, suspended } => {
                let suspended = suspended.map_or(0, |nanos| nanos.load(Ordering::Relaxed));
                Moment(1_000_000_000 + suspended) + origin.elapsed()
            }
        }
    }

    /// The wall-clock time that belongs to this clock.
    pub fn wall(self) -> SystemTime {
        match self.0 {
            // Advances with the clock, also in suspend and across a simulated restart.
            #[cfg(test)]
            Source::Tokio { suspended: Some(_), .. } => {
                SystemTime::UNIX_EPOCH + Duration::from_hours(500_000) + Moment::default().until(self.now())
            }
            _ => wall_clock(),
        }
    }
}

/// Converts moments to times of the wall clock, as of one moment.
#[derive(Clone, Copy, Debug)]
pub struct WallTimes {
    now: Moment,
    wall: SystemTime,
}

impl WallTimes {
    /// The times as of now.
    pub fn now(clock: Clock) -> Self {
        Self { now: clock.now(), wall: clock.wall() }
    }

    /// The moment as of which the times are.
    pub const fn moment(self) -> Moment {
        self.now
    }

    /// The time of that moment.
    pub const fn wall(self) -> SystemTime {
        self.wall
    }

    /// The time of a moment, past or coming.
    pub fn at(self, moment: Moment) -> SystemTime {
        let later = self.wall.checked_add(self.now.until(moment)).unwrap_or(self.wall);
        later.checked_sub(self.now.since(moment)).unwrap_or(self.wall)
    }
}

/// The wall-clock time, for dates that leave the process; never for how long something lives.
pub fn wall_clock() -> SystemTime {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_an_absurd_lifetime_is_the_far_future() {
        let now = Clock::system().now();

        assert_eq!(now + Duration::MAX, Moment::from_nanos(u64::MAX));
        assert_eq!(Moment::default().before(Duration::MAX), Moment::default());
    }

    #[test]
    fn a_moment_that_has_passed_is_zero_away() {
        let early = Moment::from_nanos(5);
        let late = Moment::from_nanos(9);

        assert_eq!(late.until(early), Duration::ZERO);
        assert_eq!(early.until(late), Duration::from_nanos(4));
        assert_eq!(late.since(early), Duration::from_nanos(4));
    }

    #[test]
    fn the_system_clock_moves_forward() {
        let clock = Clock::system();
        let before = clock.now();

        assert!(clock.now() >= before);
        assert!(before > Moment::default());
    }
}
