//! WebSocket: a handshake in HTTP/1.1, and then uninterpreted bytes in both directions (RFC 6455).
//!
//! Where a route allows WebSocket, a caller's handshake is forwarded like any request, with a token, and replayed after a
//! 401. A 101 that answers the handshake is passed on, and a [`Tunnel`] then takes over the caller's connection from hyper.
//! A tunnel has no time-out, as both ends have their own. The tunnel counts as a request in flight, and is cut when the
//! drain deadline expires.

use std::rc::Rc;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::{Either, select};
use http::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Response, Version};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::time::{Instant, timeout};
use tracing::info;

use super::exchange::Exchange;
use crate::http::RequestId;
use crate::proxy::body::replay::AttemptBody;
use crate::proxy::downstream::protocol::LINGERING_CLOSE_TIMEOUT;
use crate::proxy::downstream::request_body::ClientBody;
use crate::proxy::downstream::state::ClientConnection;
use crate::proxy::downstream::upgrade::Upgrade;
use crate::proxy::error::ProxyError;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::message::headers;
use crate::proxy::message::via::Via;
use crate::proxy::upstream::forward::Answered;
use crate::proxy::upstream::pool::connection::Upgraded;

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
/// Appended to the key for `Sec-WebSocket-Accept` (RFC 6455 §1.3).
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// A caller's handshake.
#[derive(Debug)]
pub struct Handshake {
    /// The `Sec-WebSocket-Accept` of a server that accepts the handshake.
    accept: String,
}

/// An upstream connection that has switched to WebSocket, for a caller's connection.
struct Tunnel {
    upstream: Upgraded,
    caller: InFlight,
    /// The identifier of the handshake; `None` without an access log.
    request_id: Option<RequestId>,
}

/// Counts as a request in flight until it is dropped.
struct InFlight(Rc<ClientConnection>);

impl Handshake {
    /// The handshake of a request, if the request is a complete one (RFC 6455 §4.2.1). Any other loses its `Upgrade`.
    pub fn of(head: &Parts) -> Option<Self> {
        let is_one = head.method == Method::GET
            && head.version == Version::HTTP_11
            && headers::has_member(&head.headers, &UPGRADE, "websocket")
            && headers::has_member(&head.headers, &CONNECTION, "upgrade");
        let mut keys = head.headers.get_all(SEC_WEBSOCKET_KEY).iter();
        let key = keys.next().filter(|_| is_one && keys.next().is_none())?;
        Some(Self { accept: accept(key.as_bytes()) })
    }

    /// Adds the fields that ask for the switch, which are hop-by-hop.
    pub fn ask(headers: &mut HeaderMap) {
        headers.insert(UPGRADE, WEBSOCKET);
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }

    /// Connects the upstream's connection to the caller's, if the response accepts this handshake (RFC 6455 §4.1).
    ///
    /// # Errors
    ///
    /// [`ForwardError::Protocol`] if the response does not.
    pub async fn complete(
        &self,
        answered: Answered<AttemptBody<ClientBody>>,
        exchange: &Exchange,
        upgrade: &Upgrade,
        via: &Via,
    ) -> Result<Response<Bytes>, ProxyError> {
        let Answered { response, lease } = answered;
        let (mut head, _) = response.into_parts();
        let is_accepted = headers::has_member(&head.headers, &UPGRADE, "websocket")
            && headers::has_member(&head.headers, &CONNECTION, "upgrade")
            && head.headers.get(SEC_WEBSOCKET_ACCEPT).is_some_and(|said| *said == self.accept);
        let taken_over = if is_accepted { lease.into_upgraded().await } else { None };
        let Some(upstream) = taken_over else {
            return Err(ForwardError::Protocol("a 101 that answers no handshake".to_owned()).into());
        };
        headers::for_caller(&mut head.headers, head.version, via);
        Self::ask(&mut head.headers);
        exchange.caller.request_begun();
        let caller = InFlight(Rc::clone(&exchange.caller));
        let request_id = exchange.is_logged().then(|| exchange.request_id.clone());
        let tunnel = Tunnel { upstream, caller, request_id };
        upgrade.register(Box::new(|socket, read| Box::pin(tunnel.run(socket, read))));
        Ok(Response::from_parts(head, Bytes::new()))
    }
}

/// The `Sec-WebSocket-Accept` for a key (RFC 6455 §4.2.2).
fn accept(key: &[u8]) -> String {
    STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key, GUID.as_bytes()].concat()))
}

impl Tunnel {
    /// Copies bytes in both directions until one side has ended, and then for a while those of the other side. A side whose
    /// connection breaks, by a reset or without TLS' `close_notify`, ends both at once. `read` holds the bytes that hyper has
    /// read from the caller.
    async fn run<C: AsyncRead + AsyncWrite>(self, caller: C, read: Bytes) {
        let began = Instant::now();
        let Upgraded { stream, read_ahead, guard: _guard } = self.upstream;
        let (caller, upstream) = (split(caller), split(stream));
        let up = Box::pin(copy_all(read, caller.0, upstream.1));
        let down = Box::pin(copy_all(read_ahead, upstream.0, caller.1));
        let (up, down) = match select(up, down).await {
            Either::Left((Ok(up), down)) => (Some(up), rest(down).await),
            Either::Right((Ok(down), up)) => (rest(up).await, Some(down)),
            Either::Left((Err(_), _)) | Either::Right((Err(_), _)) => (None, None),
        };
        if let Some(request_id) = &self.request_id {
            let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            info!(
                target: "bearerd::connection",
                request_id = request_id.as_str(),
                peer = %self.caller.0.peer.get().host(),
                received = up,
                sent = down,
                duration_ms,
                "websocket ended"
            );
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.request_ended();
    }
}

/// The number of bytes that a direction copies in all, if it ends soon after the other one.
async fn rest(direction: impl Future<Output = std::io::Result<u64>>) -> Option<u64> {
    timeout(LINGERING_CLOSE_TIMEOUT, direction).await.ok()?.ok()
}

/// Copies one direction to its end, and then ends it.
async fn copy_all<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
    first: Bytes,
    mut from: R,
    mut to: W,
) -> std::io::Result<u64> {
    to.write_all(&first).await?;
    to.flush().await?;
    let copied = copy(&mut from, &mut to).await?;
    to.shutdown().await?;
    Ok(copied + first.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn handshake(method: &str, version: Version, fields: &[(&str, &str)]) -> Option<Handshake> {
        let mut request = http::Request::builder().method(method).version(version).uri("/x");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        Handshake::of(&request.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn the_accept_value_is_that_of_the_rfc_example() {
        let fields =
            [("upgrade", "WebSocket"), ("connection", "keep-alive, Upgrade"), ("sec-websocket-key", KEY)];

        let handshake = handshake("GET", Version::HTTP_11, &fields).unwrap();

        assert_eq!(handshake.accept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn an_incomplete_handshake_is_none() {
        let good = [("upgrade", "websocket"), ("connection", "upgrade"), ("sec-websocket-key", KEY)];
        assert!(handshake("GET", Version::HTTP_11, &good).is_some());
        assert!(handshake("POST", Version::HTTP_11, &good).is_none());
        assert!(handshake("GET", Version::HTTP_10, &good).is_none());
        for without in 0..3 {
            let mut fields = good.to_vec();
            fields.remove(without);
            assert!(handshake("GET", Version::HTTP_11, &fields).is_none(), "{fields:?}");
        }
        let two_keys = [&good[..], &good[2..]].concat();
        assert!(handshake("GET", Version::HTTP_11, &two_keys).is_none());
        let other = [("upgrade", "h2c"), good[1], good[2]];
        assert!(handshake("GET", Version::HTTP_11, &other).is_none());
    }
}
