//! The authorization request of a login, and the callback with its response (RFC 6749 §4.1, RFC 7636).
//!
//! Each attempt has its own `state`, code verifier and, where `openid` is requested, `nonce`, all random and used once. A
//! callback without that `state` is ignored: anybody can send a browser to the address of the callback.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;
use url::{Url, form_urlencoded};

use crate::config::model::identity::Grant;
use crate::config::{Credential, RedirectUri};
use crate::peer_text::printable;
use crate::token::endpoint::assertion::random;
use crate::token::jwt;

/// One attempt of a person to log in with a browser.
#[derive(Debug)]
pub struct Attempt {
    state: SecretString,
    code_verifier: SecretString,
    /// The `nonce` that the ID token must have; `None` where no ID token is requested.
    nonce: Option<SecretString>,
    redirect_uri: RedirectUri,
    expected_issuer: ExpectedIssuer,
    is_answered: AtomicBool,
}

/// The issuer that must have sent the response (RFC 9207).
#[derive(Clone, Debug, Default)]
pub struct ExpectedIssuer {
    /// The issuer, if it is configured.
    pub issuer: Option<String>,
    /// Whether the issuer's metadata says that its responses have the parameter `iss`.
    pub names_itself: bool,
}

/// An authorization response with an error (RFC 6749 §4.1.2.1), in printable text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The error code.
    error: String,
    /// The server's explanation.
    description: Option<String>,
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.error)?;
        self.description.as_ref().map_or(Ok(()), |text| write!(f, ", \"{text}\""))
    }
}

/// The result of comparing an ID token with the `nonce` of the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonceCheck {
    /// The ID token has the nonce, or no ID token was requested.
    Passed,
    /// The response has no ID token although `openid` was requested.
    NoIdToken,
    /// The ID token is no legible JWT, for example because it is encrypted.
    Illegible,
    /// The ID token has another nonce, or none: it belongs to another login.
    OtherNonce,
}

/// Why a callback brings no code.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallbackError {
    /// The `state` is missing or another one.
    #[error("it is not the answer to this login: its `state` is another, or missing")]
    OtherState,
    /// A parameter occurs more than once.
    #[error("it has the parameter `{0}` more than once")]
    Repeated(&'static str),
    /// The attempt has had its response.
    #[error("this login has been answered already")]
    Answered,
    /// The server or the person has refused (RFC 6749 §4.1.2.1).
    #[error("the authorization server says no: {0}")]
    Denied(Denial),
    /// The response is another issuer's, which may be an attacker (RFC 9207 §2.4).
    #[error("another server answered: its `iss` is \"{iss}\"{}", with_error(denial.as_ref()))]
    OtherIssuer {
        /// The issuer that the response names.
        iss: String,
        /// The error of the response, if it has one.
        denial: Option<Denial>,
    },
    /// The response lacks the `iss` that this issuer sends.
    #[error("the answer lacks the `iss` that this server says it sends{}", with_error(.0.as_ref()))]
    NoIssuer(Option<Denial>),
    /// The response has neither a code nor an error.
    #[error("it has neither a `code` nor an `error`")]
    Nothing,
}

/// The error of a response that is refused for another reason, for the end of a sentence.
fn with_error(denial: Option<&Denial>) -> String {
    denial.map_or_else(String::new, |denial| format!("; the answer says no: {denial}"))
}

impl CallbackError {
    /// Whether the right response may still arrive.
    pub const fn may_come(&self) -> bool {
        matches!(self, Self::OtherState | Self::Repeated(_) | Self::Nothing)
    }
}

/// The parameters of an authorization response (RFC 6749 §4.1.2, RFC 9207 §2).
const PARAMETERS: [&str; 5] = ["state", "code", "error", "error_description", "iss"];

impl Attempt {
    /// A new attempt for the credential, whose callback has this address.
    pub fn new(credential: &Credential, redirect_uri: RedirectUri, expected_issuer: ExpectedIssuer) -> Self {
        let asks_for_id_token = credential.scopes.iter().any(|scope| scope == "openid");
        // 43 characters each, the least that RFC 7636 §4.1 allows.
        Self {
            state: SecretString::from(random::<32>()),
            code_verifier: SecretString::from(random::<32>()),
            nonce: asks_for_id_token.then(|| SecretString::from(random::<32>())),
            redirect_uri,
            expected_issuer,
            is_answered: AtomicBool::new(false),
        }
    }

    /// The address of the callback.
    pub const fn redirect_uri(&self) -> &RedirectUri {
        &self.redirect_uri
    }

    /// The URL of the authorization request (RFC 6749 §4.1.1, RFC 7636 §4.3). The parameters of the endpoint's own query are
    /// kept, unless the request sets them: only `resource` occurs more than once (RFC 8707 §2).
    pub fn url(&self, endpoint: &Url, credential: &Credential) -> Url {
        let parameters = &credential.parameters;
        let challenge = challenge(&self.code_verifier);
        let scope = credential.scopes.join(" ");
        let mut ours: Vec<(&str, &str)> = vec![
            ("response_type", "code"),
            ("client_id", &credential.identity.client_id),
            ("redirect_uri", self.redirect_uri.as_str()),
        ];
        if !scope.is_empty() {
            ours.push(("scope", &scope));
        }
        ours.extend(parameters.audience.as_ref().map(|audience| ("audience", audience.as_str())));
        ours.extend(parameters.resources.iter().map(|resource| ("resource", resource.as_str())));
        ours.push(("state", self.state.expose_secret()));
        // Some servers refuse a request with `openid` and without a nonce (OpenID Connect Core 1.0 §3.1.2.1).
        ours.extend(self.nonce.as_ref().map(|nonce| ("nonce", nonce.expose_secret())));
        ours.push(("code_challenge", &challenge));
        ours.push(("code_challenge_method", "S256"));
        let is_ours = |pair: &str| {
            form_urlencoded::parse(pair.as_bytes())
                .next()
                .is_none_or(|(name, _)| ours.iter().any(|(known, _)| *known == name))
        };
        let theirs = endpoint.query().unwrap_or_default().split('&').filter(|pair| !is_ours(pair));
        let mut pairs: Vec<String> = theirs.map(str::to_owned).collect();
        pairs.push(form_urlencoded::Serializer::new(String::new()).extend_pairs(ours).finish());
        let mut url = endpoint.clone();
        url.set_query(Some(&pairs.join("&")));
        url
    }

    /// The code in the query of a callback. Ends the attempt, as a response with an error does.
    ///
    /// # Errors
    ///
    /// [`CallbackError`]; [`CallbackError::may_come`] tells whether the right response may still arrive.
    pub fn answer(&self, query: &str) -> Result<SecretString, CallbackError> {
        let mut found: [Option<String>; PARAMETERS.len()] = Default::default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            let Some(at) = PARAMETERS.iter().position(|known| *known == name) else { continue };
            if found[at].replace(value.into_owned()).is_some() {
                return Err(CallbackError::Repeated(PARAMETERS[at]));
            }
        }
        let [state, code, error, description, iss] = found;
        let is_ours = state.is_some_and(|state| {
            verify_slices_are_equal(state.as_bytes(), self.state.expose_secret().as_bytes()).is_ok()
        });
        if !is_ours {
            return Err(CallbackError::OtherState);
        }
        if code.is_none() && error.is_none() {
            return Err(CallbackError::Nothing);
        }
        if self.is_answered.swap(true, Ordering::Relaxed) {
            return Err(CallbackError::Answered);
        }
        let denial = error.map(|error| Denial {
            error: printable(&error),
            description: description.as_deref().map(printable),
        });
        match (&iss, &self.expected_issuer.issuer) {
            (Some(iss), Some(issuer)) if iss != issuer => {
                return Err(CallbackError::OtherIssuer { iss: printable(iss), denial });
            }
            (None, Some(_)) if self.expected_issuer.names_itself => {
                return Err(CallbackError::NoIssuer(denial));
            }
            _ => {}
        }
        match (denial, code) {
            (Some(denial), _) => Err(CallbackError::Denied(denial)),
            (None, Some(code)) => Ok(SecretString::from(code)),
            (None, None) => Err(CallbackError::Nothing),
        }
    }

    /// Compares the ID token of the token response with the nonce (OpenID Connect Core 1.0 §3.1.3.7). The signature is not
    /// verified: the token comes from the token endpoint itself, over TLS (point 6), and nothing else of it is used.
    pub fn check_id_token(&self, id_token: Option<&SecretString>) -> NonceCheck {
        let Some(expected) = &self.nonce else { return NonceCheck::Passed };
        let Some(id_token) = id_token else { return NonceCheck::NoIdToken };
        match jwt::nonce(id_token.expose_secret()) {
            None => NonceCheck::Illegible,
            Some(nonce)
                if verify_slices_are_equal(nonce.as_bytes(), expected.expose_secret().as_bytes()).is_ok() =>
            {
                NonceCheck::Passed
            }
            Some(_) => NonceCheck::OtherNonce,
        }
    }

    /// The grant of the token request, with the code of the callback (RFC 6749 §4.1.3, RFC 7636 §4.5).
    pub fn grant(&self, code: SecretString) -> Grant<SecretString> {
        Grant::AuthorizationCode {
            code,
            code_verifier: self.code_verifier.clone(),
            redirect_uri: self.redirect_uri.as_str().to_owned(),
        }
    }
}

/// The code challenge by the method S256 (RFC 7636 §4.2).
fn challenge(code_verifier: &SecretString) -> String {
    URL_SAFE_NO_PAD.encode(digest(&SHA256, code_verifier.expose_secret().as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::config::fixture;

    const KEY: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

    fn credential(lines: &str) -> Credential {
        let lines = format!(
            "grant = \"authorization_code\"\nauthorize_url = \"https://as.test/a\"\nstate_file = \"s\"\n\
             state_key = \"{KEY}\"\n{lines}"
        );
        Credential::clone(&fixture::config("", &lines, "x").credentials[0])
    }

    fn attempt_with(lines: &str) -> Attempt {
        let credential = credential(lines);
        let redirect_uri = credential.login.as_ref().unwrap().redirect_uri.clone();
        Attempt::new(&credential, redirect_uri, ExpectedIssuer::default())
    }

    fn attempt() -> Attempt {
        attempt_with("")
    }

    fn of(issuer: &str, names_itself: bool) -> Attempt {
        let expected_issuer = ExpectedIssuer { issuer: Some(issuer.to_owned()), names_itself };
        Attempt { expected_issuer, ..attempt() }
    }

    /// With the right state in the place of STATE.
    fn answer(attempt: &Attempt, query: &str) -> Result<String, CallbackError> {
        let query = query.replace("STATE", attempt.state.expose_secret());
        attempt.answer(&query).map(|code| code.expose_secret().to_owned())
    }

    #[test]
    fn a_challenge_is_that_of_rfc_7636_appendix_b() {
        let verifier = SecretString::from("dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
        assert_eq!(challenge(&verifier), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn each_attempt_has_a_state_a_verifier_and_a_nonce_of_its_own() {
        let attempt = || attempt_with("scopes = [\"openid\"]");
        let (one, other) = (attempt(), attempt());
        let of = |attempt: &Attempt| {
            [&attempt.state, &attempt.code_verifier, attempt.nonce.as_ref().unwrap()].map(Clone::clone)
        };
        let all = [of(&one), of(&other)].concat();
        let all: std::collections::BTreeSet<&str> = all.iter().map(ExposeSecret::expose_secret).collect();
        assert_eq!(all.len(), 6);
        assert!(all.iter().all(|one| one.len() == 43));
        assert!(!format!("{one:?}").contains(one.state.expose_secret()));
    }

    #[test]
    fn an_authorization_request_has_each_parameter_once_and_keeps_the_endpoints() {
        let attempt = attempt();
        let lines =
            "scopes = [\"a:b\", \"offline_access\"]\naudience = \"x&y\"\nresource = [\"urn:a\", \"urn:b\"]";
        let endpoint =
            Url::parse("https://as.test/a?prompt=consent&x=%20+&scope=old&state=old&flag").unwrap();

        let url = attempt.url(&endpoint, &credential(lines));

        assert!(
            url.as_str().starts_with("https://as.test/a?prompt=consent&x=%20+&flag&response_type=code&"),
            "{url}"
        );
        let mut pairs: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in url.query_pairs() {
            pairs.entry(name.into_owned()).or_default().push(value.into_owned());
        }
        let challenge = challenge(&attempt.code_verifier);
        for (name, values) in [
            ("response_type", &["code"][..]),
            ("client_id", &["id"]),
            ("redirect_uri", &["http://127.0.0.1:8400/callback"]),
            ("scope", &["a:b offline_access"]),
            ("audience", &["x&y"]),
            ("resource", &["urn:a", "urn:b"]),
            ("state", &[attempt.state.expose_secret()]),
            ("code_challenge", &[&challenge]),
            ("code_challenge_method", &["S256"]),
        ] {
            assert_eq!(pairs[name], values, "{name}");
        }
        assert!(!url.as_str().contains(attempt.code_verifier.expose_secret()));
        let plain = attempt.url(&Url::parse("https://as.test/a").unwrap(), &credential(""));
        assert!(
            plain.as_str().starts_with("https://as.test/a?response_type=code&client_id=id&redirect_uri=")
        );
        assert!(!plain.as_str().contains("scope="), "{plain}");
    }

    #[test]
    fn a_nonce_is_sent_only_with_openid_and_must_be_in_the_id_token() {
        let endpoint = Url::parse("https://as.test/a?nonce=old").unwrap();
        let sent = |attempt: &Attempt, lines: &str| {
            let url = attempt.url(&endpoint, &credential(lines));
            let nonces = url.query_pairs().filter(|(name, _)| name == "nonce");
            nonces.map(|(_, nonce)| nonce.into_owned()).collect::<Vec<_>>()
        };
        let jwt = |payload: &str| {
            SecretString::from(format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(payload.as_bytes())))
        };
        let lines = "scopes = [\"openid\", \"a\"]";
        let with = attempt_with(lines);
        let nonces = sent(&with, lines);
        let [nonce] = nonces.as_slice() else { panic!("{nonces:?}") };
        assert_eq!(nonce.len(), 43);
        for (id_token, found) in [
            (Some(jwt(&format!("{{\"nonce\":\"{nonce}\"}}"))), NonceCheck::Passed),
            (Some(jwt(&format!("{{\"nonce\":\"{nonce}x\"}}"))), NonceCheck::OtherNonce),
            (Some(jwt("{\"nonce\":\"\"}")), NonceCheck::OtherNonce),
            (Some(jwt("{\"nonce\":7}")), NonceCheck::OtherNonce),
            (Some(jwt("{}")), NonceCheck::OtherNonce),
            (Some(jwt("no JSON")), NonceCheck::Illegible),
            (Some(SecretString::from("a.b.c.d.e")), NonceCheck::Illegible),
            (None, NonceCheck::NoIdToken),
        ] {
            assert_eq!(with.check_id_token(id_token.as_ref()), found, "{id_token:?}");
        }

        for lines in ["", "scopes = [\"openid2\"]"] {
            let without = attempt_with(lines);
            assert_eq!(sent(&without, lines), ["old"], "{lines}");
            assert_eq!(without.check_id_token(None), NonceCheck::Passed);
            assert_eq!(without.check_id_token(Some(&jwt("{\"nonce\":\"x\"}"))), NonceCheck::Passed);
        }
    }

    #[test]
    fn only_the_callback_of_this_attempt_is_accepted_and_only_once() {
        let attempt = attempt();
        for query in [
            "",
            "code=c",
            "code=c&state=",
            "code=c&state=STATEx",
            "state=%00&error=access_denied",
            "code=c&State=STATE",
        ] {
            assert_eq!(answer(&attempt, query), Err(CallbackError::OtherState), "{query}");
        }
        for (query, name) in [
            ("code=c&state=STATE&code=c", "code"),
            ("code=c&state=STATE&state=STATE", "state"),
            ("code=c&state=STATE&iss=a&iss=a", "iss"),
        ] {
            assert_eq!(answer(&attempt, query), Err(CallbackError::Repeated(name)), "{query}");
        }
        assert_eq!(answer(&attempt, "state=STATE"), Err(CallbackError::Nothing));

        assert_eq!(answer(&attempt, "x=1&code=c%26d&state=STATE&x=2").as_deref(), Ok("c&d"));
        assert_eq!(answer(&attempt, "code=e&state=STATE"), Err(CallbackError::Answered));
    }

    #[test]
    fn a_refusal_is_reported_in_printable_text() {
        let denied = |query: &str| answer(&attempt(), query).unwrap_err();
        let no = denied("state=STATE&error=access_denied&error_description=no%1b%5b31m%0a");
        assert_eq!(no.to_string(), "the authorization server says no: access_denied, \"no?[31m?\"");
        assert!(!no.may_come());
        // Both is a no.
        assert!(matches!(denied("state=STATE&error=x&code=c"), CallbackError::Denied(_)));
    }

    #[test]
    fn a_response_of_another_issuer_is_refused() {
        let issuer = "https://as.test";
        assert!(answer(&of(issuer, true), "code=c&state=STATE&iss=https://as.test").is_ok());
        assert!(answer(&of(issuer, false), "code=c&state=STATE").is_ok());
        assert!(answer(&attempt(), "code=c&state=STATE&iss=https://other.test").is_ok());
        let other = answer(&of(issuer, false), "code=c&state=STATE&iss=https://as.test/");
        let iss = "https://as.test/".to_owned();
        assert_eq!(other, Err(CallbackError::OtherIssuer { iss, denial: None }));
        assert_eq!(answer(&of(issuer, true), "code=c&state=STATE"), Err(CallbackError::NoIssuer(None)));
    }

    #[test]
    fn a_wrong_issuer_does_not_hide_the_error_of_the_response() {
        let refused = |query: &str| answer(&of("https://as.test", true), query).unwrap_err();
        let error = "state=STATE&error=invalid_scope&error_description=no%0a";
        for (query, text) in [
            (
                error.to_owned(),
                "the answer lacks the `iss` that this server says it sends; the answer says no: invalid_scope, \"no?\"",
            ),
            (
                format!("{error}&iss=https://b.test"),
                "another server answered: its `iss` is \"https://b.test\"; the answer says no: invalid_scope, \"no?\"",
            ),
            (
                format!("{error}&iss=https://as.test"),
                "the authorization server says no: invalid_scope, \"no?\"",
            ),
            ("state=STATE&code=c".to_owned(), "the answer lacks the `iss` that this server says it sends"),
        ] {
            let refused = refused(&query);
            assert_eq!(refused.to_string(), text, "{query}");
            assert!(!refused.may_come());
        }
    }

    proptest! {
        #[test]
        fn no_query_makes_it_panic_or_brings_a_code_without_the_state(query in "[ -~]{0,80}") {
            prop_assert!(attempt().answer(&query).is_err());
        }
    }
}
