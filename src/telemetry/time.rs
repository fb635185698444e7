//! A time of the wall clock as operators read it.

use std::fmt;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::event::timestamp;
use crate::clock::wall_clock;

/// A time by RFC 3339, with milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Timestamp);

impl Time {
    /// A wall-clock time; `None` if RFC 3339 cannot express it.
    pub fn new(time: SystemTime) -> Option<Self> {
        Timestamp::try_from(time).ok().map(|_| Self(timestamp(time)))
    }

    /// The time now.
    pub fn now() -> Self {
        Self(timestamp(wall_clock()))
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> f64 {
        Duration::from_millis(u64::try_from(self.0.as_millisecond()).unwrap_or_default()).as_secs_f64()
    }

    /// The time from this one to a later one; zero if it is earlier.
    pub fn until(self, later: Self) -> Duration {
        Duration::try_from(later.0.duration_since(self.0)).unwrap_or_default()
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_with_milliseconds_and_read_again() {
        let time = Time::new(SystemTime::UNIX_EPOCH + Duration::from_micros(1_500_999)).unwrap();

        let text = serde_json::to_string(&time).unwrap();

        assert_eq!(text, "\"1970-01-01T00:00:01.500Z\"");
        assert_eq!(serde_json::from_str::<Time>(&text).unwrap(), time);
    }
}
