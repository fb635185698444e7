//! What is known of a request besides its head.

use std::net::IpAddr;

/// The caller's connection and the body, as far as the head for the upstream depends on them.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts")]
pub(super) struct Received {
    /// The address of the client; `None` for a Unix socket.
    pub client_address: Option<IpAddr>,
    /// The caller's connection is encrypted.
    pub is_tls: bool,
    pub has_body: bool,
    pub is_of_unknown_length: bool,
    /// A field name has a character other than letters, digits and hyphens.
    pub has_odd_name: bool,
}
