//! Rate-limited warnings about callers that speak TLS to a port of plain HTTP, or the other way round.

use std::net::SocketAddr;

use tracing::warn;

use crate::proxy::peer::Peer;
use crate::telemetry::throttle::Throttle;

/// A protocol that a caller or a port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP in clear text.
    Http,
    /// TLS.
    Tls,
}

/// The warnings of one worker.
#[derive(Debug, Default)]
pub struct WrongProtocolLog {
    tls: Throttle,
    http: Throttle,
}

impl WrongProtocolLog {
    /// Reports a caller that spoke this protocol to the port at `address`, which speaks the other one.
    pub fn report(&self, spoken: Spoken, address: Option<SocketAddr>, peer: &Peer) {
        let (recurring, spoke, speaks, help) = match spoken {
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
