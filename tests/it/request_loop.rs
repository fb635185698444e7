//! Requests of legacy applications through the proxy, and the refusals.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::harness::{Caller, Http2Caller, PROMPT, Request, STEP_TIMEOUT, daemon, eventually};
use testkit::harness::raw::{RawPeer, Recorder, read_head};

#[tokio::test]
async fn a_request_arrives_unchanged_except_for_the_proxys_fields() {
    let world = daemon().start().await;
    let mut request = Request::get("/api/%61/v2;x=%2F?b=%20c&d");
    request.method = "PATCH";
    let request = request
        .field("accept", "application/json")
        .field("cookie", "session=1")
        .field("client_id", "mulesoft")
        .field("connection", "keep-alive, x-hop")
        .field("x-hop", "1")
        .field("x-forwarded-for", "1.2.3.4")
        .field("te", "gzip");

    assert_eq!(world.send(&request).await.status, 200);

    let seen = &world.upstream.requests()[0];
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("PATCH", "/api/%61/v2;x=%2F?b=%20c&d"));
    for (name, value) in [("accept", "application/json"), ("cookie", "session=1"), ("client_id", "mulesoft")]
    {
        assert_eq!(seen.get(name), Some(value));
    }
    assert!(seen.get("cdn-loop").unwrap().starts_with("bearerd-"), "{seen:?}");
    for name in ["via", "x-hop", "x-forwarded-for", "te", "connection"] {
        assert_eq!(seen.get(name), None, "{name}");
    }
    world.finish().await;
}

#[tokio::test]
async fn via_is_sent_where_the_route_asks_for_it_and_a_loop_is_found_without() {
    let routes = "path = \"/plain\"\n[[routes]]\npath = \"/via\"\nvia = true\nupstream = \"{upstream}\"\n\
                  credential = \"api\"\nca_file = \"ca.pem\"";
    let world = daemon().route(routes).start().await;
    for (target, version) in [("/plain", "HTTP/1.1"), ("/via", "HTTP/1.1"), ("/via", "HTTP/1.0")] {
        let mut request = Request::get(target).field("via", "1.1 balancer").field("cdn-loop", "edge; v=1");
        request.version = version;
        assert_eq!(world.send(&request).await.status, 200, "{target}");
    }
    let values = |number: usize, name: &str| -> Vec<String> {
        let requests = world.upstream.requests();
        let fields = requests[number].fields.iter().filter(|(field, _)| field == name);
        fields.map(|(_, value)| value.clone()).collect()
    };
    assert_eq!(values(0, "via"), [] as [&str; 0]);
    for (number, version) in [(1, "1.1"), (2, "1.0")] {
        let via = values(number, "via");
        assert!(via[0] == "1.1 balancer" && via[1].starts_with(&format!("{version} bearerd-")), "{via:?}");
    }
    let marks = values(0, "cdn-loop");
    assert_eq!(marks[0], "edge; v=1");

    let looped = format!("{}, other", marks[1]);
    let reply = world.send(&Request::get("/plain").field("cdn-loop", &looped)).await;
    assert_eq!((reply.status, reply.code().as_deref()), (508, Some("loop_detected")));
    let reply = world.send(&Request::get("/plain").field("cdn-loop", "bearerd-other")).await;
    assert_eq!(reply.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn an_answer_arrives_unchanged() {
    let world = daemon().start().await;
    for status in [200, 201, 204, 304, 400, 404, 418, 500, 503] {
        let reply = world.get(&format!("/status/{status}")).await;
        assert_eq!((reply.status, reply.code()), (status, None));
        assert_eq!(reply.get("server"), Some("scripted"));
    }
    let reply = world.send(&Request::get("/big/1000").method("HEAD")).await;
    assert_eq!((reply.status, reply.get("content-length")), (200, Some("1000")));
    let reply = world.get("/big/5000000").await;
    assert_eq!(reply.body.len(), 5_000_000);
    world.finish().await;
}

#[tokio::test]
async fn an_unusual_reason_phrase_is_passed_on() {
    let peer = plain_api(|_| "HTTP/1.1 299 Agent Is On Lunch\r\ncontent-length: 0\r\n\r\n".to_owned()).await;
    let world = daemon().quiet().unprotected().without_token().upstream(url(&peer)).start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET / HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;

    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.reason.as_str()), (299, "Agent Is On Lunch"));
    world.finish().await;
}

#[tokio::test]
async fn a_connection_carries_many_requests_also_pipelined() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    for round in 0..20 {
        let body = format!("round {round}");
        assert_eq!(caller.send(&Request::post("/echo", body.as_bytes())).await.text(), body);
    }
    let one = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    caller.write((one("/a") + &one("/b") + &one("/c")).as_bytes()).await;
    for path in ["/a", "/b", "/c"] {
        assert_eq!(caller.read().await.unwrap().get("x-seen-path"), Some(path));
    }
    world.finish().await;
}

#[tokio::test]
async fn bodies_pass_in_both_directions_in_any_framing() {
    let world = daemon().quiet().start().await;
    let mut caller = world.caller().await;
    for length in [0, 1, 1000, 70_000, 2_000_000] {
        let body = vec![b'y'; length];
        let (one, two) = body.split_at(length / 2);
        for request in [Request::post("/echo", &body), Request::chunked("/echo", &[one, two])] {
            let reply = caller.send(&request).await;
            assert_eq!(reply.status, 200, "{length}");
            assert!(reply.body == body, "{length}");
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn an_answer_is_passed_on_as_it_comes() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /trickle/1000 HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;

    // The whole answer takes 20 s. The head and the first piece may come apart, or with further pieces.
    let mut received = String::new();
    while !received.contains("piece 0\n") {
        received += &caller.read_until("\n").await;
    }

    assert!(!received.contains("piece 999\n"), "was held back");
    drop(caller);
    world.finish().await;
}

#[tokio::test]
async fn a_caller_of_http_1_0_is_served() {
    let world = daemon().start().await;
    let mut request = Request::get("/trickle/2");
    request.version = "HTTP/1.0";

    let reply = world.send(&request).await;

    assert_eq!((reply.status, reply.text().as_str()), (200, "piece 0\npiece 1\n"));
    assert_eq!(reply.get("transfer-encoding"), None);
    world.finish().await;
}

#[tokio::test]
async fn expect_100_continue_is_answered_and_goes_no_further() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: {}\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n",
        world.address
    );
    caller.write(head.as_bytes()).await;
    let interim = caller.read_some().await;
    assert!(interim.starts_with(b"HTTP/1.1 100 "), "{}", String::from_utf8_lossy(&interim));
    caller.write(b"body").await;

    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.text().as_str()), (200, "body"));
    world.finish().await;
}

/// A client that waits for the 100 before it sends its body, as Java's does.
#[tokio::test]
async fn expect_100_continue_is_answered_over_http_2_only_where_the_body_is_read() {
    let world = daemon().quiet().start().await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    for (path, is_read) in [("/echo", true), ("/%2e/denied", false)] {
        let request = http::Request::post(format!("http://{}{path}", world.address))
            .header("expect", "100-continue")
            .body(())
            .unwrap();
        requests = requests.ready().await.unwrap();
        let (mut response, mut body) = requests.send_request(request, false).unwrap();
        let interim = poll_fn(|cx| match response.poll_informational(cx) {
            Poll::Ready(None) => Pin::new(&mut response).poll(cx).map(|last| Err(last.unwrap().status())),
            Poll::Ready(Some(interim)) => Poll::Ready(Ok(interim.unwrap().status())),
            Poll::Pending => Poll::Pending,
        });
        let interim = tokio::time::timeout(STEP_TIMEOUT, interim).await.expect("neither 100 nor an answer");
        if is_read {
            assert_eq!(interim.unwrap(), 100);
            body.send_data("body".into(), true).unwrap();
            let mut answer = response.await.unwrap();
            assert_eq!(answer.status(), 200);
            assert_eq!(answer.body_mut().data().await.unwrap().unwrap(), "body");
        } else {
            assert_eq!(interim.unwrap_err(), 400, "a refused request gets no 100");
        }
    }
    let sent = &world.upstream.requests()[0];
    assert_eq!(sent.get("expect"), None, "it goes no further");
    world.finish().await;
}

#[tokio::test]
async fn http_2_callers_are_served_with_prior_knowledge() {
    // On a busy machine so many handshakes take longer than the default of `connect_timeout`.
    let world = daemon().quiet().route("connect_timeout = \"30s\"").start().await;
    let caller = Http2Caller::connect(world.address).await;
    let calls = (0..200).map(|number| {
        let mut caller = caller.clone();
        async move {
            let body = format!("call {number}");
            let reply = caller.send(&Request::post("/echo", body.as_bytes())).await;
            assert_eq!((reply.status, reply.text()), (200, body));
        }
    });
    join_all(calls).await;

    let mut caller = caller;
    let crumbs = Request::get("/x").field("cookie", "a=1").field("cookie", "b=2");
    assert_eq!(caller.send(&crumbs).await.status, 200);
    assert_eq!(world.upstream.requests().last().unwrap().get("cookie"), Some("a=1; b=2"));
    world.finish().await;
}

#[tokio::test]
async fn an_http_2_caller_is_refused_stream_by_stream() {
    let world = daemon().start().await;
    let mut caller = Http2Caller::connect(world.address).await;

    let reply = caller.send(&Request::get("/a/../b")).await;
    assert_eq!((reply.status, reply.code().as_deref()), (400, Some("bad_request")));
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn requests_are_routed_by_host_and_longest_prefix() {
    let api = |name: &'static str| plain_api(move |_| named(name));
    let (root, users, other) = (api("root").await, api("users").await, api("other host").await);
    let more = format!(
        "[[routes]]\npath = \"/api/users\"\nupstream = \"{}/base\"\ncredential = \"none\"\n\
         [[routes]]\nhost = \"desk.test\"\nupstream = \"{}\"\ncredential = \"none\"\n",
        url(&users),
        url(&other)
    );
    let world =
        daemon().quiet().unprotected().without_token().upstream(url(&root)).route(&more).start().await;
    let ask = async |target: &str, host: Option<&str>| {
        let mut caller = world.caller().await;
        let own = world.address.to_string();
        let host = host.unwrap_or(&own);
        caller.write(format!("GET {target} HTTP/1.1\r\nhost: {host}\r\n\r\n").as_bytes()).await;
        caller.read().await.unwrap()
    };

    assert_eq!(ask("/x", None).await.text(), "root");
    assert_eq!(ask("/api/usersx", None).await.text(), "root");
    assert_eq!(ask("/api/users", None).await.text(), "users");
    assert_eq!(ask("/api/users/7", None).await.text(), "users");
    assert_eq!(ask("/%61pi/users/7", None).await.text(), "users");
    assert_eq!(ask("/api/users", Some("desk.test:123")).await.text(), "other host");
    assert_eq!(ask("/x", Some("evil.test")).await.code().as_deref(), Some("host_not_allowed"));
    world.finish().await;
}

#[tokio::test]
async fn an_ambiguous_path_is_refused_where_routes_differ() {
    let world = daemon().quiet().route("path = \"/api\"").start().await;

    for path in ["/api/a%2f..%2fb", "/api//x", "/api/x;y", "/api/%3f", "/api/x.", "/api/%20"] {
        assert_eq!(world.get(path).await.code().as_deref(), Some("bad_request"), "{path}");
    }
    assert_eq!(world.get("/x").await.code().as_deref(), Some("route_not_found"));
    assert_eq!(world.get("/api/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn requests_that_cannot_be_forwarded_are_refused_with_their_codes() {
    let world =
        daemon().server("required_header = \"X-Bearerd: yes\"").limits("body_bytes = \"1KiB\"").start().await;
    let good = || Request::get("/x").field("x-bearerd", "yes");
    let refusals = [
        (Request::get("/x"), 403, "header_required"),
        (good().method("TRACE"), 405, "method_not_supported"),
        (good().field("host", "evil.test"), 421, "host_not_allowed"),
        (good().field("origin", "http://evil.test"), 403, "browser_request"),
        (good().field("sec-fetch-site", "cross-site"), 403, "browser_request"),
        (good().field("expect", "miracles"), 417, "expectation_failed"),
        (good().field("connection", "authorization"), 400, "bad_request"),
        (good().field("content_length", "5"), 400, "bad_request"),
        (Request { target: "/x?access_token=abc".to_owned(), ..good() }, 400, "bad_request"),
        (Request::post("/echo", &[b'x'; 1025]).field("x-bearerd", "yes"), 413, "body_too_large"),
    ];
    for (request, status, code) in refusals {
        let mut caller = world.caller().await;
        let reply = caller.send(&request).await;
        assert_eq!((reply.status, reply.code().as_deref()), (status, Some(code)), "{request:?}");
        assert!(caller.is_closed().await, "{code}");
    }
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    assert_eq!(
        world.send(&Request::post("/echo", &[b'x'; 1024]).field("x-bearerd", "yes")).await.status,
        200
    );
    world.finish().await;
}

#[tokio::test]
async fn malformed_requests_get_problem_details() {
    let world = daemon().limits("header_bytes = \"8KiB\"").start().await;
    let host = world.address;
    let long = "x".repeat(9_000);
    let cases = [
        ("GET\r\n\r\n".to_owned(), 400, "bad_request"),
        ("GET / HTTP/3.7\r\n\r\n".to_owned(), 400, "bad_request"),
        ("G\u{1}T / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        ("\u{16}\u{3}\u{1} tls to a plain port\r\n\r\n".to_owned(), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nhost: {host}\r\nbad header\r\n\r\n"), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nhost: {host}\r\n x: folded\r\n\r\n"), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nhost: {host}\r\nx : y\r\n\r\n"), 400, "bad_request"),
        (
            format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx"),
            400,
            "bad_request",
        ),
        (format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: -1\r\n\r\n"), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nhost: {host}\r\nx: {long}\r\n\r\n"), 431, "header_too_large"),
        (format!("GET /{long} HTTP/1.1\r\nhost: {host}\r\n\r\n"), 431, "header_too_large"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400, "bad_request"),
        (format!("GET / HTTP/1.1\r\nhost: {host}\r\nhost: {host}\r\n\r\n"), 400, "bad_request"),
        (format!("GET foo HTTP/1.1\r\nhost: {host}\r\n\r\n"), 400, "bad_request"),
        (format!("GET http://evil.test/ HTTP/1.1\r\nhost: {host}\r\n\r\n"), 400, "bad_request"),
        (format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n\r\n"), 405, "method_not_supported"),
    ];
    for (bytes, status, code) in cases {
        let mut caller = world.caller().await;
        caller.write(bytes.as_bytes()).await;

        let reply = caller.read().await.unwrap_or_else(|_| panic!("no answer to {bytes:?}"));

        assert_eq!((reply.status, reply.code().as_deref()), (status, Some(code)), "{bytes:?}");
        assert_eq!(reply.get("connection"), Some("close"), "{bytes:?}");
        assert!(reply.get("proxy-status").is_some(), "{bytes:?}");
        assert!(caller.is_closed().await, "{bytes:?}");
    }
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    world.finish().await;
}

#[tokio::test]
async fn a_malformed_request_behind_a_good_one_is_refused_after_its_answer() {
    let world = daemon().start().await;
    let mut caller = world.caller().await;
    let good = format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    caller.write(format!("{good}nonsense\r\n\r\n").as_bytes()).await;

    assert_eq!(caller.read().await.unwrap().status, 200);
    assert_eq!(caller.read().await.unwrap().code().as_deref(), Some("bad_request"));
    assert!(caller.is_closed().await);
    world.finish().await;
}

#[tokio::test]
async fn a_chunked_body_over_the_limit_is_refused_and_never_completed_upstream() {
    let recorder = Recorder::start("").await;
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .limits("body_bytes = \"10KiB\"")
        .upstream(url(&recorder.peer))
        .start()
        .await;
    let chunk = [b'x'; 4096];

    let reply = world.send(&Request::chunked("/x", &[&chunk, &chunk, &chunk])).await;

    assert_eq!((reply.status, reply.code().as_deref()), (413, Some("body_too_large")));
    let messages = recorder.ended(1).await;
    assert!(messages.len() == 1 && !messages[0].ends_with("0\r\n\r\n"), "{messages:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_body_that_breaks_off_is_never_completed_upstream() {
    let recorder = Recorder::start("").await;
    let world = daemon().quiet().unprotected().without_token().upstream(url(&recorder.peer)).start().await;
    let host = world.address;

    // A malformed chunk is refused.
    let mut caller = world.caller().await;
    let head = format!("POST /x HTTP/1.1\r\nhost: {host}\r\ntransfer-encoding: chunked\r\n\r\n");
    caller.write(format!("{head}5\r\nhello\r\nZZZ\r\n").as_bytes()).await;
    let reply = caller.read().await.unwrap();
    assert_eq!((reply.status, reply.code().as_deref()), (400, Some("bad_request")));

    // A caller that leaves in the middle.
    let mut caller = world.caller().await;
    caller.write(format!("{head}5\r\nhello\r\n").as_bytes()).await;
    recorder.received("hello", 2).await;
    drop(caller);
    for message in recorder.ended(2).await {
        assert!(message.contains("hello") && !message.ends_with("0\r\n\r\n"), "{message}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_redirect_to_the_api_leads_through_the_proxy() {
    let peer = RawPeer::tcp(|mut stream| async move {
        let host = stream.local_addr().unwrap();
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        let location = if head.starts_with("GET /base/away") {
            "https://elsewhere.test/login".to_owned()
        } else {
            format!("http://{host}/base/users?page=2")
        };
        let head = "HTTP/1.1 302 Found\r\ncontent-length: 0\r\nconnection: close";
        stream.write_all(format!("{head}\r\nlocation: {location}\r\n\r\n").as_bytes()).await.unwrap();
    })
    .await;
    let world = daemon().unprotected().without_token().upstream(format!("{}/base", url(&peer))).start().await;
    let ask = async |target: &str| {
        let mut caller = world.caller().await;
        caller.write(format!("GET {target} HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        caller.read().await.unwrap().get("location").map(str::to_owned)
    };

    assert_eq!(ask("/users").await.as_deref(), Some("/users?page=2"));
    assert_eq!(ask("/away").await.as_deref(), Some("https://elsewhere.test/login"));
    world.finish().await;
}

#[tokio::test]
async fn a_request_body_that_stalls_times_out() {
    let world = daemon().limits("body_timeout = \"300ms\"").start().await;
    let mut caller = world.caller().await;
    let head = format!("POST /echo HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n", world.address);
    caller.write(format!("{head}some").as_bytes()).await;

    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.code().as_deref()), (408, Some("request_timeout")));
    world.finish().await;
}

#[tokio::test]
async fn a_slow_upload_does_not_use_up_the_upstreams_timeout() {
    let world = daemon().quiet().route("timeout = \"400ms\"").start().await;
    let mut caller = world.caller().await;
    let head = format!(
        "POST /echo HTTP/1.1\r\nhost: {}\r\nx-test-id: up\r\ntransfer-encoding: chunked\r\n\r\n",
        world.address
    );
    caller.write(head.as_bytes()).await;
    for _ in 0..8 {
        caller.write(b"3\r\nabc\r\n").await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    caller.write(b"0\r\n\r\n").await;

    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.body.len()), (200, 24));
    world.finish().await;
}

#[tokio::test]
async fn a_slow_head_times_out_before_an_idle_connection() {
    let world = daemon().limits("header_timeout = \"400ms\"\nidle_timeout = \"3s\"").start().await;
    let mut silent = world.caller().await;
    let mut slow = world.caller().await;
    let mut idle = world.caller().await;
    assert_eq!(idle.send(&Request::get("/x")).await.status, 200);
    slow.write(b"GET /x HTTP/1.1\r\nhost: ").await;

    let reply = slow.read().await.unwrap();
    assert_eq!((reply.status, reply.code().as_deref()), (408, Some("request_timeout")));
    assert!(silent.is_closed().await);

    // The idle connection is older than both, and still open.
    assert_eq!(idle.send(&Request::get("/x")).await.status, 200);
    let idle_since = Instant::now();
    assert!(idle.is_closed().await);
    let idled = idle_since.elapsed();
    assert!(idled >= Duration::from_millis(2800), "{idled:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_cancels_its_upstream_request() {
    let is_cut = Arc::new(AtomicBool::new(false));
    let is_asked = Arc::new(AtomicBool::new(false));
    let (cut, asked) = (Arc::clone(&is_cut), Arc::clone(&is_asked));
    let peer = RawPeer::tcp(move |mut stream| {
        let (cut, asked) = (Arc::clone(&cut), Arc::clone(&asked));
        async move {
            read_head(&mut stream).await;
            asked.store(true, Ordering::Relaxed);
            let end = stream.read(&mut [0; 1]).await;
            cut.store(matches!(end, Ok(0) | Err(_)), Ordering::Relaxed);
        }
    })
    .await;
    let world = daemon().quiet().unprotected().without_token().upstream(url(&peer)).start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the request", async || is_asked.load(Ordering::Relaxed)).await;
    let left = Instant::now();
    drop(caller);

    eventually("the cut", async || is_cut.load(Ordering::Relaxed)).await;
    assert!(left.elapsed() < PROMPT, "{:?}", left.elapsed());
    world.finish().await;
}

#[tokio::test]
async fn callers_outside_allow_from_are_refused() {
    let world = daemon().server("allow_from = [\"192.0.2.0/24\"]").start().await;

    let reply = world.get("/x").await;

    assert_eq!((reply.status, reply.code().as_deref()), (403, Some("caller_not_allowed")));
    assert!(world.upstream.requests().is_empty());
    world.finish().await;
}

#[tokio::test]
async fn the_caller_of_a_large_refused_upload_can_read_the_refusal() {
    let world = daemon().quiet().limits("body_bytes = \"1MiB\"").start().await;
    for _ in 0..10 {
        let mut caller = world.caller().await;
        let head = format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: 20000000\r\n\r\n", world.address);
        // A legacy application writes the whole request before it reads.
        caller.write(head.as_bytes()).await;
        let _ = caller.try_write(&vec![b'x'; 4_000_000]).await;

        let reply = caller.read().await.expect("the refusal was lost");

        assert_eq!((reply.status, reply.code().as_deref()), (413, Some("body_too_large")));
    }
    world.finish().await;
}

#[tokio::test]
async fn the_http_2_caller_of_a_refused_upload_can_read_the_refusal() {
    let world = daemon().quiet().start().await;
    // The daemon reads each upload to its end: some callers drop an answer whose stream is reset.
    let mut caller = Http2Caller::connect(world.address).await;
    for _ in 0..100 {
        let refused = Request::post("/a/../b", &vec![b'x'; 300_000]);
        assert_eq!(caller.send(&refused).await.code().as_deref(), Some("bad_request"));
    }
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200, "and the connection is none the worse");
    world.finish().await;
}

#[tokio::test]
async fn a_loop_is_detected() {
    let reserved = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let own = reserved.local_addr().unwrap();
    drop(reserved);
    // The configuration would refuse the daemon's own address; a gateway in front of the daemon leads back as well.
    let gateway = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = format!("http://{}", gateway.local_addr().unwrap());
    let forwarding = tokio::spawn(async move {
        loop {
            let (mut near, _) = gateway.accept().await.unwrap();
            let mut far = TcpStream::connect(own).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut near, &mut far).await });
        }
    });
    let world = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .server(&format!("listen = \"{own}\""))
        .upstream(upstream)
        .start()
        .await;

    let mut caller = world.caller().await;
    caller.write(format!("GET /x HTTP/1.1\r\nhost: {own}\r\n\r\n").as_bytes()).await;
    let reply = caller.read().await.unwrap();

    assert_eq!((reply.status, reply.code().as_deref()), (508, Some("loop_detected")));
    forwarding.abort();
    world.finish().await;
}

#[tokio::test]
async fn every_request_is_written_to_the_log_without_its_query() {
    let world = daemon().start().await;
    world.get("/x/y?secret=hunter2").await;
    world.send(&Request::get("/x").method("TRACE")).await;
    eventually("two lines", async || world.process.events("request").len() == 2).await;

    let events = world.process.events("request");
    assert_eq!(events[0]["url_path"], "/x/y");
    assert_eq!(events[0]["http_response_status_code"], 200);
    assert_eq!(events[0]["generation"], 1);
    assert_eq!(events[0]["complete"], true);
    world.get("/trickle/2").await;
    eventually("a third", async || world.process.events("request").len() == 3).await;
    assert_eq!(world.process.events("request")[2]["complete"], true, "a chunked answer too");
    assert_eq!(events[1]["code"], "method_not_supported");
    assert!(!world.process.output().contains("hunter2"));
    world.finish().await;
}

/// An API without TLS and tokens, which answers each head with a function.
async fn plain_api(answer: impl Fn(&str) -> String + Clone + Send + Sync + 'static) -> RawPeer {
    RawPeer::tcp(move |mut stream| {
        let answer = answer.clone();
        async move {
            loop {
                let head = read_head(&mut stream).await;
                if head.is_empty() {
                    return;
                }
                let answer = answer(&String::from_utf8_lossy(&head));
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

fn named(name: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len())
}

fn url(peer: &RawPeer) -> String {
    format!("http://{}", peer.address)
}

#[tokio::test]
async fn each_of_many_callers_gets_its_own_answer() {
    let world = daemon().quiet().start().await;
    let address = world.address;
    let callers = (0..100).map(|number| async move {
        let mut caller = Caller::connect(address).await;
        for round in 0..10 {
            let body = format!("caller {number} round {round}");
            assert_eq!(caller.send(&Request::post("/echo", body.as_bytes())).await.text(), body);
        }
    });
    join_all(callers).await;
    world.finish().await;
}
