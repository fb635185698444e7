//! Durations, sizes and similar values as they are written in `proxy.toml`.

use std::fmt;
use std::str::FromStr;

use toml::Spanned;
use toml::de::DeValue;

use super::key::Entry;
use super::reader::{Reader, Value, Written};
use crate::config::model::log::Sampling;

/// The longest duration: adding it to any point in time does not overflow.
const MAX_DURATION: std::time::Duration = std::time::Duration::from_hours(365 * 24);
/// The largest size, 1 PiB: more than any machine has or any request carries.
const MAX_SIZE: u64 = 1 << 50;

/// A length of time: `"30s"`, `"250ms"`, `"1h 30m"`. Never negative, at most a year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration(pub std::time::Duration);

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let signed = text.parse::<jiff::SignedDuration>().ok();
        match signed.and_then(|signed| std::time::Duration::try_from(signed).ok()) {
            Some(duration) if duration <= MAX_DURATION => Ok(Self(duration)),
            Some(_) => Err("longer than a year: the longest duration is \"8760h\"".to_owned()),
            None => {
                Err("not a duration: write a number and a unit, such as \"30s\" or \"1h 30m\"".to_owned())
            }
        }
    }
}

impl Value for Duration {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        reader.parsed(value, path, "a duration such as \"30s\"")
    }
}

/// A number of bytes: `"64KiB"`, `"1MB"`, `"240B"`, `"0"`. At most 1 PiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let size = text
            .parse::<bytesize::ByteSize>()
            .map_err(|_| "not a size: write a number and a unit, such as \"64KiB\" or \"1MB\"".to_owned())?;
        match size.as_u64() {
            bytes if bytes <= MAX_SIZE => Ok(Self(bytes)),
            _ => Err("too large: the largest size is \"1PiB\"".to_owned()),
        }
    }
}

/// In the largest unit that gives a whole number.
impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)]
            .into_iter()
            .find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Value for Size {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        reader.parsed(value, path, "a size such as \"64KiB\"")
    }
}

/// One value, or a list of them: `"a"` or `["a", "b"]`.
#[derive(Debug)]
pub(in crate::config) struct OneOrMany<T>(pub(in crate::config) Vec<Entry<T>>);

impl<T: Value> Value for OneOrMany<T> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let many = reader.list(value, path);
        many.or_else(|| Some(vec![Some(Spanned::new(value.span(), T::read(value, path, reader)?))])).map(Self)
    }
}

/// Scopes that must have been granted.
#[derive(Debug)]
pub(in crate::config) enum RequiredScopes {
    /// `true`: the requested scopes, without those that servers do not list in responses. `false`: none.
    AsRequested(bool),
    /// These scopes.
    Listed(Vec<Entry<String>>),
}

impl Value for RequiredScopes {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let all = value.get_ref().as_bool().map(Self::AsRequested);
        all.or_else(|| reader.list(value, path).map(Self::Listed))
            .or_else(|| reader.mistyped(value, path, "a list of scopes, or true for all of `scopes`"))
    }
}

/// `true`, `false`, or a share.
impl Value for Sampling {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "true, false, or a share of the requests from 0 to 1, such as 0.1";
        let share = match value.get_ref() {
            DeValue::Boolean(true) => return Some(Self::ALL),
            DeValue::Boolean(false) => return Some(Self::OFF),
            DeValue::Float(number) => number.as_str().parse().ok(),
            DeValue::Integer(number) => number.as_str().parse().ok(),
            _ => return reader.mistyped(value, path, EXPECTED),
        };
        share.and_then(Self::new).or_else(|| reader.invalid(value, path, EXPECTED))
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
    fn a_duration_is_a_number_and_a_unit() {
        let seconds = std::time::Duration::from_secs;

        assert_eq!(duration("30s"), Some(seconds(30)));
        assert_eq!(duration("250ms"), Some(std::time::Duration::from_millis(250)));
        assert_eq!(duration("15m"), Some(seconds(900)));
        assert_eq!(duration("1h 30m"), Some(seconds(5400)));
        assert_eq!(duration("0s"), Some(seconds(0)));
        assert_eq!(duration("8760h"), Some(MAX_DURATION));
        for wrong in
            ["", "30", "-5s", "soon", "5 parsecs", "99999999999999999999h", "9223372036854775807s", "8761h"]
        {
            assert_eq!(duration(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_size_is_a_number_and_a_unit() {
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
    fn a_size_is_shown_as_it_can_be_written() {
        for text in ["0B", "240B", "1KiB", "1025B", "64KiB", "1MiB", "1536KiB", "5GiB"] {
            assert_eq!(Size(size(text).unwrap()).to_string(), text);
        }
    }
}
