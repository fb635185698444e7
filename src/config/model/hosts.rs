//! Accepted values of `Host`.
//!
//! In a DNS rebinding attack, a browser sends the attacker's host name; the daemon refuses each name not listed here.

/// A set of host names without ports: exact names, `*.suffix`, or `*` for any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    any: bool,
    exact: Vec<String>,
    suffixes: Vec<String>,
}

impl Hosts {
    /// Adds a name, `*.suffix` or `*`.
    ///
    /// # Errors
    ///
    /// Says how a host name is written, if this is none.
    pub fn add(&mut self, host: &str) -> Result<(), String> {
        if host == "*" {
            self.any = true;
            return Ok(());
        }
        let host = as_sent(host);
        let name = host.strip_prefix("*.").unwrap_or(&host);
        if !is_host(name) {
            return Err("not a host name: write a name or address without scheme, port or path".to_owned());
        }
        if name.len() == host.len() {
            self.exact.push(host);
        } else {
            self.suffixes.push(host[1..].to_owned());
        }
        Ok(())
    }

    /// A host of the set: the first name, else one with the first suffix, else `localhost`.
    pub fn example(&self) -> String {
        let suffixed = || self.suffixes.first().map(|suffix| format!("host{suffix}"));
        self.exact.first().cloned().or_else(suffixed).unwrap_or_else(|| "localhost".to_owned())
    }

    /// Whether the set contains this host, given without a port. The comparison ignores case.
    pub fn contain(&self, host: &str) -> bool {
        self.any
            || self.exact.iter().any(|own| own.eq_ignore_ascii_case(host))
            || self.suffixes.iter().any(|suffix| {
                host.len() > suffix.len()
                    && host
                        .get(host.len() - suffix.len()..)
                        .is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            })
    }
}

/// A host as clients write it: in lower case, an IPv6 address in its short form (RFC 5952), a name without the dot at its
/// end that marks it as complete (RFC 1034 §3.1).
pub(in crate::config) fn as_sent(host: &str) -> String {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address.and_then(|address| address.parse::<std::net::Ipv6Addr>().ok()) {
        Some(address) => format!("[{address}]"),
        None => host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase(),
    }
}

/// Whether the text is a name, an IPv4 address or a bracketed IPv6 address, without port or path.
pub fn is_host(text: &str) -> bool {
    if let Some(address) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    !text.is_empty()
        && !text.starts_with(['.', '-'])
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(names: &[&str]) -> Hosts {
        let mut hosts = Hosts::default();
        for name in names {
            hosts.add(name).unwrap();
        }
        hosts
    }

    #[test]
    fn a_host_is_accepted_by_name_suffix_or_star() {
        let ours = hosts(&["localhost.", "[::1]", "*.example.com"]);

        for yes in ["localhost", "LOCALHOST", "[::1]", "api.example.com", "a.b.EXAMPLE.com"] {
            assert!(ours.contain(yes), "{yes}");
        }
        for no in ["localhost.evil.test", "example.com", "evilexample.com", "::1", "", ".example.com.evil"] {
            assert!(!ours.contain(no), "{no}");
        }
        assert!(hosts(&["*"]).contain("anything"));
    }

    #[test]
    fn the_example_of_a_set_is_one_of_its_hosts() {
        for (names, example) in [
            (&["*", "*.a.test", "b.test", "c.test"][..], "b.test"),
            (&["*.a.test"], "host.a.test"),
            (&["*"], "localhost"),
        ] {
            assert_eq!(hosts(names).example(), example);
            assert!(hosts(names).contain(example));
        }
    }

    #[test]
    fn an_ipv6_address_is_accepted_as_clients_write_it() {
        let ours = hosts(&["[0:0:0:0:0:0:0:1]", "[2001:DB8::0:7]"]);

        assert!(ours.contain("[::1]") && ours.contain("[2001:db8::7]"));
        assert_eq!(as_sent("[::FFFF:10.0.0.1]"), "[::ffff:10.0.0.1]");
        assert_eq!(as_sent("API.Internal."), "api.internal");
    }

    #[test]
    fn a_text_with_more_than_a_host_is_refused() {
        for wrong in ["http://a", "a:80", "a/b", "", ".", "*.", "u@h", "a,b", "[::1", "[zz]", "a b"] {
            assert!(Hosts::default().add(wrong).is_err(), "{wrong}");
        }
    }
}
