//! A request for a connection of either version of HTTP.

use std::error::Error;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use http_body::Body;

type BoxError = Box<dyn Error + Send + Sync>;

/// The body of a request to an upstream.
pub trait RequestBody: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Unpin + 'static> RequestBody for B {}

/// Takes the interim responses to a request as they arrive (RFC 9110 §15.2).
pub type InterimSink<'s> = &'s mut dyn FnMut(Response<()>);

/// A request to an upstream.
#[derive(Debug)]
pub struct Outgoing<B> {
    /// Boxed: large, and moved between futures.
    pub head: Box<Parts>,
    /// The request body.
    pub body: B,
}

impl<B> From<Request<B>> for Outgoing<B> {
    fn from(request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        Self { head: Box::new(head), body }
    }
}
