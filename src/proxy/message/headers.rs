//! Field work: what a message loses and gains on its way through (RFC 9110 §7.6).
//!
//! Everything that describes the connection of one side ends here, in both directions, *before* anything is
//! added: a caller that names `Authorization` in its `Connection` field must not be able to take ours out.

use http::Version;
use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING,
};

use super::via::Via;
use crate::config::model::fields::{Fields, is_for_proxies, is_hop_by_hop};

/// Turns a caller's fields into those for the upstream, all but the token.
///
/// `Expect` ends here too: the server side answers it when the body is wanted.
pub fn for_upstream(
    headers: &mut HeaderMap,
    version: Version,
    host: HeaderValue,
    via: &Via,
    fields: &Fields,
) {
    strip(headers, |name| {
        let is_for_us = name == AUTHORIZATION || name == EXPECT;
        is_for_us || (is_for_proxies(name) && !fields.pass.contains(name))
    });
    join_cookies(headers);
    apply(headers, fields);
    via.add(headers, version);
    headers.insert(HOST, host);
}

/// Frames a body of unknown length. By itself hyper does so only for methods that often have one, and drops it for the
/// others.
pub fn frame_in_chunks(headers: &mut HeaderMap) {
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

/// Turns an upstream's fields into those for the caller.
///
/// `Alt-Svc` would lead callers past the proxy (RFC 7838); everything else is none of our business.
pub fn for_caller(headers: &mut HeaderMap, version: Version, via: &Via) {
    strip(headers, |name| name == ALT_SVC);
    via.add(headers, version);
}

/// Whether a field is a list with this word in it.
pub fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| one.trim().eq_ignore_ascii_case(word))
}

/// What the route does with what is left.
fn apply(headers: &mut HeaderMap, fields: &Fields) {
    for name in &fields.remove {
        headers.remove(name);
    }
    for (name, value) in &fields.set_if_absent {
        headers.entry(name).or_insert_with(|| value.clone());
    }
    for (name, value) in &fields.set {
        headers.insert(name, value.clone());
    }
}

/// RFC 9110 §7.6.1: what `Connection` names is for one hop.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim))
        // What it mostly says, and these are no fields, or go anyway.
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        // Where a message ends, and where it goes, is not for a list to decide.
        .filter(|name| name != http::header::CONTENT_LENGTH && name != HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Takes out what is of the connection, `Connection` and what it names included, and whatever else is unwanted.
fn strip(headers: &mut HeaderMap, is_unwanted: impl Fn(&HeaderName) -> bool) {
    let is_unwanted = |name: &&HeaderName| is_hop_by_hop(name) || is_unwanted(name);
    let unwanted: Vec<HeaderName> = headers.keys().filter(is_unwanted).cloned().collect();
    if unwanted.contains(&CONNECTION) {
        remove_named_by_connection(headers);
    }
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
        sent_by(&Fields::default(), fields)
    }

    fn sent_by(rules: &Fields, fields: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut headers = map(fields);
        for_upstream(
            &mut headers,
            Version::HTTP_11,
            HeaderValue::from_static("api.example.com"),
            &Via::new("bearerd-1"),
            rules,
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
    fn a_route_passes_removes_and_sets_fields_in_this_order() {
        let named = |names: &[&'static str]| names.iter().map(|name| HeaderName::from_static(name)).collect();
        let valued = |fields: &[(&'static str, &'static str)]| {
            fields
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
                .collect()
        };
        let rules = Fields {
            pass: named(&["x-forwarded-for", "x-real-ip"]),
            remove: named(&["cookie", "x-debug"]),
            set_if_absent: valued(&[("accept", "application/json"), ("accept-language", "de")]),
            set: valued(&[("x-forwarded-proto", "https"), ("x-tenant", "ours"), ("x-real-ip", "none")]),
        };
        let fields = [
            ("accept", "text/plain"),
            ("authorization", "Bearer theirs"),
            ("connection", "accept-language, x-tenant"),
            ("accept-language", "en"),
            ("cookie", "a=1"),
            ("cookie", "b=1"),
            ("x-debug", "1"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "http"),
            ("x-real-ip", "1.2.3.4"),
            ("x-tenant", "theirs"),
            ("x-tenant", "another"),
        ];

        assert_eq!(
            sent_by(&rules, &fields),
            pairs(&[
                ("accept", "text/plain"),
                ("accept-language", "de"),
                ("host", "api.example.com"),
                ("via", "1.1 bearerd-1"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "none"),
                ("x-tenant", "ours"),
            ])
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

        for_caller(&mut headers, Version::HTTP_11, &Via::new("bearerd-1"));

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
