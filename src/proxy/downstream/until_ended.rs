//! Work on a connection, which the end of the connection cuts off.

use std::pin::pin;
use std::task::Poll;

use super::protocol::End;
use super::state::ClientConnection;

/// Runs a future unless the connection is to end first.
///
/// A graceful end leaves the future running: a request may be on its way, and the sweep bounds the wait for it.
pub(super) async fn until_ended<T>(
    client: &ClientConnection,
    future: impl Future<Output = T>,
) -> Result<T, End> {
    let mut future = pin!(future);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(outcome) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(outcome));
        }
        match client.wanted_end() {
            None | Some(End::Gracefully) => Poll::Pending,
            Some(end) => Poll::Ready(Err(end)),
        }
    })
    .await
}
