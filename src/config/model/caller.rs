//! `[callers.NAME]`: the applications that call, and how bearerd recognises each.

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use ipnet::IpNet;

/// The name of whoever no other caller is.
pub const OTHER: &str = "other";

/// The beginning of a written hash.
const PREFIX: &str = "sha256:";

/// An application that calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The name in logs, metrics and routes.
    pub name: String,
    /// Networks that it calls from. No other caller has the same one.
    pub networks: Vec<IpNet>,
    /// Names in its certificates. No other caller has the same one.
    pub certificates: Vec<String>,
    /// The hashes of its keys. No other caller has the same one.
    pub keys: Vec<KeyHash>,
    /// Its share where the requests that an API allows are scarce, from 1 to 1000.
    pub weight: u16,
    /// The bound on its requests; `None` for no bound.
    pub quota: Option<CallerQuota>,
}

/// How many requests a caller may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallerQuota {
    /// The most requests in any interval of `per`.
    pub requests: NonZeroU32,
    /// The interval, never zero.
    pub per: Duration,
    /// How long a request may wait for its turn.
    pub wait: Duration,
}

/// The SHA-256 of a caller's key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyHash([u8; SHA256_OUTPUT_LEN]);

impl KeyHash {
    /// The hash of a key.
    pub fn of(key: &[u8]) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, key).as_ref());
        Self(hash)
    }

    /// Whether two hashes are equal, in a time that does not depend on where they differ.
    pub fn matches(&self, other: &Self) -> bool {
        verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl FromStr for KeyHash {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let digits = text.strip_prefix(PREFIX).ok_or(())?.as_bytes();
        let mut hash = [0; SHA256_OUTPUT_LEN];
        if digits.len() != 2 * hash.len() {
            return Err(());
        }
        for (byte, pair) in hash.iter_mut().zip(digits.chunks_exact(2)) {
            let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            let (high, low) = value(pair[0]).zip(value(pair[1])).ok_or(())?;
            *byte = high << 4 | low;
        }
        Ok(Self(hash))
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_written_and_read_as_sha256_and_hex_digits() {
        // FIPS 180-4, the example of one block.
        let written = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hash = KeyHash::of(b"abc");

        assert_eq!(hash.to_string(), written);
        assert_eq!(written.parse(), Ok(hash));
        assert_eq!(written.replace("ba78", "BA78").parse(), Ok(hash));
        for wrong in [
            "",
            "sha256:",
            &written[7..],
            &written[..70],
            &format!("{written}0"),
            &written.replace("sha256", "sha512"),
            &written.replace("ba", "g0"),
            &written.replace("ba", "é"),
        ] {
            assert_eq!(wrong.parse::<KeyHash>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn hashes_match_if_they_are_equal() {
        assert!(KeyHash::of(b"abc").matches(&KeyHash::of(b"abc")));
        assert!(!KeyHash::of(b"abc").matches(&KeyHash::of(b"abd")));
    }
}
