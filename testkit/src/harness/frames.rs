//! An HTTP/2 upstream in clear text that a test drives frame by frame (RFC 9113 §4).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A frame's kind (RFC 9113 §6), as the next constants.
pub const DATA: u8 = 0;
/// See [`DATA`].
pub const HEADERS: u8 = 1;
/// See [`DATA`].
pub const RST_STREAM: u8 = 3;
/// See [`DATA`].
pub const SETTINGS: u8 = 4;
const PING: u8 = 6;
/// See [`DATA`].
pub const GOAWAY: u8 = 7;

/// A flag: the stream's last frame.
pub const END_STREAM: u8 = 1;
/// A flag: the whole field section.
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// An error code (RFC 9113 §7), as the next constants.
pub const NO_ERROR: u32 = 0;
/// See [`NO_ERROR`].
pub const INTERNAL_ERROR: u32 = 2;
/// See [`NO_ERROR`].
pub const REFUSED_STREAM: u32 = 7;
/// See [`NO_ERROR`].
pub const CANCEL: u32 = 8;

/// `:status: 200` (RFC 7541, appendix A).
pub const STATUS_200: &[u8] = &[0x88];

/// The upstream's end of a connection.
#[derive(Debug)]
pub struct Frames {
    stream: TcpStream,
    /// How many pings were received.
    pub pings: usize,
}

/// A frame that was received.
#[derive(Debug)]
pub struct Frame {
    /// The kind.
    pub kind: u8,
    /// The flags.
    pub flags: u8,
    /// The stream's number.
    pub stream: u32,
    /// The payload.
    pub payload: Vec<u8>,
}

impl Frames {
    /// Reads the preface and sends these settings; `None` if the connection ends before.
    pub async fn accept(mut stream: TcpStream, settings: &[(u16, u32)]) -> Option<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.ok()?;
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut frames = Self { stream, pings: 0 };
        let settings: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        frames.send(SETTINGS, 0, 0, &settings).await;
        Some(frames)
    }

    /// Sends a frame; does nothing if the connection has ended.
    pub async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut frame = length[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        let _ = self.stream.write_all(&frame).await;
    }

    /// Resets a stream.
    pub async fn reset(&mut self, stream: u32, reason: u32) {
        self.send(RST_STREAM, 0, stream, &reason.to_be_bytes()).await;
    }

    /// Ends the connection after this stream.
    pub async fn go_away(&mut self, last_stream: u32, reason: u32) {
        self.send(GOAWAY, 0, 0, &[last_stream.to_be_bytes(), reason.to_be_bytes()].concat()).await;
    }

    /// Answers with status 200 and this body.
    pub async fn answer(&mut self, stream: u32, body: &[u8]) {
        self.send(HEADERS, END_HEADERS, stream, STATUS_200).await;
        self.send(DATA, END_STREAM, stream, body).await;
    }

    /// Answers all open requests each time none has come for `pause`, until the connection ends. `most` becomes the
    /// greatest number of open requests.
    pub async fn answer_in_batches(&mut self, pause: Duration, most: &AtomicUsize) {
        let mut open = Vec::new();
        loop {
            tokio::select! {
                request = self.request() => {
                    let Some((stream, _)) = request else { return };
                    open.push(stream);
                    most.fetch_max(open.len(), Ordering::Relaxed);
                }
                () = tokio::time::sleep(pause), if !open.is_empty() => {
                    for stream in open.drain(..) {
                        self.answer(stream, b"done").await;
                    }
                }
            }
        }
    }

    /// Receives the next frame of a stream, and answers settings and pings before it. `None` at the connection's end.
    pub async fn next(&mut self) -> Option<Frame> {
        loop {
            let mut head = [0; 9];
            self.stream.read_exact(&mut head).await.ok()?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; usize::try_from(length).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            match (head[3], head[4]) {
                (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, &[]).await,
                (PING, 0) => {
                    self.pings += 1;
                    self.send(PING, ACK, 0, &payload).await;
                }
                (kind @ (DATA | HEADERS | RST_STREAM), flags) => {
                    return Some(Frame { kind, flags, stream, payload });
                }
                _ => {}
            }
        }
    }

    /// Receives the next request; returns its stream's number and its body.
    pub async fn request(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut body = Vec::new();
        loop {
            let frame = self.next().await?;
            if frame.kind == DATA {
                body.extend(&frame.payload);
            }
            if frame.kind != RST_STREAM && frame.flags & END_STREAM > 0 {
                return Some((frame.stream, body));
            }
        }
    }

    /// Encodes a field without index or compression (RFC 7541 §6.2.2); name and value are shorter than 127 bytes.
    pub fn field(name: &str, value: &str) -> Vec<u8> {
        let mut block = vec![0];
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap());
            block.extend(text.as_bytes());
        }
        block
    }
}
