//! Which requests are authorized: a table of request heads.

use std::net::Ipv4Addr;

use http::Request;

use super::*;
use crate::config::{Config, fixture};
use crate::http::fixture::BROWSER_CASES;

const LOOPBACK: &str = "[admin]\nlisten = \"127.0.0.1:9090\"";
const WITH_TOKEN: &str = "[admin]\nlisten = \"127.0.0.1:9090\"\ntoken = \"right\"";
const ELSEWHERE: &str = "[admin]\nlisten = \"192.0.2.1:9090\"";
const ELSEWHERE_WITH_TOKEN: &str = "[admin]\nlisten = \"0.0.0.0:9090\"\ntoken = \"right\"";

fn access(admin: &str) -> Access {
    let Config { admin, .. } = fixture::config(admin, "", "x");
    Access::new(&admin, admin.listen)
}

fn head(uri: &str, fields: &[(&str, &str)]) -> Parts {
    let request =
        fields.iter().fold(Request::post(uri), |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

async fn code(access: &Access, fields: &[(&str, &str)]) -> Option<&'static str> {
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    access.check(&head("/credentials/c/refresh", fields), peer).await.err().map(|problem| problem.code)
}

#[tokio::test]
async fn without_a_token_the_api_is_available_only_on_loopback() {
    let host = ("host", "127.0.0.1:9090");
    assert_eq!(code(&access(LOOPBACK), &[host]).await, None);
    assert_eq!(code(&access("[admin]\nlisten = \"[::ffff:127.0.0.1]:9090\""), &[host]).await, None);
    for elsewhere in [ELSEWHERE, "[admin]\nlisten = \"0.0.0.0:9090\"", "[admin]\nlisten = \"[::]:9090\""] {
        let shown = [host, ("authorization", "Bearer right")];
        assert_eq!(code(&access(elsewhere), &shown).await, Some("admin_token_not_set"), "{elsewhere}");
    }
}

#[tokio::test]
async fn on_loopback_host_must_name_loopback() {
    let ours =
        ["localhost", "LOCALHOST:9090", "127.0.0.1", "127.0.0.1:1", "127.1.2.3", "[::1]:9090", "[::1]"];
    let others = [
        "rebind.evil.test:9090",
        "localhost.evil.test",
        "127.0.0.1.evil.test",
        "u@localhost",
        "192.0.2.1",
        "",
        "localhost:65536",
    ];
    for admin in [LOOPBACK, WITH_TOKEN] {
        let access = access(admin);
        let shown = ("authorization", "Bearer right");
        for host in ours {
            assert_eq!(code(&access, &[("host", host), shown]).await, None, "{host}");
        }
        for host in others {
            assert_eq!(code(&access, &[("host", host), shown]).await, Some("host_not_allowed"), "{host}");
        }
        assert_eq!(code(&access, &[shown]).await, Some("host_not_allowed"));
        let two = [("host", "localhost"), ("host", "localhost"), shown];
        assert_eq!(code(&access, &two).await, Some("host_not_allowed"));
    }
    // A target in absolute form must name the same host.
    let peer = IpAddr::V4(Ipv4Addr::LOCALHOST);
    for (uri, is_ours) in [("http://localhost/x", true), ("http://evil.test/x", false)] {
        let outcome = access(LOOPBACK).check(&head(uri, &[("host", "localhost")]), peer).await;
        assert_eq!(outcome.is_ok(), is_ours, "{uri}");
    }
    // Beyond loopback the token suffices.
    let elsewhere = [("host", "bearerd.internal"), ("authorization", "Bearer right")];
    assert_eq!(code(&access(ELSEWHERE_WITH_TOKEN), &elsewhere).await, None);
}

#[tokio::test]
async fn host_may_name_the_listening_address() {
    let access = Access { listen: "127.0.0.1:9090".parse().unwrap(), ..access(LOOPBACK) };
    let own = |text| Authority::parse(text).unwrap();
    assert!(access.is_own(own("127.0.0.1")));
    let elsewhere = Access { listen: "192.0.2.7:9090".parse().unwrap(), ..access };
    assert!(elsewhere.is_own(own("192.0.2.7")) && !elsewhere.is_own(own("192.0.2.8")));
}

#[tokio::test]
async fn a_page_of_another_site_is_refused() {
    for (fields, passes) in BROWSER_CASES {
        let expected = (!passes).then_some("browser_request");
        let mut fields = [&[("host", "localhost:8080")], fields].concat();
        assert_eq!(code(&access(LOOPBACK), &fields).await, expected, "{fields:?}");
        fields.push(("authorization", "Bearer right"));
        assert_eq!(code(&access(WITH_TOKEN), &fields).await, expected, "{fields:?}");
    }
}

#[tokio::test]
async fn a_configured_token_must_be_sent_once_and_correctly() {
    let host = ("host", "127.0.0.1:9090");
    let access = access(WITH_TOKEN);
    for (shown, expected) in [
        (vec![], Some("admin_token_required")),
        (vec!["Basic cmlnaHQ="], Some("admin_token_required")),
        (vec!["right"], Some("admin_token_required")),
        (vec!["Bearer right", "Bearer right"], Some("admin_token_required")),
        (vec!["Bearer wrong"], Some("admin_token_wrong")),
        (vec!["Bearer "], Some("admin_token_wrong")),
        (vec!["Bearer right"], None),
        (vec!["bearer  right"], None),
    ] {
        let mut fields = vec![host];
        fields.extend(shown.iter().map(|shown| ("authorization", *shown)));
        assert_eq!(code(&access, &fields).await, expected, "{shown:?}");
    }
}

#[tokio::test]
async fn after_a_burst_of_wrong_tokens_the_right_one_is_refused_too() {
    let host = ("host", "127.0.0.1:9090");
    let access = access(WITH_TOKEN);
    for _ in 0..10 {
        assert_eq!(
            code(&access, &[host, ("authorization", "Bearer wrong")]).await,
            Some("admin_token_wrong")
        );
        assert_eq!(code(&access, &[host, ("authorization", "Bearer right")]).await, None);
    }
    for token in ["Bearer wrong", "Bearer right"] {
        assert_eq!(code(&access, &[host, ("authorization", token)]).await, Some("too_many_wrong_tokens"));
    }
    // Other addresses are not locked out.
    let other = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
    let shown = head("/", &[host, ("authorization", "Bearer right")]);
    assert!(access.check(&shown, other).await.is_ok());
}
