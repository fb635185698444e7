//! Which requests are authorized: a table of request heads.

use std::net::{Ipv4Addr, SocketAddr};

use http::Request;

use super::*;
use crate::config::{Config, fixture};
use crate::http::fixture::BROWSER_CASES;

const LOOPBACK: &str = "[admin]\nlisten = \"127.0.0.1:9090\"";
const WITH_TOKEN: &str = "[admin]\nlisten = \"127.0.0.1:9090\"\ntoken = \"right\"";
const ELSEWHERE: &str = "[admin]\nlisten = \"192.0.2.1:9090\"";
const SOCKET: &str = "[admin]\nlisten = \"unix:/run/admin.sock\"";
const PEER: Client = Client::Network(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1));

fn access(admin: &str) -> Access {
    with_own(admin, None)
}

/// The access of a daemon with a token of its own, or without.
fn with_own(admin: &str, own: Option<&str>) -> Access {
    let Config { admin, .. } = fixture::config(admin, "", "x");
    Access::new(&admin, &admin.listen.clone(), own.map(SecretString::from).as_ref())
}

/// Beyond loopback, with a token.
fn elsewhere_with_token() -> Access {
    Access { reach: Reach::Network, takes_any_host: true, ..access(WITH_TOKEN) }
}

fn head(uri: &str, fields: &[(&str, &str)]) -> Parts {
    let request =
        fields.iter().fold(Request::post(uri), |request, (name, value)| request.header(*name, *value));
    request.body(()).unwrap().into_parts().0
}

async fn code(access: &Access, fields: &[(&str, &str)]) -> Option<&'static str> {
    needs(access, Need::Change, fields).await
}

async fn needs(access: &Access, need: Need, fields: &[(&str, &str)]) -> Option<&'static str> {
    access.check(&head("/x", fields), PEER, need).await.err().map(|problem| problem.code)
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
    for (uri, is_ours) in [("http://localhost/x", true), ("http://evil.test/x", false)] {
        let outcome = access(LOOPBACK).check(&head(uri, &[("host", "localhost")]), PEER, Need::Change).await;
        assert_eq!(outcome.is_ok(), is_ours, "{uri}");
    }
    // Beyond loopback the token suffices.
    let elsewhere = [("host", "bearerd.internal"), ("authorization", "Bearer right")];
    assert_eq!(code(&elsewhere_with_token(), &elsewhere).await, None);
}

#[tokio::test]
async fn host_may_name_the_listening_address() {
    let own = |text| Authority::parse(text).unwrap();
    assert!(access(LOOPBACK).is_own(own("127.0.0.1")));
    assert!(access(SOCKET).is_own(own("localhost")) && !access(SOCKET).is_own(own("evil.test")));
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
        // Without a colon.
        (vec!["Basic cmlnaHQ="], Some("admin_token_required")),
        (vec!["Basic ?"], Some("admin_token_required")),
        (vec!["Basic YW55OnJpZ2h0"], None),
        (vec!["bAsIc  OnJpZ2h0"], None),
        // The token as the user name, and a password with a colon.
        (vec!["Basic cmlnaHQ6"], Some("admin_token_wrong")),
        (vec!["Basic YTpyaWdodDo="], Some("admin_token_wrong")),
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
    let other = Client::Network((Ipv4Addr::new(127, 0, 0, 2), 1).into());
    let shown = head("/", &[host, ("authorization", "Bearer right")]);
    assert!(access.check(&shown, other, Need::Change).await.is_ok());
}

const NEEDS: [Need; 5] = [Need::Metrics, Need::Overview, Need::Read, Need::Change, Need::Grant];

/// Which requests need a token, by how the address is reached and which token there is.
#[tokio::test]
async fn what_needs_a_token() {
    let host = ("host", "localhost");
    let beyond = |access: Access| Access { reach: Reach::Network, takes_any_host: true, ..access };
    let required = Some("admin_token_required");
    let not_set = Some("admin_token_not_set");
    for (access, expected) in [
        (access(LOOPBACK), [None; 5]),
        (with_own(LOOPBACK, Some("own")), [None, None, None, None, required]),
        (access(WITH_TOKEN), [None, None, required, required, required]),
        (beyond(access(LOOPBACK)), [None, not_set, not_set, not_set, not_set]),
        (beyond(access(WITH_TOKEN)), [None, required, required, required, required]),
        // The daemon's own token does not cross a network in the clear.
        (with_own(ELSEWHERE, Some("own")), [None, not_set, not_set, not_set, not_set]),
        (access(SOCKET), [None; 5]),
        (with_own(SOCKET, Some("own")), [None; 5]),
        (access(&format!("{SOCKET}\ntoken = \"right\"")), [None; 5]),
        (
            Access { metrics_token: true, ..with_own(LOOPBACK, Some("own")) },
            [required, None, None, None, required],
        ),
        (Access { metrics_token: true, ..access(LOOPBACK) }, [not_set, None, None, None, None]),
    ] {
        for (need, expected) in NEEDS.into_iter().zip(expected) {
            assert_eq!(needs(&access, need, &[host]).await, expected, "{need:?} {access:?}");
            let is_configured = access.token.as_ref().is_some_and(|token| token.is_configured());
            let right = if is_configured { "Bearer right" } else { "Bearer own" };
            let shown = [host, ("authorization", right)];
            let expected = expected.filter(|code| *code == "admin_token_not_set");
            assert_eq!(needs(&access, need, &shown).await, expected, "{need:?} {access:?}");
        }
    }
}

#[tokio::test]
async fn a_wrong_token_is_refused_also_where_none_is_needed() {
    let fields = [("host", "localhost"), ("authorization", "Bearer wrong")];
    for (admin, client) in [(LOOPBACK, PEER), (SOCKET, Client::Unix)] {
        let access = with_own(admin, Some("own"));
        for need in NEEDS {
            let outcome = access.check(&head("/x", &fields), client, need).await;
            assert_eq!(outcome.unwrap_err().code, "admin_token_wrong", "{admin} {need:?}");
        }
    }
    // No lock-out over a unix socket: its clients are admitted by the mode of its file.
    let access = with_own(SOCKET, Some("own"));
    for _ in 0..30 {
        let outcome = access.check(&head("/x", &fields), Client::Unix, Need::Grant).await;
        assert_eq!(outcome.unwrap_err().code, "admin_token_wrong");
    }
    assert!(access.check(&head("/x", &fields[..1]), Client::Unix, Need::Grant).await.is_ok());
}

#[tokio::test]
async fn health_checks_have_any_host_but_no_page_of_another_site() {
    let Config { admin, .. } = fixture::config(LOOPBACK, "", "x");
    let access = Access::of_health(&admin, &admin.listen, None);
    for host in ["10.1.2.3:9091", "bearerd.internal", "rebind.evil.test"] {
        assert_eq!(needs(&access, Need::Metrics, &[("host", host)]).await, None);
        let site = [("host", host), ("origin", "http://evil.test")];
        assert_eq!(needs(&access, Need::Metrics, &site).await, Some("browser_request"));
    }
}
