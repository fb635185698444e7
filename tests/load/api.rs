//! A protected API that knows of each request how often it came, and notes what should not have come.
//!
//! | path (below `/person` likewise) | answer |
//! | --- | --- |
//! | `/big/N` | N bytes |
//! | `/pieces/N` | N pieces of a few bytes, each for itself |
//! | `/slow/MS` | after so many milliseconds |
//! | `/echo` | the request's body |
//! | anything else | the request's id |
//!
//! Its sockets hold little, as those of a network do: thousands of answers that nobody reads would otherwise fill what
//! the system has for TCP (`net.ipv4.tcp_mem`), and measure that.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bearerd::demo::authorization_server::Introspection;
use bearerd::demo::server::{Body, whole};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING, WWW_AUTHENTICATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ServerConfig;
use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::world::PERSON;

/// The field by which requests are told apart; the answer has it too.
pub const REQUEST_ID: &str = "x-request-id";
/// The field by which a configuration is told from others.
pub const ROUND: &str = "x-round";
/// What an Ethernet's segments hold. Loopback's own hold 64 KiB, and the system buffers some dozen of them.
pub const SEGMENT: u32 = 1400;
const SEND_BUFFER: u32 = 32 * 1024;
/// What the bodies of `/big` are made of.
pub const PIECE: usize = 16 * 1024;
/// A moment for the way here.
const GRACE: Duration = Duration::from_millis(300);

#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    notes: Arc<Notes>,
    accepting: JoinHandle<()>,
}

/// What became of a request that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is being answered, or its caller has left.
    UnderWay,
    Answered,
    /// With a 401.
    Rejected,
    /// Its connection was reset, before the answer or in the middle.
    Reset,
}

#[derive(Debug)]
struct Notes {
    tokens: [Introspection; 2],
    address: Mutex<String>,
    /// In percent of the requests.
    resets: AtomicU32,
    counted: AtomicUsize,
    open: AtomicUsize,
    /// Of the latest request.
    round: AtomicUsize,
    violations: Mutex<Vec<String>>,
    requests: Mutex<HashMap<String, Vec<Try>>>,
    /// Those whose caller has its answer.
    settled: Mutex<HashSet<String>>,
}

#[derive(Clone, Debug)]
struct Try {
    token: String,
    end: End,
}

impl Api {
    pub fn start(tls: Arc<ServerConfig>, tokens: [Introspection; 2]) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_send_buffer_size(SEND_BUFFER).unwrap();
        SockRef::from(&socket).set_tcp_mss(SEGMENT).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(4096).unwrap();
        let address = listener.local_addr().unwrap();
        let notes = Arc::new(Notes {
            tokens,
            address: Mutex::new(format!("localhost:{}", address.port())),
            resets: AtomicU32::new(0),
            counted: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            round: AtomicUsize::new(0),
            violations: Mutex::default(),
            requests: Mutex::default(),
            settled: Mutex::default(),
        });
        let shared = Arc::clone(&notes);
        let accepting = tokio::spawn(async move {
            let tls = TlsAcceptor::from(tls);
            let mut serving = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (tls, notes) = (tls.clone(), Arc::clone(&shared));
                serving.spawn(serve(stream, tls, notes));
                while serving.try_join_next().is_some() {}
            }
        });
        Self { address, notes, accepting }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// Resets so many percent of the requests from now on.
    pub fn reset(&self, percent: u32) {
        self.notes.resets.store(percent, Ordering::Relaxed);
    }

    /// How many requests have come.
    pub fn requests(&self) -> usize {
        self.notes.counted.load(Ordering::Relaxed)
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.notes.open.load(Ordering::Relaxed)
    }

    /// Which configuration the latest request came by.
    pub fn round(&self) -> usize {
        self.notes.round.load(Ordering::Relaxed)
    }

    /// What should never have come.
    pub fn violations(&self) -> Vec<String> {
        self.notes.violations.lock().unwrap().clone()
    }

    /// What became of each try of a request; it has been answered, and may not come again.
    pub fn settle(&self, id: &str) -> Vec<End> {
        self.notes.settled.lock().unwrap().insert(id.to_owned());
        let tries = self.notes.requests.lock().unwrap().remove(id);
        tries.unwrap_or_default().into_iter().map(|one| one.end).collect()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn serve(stream: TcpStream, tls: TlsAcceptor, notes: Arc<Notes>) {
    notes.open.fetch_add(1, Ordering::Relaxed);
    let _ = stream.set_nodelay(true);
    // It closes only to break something off.
    let _ = stream.set_zero_linger();
    if let Ok(stream) = tls.accept(stream).await {
        let answering = Arc::clone(&notes);
        let answer = service_fn(move |request| {
            let notes = Arc::clone(&answering);
            async move { notes.answer(request).await }
        });
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        let io = TokioIo::new(stream);
        if is_http2 {
            let _ = http2::Builder::new(TokioExecutor::new()).serve_connection(io, answer).await;
        } else {
            let _ = http1::Builder::new().serve_connection(io, answer).await;
        }
    }
    notes.open.fetch_sub(1, Ordering::Relaxed);
}

impl Notes {
    async fn answer(&self, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        self.counted.fetch_add(1, Ordering::Relaxed);
        let id = head.headers.get(REQUEST_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        let round = head.headers.get(ROUND).and_then(|round| round.to_str().ok()?.parse().ok());
        self.round.store(round.unwrap_or(0), Ordering::Relaxed);
        let tokens = &self.tokens[usize::from(head.uri.path().starts_with(PERSON))];
        self.check(&head, tokens, &id);
        if !tokens.is_authorized(&head.headers) {
            self.end(&id, End::Rejected);
            body.collect().await.map_err(io::Error::other)?;
            let mut response = Response::new(whole("{\"error\":\"invalid_token\"}"));
            *response.status_mut() = StatusCode::UNAUTHORIZED;
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            return Ok(with_id(response, &head));
        }
        let is_reset = fastrand::u32(..100) < self.resets.load(Ordering::Relaxed);
        if is_reset {
            self.end(&id, End::Reset);
            if fastrand::bool() {
                return Err(io::Error::other("reset before the answer"));
            }
        }
        let mut response = perform(&head, body, &id).await?;
        if is_reset {
            response = response.map(|body| cut(body).boxed());
        } else {
            self.end(&id, End::Answered);
        }
        response.headers_mut().insert("server", HeaderValue::from_static("scripted"));
        Ok(with_id(response, &head))
    }

    fn end(&self, id: &str, end: End) {
        if let Some(last) = self.requests.lock().unwrap().get_mut(id).and_then(|tries| tries.last_mut()) {
            last.end = end;
        }
    }

    fn check(&self, head: &Parts, tokens: &Introspection, id: &str) {
        let violation = |text: String| {
            let text = format!("{text}: {} {} ({id})", head.method, head.uri);
            self.violations.lock().unwrap().push(text);
        };
        let values: Vec<&HeaderValue> = head.headers.get_all(AUTHORIZATION).iter().collect();
        let token = match values.as_slice() {
            [only] => only.to_str().unwrap_or_default().strip_prefix("Bearer ").unwrap_or_default(),
            _ => {
                violation(format!("I1: {} tokens", values.len()));
                ""
            }
        };
        if !tokens.was_issued(token) {
            violation("I1/I2: not a token of ours".to_owned());
        }
        if let Some(ago) = tokens.ended_ago(token).filter(|ago| *ago > GRACE) {
            violation(format!("I1: a token that ended {ago:?} ago"));
        }
        let hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
        let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
        let hosts: Vec<&[u8]> = hosts.chain(authority).collect();
        if hosts != [self.address.lock().unwrap().as_bytes()] {
            violation(format!("I3: Host is {:?}", head.headers.get_all(HOST)));
        }
        let framings =
            [CONTENT_LENGTH, TRANSFER_ENCODING].map(|name| head.headers.get_all(name).iter().count());
        if framings.iter().sum::<usize>() > 1 {
            violation("I4: the framing is ambiguous".to_owned());
        }
        if id.is_empty() {
            return;
        }
        if self.settled.lock().unwrap().contains(id) {
            violation("a try after the answer".to_owned());
        }
        let mut requests = self.requests.lock().unwrap();
        let tries = requests.entry(id.to_owned()).or_default();
        match tries.as_slice() {
            [first] if first.end != End::Rejected => violation("sent again without a 401".to_owned()),
            [first] if first.token == token => violation("sent again with the same token".to_owned()),
            [] | [_] => {}
            more => violation(format!("try {}", more.len() + 1)),
        }
        tries.push(Try { token: token.to_owned(), end: End::UnderWay });
    }
}

fn with_id(mut response: Response<Body>, head: &Parts) -> Response<Body> {
    if let Some(id) = head.headers.get(REQUEST_ID) {
        response.headers_mut().insert(REQUEST_ID, id.clone());
    }
    response
}

async fn perform(head: &Parts, body: Incoming, id: &str) -> io::Result<Response<Body>> {
    let path = head.uri.path();
    let path = path.strip_prefix(PERSON).unwrap_or(path);
    let (action, number) = path.trim_start_matches('/').split_once('/').unwrap_or((path, ""));
    let number: u64 = number.parse().unwrap_or(0);
    let sent = body.collect().await.map_err(io::Error::other)?.to_bytes();
    Ok(match action {
        "big" => {
            let mut response = Response::new(big(number));
            response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(number));
            response
        }
        "pieces" => Response::new(pieces(number)),
        "slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            Response::new(whole(id.to_owned()))
        }
        "/echo" => Response::new(whole(sent)),
        _ => Response::new(whole(id.to_owned())),
    })
}

/// So many bytes, all of the same piece of memory.
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

/// Events as a server sends them, one after the other.
fn pieces(count: u64) -> Body {
    let pieces = futures_util::stream::unfold(count, |left| async move {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let piece = Bytes::from_static(b"data: {\"something\": \"has happened\", \"at\": 1}\n\n");
        (left > 0).then(|| (Ok(Frame::data(piece)), left - 1))
    });
    StreamBody::new(pieces).boxed()
}

/// Half of a body's first piece, and then no more.
fn cut(body: Body) -> impl hyper::body::Body<Data = Bytes, Error = io::Error> + Send + Sync {
    let pieces = futures_util::stream::unfold((body, 0), |(mut body, piece)| async move {
        match piece {
            0 => {
                let whole = body.frame().await?.ok()?.into_data().ok()?;
                Some((Ok(Frame::data(whole.slice(..whole.len() / 2))), (body, 1)))
            }
            1 => {
                // Until it is on its way.
                tokio::time::sleep(Duration::from_millis(5)).await;
                Some((Err(io::Error::other("reset in the middle")), (body, 2)))
            }
            _ => None,
        }
    });
    StreamBody::new(pieces)
}
