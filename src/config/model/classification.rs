//! The classification of a credential's fields: whether a field decides whose token is requested, or only how.
//!
//! [`Credential::fields`] takes a credential apart without `..`: a new field does not compile unclassified. Other modules
//! use the derived methods: `==`, [`Credential::shares_tokens_with`], [`Credential::shares_state_with`], and the digests
//! that a state file keeps.
//!
//! | the field decides | a change of the field |
//! | --- | --- |
//! | [`Decides::Account`]: the client, its grant and its server | drops everything: the state file is refused |
//! | [`Decides::Token`]: on whose behalf and with which rights a token is issued | drops the access token; refresh token, quota and `Retry-After` stay |
//! | [`Decides::Request`]: how a token request is written | keeps the token and requests the next one at once |
//! | [`Decides::Secret`]: the content of a secret | as [`Decides::Request`] |
//! | [`Decides::Operation`]: everything else | keeps the token and requests nothing |
//!
//! A field whose effect depends on the server is in an upper row: a needless token request is cheaper than a token of
//! another principal.

mod canonical;
mod settings;
mod subjects;

use std::fmt;
use std::os::unix::ffi::OsStrExt;

use secrecy::SecretString;

use self::canonical::{Canonical, digest};
use super::certificate;
use super::credential::{ClientCertificate, Credential, Proxy, Quota, Roots};
use super::endpoint::Issuer;
use super::identity::{Assertion, ClientAuth, Grant, Identity, RequestHeader, SignedAssertion};
use super::login::Login;
use super::pem_file::PemFile;
use super::secret::Secret;

/// A row of the module's table. An identity covers the fields of one row and of all rows above.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Decides {
    Account,
    Token,
    Request,
    Secret,
    Operation,
}

/// One classified field.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Field {
    /// The key in the configuration.
    key: &'static str,
    /// Whether the field belongs to the fallback grant.
    is_of_fallback: bool,
    decides: Decides,
    /// A digest of the value.
    value: [u8; 32],
}

/// A digest of identifying fields: equal in all processes with an equal configuration.
///
/// The digest may cover short secrets (values of `extra`), so that it is stored only encrypted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct IdentityDigest([u8; 32]);

impl IdentityDigest {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the digest.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    fn of<'f>(label: &str, fields: impl Iterator<Item = &'f Field>) -> Self {
        Self(digest(|to| {
            label.write(to);
            for field in fields {
                (field.is_of_fallback, (field.key, field.value.as_slice())).write(to);
            }
        }))
    }
}

impl fmt::Debug for IdentityDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityDigest").finish_non_exhaustive()
    }
}

impl Eq for Credential {}

/// Whether no field differs.
impl PartialEq for Credential {
    fn eq(&self, other: &Self) -> bool {
        self.fields() == other.fields()
    }
}

impl Credential {
    /// Whether tokens of both have one principal and equal rights: a change keeps token, discovered addresses and history.
    pub fn shares_tokens_with(&self, other: &Self) -> bool {
        self.token_identity() == other.token_identity()
    }

    /// Whether both are one account: a change keeps the refresh token, the quota and a `Retry-After`.
    pub fn shares_state_with(&self, other: &Self) -> bool {
        self.state_identity() == other.state_identity()
    }

    /// Identifies the account; the state file of another account is refused. The digest covers no secret.
    pub fn state_identity(&self) -> IdentityDigest {
        self.identity_up_to("account", Decides::Account)
    }

    /// Identifies the principal and the rights of an access token.
    pub fn token_identity(&self) -> IdentityDigest {
        self.identity_up_to("token", Decides::Token)
    }

    /// Identifies the content of a token request, with the secrets as they are now.
    pub fn request_identity(&self, now: &Identity<SecretString>) -> IdentityDigest {
        let request = self.identity_up_to("request", Decides::Request);
        let secrets = now.secrets();
        IdentityDigest(digest(|to| (request.0.as_slice(), secrets).write(to)))
    }

    /// Identifies the principal of the fallback grant: a refresh token from the fallback is used for this principal only.
    pub fn fallback_identity(&self) -> Option<IdentityDigest> {
        self.identity.fallback.as_ref()?;
        let fields = self.fields();
        let of_fallback = |field: &&Field| field.is_of_fallback && field.decides <= Decides::Token;
        Some(IdentityDigest::of("fallback", fields.iter().filter(of_fallback)))
    }

    fn identity_up_to(&self, label: &str, last: Decides) -> IdentityDigest {
        IdentityDigest::of(label, self.fields().iter().filter(|field| field.decides <= last))
    }

    /// The classification of every field.
    fn fields(&self) -> Vec<Field> {
        let Self {
            name,
            provider,
            token_url,
            identity,
            client_certificate,
            login,
            parameters,
            fields,
            token_types,
            errors,
            scopes,
            require_scopes,
            expect_jwt,
            refresh_margin,
            default_lifetime,
            timeout,
            refresh_timeout,
            connect_timeout,
            quota: Quota { requests, per },
            api_quota,
            retry_after_max,
            roots,
            ca_file,
            proxy,
            http_version,
            max_rotations,
            rotation_grace,
            state,
            required,
            discovery,
            login_stub,
            protected,
            set_if_absent,
        } = self;
        let mut all = Classified::default();
        all.add(Decides::Account, "name", name);
        all.add(Decides::Account, "token_url", token_url);
        all.identity(identity);
        all.client_certificate(client_certificate.as_ref());
        all.login(login.as_ref());
        all.parameters(parameters);
        all.answer_fields(fields);
        all.add(Decides::Request, "token_types", token_types);
        all.error_codes(errors);
        all.add(Decides::Token, "scopes", scopes);
        // A token that met the old requirements may not meet the new ones.
        all.add(Decides::Token, "require_scopes", require_scopes);
        all.add(Decides::Token, "expect_jwt", expect_jwt);
        // Another issuer names the address of another API.
        all.add(Decides::Token, "issuer", &discovery.as_ref().map(url::Url::as_str));
        all.add(Decides::Operation, "refresh_margin", refresh_margin);
        all.add(Decides::Operation, "default_lifetime", default_lifetime);
        all.add(Decides::Operation, "timeout", &(*timeout, *refresh_timeout));
        all.add(Decides::Operation, "connect_timeout", connect_timeout);
        all.add(Decides::Operation, "quota", &(u64::from(requests.get()), *per));
        all.api_quota(api_quota.as_ref());
        all.add(Decides::Operation, "retry_after_max", retry_after_max);
        let (certificates, has_system) = match roots {
            Roots::System => (None, true),
            Roots::Only(certificates) => (Some(certificates), false),
            Roots::SystemAnd(certificates) => (Some(certificates), true),
        };
        all.add(Decides::Operation, "ca_file", &certificates);
        all.add(Decides::Operation, "ca_file", &ca_file.as_ref().map(path_of));
        all.add(Decides::Operation, "system_roots", &has_system);
        let proxy = proxy.as_ref().map(|Proxy { url, except }| (url, except));
        all.add(Decides::Operation, "proxy", &proxy);
        all.add(Decides::Operation, "http_version", http_version);
        all.add(Decides::Operation, "max_rotations", max_rotations);
        all.add(Decides::Operation, "rotation_grace", rotation_grace);
        all.state_place(state.as_ref());
        all.add(Decides::Operation, "required", required);
        all.add(Decides::Operation, "login_stub", login_stub);
        let protected: Vec<String> = protected.iter().map(ToString::to_string).collect();
        all.add(Decides::Operation, "provider", provider);
        all.add(Decides::Operation, "provider", &protected);
        let set: Vec<_> =
            set_if_absent.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        all.add(Decides::Operation, "provider", &set);
        all.list
    }
}

/// Collects the classified fields.
#[derive(Default)]
struct Classified {
    list: Vec<Field>,
    is_of_fallback: bool,
}

impl Classified {
    fn add(&mut self, decides: Decides, key: &'static str, value: &(impl Canonical + ?Sized)) {
        let value = digest(|to| value.write(to));
        self.list.push(Field { key, is_of_fallback: self.is_of_fallback, decides, value });
    }

    /// Adds the source of a secret, and its content.
    fn secret(&mut self, source: Decides, key: &'static str, secret: &Secret) {
        self.add(source, key, &secret.source);
        self.add(Decides::Secret, key, secret.initial());
    }

    fn identity(&mut self, identity: &Identity<Secret>) {
        let Identity {
            client_id,
            client_auth,
            grant,
            fallback,
            client_secret_next,
            grant_type,
            request_headers,
        } = identity;
        self.add(Decides::Account, "client_id", client_id);
        self.request_headers(request_headers);
        self.client_auth(client_auth);
        if let Some(next) = client_secret_next {
            self.secret(Decides::Operation, "client_secret_next", next);
        }
        self.add(Decides::Account, "grant", grant.name());
        self.grant(grant);
        // Beside a fallback the grant is a refresh token, so that the name is the fallback's.
        self.is_of_fallback = fallback.is_some();
        self.add(Decides::Token, "grant_type", grant_type);
        if let Some(fallback) = fallback {
            self.add(Decides::Token, "fallback", fallback.name());
            self.grant(fallback);
        }
        self.is_of_fallback = false;
    }

    /// A field may name a tenant or a key of the server.
    fn request_headers(&mut self, headers: &[RequestHeader<Secret>]) {
        for RequestHeader { name, value, is_secret: _ } in headers {
            self.add(Decides::Token, "request_headers", name.as_str());
            if value.is_plain() {
                self.add(Decides::Token, "request_headers", value.initial());
            } else {
                self.secret(Decides::Token, "request_headers", value);
            }
        }
    }

    fn client_auth(&mut self, client_auth: &ClientAuth<Secret>) {
        self.add(Decides::Token, "client_auth", client_auth.name());
        match client_auth {
            ClientAuth::Basic { secret, encoding } => {
                self.secret(Decides::Operation, "client_secret", secret);
                self.add(Decides::Request, "basic_encoding", encoding);
            }
            ClientAuth::Post { secret } => self.secret(Decides::Operation, "client_secret", secret),
            ClientAuth::SecretJwt { secret, audience, claims, lifetime } => {
                self.secret(Decides::Operation, "client_secret", secret);
                self.add(Decides::Request, "assertion.aud", audience);
                self.add(Decides::Token, "assertion.claims", claims);
                self.add(Decides::Request, "assertion.lifetime", lifetime);
            }
            // The audience names the server that `token_url` decides.
            ClientAuth::PrivateKeyJwt(assertion) => self.assertion(assertion, Decides::Request),
            ClientAuth::TlsClientAuth | ClientAuth::None => {}
        }
    }

    fn grant(&mut self, grant: &Grant<Secret>) {
        match grant {
            Grant::ClientCredentials | Grant::RefreshToken(None) => {}
            Grant::Password { username, password } => {
                self.add(Decides::Token, "username", username);
                self.secret(Decides::Operation, "password", password);
            }
            Grant::RefreshToken(Some(token)) => self.secret(Decides::Token, "refresh_token", token),
            Grant::AuthorizationCode { code, code_verifier, redirect_uri } => {
                self.secret(Decides::Token, "code", code);
                self.secret(Decides::Operation, "code_verifier", code_verifier);
                self.add(Decides::Request, "redirect_uri", redirect_uri);
            }
            Grant::JwtBearer(assertion) => self.assertion(assertion, Decides::Token),
            Grant::TokenExchange { subject_token, subject_token_type } => {
                self.secret(Decides::Token, "subject_token", subject_token);
                self.add(Decides::Token, "subject_token_type", subject_token_type);
            }
        }
    }

    fn assertion(&mut self, assertion: &Assertion<Secret>, audience_decides: Decides) {
        let signed = match assertion {
            Assertion::Signed(signed) => &**signed,
            Assertion::File(file) => return self.secret(Decides::Token, "assertion.file", file),
        };
        let SignedAssertion { key, kid, algorithm, audience, subject, claims, lifetime, has_thumbprint } =
            signed;
        self.secret(Decides::Operation, "assertion.key", key);
        self.add(Decides::Token, "assertion.kid", kid);
        self.add(Decides::Request, "assertion.alg", algorithm);
        self.add(audience_decides, "assertion.aud", audience);
        self.add(Decides::Token, "assertion.sub", subject.as_deref().unwrap_or_default());
        self.add(Decides::Token, "assertion.claims", claims);
        self.add(Decides::Request, "assertion.lifetime", lifetime);
        self.add(Decides::Request, "assertion.x5t", has_thumbprint);
    }

    /// The server knows the client by the names in the certificate (RFC 8705 §2.1): a renewed certificate with these names
    /// is the same principal. Without names, each certificate is a principal of its own.
    fn client_certificate(&mut self, certificate: Option<&ClientCertificate>) {
        let Some(ClientCertificate { chain, key, certificate_file, key_file }) = certificate else { return };
        let names = chain.first().map(|first| {
            certificate::subject(first).unwrap_or_else(|| (first.as_ref().to_vec(), Vec::new()))
        });
        self.add(Decides::Token, "client_certificate", &names);
        self.add(Decides::Request, "client_certificate", chain);
        self.add(Decides::Request, "client_key", key.secret_der());
        self.add(Decides::Operation, "client_certificate", path_of(certificate_file));
        self.add(Decides::Operation, "client_key", path_of(key_file));
    }

    /// The endpoints of `bearerd login`, whose grant replaces the current one whatever the endpoints are.
    fn login(&mut self, login: Option<&Login>) {
        let Some(Login { authorize_url, redirect_uri, issuer }) = login else { return };
        self.add(Decides::Operation, "authorize_url", authorize_url);
        self.add(Decides::Operation, "redirect_uri", redirect_uri.as_str());
        self.add(Decides::Operation, "issuer", &issuer.as_ref().map(Issuer::as_str));
    }
}

fn path_of(file: &PemFile) -> &[u8] {
    file.path.as_os_str().as_bytes()
}

#[cfg(test)]
mod tests;
