//! One request over HTTP/2 and its response, in a task on the worker that serves the connection.
//!
//! A response is polled only while its stream's window is open. A response whose caller never opens the window is
//! therefore ended from outside: dropping the stream resets it (CANCEL) and frees what it holds.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, DATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use tracing::debug;

use super::progress::{Progress, Side};
use super::request_body::{ClientBody, Continuation, StreamBody};
use super::serve::{Answer, Downstream, Serve};
use super::state::ClientConnection;
use super::upgrade::Upgrade;

/// The size of a field beyond its name and its value, in bytes.
const PER_FIELD: usize = 32;

/// The size of a request's head as HTTP/2 counts it (RFC 9113 §6.5.2). hyper bounds heads of HTTP/1 as it reads them.
pub(crate) fn head_size(head: &Parts) -> usize {
    let target = head.uri.path_and_query().map_or(0, |target| target.as_str().len());
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + PER_FIELD);
    target + fields.sum::<usize>()
}

/// Answers a request in a task of its own.
pub(super) fn spawn<S: Serve>(
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
    client: &Rc<ClientConnection>,
    service: &Rc<S>,
) {
    let (head, body) = request.into_parts();
    let body = StreamBody::new(&head, body);
    let (continuation, reader) = (body.continuation(), body.reader());
    let request = Request::from_parts(head, ClientBody::Http2(body));
    let (connection, progress) = (Rc::clone(client), client.begin_progress());
    let downstream = Downstream { connection, progress: Rc::clone(&progress), upgrade: Upgrade::default() };
    let answer = service.answer(request, downstream);
    let stream = Stream { progress, began: client.now(), connection: Rc::clone(client) };
    tokio::task::spawn_local(async move {
        let mut answering = pin!(respond_with(answer, respond, continuation, &stream.progress));
        poll_fn(|cx| {
            if answering.as_mut().poll(cx).is_ready() || stream.progress.stalled() == Some(Side::Caller) {
                return Poll::Ready(());
            }
            reader.read(cx);
            stream.progress.task.set(cx.waker());
            Poll::Pending
        })
        .await;
    });
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

/// Sends the response, unless the client resets the stream before its end.
async fn respond_with<B>(
    mut answer: Answer<B>,
    mut respond: SendResponse<Bytes>,
    continuation: Option<Continuation>,
    progress: &Progress,
) where
    B: Body<Data = Bytes> + 'static,
{
    let response = poll_fn(|cx| {
        let answered = answer.as_mut().poll(cx);
        for interim in progress.interim.take() {
            // Fails only on a stream that has ended.
            let _ = respond.send_informational(interim);
        }
        if let Poll::Ready(Ok(response)) = answered {
            return Poll::Ready(Some(response));
        }
        if continuation.as_ref().is_some_and(Continuation::take) {
            // Fails only on a stream that has ended.
            let _ = respond.send_informational(interim(StatusCode::CONTINUE));
        }
        respond.poll_reset(cx).map(|_| None)
    })
    .await;
    let Some(response) = response else { return };
    // What the answer holds is of no use any more.
    drop(answer);
    let (mut head, body) = response.into_parts();
    let mut body = pin!(body);
    head.headers.entry(DATE).or_insert_with(date);
    let is_end = body.is_end_stream();
    if !is_end
        && !head.headers.contains_key(CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        head.headers.insert(CONTENT_LENGTH, length.into());
    }
    match respond.send_response(Response::from_parts(head, ()), is_end) {
        Ok(_) if is_end => {}
        Ok(mut to) => send(&mut to, body.as_mut()).await,
        Err(error) => {
            debug!(%error, "response not sent");
            respond.send_reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// Sends a response's body, unless the client resets the stream before its end.
async fn send<B: Body<Data = Bytes>>(to: &mut SendStream<Bytes>, mut body: Pin<&mut B>) {
    loop {
        let frame = poll_fn(|cx| match to.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => body.as_mut().poll_frame(cx).map(Some),
        });
        // Sending fails only on a stream that has ended.
        match frame.await {
            None => return,
            Some(None) => {
                let _ = to.send_data(Bytes::new(), true);
                return;
            }
            Some(Some(Err(_))) => return to.send_reset(Reason::INTERNAL_ERROR),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => {
                    let is_last = body.is_end_stream();
                    // Only a byte is asked for: what a stream has reserved, others of the connection lack.
                    let has_capacity = data.is_empty() || poll_fn(|cx| poll_capacity(to, cx)).await;
                    if !has_capacity || to.send_data(data, is_last).is_err() || is_last {
                        return;
                    }
                }
                Err(frame) => {
                    to.reserve_capacity(0);
                    let _ = frame.into_trailers().map(|trailers| to.send_trailers(trailers));
                    return;
                }
            },
        }
    }
}

/// Waits for room in the stream's window; `false` if the stream has ended.
fn poll_capacity(to: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<bool> {
    to.reserve_capacity(1);
    if to.poll_reset(cx).is_ready() {
        return Poll::Ready(false);
    }
    while to.capacity() == 0 {
        match ready!(to.poll_capacity(cx)) {
            Some(Ok(_)) => {}
            Some(Err(_)) | None => return Poll::Ready(false),
        }
    }
    Poll::Ready(true)
}

fn interim(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}

fn date() -> HeaderValue {
    let date = httpdate::fmt_http_date(crate::clock::wall_clock());
    HeaderValue::try_from(date).unwrap_or_else(|_| HeaderValue::from_static(""))
}
