//! Callers without TLS: unix sockets, trusted proxies, forwarding fields, and pages in browsers.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::harness::{Caller, Http2Caller, Request, World, daemon, eventually, spawn};
use testkit::harness::raw::{RawPeer, Recorder, read_head};

/// A world that also listens on a unix socket, and the socket's path.
async fn world_on_a_socket(folder: &Path) -> (World, PathBuf) {
    let path = folder.join("b.sock");
    let listen = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    (daemon().quiet().server(&listen).start().await, path)
}

async fn over(path: &Path) -> Caller {
    Caller::over(UnixStream::connect(path).await.unwrap(), "localhost")
}

#[tokio::test]
async fn a_unix_socket_serves_both_protocols_beside_tcp_and_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let (world, path) = world_on_a_socket(folder.path()).await;
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

    assert_eq!(world.get("/x").await.status, 200);
    let mut caller = over(&path).await;
    for _ in 0..2 {
        assert_eq!(caller.send(&Request::post("/echo", b"hello")).await.text(), "hello");
        world.authorization.revoke_all();
    }
    let stream = UnixStream::connect(&path).await.unwrap();
    let mut http2 = Http2Caller::over(stream, "http://localhost".to_owned()).await;
    assert_eq!(http2.send(&Request::get("/x")).await.status, 200);
    // The rules for `Host` are the same as on loopback.
    let reply = over(&path).await.send(&Request::get("/x").field("host", "evil.test")).await;
    assert_eq!((reply.status, reply.code().as_deref()), (421, Some("host_not_allowed")));

    // As a shell script would send it.
    let mut raw = UnixStream::connect(&path).await.unwrap();
    raw.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    raw.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("welcome"), "{answer}");

    eventually("two lines", async || world.process.events("request").len() >= 2).await;
    let addresses: Vec<_> = world
        .process
        .events("request")
        .iter()
        .map(|event| event["client_address"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(addresses[..2], [Some("127.0.0.1".to_owned()), None]);
    world.finish().await;
    assert!(!path.exists(), "it is removed at the end");
}

#[tokio::test]
async fn the_socket_of_a_dead_daemon_is_replaced_and_of_a_running_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, path) = world_on_a_socket(folder.path()).await;

    let mut second = world.another();
    assert_eq!(second.ended().await.code(), Some(1), "{}", second.output());
    let output = second.output();
    assert!(output.contains(&format!("cannot listen on unix:{}", path.display())), "{output}");
    assert!(output.contains("another process listens on it"), "{output}");
    assert_eq!(over(&path).await.send(&Request::get("/x")).await.status, 200);

    world.kill().await;
    assert!(path.exists(), "it had no time to remove it");
    world.start_again().await;
    eventually("ready", async || world.admin_status("/readyz").await == 200).await;
    assert_eq!(over(&path).await.send(&Request::get("/x")).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn requests_on_a_unix_socket_finish_after_its_file_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (mut world, path) = world_on_a_socket(folder.path()).await;
    let mut caller = over(&path).await;
    let slow = tokio::spawn(async move { caller.send(&Request::get("/slow/1000")).await });
    eventually("the request", async || !world.upstream.requests().is_empty()).await;

    world.process.signal(Signal::TERM);

    eventually("the file to go", async || !path.exists()).await;
    assert_eq!(slow.await.unwrap().status, 200);
    assert_eq!(world.process.ended().await.code(), Some(0));
    world.check();
}

/// The request that an upstream receives from a world with these settings, for this caller's request.
async fn sent(server: &str, route: &str, request: &Request) -> (String, Value) {
    let recorder = Recorder::start("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server(server)
        .route(route)
        .upstream(format!("http://{}", recorder.peer.address))
        .start()
        .await;
    let mut caller = world.caller().await;
    let head = request
        .fields
        .iter()
        .fold(format!("{} /x HTTP/1.1\r\nhost: localhost\r\n", request.method), |head, field| {
            format!("{head}{}: {}\r\n", field.0, field.1)
        });
    caller.write(format!("{head}\r\n").as_bytes()).await;
    assert_eq!(caller.read().await.unwrap().status, 200);
    let event = world.process.event("request").await;
    let head = recorder.ended(1).await.remove(0);
    world.finish().await;
    (head, event)
}

/// A request with every field that names a client.
fn talkative() -> Request {
    [
        ("x-forwarded-for", "192.0.2.1"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "https"),
        ("forwarded", "for=192.0.2.1;host=evil.test"),
        ("x-real-ip", "192.0.2.1"),
        ("x-client-ip", "192.0.2.1"),
        ("x-cluster-client-ip", "192.0.2.1"),
        ("true-client-ip", "192.0.2.1"),
        ("cf-connecting-ip", "192.0.2.1"),
        ("x-original-host", "evil.test"),
        ("x-host", "evil.test"),
        ("proxy", "http://evil.test"),
    ]
    .into_iter()
    .fold(Request::get("/x"), |request, (name, value)| request.field(name, value))
}

/// XFF-01.
#[tokio::test]
async fn a_callers_forwarding_fields_are_not_passed_on_and_grant_no_access() {
    let (head, event) = sent("", "", &talkative()).await;
    assert!(!head.contains("forwarded") && !head.contains("192.0.2.1") && !head.contains("evil"), "{head}");
    assert_eq!((&event["client_address"], &event["caller"]), (&"127.0.0.1".into(), &Value::Null), "{event}");

    let world = daemon()
        .quiet()
        .server("allow_from = [\"192.0.2.0/24\"]\ntrusted_proxies = [\"127.0.0.1\"]")
        .start()
        .await;
    let reply = world.send(&talkative()).await;
    assert_eq!((reply.status, reply.code().as_deref()), (403, Some("caller_not_allowed")));
    world.finish().await;
}

#[tokio::test]
async fn forwarding_fields_are_set_as_the_route_says() {
    let (head, _) = sent("", "forwarded = \"x-forwarded\"", &talkative()).await;
    for field in
        ["x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-proto: http\r\n", "x-forwarded-host: localhost\r\n"]
    {
        assert!(head.contains(field), "{head}");
    }
    assert!(!head.contains("192.0.2.1") && !head.contains("evil"), "{head}");

    let (head, _) = sent("", "forwarded = \"forwarded\"", &talkative()).await;
    assert!(head.contains("\r\nforwarded: for=127.0.0.1;host=\"localhost\";proto=http\r\n"), "{head}");
    assert!(!head.contains("192.0.2.1") && !head.contains("x-forwarded"), "{head}");
}

#[tokio::test]
async fn a_trusted_proxys_client_address_reaches_the_log_and_the_upstream() {
    let server = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";
    let request = Request::get("/x").field("x-forwarded-for", "6.6.6.6, 192.0.2.1, 10.0.0.2");

    let (head, event) = sent(server, "forwarded = \"x-forwarded\"", &request).await;

    assert!(head.contains("x-forwarded-for: 192.0.2.1\r\n") && !head.contains("6.6.6.6"), "{head}");
    assert_eq!(event["client_address"], "192.0.2.1", "{event}");
}

/// PP-01.
#[tokio::test]
async fn a_proxy_protocol_preface_is_refused() {
    let world = daemon().quiet().start().await;
    let request = format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    let v2 = [
        &b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc0\0\x02\x02\0\x01\0\x02"[..],
        request.as_bytes(),
    ];
    for preface in [format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{request}").into_bytes(), v2.concat()] {
        let mut caller = world.caller().await;
        caller.write(&preface).await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.code().as_deref()), (400, Some("bad_request")));
        assert!(caller.is_closed().await);
    }
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    world.finish().await;
}

/// ADM-01.
#[tokio::test]
async fn admin_paths_are_not_reachable_at_the_callers_address() {
    let world = daemon().quiet().start().await;
    let admin = world.admin;
    for (target, host) in [
        ("/readyz".to_owned(), None),
        ("/livez".to_owned(), Some(admin.to_string())),
        (format!("http://{admin}/livez"), Some(admin.to_string())),
        (format!("http://{admin}/livez"), None),
        ("//livez".to_owned(), None),
        ("/x/../livez".to_owned(), None),
        ("/x/%2e%2e/readyz?verbose".to_owned(), None),
        (format!("//{admin}/livez"), None),
        (format!("/@{admin}/livez"), None),
    ] {
        let request = Request { target: target.clone(), ..Request::get("/") };
        let request = host.iter().fold(request, |request, host| request.field("host", host));
        let reply = world.send(&request).await;
        // The API's own answer or a refusal, and never an answer of the admin address.
        assert!(
            reply.get("x-seen-path").is_some() || (400..=421).contains(&reply.status),
            "{target}: {reply:?}"
        );
        assert_ne!(reply.text().trim(), "ok", "{target}");
    }
    world.finish().await;
}

/// WEB-01, WEB-02, WEB-03, WEB-06, over both protocols.
#[tokio::test]
async fn a_page_of_another_site_gets_403_and_no_cors_field() {
    let world = daemon().quiet().start().await;
    let port = world.address.port();
    let rebound = format!("rebind.evil.test:{port}");
    let preflight = Request::get("/x")
        .method("OPTIONS")
        .field("origin", "https://evil.test")
        .field("access-control-request-method", "POST")
        .field("access-control-request-private-network", "true");
    let websocket = Request::get("/x")
        .field("origin", "https://evil.test")
        .field("connection", "upgrade")
        .field("upgrade", "websocket")
        .field("sec-websocket-version", "13")
        .field("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let cases = [
        (Request::get("/x").field("host", &rebound), 421),
        (Request::post("/x", b"a=b").field("origin", "https://evil.test"), 403),
        (Request::post("/x", b"a=b").field("origin", "null"), 403),
        (Request::get("/x").field("sec-fetch-site", "cross-site").field("sec-fetch-mode", "no-cors"), 403),
        (Request::get("/x").field("sec-fetch-site", "same-site"), 403),
        (preflight, 403),
        (websocket, 403),
    ];
    for (request, status) in cases {
        let mut replies = vec![world.send(&request).await];
        if !request.fields.iter().any(|(name, _)| name == "host" || name == "connection") {
            replies.push(Http2Caller::connect(world.address).await.send(&request).await);
        }
        for reply in replies {
            assert_eq!(reply.status, status, "{request:?}");
            assert!(!reply.fields.iter().any(|(name, _)| name.starts_with("access-control")), "{reply:?}");
        }
    }
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    world.finish().await;
}

/// WEB-04.
#[tokio::test]
async fn the_required_header_stops_a_navigation_of_an_old_browser() {
    let world = daemon().quiet().server("required_header = \"X-Bearerd: yes\"").start().await;
    let navigation = Request::get("/x").field("accept", "text/html").field("user-agent", "Old/1.0");

    let reply = world.send(&navigation).await;

    assert_eq!((reply.status, reply.code().as_deref()), (403, Some("header_required")));
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    world.finish().await;
}

/// WEB-05.
#[tokio::test]
async fn off_loopback_the_daemon_requires_callers_to_be_restricted() {
    let folder = tempfile::tempdir().unwrap();
    let routes = "[[routes]]\nupstream = \"http://127.0.0.1:9\"\ncredential = \"none\"\n";
    let run = async |server: &str| {
        let config = format!("[server]\n{server}\n[admin]\nlisten = \"127.0.0.1:0\"\n{routes}");
        std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
        let mut process = spawn(&["check"], &[], folder.path());
        (process.ended().await.code(), process.output())
    };
    let (code, output) = run("listen = \"0.0.0.0:0\"\nhosts = [\"gw\"]").await;
    assert!(code == Some(78) && output.contains("`server.allow_from` is required"), "{output}");
    assert!(output.contains("client_ca"), "{output}");
    let (code, output) = run("listen = \"0.0.0.0:0\"\nhosts = [\"gw\"]\nallow_from = [\"10.0.0.0/8\"]").await;
    assert!(
        code == Some(0) && output.contains("callers' requests cross the network in the clear"),
        "{output}"
    );
    let (code, output) = run("").await;
    assert!(code == Some(0) && !output.contains("warning"), "{output}");
}

/// A broken answer over a trusted proxy's connection is not completed.
#[tokio::test]
async fn an_http_1_0_answer_that_breaks_off_is_not_completed_over_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.sock");
    let peer = RawPeer::tcp(|mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await;
    })
    .await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server(&format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", path.display()))
        .upstream(format!("http://{}", peer.address))
        .start()
        .await;
    let mut raw = UnixStream::connect(&path).await.unwrap();
    raw.write_all(b"GET /x HTTP/1.0\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = raw.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("content-length: 100") && answer.ends_with("half"), "{answer}");
    world.finish().await;
}
