//! Interim responses of upstreams (RFC 9110 §15.2), over every pair of protocols.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use testkit::harness::frames::{END_HEADERS, Frames, HEADERS};
use testkit::harness::raw::{RawPeer, read_head};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{STEP_TIMEOUT, World, daemon};

const FIELDS: [(&str, &str); 3] = [
    ("link", "</a.css>; rel=preload"),
    ("link", "<http://api.test/b.css>; rel=preload"),
    ("alt-svc", "h3=\":443\""),
];

/// An API that sends 103 twice, 100 and 102 before each response, and the response only once it is let.
async fn hinting(http_version: &str, lets: &Arc<Notify>) -> RawPeer {
    let lets = Arc::clone(lets);
    if http_version == "2" {
        return RawPeer::tcp(move |stream| {
            let lets = Arc::clone(&lets);
            async move {
                let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
                while let Some((stream, _)) = frames.request().await {
                    for status in ["103", "103", "100", "102"] {
                        let fields = FIELDS.iter().filter(|_| status == "103");
                        let fields = fields.map(|(name, value)| Frames::field(name, value));
                        let head =
                            [vec![Frames::field(":status", status)], fields.collect()].concat().concat();
                        frames.send(HEADERS, END_HEADERS, stream, &head).await;
                    }
                    lets.notified().await;
                    frames.answer(stream, b"ok").await;
                }
            }
        })
        .await;
    }
    RawPeer::tcp(move |mut stream| {
        let lets = Arc::clone(&lets);
        async move {
            let _ = stream.set_nodelay(true);
            while !read_head(&mut stream).await.is_empty() {
                let fields = FIELDS.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
                let hints =
                    format!("HTTP/1.1 103 Early Hints\r\n{fields}connection: x-hop\r\nx-hop: 1\r\n\r\n");
                let interim =
                    format!("{hints}{hints}HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n");
                for piece in interim.as_bytes().chunks(50) {
                    let _ = stream.write_all(piece).await;
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
                lets.notified().await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            }
        }
    })
    .await
}

async fn before(peer: &RawPeer, http_version: &str) -> World {
    let route = format!(
        "http_version = \"{http_version}\"\nhost_header = \"api.test\"\nrewrite_links = [\"Location\", \"Link\"]"
    );
    daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server("workers = 1")
        .route(&route)
        .upstream(format!("http://{}", peer.address))
        .start()
        .await
}

#[tokio::test]
async fn a_caller_of_http_1_1_gets_interim_responses_before_the_response() {
    for http_version in ["1.1", "2"] {
        let lets = Arc::new(Notify::new());
        let peer = hinting(http_version, &lets).await;
        let world = before(&peer, http_version).await;
        let mut caller = world.caller().await;
        for method in ["GET", "HEAD", "POST"] {
            let body = if method == "POST" { "content-length: 0\r\n" } else { "" };
            caller
                .write(format!("{method} /x HTTP/1.1\r\nhost: {}\r\n{body}\r\n", world.address).as_bytes())
                .await;
            let mut interim = String::new();
            while !(interim.contains("HTTP/1.1 102 Processing\r\n") && interim.ends_with("\r\n\r\n")) {
                interim += &String::from_utf8(caller.read_some().await).unwrap();
            }
            let hints =
                "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nlink: </b.css>; rel=preload\r\n";
            assert_eq!(interim.matches(hints).count(), 2, "{interim}");
            assert!(!interim.contains(" 100 ") && !interim.contains(" 200 "), "{interim}");
            assert!(!interim.contains("alt-svc") && !interim.contains("x-hop"), "{interim}");
            lets.notify_one();
            let answer = match (method, http_version) {
                ("HEAD", _) => caller.read_until("\r\n\r\n").await,
                (_, "2") => caller.read_until("ok\r\n0\r\n\r\n").await,
                _ => caller.read_until("\r\n\r\nok").await,
            };
            assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && !answer.contains("link"), "{answer}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caller_of_http_1_0_gets_no_interim_response() {
    for http_version in ["1.1", "2"] {
        let lets = Arc::new(Notify::new());
        let peer = hinting(http_version, &lets).await;
        let world = before(&peer, http_version).await;
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.0\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        lets.notify_one();
        let answer = caller.read_until("\r\n\r\nok").await;
        assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && !answer.contains("link"), "{answer}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_caller_of_http_2_gets_interim_responses_before_the_response() {
    for http_version in ["1.1", "2"] {
        let lets = Arc::new(Notify::new());
        let peer = hinting(http_version, &lets).await;
        let world = before(&peer, http_version).await;
        let stream = TcpStream::connect(world.address).await.unwrap();
        let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..2 {
            requests = requests.ready().await.unwrap();
            let request = http::Request::get(format!("http://{}/x", world.address)).body(()).unwrap();
            let (mut response, _) = requests.send_request(request, true).unwrap();
            for status in [103, 103, 102] {
                let interim = timeout(STEP_TIMEOUT, poll_fn(|cx| response.poll_informational(cx))).await;
                let interim = interim.expect("no interim response").unwrap().unwrap();
                assert_eq!(interim.status(), status);
                let links: Vec<_> = interim.headers().get_all("link").iter().collect();
                let expected: &[&str] =
                    if status == 103 { &["</a.css>; rel=preload", "</b.css>; rel=preload"] } else { &[] };
                assert_eq!(links, expected);
                assert!(!interim.headers().contains_key("alt-svc"));
            }
            let is_none = poll_fn(|cx| Poll::Ready(response.poll_informational(cx).is_pending())).await;
            assert!(is_none, "the response is not there yet");
            lets.notify_one();
            let mut answer = response.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "ok");
        }
        world.finish().await;
    }
}

/// An interim response shows that the API has read the request: the request is not sent again.
#[tokio::test]
async fn a_connection_that_closes_after_an_interim_response_has_answered() {
    let peer = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await;
    })
    .await;
    let world = before(&peer, "1.1").await;
    let mut caller = world.caller().await;
    for status in [200, 502] {
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        assert_eq!(caller.read().await.unwrap().status, status);
    }
    world.finish().await;
}

/// Interim responses must not get between the bytes of a response that the caller has not read yet.
#[tokio::test]
async fn an_interim_response_waits_for_no_caller_that_reads_slowly() {
    const SIZE: usize = 8 << 20;
    let peer = RawPeer::tcp(|mut stream| async move {
        let mut number = 0;
        while !read_head(&mut stream).await.is_empty() {
            number += 1;
            let head = format!("HTTP/1.1 103 Early Hints\r\nlink: </{number}>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: {SIZE}\r\n\r\n");
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.write_all(&vec![b'a'; SIZE]).await;
        }
    })
    .await;
    let world = before(&peer, "1.1").await;
    let mut caller = world.caller().await;
    let request = format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    caller.write(request.repeat(3).as_bytes()).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    for _ in 0..3 {
        let reply = caller.read().await.unwrap();
        assert!(reply.status == 200 && reply.body == vec![b'a'; SIZE]);
    }
    world.finish().await;
}
