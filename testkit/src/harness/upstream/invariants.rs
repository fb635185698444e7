//! The invariants that every request to the API must keep (I1 to I4), and the fields that must end at the proxy.

use std::sync::LazyLock;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Version};

use crate::authorization_server::Introspection;
use crate::harness::setup::{CALLER_KEY, caller_basic};

/// Another form of the key of a caller.
static BASIC: LazyLock<String> = LazyLock::new(caller_basic);
/// How long ago a token may have ended: the time that the request needed to arrive.
const GRACE: Duration = Duration::from_millis(300);

/// The token of a request; empty if there is not exactly one.
pub(super) fn token(head: &Parts) -> &str {
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    let (Some(only), None) = (values.next(), values.next()) else { return "" };
    only.to_str().unwrap_or_default().strip_prefix("Bearer ").unwrap_or_default()
}

/// What is wrong with a request that needs one of these tokens, or none.
pub(super) fn violations(head: &Parts, host: &str, tokens: Option<&Introspection>) -> Vec<String> {
    let mut violations = Vec::new();
    check_token(head, tokens, &mut violations);
    check_host(head, host, &mut violations);
    let count = |name| head.headers.get_all(name).iter().count();
    let (lengths, encodings) = (count(CONTENT_LENGTH), count(TRANSFER_ENCODING));
    if lengths + encodings > 1 {
        violations.push(format!("I4: {lengths} Content-Length, {encodings} Transfer-Encoding"));
    }
    check_fields(head, &mut violations);
    violations
}

/// I1 and I2: one token that was issued and has not ended, and never the caller's own.
fn check_token(head: &Parts, tokens: Option<&Introspection>, violations: &mut Vec<String>) {
    let count = head.headers.get_all(AUTHORIZATION).iter().count();
    match (count, tokens) {
        (0, None) => {}
        (1, Some(tokens)) => {
            let token = token(head);
            if !tokens.was_issued(token) {
                violations.push("I1/I2: a token that was not issued".to_owned());
            }
            if let Some(ago) = tokens.ended_ago(token).filter(|ago| *ago > GRACE) {
                violations.push(format!("I1: a token that ended {ago:?} ago"));
            }
        }
        _ => violations.push(format!("I1: {count} tokens")),
    }
}

/// I3: `Host` as configured, and for HTTP/2 the authority in its place.
fn check_host(head: &Parts, host: &str, violations: &mut Vec<String>) {
    let hosts: Vec<&HeaderValue> = head.headers.get_all(HOST).iter().collect();
    let authority = head.uri.authority().map(Authority::as_str);
    let is_right = match (head.version, hosts.as_slice()) {
        (Version::HTTP_2, []) => authority == Some(host) && head.uri.scheme_str() == Some("https"),
        (Version::HTTP_2, _) => false,
        (_, [only]) => authority.is_none() && *only == host,
        _ => false,
    };
    if !is_right {
        violations.push(format!("I3: Host is {hosts:?}, the authority {authority:?}"));
    }
}

fn check_fields(head: &Parts, violations: &mut Vec<String>) {
    for name in ["connection", "keep-alive", "te", "upgrade", "expect", "proxy-authorization", "forwarded"] {
        let value = head.headers.get(name).map(HeaderValue::as_bytes);
        let asks_for_trailers = match name {
            "te" => value == Some(b"trailers"),
            "connection" => value == Some(b"te") && head.version == Version::HTTP_11,
            _ => false,
        };
        if value.is_some() && !asks_for_trailers {
            violations.push(format!("{name} was passed on"));
        }
    }
    if head.headers.keys().any(|name| name.as_str().starts_with("x-forwarded-")) {
        violations.push("X-Forwarded-* was passed on".to_owned());
    }
    let has_key = |text: &[u8]| text.windows(CALLER_KEY.len()).any(|part| part == CALLER_KEY.as_bytes());
    let is_secret = |value: &HeaderValue| has_key(value.as_bytes()) || value.as_bytes() == BASIC.as_bytes();
    if head.headers.values().any(is_secret) || has_key(head.uri.to_string().as_bytes()) {
        violations.push("a caller's key was passed on".to_owned());
    }
    if !head.headers.contains_key("cdn-loop") {
        violations.push("no CDN-Loop".to_owned());
    }
}
