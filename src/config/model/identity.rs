//! Who a credential is at its authorization server: the OAuth client, how it authenticates, and its grant.
//!
//! One tree for both where secrets are (`Identity<Secret>`, from the configuration) and what they are at the moment
//! (`Identity<SecretString>`, for a token request). [`Identity::try_map`] leads from one to the other and is the
//! only place that knows them all.

use std::convert::Infallible;

use secrecy::{ExposeSecret, SecretString};

use super::secret::{Secret, SecretError};
use super::signing_key::{SigningAlgorithm, SigningKey};
use crate::config::BasicEncoding;

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

    fn try_map<'a, T, E>(&'a self, mut read: impl FnMut(&'a S) -> Result<T, E>) -> Result<Grant<T>, E> {
        Ok(match self {
            Grant::ClientCredentials => Grant::ClientCredentials,
            Grant::Password { username, password } => {
                Grant::Password { username: username.clone(), password: read(password)? }
            }
            Grant::RefreshToken(token) => Grant::RefreshToken(token.as_ref().map(&mut read).transpose()?),
            Grant::AuthorizationCode { code, code_verifier, redirect_uri } => Grant::AuthorizationCode {
                code: read(code)?,
                code_verifier: read(code_verifier)?,
                redirect_uri: redirect_uri.clone(),
            },
            Grant::JwtBearer(assertion) => Grant::JwtBearer(assertion.try_map(&mut read)?),
            Grant::TokenExchange { subject_token, subject_token_type } => Grant::TokenExchange {
                subject_token: read(subject_token)?,
                subject_token_type: subject_token_type.clone(),
            },
        })
    }

    const fn assertion(&self) -> Option<&Assertion<S>> {
        match self {
            Self::JwtBearer(assertion) => Some(assertion),
            _ => None,
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
    /// The same with each secret read.
    ///
    /// # Errors
    ///
    /// The first that reading brings.
    pub fn try_map<'a, T, E>(
        &'a self,
        mut read: impl FnMut(&'a S) -> Result<T, E>,
    ) -> Result<Identity<T>, E> {
        let client_auth = match &self.client_auth {
            ClientAuth::Basic { secret, encoding } => {
                ClientAuth::Basic { secret: read(secret)?, encoding: *encoding }
            }
            ClientAuth::Post { secret } => ClientAuth::Post { secret: read(secret)? },
            ClientAuth::SecretJwt { secret, audience } => {
                ClientAuth::SecretJwt { secret: read(secret)?, audience: audience.clone() }
            }
            ClientAuth::PrivateKeyJwt(assertion) => ClientAuth::PrivateKeyJwt(assertion.try_map(&mut read)?),
            ClientAuth::TlsClientAuth => ClientAuth::TlsClientAuth,
            ClientAuth::None => ClientAuth::None,
        };
        let grant = self.grant.try_map(&mut read)?;
        let fallback = self.fallback.as_ref().map(|grant| grant.try_map(&mut read)).transpose()?;
        let client_secret_next = self.client_secret_next.as_ref().map(read).transpose()?;
        Ok(Identity { client_id: self.client_id.clone(), client_auth, grant, fallback, client_secret_next })
    }

    /// The grant, or the fallback if that is in use and there is one.
    pub fn grant_in_use(&self, is_on_fallback: bool) -> &Grant<S> {
        self.fallback.as_ref().filter(|_| is_on_fallback).unwrap_or(&self.grant)
    }

    /// Every secret, in an order that is always the same.
    pub fn secrets(&self) -> Vec<&S> {
        let mut secrets = Vec::new();
        let Ok(_) = self.try_map(|secret| {
            secrets.push(secret);
            Ok::<(), Infallible>(())
        });
        secrets
    }

    /// What it signs JWTs with; all are the same where grant and authentication are JWTs.
    fn assertions(&self) -> impl Iterator<Item = &Assertion<S>> {
        let of_client = match &self.client_auth {
            ClientAuth::PrivateKeyJwt(assertion) => Some(assertion),
            _ => None,
        };
        let of_grants = [Some(&self.grant), self.fallback.as_ref()].into_iter().flatten();
        of_client.into_iter().chain(of_grants.filter_map(Grant::assertion))
    }
}

impl<S> Assertion<S> {
    fn try_map<'a, T, E>(&'a self, mut read: impl FnMut(&'a S) -> Result<T, E>) -> Result<Assertion<T>, E> {
        Ok(Assertion {
            key: read(&self.key)?,
            kid: self.kid.clone(),
            algorithm: self.algorithm,
            audience: self.audience.clone(),
            subject: self.subject.clone(),
        })
    }
}

impl Identity<Secret> {
    /// With the secrets as of now.
    ///
    /// # Errors
    ///
    /// [`SecretError`] if one cannot be read, or is no key where one is needed.
    pub fn read(&self) -> Result<Identity<SecretString>, SecretError> {
        let identity = self.try_map(Secret::read)?;
        for (source, assertion) in self.assertions().zip(identity.assertions()) {
            SigningKey::from_pem(&assertion.key, assertion.algorithm)
                .map_err(|error| SecretError::NotAKey { place: source.key.place(), source: error })?;
        }
        Ok(identity)
    }

    /// With the secrets as they were when the configuration was read.
    pub fn initial(&self) -> Identity<SecretString> {
        let Ok(identity) = self.try_map(|secret| Ok::<_, Infallible>(secret.initial().clone()));
        identity
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
