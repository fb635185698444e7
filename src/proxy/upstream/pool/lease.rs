//! A connection, or a stream on one, while it carries a request.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Response;
use http_body::{Body, Frame};

use super::body::UpstreamBody;
use super::connection::Upgraded;
use super::idle::IdleConnections;
use super::outcome::{ExchangeError, SendError, StreamError};
use super::request::{InterimSink, Outgoing, RequestBody};
use super::{http1, http2_stream};

/// The use of a connection for one request. Dropping it closes an HTTP/1.1 connection or resets an HTTP/2 stream;
/// [`Lease::give_back`] keeps the connection for other requests.
pub struct Lease<B: RequestBody> {
    pub(super) leased: Leased<B>,
    pub(super) idle: Rc<IdleConnections<B>>,
    /// Whether the connection is not new: the upstream may have closed it meanwhile.
    pub is_reused: bool,
    /// Whether an HTTP/1.1 connection is closed after this request.
    pub is_last: bool,
}

pub(super) enum Leased<B: RequestBody> {
    Http1(http1::Connection<B>),
    /// Boxed, to keep the enum small.
    Http2(Box<http2_stream::Stream<B>>),
}

impl<B: RequestBody> Lease<B> {
    /// Sends a request, with its body, until the response head arrives; gives the interim responses before it to the sink.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves a message incomplete: the lease must be dropped too.
    pub async fn send(
        &mut self,
        request: Outgoing<B>,
        relay_interim: InterimSink<'_>,
    ) -> Result<Response<UpstreamBody>, SendError<B>> {
        match &mut self.leased {
            Leased::Http1(connection) => connection
                .send(request, relay_interim)
                .await
                .map(|response| response.map(UpstreamBody::Http1)),
            Leased::Http2(stream) => {
                stream.send(request, relay_interim).await.map(|response| response.map(UpstreamBody::Http2))
            }
        }
    }

    /// Notes that the response did not arrive in time: the connection may be dead, without a sign of it.
    pub fn timed_out(&self) {
        if let Leased::Http2(stream) = &self.leased {
            stream.timed_out();
        }
    }

    /// Whether the connection closed before any byte of the response, given the error of the request.
    pub fn has_closed_unanswered(self, error: &ExchangeError) -> bool {
        match (self.leased, error) {
            (Leased::Http1(connection), ExchangeError::Http1(error)) => {
                !error.is_parse() && connection.received_nothing()
            }
            (Leased::Http2(stream), ExchangeError::Http2(error)) => {
                *error == StreamError::Closed && stream.received_nothing()
            }
            _ => false,
        }
    }

    /// The byte stream after an HTTP/1.1 upstream has switched to another protocol; `None` if it has not.
    pub async fn into_upgraded(self) -> Option<Upgraded> {
        match self.leased {
            Leased::Http1(connection) => connection.into_upgraded().await,
            Leased::Http2(_) => None,
        }
    }

    /// The next frame of the response's body. While there is none, sends more of the request body.
    pub fn poll_frame(
        &mut self,
        body: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        match (&mut self.leased, body) {
            (Leased::Http1(connection), UpstreamBody::Http1(body)) => {
                connection.poll_frame(body, cx).map_err(ExchangeError::Http1)
            }
            (leased, body) => {
                let frame = Pin::new(body).poll_frame(cx);
                if let (Poll::Pending, Leased::Http2(stream)) = (&frame, leased) {
                    stream.poll(cx);
                }
                frame
            }
        }
    }

    /// Keeps the connection after the whole response was read, unless the request was its last. If the request was not
    /// sent completely, closes an HTTP/1.1 connection or resets an HTTP/2 stream.
    pub fn give_back(self) {
        // Dropping an HTTP/2 stream keeps its connection.
        if let (Leased::Http1(connection), false) = (self.leased, self.is_last) {
            self.idle.give_back(connection);
        }
    }
}
