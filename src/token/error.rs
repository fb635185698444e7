//! Why a token request failed, and what follows from the failure.
//!
//! No error holds a secret: a server's text is redacted, freed of control characters and shortened first.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::access_token::IllegalToken;
use crate::config::model::signing_key::KeyError;

/// Why a token request brought no token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// No response arrived: connection refused or reset, TLS, time-out, DNS.
    #[error("the token endpoint did not answer: {0}")]
    Network(String),
    /// No connection was made, and so nothing was sent.
    #[error("the token endpoint did not answer: {0}")]
    Unreached(String),
    /// The issuer's metadata, which names the token endpoint, is not available.
    #[error("the issuer does not tell where its endpoints are: {0}")]
    Discovery(MetadataError),
    /// The server failed, with this status.
    #[error("the token endpoint answered {0}")]
    Server(u16),
    /// The server, or a proxy in front of the server, answered with an error that may pass without a person's
    /// action.
    #[error("the token endpoint is unavailable (status {status}): {code}{}", detail(.description.as_deref()))]
    Unavailable {
        /// The status code.
        status: u16,
        /// The error code.
        code: String,
        /// The server's explanation.
        description: Option<String>,
    },
    /// The response is a success without a usable token, or invalid.
    #[error("the token endpoint's answer is unusable: {0}")]
    Malformed(Malformed),
    /// The server limits the rate of requests.
    #[error("the token endpoint limits the rate of requests (status {status})")]
    Throttled {
        /// The status code.
        status: u16,
        /// The wait that the server asks for, if it does.
        retry_after: Option<Duration>,
        /// The least wait, even against the server and `retry_after_max`.
        at_least: Duration,
    },
    /// The server rejects the request, until a person changes something.
    #[error("the token endpoint rejected the request (status {status}): {code}{}", detail(.description.as_deref()))]
    Rejected {
        /// The status code.
        status: u16,
        /// The error code (RFC 6749 §5.2), or a replacement for a missing one.
        code: String,
        /// The server's explanation.
        description: Option<String>,
        /// The part of the request that the server refuses.
        refusal: Refusal,
    },
    /// No request can be made.
    #[error("no assertion can be signed: {0}")]
    Assertion(#[from] KeyError),
    /// The server has refused the refresh token, perhaps only in passing: the same token is sent again.
    #[error("the refresh token was refused, perhaps in passing, and is tried again: {why}")]
    RefusedInPassing {
        /// The refusal.
        why: String,
        /// The time until the next attempt.
        again_in: Duration,
    },
    /// No request can be made now: the file of the assertion, which another process keeps, cannot be read.
    #[error("the file of the assertion is not usable: {0}")]
    AssertionFile(String),
    /// The server accepts no refresh token that is known.
    #[error("a person must authorize the client: {0}")]
    ReauthorizationRequired(String),
    /// The refresh token has been rotated this often, as often as `max_rotations` admits.
    #[error("the refresh token has been replaced {0} times, as often as max_rotations lets it")]
    RotationLimit(u64),
    /// The token lacks these required scopes.
    #[error("the token was granted without the required scopes: {}", .0.join(" "))]
    ScopeMissing(Vec<String>),
}

/// The part of a token request that the server refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The grant, which has ended or was never valid (RFC 6749 §5.2).
    Grant,
    /// The refresh token, perhaps only in passing: the response says that the token is being processed, or
    /// gives no reason.
    GrantInPassing,
    /// The client: another client secret may help.
    Client,
    /// Another part of the request, such as a scope.
    Request,
}

/// The code of an error response without one.
pub(super) const NO_CODE: &str = "no error code";

/// The begin of the replacement for a missing error code where the body is a page, XML or compressed.
pub const FOREIGN_BODY: &str = "its body is";

/// Why a response has no usable token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// The body is empty.
    #[error("its body is empty")]
    Empty,
    /// The body is larger than is read.
    #[error("its body is larger than 64 KiB")]
    TooLarge,
    /// The connection ended within the body.
    #[error("its body is incomplete")]
    Incomplete,
    /// The body is an HTML page, with this title, redacted.
    #[error("{}", page(.0.as_deref()))]
    Page(Option<String>),
    /// The body is XML.
    #[error("its body is XML and not JSON: a proxy or a firewall may have answered")]
    Xml,
    /// The body has a content coding, which the request does not accept.
    #[error(
        "its body is compressed ({0}) although the request accepts no compression: a proxy on the way may do that"
    )]
    Compressed(&'static str),
    /// The body is not one JSON object.
    #[error("its body is not a JSON object (line {line}, column {column})")]
    NotJson {
        /// The line of the error, from 1.
        line: usize,
        /// The column of the error, from 1.
        column: usize,
    },
    /// The JSON is nested too deeply.
    #[error("its body is nested too deeply")]
    TooDeep,
    /// A member occurs more than once.
    #[error("its `{0}` is there more than once")]
    Repeated(&'static str),
    /// A member is not a string.
    #[error("its `{0}` is not a text")]
    NotText(&'static str),
    /// The member `access_token` is missing.
    #[error("it holds no access token")]
    NoToken,
    /// The token cannot stand in a header field.
    #[error("{0}")]
    Token(#[from] IllegalToken),
    /// The member `expires_in` is not a number of seconds.
    #[error("its expires_in is not a number of seconds")]
    Lifetime,
    /// The member `token_type` is none of `token_types`.
    #[error("its token_type is none of `token_types`")]
    TokenType,
    /// The token is the current one again, and has ended.
    #[error("it is the token that we had, which has ended")]
    Stale,
    /// The token is not a JWT, although `expect_jwt` is set.
    #[error("its access token does not have the form of a JWT")]
    NotJwt,
    /// The token has ended by its `exp`.
    #[error("its access token has ended already, by its `exp` (are both clocks right?)")]
    Ended,
    /// The status is neither a success nor an error.
    #[error("its status is {0}")]
    Status(u16),
}

/// Why an issuer's metadata cannot be used: the flaw of each document that was fetched, in that order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataError {
    /// The path of each document, without its host, and its flaw.
    pub flaws: Vec<(String, MetadataFlaw)>,
}

/// Why one metadata document cannot be used.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum MetadataFlaw {
    /// No response arrived.
    #[error("no answer ({0})")]
    Unreachable(String),
    /// The status is not 200.
    #[error("status {0}")]
    Status(u16),
    /// The response is a redirect.
    #[error("a redirect, which is never followed (status {0})")]
    Redirect(u16),
    /// The body is too large or incomplete.
    #[error("{0}")]
    Body(Malformed),
    /// The body is not one JSON object with each member once and of the right type.
    #[error("no JSON object with an issuer's metadata")]
    NotMetadata,
    /// The document is another issuer's (RFC 8414 §3.3).
    #[error("its `issuer` is \"{0}\" and not the configured one")]
    OtherIssuer(String),
    /// The document does not name this endpoint.
    #[error("it has no `{0}`")]
    Missing(&'static str),
    /// The endpoint is not a URL that protects secrets on the network.
    #[error("its `{0}` is not an https:// URL")]
    Unprotected(&'static str),
}

impl fmt::Display for MetadataError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flaws: Vec<String> = self.flaws.iter().map(|(path, flaw)| format!("{path}: {flaw}")).collect();
        f.write_str(&flaws.join("; "))
    }
}

/// The consequences of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// The failure may pass by itself: back off, and keep the valid token.
    Transient,
    /// The server limits the rate of requests.
    Throttled {
        /// The wait that the server asks for; `retry_after_max` bounds it.
        retry_after: Option<Duration>,
        /// The least wait, which nothing bounds.
        at_least: Duration,
    },
    /// The refresh token may be accepted later: make the request again after this time.
    RefusedInPassing(Duration),
    /// A person must act: make requests rarely.
    Rejected,
}

impl TokenError {
    /// The class of the failure.
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Network(_)
            | Self::Unreached(_)
            | Self::Discovery(_)
            | Self::Server(_)
            | Self::Unavailable { .. }
            | Self::AssertionFile(_)
            | Self::Malformed(_) => FailureClass::Transient,
            Self::RefusedInPassing { again_in, .. } => FailureClass::RefusedInPassing(*again_in),
            Self::Throttled { retry_after, at_least, .. } => {
                FailureClass::Throttled { retry_after: *retry_after, at_least: *at_least }
            }
            Self::Rejected { .. }
            | Self::Assertion(_)
            | Self::ReauthorizationRequired(_)
            | Self::RotationLimit(_)
            | Self::ScopeMissing(_) => FailureClass::Rejected,
        }
    }

    /// Whether the server refuses the grant: expired, revoked, used, or another client's, or a refresh token in passing.
    pub const fn refuses_grant(&self) -> bool {
        matches!(self, Self::Rejected { refusal: Refusal::Grant | Refusal::GrantInPassing, .. })
    }

    /// Whether the response itself says that the server may accept the refresh token later.
    pub const fn refuses_in_passing(&self) -> bool {
        matches!(self, Self::Rejected { refusal: Refusal::GrantInPassing, .. })
    }

    /// Whether the request was sent and ended without an answer that tells what became of it: the server may have
    /// used the refresh token in it.
    pub const fn is_without_answer(&self) -> bool {
        match self {
            Self::Network(_) | Self::Malformed(_) => true,
            Self::Server(status) | Self::Unavailable { status, .. } | Self::Throttled { status, .. } => {
                *status >= 500
            }
            Self::Unreached(_)
            | Self::Discovery(_)
            | Self::Rejected { .. }
            | Self::Assertion(_)
            | Self::AssertionFile(_)
            | Self::RefusedInPassing { .. }
            | Self::ReauthorizationRequired(_)
            | Self::RotationLimit(_)
            | Self::ScopeMissing(_) => false,
        }
    }

    /// Whether the server refuses the client, so that another secret may help.
    pub const fn refuses_client(&self) -> bool {
        matches!(self, Self::Rejected { refusal: Refusal::Client, .. })
    }

    /// The outcomes of failed token requests.
    pub const OUTCOMES: &'static [&'static str] = &[
        "network",
        "discovery",
        "server_error",
        "malformed",
        "throttled",
        "rejected",
        "refused_in_passing",
        "assertion",
        "reauthorization_required",
        "scope_missing",
    ];

    /// The outcome of the request, as one word for metrics and events.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Network(_) | Self::Unreached(_) => "network",
            Self::Discovery(_) => "discovery",
            Self::Server(_) | Self::Unavailable { .. } => "server_error",
            Self::Malformed(_) => "malformed",
            Self::Throttled { .. } => "throttled",
            Self::Rejected { .. } => "rejected",
            Self::RefusedInPassing { .. } => "refused_in_passing",
            Self::Assertion(_) | Self::AssertionFile(_) => "assertion",
            Self::ReauthorizationRequired(_) => "reauthorization_required",
            Self::RotationLimit(_) => "rotation_limit",
            Self::ScopeMissing(_) => "scope_missing",
        }
    }

    /// What failed, as a clause for callers: without addresses and texts of a peer.
    pub const fn for_callers(&self) -> &'static str {
        match self {
            Self::Network(_) => "the token endpoint did not answer",
            Self::Unreached(_) => "the token endpoint could not be reached",
            Self::Discovery(_) => "the issuer does not tell where its token endpoint is",
            Self::Server(_) | Self::Unavailable { .. } => "the token endpoint has an error of its own",
            Self::Malformed(_) => "the token endpoint's answer holds no usable token",
            Self::Throttled { .. } => "the token endpoint limits the rate of requests",
            Self::Rejected { .. } => "the token endpoint rejected the request",
            Self::RefusedInPassing { .. } => "the refresh token was refused, perhaps in passing",
            Self::Assertion(_) | Self::AssertionFile(_) => "the assertion of the request is not usable",
            Self::ReauthorizationRequired(_) => "a person must authorize the client",
            Self::RotationLimit(_) => "the refresh token has been replaced as often as max_rotations lets it",
            Self::ScopeMissing(_) => "the token was granted without all of require_scopes",
        }
    }
}

fn page(title: Option<&str>) -> String {
    let title = title.map(|title| format!(", titled \"{title}\"")).unwrap_or_default();
    format!("its body is an HTML page{title}: a proxy, a firewall or a login page may have answered")
}

fn detail(description: Option<&str>) -> String {
    description.map(|text| format!(", \"{text}\"")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_reads_as_a_sentence() {
        let error = TokenError::Rejected {
            status: 401,
            code: "invalid_client".into(),
            description: Some("unknown client".into()),
            refusal: Refusal::Client,
        };

        assert_eq!(
            error.to_string(),
            "the token endpoint rejected the request (status 401): invalid_client, \"unknown client\""
        );
    }
}
