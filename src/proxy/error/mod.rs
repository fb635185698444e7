//! Failures of the request loop, and the responses that report them to callers.
//!
//! A failure becomes a response only here: a status, a stable code, a sentence for a person, `Proxy-Status` (RFC 9209)
//! and, if waiting helps, `Retry-After`. The status is never 401: a 401 always comes from the upstream.

pub mod denial;
pub mod http1;
mod no_token;
pub mod upstream;

use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderName, HeaderValue, Response, StatusCode, Version};
use thiserror::Error;

use self::denial::Denial;
use self::upstream::ForwardError;
use crate::http::{Problem, ProxyStatus};
use crate::token::Unavailable;
use crate::token::api_discovery::Undiscovered;

/// The `Retry-After` of an overload and of a drain.
const OVERLOAD_RETRY_AFTER: Duration = Duration::from_secs(1);
const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// Why a request gets no response of its upstream.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// No network in `allow_from` has the caller's address.
    #[error("the caller's address is not allowed")]
    CallerNotAllowed,
    /// The route requires other callers.
    #[error("the caller is not allowed on the route")]
    CallerNotAdmitted,
    /// Callers are configured, and the request is of none of them.
    #[error("the caller is none of the configured ones")]
    CallerUnknown,
    /// `Host` names no host of the proxy.
    #[error("the host is none of ours")]
    HostNotAllowed,
    /// A browser sent the request for a page of another site.
    #[error("a browser request from another site")]
    BrowserRequest,
    /// The request lacks the field that every request must have.
    #[error("a required field is missing")]
    HeaderRequired(HeaderName),
    /// No route matches.
    #[error("no route matches")]
    RouteNotFound,
    /// The rules of the route refuse the request.
    #[error("not let through: {0}")]
    RequestDenied(Denial),
    /// The method is TRACE, TRACK or CONNECT.
    #[error("the method is not supported")]
    MethodNotSupported,
    /// The request is malformed or ambiguous.
    #[error("malformed or ambiguous: {0}")]
    BadRequest(&'static str),
    /// The request has an `Expect` other than `100-continue`.
    #[error("an expectation that cannot be met")]
    ExpectationFailed,
    /// The request did not arrive in time.
    #[error("the request did not arrive in time")]
    RequestTimeout,
    /// The body exceeds its limit.
    #[error("the body is too large")]
    BodyTooLarge {
        /// In bytes.
        limit: u64,
    },
    /// The head exceeds its limit.
    #[error("the head is too large")]
    HeaderTooLarge,
    /// The credential has no usable token.
    #[error("no usable token")]
    NoToken {
        /// The name of the credential.
        credential: String,
        /// Why, and when there may be a token.
        unavailable: Unavailable,
    },
    /// The upstream's address is not discovered yet.
    #[error("the upstream is not discovered")]
    NotDiscovered {
        /// The name of the credential whose issuer publishes the address.
        credential: String,
        /// Why, and when there may be an address.
        undiscovered: Undiscovered,
    },
    /// The requests that the API allows the credential are used up.
    #[error("the quota of the api is used up")]
    ApiQuotaExhausted {
        /// The name of the credential.
        credential: String,
        /// The time until the caller's turn.
        retry_after: Duration,
    },
    /// The requests that the caller may make are used up.
    #[error("the quota of the caller is used up")]
    CallerQuotaExhausted {
        /// The name of the caller.
        caller: String,
        /// The time until the caller's turn.
        retry_after: Duration,
    },
    /// The circuit breaker of the upstream is open.
    #[error("the upstream's breaker is open")]
    UpstreamUnavailable {
        /// The time until the breaker may admit a request.
        retry_after: Duration,
    },
    /// The upstream sent no valid response.
    #[error("the upstream failed")]
    Upstream(#[from] ForwardError),
    /// The proxy has forwarded the request before.
    #[error("the request came back to this proxy")]
    LoopDetected,
    /// The drain ended before the request was sent.
    #[error("cut before it was sent")]
    Draining,
    /// Nothing can be written to the audit trail.
    #[error("nothing can be written to the audit trail")]
    AuditUnavailable,
    /// The proxy has reached a limit.
    #[error("overloaded: {0}")]
    Overloaded(Overload),
}

/// The limit that the proxy has reached.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Overload {
    /// Client connections in all.
    #[error("too many client connections")]
    Connections,
    /// Client connections of one address.
    #[error("too many client connections of one address")]
    ConnectionsOfAddress,
    /// Requests that wait for a token.
    #[error("too many requests wait for a token")]
    TokenWaiters,
}

/// The code of a failed TLS handshake with a caller, which gets no response.
pub const TLS_HANDSHAKE_FAILED: &str = "tls_handshake_failed";

/// The response to an error, without the detail.
struct Answer {
    status: StatusCode,
    code: &'static str,
    title: &'static str,
    proxy_status: ProxyStatus,
}

impl ProxyError {
    /// The codes of all errors.
    pub const CODES: &'static [&'static str] = &[
        "api_quota_exhausted",
        "audit_unavailable",
        "bad_request",
        "body_too_large",
        "browser_request",
        "caller_not_allowed",
        "caller_quota_exhausted",
        "caller_unknown",
        "client_rejected",
        "draining",
        "expectation_failed",
        "header_required",
        "header_too_large",
        "host_not_allowed",
        "loop_detected",
        "method_not_supported",
        "overloaded",
        "reauthorization_required",
        "request_denied",
        "request_timeout",
        "rotation_limit",
        "route_not_found",
        "scope_missing",
        "shared_store_unavailable",
        "token_endpoint_rate_limited",
        "token_endpoint_unavailable",
        "token_quota_exhausted",
        "upstream_protocol",
        "upstream_timeout",
        "upstream_tls",
        "upstream_unavailable",
        "upstream_unreachable",
        "waiting_for_first_token",
    ];

    /// The stable code, as documented.
    pub fn code(&self) -> &'static str {
        self.answer().code
    }

    /// The response's status.
    pub fn status(&self) -> StatusCode {
        self.answer().status
    }

    /// The error for the log, with the texts of the peer that caused the error.
    pub fn explain(&self) -> String {
        let failure = match self {
            Self::Upstream(error) => return error.to_string(),
            Self::NoToken { unavailable, .. } => unavailable.failure.as_ref().map(ToString::to_string),
            Self::NotDiscovered { undiscovered, .. } => {
                undiscovered.failure.as_ref().map(ToString::to_string)
            }
            _ => None,
        };
        failure.map_or_else(|| self.to_string(), |failure| format!("{self}: {failure}"))
    }

    /// The one table from errors to responses.
    fn answer(&self) -> Answer {
        use ProxyStatus::{
            DestinationNotFound, DestinationUnavailable, HttpRequestDenied, HttpRequestError,
            ProxyInternalResponse, ProxyLoopDetected,
        };
        let (status, code, title, proxy_status) = match self {
            Self::CallerNotAllowed | Self::CallerNotAdmitted => {
                (403, "caller_not_allowed", "Caller not allowed", HttpRequestDenied)
            }
            Self::CallerUnknown => (403, "caller_unknown", "Caller unknown", HttpRequestDenied),
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
            Self::NoToken { unavailable: Unavailable { reason, .. }, .. } => {
                (503, reason.code(), no_token::title(*reason), ProxyInternalResponse)
            }
            Self::NotDiscovered { .. } => {
                (503, "upstream_unavailable", "Upstream not discovered", DestinationNotFound)
            }
            Self::ApiQuotaExhausted { .. } => {
                (429, "api_quota_exhausted", "API quota exhausted", ProxyInternalResponse)
            }
            Self::CallerQuotaExhausted { .. } => {
                (429, "caller_quota_exhausted", "Caller quota exhausted", ProxyInternalResponse)
            }
            Self::UpstreamUnavailable { .. } => {
                (503, "upstream_unavailable", "Upstream unavailable", DestinationUnavailable)
            }
            Self::Upstream(error) => {
                let (status, code, title) = match error {
                    ForwardError::Unreachable(..)
                    | ForwardError::Proxy(..)
                    | ForwardError::ConnectTimeout => (502, "upstream_unreachable", "Upstream unreachable"),
                    ForwardError::Tls(..) | ForwardError::ClientRefused(_) => {
                        (502, "upstream_tls", "Upstream TLS failed")
                    }
                    ForwardError::Terminated(_) | ForwardError::Protocol(_) | ForwardError::Http1Required => {
                        (502, "upstream_protocol", "Upstream protocol error")
                    }
                    ForwardError::Timeout => (504, "upstream_timeout", "Upstream timeout"),
                    ForwardError::NoDescriptor | ForwardError::Overloaded => {
                        (503, "overloaded", "Overloaded")
                    }
                };
                (status, code, title, error.proxy_status())
            }
            Self::LoopDetected => (508, "loop_detected", "Loop detected", ProxyLoopDetected),
            Self::Draining => (503, "draining", "Draining", ProxyInternalResponse),
            Self::AuditUnavailable => {
                (503, "audit_unavailable", "Audit trail unavailable", ProxyInternalResponse)
            }
            Self::Overloaded(_) => (503, "overloaded", "Overloaded", ProxyInternalResponse),
        };
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Answer { status, code, title, proxy_status }
    }

    /// The time after which another attempt may succeed; `None` if waiting does not help.
    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoToken { unavailable, .. } => unavailable.retry_after,
            Self::NotDiscovered { undiscovered, .. } => Some(undiscovered.retry_after),
            Self::UpstreamUnavailable { retry_after }
            | Self::ApiQuotaExhausted { retry_after, .. }
            | Self::CallerQuotaExhausted { retry_after, .. } => Some(*retry_after),
            Self::Draining
            | Self::AuditUnavailable
            | Self::Overloaded(_)
            | Self::Upstream(ForwardError::NoDescriptor | ForwardError::Overloaded) => {
                Some(OVERLOAD_RETRY_AFTER)
            }
            _ => None,
        }
    }

    /// The cause and a remedy, for a person; contains no secret and no address.
    pub fn detail(&self) -> String {
        let text = match self {
            Self::CallerNotAllowed => "No network in server.allow_from contains the client's address.",
            Self::CallerNotAdmitted => {
                "The route's `callers` contains neither a name of the client's certificate nor the caller that it is \
                 proven to be by a key, a certificate or its own address."
            }
            Self::CallerUnknown => {
                "No [callers.NAME] has the client's key (X-Api-Key, or the password of Basic), a name of its certificate \
                 or its address, and there is no [callers.other]."
            }
            Self::HostNotAllowed => {
                "server.hosts does not contain the Host of the request. Use a host name from that list."
            }
            Self::BrowserRequest => {
                "A browser sent this request for a page of another site, and server.origins lacks its Origin."
            }
            Self::HeaderRequired(name) => return format!("The proxy requires the header field {name}."),
            Self::RouteNotFound => "No route of the configuration matches this host and path.",
            Self::RequestDenied(denial) => denial.detail(),
            Self::MethodNotSupported => "The proxy does not forward TRACE, TRACK and CONNECT.",
            Self::BadRequest(why) => return format!("The proxy did not forward the request: {why}."),
            Self::ExpectationFailed => "The proxy supports no expectation other than 100-continue.",
            Self::RequestTimeout => {
                "The request did not arrive in time, or its body stalled or arrived too slowly."
            }
            Self::BodyTooLarge { limit } => return format!("The body is larger than {limit} bytes."),
            Self::HeaderTooLarge => "The request line and the header fields are too large.",
            Self::NoToken { credential, unavailable } => return no_token::detail(credential, unavailable),
            Self::NotDiscovered { credential, undiscovered } => {
                let failure = undiscovered.failure.as_ref();
                let last =
                    failure.map(|failure| format!(" The last discovery failed: {}.", failure.outcome()));
                return format!(
                    "The route has upstream = \"discover\", and the issuer of the credential `{credential}` has not \
                     published the API's address yet. Try again, or set `upstream` to the address.{}",
                    last.unwrap_or_default()
                );
            }
            Self::ApiQuotaExhausted { credential, .. } => {
                return format!(
                    "The API allows the credential `{credential}` a number of requests that is used up, and the turn of \
                     this caller comes later than a request may wait. The API has not seen the request. Try again after \
                     the time in Retry-After."
                );
            }
            Self::CallerQuotaExhausted { caller, .. } => {
                return format!(
                    "The requests that [callers.{caller}] may make (`quota`) are used up, and the turn of this one comes \
                     later than a request may wait. The API has not seen the request. Try again after the time in \
                     Retry-After."
                );
            }
            Self::UpstreamUnavailable { .. } => {
                "Most recent requests to the upstream failed, so the proxy sends none for a while. Try again."
            }
            Self::Upstream(error) => error.detail(),
            Self::Draining => "The proxy shut down before it sent the request. Try again.",
            Self::AuditUnavailable => {
                "Nothing can be written to the audit trail, and audit.on_failure is \"refuse\". Try again."
            }
            Self::Overloaded(overload) => return format!("The proxy is overloaded: {overload}. Try again."),
            Self::LoopDetected => "The route's `upstream` leads back to this proxy.",
        };
        text.to_owned()
    }

    /// The response for the caller. Over HTTP/1.1 the response closes the connection, because an unread request body
    /// must not be taken for the next request.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::token::Reason;
    use crate::token::api_discovery::AddressRefusal;
    use crate::token::error::TokenError;

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
        ForwardError::Unreachable(ProxyStatus::ConnectionRefused, "refused".to_owned())
    }

    fn not_discovered(refusal: Option<AddressRefusal>) -> ProxyError {
        let failure = refusal.map(|refusal| Arc::new(refusal.into()));
        let undiscovered = Undiscovered { retry_after: Duration::from_secs(1), failure };
        ProxyError::NotDiscovered { credential: "cxone".into(), undiscovered }
    }

    fn api_quota_exhausted() -> ProxyError {
        ProxyError::ApiQuotaExhausted {
            credential: "genesys".into(),
            retry_after: Duration::from_millis(1500),
        }
    }

    fn caller_quota_exhausted() -> ProxyError {
        ProxyError::CallerQuotaExhausted {
            caller: "billing".into(),
            retry_after: Duration::from_millis(2001),
        }
    }

    fn by_proxy(proxy_status: ProxyStatus) -> ProxyError {
        ForwardError::Proxy(proxy_status, "x".to_owned()).into()
    }

    fn handshake_failed() -> ForwardError {
        ForwardError::Tls(ProxyStatus::TlsCertificateError, "expired".to_owned())
    }

    /// Every failure, and what a caller sees of it.
    #[test]
    fn every_failure_has_its_documented_answer() {
        let table: Vec<(ProxyError, u16, &str)> = vec![
            (ProxyError::CallerNotAllowed, 403, "caller_not_allowed"),
            (ProxyError::CallerNotAdmitted, 403, "caller_not_allowed"),
            (ProxyError::CallerUnknown, 403, "caller_unknown"),
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
            (no_token_error(Reason::SharedStoreUnavailable, Some(1)), 503, "shared_store_unavailable"),
            (no_token_error(Reason::ClientRejected, None), 503, "client_rejected"),
            (no_token_error(Reason::ReauthorizationRequired, None), 503, "reauthorization_required"),
            (no_token_error(Reason::RotationLimit, None), 503, "rotation_limit"),
            (no_token_error(Reason::ScopeMissing, None), 503, "scope_missing"),
            (not_discovered(None), 503, "upstream_unavailable"),
            (not_discovered(Some(AddressRefusal::OtherDomain)), 503, "upstream_unavailable"),
            (api_quota_exhausted(), 429, "api_quota_exhausted"),
            (caller_quota_exhausted(), 429, "caller_quota_exhausted"),
            (refused().into(), 502, "upstream_unreachable"),
            (ForwardError::ConnectTimeout.into(), 502, "upstream_unreachable"),
            (by_proxy(ProxyStatus::HttpRequestDenied), 502, "upstream_unreachable"),
            (by_proxy(ProxyStatus::ConnectionTimeout), 502, "upstream_unreachable"),
            (handshake_failed().into(), 502, "upstream_tls"),
            (ForwardError::ClientRefused("x".into()).into(), 502, "upstream_tls"),
            (ForwardError::Terminated("x".into()).into(), 502, "upstream_protocol"),
            (ForwardError::Protocol("x".into()).into(), 502, "upstream_protocol"),
            (ForwardError::Timeout.into(), 504, "upstream_timeout"),
            (ForwardError::Overloaded.into(), 503, "overloaded"),
            (ProxyError::UpstreamUnavailable { retry_after: Duration::ZERO }, 503, "upstream_unavailable"),
            (ProxyError::LoopDetected, 508, "loop_detected"),
            (ProxyError::Draining, 503, "draining"),
            (ProxyError::AuditUnavailable, 503, "audit_unavailable"),
            (ProxyError::Overloaded(Overload::Connections), 503, "overloaded"),
            (ProxyError::Overloaded(Overload::ConnectionsOfAddress), 503, "overloaded"),
            (ProxyError::Overloaded(Overload::TokenWaiters), 503, "overloaded"),
            (ForwardError::NoDescriptor.into(), 503, "overloaded"),
        ];
        let codes: std::collections::BTreeSet<&str> = table.iter().map(|(_, _, code)| *code).collect();
        assert_eq!(codes.into_iter().collect::<Vec<_>>(), ProxyError::CODES);
        for (error, status, code) in table {
            let response = error.response(Version::HTTP_11);
            let body: serde_json::Value = serde_json::from_slice(response.body()).unwrap();
            assert_eq!(response.status(), status, "{error:?}");
            assert_eq!((body["code"].as_str(), body["status"].as_u64()), (Some(code), Some(status.into())));
            assert_eq!(body["type"], crate::documentation::of_code(code));
            assert!(body["title"].is_string() && body["detail"].as_str().unwrap().ends_with('.'), "{body}");
            assert_eq!(response.headers()["content-type"], "application/problem+json");
            assert_eq!(response.headers()["connection"], "close");
            assert!(response.headers()["proxy-status"].to_str().unwrap().starts_with("bearerd; error="));
            assert_ne!(response.status(), StatusCode::UNAUTHORIZED, "{error:?}");
        }
    }

    #[test]
    fn a_failed_token_request_is_told_in_a_sentence_without_texts_of_the_server() {
        let mut error = no_token_error(Reason::EndpointUnavailable, Some(1));
        let ProxyError::NoToken { unavailable, .. } = &mut error else { unreachable!() };
        unavailable.failure = Some(Arc::new(TokenError::Network("10.1.2.3 said hunter2".to_owned())));

        let detail = error.detail();

        let sentence = " The last token request failed: the token endpoint did not answer.";
        assert!(detail.ends_with(sentence) && !detail.contains("hunter2"), "{detail}");
    }

    #[test]
    fn the_turn_of_a_caller_is_named_in_seconds_rounded_up() {
        assert_eq!(api_quota_exhausted().response(Version::HTTP_11).headers()["retry-after"], "2");
        assert_eq!(caller_quota_exhausted().response(Version::HTTP_11).headers()["retry-after"], "3");
    }

    #[test]
    fn over_http_2_a_refusal_ends_its_stream_alone() {
        assert!(!ProxyError::RouteNotFound.response(Version::HTTP_2).headers().contains_key(CONNECTION));
    }
}
