//! `bearerd health`: the health check of a container.

use std::time::Duration;

use super::admin::{AdminAddress, AdminClient, not_an_admin_address};
use super::exit_code::{FAILED, OK};
use super::output;
use crate::config::Environment;

#[derive(Debug, clap::Args)]
pub(super) struct Health {
    #[command(flatten)]
    address: AdminAddress,
    /// Check readiness instead of liveness
    #[arg(long)]
    ready: bool,
}

const TIMEOUT: Duration = Duration::from_secs(3);

pub(super) async fn health(health: Health, environment: &Environment) -> u8 {
    let path = if health.ready { "/readyz?verbose" } else { "/livez" };
    let answer = async { AdminClient::new(health.address, environment)?.get(path, TIMEOUT).await };
    match answer.await {
        Ok(answer) if !is_ours(&answer.text) => {
            output::error_line(not_an_admin_address(&answer));
            FAILED
        }
        Ok(answer) => {
            output::line(answer.text.trim_end());
            if answer.is_success() { OK } else { FAILED }
        }
        Err(error) => error.report(environment),
    }
}

/// Whether a body is one of `/livez` or `/readyz?verbose`. A proxy address that is named by mistake answers as its
/// upstream does, possibly with 200.
fn is_ours(text: &str) -> bool {
    let is_known = |line: &str| {
        line == "ok" || line.starts_with("[+] ") || line.starts_with("[-] ") || line.starts_with("[ ] ")
    };
    !text.is_empty() && text.lines().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::is_ours;

    #[test]
    fn only_responses_of_bearerd_count_as_health() {
        assert!(is_ours("ok\n"));
        assert!(is_ours("[+] accepting connections\n[ ] credential a has no token\n[-] b\n"));
        for other in ["", "OK", "{\"ok\":true}", "<html>", "ok\n<html>", "[]"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
