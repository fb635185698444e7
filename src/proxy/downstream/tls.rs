//! TLS with a client: the handshake, in its connection's own task, and the names in the client's certificate.
//!
//! A silent or slow client delays no other, and the sweep ends its connection. A client that speaks plain HTTP gets a
//! plain 400 instead of a TLS alert.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use http::Version;
use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use super::io::{ClientIo, TLS_HANDSHAKE};
use super::state::ClientConnection;
use super::stream::{ClientStream, Noticed, SharedStream};
use super::until_ended::until_ended;
use super::wrong_protocol::Spoken;
use crate::config::model::certificate;
use crate::proxy::error::ProxyError;

impl ClientStream for TlsStream<TcpStream> {
    fn set_close_by_reset(&self) {
        self.get_ref().0.set_close_by_reset();
    }

    fn agreed_version(&self) -> Option<Version> {
        match self.get_ref().1.alpn_protocol()? {
            b"h2" => Some(Version::HTTP_2),
            _ => Some(Version::HTTP_11),
        }
    }

    /// Reads TLS records behind bytes that nobody has read, as far as the buffer of rustls takes them: a `close_notify` is the
    /// end of what the client sends, whether TCP ends or not (RFC 8446 §6.1).
    fn noticed(&mut self) -> Option<Noticed> {
        let (tcp, session) = self.get_mut();
        let noticed = tcp.noticed();
        if matches!(noticed, Some(Noticed::Closed | Noticed::TimedOut)) {
            return noticed;
        }
        while session.read_tls(&mut Available(tcp)).is_ok_and(|count| count > 0) {
            match session.process_new_packets() {
                Ok(state) if state.peer_has_closed() => return Some(Noticed::HalfClosed),
                Ok(_) => {}
                // A read reports the error.
                Err(_) => return noticed,
            }
        }
        noticed
    }
}

/// Reads what the system has received.
struct Available<'t>(&'t TcpStream);

impl io::Read for Available<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

/// Negotiates TLS; `None` if that failed, which is logged, and the client has its response or alert.
pub(crate) async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    client: &Rc<ClientConnection>,
) -> Option<SharedStream> {
    client.tls_begun();
    match until_ended(client, first_byte(&stream)).await {
        Ok(Ok(Some(TLS_HANDSHAKE))) => {}
        Ok(Ok(Some(byte))) if byte.is_ascii_alphabetic() => {
            client.report_wrong_protocol(Spoken::Http, stream.local_address());
            let error = ProxyError::BadRequest("this port speaks TLS: call it by https://");
            let _ = until_ended(
                client,
                ClientIo::new(SharedStream::new(stream), Rc::clone(client)).refuse(error),
            )
            .await;
            log_failure(client, "plain text in the place of TLS");
            return None;
        }
        Ok(Ok(Some(_))) => {
            log_failure(client, "no TLS");
            return None;
        }
        // As some health checks do.
        Ok(Ok(None) | Err(_)) => {
            debug!(peer = %client.peer.get(), "connection ended before a handshake");
            return None;
        }
        Err(_) => {
            log_failure(client, "not in time");
            return None;
        }
    }
    // Boxed, so that the connection reserves no memory for the handshake later on.
    let handshake = Box::pin(TlsAcceptor::from(config).accept(stream).into_fallible());
    match until_ended(client, handshake).await {
        Ok(Ok(stream)) => {
            let Some(names) = names(stream.get_ref().1) else {
                log_failure(client, "the session's certificate has ended");
                return None;
            };
            client.tls_negotiated(names);
            Some(SharedStream::new(stream))
        }
        Ok(Err((error, stream))) => {
            log_failure(client, &error.to_string());
            // Lingering, so that the client can read the alert.
            let _ = until_ended(
                client,
                ClientIo::new(SharedStream::new(stream), Rc::clone(client)).close_lingering(),
            )
            .await;
            None
        }
        Err(_) => {
            log_failure(client, "not in time");
            None
        }
    }
}

fn log_failure(client: &ClientConnection, error: &str) {
    client.handshake_failed();
    info!(target: "bearerd::connection", peer = %client.peer.get().host(), error, "handshake failed");
}

/// The first byte, which stays to be read; `None` at the end of the stream.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    Ok((count > 0).then_some(first[0]))
}

/// The names in the client's certificate, none without one; `None` if the certificate has expired. rustls verifies a
/// certificate only as its session begins, so that a resumed session's is checked here.
fn names(connection: &ServerConnection) -> Option<Vec<String>> {
    let Some(certificate) = connection.peer_certificates().and_then(<[_]>::first) else {
        return Some(Vec::new());
    };
    let is_resumed = connection.handshake_kind() == Some(HandshakeKind::Resumed);
    if is_resumed && certificate::end(certificate).is_some_and(|end| end <= certificate::now()) {
        return None;
    }
    Some(certificate::names(certificate))
}
