//! The fuzz targets of private functions: responses to token requests, issuers' metadata and state files.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use secrecy::SecretString;

use super::endpoint::metadata::Metadata;
use super::endpoint::response::{MAX_LIFETIME, classify};
pub use super::state::fuzzing::state_file;
use crate::config::Issuer;
use crate::config::model::endpoint::is_protected;
use crate::config::model::request::AnswerFields;

const SECRET: &str = "correct-horse-battery-staple";

/// Classifies a response: two bytes of status, a line of `Retry-After`, a line of `Date`, and the body.
///
/// # Panics
///
/// If the result has a lifetime of more than a year, or quotes the client's secret.
pub fn answer(answer: &[u8]) {
    let [high, low, rest @ ..] = answer else { return };
    let status = 100 + u16::from_be_bytes([*high, *low]) % 500;
    let Ok(status) = StatusCode::from_u16(status) else { return };
    let mut parts = rest.splitn(3, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [RETRY_AFTER, DATE] {
        let value = parts.next().filter(|value| !value.is_empty()).map(HeaderValue::from_bytes);
        if let Some(Ok(value)) = value {
            headers.insert(name, value);
        }
    }
    let body = parts.next().unwrap_or_default();
    let secrets = [SecretString::from(SECRET)];
    match classify(status, &headers, body, &AnswerFields::default(), &secrets) {
        Ok(grant) => assert!(grant.lifetime.unwrap_or(Duration::ZERO) <= MAX_LIFETIME),
        Err(error) => assert!(!format!("{error} {error:?}").contains(SECRET)),
    }
}

/// Reads the input as the metadata of `https://as.example.com`.
///
/// # Panics
///
/// If the result has an endpoint to which no secret may be sent.
pub fn metadata(json: &[u8]) {
    let identifier = "https://as.example.com";
    let Ok(url) = url::Url::parse(identifier) else { return };
    let issuer = Issuer::new(identifier, url);
    for shows_certificate in [false, true] {
        if let Ok(metadata) = Metadata::parse(json, &issuer, shows_certificate) {
            assert!(is_protected(&metadata.token_endpoint));
            assert!(metadata.authorization_endpoint().map_or(true, |url| is_protected(&url)));
        }
    }
}
