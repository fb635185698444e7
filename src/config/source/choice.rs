//! Keys whose value is one of several strings.

use super::reader::{Reader, Value, Written};
use super::shape::{Shape, Shaped};
use crate::config::model::audit::OnAuditFailure;
use crate::config::model::credential::HttpVersion;
use crate::config::model::identity::BasicEncoding;
use crate::config::model::log::LogFormat;
use crate::config::model::request::RequestFormat;
use crate::config::model::route::Forwarded;
use crate::config::model::server::{HalfClosed, HeaderCase};
use crate::config::model::shared_store::WhenAway;
use crate::config::model::signing_key::SigningAlgorithm;
use crate::config::model::webhook::WebhookFormat;

/// Gives each variant of an enum the string that stands for it in the file.
macro_rules! choices {
    ($($name:ident { $($text:literal: $variant:ident,)* })*) => {$(
        impl $name {
            const CHOICES: &[(&str, Self)] = &[$(($text, Self::$variant)),*];
        }

        impl Value for $name {
            fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
                reader.choice(value, path, Self::CHOICES)
            }
        }

        impl Shaped for $name {
            fn shape() -> Shape {
                Shape::Choice(Self::CHOICES.iter().map(|(text, _)| *text).collect())
            }
        }
    )*};
}

/// Declares enums that the model does not have.
macro_rules! choices_of_the_file {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $text:literal: $variant:ident,)* })*) => {
        $(
            $(#[$doc])*
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub(in crate::config) enum $name {
                $($(#[$variant_doc])* $variant,)*
            }
        )*
        choices! { $($name { $($text: $variant,)* })* }
    };
}

choices! {
    BasicEncoding { "auto": Auto, "raw": Raw, "form": Form, }
    SigningAlgorithm { "RS256": Rs256, "PS256": Ps256, "ES256": Es256, "ES384": Es384, }
    RequestFormat { "form": Form, "json": Json, }
    HttpVersion { "auto": Auto, "1.1": Http1, "2": Http2, }
    Forwarded { "none": None, "x-forwarded": XForwarded, "forwarded": Forwarded, }
    HeaderCase { "lower": Lower, "preserve": Preserve, }
    HalfClosed { "abort": Abort, "answer": Answer, }
    OnAuditFailure { "go_on": GoOn, "refuse": Refuse, }
    WhenAway { "stop": Stop, "last_holder": LastHolder, }
    WebhookFormat { "standard": Standard, "seed": Seed, "cloudevents": CloudEvents, }
    LogFormat { "auto": Auto, "json": Json, "text": Text, }
}

choices_of_the_file! {
    /// A known platform.
    Provider { "oauth2": Oauth2, "cxone": Cxone, "genesys": Genesys, }

    /// How a credential gets its tokens (RFC 6749 §1.3, RFC 7523, RFC 8693).
    Grant {
        "client_credentials": ClientCredentials,
        "password": Password,
        "refresh_token": RefreshToken,
        "authorization_code": AuthorizationCode,
        "jwt_bearer": JwtBearer,
        "token_exchange": TokenExchange,
    }

    /// How the OAuth client authenticates (RFC 6749 §2.3, RFC 7523 §2.2, RFC 8705).
    ClientAuth {
        "client_secret_basic": SecretBasic,
        "client_secret_post": SecretPost,
        "client_secret_jwt": SecretJwt,
        "private_key_jwt": PrivateKeyJwt,
        "tls_client_auth": Tls,
        "none": None,
    }

    /// A protocol that a request may switch to (RFC 6455).
    Upgrade { "websocket": Websocket, }

    /// Where links of an API are rewritten.
    RewrittenLink {
        "Location": Location,
        "Link": Link,
        "Content-Location": ContentLocation,
        "Operation-Location": OperationLocation,
        "Refresh": Refresh,
        "json": Json,
    }

    /// The treatment of requests for paths that servers interpret differently.
    Encoded {
        /// Refused on routes with `allow`, `deny` or a path other than `/`.
        "": RefuseIfRuled,
        /// Refused.
        "refuse": Refuse,
        /// Forwarded unchanged.
        "opaque": Opaque,
    }
}

impl Provider {
    /// The provider as the file has it.
    pub(in crate::config) const fn as_str(self) -> &'static str {
        match self {
            Self::Oauth2 => "oauth2",
            Self::Cxone => "cxone",
            Self::Genesys => "genesys",
        }
    }
}

/// A grant, or `""` for none.
impl Value for Option<Grant> {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let mut choices = vec![("", None)];
        choices.extend(Grant::CHOICES.iter().map(|(name, grant)| (*name, Some(*grant))));
        reader.choice(value, path, &choices)
    }
}

impl Shaped for Option<Grant> {
    fn shape() -> Shape {
        let names = Grant::CHOICES.iter().map(|(name, _)| *name);
        Shape::Choice(std::iter::once("").chain(names).collect())
    }
}
