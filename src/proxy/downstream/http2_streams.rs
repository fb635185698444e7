//! The streams of an HTTP/2 connection, as tasks on the worker that serves the connection.
//!
//! hyper runs a task for each stream and polls a response only while the stream's window is open. A response whose
//! caller never opens the window is therefore ended from outside hyper: dropping hyper's task resets the stream
//! (CANCEL) and frees what the stream holds.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::request::Parts;
use tokio::time::Instant;

use super::progress::{Progress, Side};
use super::state::ClientConnection;

/// The size of a field beyond its name and its value, in bytes.
const PER_FIELD: usize = 32;

/// Runs the streams of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Streams(pub(crate) Rc<ClientConnection>);

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + 'static,
{
    /// hyper calls this for each request, directly after it has handed the request to the service.
    fn execute(&self, future: F) {
        let (progress, began) = (self.0.latest_progress(), self.0.now());
        let stream = Stream { progress, began, connection: Rc::clone(&self.0) };
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| {
                if future.as_mut().poll(cx).is_ready() || stream.progress.stalled() == Some(Side::Caller) {
                    return Poll::Ready(());
                }
                stream.progress.task.set(cx.waker());
                Poll::Pending
            })
            .await;
        });
    }
}

/// The size of a request's head as HTTP/2 counts it (RFC 9113 §6.5.2). hyper bounds heads of HTTP/1 as it reads them.
pub(crate) fn head_size(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD);
    target + fields.sum::<usize>()
}

/// A stream, which removes its progress from the connection when its task ends.
struct Stream {
    progress: Rc<Progress>,
    began: Instant,
    connection: Rc<ClientConnection>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.forget_progress(&self.progress);
        self.connection.stream_ended(self.began, self.progress.is_answered.get());
    }
}
