//! A caller that speaks HTTP/1.1 over a socket of its own and polices every response.
//!
//! It reads no more than a response's framing says and fails if that is unclear, checks each field against a
//! list of those that may be there, that problems are complete, and that the answer belongs to the request.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::PATIENCE;

/// The field by which answers are told apart; the scripted API echoes it.
pub const REQUEST_ID: &str = "x-request-id";

/// What the proxy itself answers to a login.
pub const LOGIN: &str = r#"{"access_token":"bearerd-local","token_type":"bearer","expires_in":86399}"#;

/// What a caller may get to see.
const ALLOWED_FIELDS: &[&str] = &[
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "proxy-status",
    "retry-after",
    "set-cookie",
    "server",
    "transfer-encoding",
    "via",
    "www-authenticate",
    "x-body-bytes",
    "x-request-id",
    "x-seen-path",
];

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What a caller speaks over.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + std::fmt::Debug> Socket for S {}

/// A connection of a legacy application.
#[derive(Debug)]
pub struct Caller {
    stream: Box<dyn Socket>,
    /// What it calls the proxy.
    host: String,
    /// Read and not yet part of a response.
    unread: Vec<u8>,
}

/// A request to send.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub target: String,
    pub fields: Vec<(String, String)>,
    pub body: Body,
    pub version: &'static str,
}

/// How its body is framed.
#[derive(Clone, Debug)]
pub enum Body {
    None,
    Length(Vec<u8>),
    Chunked(Vec<Vec<u8>>),
}

/// A complete response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub reason: String,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

/// The connection ended before the response did.
#[derive(Debug)]
pub struct Incomplete {
    /// What had arrived of it.
    pub received: Vec<u8>,
}

impl Request {
    pub fn get(target: &str) -> Self {
        Self {
            method: "GET",
            target: target.to_owned(),
            fields: Vec::new(),
            body: Body::None,
            version: "HTTP/1.1",
        }
    }

    pub fn post(target: &str, body: &[u8]) -> Self {
        Self { method: "POST", body: Body::Length(body.to_vec()), ..Self::get(target) }
    }

    pub fn chunked(target: &str, chunks: &[&[u8]]) -> Self {
        let chunks = chunks.iter().map(|chunk| chunk.to_vec()).collect();
        Self { method: "POST", body: Body::Chunked(chunks), ..Self::get(target) }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    fn head(&self, host: &str, id: &str) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        if !self.has("host") {
            let _ = write!(head, "host: {host}\r\n");
        }
        let _ = write!(head, "{REQUEST_ID}: {id}\r\n");
        // What a legacy application might send of its own must never reach the API.
        if !self.has("authorization") {
            head += "authorization: Bearer the-callers-own\r\n";
        }
        for (name, value) in &self.fields {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        match &self.body {
            Body::None => {}
            Body::Length(body) => {
                let _ = write!(head, "content-length: {}\r\n", body.len());
            }
            Body::Chunked(_) => head += "transfer-encoding: chunked\r\n",
        }
        head += "\r\n";
        head.into_bytes()
    }

    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(field, _)| field.eq_ignore_ascii_case(name))
    }

    fn framed_body(&self) -> Vec<u8> {
        match &self.body {
            Body::None => Vec::new(),
            Body::Length(body) => body.clone(),
            Body::Chunked(chunks) => {
                let mut framed = Vec::new();
                for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
                    framed.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    framed.extend_from_slice(chunk);
                    framed.extend_from_slice(b"\r\n");
                }
                framed.extend_from_slice(b"0\r\n\r\n");
                framed
            }
        }
    }
}

impl Caller {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::try_connect(address).await.unwrap()
    }

    /// Over something else than TCP.
    pub fn over(stream: impl Socket + 'static, host: &str) -> Self {
        Self { stream: Box::new(stream), host: host.to_owned(), unread: Vec::new() }
    }

    /// Connects, if the daemon still accepts.
    pub async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect(address).await.ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Self::over(stream, &address.to_string()))
    }

    /// Sends a request and reads its answer, which must be complete.
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

    /// Sends a request and reads its answer.
    pub async fn try_send(&mut self, request: &Request) -> Result<Reply, Incomplete> {
        let id = format!("id-{}", NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let head = request.head(&self.host, &id);
        let body = request.framed_body();
        let (mut reading, mut writing) = tokio::io::split(&mut self.stream);
        let mut unread = std::mem::take(&mut self.unread);
        // An answer may come before the body is sent, and ends the need to send it.
        let write = async {
            let _ = writing.write_all(&head).await;
            let _ = writing.write_all(&body).await;
            let _ = writing.flush().await;
            std::future::pending::<()>().await;
        };
        let read = read_reply(&mut reading, &mut unread, request.method == "HEAD");
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(PATIENCE, read) => outcome.expect("no answer in time"),
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

    /// Writes bytes as they are, if the other side still takes them.
    pub async fn try_write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads what there is, whatever it is.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        loop {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut bytes)).await;
            assert!(read.expect("nothing came").unwrap() > 0, "the end came");
            if bytes.windows(4).any(|window| window == b"\r\n\r\n") {
                let more = self.stream.read_buf(&mut bytes);
                let _ = tokio::time::timeout(std::time::Duration::from_millis(30), more).await;
                return bytes;
            }
        }
    }

    /// Reads what there is until it ends like this.
    pub async fn read_until(&mut self, end: &str) -> String {
        let mut bytes = Vec::new();
        while !bytes.ends_with(end.as_bytes()) {
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut bytes)).await;
            let count =
                read.unwrap_or_else(|_| panic!("no {end:?}: {}", String::from_utf8_lossy(&bytes))).unwrap();
            assert!(count > 0, "the end came: {}", String::from_utf8_lossy(&bytes));
        }
        String::from_utf8(bytes).unwrap()
    }

    /// Reads one answer to whatever was written.
    pub async fn read(&mut self) -> Result<Reply, Incomplete> {
        let mut unread = std::mem::take(&mut self.unread);
        let read = read_reply(&mut self.stream, &mut unread, false);
        let outcome = tokio::time::timeout(PATIENCE, read).await.expect("no answer in time");
        self.unread = unread;
        outcome
    }

    /// Whether the daemon closes the connection now, without another byte.
    pub async fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut byte)).await.expect("stays open");
        matches!(read, Ok(0) | Err(_)) && self.unread.is_empty()
    }
}

/// Reads a response strictly (RFC 9112): one way to tell its end, and nothing left over that is not asked for.
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
    /// A field that there is once, or not.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all: Vec<&str> =
            self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.as_str()).collect();
        assert!(all.len() <= 1, "{name} is there {} times", all.len());
        all.first().copied()
    }

    fn all(&self, name: &str) -> Vec<String> {
        self.fields.iter().filter(|(field, _)| field == name).map(|(_, value)| value.clone()).collect()
    }

    /// Our own code for a failure; `None` if the answer is the API's.
    pub fn code(&self) -> Option<String> {
        self.problem().map(|problem| problem["code"].as_str().unwrap().to_owned())
    }

    fn problem(&self) -> Option<serde_json::Value> {
        let is_problem = self.get("content-type") == Some("application/problem+json");
        is_problem.then(|| serde_json::from_slice(&self.body).expect("a problem is JSON"))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// What every response must keep to.
pub fn police(reply: &Reply, id: &str) {
    for (name, value) in &reply.fields {
        assert!(ALLOWED_FIELDS.contains(&name.as_str()), "unexpected field {name}: {value}");
        assert!(!value.contains("Bearer tok_"), "a token in {name}");
    }
    assert!(find(&reply.body, b"tok_").is_none(), "a token in the body: {}", reply.text());
    match reply.problem() {
        // Ours: complete, and never a 401.
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
        None if reply.text() == LOGIN => {}
        // The API's: it echoes whose request it answers.
        None => {
            assert_eq!(reply.get(REQUEST_ID), Some(id), "the answer of another request: {reply:?}");
            assert!(reply.all("via").iter().any(|via| via.contains("bearerd-")), "{reply:?}");
            assert_eq!(reply.get("proxy-status"), None);
        }
    }
}
