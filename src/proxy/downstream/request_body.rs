//! The body of a client's request, over either version of HTTP.

use std::cell::{Cell, RefCell};
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

use super::read_ahead::{ReadAhead, Reader};
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
    /// `None` for a request without a body.
    body: Option<Rc<RefCell<ReadAhead>>>,
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
    /// The body of the request with this head.
    pub(super) fn new(head: &Parts, from: RecvStream) -> Self {
        if from.is_end_stream() {
            return Self { body: None, continuation: None };
        }
        // The guard refuses any other expectation.
        let continuation = head.headers.contains_key(EXPECT).then(Continuation::default);
        let body = ReadAhead::new(Http2Body::new(from, content_length(&head.headers)));
        Self { body: Some(body), continuation }
    }

    /// What becomes of an expectation of the client.
    pub(super) fn continuation(&self) -> Option<Continuation> {
        self.continuation.clone()
    }

    /// Reads the body ahead; does nothing for a request without one.
    pub(super) fn reader(&self) -> Reader {
        self.body.as_ref().map_or_else(Reader::default, Reader::of)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.borrow().is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), |body| body.borrow().size_hint())
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(Continuation(is_wanted)) = self.continuation.take() {
            is_wanted.set(true);
        }
        match &self.body {
            Some(body) => body.borrow_mut().poll_frame(cx),
            None => Poll::Ready(None),
        }
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
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
