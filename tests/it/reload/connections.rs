//! Connections over a reload, of callers and to upstreams.

use std::time::Duration;

use crate::harness::{Caller, Http2Caller, Request, World, daemon, eventually};

fn descriptors(world: &World) -> usize {
    world.process.threads_and_descriptors().1
}

/// The configuration with another key of the upstream, whose address is the same.
fn with_another_upstream(world: &World) -> String {
    world.configuration().replace("[[routes]]", "[[routes]]\nconnect_timeout = \"4s\"")
}

#[tokio::test]
async fn an_unchanged_upstream_keeps_its_http_2_connection_and_requests() {
    let world = daemon().server("workers = 1").http2().start().await;
    let mut caller = world.caller().await;
    let slow = tokio::spawn(async move { caller.send(&Request::get("/slow/700")).await });
    eventually("it is under way", async || world.upstream.requests().len() == 1).await;

    world.configure(|text| text + "[routes.headers]\nset = { x-table = \"2\" }\n");
    assert_eq!(world.reload().await["routes"], "0 kept; changed: /");

    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(slow.await.unwrap().status, 200);
    let seen = world.upstream.requests();
    assert_eq!(seen.iter().map(|seen| seen.get("x-table")).collect::<Vec<_>>(), [None, Some("2")]);
    assert_eq!(world.upstream.connections(), 1);
    world.finish().await;
}

#[tokio::test]
async fn another_case_of_field_names_ends_http_1_1_connections_alone() {
    let dead = "[[routes]]\npath = \"/dead\"\nupstream = \"http://127.0.0.1:1\"\ncredential = \"none\"\n\
                breaker = { failures = 1, percent = 1 }";
    for (has_http2, connections) in [(true, 1), (false, 2)] {
        let setup = daemon().server("workers = 1").route(dead);
        let world = if has_http2 { setup.http2() } else { setup }.start().await;
        assert_eq!(world.get("/x").await.status, 200);
        assert_eq!(world.get("/dead").await.code().as_deref(), Some("upstream_unreachable"));
        assert_eq!(world.get("/dead").await.code().as_deref(), Some("upstream_unavailable"));

        world.configure(|text| text.replacen("[server]\n", "[server]\nheader_case = \"preserve\"\n", 1));
        assert_eq!(world.reload().await["routes"], "2 kept");

        assert_eq!(
            world.get("/dead").await.code().as_deref(),
            Some("upstream_unavailable"),
            "the breaker stays"
        );
        for _ in 0..2 {
            assert_eq!(world.get("/x").await.status, 200);
            assert_eq!(world.upstream.connections(), connections);
        }
        world.finish().await;
    }
}

/// Waits until so many connections to upstreams are open; `none` is the number of descriptors without any.
async fn are_open(world: &World, none: usize, connections: usize) {
    let what = format!("{connections} connections are open");
    eventually(&what, async || descriptors(world) == none + connections).await;
}

#[tokio::test]
async fn connections_of_a_replaced_upstream_end_with_their_last_requests() {
    for has_http2 in [false, true] {
        let setup = daemon().server("workers = 1");
        let world = if has_http2 { setup.http2() } else { setup }.start().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        let none = descriptors(&world);
        let slow = [2500, 3000].map(|millis| {
            let address = world.address;
            tokio::spawn(async move {
                Caller::connect(address).await.send(&Request::get(&format!("/slow/{millis}"))).await
            })
        });
        eventually("they are under way", async || world.upstream.requests().len() == 2).await;
        // Over HTTP/1.1 the request has a connection of its own, which is idle afterwards.
        assert_eq!(world.get("/x").await.status, 200);
        let before = world.upstream.connections();
        assert_eq!(before, if has_http2 { 1 } else { 3 });

        world.configure(|_| with_another_upstream(&world));
        world.reload().await;
        // Connections in use are left, and those of their callers.
        are_open(&world, none + 2, if has_http2 { 1 } else { 2 }).await;
        assert!(!slow.iter().any(tokio::task::JoinHandle::is_finished), "before their requests end");
        assert_eq!(world.get("/x").await.status, 200);
        assert_eq!(world.upstream.connections(), before + 1, "by a connection of its own");

        for slow in slow {
            assert_eq!(slow.await.unwrap().status, 200);
        }
        // The new upstream's connection is kept for longer than this test lasts.
        are_open(&world, none, 1).await;
        assert_eq!(world.get("/x").await.status, 200);
        assert_eq!(world.upstream.connections(), before + 1);
        world.finish().await;
    }
}

#[tokio::test]
async fn connections_of_a_removed_upstream_end_when_no_other_takes_its_place() {
    let world = daemon()
        .server("workers = 1")
        .route("[[routes]]\npath = \"/second\"\nupstream = \"{upstream}\"\ncredential = \"api\"\nca_file = \"ca.pem\"\n")
        .route("connect_timeout = \"4s\"\n")
        .start()
        .await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let none = descriptors(&world);
    assert_eq!(world.get("/first").await.status, 200);
    assert_eq!(world.get("/second").await.status, 200);
    are_open(&world, none, 2).await;

    // The first upstream is removed; the second keeps its connection.
    world.configure(|text| text.replacen("[[routes]]", "[[routes]]\nconnect_timeout = \"4s\"", 1));
    world.reload().await;

    are_open(&world, none, 1).await;
    let connections = world.upstream.connections();
    assert_eq!(world.get("/first").await.status, 200);
    assert_eq!(world.get("/second").await.status, 200);
    assert_eq!(world.upstream.connections(), connections);
    world.finish().await;
}

#[tokio::test]
async fn a_streaming_answer_survives_the_removal_of_its_route_and_credential() {
    for has_http2 in [false, true] {
        let setup = daemon();
        let world = if has_http2 { setup.http2() } else { setup }.start().await;
        let (mut one, mut other) = (world.caller().await, Http2Caller::connect(world.address).await);
        let over_http1 = tokio::spawn(async move { one.send(&Request::get("/trickle/60")).await });
        let over_http2 = tokio::spawn(async move { other.send(&Request::get("/trickle/60")).await });
        eventually("they are under way", async || world.upstream.requests().len() == 2).await;

        world.configure(|text| {
            let start = text.find("[credentials.api]").unwrap();
            format!(
                "{}[[routes]]\nupstream = \"https://localhost:1\"\ncredential = \"none\"\n",
                &text[..start]
            )
        });
        assert_eq!(world.reload().await["credentials"], "0 kept; removed: api");
        assert!(!over_http1.is_finished() && !over_http2.is_finished(), "they take longer than that");

        let (one, other) = (over_http1.await.unwrap(), over_http2.await.unwrap());
        assert_eq!((one.status, other.status), (200, 200));
        assert_eq!(one.body, other.body);
        assert_eq!(world.get("/x").await.code().as_deref(), Some("upstream_unreachable"));
        world.finish().await;
    }
}

#[tokio::test]
async fn changed_allow_from_applies_to_open_connections() {
    let world = daemon().start().await;
    let (mut one, mut other) = (world.caller().await, Http2Caller::connect(world.address).await);
    let request = Request::get("/x");
    assert_eq!((one.send(&request).await.status, other.send(&request).await.status), (200, 200));

    world.configure(|text| text.replacen("[server]", "[server]\nallow_from = [\"192.0.2.0/24\"]", 1));
    assert_eq!(world.reload().await["settings"], "server.allow_from");

    let seen = world.upstream.requests().len();
    for reply in [one.send(&request).await, other.send(&request).await, world.get("/x").await] {
        assert_eq!((reply.status, reply.code().as_deref()), (403, Some("caller_not_allowed")));
    }
    assert_eq!(world.upstream.requests().len(), seen);

    world.configure(|text| text.replace("192.0.2.0/24", "127.0.0.0/8"));
    world.reload().await;
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(other.send(&request).await.status, 200, "on a connection that was refused before, too");
    world.finish().await;
}

#[tokio::test]
async fn changed_limits_apply_to_open_connections() {
    let world = daemon().start().await;
    let (mut caller, mut idle) = (world.caller().await, world.caller().await);
    assert_eq!(idle.send(&Request::get("/x")).await.status, 200);
    assert_eq!(caller.send(&Request::post("/echo", &[b'x'; 2000])).await.status, 200);

    world.configure(|text| text.replace("[server.limits]", "[server.limits]\nbody_bytes = \"1KiB\""));
    assert_eq!(world.reload().await["settings"], "server.limits");
    let reply = caller.send(&Request::post("/echo", &[b'x'; 2000])).await;
    assert_eq!((reply.status, reply.code().as_deref()), (413, Some("body_too_large")));

    world.configure(|text| text.replace("body_bytes = \"1KiB\"", "idle_timeout = \"200ms\""));
    world.reload().await;
    let began = tokio::time::Instant::now();
    assert!(idle.is_closed().await);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    world.finish().await;
}
