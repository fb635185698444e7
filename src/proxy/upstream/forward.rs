//! Sends one request on one connection and receives the head of the response.
//!
//! The response timeout starts again with each piece of the request body: a long upload is not a slow upstream. A
//! request that the upstream certainly has not processed is returned, to be sent on another connection: a reused
//! connection closed before any of the request was sent, or an HTTP/2 upstream states that fact. If a reused connection
//! closed later, but before any byte of the response, the caller of this module decides.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use h2::Reason;
use http::{Response, StatusCode};
use tokio::time::Instant;

use super::connect::tls;
use super::pool::body::UpstreamBody;
use super::pool::lease::Lease;
use super::pool::outcome::{ExchangeError, SendError, StreamError};
use super::pool::request::{InterimSink, Outgoing, RequestBody};
use crate::causes::in_one_line;
use crate::proxy::body::replay::{AttemptBody, BodyError, ReplayBody};
use crate::proxy::downstream::progress::Progress;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::message::framing::{self, Reuse};
use crate::proxy::suspension;
use crate::tls::diagnosis;

/// Why a request brought no response.
#[derive(Debug)]
pub enum Failure {
    /// A reused connection was closed before any of the request was sent; the request is unchanged.
    Unsent(Outgoing<AttemptBody<ClientBody>>),
    /// The upstream states that it has not processed the request, which has its whole body again.
    Refused(Outgoing<AttemptBody<ClientBody>>, ForwardError),
    /// A reused connection closed before any byte of the response: probably before the upstream read the request.
    Stale(ForwardError),
    /// The connection or the upstream failed.
    Upstream(ForwardError),
    /// The caller failed to send the request body.
    Caller(BodyError),
}

/// The head of a response, with the connection that carries the response body.
pub struct Answered<B: RequestBody> {
    /// The head, and the body as it arrives.
    pub response: Response<UpstreamBody>,
    /// To be given back after the whole body was read, or dropped to abort the exchange.
    pub lease: Lease<B>,
}

/// The wait for a response head.
#[derive(Clone, Copy, Debug)]
pub struct HeadWait<'p> {
    /// The progress of the response, which the worker sweeps.
    pub progress: &'p Progress,
    /// When the request was sent.
    pub begun: Instant,
    /// The longest wait.
    pub timeout: Duration,
}

/// Sends a request on a connection; gives interim responses to the sink. `wait` bounds the wait for the response head;
/// `may_switch` is whether the request asks for another protocol. A failure closes the connection.
pub async fn forward(
    mut lease: Lease<AttemptBody<ClientBody>>,
    request: Outgoing<AttemptBody<ClientBody>>,
    request_body: &ReplayBody<ClientBody>,
    wait: HeadWait<'_>,
    may_switch: bool,
    relay_interim: InterimSink<'_>,
) -> Result<Answered<AttemptBody<ClientBody>>, Failure> {
    let method = request.head.method.clone();
    let outcome = with_timeout(pin!(lease.send(request, relay_interim)), request_body, wait).await;
    let outcome = outcome.inspect_err(|_| lease.timed_out())?;
    match outcome {
        // The request has no `Upgrade` field, so the bytes that follow would not be HTTP.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch => {
            Err(Failure::Upstream(ForwardError::Protocol("an unexpected 101".to_owned())))
        }
        Ok(mut response) => {
            let reuse = framing::settle(&mut response, &method)
                .map_err(|why| Failure::Upstream(ForwardError::Protocol(why.to_owned())))?;
            lease.is_last = reuse == Reuse::Refused;
            Ok(Answered { response, lease })
        }
        Err(SendError::Unsent(unsent, _)) if lease.is_reused => Err(Failure::Unsent(unsent)),
        Err(SendError::Refused(head, error)) => {
            match (failure(&error, request_body), request_body.replay()) {
                (Failure::Upstream(error), Some(body)) => {
                    Err(Failure::Refused(Outgoing { head, body }, error))
                }
                (failure, _) => Err(failure),
            }
        }
        Err(SendError::Sent(error)) if lease.is_reused => match failure(&error, request_body) {
            Failure::Upstream(cause) if lease.has_closed_unanswered(&error) => Err(Failure::Stale(cause)),
            failure => Err(failure),
        },
        Err(SendError::Unsent(_, error) | SendError::Sent(error)) => Err(failure(&error, request_body)),
    }
}

/// Waits for `outcome`. Progress of the request body, or a wait for the caller to send more, extends the deadline. The
/// worker's sweep wakes the task once the deadline has passed.
async fn with_timeout<T>(
    mut outcome: Pin<&mut impl Future<Output = T>>,
    request_body: &ReplayBody<ClientBody>,
    HeadWait { progress, begun, timeout }: HeadWait<'_>,
) -> Result<T, Failure> {
    let mut deadline = begun + timeout;
    progress.expect_head_by(Some(deadline));
    let outcome = poll_fn(|cx| {
        if let Poll::Ready(outcome) = outcome.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        if !progress.is_head_late() {
            return Poll::Pending;
        }
        let later = request_body.progress().map(|progress| progress + timeout);
        deadline = match later.filter(|later| *later > deadline).or_else(|| suspension::extended(deadline)) {
            Some(later) => later,
            // The read timeout of the request body covers a caller that stopped sending.
            _ if request_body.waits_for_caller() => Instant::now() + timeout,
            _ => return Poll::Ready(Err(Failure::Upstream(ForwardError::Timeout))),
        };
        progress.expect_head_by(Some(deadline));
        Poll::Pending
    })
    .await;
    progress.expect_head_by(None);
    outcome
}

/// Attributes a failed exchange to the caller or to the upstream.
fn failure(error: &ExchangeError, request_body: &ReplayBody<ClientBody>) -> Failure {
    if let Some(fault) = request_body.error() {
        return Failure::Caller(fault);
    }
    match error {
        ExchangeError::Http2(
            StreamError::Reset(Reason::HTTP_1_1_REQUIRED) | StreamError::GoneAway(Reason::HTTP_1_1_REQUIRED),
        ) => return Failure::Upstream(ForwardError::Http1Required),
        ExchangeError::Http1(error) => {
            if let Some(refusal) = tls::refusal(error) {
                return Failure::Upstream(refusal);
            }
        }
        ExchangeError::Http2(_) => {}
    }
    let (is_no_http, text) = match error {
        ExchangeError::Http1(error) => {
            (error.is_parse(), diagnosis::described(error).unwrap_or_else(|| in_one_line(error)))
        }
        ExchangeError::Http2(error) => (matches!(error, StreamError::Protocol(_)), error.to_string()),
    };
    Failure::Upstream(if is_no_http { ForwardError::Protocol(text) } else { ForwardError::Terminated(text) })
}
