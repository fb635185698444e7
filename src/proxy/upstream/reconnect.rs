//! One more attempt to connect where the first one reached nobody.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body::Body;

use super::Destination;
use super::breaker::Breaker;
use super::pool::{Lease, Pool};
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;

/// Before a connection is tried once more, and as much again at random.
const PAUSE: Duration = Duration::from_millis(25);

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
    use http_body_util::Empty;

    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::proxy::upstream::Upstream;
    use crate::proxy::upstream::connect::{Connect, Connected, Connecting};

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
            Pool::new(Arc::new(Upstream::written(0, place(), crate::proxy::limits::slots::Seats::new(10))));
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
}
