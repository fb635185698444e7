//! One request on an HTTP/2 connection (RFC 9113 §8).
//!
//! The request itself carries its body to the connection; the answer is read by whoever has it. Dropping either half
//! before its end resets the stream, and nothing else.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use http_body::{Body, Frame, SizeHint};

use super::http2::Place;
use super::outcome::{Break, Broken, Fate, SendError};
use super::request::Outgoing;

/// A place for a request, and then the half of it that is sent.
pub(super) struct Stream<B> {
    place: Place,
    upload: Option<Upload<B>>,
}

/// A request's body on its way.
struct Upload<B> {
    body: B,
    to: SendStream<Bytes>,
    /// A piece for which there is no room yet.
    piece: Bytes,
}

/// An answer's body as it arrives.
#[derive(Debug)]
pub struct StreamBody {
    from: RecvStream,
    /// What is missing of it, where its length was told.
    missing: Option<u64>,
    has_no_more_data: bool,
}

impl<B> Stream<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    pub(super) const fn new(place: Place) -> Self {
        Self { place, upload: None }
    }

    /// Sends a request and waits for the response's head; carries its body meanwhile.
    pub(super) async fn send(&mut self, request: Outgoing<B>) -> Result<Response<StreamBody>, SendError<B>> {
        let Outgoing { head, body } = request;
        let is_head = head.method == Method::HEAD;
        let is_without_body = body.is_end_stream();
        let Ok(message) = self.message(&head, is_without_body) else {
            return Err(unsent(Broken::Protocol(Reason::INTERNAL_ERROR), head, body));
        };
        let (mut response, to) = match self.place.sender.send_request(message, is_without_body) {
            Ok(sent) => sent,
            Err(error) => return Err(unsent(error.into(), head, body)),
        };
        let mut upload = Upload { body, to, piece: Bytes::new() };
        let mut is_sending = !is_without_body;
        let outcome = std::future::poll_fn(|cx| {
            is_sending = is_sending && upload.poll(cx).is_pending();
            Pin::new(&mut response).poll(cx)
        })
        .await;
        match outcome {
            Ok(response) => {
                self.upload = is_sending.then_some(upload);
                let length = (!is_head).then(|| length(response.headers())).flatten();
                Ok(response.map(|from| StreamBody { from, missing: length, has_no_more_data: false }))
            }
            Err(error) => {
                let is_refused = error.is_remote()
                    && (error.is_go_away()
                        || (error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM)));
                let fate = if is_refused { Fate::Refused(head) } else { Fate::Sent };
                Err(SendError { error: Break::Http2(error.into()), fate })
            }
        }
    }

    /// Carries what there is of the body.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        if self.upload.as_mut().is_some_and(|upload| upload.poll(cx).is_ready()) {
            self.upload = None;
        }
    }

    /// The head as HTTP/2 has it (RFC 9113 §8.2.2, §8.3.1).
    fn message(&self, head: &Parts, is_without_body: bool) -> Result<Request<()>, http::Error> {
        let connection = &self.place.connection;
        let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut uri = http::uri::Parts::default();
        uri.scheme = Some(connection.scheme.clone());
        uri.authority = Some(connection.authority.clone());
        uri.path_and_query = Some(path);
        let mut message = Request::new(());
        *message.method_mut() = head.method.clone();
        *message.uri_mut() = Uri::from_parts(uri)?;
        *message.version_mut() = Version::HTTP_2;
        let mut headers = head.headers.clone();
        headers.remove(HOST);
        headers.remove(TRANSFER_ENCODING);
        headers.remove(CONNECTION);
        // As over HTTP/1.1: some servers want to be told that there is nothing.
        let often_has_a_body = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        if is_without_body && often_has_a_body {
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        *message.headers_mut() = headers;
        Ok(message)
    }
}

/// How long a body is by its own word; h2 has refused what is contradictory.
fn length(headers: &http::HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn unsent<B>(error: Broken, head: Box<Parts>, body: B) -> SendError<B> {
    SendError { error: Break::Http2(error), fate: Fate::Unsent(Outgoing { head, body }) }
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// Ready when there is nothing more to send, for whatever reason: what went wrong is for the reader to find out.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.to.poll_reset(cx).is_ready() {
                return Poll::Ready(());
            }
            if self.piece.is_empty() {
                match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                    Some(Ok(frame)) => self.piece = frame.into_data().unwrap_or_default(),
                    Some(Err(_)) => {
                        self.to.send_reset(Reason::CANCEL);
                        return Poll::Ready(());
                    }
                    None => {
                        // Fails only where the stream has ended, which its reader is told.
                        let _ = self.to.send_data(Bytes::new(), true);
                        return Poll::Ready(());
                    }
                }
                continue;
            }
            let Some(room) = ready!(self.poll_room(cx)) else {
                return Poll::Ready(());
            };
            let piece = self.piece.split_to(room.min(self.piece.len()));
            let is_last = self.piece.is_empty() && self.body.is_end_stream();
            if self.to.send_data(piece, is_last).is_err() || is_last {
                return Poll::Ready(());
            }
        }
    }

    /// How much of the piece may be sent now; `None` if nothing more of it will be.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Option<usize>> {
        self.to.reserve_capacity(self.piece.len());
        loop {
            let room = self.to.capacity();
            if room > 0 {
                return Poll::Ready(Some(room));
            }
            match ready!(self.to.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Poll::Ready(None),
            }
        }
    }
}

impl StreamBody {
    /// Whether everything of it has come.
    pub fn is_end_stream(&self) -> bool {
        self.from.is_end_stream()
    }

    /// What is known of what is left.
    pub fn size_hint(&self) -> SizeHint {
        match self.missing {
            _ if self.is_end_stream() => SizeHint::with_exact(0),
            Some(missing) => SizeHint::with_exact(missing),
            None => SizeHint::default(),
        }
    }

    /// The next piece; an end that comes too early is an error.
    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        if !self.has_no_more_data {
            match ready!(self.from.poll_data(cx)) {
                Some(Ok(data)) => {
                    let length = data.len();
                    // Fails for more than there was.
                    let _ = self.from.flow_control().release_capacity(length);
                    self.missing = self.missing.map(|missing| missing.saturating_sub(length as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(self.ended_by(error).map(Err)),
                None => self.has_no_more_data = true,
            }
        }
        match ready!(self.from.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(self.ended_by(error).map(Err)),
        }
    }

    /// An upstream that wants no more of a request resets the stream without an error, behind its whole answer
    /// (RFC 9113 §8.1). Any other reset breaks the answer off.
    fn ended_by(&mut self, error: h2::Error) -> Option<Broken> {
        self.has_no_more_data = true;
        let is_end = error.is_remote() && error.is_reset() && error.reason() == Some(Reason::NO_ERROR);
        match self.missing {
            None | Some(0) if is_end => None,
            Some(_) if is_end => Some(Broken::Short),
            _ => Some(error.into()),
        }
    }
}
