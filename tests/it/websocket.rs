//! WebSocket connections: a handshake with a token, then bytes in both directions.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Version;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::harness::{STEP_TIMEOUT, Setup, World, daemon};
use testkit::harness::raw::{RawPeer, read_head};

/// The example of RFC 6455 §1.3.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: chat\r\n\r\n";

type Heads = Arc<Mutex<Vec<String>>>;

/// An API that gives these answers to handshakes, the last of them repeatedly; after a 101 it greets and echoes.
async fn api(answers: &'static [&'static str]) -> (RawPeer, Heads) {
    let heads: Heads = Arc::default();
    let noted = Arc::clone(&heads);
    let peer = RawPeer::tcp(move |mut stream| {
        let heads = Arc::clone(&noted);
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let number = {
                    let mut heads = heads.lock().unwrap();
                    heads.push(String::from_utf8(head).unwrap());
                    heads.len() - 1
                };
                let answer = answers[number.min(answers.len() - 1)];
                let is_switched = answer.starts_with("HTTP/1.1 101");
                let greeting = if is_switched { "hello" } else { "" };
                let _ = stream.write_all(format!("{answer}{greeting}").as_bytes()).await;
                if is_switched {
                    let (mut reading, mut writing) = stream.split();
                    let _ = tokio::io::copy(&mut reading, &mut writing).await;
                    return;
                }
            }
        }
    })
    .await;
    (peer, heads)
}

async fn world(peer: &RawPeer, setup: Setup) -> World {
    setup.route("upgrade = [\"websocket\"]").upstream(format!("http://{}", peer.address)).start().await
}

fn handshake(world: &World, fields: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer the-callers-own\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-key: {KEY}\r\nsec-websocket-version: 13\r\nsec-websocket-protocol: chat\r\n{fields}\r\n",
        world.address
    )
}

/// Makes a handshake; returns the answer's head and the connection.
async fn shake(world: &World, fields: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(handshake(world, fields).as_bytes()).await.unwrap();
    let head = read_switch(&mut stream).await;
    (head, stream)
}

/// Reads a head and no byte after it.
async fn read_switch(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = timeout(STEP_TIMEOUT, stream.read_u8()).await.expect("no answer in time").expect("an end");
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

async fn expect(stream: &mut TcpStream, text: &str) {
    let mut bytes = vec![0; text.len()];
    timeout(STEP_TIMEOUT, stream.read_exact(&mut bytes)).await.expect("nothing came").unwrap();
    assert_eq!(String::from_utf8(bytes).unwrap(), text);
}

async fn ends(stream: &mut TcpStream) -> bool {
    timeout(STEP_TIMEOUT, stream.read(&mut [0])).await.is_ok_and(|read| !matches!(read, Ok(1)))
}

#[tokio::test]
async fn a_websocket_has_a_token_on_its_handshake_and_then_bytes_both_ways() {
    let (peer, heads) = api(&[SWITCHED]).await;
    let world = world(&peer, daemon()).await;

    let (head, mut stream) = shake(&world, "").await;

    assert!(head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{head}");
    for field in
        ["upgrade: websocket", "connection: upgrade", "sec-websocket-protocol: chat", "via: 1.1 bearerd-"]
    {
        assert!(head.contains(&format!("\r\n{field}")), "{head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    expect(&mut stream, "hello").await;
    for text in ["ping", "HTTP/1.1 400 Bad Request", &"long ".repeat(100_000)] {
        let (mut reading, mut writing) = stream.split();
        let mut echoed = vec![0; text.len()];
        let (written, read) =
            tokio::join!(writing.write_all(text.as_bytes()), reading.read_exact(&mut echoed));
        written.unwrap();
        read.unwrap();
        assert!(echoed == text.as_bytes());
    }
    let seen = heads.lock().unwrap()[0].clone();
    assert!(seen.contains("\r\nauthorization: Bearer tok_"), "no token");
    assert!(!seen.contains("the-callers-own"));
    for field in ["upgrade: websocket", "connection: upgrade", &format!("sec-websocket-key: {KEY}")] {
        assert!(seen.contains(&format!("\r\n{field}\r\n")), "{field}");
    }
    drop(stream);
    world.process.event("websocket ended").await;
    world.finish().await;
}

#[tokio::test]
async fn a_401_on_a_handshake_is_refreshed_and_replayed_once() {
    const REJECTED: &str = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n";
    let (peer, heads) = api(&[REJECTED, SWITCHED, REJECTED]).await;
    let world = world(&peer, daemon()).await;
    let before = world.authorization.requests();

    let (head, mut stream) = shake(&world, "").await;

    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    expect(&mut stream, "hello").await;
    assert_eq!(world.token_requests_since(before), 1);
    {
        let heads = heads.lock().unwrap();
        let token =
            |head: &str| head.lines().find(|line| line.starts_with("authorization")).unwrap().to_owned();
        assert_ne!(token(&heads[0]), token(&heads[1]));
        assert!(heads[1].contains("\r\nupgrade: websocket\r\n"));
    }
    let (head, _) = shake(&world, "").await;
    assert!(head.starts_with("HTTP/1.1 401"), "{head}");
    assert_eq!(heads.lock().unwrap().len(), 4);
    drop(stream);
    world.finish().await;
}

#[tokio::test]
async fn an_upgrade_that_the_route_does_not_allow_is_not_forwarded() {
    let (peer, heads) = api(&["HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno"]).await;
    let url = format!("http://{}", peer.address);
    let world = daemon().upstream(url).start().await;

    let (head, _) = shake(&world, "").await;

    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let seen = heads.lock().unwrap()[0].clone();
    assert!(!seen.contains("upgrade:") && !seen.contains("connection:"), "an Upgrade was passed on");
    world.finish().await;
}

#[tokio::test]
async fn an_invalid_answer_to_the_handshake_is_not_passed_on() {
    for answer in [
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: Upgrade\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
    ] {
        let (peer, _) = api(Box::leak(Box::new([answer]))).await;
        let world = world(&peer, daemon()).await;

        let (head, _) = shake(&world, "").await;

        assert!(head.starts_with("HTTP/1.1 502"), "{head}");
        world.finish().await;
    }
    // A 101 without a request for an upgrade.
    let (peer, _) = api(&[SWITCHED]).await;
    let world = world(&peer, daemon()).await;
    assert_eq!(world.get("/x").await.code().as_deref(), Some("upstream_protocol"));
    world.finish().await;
}

#[tokio::test]
async fn an_apis_refusal_of_a_handshake_is_passed_on() {
    let (peer, _) = api(&["HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno"]).await;
    let world = world(&peer, daemon()).await;

    let (head, mut stream) = shake(&world, "").await;

    assert!(head.starts_with("HTTP/1.1 403 Forbidden"), "{head}");
    expect(&mut stream, "no").await;
    world.finish().await;
}

#[tokio::test]
async fn either_side_ends_a_websocket_for_both() {
    let closing = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(format!("{SWITCHED}bye").as_bytes()).await;
    })
    .await;
    let ended_by_api = world(&closing, daemon()).await;
    let (_, mut stream) = shake(&ended_by_api, "").await;
    expect(&mut stream, "bye").await;
    assert!(ends(&mut stream).await);
    drop(stream);
    ended_by_api.finish().await;

    let (told, mut ended) = tokio::sync::mpsc::channel(1);
    let waiting = RawPeer::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(SWITCHED.as_bytes()).await;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest).await;
            told.send(rest).await.unwrap();
        }
    })
    .await;
    let ended_by_caller = world(&waiting, daemon()).await;
    let (_, mut stream) = shake(&ended_by_caller, "").await;
    stream.write_all(b"going").await.unwrap();
    drop(stream);
    assert_eq!(timeout(STEP_TIMEOUT, ended.recv()).await.unwrap().unwrap(), b"going");
    ended_by_caller.finish().await;
}

#[tokio::test]
async fn a_side_that_breaks_off_ends_a_websocket_for_the_other_at_once() {
    let (told, mut ended) = tokio::sync::mpsc::channel(1);
    let peer = RawPeer::tcp(move |mut stream| {
        let told = told.clone();
        async move {
            let head = read_head(&mut stream).await;
            let _ = stream.write_all(SWITCHED.as_bytes()).await;
            if head.windows(10).any(|part| part == b"x-break: y") {
                stream.set_zero_linger().unwrap();
                return;
            }
            let _ = stream.read_to_end(&mut Vec::new()).await;
            told.send(Instant::now()).await.unwrap();
        }
    })
    .await;
    let world = world(&peer, daemon()).await;

    let (_, stream) = shake(&world, "").await;
    stream.set_zero_linger().unwrap();
    let broken = Instant::now();
    drop(stream);
    let told = timeout(STEP_TIMEOUT, ended.recv()).await.unwrap().unwrap();
    assert!(told - broken < Duration::from_secs(2), "{:?}", told - broken);

    let began = Instant::now();
    let (_, mut stream) = shake(&world, "x-break: y\r\n").await;
    assert!(ends(&mut stream).await);
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    world.finish().await;
}

#[tokio::test]
async fn a_silent_websocket_stays_open_until_the_drain_deadline() {
    let (peer, _) = api(&[SWITCHED]).await;
    let setup = daemon().limits("idle_timeout = \"200ms\"").server("drain = \"1s\"");
    let mut world = world(&peer, setup).await;
    let (_, mut stream) = shake(&world, "").await;
    expect(&mut stream, "hello").await;

    tokio::time::sleep(Duration::from_secs(1)).await;
    stream.write_all(b"still here").await.unwrap();
    expect(&mut stream, "still here").await;
    let began = Instant::now();
    world.process.signal(Signal::TERM);
    tokio::time::sleep(Duration::from_millis(400)).await;
    stream.write_all(b"draining").await.unwrap();
    expect(&mut stream, "draining").await;

    assert!(ends(&mut stream).await);
    assert!(began.elapsed() > Duration::from_millis(900), "{:?}", began.elapsed());
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn a_handshake_on_a_connections_last_request_succeeds() {
    for is_draining in [true, false] {
        let answers = Arc::new(Notify::new());
        let may_answer = Arc::clone(&answers);
        let peer = RawPeer::tcp(move |mut stream| {
            let may_answer = Arc::clone(&may_answer);
            async move {
                read_head(&mut stream).await;
                may_answer.notified().await;
                let _ = stream.write_all(format!("{SWITCHED}hello").as_bytes()).await;
                let _ = stream.read(&mut [0]).await;
            }
        })
        .await;
        let setup = daemon().limits("connection_age = \"1s\"").server("drain = \"1s\"");
        let mut world = world(&peer, setup).await;
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(handshake(&world, "").as_bytes()).await.unwrap();
        if is_draining {
            world.process.signal(Signal::TERM);
            world.process.event("draining").await;
        } else {
            tokio::time::sleep(Duration::from_millis(1200)).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        answers.notify_one();

        let head = read_switch(&mut stream).await;
        assert!(head.starts_with("HTTP/1.1 101"), "draining: {is_draining}: {head}");
        assert!(head.contains("\r\nconnection: upgrade\r\n") && !head.contains("close"), "{head}");
        expect(&mut stream, "hello").await;
        if is_draining {
            assert!(ends(&mut stream).await);
            assert_eq!(world.process.ended().await.code(), Some(0));
            world.check();
        } else {
            world.finish().await;
        }
    }
}

#[tokio::test]
async fn a_page_of_another_site_cannot_open_a_websocket() {
    let (peer, heads) = api(&[SWITCHED]).await;
    let world = world(&peer, daemon()).await;

    let (head, _) = shake(&world, "origin: https://evil.test\r\n").await;

    assert!(head.starts_with("HTTP/1.1 403"), "{head}");
    assert!(heads.lock().unwrap().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_route_speaks_http_1_with_an_api_that_has_both() {
    let world = daemon().http2().route("upgrade = [\"websocket\"]").start().await;

    assert_eq!(world.get("/x").await.status, 200);

    assert_eq!(world.upstream.requests()[0].version, Version::HTTP_11);
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_survives_the_removal_of_its_route() {
    let (peer, _) = api(&[SWITCHED]).await;
    let world = world(&peer, daemon()).await;
    let (_, mut stream) = shake(&world, "").await;
    expect(&mut stream, "hello").await;

    for at in 1..=3 {
        world
            .configure(|text| text.replace("[[routes]]\n", &format!("[[routes]]\npath = \"/other/{at}\"\n")));
        world.configure(|text| text.replace(&format!("path = \"/other/{}\"\n", at - 1), ""));
        world.configure(|text| text.replace(&peer.address.port().to_string(), "1"));
        world.reload().await;
        stream.write_all(b"ping").await.unwrap();
        expect(&mut stream, "ping").await;
    }

    assert_eq!(world.get("/chat").await.code().as_deref(), Some("route_not_found"));
    stream.shutdown().await.unwrap();
    assert!(ends(&mut stream).await);
    world.finish().await;
}
