//! APIs that learn of a new token late, on all of their nodes or on some: callers get no 401 while the previous token lives.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;

use crate::harness::{Caller, PROMPT, Request, Setup, World, daemon, eventually};
use crate::status::status;

const NEVER: Duration = Duration::from_hours(1);
const AT_ONCE: Duration = Duration::ZERO;

/// A daemon whose token [`renew`] can replace.
fn renewable() -> Setup {
    daemon().quiet().credential("errors = { dead = [\"none\"] }")
}

/// Changes how tokens are requested: the daemon takes that for a reason to renew its token, which is not rejected.
async fn renew(world: &World) {
    let renewed = world.process.events("token refreshed").len();
    world.configure(|text| text.replace("dead = [\"none", "dead = [\"none-again"));
    world.reload().await;
    eventually("a new token", async || world.process.events("token refreshed").len() > renewed).await;
}

/// The tokens of the last requests at the API, as numbers in the order of their issue.
fn carried(world: &World, last: usize) -> Vec<usize> {
    let issued = world.authorization.issued();
    let number = |token: &str| issued.iter().position(|issued| issued == token).map(|index| index + 1);
    let requests = world.upstream.requests();
    let tokens = requests[requests.len() - last..].iter().map(|seen| seen.get("authorization").unwrap());
    tokens.map(|field| number(field.strip_prefix("Bearer ").unwrap()).unwrap()).collect()
}

/// Sends requests for this time, each of which must get 200, and returns their number.
async fn all_succeed(caller: &mut Caller, time: Duration) -> usize {
    let started = Instant::now();
    let mut sent = 0;
    while started.elapsed() < time {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200, "{:?}", started.elapsed());
        sent += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    sent
}

#[tokio::test]
async fn an_api_that_is_late_on_all_nodes_gets_the_previous_token_meanwhile() {
    let world = renewable().start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    world.upstream.set_nodes(&[Duration::from_secs(4)]);
    renew(&world).await;
    let before = world.authorization.requests();

    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    assert_eq!(carried(&world, 2), [2, 1]);
    eventually("the log", async || world.process.events("request").len() == 2).await;
    let event = world.process.events("request").pop().unwrap();
    assert_eq!(
        (&event["unauthorized"], &event["attempts"], &event["generation"]),
        (&"previous_token".into(), &2.into(), &1.into())
    );
    // A reload that keeps the credential keeps the previous token.
    world.configure(|text| text.replace("[credentials.api]", "[credentials.api]\nretry_after_max = \"5m\""));
    world.reload().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);

    let sent = all_succeed(&mut caller, Duration::from_secs(11)).await;

    assert_eq!(world.token_requests_since(before), 0);
    assert_eq!(carried(&world, 1), [2], "the new token is used in the end");
    let rejected = world.upstream.rejected_by_late_nodes();
    assert!(rejected <= 2, "{rejected} of {sent} requests were sent twice");
    world.finish().await;
}

#[tokio::test]
async fn a_hundred_requests_to_two_nodes_one_of_which_is_late_see_no_401() {
    let world = renewable().start().await;
    let mut caller = world.caller().await;
    world.upstream.set_nodes(&[AT_ONCE, AT_ONCE]);
    for _ in 0..2 {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    world.upstream.set_nodes(&[AT_ONCE, Duration::from_secs(7)]);
    let before = world.authorization.requests();
    renew(&world).await;

    let bursts = (0..100).map(|number| {
        let address = world.address;
        async move {
            tokio::time::sleep(Duration::from_millis(80 * number)).await;
            Caller::connect(address).await.send(&Request::post("/echo", b"work")).await.status
        }
    });
    let statuses = join_all(bursts).await;

    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert_eq!(world.token_requests_since(before), 1);
    assert!(world.upstream.rejected_by_late_nodes() > 0);
    world.finish().await;
}

/// A request whose token the first node rejects is to be replayed with the token before. While it waits for the only
/// connection, another renewal makes the rejected token the previous one.
#[tokio::test]
async fn a_replay_that_waits_during_another_renewal_carries_the_newest_token() {
    let setup = renewable().server("workers = 1").route("connections = 1");
    let world = setup.start().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.upstream.set_nodes(&[NEVER, AT_ONCE, AT_ONCE]);
    renew(&world).await;
    let sent = world.upstream.request_count();
    let waits = async |count: usize| {
        eventually("the requests", async || {
            let waiting = &status(&world).await["upstreams"][0]["waiting"];
            world.upstream.request_count() - sent == count && *waiting == 1
        })
        .await;
    };
    let mut rejected = world.caller().await;
    let head = format!("POST /echo HTTP/1.1\r\nhost: {}\r\ncontent-length: 4\r\n\r\npa", world.address);
    rejected.write(head.as_bytes()).await;
    eventually("the first attempt", async || world.upstream.request_count() > sent).await;
    let holds = world.get("/held");
    let renewal = async {
        waits(1).await;
        rejected.write(b"id").await;
        waits(2).await;
        renew(&world).await;
        world.upstream.release();
        rejected.read().await.unwrap()
    };

    let (other, replayed) = tokio::join!(holds, renewal);

    assert_eq!((other.status, replayed.status, replayed.text()), (200, 200, "paid".to_owned()));
    assert_eq!(carried(&world, 3), [2, 2, 3]);
    world.finish().await;
}

#[tokio::test]
async fn a_previous_token_is_not_used_past_its_end() {
    let world = daemon().quiet().lifetime(10).start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    world.upstream.set_nodes(&[NEVER]);
    world.authorization.set_lifetime(3600);
    let first = world.authorization.issued().remove(0);
    eventually("the renewal", async || world.process.events("token refreshed").len() == 2).await;

    let tokens = world.authorization.introspection();
    while tokens.remaining(&first) > Duration::from_secs(1) {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;

    // The API knows neither the second token nor the third, which the 401 forces.
    assert_eq!(caller.send(&Request::get("/x")).await.status, 401);
    assert_eq!(carried(&world, 2), [2, 3]);
    assert_eq!(world.authorization.requests(), 3);
    world.finish().await;
}

#[tokio::test]
async fn where_both_tokens_are_revoked_one_refresh_and_a_third_attempt_follow() {
    let world = renewable().start().await;
    let mut caller = world.caller().await;
    let pay = Request::post("/echo", b"pay once");
    assert_eq!(caller.send(&pay).await.status, 200);
    renew(&world).await;
    let before = world.authorization.requests();
    world.authorization.revoke_all();

    assert_eq!(caller.send(&pay).await.text(), "pay once");

    assert_eq!(carried(&world, 3), [2, 1, 3]);
    assert_eq!(world.token_requests_since(before), 1);

    // There is no fourth attempt.
    world.authorization.revoke_all();
    world.upstream.set_nodes(&[NEVER]);
    let sent = world.upstream.request_count();
    assert_eq!(caller.send(&pay).await.status, 401);
    assert_eq!(world.upstream.request_count() - sent, 3);
    assert_eq!(carried(&world, 3), [3, 1, 4]);
    assert_eq!(world.token_requests_since(before), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_revocation_while_requests_carry_the_previous_token_is_not_seen_either() {
    let world = renewable().start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    world.upstream.set_nodes(&[NEVER]);
    renew(&world).await;
    for _ in 0..2 {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    assert_eq!(carried(&world, 1), [1]);
    let before = world.authorization.requests();
    world.upstream.set_nodes(&[]);
    world.authorization.revoke_all();

    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);

    assert_eq!(carried(&world, 3), [1, 2, 3]);
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn bodies_are_replayed_with_the_previous_token_whenever_the_new_one_is_rejected() {
    let body: Vec<u8> = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
    let (whole, chunked) =
        (Request::post("/echo", &body), Request::chunked("/echo", &[&body[..7], &body[7..]]));
    for (when, request) in [("late", &whole), ("early", &chunked), ("early-close", &whole)] {
        let world = renewable().start().await;
        assert_eq!(world.send(request).await.status, 200);
        world.upstream.set_nodes(&[NEVER]);
        renew(&world).await;

        let reply = world.send(&request.clone().field("x-when-rejected", when)).await;

        assert_eq!(reply.status, 200, "{when}");
        assert!(reply.body == body, "{when}");
        assert_eq!(carried(&world, 2), [2, 1]);
        assert_eq!(world.authorization.requests(), 2);
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_that_was_not_kept_forces_nothing_and_the_next_one_has_the_previous_token() {
    let world = renewable().start().await;
    let upload = Request::post("/echo", &vec![b'x'; 3_000_000]);
    assert_eq!(world.send(&upload).await.status, 200);
    world.upstream.set_nodes(&[NEVER]);
    renew(&world).await;
    let before = world.authorization.requests();

    let reply = world.send(&upload).await;
    assert_eq!((reply.status, reply.code()), (401, None));
    for _ in 0..3 {
        assert_eq!(world.send(&upload).await.status, 200);
    }
    assert_eq!(carried(&world, 4), [2, 1, 1, 1]);
    assert_eq!(world.token_requests_since(before), 0);

    // Where the previous token is rejected too, a refresh is forced.
    world.upstream.set_nodes(&[]);
    world.authorization.revoke_all();
    assert_eq!(world.send(&upload).await.status, 401);
    eventually("a forced refresh", async || world.process.events("token refreshed").len() == 3).await;
    assert_eq!(world.send(&upload).await.status, 200);
    assert_eq!(carried(&world, 2), [1, 3]);
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn after_a_forced_renewal_the_rejected_token_is_not_used_again() {
    let world = daemon().quiet().start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    let before = world.authorization.requests();
    world.upstream.set_nodes(&[NEVER]);
    world.authorization.revoke_all();

    for _ in 0..3 {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 401);
    }

    assert_eq!(carried(&world, 4), [1, 2, 2, 2], "the route is held");
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_route_that_never_accepted_the_previous_token_does_not_use_it() {
    let other = "[[routes]]\npath = \"/other\"\nupstream = \"{upstream}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n";
    let world = renewable().route(other).start().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.upstream.set_nodes(&[NEVER]);
    renew(&world).await;
    let before = world.authorization.requests();

    assert_eq!(world.get("/other/x").await.status, 401);

    assert_eq!(carried(&world, 2), [2, 3]);
    assert_eq!(world.token_requests_since(before), 1);
    // The forced renewal leaves the previous token to the route that uses it.
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(carried(&world, 2), [3, 1]);
    world.finish().await;
}

#[tokio::test]
async fn a_429_after_the_previous_token_is_retried_with_that_token() {
    let world = renewable().route("retry_429 = { attempts = 2 }").start().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.upstream.set_nodes(&[NEVER]);
    renew(&world).await;

    // The path counts the 401 among its requests.
    let reply = world.send(&Request::get("/throttled/2").field("x-retry-after", "0")).await;

    assert_eq!(reply.status, 200);
    assert_eq!(carried(&world, 3), [2, 1, 1]);
    world.finish().await;
}

#[tokio::test]
async fn a_held_route_has_the_previous_token_too_and_its_forbidden_path_forces_nothing() {
    let world = renewable().start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/forbidden")).await.status, 401);
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    world.upstream.set_nodes(&[NEVER]);
    renew(&world).await;
    let before = world.authorization.requests();

    for _ in 0..20 {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
        assert_eq!(caller.send(&Request::get("/forbidden")).await.status, 401);
    }

    assert_eq!(world.token_requests_since(before), 0);
    world.finish().await;
}

/// A daemon that has used up its forced refreshes for a while, and an API whose late node is next.
async fn without_quota(setup: Setup, per: &str, late: Duration) -> World {
    let quota = format!("quota = {{ requests = 2, per = \"{per}\" }}");
    let world = setup.quiet().credential(&quota).start().await;
    world.upstream.set_nodes(&[AT_ONCE, AT_ONCE, AT_ONCE, late]);
    world.authorization.revoke_all();
    for _ in 0..3 {
        assert_eq!(world.get("/x").await.status, 200);
    }
    world
}

#[tokio::test]
async fn a_demand_that_the_quota_holds_back_dies_when_the_token_is_accepted_again() {
    let setup = daemon().limits("token_wait = \"1s\"");
    let world = without_quota(setup, "9s", Duration::from_secs(2)).await;
    let before = world.authorization.requests();
    let mut caller = world.caller().await;
    let mut statuses = Vec::new();
    for _ in 0..8 {
        let reply = caller.send(&Request::get("/x")).await;
        assert!(reply.status == 200 || reply.code().as_deref() == Some("token_quota_exhausted"));
        statuses.push(reply.status);
        if reply.status == 503 {
            caller = world.caller().await;
        }
    }
    assert!(statuses.contains(&503), "{statuses:?}");
    tokio::time::sleep(Duration::from_secs(2)).await;

    // The late node knows the token before the quota admits a refresh.
    let sent = all_succeed(&mut caller, Duration::from_secs(9)).await;

    assert_eq!(world.token_requests_since(before), 0, "{sent} requests");
    world.finish().await;
}

#[tokio::test]
async fn a_request_that_waits_for_a_refresh_is_replayed_when_its_token_is_accepted_again() {
    let world = without_quota(daemon().limits("token_wait = \"50s\""), "40s", NEVER).await;
    let before = (world.authorization.requests(), world.upstream.request_count());
    let started = Instant::now();
    let waiting = world.get("/first");
    let accepted = async {
        eventually("the 401", async || world.upstream.rejected_by_late_nodes() == 1).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        world.upstream.set_nodes(&[AT_ONCE]);
        world.get("/second").await
    };

    let (first, second) = tokio::join!(waiting, accepted);

    assert_eq!((first.status, second.status), (200, 200));
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    assert_eq!(world.upstream.request_count() - before.1, 3);
    assert_eq!(carried(&world, 3), [2, 2, 2]);
    assert_eq!(world.authorization.requests(), before.0);
    world.finish().await;
}

/// The API of one route rejects the token that the API of another accepts.
#[tokio::test]
async fn a_demand_outlives_the_acceptance_of_its_token_on_another_route() {
    let other = "[[routes]]\npath = \"/other\"\nupstream = \"{upstream}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n";
    let setup = daemon().limits("token_wait = \"1s\"").route(other);
    let world = without_quota(setup, "6s", NEVER).await;
    let before = world.authorization.requests();
    assert_eq!(world.get("/other/x").await.code().as_deref(), Some("token_quota_exhausted"));
    world.upstream.set_nodes(&[]);

    let mut caller = world.caller().await;
    eventually("the refresh", async || {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
        world.token_requests_since(before) == 1
    })
    .await;
    world.finish().await;
}
