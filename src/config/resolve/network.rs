//! `proxy`: the proxy in front of a token endpoint or an API.

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::Resolver;
use super::own_address::own_proxy_help;
use crate::config::model::credential::Proxy;
use crate::config::source::key::Key;

const HELP: &str =
    "write an http:// or https:// address, such as \"http://proxy.example.com:3128\", or \"\" for no proxy";

impl Resolver<'_> {
    /// The configured proxy, or else the environment's; none for plain http, which stays on loopback.
    ///
    /// `url_key` is the key with the URL that the proxy leads to.
    pub(super) fn proxy(&mut self, proxy: Key<String>, url_key: &str, is_http: bool) -> Option<Proxy> {
        let proxy = match proxy {
            Key::Absent if is_http => return None,
            Key::Absent => return self.proxy_of_environment(),
            Key::Refused => return None,
            Key::Written(proxy) => proxy,
        };
        if proxy.get_ref().is_empty() {
            return None;
        }
        if is_http {
            self.error(
                proxy.span(),
                "a proxy would see the credential in plain http://",
                format!("use an https:// `{url_key}`, or remove `proxy`"),
            );
        }
        let Some(url) = address(proxy.get_ref()) else {
            return self.refuse(proxy.span(), "not the address of a proxy", HELP);
        };
        self.refuse_own_proxy(&proxy, url.expose_secret());
        Some(Proxy { url, except: String::new() })
    }

    fn proxy_of_environment(&mut self) -> Option<Proxy> {
        self.refuse_if_not_text(["HTTPS_PROXY", "https_proxy"]);
        let (name, text) = self.first_of(["HTTPS_PROXY", "https_proxy"])?;
        let Some(url) = address(text) else {
            self.proxy_error(format!("{name} in the environment is not the address of a proxy"), HELP);
            return None;
        };
        if let Some(key) = self.own_key_of_url(url.expose_secret()) {
            let title = format!("{name} in the environment is this daemon's own `{key}`");
            self.proxy_error(title, &own_proxy_help(key));
        }
        self.refuse_if_not_text(["NO_PROXY", "no_proxy"]);
        let except = self.first_of(["NO_PROXY", "no_proxy"]).map_or("", |(_, except)| except);
        Some(Proxy { url, except: except.to_owned() })
    }

    /// Reports a variable that is set but cannot be read.
    fn refuse_if_not_text(&mut self, names: [&'static str; 2]) {
        for name in names.into_iter().filter(|name| self.environment.is_not_text(name)) {
            let title = format!("{name} in the environment is not UTF-8");
            self.proxy_error(title, "set the variable to text in UTF-8, or unset it");
        }
    }

    /// One report is enough for all users of a variable.
    fn proxy_error(&mut self, title: String, help: &str) {
        if self.problems.iter().all(|problem| problem.title != title) {
            self.error(None, title, help);
        }
    }

    fn first_of(&self, names: [&'static str; 2]) -> Option<(&'static str, &str)> {
        let found = names.into_iter().find_map(|name| Some((name, self.environment.get(name)?)));
        found.filter(|(_, text)| !text.is_empty())
    }
}

/// The URL of a proxy. A host and a port without a scheme are http.
fn address(text: &str) -> Option<SecretString> {
    let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let url = Url::parse(&text).ok()?;
    let is_address = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none();
    is_address.then(|| SecretString::from(text))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use secrecy::ExposeSecret;

    use crate::config::{Checked, Diagnostics, Environment, parse};

    fn read(scheme: &str, lines: &str, variables: [(&str, &str); 2]) -> Result<Checked, Box<Diagnostics>> {
        let [one, two] = variables;
        let environment = Environment::from([("SECRET", "x"), one, two]);
        let text = format!(
            "[credentials.c]\ntoken_url = \"{scheme}://localhost/token\"\nclient_id = \"i\"\n\
             client_secret = {{ env = \"SECRET\" }}\n{lines}\n\
             [[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\"\n"
        );
        parse(Path::new("proxy.toml"), text, &environment)
    }

    const NOTHING: [(&str, &str); 2] = [("A", ""), ("B", "")];
    const BOTH: [(&str, &str); 2] = [("HTTPS_PROXY", "proxy.test:3128"), ("no_proxy", "a.test,10.0.0.0/8")];

    #[test]
    fn a_configured_proxy_takes_precedence_over_the_environments() {
        let proxy = |scheme: &str, lines: &str, variables| {
            let proxy = read(scheme, lines, variables).unwrap().config.credentials[0].proxy.clone();
            proxy.map(|proxy| (proxy.url.expose_secret().to_owned(), proxy.except))
        };
        let own = "proxy = \"http://u:p@own.test:1\"";

        assert_eq!(proxy("https", "", NOTHING), None);
        assert_eq!(
            proxy("https", "", BOTH),
            Some(("http://proxy.test:3128".into(), "a.test,10.0.0.0/8".into()))
        );
        assert_eq!(proxy("https", own, BOTH), Some(("http://u:p@own.test:1".into(), String::new())));
        assert_eq!(proxy("https", "proxy = \"\"", BOTH), None);
        assert_eq!(proxy("http", "", BOTH), None);
    }

    #[test]
    fn an_api_has_a_configured_proxy_or_the_environments() {
        let route = |scheme: &str, lines: &str, variables| {
            let [one, two] = variables;
            let text =
                format!("[[routes]]\nupstream = \"{scheme}://localhost\"\ncredential = \"none\"\n{lines}\n");
            parse(Path::new("proxy.toml"), text, &Environment::from([one, two]))
        };
        let proxy = |scheme: &str, lines: &str, variables| {
            let proxy = route(scheme, lines, variables).unwrap().config.routes[0].upstream.proxy.clone();
            proxy.map(|proxy| (proxy.url.expose_secret().to_owned(), proxy.except))
        };
        let own = "proxy = \"https://u:p@own.test\"";

        assert_eq!(proxy("https", "", NOTHING), None);
        assert_eq!(
            proxy("https", "", BOTH),
            Some(("http://proxy.test:3128".into(), "a.test,10.0.0.0/8".into()))
        );
        assert_eq!(proxy("https", own, BOTH), Some(("https://u:p@own.test".into(), String::new())));
        assert_eq!(proxy("https", "proxy = \"\"", BOTH), None);
        assert_eq!(proxy("http", "", BOTH), None);
        let problems = route("http", own, NOTHING).unwrap_err().to_string();
        assert!(problems.contains("use an https:// `upstream`, or remove `proxy`"), "{problems}");
    }

    #[test]
    fn a_wrong_proxy_is_refused_without_showing_its_password() {
        for (scheme, lines, variables, title) in [
            ("https", "proxy = \"socks5://u:hunter2@p:1\"", NOTHING, "not the address of a proxy"),
            ("https", "proxy = \"http://u:hunter2@p:1/path\"", NOTHING, "not the address of a proxy"),
            ("http", "proxy = \"http://u:hunter2@p:1\"", NOTHING, "a proxy would see the credential"),
            (
                "https",
                "",
                [("https_proxy", "u:hunter2@p:x"), ("B", "")],
                "https_proxy in the environment is not",
            ),
        ] {
            let problems = read(scheme, lines, variables).unwrap_err();
            let [problem] = problems.problems() else { panic!("{problems}") };
            assert!(problem.title.starts_with(title), "{problems}");
            assert!(!problems.to_string().contains("hunter2"), "{problems}");
        }
        let good = read("https", "proxy = \"http://u:hunter2@p:1\"", NOTHING).unwrap();
        assert!(!format!("{good:?}").contains("hunter2"));
    }
}
