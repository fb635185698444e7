//! Logins of applications (`login_stub`): the daemon answers them and does not forward them.

use serde_json::Value;
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

/// As the scripts of platforms' tutorials check a token response before they go on.
#[tokio::test]
async fn a_login_gets_a_refresh_token_and_the_scopes_that_it_asks_for() {
    let world = setup().credential("scopes = [\"of:credential\", \"b\"]").start().await;
    let answered = async |request: &Request| {
        let reply = world.send(request).await;
        assert_eq!(reply.status, 200);
        let mut answer: Value = serde_json::from_str(&reply.text()).unwrap();
        let scope = answer.as_object_mut().unwrap().remove("scope").unwrap();
        assert_eq!(answer, serde_json::from_str::<Value>(LOGIN).unwrap());
        scope.as_str().unwrap().to_owned()
    };
    let form = "grant_type=authorization_code&code=c&scope=api%3Aread+api%3Awrite";
    let refresh = b"grant_type=refresh_token&refresh_token=bearerd-local";
    let long = [form.as_bytes(), b"&x=", &vec![b'x'; 64 * 1024]].concat();
    for (request, scope) in [
        (Request::post("/oauth/token", form.as_bytes()), "api:read api:write"),
        (
            Request::chunked("/oauth/token", &[&form.as_bytes()[..50], &form.as_bytes()[50..]]),
            "api:read api:write",
        ),
        (
            Request::post("/oauth/token", b"{\"scope\":\"a \\\"b\"}")
                .field("content-type", "application/json"),
            "a b",
        ),
        (Request::post("/oauth/token?scope=q", FORM), "q"),
        (Request::post("/oauth/token", FORM), "of:credential b"),
        (Request::post("/oauth/token", refresh), "of:credential b"),
        // Longer than what is read of a login.
        (Request::post("/oauth/token", &long), "of:credential b"),
    ] {
        assert_eq!(answered(&request).await, scope, "{request:?}");
    }
    finish(world, 0).await;
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
