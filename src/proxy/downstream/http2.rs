//! A client connection over HTTP/2, spoken by h2: its settings, its pings, and how it ends.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use h2::{Ping, PingPong, Reason};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, info};

use super::http2_stream;
use super::io::{ClientIo, MAX_BUFFER};
use super::protocol::{End, LINGERING_CLOSE_TIMEOUT};
use super::serve::Serve;
use super::state::ClientConnection;
use super::until_ended::until_ended;
use crate::config::Limits;
use crate::proxy::body::unread;
use crate::proxy::joined_writes::JoinedWrites;

const STREAM_WINDOW: u32 = 64 * 1024;
const CONNECTION_WINDOW: u32 = unread::STREAM_WINDOWS * STREAM_WINDOW;
/// h2 counts up to 256 bytes for each unread DATA frame that is smaller, and ends the connection beyond this budget. Streams
/// read their data each time the connection has received some, which is at most as much as this budget allows even in frames
/// of one byte.
const SMALL_FRAMES_BUDGET: usize = 2 * 256 * STREAM_WINDOW as usize;
/// The time between two PINGs to a client, and how long the client has to acknowledge one.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How much larger than allowed a head may be for the proxy to answer 431, instead of h2.
const HEAD_FACTOR: usize = 2;
/// Streams that a client may open only for bearerd to reset them.
const MAX_RESETS: usize = 256;

/// Serves a connection until it ends.
pub(super) async fn serve<S: Serve>(io: ClientIo, client: Rc<ClientConnection>, service: Rc<S>) {
    let limits = service.limits();
    client.speaks_http2(limits.streams);
    let io = JoinedWrites::new(io);
    let outcome = match until_ended(&client, builder(&limits).handshake(io.clone())).await {
        Ok(Ok(mut connection)) => run(&mut connection, &io, &client, &service).await,
        Ok(Err(error)) => Err(error),
        Err(_) => Ok(()),
    };
    if let Err(error) = outcome {
        debug!(peer = %client.peer.get(), %error, "connection failed");
    }
}

fn builder(limits: &Limits) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(limits.streams)
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .data_frame_budget(SMALL_FRAMES_BUDGET)
        .max_frame_size(16 * 1024)
        .max_header_list_size(u32::try_from(limits.header_bytes * HEAD_FACTOR).unwrap_or(u32::MAX))
        .max_send_buffer_size(MAX_BUFFER)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .max_pending_accept_reset_streams(usize::try_from(limits.streams).unwrap_or(usize::MAX));
    builder
}

async fn run<S: Serve>(
    connection: &mut Connection<JoinedWrites<ClientIo>, Bytes>,
    io: &JoinedWrites<ClientIo>,
    client: &Rc<ClientConnection>,
    service: &Rc<S>,
) -> Result<(), h2::Error> {
    let mut pings = connection.ping_pong().map(Pings::new);
    let mut is_closing = false;
    let mut poll = |connection: &mut Connection<_, _>, cx: &mut Context<'_>| {
        loop {
            if pings.as_mut().is_some_and(|pings| pings.poll(cx).is_ready()) {
                pings = None;
                connection.abrupt_shutdown(Reason::NO_ERROR);
            }
            match connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    http2_stream::spawn(request, respond, client, service);
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) => return Poll::Ready(Ok(None)),
                Poll::Pending => match client.wanted_end() {
                    Some(End::Gracefully) if !is_closing => {
                        is_closing = true;
                        connection.graceful_shutdown();
                    }
                    Some(End::Gracefully) | None => return Poll::Pending,
                    Some(end) => return Poll::Ready(Ok(Some(end))),
                },
            }
        }
    };
    let end = poll_fn(|cx| io.poll(cx, |cx| poll(connection, cx))).await?;
    if end == Some(End::TooManyResets) {
        let error = "the caller resets too many HTTP/2 streams";
        info!(target: "bearerd::connection", peer = %client.peer.get().host(), error, "connection closed");
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        client.has_unread.set(true);
        // Ended within the time-out: the client may go on sending.
        let _ = timeout(LINGERING_CLOSE_TIMEOUT, poll_fn(|cx| connection.poll_closed(cx))).await;
    }
    Ok(())
}

/// The PINGs that find out whether a client still answers.
struct Pings {
    connection: PingPong,
    /// When the next PING is due, or its answer.
    due: Pin<Box<Sleep>>,
    is_unanswered: bool,
}

impl Pings {
    fn new(pings: PingPong) -> Self {
        Self { connection: pings, due: Box::pin(sleep(PING_INTERVAL)), is_unanswered: false }
    }

    /// Ready when a PING was not answered in time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_unanswered && self.connection.poll_pong(cx).is_ready() {
            self.is_unanswered = false;
            self.due.as_mut().reset(Instant::now() + PING_INTERVAL);
        }
        while self.due.as_mut().poll(cx).is_ready() {
            if self.is_unanswered {
                return Poll::Ready(());
            }
            // Fails only on a connection that has ended.
            let _ = self.connection.send_ping(Ping::opaque());
            self.is_unanswered = true;
            self.due.as_mut().reset(Instant::now() + PING_TIMEOUT);
            if self.connection.poll_pong(cx).is_ready() {
                self.is_unanswered = false;
            }
        }
        Poll::Pending
    }
}
