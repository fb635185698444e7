//! When a request is sent again for another reason than its token: a 429, and a connection that was not made.
//!
//! Both are bounded for a request as a whole, whatever else happens to it: so many 429s, and so long a wait for all of
//! them. Nothing that a server may have acted on is sent again, unless doing it twice is doing it once (RFC 9110 §9.2.2).

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, StatusCode};
use http_body::Body;

use super::breaker::Breaker;
use super::forward::ForwardError;
use super::pool::{Lease, Pool};
use super::upstream::Destination;
use crate::backoff::Backoff;
use crate::config::Retry429;
use crate::http::{ProxyStatus, retry_after};

/// Added at random to what was asked for: many who were told the same need not come at once.
const JITTER: Duration = Duration::from_secs(1);
/// The waits where the server does not say how long; what the route gives bounds them.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), max: Duration::MAX };
/// Before a connection is tried once more, and as much again at random.
const PAUSE: Duration = Duration::from_millis(25);

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

/// A connection; where none was made, one more attempt at it, unless the upstream is left alone meanwhile.
///
/// # Errors
///
/// [`ForwardError`] if that fails too.
pub async fn lease<B>(
    pool: &Rc<Pool<B>>,
    destination: &Destination,
    breaker: &Breaker,
) -> Result<Lease<B>, ForwardError>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    match pool.lease(destination).await {
        Err(error) if may_connect_again(&error) && breaker.is_closed() => {
            tokio::time::sleep(PAUSE + PAUSE.mul_f64(fastrand::f64())).await;
            pool.lease(destination).await
        }
        outcome => outcome,
    }
}

/// Whether nobody was reached, and soon. Time that is up has been used up; what TLS or a proxy on the way says stays
/// true, and so does where an address leads.
fn may_connect_again(error: &ForwardError) -> bool {
    match error {
        ForwardError::Unreachable { proxy_status, .. } => {
            !matches!(proxy_status, ProxyStatus::ConnectionTimeout | ProxyStatus::DestinationIpProhibited)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use http::HeaderValue;
    use http::header::RETRY_AFTER;
    use http_body_util::Empty;
    use proptest::prelude::*;

    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::proxy::connect::{Connect, Connected, Connecting};
    use crate::proxy::upstream::Upstream;

    const REFUSED: ProxyStatus = ProxyStatus::ConnectionRefused;
    const TLS: ProxyStatus = ProxyStatus::TlsProtocolError;

    /// Connections that fail as listed, and then are made.
    #[derive(Clone, Debug, Default)]
    struct Failing(Arc<Mutex<VecDeque<ProxyStatus>>>);

    impl Connect for Failing {
        fn connect(&self) -> Connecting {
            let failure = self.0.lock().unwrap().pop_front();
            Box::pin(async move {
                match failure {
                    None => Ok(Connected { stream: Box::new(tokio::io::duplex(64).0), is_http2: false }),
                    Some(proxy_status @ TLS) => Err(ForwardError::Tls { proxy_status, text: "x".to_owned() }),
                    Some(proxy_status) => {
                        Err(ForwardError::Unreachable { proxy_status, text: "x".to_owned() })
                    }
                }
            })
        }

        fn may_speak_http2(&self) -> bool {
            false
        }
    }

    /// Whether there is a connection, and how many attempts at one were left.
    async fn connected(failures: &[ProxyStatus], opens: bool) -> (bool, usize) {
        let failing = Failing(Arc::new(Mutex::new(failures.iter().copied().collect())));
        let place = || Destination {
            origin: "https://api.example.com".to_owned(),
            host: HeaderValue::from_static("api.example.com"),
            path_in_front: String::new(),
            connect: Box::new(failing.clone()),
            number: 0,
        };
        let pool: Rc<Pool<Empty<Bytes>>> =
            Pool::new(Arc::new(Upstream::written(0, place(), crate::proxy::seats::Seats::new(10))));
        let second = Duration::from_secs(1);
        let settings =
            config::Breaker { failures: 1, percent: 1, window: second, open: second, open_max: second };
        let breaker = Breaker::new(Some(settings), Clock::tokio());
        if opens {
            breaker.admit(pool.good()).unwrap().broke_off(ForwardError::Timeout, "");
        }
        let outcome = lease(&pool, &place(), &breaker).await;
        let left = failing.0.lock().unwrap().len();
        (outcome.is_ok(), left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_was_not_made_is_tried_once_more_and_no_oftener() {
        assert_eq!(connected(&[], false).await, (true, 0));
        assert_eq!(connected(&[REFUSED], false).await, (true, 0));
        assert_eq!(connected(&[REFUSED; 3], false).await, (false, 1));
        assert_eq!(connected(&[TLS; 2], false).await, (false, 1), "whom it reached will say the same");
        assert_eq!(connected(&[REFUSED; 2], true).await, (false, 1), "the breaker is open");
    }

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

    #[test]
    fn a_connection_is_tried_again_only_where_nobody_was_reached() {
        let unreachable = |proxy_status| ForwardError::Unreachable { proxy_status, text: "x".to_owned() };
        for status in [REFUSED, ProxyStatus::DnsError, ProxyStatus::DestinationIpUnroutable] {
            assert!(may_connect_again(&unreachable(status)), "{status:?}");
        }
        let tls = ForwardError::Tls { proxy_status: TLS, text: "x".to_owned() };
        let proxy = ForwardError::Proxy { proxy_status: REFUSED, text: "x".to_owned() };
        for error in [
            unreachable(ProxyStatus::ConnectionTimeout),
            unreachable(ProxyStatus::DestinationIpProhibited),
            tls,
            proxy,
            ForwardError::ConnectTimeout,
            ForwardError::Terminated("x".to_owned()),
            ForwardError::Overloaded,
        ] {
            assert!(!may_connect_again(&error), "{error}");
        }
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
