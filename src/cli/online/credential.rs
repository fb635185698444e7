//! One token request of a credential.

use std::time::{Duration, SystemTime};

use super::report::{Report, in_words};
use crate::clock::Clock;
use crate::config::Credential;
use crate::config::identity::{ClientAuth, Grant};
use crate::token::TokenClient;
use crate::token::error::{Malformed, TokenError};
use crate::token::jwt::Claims;
use crate::token::trial::{Granted, MAX_SKEW, Trial, not_granted, trial};

/// What was asked and granted, and the tenant of the token if there is one.
pub(super) async fn report(
    credential: &Credential,
    client: TokenClient,
    is_used: bool,
) -> (Report, Option<String>) {
    if matches!(credential.identity.grant, Grant::RefreshToken(_)) {
        let mut report = Report::new(format!("credential `{}`", credential.name), Duration::ZERO);
        report.fact("token_url", address(credential));
        report.fact("grant", format!("{}, {}", grant(credential), client_auth(credential)));
        report.warn(
            "it was not asked: that would use up a refresh token which the daemon may need",
            "start the daemon, and see `/readyz?verbose` at its admin address",
        );
        return (report, None);
    }
    let Trial { took, granted, failure } = trial(credential, &client, Clock::system()).await;
    let mut report = Report::new(format!("credential `{}`", credential.name), took);
    if !is_used {
        report.not_needed();
    }
    report.fact("token_url", address(credential));
    report.fact("grant", format!("{}, {}", grant(credential), client_auth(credential)));
    tell_scopes(&mut report, credential, granted.as_ref());
    if let Some(granted) = &granted {
        tell_token(&mut report, credential, granted, failure.is_none());
        tell_clocks(&mut report, granted.clocks);
        if !granted.is_labelled_json {
            report.warn(
                "the answer was JSON and its Content-Type was not",
                "check that `token_url` is a token endpoint",
            );
        }
    }
    if let Some(failure) = &failure {
        report.fail(failure.to_string(), remedy(failure, credential));
    }
    let tenant = granted.and_then(|granted| granted.tenant).filter(|_| failure.is_none());
    (report, tenant)
}

/// Without the query, which may hold what only the server should see.
fn address(credential: &Credential) -> String {
    let mut url = credential.token_url.clone();
    url.set_query(None);
    let by_proxy = if credential.proxy.is_some() { ", a proxy is set" } else { "" };
    format!("{url}{by_proxy}")
}

fn tell_scopes(report: &mut Report, credential: &Credential, granted: Option<&Granted>) {
    let Credential { scopes, require_scopes, .. } = credential;
    report.fact("scopes asked", listed(scopes));
    let granted = granted.map(|granted| granted.scopes.as_ref());
    match granted {
        None => {}
        Some(None) => report.fact("granted", "as asked for (the answer does not say)"),
        Some(Some(granted)) => {
            report.fact("granted", listed(granted));
            let missing = not_granted(granted, credential);
            if !missing.is_empty() {
                report.warn(
                    format!("fewer scopes were granted than asked for: {}", missing.join(" ")),
                    "have the provider allow them to this client, or take them out of `scopes`",
                );
            }
        }
    }
    if !require_scopes.is_empty() {
        report.fact("required", listed(require_scopes));
    }
}

fn tell_token(report: &mut Report, credential: &Credential, granted: &Granted, is_taken: bool) {
    match granted.lifetime {
        Some(lifetime) => report.fact("lifetime", in_words(lifetime)),
        None if is_taken => {
            let default = in_words(credential.default_lifetime);
            report.fact("lifetime", format!("the answer does not say; default_lifetime is {default}"));
        }
        None => {}
    }
    let Some(Claims { iss, aud, tenant }) = &granted.claims else {
        return report.fact("token", "opaque");
    };
    let one = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let tenant = tenant.as_ref().map_or_else(String::new, |tenant| format!(", tenantId {tenant}"));
    report.fact("token", format!("a JWT: iss {}, aud {}{tenant}", one(iss), listed(aud)));
}

fn tell_clocks(report: &mut Report, clocks: Option<(SystemTime, SystemTime)>) {
    let Some((theirs, ours)) = clocks else {
        return report.fact("clock", "the server does not say what time it is");
    };
    let (apart, way) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    // A server's time has whole seconds, and is as old as its answer.
    if apart < Duration::from_secs(2) {
        return report.fact("clock", "as the server's");
    }
    let said = format!("{} {way} the server's", in_words(apart));
    if apart > MAX_SKEW {
        report.warn(
            format!("our clock is {said}"),
            "have this machine's clock set by NTP: JWTs end too late, or begin too early",
        );
    }
    report.fact("clock", said);
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

const fn grant(credential: &Credential) -> &'static str {
    match credential.identity.grant {
        Grant::ClientCredentials => "client_credentials",
        Grant::Password { .. } => "password",
        Grant::JwtBearer(_) => "jwt_bearer",
        Grant::TokenExchange { .. } => "token_exchange",
        Grant::RefreshToken(_) => "refresh_token",
    }
}

const fn client_auth(credential: &Credential) -> &'static str {
    match credential.identity.client_auth {
        ClientAuth::Basic { .. } => "client_secret_basic",
        ClientAuth::Post { .. } => "client_secret_post",
        ClientAuth::SecretJwt { .. } => "client_secret_jwt",
        ClientAuth::PrivateKeyJwt(_) => "private_key_jwt",
        ClientAuth::TlsClientAuth => "tls_client_auth",
        ClientAuth::None => "none",
    }
}

fn remedy(failure: &TokenError, credential: &Credential) -> String {
    match failure {
        TokenError::Network(_) => {
            "check the host in `token_url`, and that this machine may connect there; if its authority is one of your \
             own, set `ca_file` of the credential; if only a proxy leads there, `proxy`"
        }
        TokenError::Server { .. } => "the trouble is the server's own: try again later",
        TokenError::Malformed(Malformed::NotJwt) => {
            "take out `expect_jwt`, or have the provider issue JWTs to this client"
        }
        TokenError::Malformed(Malformed::Ended) => "compare this machine's clock with the server's",
        TokenError::Malformed(_) => {
            "check that `token_url` is a token endpoint; if its answers have names of their own, set `fields`"
        }
        TokenError::Throttled { .. } => "too many token requests were made: wait, and see who else uses this client",
        TokenError::Rejected { status: 300..=399, .. } => {
            "write the address that it redirects to as `token_url`: redirects are not followed"
        }
        TokenError::Rejected { code, .. } => rejection_remedy(code, credential),
        TokenError::ReauthorizationRequired(_) | TokenError::RotationLimit { .. } => {
            "have someone authorize the client again, and set `refresh_token`"
        }
        TokenError::Assertion(_) => "check `key` and `alg` of `assertion`",
        TokenError::ScopeMissing { missing } => {
            let not_asked: Vec<&str> = missing
                .iter()
                .filter(|scope| !credential.scopes.contains(scope))
                .map(String::as_str)
                .collect();
            if !not_asked.is_empty() && !credential.scopes.is_empty() {
                return format!("ask for them: add {} to `scopes`", not_asked.join(" "));
            }
            "have the provider allow them to this client, or take them out of `require_scopes`"
        }
    }
    .to_owned()
}

/// RFC 6749 §5.2.
fn rejection_remedy(code: &str, credential: &Credential) -> &'static str {
    match (code, &credential.identity.grant) {
        ("invalid_client", _) => {
            "check `client_id`, the secret or key, and `client_auth`; where a secret holds special characters, also \
             `basic_encoding`"
        }
        ("unauthorized_client" | "unsupported_grant_type", _) => {
            "have the provider allow this grant to the client, or set another `grant`"
        }
        ("invalid_scope", _) => "have the provider allow what is in `scopes` to this client, or take it out",
        ("invalid_grant", Grant::Password { .. }) => "check `username` and `password`",
        ("invalid_grant", Grant::TokenExchange { .. }) => "check `subject_token`: it may have ended",
        ("invalid_grant", _) => "check what the grant is made of: `assertion`, its `aud` and `sub`",
        _ => "check `token_url`, and with the provider what it expects of this client",
    }
}
