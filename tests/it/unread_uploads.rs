//! Request bodies over HTTP/2 in tiny frames, and other streams of their connection.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use testkit::harness::raw::BlackHole;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::{STEP_TIMEOUT, World, daemon};

async fn http2(world: &World) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let stream = TcpStream::connect(world.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    (requests, tokio::spawn(connection))
}

/// Sends a GET or, with `body`, a POST; the request's body stays open.
async fn send(
    requests: &mut SendRequest<Bytes>,
    url: String,
    has_body: bool,
) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
    let method = if has_body { "POST" } else { "GET" };
    let request = http::Request::builder().method(method).uri(url).body(()).unwrap();
    let mut ready = requests.clone().ready().await.unwrap();
    ready.send_request(request, !has_body).unwrap()
}

/// Sends these bytes in frames of one byte, as far as the window allows; returns how many.
async fn drip(body: &mut h2::SendStream<Bytes>, bytes: &[u8]) -> usize {
    for (at, byte) in bytes.iter().enumerate() {
        body.reserve_capacity(1);
        let capacity = std::future::poll_fn(|cx| body.poll_capacity(cx));
        match tokio::time::timeout(Duration::from_secs(1), capacity).await {
            Ok(capacity) => assert!(capacity.expect("the stream is open").is_ok()),
            Err(_) => return at,
        }
        body.send_data(Bytes::copy_from_slice(&[*byte]), false).unwrap();
        if at % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    bytes.len()
}

#[tokio::test]
async fn unread_bodies_in_frames_of_one_byte_disturb_no_other_stream() {
    const UNREAD: usize = 4;
    let hole = BlackHole::start();
    let world = daemon()
        .quiet()
        .server("workers = 1")
        .limits("body_timeout = \"60s\"")
        .route(&format!(
            "[[routes]]\npath = \"/stuck\"\nupstream = \"http://{}\"\ncredential = \"none\"\nconnect_timeout = \"60s\"",
            hole.address
        ))
        .start()
        .await;
    let (mut requests, connection) = http2(&world).await;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        unread.push(send(&mut requests, format!("http://{}/stuck", world.address), true).await);
    }
    for (_, body) in &mut unread {
        // The window of a stream.
        assert_eq!(drip(body, &vec![b'x'; 70_000]).await, 65_536);
        let (response, _) = send(&mut requests, format!("http://{}/x", world.address), false).await;
        let response = tokio::time::timeout(STEP_TIMEOUT, response).await.expect("no answer in time");
        assert_eq!(response.unwrap().status(), 200);
    }
    assert!(!connection.is_finished());
    drop(unread);
    world.finish().await;
}

#[tokio::test]
async fn a_body_in_frames_of_one_byte_arrives_whole_though_it_is_read_late() {
    let world = daemon().quiet().server("workers = 1").route("connections = 1").start().await;
    let (mut requests, _connection) = http2(&world).await;
    let (slow, _) = send(&mut requests, format!("http://{}/slow/700", world.address), false).await;
    let sent: Vec<u8> = (0..20_000_u32).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect();
    let (response, mut body) = send(&mut requests, format!("http://{}/echo", world.address), true).await;
    assert_eq!(drip(&mut body, &sent).await, sent.len());
    body.send_data(Bytes::new(), true).unwrap();

    let mut echoed = response.await.unwrap().into_body();
    let mut received = Vec::new();
    while let Some(data) = echoed.data().await {
        let data = data.unwrap();
        echoed.flow_control().release_capacity(data.len()).unwrap();
        received.extend_from_slice(&data);
    }
    assert!(received == sent, "{} of {} bytes", received.len(), sent.len());
    assert_eq!(slow.await.unwrap().status(), 200);
    world.finish().await;
}
