//! Connections to upstreams with habits of their own: none of them costs a caller its answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Caller, Setup, World, daemon};
use testkit::harness::frames::{DATA, END_HEADERS, Frames, HEADERS, STATUS_200};
use testkit::harness::raw::{RawPeer, read_head};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const ANNOUNCED: &[u8] = b"HTTP/1.1 200 OK\r\nkeep-alive: timeout=1\r\ncontent-length: 2\r\n\r\nok";

fn setup(peer: &RawPeer) -> Setup {
    daemon().quiet().unprotected().without_token().upstream(format!("http://{}", peer.address))
}

/// An upstream over HTTP/1.1 that counts connections, and a world in front of it.
async fn before<A, F>(act: A, route: &str) -> (World, RawPeer, Arc<AtomicUsize>)
where
    A: Fn(TcpStream) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let peer = RawPeer::tcp(move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        act(stream)
    })
    .await;
    let world = setup(&peer).server("workers = 1").route(route).start().await;
    (world, peer, connections)
}

fn request(world: &World, method: &str, body: &str) -> String {
    let length = if body.is_empty() { String::new() } else { format!("content-length: {}\r\n", body.len()) };
    format!("{method} /x HTTP/1.1\r\nhost: {}\r\n{length}\r\n{body}", world.address)
}

async fn get(caller: &mut Caller, world: &World) -> u16 {
    caller.write(request(world, "GET", "").as_bytes()).await;
    caller.read().await.unwrap().status
}

#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_unannounced_loses_no_get() {
    let once = async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        let _ = stream.write_all(OK).await;
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..300))).await;
    };
    let (world, _peer, _) = before(once, "breaker = \"off\"").await;
    let mut caller = world.caller().await;

    for number in 0..300 {
        assert_eq!(get(&mut caller, &world).await, 200, "request {number}");
    }
    world.finish().await;
}

/// Reads a whole request, whose body is `hello` if there is one; `false` at the end of the connection.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut request = read_head(stream).await;
    let has_body = request.windows(14).any(|text| text == b"content-length");
    while has_body && !request.ends_with(b"hello") {
        if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return false;
        }
    }
    !request.is_empty()
}

/// Reads the second request on a connection, and closes without an answer.
async fn closes_on_reuse(mut stream: TcpStream, unanswered: Arc<AtomicUsize>) {
    read_request(&mut stream).await;
    // Requests that are made together need two connections.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _ = stream.write_all(OK).await;
    if read_request(&mut stream).await {
        unanswered.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_request_left_unanswered_on_a_reused_connection_is_sent_once_more() {
    for (method, body, is_answered) in [
        ("GET", "", true),
        ("HEAD", "", true),
        ("OPTIONS", "", true),
        ("DELETE", "", true),
        ("PUT", "hello", true),
        ("POST", "hello", false),
        ("PATCH", "hello", false),
    ] {
        let seen = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&seen);
        let (world, _peer, connections) =
            before(move |stream| closes_on_reuse(stream, Arc::clone(&counter)), "").await;
        let mut caller = world.caller().await;
        // Two idle connections, which both would be closed.
        let mut other = world.caller().await;
        let both = tokio::join!(get(&mut caller, &world), get(&mut other, &world));
        assert_eq!(both, (200, 200));

        let request = request(&world, method, body);
        caller.write(request.as_bytes()).await;

        let head = String::from_utf8(caller.read_some().await).unwrap();
        let expected = if is_answered { "HTTP/1.1 200" } else { "HTTP/1.1 502" };
        assert!(head.starts_with(expected), "{method}: {head}");
        assert_eq!(seen.load(Ordering::Relaxed), 1, "{method}");
        assert_eq!(connections.load(Ordering::Relaxed), if is_answered { 3 } else { 2 }, "{method}");
        world.finish().await;
    }
}

#[tokio::test]
async fn without_retry_stale_a_get_that_was_left_unanswered_fails() {
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let act = move |stream| closes_on_reuse(stream, Arc::clone(&counter));
    let (world, _peer, connections) = before(act, "retry_stale = false").await;
    let mut caller = world.caller().await;

    assert_eq!(get(&mut caller, &world).await, 200);
    assert_eq!(get(&mut caller, &world).await, 502);

    assert_eq!(connections.load(Ordering::Relaxed), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_get_whose_answer_began_is_not_sent_again() {
    let act = async |mut stream: TcpStream| {
        read_head(&mut stream).await;
        let _ = stream.write_all(OK).await;
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await;
    };
    let (world, _peer, connections) = before(act, "").await;
    let mut caller = world.caller().await;

    assert_eq!(get(&mut caller, &world).await, 200);
    assert_eq!(get(&mut caller, &world).await, 502);

    assert_eq!(connections.load(Ordering::Relaxed), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_connection_is_kept_as_long_as_configured_and_the_upstream_announces() {
    let kept = async |answer: &'static [u8], route: &str| {
        let act = async move |mut stream: TcpStream| {
            while !read_head(&mut stream).await.is_empty() {
                let _ = stream.write_all(answer).await;
            }
        };
        let (world, _peer, connections) = before(act, route).await;
        let mut caller = world.caller().await;
        assert_eq!(get(&mut caller, &world).await, 200);
        tokio::time::sleep(Duration::from_millis(700)).await;
        assert_eq!(get(&mut caller, &world).await, 200);
        world.finish().await;
        connections.load(Ordering::Relaxed) == 1
    };
    assert!(kept(OK, "").await);
    assert!(!kept(OK, "idle_timeout = \"600ms\"").await);
    assert!(!kept(ANNOUNCED, "").await);
}

/// Answers at once, except for the first request of each connection, whose answer does not end.
async fn begins_with_a_long_answer(stream: TcpStream, pings: Arc<AtomicUsize>) {
    let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
    let mut is_first = true;
    while let Some(frame) = frames.next().await {
        pings.fetch_add(std::mem::take(&mut frames.pings), Ordering::Relaxed);
        if frame.kind == HEADERS && std::mem::take(&mut is_first) {
            frames.send(HEADERS, END_HEADERS, frame.stream, STATUS_200).await;
            frames.send(DATA, 0, frame.stream, b"begun").await;
        } else if frame.kind == HEADERS {
            frames.answer(frame.stream, b"done").await;
        }
    }
}

#[tokio::test]
async fn a_long_stream_locks_nobody_out_and_brings_no_ping() {
    let pings = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&pings);
    let peer = RawPeer::tcp(move |stream| begins_with_a_long_answer(stream, Arc::clone(&counter))).await;
    let route = "http_version = \"2\"\nconnections = 1\nconnect_timeout = \"1s\"";
    let world = setup(&peer).server("workers = 2").route(route).start().await;
    // Callers that stay are on both workers.
    let mut long = [world.caller().await, world.caller().await];
    for caller in &mut long {
        caller.write(request(&world, "GET", "").as_bytes()).await;
        assert!(caller.read_until("begun\r\n").await.starts_with("HTTP/1.1 200"));
    }

    let all = join_all((0..6).map(async |_| {
        let mut caller = world.caller().await;
        let mut statuses = Vec::new();
        for _ in 0..40 {
            statuses.push(get(&mut caller, &world).await);
        }
        statuses
    }))
    .await;

    assert!(all.iter().flatten().all(|status| *status == 200), "{all:?}");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(get(&mut world.caller().await, &world).await, 200);
    assert_eq!(pings.load(Ordering::Relaxed), 0);
    drop(long);
    world.finish().await;
}

#[tokio::test]
async fn a_get_on_an_http_2_connection_that_closed_unanswered_is_sent_once_more() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let peer = RawPeer::tcp(move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        async {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            let Some((stream, _)) = frames.request().await else { return };
            frames.answer(stream, b"done").await;
            frames.request().await;
        }
    })
    .await;
    let world = setup(&peer).server("workers = 1").route("http_version = \"2\"").start().await;
    let mut caller = world.caller().await;

    for _ in 0..3 {
        assert_eq!(get(&mut caller, &world).await, 200);
    }

    assert_eq!(connections.load(Ordering::Relaxed), 3);
    world.finish().await;
}
