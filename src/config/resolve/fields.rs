//! `[routes.headers]`: what a route does with the fields of its requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use toml::Spanned;

use super::Resolver;
use crate::config::model::credential::Credential;
use crate::config::model::fields::Fields;
use crate::config::model::fields::{is_for_proxies, is_override, is_protected};
use crate::config::model::route::Rules;
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema;
use crate::config::source::schema::{Texts, TextsByName};

impl Resolver<'_> {
    /// What is done with fields on a route with these rules, and what its credential's provider adds.
    pub(super) fn fields(
        &mut self,
        headers: Key<schema::Headers>,
        rules: &Rules,
        credential: Option<&Arc<Credential>>,
    ) -> Fields {
        let headers = headers.map(Spanned::into_inner).unwrap_or_default();
        let mut decided = BTreeSet::new();
        let set = self.valued(headers.set, &mut decided);
        let mut set_if_absent = self.valued(headers.set_if_absent, &mut decided);
        let remove = self.removed(headers.remove, &mut decided);
        let has_rules = rules.allow.is_some()
            || !rules.deny.is_empty()
            || credential.is_some_and(|credential| !credential.protected.is_empty());
        let pass = self.passed(headers.pass, has_rules);
        let known = credential.into_iter().flat_map(|credential| &credential.set_if_absent);
        // Whatever the route itself says of a field holds.
        set_if_absent.extend(known.filter(|(name, _)| !decided.contains(name.as_str())).cloned());
        Fields { pass, remove, set_if_absent, set }
    }

    fn valued(
        &mut self,
        fields: Key<TextsByName>,
        decided: &mut BTreeSet<String>,
    ) -> Vec<(HeaderName, HeaderValue)> {
        let mut good = Vec::new();
        for (name, value) in fields.map(Spanned::into_inner).unwrap_or_default() {
            let name = self.field(&name, decided);
            let text = value.get_ref();
            // The grammar takes blanks at the ends, and no receiver does (RFC 9110 §5.5).
            let is_whole = !text.is_empty() && text.trim() == text;
            match HeaderValue::from_str(text).ok().filter(|_| is_whole) {
                Some(mut value) => {
                    // Nobody but the upstream knows what it is.
                    value.set_sensitive(true);
                    good.extend(name.map(|name| (name, value)));
                }
                None => self.problems.push(Problem::error(value.span(), "not the value of a field").help(
                    "a line of text, without blanks at its ends; to take a field out there is `remove`",
                )),
            }
        }
        good
    }

    fn removed(&mut self, names: Key<Texts>, decided: &mut BTreeSet<String>) -> Vec<HeaderName> {
        let mut good = Vec::new();
        for name in names.map(Spanned::into_inner).unwrap_or_default() {
            let place = name.span();
            let Some(name) = self.field(&name, decided) else { continue };
            if is_for_proxies(&name) {
                self.problems.push(
                    Problem::error(place, format!("`{name}` is taken out anyway"))
                        .help("take it out of `remove`; with `pass` it would be let through"),
                );
            }
            good.push(name);
        }
        good
    }

    /// A field that a route may decide, and decides once.
    fn field(&mut self, name: &Spanned<String>, decided: &mut BTreeSet<String>) -> Option<HeaderName> {
        let field = self.field_name(name)?;
        if is_protected(&field) {
            self.problems.push(
                Problem::error(name.span(), format!("`{field}` is not for a route to change")).help(
                    "who asks, where, and where a message ends is bearerd's business: tokens come from `credential`, \
                     the host from `upstream`",
                ),
            );
            return None;
        }
        if !decided.insert(field.as_str().to_owned()) {
            self.problems.push(
                Problem::error(name.span(), format!("`{field}` is decided twice"))
                    .help("write it in one of `set`, `set_if_absent` and `remove`, once"),
            );
        }
        Some(field)
    }

    fn passed(&mut self, names: Key<Texts>, has_rules: bool) -> Vec<HeaderName> {
        let mut good = Vec::new();
        for name in names.map(Spanned::into_inner).unwrap_or_default() {
            let place = name.span();
            let Some(name) = self.field_name(&name) else { continue };
            let (title, help) = if is_protected(&name) {
                (format!("`{name}` is never passed on"), "take it out")
            } else if !is_for_proxies(&name) {
                let help = "take it out; what is dropped is X-Forwarded-*, Forwarded, X-Real-IP, X-Original-URL, \
                            X-Rewrite-URL, X-HTTP-Method-Override, X-HTTP-Method and X-Method-Override";
                (format!("`{name}` is passed on anyway"), help)
            } else if is_override(&name) && has_rules {
                let help = "an upstream that heeds it would do what a rule of this route, or of its credential's \
                            provider, keeps out: take out one or the other";
                (format!("`{name}` would be a way around the rules"), help)
            } else {
                good.push(name);
                continue;
            };
            self.problems.push(Problem::error(place, title).help(help));
        }
        good
    }

    fn field_name(&mut self, name: &Spanned<String>) -> Option<HeaderName> {
        let parsed = HeaderName::try_from(name.get_ref().as_str()).ok();
        let parsed = parsed.filter(|name| !name.as_str().contains('*'));
        if parsed.is_none() {
            self.problems.push(
                Problem::error(name.span(), "not the name of a header field")
                    .help("write it as requests have it, such as \"X-Forwarded-For\", each on its own"),
            );
        }
        parsed
    }
}

#[cfg(test)]
mod tests;
