//! A proxy that opens tunnels (CONNECT, RFC 9110 §9.3.6), or fails as told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::TcpStream;

use super::raw::{RawPeer, read_head};

/// The action of the proxy at a CONNECT.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    /// Opens a tunnel.
    Lead,
    /// Answers with this text and closes the connection.
    Say(&'static str),
    /// Answers with a field of so many bytes.
    SayMuch(usize),
    /// Answers with the first text, and with the second once more bytes have come.
    SayLater(&'static str, &'static str),
    /// Answers with this text and keeps the connection open.
    Hang(&'static str),
}

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub struct ConnectProxy {
    peer: RawPeer,
    heads: Arc<Mutex<Vec<String>>>,
    /// The bytes that went through tunnels towards the upstream.
    carried: Arc<Mutex<Vec<u8>>>,
}

impl ConnectProxy {
    /// Starts a proxy that is reached by http.
    pub async fn start(does: Does) -> Self {
        let (heads, carried) = (Arc::default(), Arc::default());
        let notes = (Arc::clone(&heads), Arc::clone(&carried));
        let peer = RawPeer::tcp(move |near| serve(near, does, notes.clone())).await;
        Self { peer, heads, carried }
    }

    /// Starts a proxy that opens tunnels and is reached by https.
    pub async fn start_tls(config: Arc<ServerConfig>) -> Self {
        let (heads, carried) = (Arc::default(), Arc::default());
        let notes = (Arc::clone(&heads), Arc::clone(&carried));
        let peer = RawPeer::tls(config, move |near| serve(near, Does::Lead, notes.clone())).await;
        Self { peer, heads, carried }
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.peer.address.port()
    }

    /// The heads of the requests since the last call, one for each connection.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.heads.lock().unwrap())
    }

    /// Whether a tunnel carried this text.
    ///
    /// # Panics
    ///
    /// If no tunnel carried anything.
    pub fn has_carried(&self, text: &str) -> bool {
        let carried = self.carried.lock().unwrap();
        assert!(!carried.is_empty(), "no tunnel carried anything");
        carried.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

type Notes = (Arc<Mutex<Vec<String>>>, Arc<Mutex<Vec<u8>>>);

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(mut near: S, does: Does, (heads, carried): Notes) {
    let head = String::from_utf8(read_head(&mut near).await).unwrap();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    heads.lock().unwrap().push(head);
    match does {
        Does::Lead => {
            let Ok(far) = TcpStream::connect(target).await else { return };
            if near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.is_ok() {
                carry(near, far, &carried).await;
            }
        }
        Does::Say(text) => {
            let _ = near.write_all(text.as_bytes()).await;
            let _ = near.shutdown().await;
        }
        Does::SayMuch(bytes) => {
            let head = format!("HTTP/1.1 200 OK\r\nx-much: {}\r\n\r\n", "x".repeat(bytes));
            let _ = near.write_all(head.as_bytes()).await;
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        Does::SayLater(first, then) => {
            let _ = near.write_all(first.as_bytes()).await;
            let _ = near.read_u8().await;
            let _ = near.write_all(then.as_bytes()).await;
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
        Does::Hang(text) => {
            let _ = near.write_all(text.as_bytes()).await;
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
    }
}

/// Copies in both directions until one of them ends.
async fn carry<S: AsyncRead + AsyncWrite + Unpin>(near: S, mut far: TcpStream, carried: &Mutex<Vec<u8>>) {
    let (mut from_near, mut to_near) = tokio::io::split(near);
    let (mut from_far, mut to_far) = far.split();
    let there = async {
        let mut piece = vec![0; 16 * 1024];
        while let Ok(bytes @ 1..) = from_near.read(&mut piece).await {
            carried.lock().unwrap().extend_from_slice(&piece[..bytes]);
            if to_far.write_all(&piece[..bytes]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = there => {}
        _ = copy(&mut from_far, &mut to_near) => {}
    }
}
