//! Callers that leave in the middle of an exchange, shut down their sending side, or reset their HTTP/2 streams.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use testkit::harness::raw::{RawPeer, read_head, reset};
use testkit::harness::tls_caller::{TlsCaller, connect};
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::Instant;

use crate::harness::{PROMPT, Setup, daemon, eventually};

/// An API that answers a request after a pause, and counts the requests that were aborted before.
struct PatientApi {
    peer: RawPeer,
    asked: Arc<AtomicUsize>,
    aborted: Arc<AtomicUsize>,
}

impl PatientApi {
    async fn start(pause: Duration) -> Self {
        let (asked, aborted) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (counts, aborts) = (Arc::clone(&asked), Arc::clone(&aborted));
        let peer = RawPeer::tcp(move |mut stream| {
            let (asked, aborted) = (Arc::clone(&counts), Arc::clone(&aborts));
            async move {
                while !read_head(&mut stream).await.is_empty() {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let mut byte = [0];
                    if tokio::time::timeout(pause, stream.read(&mut byte)).await.is_ok() {
                        aborted.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate").await;
                }
            }
        })
        .await;
        Self { peer, asked, aborted }
    }

    fn setup(&self) -> Setup {
        daemon().quiet().unprotected().without_token().upstream(format!("http://{}", self.peer.address))
    }

    async fn asked(&self, requests: usize) {
        eventually("the request", async || self.asked.load(Ordering::Relaxed) >= requests).await;
    }

    async fn aborted(&self, requests: usize) {
        let left = Instant::now();
        eventually("the abort", async || self.aborted.load(Ordering::Relaxed) >= requests).await;
        assert!(left.elapsed() < PROMPT, "{:?}", left.elapsed());
    }
}

const REQUEST: &str = "GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// Requests with bytes behind them that nobody reads before the response.
const FOLLOWED: [&str; 3] = ["\r\n", "GET /y HTTP/1.1\r\nhost: localhost\r\n\r\n", "GET /y HT"];
const HOUR: Duration = Duration::from_hours(1);

async fn asking(address: SocketAddr, behind: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{REQUEST}{behind}").as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_caller_that_leaves_with_bytes_behind_its_request_ends_that_request() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("b.sock");
    let api = PatientApi::start(HOUR).await;
    let listen = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", socket.display());
    let world = api.setup().server(&listen).start().await;
    let mut number = 0;

    for behind in FOLLOWED {
        number += 1;
        let stream = asking(world.address, behind).await;
        api.asked(number).await;
        drop(stream);
        api.aborted(number).await;

        number += 1;
        let mut stream = asking(world.address, "").await;
        api.asked(number).await;
        stream.write_all(behind.as_bytes()).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        reset(&stream);
        drop(stream);
        api.aborted(number).await;

        number += 1;
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(format!("{REQUEST}{behind}").as_bytes()).await.unwrap();
        api.asked(number).await;
        drop(stream);
        api.aborted(number).await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_tls_caller_that_leaves_with_bytes_behind_its_request_ends_that_request() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let api = PatientApi::start(HOUR).await;
    let world = api.setup().tls(pki.server()).start_with(pki, async |_| {}).await;
    let mut number = 0;

    for behind in FOLLOWED {
        for leaves_in_order in [true, false] {
            number += 1;
            let mut stream = connect(world.address, caller.config(&[b"http/1.1"])).await.unwrap();
            stream.write_all(format!("{REQUEST}{behind}").as_bytes()).await.unwrap();
            api.asked(number).await;
            if leaves_in_order {
                stream.shutdown().await.unwrap();
            } else {
                reset(stream.get_ref().0);
            }
            drop(stream);
            api.aborted(number).await;
        }
    }
    world.finish().await;
}

/// The end of what the caller sends, without an end of TCP.
#[tokio::test]
async fn a_tls_caller_that_only_sends_close_notify_ends_its_request() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let api = PatientApi::start(HOUR).await;
    let world = api.setup().tls(pki.server()).start_with(pki, async |_| {}).await;
    let mut left = Vec::new();

    for (number, behind) in ["", FOLLOWED[0], FOLLOWED[1], FOLLOWED[2]].into_iter().enumerate() {
        let mut stream = connect(world.address, caller.config(&[b"http/1.1"])).await.unwrap();
        stream.write_all(format!("{REQUEST}{behind}").as_bytes()).await.unwrap();
        api.asked(number + 1).await;
        stream.get_mut().1.send_close_notify();
        stream.flush().await.unwrap();
        api.aborted(number + 1).await;
        left.push(stream);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_half_closed_caller_is_aborted_or_answered_as_configured() {
    for (half_closed, behind) in
        [("abort", ""), ("abort", "\r\n"), ("abort", FOLLOWED[1]), ("answer", ""), ("answer", "\r\n")]
    {
        let api = PatientApi::start(Duration::from_millis(1500)).await;
        let world = api.setup().server(&format!("half_closed = \"{half_closed}\"")).start().await;

        let mut stream = asking(world.address, behind).await;
        api.asked(1).await;
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;

        if half_closed == "abort" {
            assert_eq!(answer, "", "{behind:?}");
            api.aborted(1).await;
        } else {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("late"), "{behind:?}: {answer}");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn where_half_closed_callers_are_answered_a_reset_is_noticed() {
    let api = PatientApi::start(HOUR).await;
    let world = api.setup().server("half_closed = \"answer\"").start().await;
    for (number, behind) in ["", FOLLOWED[0], FOLLOWED[1]].into_iter().enumerate() {
        let stream = asking(world.address, behind).await;
        api.asked(number + 1).await;
        reset(&stream);
        drop(stream);
        api.aborted(number + 1).await;
    }
    world.finish().await;
}

/// Sends requests, and resets each 20 ms after it has reached the API, until the connection ends; returns their number
/// and the connection's error.
async fn reset_streams(address: SocketAddr, api: &PatientApi, most: usize) -> (usize, Option<Reason>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for number in 0..most {
        requests = match requests.ready().await {
            Ok(requests) => requests,
            Err(error) => return (number, error.reason()),
        };
        let request = http::Request::get(format!("http://{address}/x")).body(()).unwrap();
        let (response, _) = match requests.send_request(request, true) {
            Ok(sent) => sent,
            Err(error) => return (number, error.reason()),
        };
        // A stream that is reset before it is served is the concern of h2.
        let sent = Instant::now();
        while api.asked.load(Ordering::Relaxed) <= number && sent.elapsed() < PROMPT {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::spawn(tokio::time::timeout(Duration::from_millis(20), response));
    }
    drop(requests);
    (most, connection.await.unwrap().err().and_then(|error| error.reason()))
}

/// CVE-2023-44487.
#[tokio::test]
async fn a_caller_that_resets_stream_after_stream_gets_goaway() {
    let api = PatientApi::start(HOUR).await;
    let world = api.setup().start().await;

    let (sent, reason) = reset_streams(world.address, &api, 3000).await;

    assert_eq!(reason, Some(Reason::ENHANCE_YOUR_CALM), "after {sent} requests");
    let asked = api.asked.load(Ordering::Relaxed);
    assert!((200..=400).contains(&asked), "{asked} requests reached the API");
    api.aborted(asked).await;
    let event = world.process.event("connection closed").await;
    assert!(event["error"].as_str().unwrap().contains("resets too many"), "{event}");
    world.finish().await;
}

#[tokio::test]
async fn a_caller_that_cancels_all_its_streams_at_once_or_some_of_many_is_served() {
    let api = PatientApi::start(Duration::from_millis(100)).await;
    let world = api.setup().start().await;
    let address = world.address;
    let (sent, reason) = reset_streams(address, &api, 100).await;
    assert_eq!((sent, reason), (100, None));

    let stream = TcpStream::connect(address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    for _ in 0..15 {
        let mut kept = Vec::new();
        for number in 0..40 {
            requests = requests.ready().await.unwrap();
            let request = http::Request::get(format!("http://{address}/x")).body(()).unwrap();
            let (response, _) = requests.send_request(request, true).unwrap();
            if number % 2 == 0 {
                tokio::spawn(tokio::time::timeout(Duration::from_millis(20), response));
            } else {
                kept.push(response);
            }
        }
        for response in kept {
            assert_eq!(response.await.unwrap().status(), 200);
        }
    }
    drop(requests);
    connection.await.unwrap().unwrap();
    world.finish().await;
}
