//! The ends of callers' connections: unix sockets, and trusted proxies.

use std::ops::Range;
use std::os::unix::ffi::OsStrExt;

use ipnet::IpNet;

use super::Resolver;
use crate::config::model::listen::{Listen, MAX_UNIX_PATH};
use crate::config::source::key::Key;
use crate::config::source::schema::Texts;

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
}
