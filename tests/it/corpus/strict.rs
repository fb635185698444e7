//! An API that reads HTTP/1.1 as strictly as RFC 9112 allows, and records requests that a lenient server may misread.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use testkit::harness::raw::RawPeer;

/// A complete request as it was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Message {
    pub method: String,
    pub target: Vec<u8>,
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl Message {
    pub(super) fn all(&self, name: &str) -> Vec<&[u8]> {
        let found = self.fields.iter().filter(|(field, _)| field == name);
        found.map(|(_, value)| value.as_slice()).collect()
    }
}

/// The requests since the last look.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub messages: Vec<Message>,
    /// Messages that no proxy may send.
    pub violations: Vec<String>,
    /// Requests that ended before their end.
    pub broken: usize,
}

#[derive(Debug)]
pub(super) struct Strict {
    peer: RawPeer,
    notes: Arc<Mutex<Notes>>,
}

impl Strict {
    pub(super) async fn start() -> Self {
        let notes = Arc::new(Mutex::new(Notes::default()));
        let shared = Arc::clone(&notes);
        let peer = RawPeer::tcp(move |stream| serve(stream, Arc::clone(&shared))).await;
        Self { peer, notes }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.peer.address
    }

    /// Takes the requests since the last look, and checks what holds for every request.
    pub(super) fn take(&self, tokens: &[String]) -> Notes {
        let mut notes = std::mem::take(&mut *self.notes.lock().unwrap());
        for message in &notes.messages {
            let violations = self.check(message, tokens);
            notes.violations.extend(violations.into_iter().map(|text| format!("{text}: {message:?}")));
        }
        notes
    }

    fn check(&self, message: &Message, tokens: &[String]) -> Vec<String> {
        let mut violations = Vec::new();
        let one = |name: &str| match message.all(name).as_slice() {
            [only] => String::from_utf8_lossy(only).into_owned(),
            all => format!("{} of them", all.len()),
        };
        let token = one("authorization");
        if !tokens.iter().any(|known| token == format!("Bearer {known}")) {
            violations.push(format!("authorization: {token}"));
        }
        if one("host") != self.address().to_string() {
            violations.push(format!("host: {}", one("host")));
        }
        let ours = ["connection", "keep-alive", "proxy-connection", "te", "upgrade", "expect", "trailer"];
        let told =
            ["proxy-authorization", "forwarded", "x-real-ip", "http2-settings", "x-http-method-override"];
        for (name, _) in &message.fields {
            let is_dressed = name.contains('_') && name != "client_id";
            // The proxy's own announcement that it accepts trailers, for one hop.
            let asks_for_trailers = matches!(name.as_str(), "te" | "connection")
                && one("te") == "trailers"
                && one("connection") == "te";
            if (ours.contains(&name.as_str()) && !asks_for_trailers)
                || told.contains(&name.as_str())
                || name.starts_with("x-forwarded")
                || is_dressed
            {
                violations.push(format!("{name} was passed on"));
            }
        }
        if !message.target.starts_with(b"/")
            || message.target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f)
        {
            violations.push("not origin-form".to_owned());
        }
        violations
    }
}

/// Answers requests until one of them is ambiguous.
async fn serve(mut stream: TcpStream, notes: Arc<Mutex<Notes>>) {
    let mut unread = Vec::new();
    loop {
        match message(&mut stream, &mut unread).await {
            Ok(None) => return,
            Ok(Some(message)) => {
                let body = format!("{}|{}", String::from_utf8_lossy(&message.target), message.body.len());
                notes.lock().unwrap().messages.push(message);
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                if stream.write_all(answer.as_bytes()).await.is_err() {
                    return;
                }
            }
            Err(Trouble::BrokeOff) => {
                notes.lock().unwrap().broken += 1;
                return;
            }
            Err(Trouble::Violation(text)) => {
                let said = format!("{text}: {:?}", String::from_utf8_lossy(&unread));
                notes.lock().unwrap().violations.push(said);
                return;
            }
        }
    }
}

enum Trouble {
    BrokeOff,
    Violation(String),
}

fn violation(text: &str) -> Trouble {
    Trouble::Violation(text.to_owned())
}

async fn line(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<Option<Vec<u8>>, Trouble> {
    loop {
        if let Some(end) = unread.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = unread.drain(..=end).collect();
            let line = line.strip_suffix(b"\r\n").ok_or_else(|| violation("a bare LF"))?;
            if line.iter().any(|byte| matches!(byte, 0 | b'\r')) {
                return Err(violation("a bare CR or a NUL"));
            }
            return Ok(Some(line.to_vec()));
        }
        let was_empty = unread.is_empty();
        if stream.read_buf(unread).await.unwrap_or(0) == 0 {
            return if was_empty { Ok(None) } else { Err(Trouble::BrokeOff) };
        }
    }
}

async fn exactly(stream: &mut TcpStream, unread: &mut Vec<u8>, length: usize) -> Result<Vec<u8>, Trouble> {
    while unread.len() < length {
        if stream.read_buf(unread).await.unwrap_or(0) == 0 {
            return Err(Trouble::BrokeOff);
        }
    }
    Ok(unread.drain(..length).collect())
}

async fn message(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<Option<Message>, Trouble> {
    let Some(first) = line(stream, unread).await? else { return Ok(None) };
    let parts: Vec<&[u8]> = first.split(|byte| *byte == b' ').collect();
    let [method, target, b"HTTP/1.1"] = parts.as_slice() else {
        return Err(violation("not a request line"));
    };
    let is_token = |text: &[u8]| {
        !text.is_empty()
            && text.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
    };
    if !is_token(method) {
        return Err(violation("not a method"));
    }
    let mut fields = Vec::new();
    loop {
        let line = line(stream, unread).await?.ok_or(Trouble::BrokeOff)?;
        if line.is_empty() {
            break;
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(|| violation("no colon"))?;
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if !is_token(name) {
            return Err(violation("not a field name"));
        }
        fields.push((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()));
    }
    let mut message = Message {
        method: String::from_utf8_lossy(method).into_owned(),
        target: target.to_vec(),
        fields,
        body: Vec::new(),
    };
    let lengths = message.all("content-length");
    let codings = message.all("transfer-encoding");
    message.body = match (lengths.as_slice(), codings.as_slice()) {
        ([], []) => Vec::new(),
        ([length], []) if length.iter().all(u8::is_ascii_digit) => {
            let length = String::from_utf8_lossy(length).parse().map_err(|_| violation("not a length"))?;
            exactly(stream, unread, length).await?
        }
        ([], [b"chunked"]) => chunks(stream, unread).await?,
        _ => return Err(Trouble::Violation(format!("ambiguous framing: {message:?}"))),
    };
    Ok(Some(message))
}

/// Reads chunks; the proxy may send neither extensions nor trailers.
async fn chunks(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Result<Vec<u8>, Trouble> {
    let mut body = Vec::new();
    loop {
        let size = line(stream, unread).await?.ok_or(Trouble::BrokeOff)?;
        let size =
            std::str::from_utf8(&size).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()));
        let size = size
            .and_then(|text| usize::from_str_radix(text, 16).ok())
            .ok_or_else(|| violation("not a chunk"))?;
        body.extend(exactly(stream, unread, size).await?);
        if exactly(stream, unread, 2).await? != b"\r\n" {
            return Err(violation(if size == 0 { "a trailer" } else { "not a chunk's end" }));
        }
        if size == 0 {
            return Ok(body);
        }
    }
}
