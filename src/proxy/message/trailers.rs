//! Trailers: fields behind an answer's body (RFC 9110 §6.5).
//!
//! Those of answers are passed on to callers over HTTP/2, and to callers over HTTP/1.1 that have asked for them and were
//! told their names. Those of requests are not: nobody has vetted them, and what an upstream makes of a `Cookie` or an
//! `X-Forwarded-For` there is not known.

use http::header::{
    AGE, ALLOW, ALT_SVC, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, COOKIE, DATE, EXPECT, EXPIRES, HOST, HeaderMap, HeaderName, HeaderValue,
    LOCATION, MAX_FORWARDS, PRAGMA, PROXY_AUTHENTICATE, RETRY_AFTER, SET_COOKIE, TE, TRAILER, VARY, VIA,
    WWW_AUTHENTICATE,
};

use super::headers;
use crate::config::model::fields::{is_for_proxies, is_hop_by_hop};

const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// Whether a caller says that it takes trailers (RFC 9110 §10.1.4).
pub fn are_wanted(headers: &HeaderMap) -> bool {
    headers::lists(headers, &TE, "trailers")
}

/// Tells the upstream that its trailers are taken.
pub fn ask(headers: &mut HeaderMap) {
    headers.insert(TE, TRAILERS);
}

/// `TE` is for one hop, which HTTP/1.1 has to be told.
pub fn ask_over_http1(headers: &mut HeaderMap) {
    if headers.contains_key(TE) {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// The names that an answer announces, as far as they may be trailers.
pub fn announced(headers: &HeaderMap) -> Option<HeaderValue> {
    let values = headers.get_all(TRAILER).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(','));
    let names = names.filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
    let names: Vec<String> = names.filter(may_be_one).map(|name| name.to_string()).collect();
    HeaderValue::try_from(names.join(", ")).ok().filter(|value| !value.is_empty())
}

/// Takes out what is none; `None` if nothing is left.
pub fn filtered(mut trailers: HeaderMap) -> Option<HeaderMap> {
    let unwanted: Vec<HeaderName> = trailers.keys().filter(|name| !may_be_one(name)).cloned().collect();
    for name in unwanted {
        trailers.remove(name);
    }
    (!trailers.is_empty()).then_some(trailers)
}

/// RFC 9110 §6.5.1: nothing by which a message is framed, routed, authenticated, cached or understood.
fn may_be_one(name: &HeaderName) -> bool {
    const NEVER: [HeaderName; 25] = [
        AGE,
        ALLOW,
        ALT_SVC,
        AUTHORIZATION,
        CACHE_CONTROL,
        CONTENT_ENCODING,
        CONTENT_LENGTH,
        CONTENT_RANGE,
        CONTENT_TYPE,
        COOKIE,
        DATE,
        EXPECT,
        EXPIRES,
        HOST,
        LOCATION,
        MAX_FORWARDS,
        PRAGMA,
        PROXY_AUTHENTICATE,
        RETRY_AFTER,
        SET_COOKIE,
        TRAILER,
        VARY,
        VIA,
        WWW_AUTHENTICATE,
        HeaderName::from_static("clear-site-data"),
    ];
    !is_hop_by_hop(name) && !is_for_proxies(name) && !NEVER.contains(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn trailers_are_wanted_by_those_who_say_so() {
        for (value, are) in
            [("trailers", true), ("gzip, Trailers", true), ("gzip", false), ("trailersx", false)]
        {
            assert_eq!(are_wanted(&map(&[("te", value)])), are, "{value}");
        }
        assert!(!are_wanted(&map(&[])));
    }

    #[test]
    fn what_frames_routes_or_authenticates_is_no_trailer() {
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
    fn only_what_may_be_a_trailer_is_announced() {
        let value = |text| announced(&map(&[("trailer", text)]));

        assert_eq!(
            value("X-Sum, content-length, grpc-status"),
            Some(HeaderValue::from_static("x-sum, grpc-status"))
        );
        assert_eq!(value("content-length, ;"), None);
        assert_eq!(announced(&map(&[])), None);
    }
}
