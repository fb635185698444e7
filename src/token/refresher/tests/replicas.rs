//! Several replicas, their store and the authorization server, in one process and in paused time.

mod records;
mod schedules;
mod world;

use tokio::time::{Instant, sleep};

use self::world::{Authorization, ROTATING, World};
use super::*;
use crate::config::WhenAway;
use crate::config::model::state_key::StateKey;
use crate::token::replicas::simulated::Outage;

async fn seconds(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn five_replicas_make_one_token_request_for_each_lifetime() {
    for lines in [ROOMY, &format!("{ROTATING}\n{ROOMY}")] {
        let mut world = World::new(lines, Authorization::new(600, Duration::ZERO));
        world.start(5);
        seconds(15).await;
        world.assert_agreed();
        assert_eq!(world.server.requests(), 1, "{lines}");

        for _ in 0..50 {
            seconds(500).await;
            world.assert_agreed();
        }

        let requests = world.server.requests();
        assert!((50..=55).contains(&requests), "{requests} requests for 50 lifetimes, {lines}");
        assert_eq!(world.reuses(), 0);
        assert_eq!(world.sum(|status| status.won), requests);
        assert_eq!(world.sum(|status| status.conflicts), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_replica_starts_with_the_token_of_the_others() {
    for lines in [ROOMY, &format!("{ROTATING}\n{ROOMY}")] {
        let mut world = World::new(lines, Authorization::new(3600, Duration::ZERO));
        world.start(1);
        seconds(15).await;
        let (token, expires) = {
            let current = world.replicas[0].source.current().unwrap();
            (current.as_str().to_owned(), current.expires())
        };

        world.start(20);
        seconds(1).await;

        world.assert_agreed();
        assert_eq!(world.server.requests(), 1);
        for replica in &world.replicas {
            let current = replica.source.current().unwrap();
            assert_eq!(current.as_str(), token);
            // All clocks are one in this test; the end may seem earlier, by the way to the store, and never later.
            assert!(current.expires() <= expires + Duration::from_millis(1));
            let early = current.expires().until(expires);
            assert!(early < Duration::from_millis(100), "{early:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_fifty_replicas_notice_costs_one_token_request() {
    let mut world = World::new(ROOMY, Authorization::new(3600, Duration::ZERO));
    world.start(50);
    seconds(15).await;
    world.assert_agreed();
    let dead = world.replicas[0].generation();

    let callers = world
        .replicas
        .iter()
        .flat_map(|replica| (0..20).map(|_| replica.source.replace(dead, Duration::from_secs(10))));
    let tokens = join_all(callers).await;

    assert!(tokens.iter().all(|token| token.as_ref().is_ok_and(|token| token.as_str() == "token-2")));
    assert_eq!(world.server.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_the_server_asks_for_holds_for_all_replicas() {
    let mut world = World::new(ROOMY, Authorization::new(3600, Duration::ZERO));
    world.server.ledger().failure = Some(throttled(120));
    world.start(10);
    seconds(119).await;
    assert_eq!(world.server.requests(), 1);
    for replica in &world.replicas {
        let unavailable = replica.source.wait(Duration::from_millis(10)).await.unwrap_err();
        assert_eq!(unavailable.reason, Reason::EndpointRateLimited);
    }

    world.server.ledger().failure = None;
    seconds(15).await;
    assert_eq!(world.server.requests(), 2);
    world.assert_agreed();
}

#[tokio::test(start_paused = true)]
async fn the_quota_is_the_fleets() {
    let lines = "quota = { requests = 6, per = \"60s\" }";
    let mut world = World::new(lines, Authorization::new(3600, Duration::ZERO));
    world.start(10);
    seconds(10).await;
    for _ in 0..60 {
        for replica in &world.replicas {
            let dead = replica.generation();
            let _ = replica.source.replace(dead, Duration::from_millis(200)).await;
        }
    }
    let requests = world.server.requests();
    // 2 minutes at most have passed: forced refreshes have half of 6 a minute.
    assert!((3..=10).contains(&requests), "{requests}");
    // Whoever may not ask does not ask the store again and again: 10 replicas look every 4 s and on demand.
    let begun = Instant::now();
    let before = world.store.operations();
    seconds(60).await;
    let rate = (world.store.operations() - before) / begun.elapsed().as_secs();
    assert!(rate < 20, "{rate} operations a second");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_stateless_replicas_go_on_alone_and_then_agree_again() {
    for outage in [Outage::Refuses, Outage::Hangs] {
        let mut world = World::new(ROOMY, Authorization::new(600, Duration::ZERO));
        world.start(4);
        seconds(15).await;
        assert_eq!(world.server.requests(), 1);

        world.store.set_outage(outage);
        for _ in 0..20 {
            seconds(100).await;
            assert!(world.tokens().iter().all(Option::is_some), "{outage:?}");
        }
        let alone = world.server.requests();
        assert!((12..=20).contains(&alone), "{alone} requests of 4 replicas alone in 2,000 s");
        assert!(world.replicas.iter().all(|replica| replica.shared.status().reachable == Some(false)));

        world.store.set_outage(Outage::None);
        seconds(15).await;
        world.assert_agreed();
        assert_eq!(world.server.requests(), alone, "nothing is asked for");
        for _ in 0..20 {
            seconds(100).await;
            world.assert_agreed();
        }
        assert!(world.server.requests() - alone <= 5);
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_store_the_quota_is_divided() {
    let lines = "quota = { requests = 8, per = \"60s\" }";
    let mut world = World::new(lines, Authorization::new(3600, Duration::ZERO));
    world.start(4);
    seconds(30).await;
    world.store.set_outage(Outage::Refuses);
    seconds(60).await;
    let before = world.server.requests();

    for _ in 0..20 {
        let dead: Vec<_> = world.replicas.iter().map(|replica| (replica, replica.generation())).collect();
        join_all(dead.iter().map(|(replica, dead)| replica.source.replace(*dead, Duration::from_secs(1))))
            .await;
    }
    // 20 s: each replica has at most 1 at once and 1 in 60 s for forced refreshes.
    let asked = world.server.requests() - before;
    assert!((4..=8).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn without_the_store_no_refresh_token_is_used_unless_the_last_holder_may() {
    for (when_away, others) in [(WhenAway::Stop, 0), (WhenAway::LastHolder, 1)] {
        let lines = format!("{ROTATING}\n{ROOMY}");
        let mut world = World::new(&lines, Authorization::new(600, Duration::ZERO));
        world.when_away = when_away;
        world.start(3);
        seconds(15).await;
        world.assert_agreed();
        world.store.set_outage(Outage::Refuses);
        seconds(400).await;
        assert!(world.tokens().iter().all(Option::is_some), "the token is used to its end");
        seconds(400).await;

        let with_token = world.tokens().iter().flatten().count();
        assert_eq!(with_token, others, "{when_away:?}");
        for replica in world.replicas.iter().filter(|replica| replica.token().is_none()) {
            let unavailable = replica.source.wait(Duration::from_millis(10)).await.unwrap_err();
            assert_eq!(unavailable.reason, Reason::SharedStoreUnavailable);
            assert!(unavailable.retry_after.is_some());
        }

        world.store.set_outage(Outage::None);
        seconds(15).await;
        world.assert_agreed();
        assert_eq!(world.reuses(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_has_lost_its_memory_is_given_it_back() {
    for lines in [ROOMY, &format!("{ROTATING}\n{ROOMY}")] {
        let mut world = World::new(lines, Authorization::new(600, Duration::ZERO));
        world.start(3);
        seconds(1000).await;
        let before = world.server.requests();

        for _ in 0..20 {
            world.store.forget();
            // A replica that knows nothing must not take the configured refresh token for the latest.
            let replica = world.begin();
            world.replicas[2] = replica;
            seconds(10).await;
            world.assert_agreed();
        }

        // A new replica without a refresh token asks, where the store knows of none: that spends nothing.
        let allowed = if lines == ROOMY { 21 } else { 1 };
        assert!(world.server.requests() <= before + allowed, "{lines}");
        assert_eq!(world.reuses(), 0);
        assert!(world.sum(|status| status.repairs) > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_failover_that_loses_the_latest_write_is_repaired() {
    let lines = format!("{ROTATING}\n{ROOMY}");
    let mut world = World::new(&lines, Authorization::new(600, Duration::ZERO));
    world.start(3);
    seconds(15).await;
    for _ in 0..10 {
        world.store.back_up();
        seconds(500).await;
        world.store.roll_back();
        seconds(10).await;
        world.assert_agreed();
    }
    assert_eq!(world.reuses(), 0);
}

#[tokio::test(start_paused = true)]
async fn every_replica_knows_who_held_the_lease_last() {
    let mut world = World::new(ROOMY, Authorization::new(600, Duration::ZERO));
    world.start(3);
    seconds(15).await;
    let holders: Vec<_> = world.replicas.iter().map(|replica| replica.shared.status().lease_holder).collect();
    let winner = world.replicas.iter().find(|replica| replica.shared.status().won == 1).unwrap();
    assert_eq!(holders, vec![Some(winner.shared.status().replica); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_sleeps_beyond_its_lease_costs_no_refresh_token() {
    let lines = format!("{ROTATING}\n{ROOMY}");
    let mut world = World::new(&lines, Authorization::new(60, Duration::ZERO));
    world.start(3);
    seconds(15).await;
    for round in 0..50_usize {
        // A request is under way.
        let before = world.server.requests();
        while world.server.requests() == before {
            sleep(Duration::from_millis(10)).await;
        }
        // One of the replicas is asleep for longer than the lease, whether it is the holder or not.
        let sleeper = round % 3;
        world.replicas[sleeper].stopped.send_replace(true);
        seconds(7).await;
        world.replicas[sleeper].stopped.send_replace(false);
        seconds(2).await;
        assert_eq!(world.reuses(), 0, "round {round}");
    }
    world.assert_agreed();
}

#[tokio::test(start_paused = true)]
async fn nothing_in_the_store_is_readable_or_opens_under_another_key() {
    let lines = format!("{ROTATING}\nclient_id = \"the-client\"");
    let mut world = World::new(&lines, Authorization::new(600, Duration::ZERO));
    world.start(2);
    seconds(30).await;
    let bytes = world.store.bytes();
    for secret in
        ["token-1", "refresh-1", "first", "the-client", "secret", "as.example.com", &base64_of("token-1")]
    {
        assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret}");
    }

    world.key = StateKey::generate();
    let stranger = world.begin();
    seconds(3).await;
    assert_eq!(stranger.token(), None);
    assert_eq!(stranger.shared.status().adopted, 0);
}

fn base64_of(text: &str) -> String {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(text)
}

#[tokio::test(start_paused = true)]
async fn a_key_is_replaced_without_a_token_request() {
    for lines in [ROOMY, &format!("{ROTATING}\n{ROOMY}")] {
        let mut world = World::new(lines, Authorization::new(600, Duration::ZERO));
        world.start(3);
        seconds(30).await;
        let old = std::mem::replace(&mut world.key, StateKey::generate());
        for previous_keys in [vec![old], Vec::new()] {
            world.previous_keys = previous_keys;
            for at in 0..3 {
                let replica = world.begin();
                world.replicas[at] = replica;
                seconds(700).await;
                world.assert_agreed();
            }
        }
        assert_eq!(world.reuses(), 0);
        let requests = world.server.requests();
        assert!(requests <= 10, "{requests} {lines}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_of_the_store_that_jumps_ends_no_token_late() {
    let mut world = World::new(ROOMY, Authorization::new(600, Duration::ZERO));
    world.start(2);
    seconds(15).await;
    let expires = world.replicas[0].source.current().unwrap().expires();
    world.store.advance_clock(Duration::from_mins(2));
    let late = world.begin();
    seconds(5).await;
    assert!(late.source.current().unwrap().expires() < expires);
}
