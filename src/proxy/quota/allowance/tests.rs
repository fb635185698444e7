//! Tests of a worker's access to a budget.

use super::super::budget::{Keeper, Rules};
use super::super::ledger::Settings;
use super::*;

fn allowance() -> (Allowance, Keeper) {
    let (per, wait) = (Duration::from_mins(1), Duration::from_secs(2));
    let settings = Settings { requests: 10, per, margin: Duration::ZERO, wait, workers: 1 };
    let rules = Rules { settings, learns: true, callers: Vec::new() };
    let (budget, keeper) = Budget::new("api", &rules, Box::new(|_| {}), None);
    (Allowance::new(budget), keeper)
}

/// How often the messages in the queue say that lines were refused, in their order; nothing for another message.
fn received(keeper: &mut Keeper) -> Vec<Option<u64>> {
    let times = |message| match message {
        Message::Refused(_, times) => Some(times),
        _ => None,
    };
    std::iter::from_fn(|| keeper.received()).map(times).collect()
}

#[test]
fn messages_that_find_no_place_follow_in_their_order_and_in_bounded_memory() {
    let (allowance, mut keeper) = allowance();
    let refused = |times| Message::Refused(LineKey::Unix, times);
    let mut queue = 0;
    while allowance.unsent.borrow().is_empty() {
        allowance.tell(refused(queue));
        queue += 1;
    }

    let last = queue + MAX_UNSENT as u64;
    (queue..=last).for_each(|times| allowance.tell(refused(times)));

    let of_queue = received(&mut keeper);
    assert_eq!(of_queue, (0..queue - 1).map(Some).collect::<Vec<_>>());
    assert_eq!(allowance.unsent.borrow().len(), MAX_UNSENT);
    allowance.flush();
    let (first, rest) = (queue - 1, queue - 1 + MAX_UNSENT as u64);
    assert_eq!(received(&mut keeper), (first..rest).map(Some).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_permit_that_goes_back_is_never_lost() {
    let (allowance, keeper) = allowance();
    // The task ends with the grant: no message finds a place after that.
    let mut permit = tokio::select! {
        permit = allowance.ask(LineOf::Unix) => permit.unwrap(),
        () = keeper.run() => unreachable!("the task outlives the budget"),
    };
    while allowance.unsent.borrow().len() < MAX_UNSENT {
        allowance.tell(Message::Refused(LineKey::Unix, 1));
    }

    permit.used();

    assert!(matches!(allowance.unsent.borrow().back(), Some(Message::Settle(..))));
}
