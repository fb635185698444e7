//! The request loop over in-memory streams, in paused time: numbers of callers and lengths of waits that no
//! socket test could have.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::runtime::{Builder, LocalOptions};
use tokio::time::Instant;

use super::budget::Budget;
use super::caller_io::CallerStream;
use super::connect::{Connect, Connected, Connecting};
use super::guard::Policy;
use super::pool::Pool;
use super::prefix::Prefix;
use super::replay::Allowance;
use super::route::{Route, Table};
use super::rules::Rules;
use super::service::{Service, Shared};
use super::unauthorized::Hold;
use super::upstream::{Destination, Upstream};
use super::worker::Worker;
use crate::clock::Clock;
use crate::config::{self, Config, fixture};
use crate::token::error::TokenError;
use crate::token::{AccessToken, DurableState, Grant, Refresher, TokenEndpoint};

/// More than all buffers on the way together.
const LARGE: usize = 1024 * 1024;

/// Issues tokens, one after the other, and knows which one is live.
#[derive(Debug, Default)]
struct Issuer {
    asked: AtomicUsize,
    live: Mutex<String>,
    is_down: Mutex<bool>,
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
        _: Option<&AccessToken>,
    ) -> Result<Grant, TokenError> {
        let number = self.issuer.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(self.takes).await;
        if *self.issuer.is_down.lock().unwrap() {
            return Err(TokenError::Server { status: 500 });
        }
        let token = format!("token-{number}");
        token.clone_into(&mut self.issuer.live.lock().unwrap());
        let lifetime = Some(Duration::from_hours(1));
        Ok(Grant {
            access_token: token,
            lifetime,
            lifetime_was_cut: false,
            is_labelled_json: true,
            scopes: None,
            server_time: None,
            refresh_token: None,
            flaw: None,
        })
    }
}

impl CallerStream for DuplexStream {
    fn set_close_by_reset(&self) {}
}

/// An API at the other end of a pipe: 200 for the live token, else 401. `/large` is [`LARGE`] bytes, and no token
/// is good enough for `/rejected`.
struct Api(Arc<Issuer>);

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Connect for Api {
    fn connect(&self) -> Connecting {
        let (near, far) = tokio::io::duplex(4096);
        let issuer = Arc::clone(&self.0);
        let answer = service_fn(move |request: Request<Incoming>| {
            let live = format!("Bearer {}", issuer.live.lock().unwrap());
            let is_live = request.headers()[AUTHORIZATION] == live && request.uri().path() != "/rejected";
            let body = if request.uri().path() == "/large" { vec![b'x'; LARGE] } else { b"hello".to_vec() };
            async move {
                let mut response = Response::new(Full::new(Bytes::from(body)));
                if !is_live {
                    *response.status_mut() = StatusCode::UNAUTHORIZED;
                }
                Ok::<_, Infallible>(response)
            }
        });
        tokio::task::spawn_local(server::Builder::new().serve_connection(TokioIo::new(far), answer));
        Box::pin(async move { Ok(Connected { stream: Box::new(near), is_http2: false }) })
    }

    fn may_speak_http2(&self) -> bool {
        false
    }
}

struct World {
    issuer: Arc<Issuer>,
    shared: Arc<Shared>,
    worker: Worker,
}

fn config(lines: &str) -> Config {
    fixture::config(&format!("[server.limits]\n{lines}"), "", "x")
}

/// One worker, one route, one API, all in memory.
fn world(lines: &str, token_takes: Duration) -> World {
    let config = config(lines);
    let clock = Clock::tokio();
    let issuer = Arc::new(Issuer::default());
    let endpoint = Endpoint { issuer: Arc::clone(&issuer), takes: token_takes };
    let (refresher, source) =
        Refresher::new(Arc::clone(&config.credentials[0]), endpoint, DurableState::in_memory(clock), clock);
    tokio::task::spawn_local(refresher.run(std::future::pending()));
    let destination = Destination {
        origin: "https://api.example.com".to_owned(),
        host: HeaderValue::from_static("api.example.com"),
        path_in_front: String::new(),
        connect: Box::new(Api(Arc::clone(&issuer))),
        number: 0,
    };
    let upstream = Arc::new(Upstream::written(0, destination));
    let mut table = Table::default();
    let route = Route {
        name: "/".to_owned(),
        rules: Rules::default(),
        prefix: Prefix::default(),
        fields: config::Fields::default(),
        retry_on: vec![StatusCode::UNAUTHORIZED],
        upstream: Arc::clone(&upstream),
        path_in_front: String::new(),
        token: Some(source),
        hold: Hold::default(),
        timeout: Duration::from_mins(1),
        allows_websocket: false,
        login_stub: Vec::new(),
    };
    table.add(None, "/", route);
    let limits = config.server.limits.clone();
    let shared = Arc::new(Shared {
        policy: Policy::new(&config.server, "bearerd-test"),
        table,
        instance: "bearerd-test".to_owned(),
        allowance: Allowance {
            body_bytes: limits.body_bytes,
            replay_body: limits.replay_body,
            budget: Arc::new(Budget::new(limits.replay_total)),
            body_timeout: Some(limits.body_timeout),
        },
        token_wait: limits.token_wait,
        access_log: false,
        clock,
    });
    let service = Service::new(Arc::clone(&shared), vec![Pool::new(upstream)]);
    World { issuer, shared, worker: Worker::new(service, limits, Arc::default()) }
}

impl World {
    /// A caller's end of a new connection.
    fn connection(&self) -> DuplexStream {
        let (near, far) = tokio::io::duplex(4096);
        self.worker.serve(far, SocketAddr::from(([127, 0, 0, 1], 1)), true);
        near
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
fn what_the_workers_share_shows_no_token() {
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
fn with_the_token_endpoint_down_each_of_a_thousand_callers_is_told_at_its_deadline() {
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
fn a_request_waits_no_longer_for_two_tokens_than_for_one() {
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
    let world = Rc::new(world("header_timeout = \"10s\"\nidle_timeout = \"75s\"", Duration::ZERO));
    let sweeping = Rc::clone(&world);
    tokio::task::spawn_local(async move { sweeping.worker.keep_sweeping().await });
    world
}

#[test]
fn a_connection_is_ended_when_its_time_is_up_and_not_before() {
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

#[test]
fn an_answer_that_its_caller_reads_slowly_is_not_cut_by_the_idle_timeout() {
    in_paused_time(async || {
        let world = swept();
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
const GOAWAY: u8 = 7;

#[test]
fn an_http_2_connection_without_a_request_is_let_go_when_a_head_would_be_late() {
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
fn an_http_2_connection_that_only_pings_after_its_request_is_let_go_in_peace_when_it_has_been_idle() {
    in_paused_time(async || {
        let world = swept();
        let mut caller = world.connection();
        caller.write_all(PREFACE_AND_SETTINGS).await.unwrap();
        caller.write_all(GET).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        caller.write_all(PING).await.unwrap();

        // A PING is not the beginning of a head.
        let (seen, has_ended) = frames(&mut caller, Duration::from_mins(1)).await;
        assert!(!has_ended && seen.iter().all(|(kind, _)| *kind != GOAWAY), "{seen:?}");
        assert!(seen.contains(&(6, b"pingpong".to_vec())), "{seen:?}");

        let (seen, has_ended) = frames(&mut caller, Duration::from_secs(30)).await;
        assert!(has_ended && seen.iter().any(|(kind, _)| *kind == GOAWAY), "{seen:?}");
    });
}
