//! An HTTP/1.1 connection to an upstream.
//!
//! The connection carries one request at a time and has no task: the request polls the connection while it waits. The
//! connection therefore closes when its caller leaves, and an idle connection must be checked before its reuse.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::connection::{ConnectionGuard, Lifetime, MAX_BUFFER, Upgraded};
use super::http10_chunks::{Http10Chunks, ResponseStart};
use super::outcome::{ExchangeError, SendError};
use super::request::{Outgoing, RequestBody};
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::message::trailers;
use crate::proxy::upstream::connect::socket::{Stream, drive};

/// The wait for hyper to release the stream of a connection that has switched protocols.
const UPGRADE_TIMEOUT: Duration = Duration::from_millis(500);

/// The most fields of a response head; [`MAX_BUFFER`] bounds its bytes. hyper's tables for so many have at most 32 KiB,
/// up to which the allocator keeps memory for the next request.
const MAX_FIELDS: usize = 1000;

/// An open connection, in use or idle. Dropping it closes the connection.
pub(super) struct Connection<B: RequestBody> {
    sender: http1::SendRequest<B>,
    /// Boxed: large, and moved from request to request.
    inner: Box<Inner<B>>,
}

struct Inner<B: RequestBody> {
    http: http1::Connection<TokioIo<Http10Chunks<Box<dyn Stream>>>, B>,
    start: Rc<ResponseStart>,
    lifetime: Lifetime,
    is_closed: bool,
    guard: ConnectionGuard,
}

impl<B: RequestBody> Connection<B> {
    /// Starts HTTP/1.1 on a new stream to this revision of the destination.
    pub(super) async fn open(
        stream: Box<dyn Stream>,
        revision: u32,
        guard: ConnectionGuard,
    ) -> Result<Self, ForwardError> {
        let start = Rc::<ResponseStart>::default();
        let stream = Http10Chunks::new(stream, Rc::clone(&start));
        let (sender, http) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .max_headers(MAX_FIELDS)
            .handshake::<_, B>(TokioIo::new(stream))
            .await
            .map_err(|error| ForwardError::Protocol(error.to_string()))?;
        let inner = Inner { http, start, lifetime: guard.lifetime(revision), is_closed: false, guard };
        Ok(Self { sender, inner: Box::new(inner) })
    }

    /// Sends a request until the response head arrives.
    pub(super) async fn send(
        &mut self,
        mut request: Outgoing<B>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        trailers::ask_over_http1(&mut request.head.headers);
        let inner = &mut self.inner;
        inner.start.is_next.set(true);
        let response = pin!(self.sender.try_send_request(Request::from_parts(*request.head, request.body)));
        let outcome = drive(response, |cx| {
            let _ = inner.poll(cx);
        });
        outcome.await.map_err(|mut error| {
            let unsent = error.take_message();
            let error = ExchangeError::Http1(error.into_error());
            match unsent {
                Some(request) => SendError::Unsent(request.into(), error),
                None => SendError::Sent(error),
            }
        })
    }

    /// The byte stream after the upstream has switched to another protocol; `None` if HTTP goes on.
    pub(super) async fn into_upgraded(mut self) -> Option<Upgraded> {
        tokio::time::timeout(UPGRADE_TIMEOUT, poll_fn(|cx| self.inner.poll(cx))).await.ok()?;
        let Inner { http, guard, .. } = *self.inner;
        let http1::Parts { io, read_buf, .. } = http.into_parts();
        Some(Upgraded { stream: io.into_inner().stream, read_ahead: read_buf, guard })
    }

    /// Sends and receives what can be sent and received now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let _ = self.inner.poll(cx);
    }

    /// Whether the connection can take a request: open, and with no message in progress.
    ///
    /// Also removes the waker of the task that used the connection last.
    pub(super) fn is_reusable(&mut self) -> bool {
        // Unconstrained: a task that has used up its cooperative budget would find every connection pending.
        let poll = pin!(tokio::task::unconstrained(poll_fn(|cx| self.inner.poll(cx))));
        poll.poll(&mut Context::from_waker(Waker::noop())).is_pending()
            && self.sender.is_ready()
            && !self.inner.start.has_http10_chunks.get()
    }

    pub(super) fn lifetime(&self) -> &Lifetime {
        &self.inner.lifetime
    }
}

impl<B: RequestBody> Inner<B> {
    /// Sends and receives; ready when the connection has ended. The response or its body reports errors.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.is_closed = self.is_closed || Pin::new(&mut self.http).poll(cx).is_ready();
        if self.is_closed { Poll::Ready(()) } else { Poll::Pending }
    }
}
