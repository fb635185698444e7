//! Who a credential is at its authorization server: the OAuth client, how it authenticates, and its grant.
//!
//! One tree for both where secrets are (`Identity<Secret>`, from the configuration) and what they are at the moment
//! (`Identity<SecretString>`, for a token request). [`Identity::map`] leads from one to the other and is the
//! only place that knows them all.

use secrecy::{ExposeSecret, SecretString};

use super::basic_encoding::BasicEncoding;
use super::secret::Secret;
use super::signing_key::SigningAlgorithm;

/// An OAuth client and its grant, with secrets of type `S`.
#[derive(Clone, Debug)]
pub struct Identity<S> {
    /// The OAuth client's id; empty where the server knows no clients.
    pub client_id: String,
    /// How the client says who it is.
    pub client_auth: ClientAuth<S>,
    /// What it gets tokens for.
    pub grant: Grant<S>,
    /// What it gets them for once no refresh token is taken any more.
    pub fallback: Option<Grant<S>>,
    /// Another secret of the client, for when the one in [`Identity::client_auth`] is not taken.
    pub client_secret_next: Option<S>,
}

/// How the OAuth client authenticates (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705 §2).
#[derive(Clone, Debug)]
pub enum ClientAuth<S> {
    /// Id and secret by HTTP Basic.
    Basic {
        /// The client's secret.
        secret: S,
        /// How both are written.
        encoding: BasicEncoding,
    },
    /// Id and secret in the body.
    Post {
        /// The client's secret.
        secret: S,
    },
    /// A JWT under the client's secret (HS256).
    SecretJwt {
        /// The client's secret.
        secret: S,
        /// `aud` of the JWT.
        audience: String,
    },
    /// A JWT under the client's private key.
    PrivateKeyJwt(Assertion<S>),
    /// The certificate of the connection; the id in the body.
    TlsClientAuth,
    /// The id in the body and nothing else.
    None,
}

/// What tokens are asked for with.
#[derive(Clone, Debug)]
pub enum Grant<S> {
    /// The client's own identity (RFC 6749 §4.4).
    ClientCredentials,
    /// A name and a password (RFC 6749 §4.3).
    Password {
        /// The name.
        username: String,
        /// The password.
        password: S,
    },
    /// A refresh token (RFC 6749 §6): the one in use, or, as configured, the first, if one is.
    RefreshToken(Option<S>),
    /// What a person's login brought (RFC 6749 §4.1.3). It is good once, so no configuration has it.
    AuthorizationCode {
        /// The code.
        code: S,
        /// What the code was asked for with (RFC 7636 §4.5).
        code_verifier: S,
        /// Where the browser was sent back to.
        redirect_uri: String,
    },
    /// A JWT that we sign (RFC 7523 §2.1).
    JwtBearer(Assertion<S>),
    /// Another token (RFC 8693 §2.1).
    TokenExchange {
        /// That token.
        subject_token: S,
        /// Its type, a URN.
        subject_token_type: String,
    },
}

/// What a JWT is made of (RFC 7523 §3), its random and its dates aside. Its issuer is the client.
#[derive(Clone, Debug)]
pub struct Assertion<S> {
    /// The private key, as PEM.
    pub key: S,
    /// Which key it is, for the server.
    pub kid: Option<String>,
    /// What the key signs with.
    pub algorithm: SigningAlgorithm,
    /// `aud`.
    pub audience: String,
    /// `sub`.
    pub subject: String,
}

/// One of an identity's secrets.
#[derive(Clone, Copy, Debug)]
pub struct KeyedSecret<'a, S> {
    /// The key in the credential's configuration.
    pub key: &'static str,
    /// The secret.
    pub secret: &'a S,
    /// The algorithm that signs with the secret, where the secret is a private key.
    pub algorithm: Option<SigningAlgorithm>,
}

impl<'a, S> KeyedSecret<'a, S> {
    const fn new(key: &'static str, secret: &'a S) -> Self {
        Self { key, secret, algorithm: None }
    }
}

impl<S> ClientAuth<S> {
    /// The client's secret, if that is how it authenticates.
    pub const fn secret(&self) -> Option<&S> {
        match self {
            Self::Basic { secret, .. } | Self::Post { secret } | Self::SecretJwt { secret, .. } => {
                Some(secret)
            }
            Self::PrivateKeyJwt(_) | Self::TlsClientAuth | Self::None => None,
        }
    }

    const fn secret_mut(&mut self) -> Option<&mut S> {
        match self {
            Self::Basic { secret, .. } | Self::Post { secret } | Self::SecretJwt { secret, .. } => {
                Some(secret)
            }
            Self::PrivateKeyJwt(_) | Self::TlsClientAuth | Self::None => None,
        }
    }
}

impl<S> Grant<S> {
    /// Its name in the configuration.
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
            Grant::ClientCredentials => Grant::ClientCredentials,
            Grant::Password { username, password } => Grant::Password {
                username: username.clone(),
                password: read(KeyedSecret::new("password", password)),
            },
            Grant::RefreshToken(token) => Grant::RefreshToken(
                token.as_ref().map(|token| read(KeyedSecret::new("refresh_token", token))),
            ),
            Grant::AuthorizationCode { code, code_verifier, redirect_uri } => Grant::AuthorizationCode {
                code: read(KeyedSecret::new("code", code)),
                code_verifier: read(KeyedSecret::new("code_verifier", code_verifier)),
                redirect_uri: redirect_uri.clone(),
            },
            Grant::JwtBearer(assertion) => Grant::JwtBearer(assertion.map(read)),
            Grant::TokenExchange { subject_token, subject_token_type } => Grant::TokenExchange {
                subject_token: read(KeyedSecret::new("subject_token", subject_token)),
                subject_token_type: subject_token_type.clone(),
            },
        }
    }
}

impl<S> ClientAuth<S> {
    /// Its name in the configuration, which is that of the standards.
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
}

impl<S> Identity<S> {
    /// The same with a value in the place of each secret. Secrets with the same key are the same.
    #[must_use]
    pub fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> Identity<T> {
        let mut client_secret = |secret| read(KeyedSecret::new("client_secret", secret));
        let client_auth = match &self.client_auth {
            ClientAuth::Basic { secret, encoding } => {
                ClientAuth::Basic { secret: client_secret(secret), encoding: *encoding }
            }
            ClientAuth::Post { secret } => ClientAuth::Post { secret: client_secret(secret) },
            ClientAuth::SecretJwt { secret, audience } => {
                ClientAuth::SecretJwt { secret: client_secret(secret), audience: audience.clone() }
            }
            ClientAuth::PrivateKeyJwt(assertion) => ClientAuth::PrivateKeyJwt(assertion.map(&mut read)),
            ClientAuth::TlsClientAuth => ClientAuth::TlsClientAuth,
            ClientAuth::None => ClientAuth::None,
        };
        let grant = self.grant.map(&mut read);
        let fallback = self.fallback.as_ref().map(|grant| grant.map(&mut read));
        let next = self.client_secret_next.as_ref();
        let client_secret_next = next.map(|next| read(KeyedSecret::new("client_secret_next", next)));
        Identity { client_id: self.client_id.clone(), client_auth, grant, fallback, client_secret_next }
    }

    /// The grant, or the fallback if that is in use and there is one.
    pub fn grant_in_use(&self, is_on_fallback: bool) -> &Grant<S> {
        self.fallback.as_ref().filter(|_| is_on_fallback).unwrap_or(&self.grant)
    }

    /// Every secret, in an order that is always the same.
    pub fn secrets(&self) -> Vec<&S> {
        self.keyed_secrets().into_iter().map(|keyed| keyed.secret).collect()
    }

    /// Every secret with its key, in the order of [`Identity::secrets`].
    pub fn keyed_secrets(&self) -> Vec<KeyedSecret<'_, S>> {
        let mut secrets = Vec::new();
        let _ = self.map(|secret| secrets.push(secret));
        secrets
    }
}

impl<S> Assertion<S> {
    fn map<'a, T>(&'a self, mut read: impl FnMut(KeyedSecret<'a, S>) -> T) -> Assertion<T> {
        Assertion {
            key: read(KeyedSecret {
                algorithm: Some(self.algorithm),
                ..KeyedSecret::new("assertion.key", &self.key)
            }),
            kid: self.kid.clone(),
            algorithm: self.algorithm,
            audience: self.audience.clone(),
            subject: self.subject.clone(),
        }
    }
}

impl Identity<Secret> {
    /// With the secrets as they were when the configuration was read.
    pub fn initial(&self) -> Identity<SecretString> {
        self.map(|keyed| keyed.secret.initial().clone())
    }

    /// Whether a secret can change while the daemon runs.
    pub fn may_change(&self) -> bool {
        self.secrets().into_iter().any(Secret::may_change)
    }
}

impl Identity<SecretString> {
    /// The same client with this grant, and with nothing to fall back on.
    #[must_use]
    pub fn with_grant(&self, grant: Grant<SecretString>) -> Self {
        Self {
            client_id: self.client_id.clone(),
            client_auth: self.client_auth.clone(),
            grant,
            fallback: None,
            client_secret_next: None,
        }
    }

    /// The same with the other of the client's two secrets in the place of the one it has, if it has two.
    #[must_use]
    pub fn with_next_secret(&self) -> Option<Self> {
        let mut identity = self.clone();
        let next = identity.client_secret_next.take()?;
        *identity.client_auth.secret_mut()? = next;
        Some(identity)
    }

    /// Whether the secrets of both are the same.
    pub fn has_secrets_of(&self, other: &Self) -> bool {
        let (ours, theirs) = (self.secrets(), other.secrets());
        ours.len() == theirs.len()
            && ours.iter().zip(&theirs).all(|(one, two)| one.expose_secret() == two.expose_secret())
    }
}
