//! Tests one connection to an upstream, with its TLS handshake, and the discovery of its address.

use std::time::Duration;

use rustls::ProtocolVersion;

use super::report::{Report, day};
use crate::app::Connector;
use crate::clock::{Clock, wall_clock};
use crate::config::Credential;
use crate::config::model::certificate;
use crate::config::model::identity::Grant;
use crate::http::ProxyStatus;
use crate::proxy::error::ProxyError;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::connect::tls::TlsDetails;
use crate::proxy::upstream::connect::{ConnectionDetails, TcpConnect};
use crate::tls::diagnosis;
use crate::token::api_discovery::{AddressRefusal, DiscoveryError, Documents, IssuerClient};

/// A certificate that expires sooner causes a warning.
const EXPIRES_SOON: Duration = Duration::from_hours(14 * 24);

/// The code of responses to requests whose upstream is not discovered.
const NOT_DISCOVERED: &str = "upstream_unavailable";
const NO_TENANT: &str = "see the report about the credential: its token must be a JWT with `tenantId`";

pub(super) async fn report(origin: String, connect: TcpConnect) -> Report {
    let clock = Clock::system();
    let began = clock.now();
    let seen = connect.inspect().await;
    let mut report = Report::new(format!("upstream {origin}"), began.until(clock.now()), true);
    match seen {
        Ok(seen) => add_connection(&mut report, seen),
        Err(error) => {
            let (what, remedy) = (error.to_string(), remedy(&error));
            report.fail(ProxyError::from(error).code(), what, remedy);
        }
    }
    report
}

/// Discovers the address of the tenant's API, and connects to it.
pub(super) async fn discover(
    credential: &Credential,
    tenant: Option<String>,
    issuer: &IssuerClient,
    connector: &Connector,
) -> Report {
    let clock = Clock::system();
    let began = clock.now();
    let peer = format!("upstream \"discover\" of `{}`", credential.name);
    let Some(tenant) = tenant else {
        let mut report = Report::new(peer, Duration::ZERO, true);
        let what = "not discovered: there is no token that names the tenant";
        if matches!(credential.identity.grant, Grant::RefreshToken(_)) {
            report.warn(what, "start the daemon, and see `/readyz?verbose` at its admin address");
        } else {
            report.fail(NOT_DISCOVERED, what, NO_TENANT);
        }
        return report;
    };
    let found = issuer.find(&tenant).await;
    let found = found.and_then(|found| {
        let connect =
            connector.connect(&found.address, Some(found.reach)).map_err(|_| AddressRefusal::NotPlain)?;
        Ok((found, connect))
    });
    let (found, connect) = match found {
        Ok(found) => found,
        Err(error) => {
            let mut report = Report::new(peer, began.until(clock.now()), true);
            report.fail(NOT_DISCOVERED, error.to_string(), discovery_remedy(&error));
            return report;
        }
    };
    let mut report = report(format!("{}{}", found.address.origin(), found.address.path), connect).await;
    report.fact("discovered", format!("for `{}`, from its issuer", credential.name));
    report
}

fn discovery_remedy(error: &DiscoveryError) -> &'static str {
    match error {
        DiscoveryError::NoTenant => NO_TENANT,
        DiscoveryError::Network(_) => {
            "check `issuer`, and that this machine may connect to it, with `ca_file` and `proxy` of the credential"
        }
        DiscoveryError::Refused(_) => {
            "see {issuer}/.well-known/cxone-configuration?tenantId=...; if its `api_endpoint` is right, set `upstream` \
             to it"
        }
        _ => "check `issuer`, or set `upstream` to the API's address",
    }
}

fn add_connection(
    report: &mut Report,
    ConnectionDetails { address, proxy, tls, is_http2 }: ConnectionDetails,
) {
    match proxy {
        Some(proxy) => {
            report.fact("proxy", proxy.to_string());
            report.fact("address", format!("{address} (the proxy's)"));
        }
        None => report.fact("address", address.to_string()),
    }
    report.fact("http", if is_http2 { "2" } else { "1.1" });
    let Some(TlsDetails { version, certificate }) = tls else {
        return report.fact("tls", "none: plain http, on this machine");
    };
    report.fact("tls", version.map_or("unknown", version_name));
    let Some(end) = certificate.as_ref().and_then(certificate::end) else {
        return report.fact("certificate", "expiry unknown");
    };
    let left = end.duration_since(wall_clock()).unwrap_or_default();
    let days = left.as_secs() / (24 * 60 * 60);
    report.fact("certificate", format!("expires on {}, in {days} days", day(end)));
    if left < EXPIRES_SOON {
        report.warn(
            format!("the upstream's certificate expires in {days} days"),
            "have the upstream's operator renew the certificate: bearerd sends nothing once it has expired",
        );
    }
}

fn version_name(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::TLSv1_2 => "1.2",
        ProtocolVersion::TLSv1_3 => "1.3",
        _ => "unknown",
    }
}

fn remedy(error: &ForwardError) -> &'static str {
    match error {
        ForwardError::Unreachable(ProxyStatus::DnsError, _) => {
            "check the name in `upstream`, and this machine's resolver"
        }
        ForwardError::Unreachable(ProxyStatus::ConnectionRefused, _) => {
            "check host and port in `upstream`: nothing listens there, or a firewall refuses the connection"
        }
        ForwardError::Proxy(ProxyStatus::HttpRequestDenied, _) => {
            "have the proxy allow this host and port, and check the user and password in its URL, which is `proxy` of \
             the route or HTTPS_PROXY of the environment"
        }
        ForwardError::Proxy(..) => {
            "check `proxy` of the route, or HTTPS_PROXY of the environment; NO_PROXY lists the hosts that need no proxy"
        }
        ForwardError::Unreachable(ProxyStatus::DestinationIpProhibited, _) => {
            "if the API really has an internal address, set `upstream` to it: only a discovered one must be public"
        }
        ForwardError::Tls(_, text) => diagnosis::advice_in(text).map_or(
            "check that `upstream` speaks TLS 1.2 or later on this port, and HTTP/2 where `http_version` is \"2\"",
            |advice| advice.remedy,
        ),
        _ => "check `upstream`, and that this machine may connect to it within `connect_timeout`",
    }
}
