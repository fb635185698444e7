//! Requests of callers, as they are written to a connection.

use std::fmt::Write as _;

/// The field with a request's id; the scripted API copies it into its answer.
pub const TEST_ID: &str = "x-test-id";

/// A request to send.
#[derive(Clone, Debug)]
#[must_use = "a request does nothing until it is sent"]
pub struct Request {
    /// The method.
    pub method: &'static str,
    /// The path and the query.
    pub target: String,
    /// Further fields.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Body,
    /// The version in the request line.
    pub version: &'static str,
}

/// A request's body and its framing.
#[derive(Clone, Debug)]
pub enum Body {
    /// No body.
    None,
    /// A body with `Content-Length`.
    Length(Vec<u8>),
    /// A body in chunks.
    Chunked(Vec<Vec<u8>>),
}

impl Request {
    /// A GET without a body.
    pub fn get(target: &str) -> Self {
        Self {
            method: "GET",
            target: target.to_owned(),
            fields: Vec::new(),
            body: Body::None,
            version: "HTTP/1.1",
        }
    }

    /// A POST with `Content-Length`.
    pub fn post(target: &str, body: &[u8]) -> Self {
        Self { method: "POST", body: Body::Length(body.to_vec()), ..Self::get(target) }
    }

    /// A POST in these chunks.
    pub fn chunked(target: &str, chunks: &[&[u8]]) -> Self {
        let chunks = chunks.iter().map(|chunk| chunk.to_vec()).collect();
        Self { method: "POST", body: Body::Chunked(chunks), ..Self::get(target) }
    }

    /// Adds a field.
    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the method.
    pub fn method(self, method: &'static str) -> Self {
        Self { method, ..self }
    }

    pub(super) fn head(&self, host: &str, id: &str) -> Vec<u8> {
        let mut head = format!("{} {} {}\r\n", self.method, self.target, self.version);
        if !self.has("host") {
            let _ = write!(head, "host: {host}\r\n");
        }
        let _ = write!(head, "{TEST_ID}: {id}\r\n");
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

    pub(super) fn framed_body(&self) -> Vec<u8> {
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
