//! The request loop over in-memory streams, in paused time: numbers of callers and lengths of waits that no
//! socket test could have.

mod timeouts;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::{http1 as client, http2};
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::Instant;

use super::downstream::protocol::{Http1, Protocol};
use super::downstream::stream::{ClientStream, SharedStream};
use super::limits::admission::Admitted;
use super::limits::slots::Slots;
use super::peer::Peer;
use super::route::{Route, Table};
use super::service::settings::ServiceSettings;
use super::upstream::breaker::Breaker;
use super::upstream::connect::{Connect, Connected, Connecting};
use super::upstream::connections::ConnectionLimits;
use super::upstream::{Destination, Upstream};
use super::worker::Worker;
use super::worker::snapshot::Configuration;
use crate::clock::Clock;
use crate::config;
use crate::config::{Config, fixture};
use crate::token::error::TokenError;
use crate::token::{DurableState, HeldToken, Refresher, TokenEndpoint, TokenResponse};

/// More than all buffers on the way together.
const LARGE: usize = 1024 * 1024;

/// Issues tokens, one after the other, and knows which one is live.
#[derive(Debug, Default)]
struct Issuer {
    asked: AtomicUsize,
    live: Mutex<String>,
    is_down: Mutex<bool>,
    /// Whether the next request without a connection ends in a panic.
    panics: AtomicBool,
}

#[derive(Clone, Debug)]
struct Endpoint {
    issuer: Arc<Issuer>,
    takes: Duration,
}

impl TokenEndpoint for Endpoint {
    async fn request(
        &self,
        _: &config::Credential,
        _: &config::Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let number = self.issuer.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.takes).await;
        if *self.issuer.is_down.lock().unwrap() {
            return Err(TokenError::Server(500));
        }
        let token = format!("token-{number}");
        token.clone_into(&mut self.issuer.live.lock().unwrap());
        let lifetime = Some(Duration::from_hours(1));
        Ok(TokenResponse {
            access_token: token.into(),
            lifetime,
            lifetime_was_cut: false,
            is_labelled_json: true,
            scopes: None,
            server_time: None,
            refresh_token: None,
            id_token: None,
            refresh_lifetime: None,
            flaw: None,
        })
    }
}

impl ClientStream for DuplexStream {
    fn set_close_by_reset(&self) {}
}

/// An API at the other end of a pipe: 200 for the live token, else 401. `/large` is [`LARGE`] bytes, `/upload` is
/// read to its end, `/stall` sends no body, `/chat` switches to WebSocket, and `/rejected` rejects every token.
struct Api(Arc<Issuer>);

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Connect for Api {
    fn connect(&self) -> Connecting<'_> {
        Api::connect(self)
    }

    fn may_speak_http2(&self) -> bool {
        assert!(!self.0.panics.swap(false, Ordering::Relaxed), "told to panic");
        false
    }
}

impl Api {
    fn connect(&self) -> Connecting<'static> {
        let (near, far) = tokio::io::duplex(4096);
        let issuer = Arc::clone(&self.0);
        let answer = service_fn(move |mut request: Request<Incoming>| {
            let live = format!("Bearer {}", issuer.live.lock().unwrap());
            let is_live = request.headers()[AUTHORIZATION] == live && request.uri().path() != "/rejected";
            let body = match request.uri().path() {
                "/large" => Full::new(Bytes::from(vec![b'x'; LARGE])).boxed(),
                "/stall" => StreamBody::new(futures_util::stream::pending()).boxed(),
                _ => Full::new(Bytes::from_static(b"hello")).boxed(),
            };
            async move {
                if request.uri().path() == "/chat" && is_live {
                    let upgrade = hyper::upgrade::on(&mut request);
                    tokio::task::spawn_local(async move {
                        let mut stream = TokioIo::new(upgrade.await.unwrap());
                        let _ = stream.read_to_end(&mut Vec::new()).await;
                    });
                    let switched = Response::builder().status(StatusCode::SWITCHING_PROTOCOLS);
                    let switched = switched.header("upgrade", "websocket").header("connection", "upgrade");
                    let switched = switched.header("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
                    return Ok(switched.body(Empty::new().boxed()).unwrap());
                }
                if request.uri().path() == "/upload" {
                    // One that breaks off has no answer.
                    request.into_body().collect().await?;
                }
                let mut response = Response::new(body);
                if !is_live {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                }
                Ok::<_, hyper::Error>(response)
            }
        });
        tokio::task::spawn_local(
            server::Builder::new().serve_connection(TokioIo::new(far), answer).with_upgrades(),
        );
        Box::pin(async move { Ok(Connected { stream: Box::new(near), is_http2: false }) })
    }
}

struct World {
    issuer: Arc<Issuer>,
    upstream: Arc<Upstream>,
    shared: Arc<ServiceSettings>,
    worker: Worker,
    /// How many connections the worker has.
    load: Arc<AtomicUsize>,
}

fn config(lines: &str) -> Config {
    fixture::config(&format!("[server.limits]\n{lines}"), "", "x")
}

/// One worker, one route, one API, all in memory.
fn world(lines: &str, token_takes: Duration) -> World {
    world_of(&config(lines), ConnectionLimits::default(), token_takes)
}

fn world_of(config: &Config, limits: ConnectionLimits, token_takes: Duration) -> World {
    let clock = Clock::tokio();
    let issuer = Arc::new(Issuer::default());
    let endpoint = Endpoint { issuer: Arc::clone(&issuer), takes: token_takes };
    let (refresher, source) =
        Refresher::new(Arc::clone(&config.credentials[0]), endpoint, DurableState::in_memory(clock), clock);
    tokio::task::spawn_local(refresher.run(std::future::pending()));
    let api = Box::new(Api(Arc::clone(&issuer)));
    let host = HeaderValue::from_static("api.example.com");
    let destination = Destination::new("https://api.example.com".to_owned(), host, api);
    let upstream = Upstream::written(0, destination, Slots::new(100_000));
    let upstream = Arc::new(upstream.with_limits(Breaker::default(), limits));
    let mut table = Table::default();
    table.add(None, "/", Route::new(&config.routes[0], Arc::clone(&upstream), [(source, None)], false));
    let shared = Arc::new(ServiceSettings::new(config, table, "bearerd-test".to_owned(), clock));
    let (service_settings, upstreams) = (Arc::clone(&shared), vec![Arc::clone(&upstream)]);
    let load = Arc::<AtomicUsize>::default();
    let worker = Worker::new(Configuration { worker: 0, service_settings, upstreams }, Arc::clone(&load));
    World { issuer, upstream, shared, worker, load }
}

impl World {
    /// A caller's end of a new connection.
    fn connection(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(4096);
        self.serve(far);
        near
    }

    fn serve(&self, stream: impl ClientStream + 'static) {
        self.load.fetch_add(1, Ordering::Relaxed);
        self.worker.serve(SharedStream::new(stream), Peer::UNIX, Admitted::default());
    }

    fn connections(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// How many connections wait for a request without hyper.
    fn parked(&self) -> usize {
        let all = self.worker.connections.all.borrow();
        all.iter().filter(|client| client.protocol.get() == Protocol::Http1(Http1::Parked)).count()
    }

    async fn get(&self) -> Response<Bytes> {
        self.get_at("/x").await
    }

    async fn get_at(&self, path: &str) -> Response<Bytes> {
        let (mut sender, connection) = client::handshake(TokioIo::new(self.connection())).await.unwrap();
        tokio::task::spawn_local(connection);
        let request = Request::get(path).header("host", "localhost").body(Empty::<Bytes>::new()).unwrap();
        let (head, body) = sender.send_request(request).await.unwrap().into_parts();
        Response::from_parts(head, body.collect().await.unwrap().to_bytes())
    }
}

/// Runs a test on a worker's kind of runtime, in paused time.
fn in_paused_time(test: impl AsyncFnOnce()) {
    let runtime =
        Builder::new_current_thread().enable_all().start_paused(true).build_local(LocalOptions::default());
    runtime.unwrap().block_on(test());
}

#[test]
fn debug_output_of_the_shared_settings_has_no_token() {
    in_paused_time(async || {
        let world = world("", Duration::ZERO);
        assert_eq!(world.get().await.status(), 200);
        let token = world.issuer.live.lock().unwrap().clone();

        let shown = format!("{:?} {:#?}", world.shared, world.shared);

        assert!(shown.contains("TokenSource") && !shown.contains(&token), "{shown}");
    });
}

#[test]
fn ten_thousand_callers_of_a_dead_token_cost_one_token_request() {
    in_paused_time(async || {
        let world = world("", Duration::from_millis(500));
        assert_eq!(world.get().await.status(), 200);
        world.issuer.live.lock().unwrap().clear();
        let started = Instant::now();

        let answers = join_all((0..10_000).map(|_| world.get())).await;

        assert!(answers.iter().all(|answer| answer.status() == 200 && answer.body() == "hello"));
        assert_eq!(world.issuer.asked.load(Ordering::Relaxed), 2);
        assert!(started.elapsed() < Duration::from_millis(1500), "{:?}", started.elapsed());
    });
}

#[test]
fn without_a_token_endpoint_each_of_a_thousand_requests_fails_at_its_deadline() {
    in_paused_time(async || {
        let world = world("token_wait = \"7s\"", Duration::ZERO);
        *world.issuer.is_down.lock().unwrap() = true;
        let started = Instant::now();

        let answers = join_all((0..1000).map(|_| world.get())).await;

        assert!(started.elapsed() <= Duration::from_millis(7_100), "{:?}", started.elapsed());
        for answer in &answers {
            assert_eq!(answer.status(), 503);
            let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            assert_eq!(problem["code"], "token_endpoint_unavailable");
            assert!(answer.headers().contains_key("retry-after"));
        }
        assert!(world.issuer.asked.load(Ordering::Relaxed) <= 5);
    });
}

#[test]
fn a_request_waits_for_a_second_token_within_the_same_token_wait() {
    in_paused_time(async || {
        let world = world("token_wait = \"2s\"", Duration::from_millis(1500));
        let started = Instant::now();

        let answer = world.get_at("/rejected").await;

        assert_eq!(answer.status(), 503);
        assert_eq!(started.elapsed().as_millis() / 100, 20, "{:?}", started.elapsed());
        assert_eq!(world.issuer.asked.load(Ordering::Relaxed), 2);
    });
}

/// What a caller reads until the end of its connection, and when that was.
async fn until_the_end(mut stream: DuplexStream) -> (String, Duration) {
    let started = Instant::now();
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text).await;
    (text, started.elapsed())
}

/// A world whose connections have ten seconds for a head, and 75 between requests.
fn swept() -> Rc<World> {
    swept_with("")
}

/// The same with other limits besides.
fn swept_with(lines: &str) -> Rc<World> {
    let lines = format!("header_timeout = \"10s\"\nidle_timeout = \"75s\"\n{lines}");
    keep_sweeping(world(&lines, Duration::ZERO))
}

/// Runs the sweeps of a worker's thread.
fn keep_sweeping(world: World) -> Rc<World> {
    let world = Rc::new(world);
    let sweeping = Rc::clone(&world);
    tokio::task::spawn_local(async move {
        let mut sweeps = sweeping.worker.sweeps();
        loop {
            sweeps.tick().await;
            sweeping.worker.sweep();
        }
    });
    world
}

#[test]
fn a_connection_is_closed_when_its_timeout_is_up_and_not_before() {
    in_paused_time(async || {
        let world = swept();
        let about = |elapsed: Duration, seconds: f64| (elapsed.as_secs_f64() - seconds).abs() <= 1.01;

        // Nothing ever came.
        let (text, elapsed) = until_the_end(world.connection()).await;
        assert!(text.is_empty() && about(elapsed, 10.0), "{elapsed:?}: {text}");

        // A head that does not end.
        let mut slow = world.connection();
        slow.write_all(b"GET / HTTP/1.1\r\nhost: local").await.unwrap();
        let (text, elapsed) = until_the_end(slow).await;
        assert!(text.contains("request_timeout") && about(elapsed, 10.0), "{elapsed:?}: {text}");

        // Nothing after a request; then the first byte of another.
        let mut idle = world.connection();
        idle.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let (text, elapsed) = until_the_end(idle).await;
        assert!(text.starts_with("HTTP/1.1 200") && about(elapsed, 75.0), "{elapsed:?}: {text}");

        let mut second = world.connection();
        second.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_mins(1)).await;
        second.write_all(b"G").await.unwrap();
        let (text, elapsed) = until_the_end(second).await;
        assert!(text.contains("request_timeout") && about(elapsed, 10.0), "{elapsed:?}: {text}");
    });
}

/// What comes until there are so many answers.
async fn answers(stream: &mut DuplexStream, count: usize) -> String {
    let mut text = Vec::new();
    while text.windows(5).filter(|piece| piece == b"hello").count() < count {
        assert_ne!(stream.read_buf(&mut text).await.unwrap(), 0, "{}", String::from_utf8_lossy(&text));
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn a_parked_connection_serves_its_next_request_like_any_other() {
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    in_paused_time(async || {
        let world = swept();
        let rested = async || {
            let mut stream = world.connection();
            stream.write_all(GET).await.unwrap();
            answers(&mut stream, 1).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(world.parked(), 0);
            tokio::time::sleep(Duration::from_secs(30)).await;
            assert_eq!(world.parked(), 1);
            stream
        };

        // A head in pieces, two requests in one, and another rest between.
        let mut stream = rested().await;
        for piece in GET.chunks(7) {
            stream.write_all(piece).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        answers(&mut stream, 1).await;
        stream.write_all(&GET.repeat(2)).await.unwrap();
        answers(&mut stream, 2).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(world.parked(), 1);
        stream.write_all(GET).await.unwrap();
        assert!(answers(&mut stream, 1).await.starts_with("HTTP/1.1 200"));

        // Its end.
        drop(stream);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.connections(), 0);

        // The beginning of the next request, come with the one before: it is neither lost nor given another meaning.
        let begins = [GET, b"GET / HTTP/1.1\r\nhost: localhost\r\nx-a: "].concat();
        for (rest, status) in [(&b"b\r\n\r\n"[..], "200"), (b"GET / HTTP/1.1\r\n", "400")] {
            let mut stream = world.connection();
            stream.write_all(&begins).await.unwrap();
            answers(&mut stream, 1).await;
            tokio::time::sleep(Duration::from_secs(5)).await;
            assert_eq!(world.parked(), 0);
            stream.write_all(rest).await.unwrap();
            if status == "200" {
                answers(&mut stream, 1).await;
                continue;
            }
            // A field's name without a colon behind it, and then nothing.
            stream.write_all(b"host: localhost\r\n nonsense\r\n\r\n").await.unwrap();
            let (text, _) = until_the_end(stream).await;
            assert!(text.starts_with("HTTP/1.1 400"), "{text}");
        }
        let mut stream = world.connection();
        stream.write_all(&begins).await.unwrap();
        answers(&mut stream, 1).await;
        let (text, elapsed) = until_the_end(stream).await;
        assert!(text.contains("request_timeout") && elapsed < Duration::from_secs(13), "{elapsed:?}: {text}");

        // The protocol stays what it was: to another one hyper says nothing.
        let mut stream = rested().await;
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let (text, _) = until_the_end(stream).await;
        assert!(text.is_empty(), "{text}");

        // A drain.
        let stream = rested().await;
        world.worker.drain();
        let (text, elapsed) = until_the_end(stream).await;
        assert!(text.is_empty() && elapsed < Duration::from_secs(1), "{elapsed:?}: {text}");
    });
}

#[test]
fn a_response_that_is_read_slowly_is_not_cut_by_the_idle_timeout() {
    in_paused_time(async || {
        let world = swept_with("write_timeout = \"5m\"");
        let mut slow = world.connection();
        slow.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        // All but the last of it; then nothing for longer than a connection may lie idle, as the rest is on its way.
        while answer.len() < LARGE - 32 * 1024 {
            slow.read_buf(&mut answer).await.unwrap();
        }
        tokio::time::sleep(Duration::from_secs(200)).await;

        while !answer.ends_with(b"xx\r\n") && slow.read_buf(&mut answer).await.unwrap() > 0 {
            if answer.len() > LARGE {
                break;
            }
        }

        assert!(answer.starts_with(b"HTTP/1.1 200") && answer.len() > LARGE, "{} bytes", answer.len());
    });
}

/// Frames of HTTP/2 (RFC 9113 §4.1): a type and its payload, as they come.
async fn frames(stream: &mut DuplexStream, within: Duration) -> (Vec<(u8, Vec<u8>)>, bool) {
    let mut bytes = Vec::new();
    let read = async { while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    let has_ended = tokio::time::timeout(within, read).await.is_ok();
    let mut frames = Vec::new();
    let mut rest = &bytes[..];
    while let [a, b, c, kind, _flags, _, _, _, _, after @ ..] = rest {
        let (payload, next) = after.split_at(u32::from_be_bytes([0, *a, *b, *c]) as usize);
        frames.push((*kind, payload.to_vec()));
        rest = next;
    }
    (frames, has_ended)
}

const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingpong";
/// A GET of `/` on stream 1 (RFC 7541 §6.1, §6.2.1), and one without the end of its head.
const GET: &[u8] = b"\0\0\x0e\x01\x05\0\0\0\x01\x82\x84\x86\x41\x09localhost";
const HALF_A_HEAD: &[u8] = b"\0\0\x0e\x01\x01\0\0\0\x01\x82\x84\x86\x41\x09localhost";
const RST_STREAM: u8 = 3;
const PING_FRAME: u8 = 6;
const GOAWAY: u8 = 7;

#[test]
fn an_http2_connection_without_a_request_is_closed_after_the_header_timeout() {
    in_paused_time(async || {
        let world = swept();
        for (what, sent) in [("nothing", &b""[..]), ("pings", PING), ("half a head", HALF_A_HEAD)] {
            let mut caller = world.connection();
            caller.write_all(PREFACE_AND_SETTINGS).await.unwrap();
            caller.write_all(sent).await.unwrap();

            let (_, has_ended) = frames(&mut caller, Duration::from_secs(9)).await;
            assert!(!has_ended, "{what}");
            let (_, has_ended) = frames(&mut caller, Duration::from_secs(8)).await;
            assert!(has_ended, "{what}");
        }
    });
}

#[test]
fn an_idle_http2_connection_kept_alive_by_pings_is_closed_gracefully() {
    in_paused_time(async || {
        let world = swept();
        let mut caller = world.connection();
        caller.write_all(PREFACE_AND_SETTINGS).await.unwrap();
        caller.write_all(GET).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        caller.write_all(PING).await.unwrap();

        // A PING is not the beginning of a head, nor is the answer to one of ours.
        let mut all = Vec::new();
        for _ in 0..12 {
            let (seen, has_ended) = frames(&mut caller, Duration::from_secs(5)).await;
            assert!(!has_ended && seen.iter().all(|(kind, _)| *kind != GOAWAY), "{seen:?}");
            answer_pings(&mut caller, &seen).await;
            all.extend(seen);
        }
        assert!(all.contains(&(PING_FRAME, b"pingpong".to_vec())), "{all:?}");

        let (mut all, mut has_ended) = (Vec::new(), false);
        for _ in 0..6 {
            let (seen, ended) = frames(&mut caller, Duration::from_secs(5)).await;
            answer_pings(&mut caller, &seen).await;
            all.extend(seen);
            has_ended |= ended;
        }
        assert!(has_ended && all.iter().any(|(kind, _)| *kind == GOAWAY), "{all:?}");
    });
}

/// Acknowledges the PINGs among these frames (RFC 9113 §6.7), if the other side still reads.
async fn answer_pings(stream: &mut DuplexStream, seen: &[(u8, Vec<u8>)]) {
    for (_, payload) in seen.iter().filter(|(kind, payload)| *kind == PING_FRAME && payload != b"pingpong") {
        let mut pong = b"\0\0\x08\x06\x01\0\0\0\0".to_vec();
        pong.extend_from_slice(payload);
        let _ = stream.write_all(&pong).await;
    }
}

#[test]
fn an_http2_connection_whose_pings_are_not_answered_is_closed() {
    in_paused_time(async || {
        let world = swept();
        let mut caller = world.connection();
        caller.write_all(PREFACE_AND_SETTINGS).await.unwrap();
        caller.write_all(GET).await.unwrap();

        let (seen, has_ended) = frames(&mut caller, Duration::from_secs(39)).await;
        assert!(!has_ended && seen.iter().any(|(kind, _)| *kind == PING_FRAME), "{seen:?}");
        let (_, has_ended) = frames(&mut caller, Duration::from_secs(3)).await;
        assert!(has_ended);
    });
}

#[test]
fn a_caller_that_reads_nothing_is_cut_off_and_one_that_reads_slowly_is_not() {
    in_paused_time(async || {
        let world = swept_with("write_timeout = \"30s\"");
        let mut patient = world.connection();
        let mut silent = world.connection();
        for caller in [&mut patient, &mut silent] {
            caller.write_all(b"GET /large HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        }

        let mut taken = vec![0; 64];
        for _ in 0..20 {
            patient.read_exact(&mut taken).await.unwrap();
            tokio::time::sleep(Duration::from_secs(20)).await;
        }

        let mut rest = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(1), silent.read_to_end(&mut rest)).await;
        assert!(read.is_ok() && rest.len() < LARGE, "{} bytes of an answer that nobody took", rest.len());
        // What is there for the other comes to its end, now that it reads.
        let mut all = Vec::new();
        let missing = LARGE - 20 * taken.len();
        while all.len() < missing && patient.read_buf(&mut all).await.unwrap() > 0 {}
        assert!(all.len() >= missing, "{}", all.len());
    });
}

/// `SETTINGS_INITIAL_WINDOW_SIZE` 0 (RFC 9113 §6.5.2): nothing of an answer may be sent but its head.
const PREFACE_AND_CLOSED_WINDOWS: &[u8] =
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";

/// One byte for a stream, or for the connection.
fn window_update(stream: u8) -> Vec<u8> {
    [b"\0\0\x04\x08\0\0\0\0".as_slice(), &[stream], b"\0\0\0\x01"].concat()
}

#[test]
fn an_http2_stream_whose_window_stays_closed_is_reset_alone() {
    in_paused_time(async || {
        let world = swept_with("write_timeout = \"30s\"");
        let mut caller = world.connection();
        caller.write_all(PREFACE_AND_CLOSED_WINDOWS).await.unwrap();
        for stream in [1, 3, 5] {
            let mut get = GET.to_vec();
            get[8] = stream;
            caller.write_all(&get).await.unwrap();
        }
        let mut resets = 0;
        for second in 0..40 {
            // A window that opens by a byte is none to speak of.
            caller.write_all(&window_update(0)).await.unwrap();
            let (seen, has_ended) = frames(&mut caller, Duration::from_secs(1)).await;
            assert!(!has_ended, "{seen:?}");
            answer_pings(&mut caller, &seen).await;
            let now = seen.iter().filter(|(kind, _)| *kind == RST_STREAM).count();
            assert!(now == 0 || second >= 28, "after {second} s: {seen:?}");
            resets += now;
        }
        assert_eq!(resets, 3);

        let mut get = GET.to_vec();
        get[8] = 7;
        caller.write_all(&get).await.unwrap();
        caller.write_all(&window_update(7).repeat(5)).await.unwrap();
        let (seen, _) = frames(&mut caller, Duration::from_secs(1)).await;
        let body: Vec<u8> =
            seen.iter().filter(|(kind, _)| *kind == 0).flat_map(|(_, data)| data.clone()).collect();
        assert_eq!(body, b"hello", "{seen:?}");
    });
}

#[test]
fn requests_beyond_token_waiters_are_refused_and_the_others_get_their_token() {
    in_paused_time(async || {
        let world = world("token_waiters = 10", Duration::from_secs(2));
        let started = Instant::now();

        let answers = join_all((0..50).map(async |_| (world.get().await, started.elapsed()))).await;

        let (served, refused): (Vec<_>, Vec<_>) =
            answers.iter().partition(|(answer, _)| answer.status() == 200);
        assert_eq!((served.len(), refused.len()), (10, 40));
        for (answer, elapsed) in refused {
            let problem: serde_json::Value = serde_json::from_slice(answer.body()).unwrap();
            assert_eq!((answer.status().as_u16(), &problem["code"]), (503, &"overloaded".into()));
            assert_eq!(answer.headers()["retry-after"], "1");
            assert!(*elapsed < Duration::from_secs(1), "{elapsed:?}");
        }
        assert_eq!(world.issuer.asked.load(Ordering::Relaxed), 1);

        // So it is with a token that was rejected.
        world.issuer.live.lock().unwrap().clear();
        let answers = join_all((0..50).map(|_| world.get())).await;
        let served = answers.iter().filter(|answer| answer.status() == 200).count();
        assert!((10..50).contains(&served), "{served}");
        assert!(answers.iter().all(|answer| [200, 503].contains(&answer.status().as_u16())));
        assert_eq!(world.get().await.status(), 200, "no request waits any more");
    });
}

/// An upload whose pieces come so often, until it is over or refused: what was answered, and when.
async fn upload(world: &World, piece: &[u8], pause: Duration, pieces: usize) -> (String, Duration) {
    let mut caller = world.connection();
    let head =
        b"POST /upload HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    caller.write_all(head).await.unwrap();
    let started = Instant::now();
    let (mut reading, mut writing) = tokio::io::split(caller);
    let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
    framed.extend_from_slice(piece);
    framed.extend_from_slice(b"\r\n");
    let write = async {
        for _ in 0..pieces {
            tokio::time::sleep(pause).await;
            if writing.write_all(&framed).await.is_err() {
                break;
            }
        }
        let _ = writing.write_all(b"0\r\n\r\n").await;
        std::future::pending::<()>().await;
    };
    let mut text = String::new();
    tokio::select! {
        _ = reading.read_to_string(&mut text) => {}
        () = write => {}
    }
    (text, started.elapsed())
}

#[test]
fn a_body_slower_than_body_rate_is_refused_and_a_slightly_faster_one_is_not() {
    in_paused_time(async || {
        let world = swept_with("body_rate = \"240B\"");
        assert_eq!(world.get().await.status(), 200);

        // A byte a second never pauses for long, and never ends.
        let (text, elapsed) = upload(&world, b"x", Duration::from_secs(1), 10_000).await;
        assert!(text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"), "{text}");
        assert!((5..=7).contains(&elapsed.as_secs()), "{elapsed:?}");

        let (text, elapsed) = upload(&world, &[b'x'; 250], Duration::from_secs(1), 60).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{elapsed:?}: {text}");
        // It may be slow at first, for a while.
        let (text, elapsed) = upload(&world, b"x", Duration::from_secs(1), 4).await;
        assert!(text.starts_with("HTTP/1.1 200"), "{elapsed:?}: {text}");
    });
}

#[test]
fn an_http2_connection_past_connection_age_is_closed_gracefully() {
    in_paused_time(async || {
        let world = swept_with("connection_age = \"60s\"");
        let mut caller = world.connection();
        caller.write_all(PREFACE_AND_SETTINGS).await.unwrap();
        let (mut stream, mut answers, mut goaway) = (1_u8, 0, false);
        // A request every second, and one on the way when GOAWAY comes: all are answered.
        loop {
            let mut get = GET.to_vec();
            get[8] = stream;
            if caller.write_all(&get).await.is_err() {
                break;
            }
            stream += 2;
            let (seen, has_ended) = frames(&mut caller, Duration::from_secs(1)).await;
            answer_pings(&mut caller, &seen).await;
            answers += seen.iter().filter(|(kind, _)| *kind == 1).count();
            goaway |= seen.iter().any(|(kind, _)| *kind == GOAWAY);
            if has_ended {
                break;
            }
            assert!(stream < 200, "never ended");
            if goaway {
                let (_, has_ended) = frames(&mut caller, Duration::from_secs(7)).await;
                assert!(has_ended);
                break;
            }
        }
        assert!(goaway && (53..=62).contains(&answers), "{answers} answers");
        assert_eq!(usize::from(stream / 2), answers, "each request has its answer");
    });
}

#[test]
fn an_http1_connection_past_connection_age_closes_after_a_response_or_idle() {
    in_paused_time(async || {
        let world = swept_with("connection_age = \"100s\"");
        let request = b"GET /x HTTP/1.1\r\nhost: localhost\r\n\r\n";
        let mut busy = world.connection();
        let mut buffer = Vec::new();
        let mut answers = 0;
        let started = Instant::now();
        // Without a rest: each answer is followed by the next request at once.
        loop {
            busy.write_all(request).await.unwrap();
            while !buffer.ends_with(b"hello") {
                let read = busy.read_buf(&mut buffer).await.unwrap();
                assert!(read > 0, "a request was lost after {:?}", started.elapsed());
            }
            answers += 1;
            if String::from_utf8_lossy(&buffer).contains("connection: close") {
                break;
            }
            buffer.clear();
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        let age = started.elapsed().as_secs();
        assert!((89..=102).contains(&age) && answers > 100, "{age} s");
        assert_eq!(busy.read_buf(&mut buffer).await.unwrap(), 0, "closed after its last answer");

        // One at rest is closed before it has been idle for long.
        let mut idle = world.connection();
        tokio::time::sleep(Duration::from_secs(5)).await;
        for _ in 0..2 {
            idle.write_all(request).await.unwrap();
            tokio::time::sleep(Duration::from_secs(40)).await;
        }
        let (text, elapsed) = until_the_end(idle).await;
        assert!(text.ends_with("hello") && elapsed < Duration::from_secs(20), "{elapsed:?}: {text}");
    });
}

/// FLT-RT-01. A panic is caught with the task it is in: an HTTP/1 connection, or one stream of an HTTP/2 connection.
#[test]
fn a_panic_ends_only_its_own_request() {
    in_paused_time(async || {
        let world = world("", Duration::from_millis(10));
        let (mut kept, connection) = client::handshake(TokioIo::new(world.connection())).await.unwrap();
        tokio::task::spawn_local(connection);
        let (mut streams, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(world.connection())).await.unwrap();
        tokio::task::spawn_local(connection);
        let request =
            || Request::get("http://localhost/x").header("host", "localhost").body(Empty::<Bytes>::new());

        world.issuer.panics.store(true, Ordering::Relaxed);
        let (mut unlucky, connection) = client::handshake(TokioIo::new(world.connection())).await.unwrap();
        tokio::task::spawn_local(connection);
        assert!(unlucky.send_request(request().unwrap()).await.is_err(), "nobody could answer it");
        world.issuer.panics.store(true, Ordering::Relaxed);
        assert!(streams.send_request(request().unwrap()).await.is_err(), "its stream is reset");

        assert_eq!(streams.send_request(request().unwrap()).await.unwrap().status(), 200);
        assert_eq!(kept.send_request(request().unwrap()).await.unwrap().status(), 200);
        assert_eq!(world.connections(), 2, "the one that panicked is forgotten");
        assert_eq!(world.get().await.status(), 200);
    });
}

/// A client's connection that takes so many bytes and then fails, or takes nothing any more.
struct Failing {
    stream: DuplexStream,
    takes: usize,
    then: Failure,
}

#[derive(Clone, Copy, Debug)]
enum Failure {
    Reset,
    Blocked,
}

impl ClientStream for Failing {
    fn set_close_by_reset(&self) {}
}

impl AsyncRead for Failing {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Failing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match this.then {
            Failure::Reset if this.takes == 0 => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Failure::Blocked if this.takes == 0 => Poll::Pending,
            _ => {
                let most = &buf[..buf.len().min(this.takes)];
                let written = ready!(Pin::new(&mut this.stream).poll_write(cx, most))?;
                this.takes -= written;
                Poll::Ready(Ok(written))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[test]
fn a_worker_sweeps_ten_times_within_the_shortest_timeout_of_a_route() {
    in_paused_time(async || {
        let mut config = config("");
        for (timeout, period) in [(60_000, 500), (2_000, 200), (50, 10)] {
            config.routes[0].timeout = Duration::from_millis(timeout);
            let world = world_of(&config, ConnectionLimits::default(), Duration::ZERO);
            assert_eq!(world.worker.sweeps().period(), Duration::from_millis(period), "{timeout} ms");
        }
    });
}

#[test]
fn a_websocket_handshake_aborted_at_any_byte_of_its_101_frees_the_upstream() {
    const HANDSHAKE: &[u8] =
        b"GET /chat HTTP/1.1\r\nhost: localhost\r\nupgrade: websocket\r\nconnection: upgrade\r\n\
        sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
    // Fewer than there are handshakes.
    const PLACES: usize = 3;
    in_paused_time(async || {
        let mut config = config("write_timeout = \"1s\"");
        config.routes[0].allows_websocket = true;
        let limits = ConnectionLimits { connections: PLACES, ..ConnectionLimits::default() };
        let world = keep_sweeping(world_of(&config, limits, Duration::ZERO));

        for then in [Failure::Reset, Failure::Blocked] {
            let (mut takes, mut is_whole) = (0, false);
            while !is_whole {
                let (mut near, stream) = tokio::io::duplex(4096);
                world.serve(Failing { stream, takes, then });
                near.write_all(HANDSHAKE).await.unwrap();
                let mut head = Vec::new();
                while !is_whole && near.read_buf(&mut head).await.unwrap() > 0 {
                    is_whole = head.ends_with(b"\r\n\r\n");
                }
                let head = String::from_utf8(head).unwrap();
                assert!(head.starts_with("HTTP/1.1 101") || "HTTP/1.1 101".starts_with(&head), "{head}");
                takes += 1;
            }
        }

        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(world.connections(), 0);
        assert_eq!(world.upstream.descriptors.taken(), 0);
    });
}
