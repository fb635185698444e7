//! A CONNECT tunnel through a forward proxy (RFC 9110 §9.3.6).
//!
//! The proxy receives the name and port of the upstream, and the user and password of the proxy's URL. All other data,
//! with the tokens, passes through the tunnel inside the TLS session with the upstream.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use url::Url;

use super::socket::{DeferredWriteErrors, Stream, drive};
use super::tls::{TlsClient, is_no_tls, tls_error};
use crate::causes::in_one_line;
use crate::config;
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;

/// The largest response head to CONNECT, in bytes.
const MAX_RESPONSE_HEAD: usize = 16 * 1024;

/// Opens tunnels to one upstream through one proxy.
pub(super) struct Tunnel {
    /// The proxy, without user and password.
    pub(super) proxy: Uri,
    tls: Option<TlsClient>,
    /// The authority of the upstream, with the port: the target of the CONNECT request.
    target: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Tunnel {
    /// A tunnel to `upstream`; `None` if the proxy's exceptions include this host. `tls` verifies the certificate of an
    /// `https` proxy. Fails if the URL of the proxy or the host of the upstream is invalid.
    pub(super) fn new(
        proxy: &config::Proxy,
        upstream: &Uri,
        tls: &Arc<ClientConfig>,
    ) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let url = Url::parse(proxy.url.expose_secret()).map_err(|_| invalid("not the address of a proxy"))?;
        let matcher = |except: &str| Matcher::builder().https(url.as_str()).no(except).build();
        // An invalid proxy URL is an error: without the proxy, requests would bypass it.
        matcher("").intercept(upstream).ok_or_else(|| invalid("not the address of a proxy"))?;
        let Some(intercept) = matcher(&proxy.except).intercept(upstream) else {
            return Ok(None);
        };
        let host = upstream.host().ok_or_else(|| invalid("an upstream without a host"))?;
        let target = format!("{host}:{}", upstream.port_u16().unwrap_or(443));
        Ok(Some(Self {
            tls: tls_client(&intercept, tls)?,
            proxy: intercept.uri().clone(),
            host: HeaderValue::from_str(&target).map_err(|_| invalid("not the name of a host"))?,
            target: target.parse().map_err(|_| invalid("not the name of a host"))?,
            authorization: intercept.basic_auth().cloned(),
        }))
    }

    /// Opens a tunnel over a TCP connection to the proxy, or fails with [`ForwardError::Proxy`].
    pub(super) async fn open(&self, tcp: TcpStream) -> Result<Box<dyn Stream>, ForwardError> {
        let socket = DeferredWriteErrors::new(tcp);
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(socket),
            Some(tls) => {
                let stream = tls.handshake(socket).await;
                Box::new(stream.map_err(|error| proxy_error(tls_error(&error)))?)
            }
        };
        let terminated = |error: hyper::Error| failed(ProxyStatus::ConnectionTerminated, in_one_line(&error));
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(MAX_RESPONSE_HEAD)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(terminated)?;
        let response = drive(pin!(sender.send_request(self.request())), |cx| {
            // `response` reports the errors of the connection.
            let _ = connection.poll_without_shutdown(cx);
        })
        .await;
        let status = response.map_err(|error| no_response(&error))?.status();
        if !status.is_success() {
            return Err(refused(status));
        }
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(terminated)?;
        let parts = connection.into_parts();
        if !parts.read_buf.is_empty() {
            // The client speaks first in TLS.
            return Err(failed(ProxyStatus::HttpProtocolError, "data before tls follows its answer"));
        }
        Ok(parts.io.into_inner())
    }

    fn request(&self) -> Request<Empty<Bytes>> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = http::Method::CONNECT;
        *request.uri_mut() = self.target.clone();
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
        }
        request
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel")
            .field("proxy", &self.proxy)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

fn tls_client(intercept: &Intercept, tls: &Arc<ClientConfig>) -> io::Result<Option<TlsClient>> {
    if intercept.uri().scheme_str() != Some("https") {
        return Ok(None);
    }
    // CONNECT is sent over HTTP/1.1, whichever version the upstream speaks.
    let mut tls = ClientConfig::clone(tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsClient::new(Arc::new(tls), intercept.uri().host().unwrap_or_default()).map(Some)
}

/// Turns the error of a connection to the proxy into an error of the proxy.
pub(super) fn proxy_error(error: ForwardError) -> ForwardError {
    match error {
        ForwardError::Unreachable(proxy_status, text) => failed(proxy_status, text),
        ForwardError::Tls(proxy_status, text) => failed(proxy_status, format!("its tls: {text}")),
        other => other,
    }
}

/// The error of the TLS handshake inside the tunnel. A peer without TLS is a failure of the proxy: some proxies answer
/// 200 before they have connected.
pub(super) fn tls_error_in_tunnel(error: &io::Error) -> ForwardError {
    if !is_no_tls(error) {
        return tls_error(error);
    }
    failed(ProxyStatus::ConnectionTerminated, format!("its tunnel ended or holds no tls: {error}"))
}

fn no_response(error: &hyper::Error) -> ForwardError {
    let proxy_status =
        if error.is_parse() { ProxyStatus::HttpProtocolError } else { ProxyStatus::ConnectionTerminated };
    failed(proxy_status, format!("no valid answer to CONNECT: {}", in_one_line(error)))
}

/// The error of a CONNECT response whose status is not 2xx (RFC 9209 §2.3).
fn refused(status: StatusCode) -> ForwardError {
    let proxy_status = match status {
        StatusCode::GATEWAY_TIMEOUT => ProxyStatus::ConnectionTimeout,
        status if status.is_server_error() => ProxyStatus::DestinationUnavailable,
        _ => ProxyStatus::HttpRequestDenied,
    };
    let hint = match status {
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => " (it wants a user and a password in its URL)",
        _ => "",
    };
    failed(proxy_status, format!("it answered CONNECT with status {}{hint}", status.as_u16()))
}

/// An error of the proxy.
pub(super) fn failed(proxy_status: ProxyStatus, text: impl Into<String>) -> ForwardError {
    ForwardError::Proxy(proxy_status, text.into())
}
