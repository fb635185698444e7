//! The body of a client's request, over either version of HTTP.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use http::header::EXPECT;
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use crate::proxy::body::http2::{Http2Body, content_length};

/// The body of a client's request.
#[derive(Debug)]
pub enum ClientBody {
    /// Over HTTP/1.
    Http1(Incoming),
    /// Over HTTP/2.
    Http2(StreamBody),
}

/// The body of a request over HTTP/2, and the 100 that its first poll sends.
#[derive(Debug)]
pub struct StreamBody {
    body: Http2Body,
    continuation: Option<Continuation>,
}

/// Whether a client that expects a 100 is to get it (RFC 9110 §10.1.1).
#[derive(Clone, Debug, Default)]
pub(super) struct Continuation(Rc<Cell<bool>>);

/// Why a request body is incomplete.
#[derive(Debug, Error)]
pub enum ClientBodyError {
    /// Over HTTP/1.
    #[error(transparent)]
    Http1(#[from] hyper::Error),
    /// Over HTTP/2.
    #[error(transparent)]
    Http2(#[from] h2::Error),
}

impl StreamBody {
    /// The body of the request with this head, and what becomes of an expectation of the client.
    pub(super) fn new(head: &Parts, from: RecvStream) -> (Self, Option<Continuation>) {
        // The guard refuses any other expectation.
        let expects = !from.is_end_stream() && head.headers.contains_key(EXPECT);
        let continuation = expects.then(Continuation::default);
        let body = Http2Body::new(from, content_length(&head.headers));
        let body = Self { body, continuation: continuation.clone() };
        (body, continuation)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(Continuation(is_wanted)) = self.continuation.take() {
            is_wanted.set(true);
        }
        self.body.poll_frame(cx)
    }
}

impl Continuation {
    /// Whether the 100 is to be sent now.
    pub(super) fn take(&self) -> bool {
        self.0.take()
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = ClientBodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ClientBodyError>>> {
        match self.get_mut() {
            Self::Http1(body) => Pin::new(body).poll_frame(cx).map_err(ClientBodyError::Http1),
            Self::Http2(body) => body.poll_frame(cx).map_err(ClientBodyError::Http2),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.body.size_hint(),
        }
    }
}
