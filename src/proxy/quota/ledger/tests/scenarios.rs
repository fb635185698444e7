//! Situations in virtual time, with an API that counts requests in a sliding window.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::world::{World, line};
use super::{MINUTE, SECOND, settings};
use crate::proxy::quota::ledger::MAX_LINES;
use crate::proxy::quota::line::LineKey;

/// A caller that sends requests at an even pace.
#[derive(Clone, Debug)]
struct Caller {
    key: LineKey,
    first: Duration,
    every: Duration,
}

fn caller(number: u16, first: f64, a_second: f64) -> Caller {
    let every = Duration::from_secs_f64(1.0 / a_second);
    Caller { key: line(number), first: Duration::from_secs_f64(first), every }
}

/// Lets these callers send for a time. Two never send at the same instant.
fn run(world: &mut World, callers: &[Caller], end: Duration) {
    let mut next: Vec<Duration> = callers.iter().map(|caller| caller.first).collect();
    loop {
        let index = (0..next.len()).min_by_key(|index| next[*index]).unwrap();
        if next[index] >= end {
            break;
        }
        world.at(next[index]);
        world.ask(&callers[index].key);
        next[index] += callers[index].every;
    }
    world.at(end);
}

/// The most requests in any interval of `per`, at an API that requests reach after up to 200 ms, the later the one the earlier
/// the next.
fn most_in(world: &World, per: Duration) -> usize {
    let mut arrived: Vec<Instant> = world
        .sent
        .iter()
        .enumerate()
        .map(|(number, sent)| sent.at + Duration::from_millis(200 * (number as u64 % 2)))
        .collect();
    arrived.sort();
    let mut within = VecDeque::new();
    let mut most = 0;
    for at in arrived {
        within.push_back(at);
        while within.front().is_some_and(|first| *first + per <= at) {
            within.pop_front();
        }
        most = most.max(within.len());
    }
    most
}

/// The 99th percentile of the waits of a caller, refused requests included.
fn wait_99(world: &World, key: &LineKey) -> Duration {
    let sent = world.sent.iter().filter(|sent| sent.key == *key).map(|sent| sent.waited);
    let refused = world.refused.iter().filter(|refused| refused.key == *key).map(|refused| refused.waited);
    let mut waits: Vec<_> = sent.chain(refused).collect();
    waits.sort();
    waits[waits.len() * 99 / 100]
}

fn lost(world: &World, key: &LineKey) -> usize {
    world.refused.iter().filter(|refused| refused.key == *key).count()
}

#[test]
fn three_quiet_callers_beside_a_loud_one_wait_less_than_a_second_and_lose_nothing() {
    for first in [0.0, 0.9] {
        let mut world = World::new(settings(300, MINUTE), &[]);
        let quiet = [caller(2, first, 1.0), caller(3, first + 0.001, 1.0), caller(4, first + 0.333, 1.0)];
        let all = [&[caller(1, 0.01, 50.0)], &quiet[..]].concat();
        run(&mut world, &all, 5 * MINUTE);
        for caller in &quiet {
            assert_eq!(lost(&world, &caller.key), 0);
            assert!(wait_99(&world, &caller.key) < SECOND, "{:?}", wait_99(&world, &caller.key));
            assert!(world.sent_of(&caller.key) >= 299);
        }
        assert!(most_in(&world, MINUTE) <= 300);
        let all = world.sent.len();
        assert!(all >= 1440, "{all} of 1500, of which the loud caller has {}", world.sent_of(&line(1)));
    }
}

#[test]
fn callers_that_come_a_second_after_a_burst_are_served_at_once() {
    let callers: Vec<_> = (1..=4).map(|number| (line(number), 1)).collect();
    let mut world = World::new(settings(300, MINUTE), &callers);
    for _ in 0..1000 {
        world.ask(&line(1));
    }
    assert_eq!(world.sent.len(), 75, "a configured caller's share is kept for it before it has come");
    let others = [caller(2, 1.0, 1.0), caller(3, 1.1, 1.0), caller(4, 1.2, 1.0)];
    run(&mut world, &others, 2 * MINUTE);
    for caller in &others {
        assert_eq!((lost(&world, &caller.key), wait_99(&world, &caller.key)), (0, Duration::ZERO));
    }
}

#[test]
fn what_is_borrowed_is_spread_so_evenly_that_a_newcomer_waits_for_a_fraction_of_a_second() {
    let callers: Vec<_> = (1..=4).map(|number| (line(number), 1)).collect();
    let mut world = World::new(settings(300, MINUTE), &callers);
    run(&mut world, &[caller(1, 0.0, 50.0)], 3 * MINUTE);
    let before = world.sent.len();
    assert!(before >= 850, "a caller that is alone gets nearly everything: {before}");
    let newcomer = Caller { key: line(2), first: 3 * MINUTE + Duration::from_millis(7), every: SECOND };
    let loud = Caller { key: line(1), first: 3 * MINUTE, every: SECOND / 50 };
    run(&mut world, &[loud, newcomer], 5 * MINUTE);
    assert_eq!(lost(&world, &line(2)), 0);
    assert!(wait_99(&world, &line(2)) < SECOND, "{:?}", wait_99(&world, &line(2)));
}

#[test]
fn a_budget_smaller_than_the_number_of_callers_goes_round() {
    let mut world = World::new(settings(3, SECOND), &[]);
    let callers: Vec<_> = (0..12).map(|number| caller(number, f64::from(number) / 100.0, 10.0)).collect();
    run(&mut world, &callers, 60 * SECOND);
    assert!(most_in_exactly(&world, SECOND) <= 3);
    let counts: Vec<_> = callers.iter().map(|caller| world.sent_of(&caller.key)).collect();
    let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
    assert!(*least >= 8 && most - least <= 8, "{counts:?}");
}

/// As [`most_in`], at an API that requests reach at once.
fn most_in_exactly(world: &World, per: Duration) -> usize {
    let sent = &world.sent;
    (0..sent.len())
        .map(|first| sent[first..].iter().take_while(|one| one.at < sent[first].at + per).count())
        .max()
        .unwrap()
}

#[test]
fn ten_thousand_addresses_take_bounded_memory_and_share_the_budget() {
    let mut world = World::new(settings(300, MINUTE), &[(LineKey::Caller("billing".into()), 1)]);
    for round in 0..3 {
        world.at(round * 20 * SECOND);
        for number in 0..10_000 {
            world.ask(&line(number));
        }
        world.ask(&LineKey::Caller("billing".into()));
    }
    assert!(world.ledger.status(usize::MAX, world.now).lines.len() <= MAX_LINES + 2);
    assert!(world.ledger.waiting <= crate::proxy::quota::ledger::MAX_WAITING);
    world.at(10 * MINUTE);
    assert_eq!(world.sent.len() + world.refused.len(), world.asked());
    assert_eq!(world.ledger.status(usize::MAX, world.now).lines.len(), 1, "forgotten after an interval");
    assert!(most_in(&world, MINUTE) <= 300);
}
