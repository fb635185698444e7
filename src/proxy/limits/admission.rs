//! Admission of new connections: the limits on connections in all and from one address.
//!
//! Admission runs on the thread that accepts; connections give their slots back on whichever thread they end. A
//! connection beyond a limit gets a 503 if that costs little, and is closed: refusing must not exhaust the proxy.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::warn;

use super::slots::{Reservation, Slots};
use crate::config::Limits;
use crate::http::RequestId;
use crate::network::client_network;
use crate::proxy::error::http1::plain;
use crate::proxy::error::{Overload, ProxyError};
use crate::proxy::peer::Peer;
use crate::telemetry::metrics::traffic::Traffic;
use crate::telemetry::throttle::Throttle;

/// How many refused connections may get a 503 at a time; the rest is closed without a response.
pub const MAX_REFUSALS: usize = 16;
/// How long such a connection may take to send a request and to read the 503.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// The number of known addresses at which those without a connection are first removed.
const MIN_PRUNED_ADDRESSES: usize = 1024;

/// Admits new connections within the limits.
#[derive(Debug)]
pub struct AdmissionControl {
    all: Arc<Slots>,
    per_address: RefCell<Option<Addresses>>,
    refusals: Arc<Slots>,
    refused: Throttle,
    traffic: Arc<Traffic>,
}

/// The slots of an admitted connection; given back when dropped.
#[derive(Debug, Default)]
pub struct Admitted {
    _of_all: Option<Reservation>,
    _of_address: Option<Reservation>,
}

/// The slots of each address that has connections.
#[derive(Debug)]
struct Addresses {
    limit: usize,
    slots: RefCell<HashMap<IpAddr, Arc<Slots>>>,
    prune_at: Cell<usize>,
}

impl AdmissionControl {
    /// The configured limits, and at most `most` connections in all. Refused connections are counted in `traffic`.
    pub fn new(limits: &Limits, most: usize, traffic: Arc<Traffic>) -> Self {
        Self {
            all: Slots::new(connections(limits, most)),
            per_address: RefCell::new(limits.connections_per_address.map(Addresses::new)),
            refusals: Slots::new(MAX_REFUSALS),
            refused: Throttle::default(),
            traffic,
        }
    }

    /// Changes the limits. Connections beyond a lower limit stay, and are not replaced. A new limit for each address does
    /// not count the connections that were there before.
    pub fn change(&self, limits: &Limits, most: usize) {
        self.all.resize(connections(limits, most));
        let mut per_address = self.per_address.borrow_mut();
        match (&mut *per_address, limits.connections_per_address) {
            (Some(addresses), Some(limit)) => addresses.resize(limit),
            (before, limit) => *before = limit.map(Addresses::new),
        }
    }

    /// Admits a connection. A peer whose requests are refused anyway gets none of the last quarter of the slots.
    ///
    /// # Errors
    ///
    /// The limit that is reached.
    pub fn admit(&self, peer: &Peer) -> Result<Admitted, Overload> {
        if !peer.is_allowed && self.all.are_scarce() {
            return Err(Overload::Connections);
        }
        let of_all = self.all.take(1).ok_or(Overload::Connections)?;
        let of_address = match (&*self.per_address.borrow(), peer.ip()) {
            (Some(addresses), Some(ip)) => Some(addresses.take(ip).ok_or(Overload::ConnectionsOfAddress)?),
            // Without a limit, or without an address, over a unix socket.
            _ => None,
        };
        Ok(Admitted { _of_all: Some(of_all), _of_address: of_address })
    }

    /// Closes a connection that was not admitted: over TCP after a 503, unless too many refusals are under way. A local
    /// task writes the 503.
    pub fn refuse(&self, tcp: Option<std::net::TcpStream>, overload: Overload) {
        self.traffic.connection_refused();
        if let Some(count) = self.refused.happened() {
            warn!(count, reason = %overload, "connections were refused");
        }
        if let Some(socket) = tcp
            && let Some(slot) = self.refusals.take(1)
            && let Ok(stream) = TcpStream::from_std(socket)
        {
            tokio::task::spawn_local(async move {
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT, answer(stream, overload)).await;
                drop(slot);
            });
        }
    }
}

/// Answers a caller over HTTP/1. One that speaks TLS or HTTP/2 gets no response, which would cost a handshake.
async fn answer(mut stream: TcpStream, overload: Overload) {
    let mut first = [0; 4];
    if stream.read_exact(&mut first).await.is_err() || !first[0].is_ascii_uppercase() || first == *b"PRI " {
        return;
    }
    let refusal = plain(&ProxyError::Overloaded(overload), &RequestId::random());
    if stream.write_all(&refusal).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // Closing with bytes unread would reset the connection, and lose the response.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}

/// How many connections are admitted where at most `most` are possible.
pub fn connections(limits: &Limits, most: usize) -> usize {
    limits.connections.map_or(most, |limit| limit.min(most))
}

impl Addresses {
    fn new(limit: usize) -> Self {
        Self { limit, slots: RefCell::default(), prune_at: Cell::new(MIN_PRUNED_ADDRESSES) }
    }

    fn resize(&mut self, limit: usize) {
        self.limit = limit;
        for slots in self.slots.borrow().values() {
            slots.resize(limit);
        }
    }

    fn take(&self, peer: IpAddr) -> Option<Reservation> {
        let mut all = self.slots.borrow_mut();
        if all.len() >= self.prune_at.get() {
            all.retain(|_, slots| slots.taken() > 0);
            self.prune_at.set(MIN_PRUNED_ADDRESSES.max(2 * all.len()));
        }
        all.entry(client_network(peer)).or_insert_with(|| Slots::new(self.limit)).take(1)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::fixture;
    use crate::proxy::peer::Networks;

    fn admission(lines: &str, most: usize) -> AdmissionControl {
        let config = fixture::config(&format!("[server.limits]\n{lines}"), "", "x");
        AdmissionControl::new(&config.server.limits, most, Arc::new(Traffic::new(1)))
    }

    fn peer(ip: &str, is_allowed: bool) -> Peer {
        let mut peer = Networks::default().judge(SocketAddr::new(ip.parse().unwrap(), 1));
        peer.is_allowed = is_allowed;
        peer
    }

    #[test]
    fn no_more_connections_are_admitted_than_configured_or_than_the_system_has() {
        for (lines, most, expected) in
            [("connections = 3", 100, 3), ("connections = 100", 3, 3), ("connections = 0", 3, 3)]
        {
            let admission = admission(lines, most);

            let mut admitted: Vec<_> =
                (0..10).map_while(|_| admission.admit(&peer("::1", true)).ok()).collect();

            assert_eq!(admitted.len(), expected, "{lines}");
            assert_eq!(admission.admit(&peer("::1", true)).unwrap_err(), Overload::Connections);
            admitted.pop();
            assert!(admission.admit(&peer("::1", true)).is_ok());
        }
    }

    #[test]
    fn a_connection_beyond_the_limit_of_its_address_takes_no_slot_from_others() {
        let admission = admission("connections_per_address = 2", 100);
        let held = [admission.admit(&peer("10.0.0.1", true)), admission.admit(&peer("10.0.0.1", true))];
        assert!(held.iter().all(Result::is_ok));

        assert_eq!(admission.admit(&peer("10.0.0.1", true)).unwrap_err(), Overload::ConnectionsOfAddress);
        assert_eq!(admission.all.taken(), 2, "a refused one holds no slot");
        assert!(admission.admit(&peer("10.0.0.2", true)).is_ok());

        drop(held);
        assert!(admission.admit(&peer("10.0.0.1", true)).is_ok());
    }

    #[test]
    fn the_addresses_of_an_ipv6_host_count_as_one() {
        let admission = admission("connections_per_address = 1", 100);
        let held = admission.admit(&peer("2001:db8:0:1::1", true));

        assert!(held.is_ok());
        assert!(admission.admit(&peer("2001:db8:0:1:ffff::2", true)).is_err());
        assert!(admission.admit(&peer("2001:db8:0:2::1", true)).is_ok());
    }

    #[test]
    fn addresses_without_a_connection_are_forgotten() {
        let admission = admission("connections_per_address = 1", 100);
        let stays = admission.admit(&peer("10.0.0.1", true));

        for number in 0..100_000_u32 {
            let ip = IpAddr::from((0x0b00_0000 + number).to_be_bytes()).to_string();
            assert!(admission.admit(&peer(&ip, true)).is_ok());
        }

        assert!(
            admission.per_address.borrow().as_ref().unwrap().slots.borrow().len() <= MIN_PRUNED_ADDRESSES
        );
        assert!(stays.is_ok() && admission.admit(&peer("10.0.0.1", true)).is_err());
    }

    #[test]
    fn peers_that_are_not_allowed_do_not_get_the_last_slots() {
        let admission = admission("connections = 8", 100);
        let strangers: Vec<_> =
            (0..8).map_while(|_| admission.admit(&peer("192.0.2.1", false)).ok()).collect();

        assert_eq!(strangers.len(), 6);
        assert!(admission.admit(&peer("10.0.0.1", true)).is_ok());
    }

    #[test]
    fn changed_limits_apply_to_new_connections_only() {
        let limits =
            |lines: &str| fixture::config(&format!("[server.limits]\n{lines}"), "", "x").server.limits;
        let admission = admission("connections = 4\nconnections_per_address = 3", 100);
        let mut held: Vec<_> = (0..3).map_while(|_| admission.admit(&peer("10.0.0.1", true)).ok()).collect();

        admission.change(&limits("connections = 3\nconnections_per_address = 2"), 100);
        assert_eq!(admission.admit(&peer("10.0.0.2", true)).unwrap_err(), Overload::Connections);
        held.pop();
        assert_eq!(admission.admit(&peer("10.0.0.1", true)).unwrap_err(), Overload::ConnectionsOfAddress);
        held.pop();
        assert!(admission.admit(&peer("10.0.0.1", true)).is_ok());

        admission.change(&limits("connections_per_address = 0"), 5);
        held.extend((0..10).map_while(|_| admission.admit(&peer("10.0.0.1", true)).ok()));
        assert_eq!(held.len(), 5);
    }
}
