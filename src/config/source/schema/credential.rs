//! `[credentials.NAME]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use toml::Spanned;

use super::{SecretsByName, Texts, TextsByName};
use crate::config::model::credential::HttpVersion;
use crate::config::model::identity::BasicEncoding;
use crate::config::model::request::RequestFormat;
use crate::config::model::secret::SecretSource;
use crate::config::model::signing_key::SigningAlgorithm;
use crate::config::source::choice::{ClientAuth, Grant, Provider};
use crate::config::source::claim::Claim;
use crate::config::source::key::Entry;
use crate::config::source::reader::{Reader, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};
use crate::config::source::units::{Duration, OneOrMany, RequiredScopes};

/// Claims of a JWT by name, each with its place.
pub(in crate::config) type ClaimsByName = BTreeMap<Spanned<String>, Entry<Claim>>;

tables! {
    /// `[credentials.NAME]`.
    section Credential {
        shown provider: Provider,
        shown region: String,
        shown issuer: String,
        shown grant: Grant,
        shown grant_type: String,
        shown fallback: Option<Grant>,
        shown token_url: String,
        shown authorize_url: String,
        shown redirect_uri: String,
        shown client_id: String,
        hidden client_secret: SecretSource,
        hidden client_secret_next: SecretSource,
        shown client_auth: ClientAuth,
        shown basic_encoding: BasicEncoding,
        hidden assertion: Assertion,
        shown client_certificate: PathBuf,
        shown client_key: PathBuf,
        shown username: String,
        hidden password: SecretSource,
        hidden refresh_token: SecretSource,
        shown max_rotations: u64,
        shown rotation_grace: Duration,
        hidden subject_token: SecretSource,
        shown subject_token_type: String,
        shown audience: String,
        shown resource: Texts,
        hidden extra: TextsByName,
        hidden request_headers: SecretsByName,
        shown request_format: RequestFormat,
        hidden request_fields: TextsByName,
        hidden fields: Fields,
        shown token_types: Texts,
        hidden errors: Errors,
        shown scopes: Texts,
        shown require_scopes: RequiredScopes,
        shown expect_jwt: bool,
        shown refresh_margin: Duration,
        shown default_lifetime: Duration,
        shown timeout: Duration,
        shown connect_timeout: Duration,
        hidden quota: Rate,
        shown api_quota: Option<ApiQuota>,
        shown retry_after_max: Duration,
        shown ca_file: PathBuf,
        shown system_roots: bool,
        shown proxy: String,
        shown http_version: HttpVersion,
        shown state_file: PathBuf,
        hidden state_key: SecretSource,
        hidden state_key_previous: OneOrMany<SecretSource>,
        shown required: bool,
        shown login_stub: Texts,
    }

    /// `assertion` of a credential: a JWT that the daemon signs, or one that another process makes (RFC 7523 §3).
    inline("a table such as { key = { file = \"key.pem\" }, alg = \"RS256\" }") Assertion {
        hidden key: SecretSource,
        shown kid: String,
        shown alg: SigningAlgorithm,
        hidden aud: String,
        hidden sub: String,
        hidden claims: ClaimsByName,
        shown lifetime: Duration,
        shown x5t: bool,
        shown file: PathBuf,
    }

    /// `fields` of a credential: the places of the members of a token response.
    inline("a table such as { access_token = \"token\" }") Fields {
        hidden access_token: String,
        hidden expires_in: String,
        hidden refresh_token: String,
        hidden scope: String,
    }

    /// `errors` of a credential: further error codes of its server.
    inline("a table such as { dead = [\"session_expired\"] }") Errors {
        shown dead: Texts,
        shown throttled: Texts,
        shown client: Texts,
        shown transient: Texts,
    }

    /// `api_quota` of a credential, unless `""`.
    plain ApiQuota {
        shown requests: u32,
        shown per: Duration,
        shown learn: bool,
        shown wait: Duration,
    }

    /// `quota` of a credential: `requests` within `per`.
    inline("a table such as { requests = 10, per = \"60s\" }") Rate {
        shown requests: u32,
        shown per: Duration,
    }
}

shapes! {
    Credentials: <BTreeMap<Spanned<String>, Entry<Credential>>>::shape(),
    Claim: Shape::Claim,
}

optional! {
    ApiQuota: "a table such as { requests = 300, per = \"60s\" }, or \"\"",
}

/// `[credentials.NAME]`, by name.
#[derive(Debug, Default)]
pub(in crate::config) struct Credentials(pub(in crate::config) BTreeMap<Spanned<String>, Entry<Credential>>);

impl Value for Credentials {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        const HELP: &str = "write [credentials.NAME], with a name of your choice, and that name in `credential` of the routes";
        reader.named_tables(value, path, "[credentials.NAME]", ("a credential needs a name", HELP)).map(Self)
    }
}
