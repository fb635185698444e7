//! Logins of applications (`login_stub`): the daemon answers them and does not forward them.

use testkit::authorization_server::Answer;

use crate::harness::{Http2Caller, Request, Setup, World, daemon};
use testkit::harness::caller::LOGIN;
use testkit::harness::world::assert_absent;

const FORM: &[u8] = b"grant_type=client_credentials&client_id=app&client_secret=the-applications-own";

fn setup() -> Setup {
    daemon().credential("login_stub = [\"/oauth/token\", \"/api/v2/oauth/token\"]")
}

async fn finish(world: World, forwarded: usize) {
    assert_eq!(world.upstream.requests().len(), forwarded);
    assert_absent(&world.process.output(), "the-applications-own");
    world.finish().await;
}

#[tokio::test]
async fn a_login_is_answered_with_a_worthless_token() {
    let world = setup().start().await;
    let mut caller = world.caller().await;
    for request in [
        Request::post("/oauth/token", FORM),
        Request::post("/api/v2/oauth/token?x=y", FORM),
        Request::chunked("/OAuth//token/", &[FORM, &vec![b'x'; 100_000], FORM]),
        Request::post("/oauth/token", b""),
        Request::post("/oauth/token", FORM).field("expect", "100-continue"),
    ] {
        let reply = caller.send(&request).await;
        assert_eq!((reply.status, reply.text().as_str()), (200, LOGIN), "{request:?}");
        assert_eq!(reply.get("content-type"), Some("application/json"));
        assert_eq!(reply.get("cache-control"), Some("no-store"));
    }

    // Further requests carry the daemon's token.
    let request = Request::get("/x").field("authorization", "Bearer bearerd-local");
    assert_eq!(caller.send(&request).await.status, 200);

    let mut caller = Http2Caller::connect(world.address).await;
    let reply = caller.send(&Request::post("/oauth/token", FORM)).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, LOGIN));
    let reply = caller.send(&Request::post("/oauth/token", &vec![b'x'; 300_000])).await;
    assert_eq!(reply.status, 200);
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    finish(world, 2).await;
}

#[tokio::test]
async fn requests_that_are_no_login_are_forwarded() {
    let world = setup().start().await;

    assert_eq!(world.get("/oauth/token").await.status, 200);
    assert_eq!(world.send(&Request::post("/oauth/tokens", FORM)).await.status, 200);
    finish(world, 2).await;

    let without = daemon().start().await;
    assert_eq!(without.send(&Request::post("/oauth/token", FORM)).await.status, 200);
    finish(without, 1).await;
}

#[tokio::test]
async fn a_login_needs_an_allowed_caller_and_a_complete_body_but_no_token() {
    let world = setup()
        .limits("body_bytes = \"1KiB\"")
        .without_token()
        .start_after(async |server| server.answer_next(Answer::status(503, "")))
        .await;
    assert_eq!(world.send(&Request::post("/oauth/token", FORM)).await.status, 200);

    let foreign = Request::post("/oauth/token", FORM).field("host", "elsewhere.test");
    assert_eq!(world.send(&foreign).await.code().as_deref(), Some("host_not_allowed"));
    let large = Request::chunked("/oauth/token", &[&[b'x'; 2000]]);
    assert_eq!(world.send(&large).await.code().as_deref(), Some("body_too_large"));
    finish(world, 0).await;
}

#[tokio::test]
async fn the_presets_know_the_login_paths() {
    for (preset, path) in [
        ("provider = \"genesys\"", "/oauth/token"),
        ("provider = \"cxone\"\ngrant = \"client_credentials\"", "/oauth2/v1/token"),
    ] {
        let world = daemon().credential(preset).start().await;
        assert_eq!(world.send(&Request::post(path, FORM)).await.text(), LOGIN);
        assert_eq!(world.get("/x").await.status, 200);
        finish(world, 1).await;
    }
}
