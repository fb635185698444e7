//! `upstream = "discover"`: the issuer's document names the API's address, which is checked before use.

use std::time::Duration;

use testkit::authorization_server::{Answer, AuthorizationServer};
use testkit::pki::Pki;
use tokio::time::Instant;

use crate::harness::{Request, STEP_TIMEOUT, Setup, Upstream, World, daemon, eventually, spawn};
use testkit::harness::connect_proxy::{ConnectProxy, Does};
use testkit::harness::issuer::{Issuer, Says};
use testkit::harness::setup::{CLIENT_ID, CLIENT_SECRET};
use testkit::harness::world::assert_absent;

const TENANT: &str = "11eb-0f & co";

/// A world whose route discovers its upstream from this issuer.
fn setup(issuer: &Issuer) -> Setup {
    daemon()
        .credential(&format!("provider = \"cxone\"\nissuer = \"{}\"", issuer.url()))
        .credential("grant = \"client_credentials\"\nlogin_stub = []\nca_file = \"ca.pem\"")
        .upstream("discover".to_owned())
        .without_token()
}

/// Starts a world with tokens that name a tenant.
async fn start(setup: Setup) -> World {
    setup.start_after(async |server| server.set_tenant(TENANT)).await
}

async fn ready(world: &World) {
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
}

async fn found(issuer: &Issuer) -> World {
    let world = start(setup(issuer)).await;
    issuer.says(Says::Api(world.upstream.url()));
    ready(&world).await;
    world
}

#[tokio::test]
async fn requests_go_to_the_api_that_the_issuer_names_for_the_tokens_tenant() {
    let issuer = Issuer::start(Says::Hangs).await;
    issuer.says(Says::Status(503, String::new()));
    let world = found(&issuer).await;

    let reply = world.send(&Request::post("/echo?q=1", b"a body")).await;
    assert_eq!((reply.status, reply.text()), (200, "a body".to_owned()));
    // The upstream itself checks `Host`, in each of these tests.
    assert_eq!(world.upstream.requests().last().unwrap().target, "/echo?q=1");

    for asked in issuer.asked() {
        assert_eq!(asked.target, "/.well-known/cxone-configuration?tenantId=11eb-0f+%26+co");
        assert!(!asked.headers.contains_key("authorization") && !asked.headers.contains_key("cookie"));
        assert_eq!(asked.headers["accept"], "application/json");
    }
    let (_, verbose) = world.admin_get("/readyz?verbose").await;
    assert!(verbose.contains("[+] credential api has discovered its API\n"), "{verbose}");
    let event = world.process.event("api discovered").await;
    assert_eq!(event["api"], world.upstream.url());
    world.finish().await;
}

#[tokio::test]
async fn a_401_from_a_discovered_api_is_replayed() {
    let issuer = Issuer::start(Says::HangsUp).await;
    let world = found(&issuer).await;
    assert_eq!(world.get("/x").await.status, 200);

    world.authorization.revoke_all();

    assert_eq!(world.send(&Request::post("/echo", b"again")).await.text(), "again");
    assert_eq!(world.upstream.rejected(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_request_before_the_first_token_waits_for_the_token_and_the_address() {
    let issuer = Issuer::start(Says::Status(503, String::new())).await;
    let world = setup(&issuer)
        .start_after(async |server| {
            server.set_tenant(TENANT);
            server.answer_next(Answer::Late(Duration::from_millis(300)));
        })
        .await;
    issuer.says(Says::Api(world.upstream.url()));

    let reply = world.get("/x").await;

    assert_eq!(reply.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn without_an_address_requests_and_readyz_report_the_missing_address() {
    let issuer = Issuer::start(Says::Hangs).await;
    let world = start(setup(&issuer).limits("token_wait = \"300ms\"")).await;
    eventually("asked", async || !issuer.asked().is_empty()).await;
    let began = Instant::now();

    let reply = world.get("/x").await;

    assert!((Duration::from_millis(280)..STEP_TIMEOUT).contains(&began.elapsed()));
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("upstream_unavailable")));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=destination_not_found"));
    assert_eq!(reply.get("retry-after"), Some("1"));
    assert!(reply.text().contains("upstream = \\\"discover\\\""), "{}", reply.text());
    let (status, verbose) = world.admin_get("/readyz?verbose").await;
    assert_eq!(status, 503);
    assert!(verbose.contains("[+] credential api is valid\n"), "{verbose}");
    assert!(verbose.contains("[-] credential api has not discovered its API yet\n"), "{verbose}");
    world.finish().await;
}

#[tokio::test]
async fn a_missing_token_is_reported_as_a_missing_token_and_not_as_a_missing_address() {
    let issuer = Issuer::start(Says::Hangs).await;
    let world = setup(&issuer)
        .start_after(async |server| server.answer_next(Answer::status(400, r#"{"error":"invalid_client"}"#)))
        .await;
    eventually("rejected", async || world.authorization.requests() > 0).await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("client_rejected")));
    assert!(issuer.asked().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn a_credential_that_is_not_required_does_not_affect_readiness() {
    let issuer = Issuer::start(Says::HangsUp).await;
    let world = start(setup(&issuer).credential("required = false")).await;
    eventually("asked", async || !issuer.asked().is_empty()).await;
    assert_eq!(world.admin_status("/readyz").await, 200);
    let told = "[ ] credential api has not discovered its API yet, and is not required; the last discovery failed: \
                the issuer did not answer\n";
    eventually("told", async || world.admin_get("/readyz?verbose").await.1.contains(told)).await;
    world.finish().await;
}

#[tokio::test]
async fn a_malformed_document_or_a_refused_address_is_reported_with_the_reason() {
    let huge = format!("{{\"x\":\"{}\"}}", "x".repeat(70_000));
    for (says, reason) in [
        (Says::Status(404, "{}".to_owned()), "the issuer answered with status 404"),
        (Says::Status(500, String::new()), "the issuer answered with status 500"),
        (Says::Status(429, String::new()), "the issuer asks to be left alone for a while (status 429)"),
        (Says::Status(200, String::new()), "the issuer's document is not JSON with an `api_endpoint`"),
        (Says::Status(200, "{}".to_owned()), "the issuer's document is not JSON with an `api_endpoint`"),
        (Says::Status(200, r#"{"api_endpoint":5}"#.to_owned()), "the issuer's document is not JSON"),
        (Says::Html, "the issuer's document is not JSON with an `api_endpoint`"),
        (Says::Status(200, huge), "the issuer's document is larger than 64 KiB"),
        (Says::Redirect("/right".to_owned()), "the issuer answered with status 302"),
        (Says::HangsUp, "the issuer did not answer"),
        (
            Says::Api("https://api-na1.niceincontact.com".to_owned()),
            "the issuer is on loopback, and it is not",
        ),
        (Says::Api("http://169.254.169.254".to_owned()), "the issuer is on loopback, and it is not"),
        (Says::Api("https://u:s3cr3t-in-it@localhost".to_owned()), "it holds a user or a password"),
        (Says::Api("https://localhost/?x".to_owned()), "it has a query or a fragment"),
        (Says::Api("localhost".to_owned()), "it is not a plain URL"),
    ] {
        let issuer = Issuer::start(says.clone()).await;
        let world = start(setup(&issuer).limits("token_wait = \"0s\"")).await;
        let failed = world.process.event("discovery failed").await;
        assert!(failed["error"].as_str().unwrap().contains(reason), "{says:?}: {failed}");

        let reply = world.get("/x").await;

        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("upstream_unavailable")));
        assert!(reply.text().contains(reason), "{says:?}: {}", reply.text());
        assert!(!reply.text().contains("localhost"), "no address: {}", reply.text());
        assert!(issuer.asked().iter().all(|asked| asked.target.starts_with("/.well-known/")));
        assert!(!world.process.output().contains("s3cr3t-in-it"));
        assert!(world.upstream.requests().is_empty());
        world.finish().await;
    }
}

#[tokio::test]
async fn a_token_without_a_tenant_is_reported() {
    let issuer = Issuer::start(Says::Hangs).await;
    let world = setup(&issuer).limits("token_wait = \"1s\"").start().await;
    world.process.event("discovery failed").await;

    let reply = world.get("/x").await;

    assert_eq!(reply.code().as_deref(), Some("upstream_unavailable"));
    assert!(reply.text().contains("the access token names no tenant"), "{}", reply.text());
    assert!(issuer.asked().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn when_the_tenant_changes_new_requests_go_to_the_new_address() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let issuer = Issuer::start(Says::HangsUp).await;
    let tls = pki.server_config(&[b"http/1.1"]).unwrap();
    let setup = setup(&issuer).server("workers = 1").lifetime(3600);
    let world = setup.start_with(pki, async |server| server.set_tenant("one")).await;
    let other = Upstream::start(Some(tls), world.authorization.introspection(), true).await;
    issuer.says(Says::Api(world.upstream.url()));
    ready(&world).await;
    let mut slow = world.caller().await;
    let under_way = tokio::spawn(async move { slow.send(&Request::get("/slow/1500")).await });
    let has_come = || world.upstream.requests().iter().any(|request| request.target == "/slow/1500");
    eventually("under way", async || has_come()).await;
    assert_eq!(world.get("/before").await.status, 200);

    world.authorization.set_tenant("two");
    issuer.says(Says::Api(other.url()));
    // All tokens are revoked, and the next token names another tenant.
    world.authorization.revoke_all();
    let _ = world.get("/has-the-token-replaced").await;
    eventually("asked again", async || issuer.asked().last().unwrap().target.ends_with("tenantId=two")).await;
    eventually("moved", async || world.process.events("api discovered").len() == 2).await;

    let before = world.upstream.requests().len();
    for _ in 0..3 {
        assert_eq!(world.get("/after").await.status, 200);
    }
    assert_eq!(world.upstream.requests().len(), before, "nothing new at the old one");
    assert_eq!(other.requests().len(), 3);
    assert_eq!(other.connections(), 1);
    assert!(other.violations().is_empty(), "{:?}", other.violations());
    assert_eq!(under_way.await.unwrap().status, 200, "what was under way has ended where it was");
    world.finish().await;
}

#[tokio::test]
async fn an_api_endpoints_path_is_prepended_to_requests_and_removed_from_locations() {
    use testkit::harness::raw::{RawPeer, read_head};
    use tokio::io::AsyncWriteExt;

    let api = RawPeer::tcp(|mut stream| async move {
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        let target = head.split(' ').nth(1).unwrap();
        let host = head.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
        let answer = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{host}/base/next\r\nx-target: {target}\r\ncontent-length: 0\r\n\r\n"
        );
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let issuer = Issuer::start(Says::Api(format!("http://{}/base/", api.address))).await;
    let world = start(setup(&issuer)).await;
    ready(&world).await;

    let mut caller = world.caller().await;
    caller.write(format!("GET /v2/x?y HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    let reply = caller.read().await.unwrap();

    assert_eq!(reply.status, 302);
    assert_eq!(reply.get("x-target"), Some("/base/v2/x?y"));
    assert_eq!(reply.get("location"), Some("/next"));
    world.finish().await;
}

#[tokio::test]
async fn the_issuer_is_reached_by_the_credentials_proxy_and_the_api_by_the_routes_proxy() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = || Some(pki.server_config(&[b"http/1.1"]).unwrap());
    let issuer = Issuer::start_with(tls(), Says::HangsUp).await;
    let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, tls()).await.unwrap();
    server.set_tenant(TENANT);
    let by_credential = ConnectProxy::start(Does::Lead).await;
    let by_route = ConnectProxy::start(Does::Lead).await;
    let world = setup(&issuer)
        .token_url(server.token_url())
        .credential(&format!("proxy = \"http://127.0.0.1:{}\"", by_credential.port()))
        .route(&format!("proxy = \"http://127.0.0.1:{}\"", by_route.port()))
        .unchecked_tokens()
        .start_with(pki, async |_| {})
        .await;
    issuer.says(Says::Api(world.upstream.url()));
    ready(&world).await;

    // The API rejects the tokens of this server.
    assert_eq!(world.get("/x").await.status, 401);

    let target =
        |url: String| format!("CONNECT {} ", url.trim_start_matches("https://").replace("/token", ""));
    let asked = by_credential.asked();
    for url in [issuer.url(), server.token_url()] {
        assert!(asked.iter().any(|head| head.starts_with(&target(url.clone()))), "{url}: {asked:?}");
    }
    let asked = by_route.asked();
    assert!(!asked.is_empty());
    assert!(asked.iter().all(|head| head.starts_with(&target(world.upstream.url()))), "{asked:?}");
    for token in server.issued() {
        assert!(!by_route.has_carried(&token) && !by_credential.has_carried(&token));
        assert_absent(&world.process.output(), &token);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_reload_of_how_tokens_are_requested_keeps_the_discovered_address() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let tls = || Some(pki.server_config(&[b"http/1.1"]).unwrap());
    let issuer = Issuer::start_with(tls(), Says::HangsUp).await;
    let server = AuthorizationServer::start(CLIENT_ID, CLIENT_SECRET, tls()).await.unwrap();
    server.set_tenant(TENANT);
    let world = setup(&issuer)
        .token_url(server.token_url())
        .credential("refresh_margin = \"60s\"")
        .route("retry_on = []")
        .unchecked_tokens()
        .start_with(pki, async |_| {})
        .await;
    issuer.says(Says::Api(world.upstream.url()));
    ready(&world).await;
    // The API does not know the tokens of this server, but is reached.
    assert_eq!(world.get("/x").await.status, 401);
    let asked = issuer.asked().len();
    issuer.says(Says::HangsUp);

    let proxy = ConnectProxy::start(Does::Lead).await;
    let line = format!("refresh_margin = \"30s\"\nproxy = \"http://127.0.0.1:{}\"", proxy.port());
    world.configure(|text| text.replace("refresh_margin = \"60s\"", &line));
    world.reload().await;

    assert_eq!(world.get("/x").await.status, 401, "at the address that is known");
    assert_eq!((issuer.asked().len(), server.requests()), (asked, 1));
    assert!(proxy.asked().is_empty());

    // Another tenant's address is asked for at once.
    server.set_tenant("another");
    issuer.says(Says::Api(world.upstream.url()));
    assert_eq!(world.admin_post("/credentials/api/refresh").await.0, 200);
    eventually("asked", async || issuer.asked().len() > asked).await;
    assert!(issuer.asked().last().unwrap().target.ends_with("tenantId=another"));
    let head = format!("CONNECT {} ", issuer.url().trim_start_matches("https://"));
    assert!(proxy.asked().iter().any(|asked| asked.starts_with(&head)));
    for token in server.issued() {
        assert_absent(&world.process.output(), &token);
    }
    world.finish().await;
}

/// New connections are made under new authorities, to the address that is known.
#[tokio::test]
async fn new_authorities_of_a_route_keep_the_discovered_address() {
    let issuer = Issuer::start(Says::HangsUp).await;
    let world = found(&issuer).await;
    assert_eq!(world.get("/x").await.status, 200);
    let connections = world.upstream.connections();
    issuer.says(Says::Hangs);

    let content = std::fs::read_to_string(world.folder().join("ca.pem")).unwrap().repeat(2);
    std::fs::write(world.folder().join("ca.pem"), content).unwrap();
    world.process.event("certificates reloaded").await;

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.upstream.connections(), connections + 1);
    assert_eq!(world.admin_status("/readyz").await, 200);
    world.finish().await;
}

#[tokio::test]
async fn check_online_discovers_the_api_with_the_test_token_and_connects_to_it() {
    let issuer = Issuer::start(Says::HangsUp).await;
    let world = found(&issuer).await;
    let environment = [("API_SECRET".to_owned(), CLIENT_SECRET.to_owned())];
    let check = async || {
        let mut process = spawn(&["check", "--online"], &environment, &world.folder());
        let code = process.ended().await.code();
        (code, process.output())
    };

    let (code, output) = check().await;
    assert_eq!(code, Some(0), "{output}");
    assert!(output.contains(&format!("upstream {}: ok (", world.upstream.url())), "{output}");
    assert!(output.contains("discovered   for `api`, from its issuer"), "{output}");
    assert!(output.contains("tls          1.3"), "{output}");

    issuer.says(Says::Api("https://evil.test".to_owned()));
    let (code, output) = check().await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("upstream \"discover\" of `api`: FAILED ("), "{output}");
    assert!(output.contains("is refused: the issuer is on loopback, and it is not"), "{output}");
    assert!(output.contains("/.well-known/cxone-configuration?tenantId="), "{output}");

    world.authorization.answer_next(Answer::status(401, r#"{"error":"invalid_client"}"#));
    let (code, output) = check().await;
    assert_eq!(code, Some(1), "{output}");
    assert!(output.contains("not discovered: there is no token"), "{output}");
    world.finish().await;
}
