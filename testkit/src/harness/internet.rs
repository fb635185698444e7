//! An internet of one scripted server that answers for every host, behind a proxy.
//!
//! A configuration with real addresses runs unchanged: `HTTPS_PROXY` and `SSL_CERT_FILE` lead the daemon here.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::pki::Pki;
use crate::server::{Body, Server};
use http::{Request, Response};
use hyper::body::Incoming;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::TcpStream;

use super::raw::{RawPeer, read_head};

/// An internet that exists until it is dropped.
#[derive(Debug)]
pub struct Internet {
    /// Answers for every host, over TLS.
    _server: Server,
    proxy: RawPeer,
    authority_pem: String,
    /// Requests for unknown hosts.
    strangers: Arc<Mutex<Vec<String>>>,
}

impl Internet {
    /// Starts an internet of these hosts. One function answers for all of them; `Host` tells them apart.
    pub async fn start<A, F>(hosts: &[&str], answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = io::Result<Response<Body>>> + Send + 'static,
    {
        let pki = Pki::new(hosts).unwrap();
        let server = Server::start(Some(pki.server_config(&[b"http/1.1"]).unwrap()), answer).await.unwrap();
        let strangers = Arc::new(Mutex::new(Vec::new()));
        let known: Arc<[String]> = hosts.iter().map(|host| format!("{host}:443")).collect();
        let (address, noted) = (server.address(), Arc::clone(&strangers));
        let proxy = RawPeer::tcp(move |stream| {
            let (known, noted) = (Arc::clone(&known), Arc::clone(&noted));
            async move {
                if let Some(stranger) = tunnel(stream, &known, address).await {
                    noted.lock().unwrap().push(stranger);
                }
            }
        })
        .await;
        Self { _server: server, proxy, authority_pem: pki.authority_pem().to_owned(), strangers }
    }

    /// The variables of the daemon's environment; the file of certificate authorities is written to `folder`.
    pub fn environment(&self, folder: &Path) -> Vec<(String, String)> {
        let authorities = folder.join("internet.pem");
        std::fs::write(&authorities, &self.authority_pem).unwrap();
        vec![
            ("HTTPS_PROXY".to_owned(), format!("http://{}", self.proxy.address)),
            ("SSL_CERT_FILE".to_owned(), authorities.to_str().unwrap().to_owned()),
        ]
    }

    /// The request lines that named unknown hosts.
    pub fn strangers(&self) -> Vec<String> {
        self.strangers.lock().unwrap().clone()
    }
}

/// Opens a tunnel (RFC 9110 §9.3.6); returns the request line if its host is unknown.
async fn tunnel(mut stream: TcpStream, known: &[String], server: SocketAddr) -> Option<String> {
    let head = String::from_utf8_lossy(&read_head(&mut stream).await).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default().to_owned();
    if !head.starts_with("CONNECT ") || !known.contains(&target) {
        let _ = stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n").await;
        return Some(head.lines().next().unwrap_or_default().to_owned());
    }
    let mut peer = TcpStream::connect(server).await.unwrap();
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
    let _ = copy_bidirectional(&mut stream, &mut peer).await;
    None
}
