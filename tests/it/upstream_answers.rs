//! Answers of upstreams whose framing is doubtful or wrong (RFC 9112 §6).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::harness::{Caller, Reply, Request, World, daemon};
use testkit::harness::frames::Frames;
use testkit::harness::raw::{RawPeer, read_head};
use testkit::pki::Pki;

/// An API that answers each request with these bytes; the number of its connections.
async fn answering(answer: &'static str) -> (RawPeer, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let peer = RawPeer::tcp(move |mut stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await;
    (peer, connections)
}

async fn before(peer: &RawPeer, more: &str) -> World {
    daemon()
        .unprotected()
        .without_token()
        .server("workers = 1")
        .route(more)
        .upstream(format!("http://{}", peer.address))
        .start()
        .await
}

async fn ask(caller: &mut Caller, world: &World, line: &str, fields: &str) -> Reply {
    caller.write(format!("{line}\r\nhost: {}\r\n{fields}\r\n", world.address).as_bytes()).await;
    caller.read().await.unwrap()
}

async fn get(caller: &mut Caller, world: &World) -> Reply {
    ask(caller, world, "GET /x HTTP/1.1", "").await
}

const CHUNKS: &str = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";

#[tokio::test]
async fn chunks_count_where_an_answer_has_a_length_too() {
    for fields in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: 0\r\ntransfer-encoding: chunked",
        "transfer-encoding: Chunked\r\ncontent-length: 1000",
        "transfer-encoding: chunked\r\ncontent-length: 5\r\ncontent-length: 6",
        "transfer-encoding: chunked\r\ncontent-length: none",
    ] {
        let answer = format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n{CHUNKS}").leak();
        let (peer, connections) = answering(answer).await;
        let world = before(&peer, "").await;
        let mut caller = world.caller().await;
        for number in 1..=2 {
            let reply = get(&mut caller, &world).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "hello world"), "{fields}");
            assert_eq!(reply.get("content-length"), None, "{fields}");
            // Such an upstream may mean something else by the next bytes.
            assert_eq!(connections.load(Ordering::Relaxed), number, "{fields}");
        }
        assert_eq!(world.process.event("request").await["complete"], true, "{fields}");
        world.finish().await;
    }
}

#[tokio::test]
async fn chunks_of_http_1_0_are_read_and_end_their_connection() {
    for fields in ["Transfer-Encoding: chunked", "content-length: 5\r\ntransfer-encoding: chunked"] {
        let (peer, connections) =
            answering(format!("HTTP/1.0 200 OK\r\n{fields}\r\n\r\n{CHUNKS}").leak()).await;
        let world = before(&peer, "").await;
        let mut caller = world.caller().await;
        for number in 1..=2 {
            let reply = get(&mut caller, &world).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "hello world"), "{fields}");
            assert_eq!(connections.load(Ordering::Relaxed), number, "{fields}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn equal_lengths_of_an_answer_are_one_and_unequal_ones_an_error() {
    for fields in
        ["content-length: 5, 5", "content-length: 5\r\ncontent-length: 5", "content-length: 5,5 , 05"]
    {
        let (peer, connections) = answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\nhello").leak()).await;
        let world = before(&peer, "").await;
        let mut caller = world.caller().await;
        for _ in 0..2 {
            let reply = get(&mut caller, &world).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "hello"), "{fields}");
            assert_eq!(reply.get("content-length"), Some("5"), "{fields}");
        }
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{fields}");
        world.finish().await;
    }
    for fields in [
        "content-length: 5, 6",
        "content-length: 5\r\ncontent-length: 6",
        "content-length: 5,",
        "content-length: +5",
        "content-length: 99999999999999999999999",
        "transfer-encoding: gzip, chunked",
        "transfer-encoding: chunked, chunked",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
        "transfer-encoding: gzip",
    ] {
        let (peer, _) = answering(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").leak()).await;
        let world = before(&peer, "").await;
        let reply = get(&mut world.caller().await, &world).await;
        let told = (reply.status, reply.code());
        assert_eq!(told, (502, Some("upstream_protocol".to_owned())), "{fields}");
        world.finish().await;
    }
}

#[tokio::test]
async fn an_answer_that_announces_a_body_it_cannot_have_poisons_no_other() {
    for (status, fields, body) in [
        ("204 No Content", "content-length: 5", "hello"),
        ("204 No Content", "transfer-encoding: chunked", CHUNKS),
        ("304 Not Modified", "content-length: 5", "hello"),
        ("304 Not Modified", "transfer-encoding: chunked", CHUNKS),
    ] {
        let number = Arc::new(AtomicUsize::new(0));
        let peer = RawPeer::tcp(move |mut stream| {
            let number = Arc::clone(&number);
            async move {
                while !read_head(&mut stream).await.is_empty() {
                    if number.fetch_add(1, Ordering::Relaxed) % 2 == 1 {
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                        continue;
                    }
                    let head = format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n");
                    let _ = stream.write_all(head.as_bytes()).await;
                    // The body comes while the next request is on its way.
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                    let _ = stream.write_all(body.as_bytes()).await;
                }
            }
        })
        .await;
        let world = before(&peer, "").await;
        let mut caller = world.caller().await;
        for _ in 0..2 {
            let reply = get(&mut caller, &world).await;
            assert_eq!(reply.status.to_string(), status[..3], "{fields}");
            assert!(reply.get("content-length").is_none(), "{status} {fields}");
            let reply = get(&mut caller, &world).await;
            assert_eq!((reply.status, reply.text().as_str()), (200, "ok"), "{status} {fields}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn an_answer_may_have_more_than_a_hundred_fields() {
    let fields = (0..800).map(|number| format!("x-{number}: some value\r\n")).collect::<Vec<_>>().concat();
    let (peer, _) = answering(format!("HTTP/1.1 200 OK\r\n{fields}content-length: 2\r\n\r\nok").leak()).await;
    let world = before(&peer, "").await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    let answer = caller.read_until("\r\n\r\nok").await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("x-799: some value\r\n"),
        "{answer}"
    );
    world.finish().await;
}

#[tokio::test]
async fn an_answer_with_a_control_in_a_field_is_an_error_of_the_upstream() {
    for (value, status) in
        [("a\tb", 200), ("a\u{1}b", 502), ("a\0b", 502), ("a\u{7f}b", 502), ("\u{fc}", 200)]
    {
        let answer = format!("HTTP/1.1 200 OK\r\nserver: {value}\r\ncontent-length: 2\r\n\r\nok").leak();
        let (peer, _) = answering(answer).await;
        let world = before(&peer, "").await;
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.0\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        let answer = String::from_utf8(caller.read_some().await).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.0 {status}")), "{value:?}: {answer}");
        if status == 502 {
            assert!(answer.contains("upstream_protocol"), "{answer}");
        } else {
            assert!(answer.contains(&format!("server: {value}\r\n")), "{answer}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caller_of_http_1_0_may_keep_its_connection() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    for target in ["/big/1000", "/echo"] {
        let mut request = Request::get(target).field("connection", "Keep-Alive");
        request.version = "HTTP/1.0";
        let reply = caller.send(&request).await;
        assert_eq!((reply.status, reply.get("connection")), (200, Some("keep-alive")), "{target}");
    }
    let mut request = Request::get("/echo");
    request.version = "HTTP/1.0";
    let reply = caller.send(&request).await;
    assert_eq!((reply.status, reply.get("connection")), (200, None));
    assert!(caller.is_closed().await);
    world.finish().await;
}

#[tokio::test]
async fn an_answer_of_unknown_length_ends_a_connection_of_http_1_0() {
    let (peer, _) =
        answering("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n").await;
    let world = before(&peer, "").await;
    let mut caller = world.caller().await;
    let reply = ask(&mut caller, &world, "GET /x HTTP/1.0", "connection: keep-alive\r\n").await;
    assert_eq!((reply.text().as_str(), reply.get("connection")), ("hello", None));
    assert!(caller.is_closed().await);
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_that_requires_http_1_1_is_named_as_the_cause() {
    const HTTP_1_1_REQUIRED: u32 = 0xd;
    let peer = RawPeer::tcp(|stream| async move {
        let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
        while let Some((stream, _)) = frames.request().await {
            frames.reset(stream, HTTP_1_1_REQUIRED).await;
        }
    })
    .await;
    let world = before(&peer, "http_version = \"2\"").await;
    let reply = get(&mut world.caller().await, &world).await;
    assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_protocol")));
    assert!(reply.text().contains("http_version = \\\"1.1\\\""), "{}", reply.text());
    world.finish().await;
}

/// An API that offers both versions, and requires HTTP/1.1 for each request; how many requests came over each.
async fn requiring_http1(pki: &Pki) -> (RawPeer, Arc<[AtomicUsize; 2]>) {
    let counts: Arc<[AtomicUsize; 2]> = Arc::default();
    let counted = Arc::clone(&counts);
    let peer = RawPeer::tls(pki.server_config(&[b"h2", b"http/1.1"]).unwrap(), move |mut stream| {
        let counted = Arc::clone(&counted);
        async move {
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    counted[1].fetch_add(1, Ordering::Relaxed);
                    respond.send_reset(h2::Reason::HTTP_1_1_REQUIRED);
                }
                return;
            }
            loop {
                let mut request = read_head(&mut stream).await;
                if request.is_empty() {
                    return;
                }
                while request.starts_with(b"POST") && !request.ends_with(b"hello") {
                    if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                counted[0].fetch_add(1, Ordering::Relaxed);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                let _ = stream.flush().await;
            }
        }
    })
    .await;
    (peer, counts)
}

#[tokio::test]
async fn a_request_that_requires_http_1_1_is_sent_over_it_and_so_are_the_next() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let (peer, counts) = requiring_http1(&pki).await;
    let world = daemon()
        .quiet()
        .server("workers = 1")
        .limits("replay_body = \"8B\"")
        .upstream(format!("https://localhost:{}", peer.address.port()))
        .start_with(pki, async |_| {})
        .await;
    let mut caller = world.caller().await;

    for (number, line) in ["POST /x HTTP/1.1", "GET /x HTTP/1.1", "POST /x HTTP/1.1"].into_iter().enumerate()
    {
        let (length, body) =
            if line.starts_with("POST") { ("content-length: 5\r\n", "hello") } else { ("", "") };
        caller.write(format!("{line}\r\nhost: {}\r\n{length}\r\n{body}", world.address).as_bytes()).await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "ok"));
        let seen = [0, 1].map(|index| counts[index].load(Ordering::Relaxed));
        assert_eq!(seen, [number + 1, 1], "one request over HTTP/2");
    }
    let event = world.process.event("the upstream requires HTTP/1.1").await;
    assert!(event["upstream"].as_str().unwrap().starts_with("https://localhost:"), "{event}");
    world.finish().await;
}
