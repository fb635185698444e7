//! The access log: its members, which exchanges it contains, and the identifiers of requests.

use std::time::Duration;

use serde_json::{Map, Value};
use testkit::harness::raw::Recorder;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Caller, Http2Caller, Request, World, daemon, eventually};

/// Every member of a line, in its order.
const MEMBERS: [&str; 26] = [
    "timestamp",
    "level",
    "target",
    "message",
    "request_id",
    "trace_id",
    "caller",
    "client_address",
    "http_request_method",
    "url_path",
    "http_route",
    "credential",
    "upstream",
    "http_response_status_code",
    "code",
    "attempts",
    "unauthorized",
    "token_fingerprint",
    "generation",
    "bytes",
    "duration_ms",
    "token_wait_ms",
    "quota_wait_ms",
    "upstream_ms",
    "complete",
    "error",
];

const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The lines of the access log so far, by their time: those of several workers come in any order.
fn lines(world: &World) -> Vec<Map<String, Value>> {
    let output = world.process.output();
    let events = output.lines().filter_map(|line| serde_json::from_str::<Map<String, Value>>(line).ok());
    let mut lines: Vec<_> = events.filter(|event| event["target"] == "bearerd::access").collect();
    lines.sort_by_key(|line| line["timestamp"].as_str().unwrap().to_owned());
    lines
}

/// The lines of the access log, once there are so many.
async fn logged(world: &World, count: usize) -> Vec<Map<String, Value>> {
    eventually("the access log", async || lines(world).len() >= count).await;
    let lines = lines(world);
    assert_eq!(lines.len(), count, "{lines:#?}");
    lines
}

/// The identifiers that the API has seen.
fn forwarded(world: &World, name: &str) -> Vec<Option<String>> {
    world.upstream.requests().iter().map(|seen| seen.get(name).map(str::to_owned)).collect()
}

fn is_uuid_v7(id: &str) -> bool {
    let groups: Vec<usize> = id.split('-').map(str::len).collect();
    groups == [8, 4, 4, 4, 12]
        && id.as_bytes()[14] == b'7'
        && b"89ab".contains(&id.as_bytes()[19])
        && id.bytes().all(|byte| byte == b'-' || byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Sends bytes as they are, and reads until the daemon closes.
async fn answer_to(world: &World, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_line_has_every_member_and_unknown_ones_are_null() {
    let world = daemon().start().await;
    let request = Request::post("/echo?secret=hunter2", b"hello")
        .field("x-request-id", "ours-1")
        .field("traceparent", TRACEPARENT);
    assert_eq!(world.send(&request).await.status, 200);
    assert_eq!(world.send(&Request::get("/x").method("TRACE")).await.status, 405);
    let refused = answer_to(&world, b"GET / HTTP/1.1\r\nbad header\r\n\r\n").await;
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");

    let lines = logged(&world, 3).await;
    for line in &lines {
        let mut members: Vec<_> = line.keys().map(String::as_str).collect();
        members.sort_unstable();
        let mut expected = MEMBERS;
        expected.sort_unstable();
        assert_eq!(members, expected);
        assert_eq!((&line["level"], &line["message"]), (&"INFO".into(), &"request".into()));
    }
    let raw = world.process.output();
    let first = raw.lines().find(|line| line.contains("ours-1") && line.contains("bearerd::access")).unwrap();
    let at: Vec<_> = MEMBERS.iter().map(|name| first.find(&format!("\"{name}\":")).unwrap()).collect();
    assert!(at.is_sorted(), "{first}");

    let line = &lines[0];
    for (member, value) in [
        ("request_id", "ours-1"),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736"),
        ("client_address", "127.0.0.1"),
        ("http_request_method", "POST"),
        ("url_path", "/echo"),
        ("http_route", "/"),
        ("credential", "api"),
        ("upstream", &world.upstream.url()),
    ] {
        assert_eq!(line[member], value, "{member}");
    }
    for (member, value) in
        [("http_response_status_code", 200), ("attempts", 1), ("generation", 1), ("bytes", 5)]
    {
        assert_eq!(line[member], value, "{member}");
    }
    for absent in ["caller", "code", "unauthorized", "quota_wait_ms", "error"] {
        assert_eq!(line[absent], Value::Null, "{absent}");
    }
    assert_eq!(line["complete"], true);
    assert_eq!(line["token_fingerprint"].as_str().unwrap().len(), 16);
    let milliseconds = |member: &str| line[member].as_f64().unwrap();
    assert_eq!(line["token_wait_ms"], 0.0);
    assert!(milliseconds("upstream_ms") > 0.0 && milliseconds("upstream_ms") <= milliseconds("duration_ms"));

    let line = &lines[1];
    assert_eq!((&line["code"], &line["attempts"]), (&"method_not_supported".into(), &0.into()));
    for absent in ["http_route", "credential", "upstream", "generation", "token_wait_ms", "upstream_ms"] {
        assert_eq!(line[absent], Value::Null, "{absent}");
    }
    let line = &lines[2];
    assert_eq!((&line["code"], &line["complete"]), (&"bad_request".into(), &true.into()));
    assert!(
        refused.contains(&format!("x-request-id: {}\r\n", line["request_id"].as_str().unwrap())),
        "{refused}"
    );
    assert!(!world.process.output().contains("hunter2"));
    world.finish().await;
}

#[tokio::test]
async fn a_callers_identifier_is_kept_and_any_other_replaced_over_both_protocols() {
    let world = daemon().http2().start().await;
    let longest = "x".repeat(128);
    let too_long = "x".repeat(129);
    let cases: [(&[&str], bool); 6] = [
        (&["abc/1{}\"\\"], true),
        (&[&longest], true),
        (&[&too_long], false),
        (&["a b"], false),
        (&["one", "two"], false),
        (&[], false),
    ];
    let mut http2 = Http2Caller::connect(world.address).await;
    for (fields, is_kept) in cases {
        let request = fields.iter().fold(Request::get("/x"), |request, id| request.field("x-request-id", id));
        for reply in [world.send(&request).await, http2.send(&request).await] {
            let id = reply.get("x-request-id").unwrap();
            assert!(if is_kept { id == fields[0] } else { is_uuid_v7(id) }, "{fields:?}: {id}");
            assert!(forwarded(&world, "x-request-id").contains(&Some(id.to_owned())), "{id}");
            eventually("the log", async || lines(&world).iter().any(|line| line["request_id"] == id)).await;
        }
    }
    world.finish().await;
}

#[tokio::test]
async fn a_hostile_request_stays_one_line_that_parses() {
    let world = daemon().start().await;
    let hostile: [&[u8]; 7] = [
        b"GET /\xe2\x80\xa8/\xc2\x85 HTTP/1.1\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\n",
        b"GET /\x1b[31mred HTTP/1.1\r\n",
        b"G\"E\\T /\"quoted\\path HTTP/1.1\r\n",
        b"GET\x1b /x HTTP/1.1\r\n",
        b"GET /%0d%0a%1b%00 HTTP/1.1\r\n",
        b"GET /a%E2%80%A8b%FF HTTP/1.1\r\n",
    ];
    for line in hostile {
        let fields = b"host: localhost\r\nconnection: close\r\nuser-agent: \xe2\x80\xa8\x9b\xff{\"a\":1}\r\n\
                       x-request-id: \xe2\x80\xa8forged\r\ntraceparent: \xff\r\n\r\n";
        let answer = answer_to(&world, &[line, fields].concat()).await;
        assert!(answer.starts_with("HTTP/1.1 ") && answer.contains("x-request-id: "), "{answer}");
    }

    let found = logged(&world, hostile.len()).await;
    let output = world.process.output();
    let is_plain = |c: char| (' '..='~').contains(&c);
    for line in output.lines().filter(|line| line.contains("bearerd::access")) {
        assert!(line.chars().all(is_plain), "{line}");
        serde_json::from_str::<Value>(line).unwrap();
    }
    assert!(!output.contains("forged"));
    for line in &found {
        assert!(is_uuid_v7(line["request_id"].as_str().unwrap()) && line["trace_id"].is_null(), "{line:?}");
    }
    assert_eq!(found[6]["url_path"], "/a%E2%80%A8b%FF", "as sent");
    world.finish().await;
}

#[tokio::test]
async fn a_malformed_trace_ends_here_and_a_good_one_goes_on_unchanged() {
    let world = daemon().start().await;
    let send = async |fields: &[(&str, &str)]| {
        let request =
            fields.iter().fold(Request::get("/x"), |request, (name, value)| request.field(name, value));
        assert_eq!(world.send(&request).await.status, 200);
        let seen = world.upstream.requests().pop().unwrap();
        ["traceparent", "tracestate"].map(|name| seen.get(name).map(str::to_owned))
    };
    let state = ("tracestate", "vendor=1");
    let future = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more";
    for good in [TRACEPARENT, future] {
        let both = [Some(good.to_owned()), Some("vendor=1".to_owned())];
        assert_eq!(send(&[("traceparent", good), state]).await, both);
    }
    for wrong in [
        "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
        "nonsense",
    ] {
        assert_eq!(send(&[("traceparent", wrong), state]).await, [None, None], "{wrong}");
    }
    let two = [("traceparent", TRACEPARENT), ("traceparent", TRACEPARENT), state];
    assert_eq!(send(&two).await, [None, None]);
    assert_eq!(send(&[state]).await, [None, None]);

    let named = logged(&world, 10).await.iter().filter(|line| !line["trace_id"].is_null()).count();
    assert_eq!(named, 2);
    world.finish().await;
}

#[tokio::test]
async fn a_route_may_remove_or_replace_the_identifier_for_its_api() {
    let routes = "headers = { remove = [\"X-Request-Id\"] }\n[[routes]]\npath = \"/own\"\nupstream = \"{upstream}\"\n\
                  ca_file = \"ca.pem\"\ncredential = \"api\"\nheaders = { set = { X-Request-Id = \"fixed\" } }";
    let world = daemon().route(routes).start().await;
    for (path, sent) in [("/x", None), ("/own", Some("fixed".to_owned()))] {
        let reply = world.send(&Request::get(path).field("x-request-id", "the-callers")).await;
        assert_eq!(reply.get("x-request-id"), Some("the-callers"));
        assert_eq!(forwarded(&world, "x-request-id").pop().unwrap(), sent, "{path}");
    }
    world.finish().await;
}

#[tokio::test]
async fn every_consequence_of_a_401_is_in_the_log() {
    let world = daemon().limits("replay_body = \"1KiB\"").start().await;
    let mut caller = world.caller().await;
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    world.authorization.revoke_all();
    assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    let lines = logged(&world, 2).await;
    let of = |line: &Map<String, Value>| {
        (line["unauthorized"].clone(), line["attempts"].clone(), line["generation"].clone())
    };
    assert_eq!(of(&lines[0]), (Value::Null, 1.into(), 1.into()));
    assert_eq!(of(&lines[1]), ("replayed".into(), 2.into(), 2.into()));
    assert_ne!(lines[0]["token_fingerprint"], lines[1]["token_fingerprint"]);
    assert!(lines[1]["token_wait_ms"].as_f64().unwrap() > 0.0);

    world.authorization.revoke_all();
    assert_eq!(caller.send(&Request::post("/echo", &[b'x'; 5000])).await.status, 401);
    let lines = logged(&world, 3).await;
    assert_eq!(of(&lines[2]), ("body_not_kept".into(), 1.into(), 2.into()));
    world.finish().await;
}

#[tokio::test]
async fn an_upstream_that_rejects_every_token_shows_as_fresh_token_rejected_then_held() {
    let recorder =
        Recorder::start("HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let world =
        daemon().unchecked_tokens().upstream(format!("http://{}", recorder.peer.address)).start().await;
    for expected in ["fresh_token_rejected", "held"] {
        let reply =
            answer_to(&world, b"GET /x HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
        assert!(reply.starts_with("HTTP/1.1 401 "), "{reply}");
        eventually("the log", async || lines(&world).iter().any(|line| line["unauthorized"] == expected))
            .await;
    }
    world.finish().await;
}

#[tokio::test]
async fn a_sampled_log_has_every_error_replay_and_refusal() {
    let world = daemon().route("[log]\naccess = 0.000001").start().await;
    let mut caller = world.caller().await;
    for _ in 0..20 {
        assert_eq!(caller.send(&Request::get("/x")).await.status, 200);
    }
    assert_eq!(world.get("/status/404").await.status, 404);
    world.authorization.revoke_all();
    assert_eq!(caller.send(&Request::get("/replayed")).await.status, 200);
    assert_eq!(caller.send(&Request::get("/x").method("TRACE")).await.status, 405);
    let mut leaving = world.caller().await;
    leaving.write(format!("GET /hang HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
    eventually("the held request", async || {
        world.upstream.requests().iter().any(|seen| seen.target == "/hang")
    })
    .await;
    drop(leaving);

    let lines = logged(&world, 4).await;
    let paths: Vec<_> = lines.iter().map(|line| line["url_path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/status/404", "/replayed", "/x", "/hang"]);
    assert_eq!(
        (&lines[3]["complete"], &lines[3]["http_response_status_code"]),
        (&false.into(), &Value::Null)
    );
    world.finish().await;
}

#[tokio::test]
async fn without_an_access_log_only_failures_are_written() {
    let world = daemon()
        .quiet()
        .upstream("http://127.0.0.1:1".to_owned())
        .route("[log]\naccess = false")
        .start()
        .await;
    assert_eq!(world.send(&Request::get("/x").method("TRACE")).await.status, 405);
    let reply = world.get("/x").await;
    assert_eq!(reply.status, 502);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let lines = logged(&world, 1).await;
    assert_eq!((&lines[0]["level"], &lines[0]["code"]), (&"WARN".into(), &"upstream_unreachable".into()));
    assert_eq!(lines[0]["request_id"].as_str(), reply.get("x-request-id"));
    world.finish().await;
}

#[tokio::test]
async fn a_response_that_breaks_off_is_not_complete() {
    let recorder = Recorder::start("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    let world = daemon()
        .unchecked_tokens()
        .upstream(format!("http://{}", recorder.peer.address))
        .route("read_timeout = \"300ms\"")
        .start()
        .await;
    let mut caller = Caller::connect(world.address).await;
    assert!(caller.try_send(&Request::get("/x")).await.is_err());
    let lines = logged(&world, 1).await;
    assert_eq!((&lines[0]["complete"], &lines[0]["bytes"]), (&false.into(), &4.into()));
    world.finish().await;
}
