//! One HTTP/1.1 connection.
//!
//! A connection carries one request at a time and is driven by whoever has it: while a request is under way,
//! the request itself polls it, so that there is no task between the two and a caller who leaves takes the
//! upstream connection with it. Between requests it lies idle and is looked at when it is wanted again.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::connection::{Held, MAX_BUFFER, Switched};
use super::outcome::{Break, Fate, SendError};
use super::request::Outgoing;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::message::trailers;
use crate::proxy::upstream::connect::socket::Stream;
use crate::proxy::upstream::permits::Place;

/// How long hyper may take to let go of a connection that has switched: its head has been read.
const LET_GO: Duration = Duration::from_millis(500);

/// A connection in use, or one that can be. Dropping it ends it.
pub(super) struct Leased<B: Body + 'static> {
    sender: http1::SendRequest<B>,
    /// Boxed, as it is large and handed from one request to the next.
    connection: Box<Connection<B>>,
    /// Which of the upstream's places it leads to.
    pub(super) number: u32,
    is_over: bool,
}

/// A connection, and what it takes of what there may only be so much of.
struct Connection<B: Body + 'static> {
    http: http1::Connection<TokioIo<Box<dyn Stream>>, B>,
    held: Held,
}

impl<B> Leased<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Over a new stream.
    pub(super) async fn open(stream: Box<dyn Stream>, number: u32, held: Held) -> Result<Self, ForwardError> {
        let (sender, http) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<TokioIo<Box<dyn Stream>>, B>(TokioIo::new(stream))
            .await
            .map_err(|error| ForwardError::Protocol(error.to_string()))?;
        Ok(Self { sender, connection: Box::new(Connection { http, held }), number, is_over: false })
    }

    /// Sends a request and waits for the response's head; drives the connection meanwhile.
    pub(super) async fn send(
        &mut self,
        mut request: Outgoing<B>,
    ) -> Result<Response<Incoming>, SendError<B>> {
        trailers::ask_over_http1(&mut request.head.headers);
        let mut response = pin!(self.sender.try_send_request(request.into()));
        let (connection, is_over) = (&mut self.connection, &mut self.is_over);
        let outcome = std::future::poll_fn(|cx| {
            if let Poll::Ready(outcome) = response.as_mut().poll(cx) {
                return Poll::Ready(outcome);
            }
            *is_over = *is_over || connection.poll(cx).is_ready();
            response.as_mut().poll(cx)
        })
        .await;
        outcome.map_err(|mut error| {
            let fate = error.take_message().map_or(Fate::Sent, |unsent| Fate::Unsent(unsent.into()));
            SendError { error: Break::Http1(error.into_error()), fate }
        })
    }

    /// The stream itself once the upstream has switched to another protocol, and what has come of that; `None` if the
    /// connection goes on.
    pub(super) async fn into_stream(mut self) -> Option<Switched> {
        let ended = std::future::poll_fn(|cx| {
            self.poll(cx);
            if self.is_over { Poll::Ready(()) } else { Poll::Pending }
        });
        tokio::time::timeout(LET_GO, ended).await.ok()?;
        let Connection { http, held } = *self.connection;
        let http1::Parts { io, read_buf, .. } = http.into_parts();
        Some(Switched { stream: io.into_inner(), first: read_buf, held })
    }

    /// Moves bytes of the request and the response that are under way.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        self.is_over = self.is_over || self.connection.poll(cx).is_ready();
    }

    /// Whether it is ready for a request: neither closed nor in the middle of something.
    ///
    /// The poll also lets go of the task that used it last, which would otherwise be woken for nothing.
    pub(super) fn is_good(&mut self) -> bool {
        if self.is_over {
            return false;
        }
        let mut cx = Context::from_waker(Waker::noop());
        // Whatever the task has done so far in its turn: a look that is put off sees nothing.
        let look = pin!(tokio::task::unconstrained(std::future::poll_fn(|cx| self.connection.poll(cx))));
        look.poll(&mut cx).is_pending() && self.sender.is_ready()
    }

    /// Its place among the upstream's connections.
    pub(super) fn place(&mut self) -> &mut Place {
        &mut self.connection.held.place
    }
}

impl<B> Connection<B>
where
    B: Body<Data = Bytes> + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    /// Moves bytes in both directions; ready when the connection has ended.
    ///
    /// What went wrong is told to whoever waits for the response or reads its body.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.http).poll(cx).map(|_| ())
    }
}
