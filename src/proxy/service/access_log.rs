//! The access log: which exchanges have a line, and what the line says.

use http::uri::PathAndQuery;

use super::outcome::{Finished, Unauthorized};
use crate::config::Sampling;
use crate::telemetry::access::{Line, Severity};
use crate::token::Generation;

/// Writes the line of an exchange that has ended, if the exchange has one.
///
/// A failure of the proxy or of its upstream is logged even without an access log. With one, exchanges in which nothing
/// went wrong are sampled.
pub(super) fn write(finished: &Finished<'_>, sampling: Sampling) {
    if is_failure(finished) {
        line(finished, Severity::Warning);
    } else if sampling.is_on() && (is_notable(finished) || sampling.takes(fastrand::f64)) {
        line(finished, Severity::Info);
    }
}

/// Whether the proxy answered with a server error.
fn is_failure(Finished { outcome, .. }: &Finished<'_>) -> bool {
    outcome.code.is_some() && outcome.status.is_some_and(|status| status.is_server_error())
}

/// Whether something went wrong for the caller, or a retry or a replay prevented that.
fn is_notable(Finished { outcome, .. }: &Finished<'_>) -> bool {
    let is_error = outcome.status.is_none_or(|status| status.is_client_error() || status.is_server_error());
    is_error || !outcome.is_complete || outcome.attempts > 1 || outcome.unauthorized.is_some()
}

fn line(finished: &Finished<'_>, severity: Severity) {
    let Finished { labels, outcome, token_wait, .. } = *finished;
    let destination = labels.and_then(|labels| labels.upstream.current());
    let credential = finished.credential();
    Line {
        request_id: finished.request_id.as_str(),
        trace_id: finished.trace_id.as_ref().map(|id| id as _),
        caller: finished.caller,
        client_address: finished.client_address,
        method: Some(finished.method.as_str()),
        path: finished.target.map(PathAndQuery::path),
        route: labels.map(|labels| &*labels.route),
        credential,
        upstream: destination.as_ref().map(|destination| &*destination.origin),
        status: outcome.status.map(|status| status.as_u16()),
        code: outcome.code,
        attempts: outcome.attempts,
        unauthorized: outcome.unauthorized.map(Unauthorized::as_str),
        token_fingerprint: outcome.fingerprint.as_ref().map(|print| print as _),
        generation: outcome.generation.map(Generation::number),
        bytes: outcome.bytes,
        duration: Some(finished.duration),
        token_wait: credential.map(|_| token_wait),
        quota_wait: finished.quota_wait,
        upstream_time: (outcome.attempts > 0).then(|| finished.upstream.elapsed()),
        is_complete: outcome.is_complete,
        error: outcome.error.as_deref(),
    }
    .write(severity);
}
