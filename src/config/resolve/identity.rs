//! The keys of a credential that say who it is: client, authentication and grant, and which of them go together.

use std::ops::Range;

use secrecy::ExposeSecret;
use toml::Spanned;

use super::Resolver;
use crate::config::model::basic_encoding::BasicEncoding;
use crate::config::model::identity::{Assertion, ClientAuth, Grant, Identity};
use crate::config::model::secret::{Secret, SecretSource};
use crate::config::model::signing_key::{SigningAlgorithm, SigningKey};
use crate::config::source::diagnostics::Problem;
use crate::config::source::reader::Key;
use crate::config::source::schema;

/// What a subject token is unless it is said (RFC 8693 §3).
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";

/// What a credential asks with, and what it falls back on.
#[derive(Clone, Copy)]
struct Grants {
    grant: schema::Grant,
    fallback: Option<schema::Grant>,
}

impl Grants {
    fn have(self, grant: schema::Grant) -> bool {
        self.grant == grant || self.fallback == Some(grant)
    }
}

/// Where a credential stands, for what is missing from it.
#[derive(Clone, Copy)]
struct Place<'a> {
    name: &'a str,
    span: &'a Range<usize>,
}

impl Place<'_> {
    fn path(&self, key: &str) -> String {
        format!("credentials.{}.{key}", self.name)
    }
}

impl Resolver<'_> {
    /// The identity, if all of it is there and good.
    pub(super) fn identity(
        &mut self,
        name: &str,
        span: &Range<usize>,
        keys: &mut schema::Credential,
        audience: Option<String>,
    ) -> Option<Identity<Secret>> {
        let place = Place { name, span };
        let grant = keys.grant.as_ref().map_or(schema::Grant::ClientCredentials, |grant| *grant.get_ref());
        let auth = keys.client_auth.as_ref();
        let auth = auth.map_or(schema::ClientAuth::ClientSecretBasic, |auth| *auth.get_ref());
        let fallback = self.fallback(keys.fallback.take(), grant, &place.path("grant"));
        let grants = Grants { grant, fallback };
        self.refuse_what_does_not_fit(place, keys, grants, auth);
        let client_id =
            // A server that wants other names may know no clients.
            if keys.client_id.is_none() && keys.request_fields.is_some() && auth == schema::ClientAuth::None {
                Some(String::new())
            } else {
                self.client_id(place, keys.client_id.take())
            };
        let assertion = keys.assertion.take();
        let aud = assertion.as_ref().and_then(|assertion| assertion.get_ref().aud.as_ref());
        let audience = aud.map(|aud| aud.get_ref().clone()).or(audience);
        let needs_key = grants.have(schema::Grant::JwtBearer) || auth == schema::ClientAuth::PrivateKeyJwt;
        let assertion = if needs_key {
            self.assertion(place, assertion, client_id.as_deref(), audience.clone())
        } else {
            None
        };
        // A client speaks for itself, whatever the grant's JWT says.
        let of_client = assertion.clone().zip(client_id.clone());
        let of_client = of_client.map(|(assertion, subject)| Assertion { subject, ..assertion });
        let client_auth = self.client_auth(place, keys, auth, of_client, audience);
        let fallback = match fallback.map(|fallback| self.grant(place, keys, fallback, assertion.clone())) {
            // It lacks something, which is reported.
            Some(None) => None,
            fallback => Some(fallback.flatten()),
        };
        let grant = self.grant(place, keys, grant, assertion);
        let next = keys.client_secret_next.take().map(|source| self.secret(&source));
        Some(Identity {
            client_id: client_id?,
            client_auth: client_auth?,
            grant: grant?,
            fallback: fallback?,
            client_secret_next: next.flatten(),
        })
    }

    /// A key that nothing would act on is a slip: of the key, or of the grant or authentication.
    fn refuse_what_does_not_fit(
        &mut self,
        place: Place<'_>,
        keys: &schema::Credential,
        grants: Grants,
        auth: schema::ClientAuth,
    ) {
        use schema::ClientAuth::{ClientSecretBasic, ClientSecretJwt, ClientSecretPost, None, PrivateKeyJwt};
        use schema::Grant::{AuthorizationCode, JwtBearer, Password, RefreshToken, TokenExchange};
        let is_grant_known = !self.unusable.contains(&place.path("grant"));
        let is_auth_known = !self.unusable.contains(&place.path("client_auth"));
        let span = |key: Option<Range<usize>>, is_used: bool| key.filter(|_| !is_used);
        if is_grant_known {
            let is_password = grants.have(Password);
            let is_login = grants.have(AuthorizationCode);
            let is_refresh = grants.have(RefreshToken);
            let is_exchange = grants.have(TokenExchange);
            for (key, found, needed) in [
                ("username", span(keys.username.as_ref().map(Spanned::span), is_password), "password"),
                ("password", span(keys.password.as_ref().map(Spanned::span), is_password), "password"),
                (
                    "refresh_token",
                    span(keys.refresh_token.as_ref().map(Spanned::span), is_refresh),
                    "refresh_token",
                ),
                (
                    "max_rotations",
                    span(keys.max_rotations.as_ref().map(Spanned::span), is_refresh || is_login),
                    "refresh_token",
                ),
                (
                    "authorize_url",
                    span(keys.authorize_url.as_ref().map(Spanned::span), is_login),
                    "authorization_code",
                ),
                (
                    "redirect_uri",
                    span(keys.redirect_uri.as_ref().map(Spanned::span), is_login),
                    "authorization_code",
                ),
                (
                    "subject_token",
                    span(keys.subject_token.as_ref().map(Spanned::span), is_exchange),
                    "token_exchange",
                ),
                (
                    "subject_token_type",
                    span(keys.subject_token_type.as_ref().map(Spanned::span), is_exchange),
                    "token_exchange",
                ),
            ] {
                if let Some(found) = found {
                    self.problems.push(
                        Problem::error(found, format!("`{key}` is not used by this grant"))
                            .help(format!("set grant = \"{needed}\", or take it out")),
                    );
                }
            }
        }
        if is_auth_known {
            let has_secret = matches!(auth, ClientSecretBasic | ClientSecretPost | ClientSecretJwt);
            let secret = span(keys.client_secret.as_ref().map(Spanned::span), has_secret);
            let encoding = span(keys.basic_encoding.as_ref().map(Spanned::span), auth == ClientSecretBasic);
            let next = span(keys.client_secret_next.as_ref().map(Spanned::span), has_secret);
            let by_secret = "\"client_secret_basic\", \"client_secret_post\" or \"client_secret_jwt\"";
            for (key, found, needed) in [
                ("client_secret", secret, by_secret),
                ("client_secret_next", next, by_secret),
                ("basic_encoding", encoding, "\"client_secret_basic\""),
            ] {
                if let Some(found) = found {
                    self.problems.push(
                        Problem::error(found, format!("`{key}` is not used by this client authentication"))
                            .help(format!("set client_auth = {needed}, or take it out")),
                    );
                }
            }
        }
        let signs = matches!(auth, PrivateKeyJwt | ClientSecretJwt) || grants.have(JwtBearer);
        let assertion = keys.assertion.as_ref().filter(|_| is_grant_known && is_auth_known);
        if let Some(assertion) = assertion.filter(|_| !signs) {
            self.problems.push(
                Problem::error(
                    assertion.span(),
                    "`assertion` is used by neither grant nor client authentication",
                )
                .help("set client_auth = \"private_key_jwt\" or grant = \"jwt_bearer\", or take it out"),
            );
        } else if let Some(assertion) = assertion {
            self.refuse_parts_of_assertion(assertion.get_ref(), grants, auth);
        }
        let shows_nothing = auth == None && grants.have(schema::Grant::ClientCredentials);
        if shows_nothing && is_grant_known && keys.client_secret.is_none() {
            let place = keys.client_auth.as_ref().map(Spanned::span);
            self.problems.push(
                Problem::warning(place, "the client shows nothing but its id").help(
                    "a server that gives out tokens for that alone gives them to anybody (RFC 6749 §4.4)",
                ),
            );
        }
    }

    fn refuse_parts_of_assertion(
        &mut self,
        assertion: &schema::Assertion,
        grants: Grants,
        auth: schema::ClientAuth,
    ) {
        let is_jwt_bearer = grants.have(schema::Grant::JwtBearer);
        let has_key = is_jwt_bearer || auth == schema::ClientAuth::PrivateKeyJwt;
        let parts = [
            ("key", assertion.key.as_ref().map(Spanned::span), has_key),
            ("kid", assertion.kid.as_ref().map(Spanned::span), has_key),
            ("alg", assertion.alg.as_ref().map(Spanned::span), has_key),
            ("sub", assertion.sub.as_ref().map(Spanned::span), is_jwt_bearer),
        ];
        for (key, place, is_used) in parts {
            if let Some(place) = place.filter(|_| !is_used) {
                let needed = if key == "sub" {
                    "the `sub` of a client is its id; another is for grant = \"jwt_bearer\""
                } else {
                    "a \"client_secret_jwt\" is signed with the secret, HS256; a key is for \"private_key_jwt\""
                };
                self.problems.push(
                    Problem::error(place, format!("`{key}` of `assertion` is not used here")).help(needed),
                );
            }
        }
    }

    fn client_id(&mut self, place: Place<'_>, id: Key<String>) -> Option<String> {
        let help = "the id of the OAuth client, as the provider shows it";
        let Some(id) = id else {
            self.missing(&place.path("client_id"), place.span, help);
            return None;
        };
        if id.get_ref().is_empty() {
            self.problems.push(Problem::error(id.span(), "`client_id` is empty").help(help));
        }
        Some(id.into_inner())
    }

    fn client_auth(
        &mut self,
        place: Place<'_>,
        keys: &mut schema::Credential,
        auth: schema::ClientAuth,
        assertion: Option<Assertion<Secret>>,
        audience: Option<String>,
    ) -> Option<ClientAuth<Secret>> {
        let secret = keys.client_secret.take();
        let encoding = keys.basic_encoding.take().map_or(BasicEncoding::Raw, Spanned::into_inner);
        let mut secret = || self.required_secret(place, "client_secret", secret.as_ref());
        Some(match auth {
            schema::ClientAuth::ClientSecretBasic => ClientAuth::Basic { secret: secret()?, encoding },
            schema::ClientAuth::ClientSecretPost => ClientAuth::Post { secret: secret()? },
            schema::ClientAuth::ClientSecretJwt => {
                ClientAuth::SecretJwt { secret: secret()?, audience: audience? }
            }
            schema::ClientAuth::PrivateKeyJwt => ClientAuth::PrivateKeyJwt(assertion?),
            schema::ClientAuth::TlsClientAuth => {
                if keys.client_certificate.is_none() {
                    let path = place.path("client_certificate");
                    self.missing(
                        &path,
                        place.span,
                        "a PEM file with the client's certificate; its key is `client_key`",
                    );
                }
                ClientAuth::TlsClientAuth
            }
            schema::ClientAuth::None => ClientAuth::None,
        })
    }

    fn grant(
        &mut self,
        place: Place<'_>,
        keys: &mut schema::Credential,
        grant: schema::Grant,
        assertion: Option<Assertion<Secret>>,
    ) -> Option<Grant<Secret>> {
        match grant {
            schema::Grant::ClientCredentials => Some(Grant::ClientCredentials),
            schema::Grant::Password => {
                if keys.username.is_none() {
                    let help = "the name to get tokens for; at CXone the access key's id";
                    self.missing(&place.path("username"), place.span, help);
                }
                let password = self.required_secret(place, "password", keys.password.as_ref());
                Some(Grant::Password { username: keys.username.take()?.into_inner(), password: password? })
            }
            schema::Grant::JwtBearer => assertion.map(Grant::JwtBearer),
            schema::Grant::TokenExchange => {
                let subject_token = self.required_secret(place, "subject_token", keys.subject_token.as_ref());
                let kind = keys
                    .subject_token_type
                    .take()
                    .map_or_else(|| ACCESS_TOKEN.to_owned(), Spanned::into_inner);
                Some(Grant::TokenExchange { subject_token: subject_token?, subject_token_type: kind })
            }
            schema::Grant::RefreshToken => {
                let configured = keys.refresh_token.take().map(|source| self.secret(&source));
                match configured {
                    // It cannot be read, and is reported.
                    Some(None) => None,
                    configured => Some(Grant::RefreshToken(configured.flatten())),
                }
            }
            // The first is a login's, and in the state: another here would win over it.
            schema::Grant::AuthorizationCode => Some(Grant::RefreshToken(None)),
        }
    }

    fn assertion(
        &mut self,
        place: Place<'_>,
        assertion: Key<schema::Assertion>,
        client_id: Option<&str>,
        audience: Option<String>,
    ) -> Option<Assertion<Secret>> {
        const HELP: &str = "write assertion = { key = { file = \"/run/secrets/key.pem\" }, alg = \"RS256\" }";
        let Some(assertion) = assertion else {
            self.missing(&place.path("assertion"), place.span, HELP);
            return None;
        };
        let span = assertion.span();
        let assertion = assertion.into_inner();
        let algorithm = assertion.alg.map_or(SigningAlgorithm::Rs256, Spanned::into_inner);
        let Some(source) = assertion.key else {
            self.problems.push(Problem::error(span, "`assertion` lacks `key`, the private key").help(HELP));
            return None;
        };
        let key = self.secret(&source)?;
        if let Err(error) = SigningKey::from_pem(key.initial(), algorithm) {
            self.problems.push(
                Problem::error(source.span(), format!("{} is not usable: {error}", key.place())).help(
                    "`alg` says what the key is for: \"RS256\" an RSA key, \"ES256\" one on the curve P-256",
                ),
            );
        }
        let subject = assertion.sub.map(Spanned::into_inner).or_else(|| client_id.map(str::to_owned));
        let kid = assertion.kid.map(Spanned::into_inner);
        Some(Assertion { key, kid, algorithm, audience: audience?, subject: subject? })
    }

    fn required_secret(
        &mut self,
        place: Place<'_>,
        key: &str,
        source: Option<&Spanned<SecretSource>>,
    ) -> Option<Secret> {
        match source {
            Some(source) => self.secret(source),
            None => {
                let other = if key == "client_secret" {
                    "; a client without one has client_auth = \"none\""
                } else {
                    ""
                };
                let help = format!(
                    "write {key} = {{ env = \"NAME\" }} or {{ file = \"/run/secrets/name\" }}{other}"
                );
                self.missing(&place.path(key), place.span, &help);
                None
            }
        }
    }

    /// Reads a secret for the first time.
    pub(super) fn secret(&mut self, source: &Spanned<SecretSource>) -> Option<Secret> {
        if let SecretSource::Plain(value) = source.get_ref() {
            let is_misread =
                value.expose_secret().starts_with(['{', '$']) && value.expose_secret().ends_with('}');
            let problem = if is_misread {
                Problem::error(
                    source.span(),
                    "looks like a place for a secret, and would be the secret itself",
                )
            } else {
                Problem::warning(source.span(), "a secret stands in the configuration itself")
            };
            self.problems.push(problem.help(
                "write { env = \"NAME\" } or { file = \"/run/secrets/name\" }, without quotes around it",
            ));
        }
        match Secret::load(source.get_ref(), &self.folder, self.environment) {
            Ok(secret) => {
                let value = secret.initial().expose_secret();
                if value.contains('\n') && !value.contains("-----BEGIN") {
                    let title = format!("{} holds more than one line", secret.place());
                    self.problems.push(Problem::warning(source.span(), title).help(
                        "all of it is the secret, but for a line break at its end: take the other lines out",
                    ));
                }
                Some(secret)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error);
                let title = cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"));
                let help = match source.get_ref() {
                    SecretSource::Environment(_) => {
                        "set it where the daemon is started, or write { file = \"/run/secrets/name\" }"
                    }
                    SecretSource::File(_) if cause.is_none() => {
                        "write the secret into that file, and nothing else"
                    }
                    SecretSource::File(_) => "the daemon's user must be able to read it, now and later",
                    SecretSource::Plain(_) => "write { env = \"NAME\" } or { file = \"/run/secrets/name\" }",
                };
                self.problems.push(Problem::error(source.span(), title).help(help));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
