//! Header fields: the classes that the proxy handles itself, and the changes that a route makes to the rest.

use http::header::{
    ACCEPT, ACCEPT_ENCODING, ACCEPT_LANGUAGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING,
    CONTENT_LENGTH, CONTENT_TYPE, DATE, ETAG, EXPECT, FORWARDED, HOST, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, REFERER,
    SERVER, STRICT_TRANSPORT_SECURITY, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, USER_AGENT, VARY, VIA,
};

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Changes to the header fields of a request, applied in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// Fields for proxies that are forwarded all the same, see [`is_for_proxies`].
    pub pass: Vec<HeaderName>,
    /// Removed.
    pub remove: Vec<HeaderName>,
    /// Added if the caller did not send the field.
    pub set_if_absent: Vec<(HeaderName, HeaderValue)>,
    /// Set, replacing the caller's fields of that name.
    pub set: Vec<(HeaderName, HeaderValue)>,
}

/// Whether a field of this name needs no check and is never removed, except by the rules of a route. Most fields of most
/// heads are such: a look at the number of the name answers for them.
pub fn is_ordinary(name: &HeaderName) -> bool {
    matches!(
        *name,
        ACCEPT
            | ACCEPT_ENCODING
            | ACCEPT_LANGUAGE
            | CACHE_CONTROL
            | CONTENT_ENCODING
            | CONTENT_TYPE
            | DATE
            | ETAG
            | HOST
            | IF_MODIFIED_SINCE
            | IF_NONE_MATCH
            | LAST_MODIFIED
            | REFERER
            | SERVER
            | STRICT_TRANSPORT_SECURITY
            | USER_AGENT
            | VARY
    )
}

/// Fields of one connection (RFC 9110 §7.6.1), with the historic `keep-alive` and `proxy-connection`.
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

/// Fields by which a caller could impersonate another caller; dropped unless a route passes them.
///
/// Behind CGI, `Proxy` becomes the environment variable `HTTP_PROXY`, which HTTP clients obey.
pub fn is_for_proxies(name: &HeaderName) -> bool {
    let describes_a_caller = |rest: &str| {
        matches!(rest, "real-ip" | "client-ip" | "cluster-client-ip" | "original-host" | "host")
            || rest.starts_with("forwarded-")
            || is_override(name)
    };
    name == FORWARDED
        || name.as_str().strip_prefix("x-").is_some_and(describes_a_caller)
        || matches!(name.as_str(), "true-client-ip" | "cf-connecting-ip" | "proxy")
}

/// Fields that replace the method or the path on some servers.
pub fn is_override(name: &HeaderName) -> bool {
    is_method_override(name) || matches!(name.as_str(), "x-original-url" | "x-rewrite-url")
}

/// Fields that replace the method on some servers. Without its field, a DELETE that travels as a POST is a POST.
pub fn is_method_override(name: &HeaderName) -> bool {
    matches!(name.as_str(), "x-http-method-override" | "x-http-method" | "x-method-override")
}

/// Whether a name consists of letters, digits and hyphens: no other name is a spelling of it.
pub fn is_plain(name: &str) -> bool {
    name.bytes().all(|byte| IS_PLAIN[usize::from(byte)])
}

/// Whether each byte is a letter, a digit or a hyphen. A table, because each name of each request is checked.
const IS_PLAIN: [bool; 256] = {
    let mut is_plain = [false; 256];
    let mut byte = 0_u8;
    while byte.is_ascii() {
        is_plain[byte as usize] = byte.is_ascii_alphanumeric() || byte == b'-';
        byte += 1;
    }
    is_plain
};

/// The plain name that servers behind CGI read: they see `X_Foo` and `X.Foo` as `X-Foo`.
pub fn plain(name: &str) -> String {
    name.bytes().map(plain_byte).map(char::from).collect()
}

/// Whether some server reads two names as one.
pub fn is_same_field(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().map(plain_byte).eq(other.bytes().map(plain_byte))
}

const fn plain_byte(byte: u8) -> u8 {
    if byte.is_ascii_alphanumeric() { byte.to_ascii_lowercase() } else { b'-' }
}

/// Fields for credentials, routing and framing, which no route may change.
pub fn is_protected(name: &HeaderName) -> bool {
    is_hop_by_hop(name)
        || name == AUTHORIZATION
        || name == HOST
        || name == CONTENT_LENGTH
        || name == EXPECT
        || name == VIA
        || name == CDN_LOOP
}

#[cfg(test)]
mod tests {
    use http::header::{ALT_SVC, CONTENT_LENGTH, COOKIE, ORIGIN};

    use super::*;

    #[test]
    fn no_field_that_the_proxy_handles_is_ordinary() {
        for name in [ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, IF_NONE_MATCH, USER_AGENT, VARY] {
            assert!(is_ordinary(&name), "{name}");
            assert!(!is_hop_by_hop(&name) && !is_for_proxies(&name) && is_plain(name.as_str()), "{name}");
        }
        let handled = [
            ALT_SVC,
            AUTHORIZATION,
            CDN_LOOP,
            CONNECTION,
            CONTENT_LENGTH,
            COOKIE,
            EXPECT,
            FORWARDED,
            KEEP_ALIVE,
            ORIGIN,
            PROXY_AUTHENTICATE,
            PROXY_AUTHORIZATION,
            PROXY_CONNECTION,
            TE,
            TRAILER,
            TRANSFER_ENCODING,
            UPGRADE,
            VIA,
        ];
        let named = ["proxy", "sec-fetch-site", "traceparent", "x-http-method", "x-real-ip", "x_odd"];
        for name in handled.into_iter().chain(named.map(HeaderName::from_static)) {
            assert!(!is_ordinary(&name), "{name}");
        }
    }
}
