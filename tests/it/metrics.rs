//! `/metrics`, scraped from a daemon that serves requests.

use std::collections::{BTreeMap, BTreeSet};

use testkit::harness::PROMPT;
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Request, World, daemon, eventually};

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";

/// What the contract promises, without the suffixes of histograms.
const NAMES: &[&str] = &[
    "http_server_request_duration_seconds",
    "http_server_active_requests",
    "bearerd_connections",
    "bearerd_connections_limit",
    "http_client_request_duration_seconds",
    "bearerd_caller_requests_total",
    "bearerd_refused_requests_total",
    "bearerd_upstream_unauthorized_total",
    "bearerd_upstream_retries_total",
    "bearerd_upstream_breaker_state",
    "bearerd_upstream_connections",
    "bearerd_upstream_waiting",
    "bearerd_token_requests_total",
    "bearerd_token_request_duration_seconds",
    "bearerd_token_expiry_timestamp_seconds",
    "bearerd_token_issued_timestamp_seconds",
    "bearerd_token_next_refresh_timestamp_seconds",
    "bearerd_token_last_success_timestamp_seconds",
    "bearerd_credential_state",
    "bearerd_credential_needs_person",
    "bearerd_token_rotations_total",
    "bearerd_token_rotation_limit",
    "bearerd_token_quota_remaining",
    "bearerd_token_waiters",
    "bearerd_state_durable",
    "bearerd_state_write_failures_total",
    "bearerd_replay_bytes",
    "bearerd_replay_bytes_limit",
    "bearerd_config_last_reload_successful",
    "bearerd_config_last_reload_timestamp_seconds",
    "bearerd_audit_events_total",
    "bearerd_audit_failures_total",
    "bearerd_log_lines_dropped_total",
    "bearerd_build_info",
    "process_cpu_seconds_total",
    "process_resident_memory_bytes",
    "process_open_fds",
    "process_max_fds",
    "process_start_time_seconds",
];

/// The values of a scrape, by name and labels as they are written.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    async fn of(world: &World) -> Self {
        let (status, text) = world.admin_get("/metrics").await;
        assert_eq!(status, 200, "{text}");
        let series = text.lines().filter(|line| !line.starts_with('#'));
        let series = series.map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        });
        Self(series.collect())
    }

    /// The sum of the series of this name with all of these labels, rounded.
    #[expect(clippy::cast_possible_truncation, reason = "counts of a test, and seconds since 1970")]
    fn sum(&self, name: &str, labels: &[(&str, &str)]) -> i64 {
        let has =
            |series: &str, (label, value): &(&str, &str)| series.contains(&format!("{label}=\"{value}\""));
        let matching = self.0.iter().filter(|(series, _)| {
            series.split('{').next() == Some(name) && labels.iter().all(|label| has(series, label))
        });
        matching.map(|(_, value)| value).sum::<f64>().round() as i64
    }
}

#[tokio::test]
async fn a_scrape_has_every_metric_of_the_contract_in_both_text_formats() {
    let world = daemon().quiet().start().await;
    assert_eq!(world.get("/x").await.status, 200);

    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    for (accept, content_type, end) in [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", ""),
        (OPENMETRICS, "application/openmetrics-text; version=1.0.0; charset=utf-8", "# EOF\n"),
    ] {
        let url = format!("http://{}/metrics", world.admin);
        let response = client.get(url).header("accept", accept).send().await.unwrap();
        assert_eq!(response.headers()["content-type"], content_type);
        let text = response.text().await.unwrap();
        let names: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(['{', ' ']).next().unwrap())
            .flat_map(|name| [name, name.trim_end_matches("_bucket")])
            .collect();
        for name in NAMES {
            assert!(names.contains(name), "{name} is missing in\n{text}");
        }
        assert!(text.ends_with(end));
    }
    world.finish().await;
}

#[tokio::test]
async fn requests_replays_and_refusals_are_counted_and_survive_a_reload() {
    let world = daemon().quiet().start().await;
    for _ in 0..3 {
        assert_eq!(world.get("/x?secret=1").await.status, 200);
    }
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.send(&Request::get("/x").field("host", "evil.test")).await.status, 421);

    let route = ("http_route", "/");
    let count = "http_server_request_duration_seconds_count";
    let before = Scrape::of(&world).await;
    assert_eq!(before.sum(count, &[route, ("http_response_status_code", "200")]), 4);
    assert_eq!(before.sum(count, &[("error_type", "host_not_allowed")]), 1);
    assert_eq!(before.sum("bearerd_refused_requests_total", &[("code", "host_not_allowed")]), 1);
    assert_eq!(before.sum("bearerd_refused_requests_total", &[("code", "overloaded")]), 0);
    assert!(before.0.keys().any(|series| series.contains("code=\"overloaded\"")), "series begin at 0");
    let attempts = "http_client_request_duration_seconds_count";
    assert_eq!(before.sum(attempts, &[route, ("http_response_status_code", "200")]), 4);
    assert_eq!(before.sum(attempts, &[route, ("http_response_status_code", "401")]), 1);
    let replayed = [("route", "/"), ("outcome", "replayed")];
    assert_eq!(before.sum("bearerd_upstream_unauthorized_total", &replayed), 1);
    assert_eq!(before.sum("bearerd_upstream_retries_total", &[("cause", "unauthorized")]), 1);
    let api = ("credential", "api");
    assert_eq!(before.sum("bearerd_token_requests_total", &[api, ("outcome", "refreshed")]), 2);
    assert_eq!(before.sum("bearerd_token_requests_total", &[api, ("cause", "forced")]), 1);
    assert_eq!(before.sum("bearerd_credential_state", &[api, ("state", "valid")]), 1);
    assert_eq!(before.sum("bearerd_credential_state", &[api]), 1);

    world.configure(|text| text.replace("[[routes]]", "[[routes]]\ntimeout = \"59s\""));
    world.reload().await;
    let after = Scrape::of(&world).await;
    for (name, labels) in [(count, route), ("bearerd_token_requests_total", api), (attempts, route)] {
        assert_eq!(after.sum(name, &[labels]), before.sum(name, &[labels]), "{name}");
    }
    assert_eq!(after.sum("bearerd_config_last_reload_successful", &[]), 1);
    world.configure(|text| format!("nonsense = 1\n{text}"));
    world.reload_in_vain().await;
    assert_eq!(Scrape::of(&world).await.sum("bearerd_config_last_reload_successful", &[]), 0);
    world.finish().await;
}

#[tokio::test]
async fn no_label_holds_what_a_caller_sends() {
    let world = daemon().quiet().start().await;
    let hostile =
        Request::get("/path-of-the-caller?query-of-the-caller").field("user-agent", "agent-of-the-caller");
    assert_eq!(world.send(&hostile.method("BREW")).await.status, 200);

    let (_, text) = world.admin_get("/metrics").await;
    assert!(!text.contains("of-the-caller") && !text.contains("BREW"), "{text}");
    let scrape = Scrape::of(&world).await;
    assert_eq!(
        scrape.sum("http_server_request_duration_seconds_count", &[("http_request_method", "_OTHER")]),
        1
    );
    world.finish().await;
}

#[tokio::test]
async fn the_state_of_a_credential_and_its_failures_are_shown() {
    let world = daemon().quiet().start().await;
    world.get("/x").await;
    world.authorization.answer_next(testkit::authorization_server::Answer::too_many(600));
    world.authorization.revoke_all();
    world.get("/x").await;

    let api = ("credential", "api");
    eventually("the failure", async || {
        let scrape = Scrape::of(&world).await;
        scrape.sum("bearerd_token_requests_total", &[api, ("outcome", "throttled")]) >= 1
    })
    .await;
    let scrape = Scrape::of(&world).await;
    assert_eq!(scrape.sum("bearerd_credential_state", &[api, ("state", "unusable")]), 1);
    assert_eq!(scrape.sum("bearerd_credential_needs_person", &[api]), 0);
    let not_before = scrape.sum("bearerd_token_not_before_timestamp_seconds", &[api]);
    let issued = scrape.sum("bearerd_token_issued_timestamp_seconds", &[api]);
    assert!((599..700).contains(&(not_before - issued)), "{not_before} {issued}");
    world.finish().await;
}

/// The metrics that a text names, without the suffixes of histograms.
fn named_in(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.split(|c| !is_part(c))
        .filter(|word| {
            ["bearerd_", "http_server_", "http_client_", "process_"].iter().any(|own| word.starts_with(own))
        })
        .map(|word| {
            ["_bucket", "_count", "_sum"]
                .iter()
                .fold(word, |word, end| word.strip_suffix(end).unwrap_or(word))
        })
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn documentation_alerts_and_dashboard_name_the_metrics_of_a_scrape() {
    let world = daemon().quiet().start().await;
    world.get("/x").await;
    let (_, text) = world.admin_get("/metrics").await;
    let series = text.lines().filter(|line| !line.starts_with('#'));
    let scraped =
        named_in(&series.map(|line| line.split(['{', ' ']).next().unwrap()).collect::<Vec<_>>().join(" "));
    // These have series only after a failure, with a refresh token, with TLS, with a webhook, with a pool or with a shared store.
    let rare = [
        "bearerd_token_next_attempt_timestamp_seconds",
        "bearerd_token_not_before_timestamp_seconds",
        "bearerd_refresh_token_expiry_timestamp_seconds",
        "bearerd_certificate_expiry_timestamp_seconds",
        "bearerd_webhook_deliveries_total",
        "bearerd_webhook_queue",
        "bearerd_webhook_dropped_total",
        "bearerd_api_quota_limit",
        "bearerd_api_quota_left",
        "bearerd_api_quota_waiting",
        "bearerd_api_quota_wait_seconds",
        "bearerd_api_quota_requests_total",
        "bearerd_api_quota_borrowed_total",
        "bearerd_api_quota_refused_total",
        "bearerd_pool_member_usable",
        "bearerd_pool_member_requests_total",
        "bearerd_caller_quota_limit",
        "bearerd_caller_quota_left",
        "bearerd_caller_quota_waiting",
        "bearerd_caller_quota_wait_seconds",
        "bearerd_caller_quota_requests_total",
        "bearerd_caller_quota_refused_total",
        "bearerd_shared_reachable",
        "bearerd_shared_replicas",
        "bearerd_shared_adopted_total",
        "bearerd_shared_won_total",
        "bearerd_shared_conflicts_total",
        "bearerd_shared_repairs_total",
        "bearerd_shared_unconfirmed_total",
        "bearerd_shared_corrupt_total",
    ];
    let all: BTreeSet<String> = scraped.into_iter().chain(rare.map(str::to_owned)).collect();

    assert_eq!(named_in(include_str!("../../docs/operate/metrics.md")), all);
    let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
    for text in [alerts, include_str!("../../deploy/grafana/bearerd.json")] {
        let unknown: Vec<_> = named_in(text).difference(&all).cloned().collect();
        assert_eq!(unknown, [""; 0]);
    }
    world.finish().await;
}

#[test]
fn each_alert_has_a_runbook_and_a_test() {
    let alerts = include_str!("../../deploy/prometheus/alerts.yaml");
    let runbooks = include_str!("../../docs/operate/alerts.md");
    let tests = include_str!("../../deploy/prometheus/alerts_test.yaml");
    let names: Vec<&str> = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert_eq!(names.len(), 12);
    for name in names {
        assert!(runbooks.contains(&format!("\n## {name}\n")), "{name}");
        assert!(tests.contains(&format!("alertname=\"{name}\"")), "{name}");
        let runbook =
            format!("{}/operate/alerts.md#{}\n", bearerd::documentation::FOLDER, name.to_lowercase());
        assert!(alerts.contains(&format!("runbook_url: {runbook}")), "{name}");
    }
}

/// Requests that bearerd refuses before their head is complete, and callers that fail to negotiate TLS.
#[tokio::test]
async fn refusals_before_a_head_is_complete_and_failed_handshakes_are_counted() {
    let send = async |world: &World, bytes: &[u8]| {
        let mut stream = TcpStream::connect(world.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(PROMPT * 3, stream.read_to_end(&mut answer)).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let world = daemon().quiet().limits("header_timeout = \"300ms\"").start().await;
    let large = format!("GET / HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n", "a".repeat(200_000));
    for (bytes, status, code) in [
        ("GET / HTTP/1.1\r\nbad field\r\n\r\n", "400", "bad_request"),
        (large.as_str(), "431", "header_too_large"),
        ("GET / HTTP/1.1\r\nhost:", "408", "request_timeout"),
    ] {
        let answer = send(&world, bytes.as_bytes()).await;
        assert!(answer.contains(&format!(" {status} ")), "{code}: {answer}");
        let scrape = Scrape::of(&world).await;
        assert_eq!(scrape.sum("bearerd_refused_requests_total", &[("code", code)]), 1, "{code}");
        let labels = [("http_request_method", "_OTHER"), ("error_type", code)];
        assert_eq!(scrape.sum("http_server_request_duration_seconds_count", &labels), 1, "{code}");
    }
    world.finish().await;

    let pki = Pki::new(&["localhost"]).unwrap();
    let issued = pki.server().clone();
    let world = daemon().quiet().tls(&issued).start_with(pki, async |_| {}).await;
    send(&world, b"\x16\x03\x01\x00\x05nonsense").await;
    let scrape = Scrape::of(&world).await;
    assert_eq!(scrape.sum("bearerd_refused_requests_total", &[("code", "tls_handshake_failed")]), 1);
    world.finish().await;
}

/// The connections that are refused before a request has arrived, whether or not their callers read a response.
#[tokio::test]
async fn connections_that_are_refused_are_counted_among_the_refusals() {
    let world = daemon().quiet().limits("connections = 1").start().await;
    let mut only = world.caller().await;
    assert_eq!(only.send(&Request::get("/x")).await.status, 200);
    for _ in 0..3 {
        assert_eq!(world.get("/x").await.code().as_deref(), Some("overloaded"));
    }
    let mut other = world.caller().await;
    other.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(other.is_closed().await);

    let scrape = Scrape::of(&world).await;
    assert_eq!(scrape.sum("bearerd_refused_requests_total", &[("code", "overloaded")]), 4);
    assert_eq!(scrape.sum("http_server_request_duration_seconds_count", &[]), 1, "requests alone");
    world.finish().await;
}

/// A scrape during reloads is whole, and no counter falls.
#[tokio::test]
async fn scrapes_during_reloads_are_whole_and_no_counter_falls() {
    let world = daemon().quiet().start().await;
    let count = "http_server_request_duration_seconds_count";
    let (mut before, mut scrapes) = (0, 0);
    let reloads = async {
        for _ in 0..5 {
            world.configure(|text| text.replace("[[routes]]\n", "[[routes]]\n# another line\n"));
            world.reload().await;
        }
    };
    let scraping = async {
        loop {
            world.get("/x").await;
            let scrape = Scrape::of(&world).await;
            let now = scrape.sum(count, &[("http_route", "/")]);
            assert!(now > before, "{now} after {before}");
            assert_eq!(scrape.sum("bearerd_credential_state", &[("credential", "api")]), 1);
            (before, scrapes) = (now, scrapes + 1);
        }
    };
    tokio::select! {
        () = reloads => {}
        () = scraping => {}
    }
    assert!(scrapes > 0);
    world.finish().await;
}
