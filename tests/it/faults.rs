//! Faults and tricks that could give one caller what belongs to another, or end more than they should.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::raw::{BlackHole, RawPeer, Recorder, read_head};
use crate::harness::{Caller, Http2Caller, Request, Setup, World, eventually};

/// An API of which nothing is checked but what a test looks at.
fn with_upstream(peer: &RawPeer) -> Setup {
    let url = format!("http://localhost:{}", peer.address.port());
    Setup::default().quiet().unprotected().without_token().upstream(url)
}

/// FLT-UP-03.
#[tokio::test]
async fn an_answer_before_the_request_was_read_says_that_the_connection_ends() {
    let early = RawPeer::tcp(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        }
    })
    .await;
    let world = with_upstream(&early).start().await;

    for framing in ["content-length: 65536\r\n\r\n", "transfer-encoding: chunked\r\n\r\n8000\r\n"] {
        let mut caller = world.caller().await;
        caller.write(format!("POST /x HTTP/1.1\r\nhost: {}\r\n{framing}", world.address).as_bytes()).await;
        caller.write(&[b'x'; 1000]).await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "early"));
        assert_eq!(reply.get("connection"), Some("close"), "{framing:?}");
        // What follows is body, and never a request.
        let _ = caller.try_write(b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(caller.is_closed().await);
    }
    // Over HTTP/2 it ends its stream alone.
    let mut caller = Http2Caller::connect(world.address).await;
    for _ in 0..3 {
        assert!(!caller.breaks(&Request::get("/x")).await);
    }
    world.finish().await;
}

/// LEAK-03: every answer belongs to its request, whatever others do on the connections that all share.
#[tokio::test]
async fn callers_that_leave_at_any_moment_leave_nothing_for_the_next() {
    let world = Setup::default().quiet().server("workers = 1").route("connections = 4").start().await;
    let address = world.address;
    let is_over = Arc::new(AtomicBool::new(false));
    let rude = (0..6_u64).map(|number| {
        let is_over = Arc::clone(&is_over);
        async move {
            let host = format!("host: {address}\r\nx-request-id: rude");
            let requests = [
                format!("GET /trickle/5 HTTP/1.1\r\n{host}\r\n\r\n"),
                format!("GET /slow/10 HTTP/1.1\r\n{host}\r\n\r\n"),
                format!("GET /big/300000 HTTP/1.1\r\n{host}\r\n\r\n"),
                format!("POST /echo HTTP/1.1\r\n{host}\r\ncontent-length: 5000\r\n\r\nhalf"),
                format!("POST /x HTTP/1.1\r\n{host}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                format!("GET /x HTTP/1.1\r\n{host}\r\n\r\nGET /x HTTP/1.1\r\n{host}\r\n\r\n"),
            ];
            let mut round = number;
            while !is_over.load(Ordering::Relaxed) {
                round += 1;
                let mut stream = TcpStream::connect(address).await.unwrap();
                let request = &requests[usize::try_from(round % 6).unwrap()];
                let _ = stream.write_all(request.as_bytes()).await;
                let _ =
                    tokio::time::timeout(Duration::from_millis(round * 7 % 30), stream.read(&mut [0; 100]))
                        .await;
            }
        }
    });
    let polite = (0..8).map(|number| {
        let is_over = Arc::clone(&is_over);
        async move {
            let mut http1 = Caller::connect(address).await;
            let mut http2 = Http2Caller::connect(address).await;
            for round in 0..60 {
                let body = format!("caller {number} round {round}");
                let request = Request::post("/echo", body.as_bytes());
                // Both also check whose answer it is.
                assert_eq!(http1.send(&request).await.text(), body);
                assert_eq!(http2.send(&request).await.text(), body);
            }
            is_over.store(true, Ordering::Relaxed);
        }
    });
    tokio::join!(join_all(rude), join_all(polite));
    world.finish().await;
}

/// LEAK-04.
#[tokio::test]
async fn an_answer_is_asked_for_each_time_however_long_it_may_be_kept() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let api = RawPeer::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                counter.fetch_add(1, Ordering::Relaxed);
                let fields =
                    "cache-control: public, max-age=31536000, immutable\r\netag: \"1\"\r\ncontent-length: 0";
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes()).await;
            }
        }
    })
    .await;
    let world = with_upstream(&api).start().await;

    for _ in 0..3 {
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        assert_eq!(caller.read().await.unwrap().status, 200);
    }

    assert_eq!(requests.load(Ordering::Relaxed), 3);
    world.finish().await;
}

/// RED-01, RED-02.
#[tokio::test]
async fn a_redirect_is_passed_on_and_followed_by_nobody_and_its_location_is_in_no_log() {
    let followed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&followed);
    let elsewhere = RawPeer::tcp(move |_| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let elsewhere_at = elsewhere.address;
    let api = RawPeer::tcp(move |mut stream| async move {
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        let (status, host) = head.split_once(' ').unwrap().1.trim_start_matches('/').split_at(3);
        let host = if host.starts_with("/own") { stream.local_addr().unwrap() } else { elsewhere_at };
        let location = format!("http://{host}/landing?access_token=hunter2-of-the-api");
        let fields = format!("location: {location}\r\ncontent-length: 0\r\nconnection: close");
        stream.write_all(format!("HTTP/1.1 {status} Moved\r\n{fields}\r\n\r\n").as_bytes()).await.unwrap();
    })
    .await;
    let url = format!("http://{}", api.address);
    let world = Setup::default().unprotected().without_token().upstream(url).start().await;

    for status in [301, 302, 303, 307, 308] {
        for (path, location) in [
            ("own", "/landing?access_token=hunter2-of-the-api".to_owned()),
            ("away", format!("http://{elsewhere_at}/landing?access_token=hunter2-of-the-api")),
        ] {
            let mut caller = world.caller().await;
            let head = format!("POST /{status}/{path} HTTP/1.1\r\nhost: {}\r\n", world.address);
            caller.write(format!("{head}content-length: 2\r\n\r\nhi").as_bytes()).await;
            let reply = caller.read().await.unwrap();
            assert_eq!((reply.status, reply.get("location")), (status, Some(location.as_str())));
        }
    }

    assert_eq!(followed.load(Ordering::Relaxed), 0);
    eventually("the log", async || world.process.events("request").len() >= 10).await;
    assert!(!world.process.output().contains("hunter2"), "{}", world.process.output());
    world.finish().await;
}

/// LIM-02 over HTTP/2, where a body need not say how long it is.
#[tokio::test]
async fn an_http_2_body_over_the_limit_is_refused_and_never_completed_upstream() {
    let recorder = Recorder::start("").await;
    let world = with_upstream(&recorder.peer).limits("body_bytes = \"10KiB\"").start().await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let pieces = (0..4).map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; 4096]))));
    let body = StreamBody::new(futures_util::stream::iter(pieces));
    let request = http::Request::post(format!("http://{}/x", world.address)).body(body).unwrap();

    let response = sender.send_request(request).await.unwrap();

    assert_eq!(response.status(), 413);
    let messages = recorder.ended(1).await;
    assert!(messages.len() == 1 && !messages[0].ends_with("0\r\n\r\n"), "{messages:?}");
    connection.abort();
    world.finish().await;
}

/// SLOW-04.
#[tokio::test]
async fn a_thousand_ranges_are_the_apis_to_judge_and_cost_little() {
    let world = Setup::default().quiet().start().await;
    let ranges: Vec<String> = (0..1000).map(|number| format!("{number}-")).collect();
    let request = Request::get("/x").field("range", &format!("bytes={}", ranges.join(",")));
    assert_eq!(world.send(&request).await.status, 200);
    let before = world.process.resident_kib();

    for _ in 0..200 {
        assert_eq!(world.send(&request).await.status, 200);
    }

    let grown = world.process.resident_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    assert_eq!(
        world.upstream.requests()[0].get("range"),
        request.fields.first().map(|(_, value)| value.as_str())
    );
    world.finish().await;
}

/// FLT-UP-04.
#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_an_answer_ends_it_upstream_too() {
    let is_cut = Arc::new(AtomicBool::new(false));
    let cut = Arc::clone(&is_cut);
    let endless = RawPeer::tcp(move |mut stream| {
        let cut = Arc::clone(&cut);
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while stream.write_all(b"5\r\nhello\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            cut.store(true, Ordering::Relaxed);
        }
    })
    .await;
    let world = with_upstream(&endless).start().await;
    let get = format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(get.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 200]).await.unwrap();
    let left = Instant::now();
    drop(stream);

    eventually("the cut", async || is_cut.load(Ordering::Relaxed)).await;
    assert!(left.elapsed() < Duration::from_secs(1), "{:?}", left.elapsed());
    world.finish().await;
}

/// FLT-NET-01, towards an API.
#[tokio::test]
async fn an_upstream_that_no_connection_reaches_is_given_up_in_time() {
    let nowhere = BlackHole::new();
    let world: World = Setup::default()
        .quiet()
        .unprotected()
        .without_token()
        .upstream(format!("http://{}", nowhere.address))
        .route("connect_timeout = \"400ms\"")
        .start()
        .await;
    let began = Instant::now();

    let replies = join_all((0..20).map(|_| world.get("/x"))).await;

    for reply in replies {
        assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_unreachable")));
        assert_eq!(reply.get("proxy-status"), Some("bearerd; error=connection_timeout"));
    }
    assert!((390..3000).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    world.finish().await;
}
