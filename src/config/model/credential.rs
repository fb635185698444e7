//! A credential: an identity at an authorization server, and how it gets tokens there.

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
use super::identity::{Grant, Identity};
use super::login::Login;
use super::pattern::Pattern;
use super::pem_file::PemFile;
use super::request::{AnswerFields, ErrorCodes, TokenParameters};
use super::secret::Secret;

/// A configured identity and how it gets tokens. The module `classification` says what a change of each field means.
#[derive(Clone, Debug)]
pub struct Credential {
    /// The name in the file.
    pub name: String,
    /// The platform: `oauth2` is none in particular.
    pub provider: &'static str,
    /// The token endpoint.
    pub token_url: Endpoint,
    /// The OAuth client and its grant.
    pub identity: Identity<Secret>,
    /// The certificate that authenticates the client to the token endpoint.
    pub client_certificate: Option<ClientCertificate>,
    /// The settings of a person's login, if the grant needs one.
    pub login: Option<Login>,
    /// Further parameters of a token request.
    pub parameters: TokenParameters,
    /// The member names of a token response.
    pub fields: AnswerFields,
    /// The accepted values of the response's `token_type`, compared without regard to case.
    pub token_types: Vec<String>,
    /// Further error codes of the server.
    pub errors: ErrorCodes,
    /// Requested scopes.
    pub scopes: Vec<String>,
    /// Scopes that must have been granted.
    pub require_scopes: Vec<String>,
    /// Whether the token must have the form of a JWT.
    pub expect_jwt: bool,
    /// Time before its expiry at which a token is replaced; at most a fifth of the lifetime applies.
    pub refresh_margin: Duration,
    /// The lifetime of a token if the response states none.
    pub default_lifetime: Duration,
    /// Time for a whole token request that spends no refresh token.
    pub timeout: Duration,
    /// Time for a whole token request that spends a refresh token: whoever gives up early loses the answer, and with it
    /// perhaps the grant.
    pub refresh_timeout: Duration,
    /// Time for a connection to the token endpoint.
    pub connect_timeout: Duration,
    /// The bound on token requests.
    pub quota: Quota,
    /// The bound on requests to the API with the credential's tokens; `None` for no bound.
    pub api_quota: Option<ApiQuota>,
    /// The longest `Retry-After` that is obeyed.
    pub retry_after_max: Duration,
    /// The trusted authorities for the token endpoint.
    pub roots: Roots,
    /// The file of these authorities, if they are from one.
    pub ca_file: Option<PemFile>,
    /// The proxy in front of the token endpoint.
    pub proxy: Option<Proxy>,
    /// The HTTP version spoken with the token endpoint.
    pub http_version: HttpVersion,
    /// Most replacements of a refresh token before a person must log in again; 0 for no limit.
    pub max_rotations: u64,
    /// How long the server still accepts a refresh token that it has replaced.
    pub rotation_grace: Duration,
    /// The state file; `None` to keep nothing.
    pub state: Option<StatePlace>,
    /// Whether the daemon is ready only after this credential has had a token.
    pub required: bool,
    /// The issuer that names the address of the API, for a provider whose issuers do.
    pub discovery: Option<Url>,
    /// Paths of application logins, which the daemon answers itself.
    pub login_stub: Vec<String>,
    /// Requests that could end or replace the credential, as the upstream receives them; no route forwards them.
    pub protected: Vec<Pattern>,
    /// Header fields that the API needs, added if the caller did not send them.
    pub set_if_absent: Vec<(HeaderName, HeaderValue)>,
}

impl Credential {
    /// The configured grant. After a person's login, the identity's grant is the refresh token.
    pub const fn grant_name(&self) -> &'static str {
        if self.login.is_some() { "authorization_code" } else { self.identity.grant.name() }
    }

    /// The longest time for a token request, including the discovery of the token endpoint.
    pub fn longest_request(&self) -> Duration {
        let discovery = if self.token_url.issuer().is_some() { self.timeout } else { Duration::ZERO };
        self.timeout_of(&self.identity.grant).saturating_add(discovery)
    }

    /// Time for a whole token request of this grant.
    pub const fn timeout_of<S>(&self, grant: &Grant<S>) -> Duration {
        if matches!(grant, Grant::RefreshToken(_)) { self.refresh_timeout } else { self.timeout }
    }
}

/// The state file of a credential and its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatePlace {
    /// The file.
    pub path: PathBuf,
    /// The current key, checked; without a key the file holds no token.
    pub key: Option<Secret>,
    /// Previous keys, which only decrypt.
    pub previous_keys: Vec<Secret>,
}

/// A proxy that tunnels TLS (RFC 9110 §9.3.6).
#[derive(Clone, Debug)]
pub struct Proxy {
    /// The URL, which may hold a password.
    pub url: SecretString,
    /// Hosts that are reached without the proxy, as in `NO_PROXY`.
    pub except: String,
}

impl Eq for Proxy {}

impl PartialEq for Proxy {
    fn eq(&self, other: &Self) -> bool {
        (self.url.expose_secret(), &self.except) == (other.url.expose_secret(), &other.except)
    }
}

/// A certificate with its key, for TLS connections that the daemon opens.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate, followed by the certificates up to its authority.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key of the certificate.
    pub key: Arc<PrivateKeyDer<'static>>,
    /// The file of the certificate.
    pub certificate_file: PemFile,
    /// The file of the private key.
    pub key_file: PemFile,
}

/// Without the key.
impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("chain", &self.chain.len()).finish_non_exhaustive()
    }
}

/// A bound on the rate of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// The burst, and the requests refilled over `per`.
    pub requests: NonZeroU32,
    /// The time of the refill, never zero.
    pub per: Duration,
}

/// The rate limit of an API for one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApiQuota {
    /// The most requests in any interval of `per`.
    pub requests: NonZeroU32,
    /// The interval, never zero.
    pub per: Duration,
    /// Whether the API's own words about its limit lower the bound.
    pub learn: bool,
    /// How long a request may wait for its turn.
    pub wait: Duration,
}

/// The trusted certificate authorities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// The authorities of the operating system.
    System,
    /// These authorities only; none for a plain http URL.
    Only(Vec<CertificateDer<'static>>),
    /// These authorities, and those of the operating system.
    SystemAnd(Vec<CertificateDer<'static>>),
}

/// The HTTP version spoken with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/2 if the server offers it (ALPN), else HTTP/1.1.
    Auto,
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
}
