//! What operators see: `/status`, `/events`, the page, and `bearerd status`, in every state of the daemon.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use testkit::authorization_server::Answer;
use testkit::harness::PROMPT;
use testkit::pki::Pki;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::{Setup, World, daemon, eventually};

pub(crate) const ROOMY: &str = "quota = { requests = 1000, per = \"1s\" }";

pub(crate) async fn status(world: &World) -> Value {
    let (status, text) = world.admin_get("/status").await;
    assert_eq!(status, 200, "{text}");
    serde_json::from_str(&text).unwrap()
}

/// The exit code and the output of `bearerd status` with these arguments.
pub(crate) async fn command(world: &World, arguments: &[&str]) -> (i32, String) {
    let admin = world.admin.to_string();
    let arguments = [&["status", "--admin", &admin], arguments].concat();
    let mut process = world.launch().arguments(&arguments).start();
    let code = process.ended().await.code().unwrap();
    (code, process.output())
}

/// Waits until `bearerd status` says all of this, and ends with this code.
async fn says(world: &World, code: i32, texts: &[&str]) -> String {
    let mut last = (0, String::new());
    let holds = async {
        loop {
            last = command(world, &[]).await;
            if last.0 == code && texts.iter().all(|text| last.1.contains(text)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let outcome = timeout(Duration::from_secs(20), holds).await;
    assert!(outcome.is_ok(), "not {code} with {texts:?}: {last:?}");
    last.1
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

fn names(text: &str) -> BTreeSet<&str> {
    text.split_whitespace().collect()
}

fn is_time(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() == 24 && text.ends_with('Z') && text.as_bytes()[19] == b'.')
}

#[tokio::test]
async fn status_has_every_member_of_the_contract() {
    let pki = Pki::new(&["localhost"]).unwrap();
    let issued = pki.server().clone();
    let setup = daemon().tls(&issued).route("[callers.other]\nweight = 2");
    let world = setup.start_with(pki, async |_| {}).await;

    let status = status(&world).await;

    let top = "version commit instance started_at ready draining configuration attention credentials callers pools upstreams \
               routes certificates shared audit webhooks";
    assert_eq!(keys(&status), names(top));
    assert_eq!(keys(&status["configuration"]), names("file loaded_at last_reload"));
    let credential = "name provider grant tenant state reason since needs_person help documentation generation fingerprint issued_at \
                      expires_at next_refresh_at request_under_way_since next_attempt_at not_before scopes rotations max_rotations \
                      refresh_token_expires_at durable token_requests success_rate average_latency_ms last_latency_ms \
                      quota_remaining waiters api_quota last_error events";
    let one = &status["credentials"][0];
    assert_eq!(keys(one), names(credential));
    assert_eq!(keys(&one["events"][0]), names("at event detail"));
    assert_eq!(
        keys(&status["upstreams"][0]),
        names("origin breaker breaker_until connections waiting last_error")
    );
    assert_eq!(keys(&status["callers"][0]), names("name weight requests refused waiting share quota"));
    let route = "name requests errors unauthorized replays p50_ms p99_ms hold";
    assert_eq!(keys(&status["routes"][0]), names(route));
    assert_eq!(keys(&status["certificates"][0]), names("use name expires_at"));
    assert_eq!(keys(&status["audit"]), names("events failures"));
    let times =
        [&status["started_at"], &status["configuration"]["loaded_at"], &one["since"], &one["issued_at"]];
    let more = [&one["expires_at"], &one["next_refresh_at"], &one["events"][0]["at"]];
    for time in times.into_iter().chain(more).chain([&status["certificates"][0]["expires_at"]]) {
        assert!(is_time(time), "{time}");
    }
    assert_eq!(one["state"], "valid");
    assert_eq!(
        (&one["provider"], &one["generation"], &one["success_rate"]),
        (&"oauth2".into(), &1.into(), &1.0.into())
    );
    assert_eq!((&status["ready"], &status["shared"]), (&true.into(), &Value::Null));
    assert_eq!(status["configuration"]["file"], "proxy.toml");
    assert_eq!(status["certificates"][0]["use"], "server");
    // The same members stand at the credential's own path, with those of a grant.
    let (_, text) = world.admin_get("/credentials/api").await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    let besides = names("takes_grant client_id token_url");
    assert_eq!(keys(&shown).difference(&keys(one)).copied().collect::<BTreeSet<_>>(), besides);
    assert!(keys(one).is_subset(&keys(&shown)));
    world.finish().await;
}

#[tokio::test]
async fn the_latest_reload_and_its_problem_are_shown() {
    let world = daemon().start().await;
    let before = status(&world).await["configuration"].clone();
    assert_eq!(before["last_reload"], Value::Null);

    world.reload().await;
    let loaded = status(&world).await["configuration"].clone();
    world.configure(|text| format!("{text}\n[nonsense]\n"));
    world.reload_in_vain().await;
    let refused = status(&world).await["configuration"].clone();

    assert_eq!(loaded["last_reload"]["successful"], true);
    assert_ne!(loaded["loaded_at"], before["loaded_at"]);
    assert_eq!(
        (&refused["last_reload"]["successful"], &refused["loaded_at"]),
        (&false.into(), &loaded["loaded_at"])
    );
    assert!(refused["last_reload"]["detail"].as_str().unwrap().contains("nonsense"), "{refused}");
    let text =
        says(&world, 0, &["configuration: reload_failed", "nonsense", "correct the configuration"]).await;
    assert!(!text.contains('\u{1b}'), "no colour into a pipe: {text:?}");
    world.finish().await;
}

#[tokio::test]
async fn a_failed_refresh_beside_a_valid_token_is_degraded_and_no_failure() {
    let world = daemon().credential(ROOMY).start().await;
    world.authorization.answer_next(Answer::status(500, "{}"));
    world.admin_post("/credentials/api/refresh").await;

    let expected = ["degraded", "token_endpoint_unavailable", "left", "attempt", "internal error"];
    let text = says(&world, 0, &expected).await;
    assert!(!text.contains("needs a person"), "{text}");
    world.finish().await;
}

#[tokio::test]
async fn a_token_request_that_is_under_way_is_shown_with_its_beginning() {
    let world = daemon().credential(ROOMY).start().await;
    let under_way = async || status(&world).await["credentials"][0]["request_under_way_since"].clone();
    assert_eq!(under_way().await, Value::Null);
    world.authorization.hold();
    let refresh = async { assert_eq!(world.admin_post("/credentials/api/refresh").await.0, 200) };
    let look = async {
        eventually("the request", async || is_time(&under_way().await)).await;
        let seen = under_way().await;
        assert!(seen.as_str() > status(&world).await["started_at"].as_str(), "{seen}");
        says(&world, 0, &["valid", "request under way for "]).await;
        let (code, _, page) = browse(&world, "GET", "/", &[]).await;
        assert!(code == 200 && page.contains("under way for "), "{page}");
        assert_eq!(under_way().await, seen, "one request has one beginning");
        world.authorization.release();
    };
    tokio::join!(refresh, look);

    assert_eq!(under_way().await, Value::Null);
    says(&world, 0, &["valid", "refresh in "]).await;
    world.finish().await;
}

/// The only route rejects the token, and no other can be had.
#[tokio::test]
async fn a_revoked_token_that_is_not_replaced_is_unusable_and_named_with_its_remedy() {
    let world = daemon().credential(ROOMY).limits("token_wait = \"300ms\"").start().await;
    world.authorization.revoke_all();
    for _ in 0..100 {
        world.authorization.answer_next(Answer::status(500, "{}"));
    }
    world.get("/x").await;

    says(&world, 1, &["unusable", "token_endpoint_unavailable", "left", "attempt", "internal error"]).await;
    world.authorization.forget_queue();
    says(&world, 0, &["valid"]).await;
    world.finish().await;
}

#[tokio::test]
async fn connections_and_waiting_requests_are_counted() {
    let world = daemon().route("connections = 1").server("workers = 1").start().await;
    let hanging = async || {
        let mut caller = world.caller().await;
        caller.write(format!("GET /hang HTTP/1.1\r\nhost: {}\r\n\r\n", world.address).as_bytes()).await;
        caller
    };
    let callers = [hanging().await, hanging().await];

    eventually("one connection and one that waits", async || {
        let upstream = &status(&world).await["upstreams"][0];
        (&upstream["connections"], &upstream["waiting"]) == (&1.into(), &1.into())
    })
    .await;

    drop(callers);
    eventually("none waits", async || status(&world).await["upstreams"][0]["waiting"] == 0).await;
    world.finish().await;
}

#[tokio::test]
async fn the_command_prints_json_one_credential_and_errors() {
    let world = daemon().start().await;

    let (code, json) = command(&world, &["--json"]).await;
    assert_eq!(code, 0, "{json}");
    assert_eq!(serde_json::from_str::<Value>(&json).unwrap()["credentials"][0]["name"], "api");
    let (code, json) = command(&world, &["api", "--json"]).await;
    assert_eq!((code, &serde_json::from_str::<Value>(&json).unwrap()["name"]), (0, &"api".into()));
    let (code, text) = command(&world, &["api"]).await;
    assert!(code == 0 && text.contains("token.refreshed") && text.contains("generation"), "{text}");
    let (code, text) = command(&world, &["other"]).await;
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("no credential `other`; its credentials: api"), "{text}");
    let mut elsewhere = world.launch().arguments(&["status", "--admin", "127.0.0.1:1"]).start();
    assert_eq!(elsewhere.ended().await.code(), Some(69), "{}", elsewhere.output());
    world.finish().await;
}

#[tokio::test]
async fn a_watch_shows_changes_and_ends_quietly_at_an_interrupt() {
    let world = daemon().credential(ROOMY).start().await;
    let admin = world.admin.to_string();
    let mut watch = world.launch().arguments(&["status", "--watch", "--admin", &admin]).start();
    eventually("the first", async || watch.output().contains("valid")).await;
    // Not on a terminal, the table is there once, and nothing is repeated while nothing changes.
    let lines = watch.output().lines().count();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(watch.output().lines().count(), lines, "{}", watch.output());
    world.authorization.answer_next(Answer::status(500, "{}"));
    world.admin_post("/credentials/api/refresh").await;
    eventually("the change", async || watch.output().contains("degraded")).await;
    let change = "credential api: degraded, token_endpoint_unavailable; what to do: ";
    assert_eq!(watch.output().matches(change).count(), 1, "{}", watch.output());
    assert_eq!(watch.output().matches("CREDENTIAL").count(), 1, "{}", watch.output());

    watch.signal(Signal::INT);

    assert_eq!(watch.ended().await.code(), Some(0));
    assert!(!watch.output().contains("bearerd: "), "{}", watch.output());
    world.finish().await;
}

/// Reads a stream until it holds this text.
async fn until(stream: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    let reading = async {
        while !String::from_utf8_lossy(&read).contains(text) {
            assert!(stream.read_buf(&mut read).await.unwrap() > 0, "{}", String::from_utf8_lossy(&read));
        }
    };
    timeout(PROMPT * 3, reading).await.unwrap_or_else(|_| panic!("never: {text}"));
    String::from_utf8_lossy(&read).into_owned()
}

async fn events(world: &World) -> TcpStream {
    let mut stream = TcpStream::connect(world.admin).await.unwrap();
    stream
        .write_all(format!("GET /events HTTP/1.1\r\nhost: {}\r\n\r\n", world.admin).as_bytes())
        .await
        .unwrap();
    stream
}

#[tokio::test]
async fn events_are_a_status_at_once_at_each_change_and_end_at_the_drain() {
    let world = daemon().credential(ROOMY).start().await;
    let mut stream = events(&world).await;
    let first = until(&mut stream, "\"generation\":1").await;
    assert!(
        first.contains("content-type: text/event-stream\r\n") && first.contains("event: status\ndata: {"),
        "{first}"
    );

    world.admin_post("/credentials/api/refresh").await;
    until(&mut stream, "\"generation\":2").await;
    // Nothing happens, and the stream shows that it lives.
    until(&mut stream, ": nothing has changed").await;

    world.process.signal(Signal::TERM);
    until(&mut stream, "\"draining\":true").await;
    let mut rest = Vec::new();
    timeout(PROMPT, stream.read_to_end(&mut rest)).await.unwrap().unwrap();
    world.finish().await;
}

#[tokio::test]
async fn the_number_of_event_streams_is_bounded_and_a_closed_one_makes_room() {
    let world = daemon().start().await;
    let mut open = Vec::new();
    for _ in 0..32 {
        let mut stream = events(&world).await;
        until(&mut stream, "event: status").await;
        open.push(stream);
    }
    let refused = until(&mut events(&world).await, "\"code\":").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("overloaded"), "{refused}");
    assert_eq!(world.admin_status("/livez").await, 200);

    open.clear();

    eventually("room", async || {
        let mut stream = events(&world).await;
        until(&mut stream, "\r\n").await.starts_with("HTTP/1.1 200")
    })
    .await;
    world.finish().await;
}

/// The status, the fields and the body of an answer to a browser.
async fn browse(world: &World, method: &str, path: &str, fields: &[(&str, &str)]) -> (u16, String, String) {
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.request(method, format!("http://{}{path}", world.admin));
    for (name, value) in [&[("accept", "text/html,*/*;q=0.8")], fields].concat() {
        request = request.header(name, value);
    }
    let response = request.send().await.unwrap();
    let (status, fields) = (response.status().as_u16(), format!("{:?}", response.headers()));
    (status, fields, response.text().await.unwrap())
}

#[tokio::test]
async fn a_browser_asks_before_a_refresh_and_shows_its_outcome_without_scripting() {
    let world = daemon().credential(ROOMY).start().await;
    let (code, fields, page) = browse(&world, "GET", "/", &[]).await;
    assert_eq!(code, 200);
    for field in ["default-src 'none'", "frame-ancestors 'none'", "no-store", "nosniff", "text/html"] {
        assert!(fields.contains(field), "{field}: {fields}");
    }
    assert!(page.contains("<a class=\"button\" href=\"/credentials/api/refresh\""), "{page}");
    for part in ["/page.css", "/page.js", "/page.svg"] {
        assert_eq!(browse(&world, "GET", part, &[]).await.0, 200, "{part}");
    }

    let (code, _, question) = browse(&world, "GET", "/credentials/api/refresh", &[]).await;
    assert!(code == 200 && question.contains("method=\"post\""), "{question}");
    assert_eq!(status(&world).await["credentials"][0]["generation"], 1, "the question refreshes nothing");
    let origin = format!("http://{}", world.admin);
    let same = [("origin", origin.as_str()), ("sec-fetch-site", "same-origin")];
    let (code, _, outcome) = browse(&world, "POST", "/credentials/api/refresh", &same).await;
    assert!(code == 200 && outcome.contains("New token: generation 2"), "{outcome}");

    world.authorization.answer_next(Answer::status(500, "{\"error\":\"<b>odd</b>\"}"));
    let (code, _, outcome) = browse(&world, "POST", "/credentials/api/refresh", &same).await;
    assert!(code == 503 && outcome.contains("No new token") && !outcome.contains("<b>"), "{outcome}");
    world.finish().await;
}

#[tokio::test]
async fn pages_of_other_sites_neither_read_nor_refresh() {
    let world = daemon().start().await;
    for (method, path) in
        [("GET", "/"), ("GET", "/status"), ("GET", "/events"), ("POST", "/credentials/api/refresh")]
    {
        for field in [("origin", "http://evil.test"), ("origin", "null"), ("sec-fetch-site", "cross-site")] {
            let (code, _, text) = browse(&world, method, path, &[field]).await;
            assert_eq!(code, 403, "{method} {path} {field:?}: {text}");
        }
    }
    assert_eq!(status(&world).await["credentials"][0]["generation"], 1);
    assert_eq!(browse(&world, "POST", "/status", &[]).await.0, 405);
    world.finish().await;
}

/// One vocabulary of states, reasons, causes, outcomes and codes: the daemon's, that of the metrics, and that of the
/// documentation.
#[tokio::test]
async fn states_and_reasons_are_those_of_the_metrics_and_of_the_documentation() {
    use bearerd::admin::attention::REASONS;
    use bearerd::proxy::error::{ProxyError, TLS_HANDSHAKE_FAILED};
    use bearerd::telemetry::history::CAUSES;
    use bearerd::telemetry::metrics::traffic::{Retry, Unauthorized};
    use bearerd::token::Reason;
    use bearerd::token::error::TokenError;
    use bearerd::token::status::{CredentialState, TOKEN_REJECTED, WARNINGS};

    let read = |page: &str| fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let text = read("docs/operate/status.md");
    let documented = |heading: &str| -> BTreeSet<String> {
        let (_, after) = text.split_once(&format!("| {heading} |")).unwrap_or_else(|| panic!("no {heading}"));
        let rows = after.lines().skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| row.split('`').nth(1).unwrap_or_else(|| panic!("{row}")).to_owned()).collect()
    };
    let set = |words: &[&str]| -> BTreeSet<String> { words.iter().map(|word| (*word).to_owned()).collect() };

    let states = set(&CredentialState::ALL.map(CredentialState::as_str));
    assert_eq!(documented("`state`"), states);
    let reasons = [&Reason::ALL.map(Reason::code)[..], &[TOKEN_REJECTED]].concat();
    assert_eq!(documented("`reason`"), set(&reasons));
    assert_eq!(documented("`reason` of `attention`"), set(&[&WARNINGS[..], &REASONS[..]].concat()));

    // The metrics of a daemon have a series for each word from the start.
    let world = daemon().start().await;
    let (_, scrape) = world.admin_get("/metrics").await;
    let labels = |metric: &str, label: &str| -> BTreeSet<String> {
        let series = scrape.lines().filter(|line| line.starts_with(&format!("{metric}{{")));
        let value =
            |line: &str| line.split_once(&format!("{label}=\""))?.1.split_once('"').map(|it| it.0.to_owned());
        series.filter_map(value).collect()
    };
    assert_eq!(labels("bearerd_credential_state", "state"), states);
    let (causes, outcomes) = (set(&CAUSES), TokenError::OUTCOMES);
    assert_eq!(labels("bearerd_token_requests_total", "cause"), causes);
    let outcomes = set(&[&["refreshed", "same_token"], outcomes].concat());
    assert_eq!(labels("bearerd_token_requests_total", "outcome"), outcomes);
    let unauthorized: Vec<_> = Unauthorized::ALL.iter().map(|one| one.as_str()).collect();
    assert_eq!(labels("bearerd_upstream_unauthorized_total", "outcome"), set(&unauthorized));
    let retries: Vec<_> = Retry::ALL.iter().map(|one| one.as_str()).collect();
    assert_eq!(labels("bearerd_upstream_retries_total", "cause"), set(&retries));
    let codes = set(&[ProxyError::CODES, &[TLS_HANDSHAKE_FAILED]].concat());
    assert_eq!(labels("bearerd_refused_requests_total", "code"), codes);
    for reason in Reason::ALL {
        assert!(codes.contains(reason.code()), "{reason:?}");
    }

    let metrics = read("docs/operate/metrics.md");
    let row = |metric: &str| {
        metrics
            .lines()
            .find(|line| line.starts_with(&format!("| `{metric}` ")))
            .unwrap_or_else(|| panic!("{metric}"))
    };
    for (metric, words) in [
        ("bearerd_credential_state", &states),
        ("bearerd_token_requests_total", &causes),
        ("bearerd_token_requests_total", &outcomes),
        ("bearerd_upstream_unauthorized_total", &set(&unauthorized)),
        ("bearerd_upstream_retries_total", &set(&retries)),
    ] {
        for word in words {
            assert!(row(metric).contains(&format!("`{word}`")), "{metric} {word}");
        }
    }
    world.finish().await;
}

/// `/readyz?verbose` uses the same words.
#[tokio::test]
async fn readiness_names_state_and_reason() {
    let world = Setup::without_token(daemon().secret("\"not-the-secret\"")).start().await;
    eventually("the refusal", async || {
        let (status, text) = world.admin_get("/readyz?verbose").await;
        status == 503 && text.contains("[-] credential api is unusable: client_rejected\n")
    })
    .await;
    world.finish().await;
}
