//! What a route does to the fields of its requests, in every spelling that a server may take for the same field.
//!
//! Servers behind CGI read `X_Foo` and `X.Foo` as `X-Foo`: a caller could evade `set` and `remove` by such a name.

use http::HeaderMap;
use http::header::{AUTHORIZATION, HeaderName};

use crate::config::model::fields::{Fields, is_plain, is_same_field};

/// The rules of a route for fields.
#[derive(Debug)]
pub struct FieldRules {
    changes: Fields,
    /// The field that carries the token: the caller's own never leaves.
    pub token_field: HeaderName,
    /// Whether `Via` is sent to the upstream.
    pub sends_via: bool,
    /// Whether a changed name has a character other than letters, digits and hyphens.
    has_odd_name: bool,
}

impl FieldRules {
    /// The rules of a route with these changes.
    pub fn new(changes: &Fields, sends_via: bool, token_field: &HeaderName) -> Self {
        let rules = Self {
            changes: changes.clone(),
            token_field: token_field.clone(),
            sends_via,
            has_odd_name: false,
        };
        let added = rules.changes.set_if_absent.iter().map(|(name, _)| name);
        let has_odd_name = rules.replaced().chain(added).any(|name| !is_plain(name.as_str()));
        Self { has_odd_name, ..rules }
    }

    /// The fields of which none of the caller's is forwarded.
    fn replaced(&self) -> impl Iterator<Item = &HeaderName> {
        let set = self.changes.set.iter().map(|(name, _)| name);
        self.changes.remove.iter().chain(set).chain(std::iter::once(&self.token_field))
    }

    /// Whether a field for proxies is forwarded.
    pub fn passes(&self, name: &HeaderName) -> bool {
        self.changes.pass.contains(name)
    }

    /// Removes, adds and sets fields. `has_odd_name` is whether a name of the request may be another spelling of a field.
    pub(super) fn apply(&self, headers: &mut HeaderMap, has_odd_name: bool) {
        let is_spelt = has_odd_name || self.has_odd_name;
        if is_spelt {
            self.remove_other_spellings(headers);
        }
        for name in &self.changes.remove {
            headers.remove(name);
        }
        for (name, value) in &self.changes.set_if_absent {
            let is_there = |headers: &HeaderMap| headers.keys().any(|other| is_same(name, other));
            if !(is_spelt && is_there(headers)) {
                headers.entry(name).or_insert_with(|| value.clone());
            }
        }
        for (name, value) in &self.changes.set {
            headers.insert(name, value.clone());
        }
    }

    /// Removes the caller's other spellings of fields that are replaced.
    fn remove_other_spellings(&self, headers: &mut HeaderMap) {
        let is_replaced = |name: &&HeaderName| self.replaced().any(|own| is_same(own, name));
        let unwanted: Vec<HeaderName> = headers.keys().filter(is_replaced).cloned().collect();
        for name in unwanted {
            headers.remove(name);
        }
    }
}

impl Default for FieldRules {
    fn default() -> Self {
        Self::new(&Fields::default(), false, &AUTHORIZATION)
    }
}

fn is_same(one: &HeaderName, other: &HeaderName) -> bool {
    is_same_field(one.as_str(), other.as_str())
}
