//! A token request: the parameters of its grant, and the client's authentication.
//!
//! RFC 6749 §4.1.3, §4.3, §4.4 and §6, RFC 7523 §2, RFC 8693 §2.1, RFC 8705 §2: one client authentication in a request, no
//! parameter twice, nothing in the URI.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue};
use secrecy::zeroize::Zeroizing;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, Serializer};
use url::form_urlencoded;

use super::assertion::{self, Validity};
use crate::clock::wall_clock;
use crate::config::model::identity::{Assertion, ClientAuth, Grant, RequestHeader};
use crate::config::model::request::RequestFormat;
use crate::config::model::signing_key::KeyError;
use crate::config::{BasicEncoding, Credential, Identity};
use crate::http::secret_header_value;

/// RFC 7523 §2.2.
const CLIENT_ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// A token request without its URL. The type has no `Debug`, because its body holds secrets.
pub(crate) struct TokenRequest {
    /// The encoded parameters, which are wiped when dropped.
    pub body: Bytes,
    /// The header fields. Values with a secret are marked sensitive.
    pub headers: HeaderMap,
    /// The secrets in the request, which must not be quoted from its response.
    pub secrets: Vec<SecretString>,
}

impl TokenRequest {
    /// The request for an identity's grant. Every JWT in it is new.
    pub(crate) fn new(credential: &Credential, identity: &Identity<SecretString>) -> Result<Self, KeyError> {
        let mut parameters = Parameters::default();
        parameters.add_grant(identity)?;
        // A code has the scopes of its authorization request (RFC 6749 §4.1.3), and its redirect_uri is added above.
        let is_code = matches!(identity.grant, Grant::AuthorizationCode { .. });
        if !credential.scopes.is_empty() && !is_code {
            parameters.add("scope", credential.scopes.join(" "));
        }
        let shape = &credential.parameters;
        if let Some(audience) = &shape.audience {
            parameters.add("audience", audience);
        }
        for resource in &shape.resources {
            parameters.add("resource", resource);
        }
        let authorization = parameters.add_client(identity, shape.names.contains_key("client_id"))?;
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        for header in &identity.request_headers {
            let (name, value) = parameters.header(header);
            headers.insert(name, value);
        }
        headers.extend(authorization.map(|value| (AUTHORIZATION, value)));
        let all = parameters
            .all
            .iter()
            .filter_map(|(name, value)| Some((shape.name(name)?, value.expose_secret())));
        let extra = shape.extra.iter().filter(|(name, _)| !(is_code && *name == "redirect_uri"));
        let all = all.chain(extra.map(|(name, value)| (name.as_str(), value.as_str())));
        let (body, content_type) = match shape.format {
            RequestFormat::Form => (form(all), "application/x-www-form-urlencoded"),
            RequestFormat::Json => (json(all), "application/json"),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        Ok(Self { body, headers, secrets: parameters.secrets })
    }
}

/// The parameters of a request, in order.
#[derive(Default)]
struct Parameters {
    all: Vec<(&'static str, SecretString)>,
    secrets: Vec<SecretString>,
}

impl Parameters {
    fn add(&mut self, name: &'static str, value: impl Into<String>) {
        self.all.push((name, SecretString::from(value.into())));
    }

    fn add_secret(&mut self, name: &'static str, value: &SecretString) {
        self.secrets.push(value.clone());
        self.all.push((name, value.clone()));
    }

    /// A configured field. No text may quote its value.
    fn header(&mut self, header: &RequestHeader<SecretString>) -> (HeaderName, HeaderValue) {
        let RequestHeader { name, value, is_secret } = header;
        self.secrets.extend(is_secret.then(|| value.clone()));
        let value = secret_header_value(&[value.expose_secret()]).expect("checked when the value is read");
        (name.clone(), value)
    }

    fn add_grant(&mut self, identity: &Identity<SecretString>) -> Result<(), KeyError> {
        self.add("grant_type", grant_type(identity));
        match &identity.grant {
            Grant::Password { username, password } => {
                self.add("username", username);
                self.add_secret("password", password);
            }
            Grant::ClientCredentials | Grant::RefreshToken(None) => {}
            Grant::RefreshToken(Some(token)) => self.add_secret("refresh_token", token),
            Grant::AuthorizationCode { code, code_verifier, redirect_uri } => {
                self.add_secret("code", code);
                self.add_secret("code_verifier", code_verifier);
                self.add("redirect_uri", redirect_uri);
            }
            Grant::JwtBearer(assertion) => {
                self.add_secret("assertion", &jwt(&identity.client_id, assertion)?);
            }
            Grant::TokenExchange { subject_token, subject_token_type } => {
                self.add_secret("subject_token", subject_token);
                self.add("subject_token_type", subject_token_type);
            }
        }
        Ok(())
    }

    /// Adds the client's authentication to the body. Answers the `Authorization` value, if there is one.
    ///
    /// A JWT names the client. The id is sent besides if the configuration `names` the parameter.
    fn add_client(
        &mut self,
        identity: &Identity<SecretString>,
        names_id: bool,
    ) -> Result<Option<HeaderValue>, KeyError> {
        let client_id = &identity.client_id;
        match &identity.client_auth {
            ClientAuth::Basic { secret, encoding } => {
                self.secrets.push(secret.clone());
                return Ok(Some(basic(client_id, secret, *encoding)));
            }
            ClientAuth::Post { secret } => {
                self.add("client_id", client_id);
                self.add_secret("client_secret", secret);
            }
            ClientAuth::SecretJwt { secret, audience, claims, lifetime } => {
                let validity = Validity { now: wall_clock(), lifetime: *lifetime };
                let jwt = assertion::under_secret(client_id, secret, audience, claims, validity);
                self.secrets.push(secret.clone());
                if names_id {
                    self.add("client_id", client_id);
                }
                self.add("client_assertion_type", CLIENT_ASSERTION_TYPE);
                self.add_secret("client_assertion", &jwt);
            }
            ClientAuth::PrivateKeyJwt(assertion) => {
                let jwt = jwt(client_id, assertion)?;
                // Another process may make assertions that do not name the client (RFC 7523 §3, RFC 7521 §4.2).
                if names_id || matches!(assertion, Assertion::File(_)) {
                    self.add("client_id", client_id);
                }
                self.add("client_assertion_type", CLIENT_ASSERTION_TYPE);
                self.add_secret("client_assertion", &jwt);
            }
            ClientAuth::None if client_id.is_empty() => {}
            ClientAuth::TlsClientAuth | ClientAuth::None => self.add("client_id", client_id),
        }
        Ok(None)
    }
}

/// The parameter `grant_type` of a request. A refresh has the standard name in any case.
pub(super) fn grant_type<S>(identity: &Identity<S>) -> &str {
    match (&identity.grant, &identity.grant_type) {
        (Grant::RefreshToken(_), _) => "refresh_token",
        (_, Some(own)) => own,
        (Grant::JwtBearer(_), None) => "urn:ietf:params:oauth:grant-type:jwt-bearer",
        (Grant::TokenExchange { .. }, None) => "urn:ietf:params:oauth:grant-type:token-exchange",
        (named, None) => named.name(),
    }
}

/// The JWT of a request: a new one, or the one that another process has made.
fn jwt(client_id: &str, assertion: &Assertion<SecretString>) -> Result<SecretString, KeyError> {
    match assertion {
        Assertion::Signed(signed) => assertion::under_key(client_id, signed, wall_clock()),
        Assertion::File(made) => Ok(made.clone()),
    }
}

fn form<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Bytes {
    let parameters: Vec<_> = parameters.collect();
    let mut form = form_urlencoded::Serializer::new(buffer(&parameters));
    form.extend_pairs(parameters);
    wiped(form.finish())
}

/// Encodes the parameters as a JSON object. A parameter with several values becomes a list.
fn json<'a>(parameters: impl Iterator<Item = (&'a str, &'a str)>) -> Bytes {
    let parameters: Vec<_> = parameters.collect();
    let mut object = BTreeMap::<_, Vec<_>>::new();
    for (name, value) in &parameters {
        object.entry(name).or_default().push(value);
    }
    let mut json = buffer(&parameters).into_bytes();
    let mut serializer = serde_json::Serializer::new(&mut json);
    let members = object.into_iter().map(|(name, values)| (name, OneOrMany(values)));
    serializer.collect_map(members).expect("texts serialize into a buffer");
    wiped(json)
}

/// The values of a parameter: one text, or a list of texts.
struct OneOrMany<'a>(Vec<&'a &'a str>);

impl Serialize for OneOrMany<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [value] => serializer.serialize_str(value),
            values => serializer.collect_seq(values),
        }
    }
}

/// A buffer large enough for the parameters in either format, where a byte becomes at most six (`\u001f`): a buffer that
/// grows leaves copies behind that are not wiped.
fn buffer(parameters: &[(&str, &str)]) -> String {
    const PUNCTUATION_BYTES: usize = 8;
    let sizes = parameters.iter().map(|(name, value)| 6 * (name.len() + value.len()) + PUNCTUATION_BYTES);
    String::with_capacity(sizes.sum::<usize>() + PUNCTUATION_BYTES)
}

/// Bytes that are wiped when their last reference is dropped.
fn wiped(body: impl Into<Vec<u8>>) -> Bytes {
    Bytes::from_owner(Zeroizing::new(body.into()))
}

/// The `Authorization` value of HTTP Basic. RFC 6749 §2.3.1 has id and secret form-encoded first; most servers expect them
/// raw.
fn basic(client_id: &str, secret: &SecretString, encoding: BasicEncoding) -> HeaderValue {
    let encode = |text: &str| -> Zeroizing<String> {
        Zeroizing::new(match encoding {
            BasicEncoding::Auto | BasicEncoding::Raw => text.to_owned(),
            BasicEncoding::Form => form_urlencoded::byte_serialize(text.as_bytes()).collect(),
        })
    };
    let pair = [&encode(client_id), ":", &encode(secret.expose_secret())].concat();
    let pair = SecretString::from(pair);
    let encoded = SecretString::from(STANDARD.encode(pair.expose_secret()));
    secret_header_value(&["Basic ", encoded.expose_secret()]).expect("base64 is visible ASCII")
}

#[cfg(test)]
mod tests;
