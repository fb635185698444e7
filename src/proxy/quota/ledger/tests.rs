//! The ledger under any arrivals, and in the situations it was made for.

mod properties;
mod scenarios;
mod world;

use std::time::Duration;

use self::world::{World, line};
use super::*;
use crate::proxy::quota::batch::MAX_BATCH;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);

fn settings(requests: u32, per: Duration) -> Settings {
    Settings { requests, per, margin: travel_margin(per), wait: 2 * SECOND, workers: 1 }
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[test]
fn a_caller_alone_may_use_the_whole_budget_at_once() {
    let mut world = World::new(settings(300, MINUTE), &[]);
    for _ in 0..301 {
        world.ask(&line(1));
    }
    assert_eq!((world.sent.len(), world.refused.len()), (300, 1));
    let retry_at = world.refused[0].retry_at;
    assert_eq!(retry_at - world.start, MINUTE + MAX_MARGIN, "when the first request no longer counts");
    world.at(MINUTE + MAX_MARGIN);
    world.ask(&line(1));
    assert_eq!(world.sent.len(), 301);
}

#[test]
fn a_permit_that_is_given_back_goes_to_the_request_that_waits() {
    let mut world = World::new(settings(1, SECOND), &[]);
    let claim = world.hold(&line(1));
    world.ask(&line(1));
    assert_eq!(world.ledger.waiting, 1);
    world.ledger.settle(claim, false, world.now);
    world.advance();
    assert_eq!((world.sent.len(), world.ledger.waiting), (1, 0));
}

#[test]
fn a_request_counts_from_when_it_is_sent_and_not_from_when_it_might_have_been() {
    let mut world = World::new(settings(1, SECOND), &[]);
    let claim = world.hold(&line(1));
    world.at(seconds(0.9));
    world.ledger.settle(claim, true, world.now);
    world.ask(&line(1));
    world.at(seconds(1.9));
    assert_eq!(world.sent.len(), 0);
    world.at(seconds(1.9501));
    assert_eq!(world.sent.len(), 1, "a second and a margin of 50 ms later");
}

#[test]
fn a_request_that_travelled_for_long_counts_from_its_answer_and_a_slow_api_is_not_travel() {
    let mut world = World::new(settings(2, MINUTE), &[]);
    let [slow, slower] = [0; 2].map(|_| world.hold(&line(1)));
    for claim in [slow, slower] {
        world.ledger.settle(claim, true, world.now);
    }
    world.at(seconds(1.5));
    world.ledger.late(slow, seconds(1.5), world.now);
    world.at(3 * SECOND);
    world.ledger.late(slower, 3 * SECOND, world.now);
    world.at(seconds(60.3));
    assert_eq!(world.ledger.left(), 1);
    world.at(seconds(61.7));
    assert_eq!(world.ledger.left(), 1);
    world.at(seconds(61.8));
    assert_eq!(world.ledger.left(), 2);
}

#[test]
fn a_request_that_has_left_is_skipped() {
    let mut world = World::new(settings(1, SECOND), &[]);
    world.ask(&line(1));
    let [first, second] = [world.ask(&line(1)), world.ask(&line(2))];
    world.leave(first);
    world.at(2 * SECOND);
    assert_eq!(world.sent.last().map(|sent| sent.request), Some(second));
    assert!(world.refused.is_empty());
}

#[test]
fn weights_divide_a_scarce_budget() {
    let callers = [(line(1), 3), (line(2), 1)];
    let mut world = World::new(settings(40, MINUTE), &callers);
    for _ in 0..60 {
        world.ask(&line(1));
        world.ask(&line(2));
    }
    assert_eq!((world.sent_of(&line(1)), world.sent_of(&line(2))), (30, 10));
}

#[test]
fn weights_also_decide_about_turns_where_no_share_is_a_whole_request() {
    let callers = [(line(1), 4), (line(2), 1), (line(3), 1)];
    let mut world = World::new(settings(1, SECOND), &callers);
    for tenth in 0..600 {
        world.at(SECOND * tenth / 10);
        for number in 1..=3 {
            world.ask(&line(number));
        }
    }
    let [first, second, third] = [1, 2, 3].map(|number| world.sent_of(&line(number)));
    assert!(first >= 3 * second && second.abs_diff(third) <= 2, "{first} {second} {third}");
}

#[test]
fn an_api_that_wants_a_pause_gets_no_request_until_it_has_ended() {
    let mut world = World::new(settings(10, SECOND), &[]);
    world.ledger.learn(Report { pause: Some(5 * SECOND), ..Report::default() }, world.now);
    world.ask(&line(1));
    assert_eq!(world.refused[0].retry_at, world.now + 5 * SECOND, "longer than a request may wait");
    world.at(4 * SECOND);
    world.ask(&line(1));
    world.at(seconds(4.9));
    assert_eq!(world.sent.len(), 0);
    world.at(5 * SECOND);
    assert_eq!(world.sent.len(), 1);

    world.ledger.learn(Report { pause: Some(Duration::MAX), ..Report::default() }, world.now);
    assert_eq!(world.ledger.blocked_until, Some(world.now + MAX_BLOCK));
}

#[test]
fn what_others_use_with_the_same_token_is_a_debt_until_the_api_resets() {
    let mut world = World::new(settings(10, MINUTE), &[]);
    let report = |left, reset| Report { left: Some((left, reset)), ..Report::default() };
    world.ledger.learn(report(30, MINUTE), world.now);
    assert_eq!(world.ledger.left(), 10, "the API never raises the budget");
    for _ in 0..2 {
        world.ledger.learn(report(3, 30 * SECOND), world.now);
        assert_eq!(world.ledger.left(), 3);
    }
    world.ledger.learn(report(2, Duration::MAX), world.now);
    assert_eq!(world.ledger.left(), 2);
    world.at(30 * SECOND);
    assert_eq!(world.ledger.left(), 9);
    world.at(MINUTE);
    assert_eq!(world.ledger.left(), 10, "a reset is not later than an interval");
}

#[test]
fn an_api_that_allows_less_is_believed_for_an_interval_and_never_one_that_allows_more() {
    let mut world = World::new(settings(10, MINUTE), &[]);
    let report = |allowed| Report { allowed: Some(allowed), ..Report::default() };
    world.ledger.learn(report(1000), world.now);
    assert_eq!(world.ledger.limit(), 10);
    world.ledger.learn(report(4), world.now);
    assert_eq!(world.ledger.limit(), 4);
    world.at(MINUTE);
    assert_eq!(world.ledger.limit(), 10);
}

#[test]
fn replicas_divide_the_budget_and_each_keeps_at_least_one_request() {
    let mut world = World::new(settings(10, MINUTE), &[]);
    for (replicas, limit) in [(3, 3), (20, 1), (1, 10), (0, 10)] {
        world.ledger.shared_by(replicas, world.now);
        assert_eq!(world.ledger.limit(), limit);
    }
}

#[test]
fn a_reload_keeps_what_was_used() {
    let mut world = World::new(settings(10, MINUTE), &[]);
    for _ in 0..10 {
        world.ask(&line(1));
    }
    world.ledger.configure(settings(12, MINUTE), &[(line(2), 1)], world.now);
    assert_eq!(world.ledger.left(), 2);
    world.ledger.configure(settings(12, 2 * SECOND), &[], world.now);
    world.at(seconds(2.2));
    assert_eq!(world.ledger.left(), 12, "requests of before leave after the new interval");
}

#[test]
fn a_large_budget_is_given_out_in_batches_and_unused_permits_come_back() {
    let mut world = World::new(settings(600_000, MINUTE), &[]);
    world.ask(&line(1));
    assert_eq!(world.ledger.reserved, u64::from(MAX_BATCH));
    world.at(MINUTE / SLICES);
    assert_eq!((world.ledger.reserved, world.ledger.used()), (0, 1));

    for _ in 0..600_000 {
        world.ask(&line(1));
    }
    assert_eq!(world.sent.len(), 600_000, "all but nothing stays with the worker");
    assert!(world.ledger.window.entries() < 1000);
}

#[test]
fn a_batch_of_one_worker_is_taken_back_when_a_request_would_have_to_wait() {
    let mut world = World::new(settings(2000, MINUTE), &[(line(1), 1), (line(2), 1)]);
    world.ask(&line(1));
    let held = world.ledger.reserved;
    assert!(held > 1);
    for _ in 0..1000 {
        world.ask(&line(2));
    }
    assert_eq!(world.sent_of(&line(2)), 1000, "the share");
    world.ask(&line(2));
    assert_eq!(world.ledger.reserved, 0, "the permits that the other worker held are recalled");
}
