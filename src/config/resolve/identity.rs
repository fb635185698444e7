//! The keys of a credential for client, client authentication and grant, and their valid combinations.

use std::ops::Range;

use toml::Spanned;

use super::Resolver;
use super::assertion::JwtContent;
use super::fallback::Grants;
use super::secret_text::name_flaw;
use crate::config::model::identity::{
    Assertion, BasicEncoding, ClientAuth, Grant, Identity, SignedAssertion,
};
use crate::config::model::secret::Secret;
use crate::config::source::choice;
use crate::config::source::key::Key;
use crate::config::source::schema;

/// RFC 8693 §3.
const DEFAULT_SUBJECT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

impl Resolver<'_> {
    /// The identity, if each of its parts is usable.
    pub(super) fn identity(
        &mut self,
        owner: &Range<usize>,
        keys: &mut schema::Credential,
        audience: Option<String>,
    ) -> Option<Identity<Secret>> {
        let grants = self.grants(keys);
        let auth = keys.client_auth.known_or(choice::ClientAuth::SecretBasic);
        self.refuse_unused_keys(keys, grants, auth);
        self.warn_of_colon(keys, auth);
        let grant_type = self.grant_type(keys, grants);
        // A server with other parameter names may have no clients.
        let may_have_no_client = !keys.request_fields.is_absent()
            && auth.is_none_or(|auth| auth == choice::ClientAuth::None)
            && keys.client_id.is_absent();
        let client_id =
            if may_have_no_client { Some(String::new()) } else { self.client_id(owner, &keys.client_id) };
        let assertion = keys.assertion.take();
        let parts = assertion.usable().map(Spanned::get_ref);
        let aud = parts.and_then(|parts| parts.aud.usable());
        let audience = aud.map(|aud| aud.get_ref().clone()).or(audience);
        let claims = self.claims(parts.and_then(|parts| parts.claims.usable()));
        let lifetime = self.lifetime(parts.and_then(|parts| parts.lifetime.usable()));
        let needs_key =
            grants.have(choice::Grant::JwtBearer) || auth == Some(choice::ClientAuth::PrivateKeyJwt);
        let may_need_key = grants.may_have(choice::Grant::JwtBearer) || auth.is_none();
        let assertion = if needs_key || (may_need_key && !assertion.is_absent()) {
            let content = audience.clone().map(|audience| (audience, claims.clone(), lifetime));
            self.assertion(owner, &assertion, client_id.as_deref(), content)
        } else {
            None
        };
        // The subject of client authentication is the client, also if the grant's JWT has another.
        let of_client = assertion.clone().zip(client_id.clone());
        let of_client = of_client.map(|(assertion, subject)| match assertion {
            Assertion::Signed(signed) => {
                Assertion::Signed(Box::new(SignedAssertion { subject: Some(subject), ..*signed }))
            }
            Assertion::File(file) => Assertion::File(file),
        });
        let content = audience.map(|audience| (audience, claims, lifetime));
        let client_auth = self.client_auth(owner, keys, auth, of_client, content);
        let fallback =
            grants.fallback.map(|fallback| self.grant(owner, keys, Some(fallback), assertion.clone()));
        let grant = self.grant(owner, keys, grants.grant, assertion);
        let client_secret_next = keys.client_secret_next.usable().and_then(|source| self.secret(source));
        let request_headers = self.request_headers(keys.request_headers.take());
        Some(Identity {
            client_id: client_id?,
            client_auth: client_auth?,
            grant: grant?,
            fallback: if let Some(fallback) = fallback { Some(fallback?) } else { None },
            client_secret_next,
            grant_type,
            request_headers,
        })
    }

    /// The server's own name for the grant.
    fn grant_type(
        &mut self,
        keys: &schema::Credential,
        Grants { grant, fallback, are_known }: Grants,
    ) -> Option<String> {
        let name = keys.grant_type.usable().filter(|name| !name.get_ref().is_empty())?;
        let renamed =
            keys.request_fields.usable().and_then(|fields| fields.get_ref().get("grant_type")?.as_ref());
        let (title, help) = if !name.get_ref().bytes().all(|byte| byte.is_ascii_graphic()) {
            (
                "not a grant type (RFC 6749 §4.5)",
                "write a name without blanks, such as \"account_credentials\"",
            )
        } else if !are_known {
            return None;
        } else if matches!(name.get_ref().as_str(), "password" | "refresh_token" | "authorization_code") {
            (
                "`grant_type` does not choose the grant",
                "write `grant` for one of the standard grants, with its own keys",
            )
        } else if grant == Some(choice::Grant::RefreshToken) && fallback.is_none() {
            (
                "`grant_type` is not used by this grant",
                "a refresh always has the grant type \"refresh_token\": remove `grant_type`, or set `grant`",
            )
        } else if grant == Some(choice::Grant::AuthorizationCode) && fallback.is_some() {
            (
                "`grant_type` could name the login or the fallback",
                "remove `grant_type` or `fallback`: both requests would have this grant type",
            )
        } else if renamed.is_some_and(|name| name.get_ref().is_empty()) {
            (
                "`grant_type` is not sent, because `request_fields` omits the parameter",
                "remove `grant_type`, or grant_type = \"\" from `request_fields`",
            )
        } else {
            return Some(name.get_ref().clone());
        };
        self.refuse(name.span(), title, help)
    }

    /// Refuses keys without effect: the key, the grant or the client authentication is a mistake.
    fn refuse_unused_keys(
        &mut self,
        keys: &schema::Credential,
        grants: Grants,
        auth: Option<choice::ClientAuth>,
    ) {
        use choice::ClientAuth::{None, PrivateKeyJwt, SecretBasic, SecretJwt, SecretPost};
        use choice::Grant::{AuthorizationCode, JwtBearer, Password, RefreshToken, TokenExchange};
        let of_grant = |grant, name: &str| (grants.may_have(grant), "grant", format!("grant = \"{name}\""));
        let of_auth = |auths: &[_], names: &str| {
            let is_used = auth.is_none_or(|auth| auths.contains(&auth));
            (is_used, "client authentication", format!("client_auth = {names}"))
        };
        let password = of_grant(Password, "password");
        let refresh = of_grant(RefreshToken, "refresh_token");
        let login = of_grant(AuthorizationCode, "authorization_code");
        let rotating = if grants.have(AuthorizationCode) { &login } else { &refresh };
        let exchange = of_grant(TokenExchange, "token_exchange");
        let secret = of_auth(
            &[SecretBasic, SecretPost, SecretJwt],
            "\"client_secret_basic\", \"client_secret_post\" or \"client_secret_jwt\"",
        );
        let basic = of_auth(&[SecretBasic], "\"client_secret_basic\"");
        for (key, place, (is_used, user, needed)) in [
            ("username", keys.username.place(), &password),
            ("password", keys.password.place(), &password),
            ("refresh_token", keys.refresh_token.place(), &refresh),
            ("max_rotations", keys.max_rotations.place(), rotating),
            ("rotation_grace", keys.rotation_grace.place(), rotating),
            ("authorize_url", keys.authorize_url.place(), &login),
            ("redirect_uri", keys.redirect_uri.place(), &login),
            ("subject_token", keys.subject_token.place(), &exchange),
            ("subject_token_type", keys.subject_token_type.place(), &exchange),
            ("client_secret", keys.client_secret.place(), &secret),
            ("client_secret_next", keys.client_secret_next.place(), &secret),
            ("basic_encoding", keys.basic_encoding.place(), &basic),
        ] {
            if let Some(place) = place.filter(|_| !is_used) {
                let help = format!("set {needed}, or remove `{key}`");
                self.error(place, format!("`{key}` is not used by this {user}"), help);
            }
        }
        if let (Some(assertion), Some(auth), true) = (keys.assertion.usable(), auth, grants.are_known) {
            if matches!(auth, PrivateKeyJwt | SecretJwt) || grants.have(JwtBearer) {
                self.refuse_unused_parts(assertion.get_ref(), grants, auth);
            } else {
                self.error(
                    assertion.span(),
                    "`assertion` is used by neither grant nor client authentication",
                    "set client_auth = \"private_key_jwt\" or grant = \"jwt_bearer\", or remove `assertion`",
                );
            }
        }
        let is_unauthenticated = auth == Some(None) && grants.have(choice::Grant::ClientCredentials);
        if is_unauthenticated && keys.client_secret.is_absent() {
            self.warning(
                keys.client_auth.place(),
                "the client does not authenticate",
                "a server that issues tokens for a client id alone issues them to anybody (RFC 6749 §4.4)",
            );
        }
    }

    /// Warns of a client id that HTTP Basic cannot carry: the user-id ends at the first colon (RFC 7617 §2).
    fn warn_of_colon(&mut self, keys: &schema::Credential, auth: Option<choice::ClientAuth>) {
        let encoding = keys.basic_encoding.known_or(BasicEncoding::Auto);
        if (auth, encoding) != (Some(choice::ClientAuth::SecretBasic), Some(BasicEncoding::Raw)) {
            return;
        }
        if let Some(id) = keys.client_id.usable().filter(|id| id.get_ref().contains(':')) {
            self.warning(
                id.span(),
                "HTTP Basic cannot carry a client id with a colon unencoded",
                "remove `basic_encoding`, or set client_auth = \"client_secret_post\", whichever the server supports",
            );
        }
    }

    fn client_id(&mut self, owner: &Range<usize>, id: &Key<String>) -> Option<String> {
        let help = "write the id of the OAuth client, as the provider shows it";
        let id = self.required(owner, "client_id", id, help)?;
        if id.get_ref().trim().is_empty() {
            self.error(id.span(), "`client_id` is empty", help);
        } else {
            self.warn_of_form("client_id", id);
        }
        Some(id.get_ref().clone())
    }

    /// Warns of quotes, blanks or invisible characters that were probably copied with a name.
    fn warn_of_form(&mut self, key: &str, name: &Spanned<String>) {
        if let Some((what, help)) = name_flaw(name.get_ref()) {
            self.warning(name.span(), format!("`{key}` {what}"), help);
        }
    }

    fn client_auth(
        &mut self,
        owner: &Range<usize>,
        keys: &schema::Credential,
        auth: Option<choice::ClientAuth>,
        assertion: Option<Assertion<Secret>>,
        content: Option<JwtContent>,
    ) -> Option<ClientAuth<Secret>> {
        let encoding = keys.basic_encoding.known_or(BasicEncoding::Auto);
        let Some(auth) = auth else {
            self.secrets([&keys.client_secret]);
            return None;
        };
        let mut secret = || self.required_secret(owner, "client_secret", &keys.client_secret);
        Some(match auth {
            choice::ClientAuth::SecretBasic => ClientAuth::Basic { secret: secret()?, encoding: encoding? },
            choice::ClientAuth::SecretPost => ClientAuth::Post { secret: secret()? },
            choice::ClientAuth::SecretJwt => {
                let (audience, claims, lifetime) = content?;
                ClientAuth::SecretJwt { secret: secret()?, audience, claims, lifetime }
            }
            choice::ClientAuth::PrivateKeyJwt => ClientAuth::PrivateKeyJwt(assertion?),
            choice::ClientAuth::Tls => {
                let help = "write a PEM file with the client's certificate; its key is `client_key`";
                self.required(owner, "client_certificate", &keys.client_certificate, help);
                ClientAuth::TlsClientAuth
            }
            choice::ClientAuth::None => ClientAuth::None,
        })
    }

    fn grant(
        &mut self,
        owner: &Range<usize>,
        keys: &schema::Credential,
        grant: Option<choice::Grant>,
        assertion: Option<Assertion<Secret>>,
    ) -> Option<Grant<Secret>> {
        let Some(grant) = grant else {
            self.secrets([&keys.password, &keys.subject_token, &keys.refresh_token]);
            return None;
        };
        match grant {
            choice::Grant::ClientCredentials => Some(Grant::ClientCredentials),
            choice::Grant::Password => {
                let help = "write the name of the user; for CXone, the id of the access key";
                let username = self.required(owner, "username", &keys.username, help);
                if let Some(username) = username {
                    self.warn_of_form("username", username);
                }
                let password = self.required_secret(owner, "password", &keys.password);
                Some(Grant::Password { username: username?.get_ref().clone(), password: password? })
            }
            choice::Grant::JwtBearer => assertion.map(Grant::JwtBearer),
            choice::Grant::TokenExchange => {
                let subject_token = self.required_secret(owner, "subject_token", &keys.subject_token);
                let kind = keys.subject_token_type.usable().map(Spanned::get_ref);
                let subject_token_type =
                    kind.cloned().unwrap_or_else(|| DEFAULT_SUBJECT_TOKEN_TYPE.to_owned());
                Some(Grant::TokenExchange { subject_token: subject_token?, subject_token_type })
            }
            choice::Grant::RefreshToken => {
                let token = keys.refresh_token.read_or(None, |source| self.secret(source).map(Some));
                token.map(Grant::RefreshToken)
            }
            // The login stores the first refresh token in the state; a configured one would take precedence.
            choice::Grant::AuthorizationCode => Some(Grant::RefreshToken(None)),
        }
    }
}

#[cfg(test)]
mod tests;
