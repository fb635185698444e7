//! One request on one connection to the upstream, and the head of its response.
//!
//! The clock for the response starts when the upstream has the whole request, and again with each piece of the
//! body on the way: a long upload is not a slow upstream. A request that finds its connection closed before
//! anything was sent comes back for another connection, and so does one of which an HTTP/2 upstream says that it has not
//! processed it; after that nothing is sent twice.

use std::pin::{Pin, pin};
use std::time::Duration;

use http::header::UPGRADE;
use http::{Response, StatusCode};
use hyper::body::{Body, Incoming};
use tokio::time::Instant;

use super::pool::body::UpstreamBody;
use super::pool::lease::Lease;
use super::pool::outcome::{Break, Broken, Fate, SendError};
use super::pool::request::Outgoing;
use crate::causes::in_one_line;
use crate::proxy::body::replay::{Attempt, Fault, Payload};
use crate::proxy::error::upstream::ForwardError;

/// A request without a response, and whose fault that is.
#[derive(Debug)]
pub enum Failure {
    /// Nobody's: the connection had been used before and was closed meanwhile. The request is as it was.
    Unsent(Outgoing<Attempt<Incoming>>),
    /// The upstream's, which says that it has not processed it: the request once more from its beginning.
    Refused(Outgoing<Attempt<Incoming>>, ForwardError),
    /// The upstream's.
    Upstream(ForwardError),
    /// The caller's: its body.
    Caller(Fault),
}

/// A response's head, with the connection that its body comes from.
pub struct Answered<B: Body + 'static> {
    /// The head, and the body as it arrives.
    pub response: Response<UpstreamBody>,
    /// To be given back when the body has been read, dropped when it will not be.
    pub lease: Lease<B>,
}

/// Sends a request on a connection, which is the answer's from then on.
///
/// # Errors
///
/// [`Failure`]; the connection has ended.
pub async fn forward(
    mut lease: Lease<Attempt<Incoming>>,
    request: Outgoing<Attempt<Incoming>>,
    payload: &Payload<Incoming>,
    timeout: Duration,
) -> Result<Answered<Attempt<Incoming>>, Failure> {
    let may_switch = request.head.headers.contains_key(UPGRADE);
    let outcome = in_time(pin!(lease.send(request)), payload, timeout).await?;
    match outcome {
        // Nobody asked for it: what follows is no HTTP.
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS && !may_switch => {
            Err(Failure::Upstream(ForwardError::Protocol("an unexpected 101".to_owned())))
        }
        Ok(response) => Ok(Answered { response, lease }),
        Err(SendError { fate: Fate::Unsent(unsent), .. }) if lease.is_reused => Err(Failure::Unsent(unsent)),
        Err(SendError { fate: Fate::Refused(head), error }) => {
            match (failure(&error, payload), payload.again()) {
                (Failure::Upstream(error), Some(body)) => {
                    Err(Failure::Refused(Outgoing { head, body }, error))
                }
                (failure, _) => Err(failure),
            }
        }
        Err(SendError { error, .. }) => Err(failure(&error, payload)),
    }
}

/// Waits for the outcome as long as the body gets on or the upstream has time left to answer.
async fn in_time<T>(
    mut outcome: Pin<&mut impl Future<Output = T>>,
    payload: &Payload<Incoming>,
    timeout: Duration,
) -> Result<T, Failure> {
    let mut deadline = Instant::now() + timeout;
    loop {
        if let Ok(outcome) = tokio::time::timeout_at(deadline, outcome.as_mut()).await {
            return Ok(outcome);
        }
        match payload.progress().map(|progress| progress + timeout) {
            Some(later) if later > deadline => deadline = later,
            // Its own time-out watches over a caller that stopped sending.
            _ if payload.waits_for_caller() => deadline = Instant::now() + timeout,
            _ => return Err(Failure::Upstream(ForwardError::Timeout)),
        }
    }
}

/// Whose fault it is that a connection broke off, and what it is called.
fn failure(error: &Break, payload: &Payload<Incoming>) -> Failure {
    if let Some(fault) = payload.fault() {
        return Failure::Caller(fault);
    }
    let (is_no_http, text) = match error {
        Break::Http1(error) => {
            (error.is_parse() || error.is_parse_too_large() || error.is_parse_status(), in_one_line(error))
        }
        Break::Http2(broken) => (matches!(broken, Broken::Protocol(_)), broken.to_string()),
    };
    Failure::Upstream(if is_no_http { ForwardError::Protocol(text) } else { ForwardError::Terminated(text) })
}
