//! `[routes.headers]`: changes to the header fields of requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use toml::Spanned;

use super::Resolver;
use crate::config::model::credential::Credential;
use crate::config::model::fields::{Fields, is_for_proxies, is_override, is_protected, is_same_field};
use crate::config::model::route::Rules;
use crate::config::source::key::Key;
use crate::config::source::reader::Table;
use crate::config::source::schema::{self, Texts, TextsByName};

impl Resolver<'_> {
    /// The changes of a route with these rules, and those of its credential's provider.
    pub(super) fn fields(
        &mut self,
        headers: Key<schema::Headers>,
        rules: &Rules,
        credential: Option<&Arc<Credential>>,
        token_field: &HeaderName,
    ) -> Fields {
        let headers = schema::Headers::of(headers);
        self.keep_token_field(&headers, token_field);
        let mut changed = BTreeSet::new();
        let set = self.set_fields(headers.set, &mut changed);
        let mut set_if_absent = self.set_fields(headers.set_if_absent, &mut changed);
        let remove = self.removed_fields(headers.remove, &mut changed);
        let has_rules = rules.allow.is_some()
            || !rules.deny.is_empty()
            || credential.is_some_and(|credential| !credential.protected.is_empty());
        let pass = self.passed_fields(headers.pass, has_rules);
        let of_provider = credential.into_iter().flat_map(|credential| &credential.set_if_absent);
        // The route's own changes take precedence.
        set_if_absent.extend(of_provider.filter(|(name, _)| !changed.contains(name.as_str())).cloned());
        Fields { pass, remove, set_if_absent, set }
    }

    /// Reports changes to the field that carries the token, unless no route may change that field.
    fn keep_token_field(&mut self, headers: &schema::Headers, token_field: &HeaderName) {
        if is_protected(token_field) {
            return;
        }
        // Of other fields, `pass` is refused in any case.
        let passed = headers.pass.usable().filter(|_| is_for_proxies(token_field));
        let texts = headers.remove.usable().into_iter().chain(passed).flat_map(Spanned::get_ref).flatten();
        let maps = [&headers.set, &headers.set_if_absent].into_iter().filter_map(Key::usable);
        let names = texts.chain(maps.flat_map(|map| map.get_ref().keys()));
        let is_same = |name: &&Spanned<String>| is_same_field(name.get_ref(), token_field.as_str());
        let places: Vec<_> = names.filter(is_same).map(Spanned::span).collect();
        for place in places {
            let title = format!("`{token_field}` carries the token");
            self.error(place, title, "remove the field here, or change `token_field`");
        }
    }

    fn set_fields(
        &mut self,
        fields: Key<TextsByName>,
        changed: &mut BTreeSet<String>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut usable = Vec::new();
        for (name, value) in fields.or_default() {
            let name = self.changed_field(&name, changed);
            let Some(value) = value else { continue };
            let text = value.get_ref();
            // A field value has no white space at its ends (RFC 9110 §5.5).
            let is_trimmed = !text.is_empty() && text.trim() == text;
            match HeaderValue::from_str(text).ok().filter(|_| is_trimmed) {
                Some(mut value) => {
                    // The value may be a secret of the upstream: sensitive values are not printed.
                    value.set_sensitive(true);
                    usable.extend(name.map(|name| (name, value)));
                }
                None => self.error(
                    value.span(),
                    "not the value of a header field",
                    "write one line of text without blanks at its ends; to remove a field, use `remove`",
                ),
            }
        }
        usable
    }

    fn removed_fields(&mut self, names: Key<Texts>, changed: &mut BTreeSet<String>) -> Vec<HeaderName> {
        let mut usable = Vec::new();
        for name in names.or_default().into_iter().flatten() {
            let place = name.span();
            let Some(name) = self.changed_field(&name, changed) else { continue };
            if is_for_proxies(&name) {
                let title = format!("`{name}` is always removed unless `pass` names it");
                self.error(place, title, "take the field out of `remove`");
            }
            usable.push(name);
        }
        usable
    }

    /// A field that the route may change, and changes once.
    fn changed_field(
        &mut self,
        name: &Spanned<String>,
        changed: &mut BTreeSet<String>,
    ) -> Option<HeaderName> {
        let field = self.field_name(name)?;
        if is_protected(&field) {
            return self.refuse(
                name.span(),
                format!("a route cannot change `{field}`"),
                "bearerd sets the fields for credentials, routing and framing: use `credential` for tokens and \
                 `upstream` for the host",
            );
        }
        if !changed.insert(field.as_str().to_owned()) {
            let help = "write the field once, in one of `set`, `set_if_absent` and `remove`";
            self.error(name.span(), format!("`{field}` is changed twice"), help);
        }
        Some(field)
    }

    fn passed_fields(&mut self, names: Key<Texts>, has_rules: bool) -> Vec<HeaderName> {
        let mut usable = Vec::new();
        for name in names.or_default().into_iter().flatten() {
            let place = name.span();
            let Some(name) = self.field_name(&name) else { continue };
            let (title, help) = if is_protected(&name) {
                (format!("`{name}` is never forwarded"), "remove the field from `pass`")
            } else if !is_for_proxies(&name) {
                let help = "remove the field from `pass`, which is for X-Forwarded-*, Forwarded, X-Real-IP, \
                            X-Original-URL, X-Rewrite-URL, X-HTTP-Method-Override, X-HTTP-Method and \
                            X-Method-Override";
                (format!("`{name}` is always forwarded"), help)
            } else if is_override(&name) && has_rules {
                let help = "an upstream that obeys the field could execute a request that the rules of this route, or \
                            of its credential's provider, refuse: remove the field or the rules";
                (format!("`{name}` could bypass the rules"), help)
            } else {
                usable.push(name);
                continue;
            };
            self.error(place, title, help);
        }
        usable
    }

    pub(super) fn field_name(&mut self, name: &Spanned<String>) -> Option<HeaderName> {
        let parsed = HeaderName::try_from(name.get_ref().as_str()).ok();
        let help = "write one name per entry, as in a request, such as \"X-Forwarded-For\"";
        parsed
            .filter(|name| !name.as_str().contains('*'))
            .or_else(|| self.refuse(name.span(), "not the name of a header field", help))
    }
}

#[cfg(test)]
mod tests;
