//! Refuses an address to connect to that is one of the daemon's own listeners.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use http::uri::Scheme;
use toml::Spanned;
use url::Url;

use super::Resolver;
use crate::config::model::listen::Listen;
use crate::config::model::login::RedirectUri;
use crate::config::model::route::Address;
use crate::config::source::schema;

impl Resolver<'_> {
    /// Remembers the addresses that a key listens on.
    pub(super) fn listens(&mut self, key: &'static str, addresses: impl IntoIterator<Item = Listen>) {
        let tcp = |address| match address {
            Listen::Tcp(address) if address.port() != 0 => Some((address, key)),
            Listen::Tcp(_) | Listen::Unix(_) => None,
        };
        self.own_addresses.extend(addresses.into_iter().filter_map(tcp));
    }

    /// Refuses an upstream to which only the daemon itself can answer: each request would come back to the daemon.
    pub(super) fn refuse_own_upstream(&mut self, place: &Range<usize>, upstream: &Address) {
        let Some(key) = self.own_key(upstream.authority.host(), port_of(upstream)) else { return };
        let title = format!("the upstream is this daemon's own `{key}`");
        let help =
            format!("write the address of the API, or change `{key}`: requests would go round in a circle");
        self.error(place.clone(), title, help);
    }

    /// Refuses endpoints of an authorization server at which only the daemon itself can answer: its login stub would
    /// give the daemon a token that no API knows.
    pub(super) fn refuse_own_endpoints(&mut self, file: &schema::Credential) {
        for (name, text) in
            [("token_url", &file.token_url), ("issuer", &file.issuer), ("authorize_url", &file.authorize_url)]
        {
            let Some(text) = text.usable() else { continue };
            let Some(key) = self.own_key_of_url(text.get_ref()) else { continue };
            let title = format!("`{name}` is this daemon's own `{key}`");
            let help = format!(
                "write the address of the authorization server, or change `{key}`: bearerd would send the request to \
                 itself"
            );
            self.error(text.span(), title, help);
        }
    }

    /// Refuses a redirect URI at which the daemon listens: `bearerd login` could not, and the daemon does not know the code
    /// that the browser brings.
    pub(super) fn refuse_own_redirect_uri(&mut self, redirect_uri: &RedirectUri, place: Range<usize>) {
        let listens = redirect_uri.listen().into_iter().find_map(|at| self.own_key_at(at.ip(), at.port()));
        // Without a port, http has any free one.
        let is_https = redirect_uri.as_str().starts_with("https:");
        let own = listens.or_else(|| self.own_key_of_url(redirect_uri.as_str()).filter(|_| is_https));
        if let Some(key) = own {
            let title = format!("`redirect_uri` is this daemon's own `{key}`");
            let help = format!(
                "write another port, such as \"http://127.0.0.1:8401/callback\", and register that URI at the \
                 authorization server, or change `{key}`: `bearerd login` listens there for the browser"
            );
            self.error(place, title, help);
        }
    }

    /// Refuses a forward proxy that is the daemon itself, which does not serve CONNECT.
    pub(super) fn refuse_own_proxy(&mut self, proxy: &Spanned<String>, url: &str) {
        if let Some(key) = self.own_key_of_url(url) {
            let title = format!("`proxy` is this daemon's own `{key}`");
            self.error(proxy.span(), title, own_proxy_help(key));
        }
    }

    /// The key that listens at a URL.
    pub(super) fn own_key_of_url(&self, url: &str) -> Option<&'static str> {
        let url = Url::parse(url).ok()?;
        self.own_key(url.host_str()?, url.port_or_known_default()?)
    }

    /// The key that listens at a host and port.
    fn own_key(&self, host: &str, port: u16) -> Option<&'static str> {
        self.own_key_at(ip_of(host)?, port)
    }

    fn own_key_at(&self, ip: IpAddr, port: u16) -> Option<&'static str> {
        let is_own =
            |(address, _): &&(SocketAddr, &str)| address.port() == port && is_reached(address.ip(), ip);
        self.own_addresses.iter().find(is_own).map(|(_, key)| *key)
    }
}

/// The remedy for a forward proxy that is the daemon itself.
pub(super) fn own_proxy_help(key: &str) -> String {
    format!("write the address of the forward proxy, or change `{key}`: bearerd is no forward proxy")
}

/// The port, also where it is the default of the scheme.
fn port_of(upstream: &Address) -> u16 {
    let default = if upstream.scheme == Scheme::HTTP { 80 } else { 443 };
    upstream.authority.port().map_or(default, |port| port.as_u16())
}

/// The address of a host that is an address or `localhost`.
fn ip_of(host: &str) -> Option<IpAddr> {
    let host = host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
    if host.eq_ignore_ascii_case("localhost") {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    host.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// Whether a connection to `ip` reaches a listener at `own`.
fn is_reached(own: IpAddr, ip: IpAddr) -> bool {
    let own = own.to_canonical();
    // `localhost`, 127.0.0.1 and ::1 stand for each other; a connection to an unspecified address reaches loopback.
    let is_here =
        |ip: IpAddr| ip.is_unspecified() || ip == Ipv4Addr::LOCALHOST || (ip.is_ipv6() && ip.is_loopback());
    own == ip || (is_here(own) && is_here(ip)) || (own.is_unspecified() && ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Environment, parse};

    /// The titles of the errors.
    fn errors(listen: &str, upstream: &str) -> Vec<String> {
        let text = format!(
            "[server]\nlisten = {listen}\nhosts = [\"gw\"]\nallow_from = [\"private\"]\n\
             [admin]\nlisten = \"127.0.0.1:9091\"\n\
             [[routes]]\nupstream = \"{upstream}\"\ncredential = \"none\"\n"
        );
        let checked = parse(Path::new("proxy.toml"), text, &Environment::from([]));
        let Err(problems) = checked else { return Vec::new() };
        let errors = problems.problems().iter();
        let errors =
            errors.filter(|problem| problem.help.as_ref().is_some_and(|help| help.contains("circle")));
        errors.map(|problem| problem.title.clone()).collect()
    }

    #[test]
    fn an_upstream_is_not_one_of_the_daemons_own_addresses() {
        for (listen, upstream) in [
            ("\"127.0.0.1:8080\"", "http://127.0.0.1:8080"),
            ("\"127.0.0.1:8080\"", "http://localhost:8080/api"),
            ("\"127.0.0.1:8080\"", "http://[::1]:8080"),
            ("\"127.0.0.1:8080\"", "https://0.0.0.0:8080"),
            ("\"[::1]:8080\"", "http://LOCALHOST:8080"),
            ("\"0.0.0.0:8080\"", "http://127.0.0.1:8080"),
            ("\"0.0.0.0:8080\"", "http://127.9.9.9:8080"),
            ("\"[::]:8080\"", "http://localhost:8080"),
            ("\"0.0.0.0:443\"", "https://localhost"),
            ("\"127.0.0.1:80\"", "http://localhost/"),
            ("\"10.0.0.5:8443\"", "https://10.0.0.5:8443"),
            ("[\"127.0.0.1:1\", \"unix:/run/b.sock\", \"127.0.0.1:8080\"]", "http://localhost:8080"),
        ] {
            let said = errors(listen, upstream);
            assert_eq!(said, ["the upstream is this daemon's own `server.listen`"], "{listen} {upstream}");
        }
        let said = errors("\"127.0.0.1:8080\"", "http://localhost:9091");
        assert_eq!(said, ["the upstream is this daemon's own `admin.listen`"]);
    }

    /// The problems of a credential and a route with these keys.
    fn titles(credential: &str, route: &str, variables: [(&str, &str); 1]) -> Vec<String> {
        let [variable] = variables;
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:7380\"\nstate_dir = \"/nowhere\"\n[admin]\nlisten = \"127.0.0.1:9091\"\n\
             [credentials.c]\nclient_id = \"i\"\nclient_secret = {{ env = \"S\" }}\n{credential}\n\
             [[routes]]\nupstream = \"https://api.test\"\ncredential = \"c\"\n{route}\n"
        );
        let environment = Environment::from([("S", "s"), ("KEY", KEY), variable]);
        let checked = parse(Path::new("proxy.toml"), text, &environment);
        let problems = checked.map_or_else(|problems| *problems, |checked| checked.warnings);
        problems.problems().iter().map(|problem| problem.title.clone()).collect()
    }

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    const URL: &str = "token_url = \"https://as.test/t\"";
    const NOTHING: [(&str, &str); 1] = [("A", "")];

    #[test]
    fn the_endpoints_and_proxies_of_a_credential_are_not_the_daemons_own_addresses() {
        let genesys = "provider = \"genesys\"\nregion = \"mypurecloud.de\"\ntoken_url = \"http://127.0.0.1:7380/oauth/token\"";
        let login = format!(
            "grant = \"authorization_code\"\nstate_key = {{ env = \"KEY\" }}\n{URL}\n\
             authorize_url = \"http://localhost:7380/authorize\""
        );
        for (credential, route, said) in [
            (genesys, "", "`token_url` is this daemon's own `server.listen`"),
            (
                "token_url = \"http://[::1]:9091/oauth/token\"",
                "",
                "`token_url` is this daemon's own `admin.listen`",
            ),
            (
                "issuer = \"http://localhost:7380/realms/a\"",
                "",
                "`issuer` is this daemon's own `server.listen`",
            ),
            (&login, "", "`authorize_url` is this daemon's own `server.listen`"),
            (
                &format!("{URL}\nproxy = \"localhost:7380\""),
                "",
                "`proxy` is this daemon's own `server.listen`",
            ),
            (URL, "proxy = \"http://u:p@127.0.0.1:7380\"", "`proxy` is this daemon's own `server.listen`"),
        ] {
            assert_eq!(titles(credential, route, NOTHING), [said], "{credential} {route}");
        }
        assert_eq!(
            titles(URL, "", [("HTTPS_PROXY", "http://127.0.0.1:7380")]),
            ["HTTPS_PROXY in the environment is this daemon's own `server.listen`"]
        );
        for credential in
            ["token_url = \"http://127.0.0.1:7381/oauth/token\"", "issuer = \"http://localhost\""]
        {
            assert_eq!(titles(credential, "proxy = \"\"", NOTHING), [""; 0], "{credential}");
        }
        let route = "proxy = \"http://127.0.0.1:3128\"";
        assert_eq!(titles(URL, route, [("HTTPS_PROXY", "http://127.0.0.1:7381")]), [""; 0]);
    }

    #[test]
    fn a_redirect_uri_is_not_one_of_the_daemons_own_addresses() {
        let login = |redirect_uri: &str| {
            let lines = format!(
                "grant = \"authorization_code\"\nstate_key = {{ env = \"KEY\" }}\n{URL}\n\
                 authorize_url = \"https://as.test/a\"\nredirect_uri = \"{redirect_uri}\""
            );
            titles(&lines, "", NOTHING)
        };
        for own in [
            "http://127.0.0.1:7380/callback",
            "http://localhost:7380/",
            "http://[::1]:7380/c",
            "https://127.0.0.1:7380/",
        ] {
            assert_eq!(login(own), ["`redirect_uri` is this daemon's own `server.listen`"], "{own}");
        }
        assert_eq!(login("http://127.0.0.1:9091/"), ["`redirect_uri` is this daemon's own `admin.listen`"]);
        for other in
            ["http://127.0.0.1:8400/callback", "http://127.0.0.1/callback", "https://app.test:7380/callback"]
        {
            assert_eq!(login(other), [""; 0], "{other}");
        }
        // The default of `redirect_uri` too.
        let text = "[server]\nlisten = \"127.0.0.1:8400\"\nstate_dir = \"/nowhere\"\n[credentials.c]\nclient_id = \"i\"\n\
             client_auth = \"none\"\nissuer = \"https://as.test\"\ngrant = \"authorization_code\"\n\
             state_key = { env = \"KEY\" }\n[[routes]]\nupstream = \"https://api.test\"\ncredential = \"c\"\n";
        let problems =
            parse(Path::new("proxy.toml"), text.to_owned(), &Environment::from([("KEY", KEY)])).unwrap_err();
        assert_eq!(problems.errors(), 1, "{problems}");
        assert!(problems.to_string().contains("127.0.0.1:8401/callback"), "{problems}");
    }

    /// Without a port, `bearerd login` uses any free one, also where the daemon listens at port 80.
    #[test]
    fn a_redirect_uri_without_a_port_is_at_no_listener() {
        let text = "[server]\nlisten = \"127.0.0.1:80\"\nstate_dir = \"/nowhere\"\n[credentials.c]\nclient_id = \"i\"\n\
                    client_auth = \"none\"\nissuer = \"https://as.test\"\ngrant = \"authorization_code\"\n\
                    state_key = { env = \"KEY\" }\nredirect_uri = \"http://127.0.0.1/callback\"\n\
                    [[routes]]\nupstream = \"https://api.test\"\ncredential = \"c\"\n";
        let read =
            |text: &str| parse(Path::new("proxy.toml"), text.to_owned(), &Environment::from([("KEY", KEY)]));
        assert!(read(text).is_ok());
        assert_eq!(read(&text.replace("127.0.0.1/", "127.0.0.1:80/")).unwrap_err().errors(), 1);
    }

    #[test]
    fn another_port_or_host_is_an_upstream() {
        for (listen, upstream) in [
            ("\"127.0.0.1:8080\"", "http://127.0.0.1:8081"),
            ("\"127.0.0.1:8080\"", "http://127.0.0.2:8080"),
            ("\"127.0.0.1:8080\"", "https://api.example.com:8080"),
            ("\"0.0.0.0:8080\"", "https://10.0.0.5:8080"),
            ("\"127.0.0.1:0\"", "http://127.0.0.1:80"),
            ("\"10.0.0.5:8443\"", "https://localhost:8443"),
            ("\"unix:/run/b.sock\"", "http://localhost:8080"),
        ] {
            assert_eq!(errors(listen, upstream), [""; 0], "{listen} {upstream}");
        }
    }
}
