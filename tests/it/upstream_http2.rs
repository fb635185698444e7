//! HTTP/2 upstreams: requests share connections.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use http::Version;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::harness::{Http2Caller, Request, World, daemon, eventually};
use testkit::harness::frames::{
    CANCEL, DATA, END_HEADERS, Frames, HEADERS, INTERNAL_ERROR, NO_ERROR, REFUSED_STREAM, RST_STREAM,
    SETTINGS, STATUS_200,
};
use testkit::harness::raw::RawPeer;

/// Bytes in which a lost, doubled or moved piece is noticed.
fn payload(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap()).collect()
}

async fn http2() -> World {
    daemon().quiet().server("workers = 1").http2().start().await
}

/// A world with an upstream that speaks HTTP/2 in clear text.
async fn before<A, F>(act: A) -> (World, RawPeer)
where
    A: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    before_with("", act).await
}

async fn before_with<A, F>(route: &str, act: A) -> (World, RawPeer)
where
    A: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let peer = RawPeer::tcp(act).await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server("workers = 1")
        .route(&format!("http_version = \"2\"\ntimeout = \"5s\"\n{route}"))
        .upstream(format!("http://{}", peer.address))
        .start()
        .await;
    (world, peer)
}

fn get(world: &World, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).into_bytes()
}

/// The status and body of an answer, which may be of a peer other than the scripted API.
async fn fetch(world: &World, request: &[u8]) -> (u16, String) {
    let mut caller = world.caller().await;
    caller.write(request).await;
    let reply = caller.read().await.unwrap();
    (reply.status, reply.code().unwrap_or_else(|| reply.text()))
}

#[tokio::test]
async fn requests_share_a_connection_to_an_http_2_upstream() {
    let world = http2().await;

    let replies = join_all((0..80).map(|_| world.get("/slow/50"))).await;

    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(world.upstream.requests().iter().all(|seen| seen.version == Version::HTTP_2));
    assert_eq!(world.upstream.connections(), 1);
    assert!(replies[0].get("via").unwrap().starts_with("2 bearerd-"), "{:?}", replies[0]);
    world.finish().await;
}

#[tokio::test]
async fn a_route_keeps_to_its_configured_http_version() {
    let one = daemon().http2().route("http_version = \"1.1\"").start().await;
    assert_eq!(one.get("/x").await.status, 200);
    assert_eq!(one.upstream.requests()[0].version, Version::HTTP_11);
    one.finish().await;

    let two = daemon().http2().route("http_version = \"2\"").start().await;
    assert_eq!(two.get("/x").await.status, 200);
    assert_eq!(two.upstream.requests()[0].version, Version::HTTP_2);
    two.finish().await;

    let auto = daemon().start().await;
    assert_eq!(auto.get("/x").await.status, 200);
    assert_eq!(auto.upstream.requests()[0].version, Version::HTTP_11);
    auto.finish().await;
}

#[tokio::test]
async fn an_upstream_without_http_2_is_distinguished_from_an_unreachable_one() {
    let world = daemon().route("http_version = \"2\"").start().await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_tls")));
    assert!(world.upstream.requests().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn an_http_2_request_is_complete_and_has_no_http_1_fields() {
    let world = http2().await;
    let mut caller = Http2Caller::connect(world.address).await;

    let crumbs =
        Request::get("/x?q=%2F").field("cookie", "a=1").field("cookie", "b=2").field("te", "trailers");
    assert_eq!(caller.send(&crumbs).await.status, 200);
    let body = payload(300_000);
    let reply = world.send(&Request::post("/echo", &body)).await;
    assert_eq!((reply.status, reply.body == body), (200, true));
    let reply = world.send(&Request::chunked("/echo", &[b"one", b"", b"two"])).await;
    assert_eq!((reply.status, reply.text().as_str()), (200, "onetwo"));
    assert_eq!(world.send(&Request::get("/y").method("POST")).await.status, 200);

    let seen = world.upstream.requests();
    assert_eq!((seen[0].target.as_str(), seen[0].get("cookie")), ("/x?q=%2F", Some("a=1; b=2")));
    assert_eq!(seen[1].get("content-length"), Some("300000"));
    assert_eq!((seen[2].get("content-length"), seen[2].get("transfer-encoding")), (None, None));
    assert_eq!(seen[3].get("content-length"), Some("0"));
    world.finish().await;
}

#[tokio::test]
async fn large_bodies_pass_in_both_directions_at_once() {
    let world = http2().await;
    let body = payload(5_000_000);

    let replies = join_all((0..4).map(async |_| world.send(&Request::post("/echo", &body)).await)).await;

    assert!(replies.iter().all(|reply| reply.body == body));
    assert_eq!(world.upstream.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_401_is_replayed_over_http_2_whenever_it_comes() {
    let world = http2().await;
    let body = payload(700_000);
    for when in ["late", "early", "early-close"] {
        let before = world.authorization.requests();
        let rejected = world.upstream.rejected();
        world.authorization.revoke_all();

        let reply = world.send(&Request::post("/echo", &body).field("x-when-rejected", when)).await;

        assert_eq!((reply.status, reply.body == body), (200, true), "{when}");
        assert_eq!(world.upstream.rejected() - rejected, 1, "{when}");
        assert_eq!(world.token_requests_since(before), 1, "{when}");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_early_401_that_resets_the_upload_without_an_error_is_replayed() {
    // hyper resets an unread upload with NO_ERROR after its whole answer.
    let world = http2().await;
    let body = payload(900_000);
    world.authorization.revoke_all();

    let replies = join_all((0..10).map(async |_| {
        let request = Request::post("/echo", &body).field("x-when-rejected", "early-reset");
        world.send(&request).await
    }))
    .await;

    assert!(replies.iter().all(|reply| reply.status == 200 && reply.body == body));
    world.finish().await;
}

#[tokio::test]
async fn streams_stay_within_the_upstreams_limit_by_more_connections() {
    let most = Arc::new(AtomicUsize::new(0));
    let connections = Arc::new(AtomicUsize::new(0));
    let (noted, counted) = (Arc::clone(&most), Arc::clone(&connections));
    let (world, _peer) = before(move |stream| {
        let (most, connections) = (Arc::clone(&noted), Arc::clone(&counted));
        async move {
            connections.fetch_add(1, Ordering::Relaxed);
            let Some(mut frames) = Frames::accept(stream, &[(3, 2)]).await else { return };
            frames.answer_in_batches(Duration::from_millis(30), &most).await;
        }
    })
    .await;

    let answers = join_all((0..60).map(async |_| fetch(&world, &get(&world, "/x")).await)).await;

    assert!(answers.iter().all(|answer| *answer == (200, "done".to_owned())), "{answers:?}");
    assert_eq!(most.load(Ordering::Relaxed), 2);
    let connections = connections.load(Ordering::Relaxed);
    assert!((2..=30).contains(&connections), "{connections}");
    world.finish().await;
}

#[tokio::test]
async fn a_lowered_stream_limit_of_the_upstream_is_obeyed() {
    let most = Arc::new(AtomicUsize::new(0));
    let noted = Arc::clone(&most);
    let (world, _peer) = before_with("connections = 1", move |stream| {
        let most = Arc::clone(&noted);
        async move {
            let Some(mut frames) = Frames::accept(stream, &[(3, 100)]).await else { return };
            // Requests before the new settings arrived are answered; then there is one at a time.
            let Some((first, _)) = frames.request().await else { return };
            frames.send(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]).await;
            frames.answer(first, b"done").await;
            frames.answer_in_batches(Duration::from_millis(20), &most).await;
        }
    })
    .await;
    assert_eq!(fetch(&world, &get(&world, "/x")).await, (200, "done".to_owned()));

    for _ in 0..3 {
        let answers = join_all((0..10).map(async |_| fetch(&world, &get(&world, "/x")).await)).await;
        assert!(answers.iter().all(|answer| *answer == (200, "done".to_owned())), "{answers:?}");
    }

    assert_eq!(most.load(Ordering::Relaxed), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_stream_that_was_refused_is_sent_once_more_and_not_again() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&bodies);
    let (world, _peer) = before(move |stream| {
        let bodies = Arc::clone(&noted);
        async move {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            while let Some((stream, body)) = frames.request().await {
                let number = {
                    let mut bodies = bodies.lock().unwrap();
                    bodies.push(String::from_utf8(body).unwrap());
                    bodies.len()
                };
                if number == 2 {
                    frames.answer(stream, b"done").await;
                } else {
                    frames.reset(stream, REFUSED_STREAM).await;
                }
            }
        }
    })
    .await;
    let post = format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: 5\r\n\r\nhello", world.address);

    assert_eq!(fetch(&world, &get(&world, "/x")).await, (200, "done".to_owned()));
    let kept = fetch(&world, post.as_bytes()).await;
    assert_eq!(fetch(&world, &get(&world, "/x")).await, (502, "upstream_protocol".to_owned()));

    // Without a credential no body is kept, so that a body that was read is not sent again.
    assert_eq!(kept, (502, "upstream_protocol".to_owned()));
    assert_eq!(bodies.lock().unwrap().len(), 2 + 1 + 2);
    world.finish().await;
}

#[tokio::test]
async fn a_kept_body_is_sent_again_with_a_refused_stream() {
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&bodies);
    let peer = RawPeer::tcp(move |stream| {
        let bodies = Arc::clone(&noted);
        async move {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            while let Some((stream, body)) = frames.request().await {
                let is_first = {
                    let mut bodies = bodies.lock().unwrap();
                    bodies.push(body);
                    bodies.len() == 1
                };
                if is_first {
                    frames.reset(stream, REFUSED_STREAM).await;
                } else {
                    frames.answer(stream, b"done").await;
                }
            }
        }
    })
    .await;
    let setup = daemon().quiet().route("http_version = \"2\"");
    let world = setup.upstream(format!("http://{}", peer.address)).start().await;
    let body = payload(30_000);
    let mut post =
        format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: 30000\r\n\r\n", world.address).into_bytes();
    post.extend(&body);

    assert_eq!(fetch(&world, &post).await, (200, "done".to_owned()));

    assert!(*bodies.lock().unwrap() == [body.clone(), body]);
    world.finish().await;
}

#[tokio::test]
async fn requests_after_a_goaways_last_stream_are_sent_again() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let (world, _peer) = before(move |stream| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            if number > 0 {
                while let Some((stream, _)) = frames.request().await {
                    frames.answer(stream, b"another").await;
                }
                return;
            }
            let (first, _) = frames.request().await.unwrap();
            let (second, _) = frames.request().await.unwrap();
            assert!(second > first);
            frames.go_away(first, NO_ERROR).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
            frames.answer(first, b"the first").await;
            while frames.next().await.is_some() {}
        }
    })
    .await;

    let one = async { fetch(&world, &get(&world, "/1")).await };
    let two = async { fetch(&world, &get(&world, "/2")).await };
    let (one, two) = tokio::join!(one, two);

    let mut bodies = [one.1, two.1];
    bodies.sort();
    assert_eq!((bodies, one.0, two.0), (["another".to_owned(), "the first".to_owned()], 200, 200));
    assert_eq!(fetch(&world, &get(&world, "/3")).await, (200, "another".to_owned()));
    assert_eq!(connections.load(Ordering::Relaxed), 2);
    world.finish().await;
}

#[tokio::test]
async fn requests_that_were_processed_are_not_sent_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    let (world, _peer) = before(move |stream| {
        let requests = Arc::clone(&counted);
        async move {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            let Some((stream, _)) = frames.request().await else { return };
            match requests.fetch_add(1, Ordering::Relaxed) {
                0 => frames.go_away(stream, NO_ERROR).await,
                1 => frames.reset(stream, INTERNAL_ERROR).await,
                2 => frames.reset(stream, CANCEL).await,
                _ => {}
            }
        }
    })
    .await;

    for _ in 0..4 {
        assert_eq!(fetch(&world, &get(&world, "/x")).await, (502, "upstream_protocol".to_owned()));
    }

    assert_eq!(requests.load(Ordering::Relaxed), 4);
    world.finish().await;
}

#[tokio::test]
async fn an_answer_broken_off_by_a_reset_is_incomplete_for_every_caller() {
    let (world, _peer) = before(|stream| async move {
        let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
        let mut number = 0;
        while let Some((stream, _)) = frames.request().await {
            let length = [STATUS_200, &Frames::field("content-length", "1000")].concat();
            let head = if number % 2 == 0 { STATUS_200 } else { &length };
            frames.send(HEADERS, END_HEADERS, stream, head).await;
            frames.send(DATA, 0, stream, b"half of it").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            match number / 2 {
                0 => frames.reset(stream, CANCEL).await,
                1 => frames.reset(stream, INTERNAL_ERROR).await,
                2 if number % 2 == 1 => frames.reset(stream, NO_ERROR).await,
                _ => return,
            }
            number += 1;
        }
    })
    .await;

    for _ in 0..8 {
        let mut caller = world.caller().await;
        caller.write(&get(&world, "/x")).await;
        let incomplete = caller.read().await.expect_err("the answer looks complete");
        let received = String::from_utf8_lossy(&incomplete.received).into_owned();
        assert!(!received.ends_with("0\r\n\r\n"), "{received}");
    }
    let mut caller = Http2Caller::connect(world.address).await;
    for _ in 0..8 {
        assert!(caller.breaks(&Request::get("/x")).await);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_resets_its_own_stream_only() {
    let reset = Arc::new(Notify::new());
    let told = Arc::clone(&reset);
    let (world, _peer) = before(move |stream| {
        let reset = Arc::clone(&told);
        async move {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            let (first, _) = frames.request().await.unwrap();
            frames.answer(first, b"warm").await;
            let (one, _) = frames.request().await.unwrap();
            let (two, _) = frames.request().await.unwrap();
            let frame = frames.next().await.unwrap();
            assert_eq!(frame.kind, RST_STREAM);
            assert_eq!(frame.payload, CANCEL.to_be_bytes());
            let left = if frame.stream == one { two } else { one };
            frames.answer(left, b"stayed").await;
            reset.notify_one();
            while frames.next().await.is_some() {}
        }
    })
    .await;
    assert_eq!(fetch(&world, &get(&world, "/x")).await, (200, "warm".to_owned()));
    let mut leaving = world.caller().await;
    leaving.write(&get(&world, "/leaves")).await;
    let request = get(&world, "/stays");
    let staying = fetch(&world, &request);
    let leave = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(leaving);
        reset.notified().await;
    };

    let (stayed, ()) = tokio::join!(staying, leave);

    assert_eq!(stayed, (200, "stayed".to_owned()));
    world.finish().await;
}

#[tokio::test]
async fn callers_that_do_not_read_delay_no_other_on_the_same_connection() {
    let world = http2().await;
    let mut slow = Vec::new();
    for _ in 0..40 {
        let mut caller = world.caller().await;
        caller.write(&get(&world, "/big/20000000")).await;
        slow.push(caller);
    }
    eventually("all under way", async || world.upstream.requests().len() == 40).await;
    tokio::time::sleep(Duration::from_millis(300)).await;

    let reply = tokio::time::timeout(Duration::from_secs(5), world.get("/x")).await.unwrap();

    assert_eq!(reply.status, 200);
    assert_eq!(world.upstream.connections(), 1);
    drop(slow);
    world.finish().await;
}

#[tokio::test]
async fn a_request_on_a_closed_connection_opens_another() {
    let (world, _peer) = before(|stream| async move {
        let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
        let Some((stream, _)) = frames.request().await else { return };
        frames.answer(stream, b"once").await;
        // Time for the answer; then the connection is closed without GOAWAY.
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;

    for _ in 0..3 {
        assert_eq!(fetch(&world, &get(&world, "/x")).await, (200, "once".to_owned()));
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn many_callers_of_an_unreachable_upstream_get_502_at_once() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .route("http_version = \"2\"")
        .upstream(format!("http://{address}"))
        .start()
        .await;

    let replies = join_all((0..30).map(|_| world.get("/x"))).await;

    assert!(replies.iter().all(|reply| reply.code().as_deref() == Some("upstream_unreachable")));
    world.finish().await;
}
