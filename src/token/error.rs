//! Why a token request brought no token, and what follows from it.
//!
//! Nothing in these errors is secret: a server's own words are searched for what is, reduced to printable ASCII and
//! cut short before they are kept.

use std::fmt;
use std::time::Duration;

use thiserror::Error;

use super::access_token::IllegalToken;
use crate::config::model::signing_key::KeyError;

/// A token request that brought no token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TokenError {
    /// No answer arrived: refused, reset, TLS, time-out, DNS.
    #[error("the token endpoint did not answer: {0}")]
    Network(String),
    /// It is not known where the token endpoint is.
    #[error("the issuer does not tell where its endpoints are: {0}")]
    Discovery(MetadataError),
    /// The server failed.
    #[error("the token endpoint answered {status}")]
    Server {
        /// Its status code.
        status: u16,
    },
    /// A success without a usable token, or an answer that makes no sense.
    #[error("the token endpoint's answer is unusable: {0}")]
    Malformed(Malformed),
    /// The server asks to be left alone for a while.
    #[error("the token endpoint limits the rate of requests (status {status})")]
    Throttled {
        /// Its status code.
        status: u16,
        /// For how long, if it said so.
        retry_after: Option<Duration>,
        /// For how long at least, whatever it said and whatever may be asked of us.
        at_least: Duration,
    },
    /// Asking again will not help until someone changes something.
    #[error("the token endpoint rejected the request (status {status}): {code}{}", detail(.description.as_deref()))]
    Rejected {
        /// Its status code.
        status: u16,
        /// The error code (RFC 6749 §5.2), or what stands for it.
        code: String,
        /// The server's own explanation.
        description: Option<String>,
    },
    /// No request could be made.
    #[error("no assertion can be signed: {0}")]
    Assertion(#[from] KeyError),
    /// There is no refresh token that the server would take.
    #[error("a person must authorize the client again: {0}")]
    ReauthorizationRequired(String),
    /// The refresh token has been replaced as often as it may be.
    #[error("the refresh token has been replaced {rotations} times, as often as max_rotations lets it")]
    RotationLimit {
        /// How often.
        rotations: u64,
    },
    /// A token that lacks scopes which were required.
    #[error("the token was granted without the required scopes: {}", .missing.join(" "))]
    ScopeMissing {
        /// The scopes it lacks.
        missing: Vec<String>,
    },
}

/// The code of a refusal that has none.
pub(super) const NO_CODE: &str = "no error code";

/// What is wrong with an answer that should have held a token.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Malformed {
    /// No bytes at all.
    #[error("its body is empty")]
    Empty,
    /// Larger than any token answer.
    #[error("its body is larger than 64 KiB")]
    TooLarge,
    /// The connection ended within it.
    #[error("its body is incomplete")]
    Incomplete,
    /// A page, by whoever stands before the token endpoint.
    #[error("its body is HTML or XML and not JSON: a login page, a proxy or a firewall may have answered")]
    Markup,
    /// Not one JSON object.
    #[error("its body is not a JSON object (line {line}, column {column})")]
    NotJson {
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
    },
    /// Values in values in values.
    #[error("its body is nested too deeply")]
    TooDeep,
    /// A member that can be read in two ways.
    #[error("its `{0}` is there more than once")]
    Repeated(&'static str),
    /// A member of another kind than it should be.
    #[error("its `{0}` is not a text")]
    NotText(&'static str),
    /// No member `access_token`.
    #[error("it holds no access token")]
    NoToken,
    /// A token that no header field can carry.
    #[error("{0}")]
    Token(#[from] IllegalToken),
    /// `expires_in` is there and not a number of seconds.
    #[error("its expires_in is not a number of seconds")]
    Lifetime,
    /// `token_type` names something we cannot use.
    #[error("its token_type is not Bearer")]
    TokenType,
    /// The token that we had, which has ended.
    #[error("it is the token that we had, which has ended")]
    Stale,
    /// Not of the form of a JWT, which was asked for.
    #[error("its access token does not have the form of a JWT")]
    NotJwt,
    /// A JWT that has ended by its own word.
    #[error("its access token has ended already, by its `exp` (are both clocks right?)")]
    Ended,
    /// A status that is neither success nor error.
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
        for (at, (path, flaw)) in self.flaws.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{path}: {flaw}")?;
        }
        Ok(())
    }
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureClass {
    /// It will pass by itself: back off and keep the valid token.
    Transient,
    /// The server said to wait.
    Throttled {
        /// For so long, within what it may ask for.
        retry_after: Option<Duration>,
        /// For so long in any case.
        at_least: Duration,
    },
    /// A person must act: ask rarely.
    Rejected,
}

impl TokenError {
    /// What follows from it.
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Network(_) | Self::Discovery(_) | Self::Server { .. } | Self::Malformed(_) => {
                FailureClass::Transient
            }
            Self::Throttled { retry_after, at_least, .. } => {
                FailureClass::Throttled { retry_after: *retry_after, at_least: *at_least }
            }
            Self::Rejected { .. }
            | Self::Assertion(_)
            | Self::ReauthorizationRequired(_)
            | Self::RotationLimit { .. }
            | Self::ScopeMissing { .. } => FailureClass::Rejected,
        }
    }

    /// One word for metrics and events.
    pub const fn outcome(&self) -> &'static str {
        match self {
            Self::Network(_) => "network",
            Self::Discovery(_) => "discovery",
            Self::Server { .. } => "server_error",
            Self::Malformed(_) => "malformed",
            Self::Throttled { .. } => "throttled",
            Self::Rejected { .. } => "rejected",
            Self::Assertion(_) => "assertion",
            Self::ReauthorizationRequired(_) => "reauthorization_required",
            Self::RotationLimit { .. } => "rotation_limit",
            Self::ScopeMissing { .. } => "scope_missing",
        }
    }
}

fn detail(description: Option<&str>) -> String {
    description.map(|text| format!(", \"{text}\"")).unwrap_or_default()
}

/// A server's words as they may be kept: printable ASCII, at most 200 characters.
pub(crate) fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_ascii_graphic() || c == ' ' { c } else { '?' };
    let mut short: String = text.chars().take(200).map(clean).collect();
    if text.chars().nth(200).is_some() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_servers_words_cannot_forge_a_log_line() {
        assert_eq!(printable("a\r\nb\x1b[31m\u{2028}\u{202e}c"), "a??b?[31m??c");
        assert_eq!(printable(&"x".repeat(10_000_000)).len(), 203);
    }

    #[test]
    fn an_error_reads_as_a_sentence() {
        let error = TokenError::Rejected {
            status: 401,
            code: "invalid_client".into(),
            description: Some("unknown client".into()),
        };

        assert_eq!(
            error.to_string(),
            "the token endpoint rejected the request (status 401): invalid_client, \"unknown client\""
        );
    }
}
