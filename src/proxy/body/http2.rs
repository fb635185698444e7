//! The body of a message over HTTP/2 as it arrives (RFC 9113 §8.1), from a client or from an upstream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Frame, SizeHint};

/// The `Content-Length` in the fields of a message.
pub fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// A body on a stream. h2 checks the body against the `Content-Length`.
#[derive(Debug)]
pub struct Http2Body {
    from: RecvStream,
    /// The bytes still to come, if the message has a `Content-Length`.
    remaining: Option<u64>,
    has_no_more_data: bool,
}

impl Http2Body {
    /// The body on this stream, of this length if that is known.
    pub const fn new(from: RecvStream, length: Option<u64>) -> Self {
        Self { from, remaining: length, has_no_more_data: false }
    }

    /// Whether the body has ended.
    pub fn is_end_stream(&self) -> bool {
        self.from.is_end_stream()
    }

    /// The bytes still to come, if the message has a `Content-Length`.
    pub const fn remaining(&self) -> Option<u64> {
        self.remaining
    }

    /// The bytes still to come, as far as known.
    pub fn size_hint(&self) -> SizeHint {
        match self.remaining {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(remaining) => SizeHint::with_exact(remaining),
            None => SizeHint::default(),
        }
    }

    /// The next frame; an end before the `Content-Length` is an error.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if let Some(data) = ready!(self.poll_data(cx)) {
            return Poll::Ready(Some(data.map(|data| {
                self.release(data.len());
                Frame::data(data)
            })));
        }
        let trailers = ready!(self.from.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    /// The next data, whose part of the flow-control window stays taken; `None` after the last.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if self.has_no_more_data {
            return Poll::Ready(None);
        }
        let next = ready!(self.from.poll_data(cx));
        match &next {
            Some(Ok(data)) => {
                let length = data.len() as u64;
                self.remaining = self.remaining.map(|remaining| remaining.saturating_sub(length));
            }
            Some(Err(_)) | None => self.has_no_more_data = true,
        }
        Poll::Ready(next)
    }

    /// Gives a part of the flow-control window back.
    pub fn release(&mut self, length: usize) {
        // Fails only for more bytes than were received.
        let _ = self.from.flow_control().release_capacity(length);
    }
}
