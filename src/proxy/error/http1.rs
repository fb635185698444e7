//! Error responses as HTTP/1.1 bytes (RFC 9112 §4), for connections on which hyper does not write them.

use bytes::Bytes;
use http::Version;

use super::ProxyError;
use crate::http::{RequestId, X_REQUEST_ID};

/// The complete response to `error`, with the identifier of the request.
pub(in crate::proxy) fn plain(error: &ProxyError, request_id: &RequestId) -> Bytes {
    let mut response = error.response(Version::HTTP_11);
    response.headers_mut().insert(X_REQUEST_ID, request_id.value().clone());
    let reason = response.status().canonical_reason().unwrap_or_default();
    let mut text = format!("HTTP/1.1 {} {reason}\r\n", response.status().as_u16()).into_bytes();
    for (name, value) in response.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let date = httpdate::fmt_http_date(crate::clock::wall_clock());
    let end = format!("content-length: {}\r\ndate: {date}\r\n\r\n", response.body().len());
    text.extend_from_slice(end.as_bytes());
    text.extend_from_slice(response.body());
    Bytes::from(text)
}
