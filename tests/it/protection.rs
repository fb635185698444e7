//! Protection of upstreams: the circuit breaker and the limit of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

use crate::harness::{Caller, PROMPT, Reply, Setup, World, daemon, eventually};
use testkit::harness::raw::{RawPeer, read_head};

/// An API over plain TCP that answers with a given status and counts requests and connections.
#[derive(Clone, Debug)]
struct Script {
    status: Arc<AtomicU16>,
    /// The time until the answer, in milliseconds.
    delay: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
}

impl Script {
    async fn start(status: u16, delay: usize) -> (RawPeer, Self) {
        let script = Self {
            status: Arc::new(AtomicU16::new(status)),
            delay: Arc::new(AtomicUsize::new(delay)),
            requests: Arc::default(),
            connections: Arc::default(),
            open: Arc::default(),
            most_open: Arc::default(),
        };
        let acting = script.clone();
        let peer = RawPeer::tcp(move |mut stream| {
            let script = acting.clone();
            async move {
                script.connections.fetch_add(1, Ordering::SeqCst);
                // The API may learn of an earlier connection's end a moment later, on a busy machine.
                tokio::time::sleep(Duration::from_millis(30)).await;
                let open = script.open.fetch_add(1, Ordering::SeqCst) + 1;
                script.most_open.fetch_max(open, Ordering::SeqCst);
                while !read_head(&mut stream).await.is_empty() {
                    script.requests.fetch_add(1, Ordering::SeqCst);
                    let delay = Duration::from_millis(script.delay.load(Ordering::SeqCst) as u64);
                    let mut byte = [0; 1];
                    // The daemon closes the connection when its caller leaves.
                    if tokio::time::timeout(delay, stream.read(&mut byte)).await.is_ok() {
                        break;
                    }
                    let status = script.status.load(Ordering::SeqCst);
                    let answer = format!("HTTP/1.1 {status} As Told\r\ncontent-length: 2\r\n\r\nok");
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
                script.open.fetch_sub(1, Ordering::SeqCst);
            }
        })
        .await;
        (peer, script)
    }

    fn says(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    fn takes(&self, millis: usize) {
        self.delay.store(millis, Ordering::SeqCst);
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

fn url(peer: &RawPeer) -> String {
    format!("http://{}", peer.address)
}

fn setup(peer: &RawPeer) -> Setup {
    daemon().quiet().unprotected().without_token().upstream(url(peer))
}

/// Asks over a raw connection: these peers do not copy the request's id, which `Caller::send` checks.
async fn ask(world: &World, target: &str) -> Reply {
    ask_over(&mut world.caller().await, world, target).await
}

async fn ask_over(caller: &mut Caller, world: &World, target: &str) -> Reply {
    caller.write(format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    caller.read().await.unwrap()
}

async fn ask_often(world: &World, target: &str, count: usize) -> Vec<Reply> {
    join_all((0..count).map(|_| ask(world, target))).await
}

fn is_refused(reply: &Reply) -> bool {
    reply.code().as_deref() == Some("upstream_unavailable")
}

#[tokio::test]
async fn the_breaker_opens_on_failures_and_closes_on_recovery() {
    let (peer, script) = Script::start(503, 0).await;
    let (other, _) = Script::start(200, 0).await;
    let world = setup(&peer)
        .route("breaker = { failures = 5, open = \"2s\" }")
        .route(&format!(
            "[[routes]]\npath = \"/other\"\nupstream = \"{}\"\ncredential = \"none\"",
            url(&other)
        ))
        .start()
        .await;
    for _ in 0..5 {
        let reply = ask(&world, "/x").await;
        assert!(reply.status == 503 && !is_refused(&reply), "its own answers pass");
    }

    let (mut refused, mut fastest) = (None, Duration::MAX);
    for _ in 0..20 {
        let mut caller = world.caller().await;
        let started = Instant::now();
        refused = Some(ask_over(&mut caller, &world, "/x").await);
        fastest = fastest.min(started.elapsed());
    }
    // The fastest answer has the fewest delays of the machine.
    assert!(fastest < Duration::from_millis(5), "{fastest:?}");
    let refused = refused.unwrap();
    assert_eq!(refused.status, 503);
    assert!(is_refused(&refused));
    assert_eq!(refused.get("proxy-status"), Some("bearerd; error=destination_unavailable"));
    let retry_after: u64 = refused.get("retry-after").unwrap().parse().unwrap();
    assert!((1..=3).contains(&retry_after), "{retry_after}");
    assert!(ask_often(&world, "/x", 20).await.iter().all(is_refused), "both workers know");
    assert_eq!(script.requests(), 5);
    assert_eq!(ask(&world, "/other").await.status, 200, "another upstream has nothing to do with it");

    script.says(200);
    eventually("it is found again", async || ask(&world, "/x").await.status == 200).await;
    assert!(ask_often(&world, "/x", 20).await.iter().all(|reply| reply.status == 200));
    assert_eq!(world.process.events("breaker opened").len(), 1);
    assert_eq!(world.process.events("breaker closed").len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn routes_to_one_upstream_share_its_breaker_unless_they_have_their_own() {
    let (peer, script) = Script::start(503, 0).await;
    let route = |path: &str, line: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nupstream = \"{}\"\ncredential = \"none\"\n{line}\n",
            url(&peer)
        )
    };
    let same = route("/same", "breaker = { failures = 3 }\ntimeout = \"5s\"");
    let own = route("/own", "breaker = { failures = 4 }");
    let world = setup(&peer).route("breaker = { failures = 3 }").route(&(same + &own)).start().await;
    for target in ["/x", "/same", "/x"] {
        assert!(!is_refused(&ask(&world, target).await));
    }

    assert!(is_refused(&ask(&world, "/x").await) && is_refused(&ask(&world, "/same").await));
    assert!(!is_refused(&ask(&world, "/own").await));
    assert_eq!(script.requests(), 4);
    world.finish().await;
}

#[tokio::test]
async fn a_half_open_breaker_admits_one_probe_and_replaces_an_abandoned_one() {
    let (peer, script) = Script::start(503, 0).await;
    let world = setup(&peer).route("breaker = { failures = 5, open = \"200ms\" }").start().await;
    ask_often(&world, "/x", 5).await;
    assert!(is_refused(&ask(&world, "/x").await));
    script.says(200);
    script.takes(60_000);
    let before = script.requests();

    // Requests are refused until the breaker admits one, whose answer does not come.
    let mut probing = world.caller().await;
    eventually("the probe is there", async || {
        if script.requests() == before {
            probing = world.caller().await;
            probing.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        script.requests() == before + 1
    })
    .await;
    assert!(ask_often(&world, "/x", 20).await.iter().all(is_refused));
    assert_eq!(script.requests(), before + 1);

    script.takes(0);
    drop(probing);
    eventually("another takes its place", async || ask(&world, "/x").await.status == 200).await;
    world.finish().await;
}

#[tokio::test]
async fn an_answer_of_an_application_is_no_failure() {
    let world = daemon().quiet().route("breaker = { failures = 1, percent = 1 }").start().await;
    for (target, status) in [
        ("/forbidden", 401),
        ("/scope", 401),
        ("/status/400", 400),
        ("/status/404", 404),
        ("/status/429", 429),
        ("/status/500", 500),
        ("/status/501", 501),
        ("/status/505", 505),
    ] {
        for _ in 0..5 {
            assert_eq!(world.get(target).await.status, status, "{target}");
        }
    }
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_burst_of_failures_among_many_good_answers_opens_no_breaker() {
    let (peer, script) = Script::start(200, 0).await;
    let world = setup(&peer).start().await;
    let mut caller = world.caller().await;
    for _ in 0..300 {
        assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    }
    script.says(503);
    ask_often(&world, "/broken", 30).await;
    script.says(200);

    assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn timeouts_and_failed_connections_count_as_failures() {
    let (silent, _) = Script::start(200, 60_000).await;
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let refusing = format!("http://{}", reserved.local_addr().unwrap());
    drop(reserved);
    for (upstream, code) in [(url(&silent), "upstream_timeout"), (refusing, "upstream_unreachable")] {
        let world = daemon()
            .quiet()
            .unprotected()
            .without_token()
            .upstream(upstream)
            .route("timeout = \"50ms\"\nbreaker = { failures = 3 }")
            .start()
            .await;
        for _ in 0..3 {
            assert_eq!(world.get("/x").await.code().as_deref(), Some(code));
        }
        assert!(is_refused(&world.get("/x").await), "after {code}");
        world.finish().await;
    }
}

#[tokio::test]
async fn a_breaker_that_is_off_never_opens() {
    let (peer, script) = Script::start(503, 0).await;
    let world = setup(&peer).route("breaker = \"off\"").start().await;

    assert!(ask_often(&world, "/x", 50).await.iter().all(|reply| reply.status == 503 && !is_refused(reply)));
    assert_eq!(script.requests(), 50);
    world.finish().await;
}

#[tokio::test]
async fn connections_stay_within_the_limit_and_waiting_requests_are_answered() {
    for connections in [1, 3] {
        let (peer, script) = Script::start(200, 20).await;
        let world = setup(&peer)
            .server(&format!("workers = {}", connections.min(2)))
            .route(&format!("connections = {connections}\nconnect_timeout = \"20s\""))
            .start()
            .await;

        let all = join_all((0..12).map(async |_| {
            let mut caller = world.caller().await;
            for _ in 0..5 {
                assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
            }
        }));
        all.await;

        assert_eq!(script.most_open.load(Ordering::SeqCst), connections);
        let made = script.connections.load(Ordering::SeqCst);
        assert!(made <= 20, "{made} connections for 60 requests: they are handed on");
        world.finish().await;
    }
}

#[tokio::test]
async fn waiting_too_long_for_a_connection_is_overloaded_and_no_upstream_failure() {
    let (peer, script) = Script::start(200, 1500).await;
    let route = "connections = 1\nconnect_timeout = \"300ms\"\nbreaker = { failures = 1, percent = 1 }";
    let world = setup(&peer).server("workers = 1").route(route).start().await;
    let first = async { ask(&world, "/x").await };
    let second = async {
        eventually("the first is there", async || script.requests() == 1).await;
        let started = Instant::now();
        (ask(&world, "/x").await, started.elapsed())
    };
    let (first, (second, waited)) = tokio::join!(first, second);

    assert_eq!(first.status, 200);
    assert_eq!((second.status, second.code().as_deref()), (503, Some("overloaded")));
    assert_eq!(second.get("retry-after"), Some("1"));
    assert_eq!(second.get("proxy-status"), Some("bearerd; error=connection_limit_reached"));
    assert!((Duration::from_millis(290)..PROMPT).contains(&waited), "{waited:?}");
    assert_eq!(ask(&world, "/x").await.status, 200, "the breaker is closed");
    world.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_holds_no_upstream_connection() {
    let (peer, script) = Script::start(200, 60_000).await;
    let route = "connections = 1\nconnect_timeout = \"20s\"";
    let world = setup(&peer).server("workers = 1").route(route).start().await;
    let mut callers = Vec::new();
    for _ in 0..10 {
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        callers.push(caller);
    }
    eventually("one is served", async || script.requests() == 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    script.takes(0);
    drop(callers);

    assert_eq!(ask(&world, "/x").await.status, 200);
    assert_eq!(script.most_open.load(Ordering::SeqCst), 1);
    world.finish().await;
}

/// Two connections that stay open are on different workers.
#[tokio::test]
async fn each_worker_has_a_connection_although_fewer_are_configured() {
    let (peer, script) = Script::start(200, 0).await;
    let world = setup(&peer).server("workers = 2").route("connections = 1").start().await;
    let mut callers = [world.caller().await, world.caller().await];
    for _ in 0..10 {
        for caller in &mut callers {
            assert_eq!(ask_over(caller, &world, "/x").await.status, 200);
        }
    }

    assert_eq!(script.connections.load(Ordering::SeqCst), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_connection_at_its_age_limit_gets_no_further_request() {
    let (peer, script) = Script::start(200, 0).await;
    let world = setup(&peer).server("workers = 1").route("connection_age = \"400ms\"").start().await;
    let mut caller = world.caller().await;
    let connections = || script.connections.load(Ordering::SeqCst);
    assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    assert_eq!(connections(), 1);

    eventually("it is closed while idle", async || script.open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    assert_eq!(connections(), 2);

    // A connection in use at its age limit ends after the request.
    script.takes(600);
    assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    script.takes(0);
    assert_eq!(ask_over(&mut caller, &world, "/x").await.status, 200);
    assert_eq!(connections(), 3);
    world.finish().await;
}
