//! Start and stop of the daemon, and `bearerd health`.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

use crate::harness::{Caller, Http2Caller, PROMPT, Request, World, daemon, eventually, spawn};
use testkit::harness::raw::{RawPeer, read_head};

#[tokio::test]
async fn a_port_in_use_is_reported_and_ends_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (server, admin) in
        [(address.to_string(), "127.0.0.1:0".to_owned()), ("127.0.0.1:0".to_owned(), address.to_string())]
    {
        let config = format!(
            "[server]\nlisten = \"{server}\"\n[admin]\nlisten = \"{admin}\"\n\
             [[routes]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"none\"\n"
        );
        std::fs::write(folder.path().join("proxy.toml"), config).unwrap();

        let mut process = spawn(&["run"], &[], folder.path());

        assert_eq!(process.ended().await.code(), Some(1));
        let output = process.output();
        assert!(output.contains(&format!("cannot listen on {address}")), "{output}");
        assert!(output.contains("in use") && output.contains("or set the key in parentheses"), "{output}");
        // `check` binds no port, and can run beside a daemon.
        let mut check = spawn(&["check"], &[], folder.path());
        assert_eq!(check.ended().await.code(), Some(0), "{}", check.output());
    }
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish() {
    let mut world = daemon().quiet().start().await;
    let (address, mut http2) = (world.address, Http2Caller::connect(world.address).await);
    let slow = tokio::spawn(async move {
        let mut caller = Caller::connect(address).await;
        let reply = caller.send(&Request::get("/slow/1500")).await;
        (reply, caller.is_closed().await)
    });
    let slow_http2 = tokio::spawn(async move { http2.send(&Request::get("/slow/1500")).await });
    let streaming =
        tokio::spawn(async move { Caller::connect(address).await.send(&Request::get("/trickle/60")).await });
    let mut idle = world.caller().await;
    assert_eq!(idle.send(&Request::get("/x")).await.status, 200);
    eventually("three requests", async || world.upstream.requests().len() >= 4).await;

    world.process.signal(Signal::TERM);
    eventually("not ready", async || world.admin_status("/readyz").await == 503).await;
    assert_eq!(world.admin_status("/livez").await, 200);
    assert!(idle.is_closed().await, "an idle connection is closed");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "no new connections");

    let (reply, closed) = slow.await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (200, "at last"));
    assert!(closed, "and then the connection is closed");
    assert_eq!(slow_http2.await.unwrap().status, 200);
    assert_eq!(streaming.await.unwrap().text().lines().count(), 60);
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn a_connection_that_was_open_before_the_stop_is_still_answered() {
    let mut world = daemon().quiet().start().await;
    let mut caller = world.caller().await;
    // The daemon has accepted the connection before it learns of the stop.
    assert_eq!(world.get("/x").await.status, 200);

    world.process.signal(Signal::TERM);
    world.process.event("draining").await;
    let reply = caller.send(&Request::get("/last")).await;

    assert_eq!((reply.status, reply.get("connection")), (200, Some("close")));
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn sighup_stops_no_request() {
    let world = daemon().start().await;

    world.process.signal(Signal::HUP);

    world.process.event("configuration reloaded").await;
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_log_that_is_not_read_delays_no_request() {
    let world = daemon().quiet().start().await;
    let folder = tempfile::tempdir().unwrap();
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = reserved.local_addr().unwrap();
    drop(reserved);
    let config = format!(
        "[server]\nlisten = \"{address}\"\n[admin]\nlisten = \"127.0.0.1:0\"\n\
         [[routes]]\nupstream = \"http://{}\"\ncredential = \"none\"\n",
        world.address
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_bearerd"))
        .arg("run")
        .current_dir(folder.path())
        .env_clear()
        .env("RUST_LOG", "trace")
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    eventually("the daemon", async || tokio::net::TcpStream::connect(address).await.is_ok()).await;

    // More bytes than a pipe holds.
    let mut caller = Caller::connect(address).await;
    for _ in 0..500 {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    drop(child.stderr.take());
    child.kill().await.unwrap();
    world.finish().await;
}

#[tokio::test]
async fn requests_that_outlast_the_drain_are_cut_and_the_exit_code_is_0() {
    let mut world = daemon().quiet().server("drain = \"500ms\"").start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /hang HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the request", async || !world.upstream.requests().is_empty()).await;
    let started = Instant::now();

    world.process.signal(Signal::TERM);

    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!((Duration::from_millis(450)..PROMPT).contains(&started.elapsed()), "{:?}", started.elapsed());
    assert!(caller.is_closed().await);
    world.check();
}

#[tokio::test]
async fn streams_in_both_directions_are_cut_without_a_panic() {
    let both_ways = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nyes\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    let mut world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server("drain = \"300ms\"")
        .upstream(format!("http://{}", both_ways.address))
        .start()
        .await;
    let stream = tokio::net::TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let endless = futures_util::stream::pending::<Result<Frame<Bytes>, std::io::Error>>();
    let request =
        http::Request::post(format!("http://{}/x", world.address)).body(StreamBody::new(endless)).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);

    world.process.signal(Signal::TERM);

    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

#[tokio::test]
async fn a_second_signal_cuts_requests_at_once() {
    let mut world = daemon().quiet().server("drain = \"60s\"").start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /hang HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the request", async || !world.upstream.requests().is_empty()).await;
    world.process.signal(Signal::TERM);
    eventually("draining", async || !world.process.events("draining").is_empty()).await;
    let started = Instant::now();

    world.process.signal(Signal::INT);

    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    world.check();
}

#[tokio::test]
async fn sigint_stops_the_daemon_before_the_first_token() {
    let mut world =
        daemon().without_token().start_after(async |server| server.set_delay(Duration::from_secs(30))).await;
    let started = Instant::now();

    world.process.signal(Signal::INT);

    assert_eq!(world.process.ended().await.code(), Some(0));
    assert!(started.elapsed() < PROMPT, "{:?}", started.elapsed());
    world.check();
}

#[tokio::test]
async fn a_stop_under_load_loses_no_accepted_request() {
    let mut world = daemon().quiet().start().await;
    let address = world.address;
    let load = (0..32).map(|_| {
        tokio::spawn(async move {
            let mut answered = 0;
            loop {
                // A refused connection is no accepted request.
                let Ok(stream) = tokio::net::TcpStream::connect(address).await else {
                    return answered;
                };
                drop(stream);
                let Some(mut caller) = Caller::try_connect(address).await else { return answered };
                loop {
                    match caller.try_send(&Request::get("/slow/5")).await {
                        Ok(reply) => {
                            assert_eq!(reply.status, 200);
                            answered += 1;
                            if reply.get("connection") == Some("close") {
                                break;
                            }
                        }
                        // The connection was closed between two requests.
                        Err(incomplete) => {
                            assert!(incomplete.received.is_empty(), "cut in the middle of an answer");
                            break;
                        }
                    }
                }
            }
        })
    });
    let load: Vec<_> = load.collect();
    eventually("a load", async || world.upstream.requests().len() > 200).await;

    world.process.signal(Signal::TERM);

    let mut answered = 0;
    for caller in load {
        answered += caller.await.unwrap();
    }
    assert!(answered > 100, "{answered} answers are no load");
    assert_eq!(world.process.ended().await.code(), Some(0));
    let cut = world.process.events("connections were cut");
    assert!(cut.is_empty(), "{cut:?}");
    world.check();
}

#[tokio::test]
async fn health_asks_the_admin_address() {
    let world: World = daemon().start().await;
    let (admin, callers) = (format!("http://{}", world.admin), format!("http://{}", world.address));
    for (arguments, code) in [
        (vec!["health", "--admin", &admin], 0),
        (vec!["health", "--ready", "--admin", &admin], 0),
        (vec!["health", "--admin", "http://127.0.0.1:9"], 69),
        // The API answers with 200 at the applications' address.
        (vec!["health", "--admin", &callers], 1),
    ] {
        let mut health = spawn(&arguments, &[], &world.folder());
        assert_eq!(health.ended().await.code(), Some(code), "{arguments:?}: {}", health.output());
    }
    world.finish().await;
}

/// 69 is for an address without a listener, and 78 for a configuration that cannot be used.
#[tokio::test]
async fn health_tells_a_silent_peer_from_none_and_reads_the_file_that_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let garbage = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (silent_url, garbage_url) = (silent.local_addr().unwrap(), garbage.local_addr().unwrap());
    let (silent_url, garbage_url) = (silent_url.to_string(), garbage_url.to_string());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = garbage.accept().await {
            let _ = stream.write_all(b"SSH-2.0-x\r\n").await;
        }
    });
    std::fs::write(folder.path().join("broken.toml"), "[admin\n").unwrap();
    let by_environment = [("BEARERD_CONFIG".to_owned(), "missing.toml".to_owned())];
    let nothing = [];
    for (arguments, environment, code) in [
        (&["health", "--admin", &silent_url][..], &nothing[..], 1),
        (&["health", "--admin", &garbage_url], &nothing, 1),
        (&["refresh", "api", "--admin", &garbage_url], &nothing, 1),
        (&["health", "-c", "missing.toml"], &nothing, 78),
        (&["health", "-c", "broken.toml", "--admin", &garbage_url], &nothing, 78),
        (&["refresh", "api", "-c", "broken.toml"], &nothing, 78),
        (&["login", "api", "-c", "missing.toml"], &nothing, 78),
        (&["health"], &by_environment, 78),
        // Without a file the default address counts.
        (&["health", "--admin", "127.0.0.1:9"], &nothing, 69),
    ] {
        let mut process = spawn(arguments, environment, folder.path());
        let status = process.ended().await;
        assert_eq!(status.code(), Some(code), "{arguments:?}: {}", process.output());
        assert!(code != 78 || process.output().contains(".toml"), "{}", process.output());
    }
}

#[tokio::test]
async fn a_daemon_without_a_token_is_alive_and_not_ready() {
    let world =
        daemon().without_token().start_after(async |server| server.set_delay(Duration::from_secs(30))).await;
    let admin = format!("http://{}", world.admin);
    for (arguments, code) in
        [(vec!["health", "--admin", &admin], 0), (vec!["health", "--ready", "--admin", &admin], 1)]
    {
        let mut health = spawn(&arguments, &[], &world.folder());
        assert_eq!(health.ended().await.code(), Some(code), "{arguments:?}");
    }
    world.finish().await;
}
