//! `bearerd check --online` with good and failing peers.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use testkit::authorization_server::{Answer, AuthorizationServer};
use testkit::pki::Pki;

use crate::harness::{Upstream, spawn};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

/// The peers, and the configuration that names them.
struct Peers {
    authorization: AuthorizationServer,
    upstream: Upstream,
    pki: Pki,
}

impl Peers {
    async fn start() -> Self {
        let authorization = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
        let pki = Pki::new(&["localhost"]).unwrap();
        let tls = pki.server_config(&[b"http/1.1"]).unwrap();
        let upstream = Upstream::start(Some(tls), authorization.introspection(), true).await;
        Self { authorization, upstream, pki }
    }

    fn config(&self, credential: &str) -> String {
        configuration(
            &self.authorization.token_url(),
            credential,
            &self.upstream.url(),
            "ca_file = \"ca.pem\"",
        )
    }

    /// Runs the command; returns the exit code and the output, which has no secret.
    async fn check(&self, config: &str) -> (i32, String) {
        self.check_with(config, CLIENT_SECRET).await
    }

    async fn check_with(&self, config: &str, secret: &str) -> (i32, String) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
        std::fs::write(folder.path().join("ca.pem"), self.pki.authority_pem()).unwrap();
        let environment = [("API_SECRET".to_owned(), secret.to_owned())];
        let mut process = spawn(&["check", "--online"], &environment, folder.path());
        let code = process.ended().await.code().unwrap();
        let output = process.output();
        assert!(!output.contains("panicked"), "{output}");
        assert_absent(&output, secret);
        for token in self.authorization.issued() {
            assert_absent(&output, &token);
        }
        (code, output)
    }
}

fn configuration(token_url: &str, credential: &str, upstream: &str, route: &str) -> String {
    format!(
        "[credentials.api]\ntoken_url = \"{token_url}\"\nclient_id = \"{CLIENT_ID}\"\n\
         client_secret = {{ env = \"API_SECRET\" }}\n{credential}\n\
         [[routes]]\nupstream = \"{upstream}\"\ncredential = \"api\"\n{route}\n"
    )
}

/// A page of a proxy, longer than what is read of a token response.
fn page(status: u16) -> Answer {
    let title = "<!DOCTYPE html><html><head><title>Zugriff &uuml;ber den Proxy gesperrt</title>"
        .replace("&uuml;", "&#252;");
    let body = title + &"<p>gesperrt</p>".repeat(10_000);
    Answer::Fixed { status, fields: vec![("content-type", "text/html; charset=utf-8".to_owned())], body }
}

#[track_caller]
fn says(output: &str, texts: &[&str]) {
    for text in texts {
        assert!(output.contains(text), "no {text:?} in:\n{output}");
    }
}

#[tokio::test]
async fn check_online_asks_each_peer_once_and_reports_it() {
    let peers = Peers::start().await;
    let second = format!(
        "[[routes]]\npath = \"/other\"\nupstream = \"{}/base\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n",
        peers.upstream.url()
    );

    let (code, output) = peers.check(&(peers.config("scopes = [\"a\", \"b\"]") + &second)).await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["proxy.toml: ok (2 routes, 1 credential)", "credential `api`: ok (", "lifetime     1h"]);
    says(&output, &["client_credentials, client_secret_basic", "requested    a b", "token        opaque"]);
    says(&output, &["granted      as requested", "clock        same as the server's"]);
    says(&output, &["upstream https://localhost:", ": ok (", "tls          1.3", "address      127.0.0.1:"]);
    says(&output, &["certificate  expires on "]);
    assert_eq!(peers.authorization.requests(), 1);
    assert_eq!(output.matches("upstream https").count(), 1, "{output}");
    assert!(!output.contains("warning") && !output.contains("error"), "{output}");
}

#[tokio::test]
async fn a_wrong_secret_fails_with_the_servers_error_and_advice() {
    let peers = Peers::start().await;

    let (code, output) = peers.check_with(&peers.config(""), "another-secret-altogether").await;

    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &["credential `api`: FAILED (", "status 401", "invalid_client", "check `client_id`, the secret"],
    );
    says(&output, &["upstream https://localhost", "1 of 2 failed"]);
}

#[tokio::test]
async fn the_second_client_secret_is_tried_as_the_daemon_would() {
    let peers = Peers::start().await;
    let next = format!("client_secret_next = \"{CLIENT_SECRET}\"");
    let (code, output) = peers.check_with(&peers.config(&next), "replaced-at-the-platform").await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["rejects `client_secret`, and accepts `client_secret_next`"]);
    assert_absent(&output, CLIENT_SECRET);
    assert_eq!(peers.authorization.requests(), 2);
}

#[tokio::test]
async fn a_server_that_expects_the_secret_form_encoded_is_reported() {
    let peers = Peers::start().await;
    peers.authorization.expect_form_encoding();
    let (code, output) = peers.check(&peers.config("")).await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["as they are, and accepts them form-encoded", "set `basic_encoding` to \"form\""]);
    assert_eq!(peers.authorization.requests(), 2);

    let (code, output) = peers.check(&peers.config("basic_encoding = \"form\"")).await;
    assert_eq!((code, output.contains("form-encoded")), (0, false), "{output}");
}

#[tokio::test]
async fn missing_scopes_are_named_with_the_granted_ones() {
    let peers = Peers::start().await;
    let granted =
        || Answer::status(200, r#"{"access_token":"{token}","expires_in":60,"scope":"a \u001b[31mx"}"#);

    peers.authorization.answer_next(granted());
    let (code, output) = peers.check(&peers.config("scopes = [\"a\", \"b\"]\nrequire_scopes = true")).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["without the required scopes: b", "granted      a ?[31mx", "required     a b"]);
    says(&output, &["have the provider allow them for this client"]);

    // Scopes that are not required are reported and no failure.
    peers.authorization.answer_next(granted());
    let (code, output) = peers.check(&peers.config("scopes = [\"a\", \"b\", \"offline_access\"]")).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["warning: requested scopes were not granted: b\n", "lifetime     1m"]);

    // A required scope that is not requested.
    peers.authorization.answer_next(granted());
    let (code, output) = peers.check(&peers.config("scopes = [\"a\"]\nrequire_scopes = [\"c\"]")).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["add c to `scopes`"]);
}

#[tokio::test]
async fn a_jwts_issuer_audience_and_tenant_are_shown_without_the_token() {
    let peers = Peers::start().await;
    let said = r#"{"iss":"https://as.test","aud":["one","two"],"tenantId":"t-1","exp":1}"#;
    let jwt = format!("e30.{}.c2lnbmF0dXJlLXRoYXQtaXMtc2VjcmV0", URL_SAFE_NO_PAD.encode(said));
    let fields = vec![("date", "Sun, 06 Nov 1994 08:49:37 GMT".to_owned())];
    let body = format!("{{\"access_token\":\"{jwt}\",\"expires_in\":60}}");
    let answer = Answer::Fixed { status: 200, fields, body };

    peers.authorization.answer_next(answer.clone());
    let (code, output) = peers.check(&peers.config("")).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["a JWT: iss https://as.test, aud one two, tenantId t-1", "ahead of the server's"]);
    says(&output, &["warning: this machine's clock is", "with NTP"]);
    assert_absent(&output, &jwt);
    assert!(!output.contains("c2lnbmF0dXJl"), "{output}");

    // The token has ended by its `exp`.
    peers.authorization.answer_next(answer);
    let (code, output) = peers.check(&peers.config("expect_jwt = true")).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["has ended already", "compare this machine's clock"]);

    let (code, output) = peers.check(&peers.config("expect_jwt = true")).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["does not have the form of a JWT", "remove `expect_jwt`"]);
}

#[tokio::test]
async fn a_claim_that_quotes_the_secret_is_withheld() {
    let peers = Peers::start().await;
    let said = serde_json::json!({ "iss": CLIENT_SECRET, "aud": "fine" }).to_string();
    let jwt = format!("e30.{}.sig", URL_SAFE_NO_PAD.encode(said));
    peers.authorization.answer_next(Answer::status(200, &format!("{{\"access_token\":\"{jwt}\"}}")));

    let (code, output) = peers.check(&peers.config("")).await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["iss (withheld", "aud fine", "not stated in the response; default_lifetime is 5m"]);
}

#[tokio::test]
async fn a_proxy_before_the_token_endpoint_is_named_as_a_possible_cause() {
    let peers = Peers::start().await;
    // The port's former listener has ended.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = configuration(
        "https://login.example.com/token",
        &format!("proxy = \"http://{free}\""),
        &peers.upstream.url(),
        "ca_file = \"ca.pem\"",
    );

    let (code, output) = peers.check(&config).await;

    assert_eq!(code, 1, "{output}");
    says(&output, &["credential `api`: FAILED (", "check the proxy", "HTTPS_PROXY", "disables it"]);
}

#[tokio::test]
async fn an_unreachable_token_endpoint_fails_in_time_and_the_rest_is_checked() {
    let peers = Peers::start().await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let upstream = peers.upstream.url();
    let config = configuration(&format!("http://{free}/token?k=v"), "", &upstream, "ca_file = \"ca.pem\"");

    let (code, output) = peers.check(&config).await;
    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &["did not answer", "refused", "check the host in `token_url`", &format!("http://{free}/token\n")],
    );
    says(&output, &["tls          1.3", "1 of 2 failed"]);

    peers.authorization.answer_next(Answer::Late(Duration::from_mins(1)));
    let (code, output) = peers.check(&peers.config("timeout = \"300ms\"")).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &["no complete answer in time"]);
}

#[tokio::test]
async fn redirects_limits_and_pages_are_told_apart() {
    let peers = Peers::start().await;
    for (answer, texts) in [
        (Answer::status(302, ""), ["status 302", "follows no redirects"]),
        (Answer::too_many(7), ["limits the rate", "too many token requests"]),
        (
            Answer::status(200, "<html>"),
            ["its body is an HTML page", "check that `token_url` is a token endpoint"],
        ),
        (
            page(200),
            [
                "an HTML page, titled \"Zugriff über den Proxy gesperrt\"",
                "check that `token_url` is a token endpoint",
            ],
        ),
        (
            page(403),
            [
                "(status 403): its body is an HTML page, titled \"Zugriff über den Proxy gesperrt\"",
                "no proxy, firewall",
            ],
        ),
        (page(503), ["(status 503): its body is an HTML page, titled", "no proxy, firewall"]),
        (
            Answer::Fixed {
                status: 200,
                fields: vec![("content-encoding", "gzip".to_owned())],
                body: "\u{1f}\u{fffd}".to_owned(),
            },
            ["its body is compressed (gzip)", "no proxy, firewall"],
        ),
        (
            Answer::status(400, r#"{"error":"invalid_scope","error_description":"権限がありません"}"#),
            ["invalid_scope, \"権限がありません\"", "the scopes in `scopes`"],
        ),
        (Answer::status(503, ""), ["answered 503", "try again later"]),
        (Answer::status(400, r#"{"error":"invalid_scope"}"#), ["invalid_scope", "the scopes in `scopes`"]),
        (Answer::status(404, ""), ["status 404", "check that `token_url` is a token endpoint"]),
    ] {
        peers.authorization.answer_next(answer);
        let (code, output) = peers.check(&peers.config("")).await;
        assert_eq!(code, 1, "{output}");
        says(&output, &texts);
    }
}

#[tokio::test]
async fn an_upstream_with_a_foreign_certificate_fails() {
    let peers = Peers::start().await;
    let foreign = Pki::new(&["localhost"]).unwrap();
    let tls = foreign.server_config(&[b"http/1.1"]).unwrap();
    let other = Upstream::start(Some(tls), peers.authorization.introspection(), true).await;
    let token_url = peers.authorization.token_url();

    let (code, output) =
        peers.check(&configuration(&token_url, "", &other.url(), "ca_file = \"ca.pem\"")).await;

    assert_eq!(code, 1, "{output}");
    says(
        &output,
        &[
            "credential `api`: ok",
            "tls handshake failed",
            "invalid peer certificate",
            "help: replace `ca_file` by the present certificate",
        ],
    );
    assert!(other.violations().is_empty());
}

#[tokio::test]
async fn an_upstream_that_refuses_fails_and_plain_http_on_loopback_is_fine() {
    let peers = Peers::start().await;
    let token_url = peers.authorization.token_url();
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();

    let (code, output) = peers.check(&configuration(&token_url, "", &format!("http://{free}"), "")).await;
    assert_eq!(code, 1, "{output}");
    says(&output, &[&format!("upstream http://{free}: FAILED"), "refused", "nothing listens there"]);

    let plain = Upstream::start(None, peers.authorization.introspection(), true).await;
    let (code, output) = peers.check(&configuration(&token_url, "", &plain.url(), "")).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["none: plain http, on this machine", "http         1.1"]);
    let route = "http_version = \"2\"";
    let (_, output) = peers.check(&configuration(&token_url, "", &plain.url(), route)).await;
    says(&output, &["http         2"]);

    let tls = peers.pki.server_config(&[b"h2", b"http/1.1"]).unwrap();
    let http2 = Upstream::start(Some(tls), peers.authorization.introspection(), true).await;
    let route = "ca_file = \"ca.pem\"";
    let (_, output) = peers.check(&configuration(&token_url, "", &http2.url(), route)).await;
    says(&output, &["tls          1.3", "http         2"]);
}

#[tokio::test]
async fn a_certificate_that_expires_soon_is_a_warning_and_no_failure() {
    let peers = Peers::start().await;
    let end = SystemTime::now() + Duration::from_hours(24 * 10 + 1);
    let soon = Pki::ending(&["localhost"], end).unwrap();
    let tls = soon.server_config(&[b"http/1.1"]).unwrap();
    let upstream = Upstream::start(Some(tls), peers.authorization.introspection(), true).await;
    let token_url = peers.authorization.token_url();
    let with_soon = Peers { authorization: peers.authorization, upstream, pki: soon };

    let config = configuration(&token_url, "", &with_soon.upstream.url(), "ca_file = \"ca.pem\"");
    let (code, output) = with_soon.check(&config).await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["warning: the upstream's certificate expires in 10 days", "renew the certificate"]);
}

#[tokio::test]
async fn an_unused_credential_fails_without_consequence_and_a_bad_file_asks_nobody() {
    let peers = Peers::start().await;
    let unused = format!(
        "[credentials.unused]\ntoken_url = \"{}\"\nclient_id = \"another\"\nclient_secret = {{ env = \"API_SECRET\" }}\n",
        peers.authorization.token_url()
    );

    let (code, output) = peers.check(&(unused + &peers.config(""))).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["credential `unused`: FAILED (", "; no route uses it)"]);

    let before = peers.authorization.requests();
    let (code, _) = peers.check(&peers.config("client_auth = \"no such\"")).await;
    assert_eq!((code, peers.authorization.requests()), (78, before));
}

#[tokio::test]
async fn check_online_uses_no_refresh_token() {
    let peers = Peers::start().await;
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let credential = format!(
        "grant = \"refresh_token\"\nrefresh_token = {{ env = \"API_SECRET\" }}\n\
         state_file = \"api.state\"\nstate_key = \"{key}\""
    );

    let (code, output) = peers.check(&peers.config(&credential)).await;

    assert_eq!(code, 0, "{output}");
    says(&output, &["refresh_token, client_secret_basic", "no token was requested"]);
    assert_eq!(peers.authorization.requests(), 0);
}

#[tokio::test]
async fn a_missing_refresh_token_is_a_failure_unless_there_is_a_fallback() {
    let peers = Peers::start().await;
    let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let state = format!("state_file = \"api.state\"\nstate_key = \"{key}\"");
    for (grant, remedy) in [
        ("grant = \"refresh_token\"", "set `refresh_token` to the refresh token that it issues"),
        ("grant = \"authorization_code\"\nauthorize_url = \"https://as.test/a\"", "`bearerd login api`"),
    ] {
        let (code, output) = peers.check(&peers.config(&format!("{grant}\n{state}"))).await;
        assert_eq!(code, 1, "{output}");
        says(&output, &["a person must authorize the client:", "there is no refresh token", remedy]);
        assert!(!output.contains("again"), "nobody has authorized the client before: {output}");
        assert_eq!(peers.authorization.requests(), 0);
    }

    let falling_back = format!("grant = \"refresh_token\"\nfallback = \"client_credentials\"\n{state}");
    let (code, output) = peers.check(&peers.config(&falling_back)).await;
    assert_eq!(code, 0, "{output}");
    says(&output, &["client_credentials, client_secret_basic", "the fallback grant is used", "lifetime"]);
    assert_eq!(peers.authorization.requests(), 1);
}
