//! Trailers: passed on to callers that accept them, without fields that belong into the head.

use std::convert::Infallible;

use bytes::Bytes;
use http::HeaderMap;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::harness::{STEP_TIMEOUT, World, daemon};
use testkit::harness::frames::{DATA, END_HEADERS, END_STREAM, Frames, HEADERS, STATUS_200};
use testkit::harness::raw::{RawPeer, read_head};

async fn before(peer: &RawPeer, http_version: &str) -> World {
    daemon()
        .quiet()
        .unprotected()
        .without_token()
        .route(&format!("http_version = \"{http_version}\""))
        .upstream(format!("http://{}", peer.address))
        .start()
        .await
}

/// An API that echoes each piece of a request, and sends trailers at the end.
async fn grpc() -> RawPeer {
    RawPeer::tcp(|stream| async move {
        let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
        while let Some(frame) = frames.next().await {
            match frame.kind {
                HEADERS => {
                    let announced = Frames::field("trailer", "grpc-status, set-cookie");
                    let kind = Frames::field("content-type", "application/grpc");
                    let head = [STATUS_200, &kind, &announced].concat();
                    frames.send(HEADERS, END_HEADERS, frame.stream, &head).await;
                }
                DATA => frames.send(DATA, 0, frame.stream, &frame.payload).await,
                _ => return,
            }
            if frame.flags & END_STREAM > 0 {
                let trailers = [
                    Frames::field("grpc-status", "0"),
                    Frames::field("set-cookie", "a=1"),
                    Frames::field("content-length", "7"),
                    Frames::field("x-sum", "7"),
                ];
                frames.send(HEADERS, END_HEADERS | END_STREAM, frame.stream, &trailers.concat()).await;
            }
        }
    })
    .await
}

fn shown(trailers: &HeaderMap) -> Vec<(String, String)> {
    let mut shown: Vec<_> =
        trailers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    shown.sort();
    shown
}

fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test]
async fn a_grpc_stream_passes_both_ways_piece_by_piece_with_its_status() {
    let peer = grpc().await;
    let world = before(&peer, "2").await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (pieces, sent) = mpsc::channel::<Bytes>(1);
    let body = futures_util::stream::unfold(sent, |mut sent| async {
        let piece = sent.recv().await?;
        Some((Ok::<_, Infallible>(Frame::data(piece)), sent))
    });
    let request = http::Request::post(format!("http://{}/echo.Echo/Echo", world.address))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(StreamBody::new(Box::pin(body)))
        .unwrap();

    let response = tokio::time::timeout(STEP_TIMEOUT, sender.send_request(request)).await.unwrap().unwrap();
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut body = response.into_body();
    for number in 0..20 {
        let piece = Bytes::from(format!("piece {number}"));
        pieces.send(piece.clone()).await.unwrap();
        let echoed = tokio::time::timeout(STEP_TIMEOUT, body.frame()).await.unwrap().unwrap().unwrap();
        assert_eq!(echoed.into_data().unwrap(), piece);
    }
    drop(pieces);
    let mut last = body.frame().await.unwrap().unwrap();
    while last.is_data() {
        last = body.frame().await.unwrap().unwrap();
    }

    let trailers = last.into_trailers().unwrap();
    assert_eq!(shown(&trailers), pairs(&[("grpc-status", "0"), ("x-sum", "7")]));
    assert!(body.frame().await.is_none());
    world.finish().await;
}

#[tokio::test]
async fn an_answer_of_nothing_but_trailers_is_passed_on() {
    let peer = RawPeer::tcp(|stream| async move {
        let Some(mut frames) = Frames::accept(stream, &[]).await else { return };
        while let Some((stream, _)) = frames.request().await {
            let head = [STATUS_200, &Frames::field("grpc-status", "12")].concat();
            frames.send(HEADERS, END_HEADERS | END_STREAM, stream, &head).await;
        }
    })
    .await;
    let world = before(&peer, "2").await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request =
        http::Request::get(format!("http://{}/x", world.address)).body(Empty::<Bytes>::new()).unwrap();

    let response = sender.send_request(request).await.unwrap();

    assert_eq!(response.headers()["grpc-status"], "12");
    assert!(hyper::body::Body::is_end_stream(response.body()));
    world.finish().await;
}

/// The answer to a request, read until the connection is closed.
async fn fetch(world: &World, fields: &str) -> String {
    let mut caller = world.caller().await;
    let host = world.address;
    let request = format!("POST /x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 7\r\n{fields}\r\nseven b");
    caller.write(request.as_bytes()).await;
    // After the last chunk, or with the status of gRPC.
    caller.read_until("0\r\n\r\n").await
}

#[tokio::test]
async fn announced_http_1_trailers_reach_callers_of_both_protocols() {
    let chunked = RawPeer::tcp(|mut stream| async move {
        loop {
            if read_head(&mut stream).await.is_empty() {
                return;
            }
            let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: grpc-status\r\ntrailer: Set-Cookie\r\n\r\n\
                          7\r\nseven b\r\n0\r\ngrpc-status: 0\r\nset-cookie: a=1\r\nx-sum: 7\r\ncontent-length: 7\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    for (peer, http_version) in [(chunked, "1.1"), (grpc().await, "2")] {
        let world = before(&peer, http_version).await;

        let asked = fetch(&world, "te: trailers\r\nconnection: te\r\n").await;
        let (head, rest) = asked.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\ntrailer: grpc-status\r\n"), "{asked}");
        assert!(!head.contains("\r\nte:") && !head.contains("connection"), "{asked}");
        assert_eq!(rest, "7\r\nseven b\r\n0\r\ngrpc-status: 0\r\n\r\n", "{http_version}");

        let unasked = fetch(&world, "").await;
        let (head, rest) = unasked.split_once("\r\n\r\n").unwrap();
        assert!(!head.contains("trailer"), "{unasked}");
        assert_eq!(rest, "7\r\nseven b\r\n0\r\n\r\n", "{http_version}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_connection_whose_answer_had_trailers_is_kept() {
    for te in ["", "trailers"] {
        let peer = RawPeer::tcp(|mut stream| async move {
            let mut number = 0;
            while !read_head(&mut stream).await.is_empty() {
                number += 1;
                let answer = format!(
                    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n1\r\n{number}\r\n0\r\nx-sum: 1\r\n\r\n"
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        let world = before(&peer, "1.1").await;
        let mut caller = world.caller().await;
        for number in 1..=3 {
            let request =
                format!("GET /x HTTP/1.1\r\nhost: {}\r\nte: {te}\r\nconnection: te\r\n\r\n", world.address);
            caller.write(request.as_bytes()).await;
            let answer =
                caller.read_until(if te.is_empty() { "\r\n0\r\n\r\n" } else { "x-sum: 1\r\n\r\n" }).await;
            assert!(answer.contains(&format!("\r\n{number}\r\n0\r\n")), "{answer}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn te_trailers_reaches_the_upstream_for_callers_that_accept_trailers() {
    let world = daemon().http2().start().await;
    let asking =
        crate::harness::Request::get("/x").field("te", "trailers, deflate").field("connection", "te");
    world.send(&asking).await;
    world.get("/y").await;

    let seen = world.upstream.requests();
    assert_eq!((seen[0].get("te"), seen[1].get("te")), (Some("trailers"), None));
    world.finish().await;

    let world = daemon().start().await;
    world.send(&asking).await;
    world.get("/y").await;
    let seen = world.upstream.requests();
    assert_eq!((seen[0].get("te"), seen[0].get("connection")), (Some("trailers"), Some("te")));
    assert_eq!((seen[1].get("te"), seen[1].get("connection")), (None, None));
    world.finish().await;
}

#[tokio::test]
async fn trailers_of_a_request_are_dropped() {
    let world = daemon().http2().start().await;
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: {}\r\ntransfer-encoding: chunked\r\ntrailer: cookie, x-forwarded-for\r\n\r\n",
        world.address
    );
    let mut caller = world.caller().await;

    caller
        .write(format!("{head}5\r\nhello\r\n0\r\ncookie: a=1\r\nx-forwarded-for: 1.2.3.4\r\n\r\n").as_bytes())
        .await;

    assert_eq!(caller.read().await.unwrap().text(), "hello");
    world.finish().await;
}
