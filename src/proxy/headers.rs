//! Field work: what a message loses and gains on its way through (RFC 9110 §7.6).
//!
//! Everything that describes the connection of one side ends here, in both directions, *before* anything is
//! added: a caller that names `Authorization` in its `Connection` field must not be able to take ours out.

use std::fmt::Write as _;

use http::Version;
use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, COOKIE, EXPECT, Entry, FORWARDED, HOST, HeaderMap, HeaderName,
    HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VIA,
};

/// Fields of one connection (RFC 9110 §7.6.1); `keep-alive` and `proxy-connection` by name, as of old.
fn is_hop_by_hop(name: &HeaderName) -> bool {
    name == CONNECTION
        || name == TRANSFER_ENCODING
        || name == TE
        || name == TRAILER
        || name == UPGRADE
        || name == PROXY_AUTHORIZATION
        || name == PROXY_AUTHENTICATE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Fields by which a caller could speak for someone else, or for us.
fn is_for_proxies(name: &HeaderName) -> bool {
    name == AUTHORIZATION
        || name == FORWARDED
        || name == EXPECT
        || matches!(
            name.as_str(),
            "x-real-ip"
                | "x-original-url"
                | "x-rewrite-url"
                | "x-http-method-override"
                | "x-http-method"
                | "x-method-override"
        )
        || name.as_str().starts_with("x-forwarded-")
}

/// Turns a caller's fields into those for the upstream, all but the token.
///
/// `Expect` ends here too: the server side answers it when the body is wanted.
pub fn for_upstream(headers: &mut HeaderMap, version: Version, host: &HeaderValue, instance: &str) {
    remove_named_by_connection(headers);
    remove_if(headers, |name| is_hop_by_hop(name) || is_for_proxies(name));
    join_cookies(headers);
    add_via(headers, version, instance);
    headers.insert(HOST, host.clone());
}

/// Frames a body of unknown length. By itself hyper does so only for methods that often have one, and drops it for the
/// others.
pub fn frame_in_chunks(headers: &mut HeaderMap) {
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

/// Turns an upstream's fields into those for the caller.
///
/// `Alt-Svc` would lead callers past the proxy (RFC 7838); everything else is none of our business.
pub fn for_caller(headers: &mut HeaderMap, version: Version, instance: &str) {
    remove_named_by_connection(headers);
    remove_if(headers, |name| is_hop_by_hop(name) || name == ALT_SVC);
    add_via(headers, version, instance);
}

/// RFC 9110 §7.6.1: what `Connection` names is for one hop.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
        // Where a message ends, and where it goes, is not for a list to decide.
        .filter(|name| name != http::header::CONTENT_LENGTH && name != HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn remove_if(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name)).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// RFC 9113 §8.2.3: over HTTP/2 a cookie may come in crumbs; over HTTP/1.1 it is one field.
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, cookie);
    }
}

/// RFC 9110 §7.6.3: the version the message was received in, and who we are.
fn add_via(headers: &mut HeaderMap, version: Version, instance: &str) {
    let number = match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    };
    match headers.entry(VIA) {
        Entry::Vacant(entry) => {
            let mut via = String::with_capacity(number.len() + 1 + instance.len());
            let _ = write!(via, "{number} {instance}");
            if let Ok(value) = HeaderValue::try_from(via) {
                entry.insert(value);
            }
        }
        Entry::Occupied(mut entry) => {
            if let Ok(value) = HeaderValue::try_from(format!("{number} {instance}")) {
                entry.append(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(fields: &[(&str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn sent(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut headers = map(fields);
        for_upstream(
            &mut headers,
            Version::HTTP_11,
            &HeaderValue::from_static("api.example.com"),
            "bearerd-1",
        );
        shown(&headers)
    }

    fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
        let mut fields: Vec<_> = headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        fields.sort();
        fields
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let fields = [
            ("accept", "*/*"),
            ("connection", "keep-alive, x-hop"),
            ("keep-alive", "timeout=5"),
            ("proxy-authorization", "Basic x"),
            ("proxy-connection", "keep-alive"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("x-hop", "1"),
        ];

        assert_eq!(
            sent(&fields),
            pairs(&[("accept", "*/*"), ("host", "api.example.com"), ("via", "1.1 bearerd-1")])
        );
    }

    #[test]
    fn a_caller_speaks_for_itself_only() {
        let fields = [
            ("authorization", "Bearer theirs"),
            ("cookie", "a=1"),
            ("expect", "100-continue"),
            ("forwarded", "for=1.2.3.4"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-host", "evil.test"),
            ("x-real-ip", "1.2.3.4"),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("x-http-method-override", "DELETE"),
        ];

        assert_eq!(
            sent(&fields),
            pairs(&[("cookie", "a=1"), ("host", "api.example.com"), ("via", "1.1 bearerd-1")])
        );
    }

    #[test]
    fn the_upstreams_host_takes_the_place_of_ours() {
        assert_eq!(
            sent(&[("host", "127.0.0.1:8080")]),
            pairs(&[("host", "api.example.com"), ("via", "1.1 bearerd-1")])
        );
    }

    #[test]
    fn connection_cannot_take_out_what_says_where_a_message_ends_or_goes() {
        let fields = [("connection", "content-length, host"), ("content-length", "5"), ("host", "x")];

        assert_eq!(
            sent(&fields),
            pairs(&[("content-length", "5"), ("host", "api.example.com"), ("via", "1.1 bearerd-1")])
        );
    }

    #[test]
    fn cookie_crumbs_become_one_cookie() {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];

        assert_eq!(sent(&fields)[0], ("cookie".to_owned(), "a=1; b=2; c=3".to_owned()));
    }

    #[test]
    fn every_hop_adds_itself_to_via() {
        let fields = [("via", "1.0 old")];

        assert_eq!(sent(&fields)[1..], pairs(&[("via", "1.0 old"), ("via", "1.1 bearerd-1")]));
    }

    #[test]
    fn a_response_loses_what_is_of_its_connection_and_what_leads_past_us() {
        let mut headers = map(&[
            ("alt-svc", "h3=\":443\""),
            ("connection", "close, x-hop"),
            ("keep-alive", "timeout=5"),
            ("server", "api"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("transfer-encoding", "chunked"),
            ("www-authenticate", "Bearer"),
            ("x-hop", "1"),
        ]);

        for_caller(&mut headers, Version::HTTP_11, "bearerd-1");

        assert_eq!(
            shown(&headers),
            pairs(&[
                ("server", "api"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("via", "1.1 bearerd-1"),
                ("www-authenticate", "Bearer"),
            ])
        );
    }
}
