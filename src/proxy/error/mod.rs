//! Why a request was not answered by its upstream, and what its caller is told.
//!
//! Every failure of the request loop is a [`ProxyError`], and every one becomes a response here and nowhere
//! else: a status, a stable code, a sentence for a person, `Proxy-Status` (RFC 9209) and, where waiting helps,
//! `Retry-After`. It is never a 401: on the wire that is the upstream's own word.

pub mod denial;
pub mod http1;
pub mod upstream;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use thiserror::Error;

use self::denial::Denial;
use self::upstream::{ForwardError, Refused};
use crate::http::{Problem, ProxyStatus};
use crate::token::api_discovery::Undiscovered;
use crate::token::{Reason, Unavailable};

/// When it is worth while to try again where there was too much to do.
const SOON: Duration = Duration::from_secs(1);

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request has no answer of its upstream.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The caller's address is in none of the allowed networks.
    #[error("the caller's address is not allowed")]
    CallerNotAllowed,
    /// The caller's certificate has none of the names that the route asks for.
    #[error("the caller's certificate is not allowed")]
    CertificateNotAllowed,
    /// `Host` names a host that is not ours.
    #[error("the host is none of ours")]
    HostNotAllowed,
    /// A browser on another site sent it.
    #[error("a browser request from another site")]
    BrowserRequest,
    /// The field that every request must have is missing.
    #[error("a required field is missing")]
    HeaderRequired(HeaderName),
    /// No route matches.
    #[error("no route matches")]
    RouteNotFound,
    /// The route does not let it through.
    #[error("not let through: {0}")]
    RequestDenied(Denial),
    /// TRACE or CONNECT.
    #[error("the method is not supported")]
    MethodNotSupported,
    /// Malformed, or open to more than one reading.
    #[error("malformed or ambiguous: {0}")]
    BadRequest(&'static str),
    /// An `Expect` other than `100-continue`.
    #[error("an expectation that cannot be met")]
    ExpectationFailed,
    /// The request did not arrive in time.
    #[error("the request did not arrive in time")]
    RequestTimeout,
    /// The body is larger than allowed.
    #[error("the body is too large")]
    BodyTooLarge {
        /// The most that is allowed, in bytes.
        limit: u64,
    },
    /// The head is larger than allowed.
    #[error("the head is too large")]
    HeaderTooLarge,
    /// There is no usable token.
    #[error("no usable token")]
    NoToken {
        /// The credential that has none.
        credential: String,
        /// Why, and when there may be one.
        unavailable: Unavailable,
    },
    /// It is not known yet where the upstream is.
    #[error("the upstream is not discovered")]
    NotDiscovered {
        /// The credential whose issuer can say.
        credential: String,
        /// Why it has not, and when it may.
        undiscovered: Undiscovered,
    },
    /// The upstream is left alone for a while.
    #[error("the upstream's breaker is open")]
    UpstreamUnavailable {
        /// When it is worth another try.
        retry_after: Duration,
    },
    /// The upstream did not answer, or not properly.
    #[error("the upstream failed")]
    Upstream(#[from] ForwardError),
    /// The request has been here before.
    #[error("the request came back to this proxy")]
    LoopDetected,
    /// The daemon ends, and the request still waited to be sent.
    #[error("cut before it was sent")]
    Draining,
    /// There is more to do than may be done at once.
    #[error("overloaded: {0}")]
    Overloaded(Overload),
}

/// Of what there is too much.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Overload {
    /// Connections of callers.
    #[error("too many connections")]
    Connections,
    /// Connections of one address.
    #[error("too many connections of one address")]
    ConnectionsOfAddress,
    /// Requests that wait for a token.
    #[error("too many requests wait for a token")]
    TokenWaiters,
}

/// What a caller is told of an error, apart from the details.
struct Answer {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    /// RFC 9209 §2.3.
    proxy_status: ProxyStatus,
}

impl ProxyError {
    /// The stable code, as documented.
    pub fn code(&self) -> &'static str {
        self.answer().code
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.answer().status
    }

    /// What happened, for the log: with the words of the peer that caused it.
    pub fn explain(&self) -> String {
        match self {
            Self::Upstream(error) => error.to_string(),
            Self::NoToken { unavailable: Unavailable { failure: Some(failure), .. }, .. } => {
                format!("{self}: {failure}")
            }
            Self::NotDiscovered { undiscovered: Undiscovered { failure: Some(failure), .. }, .. } => {
                format!("{self}: {failure}")
            }
            _ => self.to_string(),
        }
    }

    /// The one table from failures to what a caller sees.
    fn answer(&self) -> Answer {
        use ProxyStatus::{
            DestinationNotFound, DestinationUnavailable, HttpRequestDenied, HttpRequestError,
            ProxyInternalResponse, ProxyLoopDetected,
        };
        let (status, code, title, proxy_status) = match self {
            Self::CallerNotAllowed | Self::CertificateNotAllowed => {
                (403, "caller_not_allowed", "Caller not allowed", HttpRequestDenied)
            }
            Self::HostNotAllowed => (421, "host_not_allowed", "Host not allowed", HttpRequestDenied),
            Self::BrowserRequest => (403, "browser_request", "Cross-site browser request", HttpRequestDenied),
            Self::HeaderRequired(_) => (403, "header_required", "Required header missing", HttpRequestDenied),
            Self::RouteNotFound => (404, "route_not_found", "No route", DestinationNotFound),
            Self::RequestDenied(_) => (403, "request_denied", "Request denied", HttpRequestDenied),
            Self::MethodNotSupported => {
                (405, "method_not_supported", "Method not supported", HttpRequestDenied)
            }
            Self::BadRequest(_) => (400, "bad_request", "Bad request", HttpRequestError),
            Self::ExpectationFailed => (417, "expectation_failed", "Expectation failed", HttpRequestError),
            Self::RequestTimeout => (408, "request_timeout", "Request timeout", HttpRequestError),
            Self::BodyTooLarge { .. } => (413, "body_too_large", "Body too large", HttpRequestError),
            Self::HeaderTooLarge => (431, "header_too_large", "Header too large", HttpRequestError),
            Self::NoToken { unavailable, .. } => return no_token(unavailable.reason),
            Self::NotDiscovered { .. } => {
                (503, "upstream_unavailable", "Upstream not discovered", DestinationNotFound)
            }
            Self::UpstreamUnavailable { .. } => {
                (503, "upstream_unavailable", "Upstream unavailable", DestinationUnavailable)
            }
            Self::Upstream(error) => return upstream(error),
            Self::LoopDetected => (508, "loop_detected", "Loop detected", ProxyLoopDetected),
            Self::Draining => (503, "draining", "Draining", ProxyInternalResponse),
            Self::Overloaded(_) => (503, "overloaded", "Overloaded", ProxyInternalResponse),
        };
        answer(status, code, title, proxy_status)
    }

    /// How long waiting may help, where it may.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoToken { unavailable, .. } => unavailable.retry_after,
            Self::NotDiscovered { undiscovered, .. } => Some(undiscovered.retry_after),
            Self::UpstreamUnavailable { retry_after } => Some(*retry_after),
            Self::Draining
            | Self::Overloaded(_)
            | Self::Upstream(ForwardError::NoDescriptor | ForwardError::Overloaded) => Some(SOON),
            _ => None,
        }
    }

    /// A sentence for the person who reads it: what happened and what to do. Holds no secret and no address.
    fn detail(&self) -> String {
        match self {
            Self::CallerNotAllowed => {
                "Your address is in none of the networks in server.allow_from.".to_owned()
            }
            Self::CertificateNotAllowed => {
                "No name of your certificate is in the route's `callers`. This route asks for one.".to_owned()
            }
            Self::HostNotAllowed => {
                "The Host of the request is not in server.hosts. Call the proxy by one of its own names."
                    .to_owned()
            }
            Self::BrowserRequest => {
                "A browser sent this for a page of another site, and no Origin of the request is in server.origins."
                    .to_owned()
            }
            Self::HeaderRequired(name) => format!("Every request must have the header field {name}."),
            Self::RouteNotFound => "No route of the configuration matches this host and path.".to_owned(),
            Self::RequestDenied(denial) => denial.detail().to_owned(),
            Self::MethodNotSupported => "TRACE and CONNECT are not forwarded.".to_owned(),
            Self::BadRequest(why) => format!("Nothing was forwarded: {why}."),
            Self::ExpectationFailed => "The only expectation that can be met is 100-continue.".to_owned(),
            Self::RequestTimeout => {
                "The request did not arrive in time, or its body stopped coming or came too slowly."
                    .to_owned()
            }
            Self::BodyTooLarge { limit } => format!("The body is larger than {limit} bytes."),
            Self::HeaderTooLarge => "The request line and the header fields are too large.".to_owned(),
            Self::NoToken { credential, unavailable } => no_token_detail(credential, unavailable),
            Self::NotDiscovered { credential, undiscovered } => {
                not_discovered_detail(credential, undiscovered)
            }
            Self::UpstreamUnavailable { .. } => {
                "Most of what the upstream was sent of late has failed, so nothing is sent to it for a while. Try again."
                    .to_owned()
            }
            Self::Upstream(error) => error.detail(),
            Self::Draining => {
                "The proxy ends, and the request was still waiting to be sent. Nothing was. Try again.".to_owned()
            }
            Self::Overloaded(overload) => {
                format!("The proxy has as much to do as it may: {overload}. Try again.")
            }
            Self::LoopDetected => "The route leads back to this proxy: see its upstream.".to_owned(),
        }
    }

    /// The response for the caller. Over HTTP/1 it closes the connection, so that a body which was not read
    /// cannot be taken for the next request.
    pub fn response(&self, version: Version) -> Response<Bytes> {
        let Answer { status, code, title, proxy_status } = self.answer();
        let mut response =
            Problem::new(status, code, title, self.detail()).after(self.retry_after()).response();
        let headers = response.headers_mut();
        if let Ok(value) = HeaderValue::try_from(format!("bearerd; error={}", proxy_status.as_str())) {
            headers.insert(PROXY_STATUS, value);
        }
        if version < Version::HTTP_2 {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn answer(status: u16, code: &'static str, title: &'static str, proxy_status: ProxyStatus) -> Answer {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    Answer { status, code, title, proxy_status }
}

fn no_token(reason: Reason) -> Answer {
    let title = match reason {
        Reason::WaitingForFirstToken => "Waiting for the first token",
        Reason::EndpointUnavailable => "Token endpoint unavailable",
        Reason::EndpointRateLimited => "Token endpoint rate limited",
        Reason::QuotaExhausted => "Token quota exhausted",
        Reason::ClientRejected => "OAuth client rejected",
        Reason::ReauthorizationRequired => "Authorization required again",
        Reason::RotationLimit => "Rotation limit reached",
        Reason::ScopeMissing => "Scope missing",
    };
    answer(503, reason.code(), title, ProxyStatus::ProxyInternalResponse)
}

fn upstream(error: &ForwardError) -> Answer {
    let (status, code, title) = match error {
        ForwardError::Unreachable { .. } | ForwardError::Proxy { .. } | ForwardError::ConnectTimeout => {
            (502, "upstream_unreachable", "Upstream unreachable")
        }
        ForwardError::Tls { .. } => (502, "upstream_tls", "Upstream TLS failed"),
        ForwardError::Terminated(_) | ForwardError::Protocol(_) => {
            (502, "upstream_protocol", "Upstream protocol error")
        }
        ForwardError::Timeout => (504, "upstream_timeout", "Upstream timeout"),
        ForwardError::NoDescriptor | ForwardError::Overloaded => (503, "overloaded", "Overloaded"),
    };
    answer(status, code, title, error.proxy_status())
}

fn no_token_detail(credential: &str, unavailable: &Unavailable) -> String {
    let what = match unavailable.reason {
        Reason::WaitingForFirstToken => "has no token yet: the first one has been asked for. Try again.",
        Reason::EndpointUnavailable => {
            "has no usable token: the token endpoint does not issue one. Try again."
        }
        Reason::EndpointRateLimited => {
            "has no usable token: the token endpoint asked to be left alone for a while. Try again later."
        }
        Reason::QuotaExhausted => {
            "has no usable token, and its quota of token requests is used up. Try again later, or raise `quota`."
        }
        Reason::ClientRejected => {
            "has no usable token: the authorization server refuses the client. Check client_id, client_secret \
             and client_auth with the provider."
        }
        Reason::ReauthorizationRequired => {
            "has no usable token: the authorization server takes its refresh token no more. Someone must \
             authorize the client again:"
        }
        Reason::RotationLimit => {
            "has no usable token: its refresh token has been replaced max_rotations times. Someone must \
             authorize the client again:"
        }
        Reason::ScopeMissing => {
            "has no usable token: the authorization server grants less than require_scopes. Grant the client \
             those scopes, or require fewer."
        }
    };
    let how = match unavailable.reason {
        Reason::ReauthorizationRequired | Reason::RotationLimit => {
            format!(" `bearerd login {credential}`, or a new refresh_token where that is configured.")
        }
        _ => String::new(),
    };
    match &unavailable.failure {
        Some(failure) => format!("The credential `{credential}` {what}{how} Last: {}.", failure.outcome()),
        None => format!("The credential `{credential}` {what}{how}"),
    }
}

fn not_discovered_detail(credential: &str, undiscovered: &Undiscovered) -> String {
    let what = "is not known yet: the route has upstream = \"discover\", and its issuer has not said. Try again, or \
                write the API's address as `upstream`.";
    match &undiscovered.failure {
        Some(failure) => {
            format!("Where the API of the credential `{credential}` is {what} Last: {}.", failure.outcome())
        }
        None => format!("Where the API of the credential `{credential}` is {what}"),
    }
}

impl From<Refused> for ProxyError {
    fn from(refused: Refused) -> Self {
        Self::UpstreamUnavailable { retry_after: refused.retry_after }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::token::api_discovery::AddressRefusal;

    fn no_token_error(reason: Reason, retry_after: Option<u64>) -> ProxyError {
        ProxyError::NoToken {
            credential: "cxone".into(),
            unavailable: Unavailable {
                reason,
                retry_after: retry_after.map(Duration::from_secs),
                failure: None,
            },
        }
    }

    fn refused() -> ForwardError {
        ForwardError::Unreachable { proxy_status: ProxyStatus::ConnectionRefused, text: "refused".to_owned() }
    }

    fn not_discovered(refusal: Option<AddressRefusal>) -> ProxyError {
        let failure = refusal.map(|refusal| Arc::new(refusal.into()));
        let undiscovered = Undiscovered { retry_after: Duration::from_secs(1), failure };
        ProxyError::NotDiscovered { credential: "cxone".into(), undiscovered }
    }

    fn by_proxy(proxy_status: ProxyStatus) -> ProxyError {
        ForwardError::Proxy { proxy_status, text: "x".to_owned() }.into()
    }

    fn handshake_failed() -> ForwardError {
        ForwardError::Tls { proxy_status: ProxyStatus::TlsCertificateError, text: "expired".to_owned() }
    }

    /// Every failure, and what a caller sees of it.
    #[test]
    fn every_failure_has_its_documented_answer() {
        let table: Vec<(ProxyError, u16, &str)> = vec![
            (ProxyError::CallerNotAllowed, 403, "caller_not_allowed"),
            (ProxyError::CertificateNotAllowed, 403, "caller_not_allowed"),
            (ProxyError::HostNotAllowed, 421, "host_not_allowed"),
            (ProxyError::BrowserRequest, 403, "browser_request"),
            (ProxyError::HeaderRequired(HeaderName::from_static("x-a")), 403, "header_required"),
            (ProxyError::RouteNotFound, 404, "route_not_found"),
            (ProxyError::RequestDenied(Denial::Denied), 403, "request_denied"),
            (ProxyError::MethodNotSupported, 405, "method_not_supported"),
            (ProxyError::BadRequest("x"), 400, "bad_request"),
            (ProxyError::ExpectationFailed, 417, "expectation_failed"),
            (ProxyError::RequestTimeout, 408, "request_timeout"),
            (ProxyError::BodyTooLarge { limit: 1 }, 413, "body_too_large"),
            (ProxyError::HeaderTooLarge, 431, "header_too_large"),
            (no_token_error(Reason::WaitingForFirstToken, Some(1)), 503, "waiting_for_first_token"),
            (no_token_error(Reason::EndpointUnavailable, Some(1)), 503, "token_endpoint_unavailable"),
            (no_token_error(Reason::EndpointRateLimited, Some(7)), 503, "token_endpoint_rate_limited"),
            (no_token_error(Reason::QuotaExhausted, Some(7)), 503, "token_quota_exhausted"),
            (no_token_error(Reason::ClientRejected, None), 503, "client_rejected"),
            (no_token_error(Reason::ReauthorizationRequired, None), 503, "reauthorization_required"),
            (no_token_error(Reason::RotationLimit, None), 503, "rotation_limit"),
            (no_token_error(Reason::ScopeMissing, None), 503, "scope_missing"),
            (not_discovered(None), 503, "upstream_unavailable"),
            (not_discovered(Some(AddressRefusal::OtherDomain)), 503, "upstream_unavailable"),
            (refused().into(), 502, "upstream_unreachable"),
            (ForwardError::ConnectTimeout.into(), 502, "upstream_unreachable"),
            (by_proxy(ProxyStatus::HttpRequestDenied), 502, "upstream_unreachable"),
            (by_proxy(ProxyStatus::ConnectionTimeout), 502, "upstream_unreachable"),
            (handshake_failed().into(), 502, "upstream_tls"),
            (ForwardError::Terminated("x".into()).into(), 502, "upstream_protocol"),
            (ForwardError::Protocol("x".into()).into(), 502, "upstream_protocol"),
            (ForwardError::Timeout.into(), 504, "upstream_timeout"),
            (ForwardError::Overloaded.into(), 503, "overloaded"),
            (ProxyError::UpstreamUnavailable { retry_after: Duration::ZERO }, 503, "upstream_unavailable"),
            (ProxyError::LoopDetected, 508, "loop_detected"),
            (ProxyError::Draining, 503, "draining"),
            (ProxyError::Overloaded(Overload::Connections), 503, "overloaded"),
            (ProxyError::Overloaded(Overload::ConnectionsOfAddress), 503, "overloaded"),
            (ProxyError::Overloaded(Overload::TokenWaiters), 503, "overloaded"),
            (ForwardError::NoDescriptor.into(), 503, "overloaded"),
        ];
        for (error, status, code) in table {
            let response = error.response(Version::HTTP_11);
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(response.status(), status, "{error:?}");
            assert_eq!((body["code"].as_str(), body["status"].as_u64()), (Some(code), Some(status.into())));
            assert_eq!(body["type"], format!("urn:problem-type:bearerd:{code}"));
            assert!(body["title"].is_string() && body["detail"].as_str().unwrap().ends_with('.'), "{body}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["connection"], "close");
            assert!(response.headers()["proxy-status"].to_str().unwrap().starts_with("bearerd; error="));
            assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{error:?}");
        }
    }

    #[test]
    fn over_http_2_a_refusal_ends_its_stream_alone() {
        assert!(!ProxyError::RouteNotFound.response(Version::HTTP_2).headers().contains_key(CONNECTION));
    }
}
