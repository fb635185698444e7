//! One client connection: HTTP/1.1 or HTTP/2, recognized by its first bytes, and served until it ends.
//!
//! hyper and h2 speak the protocols over a [`ClientIo`], and a [`Serve`] answers the requests. This module decides how a
//! connection over HTTP/1 ends: when hyper ends it, when the sweep finds that a deadline has passed, or when the daemon stops.

use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tracing::debug;

use super::http2;
use super::io::{ClientIo, MAX_BUFFER};
use super::protocol::End;
use super::request_body::ClientBody;
use super::serve::{Answer, Downstream, Serve};
use super::state::ClientConnection;
use super::stream::SharedStream;
use super::until_ended::until_ended;
use super::upgrade::{Upgrade, UpgradeSlot};
use crate::config::{HalfClosed, HeaderCase, Http1Options};

/// Serves a connection until it ends.
pub async fn serve<S: Serve>(stream: SharedStream, client: Rc<ClientConnection>, service: Rc<S>) {
    let agreed = stream.agreed_version();
    let mut io = ClientIo::new(stream, Rc::clone(&client));
    match until_ended(&client, io.sniff()).await {
        Err(end) => io.refuse_late_head(end).await,
        Ok(Err(error)) => debug!(peer = %client.peer.get(), %error, "connection ended before a request"),
        Ok(Ok(is_http2)) if agreed.is_some_and(|agreed| (agreed == Version::HTTP_2) != is_http2) => {
            if client.has_partial_head() {
                let _ = until_ended(&client, io.refuse_version()).await;
            }
        }
        // Boxed, so that a parked connection reserves no memory for them.
        Ok(Ok(true)) => {
            Box::pin(http2::serve(io, client, service)).await;
        }
        Ok(Ok(false)) => {
            io.report_tls();
            client.speaks_http1();
            while let Some(mut parked) = Box::pin(serve_http1(io, &client, &service)).await {
                if !next_request(&mut parked, &client).await {
                    return;
                }
                io = parked;
            }
        }
    }
}

/// Why hyper no longer serves an HTTP/1 connection.
enum Left {
    /// The connection has ended.
    Ended(hyper::Result<()>),
    /// The connection is to end.
    Wanted(End),
    /// The connection is quiet, and waits for its next request without the buffer that hyper keeps ready for one.
    Parked,
}

/// Serves requests over HTTP/1.1; returns the socket of a connection that is to be parked.
async fn serve_http1<S: Serve>(
    io: ClientIo,
    client: &Rc<ClientConnection>,
    service: &Rc<S>,
) -> Option<ClientIo> {
    let slot = UpgradeSlot::default();
    let answer = answers(Rc::clone(service), client, slot.handle());
    let header_bytes = service.limits().header_bytes;
    let Http1Options { header_case, half_closed } = service.http1();
    let preserves_case = header_case == HeaderCase::Preserve;
    let observation = client.observe(io.observer(), half_closed);
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(half_closed == HalfClosed::Answer)
        .preserve_header_case(preserves_case)
        .title_case_headers(preserves_case)
        .max_header_size(header_bytes)
        .max_buf_size(MAX_BUFFER.max(header_bytes))
        .serve_connection(TokioIo::new(io), service_fn(answer));
    let mut is_closing = false;
    let left = std::future::poll_fn(|cx| {
        // First the bytes that have arrived: hyper closes a connection on which it has read nothing.
        if let Poll::Ready(outcome) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Left::Ended(outcome));
        }
        match client.wanted_end() {
            // Until the connection is quiet, each response has `Connection: close`: hyper would drop a head of which it
            // has read a part.
            Some(End::Gracefully) if !is_closing && client.is_quiet() => {
                is_closing = true;
                Pin::new(&mut connection).graceful_shutdown();
                Pin::new(&mut connection).poll(cx).map(Left::Ended)
            }
            None if client.is_quiet() => Poll::Ready(Left::Parked),
            Some(End::Gracefully) | None => Poll::Pending,
            Some(end) => Poll::Ready(Left::Wanted(end)),
        }
    })
    .await;
    drop(observation);
    match left {
        Left::Ended(Ok(())) => {
            if let Some(takeover) = slot.take() {
                let http1::Parts { io, read_buf, .. } = connection.into_parts();
                // However the takeover ends, the connection ends with it.
                let _ = until_ended(client, takeover(io.into_inner(), read_buf)).await;
            }
            None
        }
        Left::Ended(Err(error)) => {
            debug!(peer = %client.peer.get(), %error, "connection failed");
            connection.into_parts().io.into_inner().close();
            None
        }
        Left::Wanted(end) => {
            let mut io = connection.into_parts().io.into_inner();
            io.refuse_late_head(end).await;
            io.close();
            None
        }
        Left::Parked => {
            let http1::Parts { io, read_buf, .. } = connection.into_parts();
            let mut io = io.into_inner();
            // The beginning of the next request may have arrived with the last one.
            io.unread(&read_buf);
            Some(io)
        }
    }
}

/// Waits for the next request of a parked connection. Returns whether hyper has to serve it again: after bytes, the
/// client's end, or the beginning of a graceful end.
async fn next_request(io: &mut ClientIo, client: &ClientConnection) -> bool {
    let mut first = pin!(io.wait());
    client.park();
    std::future::poll_fn(|cx| {
        if let Poll::Ready(came) = first.as_mut().poll(cx) {
            return Poll::Ready(came.is_ok());
        }
        match client.wanted_end() {
            None => Poll::Pending,
            Some(end) => Poll::Ready(end == End::Gracefully),
        }
    })
    .await
}

/// The function that hyper calls for each request.
fn answers<S: Serve>(
    service: Rc<S>,
    client: &Rc<ClientConnection>,
    upgrade: Upgrade,
) -> impl Fn(Request<Incoming>) -> Answer<S::Body> + use<S> {
    let client = Rc::clone(client);
    move |request| {
        let (connection, progress) = (Rc::clone(&client), client.begin_progress());
        service.answer(
            request.map(ClientBody::Http1),
            Downstream { connection, progress, upgrade: upgrade.clone() },
        )
    }
}
