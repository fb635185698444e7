//! A login of the caller's own: answered here and never forwarded.
//!
//! An SDK that cannot do without a token of its own gets one that is worth nothing; ours takes its place in each
//! request. What it logs in with is read and thrown away.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::proxy::body::replay::{Fault, Payload};

/// RFC 6749 §5.1, with the lifetime that Genesys Cloud has: a day.
const ANSWER: &[u8] = br#"{"access_token":"bearerd-local","token_type":"bearer","expires_in":86399}"#;

/// Reads the login to its end; nothing of it is kept.
///
/// # Errors
///
/// [`Fault`] if the body is too large, broke off or stopped coming.
pub async fn swallow(payload: &Payload<Incoming>) -> Result<(), Fault> {
    payload.forget();
    let mut body = payload.first();
    while let Some(piece) = body.frame().await {
        piece?;
    }
    Ok(())
}

/// What the caller is told.
pub fn response() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(ANSWER));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
