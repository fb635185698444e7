//! Revoked tokens: callers do not notice, and the token endpoint receives one request.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use testkit::authorization_server::Answer;
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::harness::{Caller, Http2Caller, PROMPT, Request, daemon, eventually};
use testkit::harness::raw::{RawPeer, Recorder, read_head};

/// Bytes in which a lost, doubled or moved piece is noticed.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

#[tokio::test]
async fn a_401_is_replayed_once_and_the_caller_does_not_see_it() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/a")).await.status, 200);
    let before = world.authorization.requests();
    world.authorization.revoke_all();

    assert_eq!(caller.send(&Request::get("/b")).await.status, 200);

    assert_eq!(world.upstream.rejected(), 1);
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn no_caller_sees_a_token_revoked_under_a_load_of_64_connections() {
    let world = daemon().quiet().start().await;
    let before = world.authorization.requests();
    let is_over = Arc::new(AtomicBool::new(false));
    let address = world.address;
    let answered = Arc::new(AtomicUsize::new(0));
    let load = (0..64).map(|_| {
        let (is_over, answered) = (Arc::clone(&is_over), Arc::clone(&answered));
        tokio::spawn(async move {
            let mut caller = Caller::connect(address).await;
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(caller.send(&Request::post("/echo", b"some work")).await.status, 200);
                answered.fetch_add(1, Ordering::Relaxed);
            }
        })
    });
    let load: Vec<_> = load.collect();
    let answers = || answered.load(Ordering::Relaxed);
    eventually("a load", async || answers() > 64 * 2).await;
    world.authorization.revoke_all();
    let before_revocation = answers();
    eventually("a load afterwards", async || answers() > before_revocation + 64 * 4).await;
    is_over.store(true, Ordering::Relaxed);
    for caller in load {
        caller.await.unwrap();
    }
    assert!(world.upstream.rejected() > 1, "the revocation fell into a pause");
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn four_hundred_requests_on_a_dead_token_wait_for_one_slow_refresh() {
    // On a busy machine so many handshakes take longer than the default of `connect_timeout`.
    let world = daemon().quiet().route("connect_timeout = \"30s\"").start().await;
    let before = world.authorization.requests();
    world.authorization.hold();
    world.authorization.revoke_all();

    let request = Request::get("/x");
    // Requests after the first 401 wait without a 401 of their own.
    let refreshed = async {
        eventually("all are there", async || world.process.threads_and_descriptors().1 > 400).await;
        world.authorization.release();
    };
    let (replies, ()) = tokio::join!(join_all((0..400).map(|_| world.send(&request))), refreshed);

    assert!(replies.iter().all(|reply| reply.status == 200));
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

/// FLT-UP-06.
#[tokio::test]
async fn a_thousand_401s_at_once_cost_one_token_request() {
    let world = daemon().quiet().http2().start().await;
    let before = world.authorization.requests();
    world.authorization.hold();
    world.authorization.revoke_all();
    let mut callers = Vec::new();
    for _ in 0..10 {
        callers.push(Http2Caller::connect(world.address).await);
    }

    let replies = (0..1000).map(|number| {
        let mut caller = callers[number % 10].clone();
        async move { caller.send(&Request::get("/x")).await.status }
    });
    let refreshed = async {
        eventually("a thousand 401s", async || world.upstream.rejected() == 1000).await;
        world.authorization.release();
    };
    let (replies, ()) = tokio::join!(join_all(replies), refreshed);

    assert!(replies.iter().all(|status| *status == 200));
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn four_hundred_callers_of_a_permanent_401_cost_two_token_requests_at_the_most() {
    // On a busy machine so many handshakes take longer than the default of `connect_timeout`.
    let world = daemon().quiet().route("connect_timeout = \"30s\"").start().await;
    let before = world.authorization.requests();

    let request = Request::get("/forbidden");
    let replies = join_all((0..400).map(|_| world.send(&request))).await;

    assert!(replies.iter().all(|reply| reply.status == 401 && reply.code().is_none()));
    assert!(replies.iter().all(|reply| reply.text() == "{\"error\":\"forbidden\"}"));
    let requests = world.token_requests_since(before);
    assert!((1..=2).contains(&requests), "{requests} token requests");
    world.finish().await;
}

#[tokio::test]
async fn four_hundred_callers_of_a_permanent_401_share_one_slow_refresh() {
    let world = daemon().quiet().route("connect_timeout = \"30s\"").start().await;
    let before = world.authorization.requests();
    world.authorization.set_delay(Duration::from_secs(1));

    let request = Request::get("/forbidden");
    let replies = join_all((0..400).map(|_| world.send(&request))).await;

    assert!(replies.iter().all(|reply| reply.status == 401 && reply.code().is_none()));
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn one_forbidden_path_causes_one_token_request() {
    let world = daemon().quiet().start().await;
    let before = world.authorization.requests();
    let mut caller = world.caller().await;
    for _ in 0..50 {
        assert_eq!(caller.send(&Request::get("/forbidden")).await.status, 401);
        assert_eq!(caller.send(&Request::get("/fine")).await.status, 200);
    }

    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_revoked_token_is_replaced_on_a_held_route() {
    let world = daemon().quiet().start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/forbidden")).await.status, 401);
    assert_eq!(caller.send(&Request::get("/fine")).await.status, 200);
    let before = world.authorization.requests();
    world.authorization.revoke_all();

    let started = Instant::now();
    eventually("no 401", async || caller.send(&Request::get("/fine")).await.status != 401).await;
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_permanent_401_on_one_route_does_not_hold_another() {
    let setup = daemon()
        .quiet()
        .route("[[routes]]\npath = \"/other\"\nupstream = \"{upstream}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n");
    let world = setup.start().await;
    assert_eq!(world.get("/forbidden").await.status, 401);
    world.authorization.revoke_all();

    assert_eq!(world.get("/other/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn bodies_are_replayed_byte_for_byte_however_framed_and_whenever_rejected() {
    let world = daemon().quiet().credential("quota = { requests = 200, per = \"1s\" }").start().await;
    for length in [1, 1024, 64 * 1024, 700 * 1024] {
        let body = payload(length);
        let (one, two) = body.split_at(length / 3);
        for when in ["late", "early", "early-close"] {
            for request in [Request::post("/echo", &body), Request::chunked("/echo", &[one, two])] {
                let rejected = world.upstream.rejected();
                world.authorization.revoke_all();

                let reply = world.send(&request.field("x-when-rejected", when)).await;

                assert_eq!(reply.status, 200, "{length} bytes, {when}: {}", reply.text());
                assert!(reply.body == body, "{length} bytes, {when}: the body is not the one that was sent");
                assert_eq!(world.upstream.rejected(), rejected + 1, "{length} bytes, {when}");
            }
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn bodies_of_http_2_callers_are_replayed_too() {
    let world = daemon().quiet().credential("quota = { requests = 200, per = \"1s\" }").start().await;
    let mut caller = Http2Caller::connect(world.address).await;
    for length in [0, 1, 64 * 1024, 700 * 1024] {
        for when in ["late", "early", "early-close"] {
            world.authorization.revoke_all();
            let request = Request::post("/echo", &payload(length)).field("x-when-rejected", when);

            let reply = caller.send(&request).await;

            assert_eq!(reply.status, 200, "{length} bytes, {when}");
            assert!(reply.body == payload(length), "{length} bytes, {when}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_body_still_arriving_at_the_401_is_replayed_whole() {
    let world = daemon().start().await;
    world.authorization.revoke_all();
    let mut caller = world.caller().await;
    caller
        .write(
            format!(
                "POST /echo HTTP/1.1\r\nhost: {}\r\nx-test-id: slow\r\nx-when-rejected: early\r\n\
                 transfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n",
                world.address
            )
            .as_bytes(),
        )
        .await;
    eventually("the early 401", async || world.upstream.rejected() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    caller.write(b"7\r\n second\r\n").await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    caller.write(b"0\r\n\r\n").await;

    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.text().as_str()), (200, "first second"));
    world.finish().await;
}

#[tokio::test]
async fn a_401_passes_when_the_body_is_too_large_to_replay() {
    let world = daemon().quiet().start().await;
    world.process.event("token refreshed").await;
    let body = payload(3_000_000);
    for when in ["late", "early", "early-close"] {
        let refreshed = world.process.events("token refreshed").len();
        world.authorization.revoke_all();
        let large = Request::post("/echo", &body).field("x-when-rejected", when);

        let reply = world.send(&large).await;
        assert_eq!((reply.status, reply.code()), (401, None), "{when}");
        assert_eq!(reply.text(), "{\"error\":\"invalid_token\"}");

        eventually("a new token", async || world.process.events("token refreshed").len() == refreshed + 1)
            .await;
        let next = world.send(&Request::post("/echo", &body)).await;
        assert_eq!(next.status, 200, "{when}");
        assert!(next.body == body, "{when}");
    }
    world.finish().await;
}

#[tokio::test]
async fn the_replay_memory_of_all_requests_is_bounded() {
    let world = daemon().quiet().limits("replay_total = \"100KiB\"").start().await;
    let body = payload(80 * 1024);
    world.authorization.set_delay(Duration::from_millis(500));
    world.authorization.revoke_all();

    let request = Request::post("/echo", &body);
    let replies = join_all((0..8).map(|_| world.send(&request))).await;

    // One body fits into the memory; the 401s of the others pass, and no body is cut or mixed up.
    let good = replies.iter().filter(|reply| reply.status == 200 && reply.body == body).count();
    let passed = replies.iter().filter(|reply| reply.status == 401 && reply.code().is_none()).count();
    assert_eq!(good + passed, 8);
    assert!(good >= 1 && passed >= 1, "{good} replayed, {passed} passed");
    assert_eq!(world.send(&request).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_401_for_an_old_token_is_replayed_with_the_new_one_without_a_refresh() {
    let world = daemon().start().await;
    let mut slow = world.caller().await;
    // The request gets its token now and is rejected at the end of its body.
    slow.write(
        format!(
            "POST /echo HTTP/1.1\r\nhost: {}\r\nx-test-id: slow\r\ntransfer-encoding: chunked\r\n\r\n3\r\nold\r\n",
            world.address
        )
        .as_bytes(),
    )
    .await;
    eventually("the slow request at the API", async || world.upstream.requests().len() == 1).await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    let before = world.authorization.requests();

    slow.write(b"0\r\n\r\n").await;
    let reply = slow.read().await.unwrap();

    assert_eq!((reply.status, reply.text().as_str()), (200, "old"));
    assert_eq!(world.token_requests_since(before), 0);
    world.finish().await;
}

#[tokio::test]
async fn other_statuses_than_401_cause_no_refresh() {
    let world = daemon().start().await;
    let before = world.authorization.requests();
    for status in [403, 407, 419, 429, 500, 503] {
        let reply = world.get(&format!("/status/{status}")).await;
        assert_eq!((reply.status, reply.code()), (status, None));
    }
    let reply = world.get("/scope").await;
    assert_eq!(reply.status, 401);
    assert_eq!(reply.get("www-authenticate"), Some("Bearer error=\"insufficient_scope\""));

    assert_eq!(world.token_requests_since(before), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_route_configures_the_statuses_that_cause_a_refresh() {
    let world = daemon().quiet().route("retry_on = [401, 403, 419, 500]").start().await;
    for status in ["401", "403", "419", "500"] {
        world.authorization.revoke_all();
        let before = world.authorization.requests();
        let request = Request::post("/echo", b"a body").field("x-rejected-with", status);

        let reply = world.send(&request).await;

        assert_eq!((reply.status, reply.text().as_str()), (200, "a body"), "{status}");
        assert_eq!(world.token_requests_since(before), 1, "{status}");
    }
    let before = world.authorization.requests();
    let reply = world.get("/scope").await;
    assert_eq!(reply.status, 401, "insufficient_scope is no dead token");
    assert_eq!(world.token_requests_since(before), 0);
    world.finish().await;
}

#[tokio::test]
async fn a_permanent_403_costs_no_more_token_requests_than_a_permanent_401() {
    let world = daemon().quiet().route("retry_on = [401, 403]\nconnect_timeout = \"30s\"").start().await;
    let before = world.authorization.requests();

    let request = Request::get("/status/403");
    let replies = join_all((0..400).map(|_| world.send(&request))).await;
    assert!(replies.iter().all(|reply| reply.status == 403 && reply.code().is_none()));
    let mut caller = world.caller().await;
    for _ in 0..50 {
        assert_eq!(caller.send(&request).await.status, 403);
        assert_eq!(caller.send(&Request::get("/fine")).await.status, 200);
    }

    let requests = world.token_requests_since(before);
    assert!((1..=2).contains(&requests), "{requests} token requests");
    world.finish().await;
}

#[tokio::test]
async fn a_401_that_is_not_configured_passes_without_a_refresh() {
    for retry_on in ["retry_on = [403]", "retry_on = []"] {
        let world = daemon().quiet().route(retry_on).start().await;
        let before = world.authorization.requests();
        world.authorization.revoke_all();

        for _ in 0..3 {
            let reply = world.get("/x").await;
            assert_eq!((reply.status, reply.code()), (401, None), "{retry_on}");
        }

        assert_eq!(world.token_requests_since(before), 0, "{retry_on}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_cancels_no_refresh() {
    let world = daemon().start().await;
    let before = world.authorization.requests();
    world.authorization.set_delay(Duration::from_millis(700));
    world.authorization.revoke_all();
    let mut first = world.caller().await;
    first.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the refresh", async || world.token_requests_since(before) == 1).await;
    drop(first);

    assert_eq!(world.get("/y").await.status, 200);
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn one_failed_refresh_is_invisible_to_every_caller() {
    let world = daemon().quiet().credential("quota = { requests = 100, per = \"1s\" }").start().await;
    for answer in [
        Answer::status(503, ""),
        Answer::Hangup,
        Answer::too_many(1),
        Answer::status(200, "<html>"),
        Answer::status(400, "{\"error\":\"temporarily_unavailable\"}"),
    ] {
        let before = world.authorization.requests();
        world.authorization.answer_next(answer.clone());
        world.authorization.revoke_all();

        let request = Request::post("/echo", b"work");
        let replies = join_all((0..20).map(|_| world.send(&request))).await;

        assert!(replies.iter().all(|reply| reply.status == 200), "{answer:?}");
        assert_eq!(world.token_requests_since(before), 2, "{answer:?}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_refresh_that_cannot_succeed_in_time_is_reported_with_its_code_and_retry_after() {
    let world = daemon()
        .credential("quota = { requests = 100, per = \"1s\" }")
        .limits("token_wait = \"200ms\"")
        .start()
        .await;
    for (answer, code) in [
        (Answer::too_many(2), "token_endpoint_rate_limited"),
        (Answer::status(500, ""), "token_endpoint_unavailable"),
        (Answer::Hangup, "token_endpoint_unavailable"),
        (Answer::status(200, "<html>"), "token_endpoint_unavailable"),
    ] {
        world.authorization.answer_next(answer);
        world.authorization.revoke_all();

        let reply = world.get("/x").await;

        assert_eq!((reply.status, reply.code().as_deref()), (503, Some(code)));
        let wait: u64 = reply.get("retry-after").expect("waiting helps").parse().unwrap();
        assert!((1..=3).contains(&wait), "{wait}");
        // The refresh is retried.
        let refreshed = world.process.events("token refreshed").len();
        eventually("a token", async || world.process.events("token refreshed").len() > refreshed).await;
        assert_eq!(world.get("/x").await.status, 200, "after {code}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_token_endpoint_that_stays_down_is_reported_within_token_wait() {
    let world = daemon().limits("token_wait = \"3s\"").start().await;
    for _ in 0..20 {
        world.authorization.answer_next(Answer::Hangup);
    }
    world.authorization.revoke_all();
    let started = Instant::now();

    let reply = world.get("/x").await;

    let took = started.elapsed();
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_endpoint_unavailable")));
    assert!(reply.get("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert!(world.authorization.requests() >= 3, "a failure was not waited through");
    world.finish().await;
}

#[tokio::test]
async fn forced_refreshes_use_half_of_the_quota_at_the_most() {
    let world = daemon()
        .credential("quota = { requests = 4, per = \"1h\" }")
        .limits("token_wait = \"30s\"")
        .start()
        .await;
    let before = world.authorization.requests();
    for _ in 0..2 {
        world.authorization.revoke_all();
        assert_eq!(world.get("/x").await.status, 200);
    }
    world.authorization.revoke_all();

    let started = Instant::now();
    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("token_quota_exhausted")));
    let wait: u64 = reply.get("retry-after").unwrap().parse().unwrap();
    assert!((60..=1800).contains(&wait), "{wait}");
    assert!(started.elapsed() < PROMPT, "it was known at once that waiting cannot help");
    assert_eq!(world.token_requests_since(before), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_server_that_returns_the_same_token_is_not_asked_repeatedly() {
    let world = daemon().start().await;
    let before = world.authorization.requests();
    world.authorization.answer_next(Answer::SameAgain);
    world.authorization.revoke_all();

    for _ in 0..20 {
        let reply = world.get("/x").await;
        assert_eq!((reply.status, reply.code()), (401, None));
    }

    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn the_connection_of_a_late_401_is_used_for_the_replay() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    for target in ["/a", "/b", "/c"] {
        assert_eq!(caller.send(&Request::get(target)).await.status, 200);
    }
    world.authorization.revoke_all();
    assert_eq!(caller.send(&Request::get("/d")).await.status, 200);

    assert_eq!(world.upstream.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_failure_after_a_refresh_is_not_followed_by_a_third_attempt() {
    let world = daemon().quiet().start().await;
    for target in ["/hangup", "/break/length", "/break/chunked"] {
        let mut caller = world.caller().await;
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
        let (before, seen) = (world.authorization.requests(), world.upstream.requests().len());
        world.authorization.revoke_all();

        let outcome = caller.try_send(&Request::post(target, b"pay once")).await;

        if target == "/hangup" {
            assert_eq!(outcome.unwrap().code().as_deref(), Some("upstream_protocol"));
        } else {
            outcome.expect_err("an answer that broke off looked complete");
        }
        assert_eq!(world.token_requests_since(before), 1, "{target}");
        assert_eq!(world.upstream.requests().len() - seen, 2, "{target}");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_after_an_early_401_is_never_completed() {
    let early = "HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n";
    let recorder = Recorder::start(early).await;
    let url = format!("http://{}", recorder.peer.address);
    let world = daemon().upstream(url).server("workers = 1").start().await;
    let head = format!("POST /x HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\n\r\n", world.address);
    for _ in 0..30 {
        let mut caller = world.caller().await;
        caller.write(format!("{head}5\r\nhello\r\nZZZ\r\n").as_bytes()).await;
        if let Ok(reply) = caller.read().await {
            assert!(matches!(reply.status, 400 | 401), "{}", reply.status);
        }
    }

    for message in recorder.ended(30).await {
        assert!(!message.ends_with("0\r\n\r\n"), "{message}");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_that_stops_reading_a_replay_times_out() {
    let attempts = Arc::new(AtomicUsize::new(0));
    let peer = RawPeer::tcp(move |mut stream| {
        let is_first = attempts.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            let mut received = read_head(&mut stream).await.len();
            let mut sink = vec![0; 65_536];
            while is_first && received < 11 * 1024 * 1024 {
                received += stream.read(&mut sink).await.unwrap();
            }
            if is_first {
                let early =
                    b"HTTP/1.1 401 Unauthorized\r\nwww-authenticate: Bearer\r\ncontent-length: 0\r\n\r\n";
                stream.write_all(early).await.unwrap();
            }
            std::future::pending::<()>().await;
        }
    })
    .await;
    let world = daemon()
        .quiet()
        .limits("replay_body = \"16MiB\"")
        .limits("body_timeout = \"30s\"")
        .route("timeout = \"600ms\"")
        .upstream(format!("http://{}", peer.address))
        .start()
        .await;
    let mut caller = world.caller().await;
    let length = 12 * 1024 * 1024;
    let head =
        format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n\r\n", world.address, length + 10);
    caller.write(head.as_bytes()).await;
    caller.write(&vec![b'x'; length]).await;
    let started = Instant::now();

    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.code().as_deref()), (504, Some("upstream_timeout")));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    world.finish().await;
}

#[tokio::test]
async fn a_token_that_expired_during_the_handshake_is_not_sent() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let acceptor = TlsAcceptor::from(pki.server_config(&[b"http/1.1"]).unwrap());
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tokens);
    let slow = RawPeer::tcp(move |stream| {
        let (acceptor, seen) = (acceptor.clone(), Arc::clone(&seen));
        async move {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            let mut stream = acceptor.accept(stream).await.unwrap();
            let head = String::from_utf8(read_head(&mut stream).await).unwrap();
            let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer ")).unwrap();
            seen.lock().unwrap().push((token.to_owned(), Instant::now()));
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
            let _ = stream.write_all(answer).await;
        }
    })
    .await;
    let setup = daemon().lifetime(2).upstream(format!("https://localhost:{}", slow.address.port()));
    let world = setup.start_with(pki, async |_| {}).await;

    let mut caller = world.caller().await;
    caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    assert_eq!(caller.read().await.unwrap().text(), "ok");

    let (token, at) = tokens.lock().unwrap().remove(0);
    let ended = world.authorization.introspection().ended_ago(&token).unwrap_or_default();
    assert!(ended <= at.elapsed(), "the token had ended before");
    world.finish().await;
}

/// The API checks of every request that its token has not ended.
#[tokio::test]
async fn a_token_that_expired_while_waiting_for_a_connection_is_not_sent() {
    let setup = daemon()
        .quiet()
        .server("workers = 1")
        .lifetime(2)
        .route("connections = 1\nconnect_timeout = \"10s\"");
    let world = setup.start().await;
    let (mut first, mut second) = (world.caller().await, world.caller().await);
    let first = async { first.send(&Request::get("/slow/2500")).await };
    let second = async {
        eventually("the first is there", async || !world.upstream.requests().is_empty()).await;
        second.send(&Request::get("/x")).await
    };
    let (first, second) = tokio::join!(first, second);

    assert_eq!((first.status, second.status), (200, 200));
    assert_eq!(world.upstream.rejected(), 0);
    let tokens: Vec<_> =
        world.upstream.requests().iter().map(|seen| seen.get("authorization").unwrap().to_owned()).collect();
    assert!(tokens.len() == 2 && tokens[0] != tokens[1]);
    world.finish().await;
}
