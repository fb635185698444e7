//! Accepted and refused request heads.

use http::Request;
use proptest::prelude::*;

use super::*;
use crate::http::fixture::BROWSER_CASES;

fn policy() -> Policy {
    let mut hosts = Hosts::default();
    for host in ["localhost", "127.0.0.1", "[::1]", "*.gw.test"] {
        hosts.add(host).unwrap();
    }
    Policy {
        hosts,
        origins: vec!["https://desk.example.com".to_owned()],
        is_tls: false,
        required_header: None,
        instance: "bearerd-11".to_owned(),
    }
}

/// The head of a GET with these fields besides a good Host.
fn head(target: &str, fields: &[(&str, &str)]) -> Parts {
    raw_head("GET", target, Version::HTTP_11, &[&[("host", "localhost:8080")], fields].concat())
}

fn raw_head(method: &str, target: &str, version: Version, fields: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(target).version(version);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn code(head: &Parts) -> &'static str {
    code_under(head, &policy())
}

fn code_under(head: &Parts, policy: &Policy) -> &'static str {
    vet(head, Present::among(&head.headers), policy).map_or_else(|error| error.code(), |_| "ok")
}

#[test]
fn an_ordinary_request_passes_with_its_target() {
    let head = head("/api/v2/users?x=1", &[("accept", "*/*"), ("client_id", "mulesoft")]);

    assert_eq!(
        vet(&head, Present::among(&head.headers), &policy()).unwrap(),
        Target {
            host: "localhost",
            path: "/api/v2/users",
            is_ambiguous: false,
            fields: Present { odd_name: true, ..Present::default() },
        }
    );
}

#[test]
fn trace_and_connect_are_not_supported() {
    for method in ["TRACE", "CONNECT", "TRACK", "trace", "Connect", "track"] {
        assert_eq!(
            code(&raw_head(method, "/", Version::HTTP_11, &[("host", "localhost")])),
            "method_not_supported"
        );
    }
    for (length, expected) in [(32, "ok"), (33, "bad_request")] {
        let method = "M".repeat(length);
        assert_eq!(code(&raw_head(&method, "/", Version::HTTP_11, &[("host", "localhost")])), expected);
    }
    for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        assert_eq!(code(&raw_head(method, "/", Version::HTTP_11, &[("host", "localhost")])), "ok");
    }
}

#[test]
fn a_request_has_exactly_one_host_of_the_configured_ones() {
    let with = |hosts: &[&str]| {
        let fields: Vec<(&str, &str)> = hosts.iter().map(|host| ("host", *host)).collect();
        code(&raw_head("GET", "/", Version::HTTP_11, &fields))
    };

    for good in [
        "localhost.",
        "LOCALHOST.:80",
        "a.gw.test.",
        "localhost",
        "LOCALHOST:1",
        "127.0.0.1:8080",
        "[::1]",
        "[::1]:8080",
        "a.gw.test:80",
        "localhost:",
    ] {
        assert_eq!(with(&[good]), "ok", "{good}");
    }
    for foreign in ["evil.test", "localhost.evil.test", "gw.test", "192.0.2.1", "[::2]:80"] {
        assert_eq!(with(&[foreign]), "host_not_allowed", "{foreign}");
    }
    for broken in ["", "u@localhost", "localhost, localhost", "localhost:65536"] {
        assert_eq!(with(&[broken]), "bad_request", "{broken}");
    }
    assert_eq!(with(&[]), "bad_request");
    assert_eq!(with(&["localhost", "localhost"]), "bad_request");
}

#[test]
fn over_http_2_the_authority_counts_and_a_host_must_equal_it() {
    let with =
        |fields: &[(&str, &str)]| code(&raw_head("GET", "http://localhost:1/x", Version::HTTP_2, fields));

    assert_eq!(with(&[]), "ok");
    assert_eq!(with(&[("host", "localhost:1")]), "ok");
    assert_eq!(with(&[("host", "127.0.0.1:1")]), "bad_request");
    assert_eq!(code(&raw_head("GET", "/x", Version::HTTP_2, &[("host", "localhost")])), "ok");
    assert_eq!(code(&raw_head("GET", "/x", Version::HTTP_2, &[])), "ok");
    assert_eq!(code(&raw_head("GET", "http://evil.test/x", Version::HTTP_2, &[])), "host_not_allowed");
}

#[test]
fn the_target_is_a_path_on_this_host() {
    for (target, expected) in [
        ("/", "ok"),
        ("http://localhost:8080/x", "ok"),
        ("https://LOCALHOST:8080/x", "ok"),
        ("http://evil.test/x", "bad_request"),
        ("http://localhost:9090/x", "bad_request"),
        ("ftp://localhost:8080/x", "bad_request"),
        ("foo", "bad_request"),
        ("*", "bad_request"),
        ("localhost:8080", "bad_request"),
    ] {
        assert_eq!(code(&head(target, &[])), expected, "{target}");
    }
}

#[test]
fn a_path_that_servers_interpret_differently_is_refused() {
    for path in [
        "/a/../b",
        "/a/..",
        "/./a",
        "/a/.",
        "/%2e%2e/a",
        "/a/%2E/b",
        "/a%00b",
        "/a%0d%0a",
        "/a%7f",
        "/a%c0%af",
        "/a%C1x",
        "/a%",
        "/a%2",
        "/a%zz",
        "/a%+1",
        "/a/..;/b",
        "/a%2f..%2fb",
        "/a%5C..",
        "/a/%252e%252e/b",
        "/a/..%20/b",
        "/a%2500",
        "/a%e0%80%afb",
        "/a%E0%9F%BFb",
        "/a%f0%80%80%af",
        "/a%f8%80%80%80%af",
        "/a%fc%80%80%80%80%af",
        "/a%25e0%2580%25af",
        "/a%e0%2580%af",
    ] {
        assert_eq!(code(&head(path, &[])), "bad_request", "{path}");
    }
}

#[test]
fn a_path_that_few_servers_interpret_differently_is_ambiguous() {
    for path in [
        "/a//b", "//a", "/a;v=1", "/a%2fb", "/a%5cb", "/a%25", "/a%3b", "/a%23", "/a%3f", "/a./b", "/a.",
        "/a%20b", "/a%09b",
    ] {
        let head = head(path, &[]);
        assert!(vet(&head, Present::among(&head.headers), &policy()).unwrap().is_ambiguous, "{path}");
    }
    for path in [
        "/",
        "/a/b.c/d",
        "/a/",
        "/%61%7e",
        "/a%C3%A9",
        "/a%e0%a0%80",
        "/%f0%90%80%80",
        "/%fcber",
        "/%e0",
        "/a+b",
        "/a:b@c",
        "/..a/.b/a..b",
    ] {
        let head = head(path, &[]);
        assert!(!vet(&head, Present::among(&head.headers), &policy()).unwrap().is_ambiguous, "{path}");
    }
}

#[test]
fn a_token_in_the_query_is_refused() {
    for query in [
        "access_token=x",
        "a=1&access_token=x",
        "ACCESS_TOKEN=x",
        "access%5Ftoken=x",
        "a;access_token=x",
        "access_token",
    ] {
        assert_eq!(code(&head(&format!("/?{query}"), &[])), "bad_request", "{query}");
    }
    for query in ["", "a=access_token", "my_access_token=x", "access_tokens=x", "a=1&&b=2"] {
        assert_eq!(code(&head(&format!("/?{query}"), &[])), "ok", "{query}");
    }
}

#[test]
fn a_body_has_one_form_of_framing() {
    for (fields, expected) in [
        (&[("transfer-encoding", "chunked")][..], "ok"),
        (&[("transfer-encoding", "Chunked")], "ok"),
        (&[("transfer-encoding", "gzip, chunked")], "bad_request"),
        (&[("transfer-encoding", "chunked, chunked")], "bad_request"),
        (&[("transfer-encoding", "identity")], "bad_request"),
        (&[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")], "bad_request"),
        (&[("transfer-encoding", "chunked"), ("content-length", "5")], "bad_request"),
        (&[("content-length", "5")], "ok"),
        (&[("content-length", "5"), ("content-length", "5")], "bad_request"),
        (&[("content-length", "5, 5")], "bad_request"),
        (&[("content-length", "+5")], "bad_request"),
        (&[("content-length", "")], "bad_request"),
        (&[("expect", "100-continue")], "ok"),
        (&[("expect", "100-Continue")], "ok"),
        (&[("expect", "")], "ok"),
        (&[("expect", "something")], "expectation_failed"),
        (&[("expect", "100-continue"), ("expect", "x")], "expectation_failed"),
    ] {
        assert_eq!(code(&head("/", fields)), expected, "{fields:?}");
    }
    let old =
        raw_head("POST", "/", Version::HTTP_10, &[("host", "localhost"), ("transfer-encoding", "chunked")]);
    assert_eq!(code(&old), "bad_request");
}

#[test]
fn alternative_spellings_of_protected_fields_are_refused() {
    for name in [
        "content_length",
        "transfer_encoding",
        "x_forwarded_for",
        "x-forwarded_host",
        "x_http_method_override",
        "X-HTTP_Method",
        "x.original.url",
        "x_real_ip",
        "connection",
        "AUTH_X",
    ] {
        let expected =
            if name.to_lowercase() == "auth_x" || name == "connection" { "ok" } else { "bad_request" };
        assert_eq!(code(&head("/", &[(name, "x")])), expected, "{name}");
    }
}

#[test]
fn connection_must_not_remove_protected_fields() {
    for value in [
        "authorization",
        "close, Authorization",
        "host",
        "content-length",
        "x-forwarded-for",
        "cookie",
        "transfer_encoding",
        "cdn-loop",
        "x.forwarded.for",
    ] {
        assert_eq!(code(&head("/", &[("connection", value)])), "bad_request", "{value}");
    }
    for value in ["close", "keep-alive, TE", "upgrade", "x-hop", ""] {
        assert_eq!(code(&head("/", &[("connection", value)])), "ok", "{value}");
    }
}

#[test]
fn a_browser_on_another_site_is_refused() {
    for (fields, passes) in BROWSER_CASES {
        assert_eq!(code(&head("/", fields)), if passes { "ok" } else { "browser_request" }, "{fields:?}");
    }
    let desk = [("origin", "https://desk.example.com"), ("sec-fetch-site", "cross-site")];
    assert_eq!(code(&head("/", &desk)), "ok");
    let behind_tls = Policy { is_tls: true, ..policy() };
    for (origin, expected) in [("https://localhost:8080", "ok"), ("http://localhost:8080", "browser_request")]
    {
        assert_eq!(code_under(&head("/", &[("origin", origin)]), &behind_tls), expected, "{origin}");
    }
}

#[test]
fn the_required_header_must_have_its_value() {
    let mut policy = policy();
    policy.required_header =
        Some(RequiredHeader { name: HeaderName::from_static("x-bearerd"), value: "yes".to_owned() });

    assert_eq!(code_under(&head("/", &[("x-bearerd", "yes")]), &policy), "ok");
    for wrong in ["no", "Yes", "YES", "yes, yes", "yes ", ""] {
        assert_eq!(code_under(&head("/", &[("x-bearerd", wrong)]), &policy), "header_required", "{wrong}");
    }
    assert_eq!(code_under(&head("/", &[]), &policy), "header_required");
}

#[test]
fn a_request_with_this_daemon_in_its_cdn_loop_is_a_loop() {
    for (value, expected) in [
        ("other, bearerd-11", "loop_detected"),
        ("bearerd-11 ; v=1", "loop_detected"),
        ("bearerd-22", "ok"),
        ("bearerd-111, x; by=bearerd-11", "ok"),
    ] {
        assert_eq!(code(&head("/", &[("cdn-loop", value)])), expected, "{value}");
    }
    assert_eq!(code(&head("/", &[("cdn-loop", "a"), ("cdn-loop", "bearerd-11")])), "loop_detected");
    assert_eq!(code(&head("/", &[("via", "1.1 bearerd-11")])), "ok");
}

proptest! {
    #[test]
    fn no_head_panics_and_an_accepted_path_has_one_meaning(
        path in "/[-a-zA-Z0-9%./;:@!$&'()*+,=~_]{0,40}",
        host in "\\PC{0,20}",
        origin in proptest::option::of("[ -~]{0,30}"),
    ) {
        let mut fields = vec![("host", host.as_str())];
        fields.extend(origin.as_deref().map(|origin| ("origin", origin)));
        let Ok(request) = fields
            .iter()
            .fold(Request::builder().uri(path.as_str()), |request, (name, value)| request.header(*name, *value))
            .body(())
        else {
            return Ok(());
        };
        let head = request.into_parts().0;
        let _ = vet(&head, Present::among(&head.headers), &policy());

        if let Ok(is_ambiguous) = check_path(head.uri.path()) {
            let decoded = percent_decode(head.uri.path().as_bytes()).collect::<Vec<u8>>();
            let segments: Vec<&[u8]> = decoded.split(|byte| *byte == b'/').collect();
            prop_assert!(!segments.contains(&&b"."[..]) && !segments.contains(&&b".."[..]));
            prop_assert!(is_ambiguous || !head.uri.path().contains("//"));
            let written = head.uri.path().split('/').count();
            prop_assert!(is_ambiguous || segments.len() == written);
        }
    }
}
