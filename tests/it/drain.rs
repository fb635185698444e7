//! Graceful shutdown: requests in flight and arriving requests are answered, and the exit code is 0.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::Signal;
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::corpus::http2::{frame, headers};
use crate::harness::{
    Caller, Http2Caller, PROMPT, Request, STEP_TIMEOUT, Setup, World, daemon, eventually, spawn,
};
use testkit::harness::raw::{RawPeer, read_head};
use testkit::harness::tls_caller::TlsCaller;

/// A daemon that checks the time-outs of callers often.
fn attentive() -> Setup {
    daemon().quiet().limits("tls_timeout = \"1s\"")
}

/// A caller whose connection is idle after an answer.
async fn answered(world: &World) -> Caller {
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    caller
}

#[tokio::test]
async fn a_stop_under_a_load_of_slow_requests_fails_no_request() {
    let mut world = attentive().limits("streams = 1000").start().await;
    let address = world.address;
    let mut rested = Vec::new();
    for _ in 0..20 {
        rested.push(answered(&world).await);
    }
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let http1 = (0..100).map(|_| {
        tokio::spawn(async move {
            let mut caller = Caller::connect(address).await;
            let reply = caller.send(&Request::get("/held")).await;
            (reply.status, reply.get("connection").map(str::to_owned), caller.is_closed().await)
        })
    });
    let http1: Vec<_> = http1.collect();
    let mut http2 = Vec::new();
    for _ in 0..4 {
        let caller = Http2Caller::connect(address).await;
        http2.extend((0..25).map(|_| {
            let mut caller = caller.clone();
            tokio::spawn(async move { caller.send(&Request::get("/held")).await.status })
        }));
    }
    eventually("the load", async || world.upstream.requests().len() >= 220).await;

    world.process.signal(Signal::TERM);

    // Before any of the requests is answered.
    assert!(join_all(rested.iter_mut().map(Caller::is_closed)).await.into_iter().all(|closed| closed));
    eventually("no new connections", async || TcpStream::connect(address).await.is_err()).await;
    world.upstream.release();
    for caller in http1 {
        assert_eq!(caller.await.unwrap(), (200, Some("close".to_owned()), true));
    }
    for caller in http2 {
        assert_eq!(caller.await.unwrap(), 200);
    }
    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(world.process.events("connections were cut").is_empty());
    world.check();
}

/// Stops the daemon and waits until it has closed this idle connection.
async fn stop_is_seen(world: &World, mut rested: Caller) {
    world.process.signal(Signal::TERM);
    assert!(rested.is_closed().await);
}

#[tokio::test]
async fn a_request_whose_head_began_before_the_stop_is_answered() {
    for is_tls in [false, true] {
        let pki = Pki::new(&["localhost"]).unwrap();
        let trusting = TlsCaller::trusting(pki.authority());
        let setup = attentive().server("workers = 1");
        let setup = if is_tls { setup.tls(pki.server()) } else { setup };
        let mut world = setup.start_with(pki, async |_| {}).await;
        let connect = async || {
            if is_tls { trusting.connect(world.address).await.unwrap() } else { world.caller().await }
        };
        let (mut rested, mut fresh, mut kept) = (connect().await, connect().await, connect().await);
        assert_eq!(rested.send(&Request::get("/x")).await.status, 200);
        assert_eq!(kept.send(&Request::get("/x")).await.status, 200);
        tokio::time::sleep(Duration::from_millis(1200)).await;
        for caller in [&mut fresh, &mut kept] {
            caller.write(b"GET /x HTTP/1.1\r\nhost: localhost\r\nx-requ").await;
        }
        // The daemon has read both heads' beginnings before it learns of the stop.
        assert_eq!(connect().await.send(&Request::get("/x")).await.status, 200);

        stop_is_seen(&world, rested).await;
        for caller in [&mut fresh, &mut kept] {
            caller.write(b"est-id: late\r\n\r\n").await;
            let reply = caller.read().await.expect("a request was lost");
            assert_eq!((reply.status, reply.get("connection")), (200, Some("close")), "TLS: {is_tls}");
            assert!(caller.is_closed().await);
        }

        assert_eq!(world.process.ended().await.code(), Some(0));
        world.check();
    }
}

#[tokio::test]
async fn a_caller_that_was_just_answered_may_send_its_next_request_after_the_stop() {
    let mut world = attentive().server("workers = 1").start().await;
    let rested = answered(&world).await;
    tokio::time::sleep(Duration::from_millis(1200)).await;
    let mut busy = answered(&world).await;

    stop_is_seen(&world, rested).await;
    let reply = busy.send(&Request::get("/x")).await;

    assert_eq!((reply.status, reply.get("connection")), (200, Some("close")));
    assert!(busy.is_closed().await);
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn an_answer_that_began_before_the_stop_is_finished() {
    let mut world = attentive().start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /trickle/50 HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    caller.begun().await;

    world.process.signal(Signal::TERM);
    let reply = caller.read().await.unwrap();

    assert_eq!((reply.get("connection"), reply.text().lines().count()), (None, 50));
    assert!(caller.is_closed().await);
    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(world.process.events("connections were cut").is_empty());
    world.check();
}

/// A caller that speaks HTTP/2 frame by frame.
struct Frames {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Frames {
    async fn connect(world: &World) -> Self {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        let settings = frame(4, 0, 0, b"");
        stream.write_all(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &settings[..]].concat()).await.unwrap();
        Self { stream, read: Vec::new() }
    }

    async fn get(&mut self, stream: u32, path: &str) {
        let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", path)];
        self.stream.write_all(&headers(stream, 1, &fields)).await.unwrap();
    }

    /// The next frame: kind, flags, stream, payload; `None` at the end.
    async fn next(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        loop {
            if let Some(head) = self.read.first_chunk::<9>() {
                let whole = 9 + usize::from(head[1]) * 256 + usize::from(head[2]);
                let (kind, flags, stream) =
                    (head[3], head[4], u32::from_be_bytes(head[5..].try_into().unwrap()));
                if self.read.len() >= whole {
                    let payload = self.read.drain(..whole).skip(9).collect();
                    return Some((kind, flags, stream, payload));
                }
            }
            let read = tokio::time::timeout(STEP_TIMEOUT, self.stream.read_buf(&mut self.read)).await;
            if read.expect("nothing comes").unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    /// The next frame of a kind.
    async fn next_of(&mut self, wanted: u8) -> Vec<u8> {
        loop {
            let (kind, flags, _, payload) = self.next().await.expect("the end came");
            // An acknowledgement is no settings frame.
            if kind == wanted && (kind != 6 || flags == 0) {
                return payload;
            }
        }
    }
}

const PING: u8 = 6;
const GOAWAY: u8 = 7;

/// RFC 9113 §6.8.
#[tokio::test]
async fn http_2_callers_get_two_goaways_and_requests_between_them_are_answered() {
    let mut world = attentive().start().await;
    let mut caller = Frames::connect(&world).await;
    caller.get(1, "/slow/1000").await;
    eventually("the request", async || !world.upstream.requests().is_empty()).await;

    world.process.signal(Signal::TERM);
    let goodbye = caller.next_of(GOAWAY).await;
    assert_eq!(
        goodbye[..8],
        [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0],
        "the highest stream there can be, no error"
    );
    let ping = caller.next_of(PING).await;
    caller.get(3, "/x").await;
    caller.stream.write_all(&frame(PING, 1, 0, &ping)).await.unwrap();
    let goodbye = caller.next_of(GOAWAY).await;
    assert_eq!(goodbye[..8], [0, 0, 0, 3, 0, 0, 0, 0], "the last stream that is answered, no error");

    let mut ended = BTreeSet::new();
    while let Some((kind, flags, stream, _)) = caller.next().await {
        assert_ne!(kind, 3, "a reset of stream {stream}");
        if kind <= 1 && flags & 1 != 0 {
            ended.insert(stream);
        }
    }
    assert!(ended.contains(&1), "{ended:?}");
    assert_eq!(world.upstream.requests().len(), 2);
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn during_drain_delay_requests_are_served_and_readyz_fails() {
    let mut world = attentive().server("drain_delay = \"4s\"").start().await;
    let mut kept = answered(&world).await;
    let asked = Instant::now();

    world.process.signal(Signal::TERM);
    eventually("not ready", async || world.admin_status("/readyz").await == 503).await;
    assert_eq!(world.admin_status("/livez").await, 200);
    let (_, reasons) = world.admin_get("/readyz?verbose").await;
    assert!(reasons.contains("[-] shutting down"), "{reasons}");
    while asked.elapsed() < Duration::from_millis(1500) {
        let mut new = world.caller().await;
        for caller in [&mut new, &mut kept] {
            let reply = caller.send(&Request::get("/x")).await;
            assert_eq!((reply.status, reply.get("connection")), (200, None));
        }
    }
    world.process.event("draining").await;
    assert!(asked.elapsed() >= Duration::from_secs(4), "{:?}", asked.elapsed());

    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(TcpStream::connect(world.address).await.is_err());
    world.check();
}

#[tokio::test]
async fn a_second_signal_ends_the_drain_delay() {
    let mut world = attentive().server("drain_delay = \"60s\"").start().await;
    let mut caller = answered(&world).await;
    world.process.signal(Signal::TERM);
    world.process.event("no longer ready").await;
    let asked = Instant::now();

    world.process.signal(Signal::TERM);

    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
    assert!(caller.is_closed().await);
    world.check();
}

#[tokio::test]
async fn signals_at_any_moment_of_the_start_stop_the_daemon_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let config = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
                  [credentials.api]\ntoken_url = \"http://127.0.0.1:9/token\"\nclient_id = \"x\"\n\
                  client_secret = \"x\"\n[[routes]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"api\"\n";
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    for after in (0..60).step_by(5).map(Duration::from_millis) {
        let mut process = spawn(&["run"], &[], folder.path());
        // The daemon handles signals before it writes its first line.
        eventually("a first line", async || !process.output().is_empty()).await;
        tokio::time::sleep(after).await;
        process.signal(Signal::HUP);
        process.signal(Signal::TERM);
        process.signal(Signal::INT);

        let status = process.ended().await;

        let output = process.output();
        assert_eq!(status.code(), Some(0), "{after:?}: {output}");
        assert!(output.contains("stopped") && !output.contains("panicked"), "{after:?}: {output}");
    }
}

#[tokio::test]
async fn at_the_drain_deadline_unsent_requests_get_503_and_sent_ones_are_cut() {
    for is_hurried in [false, true] {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let hangs = RawPeer::tcp(move |mut stream| {
            let counter = Arc::clone(&counter);
            async move {
                read_head(&mut stream).await;
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = stream.read(&mut [0]).await;
            }
        })
        .await;
        let drain = if is_hurried { "60s" } else { "500ms" };
        let mut world = attentive()
            .server(&format!("workers = 1\ndrain = \"{drain}\""))
            .limits("token_wait = \"30s\"")
            .route(&format!(
                "[[routes]]\npath = \"/sent\"\nupstream = \"http://{}\"\ncredential = \"none\"\n",
                hangs.address
            ))
            .without_token()
            .start_after(async |server| server.set_delay(Duration::from_secs(30)))
            .await;
        let host = world.address;
        let mut waiting = world.caller().await;
        let post = format!("POST /x HTTP/1.1\r\nhost: {host}\r\ncontent-length: 8\r\n\r\npay once");
        waiting.write(post.as_bytes()).await;
        let mut streams = Frames::connect(&world).await;
        streams.get(1, "/x").await;
        streams.get(3, "/sent").await;
        let mut sent = world.caller().await;
        sent.write(format!("GET /sent HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        // Requests that were sent earlier have arrived too.
        eventually("what is sent", async || asked.load(Ordering::Relaxed) == 2).await;
        world.process.signal(Signal::TERM);
        world.process.event("draining").await;
        let asked_to_end = Instant::now();
        if is_hurried {
            world.process.signal(Signal::INT);
        }

        let reply = waiting.read().await.unwrap();
        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("draining")));
        assert_eq!((reply.get("retry-after"), reply.get("connection")), (Some("1"), Some("close")));
        assert!(waiting.is_closed().await && sent.is_closed().await);
        let mut bodies = Vec::new();
        while let Some((kind, _, stream, payload)) = streams.next().await {
            assert!(kind > 1 || stream == 1, "an answer to what was sent");
            if kind == 0 {
                bodies.extend(payload);
            }
        }
        let body: serde_json::Value = serde_json::from_slice(&bodies).unwrap();
        assert_eq!(body["code"], "draining");
        assert_eq!(world.process.ended().await.code(), Some(0));
        assert!(asked_to_end.elapsed() < PROMPT, "{:?}", asked_to_end.elapsed());
        world.check();
    }
}

#[tokio::test]
async fn an_unfinished_head_delays_a_stop_no_longer_than_header_timeout() {
    for is_tls in [false, true] {
        let pki = Pki::new(&["localhost"]).unwrap();
        let trusting = TlsCaller::trusting(pki.authority());
        let setup = daemon().quiet().limits("header_timeout = \"1s\"").server("drain = \"60s\"");
        let setup = if is_tls { setup.tls(pki.server()) } else { setup };
        let mut world = setup.start_with(pki, async |_| {}).await;
        let connect = async || {
            if is_tls { trusting.connect(world.address).await.unwrap() } else { world.caller().await }
        };
        let (mut fresh, mut kept) = (connect().await, connect().await);
        assert_eq!(kept.send(&Request::get("/x")).await.status, 200);
        for caller in [&mut fresh, &mut kept] {
            caller.write(b"GET /x HTTP/1.1\r\nhost: local").await;
        }

        world.process.signal(Signal::TERM);
        let asked = Instant::now();

        for caller in [&mut fresh, &mut kept] {
            let reply = caller.read().await.expect("an answer");
            assert_eq!(
                (reply.status, reply.code().as_deref()),
                (408, Some("request_timeout")),
                "TLS: {is_tls}"
            );
        }
        assert_eq!(world.process.ended().await.code(), Some(0));
        assert!(asked.elapsed() < PROMPT + Duration::from_secs(1), "TLS: {is_tls}: {:?}", asked.elapsed());
        world.check();
    }
}
