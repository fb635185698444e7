//! The budget holds over any sequence of answers.

use proptest::prelude::*;

use super::*;

fn credential(lines: &str) -> config::Credential {
    config::fixture::config("", lines, "x").credentials[0].as_ref().clone()
}

fn transient() -> TokenError {
    TokenError::Server { status: 500 }
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
async fn the_floor_of_a_rate_limit_is_not_undercut_by_the_longest_retry_after() {
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
async fn a_forced_cell_that_was_not_used_is_not_lost() {
    let mut limiter = Limiter::new(&credential("quota = { requests = 2, per = \"100s\" }"), Clock::tokio());
    limiter.admit(Cause::Scheduled).unwrap();
    limiter.admit(Cause::Scheduled).unwrap();

    // Its own cell is there, the common ones are gone: it waits for those and not for both.
    let blocked = limiter.admit(Cause::Forced).unwrap_err();
    tokio::time::sleep_until(tokio::time::Instant::now() + limiter.clock.now().until(blocked.until)).await;
    assert_eq!(limiter.admit(Cause::Forced), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_rejection_is_forgotten_when_its_cause_may_be_mended() {
    let mut limiter = Limiter::new(&credential(""), Clock::tokio());
    limiter.failed(&TokenError::Rejected { status: 401, code: "invalid_client".into(), description: None });
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

proptest! {
    /// Never more than the quota, never before what was asked for, and never for ever.
    #[test]
    fn no_sequence_of_answers_exceeds_the_budget(
        steps in proptest::collection::vec((0u64..90, any::<bool>(), outcomes()), 1..200),
        requests in 1u32..20,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let per = Duration::from_mins(1);
            let clock = Clock::tokio();
            let quota = format!("quota = {{ requests = {requests}, per = \"60s\" }}\nretry_after_max = \"15m\"");
            let mut limiter = Limiter::new(&credential(&quota), clock);
            let mut admitted: Vec<Moment> = Vec::new();
            let mut forced: Vec<Moment> = Vec::new();
            let mut not_before = Moment::default();
            for (seconds, is_forced, outcome) in steps {
                tokio::time::advance(Duration::from_secs(seconds)).await;
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
                match outcome {
                    Outcome::Success => {
                        limiter.succeeded();
                        not_before = Moment::default();
                    }
                    Outcome::Transient => {
                        limiter.failed(&transient());
                        not_before = now + Duration::from_millis(500);
                    }
                    Outcome::Throttled(seconds) => {
                        let retry_after = Some(Duration::from_secs(seconds));
                        limiter.failed(&TokenError::Throttled { status: 429, retry_after, at_least: Duration::ZERO });
                        not_before = now + Duration::from_secs(seconds.min(15 * 60));
                    }
                    Outcome::Rejected => {
                        limiter.failed(&TokenError::ScopeMissing { missing: Vec::new() });
                        not_before = now + LATCH_FIRST;
                    }
                }
            }
            // A burst and what is refilled over the window, for any window.
            for (times, limit) in [(&admitted, requests), (&forced, (requests / 2).max(1))] {
                for (index, start) in times.iter().enumerate() {
                    let in_window = times[index..].iter().filter(|at| start.until(**at) < per).count();
                    prop_assert!(in_window <= 2 * limit as usize, "{in_window} in a minute, of {limit}");
                }
            }
            Ok(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_goes_on_where_the_limiter_was() {
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
