//! `[pools.NAME]`: several credentials that are used as one.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;
use testkit::authorization_server::Answer;

use crate::harness::{Request, Setup, World, daemon, eventually};
use crate::status::{command, status};

/// A daemon whose route uses a pool of the credential `api` and others like it, so many together.
async fn pool_of(count: usize, lines: &str) -> World {
    pool(count, daemon().route(lines)).await
}

async fn pool(count: usize, setup: Setup) -> World {
    let world = setup.start().await.with_credentials(count);
    pooled(&world, count);
    world.reload().await;
    eventually("a token for each", async || world.authorization.issued().len() >= count).await;
    world.ready().await;
    world
}

/// Puts the credential `api` and so many like it into a pool.
fn pooled(world: &World, count: usize) {
    world.configure(|text| {
        let start = text.find("[credentials.api]").unwrap();
        let (_, of_api) = text[start..].split_once('\n').unwrap();
        let of_api = of_api.split("\n\n").next().unwrap();
        let names: Vec<_> = (1..count).map(|number| format!("member-{number}")).collect();
        let more = names.iter().map(|name| format!("[credentials.{name}]\n{of_api}\n\n"));
        let all = [vec!["api".to_owned()], names.clone()].concat();
        let pool = format!("[pools.p]\ncredentials = {all:?}\n\n[[routes]]");
        let text = text.replace("credential = \"api\"", "credential = \"p\"");
        text.replacen("[[routes]]", &format!("{}{pool}", more.collect::<String>()), 1)
    });
}

/// How often each token came to the API with this path.
fn tokens(world: &World, path: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for seen in world.upstream.requests().iter().filter(|seen| seen.target.starts_with(path)) {
        *counts.entry(seen.get("authorization").unwrap().to_owned()).or_default() += 1;
    }
    counts
}

#[tokio::test]
async fn each_credential_of_a_pool_serves_in_turn() {
    let world = pool_of(3, "").await;

    let mut caller = world.caller().await;
    for _ in 0..9 {
        assert_eq!(caller.send(&Request::get("/turn")).await.status, 200);
    }

    assert_eq!(tokens(&world, "/turn").into_values().collect::<Vec<_>>(), [3, 3, 3]);
    world.finish().await;
}

#[tokio::test]
async fn a_pool_of_three_lets_three_times_as_many_requests_through() {
    let quota = "api_quota = { requests = 5, per = \"20s\", wait = \"0s\" }";
    let world = pool(3, daemon().credential(quota)).await;

    let mut statuses = Vec::new();
    for _ in 0..18 {
        let reply = world.get("/much").await;
        statuses.push((reply.status, reply.code()));
        // What is left of each is known a moment later.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    assert_eq!(tokens(&world, "/much").into_values().collect::<Vec<_>>(), [5, 5, 5]);
    let refused: Vec<_> = statuses.iter().filter(|(status, _)| *status != 200).collect();
    assert_eq!(refused.len(), 3, "{statuses:?}");
    assert!(refused.iter().all(|one| **one == (429, Some("api_quota_exhausted".to_owned()))), "{refused:?}");
    world.finish().await;
}

#[tokio::test]
async fn where_every_budget_is_used_up_the_answer_is_that_of_the_member_usable_first() {
    let quota = "api_quota = { requests = 2, per = \"20s\", wait = \"0s\" }";
    let world = pool(2, daemon().credential(quota)).await;
    // The second member is usable long after the first, and is asked last in every other request.
    world.configure(|text| {
        let (before, second) = text.split_once("[credentials.member-1]").unwrap();
        format!("{before}[credentials.member-1]{}", second.replacen("per = \"20s\"", "per = \"10m\"", 1))
    });
    assert!(world.configuration().contains("per = \"10m\""));
    world.reload().await;
    world.ready().await;
    for _ in 0..4 {
        assert_eq!(world.get("/much").await.status, 200);
        // What is left of each is known a moment later.
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    for _ in 0..6 {
        let refused = world.get("/much").await;
        assert_eq!((refused.status, refused.code().as_deref()), (429, Some("api_quota_exhausted")));
        let seconds: u64 = refused.get("retry-after").unwrap().parse().unwrap();
        assert!((10..=21).contains(&seconds), "{seconds}");
        assert!(refused.text().contains("`api`"), "{}", refused.text());
    }
    world.finish().await;
}

#[tokio::test]
async fn a_caller_beyond_its_own_quota_is_not_moved_to_another_member() {
    let callers =
        "[callers.desk]\nnetworks = [\"127.0.0.1\"]\nquota = { requests = 3, per = \"60s\", wait = \"0s\" }";
    let world = pool_of(3, callers).await;

    let mut statuses = Vec::new();
    for _ in 0..5 {
        let reply = world.get("/much").await;
        statuses.push((reply.status, reply.code()));
    }

    let refused = (429, Some("caller_quota_exhausted".to_owned()));
    assert_eq!(statuses, [(200, None), (200, None), (200, None), refused.clone(), refused]);
    assert_eq!(tokens(&world, "/much").into_values().sum::<usize>(), 3);
    world.finish().await;
}

#[tokio::test]
async fn a_rejected_token_of_one_member_moves_its_requests_to_another_and_is_replaced() {
    let world = pool_of(3, "").await;
    let before = world.authorization.requests();
    let revoked = world.authorization.issued()[0].clone();
    world.authorization.introspection().revoke(&revoked);

    for _ in 0..6 {
        assert_eq!(world.send(&Request::post("/a", b"x")).await.status, 200);
    }

    eventually("the token is replaced", async || world.token_requests_since(before) == 1).await;
    let rejected = tokens(&world, "/a")[&format!("Bearer {revoked}")];
    assert_eq!(rejected, 1, "no request carries a token that the API has rejected");
    let new = format!("Bearer {}", world.authorization.issued().last().unwrap());
    eventually("the member serves again", async || {
        world.get("/again").await;
        tokens(&world, "/again").contains_key(&new)
    })
    .await;
    assert_eq!(world.token_requests_since(before), 1);
    world.finish().await;
}

#[tokio::test]
async fn a_429_moves_the_request_and_leaves_the_member_alone_until_retry_after() {
    let world = pool_of(3, "").await;
    let mut caller = world.caller().await;

    let throttled = Request::post("/throttled/1", b"x").field("x-retry-after", "2");
    let reply = caller.send(&throttled).await;

    assert_eq!((reply.status, reply.text().as_str()), (200, "x"));
    let refused =
        world.upstream.requests().iter().find(|seen| seen.target.starts_with("/throttled")).cloned();
    let refused = refused.unwrap().get("authorization").unwrap().to_owned();
    assert_eq!(tokens(&world, "/throttled").len(), 2);
    for _ in 0..6 {
        assert_eq!(caller.send(&Request::get("/meanwhile")).await.status, 200);
    }
    assert!(!tokens(&world, "/meanwhile").contains_key(&refused));
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..3 {
        caller.send(&Request::get("/later")).await;
    }
    assert_eq!(tokens(&world, "/later")[&refused], 1);
    world.finish().await;
}

#[tokio::test]
async fn where_every_member_is_throttled_the_answer_of_the_api_is_passed_on() {
    let world = pool_of(2, "").await;

    let throttled = Request::get("/throttled/9").field("x-retry-after", "7");
    let reply = world.send(&throttled).await;

    assert_eq!((reply.status, reply.get("retry-after")), (429, Some("7")));
    assert_eq!(tokens(&world, "/throttled").len(), 2, "each member was tried once");
    // The API decides about a request that comes meanwhile.
    assert_eq!(world.get("/meanwhile").await.status, 200);
    world.finish().await;
}

#[tokio::test]
async fn a_body_that_was_not_kept_stays_with_the_member_that_answers_429() {
    let world = pool_of(2, "[server.limits]\nreplay_body = \"1KiB\"").await;

    let body = "x".repeat(100_000);
    let throttled = Request::post("/throttled/1", body.as_bytes()).field("x-retry-after", "3");
    let reply = world.send(&throttled).await;

    assert_eq!((reply.status, reply.get("retry-after")), (429, Some("3")));
    assert_eq!(tokens(&world, "/throttled").len(), 1);
    world.finish().await;
}

#[tokio::test]
async fn without_a_usable_member_the_code_is_that_of_the_one_usable_first() {
    let world = daemon().limits("token_wait = \"1s\"").without_token();
    let world = world
        .start_after(async |authorization| {
            for _ in 0..9 {
                authorization.answer_next(Answer::status(401, r#"{"error":"invalid_client"}"#));
            }
        })
        .await
        .with_credentials(3);
    eventually("the client is rejected", async || {
        world.get("/").await.code().as_deref() == Some("client_rejected")
    })
    .await;
    world.authorization.forget_queue();
    for _ in 0..9 {
        world.authorization.answer_next(Answer::too_many(40));
    }
    pooled(&world, 3);
    world.reload().await;

    let is_throttled = async || {
        let reply = world.get("/").await;
        reply.status == 503 && reply.code().as_deref() == Some("token_endpoint_rate_limited")
    };
    eventually("the code of a throttled member", is_throttled).await;
    let reply = world.get("/").await;
    let seconds: u64 = reply.get("retry-after").unwrap().parse().unwrap();
    assert!((20..=41).contains(&seconds), "{seconds}");

    world.authorization.forget_queue();
    world.finish().await;
}

#[tokio::test]
async fn members_are_added_and_removed_while_requests_go_on() {
    let world = pool_of(2, "").await.with_credentials(4);
    let original = world.configuration();

    let requests = async || {
        for _ in 0..100 {
            assert_eq!(world.get("/x").await.status, 200);
        }
    };
    let reloads = async {
        for count in [3, 1, 4, 2] {
            world.configure(|_| original.clone());
            let names: Vec<_> = (1..count).map(|number| format!("member-{number}")).collect();
            world.configure(|text| {
                let all = [vec!["api".to_owned()], names.clone()].concat();
                let pool = format!("[pools.p]\ncredentials = {all:?}\n");
                let (head, rest) = text.split_once("[pools.p]").unwrap();
                let (_, rest) = rest.split_once("[[routes]]").unwrap();
                let start = head.find("[credentials.api]").unwrap();
                let of_api =
                    head[start..].split_once('\n').unwrap().1.split("\n\n").next().unwrap().to_owned();
                let more = names.iter().filter(|name| !head.contains(&format!("[credentials.{name}]")));
                let more: Vec<_> = more.map(|name| format!("[credentials.{name}]\n{of_api}\n\n")).collect();
                let more = more.concat();
                format!("{head}{more}{pool}\n[[routes]]{rest}")
            });
            world.reload().await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(join_all((0..4).map(|_| requests())), reloads);
    world.finish().await;
}

/// The members of the pool `p` in `/status`.
async fn members(world: &World) -> Vec<Value> {
    let pools = status(world).await["pools"].clone();
    assert_eq!((&pools[0]["name"], pools.as_array().unwrap().len()), (&"p".into(), 1));
    pools[0]["members"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_revoked_and_a_throttled_member_under_load_fail_no_request_and_are_shown() {
    let world = pool_of(3, "name = \"api\"").await;
    let before = world.authorization.requests();
    let revoked = world.authorization.issued()[0].clone();

    let calls = async || {
        let mut caller = world.caller().await;
        for number in 0..150 {
            let request = if number % 3 == 0 { Request::post("/echo/x", b"x") } else { Request::get("/x") };
            assert_eq!(caller.send(&request).await.status, 200);
        }
    };
    let trouble = async {
        world.authorization.introspection().revoke(&revoked);
        // The first request of this target gets a 429, unless it has the revoked token.
        eventually("the token is replaced", async || world.token_requests_since(before) == 1).await;
        let throttled = Request::post("/throttled/1", b"x").field("x-retry-after", "60");
        assert_eq!(world.send(&throttled).await.status, 200);
    };
    tokio::join!(join_all((0..8).map(|_| calls())), trouble);
    eventually("two members are usable", async || {
        members(&world).await.iter().filter(|member| member["usable"] == true).count() == 2
    })
    .await;

    let members = members(&world).await;
    let throttled: Vec<_> = members.iter().filter(|member| member["usable"] == false).collect();
    assert_eq!((throttled.len(), &throttled[0]["reason"]), (1, &"throttled".into()), "{members:?}");
    assert!(throttled[0]["until"].is_string(), "{members:?}");
    let sent: u64 = members.iter().map(|member| member["requests"].as_u64().unwrap()).sum();
    let seen = world.upstream.requests().len();
    assert_eq!(usize::try_from(sent).unwrap(), seen, "{members:?}");
    assert!(members.iter().all(|member| member["requests"].as_u64().unwrap() > 0), "{members:?}");
    // No member has a budget.
    assert!(members.iter().all(|member| member["left"].is_null()), "{members:?}");
    assert!(!status(&world).await["attention"].to_string().contains("pool"));
    world.finish().await;
}

#[tokio::test]
async fn a_pool_without_a_usable_member_is_shown_in_every_output() {
    let quota = "api_quota = { requests = 50, per = \"60s\", learn = false }";
    let world = pool(2, daemon().credential(quota)).await;
    let throttled = Request::get("/throttled/9").field("x-retry-after", "30");
    assert_eq!(world.send(&throttled).await.status, 429);
    let is_left = |member: &Value| member["left"] == 49;
    eventually("what is left is shown", async || members(&world).await.iter().all(is_left)).await;

    let all = members(&world).await;
    for (member, name) in all.iter().zip(["api", "member-1"]) {
        assert_eq!(
            (
                &member["credential"],
                &member["usable"],
                &member["reason"],
                &member["left"],
                &member["requests"]
            ),
            (&name.into(), &false.into(), &"throttled".into(), &49.into(), &1.into())
        );
    }
    let status = status(&world).await;
    let finding = &status["attention"][0];
    assert_eq!(
        (&finding["subject"], &finding["name"], &finding["reason"], &finding["state"]),
        (&"pool".into(), &"p".into(), &"pool_unusable".into(), &"degraded".into())
    );
    let ends: Vec<_> = (0..2).map(|place| status["pools"][0]["members"][place]["until"].as_str()).collect();
    assert_eq!(finding["until"].as_str(), ends.into_iter().min().unwrap());
    let (code, text) = command(&world, &[]).await;
    let row = text.lines().find(|line| line.starts_with("p ") && line.contains("member-1"));
    let row = row.unwrap_or_else(|| panic!("{text}"));
    assert!(row.contains("throttled, ends in 2") && row.contains(" 49 "), "{text}");
    assert!(code == 0 && text.contains("pool p: pool_unusable"), "{text}");
    let (_, page) = world.admin_get("/").await;
    assert!(page.contains("<h2 id=\"pools\"") && page.contains("p: member-1"), "{page}");
    let (_, metrics) = world.admin_get("/metrics").await;
    for line in [
        "bearerd_pool_member_usable{pool=\"p\",credential=\"member-1\"} 0",
        "bearerd_pool_member_requests_total{pool=\"p\",credential=\"api\"} 1",
    ] {
        assert!(metrics.contains(line), "{line}: {metrics}");
    }
    world.finish().await;
}
