//! What the scripted API answers.
//!
//! | path | answer |
//! | --- | --- |
//! | `/echo…` | the request's body |
//! | `/id` | the request's id |
//! | `/forbidden` | 401, whatever the token |
//! | `/scope` | 401 with `insufficient_scope` |
//! | `/status/N` | status N |
//! | `/held…` | 200 once the test has called [`release`](super::Upstream::release) |
//! | `/slow/MS` | 200 after so many milliseconds; with `/id` behind it the request's id |
//! | `/throttled/N…` | 429 to the first N requests of this target, with `Retry-After` as `x-retry-after` says; then the body |
//! | `/trickle/N` | N pieces, 20 ms apart |
//! | `/pieces/N` | N events of a few bytes, 2 ms apart |
//! | `/big/N` | N bytes |
//! | `/hang` | no answer |
//! | `/hangup` | the connection is closed before the answer |
//! | `/break/length`, `/break/chunked` | the connection is closed in the middle of the answer |
//! | any other | 200 and a word |

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};

use super::id;
use crate::api::invalid_token;
use crate::server::{Body, whole};

/// The size of the pieces that `/big` sends, in bytes.
pub const PIECE: usize = 16 * 1024;
const TRICKLE: Duration = Duration::from_millis(20);
const EVENTS: Duration = Duration::from_millis(2);

pub(super) async fn answer(
    head: &Parts,
    path: &str,
    body: Incoming,
    earlier: usize,
) -> io::Result<Response<Body>> {
    let mut segments = path.trim_start_matches('/').split('/');
    let mut next = || segments.next().unwrap_or_default();
    let (action, argument, option) = (next(), next(), next());
    let number = argument.parse::<u64>().unwrap_or(0);
    let mut response = match action {
        "echo" => {
            let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let length = HeaderValue::from(bytes.len());
            let mut response = Response::new(whole(bytes));
            response.headers_mut().insert("x-body-bytes", length);
            return Ok(response);
        }
        "throttled" => {
            let bytes = body.collect().await.map_err(io::Error::other)?.to_bytes();
            let is_throttled = earlier < usize::try_from(number).unwrap();
            return Ok(if is_throttled { throttled(head) } else { Response::new(whole(bytes)) });
        }
        "id" => Response::new(whole(id(head).to_owned())),
        "hang" => std::future::pending().await,
        "hangup" => return Err(io::Error::other("told to hang up")),
        "break" => {
            let pieces = vec![Ok(Bytes::from_static(b"half of it")), Err(io::Error::other("told to break"))];
            let mut response = Response::new(slowly(pieces, TRICKLE));
            if argument == "length" {
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("1000"));
            }
            response
        }
        "trickle" => {
            let pieces = (0..number).map(|piece| Ok(Bytes::from(format!("piece {piece}\n"))));
            Response::new(slowly(pieces.collect(), TRICKLE))
        }
        "pieces" => Response::new(events(number)),
        "big" => {
            let mut response = Response::new(big(number));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(number));
            response
        }
        "forbidden" => challenge("Bearer realm=\"api\""),
        "scope" => challenge("Bearer error=\"insufficient_scope\""),
        "status" => {
            let status =
                u16::try_from(number).ok().and_then(|number| StatusCode::from_u16(number).ok()).unwrap();
            let mut response = Response::new(whole(if status == 204 { "" } else { "as told" }));
            *response.status_mut() = status;
            response
        }
        "held" => Response::new(whole("at last")),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Response::new(whole(if option == "id" { id(head).to_owned() } else { "at last".to_owned() }))
        }
        _ => Response::new(whole("welcome")),
    };
    let path = HeaderValue::from_str(head.uri.path()).unwrap();
    response.headers_mut().insert("x-seen-path", path);
    body.collect().await.map_err(io::Error::other)?;
    Ok(response)
}

pub(super) async fn reject(head: &Parts, body: Incoming) -> io::Result<Response<Body>> {
    let mut response = invalid_token();
    if let Some(status) =
        head.headers.get("x-rejected-with").and_then(|status| status.to_str().ok()?.parse().ok())
    {
        *response.status_mut() = status;
    }
    match head.headers.get("x-when-rejected").map(HeaderValue::as_bytes) {
        Some(b"early") => {
            tokio::spawn(async move {
                let _ = body.collect().await;
            });
        }
        // The body is dropped: over HTTP/2 its stream is reset without an error.
        Some(b"early-reset") => {}
        Some(b"early-close") => {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {
            body.collect().await.map_err(io::Error::other)?;
        }
    }
    Ok(response)
}

fn throttled(head: &Parts) -> Response<Body> {
    let mut response = Response::new(whole("slow down"));
    *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    if let Some(wait) = head.headers.get("x-retry-after") {
        response.headers_mut().insert(RETRY_AFTER, wait.clone());
    }
    response
}

fn challenge(challenge: &'static str) -> Response<Body> {
    let mut response = Response::new(whole("{\"error\":\"forbidden\"}"));
    *response.status_mut() = StatusCode::UNAUTHORIZED;
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

/// A body of pieces with a pause before each.
fn slowly(pieces: Vec<io::Result<Bytes>>, pause: Duration) -> Body {
    let stream = futures_util::stream::unfold(pieces.into_iter(), move |mut pieces| async move {
        let piece = pieces.next()?;
        tokio::time::sleep(pause).await;
        Some((piece.map(Frame::data), pieces))
    });
    StreamBody::new(stream).boxed()
}

/// Server-sent events.
fn events(count: u64) -> Body {
    let event = Bytes::from_static(b"data: {\"something\": \"has happened\", \"at\": 1}\n\n");
    let stream = futures_util::stream::unfold(count, move |left| {
        let event = event.clone();
        async move {
            tokio::time::sleep(EVENTS).await;
            (left > 0).then(|| (Ok(Frame::data(event)), left - 1))
        }
    });
    StreamBody::new(stream).boxed()
}

/// So many bytes, all pieces of the same memory.
fn big(bytes: u64) -> Body {
    let piece = Bytes::from(vec![b'x'; PIECE]);
    let pieces = futures_util::stream::unfold(bytes, move |left| {
        let next = piece.slice(..usize::try_from(left).unwrap().min(PIECE));
        std::future::ready(match next.len() {
            0 => None,
            taken => Some((Ok(Frame::data(next)), left - taken as u64)),
        })
    });
    StreamBody::new(pieces).boxed()
}

/// Half of a body's first piece, then an error.
pub(super) fn cut(body: Body) -> impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + Sync {
    let pieces = futures_util::stream::unfold((body, 0), |(mut body, piece)| async move {
        match piece {
            0 => {
                let first = body.frame().await?.ok()?.into_data().ok()?;
                Some((Ok(Frame::data(first.slice(..first.len() / 2))), (body, 1)))
            }
            1 => {
                // The half has left before the reset.
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Err(io::Error::other("reset in the middle")), (body, 2)))
            }
            _ => None,
        }
    });
    StreamBody::new(pieces)
}
