//! TLS with a caller: the handshake, in its connection's own task, and whose certificate it showed.
//!
//! A caller that is silent or slow holds up nobody, and the sweep ends it. One that speaks plain HTTP is told so
//! before anything is written that it would not understand.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::{HandshakeKind, ServerConfig, ServerConnection};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tracing::{debug, info};

use super::connection::until_ended;
use super::io::{CallerIo, CallerStream, TLS_HANDSHAKE};
use super::state::Caller;
use super::wrong_protocol::Spoken;
use crate::config::model::certificate;
use crate::proxy::error::ProxyError;

impl CallerStream for TlsStream<TcpStream> {
    fn set_close_by_reset(&self) {
        self.get_ref().0.set_close_by_reset();
    }
}

/// Shakes hands; `None` if that came to nothing, which has then been said and done.
pub async fn accept(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    caller: &Rc<Caller>,
) -> Option<Box<dyn CallerStream>> {
    caller.begins_handshake();
    match until_ended(caller, first_byte(&stream)).await {
        Ok(Ok(Some(TLS_HANDSHAKE))) => {}
        Ok(Ok(Some(byte))) if byte.is_ascii_alphabetic() => {
            caller.is_misdirected(Spoken::Http, stream.called());
            let error = ProxyError::BadRequest("this port speaks TLS: call it by https://");
            let _ =
                until_ended(caller, CallerIo::new(Box::new(stream), Rc::clone(caller)).refuse(&error)).await;
            failed(caller, "plain text in the place of TLS");
            return None;
        }
        Ok(Ok(Some(_))) => {
            failed(caller, "no TLS");
            return None;
        }
        // As some health checks do.
        Ok(Ok(None) | Err(_)) => {
            debug!(peer = %caller.peer(), "connection ended before a handshake");
            return None;
        }
        Err(_) => {
            failed(caller, "not in time");
            return None;
        }
    }
    // Boxed, so that no room is set aside for it later on.
    let shaking = Box::pin(TlsAcceptor::from(config).accept(stream).into_fallible());
    match until_ended(caller, shaking).await {
        Ok(Ok(stream)) => {
            let Some(names) = names(stream.get_ref().1) else {
                failed(caller, "the session's certificate has ended");
                return None;
            };
            caller.shook_hands(names);
            Some(Box::new(stream))
        }
        Ok(Err((error, stream))) => {
            failed(caller, &error.to_string());
            // The alert that says why should not be lost.
            let _ = until_ended(caller, CallerIo::new(Box::new(stream), Rc::clone(caller)).read_off()).await;
            None
        }
        Err(_) => {
            failed(caller, "not in time");
            None
        }
    }
}

fn failed(caller: &Caller, error: &str) {
    info!(target: "bearerd::access", peer = %caller.peer().host(), error, "handshake failed");
}

/// The first byte, which is left where it is.
async fn first_byte(stream: &TcpStream) -> io::Result<Option<u8>> {
    let mut first = [0];
    let count = stream.peek(&mut first).await?;
    Ok((count > 0).then_some(first[0]))
}

/// The names in the caller's certificate, if it has one; `None` if it has ended. A session that is resumed was
/// verified when it began, so its certificate's end is looked at here.
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
