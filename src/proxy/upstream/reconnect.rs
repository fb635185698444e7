//! A second attempt to connect after an attempt that reached no peer.

use std::time::Duration;

use super::breaker::Breaker;
use super::connect::{Connect, Connected};
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;

/// The shortest delay before the second attempt. The delay is random, and at most twice as long.
const RETRY_DELAY: Duration = Duration::from_millis(25);

/// Connects. If the first attempt reaches no peer and the breaker is closed, makes a second attempt.
pub async fn connect(destination: &dyn Connect, breaker: &Breaker) -> Result<Connected, ForwardError> {
    match destination.connect().await {
        Err(error) if may_connect_again(&error) && breaker.is_closed() => {
            tokio::time::sleep(RETRY_DELAY + RETRY_DELAY.mul_f64(fastrand::f64())).await;
            destination.connect().await
        }
        outcome => outcome,
    }
}

/// Whether a second attempt may succeed: not after a timeout, which has used up the time, nor for a prohibited address.
/// Errors of TLS or of a proxy would recur.
fn may_connect_again(error: &ForwardError) -> bool {
    use ProxyStatus::{ConnectionTimeout, DestinationIpProhibited};
    matches!(error, ForwardError::Unreachable(proxy_status, _)
        if !matches!(proxy_status, ConnectionTimeout | DestinationIpProhibited))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::clock::Clock;
    use crate::config;
    use crate::proxy::upstream::fixture;

    const REFUSED: ProxyStatus = ProxyStatus::ConnectionRefused;
    const TLS: ProxyStatus = ProxyStatus::TlsProtocolError;

    /// Connects to an upstream whose attempts to connect fail as listed, and then succeed. Returns whether there is a
    /// connection, and the number of failures that were not used up.
    async fn connected(failures: &[ProxyStatus], is_breaker_open: bool) -> (bool, usize) {
        let failures: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(failures.iter().copied().collect()));
        let rest = Arc::clone(&failures);
        let destination = fixture::destination(false, move || {
            let failure = rest.lock().unwrap().pop_front();
            let text = "x".to_owned();
            Box::pin(async move {
                match failure {
                    None => Ok(Connected { stream: Box::new(tokio::io::duplex(64).0), is_http2: false }),
                    Some(proxy_status @ TLS) => Err(ForwardError::Tls(proxy_status, text)),
                    Some(proxy_status) => Err(ForwardError::Unreachable(proxy_status, text)),
                }
            })
        });
        let second = Duration::from_secs(1);
        let settings =
            config::Breaker { failures: 1, percent: 1, window: second, open: second, open_max: second };
        let breaker = Breaker::new(Some(settings), Clock::tokio());
        if is_breaker_open {
            breaker.admit(&breaker.add_counter()).unwrap().record_error(ForwardError::Timeout, "");
        }
        let outcome = connect(&*destination.connect, &breaker).await;
        let left = failures.lock().unwrap().len();
        (outcome.is_ok(), left)
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_attempt_to_connect_is_repeated_once() {
        assert_eq!(connected(&[], false).await, (true, 0));
        assert_eq!(connected(&[REFUSED], false).await, (true, 0));
        assert_eq!(connected(&[REFUSED; 3], false).await, (false, 1));
        assert_eq!(connected(&[TLS; 2], false).await, (false, 1), "TLS would fail again");
        assert_eq!(connected(&[REFUSED; 2], true).await, (false, 1), "the breaker is open");
    }

    #[test]
    fn only_failures_to_reach_a_peer_are_tried_again() {
        let unreachable = |proxy_status| ForwardError::Unreachable(proxy_status, "x".to_owned());
        for status in [REFUSED, ProxyStatus::DnsError, ProxyStatus::DestinationIpUnroutable] {
            assert!(may_connect_again(&unreachable(status)), "{status:?}");
        }
        let tls = ForwardError::Tls(TLS, "x".to_owned());
        let proxy = ForwardError::Proxy(REFUSED, "x".to_owned());
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
