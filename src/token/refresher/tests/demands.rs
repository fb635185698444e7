//! Demands that are withdrawn, failed refreshes that are waited through, and the previous token.

use super::*;

const G1: Generation = Generation::from_number(1);

/// The party accepts this token in response to a request that is sent now.
fn accepts(source: &TokenSource, generation: Generation) -> bool {
    source.accepted(generation, source.demanded())
}

/// Barriers that hold a refresh back for more than ten seconds: the credential, failures, and how long the barrier lasts.
fn barriers() -> Vec<(&'static str, Vec<TokenError>, Duration)> {
    let hour = Duration::from_hours(1);
    vec![
        ("quota = { requests = 2, per = \"1h\" }", Vec::new(), hour * 2),
        (ROOMY, vec![throttled(600)], hour),
        (ROOMY, vec![rejected()], hour),
        (ROOMY, vec![transient(); 4], hour),
        (ROOMY, vec![transient(); 8], hour),
    ]
}

/// A source whose refreshes a barrier holds back, and the generation of its token.
async fn held_back(lines: &str, failures: &[TokenError]) -> (Arc<Endpoint>, TokenSource, Generation) {
    let (endpoint, source) = start(lines, AT_ONCE, &[Act::Token("long", YEAR)]);
    endpoint.always(Some(Act::Token("another", YEAR)));
    let mut current = source.wait(HOUR).await.unwrap().generation();
    if failures.is_empty() {
        current = source.replace(current, HOUR).await.unwrap().generation();
        endpoint.always(Some(Act::Token("third", YEAR)));
        return (endpoint, source, current);
    }
    for failure in failures {
        endpoint.acts.lock().unwrap().push_back(Act::Fail(failure.clone()));
    }
    source.demand(current);
    while !endpoint.acts.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(1)).await;
    (endpoint, source, current)
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_any_barrier_holds_back_dies_with_its_reason() {
    for (lines, failures, lasts) in barriers() {
        let (endpoint, source, current) = held_back(lines, &failures).await;
        source.demand(current);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(source.is_rejected());
        let before = endpoint.count();
        let waiting = source.replace(current, HOUR * 24);
        let accepted = async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            let asked_at = tokio::time::Instant::now();
            assert!(accepts(&source, current));
            asked_at
        };

        let (token, _) = tokio::join!(waiting, accepted);

        assert_eq!(token.unwrap().generation(), current, "{lines} {failures:?}");
        assert!(!source.is_rejected());
        tokio::time::sleep(lasts).await;
        assert_eq!(endpoint.count(), before, "{lines} {failures:?}");
        // The barrier is over, and a new demand is met.
        assert!(source.replace(current, HOUR).await.unwrap().generation() > current);
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_stays_as_long_as_nobody_accepts_its_token() {
    for (lines, failures, lasts) in barriers() {
        let (_, source, current) = held_back(lines, &failures).await;
        let other = source.for_route(Arc::new(()));
        source.demand(current);
        // The late response to a request from before, an earlier token, and another party.
        assert!(!source.accepted(current, other.demanded()));
        assert!(!accepts(&source, G1) || current == G1);
        source.demand(current);
        assert!(!accepts(&other, current));
        assert!(source.is_rejected());

        tokio::time::sleep(lasts).await;
        assert!(source.generation() > current, "{lines} {failures:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_request_under_way_is_not_cancelled_and_its_waiters_get_its_token() {
    let (endpoint, source) = start(ROOMY, Duration::from_secs(1), &[]);
    let current = source.wait(HOUR).await.unwrap().generation();
    let waiting = source.replace(current, Duration::from_secs(10));
    let accepted = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        accepts(&source, current)
    };

    let (token, was_withdrawn) = tokio::join!(waiting, accepted);

    assert!(was_withdrawn);
    assert!(token.unwrap().generation() > current);
    assert_eq!(endpoint.count(), 2);

    // If that request fails, no other follows, and the waiters have the accepted token.
    endpoint.acts.lock().unwrap().push_back(Act::Fail(transient()));
    let current = source.generation();
    let waiting = source.replace(current, Duration::from_secs(10));
    let accepted = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        accepts(&source, current)
    };
    let (token, _) = tokio::join!(waiting, accepted);
    assert_eq!(token.unwrap().generation(), current);
    tokio::time::sleep(Duration::from_mins(5)).await;
    assert_eq!(endpoint.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_is_waited_through_if_the_next_one_comes_in_time() {
    for failure in [transient(), throttled(1), throttled(8)] {
        let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
        let dead = source.wait(HOUR).await.unwrap().generation();
        endpoint.acts.lock().unwrap().push_back(Act::Fail(failure));

        let tokens = join_all((0..1000).map(|_| source.replace(dead, Duration::from_secs(10)))).await;

        assert!(tokens.iter().all(|token| token.as_ref().is_ok_and(|token| token.generation() > dead)));
        assert_eq!(endpoint.count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_stays_down_fails_waiters_by_their_deadline_with_its_reason() {
    for (failure, reason, at_once) in [
        (transient(), Reason::EndpointUnavailable, false),
        (throttled(11), Reason::EndpointRateLimited, true),
        (rejected(), Reason::ClientRejected, true),
    ] {
        let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
        let dead = source.wait(HOUR).await.unwrap().generation();
        endpoint.always(Some(Act::Fail(failure)));
        let asked_at = tokio::time::Instant::now();

        let outcome = source.replace(dead, Duration::from_secs(10)).await;

        let Err(NotReplaced::Unavailable(unavailable)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(unavailable.reason, reason);
        assert_eq!(unavailable.retry_after.is_some(), reason != Reason::ClientRejected);
        assert!(asked_at.elapsed() <= Duration::from_secs(10));
        assert_eq!(asked_at.elapsed() < Duration::from_millis(10), at_once, "{:?}", asked_at.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_scheduled_renewal_keeps_the_previous_token_for_a_minute_and_drops_it_then() {
    let (_, source) = start(ROOMY, AT_ONCE, &[]);
    let first = source.wait(HOUR).await.unwrap().generation();
    while source.generation() == first {
        assert!(source.previous().is_none());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let previous = source.previous().unwrap();
    assert_eq!(previous.generation(), first);
    let memory = Arc::downgrade(&previous);
    drop(previous);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(source.previous().is_some());

    tokio::time::sleep(Duration::from_millis(1200)).await;

    assert!(source.previous().is_none() && memory.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_and_one_that_an_operator_replaces_do_not_become_the_previous_one() {
    let (endpoint, source) = start(ROOMY, Duration::from_secs(1), &[]);
    let first = source.wait(HOUR).await.unwrap().generation();
    assert!(source.replace(first, HOUR).await.is_ok());
    assert!(source.previous().is_none());

    // The token is rejected while the scheduled refresh is under way.
    let asked = endpoint.count();
    while endpoint.count() == asked {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    source.demand(source.generation());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(source.generation().number(), 3);
    assert!(source.previous().is_none());
}
