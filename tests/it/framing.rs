//! Framing of answers over every pair of protocols.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Body;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::{STEP_TIMEOUT, World, daemon};
use testkit::harness::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, STATUS_200};
use testkit::harness::raw::{RawPeer, read_head};

async fn before(peer: &RawPeer, http_version: &str) -> World {
    daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server("workers = 1")
        .route(&format!("http_version = \"{http_version}\""))
        .upstream(format!("http://{}", peer.address))
        .start()
        .await
}

async fn http2(world: &World) -> SendRequest<Empty<Bytes>> {
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(world: &World, method: Method) -> http::Request<Empty<Bytes>> {
    let uri = format!("http://{}/x", world.address);
    http::Request::builder().method(method).uri(uri).body(Empty::new()).unwrap()
}

/// An API that answers with and without a body: HEAD, 204, 304 and 200.
async fn bare(http_version: &str) -> RawPeer {
    // HEADERS of `:status` 204 and 304 (RFC 7541, appendix A).
    const STATUSES: [&[u8]; 4] = [STATUS_200, &[0x89], &[0x8b], STATUS_200];
    if http_version == "2" {
        return RawPeer::tcp(|stream| async move {
            let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
            let mut number = 0;
            while let Some((stream, _)) = frames.request().await {
                let length = match number % 4 {
                    0 | 2 => Frames::field("content-length", "42"),
                    1 => Vec::new(),
                    _ => Frames::field("content-length", "2"),
                };
                let head = [STATUSES[number % 4], &length].concat();
                if number % 4 == 3 {
                    frames.send(HEADERS, END_HEADERS, stream, &head).await;
                    frames.send(DATA, END_STREAM, stream, b"ok").await;
                } else {
                    frames.send(HEADERS, END_HEADERS | END_STREAM, stream, &head).await;
                }
                number += 1;
            }
        })
        .await;
    }
    let number = Arc::new(AtomicUsize::new(0));
    RawPeer::tcp(move |mut stream| {
        let number = Arc::clone(&number);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let answer = [
                    "HTTP/1.1 200 OK\r\ncontent-length: 42\r\n\r\n",
                    "HTTP/1.1 204 No Content\r\n\r\n",
                    "HTTP/1.1 304 Not Modified\r\ncontent-length: 42\r\n\r\n",
                    "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
                ][number.fetch_add(1, Ordering::Relaxed) % 4];
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn answers_without_a_body_have_no_body_over_any_two_protocols() {
    for http_version in ["1.1", "2"] {
        let peer = bare(http_version).await;
        let world = before(&peer, http_version).await;

        let mut caller = world.caller().await;
        for (method, status, length, body) in [
            ("HEAD", "200", Some("42"), ""),
            ("GET", "204", None, ""),
            // hyper sends no length with a 304, which RFC 9110 §15.4.5 allows.
            ("GET", "304", None, ""),
            ("GET", "200", Some("2"), "ok"),
        ] {
            caller.write(format!("{method} /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
            let answer = caller.read_until(&format!("\r\n\r\n{body}")).await;
            let (head, rest) = answer.split_once("\r\n\r\n").unwrap();
            assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{http_version}: {answer}");
            let told = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            assert_eq!((told, rest), (length, body), "{http_version}: {answer}");
            assert!(!head.contains("transfer-encoding"), "{http_version}: {answer}");
        }

        let mut sender = http2(&world).await;
        for (method, status, length, body) in [
            (Method::HEAD, StatusCode::OK, Some("42"), ""),
            (Method::GET, StatusCode::NO_CONTENT, None, ""),
            (Method::GET, StatusCode::NOT_MODIFIED, Some("42"), ""),
            (Method::GET, StatusCode::OK, Some("2"), "ok"),
        ] {
            let response =
                timeout(STEP_TIMEOUT, sender.send_request(request(&world, method))).await.unwrap().unwrap();
            assert_eq!(response.status(), status, "{http_version}");
            let told = response.headers().get("content-length").map(|length| length.to_str().unwrap());
            assert_eq!(told, length, "{http_version}");
            assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), body, "{http_version}");
        }
        world.finish().await;
    }
}

/// An API that sends each event once the one before has arrived.
async fn events(http_version: &str, next: Arc<Notify>) -> RawPeer {
    if http_version == "2" {
        return RawPeer::tcp(move |stream| {
            let next = Arc::clone(&next);
            async move {
                let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
                while let Some((stream, _)) = frames.request().await {
                    let head = [STATUS_200, &Frames::field("content-type", "text/event-stream")].concat();
                    frames.send(HEADERS, END_HEADERS, stream, &head).await;
                    for number in 0..20 {
                        next.notified().await;
                        frames.send(DATA, 0, stream, format!("data: {number}\n\n").as_bytes()).await;
                    }
                    next.notified().await;
                    frames.send(DATA, END_STREAM, stream, &[]).await;
                }
            }
        })
        .await;
    }
    RawPeer::tcp(move |mut stream| {
        let next = Arc::clone(&next);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
                let _ = stream.write_all(head.as_bytes()).await;
                for number in 0..20 {
                    next.notified().await;
                    let event = format!("data: {number}\n\n");
                    let chunk = format!("{:x}\r\n{event}\r\n", event.len());
                    let _ = stream.write_all(chunk.as_bytes()).await;
                }
                next.notified().await;
                let _ = stream.write_all(b"0\r\n\r\n").await;
            }
        }
    })
    .await
}

#[tokio::test]
async fn an_event_arrives_before_the_next_is_sent_over_any_two_protocols() {
    for http_version in ["1.1", "2"] {
        let next = Arc::new(Notify::new());
        let peer = events(http_version, Arc::clone(&next)).await;
        let world = before(&peer, http_version).await;

        let stream = TcpStream::connect(world.address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let mut one = request(&world, Method::GET);
        *one.uri_mut() = "/x".parse().unwrap();
        one.headers_mut().insert("host", world.address.to_string().parse().unwrap());
        let over_http1 = timeout(STEP_TIMEOUT, sender.send_request(one)).await.unwrap().unwrap();
        follow(over_http1.into_body(), &next).await;

        let mut sender = http2(&world).await;
        let sending = sender.send_request(request(&world, Method::GET));
        let over_http2 = timeout(STEP_TIMEOUT, sending).await.unwrap().unwrap();
        follow(over_http2.into_body(), &next).await;
        world.finish().await;
    }
}

async fn follow<B: Body<Data = Bytes> + Unpin>(mut body: B, next: &Notify)
where
    B::Error: std::fmt::Debug,
{
    for number in 0..20 {
        next.notify_one();
        let frame =
            timeout(STEP_TIMEOUT, body.frame()).await.expect("an event is held back").unwrap().unwrap();
        assert_eq!(frame.into_data().ok().unwrap(), format!("data: {number}\n\n"));
    }
    next.notify_one();
    let end = timeout(STEP_TIMEOUT, body.frame()).await.unwrap();
    assert!(
        end.is_none_or(|frame| frame.is_ok_and(|frame| frame.into_data().is_ok_and(|data| data.is_empty())))
    );
}

#[tokio::test]
async fn a_caller_that_expects_100_continue_gets_it_over_any_two_protocols() {
    for setup in [daemon(), daemon().http2()] {
        let world = setup.start().await;
        let mut caller = world.caller().await;
        let head = format!(
            "POST /echo HTTP/1.1\r\nhost: {}\r\ncontent-length: 5\r\nexpect: 100-continue\r\n\r\n",
            world.address
        );
        caller.write(head.as_bytes()).await;
        let interim = String::from_utf8(caller.read_some().await).unwrap();
        assert_eq!(interim, "HTTP/1.1 100 Continue\r\n\r\n");

        caller.write(b"hello").await;

        assert_eq!(caller.read().await.unwrap().text(), "hello");
        assert_eq!(world.upstream.requests()[0].get("expect"), None);
        world.finish().await;
    }
}
