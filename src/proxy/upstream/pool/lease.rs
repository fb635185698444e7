//! A connection, or a stream of one, while it carries one request.

use std::rc::Rc;
use std::task::Context;

use bytes::Bytes;
use http::Response;
use http_body::Body;

use super::body::UpstreamBody;
use super::connection::Switched;
use super::idle::Idle;
use super::outcome::SendError;
use super::request::Outgoing;
use super::{http1, http2_stream};

/// A place on a connection. Dropping it ends the exchange; [`Lease::give_back`] keeps what can be kept.
pub struct Lease<B: Body + 'static> {
    pub(super) carrier: Carrier<B>,
    pub(super) idle: Rc<Idle<B>>,
    /// Whether its connection was there already: its peer may have closed it just now.
    pub is_reused: bool,
}

pub(super) enum Carrier<B: Body + 'static> {
    Http1(http1::Leased<B>),
    /// Boxed, so that the others need no room for it.
    Http2(Box<http2_stream::Stream<B>>),
}

impl<B> Lease<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Sends a request and waits for the response's head; carries the request's body meanwhile.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future leaves the exchange in its middle: the lease must be dropped too.
    pub async fn send(&mut self, request: Outgoing<B>) -> Result<Response<UpstreamBody>, SendError<B>> {
        match &mut self.carrier {
            Carrier::Http1(leased) => {
                leased.send(request).await.map(|response| response.map(UpstreamBody::Http1))
            }
            Carrier::Http2(stream) => {
                stream.send(request).await.map(|response| response.map(UpstreamBody::Http2))
            }
        }
    }

    /// The connection itself once an HTTP/1.1 upstream has switched to another protocol.
    pub async fn into_stream(self) -> Option<Switched> {
        match self.carrier {
            Carrier::Http1(leased) => leased.into_stream().await,
            Carrier::Http2(_) => None,
        }
    }

    /// Moves bytes of the request and, over HTTP/1.1, of the response that are under way.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        match &mut self.carrier {
            Carrier::Http1(leased) => leased.poll(cx),
            Carrier::Http2(stream) => stream.poll(cx),
        }
    }

    /// The response was read to its end: keeps the connection, if the request was sent to its end too.
    pub fn give_back(self) {
        let Self { carrier, idle, .. } = self;
        // An HTTP/2 connection stays where it is; of a request that was not sent to its end the stream is reset.
        if let Carrier::Http1(leased) = carrier {
            idle.keep(leased);
        }
    }
}
