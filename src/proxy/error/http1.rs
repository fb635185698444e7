//! Error responses as HTTP/1.1 bytes (RFC 9112 §4), for connections on which hyper does not write them.

use bytes::Bytes;
use http::Version;

use super::ProxyError;

/// The complete response to `error`.
pub(in crate::proxy) fn plain(error: &ProxyError) -> Bytes {
    let response = error.response(Version::HTTP_11);
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
