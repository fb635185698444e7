//! An issuer's metadata: the URLs of its endpoints, and what they support (RFC 8414, OpenID Connect Discovery).
//!
//! A document is used only if it names the configured issuer (RFC 8414 §3.3). The URL of RFC 8414 is tried first, and that of
//! OpenID Connect if the first document is missing or unusable: servers answer unknown paths in many ways. A server that does
//! not respond at all is not tried a second time.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout_at;
use url::Url;

use super::exchange::MAX_ANSWER_BYTES;
use super::foreign::foreign;
use super::{exchange, request};
use crate::config::model::endpoint::is_protected;
use crate::config::model::identity::ClientAuth;
use crate::config::{Credential, Issuer};
use crate::peer_text::printable;
use crate::token::error::{Malformed, MetadataError, MetadataFlaw, TokenError};

/// The members of an issuer's metadata that are used (RFC 8414 §2). Other members are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metadata {
    /// The token endpoint for this client.
    pub token_endpoint: Url,
    /// Whether the endpoints may be reached over loopback without TLS; only if the issuer itself is reached
    /// so.
    may_be_plain: bool,
    /// The unchecked text; [`Metadata::authorization_endpoint`] checks it.
    authorization_endpoint: Option<String>,
    grant_types: Option<Vec<String>>,
    client_auths: Option<Vec<String>>,
    challenge_methods: Option<Vec<String>>,
    /// Whether authorization responses have the parameter `iss` (RFC 9207 §3).
    pub names_itself: bool,
}

/// The document on the wire.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    token_endpoint: Option<String>,
    authorization_endpoint: Option<String>,
    grant_types_supported: Option<Value>,
    token_endpoint_auth_methods_supported: Option<Value>,
    code_challenge_methods_supported: Option<Value>,
    authorization_response_iss_parameter_supported: Option<bool>,
    mtls_endpoint_aliases: Option<Value>,
}

/// Fetches the metadata of a credential's issuer, from one URL and then from the other, with one time-out for both.
///
/// # Errors
///
/// [`TokenError::Discovery`] or [`TokenError::Throttled`].
pub(in crate::token) async fn discover(
    http: &reqwest::Client,
    issuer: &Issuer,
    credential: &Credential,
) -> Result<Metadata, TokenError> {
    let shows_certificate = credential.client_certificate.is_some();
    let deadline = tokio::time::Instant::now() + credential.timeout;
    let mut flaws = Vec::new();
    for url in [issuer.oauth_metadata(), issuer.openid_configuration()] {
        let path = url.path().to_owned();
        let flaw = match timeout_at(deadline, ask(http, url, issuer, shows_certificate)).await {
            Ok(Ok(Ok(metadata))) => return Ok(metadata),
            Ok(Ok(Err(flaw))) => flaw,
            Ok(Err(throttled)) => return Err(throttled),
            Err(_) => MetadataFlaw::Unreachable("no complete answer in time".to_owned()),
        };
        let is_unreachable = matches!(flaw, MetadataFlaw::Unreachable(_));
        flaws.push((path, flaw));
        if is_unreachable {
            break;
        }
    }
    Err(TokenError::Discovery(MetadataError { flaws }))
}

async fn ask(
    http: &reqwest::Client,
    url: Url,
    issuer: &Issuer,
    shows_certificate: bool,
) -> Result<Result<Metadata, MetadataFlaw>, TokenError> {
    Ok(match exchange::get(http, url).await {
        Ok((StatusCode::OK, body)) => {
            Metadata::parse(&body, issuer, shows_certificate).map_err(|flaw| match flaw {
                MetadataFlaw::NotMetadata => foreign(&HeaderMap::new(), &body, &[])
                    .map_or(MetadataFlaw::NotMetadata, MetadataFlaw::Body),
                other => other,
            })
        }
        Ok((status, _)) if status.is_redirection() => Err(MetadataFlaw::Redirect(status.as_u16())),
        Ok((status, _)) => Err(MetadataFlaw::Status(status.as_u16())),
        Err(TokenError::Malformed(flaw)) => Err(MetadataFlaw::Body(flaw)),
        Err(TokenError::Network(why) | TokenError::Unreached(why)) => Err(MetadataFlaw::Unreachable(why)),
        Err(throttled) => return Err(throttled),
    })
}

impl Metadata {
    /// Reads an issuer's document. A client that shows a certificate must use the endpoint that the document names for such
    /// clients, if any (RFC 8705 §5).
    pub fn parse(json: &[u8], issuer: &Issuer, shows_certificate: bool) -> Result<Self, MetadataFlaw> {
        if json.len() > MAX_ANSWER_BYTES {
            return Err(MetadataFlaw::Body(Malformed::TooLarge));
        }
        let document: Document = serde_json::from_slice(json).map_err(|_| MetadataFlaw::NotMetadata)?;
        if document.issuer != issuer.as_str() {
            return Err(MetadataFlaw::OtherIssuer(printable(&document.issuer)));
        }
        let alias = document.mtls_endpoint_aliases.as_ref().filter(|_| shows_certificate);
        let alias = alias.and_then(|aliases| aliases.get("token_endpoint")).filter(|alias| !alias.is_null());
        let may_be_plain = issuer.is_plain();
        let token_endpoint = match alias {
            Some(alias) => {
                let alias = alias.as_str().unwrap_or_default();
                endpoint("mtls_endpoint_aliases.token_endpoint", Some(alias), may_be_plain)?
            }
            None => endpoint("token_endpoint", document.token_endpoint.as_deref(), may_be_plain)?,
        };
        Ok(Self {
            token_endpoint,
            may_be_plain,
            authorization_endpoint: document.authorization_endpoint,
            grant_types: listed(document.grant_types_supported),
            client_auths: listed(document.token_endpoint_auth_methods_supported),
            challenge_methods: listed(document.code_challenge_methods_supported),
            names_itself: document.authorization_response_iss_parameter_supported == Some(true),
        })
    }

    /// The authorization endpoint.
    ///
    /// # Errors
    ///
    /// [`MetadataFlaw::Missing`] or [`MetadataFlaw::Unprotected`].
    pub fn authorization_endpoint(&self) -> Result<Url, MetadataFlaw> {
        endpoint("authorization_endpoint", self.authorization_endpoint.as_deref(), self.may_be_plain)
    }

    /// The methods of the credential's token requests that the metadata does not list, if the token endpoint comes from the
    /// metadata. Metadata without a list supports every method. A client without authentication needs no method: many servers
    /// know public clients and do not list `none`.
    pub fn not_listed_for_tokens(&self, credential: &Credential) -> Vec<&'static str> {
        let (grant, auth) = (&credential.identity.grant, &credential.identity.client_auth);
        let mut lacking = Vec::new();
        if credential.token_url.issuer().is_none() {
            return lacking;
        }
        if lacks(self.grant_types.as_deref(), &[request::grant_type(&credential.identity)]) {
            lacking.push(grant.name());
        }
        if !matches!(auth, ClientAuth::None) && lacks(self.client_auths.as_deref(), auth_methods(auth)) {
            lacking.push(auth.name());
        }
        lacking
    }

    /// The methods of the credential's login, if it has one, and of its token requests that the metadata does not list.
    pub fn not_listed(&self, credential: &Credential) -> Vec<&'static str> {
        let mut lacking = self.not_listed_for_tokens(credential);
        let Some(login) = &credential.login else { return lacking };
        if login.authorize_url.issuer().is_none() {
            return lacking;
        }
        let of_login = credential.identity.grant_type.as_deref().unwrap_or("authorization_code");
        if lacks(self.grant_types.as_deref(), &[of_login]) {
            lacking.push("authorization_code");
        }
        if lacks(self.challenge_methods.as_deref(), &["S256"]) {
            lacking.push("PKCE with S256");
        }
        lacking
    }
}

/// Whether a list has none of the names.
fn lacks(known: Option<&[String]>, names: &[&str]) -> bool {
    known.is_some_and(|known| !known.iter().any(|one| names.contains(&one.as_str())))
}

/// A list of strings. Any other value counts as missing: only warnings depend on these lists.
fn listed(value: Option<Value>) -> Option<Vec<String>> {
    serde_json::from_value(value?).ok()
}

fn endpoint(name: &'static str, text: Option<&str>, may_be_plain: bool) -> Result<Url, MetadataFlaw> {
    let text = text.ok_or(MetadataFlaw::Missing(name))?;
    let url = Url::parse(text).map_err(|_| MetadataFlaw::Unprotected(name))?;
    let is_bare = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    let is_protected = is_protected(&url) && (may_be_plain || url.scheme() == "https");
    if is_protected && is_bare { Ok(url) } else { Err(MetadataFlaw::Unprotected(name)) }
}

/// The names of a client authentication; a certificate has one name for each way to verify it (RFC 8705 §2).
const fn auth_methods<S>(auth: &ClientAuth<S>) -> &'static [&'static str] {
    match auth {
        ClientAuth::Basic { .. } => &["client_secret_basic"],
        ClientAuth::Post { .. } => &["client_secret_post"],
        ClientAuth::SecretJwt { .. } => &["client_secret_jwt"],
        ClientAuth::PrivateKeyJwt(_) => &["private_key_jwt"],
        ClientAuth::TlsClientAuth => &["tls_client_auth", "self_signed_tls_client_auth"],
        ClientAuth::None => &["none"],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::fixture;

    fn credential(lines: &str) -> Credential {
        let config = fixture::config("", &format!("issuer = \"https://a.test/x\"\n{lines}"), "x");
        Credential::clone(&config.credentials[0])
    }

    fn issuer() -> Issuer {
        let config = fixture::config("", "issuer = \"https://a.test/x\"", "x");
        config.credentials[0].token_url.issuer().unwrap().clone()
    }

    fn parse(members: &str) -> Result<Metadata, MetadataFlaw> {
        Metadata::parse(format!("{{\"issuer\":\"https://a.test/x\"{members}}}").as_bytes(), &issuer(), false)
    }

    const TOKEN: &str = ",\"token_endpoint\":\"https://b.test/t\"";

    #[test]
    fn a_document_needs_the_right_issuer_and_protected_endpoints() {
        assert_eq!(parse(TOKEN).unwrap().token_endpoint.as_str(), "https://b.test/t");
        assert!(parse(",\"token_endpoint\":\"https://b.test/t\",\"more\":[{}]").is_ok());
        let no_https = MetadataFlaw::Unprotected("token_endpoint");
        for (members, flaw) in [
            ("", MetadataFlaw::Missing("token_endpoint")),
            (",\"token_endpoint\":null", MetadataFlaw::Missing("token_endpoint")),
            (",\"token_endpoint\":5", MetadataFlaw::NotMetadata),
            (",\"token_endpoint\":\"http://b.test/t\"", no_https.clone()),
            (",\"token_endpoint\":\"http://127.0.0.1:8/t\"", no_https.clone()),
            (",\"token_endpoint\":\"/token\"", no_https.clone()),
            (",\"token_endpoint\":\"https://u:p@b.test/t\"", no_https.clone()),
            (",\"token_endpoint\":\"https://b.test/t#x\"", no_https.clone()),
            (",\"token_endpoint\":\"file:///t\"", no_https),
            (",\"issuer\":\"https://a.test/x\"", MetadataFlaw::NotMetadata),
        ] {
            assert_eq!(parse(members), Err(flaw), "{members}");
        }
        for (json, flaw) in [
            ("", MetadataFlaw::NotMetadata),
            ("<html>", MetadataFlaw::NotMetadata),
            ("[]", MetadataFlaw::NotMetadata),
            ("{}", MetadataFlaw::NotMetadata),
            ("{\"issuer\":\"https://a.test/x/\"}", MetadataFlaw::OtherIssuer("https://a.test/x/".into())),
            ("{\"issuer\":\"https://A.test/x\"}", MetadataFlaw::OtherIssuer("https://A.test/x".into())),
            ("{\"issuer\":\"a\\r\\nb\"}", MetadataFlaw::OtherIssuer("a??b".into())),
        ] {
            assert_eq!(Metadata::parse(json.as_bytes(), &issuer(), false), Err(flaw), "{json}");
        }
        let large = vec![b' '; MAX_ANSWER_BYTES + 1];
        assert_eq!(Metadata::parse(&large, &issuer(), false), Err(MetadataFlaw::Body(Malformed::TooLarge)));
    }

    /// The metadata of a remote issuer must not make bearerd send a secret to another process on this
    /// machine.
    #[test]
    fn only_a_plain_issuer_on_loopback_may_name_plain_endpoints_on_loopback() {
        let of = |issuer: &str, endpoint: &str| {
            let json = serde_json::json!({
                "issuer": issuer, "token_endpoint": endpoint, "authorization_endpoint": endpoint,
            });
            let issuer = Issuer::new(issuer, Url::parse(issuer).unwrap());
            let metadata = Metadata::parse(json.to_string().as_bytes(), &issuer, false)?;
            metadata.authorization_endpoint()
        };
        assert!(of("http://127.0.0.1:9", "http://127.0.0.1:8/t").is_ok());
        assert!(of("http://localhost:9", "http://[::1]:8/t").is_ok());
        assert!(of("http://127.0.0.1:9", "https://b.test/t").is_ok());
        assert!(of("http://127.0.0.1:9", "http://b.test/t").is_err());
        assert!(of("https://a.test", "http://127.0.0.1:8/t").is_err());
        assert!(of("https://localhost", "http://localhost/t").is_err());
    }

    #[test]
    fn a_client_with_a_certificate_uses_the_endpoint_for_certificates() {
        let of = |members: &str, shows_certificate| {
            let json = format!("{{\"issuer\":\"https://a.test/x\"{members}}}");
            let metadata = Metadata::parse(json.as_bytes(), &issuer(), shows_certificate);
            metadata.map(|metadata| metadata.token_endpoint.to_string())
        };
        let alias = |alias: &str| format!("{TOKEN},\"mtls_endpoint_aliases\":{alias}");
        let other = alias("{\"token_endpoint\":\"https://mtls.b.test/t\"}");
        assert_eq!(of(&other, true).as_deref(), Ok("https://mtls.b.test/t"));
        assert_eq!(of(&other, false).as_deref(), Ok("https://b.test/t"));
        for none in ["{}", "null", "[]", "7", "{\"token_endpoint\":null}"] {
            assert_eq!(of(&alias(none), true).as_deref(), Ok("https://b.test/t"), "{none}");
        }
        for bad in ["7", "\"http://mtls.b.test/t\""] {
            let members = alias(&format!("{{\"token_endpoint\":{bad}}}"));
            assert_eq!(
                of(&members, true),
                Err(MetadataFlaw::Unprotected("mtls_endpoint_aliases.token_endpoint"))
            );
            assert!(of(&members, false).is_ok());
        }
    }

    #[test]
    fn the_authorization_endpoint_is_checked_only_when_it_is_used() {
        let of = |members: &str| parse(&format!("{TOKEN}{members}")).unwrap().authorization_endpoint();
        assert_eq!(of(""), Err(MetadataFlaw::Missing("authorization_endpoint")));
        let plain = of(",\"authorization_endpoint\":\"http://b.test/a\"");
        assert_eq!(plain, Err(MetadataFlaw::Unprotected("authorization_endpoint")));
        assert!(of(",\"authorization_endpoint\":\"https://b.test/a?x=1\"").is_ok());
    }

    #[test]
    fn unlisted_methods_are_named_and_a_missing_list_refuses_nothing() {
        let lacking = |members: &str, lines: &str| {
            parse(&format!("{TOKEN}{members}")).unwrap().not_listed(&credential(lines))
        };
        let nothing: [&str; 0] = [];
        assert_eq!(lacking("", ""), nothing);
        let both = ",\"grant_types_supported\":[\"refresh_token\"],\
                    \"token_endpoint_auth_methods_supported\":[\"client_secret_post\"]";
        assert_eq!(lacking(both, ""), ["client_credentials", "client_secret_basic"]);
        assert_eq!(lacking(both, "client_auth = \"client_secret_post\""), ["client_credentials"]);
        assert_eq!(lacking(both, "client_auth = \"none\""), ["client_credentials"]);
        for odd in ["7", "\"refresh_token\"", "[7]", "null", "{}"] {
            assert_eq!(lacking(&format!(",\"grant_types_supported\":{odd}"), ""), nothing, "{odd}");
        }
        let exchange = "grant = \"token_exchange\"\nsubject_token = { env = \"S\" }";
        let listed = ",\"grant_types_supported\":[\"urn:ietf:params:oauth:grant-type:token-exchange\"]";
        assert_eq!(lacking(listed, exchange), nothing);
        assert_eq!(lacking(listed, ""), ["client_credentials"]);
    }

    #[test]
    fn methods_are_named_only_where_an_endpoint_of_the_metadata_needs_them() {
        let metadata = parse(&format!(
            "{TOKEN},\"grant_types_supported\":[\"x\"],\"token_endpoint_auth_methods_supported\":[\"x\"],\
             \"code_challenge_methods_supported\":[\"plain\"]"
        ))
        .unwrap();
        let login = "grant = \"authorization_code\"\nstate_file = \"s\"\n\
                     state_key = \"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\"";
        let [token_url, authorize_url] =
            ["token_url", "authorize_url"].map(|key| format!("\n{key} = \"https://b.test/x\""));
        let tokens = ["refresh_token", "client_secret_basic"];
        let of_login = ["authorization_code", "PKCE with S256"];
        for (lines, for_tokens, all) in [
            (login.to_owned(), &tokens[..], [tokens, of_login].concat()),
            (format!("{login}{token_url}"), &[], of_login.to_vec()),
            (format!("{login}{authorize_url}"), &tokens, tokens.to_vec()),
        ] {
            let credential = credential(&lines);
            assert_eq!(metadata.not_listed_for_tokens(&credential), for_tokens, "{lines}");
            assert_eq!(metadata.not_listed(&credential), all, "{lines}");
        }
    }

    proptest! {
        #[test]
        fn no_document_makes_it_panic(json in prop::collection::vec(any::<u8>(), 0..200), text in ".{0,40}") {
            let _ = Metadata::parse(&json, &issuer(), true);
            let json = serde_json::json!({ "issuer": "https://a.test/x", "token_endpoint": text });
            let _ = Metadata::parse(json.to_string().as_bytes(), &issuer(), true);
        }
    }
}
