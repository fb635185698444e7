//! The document with the address of an organization's API: fetching and reading it.

use std::time::Duration;

use serde::Deserialize;
use thiserror::Error;
use url::Url;

use super::address::{AddressRefusal, DiscoveredApi, accept};
use crate::config::Credential;
use crate::tls::client::Trust;
use crate::token::endpoint::{ClientError, TokenClient};
use crate::token::error::{Malformed, TokenError};

/// Looks up the address of an organization's API.
pub trait Documents: Send + Sync {
    /// Fetches the document of a tenant once.
    fn find(&self, tenant: &str) -> impl Future<Output = Result<DiscoveredApi, DiscoveryError>> + Send;
}

/// Why the API's address is unknown. Quotes nothing of a response.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum DiscoveryError {
    /// The access token names no tenant.
    #[error("the access token names no tenant (a JWT with `tenantId`)")]
    NoTenant,
    /// No response arrived: connection refused or reset, TLS, time-out, DNS.
    #[error("the issuer did not answer: {0}")]
    Network(String),
    /// The issuer limits the rate of requests.
    #[error("the issuer asks to be left alone for a while (status {status})")]
    Throttled {
        /// The status code.
        status: u16,
        /// The wait that the issuer asks for, within `retry_after_max`; zero if it asks for none.
        wait: Duration,
    },
    /// The status is not 200; redirects are not followed.
    #[error("the issuer answered with status {0}")]
    Status(u16),
    /// The body is larger than is read.
    #[error("the issuer's document is larger than 64 KiB")]
    TooLarge,
    /// The connection ended within the body.
    #[error("the issuer's document is incomplete")]
    Incomplete,
    /// The body is not JSON with an `api_endpoint`.
    #[error("the issuer's document is not JSON with an `api_endpoint`")]
    Malformed,
    /// The `api_endpoint` is not accepted.
    #[error("the `api_endpoint` of the issuer's document is refused: {0}")]
    Refused(#[from] AddressRefusal),
}

impl DiscoveryError {
    /// The failure without any address or text from outside.
    pub fn outcome(&self) -> String {
        match self {
            Self::Network(_) => "the issuer did not answer".to_owned(),
            other => other.to_string(),
        }
    }
}

/// The one member that is read.
#[derive(Deserialize)]
struct Document {
    api_endpoint: String,
}

/// Fetches the documents of an issuer of CXone, with the settings of token requests.
#[derive(Debug)]
pub struct IssuerClient {
    client: TokenClient,
    issuer: Url,
    /// The longest `Retry-After` that is obeyed.
    retry_after_max: Duration,
}

impl IssuerClient {
    /// A client for a credential whose provider has such documents; `None` for others.
    pub fn new(credential: &Credential, trust: &Trust) -> Result<Option<Self>, ClientError> {
        let Some(issuer) = credential.discovery.clone() else { return Ok(None) };
        let client = TokenClient::new(credential, trust)?;
        Ok(Some(Self { client, issuer, retry_after_max: credential.retry_after_max }))
    }

    fn failure(&self, error: TokenError) -> DiscoveryError {
        match error {
            TokenError::Network(why) | TokenError::Unreached(why) => DiscoveryError::Network(why),
            TokenError::Throttled { status, retry_after, .. } => DiscoveryError::Throttled {
                status,
                wait: retry_after.unwrap_or_default().min(self.retry_after_max),
            },
            TokenError::Malformed(Malformed::TooLarge) => DiscoveryError::TooLarge,
            _ => DiscoveryError::Incomplete,
        }
    }
}

impl Documents for IssuerClient {
    async fn find(&self, tenant: &str) -> Result<DiscoveredApi, DiscoveryError> {
        let fetched = self.client.fetch(document_of(&self.issuer, tenant)).await;
        let (status, body) = fetched.map_err(|error| self.failure(error))?;
        if status != http::StatusCode::OK {
            return Err(DiscoveryError::Status(status.as_u16()));
        }
        let document: Document = serde_json::from_slice(&body).map_err(|_| DiscoveryError::Malformed)?;
        Ok(accept(&document.api_endpoint, &self.issuer)?)
    }
}

fn document_of(issuer: &Url, tenant: &str) -> Url {
    let mut url = issuer.clone();
    if let Ok(mut path) = url.path_segments_mut() {
        path.pop_if_empty().extend([".well-known", "cxone-configuration"]);
    }
    url.query_pairs_mut().append_pair("tenantId", tenant);
    url
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_below_the_issuer_and_the_tenant_is_one_parameter() {
        for (issuer, tenant, expected) in [
            (
                "https://cxone.niceincontact.com",
                "11eb-0f",
                "https://cxone.niceincontact.com/.well-known/cxone-configuration?tenantId=11eb-0f",
            ),
            (
                "https://as.test/base/",
                "a&b=c#/../é",
                "https://as.test/base/.well-known/cxone-configuration?tenantId=a%26b%3Dc%23%2F..%2F%C3%A9",
            ),
        ] {
            assert_eq!(document_of(&Url::parse(issuer).unwrap(), tenant).as_str(), expected);
        }
    }
}
