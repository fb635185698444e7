//! Tests of the task of a budget.

use tokio::task::JoinSet;

use super::*;

fn rules(requests: u32) -> Rules {
    let (per, wait) = (Duration::from_mins(1), Duration::ZERO);
    let settings = Settings { requests, per, margin: Duration::ZERO, wait, workers: 1 };
    Rules { settings, learns: false, callers: vec![(LineKey::Caller("billing".into()), 1)] }
}

/// Whether a request may go out, which then does.
async fn goes(budget: &Budget) -> bool {
    let (sender, receiver) = oneshot::channel();
    budget.send(Message::Ask(LineKey::Caller("billing".into()), sender)).await.unwrap();
    let Ok(grant) = receiver.await.unwrap() else { return false };
    let Grant::One(claim) = grant else { panic!("a small budget is given out one by one") };
    budget.send(Message::Settle(claim, true)).await.unwrap();
    true
}

#[tokio::test(start_paused = true)]
async fn replicas_divide_a_budget_and_each_has_one_request_at_least() {
    let counted = Arc::new(AtomicU32::new(3));
    let seen = Arc::clone(&counted);
    let replicas: Replicas = Box::new(move || seen.load(Ordering::Relaxed));
    let (budget, keeper) = Budget::new("billing", &rules(10), Box::new(|_| {}), Some(replicas));
    let mut task = JoinSet::new();
    task.spawn(keeper.run());

    let mut granted = 0;
    while goes(&budget).await {
        granted += 1;
    }
    assert_eq!(granted, 3);
    counted.store(100, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!((budget.status().requests, budget.left()), (1, 1));
    counted.store(1, Ordering::Relaxed);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(budget.left(), 10);

    drop(budget);
    task.join_next().await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn refusals_are_reported_once_in_an_interval_with_the_interval_in_force() {
    let (sender, mut reports) = mpsc::channel(8);
    let on_exhausted: OnExhausted = Box::new(move |exhausted| sender.try_send(exhausted).unwrap());
    let (budget, keeper) = Budget::new("billing", &rules(1), on_exhausted, None);
    let mut task = JoinSet::new();
    task.spawn(keeper.run());

    assert!(goes(&budget).await);
    for _ in 0..3 {
        assert!(!goes(&budget).await);
    }
    let Exhausted { per, turn } = reports.recv().await.unwrap();
    assert_eq!((per, turn), (Duration::from_mins(1), Duration::from_mins(1)));
    assert!(reports.try_recv().is_err());

    let mut longer = rules(1);
    longer.settings.per = Duration::from_hours(1);
    budget.configure(longer).await;
    tokio::time::sleep(Duration::from_hours(2)).await;
    assert!(goes(&budget).await);
    assert!(!goes(&budget).await);
    assert_eq!(reports.recv().await.unwrap().per, Duration::from_hours(1));

    drop(budget);
    task.join_next().await.unwrap().unwrap();
}
