//! What a token request looks like beside its identity, and the names in its answer.

use std::collections::BTreeMap;

/// Parameters that grants and client authentication bring along; a setting of their own says what they are.
pub const STANDARD: [&str; 18] = [
    "grant_type",
    "client_id",
    "client_secret",
    "client_assertion",
    "client_assertion_type",
    "username",
    "password",
    "assertion",
    "refresh_token",
    "code",
    "code_verifier",
    "redirect_uri",
    "subject_token",
    "subject_token_type",
    "scope",
    "audience",
    "resource",
    "device_code",
];

/// Scopes that authorization servers accept but do not list as granted.
pub const NEVER_LISTED: [&str; 2] = ["openid", "offline_access"];

/// What a token request has besides its grant and client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenParameters {
    /// How it is written.
    pub format: RequestFormat,
    /// Whom the token is for (RFC 8693 §2.1; others take it for any grant).
    pub audience: Option<String>,
    /// Where the token is to be used: absolute URIs (RFC 8707 §2).
    pub resources: Vec<String>,
    /// Whatever else the server wants; of [`STANDARD`] at the most what this request does not have.
    pub extra: BTreeMap<String, String>,
    /// What standard parameters are called; with an empty name they are left out.
    pub names: BTreeMap<String, String>,
}

/// How a token request is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestFormat {
    /// A form, as RFC 6749 has it.
    #[default]
    Form,
    /// A JSON object.
    Json,
}

/// What the members of an answer are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFields {
    /// The token.
    pub access_token: String,
    /// Its lifetime in seconds.
    pub expires_in: String,
    /// The refresh token for the next one.
    pub refresh_token: String,
}

impl Default for AnswerFields {
    /// RFC 6749 §5.1.
    fn default() -> Self {
        Self {
            access_token: "access_token".to_owned(),
            expires_in: "expires_in".to_owned(),
            refresh_token: "refresh_token".to_owned(),
        }
    }
}

impl TokenParameters {
    /// What a standard parameter is called; `None` if it is left out.
    pub fn name<'a>(&'a self, standard: &'a str) -> Option<&'a str> {
        let name = self.names.get(standard).map_or(standard, String::as_str);
        (!name.is_empty()).then_some(name)
    }
}
