//! The redirect URI of a login: a server on loopback that accepts one authorization response (RFC 8252 §7.3).

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use secrecy::SecretString;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

use crate::admin::server;
use crate::admin::server::{Bounds, Listener};
use crate::config::RedirectUri;
use crate::token::login::authorization::{Attempt, CallbackError};

/// How long the browser may take to load the final page.
pub(super) const FINAL_PAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// How many ports are tried where any port will do: each must be free for IPv4 and IPv6.
const PORT_ATTEMPTS: usize = 16;

type Outcome = Result<SecretString, CallbackError>;

/// The listeners at the redirect URI; none if it is not an address of this machine.
#[derive(Debug)]
pub(super) struct Callback {
    pub(super) listeners: Vec<TcpListener>,
    /// The redirect URI, with the port that was bound.
    pub(super) redirect_uri: RedirectUri,
}

#[derive(Debug, Error)]
#[error("cannot listen on {address} (redirect_uri)")]
pub(super) struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

impl Callback {
    /// Listens at the redirect URI, if that is on loopback and not over TLS.
    pub(super) async fn bind(redirect_uri: &RedirectUri) -> Result<Self, BindError> {
        let addresses = redirect_uri.listen();
        let is_any_port = addresses.first().is_some_and(|address| address.port() == 0);
        let mut attempts_left = if is_any_port { PORT_ATTEMPTS - 1 } else { 0 };
        let listeners = loop {
            match listen(&addresses).await {
                Err(error) if attempts_left > 0 && error.source.kind() == ErrorKind::AddrInUse => {
                    attempts_left -= 1;
                }
                outcome => break outcome?,
            }
        };
        let bound = listeners.first().and_then(|listener| listener.local_addr().ok());
        let redirect_uri =
            bound.map_or_else(|| redirect_uri.clone(), |address| redirect_uri.on_port(address.port()));
        Ok(Self { listeners, redirect_uri })
    }

    /// Passes the authorization response on, and returns when the browser has its final page.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the listeners and the connections.
    pub(super) async fn serve(self, attempt: Arc<Attempt>, answers: mpsc::Sender<Outcome>) {
        let (done, is_done) = watch::channel(false);
        let path = self.redirect_uri.path().to_owned();
        let waiting = Arc::new(Waiting { path, attempt, answers, done });
        let serving = self.listeners.into_iter().map(|listener| {
            let router = Router::new().fallback(answer).with_state(Arc::clone(&waiting));
            let mut is_done = is_done.clone();
            server::serve(Listener::Tcp(listener, None), router, Bounds::FOR_BROWSER, async move {
                let _ = is_done.wait_for(|is_done| *is_done).await;
            })
        });
        join_all(serving).await;
    }
}

/// Binds all addresses with the port of the first. IPv6 may be unavailable if IPv4 works.
async fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, BindError> {
    let mut listeners: Vec<TcpListener> = Vec::new();
    for address in addresses {
        let port = listeners.first().and_then(|first| first.local_addr().ok()).map(|first| first.port());
        let address = SocketAddr::new(address.ip(), port.unwrap_or(address.port()));
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(source) if source.kind() == ErrorKind::AddrInUse || listeners.is_empty() => {
                return Err(BindError { address, source });
            }
            Err(_) => {}
        }
    }
    Ok(listeners)
}

struct Waiting {
    path: String,
    attempt: Arc<Attempt>,
    answers: mpsc::Sender<Outcome>,
    done: watch::Sender<bool>,
}

async fn answer(State(waiting): State<Arc<Waiting>>, method: Method, uri: Uri) -> Response {
    if uri.path() != waiting.path {
        return page(StatusCode::NOT_FOUND, "Not found.");
    }
    if method != Method::GET {
        return page(StatusCode::METHOD_NOT_ALLOWED, "This page accepts only GET requests.");
    }
    match waiting.attempt.answer(uri.query().unwrap_or_default()) {
        Err(CallbackError::Answered) => {
            page(StatusCode::BAD_REQUEST, "This login has been answered already.")
        }
        Err(why) if why.may_come() => page(
            StatusCode::BAD_REQUEST,
            "This response does not belong to the current login. Start again at the address that bearerd printed.",
        ),
        outcome => {
            let text = if outcome.is_ok() {
                "bearerd received the response. Close this page, and see the result in the terminal."
            } else {
                "The login failed. Close this page, and see the reason in the terminal."
            };
            let _ = waiting.answers.try_send(outcome);
            waiting.done.send_replace(true);
            page(StatusCode::OK, text)
        }
    }
}

/// A page for the browser. Its address contains the code, so caches must not store it and other sites must not see it.
fn page(status: StatusCode, text: &'static str) -> Response {
    let fields = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (CONNECTION, "close"),
    ];
    let body = format!("<!doctype html>\n<html lang=\"en\"><title>bearerd</title><p>{text}</p></html>\n");
    (status, fields, body).into_response()
}
