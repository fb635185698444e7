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
use super::request::{AnswerFields, ErrorCodes, TokenParameters};
use super::secret::Secret;

/// A configured identity and how it gets tokens. The module `classification` says what a change of each field means.
#[derive(Clone, Debug)]
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
    /// The values that the answer's `token_type` may have, in any case.
    pub token_types: Vec<String>,
    /// Further error codes of the server.
    pub errors: ErrorCodes,
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
