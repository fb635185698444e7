//! One HTTP exchange with an authorization server: its body, read up to a bound, and its failures as a [`TokenError`].
//!
//! No error quotes the URL.

use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use url::Url;

use crate::causes::causes;
use crate::http::retry_after;
use crate::token::error::{Malformed, TokenError, printable};

/// The largest body of a response that is read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The [`TokenError::Throttled`] of a response that limits the rate of requests: a 429, or a 503 with `Retry-After`.
pub(super) fn throttled(status: StatusCode, headers: &HeaderMap) -> Option<TokenError> {
    let retry_after = retry_after(headers);
    let is_throttled = match status {
        StatusCode::TOO_MANY_REQUESTS => true,
        StatusCode::SERVICE_UNAVAILABLE => retry_after.is_some(),
        _ => false,
    };
    let status = status.as_u16();
    is_throttled.then_some(TokenError::Throttled { status, retry_after, at_least: Duration::ZERO })
}

/// Fetches a document. Answers its status and, if that is 200, its body.
///
/// # Errors
///
/// [`TokenError::Throttled`], and those of [`read`].
pub(super) async fn get(http: &reqwest::Client, url: Url) -> Result<(StatusCode, Vec<u8>), TokenError> {
    let mut response = http.get(url).header(ACCEPT, "application/json").send().await.map_err(network)?;
    let status = response.status();
    if let Some(throttled) = throttled(status, response.headers()) {
        return Err(throttled);
    }
    let body = if status == StatusCode::OK { read(&mut response).await? } else { Vec::new() };
    Ok((status, body))
}

/// Reads the body.
///
/// # Errors
///
/// [`TokenError::Malformed`] where the body is larger than [`MAX_ANSWER_BYTES`] or incomplete, [`TokenError::Network`] on a
/// time-out.
pub(super) async fn read(response: &mut reqwest::Response) -> Result<Vec<u8>, TokenError> {
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_ANSWER_BYTES => {
                return Err(TokenError::Malformed(Malformed::TooLarge));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) if error.is_timeout() => return Err(network(error)),
            Err(_) => return Err(TokenError::Malformed(Malformed::Incomplete)),
        }
    }
}

/// The [`TokenError`] of a request that failed, with the message of the innermost cause.
pub(super) fn network(error: reqwest::Error) -> TokenError {
    TokenError::Network(match (error.is_timeout(), error.is_connect()) {
        (true, true) => "no connection in time".to_owned(),
        (true, false) => "no complete answer in time".to_owned(),
        _ => printable(&causes(&error.without_url()).last().map(ToString::to_string).unwrap_or_default()),
    })
}
