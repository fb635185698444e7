//! The retry budget of a request after 429 responses (`retry_429`).
//!
//! The budget bounds the number of retries and their total wait. The configured methods are retried, by default idempotent
//! ones (RFC 9110 §9.2.2).

use std::time::Duration;

use http::{HeaderMap, Method, Response, StatusCode};

use crate::backoff::Backoff;
use crate::config::Retry429;
use crate::http::retry_after;

/// Most that is added at random to a wait, so that requests with the same `Retry-After` do not return at once.
const JITTER: Duration = Duration::from_secs(1);
/// The waits after a 429 without `Retry-After`. The route's `max_wait` bounds them.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::MAX };

/// The retries and the waiting time that a request has left.
#[derive(Clone, Copy, Debug)]
pub struct RetryBudget {
    left: u32,
    wait_left: Duration,
    /// The number of waits without a `Retry-After` so far.
    waits_without_header: u32,
}

impl RetryBudget {
    /// The budget of the route's `retry_429`; empty for a method that is not retried.
    pub fn new(settings: &Retry429, method: &Method) -> Self {
        let left =
            if settings.attempts > 0 && settings.methods.contains(method) { settings.attempts } else { 0 };
        Self { left, wait_left: settings.max_wait, waits_without_header: 0 }
    }

    /// Whether no retry is left.
    pub const fn is_exhausted(&self) -> bool {
        self.left == 0
    }

    /// How long to wait before the request is sent again; `None` if this response goes to the caller.
    pub fn wait<B>(&mut self, response: &Response<B>) -> Option<Duration> {
        if self.is_exhausted() || response.status() != StatusCode::TOO_MANY_REQUESTS {
            return None;
        }
        self.wait_with(response.headers(), fastrand::f64())
    }

    /// `jitter` is from 0 to 1.
    fn wait_with(&mut self, headers: &HeaderMap, jitter: f64) -> Option<Duration> {
        let asked = retry_after(headers).unwrap_or_else(|| {
            self.waits_without_header += 1;
            BACKOFF.step(self.waits_without_header - 1)
        });
        // A retry before the time that the server asked for would fail: the response is passed on instead.
        let left = self.wait_left.checked_sub(asked)?;
        let wait = asked + JITTER.min(left).mul_f64(jitter);
        self.wait_left -= wait;
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

    fn settings(attempts: u32, max_wait: u64) -> Retry429 {
        let methods = vec![Method::GET, Method::PATCH];
        Retry429 { attempts, max_wait: Duration::from_secs(max_wait), methods }
    }

    fn retries(attempts: u32, max_wait: u64) -> RetryBudget {
        RetryBudget::new(&settings(attempts, max_wait), &Method::GET)
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
    fn only_the_configured_methods_are_retried() {
        let settings = settings(3, 10);
        for (method, is_retried) in
            [("GET", true), ("PATCH", true), ("POST", false), ("PUT", false), ("get", false)]
        {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(RetryBudget::new(&settings, &method).is_exhausted(), !is_retried, "{method}");
        }
    }

    #[test]
    fn only_a_429_is_retried() {
        for status in [200, 401, 408, 425, 500, 503] {
            let mut response = too_many("1");
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            assert_eq!(retries(3, 10).wait(&response), None, "{status}");
        }
        assert!(retries(3, 10).wait(&too_many("1")).is_some());
        assert_eq!(retries(0, 10).wait(&too_many("1")), None);
    }

    #[test]
    fn the_wait_is_retry_after_plus_up_to_a_second_of_jitter() {
        assert_eq!(retries(3, 10).wait_with(&asking("3"), 0.0), Some(Duration::from_secs(3)));
        assert_eq!(retries(3, 10).wait_with(&asking("3"), 1.0), Some(Duration::from_secs(4)));
        assert_eq!(retries(3, 10).wait_with(&asking("10"), 1.0), Some(Duration::from_secs(10)));
    }

    #[test]
    fn a_retry_after_beyond_the_budget_ends_the_retries_at_once() {
        assert_eq!(retries(3, 10).wait_with(&asking("11"), 0.0), None);
        assert_eq!(retries(3, 10).wait_with(&asking(&"9".repeat(30)), 0.0), None);
        let mut second = retries(3, 10);
        assert_eq!(second.wait_with(&asking("6"), 0.5), Some(Duration::from_millis(6500)));
        assert_eq!(second.wait_with(&asking("4"), 0.0), None, "3.5 s are left");
    }

    #[test]
    fn without_retry_after_waits_double_from_a_second() {
        let mut retries = retries(10, 20);
        for seconds in [1, 2, 4, 8] {
            assert_eq!(retries.wait_with(&HeaderMap::new(), 0.0), Some(Duration::from_secs(seconds)));
        }
        assert_eq!(retries.wait_with(&HeaderMap::new(), 0.0), None);
    }

    proptest! {
        #[test]
        fn retries_and_waits_stay_within_the_budget(
            attempts in 0_u32..=10,
            max_wait in 1_u64..300,
            answers in prop::collection::vec((prop::option::of(0_u64..40), 0.0..1.0_f64), 0..40),
        ) {
            let mut retries = retries(attempts, max_wait);
            let (mut sent, mut waited) = (0, Duration::ZERO);
            for (seconds, jitter) in answers {
                if retries.is_exhausted() { break; }
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
