//! `[[webhooks]]`: the receivers of events.

use std::collections::BTreeSet;
use std::ops::Range;

use secrecy::ExposeSecret;
use toml::Spanned;
use url::Url;

use super::{Resolver, with_cause};
use crate::config::model::endpoint::is_loopback;
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::model::webhook::{
    EventPattern, SAFE_KEY_BYTES, Webhook, WebhookFormat, WebhookUrl, key_bytes,
};
use crate::config::source::diagnostics::Place;
use crate::config::source::key::Key;
use crate::config::source::schema;
use crate::config::source::schema::Texts;

impl Resolver<'_> {
    /// The webhooks, as far as they are usable.
    pub(super) fn webhooks(&mut self, webhooks: Key<schema::Webhooks>) -> Vec<Webhook> {
        let mut names = BTreeSet::new();
        let mut usable = Vec::new();
        for webhook in webhooks.or_default().0.into_iter().flatten() {
            let place = webhook.span();
            let Some(webhook) = self.webhook(&place, webhook.into_inner()) else { continue };
            if !names.insert(webhook.name.clone()) {
                let help = "give each webhook a `name`: without one, it is named by the origin of its URL";
                self.error(place, "the same name as another webhook", help);
            }
            usable.push(webhook);
        }
        usable
    }

    fn webhook(&mut self, owner: &Range<usize>, keys: schema::Webhook) -> Option<Webhook> {
        let help =
            "write url = \"https://…\" or, if the URL is a secret, url = { file = \"/run/secrets/name\" }";
        let url = self.required(owner, "url", &keys.url, help).and_then(|url| self.webhook_url(url));
        let secrets =
            keys.secret.usable().into_iter().flat_map(|secrets| secrets.get_ref().0.iter().flatten());
        let secrets = secrets.filter_map(|source| self.webhook_secret(source)).collect();
        let events = keys.events.into_usable().map(|events| self.event_patterns(events));
        let is_http = url.as_ref().is_some_and(|url| url.scheme() == "http");
        let (roots, ca_file) = self.roots(&keys.ca_file, &Key::Absent, is_http);
        let timeout = self.positive(keys.timeout, 15);
        let text = |text: Key<String>| Some(text.or_default()).filter(|text| !text.is_empty());
        let url = WebhookUrl::new(url?);
        Some(Webhook {
            name: text(keys.name).unwrap_or_else(|| url.origin()),
            url,
            secrets,
            format: keys.format.or(WebhookFormat::Standard),
            events,
            tenant: text(keys.tenant),
            timeout,
            roots,
            ca_file,
            allows_private: keys.allow_private.or(false),
        })
    }

    /// The receiver: https, or http on loopback. No message has the URL, which may be a secret.
    fn webhook_url(&mut self, source: &Spanned<SecretSource>) -> Option<Url> {
        let text = match source.get_ref() {
            SecretSource::Plain(text) => text.clone(),
            other => match Secret::load(other, &self.folder, self.environment) {
                Ok(secret) => secret.initial().clone(),
                Err(error) => {
                    let help = "the daemon needs the URL to send events";
                    return self.refuse(source.span(), with_cause(&error), help);
                }
            },
        };
        let url = Url::parse(text.expose_secret().trim());
        let (title, help) = match url {
            Ok(url) if url.scheme() == "https" && url.has_host() => return Some(url),
            Ok(url) if url.scheme() == "http" && is_loopback(&url) => return Some(url),
            Ok(url) if url.scheme() == "http" => (
                "plain http:// would show the events to the network",
                "use https://; http:// is allowed for 127.0.0.1, [::1] and localhost only",
            ),
            _ => (
                "not the URL of a webhook",
                "write a whole URL, such as \"https://hooks.example.com/bearerd\"",
            ),
        };
        self.refuse(source.span(), title, help)
    }

    fn webhook_secret(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        let help = "write whsec_ and 24 to 64 random bytes in base64, as the receiver has it";
        let secret = self.secret_that(source, help, |secret| {
            let error = key_bytes(secret.initial()).err()?;
            Some(format!("{} is not usable: {error}", secret.place()))
        })?;
        if key_bytes(secret.initial()).is_ok_and(|key| key.len() < SAFE_KEY_BYTES) {
            let title = format!("{} is short for the secret of a webhook", secret.place());
            self.warning(source.span(), title, help);
        }
        Some(secret)
    }

    fn event_patterns(&mut self, patterns: Spanned<Texts>) -> Vec<EventPattern> {
        let place: Place = patterns.span().into();
        if patterns.get_ref().is_empty() {
            let help = "write events = [\"*\"] for all events, or remove the key for the default";
            self.error(place, "no events", help);
        }
        let read = patterns.into_inner().into_iter().flatten().map(|pattern| {
            let is_name = |text: &str| {
                !text.is_empty()
                    && text.bytes().all(|byte| byte.is_ascii_lowercase() || b"._*".contains(&byte))
            };
            if !is_name(pattern.get_ref()) {
                let help =
                    "write names of events such as \"token.refreshed\", or patterns such as \"credential.*\"";
                self.error(pattern.span(), "not the name of an event", help);
            }
            EventPattern::new(pattern.into_inner())
        });
        read.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crate::config::{Checked, Environment, parse};

    fn read(webhook: &str) -> Result<Checked, String> {
        let text = format!(
            "[[routes]]\nupstream = \"https://api.example.com\"\ncredential = \"none\"\n[[webhooks]]\n{webhook}"
        );
        let environment = Environment::from([
            ("URL", "https://hooks.example.com/T0/hunter2"),
            ("SECRET", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
            ("SHORT", "whsec_MDEyMzQ1Njc4OQ=="),
            ("WRONG", "hunter2 hunter2"),
        ]);
        let checked = parse(Path::new("/etc/bearerd/proxy.toml"), text, &environment);
        checked.map_err(|problems| problems.to_string())
    }

    #[test]
    fn a_url_is_https_or_http_on_loopback_and_never_shown() {
        for (url, origin) in [
            ("\"https://hooks.example.com/x?y\"", "https://hooks.example.com"),
            ("\"http://127.0.0.1:8000/x\"", "http://127.0.0.1:8000"),
            ("\"http://localhost/x\"", "http://localhost"),
            ("{ env = \"URL\" }", "https://hooks.example.com"),
        ] {
            let checked = read(&format!("url = {url}")).unwrap();
            assert_eq!(checked.config.webhooks[0].name, origin, "{url}");
            assert!(
                checked.warnings.problems().is_empty()
                    && !format!("{:?}", checked.config).contains("hunter2")
            );
        }
        for (url, said) in [
            ("http://hooks.example.com/hunter2", "plain http://"),
            ("ftp://hooks.example.com/hunter2", "not the URL of a webhook"),
            ("hunter2", "not the URL of a webhook"),
        ] {
            let problems = read(&format!("url = \"{url}\"")).unwrap_err();
            assert!(problems.contains(said) && !problems.contains("hunter2"), "{problems}");
        }
        assert!(read("name = \"x\"").unwrap_err().contains("`url` is missing"));
    }

    #[test]
    fn names_and_events_are_checked() {
        let url = "url = \"https://a.example.com\"";
        let twice = format!("{url}\n[[webhooks]]\n{url}/other");
        let twice = twice.replace("\"/other", "/other\"");
        assert!(read(&twice).unwrap_err().contains("the same name as another webhook"));
        assert!(read(&twice.replacen("url", "name = \"b\"\nurl", 1)).is_ok());
        for wrong in ["[]", "[\"\"]", "[\"Token\"]"] {
            assert!(read(&format!("{url}\nevents = {wrong}")).is_err(), "{wrong}");
        }
        let events = &read(&format!("{url}\nevents = [\"credential.*\"]")).unwrap().config.webhooks[0].events;
        assert!(events.as_ref().unwrap()[0].matches("credential.recovered"));
    }

    #[test]
    fn a_secret_is_one_of_standard_webhooks_or_a_list() {
        let secret = |secret| read(&format!("url = \"https://a.example.com\"\nsecret = {secret}"));
        assert_eq!(secret("{ env = \"SECRET\" }").unwrap().config.webhooks[0].secrets.len(), 1);
        let two = secret("[{ env = \"SECRET\" }, { env = \"SHORT\" }]").unwrap();
        assert_eq!(two.config.webhooks[0].secrets.len(), 2);
        assert!(two.warnings.to_string().contains("short for the secret of a webhook"));
        let problems = secret("{ env = \"WRONG\" }").unwrap_err();
        assert!(problems.contains("is not usable") && !problems.contains("hunter2"), "{problems}");
    }
}
