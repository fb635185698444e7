//! One connection to an upstream, TLS included.

use std::time::Duration;

use rustls::ProtocolVersion;

use super::report::{Report, day};
use crate::clock::{Clock, wall_clock};
use crate::config::Route;
use crate::config::certificate;
use crate::proxy::connect::{Seen, SeenTls, TcpConnect};
use crate::proxy::forward::ForwardError;

/// A certificate that ends sooner is warned of.
const SOON: Duration = Duration::from_hours(14 * 24);

pub(super) async fn report(route: &Route, connect: TcpConnect) -> Report {
    let clock = Clock::system();
    let began = clock.now();
    let seen = tokio::time::timeout(route.connect_timeout, connect.look()).await;
    let seen = seen.unwrap_or(Err(ForwardError::ConnectTimeout));
    let took = began.until(clock.now());
    let mut report = Report::new(format!("upstream {}", route.upstream.origin()), took);
    match seen {
        Ok(seen) => tell(&mut report, seen),
        Err(error) => report.fail(error.to_string(), remedy(&error)),
    }
    report
}

fn tell(report: &mut Report, Seen { address, tls }: Seen) {
    report.fact("address", address.to_string());
    let Some(SeenTls { version, certificate }) = tls else {
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
        ForwardError::Unreachable { proxy_status: "dns_error", .. } => {
            "check the name in `upstream`, and this machine's resolver"
        }
        ForwardError::Unreachable { proxy_status: "connection_refused", .. } => {
            "nothing listens there: check host and port in `upstream`, or a firewall refuses"
        }
        ForwardError::Tls { proxy_status: "tls_certificate_error", .. } => {
            "check the name in `upstream`; if its authority is one of your own, set `ca_file` of the route"
        }
        ForwardError::Tls { .. } => "check that `upstream` speaks TLS 1.2 or later on this port",
        _ => {
            "check `upstream`, and that this machine may connect there; `connect_timeout` is the time it has"
        }
    }
}
