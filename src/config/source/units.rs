//! Durations, sizes and the like as they are written in `proxy.toml`.
//!
//! Each type parses one form and says in its error what that form is, so that a wrong value is explained
//! where it stands.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

/// No setting means to wait for longer, and moments can be reckoned with it without overflow.
const LONGEST: std::time::Duration = std::time::Duration::from_hours(365 * 24);
/// More than any machine keeps or any request carries; a larger number is a slip.
const LARGEST: u64 = 1 << 50;

/// A length of time: `"30s"`, `"250ms"`, `"1h 30m"`. Never negative, a year at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse::<jiff::SignedDuration>()
            .ok()
            .and_then(|signed| std::time::Duration::try_from(signed).ok())
            .ok_or_else(|| {
                "not a duration: write a number and a unit, such as \"30s\" or \"1h 30m\"".to_owned()
            })
            .and_then(|duration| {
                if duration <= LONGEST {
                    Ok(Self(duration))
                } else {
                    Err("longer than a year: the longest duration is \"8760h\"".to_owned())
                }
            })
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Parsed::new("a duration such as \"30s\""))
    }
}

/// A number of bytes: `"64KiB"`, `"1MB"`, `"240B"`, `"0"`. 1 PiB at the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text
            .parse::<bytesize::ByteSize>()
            .map_err(|_| "not a size: write a number and a unit, such as \"64KiB\" or \"1MB\"".to_owned())?;
        match size.as_u64() {
            bytes if bytes <= LARGEST => Ok(Self(bytes)),
            _ => Err("larger than any size here may be: the largest is \"1PiB\"".to_owned()),
        }
    }
}

/// In the largest unit of which it is a whole number.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Parsed::new("a size such as \"64KiB\""))
    }
}

/// One string or several: `"a"` or `["a", "b"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneOrMany(pub Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Strings;

        impl<'de> Visitor<'de> for Strings {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![text.to_owned()]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(OneOrMany(all))
            }
        }

        deserializer.deserialize_any(Strings)
    }
}

/// How many of something in how long: `{ requests = 10, per = "60s" }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// The burst, and how many are refilled over `per`.
    pub requests: u32,
    /// The time over which they are refilled.
    pub per: Duration,
}

/// Scopes that must have been granted: a list, or `true` for those that were asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequiredScopes {
    /// `true`: all of `scopes` but the two that servers do not list in their answers; `false`: none.
    AsAsked(bool),
    /// These.
    Listed(Vec<String>),
}

impl<'de> Deserialize<'de> for RequiredScopes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Scopes;

        impl<'de> Visitor<'de> for Scopes {
            type Value = RequiredScopes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of scopes, or true for all of `scopes`")
            }

            fn visit_bool<E: de::Error>(self, all: bool) -> Result<RequiredScopes, E> {
                Ok(RequiredScopes::AsAsked(all))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<RequiredScopes, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(RequiredScopes::Listed(all))
            }
        }

        deserializer.deserialize_any(Scopes)
    }
}

/// Reads a string through [`FromStr`], naming what was expected where something else stands.
struct Parsed<T> {
    expected: &'static str,
    kind: std::marker::PhantomData<T>,
}

impl<T> Parsed<T> {
    fn new(expected: &'static str) -> Self {
        Self { expected, kind: std::marker::PhantomData }
    }
}

impl<T: FromStr<Err = String>> Visitor<'_> for Parsed<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Option<std::time::Duration> {
        text.parse::<Duration>().ok().map(|duration| duration.0)
    }

    fn size(text: &str) -> Option<u64> {
        text.parse::<Size>().ok().map(|size| size.0)
    }

    #[test]
    fn durations_are_a_number_and_a_unit() {
        let seconds = std::time::Duration::from_secs;

        assert_eq!(duration("30s"), Some(seconds(30)));
        assert_eq!(duration("250ms"), Some(std::time::Duration::from_millis(250)));
        assert_eq!(duration("15m"), Some(seconds(900)));
        assert_eq!(duration("1h 30m"), Some(seconds(5400)));
        assert_eq!(duration("0s"), Some(seconds(0)));
        assert_eq!(duration("8760h"), Some(LONGEST));
        for wrong in
            ["", "30", "-5s", "soon", "5 parsecs", "99999999999999999999h", "9223372036854775807s", "8761h"]
        {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_a_number_and_a_unit() {
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("240B"), Some(240));
        assert_eq!(size("64KiB"), Some(65_536));
        assert_eq!(size("1MiB"), Some(1_048_576));
        assert_eq!(size("1MB"), Some(1_000_000));
        for wrong in ["", "-1", "large", "1 furlong", "1025TiB", "99999999999EiB", "18446744073709551615"] {
            assert_eq!(size(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_size_is_told_as_it_can_be_written() {
        for text in ["0B", "240B", "1KiB", "1025B", "64KiB", "1MiB", "1536KiB", "5GiB"] {
            assert_eq!(Size(size(text).unwrap()).to_string(), text);
        }
    }
}
