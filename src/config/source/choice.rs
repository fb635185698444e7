//! Keys whose value is one of several strings.

use toml::Spanned;
use toml::de::DeValue;

use super::reader::{Reader, Value};
use crate::config::model::credential::HttpVersion;
use crate::config::model::identity::BasicEncoding;
use crate::config::model::log::LogFormat;
use crate::config::model::request::RequestFormat;
use crate::config::model::route::Forwarded;
use crate::config::model::signing_key::SigningAlgorithm;

/// A known platform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Provider {
    Oauth2,
    Cxone,
    Genesys,
}

/// How a credential gets its tokens (RFC 6749 §1.3, RFC 7523, RFC 8693).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Grant {
    ClientCredentials,
    Password,
    RefreshToken,
    AuthorizationCode,
    JwtBearer,
    TokenExchange,
}

/// How the OAuth client authenticates (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum ClientAuth {
    SecretBasic,
    SecretPost,
    SecretJwt,
    PrivateKeyJwt,
    Tls,
    None,
}

/// A protocol that a request may switch to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Upgrade {
    /// RFC 6455.
    Websocket,
}

/// What happens to requests for paths that servers interpret differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::config) enum Encoded {
    /// Refused on routes with `allow`, `deny` or a path other than `/`.
    RefuseIfRuled,
    /// Refused.
    Refuse,
    /// Forwarded unchanged.
    Opaque,
}

const GRANTS: [(&str, Grant); 6] = [
    ("client_credentials", Grant::ClientCredentials),
    ("password", Grant::Password),
    ("refresh_token", Grant::RefreshToken),
    ("authorization_code", Grant::AuthorizationCode),
    ("jwt_bearer", Grant::JwtBearer),
    ("token_exchange", Grant::TokenExchange),
];

impl Value for Grant {
    fn read(value: &Spanned<DeValue<'_>>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        reader.choice(value, path, &GRANTS)
    }
}

/// A grant, or `""` for none.
impl Value for Option<Grant> {
    fn read(value: &Spanned<DeValue<'_>>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let mut choices = vec![("", None)];
        choices.extend(GRANTS.map(|(name, grant)| (name, Some(grant))));
        reader.choice(value, path, &choices)
    }
}

/// Strings that name a variant.
macro_rules! choices {
    ($($name:ident { $($text:literal: $variant:ident,)* })*) => {$(
        impl Value for $name {
            fn read(value: &Spanned<DeValue<'_>>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                reader.choice(value, path, &[$(($text, Self::$variant)),*])
            }
        }
    )*};
}

choices! {
    Provider { "oauth2": Oauth2, "cxone": Cxone, "genesys": Genesys, }
    ClientAuth {
        "client_secret_basic": SecretBasic,
        "client_secret_post": SecretPost,
        "client_secret_jwt": SecretJwt,
        "private_key_jwt": PrivateKeyJwt,
        "tls_client_auth": Tls,
        "none": None,
    }
    BasicEncoding { "raw": Raw, "form": Form, }
    SigningAlgorithm { "RS256": Rs256, "ES256": Es256, }
    RequestFormat { "form": Form, "json": Json, }
    HttpVersion { "auto": Auto, "1.1": Http1, "2": Http2, }
    Upgrade { "websocket": Websocket, }
    Encoded { "": RefuseIfRuled, "refuse": Refuse, "opaque": Opaque, }
    Forwarded { "none": None, "x-forwarded": XForwarded, "forwarded": Forwarded, }
    LogFormat { "auto": Auto, "json": Json, "text": Text, }
}
