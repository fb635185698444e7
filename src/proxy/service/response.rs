//! The answer's body on its way to the caller.
//!
//! An upstream's body is passed on piece by piece as it arrives, and drives the connection it comes from; at its
//! end the connection goes back to the pool. A body that breaks off is an error here too, so that the caller
//! sees an incomplete message and never a complete one.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER};
use http::{HeaderValue, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;

use super::access_log::Exchange;
use crate::proxy::body::replay::{Attempt, Payload};
use crate::proxy::downstream::progress::Stalled;
use crate::proxy::downstream::protocol::LINGERING_CLOSE_TIMEOUT;
use crate::proxy::error::ProxyError;
use crate::proxy::message::trailers;
use crate::proxy::upstream::forward::Answered;
use crate::proxy::upstream::pool::body::UpstreamBody;
use crate::proxy::upstream::pool::lease::Lease;
use crate::proxy::upstream::pool::outcome::ExchangeError;

/// What is handed over at once over HTTP/2: a frame. So a caller that takes as much in `write_timeout` is seen to.
const PIECE: usize = 16 * 1024;

/// The body of an answer, with what ends when it does.
pub struct AnswerBody {
    content: Content,
    /// What of a piece is still to be handed over.
    rest: Bytes,
    /// The request's own body, some of which may still be on its way.
    payload: Payload<Incoming>,
    exchange: Exchange,
}

enum Content {
    /// Our own words.
    Whole(Bytes),
    /// The upstream's.
    Upstream(Relay),
}

/// A body of an upstream, with the connection that it comes from.
struct Relay {
    body: UpstreamBody,
    lease: Option<Lease<Attempt<Incoming>>>,
    is_complete: bool,
    /// Whether the caller gets what comes behind the body.
    passes_trailers: bool,
    /// That the body broke off, until what came before has had its turn to be written.
    broke_off: Option<BrokeOff>,
}

/// Why an upstream's body has no end.
#[derive(Debug, Error)]
pub enum BrokeOff {
    /// Its connection ended, or what came is no body.
    #[error("the upstream's answer broke off")]
    Connection(#[source] ExchangeError),
    /// Nothing came for too long.
    #[error("the upstream's answer stopped coming")]
    Stalled,
}

/// An upstream's answer for the caller.
pub fn relay(
    answered: Answered<Attempt<Incoming>>,
    payload: Payload<Incoming>,
    mut exchange: Exchange,
) -> Response<AnswerBody> {
    let Answered { response, lease } = answered;
    exchange.answered(response.status());
    let response = said_last(response, &payload, &exchange);
    // Over HTTP/1.1 they are announced, to those who have asked.
    let headers = response.headers();
    let is_announced = headers.contains_key(TRAILER) && !headers.contains_key(CONTENT_LENGTH);
    let passes_trailers = is_announced || exchange.version() == Version::HTTP_2;
    response.map(|body| {
        let lease = Some(lease);
        let mut relay = Relay { body, lease, is_complete: false, passes_trailers, broke_off: None };
        relay.end_if_complete();
        AnswerBody::new(Content::Upstream(relay), payload, exchange)
    })
}

/// An answer of our own for a caller whose request was read to its end.
pub fn reply(
    response: Response<Bytes>,
    payload: Payload<Incoming>,
    mut exchange: Exchange,
) -> Response<AnswerBody> {
    exchange.answered(response.status());
    let response = said_last(response, &payload, &exchange);
    response.map(|body| AnswerBody::new(Content::Whole(body), payload, exchange))
}

/// A refusal of our own for the caller.
pub fn refuse(
    error: &ProxyError,
    payload: Payload<Incoming>,
    mut exchange: Exchange,
) -> Response<AnswerBody> {
    exchange.failed(error);
    let response = error.response(exchange.version());
    response.map(|body| AnswerBody::new(Content::Whole(body), payload, exchange))
}

/// The answer with a word that it is the connection's last: if that has been used for long enough or we are about to
/// stop, and if the upstream has answered before the request was read to its end, as nobody may want the rest. One that
/// switches protocols says what its connection becomes.
fn said_last<B>(mut response: Response<B>, payload: &Payload<Incoming>, exchange: &Exchange) -> Response<B> {
    let is_last = exchange.caller().is_ending() || !payload.is_at_end();
    let is_http = response.status() != StatusCode::SWITCHING_PROTOCOLS;
    if exchange.version() < Version::HTTP_2 && is_last && is_http {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Lets go of an answer that nobody will see; keeps its connection if the rest of it has already arrived.
pub fn discard(answered: Answered<Attempt<Incoming>>) {
    let Answered { response, mut lease } = answered;
    let mut body = response.into_body();
    let mut cx = Context::from_waker(Waker::noop());
    // A 401 has a short body or none; what is longer is cheaper to cut off than to read.
    for _ in 0..16 {
        if body.is_end_stream() {
            return lease.give_back();
        }
        match Pin::new(&mut body).poll_frame(&mut cx) {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => return lease.give_back(),
            Poll::Ready(Some(Err(_))) => return,
            Poll::Pending => lease.poll(&mut cx),
        }
    }
}

impl Relay {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        if let Some(error) = self.broke_off.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let mut frame = Pin::new(&mut self.body).poll_frame(cx);
        if let (Poll::Pending, Some(lease)) = (&frame, &mut self.lease) {
            lease.poll(cx);
            frame = Pin::new(&mut self.body).poll_frame(cx);
        }
        match frame {
            Poll::Ready(None) => self.end(),
            Poll::Ready(Some(Ok(behind))) if behind.is_trailers() => {
                // Nothing follows, and nobody asks whether something does.
                self.end();
                let trailers = behind.into_trailers().ok().filter(|_| self.passes_trailers);
                return Poll::Ready(
                    trailers.and_then(trailers::filtered).map(|all| Ok(Frame::trailers(all))),
                );
            }
            Poll::Ready(Some(Ok(_))) => self.end_if_complete(),
            Poll::Ready(Some(Err(error))) => return self.break_off(BrokeOff::Connection(error), cx),
            Poll::Pending => {}
        }
        frame.map_err(BrokeOff::Connection)
    }

    /// Ends a broken message, with whatever is left of it.
    fn break_off<T>(&mut self, why: BrokeOff, cx: &Context<'_>) -> Poll<T> {
        self.lease = None;
        // hyper drops what it has not written yet, and the caller would see no answer at all.
        self.broke_off = Some(why);
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

impl AnswerBody {
    fn new(content: Content, payload: Payload<Incoming>, exchange: Exchange) -> Self {
        Self { content, rest: Bytes::new(), payload, exchange }
    }

    /// Hands over a piece; over HTTP/2 one that does not take long where the window opens slowly.
    fn give(&mut self, frame: Frame<Bytes>) -> Frame<Bytes> {
        self.exchange.pace().awaits_caller();
        let is_large = |data: &Bytes| data.len() > PIECE && self.exchange.version() == Version::HTTP_2;
        let frame = match frame.into_data() {
            Ok(mut data) if is_large(&data) => {
                self.rest = data.split_off(PIECE);
                Frame::data(data)
            }
            Ok(data) => Frame::data(data),
            Err(frame) => frame,
        };
        self.exchange.sent_bytes(frame.data_ref().map_or(0, Bytes::len));
        frame
    }

    /// Waits for the upstream, if it has not been too long.
    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        let Content::Upstream(relay) = &mut self.content else { return Poll::Pending };
        let pace = self.exchange.pace();
        pace.awaits_upstream();
        match pace.stalled() {
            Some(Stalled::Upstream) if relay.broke_off.is_none() => relay.break_off(BrokeOff::Stalled, cx),
            _ => Poll::Pending,
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokeOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokeOff>>> {
        let this = &mut *self;
        let frame = if this.rest.is_empty() {
            match &mut this.content {
                Content::Whole(content) if content.is_empty() => Poll::Ready(None),
                Content::Whole(content) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(content))))),
                Content::Upstream(relay) => relay.poll_frame(cx),
            }
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))))
        };
        match frame {
            Poll::Ready(Some(Ok(frame))) => Poll::Ready(Some(Ok(this.give(frame)))),
            Poll::Pending => this.wait(cx),
            ended @ Poll::Ready(_) => {
                this.exchange.pace().awaits_nobody();
                ended
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
            && match &self.content {
                Content::Whole(content) => content.is_empty(),
                Content::Upstream(relay) => relay.body.is_end_stream(),
            }
    }

    /// Asked before anything is handed over.
    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(content) => SizeHint::with_exact(content.len() as u64),
            Content::Upstream(relay) => relay.body.size_hint(),
        }
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let is_complete = match &self.content {
            Content::Whole(content) => content.is_empty(),
            Content::Upstream(relay) => relay.is_complete,
        };
        if is_complete && self.rest.is_empty() {
            self.exchange.completed();
        } else if self.exchange.version() == Version::HTTP_10 {
            self.exchange.caller().truncate();
        }
        if self.payload.is_at_end() {
            return;
        }
        if self.exchange.version() < Version::HTTP_2 {
            // The connection ends with this answer; what is left on it is read when it is closed.
            self.exchange.caller().leave_unread();
        } else if let Ok(_runtime) = tokio::runtime::Handle::try_current() {
            // Other streams go on: what is left of this one is read beside them.
            let payload = std::mem::take(&mut self.payload);
            tokio::task::spawn_local(payload.drain(LINGERING_CLOSE_TIMEOUT));
        }
    }
}
