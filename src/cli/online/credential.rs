//! One token request of a credential.

use std::time::{Duration, SystemTime};

use url::Url;

use super::report::{Report, in_words};
use crate::clock::Clock;
use crate::config::model::identity::Grant;
use crate::config::{Credential, Endpoint, Identity};
use crate::token::TokenClient;
use crate::token::error::{Malformed, MetadataError, MetadataFlaw, TokenError};
use crate::token::jwt::Claims;
use crate::token::trial::{
    Granted, MAX_SKEW, PlannedGrant, Trial, WhichSecret, not_granted, planned_grant, trial,
};

/// What was asked and granted, and the tenant of the token if there is one.
pub(super) async fn report(
    credential: &Credential,
    client: TokenClient,
    is_used: bool,
) -> (Report, Option<String>) {
    if matches!(credential.identity.grant, Grant::RefreshToken(_)) {
        return match (planned_grant(credential, Clock::system()), &credential.identity.fallback) {
            (Ok(PlannedGrant::Fallback { why }), Some(fallback)) => {
                let identity = Identity { grant: fallback.clone(), ..credential.identity.clone() };
                let falling_back = Credential { identity, login: None, ..credential.clone() };
                let (mut report, tenant) = report_of_trial(&falling_back, client, is_used).await;
                report.warn(format!("the fallback is asked with: {why}"), remedy(&why, credential));
                (report, tenant)
            }
            (standing, _) => {
                (report_of_refresh_token(credential, &client, is_used, standing.err()).await, None)
            }
        };
    }
    report_of_trial(credential, client, is_used).await
}

async fn report_of_trial(
    credential: &Credential,
    client: TokenClient,
    is_used: bool,
) -> (Report, Option<String>) {
    let Trial { took, secret_in_use, granted, failure } = trial(credential, &client, Clock::system()).await;
    let mut report = Report::new(format!("credential `{}`", credential.name), took);
    if !is_used {
        report.not_needed();
    }
    tell_server(&mut report, credential, &client);
    report.fact("grant", ways(credential));
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
    if secret_in_use == WhichSecret::Next {
        report.warn(
            "the server does not take `client_secret`, and takes `client_secret_next`",
            "make that one the `client_secret`",
        );
    }
    if let Some(failure) = &failure {
        report.fail(failure.to_string(), remedy(failure, credential));
    }
    let tenant = granted.and_then(|granted| granted.tenant).filter(|_| failure.is_none());
    (report, tenant)
}

/// A token request would use up a refresh token; what else can be asked is. Without one there is an `obstacle`.
async fn report_of_refresh_token(
    credential: &Credential,
    client: &TokenClient,
    is_used: bool,
    obstacle: Option<TokenError>,
) -> Report {
    let clock = Clock::system();
    let asked = clock.now();
    let endpoints = credential.login.as_ref().map(|login| &login.authorize_url);
    let mut endpoints = endpoints.into_iter().chain([&credential.token_url]);
    let told = match endpoints.find_map(Endpoint::issuer) {
        Some(issuer) => client.metadata(issuer, credential).await.map(Some),
        None => Ok(None),
    };
    let mut report = Report::new(format!("credential `{}`", credential.name), asked.until(clock.now()));
    if !is_used {
        report.not_needed();
    }
    tell_server(&mut report, credential, client);
    report.fact("grant", ways(credential));
    let authorize_url = credential.login.as_ref().map(|login| &login.authorize_url);
    match told {
        Err(failure) => report.fail(failure.to_string(), remedy(&failure, credential)),
        Ok(Some(metadata)) if authorize_url.is_some_and(|url| url.issuer().is_some()) => {
            match metadata.authorization_endpoint() {
                Ok(url) => report.fact("authorize_url", without_query(&url)),
                Err(flaw) => report.fail(
                    format!("the issuer does not tell where a person logs in: {flaw}"),
                    "write `authorize_url`",
                ),
            }
        }
        Ok(_) => {}
    }
    if let Some(obstacle) = obstacle {
        report.fail(obstacle.to_string(), remedy(&obstacle, credential));
        return report;
    }
    report.warn(
        "no token was asked for: that would use up a refresh token which the daemon may need",
        "start the daemon, and see `/readyz?verbose` at its admin address",
    );
    report
}

/// Where tokens are asked for, and what the issuer says of that, if it was asked.
fn tell_server(report: &mut Report, credential: &Credential, client: &TokenClient) {
    let by_proxy = if credential.proxy.is_some() { ", a proxy is set" } else { "" };
    let Some(issuer) = credential.token_url.issuer() else {
        return report.fact("token_url", format!("{}{by_proxy}", without_query(credential.token_url.url())));
    };
    report.fact("issuer", format!("{}{by_proxy}", issuer.as_str()));
    let Some(metadata) = client.known_metadata() else { return };
    report.fact("token_url", without_query(&metadata.token_endpoint));
    let not_listed = metadata.not_supported(credential);
    if !not_listed.is_empty() {
        report.warn(
            format!("the issuer's metadata does not list {}", not_listed.join(", ")),
            "see whether another `grant` or `client_auth` is meant; it is used as configured",
        );
    }
}

/// A query may hold what only the server should see.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
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

/// As configured: what it asks with, and what it shows.
fn ways(credential: &Credential) -> String {
    format!("{}, {}", credential.grant_name(), credential.identity.client_auth.name())
}

fn remedy(failure: &TokenError, credential: &Credential) -> String {
    match failure {
        TokenError::Network(_) if credential.proxy.is_some() => {
            "a proxy is on the way, by `proxy` of the credential or HTTPS_PROXY of the environment, and may be what did \
             not answer: check its address, and that it leads to the host in `token_url`; `proxy = \"\"` goes without"
        }
        TokenError::Network(_) => {
            "check the host in `token_url`, and that this machine may connect there; if its authority is one of your \
             own, set `ca_file` of the credential; if only a proxy leads there, `proxy`; if it is only slow, `timeout`"
        }
        TokenError::Discovery(error) => discovery_remedy(error),
        TokenError::Server { .. } => "the trouble is the server's own: try again later",
        TokenError::Malformed(Malformed::NotJwt) => {
            "take out `expect_jwt`, or have the provider issue JWTs to this client"
        }
        TokenError::Malformed(Malformed::Ended) => "compare this machine's clock with the server's",
        TokenError::Malformed(Malformed::Markup) => {
            "check that `token_url` is a token endpoint, and that nothing on the way answers in its place"
        }
        TokenError::Malformed(_) => {
            "check that `token_url` is a token endpoint; if its answers have names of their own, set `fields`"
        }
        TokenError::Throttled { .. } => "too many token requests were made: wait, and see who else uses this client",
        TokenError::Rejected { status: 300..=399, .. } => {
            "write the address that it redirects to as `token_url`: redirects are not followed"
        }
        TokenError::Rejected { code, .. } => rejection_remedy(code, credential),
        TokenError::ReauthorizationRequired(_) | TokenError::RotationLimit { .. } => {
            "have someone authorize the client again: `bearerd login` where the grant is \"authorization_code\", else \
             another `refresh_token`"
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

/// What the more telling of two documents lacks.
fn discovery_remedy(error: &MetadataError) -> &'static str {
    let has = |is_it: fn(&MetadataFlaw) -> bool| error.flaws.iter().any(|(_, flaw)| is_it(flaw));
    if has(|flaw| matches!(flaw, MetadataFlaw::OtherIssuer(_))) {
        "write `issuer` exactly as the server does, if that is the server that is meant: to the last slash"
    } else if has(|flaw| matches!(flaw, MetadataFlaw::Unprotected(_) | MetadataFlaw::Missing(_))) {
        "have the provider mend its metadata, or write `token_url`"
    } else if has(|flaw| matches!(flaw, MetadataFlaw::Unreachable(_))) {
        "check the host in `issuer`, and that this machine may connect there; if its authority is one of your own, \
         set `ca_file` of the credential; if only a proxy leads there, `proxy`"
    } else {
        "check `issuer`; a server that does not tell where its endpoints are has `token_url` instead"
    }
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
