//! What a request is told that still waits to be sent when everything is cut: that it was not, and may come again.
//!
//! One that has been sent may have been done. It is cut like its connection, and whoever sent it knows as much as anybody.

use std::pin::Pin;
use std::task::Poll;

use crate::proxy::downstream::progress::Pace;
use crate::proxy::downstream::state::{Caller, End};
use crate::proxy::error::ProxyError;

/// Runs a request to its end, unless everything is cut before it is sent.
pub async fn unless_cut<T>(
    caller: &Caller,
    pace: &Pace,
    mut request: Pin<&mut impl Future<Output = Result<T, ProxyError>>>,
) -> Result<T, ProxyError> {
    std::future::poll_fn(|cx| match request.as_mut().poll(cx) {
        Poll::Pending if caller.wanted_end() == Some(End::Cut) && !pace.is_sent() => {
            Poll::Ready(Err(ProxyError::Draining))
        }
        outcome => outcome,
    })
    .await
}
