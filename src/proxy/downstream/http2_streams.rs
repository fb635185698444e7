//! The streams of an HTTP/2 connection, as tasks on the worker that has the connection.
//!
//! hyper has a task for each stream and looks at an answer again only when the stream's window is open. So an
//! answer whose caller never opens it is ended here, from outside: dropping hyper's task resets the stream
//! (CANCEL), and with it goes what was kept for it.

use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use http::request::Parts;

use super::progress::{Pace, Stalled};
use super::state::Caller;

/// What a field counts for besides its name and its value.
const PER_FIELD: usize = 32;

/// Runs the streams of one connection.
#[derive(Clone, Debug)]
pub struct Streams(Rc<Caller>);

impl Streams {
    /// Those of this caller.
    pub const fn of(caller: Rc<Caller>) -> Self {
        Self(caller)
    }
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future<Output = ()> + 'static,
{
    /// hyper calls this for each request, directly after it has handed the request to the service.
    fn execute(&self, future: F) {
        let stream = Stream { pace: self.0.latest_pace(), caller: Rc::clone(&self.0) };
        tokio::task::spawn_local(async move {
            let mut future = pin!(future);
            std::future::poll_fn(|cx| {
                if future.as_mut().poll(cx).is_ready() || stream.pace.stalled() == Some(Stalled::Caller) {
                    return Poll::Ready(());
                }
                stream.pace.set_task(cx.waker());
                Poll::Pending
            })
            .await;
        });
    }
}

/// The size of a request's head as HTTP/2 counts it (RFC 9113 §6.5.2). Over HTTP/1 it is counted as it is read.
pub fn head_size(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD);
    target + fields.sum::<usize>()
}

/// A stream; taken off the caller's list with its task.
struct Stream {
    pace: Rc<Pace>,
    caller: Rc<Caller>,
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.caller.forget_pace(&self.pace);
    }
}
