//! Callers that write prepared requests, and search for the end of the answer.

use super::pipe::End;
use super::upstream::LAST;

/// A caller with a connection of its own.
pub(crate) struct Http1(End);

impl Http1 {
    /// A caller over this connection.
    pub(crate) const fn new(connection: End) -> Self {
        Self(connection)
    }

    /// Sends a request, and waits for its answer.
    pub(crate) async fn request(&self, request: &[u8]) {
        self.0.put(&[request]);
        let is_ok = |answer: &[u8]| answer.ends_with(&[LAST]).then(|| answer.starts_with(b"HTTP/1.1 200 "));
        assert_eq!(self.0.take_when(is_ok).await, Some(true));
    }
}

/// A caller that speaks HTTP/2 (RFC 9113), one request at a time.
pub(crate) struct Http2 {
    connection: End,
    stream: u32,
}

const DATA: u8 = 0x0;
const SETTINGS: u8 = 0x4;
const HEADERS: u8 = 0x1;
const WINDOW_UPDATE: u8 = 0x8;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const FRAME_HEAD: usize = 9;

impl Http2 {
    /// A caller over this connection; sends the preface, and opens the connection's window to its maximum.
    pub(crate) fn new(connection: End) -> Self {
        let window = (u32::MAX / 2 - u32::from(u16::MAX)).to_be_bytes();
        connection.put(&[
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            &frame_head(SETTINGS, 0, 0, 0),
            &frame_head(WINDOW_UPDATE, 0, 0, window.len()),
            &window,
            &frame_head(SETTINGS, ACK, 0, 0),
        ]);
        Self { connection, stream: 1 }
    }

    /// Sends a request, and waits for its answer.
    pub(crate) async fn request(&mut self) {
        let head = frame_head(HEADERS, END_STREAM | END_HEADERS, self.stream, FIELDS.len());
        self.connection.put(&[&head, FIELDS]);
        self.stream += 2;
        assert_eq!(self.connection.take_when(is_ok).await, Some(true));
    }
}

/// The fields of a request (RFC 7541): indexed, or literal without indexing.
const FIELDS: &[u8] = b"\x82\x86\x01\x09localhost\x04\x20/api/v2/users/me?expand=presence\
    \x0f\x2b\x0aclient/1.0\x0f\x04\x10application/json\x90";

fn frame_head(kind: u8, flags: u8, stream: u32, length: usize) -> [u8; FRAME_HEAD] {
    let [_, high, middle, low] = u32::try_from(length).unwrap().to_be_bytes();
    let [a, b, c, d] = stream.to_be_bytes();
    [high, middle, low, kind, flags, a, b, c, d]
}

/// Whether a complete answer is a 200 with a body; `None` before its end.
fn is_ok(mut frames: &[u8]) -> Option<bool> {
    /// The index of `:status: 200`.
    const STATUS_200: u8 = 0x88;

    let mut has_status = false;
    loop {
        let (head, rest) = frames.split_at_checked(FRAME_HEAD)?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let (content, rest) = rest.split_at_checked(length)?;
        let (kind, flags) = (head[3], head[4]);
        match kind {
            HEADERS => has_status = content.first() == Some(&STATUS_200),
            DATA if flags & END_STREAM != 0 => return Some(has_status),
            _ => {}
        }
        frames = rest;
    }
}
