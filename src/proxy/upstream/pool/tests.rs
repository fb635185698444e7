//! HTTP/2 connections over in-memory streams, in paused time.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::{Builder, LocalOptions};

use super::outcome::SendError;
use super::*;
use crate::clock::Clock;
use crate::config;
use crate::proxy::limits::slots::Slots;
use crate::proxy::upstream::breaker::Breaker;
use crate::proxy::upstream::connections::ConnectionLimits;
use crate::proxy::upstream::fixture;

/// An upstream over in-memory streams; a connection attempt takes a second.
#[derive(Clone)]
struct Api {
    is_http2: bool,
    connections: Arc<AtomicUsize>,
    attempts: Arc<AtomicUsize>,
    /// The upstream closes each connection at once, over HTTP/2 after its SETTINGS and with GOAWAY.
    closes: bool,
    /// The first attempt to connect panics.
    panics: bool,
    /// Attempts from this one on time out after five seconds.
    refused_from: Arc<AtomicUsize>,
    /// The upstream reads and writes nothing on connections before this one.
    stuck_before: Arc<AtomicUsize>,
    /// Streams of a connection.
    streams: u32,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            is_http2: true,
            connections: Arc::default(),
            attempts: Arc::default(),
            closes: false,
            panics: false,
            refused_from: Arc::new(AtomicUsize::new(usize::MAX)),
            stuck_before: Arc::default(),
            streams: 100,
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Api {
    async fn connect(self) -> Result<Connected, ForwardError> {
        let attempt = self.attempts.fetch_add(1, Ordering::Relaxed);
        assert!(!(self.panics && attempt == 0), "told to panic");
        if attempt >= self.refused_from.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_secs(5)).await;
            return Err(ForwardError::ConnectTimeout);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let number = self.connections.fetch_add(1, Ordering::Relaxed);
        let (near, far) = tokio::io::duplex(4096);
        let service = service_fn(|_: Request<Incoming>| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        });
        if self.closes {
            tokio::task::spawn_local(async move {
                if self.is_http2 {
                    let mut connection = h2::server::handshake(far).await.unwrap();
                    connection.abrupt_shutdown(h2::Reason::NO_ERROR);
                    let _ = connection.accept().await;
                }
            });
        } else if self.is_http2 {
            let mut served = Box::pin(
                hyper::server::conn::http2::Builder::new(Local)
                    .max_concurrent_streams(self.streams)
                    .serve_connection(TokioIo::new(far), service),
            );
            let mut ticks = tokio::time::interval(Duration::from_millis(100));
            tokio::task::spawn_local(std::future::poll_fn(move |cx| {
                while ticks.poll_tick(cx).is_ready() {}
                let is_stuck = number < self.stuck_before.load(Ordering::Relaxed);
                if is_stuck { Poll::Pending } else { served.as_mut().poll(cx) }
            }));
        } else {
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::task::spawn_local(builder.serve_connection(TokioIo::new(far), service));
        }
        Ok(Connected { stream: Box::new(near), is_http2: self.is_http2 })
    }
}

struct World {
    api: Api,
    upstream: Arc<Upstream>,
    pool: Rc<Pool<Full<Bytes>>>,
}

fn world(api: Api) -> World {
    world_of(api, 100)
}

/// With a limit of `connections` for both workers.
fn world_of(api: Api, connections: usize) -> World {
    world_with(api, connections, 1000)
}

/// With so many file descriptors.
fn world_with(api: Api, connections: usize, descriptors: usize) -> World {
    let connecting = api.clone();
    let destination = fixture::destination(api.is_http2, move || Box::pin(connecting.clone().connect()));
    let max_age = Duration::from_mins(10);
    let limits = ConnectionLimits { connections, workers: 2, max_age, ..ConnectionLimits::default() };
    let upstream = Upstream::written(0, destination, Slots::new(descriptors));
    let minute = Duration::from_mins(1);
    let settings =
        config::Breaker { failures: 3, percent: 1, window: minute, open: minute, open_max: minute };
    let breaker = Breaker::new(Some(settings), Clock::tokio());
    let upstream = Arc::new(upstream.with_limits(breaker, limits));
    World { api, pool: Pool::new(Arc::clone(&upstream)), upstream }
}

impl World {
    /// Another worker with the same upstream.
    fn other_worker(&self) -> Self {
        let (api, upstream) = (self.api.clone(), Arc::clone(&self.upstream));
        Self { api, pool: Pool::new(Arc::clone(&upstream)), upstream }
    }

    async fn lease(&self) -> Result<Lease<Full<Bytes>>, ForwardError> {
        self.pool.lease(&self.upstream.current().unwrap(), Instant::now()).await
    }

    /// Sends a request; returns whether its connection was reused, or the error.
    async fn get(&self) -> Result<bool, String> {
        let mut lease = self.lease().await.map_err(|error| error.to_string())?;
        let response = lease.send(Request::new(Full::default()).into(), &mut |_| {}).await.map_err(
            |error| match error {
                SendError::Unsent(_, error) | SendError::Refused(_, error) | SendError::Sent(error) => {
                    error.to_string()
                }
            },
        )?;
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        assert_eq!(body.to_bytes(), "hello");
        let is_reused = lease.is_reused;
        lease.give_back();
        Ok(is_reused)
    }

    fn connections(&self) -> usize {
        self.api.connections.load(Ordering::Relaxed)
    }
}

fn run(test: impl AsyncFnOnce()) {
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build_local(LocalOptions::default())
        .unwrap();
    runtime.block_on(test());
}

#[test]
fn the_first_requests_share_one_connection_attempt() {
    run(async || {
        let world = world(Api::default());

        let outcomes = join_all((0..100).map(|_| world.get())).await;

        let news = outcomes.iter().filter(|outcome| **outcome == Ok(false)).count();
        assert!(news == 1 && outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(world.connections(), 1);
        assert_eq!(world.get().await, Ok(true));
    });
}

#[test]
fn a_connection_that_is_being_made_outlives_its_first_request() {
    run(async || {
        let world = world(Api::default());
        let dropped = timeout(Duration::from_millis(500), world.get());
        let waiting = async {
            tokio::task::yield_now().await;
            world.get().await
        };
        let began = Instant::now();

        let (outcome, reused) = tokio::join!(dropped, waiting);

        assert!(outcome.is_err());
        assert_eq!((reused, world.connections()), (Ok(false), 1));
        assert!(began.elapsed() < Duration::from_millis(1200), "{:?}", began.elapsed());
    });
}

#[test]
fn an_attempt_to_connect_that_panics_is_made_again() {
    run(async || {
        let world = world(Api { panics: true, ..Api::default() });

        assert!(join_all((0..5).map(|_| world.get())).await.iter().all(Result::is_ok));
        assert_eq!(world.connections(), 1);
    });
}

#[test]
fn a_failed_attempt_to_connect_fails_all_waiting_requests_at_once_and_counts_once() {
    run(async || {
        let world = world(Api::default());
        world.api.refused_from.store(0, Ordering::Relaxed);
        let began = Instant::now();

        let outcomes = join_all((0..20).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert!(world.upstream.breaker.is_closed());
        for _ in 0..2 {
            assert!(world.get().await.is_err());
        }
        assert!(!world.upstream.breaker.is_closed());
    });
}

#[test]
fn a_failed_attempt_beside_a_full_connection_fails_no_request() {
    run(async || {
        let world = world(Api { streams: 2, ..Api::default() });
        world.api.refused_from.store(1, Ordering::Relaxed);

        let outcomes = join_all((0..90).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(world.connections(), 1);
        assert!(world.upstream.breaker.is_closed());
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!((2..=3).contains(&world.api.attempts.load(Ordering::Relaxed)));
    });
}

#[test]
fn what_comes_free_first_serves_the_first_request_over_http_1() {
    run(async || {
        let world = world_of(Api { is_http2: false, ..Api::default() }, 1000);
        // Of 250 attempts to connect, ten succeed.
        world.api.refused_from.store(10, Ordering::Relaxed);
        let order = RefCell::new(Vec::new());
        let began = Instant::now();

        let outcomes = join_all((0..250).map(async |number| {
            let outcome = world.get().await;
            order.borrow_mut().push(number);
            outcome
        }))
        .await;

        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert!(began.elapsed() < Duration::from_millis(3600), "{:?}", began.elapsed());
        assert!(order.into_inner().is_sorted());
    });
}

#[test]
fn a_crowd_gets_no_more_connections_than_callers_over_http_1() {
    run(async || {
        for callers in [2, 5, 40] {
            let world = world(Api { is_http2: false, ..Api::default() });
            let one_less = (1..callers).map(|_| world.get());
            assert!(join_all(one_less).await.iter().all(Result::is_ok));

            let all = (0..callers).map(|_| async {
                for _ in 0..50 {
                    world.get().await.unwrap();
                }
            });
            join_all(all).await;

            let made = world.api.attempts.load(Ordering::Relaxed);
            assert!(made <= callers, "{made} attempts to connect for {callers} callers");
        }
    });
}

#[test]
fn without_a_descriptor_requests_wait_for_the_connections_there_are() {
    for is_http2 in [false, true] {
        run(async move || {
            let world = world_with(Api { is_http2, streams: 2, ..Api::default() }, 100, 3);
            let outcomes = join_all((0..30).map(|_| world.get())).await;
            assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");

            let world = world_with(Api { is_http2, ..Api::default() }, 100, 0);
            let outcome = world.get().await;
            assert_eq!(outcome, Err(ForwardError::NoDescriptor.to_string()));
        });
    }
}

#[test]
fn a_failed_attempt_fails_one_request_over_http_1() {
    run(async || {
        let world = world_of(Api { is_http2: false, ..Api::default() }, 1000);
        world.api.refused_from.store(0, Ordering::Relaxed);
        let began = Instant::now();

        let outcomes = join_all((0..3).map(|_| world.get())).await;

        assert!(outcomes.iter().all(|outcome| *outcome == Err("no connection in time".to_owned())));
        assert_eq!(began.elapsed().as_secs(), 5);
        assert!(!world.upstream.breaker.is_closed(), "each attempt counts");
    });
}

#[test]
fn a_request_after_a_silence_moves_from_a_dead_connection_to_a_new_one() {
    run(async || {
        let world = world(Api::default());
        world.get().await.unwrap();
        world.api.stuck_before.store(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(6)).await;
        let began = Instant::now();

        let outcomes = join_all((0..20).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert!((3..4).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    });
}

#[test]
fn after_a_timeout_requests_leave_a_dead_connection_and_keep_a_slow_one() {
    run(async || {
        let world = world(Api::default());
        world.get().await.unwrap();
        let time_out = async || {
            let mut lease = world.lease().await.unwrap();
            let mut ignore = |_| {};
            let answer = lease.send(Request::new(Full::default()).into(), &mut ignore);
            assert!(timeout(Duration::from_secs(2), answer).await.is_err());
            lease.timed_out();
        };
        // Only the ping is answered.
        world.api.stuck_before.store(1, Ordering::Relaxed);
        let unstuck = async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            world.api.stuck_before.store(0, Ordering::Relaxed);
        };
        tokio::join!(time_out(), unstuck);
        assert_eq!(world.get().await, Ok(true));

        world.api.stuck_before.store(1, Ordering::Relaxed);
        time_out().await;
        let began = Instant::now();
        assert_eq!(world.get().await, Ok(false));
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
        assert_eq!(world.connections(), 2);
    });
}

#[test]
fn connections_without_settings_delay_requests_for_a_bounded_time() {
    run(async || {
        let world = world(Api::default());
        world.api.stuck_before.store(usize::MAX, Ordering::Relaxed);
        let began = Instant::now();

        let outcomes = join_all((0..20).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert_eq!(began.elapsed().as_secs(), 6);
    });
}

#[test]
fn an_upstream_that_closes_each_new_connection_is_not_connected_to_without_end() {
    run(async || {
        for is_http2 in [true, false] {
            let world = world(Api { is_http2, closes: true, ..Api::default() });

            assert!(world.get().await.is_err());

            assert_eq!(world.connections(), 1, "over HTTP/2: {is_http2}");
        }
    });
}

/// h2 ends a connection on which too many small frames are unread.
#[test]
fn an_unread_stream_of_the_smallest_frames_ends_no_other_stream() {
    run(async || {
        const WINDOW: usize = 128 * 1024;
        let destination = fixture::destination(true, || {
            Box::pin(async {
                let (near, far) = tokio::io::duplex(4096);
                tokio::task::spawn_local(async move {
                    let mut connection = h2::server::handshake(far).await.unwrap();
                    let mut unfinished = Vec::new();
                    while let Some(Ok((_, mut answer))) = connection.accept().await {
                        let mut to = answer.send_response(Response::new(()), false).unwrap();
                        to.reserve_capacity(WINDOW);
                        (0..WINDOW).for_each(|_| to.send_data(Bytes::from_static(b"x"), false).unwrap());
                        unfinished.push(to);
                    }
                });
                Ok(Connected { stream: Box::new(near), is_http2: true })
            })
        });
        let upstream = Arc::new(Upstream::written(0, destination, Slots::new(10)));
        let pool: Rc<Pool<Full<Bytes>>> = Pool::new(Arc::clone(&upstream));
        let mut open = Vec::new();
        for _ in 0..2 {
            let mut lease = pool.lease(&upstream.current().unwrap(), Instant::now()).await.unwrap();
            let response = lease.send(Request::new(Full::default()).into(), &mut |_| {}).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
            open.push((lease, response.into_body()));
        }

        for (_lease, body) in &mut open {
            let mut received = 0;
            while received < WINDOW {
                received += body.frame().await.unwrap().unwrap().into_data().unwrap().len();
            }
        }
        assert!(open[1].0.is_reused);
    });
}

#[test]
fn an_idle_connection_is_closed_and_a_busy_one_at_its_maximum_age() {
    run(async || {
        let world = world(Api::default());
        world.get().await.unwrap();
        let began = Instant::now();
        while world.connections() == 1 {
            tokio::time::sleep(Duration::from_secs(10)).await;
            world.pool.reap(Instant::now());
            world.get().await.unwrap();
        }
        let age = began.elapsed().as_secs();
        assert!((530..=610).contains(&age), "{age}");

        tokio::time::sleep(Duration::from_secs(31)).await;
        world.pool.reap(Instant::now());
        assert_eq!(world.get().await, Ok(false));
        assert_eq!(world.connections(), 3);
    });
}

#[test]
fn a_stream_on_an_expired_connection_is_not_interrupted() {
    run(async || {
        let world = world(Api::default());
        let mut lease = world.lease().await.unwrap();
        tokio::time::sleep(Duration::from_mins(11)).await;
        world.pool.reap(Instant::now());

        assert!(lease.send(Request::new(Full::default()).into(), &mut |_| {}).await.is_ok());
    });
}

#[test]
fn requests_share_the_connections_at_the_connection_limit() {
    run(async || {
        let world = world_of(Api::default(), 1);

        let outcomes = join_all((0..500).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(world.connections(), 1);
    });
}

#[test]
fn a_long_stream_locks_out_no_request_of_any_worker() {
    run(async || {
        let world = world_of(Api::default(), 1);
        let other = world.other_worker();
        let _long = world.lease().await.unwrap();
        let busy = async |worker: &World| {
            for _ in 0..50 {
                worker.get().await?;
            }
            Ok::<_, String>(())
        };

        let outcome = tokio::join!(busy(&world), busy(&other));

        assert_eq!(outcome, (Ok(()), Ok(())));
        assert_eq!(world.connections(), 2);
    });
}

#[test]
fn a_long_stream_on_an_expired_connection_holds_no_place() {
    run(async || {
        let world = world_of(Api::default(), 1);
        let _long = world.lease().await.unwrap();
        tokio::time::sleep(Duration::from_mins(11)).await;

        assert_eq!(world.get().await, Ok(false));
    });
}

#[test]
fn a_request_waits_for_a_connection_no_longer_than_the_connect_timeout() {
    run(async || {
        let world = world_of(Api { is_http2: false, ..Api::default() }, 1);
        let lease = world.lease().await.unwrap();
        let began = Instant::now();

        assert_eq!(world.get().await, Err("no connection was free in time".to_owned()));

        assert_eq!(began.elapsed().as_secs(), 5);
        drop(lease);
        assert_eq!(world.get().await, Ok(false));
    });
}

#[test]
fn a_new_connection_is_leased_in_the_place_of_an_idle_one() {
    run(async || {
        let world = world_of(Api { is_http2: false, ..Api::default() }, 1);
        world.get().await.unwrap();

        let lease = world.pool.lease_new(&world.upstream.current().unwrap()).await.unwrap();

        assert!(!lease.is_reused);
        assert_eq!(world.connections(), 2);
    });
}
