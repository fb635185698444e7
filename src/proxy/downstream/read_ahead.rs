//! The body of a request over HTTP/2, read from h2 also while its upstream does not take it.
//!
//! h2 counts small unread frames of all streams together, and ends the connection beyond a bound. Data that a request's
//! upstream does not take is therefore moved into one buffer for each request, which the window of its stream bounds: a
//! request that is not read ends no other.

use std::cell::RefCell;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::proxy::body::http2::Http2Body;

/// A body, and what was read ahead of it.
#[derive(Debug)]
pub(super) struct ReadAhead {
    body: Http2Body,
    /// Bytes that count against the window until they are taken.
    buffer: BytesMut,
    error: Option<h2::Error>,
    is_over: bool,
}

/// The right to read a body ahead, as long as somebody may take it.
#[derive(Clone, Debug, Default)]
pub(super) struct Reader(Weak<RefCell<ReadAhead>>);

impl ReadAhead {
    pub(super) fn new(body: Http2Body) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { body, buffer: BytesMut::new(), error: None, is_over: false }))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.buffer.is_empty() && self.error.is_none() && self.body.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let (rest, ahead) = (self.body.size_hint(), self.buffer.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + ahead);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + ahead);
        }
        hint
    }

    /// The next frame: what was read ahead, then what arrives.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.buffer.is_empty() {
            let data = self.buffer.split().freeze();
            self.body.release(data.len());
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.error.take() {
            Some(error) => Poll::Ready(Some(Err(error))),
            None => self.body.poll_frame(cx),
        }
    }

    /// Reads what has arrived.
    fn read(&mut self, cx: &mut Context<'_>) {
        while !self.is_over
            && let Poll::Ready(next) = self.body.poll_data(cx)
        {
            match next {
                Some(Ok(data)) => self.buffer.extend_from_slice(&data),
                Some(Err(error)) => (self.error, self.is_over) = (Some(error), true),
                None => self.is_over = true,
            }
        }
    }
}

impl Reader {
    pub(super) fn of(body: &Rc<RefCell<ReadAhead>>) -> Self {
        Self(Rc::downgrade(body))
    }

    /// Reads what has arrived, unless the body is dropped.
    pub(super) fn read(&self, cx: &mut Context<'_>) {
        if let Some(body) = self.0.upgrade() {
            body.borrow_mut().read(cx);
        }
    }
}
