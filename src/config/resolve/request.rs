//! The keys of a credential for further request parameters, and for the member names of the response.

use std::collections::{BTreeMap, BTreeSet};

use http::HeaderName;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use secrecy::ExposeSecret;
use toml::Spanned;
use url::Url;

use super::{Resolver, with_cause};
use crate::config::model::fields::is_protected;
use crate::config::model::identity::RequestHeader;
use crate::config::model::request::{
    AnswerFields, ErrorCodes, MemberPath, STANDARD_PARAMETERS, TokenParameters,
};
use crate::config::model::secret::{Secret, SecretForm, SecretSource};
use crate::config::source::key::Key;
use crate::config::source::reader::Table;
use crate::config::source::schema::{self, SecretsByName, Texts, TextsByName};

/// A shorter value in the configuration itself, such as the number of a tenant, occurs in ordinary texts too.
const MIN_SECRET_CHARS: usize = 8;

impl Resolver<'_> {
    pub(super) fn token_parameters(&mut self, keys: &mut schema::Credential) -> TokenParameters {
        let audience = Some(keys.audience.take().or_default()).filter(|audience| !audience.is_empty());
        let is_resource = |uri: &str| Url::parse(uri).is_ok_and(|url| url.fragment().is_none());
        let help = "write an absolute URI without a fragment, such as \"https://api.example.com/\"";
        let resources = self.texts(keys.resource.take(), is_resource, "not a resource (RFC 8707 §2)", help);
        let names = self.request_fields(keys.request_fields.take());
        let format = keys.request_format.take().or_default();
        let parameters = TokenParameters { format, audience, resources, extra: BTreeMap::new(), names };
        let extra = self.extra(keys.extra.take(), &parameters);
        TokenParameters { extra, ..parameters }
    }

    /// New names by the standard names of parameters.
    fn request_fields(&mut self, fields: Key<TextsByName>) -> BTreeMap<String, String> {
        let mut names = BTreeMap::new();
        let fields = fields.or_default();
        let renamed: BTreeSet<String> = fields.keys().map(|standard| standard.get_ref().clone()).collect();
        for (standard, name) in fields {
            if !STANDARD_PARAMETERS.contains(&standard.get_ref().as_str()) {
                let known = STANDARD_PARAMETERS.join(", ");
                self.error(
                    standard.span(),
                    "token requests have no such parameter",
                    format!("you can rename, or leave out with \"\", one of: {known}"),
                );
                continue;
            }
            let Some(name) = name else { continue };
            let text = name.get_ref();
            let is_standard = STANDARD_PARAMETERS.contains(&text.as_str()) && !renamed.contains(text);
            let is_taken = is_standard || names.values().any(|taken| taken == text);
            if is_taken && !text.is_empty() {
                let help = "give each parameter a name of its own";
                self.error(name.span(), "two parameters would have this name", help);
            }
            names.insert(standard.into_inner(), name.into_inner());
        }
        names
    }

    fn extra(&mut self, extra: Key<TextsByName>, parameters: &TokenParameters) -> BTreeMap<String, String> {
        let extra = extra.or_default();
        for name in extra.keys() {
            let is_standard = match name.get_ref().as_str() {
                // Not every request has these, and a server may know them by these names only.
                "audience" => parameters.audience.is_some(),
                "resource" => !parameters.resources.is_empty(),
                // Some servers expect the redirect URI in a refresh; with a code, the login's takes precedence.
                "redirect_uri" => false,
                other => STANDARD_PARAMETERS.contains(&other),
            };
            let is_new_name = parameters.names.values().any(|new| new == name.get_ref());
            if is_standard || is_new_name {
                let help = if is_new_name {
                    "`request_fields` gives this name to another parameter"
                } else {
                    "set the parameter with its own key of the credential"
                };
                self.error(
                    name.span(),
                    "`extra` must not hold a parameter that the request has anyway",
                    help,
                );
            }
        }
        extra.into_iter().filter_map(|(name, value)| Some((name.into_inner(), value?.into_inner()))).collect()
    }

    /// The header fields of the token request. A value may stand in the configuration: not every field is a secret.
    pub(super) fn request_headers(&mut self, headers: Key<SecretsByName>) -> Vec<RequestHeader<Secret>> {
        let mut usable: Vec<RequestHeader<Secret>> = Vec::new();
        for (name, source) in headers.or_default() {
            let Some(field) = self.field_name(&name) else { continue };
            if is_reserved(&field) {
                let help = "bearerd sets the fields for credentials, connection and body: use `client_auth` to \
                            authenticate, and `request_format` for the type of the body";
                self.error(name.span(), format!("a token request cannot change `{field}`"), help);
                continue;
            }
            if usable.iter().any(|header| header.name == field) {
                let help = "write the field once: names have no upper and lower case";
                self.error(name.span(), format!("`{field}` is set twice"), help);
                continue;
            }
            let Some(value) = source.and_then(|source| self.field_value(&source)) else { continue };
            let is_long = value.initial().expose_secret().chars().count() >= MIN_SECRET_CHARS;
            let is_secret = !value.is_plain() || is_long;
            usable.push(RequestHeader { name: field, value, is_secret });
        }
        usable
    }

    fn field_value(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        let help =
            "write the value of one header field, or { env = \"NAME\" } or { file = \"/run/secrets/name\" }";
        if matches!(source.get_ref(), SecretSource::Environment(_) | SecretSource::File(_)) {
            return self
                .secret_as(source, SecretForm::FieldValue, help)
                .filter(|value| value.check_initial(SecretForm::FieldValue).is_ok());
        }
        let value = Secret::load(source.get_ref(), &self.folder, self.environment);
        match value.and_then(|value| value.check_initial(SecretForm::FieldValue).map(|()| value)) {
            Ok(value) => Some(value),
            Err(error) => self.refuse(source.span(), with_cause(&error), help),
        }
    }

    /// The places of the response's members.
    pub(super) fn answer_fields(&mut self, fields: Key<schema::Fields>) -> AnswerFields {
        let default = AnswerFields::default();
        let Some(fields) = fields.into_usable() else { return default };
        let place = fields.span();
        let fields = fields.into_inner();
        let access_token = self.member_path(&fields.access_token, &default.access_token);
        let expires_in = self.member_path(&fields.expires_in, &default.expires_in);
        let refresh_token = self.member_path(&fields.refresh_token, &default.refresh_token);
        let scope = self.member_path(&fields.scope, &default.scope);
        let known = [&access_token, &expires_in, &refresh_token, &scope].into_iter().flatten();
        let mut seen = BTreeSet::from(["token_type"]);
        if !known.map(MemberPath::as_str).all(|name| seen.insert(name)) {
            self.error(
                place,
                "the members of a response need distinct names",
                "write the server's names, such as { access_token = \"token\" }",
            );
        }
        AnswerFields {
            access_token: access_token.unwrap_or(default.access_token),
            expires_in: expires_in.unwrap_or(default.expires_in),
            refresh_token: refresh_token.unwrap_or(default.refresh_token),
            scope: scope.unwrap_or(default.scope),
        }
    }

    fn member_path(&mut self, path: &Key<String>, default: &MemberPath) -> Option<MemberPath> {
        path.read_or(default.clone(), |path| {
            let help = "write the name of a member, or the names that lead to a nested member, joined with dots: \
                        \"access_token\", \"data.access_token\"";
            let title = "not the path of a member: a name in the path is empty";
            path.get_ref().parse().ok().or_else(|| self.refuse(path.span(), title, help))
        })
    }

    /// The accepted values of `token_type`; `Bearer` without the key.
    pub(super) fn token_types(&mut self, types: Key<Texts>) -> Vec<String> {
        let Some(types) = types.into_usable() else { return vec!["Bearer".to_owned()] };
        let empty =
            types.get_ref().iter().flatten().find(|name| name.get_ref().is_empty()).map(Spanned::span);
        if let Some(place) = empty.or_else(|| types.get_ref().is_empty().then(|| types.span())) {
            self.error(
                place,
                "no type of tokens would be accepted",
                "write [\"Bearer\"] and other names that the server uses",
            );
        }
        types.into_inner().into_iter().flatten().map(Spanned::into_inner).collect()
    }

    /// Further error codes of the server. A code may have only one meaning.
    pub(super) fn error_codes(&mut self, errors: Key<schema::Errors>) -> ErrorCodes {
        let schema::Errors { dead, throttled, client, transient } = schema::Errors::of(errors);
        let mut seen = BTreeSet::new();
        let mut codes = |codes: Key<Texts>| {
            let mut list = Vec::new();
            for code in codes.or_default().into_iter().flatten() {
                if code.get_ref().is_empty() || !seen.insert(code.get_ref().to_ascii_lowercase()) {
                    let help = "write each of the server's error codes once, in one of the lists";
                    self.error(code.span(), "an error code has one meaning", help);
                }
                list.push(code.into_inner());
            }
            list
        };
        ErrorCodes {
            dead: codes(dead),
            throttled: codes(throttled),
            client: codes(client),
            transient: codes(transient),
        }
    }
}

/// Fields of a token request that the daemon sets itself, or that would make the response illegible.
fn is_reserved(name: &HeaderName) -> bool {
    is_protected(name) || [CONTENT_TYPE, CONTENT_ENCODING, ACCEPT_ENCODING].contains(name)
}

#[cfg(test)]
mod tests;
