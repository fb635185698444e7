//! Shared connections over in-memory streams, in paused time.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::runtime::{Builder, LocalOptions};

use super::*;
use crate::clock::Clock;
use crate::proxy::limits::slots::Slots;
use crate::proxy::upstream::breaker::Breaker;
use crate::proxy::upstream::connect::{Connect, Connecting};
use crate::proxy::upstream::permits::Permits;

/// An API at the other end of pipes that each take a second to make.
#[derive(Clone, Default)]
struct Api {
    connections: Arc<AtomicUsize>,
    /// What is there of connections is not served any more.
    is_stuck: Arc<AtomicBool>,
    refuses: bool,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Local;

impl<F: Future + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

impl Connect for Api {
    fn connect(&self) -> Connecting {
        let api = self.clone();
        Box::pin(async move {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if api.refuses {
                return Err(ForwardError::ConnectTimeout);
            }
            api.connections.fetch_add(1, Ordering::Relaxed);
            let (near, far) = tokio::io::duplex(4096);
            let answer = service_fn(|_: Request<Incoming>| async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"hello"))))
            });
            let mut served = Box::pin(
                hyper::server::conn::http2::Builder::new(Local).serve_connection(TokioIo::new(far), answer),
            );
            tokio::task::spawn_local(std::future::poll_fn(move |cx| {
                if api.is_stuck.load(Ordering::Relaxed) { Poll::Pending } else { served.as_mut().poll(cx) }
            }));
            Ok(Connected { stream: Box::new(near), is_http2: true })
        })
    }

    fn may_speak_http2(&self) -> bool {
        true
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

/// With so many connections at the most, of all workers.
fn world_of(api: Api, connections: usize) -> World {
    let destination = Destination {
        origin: "https://api.example.com".to_owned(),
        host: HeaderValue::from_static("api.example.com"),
        path_in_front: String::new(),
        connect: Box::new(api.clone()),
        number: 0,
    };
    let permits = Permits::new(connections, Duration::from_mins(10), Duration::from_secs(5));
    let upstream = Upstream::written(0, destination, Slots::new(100));
    let upstream = Arc::new(upstream.protected(Breaker::new(None, Clock::tokio()), permits));
    World { api, pool: Pool::new(Arc::clone(&upstream)), upstream }
}

impl World {
    /// Another worker, with the same upstream.
    fn beside(&self) -> Self {
        let (api, upstream) = (self.api.clone(), Arc::clone(&self.upstream));
        Self { api, pool: Pool::new(Arc::clone(&upstream)), upstream }
    }

    async fn lease(&self) -> Result<Lease<Full<Bytes>>, ForwardError> {
        self.pool.lease(&self.upstream.current().unwrap()).await
    }

    /// Sends a request; whether its connection was there before, or why there is no answer.
    async fn get(&self) -> Result<bool, String> {
        let mut lease = self.lease().await.map_err(|error| error.to_string())?;
        let response = lease
            .send(Request::new(Full::default()).into())
            .await
            .map_err(|error| error.error.to_string())?;
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
fn a_cold_start_is_one_connection_for_all() {
    run(async || {
        let world = world(Api::default());

        let outcomes = join_all((0..100).map(|_| world.get())).await;

        // Whoever made it and whoever waited for it: a token may have ended meanwhile.
        assert!(outcomes.iter().all(|outcome| *outcome == Ok(false)), "{outcomes:?}");
        assert_eq!(world.connections(), 1);
        assert_eq!(world.get().await, Ok(true));
    });
}

#[test]
fn who_makes_a_connection_may_leave_and_another_goes_on() {
    run(async || {
        let world = world(Api::default());
        let leaving = timeout(Duration::from_millis(500), world.get());
        let staying = async {
            tokio::task::yield_now().await;
            let began = Instant::now();
            (world.get().await, began.elapsed())
        };

        let (left, (stayed, took)) = tokio::join!(leaving, staying);

        assert!(left.is_err());
        assert_eq!(stayed, Ok(false));
        assert!(took < Duration::from_millis(1700), "{took:?}");
    });
}

#[test]
fn a_connection_that_cannot_be_made_is_told_to_all_who_wait_at_once() {
    run(async || {
        let world = world(Api { refuses: true, ..Api::default() });
        let began = Instant::now();

        let outcomes = join_all((0..20).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_err));
        assert_eq!(began.elapsed().as_secs(), 1);
    });
}

#[test]
fn a_connection_that_answers_no_ping_is_given_up_with_its_streams() {
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
fn connections_that_never_say_what_they_allow_keep_nobody_for_long() {
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
fn an_idle_connection_ends_and_a_busy_one_when_it_is_old() {
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
fn a_stream_on_an_old_connection_goes_on() {
    run(async || {
        let world = world(Api::default());
        let mut lease = world.lease().await.unwrap();
        tokio::time::sleep(Duration::from_mins(11)).await;
        world.pool.reap(Instant::now());

        assert!(lease.send(Request::new(Full::default()).into()).await.is_ok());
    });
}

#[test]
fn streams_share_what_there_is_where_there_may_be_no_more() {
    run(async || {
        let world = world_of(Api::default(), 1);

        let outcomes = join_all((0..500).map(|_| world.get())).await;

        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(world.connections(), 1);
    });
}

#[test]
fn an_idle_connection_gives_way_to_another_workers() {
    run(async || {
        let (world, began) = (world_of(Api::default(), 1), Instant::now());
        let other = world.beside();
        world.get().await.unwrap();
        tokio::task::spawn_local(Rc::clone(&world.pool).give_way());

        assert_eq!(other.get().await, Ok(false));

        assert_eq!(world.connections(), 2);
        assert!(began.elapsed().as_secs() < 4, "{:?}", began.elapsed());
    });
}

#[test]
fn two_busy_workers_take_turns_with_one_connection() {
    run(async || {
        let world = world_of(Api::default(), 1);
        let other = world.beside();
        tokio::task::spawn_local(Rc::clone(&world.pool).give_way());
        tokio::task::spawn_local(Rc::clone(&other.pool).give_way());
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
fn nobody_waits_for_a_place_longer_than_for_a_connection() {
    run(async || {
        let world = world_of(Api::default(), 1);
        let other = world.beside();
        let _held = world.lease().await.unwrap();
        let began = Instant::now();

        assert_eq!(other.get().await, Err("no connection was free in time".to_owned()));

        assert_eq!(began.elapsed().as_secs(), 5);
    });
}
