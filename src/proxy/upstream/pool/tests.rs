//! HTTP/2 connections over in-memory streams, in paused time.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
use crate::proxy::limits::slots::Slots;
use crate::proxy::upstream::breaker::Breaker;
use crate::proxy::upstream::fixture;
use crate::proxy::upstream::permits::Permits;

/// An HTTP/2 upstream over in-memory streams; a connection attempt takes a second.
#[derive(Clone, Default)]
struct Api {
    connections: Arc<AtomicUsize>,
    /// Whether the upstream reads and writes nothing on its connections.
    is_stuck: Arc<AtomicBool>,
    refuses: bool,
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
        tokio::time::sleep(Duration::from_secs(1)).await;
        if self.refuses {
            return Err(ForwardError::ConnectTimeout);
        }
        self.connections.fetch_add(1, Ordering::Relaxed);
        let (near, far) = tokio::io::duplex(4096);
        let service = service_fn(|_: Request<Incoming>| async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
        });
        let mut served = Box::pin(
            hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(far), service),
        );
        tokio::task::spawn_local(std::future::poll_fn(move |cx| {
            if self.is_stuck.load(Ordering::Relaxed) { Poll::Pending } else { served.as_mut().poll(cx) }
        }));
        Ok(Connected { stream: Box::new(near), is_http2: true })
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

/// With a limit of `connections` for all workers.
fn world_of(api: Api, connections: usize) -> World {
    let connecting = api.clone();
    let destination = fixture::destination(true, move || Box::pin(connecting.clone().connect()));
    let permits = Permits::new(connections, Duration::from_mins(10), Duration::from_secs(5));
    let upstream = Upstream::written(0, destination, Slots::new(100));
    let upstream = Arc::new(upstream.with_limits(Breaker::new(None, Clock::tokio()), permits));
    World { api, pool: Pool::new(Arc::clone(&upstream)), upstream }
}

impl World {
    /// Another worker with the same upstream.
    fn other_worker(&self) -> Self {
        let (api, upstream) = (self.api.clone(), Arc::clone(&self.upstream));
        Self { api, pool: Pool::new(Arc::clone(&upstream)), upstream }
    }

    async fn lease(&self) -> Result<Lease<Full<Bytes>>, ForwardError> {
        self.pool.lease(&self.upstream.current().unwrap()).await
    }

    /// Sends a request; returns whether its connection was reused, or the error.
    async fn get(&self) -> Result<bool, String> {
        let mut lease = self.lease().await.map_err(|error| error.to_string())?;
        let response =
            lease.send(Request::new(Full::default()).into()).await.map_err(|error| match error {
                SendError::Unsent(_, error) | SendError::Refused(_, error) | SendError::Sent(error) => {
                    error.to_string()
                }
            })?;
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

        // Not reused for requests that waited either: a token may have expired meanwhile.
        assert!(outcomes.iter().all(|outcome| *outcome == Ok(false)), "{outcomes:?}");
        assert_eq!(world.connections(), 1);
        assert_eq!(world.get().await, Ok(true));
    });
}

#[test]
fn when_the_connecting_request_is_dropped_a_waiting_request_connects() {
    run(async || {
        let world = world(Api::default());
        let dropped = timeout(Duration::from_millis(500), world.get());
        let waiting = async {
            tokio::task::yield_now().await;
            let began = Instant::now();
            (world.get().await, began.elapsed())
        };

        let (outcome, (reused, took)) = tokio::join!(dropped, waiting);

        assert!(outcome.is_err());
        assert_eq!(reused, Ok(false));
        assert!(took < Duration::from_millis(1700), "{took:?}");
    });
}

#[test]
fn a_failed_attempt_to_connect_fails_all_waiting_requests_at_once() {
    run(async || {
        let world = world(Api { refuses: true, ..Api::default() });
        let began = Instant::now();

        let outcomes = join_all((0..20).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(began.elapsed().as_secs(), 1);
    });
}

#[test]
fn a_connection_without_answers_to_pings_is_closed_with_its_streams() {
    run(async || {
        let world = world(Api::default());
        world.get().await.unwrap();
        world.api.is_stuck.store(true, Ordering::Relaxed);
        let began = Instant::now();

        assert_eq!(world.get().await, Err("the stream broke off: connection closed".to_owned()));

        assert!((5..=41).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
        world.api.is_stuck.store(false, Ordering::Relaxed);
        assert_eq!(world.get().await, Ok(false));
    });
}

#[test]
fn connections_without_settings_delay_requests_for_a_bounded_time() {
    run(async || {
        let world = world(Api::default());
        world.api.is_stuck.store(true, Ordering::Relaxed);
        let began = Instant::now();

        let outcomes = join_all((0..20).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_err), "{outcomes:?}");
        assert!(began.elapsed().as_secs() < 25, "{:?}", began.elapsed());
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

        assert!(lease.send(Request::new(Full::default()).into()).await.is_ok());
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
fn an_idle_connection_is_closed_for_a_waiting_request_of_another_worker() {
    run(async || {
        let (world, began) = (world_of(Api::default(), 1), Instant::now());
        let other = world.other_worker();
        world.get().await.unwrap();
        tokio::task::spawn_local(Rc::clone(&world.pool).yield_idle());

        assert_eq!(other.get().await, Ok(false));

        assert_eq!(world.connections(), 2);
        assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    });
}

#[test]
fn two_busy_workers_alternate_at_a_limit_of_one_connection() {
    run(async || {
        let world = world_of(Api::default(), 1);
        let other = world.other_worker();
        tokio::task::spawn_local(Rc::clone(&world.pool).yield_idle());
        tokio::task::spawn_local(Rc::clone(&other.pool).yield_idle());
        let busy = async |worker: &World| {
            for _ in 0..20 {
                worker.get().await?;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Ok::<_, String>(())
        };

        let outcome = tokio::join!(busy(&world), busy(&other));

        assert_eq!(outcome, (Ok(()), Ok(())));
    });
}

#[test]
fn a_request_waits_for_a_permit_no_longer_than_the_connect_timeout() {
    run(async || {
        let world = world_of(Api::default(), 1);
        let other = world.other_worker();
        let _lease = world.lease().await.unwrap();
        let began = Instant::now();

        assert_eq!(other.get().await, Err("no connection was free in time".to_owned()));

        assert_eq!(began.elapsed().as_secs(), 5);
    });
}
