//! Tests a credential with one token request.

use std::time::{Duration, SystemTime};

use url::Url;

use super::report::Report;
use crate::cli::output;
use crate::clock::Clock;
use crate::config::model::identity::Grant;
use crate::config::{Credential, Endpoint, Identity};
use crate::tls::diagnosis;
use crate::token::TokenClient;
use crate::token::error::{FOREIGN_BODY, Malformed, MetadataError, MetadataFlaw, TokenError};
use crate::token::jwt::Claims;
use crate::token::trial::{Granted, MAX_SKEW, Trial, WhichSecret, not_granted, reason_for_fallback, trial};

/// The remedy where something else than an authorization server has answered.
const FOREIGN_REMEDY: &str = "check that `token_url` is a token endpoint, and that no proxy, firewall or login page of the \
                              network answers in its place: have them let bearerd's requests through";

/// Reports the request and its result, and returns the tenant of the token, if it names one.
pub(super) async fn report(
    credential: &Credential,
    client: TokenClient,
    is_used: bool,
) -> (Report, Option<String>) {
    if matches!(credential.identity.grant, Grant::RefreshToken(_)) {
        return match (reason_for_fallback(credential, Clock::system()), &credential.identity.fallback) {
            (Ok(Some(why)), Some(fallback)) => {
                let identity = Identity { grant: fallback.clone(), ..credential.identity.clone() };
                let falling_back = Credential { identity, login: None, ..credential.clone() };
                let (mut report, tenant) = report_of_trial(&falling_back, client, is_used).await;
                report.warn(format!("the fallback grant is used: {why}"), remedy(&why, credential));
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
    let mut report = begin(credential, &client, took, is_used);
    add_scopes(&mut report, credential, granted.as_ref());
    if let Some(granted) = &granted {
        add_token(&mut report, credential, granted, failure.is_none());
        add_clocks(&mut report, granted.clocks);
        if !granted.is_labelled_json {
            report.warn(
                "the response is JSON, but its Content-Type is not",
                "check that `token_url` is a token endpoint",
            );
        }
    }
    if secret_in_use == WhichSecret::Next {
        report.warn(
            "the server rejects `client_secret`, and accepts `client_secret_next`",
            "set `client_secret` to that value",
        );
    }
    if let Some(failure) = &failure {
        report.fail(failure.to_string(), remedy(failure, credential));
    }
    let tenant = granted.and_then(|granted| granted.tenant).filter(|_| failure.is_none());
    (report, tenant)
}

/// Tests everything but the token request, which would use up a refresh token. An `obstacle` is why the credential
/// has no usable refresh token.
async fn report_of_refresh_token(
    credential: &Credential,
    client: &TokenClient,
    is_used: bool,
    obstacle: Option<TokenError>,
) -> Report {
    let clock = Clock::system();
    let asked = clock.now();
    let authorize_url = credential.login.as_ref().map(|login| &login.authorize_url);
    let issuer = authorize_url.into_iter().chain([&credential.token_url]).find_map(Endpoint::issuer);
    let metadata = match issuer {
        Some(issuer) => client.metadata(issuer, credential).await.map(Some),
        None => Ok(None),
    };
    let mut report = begin(credential, client, asked.until(clock.now()), is_used);
    match metadata {
        Err(failure) => report.fail(failure.to_string(), remedy(&failure, credential)),
        Ok(Some(metadata)) if authorize_url.is_some_and(|url| url.issuer().is_some()) => {
            match metadata.authorization_endpoint() {
                Ok(url) => report.fact("authorize_url", without_query(&url)),
                Err(flaw) => report.fail(
                    format!("the issuer's metadata has no usable authorization endpoint: {flaw}"),
                    "set `authorize_url`",
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
        "no token was requested: that would use up a refresh token that the daemon may need",
        "start the daemon, and see `/readyz?verbose` at its admin address",
    );
    report
}

/// A report with the token endpoint and the grant.
fn begin(credential: &Credential, client: &TokenClient, took: Duration, is_used: bool) -> Report {
    let mut report = Report::new(format!("credential `{}`", credential.name), took, is_used);
    add_server(&mut report, credential, client);
    report.fact("grant", format!("{}, {}", credential.grant_name(), credential.identity.client_auth.name()));
    report
}

/// Adds the token endpoint, and what the issuer's metadata says about it.
fn add_server(report: &mut Report, credential: &Credential, client: &TokenClient) {
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
            "check `grant` and `client_auth`; bearerd uses them as configured",
        );
    }
}

/// The URL without its query, which may contain a secret.
fn without_query(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    url.to_string()
}

fn add_scopes(report: &mut Report, credential: &Credential, granted: Option<&Granted>) {
    let Credential { scopes, require_scopes, .. } = credential;
    report.fact("requested", listed(scopes));
    let granted = granted.map(|granted| granted.scopes.as_ref());
    match granted {
        None => {}
        Some(None) => report.fact("granted", "as requested (not stated in the response)"),
        Some(Some(granted)) => {
            report.fact("granted", listed(granted));
            let missing = not_granted(granted, credential);
            if !missing.is_empty() {
                report.warn(
                    format!("requested scopes were not granted: {}", missing.join(" ")),
                    "have the provider allow them for this client, or remove them from `scopes`",
                );
            }
        }
    }
    if !require_scopes.is_empty() {
        report.fact("required", listed(require_scopes));
    }
}

fn add_token(report: &mut Report, credential: &Credential, granted: &Granted, is_taken: bool) {
    match granted.lifetime {
        Some(lifetime) => report.fact("lifetime", output::duration(lifetime)),
        None if is_taken => {
            let default = output::duration(credential.default_lifetime);
            report.fact("lifetime", format!("not stated in the response; default_lifetime is {default}"));
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

fn add_clocks(report: &mut Report, clocks: Option<(SystemTime, SystemTime)>) {
    let Some((theirs, ours)) = clocks else {
        return report.fact("clock", "unknown: the response has no Date");
    };
    let (apart, direction) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    // A server states its time in whole seconds, and the response takes a moment to arrive.
    if apart < Duration::from_secs(2) {
        return report.fact("clock", "same as the server's");
    }
    let difference = format!("{} {direction} the server's", output::duration(apart));
    if apart > MAX_SKEW {
        report.warn(
            format!("this machine's clock is {difference}"),
            "synchronize this machine's clock with NTP: otherwise JWTs become valid too early or expire too late",
        );
    }
    report.fact("clock", difference);
}

fn listed(words: &[String]) -> String {
    if words.is_empty() { "none".to_owned() } else { words.join(" ") }
}

fn remedy(failure: &TokenError, credential: &Credential) -> String {
    match failure {
        TokenError::Network(text) if let Some(advice) = diagnosis::advice_in(text) => advice.remedy,
        TokenError::Malformed(Malformed::Page(_) | Malformed::Xml | Malformed::Compressed(_)) => FOREIGN_REMEDY,
        TokenError::Rejected { code, .. } | TokenError::Unavailable { code, .. }
            if code.starts_with(FOREIGN_BODY) =>
        {
            FOREIGN_REMEDY
        }
        TokenError::Network(_) if credential.proxy.is_some() => {
            "check the proxy, which is `proxy` of the credential or HTTPS_PROXY of the environment: its address, and \
             that it connects to the host in `token_url`; `proxy = \"\"` disables it"
        }
        TokenError::Network(_) => {
            "check the host in `token_url`, and that this machine may connect to it; for a certificate authority of \
             your own set `ca_file` of the credential, for a proxy `proxy`, and for a slow server `timeout`"
        }
        TokenError::Discovery(error) => discovery_remedy(error),
        TokenError::Server(_) | TokenError::Unavailable { .. } => "the server has an internal error: try again later",
        TokenError::Malformed(Malformed::NotJwt) => {
            "remove `expect_jwt`, or have the provider issue JWTs to this client"
        }
        TokenError::Malformed(Malformed::Ended) => "compare this machine's clock with the server's",
        TokenError::Malformed(_) => {
            "check that `token_url` is a token endpoint; if its responses have non-standard members, set `fields`"
        }
        TokenError::Throttled { .. } => "wait: this client made too many token requests; check what else uses it",
        TokenError::Rejected { status: 300..=399, .. } => {
            "set `token_url` to the address that it redirects to: bearerd follows no redirects"
        }
        TokenError::Rejected { code, .. } => rejection_remedy(code, credential),
        TokenError::ReauthorizationRequired(_) | TokenError::RotationLimit(_) => {
            "authorize the client again: with `bearerd login` if the grant is \"authorization_code\", or else with a \
             new `refresh_token`"
        }
        TokenError::Assertion(_) => "check `key` and `alg` of `assertion`",
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

/// The remedy for the most telling flaw of the metadata documents.
fn discovery_remedy(error: &MetadataError) -> &'static str {
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

/// The remedy for an error code of RFC 6749 §5.2.
fn rejection_remedy(code: &str, credential: &Credential) -> &'static str {
    match (code, &credential.identity.grant) {
        ("invalid_client", _) => {
            "check `client_id`, the secret or key, and `client_auth`; for a secret with special characters also \
             `basic_encoding`"
        }
        ("unauthorized_client" | "unsupported_grant_type", _) => {
            "have the provider allow this grant to the client, or set another `grant`"
        }
        ("invalid_scope", _) => {
            "have the provider allow the scopes in `scopes` for this client, or remove them"
        }
        ("invalid_grant", Grant::Password { .. }) => "check `username` and `password`",
        ("invalid_grant", Grant::TokenExchange { .. }) => "check `subject_token`: it may have expired",
        ("invalid_grant", _) => "check the `assertion` of the grant, its `aud` and `sub`",
        _ => "check `token_url`, and ask the provider what it expects of this client",
    }
}
