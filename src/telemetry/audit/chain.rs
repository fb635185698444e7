//! The chain of lines: each line has a digest of the line before.

use std::fmt::{self, Write as _};

use aws_lc_rs::{digest, hmac};

/// How the digest of a line is made.
pub enum Digest {
    /// SHA-256.
    Plain,
    /// HMAC-SHA256 with this key.
    Keyed(Box<hmac::Key>),
}

/// Without the key.
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "Plain",
            Self::Keyed(_) => "Keyed",
        })
    }
}

impl Digest {
    /// The digest with this key; without one, a plain hash.
    pub fn new(key: Option<&[u8]>) -> Self {
        key.map_or(Self::Plain, |key| Self::Keyed(Box::new(hmac::Key::new(hmac::HMAC_SHA256, key))))
    }

    /// The digest of a line without its end, in hexadecimal.
    pub fn of(&self, line: &[u8]) -> String {
        match self {
            Self::Plain => hexadecimal(digest::digest(&digest::SHA256, line).as_ref()),
            Self::Keyed(key) => hexadecimal(hmac::sign(key, line).as_ref()),
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By `printf line | openssl dgst -sha256`, also with `-hmac key`.
    #[test]
    fn a_digest_is_what_other_tools_compute() {
        let plain = "38a9c1e721584da284b90ceea4ed7eb8db15ac4ea86c2c75ec925d5f8799fcf0";
        let keyed = "145bd4759492e88965c2aead9c9d3f3c6a59fd564d0598f25e3d5195d630c3dc";
        assert_eq!(Digest::new(None).of(b"line"), plain);
        assert_eq!(Digest::new(Some(b"key")).of(b"line"), keyed);
    }
}
