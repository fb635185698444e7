//! Whether a caller's new connection is taken: how many there may be, in all and from one address.
//!
//! All of it is on the thread that accepts, but for the places themselves, which connections give back wherever
//! they end. Who finds no place is told so, if that costs next to nothing, and closed: the limit must not be a
//! way to exhaust us.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tracing::warn;

use super::slots::{Seat, Seats};
use crate::config::Limits;
use crate::network::client_network;
use crate::proxy::error::http1::plain;
use crate::proxy::error::{Overload, ProxyError};
use crate::proxy::peer::Peer;
use crate::telemetry::throttle::Throttle;

/// Callers that are told at once that there is no room; others are closed without a word.
pub const REFUSALS: usize = 16;
/// How long one of them has to send its request and to take the answer.
const REFUSAL_TIME: Duration = Duration::from_secs(1);
/// When the addresses are first looked through for such as have left.
const FEW: usize = 1024;

/// Gives out the places for callers' connections.
#[derive(Debug)]
pub struct Admission {
    all: Arc<Seats>,
    of_addresses: RefCell<Option<Addresses>>,
    refusals: Arc<Seats>,
    turned_away: Throttle,
}

/// A connection's place; given back when dropped.
#[derive(Debug, Default)]
pub struct Place {
    _of_all: Option<Seat>,
    _of_address: Option<Seat>,
}

/// The places of each address that has connections.
#[derive(Debug)]
struct Addresses {
    limit: usize,
    seats: RefCell<HashMap<IpAddr, Arc<Seats>>>,
    prune_at: Cell<usize>,
}

impl Admission {
    /// As many places as are configured, and no more than `most`.
    pub fn new(limits: &Limits, most: usize) -> Self {
        Self {
            all: Seats::new(places(limits, most)),
            of_addresses: RefCell::new(limits.connections_per_address.map(Addresses::new)),
            refusals: Seats::new(REFUSALS),
            turned_away: Throttle::default(),
        }
    }

    /// As many places as are configured now. Connections beyond that stay, and are not replaced; those that were there
    /// before there was a limit for an address are not counted.
    pub fn change(&self, limits: &Limits, most: usize) {
        self.all.resize(places(limits, most));
        let mut of_addresses = self.of_addresses.borrow_mut();
        match (&mut *of_addresses, limits.connections_per_address) {
            (Some(addresses), Some(limit)) => addresses.resize(limit),
            (before, limit) => *before = limit.map(Addresses::new),
        }
    }

    /// A place for a caller. Those that are refused anyway get none that others may need.
    ///
    /// # Errors
    ///
    /// Which limit is in the way.
    pub fn admit(&self, peer: &Peer) -> Result<Place, Overload> {
        if !peer.is_allowed && self.all.are_scarce() {
            return Err(Overload::Connections);
        }
        let of_all = self.all.take().ok_or(Overload::Connections)?;
        let of_address = match (&*self.of_addresses.borrow(), peer.ip()) {
            (Some(addresses), Some(ip)) => Some(addresses.take(ip).ok_or(Overload::ConnectionsOfAddress)?),
            // There is no limit, or no address behind a unix socket.
            _ => None,
        };
        Ok(Place { _of_all: Some(of_all), _of_address: of_address })
    }

    /// Closes a connection for which there is no place; says why, if not too many are being told already.
    ///
    /// It has to be called on a runtime of one thread, where the telling goes on.
    pub fn turn_away(&self, socket: std::net::TcpStream, overload: Overload) {
        self.tell(overload);
        if let Some(seat) = self.refusals.take()
            && let Ok(stream) = TcpStream::from_std(socket)
        {
            tokio::task::spawn_local(async move {
                let _ = tokio::time::timeout(REFUSAL_TIME, answer(stream, overload)).await;
                drop(seat);
            });
        }
    }

    /// Tells the log of a connection that was turned away.
    pub fn tell(&self, overload: Overload) {
        if let Some(count) = self.turned_away.happened() {
            warn!(count, reason = %overload, "connections were refused");
        }
    }
}

/// Answers a caller of HTTP/1. What speaks TLS or HTTP/2 is closed: its answer would cost a handshake.
async fn answer(mut stream: TcpStream, overload: Overload) {
    let mut first = [0; 4];
    if stream.read_exact(&mut first).await.is_err() || !first[0].is_ascii_uppercase() || first == *b"PRI " {
        return;
    }
    let refusal = plain(&ProxyError::Overloaded(overload));
    if stream.write_all(&refusal).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    // Closed with something unread, the connection would be reset, and the answer lost.
    let mut rest = [0; 4096];
    while stream.read(&mut rest).await.is_ok_and(|count| count > 0) {}
}

/// How many connections there may be in all.
fn places(limits: &Limits, most: usize) -> usize {
    limits.connections.map_or(most, |limit| limit.min(most))
}

impl Addresses {
    fn new(limit: usize) -> Self {
        Self { limit, seats: RefCell::default(), prune_at: Cell::new(FEW) }
    }

    fn resize(&mut self, limit: usize) {
        self.limit = limit;
        for seats in self.seats.borrow().values() {
            seats.resize(limit);
        }
    }

    fn take(&self, peer: IpAddr) -> Option<Seat> {
        let mut seats = self.seats.borrow_mut();
        if seats.len() >= self.prune_at.get() {
            seats.retain(|_, seats| seats.taken() > 0);
            self.prune_at.set(FEW.max(2 * seats.len()));
        }
        seats.entry(client_network(peer)).or_insert_with(|| Seats::new(self.limit)).take()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::fixture;
    use crate::proxy::peer::Networks;

    fn admission(lines: &str, most: usize) -> Admission {
        let config = fixture::config(&format!("[server.limits]\n{lines}"), "", "x");
        Admission::new(&config.server.limits, most)
    }

    fn peer(ip: &str, is_allowed: bool) -> Peer {
        let mut peer = Networks::default().judge(SocketAddr::new(ip.parse().unwrap(), 1));
        peer.is_allowed = is_allowed;
        peer
    }

    #[test]
    fn there_are_as_many_places_as_configured_and_as_the_system_has() {
        for (lines, most, expected) in
            [("connections = 3", 100, 3), ("connections = 100", 3, 3), ("connections = 0", 3, 3)]
        {
            let admission = admission(lines, most);

            let mut places: Vec<_> =
                (0..10).map_while(|_| admission.admit(&peer("::1", true)).ok()).collect();

            assert_eq!(places.len(), expected, "{lines}");
            assert_eq!(admission.admit(&peer("::1", true)).unwrap_err(), Overload::Connections);
            places.pop();
            assert!(admission.admit(&peer("::1", true)).is_ok());
        }
    }

    #[test]
    fn an_address_has_its_own_limit_and_takes_nothing_from_others() {
        let admission = admission("connections_per_address = 2", 100);
        let held = [admission.admit(&peer("10.0.0.1", true)), admission.admit(&peer("10.0.0.1", true))];
        assert!(held.iter().all(Result::is_ok));

        assert_eq!(admission.admit(&peer("10.0.0.1", true)).unwrap_err(), Overload::ConnectionsOfAddress);
        assert_eq!(admission.all.taken(), 2, "a refused one holds no place");
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
    fn addresses_that_have_left_are_forgotten() {
        let admission = admission("connections_per_address = 1", 100);
        let stays = admission.admit(&peer("10.0.0.1", true));

        for number in 0..100_000_u32 {
            let ip = IpAddr::from((0x0b00_0000 + number).to_be_bytes()).to_string();
            assert!(admission.admit(&peer(&ip, true)).is_ok());
        }

        assert!(admission.of_addresses.borrow().as_ref().unwrap().seats.borrow().len() <= FEW);
        assert!(stays.is_ok() && admission.admit(&peer("10.0.0.1", true)).is_err());
    }

    #[test]
    fn callers_that_are_not_allowed_do_not_get_the_last_places() {
        let admission = admission("connections = 8", 100);
        let strangers: Vec<_> =
            (0..8).map_while(|_| admission.admit(&peer("192.0.2.1", false)).ok()).collect();

        assert_eq!(strangers.len(), 6);
        assert!(admission.admit(&peer("10.0.0.1", true)).is_ok());
    }

    #[test]
    fn other_limits_count_for_connections_to_come_and_those_that_are_there_stay() {
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
