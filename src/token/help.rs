//! What a person can do about a failed token request: one sentence for each failure.
//!
//! `bearerd check --online` and the admin API show the sentence, which quotes nothing of a response.

use super::error::{FOREIGN_BODY, Malformed, MetadataError, MetadataFlaw, NO_CODE, TokenError};
use crate::config::Credential;
use crate::config::model::identity::Grant;
use crate::tls::diagnosis;

/// The help where something else than an authorization server has answered.
const FOREIGN_HELP: &str = "check that `token_url` is a token endpoint, and that no proxy, firewall or login page of the \
                            network answers in its place: have them let bearerd's requests through";

/// What a person can do about a failure of this credential's token requests.
pub fn help(failure: &TokenError, credential: &Credential) -> String {
    match failure {
        TokenError::Network(text) | TokenError::Unreached(text)
            if let Some(advice) = diagnosis::advice_in(text) =>
        {
            advice.remedy
        }
        TokenError::Malformed(Malformed::Page(_) | Malformed::Xml | Malformed::Compressed(_)) => FOREIGN_HELP,
        TokenError::Rejected { code, .. } | TokenError::Unavailable { code, .. }
            if code.starts_with(FOREIGN_BODY) =>
        {
            FOREIGN_HELP
        }
        TokenError::Network(_) | TokenError::Unreached(_) if credential.proxy.is_some() => {
            "check the proxy, which is `proxy` of the credential or HTTPS_PROXY of the environment: its address, and \
             that it connects to the host in `token_url`; `proxy = \"\"` disables it"
        }
        TokenError::Network(_) | TokenError::Unreached(_) => {
            "check the host in `token_url`, and that this machine may connect to it; for a certificate authority of \
             your own set `ca_file` of the credential, for a proxy `proxy`, and for a slow server `timeout`"
        }
        TokenError::Discovery(error) => help_for_discovery(error),
        TokenError::Server(_) | TokenError::Unavailable { .. } => {
            "the authorization server has an internal error: try again later, as a running daemon does by itself; ask the \
             provider if that lasts"
        }
        TokenError::Malformed(Malformed::NotJwt) => {
            "remove `expect_jwt`, or have the provider issue JWTs to this client"
        }
        TokenError::Malformed(Malformed::Ended) => "compare this machine's clock with the server's",
        TokenError::Malformed(_) => {
            "check that `token_url` is a token endpoint; if its responses have non-standard members, set `fields`"
        }
        TokenError::Throttled { .. } => {
            "wait, as a running daemon does by itself: this client made too many token requests; check what else uses it"
        }
        TokenError::Rejected { status: 300..=399, .. } => {
            "set `token_url` to the address that it redirects to: bearerd follows no redirects"
        }
        TokenError::Rejected { status, code, .. } => help_for_rejection(*status, code, credential),
        TokenError::RefusedInPassing { .. } => {
            "wait: bearerd sends the same refresh token again after 30 s and after 5 min; check that nothing else uses \
             the refresh token"
        }
        TokenError::ReauthorizationRequired(_) => return authorize_again(credential),
        TokenError::RotationLimit(_) => {
            return format!("{}, or raise `max_rotations`", authorize_again(credential));
        }
        TokenError::Assertion(_) => "check `key` and `alg` of `assertion`",
        TokenError::AssertionFile(_) => "check the process that writes `file` of `assertion`",
        TokenError::ScopeMissing(missing) => {
            let not_asked: Vec<&str> = missing
                .iter()
                .filter(|scope| !credential.scopes.contains(scope))
                .map(String::as_str)
                .collect();
            if !not_asked.is_empty() && !credential.scopes.is_empty() {
                return format!("request them: add {} to `scopes`", not_asked.join(" "));
            }
            "have the provider allow them for this client, or remove them from `require_scopes`"
        }
    }
    .to_owned()
}

/// How a person authorizes the client of this credential again.
pub(super) fn authorize_again(credential: &Credential) -> String {
    match credential.identity.grant {
        Grant::AuthorizationCode { .. } => {
            format!("authorize the client again with `bearerd login {}`", credential.name)
        }
        _ => "authorize the client again at the provider, and set `refresh_token` to the new refresh token"
            .to_owned(),
    }
}

/// What a person can do about a token that upstreams reject.
pub(super) const fn help_for_rejected_token() -> &'static str {
    "check that the route's upstream accepts tokens of this credential: its audience, tenant, region and scopes"
}

/// The help for the most telling flaw of the metadata documents.
fn help_for_discovery(error: &MetadataError) -> &'static str {
    let has = |is_it: fn(&MetadataFlaw) -> bool| error.flaws.iter().any(|(_, flaw)| is_it(flaw));
    if has(|flaw| matches!(flaw, MetadataFlaw::OtherIssuer(_))) {
        "if this is the intended server, set `issuer` to exactly the server's own value, up to the last slash"
    } else if has(|flaw| matches!(flaw, MetadataFlaw::Unprotected(_) | MetadataFlaw::Missing(_))) {
        "have the provider correct its metadata, or set `token_url`"
    } else if has(|flaw| matches!(flaw, MetadataFlaw::Unreachable(_))) {
        "check the host in `issuer`, and that this machine may connect to it; for a certificate authority of your own \
         set `ca_file` of the credential, and for a proxy `proxy`"
    } else {
        "check `issuer`; for a server without metadata set `token_url` instead"
    }
}

/// The help for a rejection, by its code (RFC 6749 §5.2) or else by its status.
fn help_for_rejection(status: u16, code: &str, credential: &Credential) -> &'static str {
    match (code, &credential.identity.grant) {
        ("invalid_client", _) => {
            "check `client_id`, the secret or key, and `client_auth`; for a secret with special characters also \
             `basic_encoding`"
        }
        ("invalid_grant", Grant::ClientCredentials) => {
            "have the provider enable the client_credentials grant for this client, which must be a confidential one"
        }
        ("invalid_grant", Grant::Password { .. }) => "check `username` and `password`",
        ("invalid_grant", Grant::TokenExchange { .. }) => "check `subject_token`: it may have expired",
        ("invalid_grant", Grant::RefreshToken(_) | Grant::AuthorizationCode { .. }) => {
            "authorize the client again: the authorization server does not accept the refresh token or code"
        }
        ("invalid_grant", Grant::JwtBearer(_)) => "check the `assertion` of the grant, its `aud` and `sub`",
        ("invalid_scope", _) => {
            "have the provider allow the scopes in `scopes` for this client, or remove them"
        }
        _ if status == 403 && code != NO_CODE => {
            "the server knows the client and forbids the request: have the provider allow the scopes in `scopes` and \
             this grant to the client, and check the client's permissions and roles"
        }
        ("unauthorized_client" | "access_denied" | NO_CODE, _) if status == 401 => {
            "check `client_id`, the secret or key, and `client_auth`"
        }
        ("unauthorized_client" | "unsupported_grant_type", _) => {
            "have the provider allow this grant to the client, or set another `grant`"
        }
        _ => "check `token_url`, and ask the provider what it expects of this client",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::token::error::Refusal;

    #[test]
    fn the_help_for_a_rejection_names_what_to_change() {
        for (lines, status, code, words) in [
            ("", 400, "invalid_grant", "enable the client_credentials grant"),
            ("grant = \"password\"\nusername = \"u\"\npassword = \"p\"", 400, "invalid_grant", "`password`"),
            ("", 403, "access_denied", "the client's permissions"),
            ("", 403, "unauthorized_client", "the client's permissions"),
            ("", 403, "invalid_scope", "the scopes in `scopes`"),
            ("", 403, NO_CODE, "`token_url`"),
            ("", 400, "unauthorized_client", "another `grant`"),
            ("", 401, "invalid_client", "`client_id`"),
            ("", 401, "unauthorized_client", "`client_id`"),
            ("", 401, "access_denied", "`client_id`"),
            ("", 401, NO_CODE, "`client_id`"),
        ] {
            let credential = &fixture::config("", lines, "secret").credentials[0];
            let (code, description, refusal) = (code.to_owned(), None, Refusal::Request);
            let help = help(&TokenError::Rejected { status, code, description, refusal }, credential);
            assert!(help.contains(words), "{status} {help}");
        }
    }
}
