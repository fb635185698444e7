//! What is known of a request besides its head.

use std::net::IpAddr;

use http::HeaderValue;

use crate::proxy::route::guard::Present;

/// The caller's connection and the body, as far as the head for the upstream depends on them.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Received {
    /// The address of the client; `None` for a Unix socket.
    pub client_address: Option<IpAddr>,
    /// The request's identifier.
    pub request_id: HeaderValue,
    /// The request belongs to a trace, whose fields are well-formed.
    pub has_trace: bool,
    /// The caller's connection is encrypted.
    pub is_tls: bool,
    pub has_body: bool,
    pub is_of_unknown_length: bool,
    /// The kinds of fields in the head.
    pub fields: Present,
}
