//! One connection to an upstream, TLS included, once it is known where that is.

use std::time::Duration;

use rustls::ProtocolVersion;

use super::report::{Report, day};
use crate::app::Way;
use crate::clock::{Clock, wall_clock};
use crate::config::Credential;
use crate::config::model::certificate;
use crate::config::model::identity::Grant;
use crate::http::ProxyStatus;
use crate::proxy::error::upstream::ForwardError;
use crate::proxy::upstream::connect::tls::TlsDetails;
use crate::proxy::upstream::connect::{ConnectionDetails, TcpConnect};
use crate::token::api_discovery::{AddressRefusal, DiscoveryError, Documents, IssuerClient};

/// A certificate that ends sooner is warned of.
const SOON: Duration = Duration::from_hours(14 * 24);

pub(super) async fn report(origin: String, connect: TcpConnect) -> Report {
    let clock = Clock::system();
    let began = clock.now();
    let seen = connect.inspect().await;
    let mut report = Report::new(format!("upstream {origin}"), began.until(clock.now()));
    match seen {
        Ok(seen) => tell(&mut report, seen),
        Err(error) => report.fail(error.to_string(), remedy(&error)),
    }
    report
}

/// Asks where the API of this tenant is, and connects there.
pub(super) async fn discover(
    credential: &Credential,
    tenant: Option<String>,
    issuer: &IssuerClient,
    way: &Way,
) -> Report {
    let clock = Clock::system();
    let began = clock.now();
    let peer = format!("upstream \"discover\" of `{}`", credential.name);
    let Some(tenant) = tenant else {
        let mut report = Report::new(peer, Duration::ZERO);
        let what = "it was not looked for: there is no token whose tenant could be asked about";
        if matches!(credential.identity.grant, Grant::RefreshToken(_)) {
            report.warn(what, "start the daemon, and see `/readyz?verbose` at its admin address");
        } else {
            report.fail(what, "see what is told of the credential: its token must be a JWT with `tenantId`");
        }
        return report;
    };
    let found = issuer.find(&tenant).await;
    let found = found.and_then(|found| {
        let connect = way.connect(&found.address, Some(found.reach)).map_err(|_| AddressRefusal::NotPlain)?;
        Ok((found, connect))
    });
    let (found, connect) = match found {
        Ok(found) => found,
        Err(error) => {
            let mut report = Report::new(peer, began.until(clock.now()));
            report.fail(error.to_string(), discovery_remedy(&error));
            return report;
        }
    };
    let mut report = report(format!("{}{}", found.address.origin(), found.address.path), connect).await;
    report.fact("discovered", format!("for `{}`, as its issuer says", credential.name));
    report
}

fn discovery_remedy(error: &DiscoveryError) -> &'static str {
    match error {
        DiscoveryError::NoTenant => {
            "see what is told of the credential: its token must be a JWT with `tenantId`"
        }
        DiscoveryError::Network(_) => {
            "check `issuer`, and that this machine may connect there; `ca_file` and `proxy` of the credential count for it"
        }
        DiscoveryError::Refused(_) => {
            "look at {issuer}/.well-known/cxone-configuration?tenantId=...; if its `api_endpoint` is right, write it as \
             `upstream`"
        }
        _ => "check `issuer`, or write the API's address as `upstream`",
    }
}

fn tell(report: &mut Report, ConnectionDetails { address, proxy, tls, is_http2 }: ConnectionDetails) {
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
        return report.fact("certificate", "its end cannot be read");
    };
    let left = end.duration_since(wall_clock()).unwrap_or_default();
    let days = left.as_secs() / (24 * 60 * 60);
    report.fact("certificate", format!("ends on {}, in {days} days", day(end)));
    if left < SOON {
        report.warn(
            format!("the upstream's certificate ends in {days} days"),
            "whoever runs the upstream must renew it: after its end nothing is sent there",
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
        ForwardError::Unreachable { proxy_status: ProxyStatus::DnsError, .. } => {
            "check the name in `upstream`, and this machine's resolver"
        }
        ForwardError::Unreachable { proxy_status: ProxyStatus::ConnectionRefused, .. } => {
            "nothing listens there: check host and port in `upstream`, or a firewall refuses"
        }
        ForwardError::Proxy { proxy_status: ProxyStatus::HttpRequestDenied, .. } => {
            "have the proxy allow this host and port, and check user and password in its URL; it is `proxy` of the \
             route, or HTTPS_PROXY of the environment"
        }
        ForwardError::Proxy { .. } => {
            "check `proxy` of the route, or HTTPS_PROXY of the environment; NO_PROXY has the hosts that are reached \
             without it"
        }
        ForwardError::Unreachable { proxy_status: ProxyStatus::DestinationIpProhibited, .. } => {
            "if the API is meant to be inside, write its address as `upstream`: only \"discover\" is kept from going there"
        }
        ForwardError::Tls { proxy_status: ProxyStatus::TlsCertificateError, .. } => {
            "check the name in `upstream`; if its authority is one of your own, or that of a proxy which opens TLS, \
             set `ca_file` of the route"
        }
        ForwardError::Tls { .. } => {
            "check that `upstream` speaks TLS 1.2 or later on this port, and HTTP/2 where `http_version` is \"2\""
        }
        _ => {
            "check `upstream`, and that this machine may connect there; `connect_timeout` is the time it has"
        }
    }
}
