//! The budget holds over any sequence of answers.

use proptest::prelude::*;

use super::*;
use crate::token::error::Refusal;

fn credential(lines: &str) -> config::Credential {
    config::fixture::config("", lines, "x").credentials[0].as_ref().clone()
}

fn transient() -> TokenError {
    TokenError::Server(500)
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_after_five_failures_in_a_row_and_a_success_closes_it() {
    let mut limiter = Limiter::new(&credential(""), Clock::tokio());
    for failures in 1..=6 {
        limiter.failed(&transient());
        let expected = if failures < 5 { Barrier::Backoff } else { Barrier::Breaker };
        assert_eq!(limiter.admit(Cause::Scheduled).unwrap_err().by, expected, "{failures}");
    }

    limiter.succeeded();

    assert_eq!(limiter.admit(Cause::Scheduled), Ok(()));
    limiter.failed(&transient());
    assert_eq!(limiter.admit(Cause::Scheduled).unwrap_err().by, Barrier::Backoff);
}

#[tokio::test(start_paused = true)]
async fn the_least_wait_of_a_rate_limit_holds_beyond_retry_after_max() {
    for (retry_after, maximum, expected) in [(None, "1s", 60), (Some(5), "1s", 60), (Some(900), "2m", 120)] {
        let clock = Clock::tokio();
        let mut limiter = Limiter::new(&credential(&format!("retry_after_max = \"{maximum}\"")), clock);
        let retry_after = retry_after.map(Duration::from_secs);
        limiter.failed(&TokenError::Throttled { status: 400, retry_after, at_least: Duration::from_mins(1) });

        let blocked = limiter.admit(Cause::Scheduled).unwrap_err();

        let wait = clock.now().until(blocked.until).as_secs();
        assert!((expected..=expected + 1).contains(&wait), "{wait} for {retry_after:?}");
        assert_eq!(blocked.by, Barrier::RetryAfter);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_forced_request_takes_nothing_of_the_forced_quota() {
    let mut limiter = Limiter::new(&credential("quota = { requests = 2, per = \"100s\" }"), Clock::tokio());
    limiter.admit(Cause::Scheduled).unwrap();
    limiter.admit(Cause::Scheduled).unwrap();

    // Its own cell is there, the common ones are gone: it waits for those and not for both.
    let blocked = limiter.admit(Cause::Forced).unwrap_err();
    tokio::time::sleep_until(tokio::time::Instant::now() + limiter.clock.now().until(blocked.until)).await;
    assert_eq!(limiter.admit(Cause::Forced), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_delayed_forced_request_counts_from_when_it_is_made() {
    let mut limiter = Limiter::new(&credential("quota = { requests = 2, per = \"100s\" }"), Clock::tokio());
    limiter.admit(Cause::Scheduled).unwrap();
    limiter.admit(Cause::Scheduled).unwrap();
    assert!(limiter.admit(Cause::Forced).is_err());
    tokio::time::sleep(Duration::from_secs(90)).await;
    limiter.admit(Cause::Forced).unwrap();

    // A hundred seconds after this one, and not after the one that was not made.
    tokio::time::sleep(Duration::from_mins(1)).await;
    let blocked = limiter.admit(Cause::Forced).unwrap_err();
    assert_eq!(limiter.clock.now().until(blocked.until).as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_forgotten_when_its_cause_may_be_corrected() {
    let mut limiter = Limiter::new(&credential(""), Clock::tokio());
    let refusal = Refusal::Client;
    limiter.failed(&TokenError::Rejected {
        status: 401,
        code: "invalid_client".into(),
        description: None,
        refusal,
    });
    assert_eq!(limiter.admit(Cause::Scheduled).unwrap_err().by, Barrier::Latch);

    limiter.release_latch();

    assert_eq!(limiter.admit(Cause::Scheduled), Ok(()));
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Success,
    Transient,
    Throttled(u64),
    Rejected,
}

fn outcomes() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        Just(Outcome::Success),
        Just(Outcome::Transient),
        (0u64..5000).prop_map(Outcome::Throttled),
        Just(Outcome::Rejected),
    ]
}

/// GCRA's promise for every window: a burst, and what is refilled over it.
fn exceeds(times: &[Moment], limit: u32, per: Duration) -> Option<String> {
    let refill = (per / limit).as_nanos();
    for (first, start) in times.iter().enumerate() {
        for (index, end) in times[first..].iter().enumerate() {
            let refilled = start.until(*end).as_nanos() / refill;
            if index as u128 + 1 > u128::from(limit) + refilled {
                return Some(format!("{} of {limit} in {:?}", index + 1, start.until(*end)));
            }
        }
    }
    None
}

proptest! {
    /// Never more than the quota, never before what was asked for, never for ever; whether it is restarted or not.
    #[test]
    fn no_sequence_of_answers_and_restarts_exceeds_the_budget(
        steps in proptest::collection::vec(
            (0u64..90_000, any::<bool>(), outcomes(), proptest::bool::weighted(0.3)), 1..200,
        ),
        requests in 1u32..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let per = Duration::from_mins(1);
            let clock = Clock::tokio();
            let quota = format!("quota = {{ requests = {requests}, per = \"60s\" }}\nretry_after_max = \"15m\"");
            let credential = credential(&quota);
            let mut limiter = Limiter::new(&credential, clock);
            let mut admitted: Vec<Moment> = Vec::new();
            let mut forced: Vec<Moment> = Vec::new();
            let mut not_before = Moment::default();
            for (millis, is_forced, outcome, restarts) in steps {
                tokio::time::advance(Duration::from_millis(millis)).await;
                if restarts {
                    let memory = limiter.snapshot();
                    limiter = Limiter::new(&credential, clock);
                    limiter.restore(memory);
                }
                let now = clock.now();
                let cause = if is_forced { Cause::Forced } else { Cause::Scheduled };
                match limiter.admit(cause) {
                    Err(blocked) => {
                        prop_assert!(blocked.until > now);
                        prop_assert!(now.until(blocked.until) <= Duration::from_secs(15 * 60 + 1));
                        continue;
                    }
                    Ok(()) => prop_assert!(now >= not_before),
                }
                admitted.push(now);
                if is_forced {
                    forced.push(now);
                }
                let (error, shortest, longest) = match outcome {
                    Outcome::Success => {
                        limiter.succeeded();
                        not_before = Moment::default();
                        continue;
                    }
                    Outcome::Transient => (transient(), BACKOFF.first / 2, BACKOFF.max),
                    Outcome::Throttled(seconds) => {
                        let retry_after = Some(Duration::from_secs(seconds));
                        let error = TokenError::Throttled { status: 429, retry_after, at_least: Duration::ZERO };
                        let asked = Duration::from_secs(seconds.min(15 * 60));
                        (error, asked, (asked + Duration::from_secs(1)).max(BACKOFF.max))
                    }
                    Outcome::Rejected => {
                        (TokenError::ScopeMissing(Vec::new()), LATCH.first, LATCH.max)
                    }
                };
                limiter.failed(&error);
                let until = limiter.blocked().unwrap().until;
                prop_assert!(until >= now + shortest && until > now, "no backoff");
                prop_assert!(until <= now + longest, "{:?}", now.until(until));
                not_before = until;
            }
            for (times, limit) in [(&admitted, requests), (&forced, (requests / 2).max(1))] {
                if let Some(excess) = exceeds(times, limit, per) {
                    prop_assert!(false, "{excess}");
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_restored_snapshot_continues_where_the_limiter_was() {
    let clock = Clock::tokio();
    let mut limiter = Limiter::new(&credential(""), clock);
    for _ in 0..5 {
        limiter.failed(&transient());
    }
    let mut restored = Limiter::new(&credential(""), clock);
    restored.restore(limiter.snapshot());

    assert_eq!(restored.snapshot(), limiter.snapshot());
    let blocked = restored.admit(Cause::Forced).unwrap_err();
    assert_eq!(blocked.by, Barrier::Breaker);
    tokio::time::advance(clock.now().until(blocked.until)).await;
    assert_eq!(restored.admit(Cause::Scheduled), Ok(()));
    restored.failed(&transient());
    assert_eq!(restored.blocked().unwrap().by, Barrier::Breaker, "the failures are counted on");
}
