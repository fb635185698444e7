//! The keys of a credential that shape its token request and name what is in the answer.

use std::collections::{BTreeMap, BTreeSet};

use toml::Spanned;
use url::Url;

use super::Resolver;
use crate::config::model::request::{AnswerFields, RequestFormat, STANDARD, TokenParameters};
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema;
use crate::config::source::schema::{Texts, TextsByName};

impl Resolver<'_> {
    pub(super) fn token_parameters(&mut self, keys: &mut schema::Credential) -> TokenParameters {
        let audience = keys.audience.take().map(Spanned::into_inner).filter(|audience| !audience.is_empty());
        let resources = self.resources(keys.resource.take());
        let names = self.request_fields(keys.request_fields.take());
        let format = keys.request_format.take().map_or_else(RequestFormat::default, Spanned::into_inner);
        let parameters = TokenParameters { format, audience, resources, extra: BTreeMap::new(), names };
        let extra = self.extra(keys.extra.take(), &parameters);
        TokenParameters { extra, ..parameters }
    }

    fn resources(&mut self, resources: Key<Texts>) -> Vec<String> {
        let resources = resources.map(Spanned::into_inner).unwrap_or_default();
        for resource in &resources {
            let is_absolute = Url::parse(resource.get_ref()).is_ok_and(|url| url.fragment().is_none());
            if !is_absolute {
                self.problems.push(
                    Problem::error(resource.span(), "not a resource (RFC 8707 §2)").help(
                        "write an absolute URI without a fragment, such as \"https://api.example.com/\"",
                    ),
                );
            }
        }
        resources.into_iter().map(Spanned::into_inner).collect()
    }

    fn request_fields(&mut self, fields: Key<TextsByName>) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        let fields = fields.map(Spanned::into_inner).unwrap_or_default();
        let renamed: BTreeSet<String> = fields.keys().map(|standard| standard.get_ref().clone()).collect();
        for (standard, name) in fields {
            if !STANDARD.contains(&standard.get_ref().as_str()) {
                self.problems.push(
                    Problem::error(standard.span(), "no parameter that a token request of ours could have")
                        .help(format!(
                            "what can be renamed, or left out with \"\", is: {}",
                            STANDARD.join(", ")
                        )),
                );
                continue;
            }
            let is_standard =
                STANDARD.contains(&name.get_ref().as_str()) && !renamed.contains(name.get_ref());
            let is_taken = !name.get_ref().is_empty()
                && (is_standard || names.values().any(|taken| taken == name.get_ref()));
            if is_taken {
                self.problems.push(
                    Problem::error(name.span(), "two parameters would have this name")
                        .help("a parameter is sent once: give each a name of its own"),
                );
            }
            names.insert(standard.into_inner(), name.into_inner());
        }
        names
    }

    fn extra(&mut self, extra: Key<TextsByName>, parameters: &TokenParameters) -> BTreeMap<String, String> {
        let extra = extra.map(Spanned::into_inner).unwrap_or_default();
        let mut good = BTreeMap::new();
        for (name, value) in extra {
            // A server may know one of these by this name only.
            let is_ours = match name.get_ref().as_str() {
                "audience" => parameters.audience.is_some(),
                "resource" => !parameters.resources.is_empty(),
                // Some servers want to see it at a refresh; beside a code it is the login's.
                "redirect_uri" => false,
                other => STANDARD.contains(&other),
            };
            let is_a_new_name = parameters.names.values().any(|new| new == name.get_ref());
            if is_ours || is_a_new_name {
                let help = if is_a_new_name {
                    "`request_fields` gives this name to another parameter"
                } else {
                    "write it as a key of the credential, which says what it is"
                };
                let title = "`extra` must not hold what the request has anyway";
                self.problems.push(Problem::error(name.span(), title).help(help));
            }
            good.insert(name.into_inner(), value.into_inner());
        }
        good
    }

    /// What is called what in the answer.
    pub(super) fn answer_fields(&mut self, fields: Key<schema::Fields>) -> AnswerFields {
        let default = AnswerFields::default();
        let Some(fields) = fields else { return default };
        let place = fields.span();
        let fields = fields.into_inner();
        let named = |name: Key<String>, default: String| name.map_or(default, Spanned::into_inner);
        let named = AnswerFields {
            access_token: named(fields.access_token, default.access_token),
            expires_in: named(fields.expires_in, default.expires_in),
            refresh_token: named(fields.refresh_token, default.refresh_token),
        };
        let all = [
            named.access_token.as_str(),
            named.expires_in.as_str(),
            named.refresh_token.as_str(),
            "token_type",
            "scope",
        ];
        let is_twice = all.iter().enumerate().any(|(at, name)| all[..at].contains(name));
        if is_twice || all.iter().any(|name| name.is_empty()) {
            self.problems.push(
                Problem::error(place, "two fields of an answer cannot have one name, and none can have none")
                    .help("write what the server calls them, such as { access_token = \"token\" }"),
            );
        }
        named
    }
}

#[cfg(test)]
mod tests;
