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
use crate::config::source::diagnostics::Problem;
use crate::config::source::key::Entry;
use crate::config::source::reader::{Reader, Table, Value, Written, tables};
use crate::config::source::shape::{Shape, Shaped, shapes};
use crate::config::source::units::{Duration, OneOrMany, RequiredScopes};

/// Claims of a JWT by name, each with its place.
pub(in crate::config) type ClaimsByName = BTreeMap<Spanned<String>, Entry<Claim>>;

tables! {
    /// `[credentials.NAME]`.
    section Credential {
        provider: Provider,
        region: String,
        issuer: String,
        grant: Grant,
        grant_type: String,
        fallback: Option<Grant>,
        token_url: String,
        authorize_url: String,
        redirect_uri: String,
        client_id: String,
        client_secret: SecretSource,
        client_secret_next: SecretSource,
        client_auth: ClientAuth,
        basic_encoding: BasicEncoding,
        assertion: Assertion,
        client_certificate: PathBuf,
        client_key: PathBuf,
        username: String,
        password: SecretSource,
        refresh_token: SecretSource,
        max_rotations: u64,
        subject_token: SecretSource,
        subject_token_type: String,
        audience: String,
        resource: Texts,
        extra: TextsByName,
        request_headers: SecretsByName,
        request_format: RequestFormat,
        request_fields: TextsByName,
        fields: Fields,
        token_types: Texts,
        errors: Errors,
        scopes: Texts,
        require_scopes: RequiredScopes,
        expect_jwt: bool,
        refresh_margin: Duration,
        default_lifetime: Duration,
        timeout: Duration,
        connect_timeout: Duration,
        quota: Rate,
        retry_after_max: Duration,
        ca_file: PathBuf,
        system_roots: bool,
        proxy: String,
        http_version: HttpVersion,
        state_file: PathBuf,
        state_key: SecretSource,
        state_key_previous: OneOrMany<SecretSource>,
        required: bool,
        login_stub: Texts,
    }

    /// `assertion` of a credential: a JWT that the daemon signs, or one that another process makes (RFC 7523 §3).
    inline("a table such as { key = { file = \"key.pem\" }, alg = \"RS256\" }") Assertion {
        key: SecretSource,
        kid: String,
        alg: SigningAlgorithm,
        aud: String,
        sub: String,
        claims: ClaimsByName,
        lifetime: Duration,
        x5t: bool,
        file: PathBuf,
    }

    /// `fields` of a credential: the places of the members of a token response.
    inline("a table such as { access_token = \"token\" }") Fields {
        access_token: String,
        expires_in: String,
        refresh_token: String,
        scope: String,
    }

    /// `errors` of a credential: further error codes of its server.
    inline("a table such as { dead = [\"session_expired\"] }") Errors {
        dead: Texts,
        throttled: Texts,
        client: Texts,
        transient: Texts,
    }

    /// `quota` of a credential: `requests` within `per`.
    inline("a table such as { requests = 10, per = \"60s\" }") Rate {
        requests: u32,
        per: Duration,
    }
}

shapes! {
    Credentials: <BTreeMap<Spanned<String>, Entry<Credential>>>::shape(),
    Claim: Shape::Claim,
}

/// `[credentials.NAME]`, by name.
#[derive(Debug, Default)]
pub(in crate::config) struct Credentials(pub(in crate::config) BTreeMap<Spanned<String>, Entry<Credential>>);

impl Value for Credentials {
    fn read(value: &Written<'_>, path: &str, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            return reader.not_a_section(value, path, "[credentials.NAME]");
        };
        let is_key = |key: &str| Credential::KEYS.contains(&key);
        if table.iter().any(|(key, value)| is_key(key.get_ref()) && !value.get_ref().is_table()) {
            let help = "write [credentials.NAME], with a name of your choice, and that name in `credential` of the routes";
            reader.problems.push(Problem::error(value.span(), "a credential needs a name").help(help));
            return None;
        }
        Value::read(value, path, reader).map(Self)
    }
}
