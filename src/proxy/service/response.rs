//! The response to the caller, and its body.
//!
//! An upstream's body is relayed chunk by chunk as it arrives, and drives its connection; at the end of the body the
//! connection returns to the pool. A body that ends prematurely is an error here too, so that the caller sees an
//! incomplete message (RFC 9112 §8).

use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER};
use http::{HeaderMap, HeaderValue, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use thiserror::Error;

use super::exchange::Exchange;
use crate::http::X_REQUEST_ID;
use crate::proxy::body::replay::{AttemptBody, ReplayBody};
use crate::proxy::downstream::progress::Side;
use crate::proxy::downstream::protocol::LINGERING_CLOSE_TIMEOUT;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::error::ProxyError;
use crate::proxy::message::json_links::JsonLinks;
use crate::proxy::message::{json, trailers};
use crate::proxy::upstream::forward::Answered;
use crate::proxy::upstream::pool::body::UpstreamBody;
use crate::proxy::upstream::pool::lease::Lease;
use crate::proxy::upstream::pool::outcome::ExchangeError;

/// The largest chunk given to hyper over HTTP/2: one frame, which a caller has to read within `write_timeout`.
const MAX_HTTP2_CHUNK: usize = 16 * 1024;

/// The body of a response, with everything that ends when the body does.
pub struct ResponseBody {
    content: Content,
    /// The part of a chunk over [`MAX_HTTP2_CHUNK`] that is not sent yet.
    rest: Bytes,
    /// The request's body, part of which may still arrive.
    request_body: ReplayBody<ClientBody>,
    /// Boxed: large, and hyper moves the body several times.
    exchange: Box<Exchange>,
}

enum Content {
    /// In memory.
    Complete(Bytes),
    /// From the upstream.
    Upstream(Relay),
}

/// An upstream's body, with the connection that it arrives on.
struct Relay {
    body: UpstreamBody,
    lease: Option<Lease<AttemptBody<ClientBody>>>,
    links: Option<Box<Rewriting>>,
    is_complete: bool,
    passes_trailers: bool,
    /// An error to report at the next poll, after hyper has written the chunks before it.
    pending_error: Option<RelayError>,
}

/// The rewriting of links in a body.
struct Rewriting {
    links: Box<JsonLinks>,
    /// The trailers, while what was held of the body goes before them.
    trailers: Option<HeaderMap>,
    /// Whether the upstream's body has ended.
    is_over: bool,
}

/// Why an upstream's body is incomplete.
#[derive(Debug, Error)]
pub enum RelayError {
    /// The connection failed, or the body is malformed.
    #[error("the upstream's response ended prematurely")]
    Connection(#[source] ExchangeError),
    /// `read_timeout` has passed without a chunk.
    #[error("the upstream stopped sending its response")]
    Stalled,
}

/// Relays an upstream's response, with the links in its body rewritten.
pub fn relay(
    answered: Answered<AttemptBody<ClientBody>>,
    links: Option<Box<JsonLinks>>,
    request_body: ReplayBody<ClientBody>,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    let Answered { response, lease } = answered;
    exchange.outcome.status = Some(response.status());
    let links = links.filter(|_| !response.body().is_end_stream());
    let has_length = links.is_none() && response.body().size_hint().exact().is_some();
    let response = completed(response, has_length, &request_body, &exchange);
    // Over HTTP/1.1 trailers follow only where they are announced, to callers that accept them.
    let headers = response.headers();
    let is_announced = !has_length && headers.contains_key(TRAILER) && !headers.contains_key(CONTENT_LENGTH);
    let passes_trailers = is_announced || exchange.version == Version::HTTP_2;
    response.map(|body| {
        let lease = Some(lease);
        let links = links.map(|links| Box::new(Rewriting { links, trailers: None, is_over: false }));
        let mut relay =
            Relay { body, lease, links, is_complete: false, passes_trailers, pending_error: None };
        relay.end_if_complete();
        ResponseBody::new(Content::Upstream(relay), request_body, exchange)
    })
}

/// Sends a complete response.
pub fn reply(
    response: Response<Bytes>,
    request_body: ReplayBody<ClientBody>,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    exchange.outcome.status = Some(response.status());
    let response = completed(response, true, &request_body, &exchange);
    response.map(|body| ResponseBody::new(Content::Complete(body), request_body, exchange))
}

/// Sends an error response.
pub fn refuse(
    error: &ProxyError,
    request_body: ReplayBody<ClientBody>,
    mut exchange: Box<Exchange>,
) -> Response<ResponseBody> {
    exchange.failed(error);
    let mut response = error.response(exchange.version);
    response.headers_mut().insert(X_REQUEST_ID, exchange.request_id.value().clone());
    response.map(|body| ResponseBody::new(Content::Complete(body), request_body, exchange))
}

/// Adds the request's identifier. Adds `Connection: close` over HTTP/1 if the connection is to end: at its maximum age, in a drain, and if the request
/// body is not read to its end (RFC 9112 §9.6). Otherwise adds `keep-alive` for a caller of HTTP/1.0 that asked for it,
/// if the end of the response does not end the connection. A 101 keeps its own `Connection`.
fn completed<B>(
    mut response: Response<B>,
    has_length: bool,
    request_body: &ReplayBody<ClientBody>,
    exchange: &Exchange,
) -> Response<B> {
    response.headers_mut().insert(X_REQUEST_ID, exchange.request_id.value().clone());
    let is_last = exchange.caller.is_ending() || !request_body.is_at_end();
    let is_http = response.status() != StatusCode::SWITCHING_PROTOCOLS;
    if exchange.version < Version::HTTP_2 && is_last && is_http {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    } else if exchange.keeps_http10 && has_length {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    response
}

/// Discards an upstream's response that is not relayed. Its connection returns to the pool if the whole body has
/// already arrived, and is closed otherwise.
pub fn discard(answered: Answered<AttemptBody<ClientBody>>) {
    let Answered { response, mut lease } = answered;
    let mut body = response.into_body();
    let mut cx = Context::from_waker(Waker::noop());
    // The body of a 401 is short. Closing the connection costs less than reading a long one.
    for _ in 0..16 {
        if body.is_end_stream() {
            return lease.give_back();
        }
        match lease.poll_frame(&mut body, &mut cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => return lease.give_back(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => return,
        }
    }
}

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if self.links.is_some() { self.poll_rewritten(cx) } else { self.poll_upstream(cx) }
    }

    fn poll_rewritten(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        loop {
            if let Some(rewriting) = self.links.as_mut().filter(|rewriting| rewriting.is_over) {
                return Poll::Ready(rewriting.last().map(Ok));
            }
            let frame = ready!(self.poll_upstream(cx)?);
            let is_last = self.body.is_end_stream();
            let Some(rewriting) = &mut self.links else { return Poll::Ready(frame.map(Ok)) };
            rewriting.is_over = is_last;
            match frame.map(Frame::into_data) {
                Some(Ok(data)) => {
                    let data = rewriting.links.push(&data);
                    if !data.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                }
                Some(Err(trailers)) => {
                    rewriting.trailers = trailers.into_trailers().ok();
                    rewriting.is_over = true;
                }
                None => rewriting.is_over = true,
            }
        }
    }

    /// Whether the body has ended, and nothing of it is held.
    fn is_at_end(&self) -> bool {
        self.body.is_end_stream() && self.is_drained()
    }

    fn is_drained(&self) -> bool {
        self.links
            .as_ref()
            .is_none_or(|rewriting| rewriting.links.is_drained() && rewriting.trailers.is_none())
    }

    fn poll_upstream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if let Some(error) = self.pending_error.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = match &mut self.lease {
            Some(lease) => lease.poll_frame(&mut self.body, cx),
            None => Pin::new(&mut self.body).poll_frame(cx),
        };
        match frame {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(last))) if last.is_trailers() => {
                // Nothing follows trailers, so hyper does not poll for the end.
                self.end();
                let trailers = last.into_trailers().ok().filter(|_| self.passes_trailers);
                return Poll::Ready(
                    trailers.and_then(trailers::filtered).map(|all| Ok(Frame::trailers(all))),
                );
            }
            Poll::Ready(Some(Ok(_))) => self.end_if_complete(),
            Poll::Ready(Some(Err(error))) => return self.fail(RelayError::Connection(error), cx),
            Poll::Pending => {}
        }
        frame.map_err(RelayError::Connection)
    }

    /// Closes the upstream's connection, and reports the error at the next poll.
    fn fail<T>(&mut self, error: RelayError, cx: &Context<'_>) -> Poll<T> {
        self.lease = None;
        // On an error hyper drops what it has not written yet: the caller might not even get the head.
        self.pending_error = Some(error);
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn end_if_complete(&mut self) {
        if self.body.is_end_stream() {
            self.end();
        }
    }

    fn end(&mut self) {
        self.is_complete = true;
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl Rewriting {
    /// The next frame after the end of the upstream's body: what is held of the body, then the trailers.
    fn last(&mut self) -> Option<Frame<Bytes>> {
        let held = self.links.finish();
        if !held.is_empty() {
            return Some(Frame::data(held));
        }
        let mut trailers = self.trailers.take()?;
        json::remove_digests(&mut trailers);
        (!trailers.is_empty()).then(|| Frame::trailers(trailers))
    }
}

impl ResponseBody {
    fn new(content: Content, request_body: ReplayBody<ClientBody>, exchange: Box<Exchange>) -> Self {
        Self { content, rest: Bytes::new(), request_body, exchange }
    }

    /// Records a frame that is given to hyper, cut to [`MAX_HTTP2_CHUNK`] over HTTP/2.
    fn send(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.exchange.progress.awaits_caller();
        let is_large =
            |data: &Bytes| data.len() > MAX_HTTP2_CHUNK && self.exchange.version == Version::HTTP_2;
        let frame = match frame.into_data() {
            Ok(mut data) if is_large(&data) => {
                self.rest = data.split_off(MAX_HTTP2_CHUNK);
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(frame) => frame,
        };
        self.exchange.outcome.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        frame
    }

    /// Waits for the upstream; fails once the sweep has found that `read_timeout` has passed.
    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        let Content::Upstream(relay) = &mut self.content else { return Poll::Pending };
        self.exchange.progress.awaits_upstream();
        match self.exchange.progress.stalled() {
            Some(Side::Upstream) if relay.pending_error.is_none() => relay.fail(RelayError::Stalled, cx),
            _ => Poll::Pending,
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        let this = &mut *self;
        let frame = if this.rest.is_empty() {
            match &mut this.content {
                Content::Complete(content) if content.is_empty() => Poll::Ready(None),
                Content::Complete(content) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(content))))),
                Content::Upstream(relay) => relay.poll_frame(cx),
            }
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))))
        };
        match frame {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(this.send(frame)))),
            Poll::Pending => this.wait(cx),
            ended @ Poll::Ready(_) => {
                this.exchange.progress.awaits_nobody();
                ended
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
            && match &self.content {
                Content::Complete(content) => content.is_empty(),
                Content::Upstream(relay) => relay.is_at_end(),
            }
    }

    /// hyper asks before it polls the first frame, so `rest` is empty.
    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Complete(content) => SizeHint::with_exact(content.len() as u64),
            Content::Upstream(relay) if relay.links.is_some() => SizeHint::default(),
            Content::Upstream(relay) => relay.body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let is_complete = match &self.content {
            Content::Complete(content) => content.is_empty(),
            Content::Upstream(relay) => relay.is_complete && relay.is_drained(),
        };
        if is_complete && self.rest.is_empty() {
            self.exchange.outcome.is_complete = true;
        } else if self.exchange.version == Version::HTTP_10 {
            self.exchange.caller.is_truncated.set(true);
        }
        if self.request_body.is_at_end() {
            return;
        }
        if self.exchange.version < Version::HTTP_2 {
            // The connection ends with this response and reads the rest of the request as it closes.
            self.exchange.caller.has_unread.set(true);
        } else if let Ok(_runtime) = tokio::runtime::Handle::try_current() {
            // The connection goes on: a task reads the rest of this stream's request.
            let request_body = std::mem::take(&mut self.request_body);
            tokio::task::spawn_local(request_body.drain(LINGERING_CLOSE_TIMEOUT));
        }
    }
}
