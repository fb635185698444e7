//! Tests a credential with one token request.

use std::time::{Duration, SystemTime};

use url::Url;

use super::report::Report;
use crate::cli::output;
use crate::clock::Clock;
use crate::config::model::identity::Grant;
use crate::config::{Credential, Endpoint, Identity};
use crate::token::error::TokenError;
use crate::token::help::help;
use crate::token::jwt::Claims;
use crate::token::trial::{Granted, MAX_SKEW, NextGrant, Trial, WhichSecret, next_grant, not_granted, trial};
use crate::token::{Reason, TokenClient};

/// Reports the request and its result, and returns the tenant of the token, if it names one.
pub(super) async fn report(
    credential: &Credential,
    client: TokenClient,
    is_used: bool,
) -> (Report, Option<String>) {
    if matches!(credential.identity.grant, Grant::RefreshToken(_)) {
        return match (next_grant(credential, Clock::system()), &credential.identity.fallback) {
            (Ok(NextGrant::Fallback(why)), Some(fallback)) => {
                let identity = Identity { grant: fallback.clone(), ..credential.identity.clone() };
                let falling_back = Credential { identity, login: None, ..credential.clone() };
                let (mut report, tenant) = report_of_trial(&falling_back, client, is_used).await;
                report.warn(format!("the fallback grant is used: {why}"), help(&why, credential));
                (report, tenant)
            }
            (next, _) => (report_of_refresh_token(credential, &client, is_used, next).await, None),
        };
    }
    report_of_trial(credential, client, is_used).await
}

async fn report_of_trial(
    credential: &Credential,
    client: TokenClient,
    is_used: bool,
) -> (Report, Option<String>) {
    let Trial { took, secret_in_use, needs_form_encoding, granted, failure } =
        trial(credential, &client, Clock::system()).await;
    let mut report = begin(credential, &client, took, is_used);
    add_scopes(&mut report, credential, granted.as_ref());
    if let Some(granted) = &granted {
        add_token(&mut report, credential, granted, failure.is_none());
        add_clocks(&mut report, granted.clocks);
        if granted.lifetime_was_cut {
            report.warn(
                "the token is said to live for more than a year: `expires_in` looks like milliseconds",
                "have the provider send seconds (RFC 6749 §5.1); until then bearerd takes the lifetime for a year",
            );
        }
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
    if needs_form_encoding {
        report.warn(
            "the server rejects client id and secret as they are, and accepts them form-encoded",
            "set `basic_encoding` to \"form\", which saves a rejected request after each start",
        );
    }
    if let Some(failure) = &failure {
        report.fail(Reason::of(failure).code(), failure.to_string(), help(failure, credential));
    }
    let tenant = granted.and_then(|granted| granted.tenant).filter(|_| failure.is_none());
    (report, tenant)
}

/// Tests everything but the token request, which would use up a refresh token.
async fn report_of_refresh_token(
    credential: &Credential,
    client: &TokenClient,
    is_used: bool,
    next: Result<NextGrant, TokenError>,
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
        Err(failure) => {
            report.fail(Reason::of(&failure).code(), failure.to_string(), help(&failure, credential));
        }
        Ok(Some(metadata)) if authorize_url.is_some_and(|url| url.issuer().is_some()) => {
            match metadata.authorization_endpoint() {
                Ok(url) => report.fact("authorize_url", without_query(&url)),
                Err(flaw) => report.fail(
                    Reason::ReauthorizationRequired.code(),
                    format!("the issuer's metadata has no usable authorization endpoint: {flaw}"),
                    "set `authorize_url`",
                ),
            }
        }
        Ok(_) => {}
    }
    match next {
        Err(obstacle) => {
            report.fail(Reason::of(&obstacle).code(), obstacle.to_string(), help(&obstacle, credential));
            return report;
        }
        Ok(NextGrant::RefreshToken { refusals: refusals @ 1.. }) => report.warn(
            format!("the server has refused the refresh token, perhaps in passing (times in a row: {refusals})"),
            "a running daemon sends the refresh token again; after the third refusal authorize the client again",
        ),
        Ok(_) => {}
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
    add_not_listed(&mut report, credential, client);
    report.fact("grant", format!("{}, {}", credential.grant_name(), credential.identity.client_auth.name()));
    report
}

/// Adds the token endpoint.
fn add_server(report: &mut Report, credential: &Credential, client: &TokenClient) {
    let by_proxy = if credential.proxy.is_some() { ", a proxy is set" } else { "" };
    let Some(issuer) = credential.token_url.issuer() else {
        return report.fact("token_url", format!("{}{by_proxy}", without_query(credential.token_url.url())));
    };
    report.fact("issuer", format!("{}{by_proxy}", issuer.as_str()));
    let Some(metadata) = client.known_metadata() else { return };
    report.fact("token_url", without_query(&metadata.token_endpoint));
}

/// Adds the credential's methods that the issuer's metadata does not list.
fn add_not_listed(report: &mut Report, credential: &Credential, client: &TokenClient) {
    let metadata = client.known_metadata();
    let not_listed = metadata.map(|metadata| metadata.not_listed(credential)).unwrap_or_default();
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
