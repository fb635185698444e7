//! The identity of a credential at its authorization server: the OAuth client, its authentication, and its grant.
//!
//! `Identity<Secret>` holds the sources of the secrets, and `Identity<SecretString>` holds their values for a
//! token request. [`Identity::map`] turns the first into the second. No other code lists all secrets.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use http::HeaderName;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

use super::secret::{Secret, SecretForm};
use super::signing_key::SigningAlgorithm;

/// How long a JWT is valid from now on. JWTs are backdated by half a minute, and servers refuse more than five minutes.
pub const DEFAULT_JWT_LIFETIME: Duration = Duration::from_secs(270);

/// Additional claims of a JWT, by name.
pub type Claims = BTreeMap<String, Value>;

/// An OAuth client and its grant, with secrets of type `S`.
#[derive(Clone, Debug)]
pub struct Identity<S> {
    /// The id of the OAuth client; empty for a server without clients.
    pub client_id: String,
    /// The authentication of the client.
    pub client_auth: ClientAuth<S>,
    /// The grant.
    pub grant: Grant<S>,
    /// The grant that replaces a rejected refresh token.
    pub fallback: Option<Grant<S>>,
    /// The next secret of the client, used if the server rejects the secret in [`Identity::client_auth`].
    pub client_secret_next: Option<S>,
    /// The parameter `grant_type` of every request but a refresh, if the server has its own name for the grant.
    pub grant_type: Option<String>,
    /// Header fields of the token request.
    pub request_headers: Vec<RequestHeader<S>>,
}

/// A header field of a token request.
#[derive(Clone, Debug)]
pub struct RequestHeader<S> {
    /// The name.
    pub name: HeaderName,
    /// The value.
    pub value: S,
    /// Whether a text that quotes the value is withheld.
    pub is_secret: bool,
}

/// How the OAuth client authenticates (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705 §2).
#[derive(Clone, Debug)]
pub enum ClientAuth<S> {
    /// Id and secret by HTTP Basic.
    Basic {
        /// The secret of the client.
        secret: S,
        /// The encoding of id and secret.
        encoding: BasicEncoding,
    },
    /// Id and secret in the body.
    Post {
        /// The secret of the client.
        secret: S,
    },
    /// A JWT signed with the secret of the client (HS256).
    SecretJwt {
        /// The secret of the client.
        secret: S,
        /// `aud` of the JWT.
        audience: String,
        /// Additional claims of the JWT.
        claims: Claims,
        /// The time from now to `exp`.
        lifetime: Duration,
    },
    /// A JWT signed with the private key of the client, or one that another process makes.
    PrivateKeyJwt(Assertion<S>),
    /// The certificate of the connection, and the id in the body.
    TlsClientAuth,
    /// The id in the body only.
    None,
}

/// How client id and secret are encoded before they are joined for HTTP Basic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BasicEncoding {
    /// Raw, and form-encoded where the server refuses the client and the encodings differ.
    Auto,
    /// Unchanged, as most clients send and most servers expect.
    Raw,
    /// Form-encoded (RFC 6749 §2.3.1).
    Form,
}

/// The grant of a token request.
#[derive(Clone, Debug)]
pub enum Grant<S> {
    /// The identity of the client (RFC 6749 §4.4).
    ClientCredentials,
    /// A user name and a password (RFC 6749 §4.3).
    Password {
        /// The user name.
        username: String,
        /// The password.
        password: S,
    },
    /// A refresh token (RFC 6749 §6): the current one, or in a configuration the first one, if configured.
    RefreshToken(Option<S>),
    /// An authorization code from a person's login (RFC 6749 §4.1.3), valid once and never configured.
    AuthorizationCode {
        /// The code.
        code: S,
        /// The secret that proves who requested the code (RFC 7636 §4.5).
        code_verifier: S,
        /// The URL that the browser was redirected to.
        redirect_uri: String,
    },
    /// A JWT (RFC 7523 §2.1).
    JwtBearer(Assertion<S>),
    /// Another token (RFC 8693 §2.1).
    TokenExchange {
        /// The other token.
        subject_token: S,
        /// The type of that token, a URN.
        subject_token_type: String,
    },
}

/// A JWT about a client or a principal (RFC 7523 §3).
#[derive(Clone, Debug)]
pub enum Assertion<S> {
    /// The daemon signs a new JWT for each request.
    Signed(Box<SignedAssertion<S>>),
    /// Another process keeps a JWT fresh.
    File(S),
}

/// The contents of a JWT (RFC 7523 §3) except its id and dates. The client is the issuer.
#[derive(Clone, Debug)]
pub struct SignedAssertion<S> {
    /// The private key, as PEM.
    pub key: S,
    /// The name of the key at the server.
    pub kid: Option<String>,
    /// The algorithm of the signature.
    pub algorithm: SigningAlgorithm,
    /// `aud`.
    pub audience: String,
    /// `sub`, if the server wants one.
    pub subject: Option<String>,
    /// Additional claims.
    pub claims: Claims,
    /// The time from now to `exp`.
    pub lifetime: Duration,
    /// Whether the header names the certificate of the key (`x5t#S256`, RFC 7515 §4.1.8). The certificate stands beside the
    /// key.
    pub has_thumbprint: bool,
}

/// One of the secrets of an identity.
#[derive(Clone, Copy, Debug)]
pub struct KeyedSecret<'a, S> {
    /// The key in the credential's configuration.
    pub key: &'static str,
    /// The header field, for the key `request_headers`.
    pub field: Option<&'a HeaderName>,
    /// The secret.
    pub secret: &'a S,
    /// The form of the secret.
    pub form: SecretForm,
}

impl<'a, S> KeyedSecret<'a, S> {
    const fn new(key: &'static str, secret: &'a S) -> Self {
        Self { key, field: None, secret, form: SecretForm::Text }
    }

    /// The key with the name of the header field. Secrets with the same path have the same value.
    pub fn path(&self) -> Cow<'static, str> {
        self.field.map_or(self.key.into(), |field| format!("{}.{field}", self.key).into())
    }
}

impl<S> RequestHeader<S> {
    fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> RequestHeader<T> {
        let value = KeyedSecret {
            field: Some(&self.name),
            form: SecretForm::FieldValue,
            ..KeyedSecret::new("request_headers", &self.value)
        };
        RequestHeader { name: self.name.clone(), value: read(value), is_secret: self.is_secret }
    }
}

impl<S> ClientAuth<S> {
    /// The name in the configuration, which the standards define.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Basic { .. } => "client_secret_basic",
            Self::Post { .. } => "client_secret_post",
            Self::SecretJwt { .. } => "client_secret_jwt",
            Self::PrivateKeyJwt(_) => "private_key_jwt",
            Self::TlsClientAuth => "tls_client_auth",
            Self::None => "none",
        }
    }

    /// The secret of the client, for the authentications that use one.
    pub const fn secret(&self) -> Option<&S> {
        match self {
            Self::Basic { secret, .. } | Self::Post { secret } | Self::SecretJwt { secret, .. } => {
                Some(secret)
            }
            Self::PrivateKeyJwt(_) | Self::TlsClientAuth | Self::None => None,
        }
    }

    fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> ClientAuth<T> {
        let mut client_secret = |secret| read(KeyedSecret::new("client_secret", secret));
        match self {
            Self::Basic { secret, encoding } => {
                ClientAuth::Basic { secret: client_secret(secret), encoding: *encoding }
            }
            Self::Post { secret } => ClientAuth::Post { secret: client_secret(secret) },
            Self::SecretJwt { secret, audience, claims, lifetime } => ClientAuth::SecretJwt {
                secret: client_secret(secret),
                audience: audience.clone(),
                claims: claims.clone(),
                lifetime: *lifetime,
            },
            Self::PrivateKeyJwt(assertion) => ClientAuth::PrivateKeyJwt(assertion.map(read)),
            Self::TlsClientAuth => ClientAuth::TlsClientAuth,
            Self::None => ClientAuth::None,
        }
    }
}

impl<S> Grant<S> {
    /// The name in the configuration.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::ClientCredentials => "client_credentials",
            Self::Password { .. } => "password",
            Self::RefreshToken(_) => "refresh_token",
            Self::AuthorizationCode { .. } => "authorization_code",
            Self::JwtBearer(_) => "jwt_bearer",
            Self::TokenExchange { .. } => "token_exchange",
        }
    }

    fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> Grant<T> {
        match self {
            Self::ClientCredentials => Grant::ClientCredentials,
            Self::Password { username, password } => Grant::Password {
                username: username.clone(),
                password: read(KeyedSecret::new("password", password)),
            },
            Self::RefreshToken(token) => Grant::RefreshToken(
                token.as_ref().map(|token| read(KeyedSecret::new("refresh_token", token))),
            ),
            Self::AuthorizationCode { code, code_verifier, redirect_uri } => Grant::AuthorizationCode {
                code: read(KeyedSecret::new("code", code)),
                code_verifier: read(KeyedSecret::new("code_verifier", code_verifier)),
                redirect_uri: redirect_uri.clone(),
            },
            Self::JwtBearer(assertion) => Grant::JwtBearer(assertion.map(read)),
            Self::TokenExchange { subject_token, subject_token_type } => Grant::TokenExchange {
                subject_token: read(KeyedSecret::new("subject_token", subject_token)),
                subject_token_type: subject_token_type.clone(),
            },
        }
    }
}

impl<S> SignedAssertion<S> {
    /// The form of the key.
    pub const fn form_of_key(&self) -> SecretForm {
        if self.has_thumbprint {
            SecretForm::CertifiedKey(self.algorithm)
        } else {
            SecretForm::PrivateKey(self.algorithm)
        }
    }

    fn with_key<T>(&self, key: T) -> SignedAssertion<T> {
        SignedAssertion {
            key,
            kid: self.kid.clone(),
            algorithm: self.algorithm,
            audience: self.audience.clone(),
            subject: self.subject.clone(),
            claims: self.claims.clone(),
            lifetime: self.lifetime,
            has_thumbprint: self.has_thumbprint,
        }
    }
}

impl<S> Assertion<S> {
    fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> Assertion<T> {
        match self {
            Self::Signed(signed) => {
                let form = signed.form_of_key();
                let key = read(KeyedSecret { form, ..KeyedSecret::new("assertion.key", &signed.key) });
                Assertion::Signed(Box::new(signed.with_key(key)))
            }
            Self::File(assertion) => {
                let form = SecretForm::Assertion;
                Assertion::File(read(KeyedSecret { form, ..KeyedSecret::new("assertion.file", assertion) }))
            }
        }
    }
}

impl<S> Identity<S> {
    /// The identity with each secret replaced by the result of `read`. Secrets with the same path have the
    /// same value.
    #[must_use]
    pub fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> Identity<T> {
        let next = self.client_secret_next.as_ref();
        Identity {
            client_id: self.client_id.clone(),
            client_auth: self.client_auth.map(&mut read),
            grant: self.grant.map(&mut read),
            fallback: self.fallback.as_ref().map(|grant| grant.map(&mut read)),
            client_secret_next: next.map(|next| read(KeyedSecret::new("client_secret_next", next))),
            grant_type: self.grant_type.clone(),
            request_headers: self.request_headers.iter().map(|header| header.map(&mut read)).collect(),
        }
    }

    /// The fallback if it is in use and configured, else the grant.
    pub fn grant_in_use(&self, is_on_fallback: bool) -> &Grant<S> {
        self.fallback.as_ref().filter(|_| is_on_fallback).unwrap_or(&self.grant)
    }

    /// All secrets, always in one order.
    pub fn secrets(&self) -> Vec<&S> {
        self.keyed_secrets().into_iter().map(|keyed| keyed.secret).collect()
    }

    /// All secrets with their keys, in the order of [`Identity::secrets`].
    pub fn keyed_secrets(&self) -> Vec<KeyedSecret<'_, S>> {
        let mut secrets = Vec::new();
        let _ = self.map(|secret| secrets.push(secret));
        secrets
    }
}

impl Identity<Secret> {
    /// The identity with the values that its secrets had when the configuration was read.
    pub fn initial(&self) -> Identity<SecretString> {
        self.map(|keyed| keyed.secret.initial().clone())
    }

    /// Whether a secret can change while the daemon runs.
    pub fn may_change(&self) -> bool {
        self.secrets().into_iter().any(Secret::may_change)
    }
}

impl Identity<SecretString> {
    /// The client with this grant, without fallback and next secret.
    #[must_use]
    pub fn with_grant(&self, grant: Grant<SecretString>) -> Self {
        Self {
            client_id: self.client_id.clone(),
            client_auth: self.client_auth.clone(),
            grant,
            fallback: None,
            client_secret_next: None,
            grant_type: self.grant_type.clone(),
            request_headers: self.request_headers.clone(),
        }
    }

    /// The identity that authenticates with the next secret of the client, if there is one.
    #[must_use]
    pub fn with_next_secret(&self) -> Option<Self> {
        let next = self.client_secret_next.as_ref()?;
        self.client_auth.secret()?;
        let client_auth = self.client_auth.map(|_| next.clone());
        Some(Self { client_auth, client_secret_next: None, ..self.clone() })
    }

    /// The identity that authenticates by HTTP Basic in this encoding; unchanged with another client authentication.
    #[must_use]
    pub fn with_encoding(self, encoding: BasicEncoding) -> Self {
        match self.client_auth {
            ClientAuth::Basic { secret, .. } => {
                Self { client_auth: ClientAuth::Basic { secret, encoding }, ..self }
            }
            client_auth => Self { client_auth, ..self },
        }
    }

    /// Whether the secrets of both are equal.
    pub fn has_secrets_of(&self, other: &Self) -> bool {
        let exposed = self.secrets().into_iter().map(ExposeSecret::expose_secret);
        exposed.eq(other.secrets().into_iter().map(ExposeSecret::expose_secret))
    }
}
