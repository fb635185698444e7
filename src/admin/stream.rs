//! `/events`: the daemon's status as server-sent events, whenever it changes.
//!
//! Each event is a whole [`Status`](super::status::Status), so that a client that has missed one misses nothing. A stream
//! ends when the daemon stops and after a few minutes, and its client connects again.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::{Method, Request, StatusCode};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep, sleep_until};

use super::overview::Overview;
use super::server::Peer;
use crate::http::Problem;
use crate::lifecycle::Stage;
use crate::telemetry::Event;

/// The most streams at once.
const STREAMS: usize = 32;
/// The longest time between two events, or an event and a comment that keeps the connection.
const INTERVAL: Duration = Duration::from_secs(5);
/// How long events that follow each other are collected.
const COLLECTING: Duration = Duration::from_millis(50);
/// How long a stream lasts: less than a connection of the admin address.
const LIFETIME: Duration = Duration::from_secs(150);
/// When a client whose stream has ended connects again.
const RETRY: &str = "retry: 1000\n";

/// The streams of all clients.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    overview: Overview,
    places: Arc<Semaphore>,
}

/// One stream.
struct Stream {
    overview: Overview,
    events: Receiver<Arc<Event>>,
    stage: watch::Receiver<Stage>,
    ends: Instant,
    /// The status that was sent last.
    sent: Option<String>,
    is_last: bool,
    _place: OwnedSemaphorePermit,
}

impl Streams {
    pub(super) fn new(overview: Overview) -> Self {
        Self { overview, places: Arc::new(Semaphore::new(STREAMS)) }
    }
}

/// Answers `/events`.
pub(super) async fn answer(
    State(Streams { overview, places }): State<Streams>,
    Extension(client): Peer,
    request: Request<Body>,
) -> Response {
    let (head, _) = request.into_parts();
    if let Err(problem) = overview.admit(&head, client).await {
        return problem.into();
    }
    let Ok(place) = places.try_acquire_owned() else {
        let detail = "Too many clients read events.";
        let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", "Overloaded", detail);
        return problem.after(Some(INTERVAL)).into();
    };
    let body = if head.method == Method::HEAD {
        Body::empty()
    } else {
        let (events, mut stage) = (overview.events().subscribe(), overview.stage());
        let is_last = *stage.borrow_and_update() != Stage::Running;
        let ends = Instant::now() + LIFETIME;
        let stream = Stream { overview, events, stage, ends, sent: None, is_last, _place: place };
        Body::from_stream(futures_util::stream::unfold(stream, Stream::next))
    };
    let fields = [
        (CONTENT_TYPE, "text/event-stream"),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    (fields, body).into_response()
}

impl Stream {
    /// The next part of the stream.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.sent.is_some() {
            if self.is_last {
                return None;
            }
            let next = Instant::now() + INTERVAL;
            tokio::select! {
                // An error means that the daemon has gone.
                _ = self.stage.changed() => self.is_last = true,
                event = self.events.recv() => match event {
                    Ok(_) | Err(RecvError::Lagged(_)) => {
                        sleep(COLLECTING).await;
                        self.events = self.events.resubscribe();
                    }
                    Err(RecvError::Closed) => return None,
                },
                () = sleep_until(next) => {}
                () = sleep_until(self.ends) => return None,
            }
        }
        let status = serde_json::to_string(&self.overview.status()).unwrap_or_default();
        let text = match &self.sent {
            Some(sent) if *sent == status => ": nothing has changed\n\n".to_owned(),
            Some(_) => format!("event: status\ndata: {status}\n\n"),
            None => format!("{RETRY}event: status\ndata: {status}\n\n"),
        };
        self.sent = Some(status);
        Some((Ok(Bytes::from(text)), self))
    }
}
