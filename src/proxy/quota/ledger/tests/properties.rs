//! Properties that hold under any arrivals.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::Instant;

use super::world::{World, line};
use super::{SECOND, settings};
use crate::proxy::quota::ledger::{MAX_LINES, Settings, Ticket, travel_margin};

/// Something that happens after a pause, in milliseconds.
#[derive(Clone, Debug)]
struct Step {
    pause: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    /// So many requests of a line at once.
    Requests(u16, usize),
    /// A request that gets a permit leaves it unused for a time, and sends then or not.
    Hold(u16, u64, bool),
    /// A request leaves while it waits.
    Leave(usize),
}

fn steps(lines: u16) -> impl Strategy<Value = Vec<Step>> {
    let what = prop_oneof![
        6 => (0..lines, 1..30_usize).prop_map(|(line, count)| What::Requests(line, count)),
        1 => (0..lines, 0..1500_u64, any::<bool>()).prop_map(|(line, pause, sent)| What::Hold(line, pause, sent)),
        1 => (0..100_usize).prop_map(What::Leave),
    ];
    let step = (0..400_u64, what).prop_map(|(pause, what)| Step { pause, what });
    prop::collection::vec(step, 1..60)
}

fn rules() -> impl Strategy<Value = Settings> {
    let requests = prop_oneof![1..40_u32, 500..6000_u32];
    (requests, 0..2000_u64).prop_map(|(requests, wait)| Settings {
        requests,
        per: SECOND,
        margin: travel_margin(SECOND),
        wait: Duration::from_millis(wait),
        workers: 1,
    })
}

/// Carries out the steps, and checks after each that no request waits that could go. Returns when requests were sent.
fn carried_out(world: &mut World, steps: &[Step]) -> Vec<Instant> {
    let mut held = Vec::new();
    let mut late = Vec::new();
    let mut since_start = Duration::ZERO;
    for Step { pause, what } in steps {
        since_start += Duration::from_millis(*pause);
        let due: Vec<_> = held.extract_if(.., |(at, _, _)| *at <= since_start).collect();
        for (at, claim, was_sent) in due {
            world.at(at);
            world.ledger.settle(claim, was_sent, world.now);
            late.extend(was_sent.then_some(world.now));
            world.advance();
        }
        world.at(since_start);
        match what {
            What::Requests(number, count) => {
                for _ in 0..*count {
                    world.ask(&line(*number));
                }
            }
            What::Hold(number, pause, was_sent) => {
                if let Some(claim) = world.try_hold(&line(*number)) {
                    held.push((since_start + Duration::from_millis(*pause), claim, *was_sent));
                    held.sort_by_key(|(at, _, _)| *at);
                }
            }
            What::Leave(request) if *request < world.asked() => world.leave(*request),
            What::Leave(_) => {}
        }
        no_entitled_request_waits(world);
    }
    for (at, claim, was_sent) in held {
        world.at(at.max(since_start));
        world.ledger.settle(claim, was_sent, world.now);
        late.extend(was_sent.then_some(world.now));
    }
    let end = world.now - world.start;
    world.at(end + 5 * SECOND);
    let mut sent: Vec<_> = world.sent.iter().map(|sent| sent.at).chain(late).collect();
    sent.sort();
    sent
}

/// Wherever an entitled request waits, the budget is used up: no borrower goes before it.
fn no_entitled_request_waits(world: &World) {
    let ledger = &world.ledger;
    let waits = |index: &usize| {
        ledger.lines.line(*index).waiting.front().is_some_and(|first| !first.ticket.is_gone())
    };
    for index in ledger.lines.busy.iter().filter(|index| waits(index)) {
        assert!(!ledger.is_entitled(*index, 0) || ledger.used() >= ledger.limit().into());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_interval_has_more_than_the_budget(rules in rules(), steps in steps(5)) {
        let mut world = World::new(rules, &[]);
        let sent = carried_out(&mut world, &steps);
        let limit = usize::try_from(rules.requests).unwrap();
        for pair in sent.windows(limit + 1) {
            prop_assert!(pair[limit] - pair[0] >= SECOND, "{limit} and one within {:?}", pair[limit] - pair[0]);
        }
    }

    #[test]
    fn every_request_is_answered_once_and_in_time(rules in rules(), steps in steps(5)) {
        let mut world = World::new(rules, &[(line(0), 7), (line(9), 2)]);
        carried_out(&mut world, &steps);
        let mut answered: Vec<_> = world.sent.iter().map(|sent| sent.request).collect();
        answered.extend(world.refused.iter().map(|refused| refused.request));
        let count = answered.len();
        answered.sort_unstable();
        answered.dedup();
        prop_assert_eq!(answered.len(), count);
        let unanswered = (0..world.asked()).filter(|request| answered.binary_search(request).is_err());
        for request in unanswered {
            prop_assert!(world.has_left(request), "{} has no answer", request);
        }
        for waited in world.sent.iter().map(|sent| sent.waited).chain(world.refused.iter().map(|one| one.waited)) {
            prop_assert!(waited <= rules.wait);
        }
        for refused in &world.refused {
            prop_assert!(refused.retry_at >= refused.at);
        }
        prop_assert_eq!(world.ledger.waiting, 0);
    }

    #[test]
    fn a_single_line_never_waits_while_budget_is_left(rules in rules(), steps in steps(1)) {
        let mut world = World::new(rules, &[]);
        let sent = carried_out(&mut world, &steps);
        let limit = usize::try_from(rules.requests).unwrap();
        let span = SECOND + SECOND / 20 + SECOND / 100;
        let has_held = steps.iter().any(|step| matches!(step.what, What::Hold(..)));
        for refused in world.refused.iter().filter(|_| !has_held) {
            let within = sent.iter().filter(|at| **at <= refused.at && **at + span > refused.at).count();
            prop_assert!(within >= limit, "{within} of {limit} were used when a request was refused");
        }
    }

    #[test]
    fn shares_are_kept_whatever_one_line_does(greed in 1..400_usize, first in 0..900_u64) {
        let callers = [(line(0), 1), (line(1), 1), (line(2), 2)];
        let mut world = World::new(settings(40, SECOND), &callers);
        for round in 0..greed {
            world.at(Duration::from_millis(first) * u32::try_from(round).unwrap() / 400);
            world.ask(&line(0));
        }
        let before = world.sent.len();
        prop_assert!(before <= 40);
        let at = world.now;
        for _ in 0..20 {
            world.ask(&line(2));
        }
        let at_once = world.sent.iter().filter(|sent| sent.at == at && sent.key == line(2)).count();
        // What was borrowed comes back at an even pace.
        let borrowed = world.ledger.borrowed;
        prop_assert!(at_once as u64 + borrowed >= 20, "{at_once} at once, {borrowed} borrowed");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10, ..ProptestConfig::default() })]

    #[test]
    fn lines_and_entries_are_bounded(rules in rules(), numbers in prop::collection::vec(0..u16::MAX, 1..3000)) {
        let mut world = World::new(rules, &[]);
        for (index, number) in numbers.iter().enumerate() {
            world.at(Duration::from_micros(300) * u32::try_from(index).unwrap());
            world.ask(&line(*number));
        }
        prop_assert!(world.ledger.lines.iter().count() <= MAX_LINES + 1);
        prop_assert!(world.ledger.window.entries() <= usize::try_from(rules.requests).unwrap());
    }
}
