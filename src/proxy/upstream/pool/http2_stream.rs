//! One request on an HTTP/2 connection (RFC 9113 §8).
//!
//! A [`Stream`] sends the request and its body; a [`StreamBody`] receives the response body. Dropping either before its
//! end resets the stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body::{Frame, SizeHint};

use super::http2::StreamSlot;
use super::outcome::{ExchangeError, SendError, StreamError};
use super::request::{InterimSink, Outgoing, RequestBody};
use crate::proxy::body::http2::{Http2Body, content_length};

/// A slot on a connection, and the request body while it is sent.
pub(super) struct Stream<B> {
    slot: StreamSlot,
    upload: Option<Upload<B>>,
    has_interim: bool,
}

/// A request body that is being sent.
struct Upload<B> {
    body: B,
    to: SendStream<Bytes>,
    /// Data that does not fit into the flow-control window yet.
    data: Bytes,
}

/// A response body as it arrives.
#[derive(Debug)]
pub struct StreamBody(Http2Body);

impl<B: RequestBody> Stream<B> {
    pub(super) const fn new(slot: StreamSlot) -> Self {
        Self { slot, upload: None, has_interim: false }
    }

    /// Sends a request, with its body, until the response head arrives.
    pub(super) async fn send(
        &mut self,
        request: Outgoing<B>,
        relay_interim: InterimSink<'_>,
    ) -> Result<Response<StreamBody>, SendError<B>> {
        let is_without_body = request.body.is_end_stream();
        let Ok(message) = self.message(&request.head, is_without_body) else {
            let error = StreamError::Protocol(Reason::INTERNAL_ERROR);
            return Err(SendError::Unsent(request, ExchangeError::Http2(error)));
        };
        let (mut response, to) = match self.slot.sender.send_request(message, is_without_body) {
            Ok(sent) => sent,
            Err(error) => return Err(SendError::Unsent(request, ExchangeError::Http2(error.into()))),
        };
        let Outgoing { head, body } = request;
        let mut upload = Upload { body, to, data: Bytes::new() };
        let mut is_sending = !is_without_body;
        let outcome = std::future::poll_fn(|cx| {
            is_sending = is_sending && upload.poll(cx).is_pending();
            // The response would skip them.
            while let Some(Ok(interim)) = ready!(response.poll_informational(cx)) {
                self.has_interim = true;
                relay_interim(interim);
            }
            Pin::new(&mut response).poll(cx)
        })
        .await;
        match outcome {
            Ok(response) => {
                self.upload = is_sending.then_some(upload);
                let remaining =
                    if head.method == Method::HEAD { None } else { content_length(response.headers()) };
                Ok(response.map(|from| StreamBody(Http2Body::new(from, remaining))))
            }
            Err(error) => {
                let is_unprocessed =
                    matches!(error.reason(), Some(Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED));
                let is_reset_unprocessed = error.is_reset() && is_unprocessed;
                let is_refused = error.is_remote() && (error.is_go_away() || is_reset_unprocessed);
                let error = ExchangeError::Http2(error.into());
                Err(if is_refused { SendError::Refused(head, error) } else { SendError::Sent(error) })
            }
        }
    }

    /// Whether an earlier request has used the connection.
    pub(super) const fn is_reused(&self) -> bool {
        self.slot.is_reused
    }

    /// Whether not even an interim response has arrived.
    pub(super) const fn received_nothing(&self) -> bool {
        !self.has_interim
    }

    /// Notes that the response did not arrive in time.
    pub(super) fn timed_out(&self) {
        self.slot.connection.timed_out();
    }

    /// Sends more of the request body.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.upload.as_mut().is_some_and(|upload| upload.poll(cx).is_ready()) {
            self.upload = None;
        }
    }

    /// The request head in HTTP/2 (RFC 9113 §8.2.2, §8.3.1).
    fn message(&self, head: &Parts, is_without_body: bool) -> Result<Request<()>, http::Error> {
        let connection = &self.slot.connection;
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(connection.scheme.clone());
        uri.authority = Some(match head.headers.get(HOST) {
            Some(host) if host != connection.authority.as_str() => Authority::try_from(host.as_bytes())?,
            _ => connection.authority.clone(),
        });
        uri.path_and_query = Some(path);
        let mut message = Request::new(());
        *message.method_mut() = head.method.clone();
        *message.uri_mut() = Uri::from_parts(uri)?;
        *message.version_mut() = Version::HTTP_2;
        let mut headers = head.headers.clone();
        headers.remove(HOST);
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONNECTION);
        // As over HTTP/1.1: some servers require a length for these methods.
        let often_has_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        if is_without_body && often_has_body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *message.headers_mut() = headers;
        Ok(message)
    }
}

impl<B: RequestBody> Upload<B> {
    /// Ready when no more is sent: at the end of the body, or after an error, which the response reports.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.to.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.data.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => self.data = frame.into_data().unwrap_or_default(),
                    Some(Err(_)) => {
                        self.to.send_reset(Reason::CANCEL);
                        return Poll::Ready(());
                    }
                    None => {
                        // Fails only if the stream has ended, which the response reports.
                        let _ = self.to.send_data(Bytes::new(), true);
                        return Poll::Ready(());
                    }
                }
                continue;
            }
            let Some(capacity) = ready!(self.poll_capacity(cx)) else {
                return Poll::Ready(());
            };
            let data = self.data.split_to(capacity.min(self.data.len()));
            let is_last = self.data.is_empty() && self.body.is_end_stream();
            if self.to.send_data(data, is_last).is_err() || is_last {
                return Poll::Ready(());
            }
        }
    }

    /// The bytes of `data` that may be sent now; `None` if the stream has ended.
    fn poll_capacity(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        self.to.reserve_capacity(self.data.len());
        loop {
            let capacity = self.to.capacity();
            if capacity > 0 {
                return Poll::Ready(Some(capacity));
            }
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }
}

impl StreamBody {
    /// Whether the body has ended.
    pub fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    /// The bytes still to come, as far as known.
    pub fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }

    /// The next frame; an end before the `Content-Length` is an error.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        Poll::Ready(match ready!(self.0.poll_frame(cx)) {
            Some(Err(error)) => self.ended_by(error).map(Err),
            frame => frame.map(|frame| frame.map_err(StreamError::from)),
        })
    }

    /// The error of the body. A reset with `NO_ERROR` after the whole response is none: the upstream does not need the
    /// rest of the request (RFC 9113 §8.1).
    fn ended_by(&self, error: h2::Error) -> Option<StreamError> {
        let is_end = error.is_remote() && error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        match self.0.remaining() {
            None | Some(0) if is_end => None,
            Some(_) if is_end => Some(StreamError::Short),
            _ => Some(error.into()),
        }
    }
}
