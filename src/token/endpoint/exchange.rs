//! One HTTP exchange with an authorization server: its body, read up to a bound, and its failures as a [`TokenError`].
//!
//! No error quotes the URL.

use std::time::Duration;

use http::header::ACCEPT;
use http::{HeaderMap, StatusCode};
use secrecy::zeroize::Zeroizing;
use url::Url;

use crate::causes::causes;
use crate::http::retry_after;
use crate::peer_text::printable;
use crate::tls::diagnosis;
use crate::token::error::{Malformed, TokenError};

/// The largest body of a response that is read.
pub(super) const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// Returns an error if a response to a request for a document limits the rate of requests: a 429, or a 503
/// with `Retry-After`.
fn refuse_throttled(status: StatusCode, headers: &HeaderMap) -> Result<(), TokenError> {
    let retry_after = retry_after(headers);
    match (status.as_u16(), retry_after) {
        (status @ 429, _) | (status @ 503, Some(_)) => {
            Err(TokenError::Throttled { status, retry_after, at_least: Duration::ZERO })
        }
        _ => Ok(()),
    }
}

/// Fetches a document. Answers its status and, if that is 200, its body.
///
/// # Errors
///
/// [`TokenError::Throttled`], and why the body is incomplete.
pub(super) async fn get(
    http: &reqwest::Client,
    url: Url,
) -> Result<(StatusCode, Zeroizing<Vec<u8>>), TokenError> {
    let mut response = http.get(url).header(ACCEPT, "application/json").send().await.map_err(network)?;
    let status = response.status();
    refuse_throttled(status, response.headers())?;
    if status != StatusCode::OK {
        return Ok((status, Zeroizing::default()));
    }
    let (body, flaw) = read(&mut response).await;
    flaw.map_or(Ok((status, body.bytes)), Err)
}

/// The part of a response's body that has arrived. The type has no `Debug`, because a body may hold a token.
pub(in crate::token) struct Body {
    /// The bytes, which are wiped when dropped.
    pub bytes: Zeroizing<Vec<u8>>,
    /// Whether the body ended as announced.
    pub is_complete: bool,
}

/// Reads the body of a response, at most [`MAX_ANSWER_BYTES`]. The second value tells why the body is incomplete, if it is.
pub(super) async fn read(response: &mut reqwest::Response) -> (Body, Option<TokenError>) {
    // The buffer never grows: growing would leave a copy behind that is not wiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_ANSWER_BYTES));
    let flaw = loop {
        match response.chunk().await {
            Ok(Some(chunk)) if bytes.len() + chunk.len() > MAX_ANSWER_BYTES => {
                let room = MAX_ANSWER_BYTES - bytes.len();
                bytes.extend_from_slice(&chunk[..room]);
                break Some(TokenError::Malformed(Malformed::TooLarge));
            }
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break None,
            Err(error) if error.is_timeout() => break Some(network(error)),
            Err(_) => break Some(TokenError::Malformed(Malformed::Incomplete)),
        }
    };
    (Body { bytes, is_complete: flaw.is_none() }, flaw)
}

/// The [`TokenError`] of a request that failed, with the message of the innermost cause or the
/// diagnosis of a TLS failure.
pub(super) fn network(error: reqwest::Error) -> TokenError {
    let (is_timeout, is_connect) = (error.is_timeout(), error.is_connect());
    let why = match (is_timeout, is_connect) {
        (true, true) => "no connection in time".to_owned(),
        (true, false) => "no complete answer in time".to_owned(),
        _ => diagnosis::described(&error).unwrap_or_else(|| {
            printable(&causes(&error.without_url()).last().map(ToString::to_string).unwrap_or_default())
        }),
    };
    if is_connect { TokenError::Unreached(why) } else { TokenError::Network(why) }
}
