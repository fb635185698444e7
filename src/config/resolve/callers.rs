//! Identification of callers: unix sockets, trusted proxies, and names of client certificates.

use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use ipnet::IpNet;
use toml::Spanned;

use super::Resolver;
use crate::config::model::listen::{Listen, MAX_UNIX_PATH};
use crate::config::source::key::Key;
use crate::config::source::schema::Texts;

/// Prefixes of names as [`names`](crate::config::model::certificate::names) writes them.
const NAME_PREFIXES: [&str; 5] = ["CN=", "DNS:", "URI:", "email:", "IP:"];

impl Resolver<'_> {
    pub(super) fn unix_socket(&mut self, path: &str, place: &Range<usize>) -> Option<Listen> {
        if path.is_empty() || path.starts_with('@') || path.contains('\0') || path.ends_with('/') {
            let help =
                "write a path in a folder of the daemon's own, such as \"unix:/run/bearerd/bearerd.sock\"";
            return self.refuse(place.clone(), "not the path of a unix socket", help);
        }
        let path = self.folder.join(path);
        let length = path.as_os_str().as_bytes().len();
        if length > MAX_UNIX_PATH {
            let title = format!("the path of the socket has {length} bytes");
            let help =
                format!("the system allows at most {MAX_UNIX_PATH} bytes: use a folder with a shorter path");
            return self.refuse(place.clone(), title, help);
        }
        Some(Listen::Unix(path))
    }

    pub(super) fn trusted_proxies(&mut self, texts: Key<Texts>) -> Vec<IpNet> {
        let Some(texts) = texts.into_usable() else { return Vec::new() };
        let place = texts.span();
        let networks = self.networks(texts.into_inner());
        if networks.iter().any(|network| network.prefix_len() == 0) {
            self.error(
                place,
                "every address would be a trusted proxy",
                "write the addresses of your own proxies: a trusted proxy can claim any caller address",
            );
        }
        networks
    }

    /// The certificate names that may use a route.
    pub(super) fn callers(&mut self, names: Key<Texts>) -> Vec<String> {
        let Some(names) = names.into_usable() else { return Vec::new() };
        if names.get_ref().iter().any(Option::is_some) && !self.asks_for_certificates {
            self.error(
                names.span(),
                "`callers` needs client certificates",
                "set `client_ca` in [server.tls]: the authorities that issue the callers' certificates",
            );
        }
        names.get_ref().iter().flatten().filter_map(|name| self.caller(name)).collect()
    }

    fn caller(&mut self, name: &Spanned<String>) -> Option<String> {
        let text = name.get_ref();
        let is_prefix = |prefix: &&str| text.len() > prefix.len() && text.starts_with(prefix);
        match NAME_PREFIXES.into_iter().find(is_prefix) {
            Some("DNS:") => Some(format!("DNS:{}", text[4..].to_ascii_lowercase())),
            Some("IP:") => match text[3..].parse::<IpAddr>() {
                // In the form in which a certificate's address is written.
                Ok(address) => Some(format!("IP:{address}")),
                Err(_) => self.refuse(
                    name.span(),
                    "not an IP address",
                    "write one address, such as \"IP:192.0.2.1\"",
                ),
            },
            Some(_) => Some(text.clone()),
            None => self.refuse(
                name.span(),
                "not a name of a certificate",
                "write a name of the certificate: \"CN=billing\", \"DNS:billing.internal\", \
                 \"URI:spiffe://example.org/billing\", \"email:…\" or \"IP:…\"",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Checked, Diagnostics, Environment, Listen, parse};

    fn read(server: &str, route: &str) -> Result<Checked, Box<Diagnostics>> {
        let text = format!(
            "[server]\n{server}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n{route}\n"
        );
        parse(Path::new("/etc/bearerd/proxy.toml"), text, &Environment::from([]))
    }

    fn refused(server: &str, route: &str) -> String {
        let problems = read(server, route).unwrap_err();
        let [problem] = problems.problems() else { panic!("{problems}") };
        assert!(problem.place.is_some() && problem.help.is_some(), "{problems}");
        problem.title.clone()
    }

    #[test]
    fn a_unix_socket_counts_as_local_and_needs_no_networks() {
        let config =
            read("listen = [\"unix:/run/b.sock\", \"unix:b.sock\", \"127.0.0.1:1\"]", "").unwrap().config;

        let unix = |path: &str| Listen::Unix(path.into());
        assert_eq!(config.server.listen[..2], [unix("/run/b.sock"), unix("/etc/bearerd/b.sock")]);
        assert_eq!(config.server.listen[0].to_string(), "unix:/run/b.sock");
    }

    #[test]
    fn a_wrong_path_of_a_socket_is_refused() {
        for wrong in ["unix:", "unix:@abstract", "unix:/run/"] {
            let line = format!("listen = \"{wrong}\"");
            assert_eq!(refused(&line, ""), "not the path of a unix socket", "{wrong}");
        }
        let longest = format!("listen = \"unix:/{}\"", "a".repeat(106));
        read(&longest, "").unwrap();
        assert_eq!(
            refused(&longest.replace("unix:/", "unix:/a"), ""),
            "the path of the socket has 108 bytes"
        );
    }

    #[test]
    fn a_network_of_trusted_proxies_is_not_everywhere() {
        let config = read("trusted_proxies = [\"10.0.0.7\", \"private\"]", "").unwrap().config;
        assert!(config.server.trusted_proxies.contains(&"10.0.0.7/32".parse().unwrap()));

        assert_eq!(refused("trusted_proxies = [\"::/0\"]", ""), "every address would be a trusted proxy");
        assert_eq!(refused("trusted_proxies = [\"proxy.test\"]", ""), "not a network");
    }

    #[test]
    fn callers_are_names_of_certificates_and_need_an_authority() {
        assert_eq!(refused("", "callers = [\"CN=billing\"]"), "`callers` needs client certificates");
        assert!(read("", "callers = []").unwrap().config.routes[0].callers.is_empty());
    }
}
