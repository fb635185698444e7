//! The states of a client connection, by protocol, and how long each may last.
//!
//! A [`Protocol`] is a small value without a clock: [`super::state::ClientConnection`] replaces it at each event and
//! notes the time. The worker's sweep compares that time with [`Protocol::deadline`].

use std::time::Duration;

use crate::config::Limits;

/// How long the last response and the rest of its request may take once a connection is to close.
pub const LINGERING_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection stays open after accept or after a response: the next request may be on its way already, and
/// the client of a closed connection would not learn whether the request was processed.
const NEXT_REQUEST_GRACE: Duration = Duration::from_secs(1);

/// How long an HTTP/1 connection past `connection_age` is idle before it is closed.
const EXPIRED_IDLE_TIMEOUT: Duration = Duration::from_secs(2);

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TLS is being negotiated.
    Handshake,
    /// Accepted, and TLS negotiated; no byte of HTTP has arrived.
    Silent,
    /// The bytes so far may belong to either version of HTTP.
    FirstBytes,
    /// HTTP/1.0 or HTTP/1.1.
    Http1(Http1),
    /// HTTP/2.
    Http2(Http2),
    /// Everything is written; what the client still sends is read and discarded, so that it can read the response.
    Lingering,
}

/// The state of an HTTP/1 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http1 {
    /// A request's head is arriving.
    Head,
    /// This number of requests is being answered: 0 while the last response is not flushed yet.
    Serving(u32),
    /// Between two requests.
    Idle,
    /// Between two requests, without a buffer of hyper's.
    Parked,
}

/// The state of an HTTP/2 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Http2 {
    /// There has been no request.
    Opening,
    /// This number of requests is being answered.
    Serving(u32),
    /// Between requests.
    Idle,
}

/// How a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Once the requests in flight are answered.
    Gracefully,
    /// Now: a request's head did not arrive in time.
    HeadTimeout,
    /// Now, by a reset: the client read nothing for too long.
    WriteTimeout,
    /// Now: the client has left.
    ClientLeft,
    /// Now, by a GOAWAY (`ENHANCE_YOUR_CALM`): the client reset too many streams.
    TooManyResets,
    /// Now.
    Immediately,
    /// Now, as everything ends; requests not yet sent upstream are answered first.
    Cut,
}

impl Protocol {
    /// How long the connection may stay in this state, and how it ends then; `None` while requests are answered.
    /// `is_ending` is whether the connection has been asked to end gracefully.
    pub fn deadline(self, limits: &Limits, is_ending: bool) -> Option<(Duration, End)> {
        Some(match self {
            Self::Handshake if is_ending => (limits.tls_timeout.min(NEXT_REQUEST_GRACE), End::Immediately),
            Self::Handshake => (limits.tls_timeout, End::Immediately),
            Self::Silent if is_ending => (limits.header_timeout.min(NEXT_REQUEST_GRACE), End::Immediately),
            Self::Silent | Self::FirstBytes | Self::Http1(Http1::Head) => {
                (limits.header_timeout, End::HeadTimeout)
            }
            Self::Http1(Http1::Serving(_)) | Self::Http2(Http2::Serving(_)) => return None,
            // Over HTTP/2 the client may open the window for the last response late.
            Self::Http1(_) | Self::Http2(_) if is_ending => (LINGERING_CLOSE_TIMEOUT, End::Immediately),
            Self::Http1(Http1::Idle | Http1::Parked) => (limits.idle_timeout, End::Immediately),
            Self::Http2(Http2::Opening) => (limits.header_timeout, End::Gracefully),
            Self::Http2(Http2::Idle) => (limits.idle_timeout, End::Gracefully),
            Self::Lingering => (LINGERING_CLOSE_TIMEOUT, End::Immediately),
        })
    }

    /// Whether a connection past `connection_age` may end gracefully in this state, which has lasted so long.
    pub fn may_expire(self, lasted: Duration) -> bool {
        matches!(self, Self::Http2(_)) || (self.is_idle() && lasted >= EXPIRED_IDLE_TIMEOUT)
    }

    /// Whether the connection's task has to close or park the connection, whose state has lasted so long.
    pub fn is_due(self, lasted: Duration, is_ending: bool) -> bool {
        if is_ending { self.is_idle() } else { self == Self::Http1(Http1::Idle) && self.is_quiet(lasted) }
    }

    /// Whether the connection can be closed without losing a request, as far as the proxy can know.
    pub fn is_quiet(self, lasted: Duration) -> bool {
        self.is_idle() && lasted >= NEXT_REQUEST_GRACE
    }

    /// Whether the connection is between two requests.
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Http1(Http1::Idle | Http1::Parked) | Self::Http2(Http2::Idle))
    }

    /// The state when a request's head is complete.
    #[must_use]
    pub const fn request_begun(self) -> Self {
        match self {
            Self::Http1(Http1::Serving(requests)) => Self::Http1(Http1::Serving(requests + 1)),
            Self::Http2(Http2::Serving(requests)) => Self::Http2(Http2::Serving(requests + 1)),
            Self::Http2(Http2::Opening | Http2::Idle) => Self::Http2(Http2::Serving(1)),
            _ => Self::Http1(Http1::Serving(1)),
        }
    }

    /// The state when a response is handed over or given up. An HTTP/1 response is under way until it is flushed.
    #[must_use]
    pub const fn request_ended(self) -> Self {
        match self {
            Self::Http1(Http1::Serving(requests)) => Self::Http1(Http1::Serving(requests.saturating_sub(1))),
            Self::Http2(Http2::Serving(0 | 1)) => Self::Http2(Http2::Idle),
            Self::Http2(Http2::Serving(requests)) => Self::Http2(Http2::Serving(requests - 1)),
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;

    const SECOND: Duration = Duration::from_secs(1);
    const EVERY: [Protocol; 11] = [
        Protocol::Handshake,
        Protocol::Silent,
        Protocol::FirstBytes,
        Protocol::Http1(Http1::Head),
        Protocol::Http1(Http1::Serving(1)),
        Protocol::Http1(Http1::Idle),
        Protocol::Http1(Http1::Parked),
        Protocol::Http2(Http2::Opening),
        Protocol::Http2(Http2::Serving(1)),
        Protocol::Http2(Http2::Idle),
        Protocol::Lingering,
    ];

    fn limits() -> Limits {
        let lines = "header_timeout = \"10s\"\nidle_timeout = \"75s\"";
        let mut limits = fixture::config(&format!("[server.limits]\n{lines}"), "", "x").server.limits;
        limits.tls_timeout = 8 * SECOND;
        limits
    }

    /// The deadline of each state in seconds.
    fn deadlines(limits: &Limits, is_ending: bool) -> [Option<(u64, End)>; 11] {
        EVERY.map(|state| state.deadline(limits, is_ending).map(|(allowed, end)| (allowed.as_secs(), end)))
    }

    #[test]
    fn every_state_has_its_deadline_and_its_way_to_end() {
        let expected = [
            Some((8, End::Immediately)),
            Some((10, End::HeadTimeout)),
            Some((10, End::HeadTimeout)),
            Some((10, End::HeadTimeout)),
            None,
            Some((75, End::Immediately)),
            Some((75, End::Immediately)),
            Some((10, End::Gracefully)),
            None,
            Some((75, End::Gracefully)),
            Some((5, End::Immediately)),
        ];

        assert_eq!(deadlines(&limits(), false), expected);
    }

    #[test]
    fn a_connection_that_is_ending_has_a_moment_to_begin_and_five_seconds_to_close() {
        let expected = [
            Some((1, End::Immediately)),
            Some((1, End::Immediately)),
            // A head that has begun may still be completed.
            Some((10, End::HeadTimeout)),
            Some((10, End::HeadTimeout)),
            None,
            Some((5, End::Immediately)),
            Some((5, End::Immediately)),
            Some((5, End::Immediately)),
            None,
            Some((5, End::Immediately)),
            Some((5, End::Immediately)),
        ];

        assert_eq!(deadlines(&limits(), true), expected);
    }

    #[test]
    fn an_ending_connection_has_no_more_time_than_a_shorter_timeout_gives() {
        let mut limits = limits();
        (limits.tls_timeout, limits.header_timeout) = (SECOND / 10, SECOND / 5);

        assert_eq!(Protocol::Handshake.deadline(&limits, true), Some((SECOND / 10, End::Immediately)));
        assert_eq!(Protocol::Silent.deadline(&limits, true), Some((SECOND / 5, End::Immediately)));
    }

    /// The states for which a question is answered with yes.
    fn which(question: impl Fn(Protocol) -> bool) -> Vec<Protocol> {
        EVERY.into_iter().filter(|state| question(*state)).collect()
    }

    #[test]
    fn a_connection_expires_at_any_time_over_http2_and_only_idle_over_http1() {
        let http2 = [Http2::Opening, Http2::Serving(1), Http2::Idle].map(Protocol::Http2);
        let idle = [Http1::Idle, Http1::Parked].map(Protocol::Http1);

        assert_eq!(which(|state| state.may_expire(Duration::from_millis(1900))), http2);
        assert_eq!(which(|state| state.may_expire(2 * SECOND)), [&idle[..], &http2].concat());
    }

    #[test]
    fn an_idle_connection_is_woken_to_be_parked_or_to_be_closed() {
        let idle =
            [Protocol::Http1(Http1::Idle), Protocol::Http1(Http1::Parked), Protocol::Http2(Http2::Idle)];

        assert_eq!(which(|state| state.is_due(SECOND / 2, false)), []);
        assert_eq!(which(|state| state.is_due(SECOND, false)), [Protocol::Http1(Http1::Idle)]);
        assert_eq!(which(|state| state.is_due(Duration::ZERO, true)), idle);
        assert_eq!(which(|state| state.is_quiet(SECOND)), idle);
    }

    #[test]
    fn requests_are_counted_until_the_last_one_has_ended() {
        let http2 = Protocol::Http2(Http2::Opening).request_begun().request_begun();
        assert_eq!(http2, Protocol::Http2(Http2::Serving(2)));
        assert_eq!(http2.request_ended(), Protocol::Http2(Http2::Serving(1)));
        assert_eq!(http2.request_ended().request_ended(), Protocol::Http2(Http2::Idle));

        // An HTTP/1 response is under way until it is flushed.
        let http1 = Protocol::Http1(Http1::Head).request_begun();
        assert_eq!(http1.request_ended(), Protocol::Http1(Http1::Serving(0)));
        assert_eq!(http1.request_ended().request_begun(), http1);
        assert_eq!(Protocol::Lingering.request_ended(), Protocol::Lingering);
    }
}
