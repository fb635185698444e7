//! When the next token is due.
//!
//! The functions are pure: moments in, a moment out. A due moment is never past the token's end, and never so soon that token
//! requests follow each other in a loop.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::clock::Moment;
use crate::token::access_token::AccessToken;

/// The waits after the server has issued the current token again.
const SAME_TOKEN: Backoff = Backoff { first: Duration::from_secs(10), max: Duration::from_hours(1) };

/// How much later the same token must have been issued to count as another answer, for replicas whose measurements differ.
pub(crate) const SAME_ANSWER: Duration = Duration::from_secs(2);

/// When to replace a token: its margin before its end, and up to a tenth of the margin earlier than that.
///
/// The margin is at most a fifth of the lifetime, so that a short-lived token is used for most of its life. `chance`, between
/// 0 and 1, spreads the refreshes of tokens that were issued together.
pub(crate) fn refresh_at(issued: Moment, expires: Moment, margin: Duration, chance: f64) -> Moment {
    let lifetime = issued.until(expires);
    let margin = margin.min(lifetime / 5);
    let earlier = (margin / 10).mul_f64(chance.clamp(0.0, 1.0));
    expires.before(margin + earlier)
}

/// Whether the server has issued the current token again with a later end, so that the token is replaced before its end
/// like a new one.
pub(crate) fn is_later_end(current: &AccessToken, again: &AccessToken) -> bool {
    current.expires().until(again.expires()) > SAME_ANSWER
}

/// When to request a token again after the server has issued the current token, with the same end, for the `times`-th time
/// in a row.
///
/// Only the server knows when it will issue another: the intervals grow, and the token's end is the latest moment.
pub(crate) fn ask_again_at(now: Moment, planned: Moment, expires: Moment, times: u32) -> Moment {
    planned.max(no_forced_before(now, times)).min(expires)
}

/// Until when even a rejected token causes no request, after the server has issued that token again.
pub(crate) fn no_forced_before(now: Moment, times: u32) -> Moment {
    now + SAME_TOKEN.step(times.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const START: Moment = Moment::from_nanos(1_000_000_000_000);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_long_lived_token_is_replaced_its_margin_before_its_end() {
        let at = |chance| START.until(refresh_at(START, START + seconds(3600), seconds(300), chance));

        assert_eq!(at(0.0), seconds(3300));
        assert_eq!(at(1.0), seconds(3270));
    }

    #[test]
    fn a_short_lived_token_is_used_for_most_of_its_life() {
        let at = |lifetime| START.until(refresh_at(START, START + lifetime, seconds(300), 1.0));

        assert_eq!(at(seconds(100)), seconds(78));
        assert_eq!(at(seconds(5)), Duration::from_millis(3900));
    }

    #[test]
    fn a_server_that_repeats_its_token_gets_a_handful_of_requests() {
        let expires = START + seconds(3600);
        let mut now = refresh_at(START, expires, seconds(300), 0.0);
        let mut requests = 0;
        while now < expires {
            requests += 1;
            let planned = refresh_at(now, expires, seconds(300), 0.0);
            now = ask_again_at(now, planned, expires, requests);
        }

        assert!(requests <= 5, "{requests} requests");
        assert_eq!(now, expires);
    }

    proptest! {
        #[test]
        fn the_schedule_is_never_past_the_end_and_never_before_half_of_the_life(
            lifetime in 1u64..40_000_000, margin in 0u64..100_000, chance in 0.0f64..=1.0,
        ) {
            let expires = START + seconds(lifetime);
            let at = refresh_at(START, expires, seconds(margin), chance);
            prop_assert!(at <= expires);
            prop_assert!(START.until(at) >= seconds(lifetime) / 2);
        }

        #[test]
        fn the_same_token_again_never_becomes_a_loop(
            lifetime in 1u64..100_000, times in 1u32..200,
        ) {
            let expires = START + seconds(lifetime);
            let at = ask_again_at(START, START, expires, times);
            let earliest = START + SAME_TOKEN.first;
            prop_assert!(at >= earliest || at == expires);
            prop_assert!(START < at && at <= expires);
        }
    }
}
