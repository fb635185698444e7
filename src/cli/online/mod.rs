//! `bearerd check --online`: makes a token request for each credential, and a connection to each upstream and to the store of
//! `[shared]`, as the daemon would, all at once.
//!
//! The output shows what a peer says about itself, but never a token or a secret.

mod credential;
mod report;
#[cfg(feature = "redis")]
mod shared_store;
mod upstream;

use futures_util::future::{join_all, join3};

use self::report::Report;
use super::exit_code::{BAD_CONFIGURATION, FAILED, OK};
use super::output;
use crate::app::{Connector, shares_connections, upstream_name};
use crate::causes::in_one_line;
use crate::config::{Config, Credential, Destination, Route};
use crate::tls::client::Trust;
use crate::token::api_discovery::IssuerClient;
use crate::token::{ClientError, TokenClient};

/// Tests all peers and prints a report about each. The exit code is [`FAILED`] if requests of a route would fail.
pub(super) async fn online(config: &Config) -> u8 {
    let reports = match ask(config).await {
        Ok(reports) => reports,
        Err(error) => {
            output::error_line(error);
            return BAD_CONFIGURATION;
        }
    };
    for report in &reports {
        output::line(format_args!("\n{report}"));
    }
    let failed = reports.iter().filter(|report| report.is_failure()).count();
    if failed == 0 {
        return OK;
    }
    output::line(format_args!("\n{failed} of {} failed", reports.len()));
    FAILED
}

async fn ask(config: &Config) -> Result<Vec<Report>, String> {
    let trust = Trust::default();
    let mut credentials = Vec::new();
    for credential in &config.credentials {
        let client = TokenClient::new(credential, &trust).map_err(|error| unusable(credential, &error))?;
        let uses = |route: &Route| route.credential.as_ref().is_some_and(|one| one.name == credential.name);
        let is_used = config.routes.iter().any(uses);
        credentials.push(credential::report(credential, client, is_used));
    }
    let mut distinct: Vec<&Route> = Vec::new();
    let (mut upstreams, mut to_discover) = (Vec::new(), Vec::new());
    for route in &config.routes {
        if distinct.iter().any(|other| shares_connections(other, route)) {
            continue;
        }
        distinct.push(route);
        let connector = Connector::new(route, &trust).map_err(|error| in_one_line(&error))?;
        match (&route.upstream.destination, &route.credential) {
            (Destination::Written(address), _) => {
                let connect = connector
                    .connect(address, None)
                    .map_err(|error| format!("the upstream {}: {error}", upstream_name(route)))?;
                upstreams.push(upstream::report(address.origin(), connect));
            }
            (Destination::Discovered, Some(credential)) => {
                let issuer =
                    IssuerClient::new(credential, &trust).map_err(|error| unusable(credential, &error))?;
                to_discover.extend(issuer.map(|issuer| (credential, issuer, connector)));
            }
            (Destination::Discovered, None) => {}
        }
    }
    let (asked, of_upstreams, of_store) =
        join3(join_all(credentials), join_all(upstreams), shared_store(config)).await;
    let tenant = |credential: &Credential| {
        let at = config.credentials.iter().position(|other| other.name == credential.name)?;
        asked.get(at)?.1.clone()
    };
    let discovering = to_discover.iter().map(|(credential, issuer, connector)| {
        upstream::discover(credential, tenant(credential), issuer, connector)
    });
    let of_discovered = join_all(discovering).await;
    let of_credentials = asked.into_iter().map(|(report, _)| report);
    Ok(of_credentials.chain(of_upstreams).chain(of_discovered).chain(of_store).collect())
}

#[cfg(feature = "redis")]
async fn shared_store(config: &Config) -> Option<Report> {
    Some(shared_store::report(config, config.shared.as_ref()?).await)
}

/// A build without the feature `redis` accepts no `[shared]`.
#[cfg(not(feature = "redis"))]
async fn shared_store(_: &Config) -> Option<Report> {
    None
}

fn unusable(credential: &Credential, error: &ClientError) -> String {
    format!("the credential `{}`: {}", credential.name, in_one_line(error))
}
