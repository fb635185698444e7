//! The boundary between the connections of clients and the service that answers their requests.

use std::convert::Infallible;
use std::error::Error;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::Body;

use super::progress::Progress;
use super::request_body::ClientBody;
use super::state::ClientConnection;
use super::upgrade::Upgrade;
use crate::config::{Http1Options, Limits};

/// Answers the requests of client connections.
pub trait Serve: 'static {
    /// The body of a response.
    type Body: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + 'static;

    /// The limits in force.
    fn limits(&self) -> Arc<Limits>;

    /// How HTTP/1.1 is spoken.
    fn http1(&self) -> Http1Options;

    /// Answers a request whose head is complete.
    fn answer(&self, request: Request<ClientBody>, downstream: Downstream) -> Answer<Self::Body>;
}

/// The downstream side of one request.
pub struct Downstream {
    /// The connection that the request came on.
    pub connection: Rc<ClientConnection>,
    /// The progress of the request's response.
    pub progress: Rc<Progress>,
    /// How the request may take over the connection's socket.
    pub upgrade: Upgrade,
}

/// A response in the making. Boxed, so that an idle connection reserves no memory for one.
pub type Answer<B> = Pin<Box<dyn Future<Output = Result<Response<B>, Infallible>>>>;
