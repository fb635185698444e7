//! Refreshes that operators request, in every state of the refresher.

use super::*;
use crate::config::fixture;

/// A refresher of a grant without refresh tokens, and an operator of it.
pub(super) fn with_operator(
    lines: &str,
    takes: Duration,
    acts: &[Act],
) -> (TokenSource, Operator, Arc<Endpoint>) {
    let clock = Clock::tokio();
    let endpoint = Arc::new(Endpoint {
        acts: Mutex::new(acts.iter().cloned().collect()),
        takes,
        clock: Some(clock),
        ..Endpoint::default()
    });
    let credential = Arc::clone(&fixture::config("", lines, "secret").credentials[0]);
    let (refresher, source) =
        Refresher::new(credential, Shared(Arc::clone(&endpoint)), DurableState::in_memory(clock), clock);
    let operator = refresher.operator();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(refresher.run(std::future::pending()));
    (source, operator, endpoint)
}

#[tokio::test(start_paused = true)]
async fn a_thousand_operators_cause_one_request_and_the_quota_bounds_the_rest() {
    let (source, operator, endpoint) = with_operator("", Duration::from_millis(500), &[]);
    source.wait(HOUR).await.unwrap();

    let all = join_all((0..1000).map(|_| operator.refresh(WITHIN))).await;
    for told in &all {
        assert!(
            matches!(told, Ok(Refreshed::New { generation, .. }) if generation.number() == 2),
            "{told:?}"
        );
    }
    assert_eq!(endpoint.count(), 2);

    let mut refused = 0;
    for _ in 0..1000 {
        match operator.refresh(WITHIN).await.unwrap() {
            Refreshed::New { .. } => {}
            Refreshed::Refused(why) => {
                assert_eq!(why.reason, Reason::QuotaExhausted);
                assert!(why.retry_after.is_some());
                refused += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(refused > 990, "{refused}");
    // Half of ten, and one every twelve seconds.
    assert!(endpoint.count() <= 1 + 5 + 1, "{}", endpoint.count());
    let before = endpoint.count();
    tokio::time::sleep(Duration::from_mins(10)).await;
    assert_eq!(endpoint.count(), before, "nobody requests more");
}

#[tokio::test(start_paused = true)]
async fn a_requested_refresh_joins_the_token_request_under_way() {
    let (source, operator, endpoint) = with_operator("", Duration::from_secs(1), &[]);
    tokio::time::sleep(Duration::from_millis(500)).await;

    let told = operator.refresh(WITHIN).await.unwrap();

    let Refreshed::New { generation, left } = told else { panic!("{told:?}") };
    assert_eq!((generation, left), (source.generation(), Duration::from_secs(3599)));
    assert_eq!(endpoint.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_requested_refresh_is_made_under_latch_backoff_and_breaker() {
    let failures = [vec![Act::Fail(rejected())], vec![Act::Fail(transient()); 5]].concat();
    let acts: Vec<Act> =
        [vec![Act::Token("a", 3600)], failures, vec![Act::Fail(throttled(7)), Act::Token("b", 3600)]]
            .concat();
    let (source, operator, endpoint) = with_operator(ROOMY, AT_ONCE, &acts);
    source.wait(HOUR).await.unwrap();

    let told = operator.refresh(WITHIN).await.unwrap();
    assert!(matches!(&told, Refreshed::Failed(why) if why.reason == Reason::ClientRejected), "{told:?}");
    for _ in 0..5 {
        let told = operator.refresh(WITHIN).await.unwrap();
        let Refreshed::Failed(why) = &told else { panic!("{told:?}") };
        assert_eq!(why.reason, Reason::EndpointUnavailable);
    }
    let told = operator.refresh(WITHIN).await.unwrap();
    assert!(matches!(&told, Refreshed::Failed(why) if why.reason == Reason::EndpointRateLimited), "{told:?}");
    assert_eq!(endpoint.count(), 8);
    // The server has asked for a wait.
    let told = operator.refresh(WITHIN).await.unwrap();
    assert!(
        matches!(&told, Refreshed::Refused(why) if why.reason == Reason::EndpointRateLimited
            && why.retry_after.is_some_and(|wait| wait >= Duration::from_secs(7))),
        "{told:?}"
    );
    assert_eq!(endpoint.count(), 8);
    // The failures in a row count: the backoff is longer than the server's wait by now.
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(endpoint.count(), 8, "what was refused is not made up for");

    assert!(matches!(operator.refresh(WITHIN).await, Ok(Refreshed::New { .. })));
    assert_eq!(header(&source), "Bearer b");
    assert!(!source.is_rejected());
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_reported_and_each_order_is_asked_nevertheless() {
    let (source, operator, endpoint) = with_operator(ROOMY, AT_ONCE, &[]);
    endpoint.always(Some(Act::Token("same", 3600)));
    source.wait(HOUR).await.unwrap();

    for order in 1..=5 {
        let told = operator.refresh(WITHIN).await.unwrap();
        let Refreshed::Same { generation, again_in, .. } = told else { panic!("{told:?}") };
        assert_eq!((generation.number(), again_in), (1, Duration::from_secs(10)));
        assert_eq!(endpoint.count(), 1 + order);
    }
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(endpoint.count(), 6, "no order, no request");

    // The server has been mended.
    endpoint.always(None);
    assert!(matches!(operator.refresh(WITHIN).await, Ok(Refreshed::New { .. })));
}

#[tokio::test(start_paused = true)]
async fn a_requested_refresh_that_takes_too_long_continues() {
    let (source, operator, endpoint) = with_operator("", Duration::from_mins(1), &[]);

    assert_eq!(operator.refresh(WITHIN).await.unwrap_err(), NoOutcome::UnderWay);

    assert!(source.wait(HOUR).await.is_ok());
    tokio::time::sleep(SOON).await;
    assert_eq!(endpoint.count(), 1);
}
