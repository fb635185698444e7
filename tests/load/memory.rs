//! The memory of thousands of connections: idle ones, and connections whose callers do not read.

use std::path::Path;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use testkit::harness::eventually;
use tokio::io::AsyncWriteExt;

use crate::bounds::Held;
use crate::callers::{Connection, Socket, Version, connect, new_id};
use crate::figures::mib;
use crate::report::Report;
use crate::slow::tcp_bytes;
use crate::world::{PERSON, Setup, World};

const READERS: u64 = 2000;
const ANSWER: &str = "/big/10000000";
/// As many streams as a connection may have.
const STREAMS: u64 = 100;
const IDLE: (u64, u64) = (10_000, 1000);
const RESTING: u64 = 1000;
/// Time for a connection to free the buffers of its last request, and for the allocator to return them.
const AT_REST: Duration = Duration::from_secs(20);
const MOST_AT_REST: u64 = 8 * 1024;
/// Time for the daemon to read from the API as much as it buffers.
const SETTLED: Duration = Duration::from_millis(1500);

pub(crate) async fn run(bearerd: &Path, descriptors: usize, report: &mut Report) {
    for has_tls in [false, true] {
        idle(bearerd, descriptors, has_tls, report).await;
    }
    for (has_tls, whose) in [(false, ""), (true, ""), (false, PERSON)] {
        slow_readers(bearerd, has_tls, whose, report).await;
    }
    for how in &SLOW_STREAMS {
        slow_streams(bearerd, how, report).await;
    }
}

fn setup(has_tls: bool) -> Setup {
    // Time-outs that are longer than the measurement.
    let limits = "connections = 12000\nwrite_timeout = \"10m\"\nidle_timeout = \"10m\"";
    Setup { limits, route: "connections = 2500\nread_timeout = \"10m\"", has_tls, ..Setup::default() }
}

/// Names TLS in a check's text.
const fn over(has_tls: bool) -> &'static str {
    if has_tls { " over TLS" } else { "" }
}

async fn idle(bearerd: &Path, descriptors: usize, has_tls: bool, report: &mut Report) {
    let world = World::start(bearerd, setup(has_tls)).await;
    let before = world.resident();
    // Callers get half of the descriptors, here and in the daemon. Over TLS there are fewer, as handshakes take time.
    let room = (descriptors as u64).saturating_sub(400) / 2;
    let (http1, http2) = if has_tls { (IDLE.0 / 5, IDLE.1 / 5) } else { IDLE };
    let http2 = http2.min(room / 2);
    let http1 = http1.min(room - http2);
    let mut connections = Vec::new();
    for (count, version) in [(http1, Version::Http1), (http2, Version::Http2)] {
        for _ in 0..count {
            let mut connection = Connection::open(&world, version).await.unwrap();
            let answer = connection.ask(&new_id(), "/x", None).await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            connections.push(connection);
        }
    }
    let all = http1 + http2;
    let held = Held { connections: all, tls: if has_tls { all } else { 0 }, ..Held::default() };
    judge(
        report,
        &world,
        &format!("{http1} idle HTTP/1.1 and {http2} idle HTTP/2 connections{}", over(has_tls)),
        before,
        all,
        held,
    );
    let mut another = connections.pop().unwrap();
    let answer = another.ask(&new_id(), "/x", None).await;
    report.check("and they are served", answer.is_ok_and(|answer| answer.status == 200), "");
    drop(connections);
    world.finish(report).await;
}

/// The memory of an idle connection that carried one request.
pub(crate) async fn rest(bearerd: &Path, report: &mut Report) {
    let world = World::start(bearerd, setup(false)).await;
    let mut connections = Vec::new();
    let mut before = 0;
    // The first connections allocate the memory that does not depend on their number.
    for number in 0..RESTING + 10 {
        if number == 10 {
            before = world.resident();
        }
        let mut connection = Connection::open(&world, Version::Http1).await.unwrap();
        let answer = connection.ask(&new_id(), "/x", None).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        connections.push(connection);
    }
    tokio::time::sleep(AT_REST).await;
    let each = world.resident().saturating_sub(before) / RESTING;
    report.check(
        &format!("{RESTING} connections that rest have little memory"),
        each <= MOST_AT_REST,
        &format!("{:.1} KiB each, at most {}", each as f64 / 1024.0, MOST_AT_REST / 1024),
    );
    let mut answered = 0;
    for connection in &mut connections {
        let answer = connection.ask(&new_id(), "/x", None).await;
        answered += usize::from(answer.is_ok_and(|answer| answer.status == 200));
    }
    let is_all = answered == connections.len();
    report.check("and all are served", is_all, &format!("{answered} of {}", connections.len()));
    drop(connections);
    world.finish(report).await;
}

/// Compares memory with its bound.
fn judge(report: &mut Report, world: &World, what: &str, before: u64, count: u64, held: Held) {
    let (now, most, bound) = (world.resident(), world.most_resident(), held.bound());
    let each = now.saturating_sub(before) / count / 1024;
    let tcp = mib(tcp_bytes());
    report.check(
        &format!("{what}: memory is below its bound"),
        most < bound,
        &format!("{} of {}, {each} KiB each; {tcp} in the system's TCP buffers", mib(most), mib(bound)),
    );
}

async fn slow_readers(bearerd: &Path, has_tls: bool, whose: &str, report: &mut Report) {
    let world = World::start(bearerd, setup(has_tls)).await;
    let before = world.resident();
    let mut sockets = Vec::new();
    for number in 1..=READERS {
        let mut socket = connect(&world, Version::Http1, true).await.unwrap();
        let head =
            format!("GET {whose}{ANSWER} HTTP/1.1\r\nhost: localhost\r\nx-test-id: {}\r\n\r\n", new_id());
        socket.write_all(head.as_bytes()).await.unwrap();
        sockets.push(socket);
        // In groups, so that the API's handshakes do not time out.
        if number.is_multiple_of(STREAMS) {
            came(&world, number).await;
        }
    }
    tokio::time::sleep(SETTLED).await;
    let tls = if has_tls { READERS } else { 0 };
    let held = Held { connections: READERS, tls, answers: READERS, ..Held::default() };
    let from = if whose.is_empty() { "" } else { " from an API over HTTP/2" };
    judge(
        report,
        &world,
        &format!("{READERS} HTTP/1.1 answers of 10 MB{}{from} that nobody reads", over(has_tls)),
        before,
        READERS,
        held,
    );
    served(&world, report).await;
    drop(sockets);
    world.finish(report).await;
}

/// Waits until so many requests have come to the API.
async fn came(world: &World, count: u64) {
    eventually("all requests came", async || world.api.request_count() as u64 >= count).await;
}

async fn served(world: &World, report: &mut Report) {
    let mut connection = Connection::open(world, Version::Http1).await.unwrap();
    let answer = connection.ask(&new_id(), "/x", None).await;
    let took = answer.as_ref().map(|answer| answer.took).unwrap_or_default();
    let is_quick = took < Duration::from_secs(1);
    report.check("and others are served", is_quick && answer.is_ok_and(|answer| answer.status == 200), "");
}

/// HTTP/2 streams whose answers are not read.
struct Streams {
    what: &'static str,
    connections: u64,
    path: &'static str,
    /// The window of each stream; `None` if nothing is read from the connection.
    window: Option<u32>,
    /// Time for all buffers to reach their size.
    settled: Duration,
}

const SLOW_STREAMS: [Streams; 3] = [
    Streams {
        what: "answers of 10 MB, whose streams have closed windows",
        connections: 20,
        path: ANSWER,
        window: Some(16 * 1024),
        settled: SETTLED,
    },
    Streams {
        what: "answers of 10 MB, whose connections are not read",
        connections: 20,
        path: ANSWER,
        window: None,
        settled: SETTLED,
    },
    Streams {
        what: "answers in small pieces, whose connections are not read",
        connections: 1,
        path: "/pieces/3000",
        window: None,
        settled: Duration::from_secs(8),
    },
];

async fn slow_streams(bearerd: &Path, how: &Streams, report: &mut Report) {
    let world = World::start(bearerd, setup(false)).await;
    let before = world.resident();
    let mut held_open: Vec<Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for number in 1..=how.connections {
        held_open.push(how.open(&world).await);
        came(&world, number * STREAMS).await;
    }
    let streams = how.connections * STREAMS;
    tokio::time::sleep(how.settled).await;
    let held = Held { connections: how.connections, streams, ..Held::default() };
    judge(report, &world, &format!("{streams} HTTP/2 {}", how.what), before, streams, held);
    served(&world, report).await;
    drop(held_open);
    world.finish(report).await;
}

impl Streams {
    /// Opens a connection with as many requests as it may have. The returned future drives the connection, which rests
    /// until the future is polled.
    async fn open(&self, world: &World) -> Pin<Box<dyn Future<Output = ()>>> {
        let socket: Box<dyn Socket> = connect(world, Version::Http2, true).await.unwrap();
        let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(self.window.unwrap_or(1 << 30))
            .initial_connection_window_size(1 << 30)
            .handshake::<_, Full<Bytes>>(TokioIo::new(socket))
            .await
            .unwrap();
        let mut connection = Box::pin(connection);
        let mut answers = Vec::new();
        for _ in 0..STREAMS {
            let uri = format!("http://localhost:{}{}", world.address.port(), self.path);
            let request = http::Request::get(uri).header("x-test-id", new_id());
            let answer = sender.send_request(request.body(Full::default()).unwrap());
            answers.push(Box::pin(answer));
        }
        let mut bodies = Vec::new();
        // The connection is driven until the heads arrived, or, if nothing is read, until the requests were written.
        let driven = async {
            if self.window.is_none() {
                return tokio::time::sleep(Duration::from_millis(300)).await;
            }
            for answer in &mut answers {
                bodies.push(answer.await.unwrap());
            }
        };
        tokio::select! {
            () = driven => {}
            ended = &mut connection => panic!("the connection has ended: {ended:?}"),
        }
        Box::pin(async move {
            let _held = (sender, answers, bodies);
            let _ = connection.await;
        })
    }
}
