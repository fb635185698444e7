//! A request as it is handed to a connection.

use http::Request;
use http::request::Parts;

/// A request on its way to an upstream.
#[derive(Debug)]
pub struct Outgoing<B> {
    /// Boxed, as it is large and handed from one future to the next.
    pub head: Box<Parts>,
    /// What is sent behind it.
    pub body: B,
}

impl<B> From<Request<B>> for Outgoing<B> {
    fn from(request: Request<B>) -> Self {
        let (head, body) = request.into_parts();
        Self { head: Box::new(head), body }
    }
}

impl<B> From<Outgoing<B>> for Request<B> {
    fn from(outgoing: Outgoing<B>) -> Self {
        Self::from_parts(*outgoing.head, outgoing.body)
    }
}
