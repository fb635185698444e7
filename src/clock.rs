//! The clock a token's age is measured on.
//!
//! Tokens expire while a machine sleeps, so their ends are points on `CLOCK_BOOTTIME`, which goes on in
//! suspend, and not on `CLOCK_MONOTONIC`, which stops. Everything that decides whether a token may be used
//! takes a [`Clock`]; only tests hand out one that follows tokio's paused time instead.

use std::ops::Add;
#[cfg(test)]
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// A point in time: nanoseconds since the machine booted, suspend included.
///
/// Arithmetic saturates, so an absurd lifetime is the far future and never a panic.
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

    /// Time from `earlier` to this moment; zero if it has not come yet.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from this moment to `later`; zero if that is past.
    pub const fn until(self, later: Self) -> Duration {
        later.since(self)
    }

    /// This moment less `duration`, at the earliest the boot itself.
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

/// Where [`Moment`]s come from.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Source);

#[derive(Clone, Copy, Debug)]
enum Source {
    Boot,
    Tokio {
        origin: tokio::time::Instant,
    },
    #[cfg(test)]
    Suspendable {
        origin: tokio::time::Instant,
        suspended: &'static AtomicU64,
    },
}

impl Clock {
    /// The machine's clock, counting from boot and on through suspend.
    pub const fn system() -> Self {
        Self(Source::Boot)
    }

    /// A clock that follows tokio's time, and so stands still where a test has paused that.
    pub fn tokio() -> Self {
        Self(Source::Tokio { origin: tokio::time::Instant::now() })
    }

    /// A clock like [`Clock::tokio`], and how many nanoseconds it has gone on while tokio's timers stood still.
    #[cfg(test)]
    pub fn suspendable() -> (Self, &'static AtomicU64) {
        let suspended = Box::leak(Box::default());
        (Self(Source::Suspendable { origin: tokio::time::Instant::now(), suspended }), suspended)
    }

    /// The moment it is.
    pub fn now(self) -> Moment {
        match self.0 {
            Source::Boot => {
                let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
                let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
                Moment(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
            }
            // A second in, so that "an hour ago" and "never" differ in tests too.
            Source::Tokio { origin } => Moment(1_000_000_000) + origin.elapsed(),
            #[cfg(test)]
            Source::Suspendable { origin, suspended } => {
                Moment(1_000_000_000 + suspended.load(Ordering::Relaxed)) + origin.elapsed()
            }
        }
    }
}

impl Clock {
    /// The wall clock beside it.
    pub fn wall(self) -> SystemTime {
        match self.0 {
            Source::Boot | Source::Tokio { .. } => wall_clock(),
            // Goes on with it, in suspend and across what a test takes for a restart.
            #[cfg(test)]
            Source::Suspendable { .. } => {
                SystemTime::UNIX_EPOCH + Duration::from_hours(500_000) + Moment::default().until(self.now())
            }
        }
    }
}

/// The wall clock, for dates that leave the process: never for how long something may live.
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
