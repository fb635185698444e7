//! A caller that speaks HTTP/1.1 over a connection of its own and checks every response.
//!
//! The caller reads as many bytes as a response's framing says, and fails if the framing is ambiguous. Each field must be
//! on a list of allowed fields, problem details must be complete, and the response must belong to the request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::STEP_TIMEOUT;
use super::request::{Request, TEST_ID};

/// The body of bearerd's own answer to a login request without scopes.
pub const LOGIN: &str = r#"{"access_token":"bearerd-local","token_type":"bearer","expires_in":86399,"refresh_token":"bearerd-local"}"#;

/// The fields that a response may have.
const ALLOWED_FIELDS: &[&str] = &[
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "inin-ratelimit-allowed",
    "inin-ratelimit-count",
    "inin-ratelimit-reset",
    "proxy-status",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "set-cookie",
    "server",
    "transfer-encoding",
    "via",
    "www-authenticate",
    "x-body-bytes",
    "x-ratelimit-remaining",
    "x-ratelimit-reset",
    "x-request-id",
    "x-test-id",
    "x-seen-path",
];

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A connection of any kind.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Socket for S {}

/// A connection of a legacy application.
#[derive(Debug)]
pub struct Caller {
    stream: Box<dyn Socket>,
    /// The `Host` that the caller sends.
    host: String,
    /// Bytes that were read and belong to the next response.
    unread: Vec<u8>,
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The reason phrase.
    pub reason: String,
    /// The fields, their names in lower case.
    pub fields: Vec<(String, String)>,
    /// The body without its framing.
    pub body: Vec<u8>,
}

/// The connection ended before the response did.
#[derive(Debug)]
pub struct Incomplete {
    /// The bytes that had arrived.
    pub received: Vec<u8>,
}

impl Caller {
    /// Connects over TCP.
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// Speaks over a connection that the test made.
    pub fn over(stream: impl Socket + 'static, host: &str) -> Self {
        Self { stream: Box::new(stream), host: host.to_owned(), unread: Vec::new() }
    }

    /// Connects over TCP; `None` if the daemon does not accept.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self::over(stream, &address.to_string()))
    }

    /// Sends a request and reads the response, which must be complete.
    pub async fn send(&mut self, request: &Request) -> Reply {
        self.try_send(request).await.unwrap_or_else(|incomplete| {
            panic!(
                "{} {}: the response is incomplete: {:?}",
                request.method,
                request.target,
                String::from_utf8_lossy(&incomplete.received)
            )
        })
    }

    /// Sends a request and reads the response.
    pub async fn try_send(&mut self, request: &Request) -> Result<Reply, Incomplete> {
        let id = format!("id-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let head = request.head(&self.host, &id);
        let body = request.framed_body();
        let (mut reading, mut writing) = tokio::io::split(&mut self.stream);
        let mut unread = std::mem::take(&mut self.unread);
        // A response may come before the whole body was sent; the rest is not sent then.
        let write = async {
            let _ = writing.write_all(&head).await;
            let _ = writing.write_all(&body).await;
            let _ = writing.flush().await;
            std::future::pending::<()>().await;
        };
        let read = read_reply(&mut reading, &mut unread, request.method == "HEAD");
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(STEP_TIMEOUT, read) => outcome.expect("no answer in time"),
            () = write => unreachable!(),
        };
        self.unread = unread;
        if let Ok(reply) = &outcome {
            police(reply, &id);
        }
        outcome
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Writes bytes as they are; an error if the daemon has closed the connection.
    pub async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Waits until the next response has begun.
    pub async fn begun(&mut self) {
        let read = tokio::time::timeout(STEP_TIMEOUT, self.stream.read_buf(&mut self.unread)).await;
        assert!(read.expect("no answer in time").unwrap() > 0, "the end came");
    }

    /// Reads a head and what follows it at once.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let read = tokio::time::timeout(STEP_TIMEOUT, self.stream.read_buf(&mut bytes)).await;
            assert!(read.expect("nothing came").unwrap() > 0, "the end came");
            if bytes.windows(4).any(|window| window == b"\r\n\r\n") {
                let more = self.stream.read_buf(&mut bytes);
                let _ = tokio::time::timeout(std::time::Duration::from_millis(30), more).await;
                return bytes;
            }
        }
    }

    /// Reads until the bytes end with this text.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let read = tokio::time::timeout(STEP_TIMEOUT, self.stream.read_buf(&mut bytes)).await;
            let count =
                read.unwrap_or_else(|_| panic!("no {end:?}: {}", String::from_utf8_lossy(&bytes))).unwrap();
            assert!(count > 0, "the end came: {}", String::from_utf8_lossy(&bytes));
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Reads one response to what the test wrote.
    pub async fn read(&mut self) -> Result<Reply, Incomplete> {
        let mut unread = std::mem::take(&mut self.unread);
        let read = read_reply(&mut self.stream, &mut unread, false);
        let outcome = tokio::time::timeout(STEP_TIMEOUT, read).await.expect("no answer in time");
        self.unread = unread;
        outcome
    }

    /// Whether the daemon closes the connection without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(STEP_TIMEOUT, self.stream.read(&mut byte)).await.expect("stays open");
        matches!(read, Ok(0) | Err(_)) && self.unread.is_empty()
    }
}

/// Reads a response (RFC 9112 §6.3), whose end must be given in exactly one way.
async fn read_reply<R: AsyncReadExt + Unpin>(
    reading: &mut R,
    unread: &mut Vec<u8>,
    is_head: bool,
) -> Result<Reply, Incomplete> {
    let end = loop {
        if let Some(end) = find(unread, b"\r\n\r\n") {
            break end;
        }
        fill(reading, unread).await?;
    };
    let head = String::from_utf8(unread.drain(..end + 4).collect()).expect("a head is ASCII");
    let mut lines = head.trim_end().split("\r\n");
    let status_line = lines.next().unwrap();
    let mut parts = status_line.splitn(3, ' ');
    assert!(matches!(parts.next(), Some("HTTP/1.1" | "HTTP/1.0")), "{status_line}");
    let status: u16 = parts.next().unwrap().parse().expect("a status");
    let reason = parts.next().unwrap_or_default().to_owned();
    let fields: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').expect("a field"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let mut reply = Reply { status, reason, fields, body: Vec::new() };
    if (100..200).contains(&status) {
        return Box::pin(read_reply(reading, unread, is_head)).await;
    }
    if is_head || status == 204 || status == 304 {
        return Ok(reply);
    }
    let lengths = reply.all("content-length");
    let encodings = reply.all("transfer-encoding");
    match (lengths.as_slice(), encodings.as_slice()) {
        ([length], []) => {
            let length: usize = length.parse().expect("a length");
            while unread.len() < length {
                fill(reading, unread).await?;
            }
            reply.body = unread.drain(..length).collect();
        }
        ([], [encoding]) => {
            assert_eq!(encoding, "chunked");
            reply.body = read_chunks(reading, unread).await?;
        }
        ([], []) => {
            let says_so = reply.get("connection") == Some("close") || status_line.starts_with("HTTP/1.0");
            assert!(says_so, "a body until the end needs close: {head}");
            while reading.read_buf(unread).await.is_ok_and(|count| count > 0) {}
            reply.body = std::mem::take(unread);
        }
        _ => panic!("ambiguous framing: {head}"),
    }
    Ok(reply)
}

async fn read_chunks<R: AsyncReadExt + Unpin>(
    reading: &mut R,
    unread: &mut Vec<u8>,
) -> Result<Vec<u8>, Incomplete> {
    let mut body = Vec::new();
    loop {
        let line_end = loop {
            if let Some(end) = find(unread, b"\r\n") {
                break end;
            }
            fill(reading, unread).await?;
        };
        let line: Vec<u8> = unread.drain(..line_end + 2).collect();
        let size =
            usize::from_str_radix(std::str::from_utf8(&line).unwrap().trim(), 16).expect("a chunk size");
        while unread.len() < size + 2 {
            fill(reading, unread).await?;
        }
        body.extend(unread.drain(..size));
        assert_eq!(unread.drain(..2).collect::<Vec<u8>>(), b"\r\n", "a chunk ends with a line end");
        if size == 0 {
            return Ok(body);
        }
    }
}

async fn fill<R: AsyncReadExt + Unpin>(reading: &mut R, unread: &mut Vec<u8>) -> Result<(), Incomplete> {
    match reading.read_buf(unread).await {
        Ok(0) | Err(_) => Err(Incomplete { received: std::mem::take(unread) }),
        Ok(_) => Ok(()),
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Reply {
    /// The value of a field that occurs at most once.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all: Vec<&str> =
            self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect();
        assert!(all.len() <= 1, "{name} is there {} times", all.len());
        all.first().copied()
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
    }

    /// The code of bearerd's own problem details; `None` if the response is the API's.
    pub fn code(&self) -> Option<String> {
        self.problem().map(|problem| problem["code"].as_str().unwrap().to_owned())
    }

    fn problem(&self) -> Option<serde_json::Value> {
        let is_problem = self.get("content-type") == Some("application/problem+json");
        is_problem.then(|| serde_json::from_slice(&self.body).expect("a problem is JSON"))
    }

    /// Whether this is bearerd's own answer to a login request, with or without scopes.
    pub fn is_stub(&self) -> bool {
        self.text().starts_with(LOGIN.trim_end_matches('}'))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Every response has the identifier of its request.
pub(super) fn assert_identified(reply: &Reply) {
    let ids = reply.all("x-request-id");
    assert!(ids.len() == 1 && ids[0].bytes().all(|byte| byte.is_ascii_graphic()), "no identifier: {reply:?}");
}

/// Checks what holds for every response.
pub fn police(reply: &Reply, id: &str) {
    for (name, value) in &reply.fields {
        assert!(ALLOWED_FIELDS.contains(&name.as_str()), "unexpected field {name}: {value}");
        assert!(!value.contains("Bearer tok_"), "a token in {name}");
    }
    assert!(find(&reply.body, b"tok_").is_none(), "a token in the body: {}", reply.text());
    assert_identified(reply);
    match reply.problem() {
        // A problem of bearerd: complete, and never a 401.
        Some(problem) => {
            assert_ne!(reply.status, 401, "{problem}");
            assert_eq!(problem["status"], reply.status, "{problem}");
            for member in ["type", "title", "detail", "code"] {
                assert!(problem[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {problem}");
            }
            let proxy_status = reply.get("proxy-status").expect("a problem has Proxy-Status");
            assert!(proxy_status.starts_with("bearerd; error="), "{proxy_status}");
            assert_eq!(reply.get("connection"), Some("close"), "a refusal closes the connection");
        }
        None if reply.is_stub() => {}
        // An answer of the API, which copies the request's id.
        None => {
            assert_eq!(reply.get(TEST_ID), Some(id), "the answer to another request: {reply:?}");
            assert!(reply.all("via").iter().any(|via| via.contains("bearerd-")), "{reply:?}");
            assert_eq!(reply.get("proxy-status"), None);
        }
    }
}
