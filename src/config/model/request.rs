//! Parameters of a token request besides client and grant, and the member names of the response.

use std::collections::BTreeMap;
use std::str::FromStr;

/// Parameters of grants and client authentication, which have configuration keys of their own.
pub(in crate::config) const STANDARD_PARAMETERS: [&str; 18] = [
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

/// Parameters of a token request besides client and grant.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenParameters {
    /// The encoding of the request.
    pub format: RequestFormat,
    /// `audience` (RFC 8693 §2.1; some servers accept the parameter for any grant).
    pub audience: Option<String>,
    /// `resource`: absolute URIs (RFC 8707 §2).
    pub resources: Vec<String>,
    /// Further parameters; none that the request has anyway.
    pub extra: BTreeMap<String, String>,
    /// Other names for standard parameters; a parameter with an empty name is not sent.
    pub names: BTreeMap<String, String>,
}

/// The encoding of a token request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RequestFormat {
    /// A form (RFC 6749).
    #[default]
    Form,
    /// A JSON object.
    Json,
}

/// The places of the members of a token response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerFields {
    /// The access token.
    pub access_token: MemberPath,
    /// The lifetime of the access token in seconds.
    pub expires_in: MemberPath,
    /// The refresh token.
    pub refresh_token: MemberPath,
    /// The granted scopes.
    pub scope: MemberPath,
}

/// The place of a member in a JSON object: a name, or the names from the outermost object to the member, joined with dots.
///
/// No name is empty. A member of the outermost object whose name is the whole text takes precedence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberPath(String);

/// The text is not the path of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAPath;

impl FromStr for MemberPath {
    type Err = NotAPath;

    fn from_str(text: &str) -> Result<Self, NotAPath> {
        if text.split('.').any(str::is_empty) { Err(NotAPath) } else { Ok(Self(text.to_owned())) }
    }
}

impl MemberPath {
    /// A member of the outermost object.
    fn named(name: &str) -> Self {
        Self(name.to_owned())
    }

    /// The path as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Further error codes of an authorization server, by their meaning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorCodes {
    /// Codes that refuse the grant, as `invalid_grant` does.
    pub dead: Vec<String>,
    /// Codes that limit the rate of requests.
    pub throttled: Vec<String>,
    /// Codes that refuse the client, as `invalid_client` does.
    pub client: Vec<String>,
    /// Codes of a temporary failure.
    pub transient: Vec<String>,
}

impl Default for AnswerFields {
    /// RFC 6749 §5.1.
    fn default() -> Self {
        Self {
            access_token: MemberPath::named("access_token"),
            expires_in: MemberPath::named("expires_in"),
            refresh_token: MemberPath::named("refresh_token"),
            scope: MemberPath::named("scope"),
        }
    }
}

impl TokenParameters {
    /// The name of a standard parameter; `None` if the parameter is not sent.
    pub fn name<'a>(&'a self, standard: &'a str) -> Option<&'a str> {
        let name = self.names.get(standard).map_or(standard, String::as_str);
        (!name.is_empty()).then_some(name)
    }
}
