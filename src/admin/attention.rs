//! The findings that need attention: one list, with remedies, which `/status`, the page and `bearerd status` show.

use super::status::{
    Certificate, Configuration, Credential, Finding, Hold, Pool, PoolMember, Route, SharedStatus, Status,
    Time, Upstream,
};
use crate::config::model::certificate::EXPIRY_WARNING;
use crate::documentation;
use crate::token::Reason;
use crate::token::replicas::store::Flaw;
use crate::token::status::{CredentialState, TOKEN_REJECTED};

/// The reasons of findings besides those of credentials, and the codes of errors of an upstream.
pub const REASONS: [&str; 7] = [
    UPSTREAM_UNAVAILABLE,
    POOL_UNUSABLE,
    TOKEN_REJECTED,
    CERTIFICATE_EXPIRES,
    CERTIFICATE_EXPIRED,
    RELOAD_FAILED,
    AUDIT_LOST,
];

const UPSTREAM_UNAVAILABLE: &str = "upstream_unavailable";
const POOL_UNUSABLE: &str = "pool_unusable";
const CERTIFICATE_EXPIRES: &str = "certificate_expires";
const CERTIFICATE_EXPIRED: &str = "certificate_expired";
const RELOAD_FAILED: &str = "reload_failed";
const AUDIT_LOST: &str = "audit_lost";

/// The findings in this status, the most urgent first.
pub(super) fn findings(status: &Status, now: Time) -> Vec<Finding> {
    let is_held = |name: &str| {
        status.routes.iter().filter_map(|route| route.hold.as_ref()).any(|hold| hold.credential == name)
    };
    let credentials = status
        .credentials
        .iter()
        // The finding of the route says more.
        .filter(|one| one.reason.as_deref() != Some(TOKEN_REJECTED) || !is_held(&one.name))
        .filter_map(of_credential);
    let upstreams = status.upstreams.iter().filter_map(of_upstream);
    let routes = status.routes.iter().filter_map(|route| of_route(route, &status.pools));
    let certificates = status.certificates.iter().filter_map(|one| of_certificate(one, now));
    let pools = status.pools.iter().filter_map(of_pool);
    let mut all: Vec<Finding> =
        credentials.chain(upstreams).chain(pools).chain(routes).chain(certificates).collect();
    all.extend(of_configuration(&status.configuration));
    all.extend(status.shared.as_ref().and_then(of_shared));
    if status.audit.failures > 0 {
        let detail = format!("{} events are not in the audit trail", status.audit.failures);
        let help = "check the free space and the permissions of the file in `audit.output`, or its reader";
        all.push(Finding { detail: Some(detail), ..Finding::new("audit", "", false, AUDIT_LOST, help) });
    }
    // Stable: what is equally urgent stays in the order of the configuration.
    all.sort_by_key(|finding| (!finding.needs_person, !finding.is_unusable()));
    all
}

impl Finding {
    fn new(subject: &str, name: &str, is_unusable: bool, reason: &str, help: &str) -> Self {
        let state = if is_unusable { CredentialState::Unusable } else { CredentialState::Degraded };
        Self {
            subject: subject.to_owned(),
            name: name.to_owned(),
            state: state.as_str().to_owned(),
            reason: reason.to_owned(),
            since: None,
            until: None,
            needs_person: false,
            detail: None,
            help: help.to_owned(),
            documentation: documentation(reason),
        }
    }
}

/// The address of the documentation of a reason.
fn documentation(reason: &str) -> String {
    let is_of_credential = reason == TOKEN_REJECTED || Reason::ALL.iter().any(|one| one.code() == reason);
    // The codes of errors of an upstream.
    if is_of_credential || reason.starts_with("upstream_") {
        documentation::of_code(reason)
    } else {
        format!("{}/operate/status.md#what-needs-attention", documentation::FOLDER)
    }
}

fn of_credential(credential: &Credential) -> Option<Finding> {
    let help = credential.help.as_deref()?;
    let is_unusable = credential.state == CredentialState::Unusable.as_str();
    let (reason, since, error) = match (credential.warning, &credential.reason) {
        (Some(warning), _) => (warning, None, None),
        (None, reason) => (reason.as_deref()?, credential.since, credential.last_error.as_ref()),
    };
    let detail = error.map(|error| match credential.not_before {
        None => error.detail.clone(),
        Some(until) => format!("{}, and wants none before {until}", error.detail),
    });
    Some(Finding {
        since,
        until: credential.next_attempt_at,
        needs_person: credential.needs_person,
        detail,
        ..Finding::new("credential", &credential.name, is_unusable, reason, help)
    })
}

fn of_upstream(upstream: &Upstream) -> Option<Finding> {
    let error = upstream.last_error.as_ref();
    let name = upstream.origin.as_deref().unwrap_or("(not discovered yet)");
    let help = match error.map(|error| error.outcome.as_str()) {
        Some("upstream_tls") => {
            "check the API's certificate and its name; for a certificate authority of your own set `ca_file` of the route"
        }
        Some("upstream_timeout") => "check the load of the API, and `timeout` of the route",
        Some("upstream_protocol") => {
            "check that an HTTP server answers at `upstream`, and its scheme and port"
        }
        Some("502" | "503" | "504") => "the API or a gateway before it has an outage: ask those who run it",
        _ => "check that the API answers, its address in `upstream`, and the network between",
    };
    let (is_unusable, reason) = match upstream.breaker.as_str() {
        "closed" => (false, error?.outcome.as_str()),
        _ => (true, UPSTREAM_UNAVAILABLE),
    };
    let detail = match (error, is_unusable) {
        (None, _) => "the circuit breaker sends no requests".to_owned(),
        (Some(error), false) => format!("the latest request failed: {}", error.detail),
        (Some(error), true) => format!("the circuit breaker sends no requests: {}", error.detail),
    };
    Some(Finding {
        since: error.and_then(|error| error.at),
        until: upstream.breaker_until,
        detail: Some(detail),
        ..Finding::new("upstream", name, is_unusable, reason, help)
    })
}

/// A finding if no credential of the pool is usable.
fn of_pool(pool: &Pool) -> Option<Finding> {
    if pool.usable() > 0 {
        return None;
    }
    // Without a token, no request is sent.
    let is_unusable =
        pool.members.iter().all(|member| member.reason.as_deref() == Some(PoolMember::NO_TOKEN));
    let reasons = pool.members.iter().map(|member| {
        let reason = member.reason.as_deref().unwrap_or_default();
        format!("{} ({reason})", member.credential)
    });
    let detail = format!("no credential is usable: {}", reasons.collect::<Vec<_>>().join(", "));
    let help = "mend the credentials that need it, and wait for the others; more credentials help against `throttled`";
    Some(Finding {
        until: pool.members.iter().filter_map(|member| member.until).min(),
        detail: Some(detail),
        ..Finding::new("pool", &pool.name, is_unusable, POOL_UNUSABLE, help)
    })
}

fn of_shared(shared: &SharedStatus) -> Option<Finding> {
    if shared.reachable != Some(false) {
        return None;
    }
    let help = match shared.error_kind.as_deref() {
        Some("refused") => {
            "check the user and password of `[shared]`, and the commands that the user may run: `bearerd check --online` \
             names what is missing; without the store, replicas make token requests of their own or wait for it"
        }
        Some("corrupt") => Flaw::REMEDY,
        _ => {
            "check that the store answers, its address in `shared.url`, and its user and password; without the store, \
             replicas make token requests of their own or wait for it"
        }
    };
    let reason = Reason::SharedStoreUnavailable.code();
    Some(Finding {
        since: shared.since,
        detail: shared.error.clone(),
        ..Finding::new("shared", "", false, reason, help)
    })
}

fn of_route(route: &Route, pools: &[Pool]) -> Option<Finding> {
    let Hold { credential, since, until, outcome, status_codes } = route.hold.as_ref()?;
    let codes = status_codes.iter().map(u16::to_string).collect::<Vec<_>>().join(" or ");
    let (why, help) = if outcome == "same_token_again" {
        (
            "and the authorization server issues the same one again",
            "have the provider issue another token (a server that repeats a revoked token repeats it until its end); \
             else check the credential's audience, tenant, region and scopes",
        )
    } else {
        (
            "and a fresh one too",
            "check what callers request, and that the API accepts tokens of this credential there: its audience, tenant, \
             region, scopes and permissions",
        )
    };
    let pool = pools.iter().find(|pool| pool.usable() > 0 && pool.routes.contains(&route.name));
    let meanwhile = match pool {
        Some(pool) => format!("requests use the other credentials of the pool {}", pool.name),
        None => format!("callers get its {codes}"),
    };
    let detail = format!(
        "the API rejects the token of credential {credential}, {why}; {meanwhile} until the hold ends"
    );
    Some(Finding {
        since: *since,
        until: *until,
        detail: Some(detail),
        ..Finding::new("route", &route.name, false, TOKEN_REJECTED, help)
    })
}

fn of_certificate(certificate: &Certificate, now: Time) -> Option<Finding> {
    let end = certificate.expires_at?;
    if now.until(end) > EXPIRY_WARNING {
        return None;
    }
    let has_ended = end <= now;
    let reason = if has_ended { CERTIFICATE_EXPIRED } else { CERTIFICATE_EXPIRES };
    let help = "renew it, and replace its file: bearerd reads the file again by itself";
    let detail = format!("the certificate {}", shown_to(&certificate.purpose));
    Some(Finding {
        until: Some(end),
        detail: Some(detail),
        ..Finding::new("certificate", &certificate.name, has_ended, reason, help)
    })
}

/// To whom a certificate is shown.
pub(super) fn shown_to(purpose: &str) -> &'static str {
    match purpose {
        "server" => "shown to callers",
        "admin" => "shown to operators",
        "client" => "shown to the token endpoint",
        "upstream_client" => "shown to the upstream",
        _ => "for another use",
    }
}

fn of_configuration(configuration: &Configuration) -> Option<Finding> {
    let reload = configuration.last_reload.as_ref().filter(|reload| !reload.successful)?;
    let help = "correct the configuration, and reload: `bearerd check` names every problem";
    Some(Finding {
        since: Some(reload.at),
        detail: reload.detail.as_deref().map(first_problem),
        ..Finding::new("configuration", "", false, RELOAD_FAILED, help)
    })
}

/// The first problem of a configuration, with its place in the file.
fn first_problem(problems: &str) -> String {
    let mut lines = problems.lines();
    let problem = lines.next().unwrap_or_default().trim_start_matches("error: ");
    match lines.next().and_then(|line| line.trim_start().strip_prefix("--> ")) {
        Some(place) => format!("{problem} ({place})"),
        None => problem.to_owned(),
    }
}
