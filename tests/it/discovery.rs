//! Discovery of the token endpoint from the issuer's metadata.

use std::time::Duration;

use rustix::process::Signal;
use testkit::authorization_server::{Answer, AuthorizationServer};

use crate::harness::{Setup, daemon, eventually, remains, spawn};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

const OAUTH: &str = "/.well-known/oauth-authorization-server";
const OPENID: &str = "/.well-known/openid-configuration";

fn setup() -> Setup {
    daemon().credential("issuer = \"{issuer}\"\nquota = { requests = 100, per = \"1s\" }")
}

fn not_there() -> Answer {
    Answer::status(404, "")
}

/// The issuer's document with these further members.
fn document(members: &str) -> Answer {
    Answer::status(200, &format!("{{\"issuer\":\"{{issuer}}\"{members}}}"))
}

#[tokio::test]
async fn a_token_endpoint_is_found_from_the_issuer_once_and_remembered() {
    let world = setup().lifetime(2).start().await;
    eventually("two more tokens", async || world.authorization.requests() >= 3).await;

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.metadata_asked(), [OAUTH]);
    world.finish().await;
}

#[tokio::test]
async fn the_issuers_path_is_placed_as_each_standard_says() {
    let oauth = format!("{OAUTH}/realms/x");
    let world = daemon()
        .credential("issuer = \"{issuer}/realms/x\"")
        .start_after(async |server| server.set_metadata(&oauth, not_there()))
        .await;

    assert_eq!(world.authorization.metadata_asked(), [oauth.clone(), format!("/realms/x{OPENID}")]);
    world.finish().await;
}

#[tokio::test]
async fn a_configured_token_endpoint_is_used_without_discovery() {
    let world = daemon().start_after(async |server| server.move_token_endpoint("/oauth/t")).await;
    assert_eq!(world.get("/x").await.status, 200);
    assert!(world.authorization.metadata_asked().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn a_moved_token_endpoint_is_discovered_again() {
    let world = setup().start().await;
    world.authorization.move_token_endpoint("/new/token");
    world.authorization.revoke_all();

    eventually("another token", async || world.get("/x").await.status == 200).await;

    assert_eq!(world.authorization.metadata_asked(), [OAUTH, OAUTH]);
    world.finish().await;
}

#[tokio::test]
async fn a_404_of_an_endpoint_that_has_not_moved_is_a_rejection() {
    let world = setup().start().await;
    for _ in 0..3 {
        world.authorization.answer_next(Answer::status(404, ""));
    }
    world.authorization.revoke_all();

    eventually("rejected", async || world.get("/x").await.code().as_deref() == Some("client_rejected")).await;

    assert_eq!(world.authorization.requests(), 3);
    assert_eq!(world.authorization.metadata_asked(), [OAUTH, OAUTH]);
    world.finish().await;
}

/// The endpoint that the older metadata names has answered, whatever its status.
#[tokio::test]
async fn a_404_with_the_refusal_of_a_grant_is_that_refusal_at_once() {
    let world = setup().start().await;
    world.authorization.answer_next(Answer::status(404, r#"{"error":"invalid_grant"}"#));
    world.authorization.revoke_all();

    eventually("rejected", async || world.get("/x").await.code().as_deref() == Some("client_rejected")).await;

    assert_eq!(world.authorization.requests(), 2);
    let event = world.process.event("token refresh failed").await;
    assert!(event["error"].as_str().unwrap().contains("invalid_grant"), "{event}");
    world.finish().await;
}

#[tokio::test]
async fn an_unreachable_issuers_last_document_stays_in_use() {
    let world = setup().start().await;
    for path in [OAUTH, OPENID] {
        world.authorization.set_metadata(path, Answer::status(500, ""));
    }
    world.authorization.answer_next(Answer::Hangup);
    world.authorization.revoke_all();

    eventually("another token", async || world.get("/x").await.status == 200).await;

    assert_eq!(world.authorization.requests(), 3);
    assert_eq!(world.authorization.metadata_asked(), [OAUTH, OAUTH, OPENID]);
    world.finish().await;
}

/// A reload that only concerns how tokens are requested keeps what the issuer has said, also while the issuer is away.
#[tokio::test]
async fn a_reload_keeps_the_document_of_an_issuer_that_is_unreachable() {
    let world = setup().start().await;
    for path in [OAUTH, OPENID] {
        world.authorization.set_metadata(path, Answer::status(500, ""));
    }
    let config = world.folder().join("proxy.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let changed = text.replace("[credentials.api]", "[credentials.api]\nconnect_timeout = \"4s\"");
    assert_ne!(text, changed);
    std::fs::write(&config, changed).unwrap();
    world.process.signal(Signal::HUP);
    world.process.event("configuration reloaded").await;
    world.authorization.revoke_all();

    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

/// A failed discovery is retried with the backoff of every failure.
#[tokio::test]
async fn an_unanswering_issuer_is_asked_with_the_backoff_of_a_token_endpoint() {
    let world =
        setup().without_token().start_after(async |server| server.set_metadata(OAUTH, Answer::Hangup)).await;
    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    let event = world.process.event("token refresh failed").await;
    assert_eq!(event["outcome"], "discovery");
    assert!(event["error"].as_str().unwrap().contains("no answer"), "{event}");

    // Each attempt is one failure; without an answer the second well-known path is not tried.
    let asked = world.authorization.metadata_asked();
    let failures = world.process.events("token refresh failed").len();
    assert!(failures <= 5 && asked.len() <= failures + 1, "{failures} failures, {asked:?}");
    assert!(asked.iter().all(|path| path == OAUTH), "{asked:?}");
    assert_eq!(world.authorization.requests(), 0);
    world.finish().await;
}

#[tokio::test]
async fn an_issuers_retry_after_is_obeyed() {
    let world = setup()
        .without_token()
        .start_after(async |server| server.set_metadata(OAUTH, Answer::too_many(30)))
        .await;
    eventually("told", async || {
        world.get("/x").await.code().as_deref() == Some("token_endpoint_rate_limited")
    })
    .await;
    let time = Duration::from_millis(1200);
    remains("asked once", time, async || world.authorization.metadata_asked() == [OAUTH]).await;
    world.finish().await;
}

#[tokio::test]
async fn a_method_that_the_issuer_does_not_list_is_warned_of_once() {
    let world = setup()
        .lifetime(2)
        .start_after(async |server| {
            server.set_metadata(
                OAUTH,
                document(
                    ",\"token_endpoint\":\"{issuer}/token\",\"grant_types_supported\":[\"password\"],\
                     \"token_endpoint_auth_methods_supported\":[\"client_secret_basic\"]",
                ),
            );
        })
        .await;
    eventually("more tokens", async || world.authorization.requests() >= 2).await;

    let told = world.process.events("issuer's metadata does not list what is configured");
    assert_eq!(told.len(), 1);
    assert_eq!(told[0]["not_listed"], "client_credentials");
    world.finish().await;
}

/// The exit code and the output of `bearerd check --online`.
async fn check_online(server: &AuthorizationServer, lines: &str) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("proxy.toml"),
        format!(
            "[credentials.api]\nclient_id = \"{CLIENT_ID}\"\nclient_secret = {{ env = \"API_SECRET\" }}\n{lines}\n\
             [[routes]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"api\"\n"
        ),
    )
    .unwrap();
    let environment = [("API_SECRET".to_owned(), CLIENT_SECRET.to_owned())];
    let mut process = spawn(&["check", "--online"], &environment, folder.path());
    let code = process.ended().await.code().unwrap();
    let output = process.output();
    assert!(!output.contains("panicked"), "{output}");
    assert_absent(&output, CLIENT_SECRET);
    for token in server.issued() {
        assert_absent(&output, &token);
    }
    (code, output)
}

#[tokio::test]
async fn a_hostile_or_malformed_document_is_refused_with_the_reason() {
    let redirect = || Answer::Fixed {
        status: 302,
        fields: vec![("location", "https://elsewhere.example.com/".to_owned())],
        body: String::new(),
    };
    let large = format!("{{\"issuer\":\"{}\"}}", "x".repeat(70_000));
    for (oauth, openid, says) in [
        (not_there(), not_there(), ["status 404", "check `issuer`"]),
        (
            Answer::Fixed {
                status: 200,
                fields: vec![("content-type", "text/html".to_owned())],
                body: "<html>Log in</html>".to_owned(),
            },
            not_there(),
            ["oauth-authorization-server: its body is an HTML page", "openid-configuration: status 404"],
        ),
        (not_there(), Answer::status(200, &large), ["larger than 64 KiB", "check `issuer`"]),
        (
            not_there(),
            Answer::status(200, "{\"issuer\":\"{issuer}/\",\"token_endpoint\":\"{issuer}/token\"}"),
            ["and not the configured one", "exactly the server's own value"],
        ),
        (not_there(), document(""), ["it has no `token_endpoint`", "set `token_url`"]),
        (
            document(",\"token_endpoint\":\"http://as.example.com/token\""),
            not_there(),
            ["its `token_endpoint` is not an https:// URL", "set `token_url`"],
        ),
        (redirect(), redirect(), ["a redirect, which is never followed (status 302)", "check `issuer`"]),
        (Answer::status(500, ""), Answer::Hangup, ["status 500; ", "no answer"]),
    ] {
        let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
        server.set_metadata(OAUTH, oauth);
        server.set_metadata(OPENID, openid);

        let (code, output) = check_online(&server, &format!("issuer = \"{}\"", server.issuer())).await;

        assert_eq!(code, 1, "{output}");
        for text in says.into_iter().chain(["credential `api`: FAILED", "the issuer does not tell where"]) {
            assert!(output.contains(text), "no {text:?} in:\n{output}");
        }
        assert_eq!(server.requests(), 0, "{output}");
        assert_eq!(server.metadata_asked(), [OAUTH, OPENID]);
    }
}

#[tokio::test]
async fn one_good_document_of_two_is_enough() {
    for bad in [document(""), Answer::status(200, "<html>"), Answer::status(500, "")] {
        let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
        server.set_metadata(OAUTH, bad);

        let (_, output) = check_online(&server, &format!("issuer = \"{}\"", server.issuer())).await;

        assert!(output.contains("credential `api`: ok"), "{output}");
        assert!(output.contains(&format!("issuer       {}\n", server.issuer())), "{output}");
        assert!(output.contains(&format!("token_url    {}\n", server.token_url())), "{output}");
        assert_eq!(server.requests(), 1);
    }
}

#[tokio::test]
async fn check_online_reports_an_unreachable_issuer_with_advice() {
    let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, None).await.unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();

    let (code, output) = check_online(&server, &format!("issuer = \"http://127.0.0.1:{port}\"")).await;

    assert_eq!(code, 1, "{output}");
    assert!(output.contains("check the host in `issuer`"), "{output}");
    assert!(output.contains("refused"), "{output}");
}
