//! Configured callers: how each is identified, what its requests are called in every output, and what routes require.

use std::collections::BTreeSet;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;
use testkit::harness::raw::{RawPeer, read_head};
use testkit::harness::setup::{CALLER_KEY, CALLER_KEY_HASH, caller_basic};
use testkit::harness::tls_caller::TlsCaller;
use testkit::harness::world::assert_absent;
use testkit::pki::Pki;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UnixStream};

use crate::harness::{BEARERD, Caller, Http2Caller, Reply, Request, World, daemon, eventually};
use crate::status::{command, status};

/// Callers with a key, and with another key.
const OTHER_KEY: &str = "nT5Bq8rWc3Zy7uKd1JmXo9GvLhE4sPa6fQiR2wNt0bY";
const OTHER_KEY_HASH: &str = "sha256:af47ce51c875e94a178610c9977133353d798f46689548c37d642908ceb8ede8";

/// A caller with a key, and one with the address of the tests.
fn billing_and_desk() -> String {
    format!(
        "[callers.billing]\nkey_hash = [\"{CALLER_KEY_HASH}\"]\n[callers.desk]\nnetworks = [\"127.0.0.1\", \"::1\"]\n"
    )
}

fn with_key() -> Request {
    Request::get("/x").field("x-api-key", CALLER_KEY)
}

fn refusal(reply: &Reply) -> (u16, Option<String>) {
    (reply.status, reply.code())
}

fn code(status: u16, code: &str) -> (u16, Option<String>) {
    (status, Some(code.to_owned()))
}

/// The callers of the lines of the access log, once there are so many. Lines of requests on different workers are in order
/// where a test waits for each.
async fn logged(world: &World, count: usize) -> Vec<Option<String>> {
    eventually("the access log", async || world.process.events("request").len() >= count).await;
    let events = world.process.events("request");
    events.iter().map(|event| event["caller"].as_str().map(str::to_owned)).collect()
}

/// The counts of requests in the metrics, by caller and status.
async fn counted(world: &World) -> BTreeSet<String> {
    let (_, scrape) = world.admin_get("/metrics").await;
    let lines = scrape.lines().filter_map(|line| line.strip_prefix("bearerd_caller_requests_total"));
    lines.map(str::to_owned).collect()
}

/// A count in the metrics.
fn series(caller: &str, status: u16, count: u64) -> String {
    format!("{{caller=\"{caller}\",http_response_status_code=\"{status}\"}} {count}.0")
}

#[tokio::test]
async fn a_caller_is_known_by_its_key_on_every_connection_and_the_key_stays_here() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.sock");
    let listen = format!("listen = [\"127.0.0.1:0\", \"unix:{}\"]", path.display());
    let world = daemon().server(&listen).route(&billing_and_desk()).start().await;
    let basic = Request::get("/x").field("authorization", &caller_basic());

    let mut http1 = world.caller().await;
    let mut http2 = Http2Caller::connect(world.address).await;
    let mut socket = over(&path).await;
    for request in [with_key(), basic, with_key().field("x_api_key", CALLER_KEY)] {
        for reply in [http1.send(&request).await, http2.send(&request).await, socket.send(&request).await] {
            assert_eq!(reply.status, 200, "{request:?}");
        }
    }
    // The key belongs to the request, and the address to the connection.
    assert_eq!(http1.send(&Request::get("/x")).await.status, 200);
    assert_eq!(http2.send(&Request::get("/x").field("x-api-key", OTHER_KEY)).await.status, 200);
    // A unix socket has no address.
    assert_eq!(refusal(&over(&path).await.send(&Request::get("/x")).await), code(403, "caller_unknown"));

    let mut callers = logged(&world, 12).await;
    callers.sort();
    let named = |name: &str, count| vec![Some(name.to_owned()); count];
    assert_eq!(callers, [vec![None], named("billing", 9), named("desk", 2)].concat());
    for seen in world.upstream.requests() {
        assert!(seen.get("x-api-key").is_none() && seen.get("x_api_key").is_none(), "{seen:?}");
    }
    let expected = [series("_other", 403, 1), series("billing", 200, 9), series("desk", 200, 2)];
    assert_eq!(counted(&world).await, expected.into());
    // A head that is not complete names no caller.
    let mut malformed = world.caller().await;
    malformed.write(b"GET / HTTP/1.1\r\nbad field\r\n\r\n").await;
    assert_eq!(malformed.read().await.unwrap().status, 400);
    let expected = [
        series("_other", 400, 1),
        series("_other", 403, 1),
        series("billing", 200, 9),
        series("desk", 200, 2),
    ];
    assert_eq!(counted(&world).await, expected.into());

    let callers = status(&world).await["callers"].clone();
    let one = |name: &str, requests: u64, refused: u64| {
        serde_json::json!({"name": name, "weight": 1, "requests": requests, "refused": refused, "waiting": 0,
                           "share": null, "quota": null})
    };
    assert_eq!(callers, Value::from(vec![one("billing", 9, 0), one("desk", 2, 0)]));
    let (_, text) = command(&world, &[]).await;
    let shown = text.lines().find(|line| line.starts_with("billing ")).unwrap_or_else(|| panic!("{text}"));
    assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["billing", "9", "0", "0", "1", "-", "-"]);
    let (_, page) = world.admin_get("/").await;
    assert!(
        page.contains("<h2 id=\"callers\">Callers</h2>") && page.contains("<code>billing</code>"),
        "{page}"
    );
    world.finish().await;
}

async fn over(path: &Path) -> Caller {
    Caller::over(UnixStream::connect(path).await.unwrap(), "localhost")
}

#[tokio::test]
async fn keys_that_contradict_each_other_or_are_in_a_query_are_refused() {
    let callers = format!("{}[callers.crm]\nkey_hash = [\"{OTHER_KEY_HASH}\"]\n", billing_and_desk());
    let world = daemon().route(&callers).start().await;
    let with_other = Request::get("/x").field("x-api-key", OTHER_KEY);
    for request in [
        with_key().field("x-api-key", CALLER_KEY),
        with_other.field("authorization", &caller_basic()),
        Request::get(&format!("/x?api_key={CALLER_KEY}")),
        Request::get(&format!("/x?a=1&{}", CALLER_KEY.replace('Z', "%5A"))).field("x-api-key", CALLER_KEY),
    ] {
        let replies =
            [world.send(&request).await, Http2Caller::connect(world.address).await.send(&request).await];
        for reply in replies {
            assert_eq!(refusal(&reply), code(400, "bad_request"), "{request:?}");
            assert!(reply.text().contains("X-Api-Key") && !reply.text().contains(CALLER_KEY), "{reply:?}");
        }
    }
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");
    world.finish().await;
}

#[tokio::test]
async fn an_unknown_caller_is_refused_unless_there_is_other() {
    let callers = "[callers.billing]\nnetworks = [\"192.0.2.0/24\"]\n[audit]\noutput = \"file:audit.jsonl\"";
    let world = daemon().quiet().route(callers).start().await;
    let mut caller = world.caller().await;
    assert_eq!(refusal(&caller.send(&Request::get("/x")).await), code(403, "caller_unknown"));
    logged(&world, 1).await;
    let mut http2 = Http2Caller::connect(world.address).await;
    assert_eq!(refusal(&http2.send(&with_key()).await), code(403, "caller_unknown"));
    assert!(world.upstream.requests().is_empty(), "nothing was forwarded");

    // A reload concerns open connections too.
    world.configure(|text| text.replace("[callers.billing]", "[callers.other]\n[callers.billing]"));
    let event = world.reload().await;
    assert!(event["settings"].to_string().contains("callers"), "{event}");
    assert_eq!(http2.send(&Request::get("/x")).await.status, 200);
    world.configure(|text| text.replace("\"192.0.2.0/24\"", "\"127.0.0.0/8\""));
    world.reload().await;
    assert_eq!(http2.send(&Request::get("/x")).await.status, 200);
    logged(&world, 4).await;
    let evil = Request::get("/x").field("host", "evil.test");
    assert_eq!(refusal(&world.send(&evil).await), code(421, "host_not_allowed"));

    let named = |name: &str| Some(name.to_owned());
    assert_eq!(logged(&world, 5).await, [None, None, named("other"), named("billing"), named("billing")]);
    let expected = [series("_other", 403, 2), series("other", 200, 1)].into_iter();
    let expected = expected.chain([series("billing", 200, 1), series("billing", 421, 1)]);
    assert_eq!(counted(&world).await, expected.collect());
    let callers = status(&world).await["callers"].clone();
    assert_eq!((&callers[0]["refused"], &callers[1]["refused"]), (&1.into(), &0.into()), "{callers}");
    let trail = world.folder().join("audit.jsonl");
    eventually("the refusal of billing in the trail", async || {
        std::fs::read_to_string(&trail).unwrap_or_default().lines().any(|line| {
            let line: Value = serde_json::from_str(line).unwrap_or_default();
            line["event"] == "caller.refused"
                && line["actor"] == "billing"
                && line["reason"] == "host_not_allowed"
        })
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_route_requires_a_caller_that_is_proven() {
    let lines = format!("callers = [\"billing\"]\n{}", billing_and_desk())
        .replace("networks = [\"127.0.0.1\"", "networks = [\"198.51.100.0/24\"");
    let lines = lines.replace("key_hash", "networks = [\"192.0.2.0/24\"]\nkey_hash");
    let world = daemon().quiet().server("trusted_proxies = [\"127.0.0.1\"]").route(&lines).start().await;
    let forwarded = |request: Request, address: &str| request.field("x-forwarded-for", address);
    let request = || Request::get("/x");

    // What a proxy says names a caller, and proves none.
    let not_allowed = code(403, "caller_not_allowed");
    for (count, (request, answer, caller)) in (1..).zip([
        (forwarded(request(), "192.0.2.7"), not_allowed.clone(), Some("billing")),
        (forwarded(request(), "198.51.100.7"), not_allowed, Some("desk")),
        (forwarded(with_key(), "198.51.100.7"), (200, None), Some("billing")),
        (request(), code(403, "caller_unknown"), None),
    ]) {
        assert_eq!(refusal(&world.send(&request).await), answer, "{request:?}");
        assert_eq!(logged(&world, count).await.pop().unwrap().as_deref(), caller, "{request:?}");
    }
    // The address at the other end of the connection is proof.
    world.configure(|text| text.replace("192.0.2.0/24", "127.0.0.1"));
    world.reload().await;
    assert_eq!(world.send(&request()).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_client_certificate_names_a_caller_over_both_protocols() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let clients = Pki::new(&["clients"]).unwrap();
    let caller = TlsCaller::trusting(pki.authority());
    let callers = "callers = [\"billing\"]\n[callers.billing]\ncertificates = [\"URI:spiffe://example.org/billing\"]\n\
                   [callers.desk]\nnetworks = [\"127.0.0.1\"]";
    let setup = daemon().quiet().tls(pki.server()).client_ca(clients.authority_pem()).route(callers);
    let world = setup.start_with(pki, async |_| {}).await;
    let billing = clients.client("billing", &["spiffe://example.org/billing"], None).unwrap();
    let crm = clients.client("crm", &[], None).unwrap();

    let showing = caller.clone().showing(&billing);
    let mut http1 = showing.connect(world.address).await.unwrap();
    let mut http2 = showing.connect_http2(world.address).await.unwrap();
    for _ in 0..2 {
        assert_eq!(http1.send(&Request::get("/x")).await.status, 200);
        assert_eq!(http2.send(&Request::get("/x")).await.status, 200);
    }
    logged(&world, 4).await;
    // Another certificate is known by its address, which the route does not admit.
    let mut other = caller.showing(&crm).connect(world.address).await.unwrap();
    assert_eq!(refusal(&other.send(&Request::get("/x")).await), code(403, "caller_not_allowed"));

    let callers = logged(&world, 5).await;
    assert_eq!(callers[..4], vec![Some("billing".to_owned()); 4]);
    assert_eq!(callers[4].as_deref(), Some("desk"));
    world.finish().await;
}

#[tokio::test]
async fn a_websocket_handshake_is_its_callers_and_loses_the_key() {
    const SWITCHED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
                            sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    let (sender, mut heads) = tokio::sync::mpsc::channel(2);
    let peer = RawPeer::tcp(move |mut stream| {
        let sender = sender.clone();
        async move {
            let head = read_head(&mut stream).await;
            let _ = stream.write_all(SWITCHED.as_bytes()).await;
            let _ = sender.send(String::from_utf8(head).unwrap()).await;
        }
    })
    .await;
    let lines = format!("upgrade = [\"websocket\"]\ncallers = [\"billing\"]\n{}", billing_and_desk());
    let world = daemon().route(&lines).upstream(format!("http://{}", peer.address)).start().await;

    let mut stream = TcpStream::connect(world.address).await.unwrap();
    let handshake = format!(
        "GET /chat HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nconnection: Upgrade\r\nx-api-key: {CALLER_KEY}\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n",
        world.address
    );
    stream.write_all(handshake.as_bytes()).await.unwrap();

    let head = heads.recv().await.unwrap();
    assert!(head.contains("sec-websocket-key") && !head.contains("x-api-key"), "{head}");
    assert!(!head.contains(CALLER_KEY), "{head}");
    drop(stream);
    assert_eq!(logged(&world, 1).await, [Some("billing".to_owned())]);
    world.finish().await;
}

/// Runs `bearerd explain`; returns its exit code and its JSON.
fn explained(arguments: &[&str], input: &str) -> (i32, Value) {
    let folder = tempfile::tempdir().unwrap();
    let config = format!(
        "[server]\nallow_from = [\"10.0.0.0/8\", \"127.0.0.1\"]\ntrusted_proxies = [\"10.9.9.9\"]\n\
         [callers.billing]\nkey_hash = [\"{CALLER_KEY_HASH}\"]\n[callers.desk]\nnetworks = [\"10.0.0.0/8\"]\n\
         [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n\
         [[routes]]\npath = \"/billing\"\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n\
         callers = [\"billing\"]\n"
    );
    std::fs::write(folder.path().join("proxy.toml"), config).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(BEARERD);
        command.arg("explain").args(arguments).env_clear().current_dir(folder.path());
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        for stream in [&output.stdout, &output.stderr] {
            assert_absent(&String::from_utf8_lossy(stream), CALLER_KEY);
        }
        output
    };
    let text = String::from_utf8(run(arguments).stdout).unwrap();
    let output = run(&[arguments, &["--json"]].concat());
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let shown = match json["caller"]["name"].as_str() {
        Some(name) => format!("[callers.{name}]"),
        None => "none of [callers.NAME]".to_owned(),
    };
    assert!(text.contains(&shown), "{text}");
    (output.status.code().unwrap(), json)
}

#[test]
fn explain_tells_the_caller_and_what_a_route_requires() {
    let forwarded = "X-Forwarded-For: 10.0.0.1";
    for (arguments, input, code, caller) in [
        (&["GET", "/x"][..], "", 1, None),
        (&["GET", "/x", "--address", "10.1.2.3"], "", 0, Some(("desk", true))),
        (&["GET", "/billing", "--address", "10.1.2.3"], "", 1, Some(("desk", true))),
        (&["GET", "/x", "--address", "10.9.9.9", "-H", forwarded], "", 0, Some(("desk", false))),
        (&["GET", "/billing", "--caller", "billing"], "", 0, Some(("billing", true))),
        (&["GET", "/billing", "--key-stdin"], CALLER_KEY, 0, Some(("billing", true))),
        (&["GET", "/billing", "--key-stdin"], "not-a-key-of-anybody\n", 1, None),
        (&["GET", "/x", "--address", "192.0.2.1"], "", 1, None),
    ] {
        let (exit, json) = explained(arguments, input);
        assert_eq!(exit, code, "{arguments:?}: {json}");
        let found = json["caller"]["name"].as_str().zip(json["caller"]["proven"].as_bool());
        assert_eq!(found, caller, "{arguments:?}: {json}");
    }
    let (_, json) = explained(&["GET", &format!("/x?key={CALLER_KEY}")], "");
    assert_eq!(
        (&json["code"], &json["request"]["target"]),
        (&"bad_request".into(), &"/x?***".into()),
        "{json}"
    );
    let (_, json) = explained(&["GET", "/x", "--address", "192.0.2.1"], "");
    assert_eq!(json["code"], "caller_not_allowed", "{json}");
    let (_, json) = explained(&["GET", "/x"], "");
    assert_eq!(json["code"], "caller_unknown", "{json}");
}

/// An API may have an `X-Api-Key` of its own: where no caller has a key, the field is the caller's.
#[tokio::test]
async fn where_no_caller_has_a_key_the_field_belongs_to_the_api() {
    let world = daemon().quiet().route("[callers.desk]\nnetworks = [\"127.0.0.1\"]").start().await;
    assert_eq!(world.send(&Request::get("/x?key=abc").field("x-api-key", "of-the-api")).await.status, 200);
    assert_eq!(world.upstream.requests()[0].get("x-api-key"), Some("of-the-api"));
    world.finish().await;

    // A route may set the field, also where the callers' keys have the same name.
    let lines = format!("headers = {{ set_if_absent = {{ X-Api-Key = \"ours\" }} }}\n{}", billing_and_desk());
    let world = daemon().quiet().route(&lines).start().await;
    assert_eq!(world.send(&with_key()).await.status, 200);
    assert_eq!(world.upstream.requests()[0].get("x-api-key"), Some("ours"));
    world.finish().await;
}

/// Names are configured: neither addresses nor connections add a series or a line.
#[tokio::test]
async fn any_number_of_addresses_and_connections_takes_no_series() {
    const ADDRESSES: u32 = 10_000;
    const CONNECTIONS: u32 = 1000;
    let lines = "deny = [\"* /denied\"]\n[callers.desk]\nnetworks = [\"10.0.0.0/8\"]\n[callers.other]\n\
                 [log]\naccess = false";
    let world = daemon().quiet().server("trusted_proxies = [\"127.0.0.1\"]").route(lines).start().await;
    // Over HTTP/2, a refusal keeps the connection; a refused request is counted as any other.
    let callers = (0..4).map(|part| {
        let address = world.address;
        tokio::spawn(async move {
            let mut caller = Http2Caller::connect(address).await;
            for number in (0..ADDRESSES).filter(|number| number % 4 == part) {
                let first = if number % 2 == 0 { 10 } else { 11 };
                let ip = Ipv4Addr::from_bits((first << 24) + number).to_string();
                let reply = caller.send(&Request::get("/denied").field("x-forwarded-for", &ip)).await;
                assert_eq!(reply.status, 403);
            }
        })
    });
    for caller in callers.collect::<Vec<_>>() {
        caller.await.unwrap();
    }
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut caller = world.caller().await;
        assert_eq!(caller.send(&Request::get("/x").field("x-forwarded-for", "10.0.0.1")).await.status, 200);
        connections.push(caller);
    }
    let half = u64::from(ADDRESSES / 2);
    let expected =
        [series("desk", 200, CONNECTIONS.into()), series("desk", 403, half), series("other", 403, half)];
    assert_eq!(counted(&world).await, expected.into());
    let callers = status(&world).await["callers"].clone();
    assert_eq!((callers.as_array().unwrap().len(), &callers[0]["refused"]), (2, &half.into()), "{callers}");
    world.finish().await;
}
