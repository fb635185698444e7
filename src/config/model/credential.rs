//! A credential: who it is at its authorization server, and how it gets tokens there.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::endpoint::Endpoint;
use super::http_version::HttpVersion;
use super::identity::Identity;
use super::login::Login;
use super::pattern::Pattern;
use super::request::{AnswerFields, TokenParameters};
use super::secret::Secret;

/// A configured identity and how it gets tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Its name in the file.
    pub name: String,
    /// The token endpoint.
    pub token_url: Endpoint,
    /// Who it is there: the OAuth client and its grant.
    pub identity: Identity<Secret>,
    /// The certificate that the connection to the token endpoint is authenticated with.
    pub client_certificate: Option<ClientCertificate>,
    /// How a person authorizes the client, where the grant needs that.
    pub login: Option<Login>,
    /// What the request has besides.
    pub parameters: TokenParameters,
    /// What the members of its answer are called.
    pub fields: AnswerFields,
    /// Scopes to ask for.
    pub scopes: Vec<String>,
    /// Scopes that must have been granted.
    pub require_scopes: Vec<String>,
    /// Whether the token must have the form of a JWT.
    pub expect_jwt: bool,
    /// How long before its end a token is replaced; a fifth of its lifetime at the most.
    pub refresh_margin: Duration,
    /// A token's lifetime where the answer names none.
    pub default_lifetime: Duration,
    /// For a token request as a whole.
    pub timeout: Duration,
    /// For the connection to the token endpoint.
    pub connect_timeout: Duration,
    /// Token requests that may be made.
    pub quota: Quota,
    /// The longest wait that a `Retry-After` may ask for.
    pub retry_after_max: Duration,
    /// Which certificate authorities the token endpoint is checked against.
    pub roots: Roots,
    /// By way of which the token endpoint is reached.
    pub proxy: Option<Proxy>,
    /// What is spoken with it.
    pub http_version: HttpVersion,
    /// How often a refresh token may be replaced before someone must log in again; 0 is without limit.
    pub max_rotations: u64,
    /// Where it keeps what must outlive the process, if it does.
    pub state: Option<StatePlace>,
    /// Whether the daemon is ready only once this credential has had a token.
    pub required: bool,
    /// The issuer that says where the API is, if the provider has one that does.
    pub discovery: Option<Url>,
    /// Paths at which applications log in, and are answered by ourselves.
    pub login_stub: Vec<String>,
    /// What no route lets through: requests, as the upstream sees them, that could end or replace it.
    pub protected: Vec<Pattern>,
    /// Fields that its API wants, where the caller sent none.
    pub set_if_absent: Vec<(HeaderName, HeaderValue)>,
}

impl Credential {
    /// Its grant, as it is called in the configuration. A person's login leaves a refresh token to ask with.
    pub const fn grant_name(&self) -> &'static str {
        if self.login.is_some() { "authorization_code" } else { self.identity.grant.name() }
    }

    /// Whether a token of one is as good as a token of the other: it comes from the same server, for the same client,
    /// grant, scopes and audience. How the client authenticates and when tokens are asked for does not matter.
    pub fn shares_tokens_with(&self, other: &Self) -> bool {
        let as_if = Self {
            identity: self.identity.authenticating_as(&other.identity),
            login: other.login.clone(),
            refresh_margin: other.refresh_margin,
            default_lifetime: other.default_lifetime,
            timeout: other.timeout,
            connect_timeout: other.connect_timeout,
            quota: other.quota,
            retry_after_max: other.retry_after_max,
            roots: other.roots.clone(),
            proxy: other.proxy.clone(),
            http_version: other.http_version,
            max_rotations: other.max_rotations,
            state: other.state.clone(),
            required: other.required,
            login_stub: other.login_stub.clone(),
            protected: other.protected.clone(),
            set_if_absent: other.set_if_absent.clone(),
            ..self.clone()
        };
        as_if == *other
    }

    /// How long a token request takes at the most, and asking the issuer for its token endpoint before that.
    pub fn longest_request(&self) -> Duration {
        if self.token_url.issuer().is_some() { self.timeout.saturating_mul(2) } else { self.timeout }
    }
}

/// Where a credential's state is, and what it is encrypted with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePlace {
    /// The file.
    pub path: PathBuf,
    /// The key, known to be one; without it no token is written.
    pub key: Option<Secret>,
    /// Keys before that one, which only read.
    pub previous_keys: Vec<Secret>,
}

/// A proxy that tunnels TLS (RFC 9110 §9.3.6).
#[derive(Clone, Debug)]
pub struct Proxy {
    /// Its URL, which may hold a password.
    pub url: SecretString,
    /// Hosts that are reached without it, as in `NO_PROXY`.
    pub except: String,
}

impl Eq for Proxy {}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        (self.url.expose_secret(), &self.except) == (other.url.expose_secret(), &other.except)
    }
}

/// A certificate with its key, for TLS connections that we open.
#[derive(Clone)]
pub struct ClientCertificate {
    /// The certificate and those that lead from it to its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its private key.
    pub key: Arc<PrivateKeyDer<'static>>,
}

impl Eq for ClientCertificate {}

impl PartialEq for ClientCertificate {
    fn eq(&self, other: &Self) -> bool {
        self.chain == other.chain && self.key.secret_der() == other.key.secret_der()
    }
}

/// Without the key.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// At most `requests` at once, refilled over `per`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The burst, and how many are refilled over `per`.
    pub requests: NonZeroU32,
    /// Never zero.
    pub per: Duration,
}

/// Which certificate authorities are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// Those of the operating system.
    System,
    /// These and no others; none where a URL is plain http and speaks no TLS.
    Only(Vec<CertificateDer<'static>>),
}

#[cfg(test)]
mod tests {
    use crate::config::fixture;

    #[test]
    fn tokens_are_as_good_as_others_for_the_same_client_grant_server_and_scopes_alone() {
        let credential = |lines: &str, secret: &str| fixture::config("", lines, secret).credentials.remove(0);
        let plain = credential("", "x");
        assert!(plain.shares_tokens_with(&credential("", "another secret")) && plain != credential("", "y"));
        for lines in [
            "refresh_margin = \"30s\"",
            "timeout = \"9s\"\nconnect_timeout = \"2s\"",
            "quota = { requests = 7, per = \"60s\" }",
            "retry_after_max = \"10s\"",
            "required = false",
            "client_auth = \"client_secret_post\"",
            "client_secret_next = { env = \"S\" }",
            "proxy = \"http://localhost:3128\"",
        ] {
            let other = credential(lines, "x");
            assert!(plain != other && plain.shares_tokens_with(&other), "{lines}");
        }
        for lines in [
            "client_id = \"another\"",
            "scopes = [\"a\"]",
            "require_scopes = [\"a\"]",
            "audience = \"b\"",
            "resource = [\"https://api.example.com/\"]",
            "extra = { tenant = \"1\" }",
            "grant = \"password\"\nusername = \"u\"\npassword = { env = \"S\" }",
            "issuer = \"https://as.example.com\"",
            "request_format = \"json\"",
            "expect_jwt = true",
        ] {
            let other = credential(lines, "x");
            assert!(!plain.shares_tokens_with(&other), "{lines}");
            assert!(!other.shares_tokens_with(&plain), "{lines}");
        }
        let person = |name: &str, secret| {
            let lines = format!("grant = \"password\"\nusername = \"{name}\"\npassword = {{ env = \"S\" }}");
            credential(&lines, secret)
        };
        assert!(person("u", "x").shares_tokens_with(&person("u", "y")), "another password");
        assert!(!person("u", "x").shares_tokens_with(&person("v", "x")), "another person");
    }
}
