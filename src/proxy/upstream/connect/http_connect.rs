//! The way to an upstream through a proxy: CONNECT, and what the proxy makes of it (RFC 9110 §9.3.6).
//!
//! The proxy sees the upstream's name and port, and the credentials of its own URL. Everything else, the token above
//! all, goes through the tunnel under the upstream's TLS.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Url;

use super::socket::ReadsDecide;
use super::{Stream, server_name, tls_failed, unreachable};
use crate::causes::in_one_line;
use crate::config;
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;

/// The largest answer to CONNECT.
const MAX_BUFFER: usize = 16 * 1024;

/// A proxy, and where it is to lead.
pub struct Tunnel {
    /// The proxy, without its user and password.
    proxy: Uri,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    /// The upstream, as in the request's target.
    target: Uri,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
}

impl Tunnel {
    /// The tunnel to an upstream; `None` if the proxy is not for this host. A proxy that is reached by https is checked
    /// against `tls`.
    ///
    /// # Errors
    ///
    /// If an address is none that can be connected to.
    pub fn new(proxy: &config::Proxy, upstream: &Uri, tls: &Arc<ClientConfig>) -> io::Result<Option<Self>> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what);
        let url = Url::parse(proxy.url.expose_secret()).map_err(|_| invalid("not the address of a proxy"))?;
        let matcher = |except: &str| Matcher::builder().https(url.as_str()).no(except).build();
        // One that is not understood must not become a way around it.
        matcher("").intercept(upstream).ok_or_else(|| invalid("not the address of a proxy"))?;
        let Some(intercept) = matcher(&proxy.except).intercept(upstream) else {
            return Ok(None);
        };
        let host = upstream.host().ok_or_else(|| invalid("an upstream without a host"))?;
        let target = format!("{host}:{}", upstream.port_u16().unwrap_or(443));
        Ok(Some(Self {
            tls: tls_of(&intercept, tls)?,
            proxy: intercept.uri().clone(),
            host: HeaderValue::from_str(&target).map_err(|_| invalid("not the name of a host"))?,
            target: target.parse().map_err(|_| invalid("not the name of a host"))?,
            authorization: intercept.basic_auth().cloned(),
        }))
    }

    /// Where the proxy is; holds no password.
    pub const fn proxy(&self) -> &Uri {
        &self.proxy
    }

    /// Has the proxy lead a connection that was made to it to the upstream.
    ///
    /// # Errors
    ///
    /// [`ForwardError::Proxy`]: it does not.
    pub async fn open(&self, tcp: TcpStream) -> Result<Box<dyn Stream>, ForwardError> {
        let socket = ReadsDecide::new(tcp);
        let stream: Box<dyn Stream> = match self.tls.clone() {
            None => Box::new(socket),
            Some((connector, name)) => {
                let stream = connector.connect(name, socket).await;
                Box::new(stream.map_err(|error| of_proxy(tls_failed(&error)))?)
            }
        };
        let broke_off = |error: hyper::Error| failed(ProxyStatus::ConnectionTerminated, &in_one_line(&error));
        let (mut sender, mut connection) = http1::Builder::new()
            .max_buf_size(MAX_BUFFER)
            .handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
            .await
            .map_err(broke_off)?;
        let response = {
            let mut response = pin!(sender.send_request(self.request()));
            poll_fn(|cx| {
                if let Poll::Ready(response) = response.as_mut().poll(cx) {
                    return Poll::Ready(response);
                }
                // What goes wrong is told to whoever waits for the response.
                let _ = connection.poll_without_shutdown(cx);
                response.as_mut().poll(cx)
            })
            .await
        };
        let status = response.map_err(|error| no_answer(&error))?.status();
        if !status.is_success() {
            return Err(refused(status));
        }
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(broke_off)?;
        let parts = connection.into_parts();
        if !parts.read_buf.is_empty() {
            // TLS begins with our own words.
            return Err(failed(
                ProxyStatus::HttpProtocolError,
                "something else than a tunnel follows its answer",
            ));
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

fn tls_of(
    intercept: &Intercept,
    tls: &Arc<ClientConfig>,
) -> io::Result<Option<(TlsConnector, ServerName<'static>)>> {
    if intercept.uri().scheme_str() != Some("https") {
        return Ok(None);
    }
    let name = server_name(intercept.uri().host().unwrap_or_default())?;
    // The tunnel is asked for in HTTP/1.1, whatever is spoken behind it.
    let mut tls = ClientConfig::clone(tls);
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some((TlsConnector::from(Arc::new(tls)), name)))
}

/// A failure to reach the proxy itself.
pub fn of_proxy(error: ForwardError) -> ForwardError {
    match error {
        ForwardError::Unreachable { proxy_status, text } => ForwardError::Proxy { proxy_status, text },
        ForwardError::Tls { proxy_status, text } => failed(proxy_status, &format!("its tls: {text}")),
        other => other,
    }
}

/// A connection to it that was not made.
pub fn not_reached(error: &(dyn std::error::Error + 'static)) -> ForwardError {
    of_proxy(unreachable(error))
}

/// It took too long to lead anywhere.
pub fn timed_out() -> ForwardError {
    failed(ProxyStatus::ConnectionTimeout, "no tunnel in time")
}

/// What came through the tunnel in the upstream's place was no TLS: many a proxy says 200 before it has connected.
pub fn leads_nowhere(error: &io::Error) -> ForwardError {
    failed(ProxyStatus::ConnectionTerminated, &format!("its tunnel ended or holds no tls: {error}"))
}

/// The upstream's TLS took too long behind it.
pub fn silent() -> ForwardError {
    failed(ProxyStatus::ConnectionTimeout, "no tls through its tunnel in time")
}

fn no_answer(error: &hyper::Error) -> ForwardError {
    let is_junk = error.is_parse() || error.is_parse_too_large() || error.is_parse_status();
    let proxy_status =
        if is_junk { ProxyStatus::HttpProtocolError } else { ProxyStatus::ConnectionTerminated };
    failed(proxy_status, &format!("no valid answer to CONNECT: {}", in_one_line(error)))
}

/// RFC 9209 §2.3: what a status other than 2xx comes to.
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
    failed(proxy_status, &format!("it answered CONNECT with status {}{hint}", status.as_u16()))
}

fn failed(proxy_status: ProxyStatus, text: &str) -> ForwardError {
    ForwardError::Proxy { proxy_status, text: text.to_owned() }
}
