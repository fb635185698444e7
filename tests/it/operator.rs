//! Operations at the admin address, and the access to them.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::authorization_server::Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::{Process, World, daemon, eventually, spawn};
use testkit::harness::setup::CLIENT_ID;
use testkit::harness::world::assert_absent;

const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const TOKEN: &str = "0perat0r-token-of-the-admin-address";
const ROOMY: &str = "quota = { requests = 1000, per = \"1s\" }";

/// A folder for a state, a configured refresh token and the admin token.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("state")).unwrap();
        Self(folder)
    }

    fn state_dir(&self) -> PathBuf {
        self.0.path().join("state")
    }

    fn token_file(&self) -> PathBuf {
        self.0.path().join("admin-token")
    }

    /// The field with the token that the daemon has made.
    fn own_token(&self) -> String {
        let token = fs::read_to_string(self.state_dir().join("admin.token")).unwrap();
        format!("Bearer {}", token.trim_end())
    }

    /// A grant of one-time refresh tokens whose first token was rejected.
    async fn start_with_a_dead_grant(&self) -> World {
        let file = self.0.path().join("refresh");
        fs::write(&file, "a-refresh-token-that-has-ended").unwrap();
        let world = daemon()
            .server(&format!("state_dir = \"{}\"", self.state_dir().display()))
            .environment("STATE_KEY", KEY)
            .credential("state_key = { env = \"STATE_KEY\" }\ngrant = \"refresh_token\"")
            .credential(&format!("refresh_token = {{ file = \"{}\" }}\n{ROOMY}", file.display()))
            .without_token()
            .start()
            .await;
        let reply = world.get("/x").await;
        assert_eq!((reply.status, reply.code().as_deref()), (503, Some("reauthorization_required")));
        world
    }

    /// An admin address that requires a token.
    async fn start_with_a_token(&self) -> World {
        fs::write(self.token_file(), TOKEN).unwrap();
        let token = format!("token = {{ file = \"{}\" }}", self.token_file().display());
        daemon().admin(&token).credential(ROOMY).start().await
    }
}

thread_local! {
    /// One client for each test, as making one takes long.
    static CLIENT: reqwest::Client = reqwest::Client::builder().no_proxy().build().unwrap();
}

/// Sends a request to the admin address; returns the status, the fields and the JSON.
async fn ask(
    world: &World,
    method: &str,
    path: &str,
    fields: &[(&str, &str)],
    body: &str,
) -> (u16, reqwest::header::HeaderMap, Value) {
    let client = CLIENT.with(Clone::clone);
    let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = client.request(method, format!("http://{}{path}", world.admin)).body(body.to_owned());
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let text = response.text().await.unwrap();
    if status >= 400 {
        assert_eq!(headers["content-type"], "application/problem+json", "{status} {text}");
        let problem: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(problem["status"], status, "{problem}");
        for member in ["type", "title", "detail", "code"] {
            assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
        }
    }
    for secret in [TOKEN, KEY, "hunter2hunter2", "ref_", "tok_"] {
        assert!(!text.contains(secret), "{text}");
    }
    (status, headers, serde_json::from_str(&text).unwrap_or_default())
}

const JSON: (&str, &str) = ("content-type", "application/json");

/// A grant of the world's client and server.
fn grant_of(world: &World, mut members: Value) -> Value {
    members["client_id"] = CLIENT_ID.into();
    members["token_url"] = world.authorization.token_url().into();
    members
}

async fn hand_over(place: &Place, world: &World, body: &Value) -> (u16, Value) {
    let body = grant_of(world, body.clone()).to_string();
    let fields = [JSON, ("authorization", &place.own_token())];
    let (status, _, answer) = ask(world, "POST", "/credentials/api/grant", &fields, &body).await;
    (status, answer)
}

async fn post(world: &World, path: &str, fields: &[(&str, &str)]) -> (u16, String) {
    let (status, _, answer) = ask(world, "POST", path, fields, "").await;
    (status, answer["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_handed_over_grant_replaces_a_dead_one_and_outlives_a_restart() {
    let place = Place::new();
    let mut world = place.start_with_a_dead_grant().await;
    let (_, _, shown) = ask(&world, "GET", "/credentials/api", &[], "").await;
    assert_eq!((&shown["state"], &shown["reason"]), (&json!("unusable"), &json!("reauthorization_required")));
    let refresh_token = world.authorization.authorize();

    let (status, answer) = hand_over(&place, &world, &json!({ "refresh_token": refresh_token })).await;

    assert_eq!((status, answer), (204, Value::Null));
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(ask(&world, "GET", "/credentials/api", &[], "").await.2["state"], "valid");
    let event = world.process.event("credential authorized").await;
    assert_eq!((&event["event"], &event["is_durable"]), (&json!("credential.authorized"), &json!(true)));
    world.process.event("credential recovered").await;
    let acted = world.process.event("operator acted").await;
    assert_eq!((&acted["cause"], &acted["credential"]), (&json!("grant"), &json!("api")));

    // The configured refresh token is still rejected, and not tried again.
    let before = world.authorization.requests();
    world.process.signal(Signal::TERM);
    world.process.ended().await;
    world.start_again().await;
    assert_eq!(world.get("/x").await.status, 200);
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.authorization.requests(), before + 1);
    assert_eq!(world.authorization.refresh_tokens().reuses(), 0);
    assert_absent(&world.process.output(), "a-refresh-token-that-has-ended");
    world.finish().await;
}

/// A complete grant, and a kill directly after the answer.
#[tokio::test]
async fn an_accepted_grant_survives_a_kill_and_its_access_token_is_used() {
    let place = Place::new();
    let mut world = place.start_with_a_dead_grant().await;
    let refresh_token = world.authorization.authorize();
    world.authorization.set_delay(Duration::from_hours(1));
    let grant = json!({
        "refresh_token": refresh_token, "access_token": "another-token", "expires_in": 3599, "scope": "a b",
    });

    assert_eq!(hand_over(&place, &world, &grant).await.0, 204);
    world.kill().await;
    let asked = world.authorization.requests();
    world.start_again().await;

    assert_eq!(world.admin_status("/readyz").await, 200);
    let (_, _, shown) = ask(&world, "GET", "/credentials/api", &[], "").await;
    assert_eq!(
        (&shown["state"], &shown["takes_grant"], &shown["generation"]),
        (&json!("valid"), &json!(true), &json!(1))
    );
    assert_eq!(world.authorization.requests(), asked, "it was not asked for");
    assert_absent(&world.process.output(), "another-token");
    world.finish().await;
}

#[tokio::test]
async fn a_grant_that_cannot_be_written_is_used_and_reported_as_not_durable() {
    let place = Place::new();
    let world = place.start_with_a_dead_grant().await;
    let own = place.own_token();
    // The rejection may still be under way.
    eventually("nothing there", async || fs::remove_dir_all(place.state_dir()).is_ok()).await;
    let refresh_token = world.authorization.authorize();

    let body = grant_of(&world, json!({ "refresh_token": refresh_token })).to_string();
    let fields = [JSON, ("authorization", own.as_str())];
    let (status, _, answer) = ask(&world, "POST", "/credentials/api/grant", &fields, &body).await;

    assert_eq!(status, 202);
    assert!(answer["detail"].as_str().unwrap().contains("NOT on disk"), "{answer}");
    assert_eq!(world.get("/x").await.status, 200);
    assert_eq!(world.process.event("credential authorized").await["is_durable"], false);
    world.finish().await;
}

#[tokio::test]
async fn a_malformed_grant_changes_nothing_and_is_not_quoted() {
    let place = Place::new();
    let world = place.start_with_a_dead_grant().await;
    let asked = world.authorization.requests();
    let large = "x".repeat(64 * 1024);
    let own = place.own_token();
    let own = ("authorization", own.as_str());
    let of = |members: Value| grant_of(&world, members).to_string();
    let mut of_another = grant_of(&world, json!({ "refresh_token": "hunter2hunter2" }));
    of_another["client_id"] = "another".into();
    for (body, expected) in [
        (of(json!({ "refresh_token": "" })), (422, "bad_refresh_token")),
        (of(json!({ "refresh_token": "hunter2hunter2\n" })), (422, "bad_refresh_token")),
        (of_another.to_string(), (409, "grant_of_another_client")),
        // The client and the server of a grant must be named.
        (json!({ "refresh_token": "hunter2hunter2" }).to_string(), (400, "bad_request")),
        (json!({ "access_token": "hunter2hunter2" }).to_string(), (400, "bad_request")),
        (json!({ "refresh_token": "hunter2hunter2", "hunter2hunter2": 1 }).to_string(), (400, "bad_request")),
        ("{\"refresh_token\":\"hunter2hunter2\",\"refresh_token\":\"x\"}".to_owned(), (400, "bad_request")),
        ("{\"refresh_token\":\"hunter2hunter2\"".to_owned(), (400, "bad_request")),
        (String::new(), (400, "bad_request")),
        (json!({ "refresh_token": large }).to_string(), (413, "body_too_large")),
    ] {
        let (status, _, answer) = ask(&world, "POST", "/credentials/api/grant", &[JSON, own], &body).await;
        assert_eq!((status, answer["code"].as_str().unwrap()), expected);
    }
    eventually("the audit", async || world.process.events("operator refused").len() == 10).await;
    for refused in world.process.events("operator refused") {
        assert_eq!(
            (&refused["cause"], &refused["credential"]),
            (&json!("grant"), &json!("api")),
            "{refused}"
        );
    }
    let form = [("content-type", "application/x-www-form-urlencoded"), own];
    let (status, _, answer) =
        ask(&world, "POST", "/credentials/api/grant", &form, "refresh_token=hunter2hunter2").await;
    assert_eq!((status, &answer["code"]), (415, &json!("not_json")));
    assert_eq!(world.get("/x").await.status, 503);
    assert_eq!(world.authorization.requests(), asked);
    assert_absent(&world.process.output(), "hunter2hunter2");
    world.finish().await;
}

/// Neither an endless nor an absent body blocks the daemon.
#[tokio::test]
async fn a_body_without_an_end_is_refused_at_64_kib() {
    let world = daemon().start().await;
    let mut stream = TcpStream::connect(world.admin).await.unwrap();
    let head = format!(
        "POST /credentials/api/refresh HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\n\
         transfer-encoding: chunked\r\n\r\n",
        world.admin
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("1000\r\n{}\r\n", " ".repeat(0x1000));
    let (mut reading, mut writing) = stream.split();
    let send = async { while writing.write_all(chunk.as_bytes()).await.is_ok() {} };
    let mut answer = [0; 1024];
    let read = tokio::select! {
        read = reading.read(&mut answer) => read.unwrap(),
        () = send => reading.read(&mut answer).await.unwrap_or_default(),
    };
    assert!(answer[..read].starts_with(b"HTTP/1.1 413 "), "{}", String::from_utf8_lossy(&answer[..read]));
    world.finish().await;
}

#[tokio::test]
async fn unknown_admin_paths_and_credentials_get_404() {
    let world = daemon().start().await;
    for (method, path, expected) in [
        ("GET", "/credentials/other", (404, "credential_not_found")),
        ("POST", "/credentials/other/refresh", (404, "credential_not_found")),
        ("POST", "/credentials/a%70i/refresh", (404, "credential_not_found")),
        ("POST", "/credentials/api/revoke", (404, "path_not_found")),
        ("GET", "/credentials/api/refresh", (405, "method_not_allowed")),
        ("DELETE", "/credentials/api", (405, "method_not_allowed")),
        // The default grant has no refresh token.
        ("POST", "/credentials/api/grant", (409, "grant_not_taken")),
    ] {
        let (status, headers, answer) = ask(&world, method, path, &[], "").await;
        assert_eq!((status, answer["code"].as_str().unwrap()), expected, "{method} {path}");
        assert_eq!(headers.contains_key("allow"), status == 405);
    }
    let (status, _, shown) = ask(&world, "GET", "/credentials/api", &[], "").await;
    assert!(shown["since"].is_string());
    let expected = json!({
        "name": "api", "grant": "client_credentials", "takes_grant": false, "client_id": CLIENT_ID,
        "token_url": world.authorization.token_url(), "state": "valid", "reason": null,
        "since": shown["since"], "needs_person": false, "generation": 1,
    });
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!((status, &shown[name]), (200, value), "{name}");
    }
    for path in ["/credentials", "/credentials/"] {
        let (status, _, listed) = ask(&world, "GET", path, &[], "").await;
        assert_eq!((status, listed["credentials"].as_array().unwrap().len()), (200, 1));
        let members = |one: &Value| one.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert_eq!(members(&listed["credentials"][0]), members(&shown));
        assert_eq!(ask(&world, "POST", path, &[], "").await.0, 405);
    }
    for path in ["/metricsx", "/credentialsx"] {
        let (status, _, answer) = ask(&world, "GET", path, &[], "").await;
        assert_eq!((status, answer["code"].as_str()), (404, Some("path_not_found")));
        assert!(answer["detail"].as_str().unwrap().contains("/readyz?verbose"), "{answer}");
    }
    // The log does not quote the malformed grant.
    assert!(world.process.events("operator refused").iter().all(|event| event["credential"] != "other"));
    world.finish().await;
}

#[tokio::test]
async fn a_thousand_refreshes_stay_within_the_rate_limit() {
    let world = daemon().quiet().start().await;
    let (status, _, told) = ask(&world, "POST", "/credentials/api/refresh", &[], "").await;
    assert_eq!((status, &told["generation"], &told["same_token"]), (200, &json!(2), &json!(false)));
    assert!(told["expires_in"].as_u64().unwrap() > 3590, "{told}");

    let all = (0..1000).map(|_| post(&world, "/credentials/api/refresh", &[]));
    let mut told = 0;
    let all: Vec<_> = futures_util::StreamExt::collect(futures_util::StreamExt::buffer_unordered(
        futures_util::stream::iter(all),
        100,
    ))
    .await;
    for (status, code) in all {
        assert!(
            status == 200 || (status, code.as_str()) == (503, "token_quota_exhausted"),
            "{status} {code}"
        );
        told += 1;
    }
    assert_eq!(told, 1000);
    // Half of the ten requests may be forced, and one more every twelve seconds.
    let requests = world.authorization.requests();
    assert!(requests <= 1 + 5 + 5, "{requests}");
    assert_eq!(world.get("/x").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_failed_refresh_reports_the_reason_and_obeys_retry_after() {
    let world = daemon().credential(ROOMY).credential("basic_encoding = \"raw\"").start().await;
    for (answer, expected) in [
        (Answer::status(401, "{\"error\":\"invalid_client\"}"), "client_rejected"),
        (Answer::too_many(100), "token_endpoint_rate_limited"),
    ] {
        world.authorization.answer_next(answer);
        let (status, headers, told) = ask(&world, "POST", "/credentials/api/refresh", &[], "").await;
        assert_eq!((status, told["code"].as_str().unwrap()), (503, expected), "{told}");
        assert_eq!(headers.contains_key("retry-after"), expected == "token_endpoint_rate_limited");
    }
    assert_eq!(world.authorization.requests(), 3, "a latch does not hold whoever may have mended its cause");

    let (_, headers, told) = ask(&world, "POST", "/credentials/api/refresh", &[], "").await;
    assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 90);
    assert!(told["detail"].as_str().unwrap().starts_with("No token request was made"), "{told}");
    assert_eq!(world.authorization.requests(), 3);
    assert_eq!(world.get("/x").await.status, 200, "the valid token stays");
    world.finish().await;
}

#[tokio::test]
async fn a_refresh_that_returns_the_old_token_says_so() {
    let world = daemon().credential(ROOMY).start().await;
    for asked in 2..5 {
        world.authorization.answer_next(Answer::SameAgain);
        let (status, _, told) = ask(&world, "POST", "/credentials/api/refresh", &[], "").await;
        assert_eq!(
            (status, &told["same_token"], &told["generation"]),
            (200, &json!(true), &json!(1)),
            "{told}"
        );
        assert_eq!(world.authorization.requests(), asked, "each order is asked");
    }
    world.finish().await;
}

#[tokio::test]
async fn an_admin_token_is_needed_for_operations_and_not_for_health() {
    let place = Place::new();
    let world = place.start_with_a_token().await;
    let right = format!("Bearer {TOKEN}");
    for path in ["/credentials/api/refresh", "/credentials/api/grant", "/credentials/other/refresh"] {
        for fields in [vec![], vec![("authorization", "Bearer wrong")], vec![("authorization", "Basic eDp5")]]
        {
            let (status, headers, _) = ask(&world, "POST", path, &fields, "").await;
            assert_eq!((status, headers["www-authenticate"].to_str().unwrap()), (401, "Bearer"));
        }
    }
    for path in ["/credentials", "/credentials/", "/credentials/api"] {
        assert_eq!(ask(&world, "GET", path, &[], "").await.0, 401);
    }
    assert_eq!(world.authorization.requests(), 1);
    for path in ["/livez", "/readyz"] {
        assert_eq!(world.admin_status(path).await, 200);
    }

    assert_eq!(ask(&world, "GET", "/credentials/api", &[("authorization", &right)], "").await.0, 200);
    assert_eq!(post(&world, "/credentials/api/refresh", &[("authorization", &right)]).await.0, 200);
    assert_eq!(world.authorization.requests(), 2);

    // A new token in the file counts from then on.
    fs::write(place.token_file(), "another-admin-token").unwrap();
    assert_eq!(post(&world, "/credentials/api/refresh", &[("authorization", &right)]).await.0, 401);
    let another = [("authorization", "Bearer another-admin-token")];
    assert_eq!(post(&world, "/credentials/api/refresh", &another).await.0, 200);
    let refused = world.process.event("operator refused").await;
    assert_eq!((&refused["event"], &refused["credential"]), (&json!("operator.refused"), &json!("api")));
    for secret in [TOKEN, "another-admin-token"] {
        assert_absent(&world.process.output(), secret);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_burst_of_wrong_admin_tokens_is_rate_limited() {
    let place = Place::new();
    let world = place.start_with_a_token().await;
    let wrong = [("authorization", "Bearer wrong")];
    for _ in 0..10 {
        assert_eq!(post(&world, "/credentials/api/refresh", &wrong).await.0, 401);
    }
    for shown in ["Bearer wrong", &format!("Bearer {TOKEN}")] {
        let (status, headers, _) =
            ask(&world, "POST", "/credentials/api/refresh", &[("authorization", shown)], "").await;
        assert_eq!(status, 429);
        assert!((1..=6).contains(&headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap()));
    }
    assert_eq!(world.admin_status("/livez").await, 200);
    let right = format!("Bearer {TOKEN}");
    eventually("listened to again", async || {
        post(&world, "/credentials/api/refresh", &[("authorization", &right)]).await.0 == 200
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_browsers_foreign_page_and_a_rebound_name_cannot_operate() {
    let world = daemon().start().await;
    let own = format!("http://{}", world.admin);
    let port = world.admin.port();
    for (field, expected) in [
        (("origin", "http://evil.test"), 403),
        (("origin", "null"), 403),
        (("sec-fetch-site", "cross-site"), 403),
        (("sec-fetch-site", "same-site"), 403),
        (("host", format!("rebind.evil.test:{port}").as_str()), 421),
        (("host", "192.0.2.1"), 421),
    ] {
        let before = world.authorization.requests();
        let (status, headers, _) = ask(&world, "POST", "/credentials/api/refresh", &[field], "").await;
        assert_eq!(status, expected, "{field:?}");
        assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control")));
        assert_eq!(world.authorization.requests(), before);
    }
    let preflight = [("origin", "http://evil.test"), ("access-control-request-method", "POST")];
    let (status, headers, _) = ask(&world, "OPTIONS", "/credentials/api/refresh", &preflight, "").await;
    assert!(status == 403 && headers.keys().all(|name| !name.as_str().starts_with("access-control")));

    let localhost = format!("localhost:{port}");
    for fields in
        [vec![("origin", own.as_str())], vec![("sec-fetch-site", "none")], vec![("host", &localhost)]]
    {
        assert_eq!(post(&world, "/credentials/api/refresh", &fields).await.0, 200, "{fields:?}");
    }
    world.finish().await;
}

/// 0.0.0.0 includes loopback, from which this test connects.
#[tokio::test]
async fn off_loopback_the_admin_address_needs_a_token() {
    let listen = "listen = \"0.0.0.0:0\"";
    let world = daemon().admin(listen).start().await;
    for (method, path) in [("GET", "/credentials/api"), ("POST", "/credentials/api/refresh")] {
        let fields = [("authorization", "Bearer x")];
        let (status, _, answer) = ask(&world, method, path, &fields, "").await;
        assert_eq!((status, &answer["code"]), (403, &json!("admin_token_not_set")));
        assert!(answer["detail"].as_str().unwrap().contains("admin.token"), "{answer}");
    }
    assert_eq!(world.admin_status("/livez").await, 200);
    let mut check = world.command(&["check"]);
    assert_eq!(check.ended().await.code(), Some(0));
    assert!(
        check.output().contains("is not on loopback, and there is no `admin.token`"),
        "{}",
        check.output()
    );
    world.finish().await;
}

/// The callers' address serves no admin path.
#[tokio::test]
async fn a_caller_of_the_proxy_cannot_operate() {
    let world = daemon().start().await;
    let seen = world.upstream.requests().len();

    let reply = world.send(&crate::harness::Request::post("/credentials/api/refresh", b"")).await;

    assert_eq!(reply.status, 200, "it is the API's path like another");
    assert_eq!(world.upstream.requests().len(), seen + 1);
    assert_eq!(world.authorization.requests(), 1);
    world.finish().await;
}

async fn ended(mut process: Process) -> (i32, String) {
    let status = process.ended().await;
    let output = process.output();
    assert_absent(&output, TOKEN);
    (status.code().unwrap(), output)
}

#[tokio::test]
async fn bearerd_refresh_reports_the_outcome() {
    let place = Place::new();
    let world = place.start_with_a_token().await;
    let admin = world.admin.to_string();
    let run = |arguments: &[&str]| {
        let mut all = vec!["refresh", "--admin", &admin];
        all.extend(arguments);
        world.command(&all)
    };

    let (code, output) = ended(run(&["api"])).await;
    // A few seconds of the lifetime have passed.
    let is_right = output.starts_with("New token: generation 2, valid for 359") && output.ends_with(" s.\n");
    assert!(code == 0 && is_right, "{output}");
    let (code, output) = ended(run(&["other"])).await;
    assert!(
        code == 1
            && output
                .contains("The configuration has no credential of this name. Its credentials: api. (404)"),
        "{output}"
    );
    world.authorization.answer_next(Answer::status(500, ""));
    let (code, output) = ended(run(&["api"])).await;
    assert!(code == 1 && output.contains("failed: the token endpoint answered 500"), "{output}");
    world.authorization.answer_next(Answer::too_many(60));
    eventually("a Retry-After", async || ended(run(&["api"])).await.1.contains("limits the rate")).await;
    let (code, output) = ended(run(&["api"])).await;
    assert!(code == 1 && output.contains("No token request was made for `api`"), "{output}");

    // The daemon requires a token that the command does not have.
    let elsewhere = tempfile::tempdir().unwrap();
    let stranger = spawn(&["refresh", "api", "--admin", &admin], &[], elsewhere.path());
    let (code, output) = ended(stranger).await;
    assert!(code == 1 && output.contains("(401)"), "{output}");
    fs::remove_file(place.token_file()).unwrap();
    let (code, output) = ended(run(&["api"])).await;
    assert!(code == 1 && output.contains("the admin token cannot be read"), "{output}");
    let nobody = spawn(&["refresh", "api", "--admin", "127.0.0.1:9"], &[], elsewhere.path());
    assert_eq!(ended(nobody).await.0, 69);
    // Another server listens at this address.
    let other = format!("http://{}", world.authorization.token_url().split('/').nth(2).unwrap());
    let stranger = spawn(&["refresh", "api", "--admin", &other], &[], elsewhere.path());
    let (code, output) = ended(stranger).await;
    assert!(code == 1 && output.contains("not as an admin address of bearerd"), "{output}");
    world.finish().await;
}
