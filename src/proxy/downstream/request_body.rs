//! The body of a client's request, over either version of HTTP.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::header::{CONTENT_LENGTH, EXPECT};
use http::request::Parts;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

/// The body of a client's request.
#[derive(Debug)]
pub enum ClientBody {
    /// Over HTTP/1.
    Http1(Incoming),
    /// Over HTTP/2.
    Http2(StreamBody),
}

/// The body of a request over HTTP/2 as it arrives. h2 checks it against the `Content-Length`.
#[derive(Debug)]
pub struct StreamBody {
    from: RecvStream,
    /// The bytes still to come, if the request has a `Content-Length`.
    remaining: Option<u64>,
    has_no_more_data: bool,
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
        let length = head.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        // The guard refuses any other expectation.
        let expects = !from.is_end_stream() && head.headers.contains_key(EXPECT);
        let continuation = expects.then(Continuation::default);
        let body =
            Self { from, remaining: length, has_no_more_data: false, continuation: continuation.clone() };
        (body, continuation)
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(Continuation(is_wanted)) = self.continuation.take() {
            is_wanted.set(true);
        }
        if !self.has_no_more_data {
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(data)) => {
                    let length = data.len();
                    // Fails only for more bytes than were received.
                    let _ = self.from.flow_control().release_capacity(length);
                    self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(length as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.has_no_more_data = true,
            }
        }
        let trailers = ready!(self.from.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
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
            Self::Http2(body) => body.from.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) if body.from.is_end_stream() => SizeHint::with_exact(0),
            Self::Http2(body) => body.remaining.map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}
