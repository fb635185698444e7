//! Which addresses a webhook may be delivered to. They are checked where the connection is made, after each look-up.
//!
//! | address | reached |
//! | --- | --- |
//! | public | always |
//! | loopback | if the URL itself names loopback |
//! | private and other special ones | with `allow_private` |
//! | link-local, unspecified, multicast | never |

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use url::{Host, Url};

use crate::config::model::endpoint::is_loopback;
use crate::network::is_public;

/// The addresses that a webhook may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reach {
    is_loopback: bool,
    allows_private: bool,
}

/// The receiver has no address that may be reached.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the address {0} is not public (`allow_private`), or never allowed")]
pub(super) struct NotReached(IpAddr);

impl Reach {
    /// The addresses of this URL.
    pub(super) fn of(url: &Url, allows_private: bool) -> Self {
        Self { is_loopback: is_loopback(url), allows_private }
    }

    /// Checks the address that a URL contains, which is never looked up.
    ///
    /// # Errors
    ///
    /// [`NotReached`].
    pub(super) fn check(self, url: &Url) -> Result<(), NotReached> {
        let address: IpAddr = match url.host() {
            Some(Host::Ipv4(address)) => address.into(),
            Some(Host::Ipv6(address)) => address.into(),
            _ => return Ok(()),
        };
        if self.allows(address) { Ok(()) } else { Err(NotReached(address)) }
    }

    fn allows(self, address: IpAddr) -> bool {
        let address = plain(address);
        if self.is_loopback || address.is_loopback() {
            return self.is_loopback && address.is_loopback();
        }
        is_public(address) || (self.allows_private && !is_never(address))
    }
}

/// The IPv4 address in an IPv6 address that stands for one (RFC 4291 §2.5.5.2, RFC 6052 §2.1).
fn plain(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => match address.segments() {
            [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
                let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
                Ipv4Addr::new(a, b, c, d).into()
            }
            _ => address.into(),
        },
        address @ IpAddr::V4(_) => address,
    }
}

fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            first == 0 || address.is_link_local() || address.is_multicast() || address.is_broadcast()
        }
        IpAddr::V6(address) => {
            address.is_unspecified() || address.is_unicast_link_local() || address.is_multicast()
        }
    }
}

/// Looks names up, and answers only addresses that may be reached.
#[derive(Debug)]
pub(super) struct Resolver(pub(super) Reach);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.0;
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            reached(reach, found)
        })
    }
}

fn reached(reach: Reach, found: Vec<SocketAddr>) -> Result<Addrs, Box<dyn Error + Send + Sync>> {
    let refused = found.iter().find(|address| !reach.allows(address.ip())).map(SocketAddr::ip);
    let reached: Vec<_> = found.into_iter().filter(|address| reach.allows(address.ip())).collect();
    match refused {
        Some(refused) if reached.is_empty() => Err(NotReached(refused).into()),
        _ => Ok(Box::new(reached.into_iter())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reach(url: &str, allows_private: bool) -> Reach {
        Reach::of(&Url::parse(url).unwrap(), allows_private)
    }

    #[test]
    fn only_public_addresses_are_reached_unless_private_ones_are_allowed() {
        let (public, private) = (reach("https://a.example.com", false), reach("https://a.example.com", true));
        let loopback = reach("http://127.0.0.1:1", false);
        for (address, is_public, is_private, is_loopback) in [
            ("1.1.1.1", true, true, false),
            ("2606:4700::1111", true, true, false),
            ("10.0.0.1", false, true, false),
            ("192.168.1.1", false, true, false),
            ("fd00::1", false, true, false),
            ("::ffff:10.0.0.1", false, true, false),
            ("100.64.0.1", false, true, false),
            ("127.0.0.1", false, false, true),
            ("::1", false, false, true),
            ("::ffff:127.0.0.1", false, false, true),
            ("64:ff9b::7f00:1", false, false, true),
            ("169.254.169.254", false, false, false),
            ("::ffff:169.254.169.254", false, false, false),
            ("64:ff9b::a9fe:a9fe", false, false, false),
            ("fe80::1", false, false, false),
            ("0.0.0.0", false, false, false),
            ("::", false, false, false),
            ("224.0.0.1", false, false, false),
            ("255.255.255.255", false, false, false),
            ("ff02::1", false, false, false),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            let allowed = [public.allows(ip), private.allows(ip), loopback.allows(ip)];
            assert_eq!(allowed, [is_public, is_private, is_loopback], "{address}");
        }
    }

    #[test]
    fn an_address_in_the_url_is_checked_too() {
        for (url, allows_private, is_reached) in [
            ("https://10.0.0.1/x", false, false),
            ("https://10.0.0.1/x", true, true),
            ("https://169.254.169.254/x", true, false),
            ("https://[fe80::1]/x", true, false),
            ("https://2130706433/x", false, true),
            ("http://127.0.0.1/x", false, true),
            ("https://1.1.1.1/x", false, true),
        ] {
            let parsed = Url::parse(url).unwrap();
            assert_eq!(Reach::of(&parsed, allows_private).check(&parsed).is_ok(), is_reached, "{url}");
        }
    }

    /// A name whose second look-up answers another address (DNS rebinding).
    #[test]
    fn every_look_up_is_checked() {
        let look_up = |addresses: &[&str]| {
            let found =
                addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 0)).collect();
            reached(reach("https://a.example.com", false), found)
                .map(|found| found.map(|address| address.ip().to_string()).collect::<Vec<_>>())
                .map_err(|error| error.to_string())
        };
        assert_eq!(look_up(&["1.1.1.1"]).unwrap(), ["1.1.1.1"]);
        assert!(look_up(&["127.0.0.1"]).unwrap_err().contains("127.0.0.1"));
        assert_eq!(look_up(&["10.0.0.1", "1.1.1.1"]).unwrap(), ["1.1.1.1"]);
        assert!(look_up(&["10.0.0.1", "169.254.169.254"]).is_err());
    }

    #[tokio::test]
    async fn a_name_of_loopback_is_not_reached() {
        let answer = |reach| Resolver(reach).resolve("localhost".parse().unwrap());
        assert!(answer(reach("https://a.example.com", true)).await.is_err());
        assert!(answer(reach("http://localhost:1", false)).await.is_ok());
    }
}
