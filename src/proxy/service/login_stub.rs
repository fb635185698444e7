//! Synthetic response to a caller's own OAuth login (`login_stub`). The login is never forwarded.
//!
//! Some SDKs cannot work without a token of their own. The stub issues a worthless one; the credential's token replaces
//! it in each request.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use crate::proxy::body::replay::{BodyError, ReplayBody};

/// A token response (RFC 6749 §5.1) with the lifetime of Genesys Cloud's tokens: a day.
const TOKEN_RESPONSE: &[u8] = br#"{"access_token":"bearerd-local","token_type":"bearer","expires_in":86399}"#;

/// Reads the login to its end and discards it.
///
/// # Errors
///
/// [`BodyError`] if the body is too large, stalls or ends prematurely.
pub(super) async fn discard(request_body: &ReplayBody<Incoming>) -> Result<(), BodyError> {
    request_body.free_buffer();
    let mut body = request_body.first();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// The token response.
pub(super) fn response() -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(TOKEN_RESPONSE));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
