//! The refresh loop against an endpoint in memory, hours of it in paused time.

mod any_sequence;
mod client_secrets;
mod demands;
mod fallback;
mod replicas;
mod state;
mod status;

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use futures_util::future::join_all;
use proptest::prelude::*;
use secrecy::SecretString;

use super::*;
use crate::config::{Identity, fixture};
use crate::token::endpoint::HeldToken;
use crate::token::endpoint::response::TokenResponse;
use crate::token::error::{Malformed, Refusal};
use crate::token::progress::Reason;
use crate::token::source::NotReplaced;

/// The endpoint's response to one request.
#[derive(Clone, Debug)]
enum Act {
    Token(&'static str, u64),
    /// One token until so many seconds have passed since the first request, with its rest in whole seconds.
    Cached(u64),
    /// A token without a lifetime.
    Unsaid(&'static str),
    Fail(TokenError),
    Panic,
}

/// Answers from a list, then issues a new token of an hour each time; records the moment of each request.
#[derive(Debug, Default)]
struct Endpoint {
    acts: Mutex<VecDeque<Act>>,
    /// The response once the list is empty.
    fallback: Mutex<Option<Act>>,
    asked: Mutex<Vec<Moment>>,
    takes: Duration,
    clock: Option<Clock>,
}

#[derive(Clone, Debug)]
struct Shared(Arc<Endpoint>);

impl Endpoint {
    fn asked(&self) -> Vec<Moment> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn count(&self) -> usize {
        self.asked().len()
    }

    fn always(&self, act: Option<Act>) {
        *self.fallback.lock().unwrap() = act;
    }
}

impl TokenEndpoint for Shared {
    async fn request(
        &self,
        _: &Credential,
        _: &Identity<SecretString>,
        _: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let number = {
            let mut asked = self.0.asked.lock().unwrap_or_else(PoisonError::into_inner);
            asked.push(self.0.clock.unwrap().now());
            asked.len()
        };
        tokio::time::sleep(self.0.takes).await;
        let act = self.0.acts.lock().unwrap().pop_front();
        let act = act.or_else(|| self.0.fallback.lock().unwrap().clone());
        match act {
            Some(Act::Fail(error)) => Err(error),
            Some(Act::Panic) => panic!("told to"),
            Some(Act::Token(token, seconds)) => Ok(grant(token, seconds)),
            Some(Act::Cached(seconds)) => {
                let first = self.0.asked()[0];
                let passed = first.until(self.0.clock.unwrap().now()).as_millis();
                // The server issues the token a little after the request, so the token ends a little later there.
                let period = u128::from(seconds) * 1000;
                let (number, into) = (passed.saturating_sub(40) / period, passed.saturating_sub(40) % period);
                let left = u64::try_from((period - into) / 1000).unwrap();
                Ok(grant(&format!("cached-{number}"), left))
            }
            Some(Act::Unsaid(token)) => Ok(TokenResponse { lifetime: None, ..grant(token, 0) }),
            None => Ok(grant(&format!("token-{number}"), 3600)),
        }
    }
}

fn grant(token: &str, seconds: u64) -> TokenResponse {
    TokenResponse {
        access_token: token.to_owned().into(),
        lifetime: Some(Duration::from_secs(seconds)),
        lifetime_was_cut: false,
        is_labelled_json: true,
        scopes: None,
        server_time: None,
        refresh_token: None,
        id_token: None,
        refresh_lifetime: None,
        flaw: None,
    }
}

fn transient() -> TokenError {
    TokenError::Server(500)
}

fn rejected() -> TokenError {
    TokenError::Rejected {
        status: 401,
        code: "invalid_client".into(),
        description: None,
        refusal: Refusal::Client,
    }
}

fn invalid_grant() -> TokenError {
    TokenError::Rejected {
        status: 400,
        code: "invalid_grant".into(),
        description: None,
        refusal: Refusal::Grant,
    }
}

fn throttled(seconds: u64) -> TokenError {
    let retry_after = Some(Duration::from_secs(seconds));
    TokenError::Throttled { status: 429, retry_after, at_least: Duration::ZERO }
}

fn credential(lines: &str) -> Arc<Credential> {
    Arc::clone(&fixture::config("", lines, "secret").credentials[0])
}

impl<E: TokenEndpoint> Refresher<E> {
    /// Keeps the token fresh until `stop` resolves.
    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) {
        self.run_until(stop, std::future::pending()).await;
    }
}

/// A refresher that runs, with its endpoint and its source.
fn start(lines: &str, takes: Duration, acts: &[Act]) -> (Arc<Endpoint>, TokenSource) {
    start_with(Clock::tokio(), lines, takes, acts)
}

fn start_with(clock: Clock, lines: &str, takes: Duration, acts: &[Act]) -> (Arc<Endpoint>, TokenSource) {
    let endpoint = Arc::new(Endpoint {
        acts: Mutex::new(acts.iter().cloned().collect()),
        takes,
        clock: Some(clock),
        ..Endpoint::default()
    });
    let (refresher, source) = Refresher::new(
        credential(lines),
        Shared(Arc::clone(&endpoint)),
        DurableState::in_memory(clock),
        clock,
    );
    #[expect(clippy::disallowed_methods, reason = "ends with the test's runtime")]
    tokio::spawn(refresher.run(std::future::pending()));
    (endpoint, source)
}

const ROOMY: &str = "quota = { requests = 1000, per = \"1s\" }";
const AT_ONCE: Duration = Duration::ZERO;
const HOUR: Duration = Duration::from_hours(1);

fn gaps(asked: &[Moment]) -> Vec<f64> {
    asked.windows(2).map(|pair| pair[0].until(pair[1]).as_secs_f64()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_before_its_end_for_as_long_as_the_daemon_runs() {
    let (endpoint, source) = start("", AT_ONCE, &[]);
    for _ in 0..24 * 60 {
        tokio::time::sleep(Duration::from_mins(1)).await;
        assert!(source.current().is_some());
    }
    let asked = endpoint.count();
    assert!((26..=27).contains(&asked), "{asked} requests a day, for tokens of an hour");
    assert!(gaps(&endpoint.asked()).iter().all(|gap| (3265.0..=3301.0).contains(gap)));
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_waiters_for_the_first_token_cost_one_request() {
    let (endpoint, source) = start("", Duration::from_millis(500), &[]);

    let tokens = join_all((0..10_000).map(|_| source.wait(Duration::from_secs(10)))).await;

    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(endpoint.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_rejections_of_one_generation_cost_one_request() {
    let (endpoint, source) = start("", Duration::from_millis(500), &[]);
    let dead = source.wait(HOUR).await.unwrap().generation();

    let tokens = join_all((0..10_000).map(|_| source.replace(dead, Duration::from_secs(10)))).await;

    assert!(tokens.iter().all(|token| token.as_ref().is_ok_and(|token| token.generation() > dead)));
    assert_eq!(endpoint.count(), 2);
    // A straggler with the dead generation costs nothing more.
    assert!(source.replace(dead, Duration::from_secs(10)).await.is_ok());
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_cancels_no_refresh() {
    let (endpoint, source) = start("", Duration::from_secs(1), &[]);
    let dead = source.wait(HOUR).await.unwrap().generation();
    let left = tokio::time::timeout(Duration::from_millis(100), source.replace(dead, HOUR)).await;
    assert!(left.is_err());

    assert!(source.replace(dead, HOUR).await.is_ok());
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn with_the_endpoint_down_waiters_fail_at_their_deadline() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    endpoint.always(Some(Act::Fail(transient())));
    let started = tokio::time::Instant::now();

    let outcomes = join_all((0..10_000).map(|_| source.wait(Duration::from_secs(10)))).await;

    assert!(started.elapsed() <= Duration::from_secs(10));
    for outcome in outcomes {
        let unavailable = outcome.unwrap_err();
        assert_eq!(unavailable.reason, Reason::EndpointUnavailable);
        assert!(unavailable.retry_after.is_some());
    }
    assert!(endpoint.count() <= 6, "{}", endpoint.count());
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_hours_causes_a_request_each_minute_and_ends_by_itself() {
    let (endpoint, source) = start("", AT_ONCE, &[]);
    assert!(source.wait(HOUR).await.is_ok());
    endpoint.always(Some(Act::Fail(transient())));
    for minute in 0..6 * 60 {
        assert_eq!(source.current().is_some(), minute < 60, "minute {minute}");
        tokio::time::sleep(Duration::from_mins(1)).await;
    }
    let asked = endpoint.count();
    // Equal jitter: between half a minute and a minute apart, from minute 55 on.
    assert!((300..=640).contains(&asked), "{asked}");

    endpoint.always(None);
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert!(source.current().is_some());
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_from_a_second_to_a_minute_with_equal_jitter() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    endpoint.always(Some(Act::Fail(transient())));
    let _ = source.wait(HOUR).await;

    let gaps = gaps(&endpoint.asked());
    for (gap, step) in gaps.iter().zip([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]) {
        assert!((step / 2.0..=step + 0.01).contains(gap), "{gap} for a step of {step}: {gaps:?}");
    }
    assert!(gaps.len() > 40);
}

#[tokio::test(start_paused = true)]
async fn after_a_rejection_requests_are_rare_and_waiters_learn_the_cause_at_once() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    endpoint.always(Some(Act::Fail(rejected())));
    tokio::time::sleep(Duration::from_millis(10)).await;
    let asked_at = tokio::time::Instant::now();
    let unavailable = source.wait(Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(unavailable.reason, Reason::ClientRejected);
    assert_eq!(unavailable.retry_after, None);
    assert_eq!(asked_at.elapsed(), Duration::ZERO);

    tokio::time::sleep(HOUR).await;
    let gaps = gaps(&endpoint.asked());
    assert_eq!(
        gaps.iter().map(|gap| gap.round()).take(6).collect::<Vec<_>>(),
        [30.0, 60.0, 120.0, 240.0, 300.0, 300.0]
    );
}

#[tokio::test(start_paused = true)]
async fn when_the_token_ends_one_request_is_made_whatever_the_rejections_before() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[Act::Token("t", 1000)]);
    endpoint.always(Some(Act::Fail(rejected())));
    source.wait(HOUR).await.unwrap();
    let issued = endpoint.asked()[0];
    tokio::time::sleep(Duration::from_secs(1100)).await;

    let asked: Vec<_> = endpoint.asked().iter().map(|asked| issued.until(*asked).as_secs()).collect();
    let [.., last, end] = asked.as_slice() else { panic!("{asked:?}") };
    assert!((1000 - 240..1000).contains(last) && (1000..=1001).contains(end), "{asked:?}");
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_blocks_requests_of_every_cause() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    let dead = source.wait(HOUR).await.unwrap().generation();
    endpoint.acts.lock().unwrap().push_back(Act::Fail(throttled(120)));

    let first = source.replace(dead, Duration::from_secs(10)).await;
    assert!(
        matches!(&first, Err(NotReplaced::Unavailable(unavailable)) if unavailable.reason == Reason::EndpointRateLimited),
        "{first:?}"
    );
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let asked_at = tokio::time::Instant::now();
        assert!(source.replace(dead, Duration::from_secs(10)).await.is_err());
        assert_eq!(asked_at.elapsed(), Duration::ZERO, "it is known that waiting cannot help");
        assert!(source.current().is_some(), "the old token is served meanwhile");
    }
    assert_eq!(endpoint.count(), 2);

    assert!(source.replace(dead, Duration::from_mins(1)).await.is_ok());
    let asked = endpoint.asked();
    let gap = asked[1].until(asked[2]);
    assert!(gap >= Duration::from_mins(2) && gap < Duration::from_secs(122), "{gap:?}");
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_without_a_time_is_reported_as_one_by_the_breaker_too() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    let unhelpful = TokenError::Throttled { status: 429, retry_after: None, at_least: Duration::ZERO };
    endpoint.always(Some(Act::Fail(unhelpful)));
    for _ in 0..8 {
        let unavailable = source.wait(Duration::from_secs(10)).await.unwrap_err();
        assert_eq!(unavailable.reason, Reason::EndpointRateLimited);
        assert!(unavailable.retry_after.is_some());
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    assert!(endpoint.count() > 5, "{}", endpoint.count());

    endpoint.always(Some(Act::Fail(transient())));
    tokio::time::sleep(Duration::from_mins(2)).await;
    let unavailable = source.wait(Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(unavailable.reason, Reason::EndpointUnavailable);
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_a_year_is_shortened_to_the_maximum() {
    let (endpoint, source) = start("retry_after_max = \"15m\"", AT_ONCE, &[Act::Fail(throttled(31_536_000))]);

    assert!(source.wait(Duration::from_mins(17)).await.is_ok());
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn forced_refreshes_leave_half_of_the_quota_to_the_schedule() {
    let (endpoint, source) = start("quota = { requests = 4, per = \"1h\" }", AT_ONCE, &[]);
    let mut generation = source.wait(HOUR).await.unwrap().generation();
    for _ in 0..2 {
        generation = source.replace(generation, HOUR).await.unwrap().generation();
    }

    let third = source.replace(generation, Duration::from_secs(10)).await;

    assert!(
        matches!(&third, Err(NotReplaced::Unavailable(unavailable)) if unavailable.reason == Reason::QuotaExhausted),
        "{third:?}"
    );
    assert_eq!(endpoint.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_a_request_counts_as_a_failure() {
    let (endpoint, source) = start("", AT_ONCE, &[Act::Panic]);

    assert!(source.wait(Duration::from_secs(10)).await.is_ok());
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_same_token_again_is_no_new_generation_and_causes_no_loop() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    endpoint.always(Some(Act::Token("same", 3600)));
    let first = source.wait(HOUR).await.unwrap().generation();

    assert!(matches!(source.replace(first, HOUR).await, Err(NotReplaced::Unchanged)));
    for _ in 0..1000 {
        assert!(matches!(source.replace(first, HOUR).await, Err(NotReplaced::Unchanged)));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(endpoint.count() <= 3, "{}", endpoint.count());
    assert_eq!(source.generation(), first);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_was_issued_twice_is_replaced_at_the_next_chance() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[Act::Token("same", 3600), Act::Token("same", 3600)]);
    let first = source.wait(HOUR).await.unwrap().generation();
    assert!(matches!(source.replace(first, HOUR).await, Err(NotReplaced::Unchanged)));

    source.demand(first);
    tokio::time::sleep(Duration::from_secs(11)).await;

    assert!(source.generation() > first);
    assert_eq!(endpoint.count(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_repeats_its_token_to_the_end_gets_a_handful_of_requests() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    let started = tokio::time::Instant::now();
    while started.elapsed() < HOUR {
        let left = 3600 - started.elapsed().as_secs();
        endpoint.always(Some(Act::Token("same", left.max(1))));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    endpoint.always(None);
    tokio::time::sleep(Duration::from_secs(15)).await;

    assert!(source.current().is_some());
    let asked = endpoint.count();
    assert!((2..=8).contains(&asked), "{asked}");
    assert!(source.generation() > Generation::NONE.next());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_repeats_its_token_and_counts_whole_seconds_leaves_no_gap() {
    let (endpoint, source) = start(ROOMY, Duration::from_millis(80), &[]);
    endpoint.always(Some(Act::Cached(30)));
    source.wait(HOUR).await.unwrap();
    let (mut dark, started) = (Duration::ZERO, tokio::time::Instant::now());
    while started.elapsed() < HOUR {
        tokio::time::sleep(Duration::from_millis(100)).await;
        if source.current().is_none() {
            dark += Duration::from_millis(100);
        }
    }

    // A second for each of 120 tokens is what its rounding costs, and a second of backoff on top.
    assert!(dark < Duration::from_mins(4), "{dark:?} of an hour without a token");
    assert!(endpoint.count() < 120 * 5, "{}", endpoint.count());
}

#[tokio::test(start_paused = true)]
async fn a_token_without_a_lifetime_that_is_issued_again_stays_valid() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[]);
    endpoint.always(Some(Act::Unsaid("same")));
    source.wait(HOUR).await.unwrap();
    for _ in 0..3600 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // It is replaced before its end, not at its end.
        let left = source.current().map(|token| Clock::tokio().now().until(token.expires()));
        assert!(left > Some(Duration::from_secs(30)), "{left:?}");
    }

    assert!(endpoint.count() < 20, "{}", endpoint.count());
}

#[tokio::test(start_paused = true)]
async fn an_expired_token_that_is_issued_again_is_a_failure() {
    let (_, source) =
        start(ROOMY, AT_ONCE, &[Act::Token("same", 10), Act::Token("same", 0), Act::Token("same", 0)]);
    source.wait(HOUR).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10_010)).await;

    let unavailable = source.wait(Duration::from_millis(10)).await.unwrap_err();
    assert_eq!(unavailable.failure.as_deref(), Some(&TokenError::Malformed(Malformed::Stale)));
    assert_eq!(source.wait(Duration::from_secs(5)).await.unwrap().generation().number(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_of_one_second_causes_no_storm_of_requests() {
    let (endpoint, _source) = start("", AT_ONCE, &[]);
    endpoint.always(None);
    for number in 0..10_000 {
        endpoint.acts.lock().unwrap().push_back(Act::Token(["a", "b", "c", "d", "e"][number % 5], 1));
    }
    tokio::time::sleep(HOUR).await;

    // Ten at once, then ten a minute: the quota.
    assert!(endpoint.count() <= 10 + 600 + 1, "{}", endpoint.count());
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_the_first_request_causes_a_token_request_at_once() {
    let (clock, suspended) = Clock::suspendable();
    let (endpoint, source) = start_with(clock, "", AT_ONCE, &[]);
    assert!(source.wait(HOUR).await.is_ok());
    for asked in 2..10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        suspended.fetch_add(8 * 3600 * 1_000_000_000, Ordering::Relaxed);
        assert!(source.current().is_none());
        let woken = tokio::time::Instant::now();

        let tokens = join_all((0..100).map(|_| source.wait(Duration::from_secs(10)))).await;

        assert!(tokens.iter().all(Result::is_ok));
        assert_eq!(woken.elapsed(), Duration::ZERO);
        assert_eq!(endpoint.count(), asked);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_suspend_a_barrier_that_has_ended_blocks_nobody() {
    let (clock, suspended) = Clock::suspendable();
    let (endpoint, source) = start_with(clock, "", AT_ONCE, &[Act::Fail(throttled(600))]);
    assert!(source.wait(Duration::from_secs(10)).await.is_err());
    suspended.fetch_add(3600 * 1_000_000_000, Ordering::Relaxed);
    let woken = tokio::time::Instant::now();

    assert!(source.wait(Duration::from_secs(10)).await.is_ok());

    assert_eq!(woken.elapsed(), Duration::ZERO);
    assert_eq!(endpoint.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_malformed_response_keeps_the_valid_token() {
    let (endpoint, source) = start(ROOMY, AT_ONCE, &[Act::Token("good", 100)]);
    assert!(source.wait(HOUR).await.is_ok());
    endpoint.always(Some(Act::Fail(TokenError::Malformed(Malformed::Empty))));

    tokio::time::sleep(Duration::from_secs(99)).await;
    assert!(source.current().is_some());
    assert!(endpoint.count() >= 4, "the margin gives several tries: {}", endpoint.count());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(source.current().is_none());
}

/// Seconds that a token lives which the schedule does not replace in a test.
const YEAR: u64 = 365 * 24 * 3600;

fn acts() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Token("same", YEAR)),
        1 => Just(Act::Token("other", YEAR)),
        1 => Just(Act::Token("short", 30)),
        1 => Just(Act::Fail(transient())),
        1 => (1u64..2000).prop_map(|seconds| Act::Fail(throttled(seconds))),
        1 => Just(Act::Fail(rejected())),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is answered and wanted, in whatever order: no loop, and nothing that is wanted is forgotten.
    #[test]
    fn every_demand_is_met_or_withdrawn_and_requests_stay_within_the_quota(
        acts in proptest::collection::vec(acts(), 0..20),
        pauses in proptest::collection::vec(0u64..600, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (endpoint, source) = start("quota = { requests = 4, per = \"60s\" }", AT_ONCE, &acts);
            for pause in pauses {
                source.demand(source.generation());
                tokio::time::sleep(Duration::from_secs(pause)).await;
            }
            // As many failures as there are left, each with the longest wait.
            tokio::time::sleep(Duration::from_hours(8)).await;
            prop_assert!(!source.is_rejected());
            // And once the endpoint has another token, it is had.
            endpoint.acts.lock().unwrap().clear();
            let last = source.generation();
            source.demand(last);
            tokio::time::sleep(Duration::from_hours(2)).await;
            prop_assert!(source.generation() > last);
            let asked = endpoint.asked();
            for (index, start) in asked.iter().enumerate() {
                let in_window =
                    asked[index..].iter().filter(|at| start.until(**at) < Duration::from_mins(1)).count();
                prop_assert!(in_window <= 8, "{in_window} requests in a minute");
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiting_request_follows_to_the_successor_within_its_deadline() {
    let clock = Clock::tokio();
    let endpoint = |takes, act: Act| {
        let acts = Mutex::new(VecDeque::from([act]));
        Shared(Arc::new(Endpoint { acts, takes, clock: Some(clock), ..Endpoint::default() }))
    };
    let make = |endpoint| Refresher::new(credential(""), endpoint, DurableState::in_memory(clock), clock);
    for (takes, has_successor, outcome) in [
        (3, true, Ok("new")),
        (3, false, Err(Reason::WaitingForFirstToken)),
        (9, true, Err(Reason::WaitingForFirstToken)),
    ] {
        let (before, source) = make(endpoint(AT_ONCE, Act::Token("old", 60)));
        let takes = Duration::from_secs(takes);
        let (after, successor) = make(endpoint(takes, Act::Token("new", 60)));
        let waits = async {
            let token = source.wait(Duration::from_secs(5)).await;
            token.map(|token| token.as_str().to_owned()).map_err(|unavailable| unavailable.reason)
        };
        let ends = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if has_successor {
                source.succeeded_by(&successor);
            }
            drop(before);
            after.run(tokio::time::sleep(Duration::from_secs(20))).await;
        };

        let began = tokio::time::Instant::now();
        let waits = async { (waits.await, began.elapsed()) };
        let ((waited, elapsed), ()) = tokio::join!(waits, ends);

        assert_eq!(waited, outcome.map(str::to_owned));
        assert!(elapsed <= Duration::from_secs(5), "{elapsed:?}");
        // A request of the previous configuration begins to wait now.
        if outcome.is_ok() {
            let late = source.replace(Generation::NONE.next(), AT_ONCE).await.unwrap();
            assert_eq!(late.as_str(), "new");
        }
    }
}
