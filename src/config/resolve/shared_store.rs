//! `[shared]`: the store through which replicas share tokens.

use std::time::Duration;

use toml::Spanned;
use url::Url;

use super::Resolver;
use crate::config::model::endpoint::is_loopback;
use crate::config::model::pem_file::{self, MAX_AUTHORITIES_BYTES};
use crate::config::model::shared_store::{Shared, WhenAway};
use crate::config::source::key::Key;
use crate::config::source::schema;

/// Whether this build can share.
const IS_BUILT: bool = cfg!(feature = "redis");
const OPERATION_TIMEOUT: Duration = Duration::from_millis(250);
const KEY: &str = "write 32 bytes in base64, as `bearerd keygen` does, the same in all replicas";
const URL: &str = "write \"rediss://HOST:6379/0\" for TLS, or \"redis://127.0.0.1:6379/0\"";

impl Resolver<'_> {
    /// The store; `None` without the section, or where it has an error.
    pub(super) fn shared(&mut self, keys: Key<schema::Shared>) -> Option<Shared> {
        let written = keys.into_usable()?;
        let (owner, keys) = (written.span(), written.into_inner());
        if !IS_BUILT {
            let help = "remove the section, or build bearerd with the feature `redis`";
            return self.refuse(owner, "this build of bearerd shares no tokens", help);
        }
        let url = self.required(&owner, "url", &keys.url, URL).cloned();
        let url = url.and_then(|text| self.store_url(&text, &keys.insecure));
        let key = self.required(&owner, "key", &keys.key, KEY).cloned();
        let key = key.and_then(|source| self.sealing_key(&source, KEY));
        let previous = keys.key_previous.into_usable().map(Spanned::into_inner);
        let previous = previous.iter().flat_map(|sources| sources.0.iter().flatten());
        let previous_keys = previous.filter_map(|source| self.sealing_key(source, KEY)).collect();
        let is_plain = url.as_ref().is_some_and(|url| url.scheme() == "redis");
        let (_, ca_file) = self.roots(&keys.ca_file, &Key::Absent, is_plain);
        let authorities = ca_file.and_then(|file| pem_file::read(&file.path, MAX_AUTHORITIES_BYTES).ok());
        let sentinels = self.sentinels(&keys.sentinels);
        let sentinel_master = keys.sentinel_master.usable().map(|name| name.get_ref().clone());
        let sentinel_master = sentinel_master.unwrap_or_default();
        // Nothing is concluded from a key that was refused.
        let has_sentinels = has(&keys.sentinels, |sentinels| !sentinels.is_empty());
        let has_master = has(&keys.sentinel_master, |name| !name.is_empty());
        if has_sentinels.zip(has_master).is_some_and(|(one, other)| one != other) {
            let place = keys.sentinels.place().or_else(|| keys.sentinel_master.place()).unwrap_or(owner);
            let help = "set both: the sentinels, and the name of the primary that they watch";
            self.error(place, "`sentinels` and `sentinel_master` belong together", help);
        }
        let operation_timeout = match keys.operation_timeout {
            Key::Absent => OPERATION_TIMEOUT,
            written => self.positive(written, 1),
        };
        Some(Shared {
            url: url?,
            username: keys.username.usable().map(|name| name.get_ref().clone()),
            password: keys.password.usable().and_then(|source| self.secret(source)),
            authorities,
            sentinels,
            sentinel_master,
            key: key?,
            previous_keys,
            prefix: keys.prefix.or("bearerd:".to_owned()),
            operation_timeout,
            expected_replicas: keys.expected_replicas.or_default(),
            when_away: keys.when_away.or(WhenAway::Stop),
        })
    }

    fn store_url(&mut self, text: &Spanned<String>, insecure: &Key<bool>) -> Option<Url> {
        let place = text.span();
        let Some(url) = Url::parse(text.get_ref()).ok().filter(|url| url.host().is_some()) else {
            return self.refuse(place, "not the address of a store", URL);
        };
        if !matches!(url.scheme(), "redis" | "rediss") || url.query().is_some() || url.fragment().is_some() {
            return self.refuse(place, "not the address of a store", URL);
        }
        if url.path().trim_matches('/').parse::<u32>().is_err() && !url.path().trim_matches('/').is_empty() {
            return self.refuse(
                place,
                "the path of the store's address is not the number of a database",
                URL,
            );
        }
        if !url.username().is_empty() || url.password().is_some() {
            let help = "set `username` and `password`; the password may be { file = \"…\" }";
            return self.refuse(place, "the store's address has a user or a password", help);
        }
        let is_allowed = insecure.usable().is_some_and(|insecure| *insecure.get_ref());
        if url.scheme() == "redis" && !is_loopback(&url) && !is_allowed {
            let help = "use rediss://, or set `insecure = true` where nobody else can read the network: what is shared is \
                        sealed, and the password of the store is not";
            return self.refuse(place, "the connection to the store is not encrypted", help);
        }
        Some(url)
    }

    fn sentinels(&mut self, written: &Key<schema::Texts>) -> Vec<(String, u16)> {
        let entries = written.usable().into_iter().flat_map(|texts| texts.get_ref().iter().flatten());
        let mut sentinels = Vec::new();
        for entry in entries {
            match host_and_port(entry.get_ref()) {
                Some(sentinel) => sentinels.push(sentinel),
                None => self.error(entry.span(), "not the address of a sentinel", "write \"HOST:26379\""),
            }
        }
        sentinels
    }
}

fn host_and_port(text: &str) -> Option<(String, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let is_host = !host.is_empty() && !host.contains('/');
    is_host.then_some(())?;
    Some((host.to_owned(), port.parse().ok()?))
}

/// Whether a key says something; `None` where it was refused.
fn has<T>(key: &Key<T>, says: impl Fn(&T) -> bool) -> Option<bool> {
    match key {
        Key::Absent => Some(false),
        Key::Refused => None,
        Key::Written(value) => Some(says(value.get_ref())),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Checked, Environment, parse};

    fn read(lines: &str) -> Result<Checked, String> {
        let text = format!(
            "[shared]\n{lines}\n[credentials.c]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"id\"\n\
             client_secret = {{ env = \"S\" }}\n[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"c\""
        );
        let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
        let environment = Environment::from([("S", "s"), ("KEY", key), ("SHORT", "YQ==")]);
        parse(Path::new("/etc/bearerd/proxy.toml"), text, &environment)
            .map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_store_needs_an_address_and_a_key() {
        let shared =
            read("url = \"rediss://redis\"\nkey = { env = \"KEY\" }").unwrap().config.shared.unwrap();
        assert_eq!((shared.prefix.as_str(), shared.operation_timeout.as_millis()), ("bearerd:", 250));
        for (lines, problem) in [
            ("", "`url`"),
            ("url = \"rediss://redis\"", "`key`"),
            ("url = \"rediss://redis\"\nkey = { env = \"SHORT\" }", "is not usable"),
            ("url = \"http://redis\"\nkey = { env = \"KEY\" }", "not the address of a store"),
            ("url = \"redis\"\nkey = { env = \"KEY\" }", "not the address of a store"),
            ("url = \"rediss://redis/x\"\nkey = { env = \"KEY\" }", "not the number of a database"),
            ("url = \"rediss://u:p@redis\"\nkey = { env = \"KEY\" }", "has a user or a password"),
            ("url = \"redis://redis\"\nkey = { env = \"KEY\" }", "is not encrypted"),
            ("url = \"rediss://redis\"\nkey = { env = \"KEY\" }\nsentinels = [\"a:1\"]", "belong together"),
            ("url = \"rediss://redis\"\nkey = { env = \"KEY\" }\nsentinel_master = \"m\"", "belong together"),
            (
                "url = \"rediss://r\"\nkey = { env = \"KEY\" }\nsentinel_master = \"m\"\nsentinels = [\"a\"]",
                "of a sentinel",
            ),
        ] {
            let problems = read(lines).unwrap_err();
            assert!(problems.contains(problem), "{lines}: {problems}");
        }
    }

    #[test]
    fn an_unencrypted_connection_stays_on_the_machine_unless_allowed() {
        for url in ["redis://127.0.0.1:6379/0", "redis://localhost", "redis://[::1]:6379"] {
            assert!(read(&format!("url = \"{url}\"\nkey = {{ env = \"KEY\" }}")).is_ok(), "{url}");
        }
        assert!(read("url = \"redis://redis\"\ninsecure = true\nkey = { env = \"KEY\" }").is_ok());
    }

    #[test]
    fn a_shared_grant_that_rotates_needs_no_state_file() {
        let credential = "[credentials.r]\ntoken_url = \"https://as.example.com/t\"\nclient_id = \"id\"\n\
                          client_secret = { env = \"S\" }\ngrant = \"refresh_token\"\nrefresh_token = { env = \"S\" }";
        let shared = "url = \"rediss://redis\"\nkey = { env = \"KEY\" }";
        assert!(read(&format!("{shared}\n{credential}")).is_ok());
    }
}
