//! The rate limit of an API, shared out among callers (`api_quota`).

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use testkit::harness::raw::RawPeer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::harness::{Http2Caller, Reply, Request, Setup, World, daemon, eventually};

/// An API that counts requests in a sliding window, as Genesys Cloud does.
struct Api {
    listener: RawPeer,
    state: Arc<Mutex<Counted>>,
}

#[derive(Debug, Default)]
struct Counted {
    limit: usize,
    per: Duration,
    window: VecDeque<Instant>,
    /// All requests.
    seen: usize,
    /// The most requests within the interval.
    most: usize,
    /// Requests over the limit, which were answered 429.
    rejected: usize,
    /// Fields of the next answers, in the place of those of Genesys.
    fields: Option<String>,
    /// The answer to the next request is 429 with this `Retry-After`.
    throttles: Option<u64>,
}

impl Api {
    async fn start(limit: usize, per: Duration) -> Self {
        let state = Arc::new(Mutex::new(Counted { limit, per, ..Counted::default() }));
        let counted = Arc::clone(&state);
        let listener = RawPeer::tcp(move |stream| serve(stream, Arc::clone(&counted))).await;
        Self { listener, state }
    }

    fn setup(&self, api_quota: &str) -> Setup {
        daemon()
            .quiet()
            .server("trusted_proxies = [\"127.0.0.1/32\"]")
            .credential(&format!("api_quota = {api_quota}"))
            .upstream(format!("http://{}", self.listener.address))
    }

    fn with<T>(&self, read: impl FnOnce(&mut Counted) -> T) -> T {
        read(&mut self.state.lock().unwrap())
    }
}

async fn serve(mut stream: TcpStream, counted: Arc<Mutex<Counted>>) {
    let mut received = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
                return;
            }
        };
        let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
        let is_end = |body: &[u8]| match head.split("content-length: ").nth(1) {
            Some(rest) => body.len() >= rest.split("\r\n").next().unwrap().parse::<usize>().unwrap(),
            None => !head.contains("transfer-encoding: chunked") || body.ends_with(b"0\r\n\r\n"),
        };
        while !is_end(&received[end..]) {
            if !matches!(stream.read_buf(&mut received).await, Ok(1..)) {
                return;
            }
        }
        received.clear();
        let id =
            head.split("x-test-id: ").nth(1).and_then(|rest| rest.split("\r\n").next()).unwrap_or_default();
        let answer = counted.lock().unwrap().answer(id);
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

impl Counted {
    fn answer(&mut self, id: &str) -> String {
        let now = Instant::now();
        let per = self.per;
        self.seen += 1;
        while self.window.front().is_some_and(|first| *first + per <= now) {
            self.window.pop_front();
        }
        let mut status = "200 OK";
        let mut fields = String::new();
        if let Some(seconds) = self.throttles.take() {
            status = "429 Too Many Requests";
            let _ = write!(fields, "retry-after: {seconds}\r\n");
        } else if self.window.len() >= self.limit {
            self.rejected += 1;
            status = "429 Too Many Requests";
            let _ = write!(fields, "retry-after: {}\r\n", per.as_secs().max(1));
        } else {
            self.window.push_back(now);
            self.most = self.most.max(self.window.len());
        }
        let reset = self.window.front().map_or(per, |first| (*first + per).duration_since(now));
        let of_genesys = format!(
            "inin-ratelimit-count: {}\r\ninin-ratelimit-allowed: {}\r\ninin-ratelimit-reset: {}\r\n",
            self.window.len(),
            self.limit,
            reset.as_secs() + 1
        );
        fields += self.fields.as_deref().unwrap_or(&of_genesys);
        format!("HTTP/1.1 {status}\r\n{fields}x-test-id: {id}\r\ncontent-length: 2\r\n\r\nok")
    }
}

fn from(address: &str, target: &str) -> Request {
    Request::get(target).field("x-forwarded-for", address)
}

/// The answer of bearerd to a request whose turn comes too late.
fn is_exhausted(reply: &Reply) -> bool {
    reply.status == 429 && reply.code().as_deref() == Some("api_quota_exhausted")
}

async fn quota(world: &World) -> Value {
    let status: Value = serde_json::from_str(&world.admin_get("/status").await.1).unwrap();
    status["credentials"][0]["api_quota"].clone()
}

#[tokio::test]
async fn a_loud_caller_never_takes_the_share_of_a_quiet_one() {
    let api = Api::start(20, Duration::from_secs(1)).await;
    let world = api.setup("{ requests = 20, per = \"1s\", wait = \"400ms\" }").start().await;
    let end = Instant::now() + Duration::from_secs(4);
    let loud = async {
        let one = async |number: u32| {
            let mut caller = world.caller().await;
            let (mut served, mut refused) = (0, 0);
            while Instant::now() < end {
                let reply = caller.send(&from("192.0.2.1", &format!("/loud/{number}"))).await;
                if reply.status == 200 {
                    served += 1;
                } else {
                    assert!(is_exhausted(&reply), "{}", reply.text());
                    refused += 1;
                    caller = world.caller().await;
                    sleep(Duration::from_millis(20)).await;
                }
            }
            (served, refused)
        };
        join_all((0..10).map(one)).await
    };
    let quiet = async {
        let mut waits = Vec::new();
        while Instant::now() < end {
            let started = Instant::now();
            let reply = world.send(&from("192.0.2.2", "/quiet")).await;
            assert_eq!(reply.status, 200, "{}", reply.text());
            waits.push(started.elapsed());
            sleep(Duration::from_millis(250)).await;
        }
        waits
    };
    let (loud, waits) = tokio::join!(loud, quiet);

    let served: usize = loud.iter().map(|(served, _)| served).sum();
    let refused: usize = loud.iter().map(|(_, refused)| refused).sum();
    api.with(|counted| {
        assert!(counted.most <= 20 && counted.rejected == 0, "{counted:?}");
        assert_eq!(counted.seen, served + waits.len());
    });
    assert!(served >= 45, "the loud caller gets what the quiet one leaves: {served}");
    assert!(refused > 0);
    assert!(waits.len() >= 8, "{waits:?}");
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(1)), "{waits:?}");
    eventually("all are counted", async || {
        let quota = quota(&world).await;
        quota["refused"] == refused && quota["granted"] == served + waits.len()
    })
    .await;
    let quota = quota(&world).await;
    assert_eq!(quota["lines"].as_array().unwrap().len(), 2);
    let (_, metrics) = world.admin_get("/metrics").await;
    for series in [
        "bearerd_api_quota_limit{credential=\"api\"} 20",
        &format!("bearerd_api_quota_refused_total{{credential=\"api\"}} {refused}"),
        &format!("bearerd_api_quota_requests_total{{credential=\"api\"}} {}", served + waits.len()),
        "bearerd_api_quota_waiting{credential=\"api\"} 0",
        "bearerd_api_quota_left{credential=\"api\"}",
        "bearerd_api_quota_borrowed_total{credential=\"api\"}",
        "bearerd_api_quota_wait_seconds_count{credential=\"api\"}",
    ] {
        assert!(metrics.contains(series), "{series} is missing in {metrics}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_request_whose_turn_is_too_late_is_refused_before_the_api_sees_it() {
    let api = Api::start(2, Duration::from_secs(30)).await;
    let world = api.setup("{ requests = 2, per = \"30s\", wait = \"0s\" }").start().await;
    for _ in 0..2 {
        assert_eq!(world.get("/x").await.status, 200);
    }
    let refused = world.get("/x").await;

    assert!(is_exhausted(&refused), "{}", refused.text());
    let retry_after: u64 = refused.get("retry-after").unwrap().parse().unwrap();
    assert!((28..=31).contains(&retry_after), "{retry_after}");
    assert_eq!(refused.get("proxy-status"), Some("bearerd; error=proxy_internal_response"));
    assert_eq!(api.with(|counted| counted.seen), 2);
    assert!(is_exhausted(&world.get("/x").await));
    let events = || world.process.events("quota exhausted").len();
    eventually("the event", async || events() > 0).await;
    assert_eq!(events(), 1, "once in an interval");
    world.finish().await;
}

#[tokio::test]
async fn a_request_waits_for_its_turn_and_then_goes() {
    let api = Api::start(1, Duration::from_secs(1)).await;
    let world = api.setup("{ requests = 1, per = \"1s\", wait = \"5s\" }").start().await;
    let started = Instant::now();
    let replies = join_all((0..3).map(|_| world.get("/x"))).await;
    assert!(replies.iter().all(|reply| reply.status == 200));
    assert!(started.elapsed() >= Duration::from_secs(2), "{:?}", started.elapsed());
    assert_eq!(api.with(|counted| (counted.seen, counted.rejected)), (3, 0));
    world.finish().await;
}

#[tokio::test]
async fn a_caller_that_leaves_while_it_waits_takes_nobodys_turn() {
    let api = Api::start(1, Duration::from_secs(2)).await;
    let world = api.setup("{ requests = 1, per = \"2s\", wait = \"10s\" }").start().await;
    assert_eq!(world.get("/first").await.status, 200);
    let mut leaving = world.caller().await;
    leaving.write(b"GET /leaving HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    eventually("it waits", async || quota(&world).await["waiting"] == 1).await;
    drop(leaving);

    assert_eq!(world.get("/second").await.status, 200);

    assert_eq!(api.with(|counted| counted.seen), 2);
    world.finish().await;
}

#[tokio::test]
async fn a_body_that_cannot_be_sent_again_gets_the_429_and_the_next_request_waits_it_out() {
    let api = Api::start(1000, Duration::from_secs(1)).await;
    let setup = api.setup("{ requests = 1000, per = \"1s\", wait = \"0s\" }").limits("replay_body = \"0\"");
    let world = setup.route("retry_429 = { attempts = 2, methods = [\"POST\"] }").start().await;
    api.with(|counted| counted.throttles = Some(2));

    let reply = world.send(&Request::chunked("/x", &[b"once", b"only"])).await;

    assert_eq!((reply.status, reply.code(), reply.get("retry-after")), (429, None, Some("2")));
    eventually("the pause", async || !quota(&world).await["blocked_until"].is_null()).await;
    let refused = world.get("/x").await;
    assert!(is_exhausted(&refused));
    assert!(["1", "2"].contains(&refused.get("retry-after").unwrap()));
    assert_eq!(api.with(|counted| counted.seen), 1, "the API gets no request before its time");
    eventually("the end of the pause", async || world.get("/x").await.status == 200).await;
    world.finish().await;
}

#[tokio::test]
async fn what_others_use_with_the_same_token_is_left_out() {
    let api = Api::start(1000, Duration::from_secs(1)).await;
    let world = api.setup("{ requests = 300, per = \"60s\", wait = \"0s\" }").start().await;
    let genesys = "inin-ratelimit-count: 297\r\ninin-ratelimit-allowed: 300\r\ninin-ratelimit-reset: 3\r\n";
    api.with(|counted| counted.fields = Some(genesys.to_owned()));
    assert_eq!(world.get("/x").await.status, 200);
    eventually("the debt", async || quota(&world).await["left"] == 3).await;
    api.with(|counted| counted.fields = Some(String::new()));
    for _ in 0..3 {
        assert_eq!(world.get("/x").await.status, 200);
    }
    assert!(is_exhausted(&world.get("/x").await));
    eventually("the reset of the API", async || world.get("/x").await.status == 200).await;
    world.finish().await;
}

#[tokio::test]
async fn nonsense_in_the_fields_of_the_api_changes_nothing() {
    let api = Api::start(1000, Duration::from_secs(1)).await;
    let world = api.setup("{ requests = 50, per = \"60s\", wait = \"0s\" }").start().await;
    for (sent, wrong) in [
        "x-ratelimit-remaining: -1\r\nx-ratelimit-reset: 30",
        "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: -30",
        "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: Sun, 06 Nov 1994 08:49:37 GMT",
        "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 31536000",
        "x-ratelimit-remaining: 0, 1\r\nx-ratelimit-reset: 30",
        "x-ratelimit-remaining: 0\r\nx-ratelimit-remaining: 1\r\nx-ratelimit-reset: 30",
        "inin-ratelimit-count: 1e9\r\ninin-ratelimit-allowed: 300\r\ninin-ratelimit-reset: 30",
        "inin-ratelimit-count: 0\r\ninin-ratelimit-allowed: 0\r\ninin-ratelimit-reset: 30",
        "ratelimit: \"a\";r=0;t=-5",
        "ratelimit: ;;;,,,\r\nratelimit-policy: \"a\";q=1;w=60;q=2, \"b\";w=60",
        "retry-after: 3600",
    ]
    .into_iter()
    .enumerate()
    {
        api.with(|counted| counted.fields = Some(format!("{wrong}\r\n")));
        assert_eq!(world.get("/x").await.status, 200);
        eventually("the permit is settled", async || quota(&world).await["granted"] == sent + 1).await;
        let quota = quota(&world).await;
        // The policy of one request in the interval is legible.
        let limit = if wrong.contains("q=1;w=60") || sent > 9 { 1 } else { 50 };
        if limit == 1 {
            break;
        }
        assert_eq!((&quota["requests"], &quota["left"]), (&50.into(), &(49 - sent).into()), "{wrong}");
    }
    world.finish().await;
}

#[tokio::test]
async fn a_caller_with_a_thousand_connections_has_one_line() {
    let api = Api::start(50, Duration::from_secs(1)).await;
    let world = api.setup("{ requests = 50, per = \"1s\", wait = \"2s\" }").start().await;
    let through = &world;
    let loud = join_all((0..1000).map(async |_| through.send(&from("192.0.2.1", "/loud")).await.status));
    let quiet = async {
        let mut statuses = Vec::new();
        for _ in 0..8 {
            sleep(Duration::from_millis(200)).await;
            // Beyond two seconds of waiting, the status would be 429.
            statuses.push(through.send(&from("192.0.2.2", "/quiet")).await.status);
        }
        statuses
    };
    let (loud, quiet) = tokio::join!(loud, quiet);
    assert_eq!(quiet, [200; 8]);
    assert!(loud.iter().all(|status| [200, 429].contains(status)));
    assert_eq!(api.with(|counted| counted.rejected), 0);
    eventually("nobody waits", async || quota(&world).await["waiting"] == 0).await;
    world.finish().await;
}

#[tokio::test]
async fn ten_thousand_addresses_share_a_budget_that_is_smaller_than_their_number() {
    let api = Api::start(100, Duration::from_mins(1)).await;
    let world = api.setup("{ requests = 100, per = \"60s\", wait = \"0s\" }").start().await;
    let address = world.address;
    let callers = join_all((0..20_u32).map(async |number| {
        // Connections of HTTP/2 outlive refusals.
        let mut caller = Http2Caller::connect(address).await;
        let mut served = 0;
        for one in 0..500_u32 {
            let address = format!("10.{number}.{}.{}", one / 250, one % 250);
            let status = caller.send(&from(&address, "/x")).await.status;
            served += usize::from(status == 200);
        }
        served
    }))
    .await;
    assert_eq!(callers.iter().sum::<usize>(), 100);
    assert_eq!(api.with(|counted| (counted.seen, counted.rejected)), (100, 0));
    eventually("all are counted", async || quota(&world).await["refused"] == 9900).await;
    let quota = quota(&world).await;
    assert_eq!(quota["left"], 0);
    assert!(quota["lines"].as_array().unwrap().len() <= 20);
    world.finish().await;
}

#[tokio::test]
async fn a_reload_keeps_what_was_used_and_ends_a_quota_that_is_gone() {
    let api = Api::start(100_000, Duration::from_mins(1)).await;
    let world = api.setup("{ requests = 5, per = \"60s\", wait = \"0s\" }").start().await;
    for _ in 0..5 {
        assert_eq!(world.get("/x").await.status, 200);
    }
    world.configure(|text| text.replace("requests = 5", "requests = 7"));
    world.reload().await;
    for _ in 0..2 {
        assert_eq!(world.get("/x").await.status, 200);
    }
    assert!(is_exhausted(&world.get("/x").await));
    world.configure(|text| text.replace("requests = 7", "requests = 7000"));
    world.reload().await;
    assert_eq!(world.get("/x").await.status, 200);
    eventually("the new limit", async || quota(&world).await["requests"] == 7000).await;
    world.finish().await;
}

#[tokio::test]
async fn a_replay_takes_a_permit_of_its_own() {
    let world = daemon()
        .quiet()
        .credential("api_quota = { requests = 3, per = \"60s\", wait = \"0s\" }")
        .start()
        .await;
    assert_eq!(world.get("/x").await.status, 200);
    world.authorization.revoke_all();
    assert_eq!(world.get("/x").await.status, 200);
    eventually("all are counted", async || quota(&world).await["granted"] == 3).await;
    assert!(is_exhausted(&world.get("/x").await));
    world.finish().await;
}

#[tokio::test]
async fn configured_callers_share_by_weight_and_keep_a_share_before_they_come() {
    let api = Api::start(40, Duration::from_mins(1)).await;
    let callers = "[callers.big]\nnetworks = [\"192.0.2.1/32\"]\nweight = 3\n[callers.small]\nnetworks = [\"192.0.2.2/32\"]";
    let setup = api.setup("{ requests = 40, per = \"60s\", wait = \"0s\" }").route(callers);
    let world = setup.start().await;
    let served = async |address: &'static str| {
        let mut caller = Http2Caller::connect(world.address).await;
        let mut served = 0;
        for _ in 0..50 {
            served += usize::from(caller.send(&from(address, "/x")).await.status == 200);
        }
        served
    };

    let small = served("192.0.2.2").await;
    let big = served("192.0.2.1").await;

    // Beside its ten, the first may have borrowed a few at an even pace.
    assert!((10..=14).contains(&small) && big >= 40 - small && big <= 30, "{small} {big}");
    eventually("the shares", async || {
        let status: Value = serde_json::from_str(&world.admin_get("/status").await.1).unwrap();
        let shares: Vec<_> =
            status["callers"].as_array().unwrap().iter().map(|one| one["share"].clone()).collect();
        shares == [Value::from(0.75), Value::from(0.25)]
    })
    .await;
    world.finish().await;
}
