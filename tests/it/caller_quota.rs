//! What a caller may use (`quota` of `[callers.NAME]`), whatever the API allows.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::harness::{Http2Caller, Reply, Request, Setup, World, daemon, eventually};

/// A daemon that knows `billing`, with this quota, and `crm` by the address that a proxy names.
fn setup(quota: &str) -> Setup {
    daemon().quiet().server("trusted_proxies = [\"127.0.0.1/32\"]").route(&format!(
        "[callers.billing]\nnetworks = [\"192.0.2.1/32\"]\nquota = {quota}\n\
         [callers.crm]\nnetworks = [\"192.0.2.2/32\"]\n"
    ))
}

fn billing(target: &str) -> Request {
    Request::get(target).field("x-forwarded-for", "192.0.2.1")
}

fn crm(target: &str) -> Request {
    Request::get(target).field("x-forwarded-for", "192.0.2.2")
}

/// The answer of bearerd to a request whose turn comes too late.
fn is_exhausted(reply: &Reply) -> bool {
    reply.status == 429 && reply.code().as_deref() == Some("caller_quota_exhausted")
}

/// A caller in `/status`.
async fn shown(world: &World, name: &str) -> Value {
    let status: Value = serde_json::from_str(&world.admin_get("/status").await.1).unwrap();
    status["callers"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn a_caller_beyond_its_quota_is_refused_before_the_api_sees_the_request() {
    let world = setup("{ requests = 3, per = \"20s\", wait = \"0s\" }").start().await;
    let started = Instant::now();
    for _ in 0..3 {
        assert_eq!(world.send(&billing("/x")).await.status, 200);
    }
    let sent = Instant::now();
    let refused = world.send(&billing("/x")).await;

    assert!(is_exhausted(&refused), "{}", refused.text());
    // The turn comes when the first request has been sent for 20 seconds, to the second and rounded up.
    let latest = 20 - sent.duration_since(started).as_secs();
    let retry_after: u64 = refused.get("retry-after").unwrap().parse().unwrap();
    assert!((latest - 1..=20).contains(&retry_after), "{retry_after}");
    assert_eq!(refused.get("proxy-status"), Some("bearerd; error=proxy_internal_response"));
    assert!(refused.text().contains("[callers.billing]"), "{}", refused.text());
    assert_eq!(world.upstream.requests().len(), 3);
    // Another caller is not concerned, and has no quota.
    for _ in 0..5 {
        assert_eq!(world.send(&crm("/x")).await.status, 200);
    }
    assert!(is_exhausted(&world.send(&billing("/x")).await));

    let events = || world.process.events("quota exhausted");
    eventually("the event", async || !events().is_empty()).await;
    let events = events();
    assert_eq!(events.len(), 1, "once in an interval");
    assert_eq!(
        (&events[0]["actor"], &events[0]["reason"]),
        (&"billing".into(), &"caller_quota_exhausted".into())
    );
    let expected = json!({"requests": 3, "per_ms": 20_000.0, "used": 3, "left": 0, "waiting": 0, "granted": 3, "refused": 2});
    eventually("all are counted", async || shown(&world, "billing").await["quota"] == expected).await;
    let billing = shown(&world, "billing").await;
    assert_eq!((&billing["requests"], &billing["refused"]), (&5.into(), &2.into()), "{billing}");
    assert_eq!(shown(&world, "crm").await["quota"], Value::Null);
    let (_, metrics) = world.admin_get("/metrics").await;
    for series in [
        "bearerd_caller_quota_limit{caller=\"billing\"} 3",
        "bearerd_caller_quota_left{caller=\"billing\"} 0",
        "bearerd_caller_quota_waiting{caller=\"billing\"} 0",
        "bearerd_caller_quota_requests_total{caller=\"billing\"} 3",
        "bearerd_caller_quota_refused_total{caller=\"billing\"} 2",
    ] {
        assert!(metrics.contains(series), "{series} is missing in {metrics}");
    }
    assert!(!metrics.contains("bearerd_caller_quota_limit{caller=\"crm\"}"));
    let (_, page) = world.admin_get("/").await;
    assert!(page.contains("data-name=\"Quota left\">0 of 3<"), "{page}");
    world.finish().await;
}

#[tokio::test]
async fn a_request_waits_for_the_turn_of_its_caller_and_the_api_may_say_what_it_will() {
    let world = setup("{ requests = 2, per = \"1s\", wait = \"5s\" }").start().await;
    let started = Instant::now();
    let request = billing("/x");
    let replies = join_all((0..6).map(|_| world.send(&request))).await;

    assert!(replies.iter().all(|reply| reply.status == 200));
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(2) && took < Duration::from_secs(4), "{took:?}");
    // A 429 of the API is no word about the caller's quota.
    sleep(Duration::from_millis(1100)).await;
    let throttled = billing("/throttled/1").field("x-retry-after", "7");
    assert_eq!(world.send(&throttled).await.get("retry-after"), Some("7"));
    assert_eq!(world.send(&billing("/x")).await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_reload_keeps_what_a_caller_has_used_and_ends_a_quota_that_is_gone() {
    let quota = |requests: u32| format!("quota = {{ per = \"60s\", requests = {requests}, wait = \"0s\" }}");
    let world = setup("{ requests = 3, per = \"60s\", wait = \"0s\" }").start().await;
    for _ in 0..3 {
        assert_eq!(world.send(&billing("/x")).await.status, 200);
    }
    world.configure(|text| text.replace(&quota(3), &quota(5)));
    world.reload().await;
    for _ in 0..2 {
        assert_eq!(world.send(&billing("/x")).await.status, 200);
    }
    assert!(is_exhausted(&world.send(&billing("/x")).await));
    // The caller is the same under another weight and in other networks.
    world.configure(|text| {
        text.replace(&quota(5), &format!("weight = 7\n{}", quota(6)))
            .replace("[\"192.0.2.1/32\"]", "[\"192.0.2.1/32\", \"10.0.0.0/8\"]")
    });
    world.reload().await;
    assert_eq!(world.send(&billing("/x")).await.status, 200);
    assert!(is_exhausted(&world.send(&billing("/x")).await));
    world.configure(|text| text.replace(&quota(6), "quota = \"\""));
    world.reload().await;
    for _ in 0..5 {
        assert_eq!(world.send(&billing("/x")).await.status, 200);
    }
    assert_eq!(shown(&world, "billing").await["quota"], Value::Null);
    world.finish().await;
}

#[tokio::test]
async fn two_callers_have_budgets_of_their_own() {
    let quota = "{ requests = 2, per = \"60s\", wait = \"0s\" }";
    let world = setup(quota).start().await;
    world.configure(|text| {
        text.replace("[\"192.0.2.2/32\"]", &format!("[\"192.0.2.2/32\"]\nquota = {quota}"))
    });
    world.reload().await;
    for request in [billing("/x"), crm("/x")] {
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(world.send(&request).await.status);
        }
        assert_eq!(statuses, [200, 200, 429]);
    }
    world.finish().await;
}

#[tokio::test]
async fn a_permit_goes_back_where_the_budget_of_the_credential_refuses() {
    let setup = setup("{ requests = 2, per = \"60s\", wait = \"0s\" }");
    let world = setup.credential("api_quota = { requests = 1, per = \"60s\", wait = \"0s\" }").start().await;
    assert_eq!(world.send(&billing("/x")).await.status, 200);
    for _ in 0..3 {
        let refused = world.send(&billing("/x")).await;
        assert_eq!((refused.status, refused.code().as_deref()), (429, Some("api_quota_exhausted")));
    }
    eventually("one permit is used", async || {
        let quota = shown(&world, "billing").await["quota"].clone();
        (&quota["used"], &quota["granted"], &quota["refused"]) == (&1.into(), &1.into(), &0.into())
    })
    .await;
    world.finish().await;
}

#[tokio::test]
async fn a_replay_takes_a_permit_of_the_caller_too() {
    let world = setup("{ requests = 3, per = \"60s\", wait = \"0s\" }").start().await;
    assert_eq!(world.send(&billing("/x")).await.status, 200);
    world.authorization.revoke_all();
    assert_eq!(world.send(&billing("/x")).await.status, 200);
    assert!(is_exhausted(&world.send(&billing("/x")).await));
    assert_eq!(world.upstream.requests().len(), 3);
    world.finish().await;
}

#[tokio::test]
async fn requests_without_a_credential_and_of_nobody_in_particular_count_too() {
    let callers = "[callers.other]\nquota = { requests = 2, per = \"60s\", wait = \"0s\" }\n";
    let world = daemon().quiet().unprotected().without_token().route(callers).start().await;
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(world.get("/x").await.status);
    }
    assert_eq!(statuses, [200, 200, 429]);
    world.finish().await;
}

#[tokio::test]
async fn a_large_quota_of_a_caller_is_kept_across_workers() {
    let world = setup("{ requests = 2000, per = \"60s\", wait = \"0s\" }").start().await;
    let served = join_all((0..8).map(async |_| {
        let mut caller = Http2Caller::connect(world.address).await;
        let mut served = 0;
        for _ in 0..300 {
            served += usize::from(caller.send(&billing("/x")).await.status == 200);
        }
        served
    }))
    .await;
    assert_eq!(served.iter().sum::<usize>(), 2000);
    world.finish().await;
}
