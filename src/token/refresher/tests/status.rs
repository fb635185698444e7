//! A credential's status: state, reason, and what happens next.

use super::*;
use crate::token::status::TOKEN_REJECTED;
use crate::token::{CredentialState, CredentialStatus, Operator};

const TOKEN_SECONDS: u64 = 1000;

fn watched(lines: &str, acts: &[Act]) -> (Arc<Endpoint>, TokenSource, Operator) {
    let clock = Clock::tokio();
    let endpoint = Arc::new(Endpoint {
        acts: Mutex::new(acts.iter().cloned().collect()),
        takes: Duration::from_millis(100),
        clock: Some(clock),
        ..Endpoint::default()
    });
    let shared = Shared(Arc::clone(&endpoint));
    let (refresher, source) =
        Refresher::new(credential(lines), shared, DurableState::in_memory(clock), clock);
    let operator = refresher.operator();
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(refresher.run(std::future::pending()));
    (endpoint, source, operator)
}

fn standing(status: &CredentialStatus) -> (CredentialState, Option<&'static str>, bool) {
    (status.state, status.reason, status.needs_person)
}

fn token() -> Act {
    Act::Token("t", TOKEN_SECONDS)
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_acquiring_until_its_first_request_ends_and_then_valid() {
    let (_, source, operator) = watched(ROOMY, &[token()]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let status = operator.status(&source);
    assert_eq!(standing(&status), (CredentialState::Acquiring, Some("waiting_for_first_token"), false));
    assert!(status.expires.is_none() && status.record.fingerprint.is_none());
    let since = status.request_under_way.unwrap();
    let under_way = Clock::tokio().wall().duration_since(since).unwrap();
    assert!((50..1000).contains(&under_way.as_millis()), "{under_way:?}");

    tokio::time::sleep(Duration::from_millis(100)).await;
    let status = operator.status(&source);
    assert_eq!(standing(&status), (CredentialState::Valid, None, false));
    assert_eq!((status.generation, status.help.as_deref(), status.next_attempt), (1, None, None));
    assert_eq!(status.request_under_way, None);
    let lifetime = status.expires.unwrap().duration_since(status.issued.unwrap()).unwrap();
    assert!(lifetime.as_secs().abs_diff(TOKEN_SECONDS) <= 1, "{lifetime:?}");
    assert!(status.next_refresh.unwrap() < status.expires.unwrap());
    assert_eq!(status.record.requests[&("scheduled", "refreshed")], 1);
    assert!(status.record.fingerprint.is_some());
}

#[tokio::test(start_paused = true)]
async fn each_failure_has_its_state_its_reason_and_its_remedy() {
    for (failure, reason, needs_person) in [
        (transient(), "token_endpoint_unavailable", false),
        (throttled(600), "token_endpoint_rate_limited", false),
        (rejected(), "client_rejected", true),
        (TokenError::ScopeMissing(vec!["read".to_owned()]), "scope_missing", true),
    ] {
        let (endpoint, source, operator) = watched(ROOMY, &[Act::Fail(failure.clone())]);
        endpoint.always(Some(Act::Fail(failure.clone())));
        tokio::time::sleep(Duration::from_millis(150)).await;

        let status = operator.status(&source);

        assert_eq!(standing(&status), (CredentialState::Unusable, Some(reason), needs_person), "{failure}");
        assert!(status.help.is_some() && status.next_attempt.is_some(), "{failure}");
        assert_eq!(status.not_before.is_some(), matches!(failure, TokenError::Throttled { .. }));
        assert_eq!(status.record.last_error.unwrap().outcome, failure.outcome());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_refresh_degrades_and_the_end_of_the_token_makes_unusable() {
    let (endpoint, source, operator) = watched(ROOMY, &[token()]);
    endpoint.always(Some(Act::Fail(transient())));
    tokio::time::sleep(Duration::from_secs(TOKEN_SECONDS - 20)).await;
    let degraded = operator.status(&source);
    let reason = Some("token_endpoint_unavailable");
    assert_eq!(standing(&degraded), (CredentialState::Degraded, reason, false));

    tokio::time::sleep(Duration::from_secs(30)).await;
    let ended = operator.status(&source);
    assert_eq!(standing(&ended), (CredentialState::Unusable, reason, false));

    endpoint.always(None);
    tokio::time::sleep(Duration::from_mins(2)).await;
    let recovered = operator.status(&source);
    assert_eq!(standing(&recovered), (CredentialState::Valid, None, false));
    let names: Vec<_> = recovered.record.events.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names[names.len() - 2..], ["credential.recovered", "token.refreshed"]);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_no_refresh_replaces_is_unusable_for_all_or_degraded_for_some() {
    let (endpoint, source, operator) = watched(ROOMY, &[token()]);
    endpoint.always(Some(Act::Fail(transient())));
    let other = source.for_route(Arc::new(()));
    let first = source.wait(HOUR).await.unwrap().generation();
    source.demand(first);
    assert_eq!(standing(&operator.status(&source)), (CredentialState::Degraded, Some(TOKEN_REJECTED), false));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let reason = Some("token_endpoint_unavailable");
    assert_eq!(standing(&operator.status(&source)), (CredentialState::Degraded, reason, false));

    other.demand(first);
    assert_eq!(standing(&operator.status(&source)), (CredentialState::Unusable, reason, false));
    let requests = operator.status(&source).record.requests;
    assert!(requests[&("forced", "server_error")] > 0, "{requests:?}");
}

#[tokio::test(start_paused = true)]
async fn an_operator_sees_quota_waiters_and_the_cause_of_an_order() {
    let (_, source, operator) = watched("quota = { requests = 4, per = \"60s\" }", &[]);
    let waiting = async { source.wait(HOUR).await.unwrap() };
    let seen = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        operator.status(&source).waiters
    };
    let (_, waiters) = tokio::join!(waiting, seen);
    assert_eq!((waiters, operator.status(&source).waiters), (1, 0));
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(operator.status(&source).quota_remaining, 3);

    operator.refresh(HOUR).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let status = operator.status(&source);
    assert_eq!((status.quota_remaining, status.record.requests[&("operator", "refreshed")]), (2, 1));
    tokio::time::sleep(Duration::from_mins(1)).await;
    assert_eq!(operator.status(&source).quota_remaining, 4);
}
