//! A destination for tests, with connections from a function.

use std::fmt;

use http::HeaderValue;

use super::connect::{Connect, Connecting};
use super::destination::Destination;

struct FakeConnect<F> {
    may_speak_http2: bool,
    connect: F,
}

impl<F> fmt::Debug for FakeConnect<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeConnect").finish_non_exhaustive()
    }
}

impl<F: Fn() -> Connecting<'static> + Send + Sync> Connect for FakeConnect<F> {
    fn connect(&self) -> Connecting<'_> {
        (self.connect)()
    }

    fn may_speak_http2(&self) -> bool {
        self.may_speak_http2
    }
}

/// `https://api.example.com`, with `connect` in the place of a network.
pub(crate) fn destination(
    may_speak_http2: bool,
    connect: impl Fn() -> Connecting<'static> + Send + Sync + 'static,
) -> Destination {
    let host = HeaderValue::from_static("api.example.com");
    Destination::new(
        "https://api.example.com".to_owned(),
        host,
        Box::new(FakeConnect { may_speak_http2, connect }),
    )
}
