//! The proxy's entry in `Via` (RFC 9110 §7.6.3), made once.

use http::header::{HeaderMap, VIA};
use http::{HeaderValue, Version};

/// The entry for each version in which a message may have been received.
#[derive(Debug)]
pub struct Via {
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// The entries of a daemon with this pseudonym; `bearerd` if a field cannot contain the pseudonym.
    pub fn new(instance: &str) -> Self {
        let entry = |version: &str| {
            HeaderValue::try_from(format!("{version} {instance}"))
                .unwrap_or(HeaderValue::from_static("1.1 bearerd"))
        };
        Self { http10: entry("1.0"), http11: entry("1.1"), http2: entry("2") }
    }

    /// Appends the entry to a message that was received in this version.
    pub fn add(&self, headers: &mut HeaderMap, version: Version) {
        let entry = match version {
            Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        };
        headers.append(VIA, entry.clone());
    }
}
