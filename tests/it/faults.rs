//! Faults and attacks that could mix up callers' answers, or affect other callers.

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::StreamBody;
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::harness::{Caller, Http2Caller, PROMPT, Request, STEP_TIMEOUT, Setup, World, daemon, eventually};
use testkit::harness::raw::{BlackHole, RawPeer, Recorder, read_head};
use testkit::harness::tls_caller::TlsCaller;

/// A world with an upstream whose requests are not checked.
fn with_upstream(peer: &RawPeer) -> Setup {
    let url = format!("http://localhost:{}", peer.address.port());
    daemon().quiet().unprotected().without_token().upstream(url)
}

/// FLT-UP-03.
#[tokio::test]
async fn an_answer_before_the_request_was_read_closes_the_connection() {
    let early = RawPeer::tcp(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
        }
    })
    .await;
    let world = with_upstream(&early).start().await;

    for framing in ["content-length: 65536\r\n\r\n", "transfer-encoding: chunked\r\n\r\n8000\r\n"] {
        let mut caller = world.caller().await;
        caller.write(format!("POST /x HTTP/1.1\r\nhost: {}\r\n{framing}", world.address).as_bytes()).await;
        caller.write(&[b'x'; 1000]).await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "early"));
        assert_eq!(reply.get("connection"), Some("close"), "{framing:?}");
        // The following bytes are body, and never a request.
        let _ = caller.try_write(b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
        assert!(caller.is_closed().await);
    }
    // Over HTTP/2 the answer ends its own stream only.
    let mut caller = Http2Caller::connect(world.address).await;
    for _ in 0..3 {
        assert!(!caller.breaks(&Request::get("/x")).await);
    }
    world.finish().await;
}

/// LEAK-03: every answer belongs to its request, whatever other callers do on shared connections.
#[tokio::test]
async fn callers_that_leave_at_any_moment_leave_no_bytes_for_the_next_caller() {
    let world = daemon()
        .quiet()
        .server("workers = 1")
        .route("connections = 4\nconnect_timeout = \"20s\"")
        .start()
        .await;
    let address = world.address;
    // For each answer to a polite caller two rude callers leave: their number must not depend on the machine's speed.
    let visits = Arc::new(Semaphore::new(6));
    let rude = (0..6_u64).map(|number| {
        let visits = Arc::clone(&visits);
        async move {
            let host = format!("host: {address}\r\nx-test-id: rude");
            let requests = [
                format!("GET /trickle/5 HTTP/1.1\r\n{host}\r\n\r\n"),
                format!("GET /slow/10 HTTP/1.1\r\n{host}\r\n\r\n"),
                format!("GET /big/300000 HTTP/1.1\r\n{host}\r\n\r\n"),
                format!("POST /echo HTTP/1.1\r\n{host}\r\ncontent-length: 5000\r\n\r\nhalf"),
                format!("POST /x HTTP/1.1\r\n{host}\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
                format!("GET /x HTTP/1.1\r\n{host}\r\n\r\nGET /x HTTP/1.1\r\n{host}\r\n\r\n"),
            ];
            let mut round = number;
            while let Ok(visit) = visits.acquire().await {
                visit.forget();
                round += 1;
                let mut stream = TcpStream::connect(address).await.unwrap();
                let request = &requests[usize::try_from(round % 6).unwrap()];
                let _ = stream.write_all(request.as_bytes()).await;
                let _ =
                    tokio::time::timeout(Duration::from_millis(round * 7 % 30), stream.read(&mut [0; 100]))
                        .await;
            }
        }
    });
    let polite = (0..8).map(|number| {
        let visits = Arc::clone(&visits);
        async move {
            let mut http1 = Caller::connect(address).await;
            let mut http2 = Http2Caller::connect(address).await;
            for round in 0..60 {
                let body = format!("caller {number} round {round}");
                let request = Request::post("/echo", body.as_bytes());
                // Both callers also check that the answer belongs to the request.
                assert_eq!(http1.send(&request).await.text(), body);
                assert_eq!(http2.send(&request).await.text(), body);
                visits.add_permits(4);
            }
        }
    });
    let polite = async {
        join_all(polite).await;
        visits.close();
    };
    tokio::join!(join_all(rude), polite);
    world.finish().await;
}

/// LEAK-04.
#[tokio::test]
async fn a_cacheable_answer_is_not_cached() {
    let requests = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&requests);
    let api = RawPeer::tcp(move |mut stream| {
        let counter = Arc::clone(&counter);
        async move {
            while !read_head(&mut stream).await.is_empty() {
                counter.fetch_add(1, Ordering::Relaxed);
                let fields =
                    "cache-control: public, max-age=31536000, immutable\r\netag: \"1\"\r\ncontent-length: 0";
                let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{fields}\r\n\r\n").as_bytes()).await;
            }
        }
    })
    .await;
    let world = with_upstream(&api).start().await;

    for _ in 0..3 {
        let mut caller = world.caller().await;
        caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        assert_eq!(caller.read().await.unwrap().status, 200);
    }

    assert_eq!(requests.load(Ordering::Relaxed), 3);
    world.finish().await;
}

/// RED-01, RED-02.
#[tokio::test]
async fn a_redirect_is_passed_on_not_followed_and_not_logged() {
    let followed = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&followed);
    let elsewhere = RawPeer::tcp(move |_| {
        let counter = Arc::clone(&counter);
        async move {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    })
    .await;
    let elsewhere_at = elsewhere.address;
    let api = RawPeer::tcp(move |mut stream| async move {
        let head = String::from_utf8(read_head(&mut stream).await).unwrap();
        let (status, host) = head.split_once(' ').unwrap().1.trim_start_matches('/').split_at(3);
        let host = if host.starts_with("/own") { stream.local_addr().unwrap() } else { elsewhere_at };
        let location = format!("http://{host}/landing?access_token=hunter2-of-the-api");
        let fields = format!("location: {location}\r\ncontent-length: 0\r\nconnection: close");
        stream.write_all(format!("HTTP/1.1 {status} Moved\r\n{fields}\r\n\r\n").as_bytes()).await.unwrap();
    })
    .await;
    let url = format!("http://{}", api.address);
    let world = daemon().unprotected().without_token().upstream(url).start().await;

    for status in [301, 302, 303, 307, 308] {
        for (path, location) in [
            ("own", "/landing?access_token=hunter2-of-the-api".to_owned()),
            ("away", format!("http://{elsewhere_at}/landing?access_token=hunter2-of-the-api")),
        ] {
            let mut caller = world.caller().await;
            let head = format!("POST /{status}/{path} HTTP/1.1\r\nhost: {}\r\n", world.address);
            caller.write(format!("{head}content-length: 2\r\n\r\nhi").as_bytes()).await;
            let reply = caller.read().await.unwrap();
            assert_eq!((reply.status, reply.get("location")), (status, Some(location.as_str())));
        }
    }

    assert_eq!(followed.load(Ordering::Relaxed), 0);
    eventually("the log", async || world.process.events("request").len() >= 10).await;
    assert!(!world.process.output().contains("hunter2"), "{}", world.process.output());
    world.finish().await;
}

/// LIM-02 over HTTP/2, where a body needs no length.
#[tokio::test]
async fn an_http_2_body_over_the_limit_is_refused_and_never_completed_upstream() {
    let recorder = Recorder::start("").await;
    let world = with_upstream(&recorder.peer).limits("body_bytes = \"10KiB\"").start().await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let pieces = (0..4).map(|_| Ok::<_, std::io::Error>(Frame::data(Bytes::from(vec![b'x'; 4096]))));
    let body = StreamBody::new(futures_util::stream::iter(pieces));
    let request = http::Request::post(format!("http://{}/x", world.address)).body(body).unwrap();

    let response = sender.send_request(request).await.unwrap();

    assert_eq!(response.status(), 413);
    let messages = recorder.ended(1).await;
    assert!(messages.len() == 1 && !messages[0].ends_with("0\r\n\r\n"), "{messages:?}");
    connection.abort();
    world.finish().await;
}

/// SLOW-04.
#[tokio::test]
async fn a_thousand_ranges_are_passed_on_and_cost_little() {
    let world = daemon().quiet().start().await;
    let ranges: Vec<String> = (0..1000).map(|number| format!("{number}-")).collect();
    let request = Request::get("/x").field("range", &format!("bytes={}", ranges.join(",")));
    assert_eq!(world.send(&request).await.status, 200);
    let before = world.process.resident_kib();

    for _ in 0..200 {
        assert_eq!(world.send(&request).await.status, 200);
    }

    let grown = world.process.resident_kib().saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB");
    assert_eq!(
        world.upstream.requests()[0].get("range"),
        request.fields.first().map(|(_, value)| value.as_str())
    );
    world.finish().await;
}

/// FLT-UP-04.
#[tokio::test]
async fn a_caller_that_leaves_in_the_middle_of_an_answer_ends_it_upstream_too() {
    let is_cut = Arc::new(AtomicBool::new(false));
    let cut = Arc::clone(&is_cut);
    let endless = RawPeer::tcp(move |mut stream| {
        let cut = Arc::clone(&cut);
        async move {
            read_head(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
            while stream.write_all(b"5\r\nhello\r\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            cut.store(true, Ordering::Relaxed);
        }
    })
    .await;
    let world = with_upstream(&endless).start().await;
    let get = format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(get.as_bytes()).await.unwrap();
    stream.read_exact(&mut [0; 200]).await.unwrap();
    let left = Instant::now();
    drop(stream);

    eventually("the cut", async || is_cut.load(Ordering::Relaxed)).await;
    assert!(left.elapsed() < PROMPT, "{:?}", left.elapsed());
    world.finish().await;
}

/// FLT-NET-01, towards an API.
#[tokio::test]
async fn connecting_to_an_unreachable_upstream_times_out() {
    let nowhere = BlackHole::start();
    let world: World = daemon()
        .quiet()
        .unprotected()
        .without_token()
        .upstream(format!("http://{}", nowhere.address))
        .route("connect_timeout = \"400ms\"")
        .start()
        .await;
    let began = Instant::now();

    let replies = join_all((0..20).map(|_| world.get("/x"))).await;

    for reply in replies {
        assert_eq!((reply.status, reply.code().as_deref()), (502, Some("upstream_unreachable")));
        assert_eq!(reply.get("proxy-status"), Some("bearerd; error=connection_timeout"));
    }
    assert!((Duration::from_millis(390)..PROMPT).contains(&began.elapsed()), "{:?}", began.elapsed());
    world.finish().await;
}

/// FLT-NET-02: one time-out bounds the whole exchange, however regularly bytes arrive.
#[tokio::test]
async fn an_upstream_that_trickles_bytes_times_out() {
    let requests = Arc::new(AtomicUsize::new(0));
    let drip = async |said: &'static [u8]| {
        let counter = Arc::clone(&requests);
        RawPeer::tcp(move |mut stream| {
            let counter = Arc::clone(&counter);
            async move {
                // Bytes before the request would be another fault.
                let mut asked = Vec::new();
                let _ = stream.read_buf(&mut asked).await;
                counter.fetch_add(usize::from(asked.starts_with(b"POST")), Ordering::Relaxed);
                for byte in said {
                    if stream.write_all(&[*byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        })
        .await
    };
    let head =
        drip(b"HTTP/1.1 200 OK\r\nserver: a-server-that-takes-its-time\r\ncontent-length: 0\r\n\r\n").await;
    let hello =
        drip(b"\x16\x03\x03\x01\x00\x02\x00\x00\xfc\x03\x03random-random-random-random-1234\x20").await;
    for (scheme, peer, key, expected) in [
        ("http", &head, "timeout", (504, "upstream_timeout")),
        ("https", &hello, "connect_timeout", (502, "upstream_unreachable")),
    ] {
        let world = daemon()
            .quiet()
            .unprotected()
            .without_token()
            .upstream(format!("{scheme}://localhost:{}", peer.address.port()))
            .route(&format!("{key} = \"700ms\""))
            .start()
            .await;
        let began = Instant::now();

        let reply = world.send(&Request::post("/x", b"pay once")).await;

        assert_eq!((reply.status, reply.code().as_deref()), (expected.0, Some(expected.1)));
        assert!(
            (Duration::from_millis(690)..PROMPT).contains(&began.elapsed()),
            "{key}: {:?}",
            began.elapsed()
        );
        world.finish().await;
    }
    assert_eq!(requests.load(Ordering::Relaxed), 1, "nothing is sent again");
}

/// SLOW-01, SLOW-05; `just load` has a thousand slow callers, and measures the answers to others.
#[tokio::test]
async fn callers_that_trickle_bytes_time_out_while_others_are_served() {
    bearerd::descriptors::raise_limit();
    tokio::join!(callers_that_send_a_byte_now_and_then(false), callers_that_send_a_byte_now_and_then(true));
}

async fn callers_that_send_a_byte_now_and_then(is_tls: bool) {
    let pki = Pki::new(&["localhost"]).unwrap();
    let trusting = TlsCaller::trusting(pki.authority());
    let setup = daemon().quiet().limits("header_timeout = \"6s\"\ntls_timeout = \"6s\"");
    let setup = if is_tls { setup.tls(pki.server()) } else { setup };
    let world = setup.start_with(pki, async |_| {}).await;
    let address = world.address;
    let slow = (0..200).map(|_| {
        tokio::spawn(async move {
            let began = Instant::now();
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The beginning of a handshake record of the greatest length, or of a head.
            let first: &[u8] = if is_tls { b"\x16\x03\x01\x40\x00\x01" } else { b"GET /x HTTP/1.1\r\nx: " };
            let _ = stream.write_all(first).await;
            let mut answer = Vec::new();
            loop {
                let wait = tokio::time::timeout(Duration::from_millis(100), stream.read_buf(&mut answer));
                match wait.await {
                    Ok(Ok(0) | Err(_)) => return began.elapsed(),
                    Ok(Ok(_)) => {}
                    Err(_) => drop(stream.write_all(b"x").await),
                }
            }
        })
    });
    let slow: Vec<_> = slow.collect();
    let mut served = 0;
    while !slow.iter().all(tokio::task::JoinHandle::is_finished) {
        let asked = Instant::now();
        let mut caller = if is_tls { trusting.connect(address).await.unwrap() } else { world.caller().await };
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
        assert!(asked.elapsed() < PROMPT, "TLS: {is_tls}: {:?}", asked.elapsed());
        served += 1;
    }

    assert!(served > 5, "{served}");
    for held in join_all(slow).await {
        let held = held.unwrap();
        let bounds = Duration::from_millis(5500)..Duration::from_secs(6) + PROMPT;
        assert!(bounds.contains(&held), "TLS: {is_tls}: {held:?}");
    }
    world.finish().await;
}

/// SLOW-03, FLT-MEM-01: the bounds of `docs/understand/limits.md`; `just load` has thousands of connections.
#[tokio::test]
async fn idle_and_unread_connections_stay_within_their_memory_bounds() {
    bearerd::descriptors::raise_limit();
    let setup = daemon().quiet().limits("write_timeout = \"60s\"").route("connections = 300");
    let world = setup.start().await;
    assert_eq!(world.get("/big/10000000").await.status, 200);
    let before = world.process.resident_kib();

    let mut resting = Vec::new();
    for _ in 0..300 {
        let mut caller = world.caller().await;
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
        resting.push(caller);
    }
    let at_rest = world.process.resident_kib();
    assert!(at_rest.saturating_sub(before) < 300 * 32 + 4096, "{before} KiB, then {at_rest} KiB");

    let asked = world.upstream.requests().len();
    let get = format!("GET /big/10000000 HTTP/1.1\r\nhost: {}\r\nx-test-id: big\r\n\r\n", world.address);
    let mut unread = Vec::new();
    for count in 1..=100 {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(get.as_bytes()).await.unwrap();
        unread.push(stream);
        // Each request needs a new connection to the API.
        eventually("the request", async || world.upstream.requests().len() >= asked + count).await;
    }
    // Time in which the daemon could take much more.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let unread_too = world.process.resident_kib();
    let grown = unread_too.saturating_sub(at_rest);
    // Each request also has a connection to the API over TLS.
    assert!(grown < 100 * (256 + 32 + 32 + 64) + 4096, "{at_rest} KiB, then {unread_too} KiB");
    assert_eq!(world.get("/x").await.status, 200);
    drop((resting, unread));
    world.finish().await;
}

/// FLT-RT-02: health and tokens have a thread of their own.
#[tokio::test]
async fn busy_workers_delay_neither_health_nor_tokens() {
    let world = daemon().quiet().server("workers = 1").start().await;
    let before = world.authorization.requests();
    let is_over = Arc::new(AtomicBool::new(false));
    let load = (0..32).map(|_| {
        let is_over = Arc::clone(&is_over);
        let caller = world.caller();
        async move {
            let (mut caller, request) = (caller.await, Request::post("/echo", &vec![b'x'; 20_000]));
            while !is_over.load(Ordering::Relaxed) {
                assert_eq!(caller.send(&request).await.status, 200);
            }
        }
    });
    // On another thread than the callers, which are as busy as the worker.
    let admin = world.admin;
    let operator = tokio::task::spawn_blocking(move || {
        let ask = |line: &str| {
            let asked = Instant::now();
            let mut stream = std::net::TcpStream::connect(admin).unwrap();
            stream.set_read_timeout(Some(STEP_TIMEOUT)).unwrap();
            let head = format!("{line} HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n");
            stream.write_all(head.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{line}: {answer}");
            asked.elapsed()
        };
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            let taken = ask("GET /livez") + ask("GET /readyz");
            assert!(taken < Duration::from_secs(2), "{taken:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
        ask("POST /credentials/api/refresh");
    });
    let operated = async {
        let operated = operator.await;
        is_over.store(true, Ordering::Relaxed);
        operated.unwrap();
    };

    tokio::join!(join_all(load), operated);

    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

/// FLT-UP-05: the upstream may have processed a request whose connection ended.
#[tokio::test]
async fn a_request_on_a_closing_idle_connection_is_sent_at_most_once() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let fickle = RawPeer::tcp(move |mut stream| {
        let noted = Arc::clone(&noted);
        async move {
            for number in 0_u64.. {
                let head = String::from_utf8(read_head(&mut stream).await).unwrap();
                let Some(target) = head.split(' ').nth(1) else { return };
                noted.lock().unwrap().push(target.to_owned());
                if target.starts_with("/unanswered") && number > 0 {
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
                if target.starts_with("/racing") {
                    // Close about when the next request arrives.
                    tokio::time::sleep(Duration::from_micros(fastrand::u64(..1500))).await;
                    return;
                }
            }
        }
    })
    .await;
    let setup = with_upstream(&fickle).server("workers = 1").route("breaker = \"off\"");
    let world = setup.start().await;
    let mut caller = world.caller().await;
    let mut ask = async |target: &str| {
        let head = format!("POST {target} HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n", world.address);
        caller.write(head.as_bytes()).await;
        let reply = caller.read().await.unwrap();
        if reply.get("connection") == Some("close") {
            caller = world.caller().await;
        }
        (reply.status, reply.code())
    };

    assert_eq!(ask("/kept").await, (200, None));
    assert_eq!(ask("/unanswered").await, (502, Some("upstream_protocol".to_owned())));
    let mut told = 0;
    for number in 0..300 {
        match ask(&format!("/racing/{number}")).await {
            (200, None) => {}
            (502, Some(code)) if code == "upstream_protocol" => told += 1,
            other => panic!("{other:?}"),
        }
        tokio::time::sleep(Duration::from_micros(fastrand::u64(..1500))).await;
    }

    let mut seen = seen.lock().unwrap().clone();
    let came = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(came, seen.len(), "something came twice");
    assert!(came + told >= 302, "{came} came, {told} were told");
    world.finish().await;
}

/// LEAK-02: fields that lead callers past the proxy are dropped, all others pass.
#[tokio::test]
async fn an_apis_fields_pass_except_alt_svc() {
    const FIELDS: &str = "set-cookie: a=1; HttpOnly\r\nset-cookie: b=2\r\nserver: api/1\r\nx-powered-by: tea\r\n\
                          www-authenticate: Bearer realm=\"api\"\r\nstrict-transport-security: max-age=1\r\n\
                          alt-svc: h3=\":443\"\r\nkeep-alive: timeout=5\r\nproxy-connection: keep-alive\r\n\
                          connection: x-of-the-connection\r\nx-of-the-connection: 1\r\n";
    let api = RawPeer::tcp(|mut stream| async move {
        while !read_head(&mut stream).await.is_empty() {
            let _ = stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{FIELDS}content-length: 0\r\n\r\n").as_bytes())
                .await;
        }
    })
    .await;
    let world = with_upstream(&api).start().await;
    let mut caller = world.caller().await;
    caller.write(format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;

    let reply = caller.read().await.unwrap();

    let values = |name: &str| {
        reply
            .fields
            .iter()
            .filter(|(field, _)| field == name)
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(values("set-cookie"), ["a=1; HttpOnly", "b=2"]);
    for (name, value) in [
        ("server", "api/1"),
        ("x-powered-by", "tea"),
        ("www-authenticate", "Bearer realm=\"api\""),
        ("strict-transport-security", "max-age=1"),
    ] {
        assert_eq!(values(name), [value]);
    }
    for name in ["alt-svc", "keep-alive", "proxy-connection", "connection", "x-of-the-connection"] {
        assert!(values(name).is_empty(), "{name}: {:?}", values(name));
    }
    world.finish().await;
}
