//! The token leg: one request to the token endpoint, and its answer.
//!
//! The client follows no redirect (it would carry the secret elsewhere), retries nothing by itself, decodes
//! no compression and reads at most 64 KiB. An error never quotes the URL or the secret. Where only the issuer is known,
//! it is asked for its token endpoint first, in the same way.

pub(in crate::token) mod assertion;
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
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use self::metadata::Metadata;
use self::redact::Confidential;
use self::request::TokenRequest;
use self::response::Grant;
use super::access_token::AccessToken;
use super::error::{Malformed, TokenError, printable};
use crate::causes::causes;
use crate::config::{Credential, Endpoint, HttpVersion, Identity, Issuer};
use crate::http::retry_after;
use crate::tls::client::{HTTP_1, HTTP_2, HTTP_2_OR_1, Trust, TrustError};

/// Larger answers are not read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);

/// Whatever answers token requests.
pub trait TokenEndpoint: Send + Sync {
    /// Asks once for a token; what is said of a failure quotes neither the secret nor the current token.
    ///
    /// # Errors
    ///
    /// Whatever the answer means, or that there was none.
    fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<&AccessToken>,
    ) -> impl Future<Output = Result<Grant, TokenError>> + Send;
}

/// Talks to one credential's token endpoint.
#[derive(Debug)]
pub struct TokenClient {
    http: reqwest::Client,
    /// What the issuer told last, if it was asked.
    metadata: ArcSwapOption<Metadata>,
    /// Whether it is to be asked again before the next request.
    is_doubtful: AtomicBool,
}

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Its TLS cannot be set up.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The HTTP client cannot.
    #[error("the HTTP client cannot be set up")]
    Http(#[source] reqwest::Error),
}

impl TokenClient {
    /// A client with the credential's own time-outs and authorities.
    pub fn new(credential: &Credential, trust: &Trust) -> Result<Self, ClientError> {
        let alpn = match credential.http_version {
            HttpVersion::Auto => HTTP_2_OR_1,
            HttpVersion::Http1 => HTTP_1,
            HttpVersion::Http2 => HTTP_2,
        };
        let tls = trust.client_config(credential.client_certificate.as_ref(), &credential.roots, alpn)?;
        #[expect(clippy::disallowed_methods, reason = "the one place that makes the token leg's client")]
        let mut builder = reqwest::Client::builder();
        match credential.http_version {
            HttpVersion::Auto => {}
            HttpVersion::Http1 => builder = builder.http1_only(),
            HttpVersion::Http2 => builder = builder.http2_prior_knowledge(),
        }
        // The environment's is in the configuration already.
        builder = builder.no_proxy();
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

    /// What the issuer told last, if it was asked.
    pub fn known_metadata(&self) -> Option<Arc<Metadata>> {
        self.metadata.load_full()
    }

    /// What the issuer tells of itself: it is asked once, and again where what it told seems to be out of date. While
    /// it does not answer then, what it told before counts.
    ///
    /// # Errors
    ///
    /// [`TokenError::Discovery`], or that it asks to be left alone, where nothing is known.
    pub async fn metadata(
        &self,
        issuer: &Issuer,
        credential: &Credential,
    ) -> Result<Arc<Metadata>, TokenError> {
        Ok(self.ask_issuer(issuer, credential).await?.0)
    }

    /// The same, and whether it was told just now.
    async fn ask_issuer(
        &self,
        issuer: &Issuer,
        credential: &Credential,
    ) -> Result<(Arc<Metadata>, bool), TokenError> {
        let known = self.known_metadata();
        let is_doubtful = self.is_doubtful.swap(false, Ordering::Relaxed);
        if let Some(known) = known.as_ref().filter(|_| !is_doubtful) {
            return Ok((Arc::clone(known), false));
        }
        match metadata::discover(&self.http, issuer, credential).await {
            Ok(found) => {
                let found = Arc::new(found);
                warnings::of_metadata(known.as_deref(), &found, credential);
                self.metadata.store(Some(Arc::clone(&found)));
                Ok((found, true))
            }
            Err(error) => known.map(|known| (known, false)).ok_or(error),
        }
    }

    /// Asks at the endpoint that the issuer has told. One that is gone may have moved: the next request finds that out,
    /// and only where it has not is it a rejection.
    async fn exchange_at(
        &self,
        issuer: &Issuer,
        credential: &Credential,
        request: &TokenRequest,
        current: Option<&AccessToken>,
    ) -> Result<Grant, TokenError> {
        let (metadata, is_told_now) = self.ask_issuer(issuer, credential).await?;
        let outcome = self.exchange(credential, metadata.token_endpoint.clone(), request, current).await;
        let gone = match &outcome {
            Err(TokenError::Rejected { status: status @ (300..=399 | 404 | 405 | 410), .. }) => Some(*status),
            _ => None,
        };
        if gone.is_some() || matches!(outcome, Err(TokenError::Network(_))) {
            self.is_doubtful.store(true, Ordering::Relaxed);
        }
        match gone.filter(|_| !is_told_now) {
            Some(status) => Err(TokenError::Server { status }),
            None => outcome,
        }
    }

    /// Fetches a document by the same way. Nothing is sent but its URL, which no error quotes.
    pub(super) async fn fetch(&self, url: Url) -> Result<(StatusCode, Vec<u8>), TokenError> {
        let request = self.http.get(url).header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| network(&error.without_url()))?;
        if let Some(throttled) = throttled(&response) {
            return Err(throttled);
        }
        let body = read(&mut response).await?;
        Ok((response.status(), body))
    }

    async fn exchange(
        &self,
        credential: &Credential,
        token_url: Url,
        request: &TokenRequest,
        current: Option<&AccessToken>,
    ) -> Result<Grant, TokenError> {
        let mut http_request = self
            .http
            .post(token_url)
            .header(CONTENT_TYPE, request.content_type)
            .header(ACCEPT, "application/json")
            .body(request.body.expose_secret().to_owned());
        if let Some(authorization) = &request.authorization {
            http_request = http_request.header(AUTHORIZATION, authorization);
        }
        let mut response = http_request.send().await.map_err(|error| network(&error.without_url()))?;
        let status = response.status();
        let body = read(&mut response).await;
        let headers: &HeaderMap = response.headers();
        let confidential = Confidential { secrets: &request.secrets, token: current };
        match body {
            Ok(body) => response::classify(status, headers, &body, &credential.fields, confidential),
            // A refusal is a refusal, however much of its text arrived.
            Err(error) if status.is_success() => Err(error),
            Err(_) => response::classify(status, headers, b"", &credential.fields, confidential),
        }
    }
}

impl TokenEndpoint for TokenClient {
    async fn request(
        &self,
        credential: &Credential,
        identity: &Identity<SecretString>,
        current: Option<&AccessToken>,
    ) -> Result<Grant, TokenError> {
        let request = TokenRequest::new(credential, identity)?;
        match &credential.token_url {
            Endpoint::Written(url) => self.exchange(credential, url.clone(), &request, current).await,
            Endpoint::OfIssuer(issuer) => self.exchange_at(issuer, credential, &request, current).await,
        }
    }
}

/// A proxy's URL may hold a password.
fn without_url(error: reqwest::Error) -> ClientError {
    ClientError::Http(error.without_url())
}

/// That the server asks to be left alone, if it does.
pub(super) fn throttled(response: &reqwest::Response) -> Option<TokenError> {
    let retry_after = retry_after(response.headers());
    let asks = match response.status() {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::SERVICE_UNAVAILABLE => retry_after.is_some(),
        _ => false,
    };
    let status = response.status().as_u16();
    asks.then_some(TokenError::Throttled { status, retry_after, at_least: Duration::ZERO })
}

/// The body, as far as it may be read.
pub(super) async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, TokenError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                return Err(TokenError::Malformed(Malformed::TooLarge));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) if error.is_timeout() => return Err(network(&error.without_url())),
            Err(_) => return Err(TokenError::Malformed(Malformed::Incomplete)),
        }
    }
}

fn network(error: &reqwest::Error) -> TokenError {
    TokenError::Network(words(error))
}

/// What went wrong on the way, in the words of its innermost cause. The error has no URL.
pub(super) fn words(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        let place = if error.is_connect() { "no connection in time" } else { "no complete answer in time" };
        return place.to_owned();
    }
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    printable(&innermost)
}
