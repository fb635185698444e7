//! Header fields that the proxy removes, adds and replaces (RFC 9110 §7.6).
//!
//! Hop-by-hop fields are removed *before* anything is added, in both directions: a caller that names `Authorization` in
//! its `Connection` must not be able to remove the proxy's.

use http::Version;
use http::header::{
    ALT_SVC, AUTHORIZATION, CONNECTION, COOKIE, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue,
    TRANSFER_ENCODING, VIA,
};

use super::field_rules::FieldRules;
use super::list::members;
use super::loops::LoopMark;
use super::via::Via;
use crate::config::model::fields::{is_for_proxies, is_hop_by_hop, is_ordinary};
use crate::http::X_REQUEST_ID;

/// The fields of every request for an upstream.
#[derive(Debug)]
pub struct OwnFields<'a> {
    /// The `Host`.
    pub host: HeaderValue,
    /// The request's identifier, which a route may remove or replace.
    pub request_id: HeaderValue,
    /// The entry in `CDN-Loop`.
    pub mark: &'a LoopMark,
}

/// Turns a caller's fields into those for the upstream, except for the token. `has_odd_name` is whether a name has a
/// character other than letters, digits and hyphens.
///
/// Removes `Expect` too: hyper answers it when the proxy reads the body.
pub fn for_upstream(headers: &mut HeaderMap, own: OwnFields<'_>, rules: &FieldRules, has_odd_name: bool) {
    let mut has_cookies = false;
    let is_token = |name: &HeaderName| name == rules.token_field;
    strip(headers, is_token, |name| {
        has_cookies |= name == COOKIE;
        let ends_here = name == AUTHORIZATION || name == EXPECT || (name == VIA && !rules.sends_via);
        ends_here || (is_for_proxies(name) && !rules.passes(name))
    });
    if has_cookies {
        join_cookies(headers);
    }
    headers.insert(X_REQUEST_ID, own.request_id);
    rules.apply(headers, has_odd_name);
    own.mark.add(headers);
    headers.insert(HOST, own.host);
}

/// Frames a body of unknown length (RFC 9112 §7.1). hyper does so by itself only for methods that usually have a body,
/// and drops the body of the others.
pub fn frame_in_chunks(headers: &mut HeaderMap) {
    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
}

/// Turns an upstream's fields into those for the caller.
///
/// Removes `Alt-Svc`, which would direct callers past the proxy (RFC 7838).
pub fn for_caller(headers: &mut HeaderMap, version: Version, via: &Via) {
    strip(headers, |_| false, |name| name == ALT_SVC);
    via.add(headers, version);
}

/// Whether a field is a list with this member, in either case.
pub fn has_member(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().flat_map(members).flatten().any(|member| member.eq_ignore_ascii_case(word))
}

/// Removes the fields that `Connection` names (RFC 9110 §7.6.1).
fn remove_named_by_connection(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(members)
        .flatten()
        // The usual options: no field of these names is forwarded anyway.
        .filter(|name| !name.eq_ignore_ascii_case("keep-alive") && !name.eq_ignore_ascii_case("close"))
        .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
        // Framing and routing are never hop-by-hop options.
        .filter(|name| name != http::header::CONTENT_LENGTH && name != HOST)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Removes the hop-by-hop fields, the fields that `Connection` names, a field that any name may have, and others that are
/// unwanted and not ordinary.
fn strip(
    headers: &mut HeaderMap,
    is_special: impl Fn(&HeaderName) -> bool,
    mut is_unwanted: impl FnMut(&HeaderName) -> bool,
) {
    let is_unwanted = |name: &&HeaderName| {
        is_special(name) || (!is_ordinary(name) && (is_hop_by_hop(name) || is_unwanted(name)))
    };
    let unwanted: Vec<HeaderName> = headers.keys().filter(is_unwanted).cloned().collect();
    if unwanted.contains(&CONNECTION) {
        remove_named_by_connection(headers);
    }
    for name in unwanted {
        headers.remove(name);
    }
}

/// Joins the `Cookie` fields of HTTP/2 to the one field of HTTP/1.1 (RFC 9113 §8.2.3).
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
    use http::header::ACCEPT;

    use super::*;
    use crate::config::model::fields::{Fields, is_plain};
    use crate::proxy::message::fixture::{map, sorted};

    /// Rewrites a head and takes the request's identifier, which every request has, out of it.
    fn rewritten(headers: &mut HeaderMap, host: HeaderValue, mark: &str, rules: &FieldRules, is_odd: bool) {
        let (mark, request_id) = (LoopMark::new(mark), HeaderValue::from_static("id"));
        for_upstream(headers, OwnFields { host, request_id, mark: &mark }, rules, is_odd);
        assert_eq!(headers.remove(X_REQUEST_ID).unwrap(), "id");
    }

    fn sent(fields: &[(&str, &str)]) -> HeaderMap {
        sent_by(&Fields::default(), fields)
    }

    fn sent_by(rules: &Fields, fields: &[(&str, &str)]) -> HeaderMap {
        let mut headers = map(fields);
        let host = HeaderValue::from_static("api.example.com");
        let has_odd_name = headers.keys().any(|name| !is_plain(name.as_str()));
        let rules = FieldRules::new(rules, false, &AUTHORIZATION);
        rewritten(&mut headers, host, "bearerd-1", &rules, has_odd_name);
        headers
    }

    #[test]
    fn hop_by_hop_fields_are_removed() {
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
            sorted(&sent(&fields)),
            [("accept", "*/*"), ("cdn-loop", "bearerd-1"), ("host", "api.example.com")]
        );
    }

    #[test]
    fn fields_that_speak_for_others_are_removed() {
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
            sorted(&sent(&fields)),
            [("cdn-loop", "bearerd-1"), ("cookie", "a=1"), ("host", "api.example.com")]
        );
    }

    #[test]
    fn a_route_passes_then_removes_then_sets_fields() {
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
            sorted(&sent_by(&rules, &fields)),
            [
                ("accept", "text/plain"),
                ("accept-language", "de"),
                ("cdn-loop", "bearerd-1"),
                ("host", "api.example.com"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-proto", "https"),
                ("x-real-ip", "none"),
                ("x-tenant", "ours"),
            ]
        );
    }

    #[test]
    fn host_is_the_upstreams() {
        assert_eq!(
            sorted(&sent(&[("host", "127.0.0.1:8080")])),
            [("cdn-loop", "bearerd-1"), ("host", "api.example.com")]
        );
    }

    #[test]
    fn connection_cannot_remove_framing_or_routing_fields() {
        let fields = [("connection", "content-length, host"), ("content-length", "5"), ("host", "x")];

        assert_eq!(
            sorted(&sent(&fields)),
            [("cdn-loop", "bearerd-1"), ("content-length", "5"), ("host", "api.example.com")]
        );
    }

    #[test]
    fn several_cookie_fields_become_one() {
        let fields = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];

        assert_eq!(sorted(&sent(&fields))[1], ("cookie", "a=1; b=2; c=3"));
    }

    #[test]
    fn via_is_sent_only_if_asked_for_and_the_loop_mark_always() {
        let fields = [("cdn-loop", "other; v=1"), ("via", "1.0 old")];
        assert_eq!(
            sorted(&sent(&fields)),
            [("cdn-loop", "bearerd-1"), ("cdn-loop", "other; v=1"), ("host", "api.example.com")]
        );

        let mut headers = map(&fields);
        let rules = FieldRules::new(&Fields::default(), true, &AUTHORIZATION);
        rewritten(&mut headers, HeaderValue::from_static("x"), "bearerd-1", &rules, false);
        assert_eq!(headers["via"], "1.0 old");
    }

    #[test]
    fn the_field_of_the_token_is_removed_in_every_spelling() {
        let name = HeaderName::from_static("x-access-token");
        let rules = FieldRules::new(&Fields::default(), false, &name);
        let mut headers = map(&[
            ("authorization", "Bearer theirs"),
            ("x-access-token", "theirs"),
            ("x_access_token", "theirs"),
            ("X-Access.Token", "theirs"),
            ("x-access-tokens", "another"),
        ]);
        rewritten(&mut headers, HeaderValue::from_static("x"), "b", &rules, true);
        assert_eq!(sorted(&headers), [("cdn-loop", "b"), ("host", "x"), ("x-access-tokens", "another")]);
    }

    #[test]
    fn the_field_of_the_token_may_have_any_name() {
        let rules = FieldRules::new(&Fields::default(), false, &ACCEPT);
        let mut headers = map(&[("accept", "theirs"), ("user-agent", "x")]);
        rewritten(&mut headers, HeaderValue::from_static("x"), "b", &rules, false);
        assert_eq!(sorted(&headers), [("cdn-loop", "b"), ("host", "x"), ("user-agent", "x")]);
    }

    #[test]
    fn another_spelling_of_a_changed_field_is_that_field() {
        let rules = Fields {
            pass: Vec::new(),
            remove: vec![HeaderName::from_static("x-debug"), HeaderName::from_static("api_key")],
            set_if_absent: vec![(HeaderName::from_static("x-lang"), HeaderValue::from_static("de"))],
            set: vec![(HeaderName::from_static("x-tenant"), HeaderValue::from_static("ours"))],
        };
        let fields = [
            ("api-key", "theirs"),
            ("api.key", "theirs"),
            ("client_id", "mulesoft"),
            ("x_debug", "1"),
            ("x.lang", "en"),
            ("x_tenant", "theirs"),
            ("x-tenant", "theirs"),
            ("X.Tenant", "theirs"),
            ("xtenant", "another"),
        ];

        assert_eq!(
            sorted(&sent_by(&rules, &fields)),
            [
                ("cdn-loop", "bearerd-1"),
                ("client_id", "mulesoft"),
                ("host", "api.example.com"),
                ("x-tenant", "ours"),
                ("x.lang", "en"),
                ("xtenant", "another"),
            ]
        );
    }

    #[test]
    fn a_response_loses_hop_by_hop_fields_and_alt_svc() {
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
            sorted(&headers),
            [
                ("server", "api"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("via", "1.1 bearerd-1"),
                ("www-authenticate", "Bearer"),
            ]
        );
    }
}
