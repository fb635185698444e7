//! Trailers: fields after the body (RFC 9110 §6.5).
//!
//! Callers over HTTP/2 receive response trailers, and so do callers over HTTP/1.1 that accept trailers and got their
//! names. Request trailers are dropped: the guard does not check them, and an upstream may obey a `Cookie` or an
//! `X-Forwarded-For` among them.

use http::header::{CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRAILER};

use super::headers;
use super::list::members;
use crate::config::model::fields::{is_for_proxies, is_hop_by_hop};

/// Whether a caller accepts trailers (RFC 9110 §10.1.4).
pub fn are_accepted(headers: &HeaderMap) -> bool {
    headers::has_member(headers, &TE, "trailers")
}

/// Tells the upstream that trailers are accepted. `Connection` names `TE`, as HTTP/1.1 requires of a hop-by-hop field.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(TE, HeaderValue::from_static("trailers"));
    headers.insert(CONNECTION, HeaderValue::from_static("te"));
}

/// The announced names (`Trailer`) of fields that are allowed as trailers.
pub fn announced(headers: &HeaderMap) -> Option<HeaderValue> {
    let names = headers.get_all(TRAILER).iter().flat_map(members).flatten();
    let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
    let names: Vec<String> = names.filter(is_allowed).map(|name| name.to_string()).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// The trailers that are allowed; `None` if there are none.
pub fn filtered(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let unwanted: Vec<HeaderName> = trailers.keys().filter(|name| !is_allowed(name)).cloned().collect();
    for name in unwanted {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// Whether a field is allowed as a trailer: not for framing, routing, authentication, caching or content (RFC 9110
/// §6.5.1).
fn is_allowed(name: &HeaderName) -> bool {
    match name.as_str() {
        "age" | "allow" | "alt-svc" | "authorization" | "cache-control" | "clear-site-data"
        | "content-encoding" | "content-length" | "content-range" | "content-type" | "cookie" | "date"
        | "expect" | "expires" | "host" | "location" | "max-forwards" | "pragma" | "proxy-authenticate"
        | "retry-after" | "set-cookie" | "trailer" | "vary" | "via" | "cdn-loop" | "www-authenticate" => {
            false
        }
        _ => !is_hop_by_hop(name) && !is_for_proxies(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::message::fixture::map;

    #[test]
    fn te_says_whether_trailers_are_accepted() {
        for (value, are) in
            [("trailers", true), ("gzip, Trailers", true), ("gzip", false), ("trailersx", false)]
        {
            assert_eq!(are_accepted(&map(&[("te", value)])), are, "{value}");
        }
        assert!(!are_accepted(&map(&[])));
    }

    #[test]
    fn framing_routing_and_authentication_fields_are_no_trailers() {
        let trailers = map(&[
            ("authorization", "Bearer x"),
            ("connection", "close"),
            ("clear-site-data", "\"cookies\""),
            ("content-length", "5"),
            ("cookie", "a=1"),
            ("grpc-status", "0"),
            ("set-cookie", "a=1"),
            ("transfer-encoding", "chunked"),
            ("www-authenticate", "Bearer"),
            ("x-forwarded-for", "1.2.3.4"),
        ]);

        assert_eq!(filtered(trailers), Some(map(&[("grpc-status", "0")])));
        assert_eq!(filtered(map(&[("content-type", "text/html")])), None);
    }

    #[test]
    fn only_allowed_trailers_are_announced() {
        let value = |text| announced(&map(&[("trailer", text)]));

        assert_eq!(
            value("X-Sum, content-length, grpc-status"),
            Some(HeaderValue::from_static("x-sum, grpc-status"))
        );
        assert_eq!(value("content-length, ;"), None);
        assert_eq!(announced(&map(&[])), None);
    }
}
