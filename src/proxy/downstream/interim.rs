//! Interim responses on their way to a client (RFC 9110 §15.2), in either version of HTTP.
//!
//! h2 sends interim responses. hyper's server does not, so that over HTTP/1.1 their bytes go to the socket between two writes of
//! hyper's: only while everything that hyper has written before is flushed. Interim responses can be left out, and are so
//! for a client of HTTP/1.0, for one that has not read its last response yet, and beyond a bound for each request.

use std::cell::{Cell, RefCell};

use http::{Response, Version};

/// The bound on the interim responses to a request, in bytes.
const MAX_BYTES: usize = 64 * 1024;
/// What an interim response costs beyond its fields, in bytes.
const PER_RESPONSE: usize = 256;

/// The interim responses to one request that are to be sent over HTTP/2.
#[derive(Debug, Default)]
pub(super) struct InterimResponses {
    queue: RefCell<Vec<Response<()>>>,
    /// The bytes of all interim responses to the request so far.
    bytes: Cell<usize>,
}

/// The interim responses that are to be written over HTTP/1.1, and whether they may be.
#[derive(Debug)]
pub(super) struct InterimBytes {
    bytes: RefCell<Vec<u8>>,
    is_flushed: Cell<bool>,
}

impl Default for InterimBytes {
    fn default() -> Self {
        Self { bytes: RefCell::default(), is_flushed: Cell::new(true) }
    }
}

impl InterimResponses {
    /// Another request begins.
    pub(super) fn begin(&self) {
        self.bytes.set(0);
    }

    /// Notes an interim response; over HTTP/1.1 in the bytes of the connection.
    pub(super) fn push(&self, interim: Response<()>, connection: &InterimBytes) {
        let fields = interim.headers().iter().map(|(name, value)| name.as_str().len() + value.len());
        let bytes = self.bytes.get() + PER_RESPONSE + fields.sum::<usize>();
        if bytes > MAX_BYTES {
            return;
        }
        self.bytes.set(bytes);
        match interim.version() {
            Version::HTTP_2 => self.queue.borrow_mut().push(interim),
            Version::HTTP_11 => connection.push(&interim),
            _ => {}
        }
    }

    /// The interim responses since the last call.
    pub(super) fn take(&self) -> Vec<Response<()>> {
        self.queue.take()
    }
}

impl InterimBytes {
    /// The connection has bytes to write (`false`), or all of them are flushed.
    pub(super) fn set_flushed(&self, is_flushed: bool) {
        self.is_flushed.set(is_flushed);
    }

    fn push(&self, interim: &Response<()>) {
        let mut bytes = self.bytes.borrow_mut();
        if !self.is_flushed.get() && bytes.is_empty() {
            return;
        }
        let status = interim.status();
        let reason = status.canonical_reason().unwrap_or_default();
        bytes.extend_from_slice(format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).as_bytes());
        for (name, value) in interim.headers() {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
    }

    /// The bytes that are to be written before any others; empty most often.
    pub(super) fn take(&self) -> Vec<u8> {
        self.bytes.take()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    fn hints(version: Version, link: &str) -> Response<()> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::EARLY_HINTS;
        *response.version_mut() = version;
        response.headers_mut().insert("link", HeaderValue::from_str(link).unwrap());
        response
    }

    #[test]
    fn over_http_1_1_nothing_is_put_between_the_bytes_of_another_response() {
        let (responses, connection) = (InterimResponses::default(), InterimBytes::default());
        responses.push(hints(Version::HTTP_11, "</a>"), &connection);
        let written = String::from_utf8(connection.take()).unwrap();
        assert_eq!(written, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");

        connection.set_flushed(false);
        responses.push(hints(Version::HTTP_11, "</b>"), &connection);
        assert!(connection.take().is_empty());

        connection.set_flushed(true);
        responses.push(hints(Version::HTTP_10, "</c>"), &connection);
        assert!(connection.take().is_empty() && responses.take().is_empty());
    }

    #[test]
    fn the_interim_responses_of_a_request_are_bounded() {
        let (responses, connection) = (InterimResponses::default(), InterimBytes::default());
        for _ in 0..10_000 {
            responses.push(hints(Version::HTTP_2, "</a>"), &connection);
        }
        assert!((200..=256).contains(&responses.take().len()));
        responses.begin();
        responses.push(hints(Version::HTTP_2, "</a>"), &connection);
        assert_eq!(responses.take().len(), 1);
    }
}
