//! Traces: spans arrive at a collector, and a collector that takes none harms nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body_util::{BodyExt, Full};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use prost::Message;
use rustix::process::Signal;
use testkit::harness::raw::RawPeer;
use testkit::harness::setup::{CALLER_KEY, CALLER_KEY_HASH};
use testkit::server::Server;
use tokio::io::AsyncReadExt;
use tokio::time::Instant;

use crate::harness::{Request, Setup, World, daemon, eventually, remains};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";
const SERVER: i32 = 2;
const CLIENT: i32 = 3;

/// A scripted collector.
struct Collector {
    server: Server,
    received: Arc<Mutex<Vec<(HeaderMap, Bytes)>>>,
}

/// A span that has arrived.
#[derive(Clone, Debug)]
struct Arrived {
    name: String,
    kind: i32,
    trace_id: String,
    span_id: String,
    parent: String,
    attributes: BTreeMap<String, String>,
    /// Trace and span of each link.
    links: Vec<(String, String)>,
    is_failed: bool,
}

impl Arrived {
    fn get(&self, name: &str) -> &str {
        self.attributes.get(name).map_or("", String::as_str)
    }
}

impl Collector {
    async fn start(status: u16) -> Self {
        let received = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&received);
        let server = Server::start(None, move |request| {
            let taken = Arc::clone(&taken);
            async move {
                assert_eq!(request.uri().path(), "/v1/traces");
                let (head, body) = request.into_parts();
                let body = body.collect().await.unwrap().to_bytes();
                taken.lock().unwrap().push((head.headers, body));
                let body = Full::new(Bytes::new()).map_err(|never| match never {}).boxed();
                Ok(Response::builder().status(status).body(body).unwrap())
            }
        });
        Self { server: server.await.unwrap(), received }
    }

    fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// A daemon that sends its traces here.
    fn daemon(&self, lines: &str) -> Setup {
        daemon().route(&format!("[tracing]\notlp_endpoint = \"{}\"\n{lines}", self.url()))
    }

    fn requests(&self) -> Vec<ExportTraceServiceRequest> {
        let received = self.received.lock().unwrap();
        received.iter().map(|(_, body)| ExportTraceServiceRequest::decode(body.clone()).unwrap()).collect()
    }

    fn spans(&self) -> Vec<Arrived> {
        let resources = self.requests().into_iter().flat_map(|request| request.resource_spans);
        let scopes = resources.flat_map(|resource| resource.scope_spans);
        let spans = scopes.flat_map(|scope| scope.spans).map(|span| Arrived {
            name: span.name,
            kind: span.kind,
            trace_id: hexadecimal(&span.trace_id),
            span_id: hexadecimal(&span.span_id),
            parent: hexadecimal(&span.parent_span_id),
            attributes: texts(span.attributes),
            links: span
                .links
                .iter()
                .map(|link| (hexadecimal(&link.trace_id), hexadecimal(&link.span_id)))
                .collect(),
            is_failed: span.status.is_some_and(|status| status.code == 2),
        });
        spans.collect()
    }

    /// The spans of this kind and name, once there are so many.
    async fn arrived(&self, kind: i32, name: &str, count: usize) -> Vec<Arrived> {
        let found = || {
            let spans = self.spans().into_iter();
            spans.filter(|span| span.kind == kind && span.name == name).collect::<Vec<_>>()
        };
        eventually("spans at the collector", async || found().len() >= count).await;
        let found = found();
        assert_eq!(found.len(), count, "{found:#?}");
        found
    }

    /// Everything that has arrived contains none of these texts.
    fn never_saw(&self, secrets: &[String]) {
        for (_, body) in &*self.received.lock().unwrap() {
            let text = String::from_utf8_lossy(body);
            for secret in secrets {
                assert!(!text.contains(secret.as_str()), "{secret} in a span");
            }
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

/// The `traceparent` of each request at the API.
fn named(world: &World) -> Vec<String> {
    let named =
        |seen: &crate::harness::upstream::Seen| seen.get("traceparent").unwrap_or_default().to_owned();
    world.upstream.requests().iter().map(named).collect()
}

fn traceparent(flags: &str) -> String {
    format!("00-{TRACE}-{PARENT}-{flags}")
}

#[tokio::test]
async fn a_route_has_its_configured_name_in_everything_that_operators_see() {
    let collector = Collector::start(200).await;
    let name = "name = \"Billing <EU>\"";
    let world = collector.daemon("").route(name).start().await;
    assert_eq!(world.get("/x").await.status, 200);

    let server = &collector.arrived(SERVER, "GET Billing <EU>", 1).await[0];
    assert_eq!(server.get("http.route"), "Billing <EU>");
    assert_eq!(world.process.event("request").await["http_route"], "Billing <EU>");
    let (_, metrics) = world.admin_get("/metrics").await;
    for series in [
        "http_server_request_duration_seconds_count{http_request_method=\"GET\",http_route=\"Billing <EU>\"",
        "bearerd_upstream_unauthorized_total{route=\"Billing <EU>\"",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
    assert!(!metrics.contains("route=\"/\""), "{metrics}");
    let (_, status) = world.admin_get("/status").await;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["routes"][0]["name"], &status["routes"][0]["requests"]),
        (&"Billing <EU>".into(), &1.into())
    );
    let (_, page) = world.admin_get("/").await;
    assert!(page.contains("Billing &#60;EU&#62;") || page.contains("Billing &lt;EU&gt;"), "{page}");
    for (arguments, shown) in [
        (&["explain", "GET", "http://localhost/x"][..], "Billing <EU> (host: any, path: /)"),
        (&["check", "--print"], "name = \"Billing <EU>\"\n"),
    ] {
        let mut process = world.launch().arguments(arguments).start();
        process.ended().await;
        assert!(process.output().contains(shown), "{}", process.output());
    }

    world.configure(|text| text.replace(name, "name = \"orders\""));
    let reloaded = world.reload().await["routes"].to_string();
    assert!(reloaded.contains("orders") && reloaded.contains("Billing <EU>"), "{reloaded}");
    world.finish().await;
}

#[tokio::test]
async fn spans_of_a_request_and_its_attempt_arrive_in_the_callers_trace() {
    let collector = Collector::start(200).await;
    let world = collector.daemon("").environment("OTEL_SERVICE_NAME", "gateway").start().await;
    let request = Request::post("/echo?secret=hunter2", b"hunter2")
        .field("x-request-id", "ours-1")
        .field("x-secret", "hunter2")
        .field("traceparent", &traceparent("01"));
    assert_eq!(world.send(&request).await.status, 200);

    let server = &collector.arrived(SERVER, "POST /", 1).await[0];
    let client = &collector.arrived(CLIENT, "POST", 1).await[0];
    let token = &collector.arrived(CLIENT, "token request", 1).await[0];

    assert_eq!((&*server.trace_id, &*server.parent), (TRACE, PARENT));
    assert_eq!((&*client.trace_id, &client.parent), (TRACE, &server.span_id));
    assert_eq!(named(&world), [format!("00-{TRACE}-{}-01", client.span_id)]);
    assert!(token.trace_id != TRACE && token.parent.is_empty() && server.links.is_empty());
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.path", "/echo"),
        ("url.scheme", "http"),
        ("http.route", "/"),
        ("http.response.status_code", "200"),
        ("server.address", "127.0.0.1"),
        ("client.address", "127.0.0.1"),
        ("bearerd.credential", "api"),
        ("bearerd.generation", "1"),
        ("bearerd.request_id", "ours-1"),
        ("error.type", ""),
    ] {
        assert_eq!(server.get(name), value, "{name}");
    }
    for (name, value) in [
        ("http.request.method", "POST"),
        ("url.full", &format!("{}/echo", world.upstream.url())),
        ("server.address", "localhost"),
        ("http.response.status_code", "200"),
        ("http.request.resend_count", ""),
    ] {
        assert_eq!(client.get(name), value, "{name}");
    }
    for (name, value) in [
        ("bearerd.credential", "api"),
        ("bearerd.token_request.cause", "scheduled"),
        ("bearerd.token_request.outcome", "refreshed"),
    ] {
        assert_eq!(token.get(name), value, "{name}");
    }
    let resource = collector.requests()[0].resource_spans[0].resource.clone().unwrap();
    assert_eq!(texts(resource.attributes)["service.name"], "gateway");
    let line = world.process.event("request").await;
    assert_eq!(line["trace_id"], TRACE);
    collector.never_saw(&[world.authorization.issued(), vec!["hunter2".to_owned()]].concat());
    world.finish().await;
}

#[tokio::test]
async fn a_replay_has_a_span_of_its_own_and_the_request_links_the_token_request() {
    let collector = Collector::start(200).await;
    let world = collector.daemon("").start().await;
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);

    let server = &collector.arrived(SERVER, "GET /", 1).await[0];
    let clients = collector.arrived(CLIENT, "GET", 2).await;
    let tokens = collector.arrived(CLIENT, "token request", 2).await;

    let of =
        |status: &str| clients.iter().find(|span| span.get("http.response.status_code") == status).unwrap();
    assert_eq!((of("401").get("http.request.resend_count"), of("401").get("error.type")), ("", "401"));
    assert_eq!(of("200").get("http.request.resend_count"), "1");
    assert!(of("401").is_failed && !of("200").is_failed && !server.is_failed);
    assert_eq!((server.parent.as_str(), server.get("bearerd.unauthorized")), ("", "replayed"));
    let forced = tokens.iter().find(|span| span.get("bearerd.token_request.cause") == "forced").unwrap();
    assert_eq!(server.links, [(forced.trace_id.clone(), forced.span_id.clone())]);
    let expected = [of("401"), of("200")].map(|span| format!("00-{}-{}-01", server.trace_id, span.span_id));
    assert_eq!(named(&world), expected);
    let line = world.process.event("request").await;
    assert_eq!(line["trace_id"], server.trace_id);
    world.finish().await;
}

#[tokio::test]
async fn the_span_of_a_request_names_its_configured_caller() {
    let collector = Collector::start(200).await;
    let key = format!("[callers.billing]\nkey_hash = [\"{CALLER_KEY_HASH}\"]");
    let world = collector.daemon("").route(&key).start().await;
    assert_eq!(world.send(&Request::get("/x").field("x-api-key", CALLER_KEY)).await.status, 200);

    let server = &collector.arrived(SERVER, "GET /", 1).await[0];
    assert_eq!(server.get("bearerd.caller"), "billing");
    collector.never_saw(&[CALLER_KEY.to_owned()]);
    world.finish().await;
}

#[tokio::test]
async fn a_share_of_zero_leaves_the_traces_that_callers_have_chosen() {
    let collector = Collector::start(200).await;
    let world = collector.daemon("sample = 0").start().await;
    assert_eq!(world.get("/none").await.status, 200);
    for flags in ["00", "01"] {
        let request = Request::get("/x").field("traceparent", &traceparent(flags));
        assert_eq!(world.send(&request).await.status, 200);
    }

    let server = &collector.arrived(SERVER, "GET /", 1).await[0];
    assert_eq!((&*server.trace_id, &*server.parent), (TRACE, PARENT));
    assert_eq!(collector.spans().len(), 2, "{:?}", collector.spans());
    let named = named(&world);
    assert!(named[0].starts_with("00-") && named[0].ends_with("-00") && !named[0].contains(TRACE));
    assert_eq!(named[1], traceparent("00"));
    assert_ne!(named[2], traceparent("01"));
    world.finish().await;
}

#[tokio::test]
async fn hostile_values_are_safe_in_spans() {
    let collector = Collector::start(200).await;
    let world = collector.daemon("").start().await;
    let request = Request::get("/x'{}").method("BREW").field("x-request-id", "\"},{\"a\":\"\\u0000");
    world.send(&request).await;
    assert_eq!(world.get("/%00%0a").await.status, 400);
    let long = format!("/{}", "x".repeat(5000));
    world.send(&Request::get(&long).field("traceparent", "00-zz")).await;

    let brewed = &collector.arrived(SERVER, "HTTP /", 1).await[0];
    assert_eq!(brewed.get("http.request.method"), "_OTHER");
    assert_eq!(brewed.get("http.request.method_original"), "BREW");
    assert_eq!(brewed.get("bearerd.request_id"), "\"},{\"a\":\"\\u0000");
    let refused = &collector.arrived(SERVER, "GET", 1).await[0];
    assert_eq!((refused.get("url.path"), refused.get("http.route")), ("/%00%0a", ""));
    assert!(!refused.get("error.type").is_empty() && refused.is_failed);
    let got = &collector.arrived(SERVER, "GET /", 1).await[0];
    assert_eq!((got.get("url.path").len(), &*got.parent), (1024, ""));
    world.finish().await;
}

#[tokio::test]
async fn a_collector_that_is_away_or_answers_500_harms_nothing() {
    let failing = Collector::start(500).await;
    let gone = Collector::start(200).await.url();
    for (url, said) in [(failing.url(), "answered 500"), (gone, "onnect")] {
        let world = daemon().route(&format!("[tracing]\notlp_endpoint = \"{url}\"")).start().await;
        for _ in 0..3 {
            let started = Instant::now();
            assert_eq!(world.get("/x").await.status, 200);
            assert!(started.elapsed() < Duration::from_secs(2));
        }
        let warning = world.process.event("traces were lost").await;
        assert!(warning["error"].as_str().unwrap().contains(said), "{warning}");
        assert_eq!(world.get("/x").await.status, 200);
        remains("one warning a minute", Duration::from_millis(1500), async || {
            world.process.events("traces were lost").len() == 1
        })
        .await;
        world.finish().await;
    }
}

#[tokio::test]
async fn a_collector_that_never_answers_delays_neither_requests_nor_the_stop() {
    let silent =
        RawPeer::tcp(
            async |mut stream| {
                while matches!(stream.read_buf(&mut Vec::with_capacity(1024)).await, Ok(1..)) {}
            },
        )
        .await;
    let endpoint = format!("http://{}", silent.address);
    let mut world = daemon().route(&format!("[tracing]\notlp_endpoint = \"{endpoint}\"")).start().await;
    for _ in 0..20 {
        assert_eq!(world.get("/x").await.status, 200);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let stopping = Instant::now();
    world.process.signal(Signal::TERM);
    assert!(world.process.ended().await.success());
    let took = stopping.elapsed();
    assert!(took < Duration::from_secs(5), "{took:?}");
    world.check();
}

#[tokio::test]
async fn the_last_spans_are_sent_at_the_stop() {
    let collector = Collector::start(200).await;
    let mut world = collector.daemon("").start().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.process.signal(Signal::TERM);
    assert!(world.process.ended().await.success());

    let spans = collector.spans();
    assert!(spans.iter().any(|span| span.kind == SERVER && span.name == "GET /"), "{spans:?}");
    world.check();
}

#[tokio::test]
async fn the_environment_names_a_collector_and_switches_traces_off() {
    let collector = Collector::start(200).await;
    let world = daemon()
        .environment("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url())
        .environment("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Basic%20Y29sbGVjdG9y")
        .start()
        .await;
    assert_eq!(world.get("/x").await.status, 200);
    collector.arrived(SERVER, "GET /", 1).await;
    assert_eq!(collector.received.lock().unwrap()[0].0["authorization"], "Basic Y29sbGVjdG9y");
    assert!(!world.process.output().contains("Y29sbGVjdG9y"));
    world.finish().await;

    let before = collector.spans().len();
    let world = collector.daemon("").environment("OTEL_SDK_DISABLED", "true").start().await;
    let request = Request::get("/x").field("traceparent", &traceparent("01"));
    assert_eq!(world.send(&request).await.status, 200);
    assert_eq!(named(&world), [traceparent("01")]);
    world.finish().await;
    assert_eq!(collector.spans().len(), before);
}

#[tokio::test]
async fn a_route_that_removes_the_field_sends_the_api_no_trace() {
    let collector = Collector::start(200).await;
    let rules = "headers = { remove = [\"traceparent\", \"tracestate\"] }\n";
    let world = collector.daemon("").route(rules).start().await;
    assert_eq!(world.get("/x").await.status, 200);

    assert_eq!(named(&world), [""]);
    collector.arrived(CLIENT, "GET", 1).await;
    world.finish().await;
}

#[tokio::test]
async fn a_caller_of_no_trace_or_a_malformed_one_gets_a_trace_of_its_own() {
    let collector = Collector::start(200).await;
    let world = collector.daemon("").start().await;
    let request = Request::get("/x").field("traceparent", "00-zz").field("tracestate", "a=b");
    assert_eq!(world.send(&request).await.status, 200);

    let server = &collector.arrived(SERVER, "GET /", 1).await[0];
    assert_eq!(server.parent, "");
    assert!(named(&world)[0].contains(&server.trace_id));
    assert_eq!(world.upstream.requests()[0].get("tracestate"), None);
    world.finish().await;
}
