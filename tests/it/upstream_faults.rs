//! Failures of upstreams: each has its code, no incomplete answer looks complete, and no request is sent twice.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{Http2Caller, PROMPT, Reply, Request, World, daemon, eventually};
use testkit::harness::raw::{RawPeer, read_head, reset};

fn url(peer: &RawPeer) -> String {
    format!("http://{}", peer.address)
}

async fn with_upstream(url: String) -> World {
    daemon().quiet().unprotected().without_token().upstream(url).start().await
}

fn code(reply: &Reply) -> (u16, Option<String>) {
    (reply.status, reply.code())
}

fn is(status: u16, code: &str) -> (u16, Option<String>) {
    (status, Some(code.to_owned()))
}

#[tokio::test]
async fn an_upstream_that_refuses_is_unreachable() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let world = with_upstream(format!("http://{address}")).await;

    let reply = world.get("/x").await;

    assert_eq!(code(&reply), is(502, "upstream_unreachable"));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=connection_refused"));
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_whose_name_does_not_resolve_is_unreachable() {
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .upstream("https://no-such-host.invalid".to_owned())
        .start()
        .await;

    let reply = world.get("/x").await;

    assert_eq!(code(&reply), is(502, "upstream_unreachable"));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=dns_error"));
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_that_accepts_and_does_not_answer_times_out() {
    let silent = RawPeer::tcp(|mut stream| async move {
        let mut sink = [0; 1024];
        while stream.read(&mut sink).await.unwrap_or(0) > 0 {}
    })
    .await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .upstream(url(&silent))
        .route("timeout = \"400ms\"")
        .start()
        .await;
    let started = Instant::now();

    assert_eq!(code(&world.get("/x").await), is(504, "upstream_timeout"));

    assert!((Duration::from_millis(390)..PROMPT).contains(&started.elapsed()), "{:?}", started.elapsed());
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_finish_its_handshake_times_out() {
    let silent = RawPeer::tcp(|stream| async move {
        let _held = stream;
        std::future::pending::<()>().await;
    })
    .await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .upstream(format!("https://localhost:{}", silent.address.port()))
        .route("connect_timeout = \"400ms\"")
        .start()
        .await;

    let reply = world.get("/x").await;

    assert_eq!(code(&reply), is(502, "upstream_unreachable"));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=connection_timeout"));
    world.finish().await;
}

#[tokio::test]
async fn a_connection_that_ends_before_the_head_is_not_retried() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let closing = RawPeer::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut stream).await;
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let counter = Arc::clone(&requests);
    let resetting = RawPeer::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut stream).await;
            counter.fetch_add(1, Ordering::Relaxed);
            reset(&stream);
        }
    })
    .await;
    let counter = Arc::clone(&requests);
    let halfway = RawPeer::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            read_head(&mut stream).await;
            counter.fetch_add(1, Ordering::Relaxed);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-le").await;
        }
    })
    .await;
    for peer in [&closing, &resetting, &halfway] {
        let before = requests.load(Ordering::Relaxed);
        let world = with_upstream(url(peer)).await;

        assert_eq!(code(&world.send(&Request::post("/x", b"pay once")).await), is(502, "upstream_protocol"));

        assert_eq!(requests.load(Ordering::Relaxed), before + 1);
        world.finish().await;
    }
}

#[tokio::test]
async fn malformed_answers_are_a_protocol_error() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nbad header\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let peer = RawPeer::tcp(move |mut stream| async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.read(&mut [0]).await;
        })
        .await;
        let world = with_upstream(url(&peer)).await;
        assert_eq!(code(&world.get("/x").await), is(502, "upstream_protocol"), "{answer:?}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_head_that_is_too_large_is_a_protocol_error() {
    let peer = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream
            .write_all(format!("HTTP/1.1 200 OK\r\nx: {}\r\n\r\n", "y".repeat(200_000)).as_bytes())
            .await;
    })
    .await;
    let world = with_upstream(url(&peer)).await;

    assert_eq!(code(&world.get("/x").await), is(502, "upstream_protocol"));
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_breaks_off_reaches_the_caller_as_incomplete() {
    let world = daemon().start().await;
    for target in ["/break/length", "/break/chunked"] {
        let incomplete = world.caller().await.try_send(&Request::get(target)).await;
        let incomplete = incomplete.err().unwrap_or_else(|| panic!("{target} looked complete"));
        assert!(!incomplete.received.ends_with(b"0\r\n\r\n"), "{target}");
    }
    // Over HTTP/2 the daemon resets the stream.
    let mut caller = Http2Caller::connect(world.address).await;
    assert!(caller.breaks(&Request::get("/break/chunked")).await);
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200, "the connection lives on");
    world.finish().await;
}

/// Without a head, many clients would take the failure for a closed idle connection and send the request again.
#[tokio::test]
async fn an_answer_that_breaks_off_at_once_still_has_its_head() {
    let peer = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\nhello").await;
    })
    .await;
    let world = with_upstream(url(&peer)).await;
    for _ in 0..20 {
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        let incomplete = caller.read().await.unwrap_err();
        assert_eq!(incomplete.received, b"hello", "the head was read before");
    }
    world.finish().await;
}

/// For HTTP/1.0 the connection's end is the answer's end: an orderly close would look complete.
#[tokio::test]
async fn an_http_1_0_caller_sees_a_broken_answer_as_a_reset() {
    let world = daemon().start().await;
    let ask = async |target: &str| {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let request = format!("GET {target} HTTP/1.0\r\nhost: {}\r\n\r\n", world.address);
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.map(|_| answer)
    };

    assert!(ask("/trickle/3").await.unwrap().ends_with("piece 2\n"));
    assert_eq!(ask("/break/chunked").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    world.finish().await;
}

/// A body that ends with the connection is complete only after a `close_notify` of TLS (RFC 9112 §8).
#[tokio::test]
async fn an_answer_until_close_is_complete_only_with_tls_close_notify() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let config = pki.server_config(&[b"http/1.1"]).unwrap();
    let peer = RawPeer::tls(config, |mut stream| async move {
        let head = read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nuntil the end").await;
        let _ = stream.flush().await;
        if head.starts_with(b"GET /whole") {
            let _ = stream.shutdown().await;
        }
    })
    .await;
    let setup = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .upstream(format!("https://localhost:{}", peer.address.port()));
    let world = setup.start_with(pki, async |_| {}).await;
    let ask = async |target: &str| {
        let mut caller = world.caller().await;
        caller.write(format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        caller.read().await
    };

    assert_eq!(ask("/whole").await.unwrap().text(), "until the end");
    assert!(ask("/cut").await.is_err(), "a cut connection looked like an end");
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_with_a_bad_certificate_gets_no_byte() {
    let seen = Arc::new(AtomicUsize::new(0));
    let foreign = Pki::new(&["localhost"]).unwrap();
    let own = Pki::new(&["api.example.com"]).unwrap();
    let spy = |pki: &Pki| {
        let counter = Arc::clone(&seen);
        RawPeer::tls(pki.server_config(&[b"http/1.1"]).unwrap(), move |mut stream| {
            let counter = Arc::clone(&counter);
            async move {
                let mut byte = [0; 1];
                counter.fetch_add(stream.read(&mut byte).await.unwrap_or(0), Ordering::Relaxed);
            }
        })
    };
    let (unknown_authority, wrong_name) = (spy(&foreign).await, spy(&own).await);
    for (peer, pki) in [(&unknown_authority, Pki::new(&["localhost"]).unwrap()), (&wrong_name, own)] {
        let world = daemon()
            .upstream(format!("https://localhost:{}", peer.address.port()))
            .start_with(pki, async |_| {})
            .await;

        let reply = world.get("/x").await;

        assert_eq!(code(&reply), is(502, "upstream_tls"));
        assert_eq!(reply.get("proxy-status"), Some("bearerd; error=tls_certificate_error"));
        world.finish().await;
    }
    assert_eq!(seen.load(Ordering::Relaxed), 0, "something was sent before the certificate was checked");
}

#[tokio::test]
async fn plain_text_where_tls_is_expected_is_a_tls_failure() {
    let plain = RawPeer::tcp(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let world = with_upstream(format!("https://localhost:{}", plain.address.port())).await;

    let reply = world.get("/x").await;

    assert_eq!(code(&reply), is(502, "upstream_tls"));
    assert_eq!(reply.get("proxy-status"), Some("bearerd; error=tls_protocol_error"));
    world.finish().await;
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_replaced() {
    let (connections, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counters = (Arc::clone(&connections), Arc::clone(&closed));
    let once = RawPeer::tcp(move |mut stream| {
        let (connections, closed) = counters.clone();
        async move {
            connections.fetch_add(1, Ordering::Relaxed);
            read_head(&mut stream).await;
            // The answer does not announce that the connection ends.
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            let _ = stream.shutdown().await;
            closed.fetch_add(1, Ordering::Relaxed);
            // The daemon closes its side when it next looks at the connection.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        }
    })
    .await;
    let world = with_upstream(url(&once)).await;
    for number in 1..=5 {
        let mut caller = world.caller().await;
        caller
            .write(
                format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: 2\r\n\r\nhi", world.address)
                    .as_bytes(),
            )
            .await;
        assert_eq!(caller.read().await.unwrap().text(), "ok");
        eventually("the end of the connection", async || closed.load(Ordering::Relaxed) == number).await;
    }
    assert_eq!(connections.load(Ordering::Relaxed), 5);
    world.finish().await;
}

#[tokio::test]
async fn unsolicited_bytes_are_no_answer_to_the_next_request() {
    let poisoning = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let one = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst";
        let two = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
        let _ = stream.write_all(format!("{one}{two}").as_bytes()).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server("workers = 1")
        .upstream(url(&poisoning))
        .start()
        .await;
    for _ in 0..5 {
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        assert_eq!(caller.read().await.unwrap().text(), "first");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_early_answer_to_a_large_upload_is_passed_on() {
    let early = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let answer =
            b"HTTP/1.1 507 Insufficient Storage\r\ncontent-length: 4\r\nconnection: close\r\n\r\nfull";
        let _ = stream.write_all(answer).await;
        // The system resets the connection, as most of the request is unread.
    })
    .await;
    let setup = daemon().quiet().unprotected().without_token().upstream(url(&early));
    let world = setup.route("breaker = \"off\"").start().await;
    for _ in 0..20 {
        let mut caller = world.caller().await;
        let head = format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: 3000000\r\n\r\n", world.address);
        caller.write(head.as_bytes()).await;
        let _ = caller.try_write(&vec![b'x'; 3_000_000]).await;
        let reply = caller.read().await.expect("the early answer was lost");
        assert_eq!((reply.status, reply.text().as_str()), (507, "full"));
    }
    world.finish().await;
}

#[tokio::test]
async fn connections_are_kept_for_the_next_request() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    let api = RawPeer::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
            while !read_head(&mut stream).await.is_empty() {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server("workers = 1")
        .upstream(url(&api))
        .start()
        .await;
    for _ in 0..20 {
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        assert_eq!(caller.read().await.unwrap().text(), "ok");
    }
    assert_eq!(connections.load(Ordering::Relaxed), 1);
    world.finish().await;
}
