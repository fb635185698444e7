//! The keys of a credential for client, client authentication and grant, and their valid combinations.

use toml::Spanned;

use super::secret_text::name_flaw;
use super::{Owner, Resolver};
use crate::config::model::identity::{
    Assertion, BasicEncoding, Claims, ClientAuth, Grant, Identity, SignedAssertion,
};
use crate::config::model::secret::Secret;
use crate::config::source::choice;
use crate::config::source::reader::{Key, Placed};
use crate::config::source::schema;

/// RFC 8693 §3.
const DEFAULT_SUBJECT_TOKEN_TYPE: &str = "urn:ietf:params:oauth:token-type:access_token";

/// The grant and the fallback of a credential.
#[derive(Clone, Copy)]
pub(super) struct Grants {
    grant: choice::Grant,
    fallback: Option<choice::Grant>,
}

impl Grants {
    pub(super) fn have(self, grant: choice::Grant) -> bool {
        self.grant == grant || self.fallback == Some(grant)
    }
}

impl Resolver<'_> {
    /// The identity, if each of its parts is usable.
    pub(super) fn identity(
        &mut self,
        owner: &Owner,
        keys: &mut schema::Credential,
        audience: Option<String>,
    ) -> Option<Identity<Secret>> {
        let grant = keys.grant.as_ref().map_or(choice::Grant::ClientCredentials, |grant| *grant.get_ref());
        let auth = keys.client_auth.as_ref();
        let auth = auth.map_or(choice::ClientAuth::SecretBasic, |auth| *auth.get_ref());
        let fallback = self.fallback(keys.fallback.take(), grant, owner);
        let grants = Grants { grant, fallback };
        self.refuse_unused_keys(owner, keys, grants, auth);
        self.warn_of_colon(keys, auth);
        let grant_type = self.grant_type(owner, keys, grants);
        // A server with other parameter names may have no clients.
        let has_no_client =
            keys.client_id.is_none() && keys.request_fields.is_some() && auth == choice::ClientAuth::None;
        let client_id =
            if has_no_client { Some(String::new()) } else { self.client_id(owner, keys.client_id.take()) };
        let mut assertion = keys.assertion.take();
        let aud = assertion.as_ref().and_then(|assertion| assertion.get_ref().aud.as_ref());
        let audience = aud.map(|aud| aud.get_ref().clone()).or(audience);
        let claims = assertion.as_mut().and_then(|assertion| assertion.as_mut().claims.take());
        let claims = self.claims(claims);
        let needs_key = grants.have(choice::Grant::JwtBearer) || auth == choice::ClientAuth::PrivateKeyJwt;
        let assertion = if needs_key {
            self.assertion(owner, assertion, client_id.as_deref(), audience.clone(), claims.clone())
        } else {
            None
        };
        // The subject of client authentication is the client, also if the grant's JWT has another.
        let of_client = assertion.clone().zip(client_id.clone());
        let of_client = of_client.map(|(assertion, subject)| match assertion {
            Assertion::Signed(signed) => Assertion::Signed(SignedAssertion { subject, ..signed }),
            Assertion::File(file) => Assertion::File(file),
        });
        let client_auth = self.client_auth(owner, keys, auth, of_client, audience.zip(Some(claims)));
        let fallback = fallback.map(|fallback| self.grant(owner, keys, fallback, assertion.clone()));
        let grant = self.grant(owner, keys, grant, assertion);
        let client_secret_next = keys.client_secret_next.take().and_then(|source| self.secret(&source));
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
        owner: &Owner,
        keys: &mut schema::Credential,
        Grants { grant, fallback }: Grants,
    ) -> Option<String> {
        let name = keys.grant_type.take().filter(|name| !name.get_ref().is_empty())?;
        let renamed = keys.request_fields.as_ref().and_then(|fields| fields.get_ref().get("grant_type"));
        let (title, help) = if !name.get_ref().bytes().all(|byte| byte.is_ascii_graphic()) {
            (
                "not a grant type (RFC 6749 §4.5)",
                "write a name without blanks, such as \"account_credentials\"",
            )
        } else if self.unusable.contains(&owner.key("grant")) {
            return None;
        } else if matches!(name.get_ref().as_str(), "password" | "refresh_token" | "authorization_code") {
            (
                "`grant_type` does not choose the grant",
                "write `grant` for one of the standard grants, with its own keys",
            )
        } else if grant == choice::Grant::RefreshToken && fallback.is_none() {
            (
                "`grant_type` is not used by this grant",
                "a refresh always has the grant type \"refresh_token\": remove `grant_type`, or set `grant`",
            )
        } else if grant == choice::Grant::AuthorizationCode && fallback.is_some() {
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
            return Some(name.into_inner());
        };
        self.refuse(name.span(), title, help)
    }

    /// Refuses keys without effect: the key, the grant or the client authentication is a mistake.
    fn refuse_unused_keys(
        &mut self,
        owner: &Owner,
        keys: &schema::Credential,
        grants: Grants,
        auth: choice::ClientAuth,
    ) {
        use choice::ClientAuth::{None, PrivateKeyJwt, SecretBasic, SecretJwt, SecretPost};
        use choice::Grant::{AuthorizationCode, JwtBearer, Password, RefreshToken, TokenExchange};
        let is_grant_known = !self.unusable.contains(&owner.key("grant"));
        let is_auth_known = !self.unusable.contains(&owner.key("client_auth"));
        let of_grant = |grant, name: &str| {
            (!is_grant_known || grants.have(grant), "grant", format!("grant = \"{name}\""))
        };
        let of_auth = |auths: &[_], names: &str| {
            let is_used = !is_auth_known || auths.contains(&auth);
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
        let signs = matches!(auth, PrivateKeyJwt | SecretJwt) || grants.have(JwtBearer);
        match keys.assertion.as_ref().filter(|_| is_grant_known && is_auth_known) {
            Some(assertion) if signs => self.refuse_unused_parts(assertion.get_ref(), grants, auth),
            Some(assertion) => self.error(
                assertion.span(),
                "`assertion` is used by neither grant nor client authentication",
                "set client_auth = \"private_key_jwt\" or grant = \"jwt_bearer\", or remove `assertion`",
            ),
            Option::None => {}
        }
        let is_unauthenticated = auth == None && grants.have(choice::Grant::ClientCredentials);
        if is_unauthenticated && is_grant_known && keys.client_secret.is_none() {
            self.warning(
                keys.client_auth.as_ref().map(Spanned::span),
                "the client does not authenticate",
                "a server that issues tokens for a client id alone issues them to anybody (RFC 6749 §4.4)",
            );
        }
    }

    /// Warns of a client id that HTTP Basic cannot carry: the user-id ends at the first colon (RFC 7617 §2).
    fn warn_of_colon(&mut self, keys: &schema::Credential, auth: choice::ClientAuth) {
        let is_form = |encoding: &Spanned<BasicEncoding>| *encoding.get_ref() == BasicEncoding::Form;
        if auth != choice::ClientAuth::SecretBasic || keys.basic_encoding.as_ref().is_some_and(is_form) {
            return;
        }
        if let Some(id) = keys.client_id.as_ref().filter(|id| id.get_ref().contains(':')) {
            self.warning(
                id.span(),
                "HTTP Basic cannot carry a client id with a colon unencoded",
                "set basic_encoding = \"form\", or client_auth = \"client_secret_post\", whichever the server supports",
            );
        }
    }

    fn client_id(&mut self, owner: &Owner, id: Key<String>) -> Option<String> {
        let help = "write the id of the OAuth client, as the provider shows it";
        let id = self.required(owner, "client_id", id, help)?;
        if id.get_ref().trim().is_empty() {
            self.error(id.span(), "`client_id` is empty", help);
        } else {
            self.warn_of_form("client_id", &id);
        }
        Some(id.into_inner())
    }

    /// Warns of quotes, blanks or invisible characters that were probably copied with a name.
    fn warn_of_form(&mut self, key: &str, name: &Spanned<String>) {
        if let Some((what, help)) = name_flaw(name.get_ref()) {
            self.warning(name.span(), format!("`{key}` {what}"), help);
        }
    }

    fn client_auth(
        &mut self,
        owner: &Owner,
        keys: &mut schema::Credential,
        auth: choice::ClientAuth,
        assertion: Option<Assertion<Secret>>,
        audience_and_claims: Option<(String, Claims)>,
    ) -> Option<ClientAuth<Secret>> {
        let secret = keys.client_secret.take();
        let encoding = keys.basic_encoding.take().map_or(BasicEncoding::Auto, Spanned::into_inner);
        let mut secret = || self.required_secret(owner, "client_secret", secret.as_ref());
        Some(match auth {
            choice::ClientAuth::SecretBasic => ClientAuth::Basic { secret: secret()?, encoding },
            choice::ClientAuth::SecretPost => ClientAuth::Post { secret: secret()? },
            choice::ClientAuth::SecretJwt => {
                let (audience, claims) = audience_and_claims?;
                ClientAuth::SecretJwt { secret: secret()?, audience, claims }
            }
            choice::ClientAuth::PrivateKeyJwt => ClientAuth::PrivateKeyJwt(assertion?),
            choice::ClientAuth::Tls => {
                let help = "write a PEM file with the client's certificate; its key is `client_key`";
                self.required(owner, "client_certificate", keys.client_certificate.as_ref(), help);
                ClientAuth::TlsClientAuth
            }
            choice::ClientAuth::None => ClientAuth::None,
        })
    }

    fn grant(
        &mut self,
        owner: &Owner,
        keys: &mut schema::Credential,
        grant: choice::Grant,
        assertion: Option<Assertion<Secret>>,
    ) -> Option<Grant<Secret>> {
        match grant {
            choice::Grant::ClientCredentials => Some(Grant::ClientCredentials),
            choice::Grant::Password => {
                let help = "write the name of the user; for CXone, the id of the access key";
                let username = self.required(owner, "username", keys.username.take(), help);
                if let Some(username) = &username {
                    self.warn_of_form("username", username);
                }
                let password = self.required_secret(owner, "password", keys.password.as_ref());
                Some(Grant::Password { username: username?.into_inner(), password: password? })
            }
            choice::Grant::JwtBearer => assertion.map(Grant::JwtBearer),
            choice::Grant::TokenExchange => {
                let subject_token = self.required_secret(owner, "subject_token", keys.subject_token.as_ref());
                let kind = keys.subject_token_type.take().map(Spanned::into_inner);
                let subject_token_type = kind.unwrap_or_else(|| DEFAULT_SUBJECT_TOKEN_TYPE.to_owned());
                Some(Grant::TokenExchange { subject_token: subject_token?, subject_token_type })
            }
            choice::Grant::RefreshToken => {
                let Some(source) = keys.refresh_token.take() else { return Some(Grant::RefreshToken(None)) };
                self.secret(&source).map(|token| Grant::RefreshToken(Some(token)))
            }
            // The login stores the first refresh token in the state; a configured one would take precedence.
            choice::Grant::AuthorizationCode => Some(Grant::RefreshToken(None)),
        }
    }
}

#[cfg(test)]
mod tests;
