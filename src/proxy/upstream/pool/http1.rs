//! An HTTP/1.1 connection to an upstream.
//!
//! The connection carries one request at a time and has no task: the request polls the connection while it waits. The
//! connection therefore closes when its caller leaves, and an idle connection must be checked before its reuse.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::activity::Activity;
use super::connection::{ConnectionGuard, Lifetime, MAX_BUFFER, Upgraded};
use super::outcome::{ExchangeError, SendError};
use super::request::{InterimSink, Outgoing, RequestBody};
use super::response_start::{ResponseStart, ResponseStream};
use crate::config::HeaderCase;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::connect::socket::{Stream, drive};

/// The wait for hyper to release the stream of a connection that has switched protocols.
const UPGRADE_TIMEOUT: Duration = Duration::from_millis(500);

/// The most fields of a response head; [`MAX_BUFFER`] bounds its bytes. hyper's tables for so many have at most 32 KiB,
/// up to which the allocator keeps memory for the next request.
const MAX_FIELDS: usize = 1000;
/// The field by which servers announce how long they keep an idle connection (RFC 2068 §19.7.1.1).
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// An open connection, in use or idle. Dropping it closes the connection.
pub(super) struct Connection<B: RequestBody> {
    sender: http1::SendRequest<B>,
    /// Boxed: large, and moved from request to request.
    inner: Box<Inner<B>>,
}

struct Inner<B: RequestBody> {
    http: http1::Connection<TokioIo<ResponseStream<Box<dyn Stream>>>, B>,
    activity: Activity,
    start: Rc<ResponseStart>,
    lifetime: Lifetime,
    is_closed: bool,
    has_answered: bool,
    header_case: HeaderCase,
    guard: ConnectionGuard,
}

impl<B: RequestBody> Connection<B> {
    /// Starts HTTP/1.1 on a new stream.
    pub(super) async fn open(
        stream: Box<dyn Stream>,
        lifetime: Lifetime,
        guard: ConnectionGuard,
        header_case: HeaderCase,
    ) -> Result<Self, ForwardError> {
        let preserves_case = header_case == HeaderCase::Preserve;
        let start = Rc::<ResponseStart>::default();
        let stream = ResponseStream::new(stream, Rc::clone(&start));
        let (sender, http) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .preserve_header_case(preserves_case)
            .title_case_headers(preserves_case)
            .max_headers(MAX_FIELDS)
            .handshake::<_, B>(TokioIo::new(stream))
            .await
            .map_err(|error| ForwardError::Protocol(error.to_string()))?;
        let activity = Activity::new();
        let inner = Inner {
            http,
            activity,
            start,
            lifetime,
            is_closed: false,
            has_answered: false,
            header_case,
            guard,
        };
        Ok(Self { sender, inner: Box::new(inner) })
    }

    /// Sends a request until the response head arrives.
    pub(super) async fn send(
        &mut self,
        request: Outgoing<B>,
        relay_interim: InterimSink<'_>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        let inner = &mut self.inner;
        inner.start.await_next();
        let response = pin!(self.sender.try_send_request(Request::from_parts(*request.head, request.body)));
        let outcome = drive(response, |cx| {
            let _ = inner.poll_for(cx);
            inner.start.take_interim().into_iter().for_each(&mut *relay_interim);
        });
        let outcome = outcome.await;
        // Servers announce the same time with each response.
        if let Ok(response) = &outcome
            && !std::mem::replace(&mut inner.has_answered, true)
            && let Some(timeout) = announced_idle_timeout(response.headers())
        {
            inner.lifetime.limit_idle_time(timeout);
        }
        outcome.map_err(|mut error| {
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
        tokio::time::timeout(UPGRADE_TIMEOUT, poll_fn(|cx| self.inner.poll_for(cx))).await.ok()?;
        let Inner { http, guard, .. } = *self.inner;
        let http1::Parts { io, read_buf, .. } = http.into_parts();
        Some(Upgraded { stream: io.into_inner().stream, read_ahead: read_buf, guard })
    }

    /// Whether no byte of a response has arrived.
    pub(super) fn received_nothing(self) -> bool {
        !self.inner.start.has_begun.get() && self.inner.http.into_parts().read_buf.is_empty()
    }

    /// Sends and receives what can be sent and received now.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let _ = self.inner.poll_for(cx);
    }

    /// The next frame of the response's body.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        // The frame comes from the connection, in the poll of this task.
        let mut quiet = Context::from_waker(Waker::noop());
        let mut next =
            |inner: &Inner<B>| inner.activity.ignore(|| Pin::new(&mut *body).poll_frame(&mut quiet));
        let frame = next(&self.inner);
        if frame.is_ready() {
            return frame;
        }
        self.poll(cx);
        next(&self.inner)
    }

    /// Whether the connection can take a request: open, and with no message in progress.
    ///
    /// Also removes the waker of the task that used the connection last.
    pub(super) fn is_reusable(&mut self) -> bool {
        let inner = &mut self.inner;
        inner.activity.forget_task();
        if !(inner.activity.is_quiet() && self.sender.is_ready()) {
            // Unconstrained: a task that has used up its cooperative budget would find every connection pending.
            let poll = pin!(tokio::task::unconstrained(poll_fn(|_| inner.poll())));
            let _ = poll.poll(&mut Context::from_waker(Waker::noop()));
        }
        !inner.is_closed && self.sender.is_ready() && !inner.start.has_http10_chunks.get()
    }

    /// The case of field names that the connection was made for.
    pub(super) fn header_case(&self) -> HeaderCase {
        self.inner.header_case
    }

    pub(super) fn lifetime(&self) -> &Lifetime {
        &self.inner.lifetime
    }
}

/// How long the connection may be idle according to `Keep-Alive: timeout=`, less a second for the way to the upstream, or
/// half of the time if that is more.
fn announced_idle_timeout(headers: &HeaderMap) -> Option<Duration> {
    const WAY: Duration = Duration::from_secs(1);
    let parameters = headers.get(KEEP_ALIVE)?.to_str().ok()?;
    let timeout = parameters.split(',').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("timeout").then_some(value.trim().trim_matches('"'))
    })?;
    let timeout = Duration::from_secs(timeout.parse::<u32>().ok()?.into());
    Some(timeout.saturating_sub(WAY).max(timeout / 2))
}

impl<B: RequestBody> Inner<B> {
    /// Sends and receives for a task.
    fn poll_for(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.activity.set_task(cx.waker());
        self.poll()
    }

    /// Sends and receives; ready when the connection has ended. The response or its body reports errors.
    fn poll(&mut self) -> Poll<()> {
        let Self { http, activity, is_closed, .. } = self;
        *is_closed = *is_closed || activity.poll(|cx| Pin::new(http).poll(cx)).is_ready();
        if *is_closed { Poll::Ready(()) } else { Poll::Pending }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn an_announced_idle_timeout_is_shortened_by_the_way_to_the_upstream() {
        for (announced, expected) in [
            ("timeout=5", Some(4000)),
            ("timeout=5, max=100", Some(4000)),
            ("max=100, Timeout = \"60\"", Some(59_000)),
            ("timeout=1", Some(500)),
            ("timeout=0", Some(0)),
            ("max=100", None),
            ("timeout=-1", None),
            ("timeout", None),
            ("", None),
        ] {
            let timeout = announced_idle_timeout(&HeaderMap::from_iter([(
                KEEP_ALIVE,
                HeaderValue::from_static(announced),
            )]));
            assert_eq!(timeout, expected.map(Duration::from_millis), "{announced}");
        }
        assert_eq!(announced_idle_timeout(&HeaderMap::new()), None);
    }
}
