//! Loops: a request that this daemon forwards carries its name in `CDN-Loop` (RFC 8586), and one that comes back with
//! that name has been here before.

use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::list::members;

/// The field that each forwarding server adds its name to, and that none removes.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// This daemon's entry in `CDN-Loop`, made once.
#[derive(Debug)]
pub struct LoopMark(HeaderValue);

impl LoopMark {
    /// The entry of a daemon with this pseudonym; `bearerd` if a field cannot contain the pseudonym.
    pub fn new(instance: &str) -> Self {
        Self(HeaderValue::try_from(instance).unwrap_or(HeaderValue::from_static("bearerd")))
    }

    /// Adds the entry to a request.
    pub fn add(&self, headers: &mut HeaderMap) {
        headers.append(CDN_LOOP, self.0.clone());
    }
}

/// Whether the daemon with this pseudonym has forwarded the request before. Entries may have parameters.
pub fn has_passed(headers: &HeaderMap, instance: &str) -> bool {
    let entries = headers.get_all(CDN_LOOP).iter().flat_map(members).flatten();
    entries.filter_map(|entry| entry.split(';').next()).any(|name| name.trim_end() == instance)
}
