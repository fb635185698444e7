//! Callers that speak something else than the port they call: a word in the log, now and then.
//!
//! What such a caller is told, if it is anything, is said where the connection is.

use std::net::SocketAddr;

use tracing::warn;

use crate::proxy::peer::Peer;
use crate::telemetry::throttle::Throttle;

/// What is spoken, by a caller or on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP in clear text.
    Http,
    /// TLS.
    Tls,
}

/// Tells of the callers of one worker.
#[derive(Debug, Default)]
pub struct Misdirected {
    tls: Throttle,
    http: Throttle,
}

impl Misdirected {
    /// A caller spoke this, and the port it called, at this address, the other.
    pub fn tell(&self, spoke: Spoken, address: Option<SocketAddr>, peer: &Peer) {
        let (recurring, spoke, speaks, help) = match spoke {
            Spoken::Tls => {
                (&self.tls, "TLS", "HTTP", "call it by http://, or give it a certificate in [server.tls]")
            }
            Spoken::Http => (&self.http, "HTTP", "TLS", "call it by https://"),
        };
        if let Some(count) = recurring.happened() {
            let address = address.map(|address| address.to_string());
            warn!(address, speaks, spoke, peer = %peer.host(), count, help, "caller spoke another protocol than the port");
        }
    }
}
