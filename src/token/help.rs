//! What a person can do about a failed token request: one sentence for each failure.
//!
//! `bearerd check --online` and the admin API show the sentence, which quotes nothing of a response.

use super::error::{FOREIGN_BODY, Malformed, MetadataError, MetadataFlaw, NO_CODE, TokenError};
use crate::config::model::identity::Grant;
use crate::config::{Credential, Endpoint};
use crate::tls::diagnosis;

/// What a person can do about a failure of this credential's token requests.
pub fn help(failure: &TokenError, credential: &Credential) -> String {
    match failure {
        TokenError::Network(text) | TokenError::Unreached(text)
            if let Some(advice) = diagnosis::advice_in(text) =>
        {
            advice.remedy
        }
        TokenError::Malformed(Malformed::Page(_) | Malformed::Xml | Malformed::Compressed(_)) => {
            return help_for_foreign(credential);
        }
        TokenError::Rejected { code, .. } | TokenError::Unavailable { code, .. }
            if code.starts_with(FOREIGN_BODY) =>
        {
            return help_for_foreign(credential);
        }
        TokenError::Network(_) | TokenError::Unreached(_) if credential.proxy.is_some() => {
            return format!(
                "check the proxy, which is `proxy` of the credential or HTTPS_PROXY of the environment: its address, and \
                 that it connects to {}; `proxy = \"\"` disables it",
                host(credential)
            );
        }
        TokenError::Network(_) | TokenError::Unreached(_) => {
            return format!(
                "check {}, and that this machine may connect to it; for a certificate authority of your own set `ca_file` \
                 of the credential, for a proxy `proxy`, and for a slow server `timeout`",
                host(credential)
            );
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
            return format!(
                "check that {}; if its responses have non-standard members, set `fields`",
                is_endpoint(credential)
            );
        }
        TokenError::Throttled { .. } => {
            "wait, as a running daemon does by itself: this client made too many token requests; check what else uses it"
        }
        TokenError::Rejected { status: 300..=399, .. } => {
            "set `token_url` to the address that it redirects to: bearerd follows no redirects"
        }
        TokenError::Rejected { status, code, .. } => return help_for_rejection(*status, code, credential),
        TokenError::RefusedInPassing { .. } => {
            "wait: bearerd sends the same refresh token again after 30 s and after 5 min; check that nothing else uses \
             the refresh token"
        }
        TokenError::ReauthorizationRequired(_) => return authorize(credential),
        TokenError::RotationLimit(_) => {
            return format!("{}, or raise `max_rotations`", authorize(credential));
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

/// The host of the token endpoint, by the key that the configuration has.
fn host(credential: &Credential) -> String {
    let url = &credential.token_url;
    match (url, url.url().host_str()) {
        (Endpoint::OfPreset { key, .. }, Some(host)) => format!("the host {host}, to which `{key}` leads"),
        (Endpoint::OfIssuer(_), _) => "the host of the token endpoint that `issuer` publishes".to_owned(),
        _ => "the host in `token_url`".to_owned(),
    }
}

/// That the token endpoint is one, by the key that the configuration has.
pub fn is_endpoint(credential: &Credential) -> String {
    match &credential.token_url {
        Endpoint::Written(_) => "`token_url` is a token endpoint".to_owned(),
        Endpoint::OfPreset { url, key } => {
            format!("`{key}` is right: it leads to the token endpoint {url}")
        }
        Endpoint::OfIssuer(_) => "`issuer` is right: it publishes the token endpoint".to_owned(),
    }
}

/// The keys by which a server knows a client. A server of another region or cloud knows other clients.
fn check_client(credential: &Credential) -> String {
    let check = "check `client_id`, the secret or key, and `client_auth`";
    match &credential.token_url {
        Endpoint::OfPreset { key, .. } => format!("{check}, and that the client is of this `{key}`"),
        _ => check.to_owned(),
    }
}

/// The help where something else than an authorization server has answered.
fn help_for_foreign(credential: &Credential) -> String {
    format!(
        "check that {}, and that no proxy, firewall or login page of the network answers in its place: have them let \
         bearerd's requests through",
        is_endpoint(credential)
    )
}

/// How a person authorizes the client of this credential, for the first time or anew.
pub(super) fn authorize(credential: &Credential) -> String {
    match credential.identity.grant {
        Grant::AuthorizationCode { .. } => {
            format!("authorize the client with `bearerd login {}`", credential.name)
        }
        _ => "authorize the client at the provider, and set `refresh_token` to the refresh token that it issues"
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
fn help_for_rejection(status: u16, code: &str, credential: &Credential) -> String {
    let help = match (code, &credential.identity.grant) {
        ("invalid_client", _) => {
            return format!(
                "{}; for a secret with special characters also `basic_encoding`",
                check_client(credential)
            );
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
            return check_client(credential);
        }
        ("unauthorized_client" | "unsupported_grant_type", _) => {
            "have the provider allow this grant to the client, or set another `grant`"
        }
        _ => {
            return format!(
                "check that {}, and ask the provider what it expects of this client",
                is_endpoint(credential)
            );
        }
    };
    help.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::fixture;
    use crate::token::error::Refusal;

    #[test]
    fn the_help_names_the_key_that_the_configuration_has() {
        let preset = "provider = \"genesys\"\nregion = \"mypurecloud.de\"";
        let cxone = "provider = \"cxone\"\nissuer = \"https://cxone.niceincontact.com\"\nusername = \"u\"\npassword = \"p\"";
        let issuer = "issuer = \"https://as.example.com\"";
        let failures = [
            TokenError::Network("refused".to_owned()),
            TokenError::Malformed(Malformed::Xml),
            TokenError::Malformed(Malformed::Empty),
            TokenError::Rejected {
                status: 404,
                code: NO_CODE.to_owned(),
                description: None,
                refusal: Refusal::Request,
            },
        ];
        for (lines, key) in
            [(preset, "`region`"), (cxone, "`issuer`"), (issuer, "`issuer`"), ("", "`token_url`")]
        {
            let credential = &fixture::config("", lines, "secret").credentials[0];
            for failure in &failures {
                let help = help(failure, credential);
                assert!(help.contains(key) && (key == "`token_url`") == help.contains("token_url"), "{help}");
            }
        }
        let unknown_client = TokenError::Rejected {
            status: 401,
            code: "invalid_client".to_owned(),
            description: None,
            refusal: Refusal::Client,
        };
        let credential = &fixture::config("", preset, "secret").credentials[0];
        assert!(help(&unknown_client, credential).contains("the client is of this `region`"));
    }

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
