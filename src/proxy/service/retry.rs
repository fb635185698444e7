//! Retries of a request that the upstream answered with 429, as the route's `retry_429` allows.
//!
//! Attempts and the total wait are bounded for the request as a whole. Only idempotent methods are sent again (RFC 9110
//! §9.2.2).

use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode};

use crate::backoff::Backoff;
use crate::config::Retry429;
use crate::http::retry_after;

/// Added at random to what was asked for: many who were told the same need not come at once.
const JITTER: Duration = Duration::from_secs(1);
/// The waits where the server does not say how long; what the route gives bounds them.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::MAX };

/// What is left to a request of sending it again after a 429.
#[derive(Clone, Copy, Debug)]
pub struct Retries {
    left: u32,
    patience: Duration,
    /// How many waits the server did not name.
    unnamed: u32,
}

impl Retries {
    /// All that the route gives, where the method may be sent twice.
    pub fn new(settings: &Retry429, method: &Method) -> Self {
        let left = if method.is_idempotent() { settings.attempts } else { 0 };
        Self { left, patience: settings.max_wait, unnamed: 0 }
    }

    /// Whether none is left.
    pub const fn are_over(&self) -> bool {
        self.left == 0
    }

    /// How long to wait before the request is sent again; `None` if this is the answer.
    pub fn wait<B>(&mut self, response: &Response<B>) -> Option<Duration> {
        if self.are_over() || response.status() != StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        self.wait_with(response.headers(), fastrand::f64())
    }

    /// `jitter` is from 0 to 1.
    fn wait_with(&mut self, headers: &HeaderMap, jitter: f64) -> Option<Duration> {
        let asked = retry_after(headers).unwrap_or_else(|| {
            self.unnamed += 1;
            BACKOFF.step(self.unnamed - 1)
        });
        // Who comes sooner than asked has not waited: so not at all, rather than for less.
        let left = self.patience.checked_sub(asked)?;
        let wait = asked + JITTER.min(left).mul_f64(jitter);
        self.patience -= wait;
        self.left -= 1;
        Some(wait)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::RETRY_AFTER;
    use proptest::prelude::*;

    use super::*;

    fn retries(attempts: u32, max_wait: u64) -> Retries {
        Retries::new(&Retry429 { attempts, max_wait: Duration::from_secs(max_wait) }, &Method::GET)
    }

    fn asking(seconds: &str) -> HeaderMap {
        HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(seconds).unwrap())])
    }

    fn too_many(seconds: &str) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        *response.headers_mut() = asking(seconds);
        response
    }

    #[test]
    fn only_what_may_be_done_twice_is_sent_again() {
        let settings = Retry429 { attempts: 3, max_wait: Duration::from_secs(10) };
        for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"] {
            assert!(!Retries::new(&settings, &Method::from_bytes(method.as_bytes()).unwrap()).are_over());
        }
        for method in ["POST", "PATCH", "LOCK", "get"] {
            assert!(Retries::new(&settings, &Method::from_bytes(method.as_bytes()).unwrap()).are_over());
        }
    }

    #[test]
    fn a_429_and_nothing_else_is_a_reason() {
        for status in [200, 401, 408, 425, 500, 503] {
            let mut response = too_many("1");
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            assert_eq!(retries(3, 10).wait(&response), None, "{status}");
        }
        assert!(retries(3, 10).wait(&too_many("1")).is_some());
        assert_eq!(retries(0, 10).wait(&too_many("1")), None);
    }

    #[test]
    fn what_the_server_asks_for_is_waited_for_and_up_to_a_second_more() {
        assert_eq!(retries(3, 10).wait_with(&asking("3"), 0.0), Some(Duration::from_secs(3)));
        assert_eq!(retries(3, 10).wait_with(&asking("3"), 1.0), Some(Duration::from_secs(4)));
        assert_eq!(retries(3, 10).wait_with(&asking("10"), 1.0), Some(Duration::from_secs(10)));
    }

    #[test]
    fn who_is_asked_to_wait_too_long_gives_up_at_once() {
        assert_eq!(retries(3, 10).wait_with(&asking("11"), 0.0), None);
        assert_eq!(retries(3, 10).wait_with(&asking(&"9".repeat(30)), 0.0), None);
        let mut second = retries(3, 10);
        assert_eq!(second.wait_with(&asking("6"), 0.5), Some(Duration::from_millis(6500)));
        assert_eq!(second.wait_with(&asking("4"), 0.0), None, "3.5 s are left");
    }

    #[test]
    fn without_a_word_of_the_server_waits_double_from_a_second() {
        let mut retries = retries(10, 20);
        for seconds in [1, 2, 4, 8] {
            assert_eq!(retries.wait_with(&HeaderMap::new(), 0.0), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(retries.wait_with(&HeaderMap::new(), 0.0), None);
    }

    proptest! {
        #[test]
        fn neither_attempts_nor_waits_exceed_what_the_route_gives(
            attempts in 0_u32..=10,
            max_wait in 1_u64..300,
            answers in prop::collection::vec((prop::option::of(0_u64..40), 0.0..1.0_f64), 0..40),
        ) {
            let mut retries = retries(attempts, max_wait);
            let (mut sent, mut waited) = (0, Duration::ZERO);
            for (seconds, jitter) in answers {
                if retries.are_over() { break; }
                let headers = seconds.map_or_else(HeaderMap::new, |seconds| asking(&seconds.to_string()));
                let Some(wait) = retries.wait_with(&headers, jitter) else { break };
                prop_assert!(seconds.is_none_or(|seconds| wait >= Duration::from_secs(seconds)));
                sent += 1;
                waited += wait;
            }
            prop_assert!(sent <= attempts && waited <= Duration::from_secs(max_wait));
        }
    }
}
