//! What protects an upstream from its callers, and callers from an upstream that does not answer.

use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};

use crate::config::source::units;

/// How an upstream is spared. Routes that differ in it have connections, and a breaker, of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Protection {
    /// The most connections at once, of all workers together.
    pub connections: usize,
    /// How long one is used for new requests.
    pub connection_age: Duration,
    /// When no request is sent; `None` is never.
    pub breaker: Option<Breaker>,
}

/// When an upstream is taken to be down, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breaker {
    /// At least so many failures within the window.
    pub failures: u32,
    /// And at least so many of a hundred answers.
    pub percent: u8,
    /// The time over which both are counted.
    pub window: Duration,
    /// The first pause; it doubles.
    pub open: Duration,
    /// The longest.
    pub open_max: Duration,
}

/// What is done about a 429; by default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry429 {
    /// How often a request may be sent again; 0 is never.
    pub attempts: u32,
    /// How long it may wait for that, in all.
    pub max_wait: Duration,
}

/// `breaker` as it is written: a table, or "off".
#[derive(Clone, Copy, Debug)]
pub enum WrittenBreaker {
    /// There is none.
    Off,
    /// With these, and defaults for the rest.
    On(WrittenLimits),
}

/// The table of [`WrittenBreaker`].
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct WrittenLimits {
    pub failures: Option<u32>,
    pub percent: Option<u8>,
    pub window: Option<units::Duration>,
    pub open: Option<units::Duration>,
    pub open_max: Option<units::Duration>,
}

/// `retry_429` as it is written.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(missing_docs, reason = "the shipped proxy.toml documents every key")]
pub struct WrittenRetry429 {
    pub attempts: Option<u32>,
    pub max_wait: Option<units::Duration>,
}

impl<'de> Deserialize<'de> for WrittenBreaker {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Limits;

        impl<'de> Visitor<'de> for Limits {
            type Value = WrittenBreaker;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a table such as { failures = 10, percent = 50 }, or \"off\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<WrittenBreaker, E> {
                if text == "off" {
                    return Ok(WrittenBreaker::Off);
                }
                Err(E::custom("write \"off\", or a table such as { failures = 10, percent = 50 }"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<WrittenBreaker, A::Error> {
                WrittenLimits::deserialize(MapAccessDeserializer::new(map)).map(WrittenBreaker::On)
            }
        }

        deserializer.deserialize_any(Limits)
    }
}
