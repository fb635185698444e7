//! Limits for callers: connections, descriptors, sizes and time-outs.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::corpus::http2::{frame, headers};
use crate::harness::{Caller, Http2Caller, PROMPT, Request, Setup, World, daemon, eventually};
use testkit::harness::raw::{RawPeer, Recorder, read_head};

/// A caller whose connection stays open after an answer with 200.
async fn served(world: &World) -> Caller {
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    caller
}

#[tokio::test]
async fn connections_over_the_limit_are_refused_until_one_ends() {
    let world = daemon().limits("connections = 3").start().await;
    let mut callers = vec![served(&world).await, served(&world).await, served(&world).await];

    let reply = world.get("/x").await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("overloaded")));
    assert_eq!(reply.get("retry-after"), Some("1"));
    // The caller of a large upload can read the refusal too.
    let reply = world.send(&Request::post("/echo", &vec![b'x'; 1_000_000])).await;
    assert_eq!((reply.status, reply.code().as_deref()), (503, Some("overloaded")));
    // Callers of other protocols and silent callers get no refusal in HTTP/1.1.
    for first in [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], b"\x16\x03\x01\x02\x00", b""] {
        let mut other = world.caller().await;
        other.write(first).await;
        assert!(other.is_closed().await, "{first:?}");
    }
    // The admin address does not count.
    assert_eq!(world.admin_status("/readyz").await, 200);
    assert_eq!(world.process.events("connections were refused").len(), 1);

    callers.pop();
    eventually("room", async || world.get("/x").await.status == 200).await;
    for caller in &mut callers {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    world.finish().await;
}

#[tokio::test]
async fn each_client_address_has_its_own_limit() {
    let world = daemon().limits("connections_per_address = 2").start().await;
    let held = [served(&world).await, served(&world).await];

    assert_eq!(world.get("/x").await.code().as_deref(), Some("overloaded"));
    // Another client address of the machine.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(world.address).await.unwrap();
    let request = format!("GET /x HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", world.address);
    other.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");

    drop(held);
    eventually("room", async || world.get("/x").await.status == 200).await;
    world.finish().await;
}

/// Many callers at once that keep their connections: callers that were answered with 200, and the others.
async fn crowd(world: &World, callers: usize) -> (Vec<Caller>, Vec<Caller>) {
    let visits = (0..callers).map(async |_| {
        let Some(mut caller) = Caller::try_connect(world.address).await else { return (None, None) };
        match caller.try_send(&Request::get("/x")).await {
            Ok(reply) if reply.status == 200 => (Some(caller), None),
            Ok(reply) => {
                assert_eq!((reply.status, reply.code().as_deref()), (503, Some("overloaded")));
                (None, Some(caller))
            }
            Err(_) => (None, Some(caller)),
        }
    });
    let (served, refused): (Vec<_>, Vec<_>) = join_all(visits).await.into_iter().unzip();
    (served.into_iter().flatten().collect(), refused.into_iter().flatten().collect())
}

#[tokio::test]
async fn without_file_descriptors_the_daemon_serves_and_refreshes_without_spinning() {
    bearerd::descriptors::raise_limit();
    let world = daemon().quiet().descriptors(128).start().await;
    let bound = world.process.event("file descriptors limit the number of connections").await;
    assert_eq!(bound["limit"], 128);

    let (mut served, refused) = crowd(&world, 500).await;
    assert!(served.len() >= 20 && refused.len() >= 300, "{} served, {}", served.len(), refused.len());
    let (before, began) = (world.process.cpu_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let busy = world.process.cpu_time().saturating_sub(before);
    assert!(busy < began.elapsed() / 5, "{busy:?} of {:?}", began.elapsed());

    // The token is revoked, and its refresh needs a connection; the replay needs one to the API.
    let requests = world.authorization.requests();
    world.authorization.revoke_all();
    let answers = join_all(served.iter_mut().map(|caller| async {
        let reply = caller.send(&Request::get("/x")).await;
        (reply.status, reply.code())
    }))
    .await;
    assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
    assert_eq!(world.token_requests_since(requests), 1);
    assert_eq!(world.admin_status("/readyz").await, 200);

    drop((served, refused));
    eventually("recovery", async || world.get("/x").await.status == 200).await;
    assert!(world.process.events("connections were refused").len() <= 2);
    world.finish().await;
}

#[tokio::test]
async fn after_running_out_of_all_descriptors_the_daemon_accepts_again() {
    let world = daemon().quiet().descriptors(36).start().await;

    let request = format!("GET /x HTTP/1.1\r\nhost: {}\r\nx-test-id: one\r\n\r\n", world.address);
    let mut callers = Vec::new();
    for _ in 0..100 {
        let mut caller = world.caller().await;
        caller.write(request.as_bytes()).await;
        callers.push(caller);
    }
    world.process.event("connection not accepted").await;
    let (before, began) = (world.process.cpu_time(), Instant::now());
    tokio::time::sleep(Duration::from_secs(1)).await;
    let busy = world.process.cpu_time().saturating_sub(before);
    assert!(busy < began.elapsed() / 5, "{busy:?} of {:?}", began.elapsed());

    drop(callers);
    eventually("recovery", async || {
        let Some(mut caller) = Caller::try_connect(world.address).await else { return false };
        caller.try_send(&Request::get("/x")).await.is_ok_and(|reply| reply.status == 200)
    })
    .await;
    world.finish().await;
}

/// Requests more bytes than all buffers hold, and reads none.
async fn ask_and_not_read(address: SocketAddr, version: &str) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let request = format!("GET /big/20000000 {version}\r\nhost: {address}\r\nx-test-id: big\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

#[tokio::test]
async fn a_caller_that_reads_nothing_is_cut_off_with_an_incomplete_answer() {
    let world = daemon().quiet().limits("write_timeout = \"500ms\"").start().await;
    for version in ["HTTP/1.1", "HTTP/1.0"] {
        let seen = world.process.events("request").len();
        let asked = Instant::now();
        let mut stream = ask_and_not_read(world.address, version).await;

        eventually("the end", async || world.process.events("request").len() > seen).await;
        assert!(asked.elapsed() < PROMPT, "{:?}", asked.elapsed());
        let event = world.process.events("request").pop().unwrap();
        assert_eq!(event["error"], "the caller stopped reading the response", "{event}");
        assert_eq!(event["complete"], false);

        let mut taken = Vec::new();
        let end = stream.read_to_end(&mut taken).await;
        assert!(end.is_err() && taken.len() < 20_000_000, "{version}: {end:?} after {}", taken.len());
    }
    world.finish().await;
}

/// The system and the sweep both end such a connection, each first for some.
#[tokio::test]
async fn each_of_many_callers_that_read_nothing_is_logged_as_such() {
    let world = daemon().quiet().limits("write_timeout = \"5s\"").start().await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        streams.push(ask_and_not_read(world.address, "HTTP/1.1").await);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    eventually("all ends", async || world.process.events("request").len() >= streams.len()).await;
    for event in world.process.events("request") {
        assert_eq!(event["error"], "the caller stopped reading the response", "{event}");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_unread_http_2_stream_ends_and_the_connections_others_go_on() {
    let world = daemon().quiet().limits("write_timeout = \"500ms\"").start().await;
    let stream = TcpStream::connect(world.address).await.unwrap();
    let (mut sender, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(100_000)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let mut get = |path: &str| {
        let uri = format!("http://{}{path}", world.address);
        sender.send_request(http::Request::get(uri).body(http_body_util::Empty::<Bytes>::new()).unwrap())
    };

    let unread = get("/big/5000000").await.unwrap();
    let logged =
        || world.process.events("request").into_iter().find(|event| event["url_path"] == "/big/5000000");
    eventually("its end, while others are served", async || {
        let other = get("/x").await.unwrap().into_body().collect().await.unwrap().to_bytes();
        assert_eq!(other, "welcome");
        logged().is_some()
    })
    .await;

    let told = logged().unwrap();
    assert_eq!(told["error"], "the caller stopped reading the response", "{told}");
    assert_eq!(told["complete"], false);
    assert!(unread.into_body().collect().await.is_err());
    drop(sender);
    connection.abort();
    world.finish().await;
}

/// An API whose answer is `head`, a pause, and `rest`.
async fn pausing_api(head: &'static str, rest: &'static str, pause: Duration) -> RawPeer {
    RawPeer::tcp(move |mut stream| async move {
        read_head(&mut stream).await;
        let _ = stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes()).await;
        tokio::time::sleep(pause).await;
        let _ = stream.write_all(rest.as_bytes()).await;
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await
}

fn pausing_world(peer: &RawPeer) -> Setup {
    let url = format!("http://localhost:{}", peer.address.port());
    daemon().quiet().unprotected().without_token().upstream(url)
}

#[tokio::test]
async fn a_pause_of_the_upstream_does_not_count_as_the_callers() {
    let pause = Duration::from_millis(1200);
    let peer = pausing_api("content-length: 8\r\n\r\nhalf", "half", pause).await;
    let setup = pausing_world(&peer).limits("write_timeout = \"200ms\"");
    let world = setup.start().await;
    let get = format!("GET /x HTTP/1.1\r\nhost: {}\r\n\r\n", world.address);

    let mut caller = world.caller().await;
    caller.write(get.as_bytes()).await;
    assert_eq!(caller.read().await.unwrap().text(), "halfhalf");
    let mut caller = Http2Caller::connect(world.address).await;
    assert!(!caller.breaks(&Request::get("/x")).await);
    world.finish().await;
}

/// The process is stopped for longer than any of its timeouts, and everything arrives meanwhile.
#[tokio::test]
async fn a_suspension_cuts_nothing_that_arrived_meanwhile() {
    let pause = Duration::from_millis(1500);
    let peer = RawPeer::tcp(move |mut stream| async move {
        let head = read_head(&mut stream).await;
        let is_upload = head.starts_with(b"POST");
        if is_upload {
            let came_with_the_head = if head.ends_with(b"half") { 4 } else { 0 };
            stream.read_exact(&mut [0; 8][came_with_the_head..]).await.unwrap();
        }
        let (first, rest) = if head.starts_with(b"GET /body") { ("half", "half") } else { ("", "halfhalf") };
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n";
        if !first.is_empty() {
            stream.write_all(format!("{head}{first}").as_bytes()).await.unwrap();
        }
        if !is_upload {
            tokio::time::sleep(pause).await;
        }
        let head = if first.is_empty() { head } else { "" };
        stream.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
    })
    .await;
    let setup = pausing_world(&peer).route("timeout = \"1s\"\nread_timeout = \"1s\"");
    let world = setup.limits("body_timeout = \"1s\"").start().await;
    let mut callers = Vec::new();
    for line in ["GET /head", "GET /body", "POST /upload"] {
        let mut caller = world.caller().await;
        let fields = if line.starts_with("POST") { "content-length: 8\r\n\r\nhalf" } else { "\r\n" };
        let request = format!("{line} HTTP/1.1\r\nhost: {}\r\n{fields}", world.address);
        caller.write(request.as_bytes()).await;
        callers.push(caller);
    }
    tokio::time::sleep(Duration::from_millis(300)).await;

    world.process.signal(Signal::STOP);
    callers[2].write(b"half").await;
    tokio::time::sleep(pause + Duration::from_secs(1)).await;
    world.process.signal(Signal::CONT);

    for mut caller in callers {
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.text().as_str()), (200, "halfhalf"));
    }
    world.finish().await;
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_left_incomplete_in_every_framing() {
    let forever = Duration::from_mins(10);
    for head in
        ["content-length: 8\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n", "\r\nhalf"]
    {
        let peer = pausing_api(head, "", forever).await;
        let world = pausing_world(&peer).route("read_timeout = \"300ms\"").start().await;
        for version in ["HTTP/1.1", "HTTP/1.0"] {
            let get = format!("GET /x {version}\r\nhost: {}\r\n\r\n", world.address);
            let mut stream = TcpStream::connect(world.address).await.unwrap();
            stream.write_all(get.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let end = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);

            assert!(answer.contains("half"), "{head:?}, {version}: {answer}");
            let is_chunked = answer.contains("chunked");
            let has_length = answer.contains("content-length: 8");
            assert!(!answer.ends_with("0\r\n\r\n"), "{head:?}, {version}: {answer}");
            assert!(is_chunked || has_length || end.is_err(), "{head:?}, {version}: {answer}, {end:?}");
        }
        assert!(Http2Caller::connect(world.address).await.breaks(&Request::get("/x")).await, "{head:?}");
        eventually("the log", async || world.process.events("request").len() == 3).await;
        for event in world.process.events("request") {
            assert_eq!(
                (&event["complete"], event["http_response_status_code"].as_u64()),
                (&false.into(), Some(200))
            );
            assert_eq!(event["error"], "the upstream stopped sending its response");
        }
        world.finish().await;
    }
}

#[tokio::test]
async fn a_body_that_trickles_in_is_refused_over_both_protocols() {
    let recorder = Recorder::start("").await;
    let url = format!("http://localhost:{}", recorder.peer.address.port());
    let setup = daemon().quiet().unprotected().without_token().upstream(url);
    let world = setup.limits("body_timeout = \"2s\"").start().await;
    let began = Instant::now();

    let http1 = async {
        let mut caller = world.caller().await;
        let head = format!("POST /x HTTP/1.1\r\nhost: {}\r\ncontent-length: 100\r\n\r\n", world.address);
        caller.write(head.as_bytes()).await;
        let trickle = async {
            for _ in 0..70 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if caller.try_write(b"x").await.is_err() {
                    break;
                }
            }
        };
        trickle.await;
        let reply = caller.read().await.unwrap();
        assert_eq!((reply.status, reply.code().as_deref()), (408, Some("request_timeout")));
    };
    let http2 = async {
        let stream = TcpStream::connect(world.address).await.unwrap();
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
        let connection = tokio::spawn(connection);
        let body = futures_util::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let request = http::Request::post(format!("http://{}/x", world.address));
        let request = request.body(StreamBody::new(Box::pin(body))).unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), 408);
        connection.abort();
    };
    tokio::join!(http1, http2);

    assert!((5..12).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    for message in recorder.ended(2).await {
        let body = message.split("\r\n\r\n").nth(1).unwrap();
        assert!(!body.is_empty() && body.len() < 1000 && !message.ends_with("0\r\n\r\n"), "{message}");
    }
    world.finish().await;
}

#[tokio::test]
async fn connections_that_reach_their_age_lose_no_request() {
    let world = daemon().quiet().limits("connection_age = \"1s\"").start().await;
    let began = Instant::now();
    let http1 = async {
        let (mut caller, mut connections, mut requests) = (world.caller().await, 1, 0);
        while began.elapsed() < Duration::from_secs(4) {
            let reply = caller.send(&Request::get("/x")).await;
            assert_eq!(reply.status, 200);
            requests += 1;
            if reply.get("connection") == Some("close") {
                assert!(caller.is_closed().await);
                (caller, connections) = (world.caller().await, connections + 1);
            }
        }
        assert!((3..8).contains(&connections), "{connections} connections, {requests} requests");
    };
    let http2 = async {
        let (mut connections, mut answers) = (0, 0);
        while began.elapsed() < Duration::from_secs(4) {
            let stream = TcpStream::connect(world.address).await.unwrap();
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            let connection = tokio::spawn(connection);
            connections += 1;
            while sender.ready().await.is_ok() && began.elapsed() < Duration::from_secs(4) {
                let request = http::Request::get(format!("http://{}/slow/30", world.address));
                let request = request.body(http_body_util::Empty::<Bytes>::new()).unwrap();
                let response = match sender.try_send_request(request).await {
                    Ok(response) => response,
                    Err(mut error) => {
                        // A request that is handed back was not sent, as the connection was closing.
                        assert!(
                            error.take_message().is_some(),
                            "a request was lost: {:?}",
                            error.into_error()
                        );
                        break;
                    }
                };
                assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "at last");
                answers += 1;
            }
            drop(sender);
            connection.await.unwrap().unwrap();
        }
        assert!((3..8).contains(&connections), "{connections} connections, {answers} answers");
    };
    let idle = async {
        let mut caller = served(&world).await;
        assert!(caller.is_closed().await);
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    };
    tokio::join!(http1, http2, idle);
    world.finish().await;
}

#[tokio::test]
async fn too_large_a_head_gets_problem_details_over_http_2() {
    let world = daemon().limits("header_bytes = \"8KiB\"").start().await;
    let mut caller = Http2Caller::connect(world.address).await;

    let large = Request::get("/x").field("x-large", &"x".repeat(9000));
    let reply = caller.send(&large).await;
    assert_eq!((reply.status, reply.code().as_deref()), (431, Some("header_too_large")));
    let many = (0..100).fold(Request::get("/x"), |request, number| {
        request.field(&format!("x-field-{number}"), &"x".repeat(50))
    });
    assert_eq!(caller.send(&many).await.status, 431);
    let fits = Request::get("/x").field("x-large", &"x".repeat(6000));
    assert_eq!(caller.send(&fits).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn large_heads_and_tiny_chunks_cost_little() {
    let world = daemon().quiet().start().await;
    let host = format!("host: {}\r\nx-test-id: large\r\n", world.address);
    let fields = "x-field: x\r\n".repeat(100_000);
    let many_fields = format!("GET /x HTTP/1.1\r\n{host}{fields}\r\n");
    let large_field = format!("GET /x HTTP/1.1\r\n{host}x-large: {}\r\n\r\n", "x".repeat(2_000_000));
    let post = format!("POST /echo HTTP/1.1\r\n{host}transfer-encoding: chunked\r\n\r\n");
    let tiny_chunks = format!("{post}{}0\r\n\r\n", "1\r\nx\r\n".repeat(20_000));
    let extensions = format!("{post}1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(1_000_000));
    for (what, request, allowed) in [
        ("100,000 fields", many_fields, &[431][..]),
        ("a field of 2 MB", large_field, &[431]),
        ("tiny chunks", tiny_chunks, &[200]),
        ("1 MB of chunk extensions", extensions, &[400]),
    ] {
        let before = world.process.cpu_time();
        let mut caller = world.caller().await;
        let _ = caller.try_write(request.as_bytes()).await;

        let reply = caller.read().await.unwrap();

        assert!(allowed.contains(&reply.status), "{what}: {}", reply.status);
        let busy = world.process.cpu_time().saturating_sub(before);
        assert!(busy < Duration::from_secs(1), "{what}: {busy:?}");
    }
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

/// A proxy in front may cancel the requests of many callers at once.
#[tokio::test]
async fn many_streams_cancelled_at_once_end_no_other_stream() {
    const LAST: u32 = 121;
    let world = daemon().quiet().start().await;
    let fields = [(":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/x")];
    let mut sent = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &frame(4, 0, 0, b"")[..]].concat();
    for stream in (1..LAST).step_by(2) {
        sent.extend(headers(stream, 1, &fields));
        sent.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    sent.extend(headers(LAST, 1, &fields));
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(&sent).await.unwrap();

    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            stream.read_exact(&mut vec![0; usize::try_from(length).unwrap()]).await.unwrap();
            assert_ne!(head[3], 7, "the connection ends");
            if head[3] == 1 && head[5..] == LAST.to_be_bytes() {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), answered).await.unwrap();
    drop(stream);
    world.finish().await;
}
