//! `[callers.NAME]`: the applications that call, and `callers` of a route, which names them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::Resolver;
use crate::config::model::caller::{Caller, KeyHash, OTHER};
use crate::config::model::route::Admitted;
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::Key;
use crate::config::source::nearest::nearest;
use crate::config::source::schema::{self, Callers, Texts};

/// Prefixes of names as [`names`](crate::config::model::certificate::names) writes them.
const NAME_PREFIXES: [&str; 5] = ["CN=", "DNS:", "URI:", "email:", "IP:"];
/// The most callers: every key of a request is compared with the hashes of all.
const MAX_CALLERS: usize = 4096;
/// The largest `weight`.
const MAX_WEIGHT: u16 = 1000;

const CLIENT_CA_HELP: &str =
    "set `client_ca` in [server.tls]: the authorities that issue the callers' certificates";

/// What identifies the callers so far, each with its caller and its place.
#[derive(Default)]
struct Seen {
    networks: BTreeMap<IpNet, (String, Range<usize>)>,
    certificates: BTreeMap<String, (String, Range<usize>)>,
    keys: BTreeMap<KeyHash, (String, Range<usize>)>,
}

impl Resolver<'_> {
    /// The callers, in the order of their names. `keys_in_clear` is whether keys cross a network without TLS.
    pub(super) fn caller_table(&mut self, callers: Key<Callers>, keys_in_clear: bool) -> Vec<Caller> {
        self.caller_names = match &callers {
            Key::Refused => None,
            Key::Absent => Some(Vec::new()),
            Key::Written(callers) => {
                Some(callers.get_ref().0.keys().map(|name| name.get_ref().clone()).collect())
            }
        };
        let place = callers.place();
        let callers = callers.or_default().0;
        if callers.len() > MAX_CALLERS {
            self.error(place, format!("more than {MAX_CALLERS} callers"), "let applications share a caller");
        }
        let mut seen = Seen::default();
        let mut keys_place = None;
        let mut usable = Vec::new();
        for (name, caller) in callers {
            self.check_caller_name(&name);
            let Some(caller) = caller else { continue };
            let caller = caller.into_inner();
            let has_keys = caller.key_hash.usable().is_some_and(|keys| !keys.get_ref().is_empty());
            keys_place = keys_place.or(caller.key_hash.place().filter(|_| has_keys));
            usable.push(self.caller_entry(name, caller, &mut seen));
        }
        if let Some(place) = keys_place.filter(|_| keys_in_clear) {
            self.warning(
                place,
                "callers' keys cross the network in the clear",
                "add [server.tls] with `certificate` and `private_key`, unless something else encrypts the requests",
            );
        }
        usable
    }

    fn check_caller_name(&mut self, name: &Spanned<String>) {
        if !is_caller_name(name.get_ref()) {
            let title = "the name of a caller has only letters, digits, `-`, `_` and `.`, and begins with a letter or a \
                         digit";
            self.problems.push(Problem::error(name.span(), title));
        }
    }

    fn caller_entry(&mut self, name: Spanned<String>, caller: schema::Caller, seen: &mut Seen) -> Caller {
        let (place, name) = (name.span(), name.into_inner());
        let written = [&caller.networks, &caller.certificates, &caller.key_hash];
        let is_named = |key: &Key<Texts>| key.read_or(false, |texts| Some(!texts.get_ref().is_empty()));
        if let Some(first) = written.into_iter().find(|key| is_named(key) == Some(true)).and_then(Key::place)
            && name == OTHER
        {
            let help = "give the caller another name: [callers.other] has neither networks nor certificates nor keys";
            self.error(first, "`other` is whoever no other caller is", help);
        }
        if written.into_iter().all(|key| is_named(key) == Some(false)) && name != OTHER {
            let help = "write `networks`, `certificates` or `key_hash` (`bearerd keygen --caller` makes a key); all \
                        requests of no caller are those of [callers.other]";
            self.error(place, format!("nothing identifies the caller `{name}`"), help);
        }
        Caller {
            networks: self.networks_of_caller(&name, caller.networks, seen),
            certificates: self.certificates_of_caller(&name, caller.certificates, seen),
            keys: self.keys_of_caller(&name, caller.key_hash, seen),
            weight: self.weight(caller.weight),
            quota: self.caller_quota(caller.quota),
            name,
        }
    }

    fn networks_of_caller(&mut self, name: &str, texts: Key<Texts>, seen: &mut Seen) -> Vec<IpNet> {
        let mut networks = Vec::new();
        for text in texts.or_default().into_iter().flatten() {
            let place = text.span();
            for network in self.networks(vec![Some(text)]) {
                if network.prefix_len() == 0 {
                    let help = "name the networks of the application; all requests of no caller are those of \
                                [callers.other]";
                    self.warning(place.clone(), "every address is in this network", help);
                }
                let own = (name.to_owned(), place.clone());
                match seen.networks.insert(network, own) {
                    Some((other, at)) if other != name => {
                        self.refuse_second(
                            place.clone(),
                            at,
                            &other,
                            "network",
                            "a network is that of one caller",
                        );
                    }
                    _ => networks.push(network),
                }
            }
        }
        networks
    }

    fn certificates_of_caller(&mut self, name: &str, texts: Key<Texts>, seen: &mut Seen) -> Vec<String> {
        let Some(texts) = texts.into_usable() else { return Vec::new() };
        self.require_client_ca("certificates", &texts, |_| true);
        let mut certificates = Vec::new();
        for text in texts.into_inner().into_iter().flatten() {
            let Some(certificate) = self.certificate_name(&text) else { continue };
            let own = (name.to_owned(), text.span());
            match seen.certificates.insert(certificate.clone(), own) {
                Some((other, at)) if other != name => {
                    let help = "a name of a certificate is that of one caller";
                    self.refuse_second(text.span(), at, &other, "certificate", help);
                }
                _ => certificates.push(certificate),
            }
        }
        certificates
    }

    fn keys_of_caller(&mut self, name: &str, texts: Key<Texts>, seen: &mut Seen) -> Vec<KeyHash> {
        let mut keys = Vec::new();
        for text in texts.or_default().into_iter().flatten() {
            let Ok(hash) = text.get_ref().parse::<KeyHash>() else {
                let help = "write \"sha256:\" and 64 hex digits, as `bearerd keygen --caller` prints them with a new key";
                self.error(text.span(), "not the hash of a key", help);
                continue;
            };
            let own = (name.to_owned(), text.span());
            match seen.keys.insert(hash, own) {
                Some((other, at)) => {
                    let help =
                        "each key belongs to one caller, once: `bearerd keygen --caller` makes another";
                    self.refuse_second(text.span(), at, &other, "key", help);
                }
                None => keys.push(hash),
            }
        }
        keys
    }

    fn refuse_second(
        &mut self,
        place: Range<usize>,
        first: Range<usize>,
        owner: &str,
        what: &str,
        help: &str,
    ) {
        let title = format!("the caller `{owner}` has the same {what}");
        self.problems.push(Problem::error(place, title).and_at(first).help(help));
    }

    fn weight(&mut self, weight: Key<u16>) -> u16 {
        if let Some(wrong) = weight.usable().filter(|weight| !(1..=MAX_WEIGHT).contains(weight.get_ref())) {
            let title = format!("must be between 1 and {MAX_WEIGHT}");
            self.problems.push(Problem::error(wrong.span(), title));
        }
        weight.or(1)
    }

    /// The callers that may use a route.
    pub(super) fn admitted(&mut self, names: Key<Texts>) -> Admitted {
        let Some(names) = names.into_usable() else { return Admitted::default() };
        self.require_client_ca("callers", &names, |name| !is_caller_name(name));
        let mut admitted = Admitted::default();
        for name in names.into_inner().into_iter().flatten() {
            if is_caller_name(name.get_ref()) {
                admitted.named.extend(self.named_caller(name));
            } else {
                admitted.certificates.extend(self.certificate_name(&name));
            }
        }
        admitted
    }

    /// Reports the list of a key with names in client certificates, where callers show no certificates.
    fn require_client_ca(&mut self, key: &str, names: &Spanned<Texts>, is_concerned: impl Fn(&str) -> bool) {
        let mut texts = names.get_ref().iter().flatten();
        if texts.any(|name| is_concerned(name.get_ref())) && !self.asks_for_certificates {
            self.error(names.span(), format!("`{key}` needs client certificates"), CLIENT_CA_HELP);
        }
    }

    /// The name of a caller that a route admits.
    fn named_caller(&mut self, name: Spanned<String>) -> Option<String> {
        let known = self.caller_names.as_ref()?;
        let text = name.get_ref();
        if text == OTHER {
            let help = "remove the name: [callers.other] is whoever no other caller is";
            return self.refuse(name.span(), "a route cannot require that nobody knows its caller", help);
        }
        if known.contains(text) {
            return Some(name.into_inner());
        }
        let known: Vec<&str> = known.iter().map(String::as_str).filter(|name| *name != OTHER).collect();
        let help = match nearest(&known, text, |distance, _| distance <= 2) {
            Some(meant) => format!("did you mean \"{meant}\"?"),
            None if known.is_empty() => {
                format!(
                    "add [callers.{text}], or write a name of the client's certificate, such as \"CN={text}\""
                )
            }
            None => format!("write one of: {}; or a name of the client's certificate", known.join(", ")),
        };
        let title = format!("there is no caller `{text}`");
        self.refuse(name.span(), title, help)
    }

    /// A name as [`names`](crate::config::model::certificate::names) writes it.
    fn certificate_name(&mut self, name: &Spanned<String>) -> Option<String> {
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

/// Whether a text can be the name of a caller. No name in a certificate can.
fn is_caller_name(text: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    text.starts_with(|c: char| c.is_ascii_alphanumeric()) && text.chars().all(is_allowed)
}

#[cfg(test)]
mod tests;
