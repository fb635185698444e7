//! Retries after a 429 (`retry_429`).

use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::time::Instant;

use crate::harness::{Http2Caller, PROMPT, Request, World, daemon, eventually, remains};

async fn with(retry_429: &str) -> World {
    daemon().quiet().route(&format!("retry_429 = {{ {retry_429} }}")).start().await
}

fn asking(target: &str, retry_after: &str) -> Request {
    Request::get(target).field("x-retry-after", retry_after)
}

fn times(world: &World, target: &str) -> usize {
    world.upstream.requests().iter().filter(|seen| seen.target == target).count()
}

#[tokio::test]
async fn a_429_is_retried_after_retry_after() {
    let world = with("attempts = 3").await;
    let started = Instant::now();

    assert_eq!(world.send(&asking("/throttled/1", "1")).await.status, 200);

    assert!((1000..3500).contains(&started.elapsed().as_millis()), "{:?}", started.elapsed());
    assert_eq!(times(&world, "/throttled/1"), 2);
    let event = world.process.event("request").await;
    assert_eq!((&event["attempts"], &event["unauthorized"]), (&2.into(), &Value::Null));

    let mut caller = Http2Caller::connect(world.address).await;
    assert_eq!(caller.send(&asking("/throttled/1?h2", "0")).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_retry_after_date_is_waited_for() {
    let world = with("attempts = 1").await;
    let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(2));
    assert_eq!(world.send(&asking("/throttled/1", &soon)).await.status, 200);

    let late = httpdate::fmt_http_date(SystemTime::now() + Duration::from_hours(1));
    assert_eq!(world.send(&asking("/throttled/1?late", &late)).await.status, 429);
    assert_eq!(times(&world, "/throttled/1?late"), 1);
    world.finish().await;
}

#[tokio::test]
async fn the_last_429_is_passed_on() {
    let world = with("attempts = 2, max_wait = \"20s\"").await;

    let reply = world.send(&asking("/throttled/9", "0")).await;

    assert_eq!(
        (reply.status, reply.text().as_str(), reply.get("retry-after")),
        (429, "slow down", Some("0"))
    );
    assert_eq!(reply.get("proxy-status"), None);
    assert_eq!(times(&world, "/throttled/9"), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_429_with_a_retry_after_over_max_wait_is_passed_on_at_once() {
    let world = with("attempts = 3, max_wait = \"2s\"").await;
    let started = Instant::now();

    let reply = world.send(&asking("/throttled/1", "30")).await;

    assert_eq!((reply.status, reply.get("retry-after")), (429, Some("30")));
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    assert_eq!(times(&world, "/throttled/1"), 1);
    world.finish().await;
}

#[tokio::test]
async fn unsafe_methods_and_unconfigured_routes_are_not_retried() {
    let world = with("attempts = 3").await;
    for method in ["POST", "PATCH"] {
        let target = format!("/throttled/1?{method}");
        let request = Request::post(&target, b"pay once").method(method).field("x-retry-after", "0");
        assert_eq!(world.send(&request).await.status, 429);
        assert_eq!(times(&world, &target), 1);
    }
    world.finish().await;

    let world = daemon().start().await;
    assert_eq!(world.send(&asking("/throttled/1", "0")).await.status, 429);
    assert_eq!(times(&world, "/throttled/1"), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_body_is_retried_unchanged() {
    let world = with("attempts = 3, max_wait = \"20s\"").await;
    let body: Vec<u8> = (0..200_000_u32).flat_map(u32::to_le_bytes).collect();
    let whole = Request::post("/throttled/2", &body).method("PUT").field("x-retry-after", "0");
    let chunked = Request::chunked("/throttled/3", &[b"one ", b"two ", b"three"]);
    let chunked = chunked.method("PUT").field("x-retry-after", "0");

    assert_eq!(world.send(&whole).await.body, body);
    assert_eq!(world.send(&chunked).await.text(), "one two three");
    assert_eq!((times(&world, "/throttled/2"), times(&world, "/throttled/3")), (3, 4));
    world.finish().await;
}

#[tokio::test]
async fn a_request_whose_body_was_not_kept_is_not_retried() {
    let setup = daemon().quiet().limits("replay_body = \"1KiB\"");
    let world = setup.route("retry_429 = { attempts = 3 }").start().await;
    let request = Request::post("/throttled/1", &[b'x'; 5000]).method("PUT").field("x-retry-after", "0");

    assert_eq!(world.send(&request).await.status, 429);
    assert_eq!(times(&world, "/throttled/1"), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_wait_for_a_retry() {
    let world = with("attempts = 3").await;
    let mut caller = world.caller().await;
    let head = format!("GET /throttled/1 HTTP/1.1\r\nhost: {}\r\nx-retry-after: 1\r\n\r\n", world.address);
    caller.write(head.as_bytes()).await;
    eventually("the 429", async || times(&world, "/throttled/1") == 1).await;
    drop(caller);

    let waited = Duration::from_millis(2500);
    remains("sent once", waited, async || times(&world, "/throttled/1") == 1).await;
    world.finish().await;
}

/// The API checks of every request that its token has not ended.
#[tokio::test]
async fn a_token_that_expires_during_the_wait_is_replaced_before_the_retry() {
    let setup = daemon().quiet().lifetime(2).route("retry_429 = { attempts = 1 }");
    let world = setup.start().await;
    assert_eq!(world.send(&asking("/throttled/1", "3")).await.status, 200);

    let tokens: Vec<_> =
        world.upstream.requests().iter().map(|seen| seen.get("authorization").unwrap().to_owned()).collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1]);
    assert_eq!(world.upstream.rejected(), 0);
    world.finish().await;
}

#[tokio::test]
async fn the_attempts_of_a_replay_and_of_retries_add_up() {
    let world = with("attempts = 2, max_wait = \"20s\"").await;
    let put = |target: &str| Request::post(target, b"body").method("PUT").field("x-retry-after", "0");
    assert_eq!(world.get("/x").await.status, 200);

    // A 401, then 429s: the replay counts as one of the attempts.
    world.authorization.revoke_all();
    assert_eq!(world.send(&put("/throttled/3")).await.text(), "body");
    assert_eq!(times(&world, "/throttled/3"), 4);

    // The token is revoked during the wait after a 429.
    let dying = async {
        eventually("the 429", async || times(&world, "/throttled/1") == 1).await;
        world.authorization.revoke_all();
    };
    let request = put("/throttled/1").field("x-when-rejected", "early");
    let request = Request {
        fields: request
            .fields
            .into_iter()
            .map(|(name, value)| {
                let value = if name == "x-retry-after" { "1".to_owned() } else { value };
                (name, value)
            })
            .collect(),
        ..request
    };
    let (reply, ()) = tokio::join!(world.send(&request), dying);
    assert_eq!((reply.status, reply.text().as_str()), (200, "body"));
    assert_eq!(times(&world, "/throttled/1"), 3);

    // Every attempt fails: the first request, one replay, and the route's attempts.
    world.authorization.revoke_all();
    assert_eq!(world.send(&put("/throttled/99")).await.status, 429);
    assert_eq!(times(&world, "/throttled/99"), 4);
    world.finish().await;
}

#[tokio::test]
async fn a_post_is_retried_where_the_route_lists_it_and_a_get_where_it_does_not_is_not() {
    let world = with("attempts = 1, methods = [\"POST\"]").await;
    let post = Request::post("/throttled/1?post", b"body").field("x-retry-after", "0");
    assert_eq!(world.send(&post).await.status, 200);
    assert_eq!(times(&world, "/throttled/1?post"), 2);
    assert_eq!(world.send(&asking("/throttled/1?get", "0")).await.status, 429);
    assert_eq!(times(&world, "/throttled/1?get"), 1);
    world.finish().await;
}
