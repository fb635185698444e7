//! Header fields: which are the proxy's business, and what a route does with the others.

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue,
    PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What a route does with the fields of its requests, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Not dropped, though a caller could speak for others by them.
    pub pass: Vec<HeaderName>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
    /// Added where the caller sent none.
    pub set_if_absent: Vec<(HeaderName, HeaderValue)>,
    /// In the place of whatever the caller sent.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// Fields of one connection (RFC 9110 §7.6.1); `keep-alive` and `proxy-connection` by name, as of old.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    name == CONNECTION
        || name == TRANSFER_ENCODING
        || name == TE
        || name == TRAILER
        || name == UPGRADE
        || name == PROXY_AUTHORIZATION
        || name == PROXY_AUTHENTICATE
        || name == KEEP_ALIVE
        || name == PROXY_CONNECTION
}

/// Fields by which a caller could speak for someone else: dropped unless a route passes them. `Proxy` becomes a variable of
/// the environment that HTTP clients obey, behind CGI.
pub fn is_for_proxies(name: &HeaderName) -> bool {
    let is_said_of_a_caller = |rest: &str| {
        matches!(rest, "real-ip" | "client-ip" | "cluster-client-ip" | "original-host" | "host")
            || rest.starts_with("forwarded-")
            || is_override(name)
    };
    name == FORWARDED
        || name.as_str().strip_prefix("x-").is_some_and(is_said_of_a_caller)
        || matches!(name.as_str(), "true-client-ip" | "cf-connecting-ip" | "proxy")
}

/// Fields that some servers put in the place of the method or the path.
pub fn is_override(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "x-original-url" | "x-rewrite-url" | "x-http-method-override" | "x-http-method" | "x-method-override"
    )
}

/// Fields that say who asks, where, and where a message ends: never a route's to decide.
pub fn is_protected(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || name == AUTHORIZATION
        || name == HOST
        || name == CONTENT_LENGTH
        || name == EXPECT
        || name == VIA
}
