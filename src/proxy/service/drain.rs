//! Answers 503 `draining` to requests not yet sent upstream when the drain deadline expires.
//!
//! A request that was sent may have been processed: its connection is cut without a response.

use std::pin::Pin;
use std::task::Poll;

use crate::proxy::downstream::progress::Progress;
use crate::proxy::downstream::protocol::End;
use crate::proxy::downstream::state::ClientConnection;
use crate::proxy::error::ProxyError;

/// Runs a request to its end, unless its connection is cut before the request is sent upstream.
///
/// # Errors
///
/// The error of the request, or [`ProxyError::Draining`].
pub(crate) async fn unless_cut<T>(
    client: &ClientConnection,
    progress: &Progress,
    mut request: Pin<&mut impl Future<Output = Result<T, ProxyError>>>,
) -> Result<T, ProxyError> {
    std::future::poll_fn(|cx| match request.as_mut().poll(cx) {
        Poll::Pending if client.wanted_end() == Some(End::Cut) && !progress.is_sent.get() => {
            Poll::Ready(Err(ProxyError::Draining))
        }
        outcome => outcome,
    })
    .await
}
