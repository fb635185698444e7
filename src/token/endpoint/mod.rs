//! Token requests to an authorization server, and their responses.
//!
//! The [`TokenClient`] follows no redirect (the new address would receive the secret), repeats no request by itself, accepts
//! no compression and reads at most 64 KiB. No error quotes the URL or a secret. Where only the issuer is configured, its
//! metadata is fetched first, to learn the token endpoint. From request to token:
//!
//! - [`request`] and [`assertion`]: the parameters of a token request, and the JWTs in it;
//! - `exchange`: the HTTP exchange;
//! - [`mod@classify`]: what a response means, by one table;
//! - [`response`], [`error_response`], [`members`], `foreign` and [`redact`]: what a response holds, and what must not be
//!   quoted from it;
//! - [`validate`] and [`warnings`]: whether a token meets the credential's requirements, and what is reported but accepted;
//! - [`metadata`]: an issuer's metadata.

pub(in crate::token) mod assertion;
pub(in crate::token) mod classify;
mod error_response;
pub(in crate::token) mod exchange;
mod foreign;
mod members;
pub mod metadata;
pub(in crate::token) mod redact;
pub(in crate::token) mod request;
pub mod response;
pub(in crate::token) mod validate;
pub(in crate::token) mod warnings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use http::StatusCode;
use rustls::client::Resumption;
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use self::classify::{Asked, classify};
use self::exchange::{network, read};
use self::foreign::foreign;
use self::metadata::Metadata;
use self::request::TokenRequest;
use self::response::{Expected, TokenResponse};
use super::access_token::AccessToken;
use super::error::{Malformed, TokenError};
use crate::config::model::identity::Grant;
use crate::config::{Credential, Endpoint, HttpVersion, Identity, Issuer};
use crate::tls::client::{HTTP_1, HTTP_2, HTTP_2_OR_1, Trust, TrustError};

/// How long an idle connection to the token endpoint is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// TLS sessions that can be resumed: eight, as many as rustls keeps, of each of four servers. The room is taken at once, and
/// that for rustls' default of 32 servers is more memory than the rest of a credential has.
const KEPT_SESSIONS: usize = 4 * 8;

/// The credential's latest token during a token request.
#[derive(Clone, Copy, Debug)]
pub struct HeldToken<'a> {
    /// The token, which no error may quote.
    pub token: &'a AccessToken,
    /// Whether the token has not expired and no upstream has rejected it.
    pub is_usable: bool,
}

/// Makes token requests.
pub trait TokenEndpoint: Send + Sync {
    /// Takes over what an endpoint of the same address has learnt, which had other settings.
    fn take_over(&mut self, _before: &Self) {}

    /// Makes one token request.
    ///
    /// # Errors
    ///
    /// [`TokenError`], which quotes neither a secret nor the current token.
    fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<HeldToken<'_>>,
    ) -> impl Future<Output = Result<TokenResponse, TokenError>> + Send;
}

/// Makes one credential's token requests over HTTP.
#[derive(Debug)]
pub struct TokenClient {
    http: reqwest::Client,
    /// The issuer's metadata, if it has been fetched.
    metadata: ArcSwapOption<Metadata>,
    /// Whether to fetch the metadata again before the next token request.
    is_doubtful: AtomicBool,
}

/// Why a client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// TLS cannot be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

impl TokenClient {
    /// A client with the credential's own time-outs and certificate authorities.
    pub fn new(credential: &Credential, trust: &Trust) -> Result<Self, ClientError> {
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that makes the client of token requests"
        )]
        let builder = reqwest::Client::builder();
        let (alpn, builder) = match credential.http_version {
            HttpVersion::Auto => (HTTP_2_OR_1, builder),
            HttpVersion::Http1 => (HTTP_1, builder.http1_only()),
            HttpVersion::Http2 => (HTTP_2, builder.http2_prior_knowledge()),
        };
        let mut tls = trust.client_config(credential.client_certificate.as_ref(), &credential.roots, alpn)?;
        tls.resumption = Resumption::in_memory_sessions(KEPT_SESSIONS);
        // The configuration has taken the environment's proxy into account already.
        let mut builder = builder.no_proxy();
        if let Some(proxy) = &credential.proxy {
            let except = reqwest::NoProxy::from_string(&proxy.except);
            let proxy = reqwest::Proxy::https(proxy.url.expose_secret());
            builder = builder.proxy(proxy.map_err(without_url)?.no_proxy(except));
        }
        let http = builder
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .user_agent(concat!("bearerd/", env!("CARGO_PKG_VERSION")))
            .timeout(credential.timeout)
            .connect_timeout(credential.connect_timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(1)
            .build()
            .map_err(without_url)?;
        Ok(Self { http, metadata: ArcSwapOption::empty(), is_doubtful: AtomicBool::new(false) })
    }

    /// The issuer's metadata, if it has been fetched.
    pub fn known_metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// The issuer's metadata: fetched once, and again when it seems to be out of date. Where that fails, the metadata that
    /// was fetched before is used.
    ///
    /// # Errors
    ///
    /// [`TokenError::Discovery`] or [`TokenError::Throttled`], unless metadata was fetched before.
    pub async fn metadata(
        &self,
        issuer: &Issuer,
        credential: &Credential,
    ) -> Result<Arc<Metadata>, TokenError> {
        let known = self.known_metadata();
        let is_doubtful = self.is_doubtful.swap(false, Ordering::Relaxed);
        if let Some(known) = known.as_ref().filter(|_| !is_doubtful) {
            return Ok(Arc::clone(known));
        }
        match metadata::discover(&self.http, issuer, credential).await {
            Ok(found) => {
                let found = Arc::new(found);
                self.metadata.store(Some(Arc::clone(&found)));
                Ok(found)
            }
            Err(error) => known.ok_or(error),
        }
    }

    /// Makes a token request at the endpoint that the issuer's metadata names. If the endpoint is gone, the
    /// next request fetches the metadata again. A gone endpoint is a rejection only if the metadata was
    /// fetched for this request; older metadata may name an endpoint that has moved.
    async fn exchange_at(
        &self,
        issuer: &Issuer,
        credential: &Credential,
        (request, timeout): (&TokenRequest, Duration),
        asked: &Asked<'_>,
    ) -> Result<TokenResponse, TokenError> {
        let known = self.known_metadata();
        let metadata = self.metadata(issuer, credential).await?;
        let is_fresh = known.as_ref().is_none_or(|known| !Arc::ptr_eq(known, &metadata));
        if is_fresh {
            warnings::of_metadata(known.as_deref(), &metadata, credential);
        }
        let outcome = self.exchange(metadata.token_endpoint.clone(), (request, timeout), asked).await;
        if outcome.as_ref().is_err_and(|error| error.refuses_grant() || error.refuses_client()) {
            // The endpoint itself has answered, whatever the status.
            return outcome;
        }
        let gone = match &outcome {
            Err(
                TokenError::Rejected { status: status @ (300..=399 | 404 | 405 | 410), .. }
                | TokenError::Unavailable { status: status @ (404 | 405 | 410), .. }
                | TokenError::Server(status @ (404 | 405 | 410)),
            ) => Some(*status),
            _ => None,
        };
        if gone.is_some() || matches!(outcome, Err(TokenError::Network(_) | TokenError::Unreached(_))) {
            self.is_doubtful.store(true, Ordering::Relaxed);
        }
        match gone.filter(|_| !is_fresh) {
            Some(status) => Err(TokenError::Server(status)),
            None => outcome,
        }
    }

    /// Fetches a document with the settings of token requests. Returns the status and, if the status is 200,
    /// the body.
    pub(super) async fn fetch(&self, url: Url) -> Result<(StatusCode, Zeroizing<Vec<u8>>), TokenError> {
        exchange::get(&self.http, url).await
    }

    async fn exchange(
        &self,
        token_url: Url,
        (request, timeout): (&TokenRequest, Duration),
        asked: &Asked<'_>,
    ) -> Result<TokenResponse, TokenError> {
        let http_request = self
            .http
            .post(token_url)
            .timeout(timeout)
            .headers(request.headers.clone())
            .body(request.body.clone());
        let mut response = http_request.send().await.map_err(network)?;
        let status = response.status();
        let (mut body, flaw) = read(&mut response).await;
        if let Some(too_large @ TokenError::Malformed(Malformed::TooLarge)) = &flaw {
            let foreign = foreign(response.headers(), &body.bytes, asked.secrets);
            match (status.is_success(), foreign) {
                (true, foreign) => {
                    return Err(foreign.map_or_else(|| too_large.clone(), TokenError::Malformed));
                }
                (false, Some(_)) => {}
                // The response is classified by its status.
                (false, None) => body.bytes.clear(),
            }
        }
        let outcome = classify(status, response.headers(), &body, asked);
        match (outcome, flaw) {
            (Err(TokenError::Malformed(_)), Some(flaw)) => Err(flaw),
            (outcome, _) => outcome,
        }
    }
}

impl TokenEndpoint for TokenClient {
    /// Keeps the issuer's metadata for as long as the issuer does not answer.
    fn take_over(&mut self, before: &Self) {
        self.metadata = ArcSwapOption::new(before.known_metadata());
        self.is_doubtful = AtomicBool::new(true);
    }

    async fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<HeldToken<'_>>,
    ) -> Result<TokenResponse, TokenError> {
        let mut request = TokenRequest::new(credential, identity)?;
        request.secrets.extend(current.map(|held| SecretString::from(held.token.as_str())));
        let asked = Asked {
            expected: Expected { fields: &credential.fields, token_types: &credential.token_types },
            errors: &credential.errors,
            secrets: &request.secrets,
            holds_token: current.is_some_and(|held| held.is_usable),
            spends_refresh_token: matches!(identity.grant, Grant::RefreshToken(_)),
        };
        let request = (&request, credential.timeout_of(&identity.grant));
        match &credential.token_url {
            Endpoint::Written(url) | Endpoint::OfPreset { url, .. } => {
                self.exchange(url.clone(), request, &asked).await
            }
            Endpoint::OfIssuer(issuer) => self.exchange_at(issuer, credential, request, &asked).await,
        }
    }
}

/// The error without its URL: a proxy's URL may hold a password.
fn without_url(error: reqwest::Error) -> ClientError {
    ClientError::Http(error.without_url())
}
