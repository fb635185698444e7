//! The token leg: one request to the token endpoint, and its answer.
//!
//! The client follows no redirect (it would carry the secret elsewhere), retries nothing by itself, decodes
//! no compression and reads at most 64 KiB. An error never quotes the URL or the secret.

use std::time::Duration;

use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::access_token::AccessToken;
use super::confidential::Confidential;
use super::error::{Malformed, TokenError, printable};
use super::grant::TokenRequest;
use super::wire::{self, Grant};
use crate::causes::causes;
use crate::config::{Credential, HttpVersion, Identity};
use crate::tls::client::{HTTP_1, HTTP_2, HTTP_2_OR_1, Trust, TrustError};

const MAX_ANSWER_BYTES: usize = 64 * 1024;
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
        let tls = trust.client_config_as(credential.client_certificate.as_ref(), &credential.roots, alpn)?;
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
        Ok(Self { http })
    }

    /// Fetches a document by the same way. Nothing is sent but its URL, which no error quotes.
    pub(super) async fn fetch(&self, url: Url) -> Result<(StatusCode, Vec<u8>), TokenError> {
        let request = self.http.get(url).header(ACCEPT, "application/json");
        let mut response = request.send().await.map_err(|error| network(&error.without_url()))?;
        let body = read(&mut response).await?;
        Ok((response.status(), body))
    }

    async fn exchange(
        &self,
        credential: &Credential,
        request: &TokenRequest,
        current: Option<&AccessToken>,
    ) -> Result<Grant, TokenError> {
        let mut http_request = self
            .http
            .post(credential.token_url.clone())
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
            Ok(body) => wire::classify(status, headers, &body, &credential.fields, confidential),
            // A refusal is a refusal, however much of its text arrived.
            Err(error) if status.is_success() => Err(error),
            Err(_) => wire::classify(status, headers, b"", &credential.fields, confidential),
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
        self.exchange(credential, &request, current).await
    }
}

/// A proxy's URL may hold a password.
fn without_url(error: reqwest::Error) -> ClientError {
    ClientError::Http(error.without_url())
}

async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, TokenError> {
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

/// What went wrong on the way, in the words of its innermost cause.
fn network(error: &reqwest::Error) -> TokenError {
    if error.is_timeout() {
        let place = if error.is_connect() { "no connection in time" } else { "no complete answer in time" };
        return TokenError::Network(place.to_owned());
    }
    let innermost = causes(error).last().map(ToString::to_string).unwrap_or_default();
    TokenError::Network(printable(&innermost))
}
