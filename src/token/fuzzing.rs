//! The fuzz targets of private functions: responses to token requests, paths in them, issuers' metadata and state files.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, StatusCode};
use secrecy::SecretString;

use super::endpoint::classify::{Asked, classify};
use super::endpoint::exchange::Body;
use super::endpoint::metadata::Metadata;
use super::endpoint::response::{Expected, MAX_LIFETIME};
pub use super::state::fuzzing::state_file;
use crate::config::Issuer;
use crate::config::model::request::{AnswerFields, ErrorCodes};

const SECRET: &str = "correct-horse-battery-staple";

/// Classifies a response. The input has two bytes for the status and the situation, a line with
/// `Retry-After`, a line with `Date`, and the body.
///
/// # Panics
///
/// If the result has a lifetime of more than a year, or quotes the client's secret.
pub fn answer(answer: &[u8]) {
    let [high, low, rest @ ..] = answer else { return };
    let number = u16::from_be_bytes([*high, *low]);
    let Ok(status) = StatusCode::from_u16(100 + number % 500) else { return };
    let situation = number / 500;
    let mut parts = rest.splitn(3, |byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    for name in [RETRY_AFTER, DATE] {
        let value = parts.next().filter(|value| !value.is_empty()).map(HeaderValue::from_bytes);
        if let Some(Ok(value)) = value {
            headers.insert(name, value);
        }
    }
    let body = parts.next().unwrap_or_default();
    let body = Body { bytes: body.to_owned().into(), is_complete: situation & 4 == 0 };
    let asked = Asked {
        expected: Expected { fields: &AnswerFields::default(), token_types: &["Bearer".to_owned()] },
        errors: &ErrorCodes { dead: vec!["session_over".to_owned()], ..ErrorCodes::default() },
        secrets: &[SecretString::from(SECRET)],
        holds_token: situation & 1 != 0,
        spends_refresh_token: situation & 2 != 0,
    };
    match classify(status, &headers, &body, &asked) {
        Ok(grant) => {
            assert!(grant.lifetime.unwrap_or(Duration::ZERO) <= MAX_LIFETIME);
            assert!(body.is_complete || grant.access_token.is_empty());
        }
        Err(error) => assert!(!format!("{error} {error:?}").contains(SECRET)),
    }
}

/// Reads a response's access token at a path. The input has a line with the path, and the body.
///
/// # Panics
///
/// If a path has an empty name, or another reader of JSON finds another token there.
pub fn member_path(input: &[u8]) {
    let Some(end) = input.iter().position(|byte| *byte == b'\n') else { return };
    let Ok(path) = str::from_utf8(&input[..end]) else { return };
    let Ok(access_token) = path.parse() else { return };
    assert!(path.split('.').all(|name| !name.is_empty()));
    let body = &input[end + 1..];
    let asked = Asked {
        expected: Expected {
            fields: &AnswerFields { access_token, ..AnswerFields::default() },
            token_types: &["Bearer".to_owned()],
        },
        errors: &ErrorCodes::default(),
        secrets: &[],
        holds_token: false,
        spends_refresh_token: false,
    };
    let read = Body { bytes: body.to_owned().into(), is_complete: true };
    let Ok(grant) = classify(StatusCode::OK, &HeaderMap::new(), &read, &asked) else { return };
    if grant.flaw.is_some() {
        return;
    }
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else { return };
    let nested = || path.split('.').try_fold(&json, |json, name| json.get(name));
    let found = json.get(path).filter(|value| !value.is_null()).or_else(nested);
    assert_eq!(found.and_then(serde_json::Value::as_str), Some(grant.access_token.as_str()));
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
            assert_eq!(metadata.token_endpoint.scheme(), "https");
            assert!(metadata.authorization_endpoint().map_or(true, |url| url.scheme() == "https"));
        }
    }
}
