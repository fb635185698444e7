//! Resolves names and removes the addresses that must not be connected to.
//!
//! A discovered upstream must not be inside the local network. The check is on the resolved addresses, and connections
//! use exactly these addresses, so a second look-up cannot return others (DNS rebinding).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use thiserror::Error;
use tower_service::Service;

use crate::token::api_discovery::Reach;

/// The resolver of the system, with a restriction of the addresses.
#[derive(Clone, Debug)]
pub struct Resolver {
    system: GaiResolver,
    /// The addresses that may be connected to; `None` allows all.
    reach: Option<Reach>,
}

/// A name resolved only to addresses that must not be connected to.
#[derive(Debug, Error)]
#[error("the name leads to a private, loopback or otherwise special address")]
pub struct Prohibited;

impl Resolver {
    /// Returns only addresses within `reach`.
    pub fn new(reach: Option<Reach>) -> Self {
        Self { system: GaiResolver::new(), reach }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.system.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking_up = self.system.call(name);
        let reach = self.reach;
        Box::pin(async move { within(reach, looking_up.await?.collect()).map(Vec::into_iter) })
    }
}

fn within(reach: Option<Reach>, mut addresses: Vec<SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let there_were_some = !addresses.is_empty();
    if let Some(reach) = reach {
        addresses.retain(|address| reach.allows(address.ip()));
    }
    if addresses.is_empty() && there_were_some {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, Prohibited));
    }
    Ok(addresses)
}

/// Whether the name of a connection resolved only to prohibited addresses.
pub fn is_prohibited(error: &io::Error) -> bool {
    error.get_ref().and_then(|error| error.downcast_ref::<Prohibited>()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_addresses_of_a_name_that_are_within_reach_are_used() {
        let addresses =
            |texts: &[&str]| -> Vec<SocketAddr> { texts.iter().map(|text| text.parse().unwrap()).collect() };
        let mixed = addresses(&["10.0.0.1:443", "8.8.8.8:443", "[::1]:443", "[fd00::1]:443"]);

        assert_eq!(within(None, mixed.clone()).unwrap(), mixed);
        assert_eq!(within(Some(Reach::Public), mixed.clone()).unwrap(), addresses(&["8.8.8.8:443"]));
        assert_eq!(within(Some(Reach::Loopback), mixed).unwrap(), addresses(&["[::1]:443"]));

        let inside = addresses(&["169.254.169.254:443", "[::ffff:127.0.0.1]:443"]);
        assert!(is_prohibited(&within(Some(Reach::Public), inside).unwrap_err()));
        assert!(within(Some(Reach::Public), Vec::new()).unwrap().is_empty());
    }
}
