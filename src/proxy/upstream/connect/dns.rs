//! Resolves names and removes the addresses that must not be connected to.
//!
//! A discovered upstream must not be inside the local network. The connections use exactly the resolved addresses that
//! were checked, so that a second look-up cannot return other addresses (DNS rebinding).

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
pub(super) struct Resolver {
    system: GaiResolver,
    /// The addresses that may be connected to; `None` allows all.
    reach: Option<Reach>,
}

/// Why a name has no address to connect to.
#[derive(Debug, Error)]
pub(super) enum Unresolved {
    /// The system found no address.
    #[error("the name does not resolve")]
    Failed(#[from] io::Error),
    /// No address of the name may be connected to.
    #[error("the name leads to a private, loopback or otherwise special address")]
    Prohibited,
}

impl Resolver {
    pub(super) fn new(reach: Option<Reach>) -> Self {
        Self { system: GaiResolver::new(), reach }
    }
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Unresolved;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Unresolved>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Unresolved>> {
        self.system.poll_ready(cx).map_err(Unresolved::Failed)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let looking_up = self.system.call(name);
        let reach = self.reach;
        Box::pin(async move { within(reach, looking_up.await?.collect()).map(Vec::into_iter) })
    }
}

fn within(reach: Option<Reach>, mut addresses: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Unresolved> {
    let there_were_some = !addresses.is_empty();
    if let Some(reach) = reach {
        addresses.retain(|address| reach.allows(address.ip()));
    }
    if addresses.is_empty() && there_were_some {
        return Err(Unresolved::Prohibited);
    }
    Ok(addresses)
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
        assert!(matches!(within(Some(Reach::Public), inside), Err(Unresolved::Prohibited)));
        assert!(within(Some(Reach::Public), Vec::new()).unwrap().is_empty());
    }
}
